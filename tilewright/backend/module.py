"""What a backend's emission takes and gives."""

from __future__ import annotations

import dataclasses

from tilewright.ir.expr import Expr, Var


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


@dataclasses.dataclass(frozen=True)
class RunTimeSizes:
    """What an entry function computes from the sizes of dimensions that are known at run time only.

    Attributes:
        symbol: name of the function that computes the output shapes and checks the dimensions.
        dims: the dimensions in the order of the table that holds their sizes.
        sizes: byte counts that kernels' operands refer to by number.
        outputs: the output shapes, one after the other.
        checks: conditions on the dimensions; the first ``given`` of them on those that inputs have only.
    """

    symbol: str
    dims: tuple[Var, ...]
    sizes: tuple[Expr, ...]
    outputs: tuple[Expr, ...]
    checks: tuple[Expr, ...]
    given: int
