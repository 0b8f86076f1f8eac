"""pipeline: which stages are legal, what the program shows, and what later primitives may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.schedule.pipelines import C, loading, loop_named, pipelined, product, rows, rowwise
from tests.schedule.programs import assert_same, matmul, matmul_relu
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.parser import parse
from tilewright.ir.pipeline import Part, pipeline_parts
from tilewright.ir.printer import structural_equal, to_text
from tilewright.ir.stmt import For, PrimFunc
from tilewright.ir.verify import verify
from tilewright.ir.visit import walk_stmt
from tilewright.schedule import BlockRef, Schedule, Trace


def parts(sch: Schedule) -> list[list[tuple[int, int, bool]]]:
    found: list[list[Part]] = [pipeline_parts(s) for s in walk_stmt(sch.func.body) if isinstance(s, For)]
    return [[(p.stage, p.order, p.asynchronous) for p in f] for f in found if f]


def test_parts_get_stages_and_the_meaning_stays() -> None:
    func = product(13)
    sch = pipelined(func, (0, 0, 2), (2, 1, 0), (0,))
    assert parts(sch) == [[(0, 2, True), (0, 1, True), (2, 0, False)]]
    verify(sch.func)
    assert structural_equal(parse(to_text(sch.func)), sch.func)
    assert_same(func, sch)


def test_the_trace_replays_on_other_sizes() -> None:
    sch = pipelined(product(13), (0, 1, 2))
    trace = Trace.from_json(sch.trace.to_json())
    assert trace == sch.trace
    again = Schedule(product(13))
    exec(str(trace), {"sch": again})
    assert structural_equal(again.func, sch.func)
    for depth in (4, 7, 30):
        assert parts(trace.apply(product(depth))) == [[(0, 0, False), (1, 1, False), (2, 2, False)]]


def test_data_passed_on_within_an_iteration() -> None:
    for stages in [(0, 0, 1), (0, 1, 1), (0, 1, 2), (0, 3, 5), (0, 0, 0)]:
        sch = rowwise(rows())
        sch.pipeline(sch.get_loops(BlockRef("c"))[0], stages)
        assert_same(rows(), sch)


def test_iterations_with_elements_of_their_own_need_no_copies() -> None:
    """b is an output, written and read in different stages, but each row by one iteration."""
    x = te.placeholder((5, 4), "float32", "x")
    b = te.compute((5, 4), lambda i, j: x[i, j] + 1.0, "b")
    c = te.compute((5, 4), lambda i, j: b[i, j] * 2.0, "c")
    sch = Schedule(te.primfunc("two", [x], [b, c]))
    sch.reverse_compute_at(BlockRef("c"), sch.get_loops(BlockRef("b"))[0])
    sch.pipeline(sch.get_loops(BlockRef("c"))[0], [0, 1])
    assert parts(sch) == [[(0, 0, False), (1, 1, False)]]


def test_what_follows_inside_the_parts_is_free() -> None:
    func = product(13)
    sch = pipelined(func)
    sch.vectorize(sch.get_loops(C)[-1])
    sch.unroll(sch.get_loops(C)[-2])
    sch.split(sch.get_loops(BlockRef("A_global"))[-1], [None, 2])
    sch.decompose_reduction(C, loop_named(sch, "C", "r0_0"))
    sch.set_scope(BlockRef("A_global"), "register")
    assert parts(sch) == [[(0, 0, False), (0, 1, False), (1, 2, False)]]
    assert_same(func, sch)


def test_a_pipeline_is_one_of_the_innermost_loop_around_its_parts() -> None:
    """Split, the loop that is still directly around the parts is the pipelined one."""
    func = product(13)
    sch = pipelined(func)
    sch.split(loop_named(sch, "C", "r0_0"), [None, 2])
    assert [len(p) for p in parts(sch)] == [3]
    assert_same(func, sch)


def test_dissolving_a_part_leaves_the_others() -> None:
    func = rows()
    sch = rowwise(func)
    sch.pipeline(sch.get_loops(BlockRef("c"))[0], [0, 1, 2])
    sch.compute_inline(BlockRef("a"))
    assert parts(sch) == [[(1, 1, False), (2, 2, False)]]
    assert_same(func, sch)


def carried() -> PrimFunc:
    """t is the element before, which another iteration has written."""
    return parse(
        """
@primfunc({"outputs": 1})
def carried(x: float32[8], y: float32[8]):
    t = alloc(float32[9])
    for i in serial(8):
        with block("t"):
            v = spatial(9, i + 1)
            reads(x[v - 1])
            writes(t[v])
            t[v] = x[v - 1]
        with block("y"):
            w = spatial(8, i)
            reads(t[w])
            writes(y[w])
            y[w] = select(0 < w, t[w], 0.0)
"""
    )


def overwritten() -> PrimFunc:
    """t is written for b, and written again for c."""
    return parse(
        """
@primfunc({"outputs": 2})
def overwritten(x: float32[8], b: float32[8], c: float32[8]):
    t = alloc(float32[1])
    for i in serial(8):
        with block("t1"):
            v = spatial(8, i)
            reads(x[v])
            writes(t[0])
            t[0] = x[v]
        with block("b"):
            v = spatial(8, i)
            reads(t[0])
            writes(b[v])
            b[v] = t[0]
        with block("t2"):
            v = spatial(8, i)
            reads(x[v])
            writes(t[0])
            t[0] = x[v] * 2.0
        with block("c"):
            v = spatial(8, i)
            reads(t[0])
            writes(c[v])
            c[v] = t[0]
"""
    )


def test_overwritten_data_keeps_its_order() -> None:
    for stages in [(0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1, 2), (0, 1, 2, 3)]:
        sch = Schedule(overwritten())
        sch.pipeline(sch.get_loops(BlockRef("b"))[0], stages)
    sch = Schedule(overwritten())
    with pytest.raises(ScheduleError, match="block 't2' would run before block 'b'"):
        sch.pipeline(sch.get_loops(BlockRef("b"))[0], (0, 1, 0, 1))


def test_data_carried_between_iterations_stays_in_one_stage() -> None:
    sch = Schedule(carried())
    sch.pipeline(sch.get_loops(BlockRef("y"))[0], [0, 0])
    assert_same(carried(), sch)


def start_rowwise() -> Schedule:
    return rowwise(rows())


def start_parallel() -> Schedule:
    sch = start_rowwise()
    sch.parallel(sch.get_loops(BlockRef("c"))[0])
    return sch


def start_pipelined() -> Schedule:
    sch = start_rowwise()
    sch.pipeline(sch.get_loops(BlockRef("c"))[0], [0, 1, 2])
    return sch


def start_two_sums() -> Schedule:
    """The copy of A is read by two blocks, one of which is in its stage."""
    return loading(product(12))


Stages = Sequence[int]
REFUSED: list[tuple[str, Callable[[], Schedule], tuple[object, ...]]] = [
    ("the body of loop 'i0' has only one part", lambda: Schedule(rows()), ([0],)),
    ("loop 'i0' is pipelined already", start_pipelined, ([0, 1, 2],)),
    ("2 stages are given for the 3 parts of loop 'i0' .a; b; c.", start_rowwise, ([0, 1],)),
    ("[0, 1, True] are not stages", start_rowwise, ([0, 1, True],)),
    ("[1, 1, 2] are not stages", start_rowwise, ([1, 1, 2],)),
    ("[0, 1, 99] are not stages", start_rowwise, ([0, 1, 99],)),
    ("[0, 1, 1] is not an order of 3 parts", start_rowwise, ([0, 1, 2], [0, 1, 1])),
    ("no part is in stage 3", start_rowwise, ([0, 1, 2], None, [3])),
    ("loop 'i0' is parallel", start_parallel, ([0, 1, 2],)),
    (
        "block 'b' would run before block 'a' in an iteration of loop 'i0', and both",
        start_rowwise,
        ([1, 0, 2],),
    ),
    ("block 'b' would run before block 'a'", start_rowwise, ([0, 0, 1], [1, 0, 2])),
    ("block 'b' in the asynchronous stage 1 does more than copy", start_rowwise, ([0, 1, 2], None, [1])),
]


@pytest.mark.parametrize(("message", "start", "arguments"), REFUSED)
def test_refused(
    message: str, start: Callable[[], Schedule], arguments: tuple[Stages, Stages | None, Stages]
) -> None:
    sch = start()
    before = sch.func
    last = "c" if "one part" not in message else "a"
    loop = sch.get_loops(BlockRef(last))[0]
    with pytest.raises(ScheduleError, match=r"pipeline: " + message.replace("[", r"\[")) as error:
        sch.pipeline(loop, *arguments)
    assert sch.func is before
    assert error.value.hint
    assert error.value.location
    assert "^" in error.value.location


def test_data_carried_between_stages() -> None:
    sch = Schedule(carried())
    with pytest.raises(
        ScheduleError, match=r"pipeline: 't' carries data between iterations of loop 'i'.*stages 0, 1"
    ):
        sch.pipeline(sch.get_loops(BlockRef("y"))[0], [0, 1])


def test_asynchronous_copies_are_read_later() -> None:
    sch = loading(product(12))
    with pytest.raises(
        ScheduleError, match="'A_global', which block 'A_global' copies asynchronously, is not only"
    ):
        sch.pipeline(loop_named(sch, "C", "r0_0"), [0, 0, 0], None, [0])


LATER: list[tuple[str, Callable[[Schedule], object]]] = [
    ("loop 'i0' is parallel", lambda s: s.parallel(s.get_loops(BlockRef("c"))[0])),
    ("loop 'i0' is unrolled", lambda s: s.unroll(s.get_loops(BlockRef("c"))[0])),
]


@pytest.mark.parametrize(("message", "step"), LATER)
def test_later_primitives_keep_the_pipeline_legal(message: str, step: Callable[[Schedule], object]) -> None:
    sch = start_pipelined()
    before = sch.func
    with pytest.raises(ScheduleError, match=f"pipelined loop.* would become illegal: {message}") as error:
        step(sch)
    assert sch.func is before
    assert error.value.hint


def test_what_moves_into_the_loop_joins_the_part_that_it_serves() -> None:
    sch = rowwise(rows())
    copy = sch.cache_read(BlockRef("a"), 0, "global")
    sch.pipeline(sch.get_loops(BlockRef("c"))[0], [0, 1, 2])
    sch.compute_at(copy, sch.get_loops(BlockRef("c"))[0])
    assert parts(sch) == [[(0, 0, False), (1, 1, False), (2, 2, False)]]
    assert_same(rows(), sch)


def test_partial_results_stay_in_their_part() -> None:
    x = te.placeholder((5, 8), "float32", "x")
    a = te.compute((5, 8), lambda i, j: x[i, j] * 2.0, "a")
    s = te.compute((5,), lambda i: te.reduce("sum", (8,), lambda r: a[i, r]), "s")
    func = te.primfunc("sums", [x], [s])
    sch = Schedule(func)
    row, column = sch.get_loops(BlockRef("s"))
    _, lane = sch.split(column, [None, 4])
    sch.compute_at(BlockRef("a"), row)
    sch.pipeline(row, [0, 1])
    sch.rfactor(lane, 0)
    assert parts(sch) == [[(0, 0, False), (1, 1, False)]]
    assert_same(func, sch)


MARK = 'with annotate("pipeline_stage", {"stage": 0, "order": 0, "async": False}):'


@pytest.mark.parametrize("loop", ["for i in serial(4):", "if 0 < 4:"])
def test_marks_belong_to_whole_bodies_of_loops(loop: str) -> None:
    sch = Schedule(
        parse(
            f"""
@primfunc({{"outputs": 2}})
def stray(x: float32[4], y: float32[4], z: float32[4]):
    {loop}
        {MARK}
            for j in serial(1):
                with block("y"):
                    v = spatial(4, j)
                    reads(x[v])
                    writes(y[v])
                    y[v] = x[v]
        for j in serial(1):
            with block("z"):
                v = spatial(4, j)
                reads(x[v])
                writes(z[v])
                z[v] = x[v]
"""
        )
    )
    with pytest.raises(ScheduleError, match="part 'y' has a stage, and what is beside it has none") as error:
        sch.unroll(sch.get_loops(BlockRef("z"))[-1])
    assert error.value.hint


def test_moving_a_part_out_loses_its_stage() -> None:
    """compute_at makes a new nest: where that would stand beside parts with stages, it is refused."""
    sch = Schedule(matmul_relu())
    row = sch.get_loops(BlockRef("D"))[0]
    sch.compute_at(C, row)
    sch.pipeline(row, [0, 1])
    inner = sch.get_loops(BlockRef("D"))[1]
    sch.compute_at(C, inner)  # now the loop's body is one part
    assert parts(sch) == [[(1, 1, False)]]
    assert_same(matmul_relu(), sch)


def test_reductions_over_the_pipelined_loop_keep_their_order() -> None:
    func = matmul(6, 9, 13)
    sch = pipelined(func, (0, 0, 1))
    assert_same(func, sch)
