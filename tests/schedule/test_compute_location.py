import pytest

from tests.fuzz.order import adversarial
from tests.schedule.programs import assert_same, chain, conv, matmul_relu, softmax, symbolic
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import TRUE, maximum
from tilewright.ir.stmt import Block, For
from tilewright.ir.visit import const_int, find_blocks
from tilewright.schedule import Schedule


def block_named(sch: Schedule, name: str) -> Block:
    return next(b for b in find_blocks(sch.func.body) if b.name == name)


def extents(sch: Schedule, name: str) -> list[int | None]:
    from tilewright.schedule.state import Tree

    tree = Tree(sch.func)
    return [const_int(loop.extent) for loop in tree.loops_above(tree.blocks[name])]


def test_compute_at_regenerates_the_tile_in_iterator_order() -> None:
    func = matmul_relu(8, 12, 5)
    sch = Schedule(func)
    i, j = sch.get_loops(sch.get_block("D"))
    i0, i1 = sch.split(i, [None, 4])
    j0, j1 = sch.split(j, [None, 6])
    sch.reorder(i0, j0, i1, j1)
    tile = sch.fuse(i0, j0)
    sch.parallel(tile)
    sch.compute_at(sch.get_block("C"), tile)
    assert extents(sch, "C") == [4, 4, 6, 5]
    assert block_named(sch, "C").predicate is TRUE
    bindings = [repr(it.binding) for it in block_named(sch, "C").iters]
    assert bindings == ["(i0 + ((i0_0_i1_0 // 2) * 4))", "(i1 + ((i0_0_i1_0 % 2) * 6))", "r0"]
    assert_same(func, sch)
    assert_same(func, adversarial(sch.func))


def test_compute_at_cuts_only_the_dimension_that_overruns() -> None:
    func = matmul_relu(7, 12, 5)
    sch = Schedule(func)
    i, j = sch.get_loops(sch.get_block("D"))
    i0, i1 = sch.split(i, [None, 4])
    j0, j1 = sch.split(j, [None, 6])
    sch.reorder(i0, j0, i1, j1)
    sch.compute_at(sch.get_block("C"), j0)
    assert repr(block_named(sch, "C").predicate) == "(((i0_0 * 4) + i0) < 7)"
    assert_same(func, sch)


def test_compute_at_of_a_stencil_needs_a_halo() -> None:
    func = conv(size=(9, 9), kernel=3, stride=2, pad=1)
    sch = Schedule(func)
    _, h, _, _ = sch.get_loops(sch.get_block("relu"))
    h0, _ = sch.split(h, [None, 2])
    sch.compute_at(sch.get_block("conv"), h0)
    sch.compute_at(sch.get_block("pad"), h0)
    # rows of two outputs at stride 2 with three taps
    assert extents(sch, "pad") == [1, 3, 1, 5, 11, 3]
    assert_same(func, sch)


def test_compute_at_of_padding_inside_the_reduction() -> None:
    func = conv()
    sch = Schedule(func)
    loops = sch.get_loops(sch.get_block("conv"))
    sch.compute_at(sch.get_block("pad"), loops[5])  # the kernel-column loop, a reduce loop of its consumer
    assert extents(sch, "pad")[-4:] == [1, 1, 1, 3]
    assert_same(func, sch)


def test_compute_at_takes_the_hull_of_several_reads() -> None:
    func = chain()
    sch = Schedule(func)
    row = sch.get_loops(sch.get_block("c"))[0]
    sch.compute_at(sch.get_block("b"), row)
    sch.compute_at(sch.get_block("a"), row)
    assert extents(sch, "b") == [7, 3, 6]
    assert extents(sch, "a") == [7, 6, 3]
    assert_same(func, sch)


def test_hull_of_reads_in_falling_order() -> None:
    x = te.placeholder((8,), "float32", "x")
    a = te.compute((8,), lambda i: x[i] + 1.0, "a")
    b = te.compute((6,), lambda i: a[i + 2] - a[i] * a[i + 1], "b")
    func = te.primfunc("falling", [x], [b])
    sch = Schedule(func)
    sch.compute_at(sch.get_block("a"), sch.get_loops(sch.get_block("b"))[0])
    assert extents(sch, "a") == [6, 3]
    assert_same(func, adversarial(sch.func))


def test_reads_that_wrap_around() -> None:
    x = te.placeholder((8,), "float32", "x")
    a = te.compute((8,), lambda i: x[i] + 1.0, "a")
    b = te.compute((8,), lambda i: a[(i + 3) % 8], "b")
    func = te.primfunc("rotate", [x], [b])
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(sch.get_block("b"))[0], [None, 4])
    sch.parallel(outer)
    sch.compute_at(sch.get_block("a"), outer)
    assert extents(sch, "a") == [2, 8]
    assert_same(func, adversarial(sch.func))


def test_softmax_row_by_row() -> None:
    func = softmax()
    sch = Schedule(func)
    row = sch.get_loops(sch.get_block("y"))[0]
    sch.parallel(row)
    for name in ("total", "e", "top"):
        sch.compute_at(sch.get_block(name), row)
    assert [b.name for b in find_blocks(sch.func.body)] == ["top", "e", "total", "y"]
    assert extents(sch, "e") == [5, 1, 9]
    assert_same(func, sch)
    assert_same(func, adversarial(sch.func))


def test_compute_at_deeper_a_second_time() -> None:
    func = matmul_relu()
    sch = Schedule(func)
    i, j = sch.get_loops(sch.get_block("D"))
    sch.compute_at(sch.get_block("C"), i)
    sch.compute_at(sch.get_block("C"), j)
    assert extents(sch, "C") == [7, 10, 1, 1, 5]
    assert_same(func, sch)


def test_compute_at_with_run_time_rows() -> None:
    func = symbolic()
    sch = Schedule(func)
    i, _ = sch.get_loops(sch.get_block("s"))
    outer, _ = sch.split(i, [None, 4])
    sch.parallel(outer)
    sch.compute_at(sch.get_block("a"), outer)
    assert extents(sch, "a") == [None, 4, 4]
    for n in (1, 4, 9):
        assert_same(func, sch, {"n": n})


def test_index_that_is_not_affine_needs_the_whole_dimension() -> None:
    x = te.placeholder((6,), "float32", "x")
    at = te.placeholder((4,), "int64", "at")
    y = te.compute((6,), lambda i: x[i] + 1.0, "y")
    z = te.compute((4,), lambda i: y[at[i]], "z")
    sch = Schedule(te.primfunc("gather", [x, at], [z]))
    sch.compute_at(sch.get_block("y"), sch.get_loops(sch.get_block("z"))[0])
    assert extents(sch, "y") == [4, 6]


def test_reshaped_reads_give_quotient_ranges() -> None:
    x = te.placeholder((6, 8), "float32", "x")
    y = te.compute((6, 8), lambda i, j: x[i, j] + 1.0, "y")
    z = te.compute((48,), lambda i: y[i // 8, i % 8] * 2.0, "z")
    func = te.primfunc("reshape", [x], [z])
    sch = Schedule(func)
    outer, _ = sch.split(sch.get_loops(sch.get_block("z"))[0], [None, 16])
    sch.compute_at(sch.get_block("y"), outer)
    assert extents(sch, "y") == [3, 2, 8]
    assert_same(func, sch)


def test_reverse_compute_at_follows_the_producer() -> None:
    func = matmul_relu()
    sch = Schedule(func)
    i, _, _ = sch.get_loops(sch.get_block("C"))
    outer, _ = sch.split(i, [None, 3])
    sch.reverse_compute_at(sch.get_block("D"), outer)
    sch.parallel(outer)
    assert extents(sch, "D") == [3, 3, 10]
    assert_same(func, sch)
    assert_same(func, adversarial(sch.func))


def test_reverse_compute_at_of_a_row_reduction() -> None:
    func = softmax()
    sch = Schedule(func)
    sch.compute_inline(sch.get_block("e"))
    row = sch.get_loops(sch.get_block("top"))[0]
    sch.reverse_compute_at(sch.get_block("total"), row)
    sch.reverse_compute_at(sch.get_block("y"), row)
    sch.parallel(row)
    assert_same(func, sch)
    assert_same(func, adversarial(sch.func))


def test_reverse_compute_at_does_not_lose_combinations() -> None:
    """An outer product reads two rows; following one row at a time would leave all but the diagonal out."""
    x = te.placeholder((4, 3), "float32", "x")
    a = te.compute((4, 3), lambda i, j: x[i, j] + 1.0, "a")
    g = te.compute((4, 4), lambda i, j: te.reduce("sum", (3,), lambda r: a[i, r] * a[j, r]), "g")
    sch = Schedule(te.primfunc("gram", [x], [g]))
    row = sch.get_loops(sch.get_block("a"))[0]
    with pytest.raises(ScheduleError, match="several iterations at once"):
        sch.reverse_compute_at(sch.get_block("g"), row)


def test_compute_inline_into_a_reduction() -> None:
    func = conv()
    sch = Schedule(func)
    sch.compute_inline(sch.get_block("pad"))
    assert [b.name for b in find_blocks(sch.func.body)] == ["conv", "relu"]
    assert {r.buffer.name for r in block_named(sch, "conv").reads} == {"x", "weight"}
    assert_same(func, sch)


def test_compute_inline_of_a_chain_into_all_readers() -> None:
    func = chain()
    sch = Schedule(func)
    sch.compute_inline(sch.get_block("a"))
    sch.compute_inline(sch.get_block("b"))
    assert [b.name for b in find_blocks(sch.func.body)] == ["c"]
    assert len(sch.func.params) == 2
    assert_same(func, sch)


def test_reverse_compute_inline_stores_the_result_directly() -> None:
    x = te.placeholder((3, 5), "float32", "x")
    a = te.compute((3, 5), lambda i, j: x[i, j] * 2.0, "a")
    b = te.compute((5, 3), lambda i, j: maximum(a[j, i], 0.0), "b")
    func = te.primfunc("transposed", [x], [b])
    sch = Schedule(func)
    sch.reverse_compute_inline(sch.get_block("b"))
    (block,) = find_blocks(sch.func.body)
    assert block.name == "a"
    assert [repr(r.lo) for r in block.writes[0].ranges] == ["vi1", "vi0"]
    assert_same(func, sch)


def test_a_whole_convolution_schedule() -> None:
    func = conv(size=(7, 13), channels=(5, 20))
    sch = Schedule(func)
    sch.compute_inline(sch.get_block("pad"))
    out, anchor = sch.get_block("relu"), sch.get_block("conv")
    n, h, w, o = sch.get_loops(out)
    w0, w1 = sch.split(w, [None, 6])
    o0, o1, lane = sch.split(o, [None, 2, 8])
    sch.reorder(n, h, o0, w0, w1, o1, lane)
    tile = sch.fuse(n, h, o0, w0)
    sch.parallel(tile)
    sch.vectorize(lane)
    sch.compute_at(anchor, tile)
    sch.set_scope(anchor, "register")
    _, _, cn, ch, cw, co, kh, kw, ci = [None, *sch.get_loops(anchor)]
    vectors, lanes = sch.split(co, [None, 8])
    sch.reorder(kh, kw, ci, cn, ch, cw, vectors, lanes)
    sch.unroll(cw)
    sch.unroll(vectors)
    sch.vectorize(lanes)
    sch.decompose_reduction(anchor, kh)
    kinds = [s.kind for s in _loops_of(sch, "conv_init")]
    assert kinds == ["parallel", "unrolled", "unrolled", "vectorized"]
    assert_same(func, sch)
    assert_same(func, adversarial(sch.func))


def _loops_of(sch: Schedule, name: str) -> list[For]:
    from tilewright.schedule.state import Tree

    tree = Tree(sch.func)
    return tree.loops_above(tree.blocks[name])
