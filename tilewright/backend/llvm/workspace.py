"""Scratch memory of a kernel: offsets handed out like a stack, so that buffers that are not alive together
share bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

ALIGNMENT = 64
"""Every buffer starts at a multiple of this many bytes (a cache line, and the widest vector)."""


class Workspace:
    """``size`` is the number of bytes needed so far."""

    def __init__(self) -> None:
        self.size = 0
        self._top = 0

    @contextlib.contextmanager
    def reserve(self, nbytes: int) -> Iterator[int]:
        """Bytes for the duration of the context; gives their offset."""
        offset = self._top
        self._top += -(-nbytes // ALIGNMENT) * ALIGNMENT
        self.size = max(self.size, self._top)
        try:
            yield offset
        finally:
            self._top = offset
