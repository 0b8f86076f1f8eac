"""Software pipelines: every pass keeps the meaning, whatever the extents, stages and orders."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from tests.schedule.gpu_programs import tiled_matmul
from tests.schedule.pipelines import C, loading, loop_named, pipelined, product, rows, rowwise
from tests.schedule.programs import arrays, assert_same, matmul
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import as_expr, select
from tilewright.ir.interp import run
from tilewright.ir.pipeline import ASYNC_KEY, has_marks
from tilewright.ir.stmt import Alloc, Annotate, Buffer, Evaluate, For, PrimFunc
from tilewright.ir.verify import verify
from tilewright.ir.visit import const_int, walk_stmt
from tilewright.lower import PASSES, THREAD_PASSES, lower, passes_for
from tilewright.lower.compact import compact_buffers
from tilewright.lower.flatten import decompose_reductions, flatten_blocks
from tilewright.lower.pipeline import copy_synchronously, pipeline_loops
from tilewright.schedule import BlockRef, Schedule
from tilewright.target import Target

SM_80 = Target.parse("sm_80")


def same_after_every_pass(
    func: PrimFunc, sch: Schedule, dims: dict[str, int] | None = None, gpu: bool = False
) -> PrimFunc:
    assert_same(func, sch, dims)

    def after(name: str, result: PrimFunc) -> None:
        verify(result)
        try:
            assert_same(func, result, dims)
        except AssertionError as error:
            raise AssertionError(f"after {name}\n{result!r}") from error

    return lower(sch.func, after, passes_for(SM_80) if gpu else PASSES)


def overlapped(sch: Schedule) -> PrimFunc:
    """The program right after its pipelines were made."""
    return pipeline_loops(compact_buffers(flatten_blocks(decompose_reductions(sch.func))))


def allocated(func: PrimFunc) -> dict[str, Buffer]:
    return {s.buffer.name: s.buffer for s in walk_stmt(func.body) if isinstance(s, Alloc)}


def effects(func: PrimFunc) -> list[str]:
    names = [s.value.name for s in walk_stmt(func.body) if isinstance(s, Evaluate)]  # type: ignore[attr-defined]
    return [n for n in names if n != "barrier"]


STAGES = [
    ((0, 0, 1), None, ()),
    ((0, 0, 1), (1, 2, 0), ()),
    ((0, 0, 1), None, (0,)),
    ((0, 0, 1), (1, 2, 0), (0,)),
    ((0, 1, 2), None, (0, 1)),
    ((0, 1, 2), (2, 0, 1), (0,)),
    ((0, 1, 2), (2, 1, 0), (0, 1)),
    ((1, 0, 2), None, (0, 1)),
    ((0, 0, 3), None, (0,)),
    ((0, 2, 5), (1, 2, 0), (0, 2)),
    ((0, 0, 0), None, ()),
]


@pytest.mark.parametrize("depth", [1, 4, 7, 22])
@pytest.mark.parametrize(("stages", "order", "copies"), STAGES)
def test_every_pass_keeps_the_meaning(
    stages: Sequence[int], order: Sequence[int] | None, copies: Sequence[int], depth: int
) -> None:
    """Reductions of 1 to 8 steps, fewer than stages among them, whole and cut."""
    func = product(depth)
    lowered = same_after_every_pass(func, pipelined(func, stages, order, copies))
    assert not has_marks(lowered.body)
    assert effects(lowered) == []
    assert not any(isinstance(s, Annotate) for s in walk_stmt(lowered.body))


@pytest.mark.parametrize(("stages", "order", "copies"), STAGES)
def test_run_time_extents(stages: Sequence[int], order: Sequence[int] | None, copies: Sequence[int]) -> None:
    """The number of steps is known at run time only: from one on, fewer than the stages, any remainder."""
    func = product("k")
    sch = pipelined(func, stages, order, copies)
    lowered = lower(sch.func)
    verify(lowered)
    for depth in (1, 2, 5, 6, 10, 17):
        assert_same(func, sch, {"k": depth})
        assert_same(func, overlapped(sch), {"k": depth})
        assert_same(func, lowered, {"k": depth})


@pytest.mark.parametrize(("stages", "order", "copies"), STAGES)
def test_threads_find_no_race(
    stages: Sequence[int], order: Sequence[int] | None, copies: Sequence[int]
) -> None:
    """The interpreter checks races, and that asynchronous copies are waited for, after every pass."""
    for depth, virtual in [(11, 1), (3, 1)] if len(set(stages)) > 2 else [(9, 2)]:
        func = matmul(6, 5, depth)
        sch = tiled_matmul(6, 5, depth, tile=4, step=2, own=1 if virtual > 1 else 2, virtual=virtual)
        sch.pipeline(loop_named(sch, "C", "r0_0"), stages, order, copies)
        same_after_every_pass(func, sch, gpu=True)


def test_double_buffering() -> None:
    result = overlapped(pipelined(product(24), (0, 0, 1)))
    assert [b.static_shape for n, b in allocated(result).items() if n != "C"] == [(2, 4, 3), (2, 3, 8)]
    steady = [s for s in walk_stmt(result.body) if isinstance(s, For) and s.var.name == "r0_0"]
    assert [const_int(s.extent) for s in steady] == [7]
    assert "A_global[(r0_0 + 1) % 2, " in repr(result)
    assert "A_global[r0_0 % 2, " in repr(result)


def test_copies_are_as_many_as_stages_lie_between() -> None:
    shapes = allocated(overlapped(pipelined(product(24), (0, 1, 3))))
    assert (shapes["A_global"].static_shape, shapes["B_global"].static_shape) == ((4, 4, 3), (3, 3, 8))


def test_one_stage_changes_nothing_but_the_order() -> None:
    result = overlapped(pipelined(product(24), (0, 0, 0)))
    assert allocated(result)["A_global"].static_shape == (4, 3)


def test_short_loops_have_no_steady_part() -> None:
    result = overlapped(pipelined(product(6), (0, 0, 2)))
    assert not any(isinstance(s, For) and s.var.name == "r0_0" for s in walk_stmt(result.body))


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 11])
@pytest.mark.parametrize("stages", [(0, 0, 1), (0, 1, 3), (0, 2, 3)])
def test_registers_are_never_chosen_by_a_loop(stages: Sequence[int], steps: int) -> None:
    """The steady loop is unrolled by the number of copies: each access names its copy."""
    func = product(3 * steps)
    sch = pipelined(func, stages, scope="register")
    result = same_after_every_pass(func, sch)
    text = repr(overlapped(sch)) + repr(result)
    assert "%" not in text.replace("r0_0 % 1", "")
    run_time = product("k")
    again = lower(sch.trace.apply(run_time).func)
    assert_same(run_time, again, {"k": 3 * steps - 1})


def test_copies_in_registers_that_would_unroll_too_far_are_more_than_needed() -> None:
    func = product(66)
    sch = pipelined(func, (0, 2, 6), scope="register")  # 7 and 5 copies: 35 steps
    result = overlapped(sch)
    assert [b.shape[0] for n, b in allocated(result).items() if n != "C"] == [as_expr(7)] * 2
    assert_same(func, result)
    assert_same(func, lower(sch.func))


def test_groups_of_copies() -> None:
    """Each step closes one group; what computes waits for the group of its iteration, two steps back."""
    result = overlapped(pipelined(product(24), (0, 0, 2), None, (0,)))
    steady = next(s for s in walk_stmt(result.body) if isinstance(s, For) and s.var.name == "r0_0")
    assert effects(result.with_(body=steady.body)) == ["async_commit", "async_wait"]
    assert "async_wait(2)" in repr(result)
    copies = [s for s in walk_stmt(steady.body) if isinstance(s, Annotate)]
    assert [(s.key, s.value) for s in copies] == [(ASYNC_KEY, True)] * 2


def test_computing_first_lets_fewer_groups_be_pending() -> None:
    result = overlapped(pipelined(product(24), (0, 0, 2), (1, 2, 0), (0,)))
    assert "async_wait(1)" in repr(result)
    assert "async_wait(2)" not in repr(result)


def test_targets_without_asynchronous_copies_copy_at_once() -> None:
    func = product(13)
    result = overlapped(pipelined(func, (0, 1, 2), None, (0, 1)))
    plain = copy_synchronously(result)
    assert effects(plain) == []
    assert not any(isinstance(s, Annotate) for s in walk_stmt(plain.body))
    assert_same(func, plain)


def test_barriers_of_a_pipeline() -> None:
    """One barrier a step is enough when the computation comes first: it closes the step before as well."""
    sch = tiled_matmul(16, 16, 64)
    sch.pipeline(loop_named(sch, "C", "r0_0"), (0, 0, 2), (1, 2, 0), (0,))
    result = lower(sch.func, passes=THREAD_PASSES)
    steady = next(s for s in walk_stmt(result.body) if isinstance(s, For) and s.var.name == "r0_0")
    assert repr(result.with_(body=steady)).count("barrier") == 1


@pytest.mark.parametrize("stages", [s for s in itertools.product(range(3), repeat=3) if list(s) == sorted(s)])
def test_elementwise_stages(stages: Sequence[int]) -> None:
    if stages[0] != 0:
        return
    for size in (1, 2, 3, 7):
        func = rows(size)
        sch = rowwise(func)
        sch.pipeline(sch.get_loops(BlockRef("c"))[0], stages)
        same_after_every_pass(func, sch)


@pytest.mark.parametrize("depth", [5, 29, 32])
@pytest.mark.parametrize(
    ("outer_stages", "inner_stages"), [((0, 1), (0, 1)), ((0, 2), (0, 3)), ((0, 0), (0, 1))]
)
def test_pipelines_inside_pipelines(
    outer_stages: Sequence[int], inner_stages: Sequence[int], depth: int
) -> None:
    """A tile goes from memory to one buffer, and from there in smaller pieces to another."""
    func = product(depth)
    sch = Schedule(func)
    tile = sch.cache_read(C, 0, "global")
    piece = sch.cache_read(C, 0, "register")
    outer, middle, inner = sch.split(sch.get_loops(C)[-1], [None, 4, 2])
    i, j = sch.get_loops(C)[:2]
    sch.reorder(outer, middle, inner, i, j)
    sch.compute_at(piece, middle)
    sch.compute_at(tile, outer)
    sch.pipeline(middle, inner_stages)
    sch.pipeline(outer, outer_stages)
    same_after_every_pass(func, sch)


def test_random_stages() -> None:
    accepted = 0
    for seed in range(40):
        rng = random.Random(seed)
        func = product(rng.choice([2, 3, 5, 8, 12, 20]))
        sch = loading(func, rng.choice([1, 2, 3]), rng.choice(["global", "register"]))
        stages = [rng.randint(0, 3) for _ in range(3)]
        stages = sorted(s - min(stages) for s in stages)
        order = rng.sample(range(3), 3) if rng.random() < 0.7 else None
        copies = [s for s in set(stages) if rng.random() < 0.5]
        try:
            sch.pipeline(loop_named(sch, "C", "r0_0"), stages, order, copies)
        except ScheduleError:
            continue
        accepted += 1
        assert_same(func, overlapped(sch))
        assert_same(func, lower(sch.func))
    assert accepted > 10


@pytest.mark.parametrize("scope", ["global", "register"])
def test_native(scope: str) -> None:
    import tilewright as tw

    func = matmul(13, 40, 37)
    for stages, order in [((0, 0, 1), None), ((0, 1, 3), (2, 1, 0))]:
        sch = tw.schedule(func)
        (i, j), (i1, j1) = sch.tile(sch.get_loops(C)[:2], [4, 16])
        outer, inner = sch.split(sch.get_loops(C)[-1], [None, 4])
        sch.reorder(i, j, outer, inner, i1, j1)
        for operand in (0, 1):
            sch.compute_at(sch.cache_read(C, operand, scope), outer)
        sch.vectorize(sch.get_loops(C)[-1])
        sch.parallel(i)
        sch.pipeline(outer, stages, order, (0,))
        sch.check(native=True)


def test_results_do_not_depend_on_the_order_of_threads() -> None:
    func = matmul(12, 10, 19)
    sch = tiled_matmul(12, 10, 19, tile=8, step=4)
    sch.pipeline(loop_named(sch, "C", "r0_0"), (0, 0, 2), None, (0,))
    lowered = lower(sch.func, passes=THREAD_PASSES)
    inputs = arrays(func)
    first = run(lowered, inputs, seed=0)[0]
    for seed in (1, 2):
        np.testing.assert_array_equal(run(lowered, inputs, seed=seed)[0], first)


def test_a_carried_recurrence_in_one_stage() -> None:
    x = te.placeholder((9, 4), "float32", "x")
    a = te.compute((9, 4), lambda i, j: x[i, j] * 2.0, "a")
    s = te.compute((4,), lambda j: te.reduce("sum", (9,), lambda r: a[r, j]), "s")
    func = te.primfunc("column_sums", [x], [s])
    sch = Schedule(func)
    j, r = sch.get_loops(BlockRef("s"))
    sch.reorder(r, j)
    sch.compute_at(BlockRef("a"), r)
    sch.pipeline(r, (0, 3))
    same_after_every_pass(func, sch)


def test_reads_that_a_choice_confines_do_not_count_as_left_by_earlier_iterations() -> None:
    x = te.placeholder((3,), "float32", "x")
    w = te.placeholder((3, 7), "float32", "w")
    total = te.compute((1,), lambda i: te.reduce("sum", (3,), lambda k: x[k]), "total")
    wide = te.compute((3,), lambda i: select(i < 1, total[i], as_expr(1.0, "float32")), "wide")
    out = te.compute((7,), lambda j: te.reduce("sum", (3,), lambda k: wide[k] * w[k, j]), "out")
    func = te.primfunc("f", [x, w], [out])
    sch = Schedule(func)
    outer, _ = sch.get_loops(sch.get_block("out"))
    sch.compute_at(sch.get_block("wide"), outer)
    sch.compute_at(sch.get_block("total"), outer)
    _, one, steps = sch.get_loops(sch.get_block("total"))
    sch.reorder(steps, one)
    sch.decompose_reduction(sch.get_block("total"), steps)
    sch.pipeline(outer, stages=[0, 1, 2, 2], order=[2, 3, 0, 1])
    same_after_every_pass(func, sch)
