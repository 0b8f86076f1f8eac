"""Backends: from lowered PrimFuncs to native code.

A backend is one object that satisfies :class:`Backend`. In-tree backends register with :func:`register`;
others are found through the ``tilewright.backends`` entry-point group. Nothing outside a backend's package
asks which one it is.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from tilewright.backend.module import KernelModule, RunTimeSizes
from tilewright.cache import DiskCache
from tilewright.errors import TargetError
from tilewright.ir.stmt import PrimFunc
from tilewright.runtime.control import Region
from tilewright.runtime.plan import KernelCall
from tilewright.target import Target

__all__ = ["Backend", "KernelModule", "RunTimeSizes", "get_backend", "register"]

_GROUP = "tilewright.backends"


class Backend(Protocol):
    """What a code generator offers.

    Attributes:
        name: the name that :attr:`tilewright.target.Target.backend` refers to.
    """

    name: str

    def supports(self, target: Target) -> bool:
        """Whether code can be generated for ``target``."""

    def emit(self, func: PrimFunc, target: Target, symbol: str) -> KernelModule:
        """The source of the kernel ``symbol`` for a lowered function. Raises CompileError."""

    def compile(
        self,
        texts: Sequence[str],
        target: Target,
        jobs: int = 1,
        progress: Callable[[int, int], None] | None = None,
        cache: DiskCache | None = None,
    ) -> list[bytes]:
        """Object files of emitted modules, in order. ``progress`` gets (done, total). Raises CompileError,
        CacheError.
        """

    def emit_entry(
        self,
        symbol: str,
        kernels: Sequence[KernelCall],
        target: Target,
        sizes: RunTimeSizes | None = None,
        regions: Sequence[Region] = (),
    ) -> str:
        """Source of the function that runs ``kernels`` in order, those of ``regions`` where steps say so, and
        of the one that computes shapes where there are run-time ``sizes`` (docs/runtime.md has their
        signatures).
        """

    def emit_runtime(self, target: Target) -> str:
        """Source of the thread pool and the other functions that kernels and entry call."""


BackendType = TypeVar("BackendType", bound=type)
_registered: dict[str, Backend] = {}


def register(cls: BackendType) -> BackendType:
    """Class decorator: make an instance of the class available under its ``name``."""
    backend: Backend = cls()
    _registered[backend.name] = backend
    return cls


@functools.cache
def _load_installed() -> None:
    """Import the backends of this package and those that other packages announce."""
    import tilewright.backend.llvm

    assert tilewright.backend.llvm
    for entry in importlib.metadata.entry_points(group=_GROUP):
        if entry.name not in _registered:
            _registered[entry.name] = entry.load()()


def get_backend(target: Target) -> Backend:
    """The backend of ``target``. Raises TargetError when there is none, or it does not support the target."""
    _load_installed()
    backend = _registered.get(target.backend)
    if backend is None:
        raise TargetError(
            f"target '{target.name}' needs backend '{target.backend}', which is not installed",
            hint=f"installed backends: {', '.join(sorted(_registered))}",
        )
    if not backend.supports(target):
        raise TargetError(
            f"backend '{backend.name}' does not support target '{target.name}' ({target.triple})"
        )
    return backend
