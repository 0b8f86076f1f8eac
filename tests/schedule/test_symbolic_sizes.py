"""Factors over run-time dimensions: what is split by one is right for every size, dividing or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.schedule.programs import assert_same
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var, maximum
from tilewright.ir.printer import structural_equal
from tilewright.ir.sizes import dimension
from tilewright.ir.stmt import For, PrimFunc
from tilewright.ir.verify import verify
from tilewright.ir.visit import find_blocks, walk_stmt
from tilewright.lower import lower
from tilewright.schedule import BlockRef, Schedule, Trace

A, B, S = BlockRef("a"), BlockRef("b"), BlockRef("s")


def rows() -> PrimFunc:
    """b = relu(x + 1) over n x m, and its row sums; ``t`` is a dimension that only schedules look at."""
    n, m, t = Var("n", lo=1), Var("m", lo=1), Var("t", lo=1)
    x = te.placeholder((n, m), "float32", "x")
    a = te.compute((n, m), lambda i, j: x[i, j] + 1.0, "a")
    b = te.compute((n, m), lambda i, j: maximum(a[i, j], 0.0), "b")
    s = te.compute((n,), lambda i: te.reduce("sum", (m,), lambda r: b[i, r]), "s")
    return te.primfunc("rows", [x], [s], dims=[n, m, t])


def dims(func: PrimFunc) -> tuple[Var, ...]:
    return tuple(p for p in func.params if isinstance(p, Var))


SIZES = [(1, 1, 1), (1, 5, 2), (3, 4, 2), (4, 4, 4), (5, 7, 3), (6, 6, 4), (7, 2, 9)]


def check(func: PrimFunc, sch: Schedule) -> None:
    """In the interpreter, after replay from text, and lowered, for all sizes."""
    verify(sch.func)
    again = Trace.from_json(sch.trace.to_json()).apply(func)
    assert structural_equal(again.func, sch.func)
    lowered = lower(sch.func)
    verify(lowered)
    for n, m, t in SIZES:
        sizes = {"n": n, "m": m, "t": t}
        assert_same(func, sch, sizes)
        assert_same(func, lowered, sizes)


@pytest.mark.parametrize("block", [A, S])
@pytest.mark.parametrize("loop", [0, 1])
@pytest.mark.parametrize(
    "factors",
    [
        lambda n, m, t: [None, t],
        lambda n, m, t: [t, None],
        lambda n, m, t: [None, 4],
        lambda n, m, t: [3, None],
        lambda n, m, t: [2, None, t],
        lambda n, m, t: [None, t, 2],
        lambda n, m, t: [t, None, t],
        lambda n, m, t: ["t", "n*m"],
        lambda n, m, t: [None, t * 2 + 1],
        lambda n, m, t: [n + m, t],
        lambda n, m, t: [None, "n//2 + 1"],
    ],
)
def test_split(block: BlockRef, loop: int, factors: Callable[..., list[int | str | Expr | None]]) -> None:
    func = rows()
    sch = Schedule(func)
    parts = sch.split(sch.get_loops(block)[loop], factors(*dims(func)))
    assert len(parts) == len(factors(*dims(func)))
    check(func, sch)


def test_split_again() -> None:
    func = rows()
    _, _, t = dims(func)
    sch = Schedule(func)
    i, j = sch.get_loops(B)
    outer, inner = sch.split(i, [None, t])
    sch.split(inner, [2, None])
    sch.split(outer, [None, t])
    sch.split(j, [t, None])
    check(func, sch)


def test_tile_and_parallel() -> None:
    func = rows()
    _, _, t = dims(func)
    sch = Schedule(func)
    outer, _ = sch.tile(sch.get_loops(B), [t, 4])
    sch.parallel(outer[0])
    check(func, sch)


def test_fuse_and_split_by_the_other_dimension() -> None:
    func = rows()
    _, m, t = dims(func)
    sch = Schedule(func)
    fused = sch.fuse(*sch.get_loops(A))
    sch.split(fused, [None, t])
    check(func, sch)
    sch = Schedule(func)
    sch.split(sch.fuse(*sch.get_loops(A)), [None, m])
    check(func, sch)


def test_compute_at_tiles_of_run_time_size() -> None:
    func = rows()
    _, _, t = dims(func)
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(S)[0], [None, t])
    sch.compute_at(B, outer)
    sch.compute_at(A, sch.get_loops(B)[0])
    sch.parallel(outer)
    check(func, sch)


def test_reverse_compute_at() -> None:
    func = rows()
    _, _, t = dims(func)
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(A)[0], [None, t])
    sch.reverse_compute_at(B, outer)
    check(func, sch)


def test_reductions_by_run_time_parts() -> None:
    func = rows()
    _, _, t = dims(func)
    sch = Schedule(func)
    outer, inner = sch.split(sch.get_loops(S)[1], [None, t])
    sch.reorder(inner, outer)
    sch.rfactor(inner, 1)
    check(func, sch)


def test_decomposed_reduction() -> None:
    func = rows()
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(S)[1], [None, "t"])
    sch.decompose_reduction(S, outer)
    check(func, sch)


def test_caches_of_run_time_tiles() -> None:
    func = rows()
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(B)[0], [None, "t"])
    sch.compute_at(sch.cache_read(B, 0, "global"), outer)
    check(func, sch)


def test_pipelined_tiles_of_run_time_size() -> None:
    func = rows()
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(B)[0], [None, "t"])
    sch.compute_at(A, outer)
    sch.pipeline(outer, [0, 1])
    check(func, sch)


def test_padded_to_run_time_multiples() -> None:
    func = rows()
    sch = Schedule(func)
    sch.pad(S, ["t", 4])
    sch.tile(sch.get_loops(S), ["t", 4])
    check(func, sch)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (lambda n, m, t: [t - 1, None], "split: factor .* is not a positive integer"),
        (lambda n, m, t: [t, 4], "split: the factors' product .* is less than the extent n"),
        (lambda n, m, t: [None, "q"], "factor 'q': not index arithmetic over n, m, t"),
        (lambda n, m, t: [None, Var("q", lo=1)], "factor q uses q, neither a dimension nor a decision"),
    ],
)
def test_refused(factors: Callable[..., list[int | str | Expr | None]], message: str) -> None:
    func = rows()
    sch = Schedule(func)
    loop = sch.get_loops(A)[0]
    with pytest.raises(ScheduleError, match=message) as error:
        sch.split(loop, factors(*dims(func)))
    assert error.value.hint


def test_run_time_extents_are_neither_lanes_nor_written_out() -> None:
    func = rows()
    sch = Schedule(func)
    _, inner = sch.split(sch.get_loops(A)[1], [None, "t"])
    with pytest.raises(ScheduleError, match=r"vectorize: the extent t of loop .* is not constant"):
        sch.vectorize(inner)
    with pytest.raises(ScheduleError, match=r"unroll: the extent t of loop .* is not constant"):
        sch.unroll(inner)


def test_loops_that_run_once_leave_no_remainder_behind() -> None:
    n = dimension("n", 1, 6)
    x = te.placeholder((1, n), "float32", "x")
    sch = Schedule(te.primfunc("once", [x], [te.compute((1, n), lambda i, j: x[i, j] + 1.0, "y")]))
    fused = sch.fuse(*sch.get_loops(sch.get_block("y")))
    sch.parallel(fused)
    (block,) = find_blocks(sch.func.body)
    (loop,) = [s for s in walk_stmt(sch.func.body) if isinstance(s, For)]
    assert [repr(it.binding) for it in block.iters] == ["0", loop.var.name]
