"""tile: split and reorder several loops at once."""

import pytest

from tests.schedule.programs import assert_same, matmul, matmul_relu
from tilewright.errors import ScheduleError
from tilewright.ir.printer import structural_equal
from tilewright.ir.visit import const_int
from tilewright.schedule import BlockRef, LoopRef, Schedule, Trace
from tilewright.schedule.state import Tree

C = BlockRef("C")


def extents(sch: Schedule, loops: list[LoopRef]) -> list[int | None]:
    tree = Tree(sch.func)
    return [const_int(tree.loops[loop.var].extent) for loop in loops]


def test_two_levels() -> None:
    func = matmul(7, 10, 5)
    sch = Schedule(func)
    i, j, k = sch.get_loops(C)
    outer, inner = sch.tile([i, j], [4, 3])
    assert extents(sch, outer) == [2, 4]
    assert extents(sch, inner) == [4, 3]
    assert sch.get_loops(C) == [*outer, *inner, k]
    assert_same(func, sch)


def test_it_is_split_and_reorder() -> None:
    sch = Schedule(matmul())
    i, j, _ = sch.get_loops(C)
    sch.tile([i, j], [4, 3])
    by_hand = Schedule(matmul())
    i, j, _ = by_hand.get_loops(C)
    i0, i1 = by_hand.split(i, [None, 4])
    j0, j1 = by_hand.split(j, [None, 3])
    by_hand.reorder(i0, j0, i1, j1)
    assert structural_equal(sch.func, by_hand.func)
    assert str(sch.trace) == str(by_hand.trace)
    assert structural_equal(Trace.from_json(sch.trace.to_json()).apply(matmul()).func, sch.func)


def test_levels_by_structure() -> None:
    func = matmul(16, 18, 12)
    sch = Schedule(func)
    levels = sch.tile(sch.get_loops(C), [[None, 2, 2, 2], [None, 1, 3, 2], [None, 4]], structure="SSRSRS")
    assert [extents(sch, level) for level in levels] == [[2, 3], [2, 1], [3], [2, 3], [4], [2, 2]]
    assert sch.get_loops(C) == [loop for level in levels for loop in level]
    assert_same(func, sch)


def test_factors_may_be_decisions() -> None:
    sch = Schedule(matmul(16, 18, 12), symbolic=True)
    rows = sch.decide("rows", [1, 2, 4])
    sch.tile(sch.get_loops(C)[:2], [rows, "rows*2"])
    for value in (1, 2, 4):
        bound = sch.trace.bind({"rows": value}).apply(matmul(16, 18, 12))
        tiles = [16 // value, -(-18 // (2 * value))]
        assert extents(bound, bound.get_loops(C)) == [*tiles, value, 2 * value, 12]
        assert_same(matmul(16, 18, 12), bound)


@pytest.mark.parametrize(
    ("factors", "structure", "message"),
    [
        ([4], None, "tile: 3 loops and 1 factors are given"),
        ([4, 4, [None, 2, 2]], None, "tile: loop 'i0' has 2 factors for 3 levels"),
        ([4, 4, 4], "SRS", "tile: loop 'r0' has 2 factors for 1 levels"),
        ([4, 4, 4], "", "tile: '' is no structure"),
        ([4, 4, 4], "SXS", "tile: 'SXS' is no structure"),
        ([4, 4, 0], None, "split: factor 0 is not a positive integer"),
    ],
)
def test_refused(factors: list[object], structure: str | None, message: str) -> None:
    sch = Schedule(matmul())
    before = sch.func, sch.trace
    loops = sch.get_loops(C)
    with pytest.raises(ScheduleError, match=message) as error:
        sch.tile(loops, factors, structure)  # type: ignore[arg-type]
    assert (sch.func, sch.trace) == before
    assert error.value.hint


def test_loops_of_different_nests() -> None:
    sch = Schedule(matmul_relu())
    before = sch.func
    loops = [sch.get_loops(BlockRef("D"))[0], sch.get_loops(C)[0]]
    with pytest.raises(ScheduleError, match="not in one perfect nest"):
        sch.tile(loops, [2, 2])
    assert sch.func is before


def test_a_loop_over_both_kinds_of_iterators_has_no_letter() -> None:
    from tilewright.ir.parser import parse

    func = parse(
        """
@primfunc({"outputs": 1})
def windows(x: float32[4, 3], b: float32[4]):
    for i in serial(12):
        with block("b"):
            v = spatial(4, i // 3)
            r = reduce(3, i % 3)
            reads(x[v, r])
            writes(b[v])
            with init():
                b[v] = 0.0
            b[v] = b[v] + x[v, r]
"""
    )
    sch = Schedule(func)
    with pytest.raises(ScheduleError, match="loop 'i' drives both spatial and reduce iterators"):
        sch.tile(sch.get_loops(BlockRef("b")), [[None, 2]], "SS")
