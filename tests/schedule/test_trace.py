import pytest

from tests.schedule.programs import assert_same, conv, matmul, softmax
from tilewright.errors import ScheduleError
from tilewright.ir.printer import structural_equal, to_text
from tilewright.schedule import IndexMap, Instruction, Schedule, Trace


def tiled_conv(size: tuple[int, int] = (7, 13), channels: tuple[int, int] = (5, 20)) -> Schedule:
    sch = Schedule(conv(size=size, channels=channels))
    sch.compute_inline(sch.get_block("pad"))
    out, anchor = sch.get_block("relu"), sch.get_block("conv")
    sch.transform_layout(anchor, "read", 1, IndexMap.parse("r,s,i,o -> o//8, r, s, i, o%8"))
    n, h, w, o = sch.get_loops(out)
    w0, w1 = sch.split(w, [None, 6])
    o0, o1 = sch.split(o, [None, 8])
    sch.reorder(n, h, o0, w0, w1, o1)
    tile = sch.fuse(n, h, o0, w0)
    sch.parallel(tile)
    sch.annotate(tile, "grain", 2)
    sch.vectorize(o1)
    sch.compute_at(anchor, tile)
    sch.set_scope(anchor, "register")
    *_, cw, co, kh, kw, ci = sch.get_loops(anchor)
    sch.reorder(kh, kw, ci, cw, co)
    sch.unroll(cw)
    sch.vectorize(co)
    sch.decompose_reduction(anchor, kh)
    return sch


def test_replay_gives_the_same_program() -> None:
    sch = tiled_conv()
    again = sch.trace.apply(conv(size=(7, 13), channels=(5, 20)))
    assert structural_equal(again.func, sch.func)
    assert to_text(again.func) == to_text(sch.func)
    assert str(again.trace) == str(sch.trace)


def test_json_round_trip() -> None:
    sch = tiled_conv()
    text = sch.trace.to_json()
    trace = Trace.from_json(text)
    assert trace == sch.trace
    assert trace.to_json() == text
    assert structural_equal(trace.apply(conv(size=(7, 13), channels=(5, 20))).func, sch.func)


def test_printed_trace_runs_as_python() -> None:
    sch = tiled_conv()
    again = Schedule(conv(size=(7, 13), channels=(5, 20)))
    exec(str(sch.trace), {"sch": again, "IndexMap": IndexMap})
    assert structural_equal(again.func, sch.func)


def test_replay_on_another_shape() -> None:
    trace = tiled_conv().trace
    func = conv(size=(5, 9), channels=(3, 11))
    again = trace.apply(func)
    assert_same(func, again)
    assert again.trace == trace


def test_replay_with_rfactor_and_caches() -> None:
    sch = Schedule(softmax())
    copy = sch.cache_read(sch.get_block("top"), 0, "global")
    sch.compute_at(copy, sch.get_loops(sch.get_block("top"))[0])
    _, lanes = sch.split(sch.get_loops(sch.get_block("total"))[-1], [None, 4])
    partial = sch.rfactor(lanes, -1)
    sch.set_scope(partial, "register")
    func = softmax(3, 7)
    again = Trace.from_json(sch.trace.to_json()).apply(func)
    assert_same(func, again)


def test_symbolic_factors_are_recorded_as_text() -> None:
    from tilewright.ir import te
    from tilewright.ir.expr import Var

    n = Var("n", lo=4, multiple_of=4)
    x = te.placeholder((n,), "float32", "x")
    y = te.compute((n,), lambda i: x[i] + 1.0, "y")
    func = te.primfunc("f", [x], [y], dims=[n])
    sch = Schedule(func)
    sch.split(sch.get_loops(sch.get_block("y"))[0], [4, n // 4])
    assert sch.trace.instructions[-1].attrs == {"factors": [4, "n//4"]}
    again = Trace.from_json(sch.trace.to_json()).apply(func)
    assert structural_equal(again.func, sch.func)
    assert_same(func, again, {"n": 12})


def test_replay_names_what_does_not_fit() -> None:
    loops = Trace(
        (
            Instruction("get_block", (), {"name": "C"}, ("b0",)),
            Instruction("get_loops", ("b0",), {}, ("l0", "l1")),
        )
    )
    with pytest.raises(ScheduleError, match="gave 3 handles"):
        loops.apply(matmul())


def test_replay_on_another_operator_says_what_is_missing() -> None:
    with pytest.raises(ScheduleError, match="there is no block 'pad' in 'matmul'"):
        tiled_conv().trace.apply(matmul())
