"""The CPU backend: lowered functions to LLVM IR text, and that to object files through llvmlite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.backend import register
from tilewright.backend.llvm import instructions
from tilewright.backend.llvm.compile import compile_many
from tilewright.backend.llvm.emit import emit_kernel
from tilewright.backend.llvm.entry import entry_ir
from tilewright.backend.module import KernelModule, RunTimeSizes
from tilewright.cache import DiskCache
from tilewright.ir.stmt import PrimFunc
from tilewright.runtime.control import Region
from tilewright.runtime.plan import KernelCall
from tilewright.runtime.threadpool import thread_pool_ir
from tilewright.target import Target

ARCHITECTURES = ("x86_64", "aarch64", "arm64")
"""First components of the triples that code is generated (and tested) for."""


assert instructions  # imported for what it registers


@register
class LlvmBackend:
    """CPUs, through LLVM."""

    name = "llvm"

    def supports(self, target: Target) -> bool:
        """Whether the architecture is a known one."""
        return target.backend == self.name and target.arch in ARCHITECTURES

    def emit(self, func: PrimFunc, target: Target, symbol: str) -> KernelModule:
        """See :func:`tilewright.backend.llvm.emit.emit_kernel`."""
        return emit_kernel(func, target, symbol)

    def compile(
        self,
        texts: Sequence[str],
        target: Target,
        jobs: int = 1,
        progress: Callable[[int, int], None] | None = None,
        cache: DiskCache | None = None,
    ) -> list[bytes]:
        """See :func:`tilewright.backend.llvm.compile.compile_many`."""
        return compile_many(texts, target, jobs, progress, cache)

    def emit_entry(
        self,
        symbol: str,
        kernels: Sequence[KernelCall],
        target: Target,
        sizes: RunTimeSizes | None = None,
        regions: Sequence[Region] = (),
    ) -> str:
        """See :func:`tilewright.backend.llvm.entry.entry_ir`."""
        return entry_ir(symbol, kernels, target.triple, sizes, regions)

    def emit_runtime(self, target: Target) -> str:
        """See :func:`tilewright.runtime.threadpool.thread_pool_ir`."""
        return thread_pool_ir(target.triple)
