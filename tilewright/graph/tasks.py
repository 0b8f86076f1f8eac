"""Tasks: the distinct programs among a graph's kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tilewright.graph.primfunc import Kernel
from tilewright.ir.printer import workload_key
from tilewright.ir.stmt import PrimFunc


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One program to schedule and compile, with all kernels that run it.

    Attributes:
        key: sha256 of the canonical text, the same on every machine.
        func: the program (the first kernel's; the others differ in names at most).
        kernels: in execution order.
    """

    key: str
    func: PrimFunc
    kernels: tuple[Kernel, ...]


def collect_tasks(kernels: Sequence[Kernel]) -> list[Task]:
    """Kernels by workload key, in order of first appearance."""
    by_key: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        by_key.setdefault(workload_key(kernel.func), []).append(kernel)
    return [Task(key, found[0].func, tuple(found)) for key, found in by_key.items()]
