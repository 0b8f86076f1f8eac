"""Caches, scopes, layouts and reductions."""

import numpy as np
import pytest

from tests.fuzz.order import adversarial
from tests.schedule.programs import assert_same, conv, integer_sum, matmul, matmul_relu, softmax, symbolic
from tilewright.errors import ScheduleError
from tilewright.ir.parser import parse
from tilewright.ir.printer import structural_equal
from tilewright.ir.stmt import Alloc, Buffer, For
from tilewright.ir.visit import find_blocks, walk_stmt
from tilewright.schedule import IndexMap, Schedule
from tilewright.schedule.state import Tree


def allocated(sch: Schedule) -> dict[str, Buffer]:
    return {s.buffer.name: s.buffer for s in walk_stmt(sch.func.body) if isinstance(s, Alloc)}


def test_cache_write_copies_after_the_nest() -> None:
    func = matmul()
    sch = Schedule(func)
    copy = sch.cache_write(sch.get_block("C"), "register")
    assert copy.name == "C_register"
    assert allocated(sch)["C_register"].scope == "register"
    assert [b.name for b in find_blocks(sch.func.body)] == ["C", "C_register"]
    assert [c.name for c in sch.get_consumers(sch.get_block("C"))] == ["C_register"]
    assert_same(func, sch)


def test_cache_write_in_the_middle_of_a_function() -> None:
    func = softmax()
    sch = Schedule(func)
    copy = sch.cache_write(sch.get_block("e"), "global")
    assert [c.name for c in sch.get_consumers(copy)] == ["total", "y"]
    assert_same(func, sch)


def test_cache_read_serves_one_block() -> None:
    func = softmax()
    sch = Schedule(func)
    copy = sch.cache_read(sch.get_block("e"), 0, "global")
    assert copy.name == "x_global"
    assert [c.name for c in sch.get_consumers(copy)] == ["e"]
    row = sch.get_loops(sch.get_block("e"))[0]
    sch.compute_at(copy, row)
    assert_same(func, sch)


def test_set_scope_changes_the_buffer_only() -> None:
    func = matmul_relu()
    sch = Schedule(func)
    sch.set_scope(sch.get_block("C"), "register")
    assert allocated(sch)["C"].scope == "register"
    assert_same(func, sch)


def test_decompose_reduction_keeps_the_kinds_of_spatial_loops() -> None:
    func = matmul(7, 16, 5)
    sch = Schedule(func)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, i1 = sch.split(i, [None, 4])
    j0, j1 = sch.split(j, [None, 8])
    sch.reorder(i0, j0, k, i1, j1)
    sch.unroll(i1)
    sch.vectorize(j1)
    init = sch.decompose_reduction(block, k)
    expected = parse(
        """
@primfunc({"const_params": ("B",), "outputs": 1})
def matmul(A: float32[7, 5], B: float32[5, 16], C: float32[7, 16]):
    for i0_0 in serial(2):
        for i1_0 in serial(2):
            for i0_1 in unrolled(4):
                for i1_1 in vectorized(8):
                    with block("C_init"):
                        vi0 = spatial(7, i0_0 * 4 + i0_1)
                        vi1 = spatial(16, i1_0 * 8 + i1_1)
                        where(i0_0 * 4 + i0_1 < 7)
                        writes(C[vi0, vi1])
                        C[vi0, vi1] = 0.0
            for r0 in serial(5):
                for i0_2 in unrolled(4):
                    for i1_2 in vectorized(8):
                        with block("C"):
                            vi0 = spatial(7, i0_0 * 4 + i0_2)
                            vi1 = spatial(16, i1_0 * 8 + i1_2)
                            vr0 = reduce(5, r0)
                            where(i0_0 * 4 + i0_2 < 7)
                            reads(A[vi0, vr0], B[vr0, vi1])
                            writes(C[vi0, vi1])
                            C[vi0, vi1] = C[vi0, vi1] + A[vi0, vr0] * B[vr0, vi1]
"""
    )
    assert init.name == "C_init"
    assert structural_equal(sch.func, expected)
    assert_same(func, sch)


def test_decompose_reduction_outside_of_spatial_loops() -> None:
    func = matmul()
    sch = Schedule(func)
    sch.decompose_reduction(sch.get_block("C"), sch.get_loops(sch.get_block("C"))[0])
    assert_same(func, sch)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_rfactor_of_a_split_that_overruns(axis: int) -> None:
    func = matmul(3, 4, 10)
    sch = Schedule(func)
    k = sch.get_loops(sch.get_block("C"))[-1]
    _, lanes = sch.split(k, [None, 4])
    partial = sch.rfactor(lanes, axis)
    assert partial.name == "C_rf"
    shape = allocated(sch)["C_rf"].static_shape
    assert shape is not None
    assert shape[axis] == 4
    assert_same(func, sch)


def test_rfactor_of_a_row_reduction_under_a_parallel_loop() -> None:
    func = softmax(5, 18)
    sch = Schedule(func)
    row = sch.get_loops(sch.get_block("y"))[0]
    sch.parallel(row)
    for name in ("total", "e", "top"):
        sch.compute_at(sch.get_block(name), row)
    for name in ("top", "total"):
        k = sch.get_loops(sch.get_block(name))[-1]
        outer, lanes = sch.split(k, [None, 8])
        partial = sch.rfactor(lanes, 0)
        sch.set_scope(partial, "register")
        sch.reorder(outer, lanes)
        sch.vectorize(lanes)
        sch.decompose_reduction(partial, outer)
        sch.vectorize(sch.get_loops(sch.get_block(name))[-1])
    kinds = [loop.kind for loop in Tree(sch.func).loops.values()]
    assert kinds.count("vectorized") == 6
    assert_same(func, sch)
    assert_same(func, adversarial(sch.func))


def test_rfactor_of_integers_and_one_element() -> None:
    func = integer_sum()
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(sch.get_block("s"))[-1], [3, None])
    sch.rfactor(outer, 0)
    assert_same(func, sch)


def test_rfactor_with_run_time_rows() -> None:
    func = symbolic(9)
    sch = Schedule(func)
    _, lanes = sch.split(sch.get_loops(sch.get_block("s"))[-1], [None, 4])
    sch.rfactor(lanes, 1)
    assert_same(func, sch, {"n": 5})


def test_layout_of_a_constant_parameter_is_recorded() -> None:
    func = conv(channels=(3, 20))
    sch = Schedule(func)
    layout = IndexMap.parse("r,s,i,o -> o//8, r, s, i, o%8")
    sch.transform_layout(sch.get_block("conv"), "read", 1, layout)
    assert sch.func.attr("param_layouts") == {"weight": "r,s,i,o -> o//8, r, s, i, o%8"}
    weight = next(p for p in sch.func.params if isinstance(p, Buffer) and p.name == "weight")
    assert weight.static_shape == (3, 3, 3, 3, 8)
    assert_same(func, sch)


def test_layout_of_a_temporary_changes_both_sides() -> None:
    func = matmul_relu(7, 10, 5)
    sch = Schedule(func)
    sch.transform_layout(sch.get_block("C"), "write", 0, IndexMap.tile(2, 1, 4, (1, 0, 2)))
    assert allocated(sch)["C"].static_shape == (3, 7, 4)
    assert sch.func.attr("param_layouts") is None
    assert_same(func, sch)
    row = sch.get_loops(sch.get_block("D"))[0]
    sch.compute_at(sch.get_block("C"), row)
    assert_same(func, sch)


@pytest.mark.parametrize(
    ("text", "shape", "result"),
    [
        ("k,n -> n//4, k, n%4", (3, 10), (3, 3, 4)),
        ("k,n -> n, k", (3, 10), (10, 3)),
        ("k,n -> k*10 + n", (3, 10), (30,)),
        ("k,n -> k//2, n//4, k%2, n%4", (3, 10), (2, 3, 2, 4)),
        ("k,n -> n//8, k, n%8//4, n%4", (3, 10), (2, 3, 2, 4)),
    ],
)
def test_index_map_relays_arrays(text: str, shape: tuple[int, ...], result: tuple[int, ...]) -> None:
    layout = IndexMap.parse(text)
    array = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    relaid = layout.apply(array)
    assert relaid.shape == result
    assert tuple(int(repr(s)) for s in layout.shape(shape)) == result
    assert relaid.flags.c_contiguous
    assert IndexMap.parse(str(layout)) == layout
    for place in np.ndindex(*shape):
        values = dict(zip((v.name for v in layout.inputs), place, strict=True))
        at = eval(text.split("->")[1], {}, values)
        assert relaid[at] == array[place]
    assert np.count_nonzero(relaid) == array.size


def test_index_map_constructors_agree() -> None:
    text = IndexMap.parse("k,n -> n//48, k, n%48")
    assert IndexMap.of(lambda k, n: (n // 48, k, n % 48), 2) == text
    assert str(IndexMap.tile(2, 1, 48, (1, 0, 2))) == "i0,i1 -> i1//48, i0, i1%48"
    assert repr(text) == "IndexMap.parse('k,n -> n//48, k, n%48')"
    assert len({text, IndexMap.parse("k,n -> n//48, k, n%48")}) == 1


@pytest.mark.parametrize(
    "text", ["k,n", "k,k -> k", "1 -> 2", "k -> k + m", "k -> k ** 2", "k -> f(k)", "k -> )"]
)
def test_index_map_rejects_other_text(text: str) -> None:
    with pytest.raises(ScheduleError, match="is not a layout"):
        IndexMap.parse(text)


def test_index_map_knows_when_elements_collide() -> None:
    assert IndexMap.parse("k,n -> n//4, k, n%4").is_injective((3, 10))
    assert IndexMap.parse("k,n -> k*10 + n").is_injective((3, 10))
    assert not IndexMap.parse("k,n -> k*9 + n").is_injective((3, 10))
    assert not IndexMap.parse("k,n -> k, n//4").is_injective((3, 10))


def test_annotations_are_kept_sorted_and_replaced() -> None:
    sch = Schedule(matmul())
    block = sch.get_block("C")
    i = sch.get_loops(block)[0]
    sch.annotate(i, "grain", 4)
    sch.annotate(i, "grain", 8)
    sch.annotate(block, "note", ("a", 1))
    loop = next(s for s in walk_stmt(sch.func.body) if isinstance(s, For))
    assert loop.annotations == (("grain", 8),)
    assert find_blocks(sch.func.body)[0].annotations == (("note", ("a", 1)),)
