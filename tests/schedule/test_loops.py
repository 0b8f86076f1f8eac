import pytest

from tests.schedule.programs import assert_same, chain, conv, matmul, matmul_relu, softmax, symbolic
from tilewright.errors import ScheduleError
from tilewright.ir.parser import parse
from tilewright.ir.printer import structural_equal
from tilewright.ir.stmt import For
from tilewright.ir.visit import find_blocks, walk_stmt
from tilewright.schedule import LoopRef, Schedule


def loops_of(sch: Schedule, block: str) -> list[str]:
    return [loop.var.name for loop in sch.get_loops(sch.get_block(block))]


def test_split_that_divides_needs_no_guard() -> None:
    sch = Schedule(matmul(8, 12, 6))
    i, j, _ = sch.get_loops(sch.get_block("C"))
    sch.split(i, [2, 4])
    sch.split(j, [None, 3, 2])
    expected = parse(
        """
@primfunc({"const_params": ("B",), "outputs": 1})
def matmul(A: float32[8, 6], B: float32[6, 12], C: float32[8, 12]):
    for i0_0 in serial(2):
        for i0_1 in serial(4):
            for i1_0 in serial(2):
                for i1_1 in serial(3):
                    for i1_2 in serial(2):
                        for r0 in serial(6):
                            with block("C"):
                                vi0 = spatial(8, i0_0 * 4 + i0_1)
                                vi1 = spatial(12, i1_0 * 6 + i1_1 * 2 + i1_2)
                                vr0 = reduce(6, r0)
                                reads(A[vi0, vr0], B[vr0, vi1])
                                writes(C[vi0, vi1])
                                with init():
                                    C[vi0, vi1] = 0.0
                                C[vi0, vi1] = C[vi0, vi1] + A[vi0, vr0] * B[vr0, vi1]
"""
    )
    assert structural_equal(sch.func, expected)


def test_split_that_overruns_guards_the_blocks() -> None:
    func = matmul(7, 10, 5)
    sch = Schedule(func)
    i, j, k = sch.get_loops(sch.get_block("C"))
    sch.split(i, [None, 4])
    sch.split(j, [2, 3, 2])
    sch.split(k, [None, 2])
    (block,) = find_blocks(sch.func.body)
    assert len(repr(block.predicate).split("&")) == 3
    assert_same(func, sch)


def test_split_of_a_run_time_extent() -> None:
    func = symbolic()
    sch = Schedule(func)
    i, _ = sch.get_loops(sch.get_block("s"))
    outer, inner = sch.split(i, [None, 4])
    extents = {s.var: s.extent for s in walk_stmt(sch.func.body) if isinstance(s, For)}
    assert repr(extents[outer.var]) == "((n + 3) // 4)"
    assert repr(extents[inner.var]) == "4"
    for n in (1, 4, 7):
        assert_same(func, sch, {"n": n})


def test_split_of_a_run_time_extent_known_to_divide_has_no_guard() -> None:
    from tilewright.ir import te
    from tilewright.ir.expr import TRUE, Var

    n = Var("n", lo=8, multiple_of=8)
    x = te.placeholder((n,), "float32", "x")
    y = te.compute((n,), lambda i: x[i] + 1.0, "y")
    sch = Schedule(te.primfunc("f", [x], [y], dims=[n]))
    sch.split(sch.get_loops(sch.get_block("y"))[0], [None, 8])
    assert find_blocks(sch.func.body)[0].predicate is TRUE


def test_fuse_recovers_indices_by_quotient_and_remainder() -> None:
    func = matmul(3, 4, 5)
    sch = Schedule(func)
    i, j, _ = sch.get_loops(sch.get_block("C"))
    sch.fuse(i, j)
    (block,) = find_blocks(sch.func.body)
    assert [repr(it.binding) for it in block.iters] == ["(i0_i1 // 4)", "(i0_i1 % 4)", "r0"]
    assert_same(func, sch)


def test_fuse_then_split_back_is_simplified() -> None:
    sch = Schedule(matmul(3, 4, 5))
    i, j, _ = sch.get_loops(sch.get_block("C"))
    fused = sch.fuse(i, j)
    sch.split(fused, [3, 4])
    (block,) = find_blocks(sch.func.body)
    assert [repr(it.binding) for it in block.iters] == ["i0_i1_0", "i0_i1_1", "r0"]


def test_reorder_keeps_unnamed_loops_in_place() -> None:
    func = matmul()
    sch = Schedule(func)
    i, _, k = sch.get_loops(sch.get_block("C"))
    sch.reorder(k, i)
    assert loops_of(sch, "C") == ["r0", "i1", "i0"]
    assert_same(func, sch)


def test_reorder_of_tiles_around_two_blocks() -> None:
    func = matmul_relu(6, 8, 3)
    sch = Schedule(func)
    i, j = sch.get_loops(sch.get_block("D"))
    i0, i1 = sch.split(i, [None, 2])
    j0, j1 = sch.split(j, [None, 4])
    sch.reorder(i0, j0, i1, j1)
    sch.compute_at(sch.get_block("C"), j0)
    sch.reorder(j0, i0)
    assert loops_of(sch, "C")[:2] == ["i1_0", "i0_0"]
    assert_same(func, sch)


def test_kinds_are_set_and_numerics_stay() -> None:
    func = conv()
    sch = Schedule(func)
    block = sch.get_block("relu")
    _, h, w, c = sch.get_loops(block)
    sch.parallel(h)
    sch.unroll(w)
    sch.vectorize(c)
    kinds = [
        s.kind for s in walk_stmt(sch.func.body) if isinstance(s, For) and s.var in (h.var, w.var, c.var)
    ]
    assert kinds == ["parallel", "unrolled", "vectorized"]
    sch.parallel(h)  # again: nothing changes
    assert_same(func, sch)


def test_vectorized_reduction_combines_lanes() -> None:
    func = softmax()
    sch = Schedule(func)
    sch.vectorize(sch.get_loops(sch.get_block("top"))[-1])
    assert_same(func, sch)


def test_handles_survive_other_primitives() -> None:
    sch = Schedule(matmul())
    i, j, k = sch.get_loops(sch.get_block("C"))
    sch.split(k, [None, 2])
    sch.reorder(j, i)
    assert loops_of(sch, "C") == ["i1", "i0", "r0_0", "r0_1"]
    with pytest.raises(ScheduleError, match="no longer"):
        sch.parallel(k)


def test_copy_goes_its_own_way() -> None:
    sch = Schedule(matmul())
    i, j, _ = sch.get_loops(sch.get_block("C"))
    other = sch.copy()
    other.split(i, [None, 2])
    assert loops_of(sch, "C") == ["i0", "i1", "r0"]
    sch.parallel(j)
    assert "parallel" not in str(other.trace)


def test_show_prints_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    sch = Schedule(chain())
    sch.show()
    assert parse(capsys.readouterr().out).name == "chain"


def test_a_failed_primitive_changes_nothing() -> None:
    sch = Schedule(matmul())
    i, _, k = sch.get_loops(sch.get_block("C"))
    before = sch.func
    with pytest.raises(ScheduleError):
        sch.parallel(k)
    with pytest.raises(ScheduleError):
        sch.split(i, [2, 2])
    assert sch.func is before
    assert len(sch.trace) == 0


def test_a_loop_found_by_other_means_is_a_handle_too() -> None:
    sch = Schedule(matmul())
    var = next(s.var for s in walk_stmt(sch.func.body) if isinstance(s, For))
    sch.parallel(LoopRef(var))
    assert "parallel" in str(sch.trace)
