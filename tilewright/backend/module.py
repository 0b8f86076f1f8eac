"""What a backend's emission gives."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class KernelModule:
    """An emitted kernel, not compiled yet.

    Attributes:
        text: source of the module (for the LLVM backend, LLVM IR).
        symbol: name of the kernel function.
        ws_shared: bytes of workspace that all threads share.
        ws_thread: bytes of workspace of each thread; they follow the shared ones.
        parallel: whether the kernel runs parallel regions.
    """

    text: str
    symbol: str
    ws_shared: int
    ws_thread: int
    parallel: bool

    def workspace(self, threads: int) -> int:
        """Bytes of workspace for a pool of ``threads``."""
        return self.ws_shared + threads * self.ws_thread
