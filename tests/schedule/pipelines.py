"""Pipelined schedules that tests of legality and of lowering share."""

from __future__ import annotations

from collections.abc import Sequence

from tests.schedule.programs import matmul
from tilewright.ir import te
from tilewright.ir.expr import Var, maximum
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule import BlockRef, LoopRef, Schedule

C = BlockRef("C")


def loop_named(sch: Schedule, block: str, name: str) -> LoopRef:
    return next(loop for loop in sch.get_loops(BlockRef(block)) if loop.var.name == name)


def product(depth: str | int) -> PrimFunc:
    """A matrix product whose reduction is as long as said, or as the run-time dimension of that name."""
    if isinstance(depth, int):
        return matmul(6, 9, depth)
    k = Var(depth, lo=1)
    a = te.placeholder((6, k), "float32", "A")
    b = te.placeholder((k, 9), "float32", "B")
    c = te.compute((6, 9), lambda i, j: te.reduce("sum", (k,), lambda r: a[i, r] * b[r, j]), "C")
    return te.primfunc("product", [a, b], [c], dims=[k])


def loading(func: PrimFunc, step: int = 3, scope: str = "global") -> Schedule:
    """Tiles of both operands of a product are loaded in each step of its reduction: parts A, B, C."""
    sch = Schedule(func)
    (i, j), (i1, j1) = sch.tile(sch.get_loops(C)[:2], [4, 8])
    outer, inner = sch.split(sch.get_loops(C)[-1], [None, step])
    sch.reorder(i, j, outer, inner, i1, j1)
    for operand in (0, 1):
        sch.compute_at(sch.cache_read(C, operand, scope), outer)
    return sch


def pipelined(
    func: PrimFunc,
    stages: Sequence[int] = (0, 0, 1),
    order: Sequence[int] | None = None,
    async_stages: Sequence[int] = (),
    step: int = 3,
    scope: str = "global",
) -> Schedule:
    sch = loading(func, step, scope)
    sch.pipeline(loop_named(sch, "C", "r0_0"), stages, order, async_stages)
    return sch


def rows(n: int = 7, m: int = 5) -> PrimFunc:
    """Three elementwise stages."""
    x = te.placeholder((n, m), "float32", "x")
    a = te.compute((n, m), lambda i, j: x[i, j] + 1.0, "a")
    b = te.compute((n, m), lambda i, j: a[i, j] * a[i, m - 1 - j], "b")
    c = te.compute((n, m), lambda i, j: maximum(b[i, j], 0.0), "c")
    return te.primfunc("rows", [x], [c])


def rowwise(func: PrimFunc) -> Schedule:
    """The stages of :func:`rows` row by row: parts a, b, c."""
    sch = Schedule(func)
    row = sch.get_loops(BlockRef("c"))[0]
    sch.compute_at(BlockRef("b"), row)
    sch.compute_at(BlockRef("a"), row)
    return sch
