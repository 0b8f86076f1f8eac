"""Page-aligned anonymous memory, and arrays on aligned addresses."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

from tilewright.runtime.plan import ALIGNMENT

HUGE_PAGE = 2 << 20
"""Memory of at least this many bytes asks for huge pages: far fewer misses of the address translation
caches.
"""


def allocate(nbytes: int) -> mmap.mmap:
    """Zeroed memory of at least ``nbytes`` (and at least one) bytes that starts on a page; freed with its
    last reference.
    """
    size = max(nbytes, 1)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def address_of(buffer: mmap.mmap | memoryview | bytes) -> int:
    """The address of the first byte of ``buffer``, which may be read-only."""
    view = np.frombuffer(buffer, np.uint8)
    return int(view.__array_interface__["data"][0])


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialized C-contiguous array whose first element lies on a multiple of :data:`ALIGNMENT`
    bytes.
    """
    nbytes = dtype.itemsize
    for extent in shape:
        nbytes *= extent
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)
