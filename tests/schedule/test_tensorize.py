"""blockize and tensorize: the same results, the right shape of program, and errors that say what differs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.programs import assert_same, conv, matmul, matmul_relu
from tests.schedule.tensor_programs import (
    assert_equal,
    by_dots,
    by_matrices,
    inputs_of,
    laid_out,
    product,
    sizes,
    types,
)
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import Expr, maximum, select
from tilewright.ir.interp import run
from tilewright.ir.printer import structural_equal, to_text
from tilewright.ir.stmt import If, PrimFunc, TensorCall
from tilewright.ir.tensor_intrinsics import register, tensor_intrinsics
from tilewright.ir.verify import verify
from tilewright.ir.visit import find_blocks, walk_stmt
from tilewright.lower import lower
from tilewright.schedule import BlockRef, IndexMap, Schedule, Trace

DOTS = [
    i.name for i in tensor_intrinsics() if i.name.startswith(("x86.", "arm.")) and not i.name.endswith("mmla")
]
MATRICES = [i.name for i in tensor_intrinsics() if i.name.endswith("mmla")]


def calls_of(func: PrimFunc) -> list[TensorCall]:
    return [s for s in walk_stmt(func.body) if isinstance(s, TensorCall)]


def checked(func: PrimFunc, sch: Schedule) -> None:
    """The schedule, and each stage of lowering it, computes what the function does."""
    verify(sch.func)
    assert len(calls_of(sch.func)) == 1
    assert_equal(func, sch.func)

    def stage(_: str, result: PrimFunc) -> None:
        verify(result)

    lowered = lower(sch.func, stage)
    assert calls_of(lowered)
    assert_equal(func, lowered)


# -- blockize ------------------------------------------------------------------------------------------------


def tiled(factors: tuple[int, int, int] = (2, 5, 5), func: PrimFunc | None = None) -> Schedule:
    """A product with each loop split; the inner loops are innermost."""
    sch = Schedule(func if func is not None else matmul(4, 10, 10))
    i, j, k = sch.get_loops(BlockRef("C"))
    parts = [sch.split(loop, [None, f]) for loop, f in zip((i, j, k), factors, strict=True)]
    sch.reorder(*(outer for outer, _ in parts), *(inner for _, inner in parts))
    return sch


def test_blockize_counts_tiles_and_keeps_the_initialisation() -> None:
    sch = tiled()
    ref = sch.blockize(sch.get_loops(BlockRef("C"))[3])
    assert ref == BlockRef("C")
    (block,) = find_blocks(sch.func.body)
    assert [repr(it.extent) for it in block.iters] == ["2", "2", "2"]
    assert block.init is not None
    assert "with init():" in to_text(sch.func)
    assert "writes(C[span(vi0 * 2, 2), span(vi1 * 5, 5)])" in to_text(sch.func)
    verify(sch.func)
    assert_same(matmul(4, 10, 10), sch)
    assert_same(matmul(4, 10, 10), sch.copy())


def test_loops_that_run_once_go_into_blocks_too() -> None:
    for depth in range(3):
        func = matmul(1, 1, 1)
        sch = Schedule(func)
        c = sch.get_block("C")
        sch.blockize(sch.get_loops(c)[depth])
        verify(sch.func)
        assert_same(func, sch)


def test_blocks_of_tiles_go_on_being_scheduled() -> None:
    sch = tiled()
    sch.blockize(sch.get_loops(BlockRef("C"))[3])
    i, j, k = sch.get_loops(BlockRef("C"))
    sch.decompose_reduction(BlockRef("C"), k)
    sch.parallel(sch.fuse(i, j))
    assert_same(matmul(4, 10, 10), sch)
    lowered = lower(sch.func)
    assert structural_equal(lowered, lower(sch.trace.apply(matmul(4, 10, 10)).func))


def test_consumers_of_a_block_of_tiles_are_covered() -> None:
    sch = tiled((2, 5, 5), matmul_relu(4, 10, 10))
    c, d = BlockRef("C"), BlockRef("D")
    sch.blockize(sch.get_loops(c)[3])
    sch.reverse_compute_at(d, sch.get_loops(c)[1])
    assert_same(matmul_relu(4, 10, 10), sch)


def test_initialisation_and_update_may_be_tiles_each() -> None:
    sch = tiled()
    loops = sch.get_loops(BlockRef("C"))
    start = sch.decompose_reduction(BlockRef("C"), loops[2])
    sch.blockize(loops[3])
    sch.blockize(sch.get_loops(start)[2])
    assert_same(matmul(4, 10, 10), sch)
    assert "writes(C[span(vi0 * 2, 2), span(vi1 * 5, 5)])" in to_text(sch.func)


# -- tensorize -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOTS)
def test_dot_products(name: str) -> None:
    checked(*by_dots(name, 5, 37, 8))


@pytest.mark.parametrize("shape", [(8, 64, 16), (3, 3, 4), (1, 16, 4)])
def test_whole_tiles_and_less_than_one(shape: tuple[int, int, int]) -> None:
    checked(*by_dots("x86.vpdpbusd.16", *shape))


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("shape", [(8, 8, 16), (6, 10, 8)])
def test_matrix_products(name: str, shape: tuple[int, int, int]) -> None:
    checked(*by_matrices(name, *shape))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 20), st.integers(2, 70), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4)
)
def test_any_number_of_rows_and_columns(m: int, n: int, groups: int, rows: int, vectors: int) -> None:
    checked(*by_dots("x86.vpdpbusd.8", m, n, 4 * groups, rows, vectors))


def test_a_temporary_that_tiles_overrun_grows() -> None:
    _, sch = by_dots("x86.vpdpbusd.16", 5, 37, 8)
    text = to_text(sch.func)
    assert "alloc(int32[5, 48], scope=\"register\")" in text
    assert "i1_0 * 2 + i1_0_1 < 3" in text


def test_traces_round_trip_and_replay_on_other_shapes() -> None:
    func, sch = by_dots("x86.vdpbf16ps.16", 8, 64, 16)
    again = Trace.from_json(sch.trace.to_json()).apply(func)
    assert structural_equal(again.func, sch.func)
    scope: dict[str, object] = {"sch": Schedule(func), "IndexMap": IndexMap}
    exec(str(sch.trace), scope)
    assert structural_equal(scope["sch"].func, sch.func)  # type: ignore[attr-defined]
    other = product(*types("x86.vdpbf16ps.16"), 7, 50, 6)
    checked(other, sch.trace.apply(other))


def test_blockize_then_tensorize_is_tensorize() -> None:
    func = product("uint8", "int8", "int32", 2, 16, 8)

    def steps(sch: Schedule, both: bool) -> Schedule:
        sch.transform_layout(BlockRef("c"), "read", 1, IndexMap.parse("k,n -> k//4, n, k%4"))
        _, j, k = sch.get_loops(BlockRef("c"))
        k0, k1 = sch.split(k, [None, 4])
        sch.reorder(k0, j, k1)
        sch.tensorize(sch.blockize(j) if both else j, "x86.vpdpbusd.16")
        return sch

    one, two = steps(Schedule(func), False), steps(Schedule(func), True)
    assert structural_equal(one.func, two.func)
    assert "with init():" in to_text(one.func)  # it stays in the block, as loops
    checked(func, one)


def test_operands_may_be_exchanged() -> None:
    a, b = te.placeholder((2, 4), "uint8", "a"), te.placeholder((16, 4), "int8", "b")
    c = te.compute(
        (2, 16),
        lambda i, j: te.reduce("sum", (4,), lambda k: b[j, k].astype("int32") * a[i, k].astype("int32")),
        "c",
    )
    func = te.primfunc("f", [a, b], [c])
    sch = Schedule(func)
    sch.tensorize(sch.get_loops(BlockRef("c"))[1], "x86.vpdpbusd.16")
    (call,) = calls_of(sch.func)
    assert [r.buffer.name for r in call.operands] == ["a", "b", "c"]
    checked(func, sch)


def padded_conv(channels: int = 8) -> PrimFunc:
    """A 3x3 convolution of bytes over a padded image, its padding inlined."""
    x = te.placeholder((5, 6, channels), "uint8", "x")
    w = te.placeholder((3, 3, channels, 16), "int8", "w")

    def pad(i: Expr, j: Expr, c: Expr) -> Expr:
        inside = (i >= 1) & (i < 6) & (j >= 1) & (j < 7)
        return select(inside, x[i - 1, j - 1, c], 0)

    p = te.compute((7, 8, channels), pad, "pad")
    y = te.compute(
        (5, 6, 16),
        lambda i, j, o: te.reduce(
            "sum",
            (3, 3, channels),
            lambda r, s, k: p[i + r, j + s, k].astype("int32") * w[r, s, k, o].astype("int32"),
        ),
        "conv",
    )
    return te.primfunc("conv", [x, w], [y], const_inputs=[w])


def test_padding_becomes_a_condition_around_the_call() -> None:
    func = padded_conv()
    sch = Schedule(func)
    sch.compute_inline(BlockRef("pad"))
    c = BlockRef("conv")
    sch.transform_layout(c, "read", 1, IndexMap.parse("r,s,k,n -> r, s, k//4, n, k%4"))
    _, j, o, r, s, k = sch.get_loops(c)
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(r, s, k0, j, o, k1)
    sch.tensorize(o, "x86.vpdpbusd.16")
    guards = [s for s in walk_stmt(sch.func.body) if isinstance(s, If) and isinstance(s.then, TensorCall)]
    assert len(guards) == 1
    checked(func, sch)


def mma(name: str) -> tuple[PrimFunc, Schedule]:
    """A product by fragments in the registers of a warp, as memory scope ``warp``."""
    m, n, k = 32, 16, 64
    a, b, c = types(name)
    tf32 = name.endswith("tf32")
    x, y = te.placeholder((m, k), a, "a"), te.placeholder((n, k), b, "b")

    def wide(e: Expr) -> Expr:
        from tilewright.ir.intrinsics import intrinsic

        return intrinsic("tf32", e) if tf32 else e.astype(c)

    z = te.compute(
        (m, n), lambda i, j: te.reduce("sum", (k,), lambda r: wide(x[i, r]) * wide(y[j, r])), "c"
    )
    func = te.primfunc("product", [x, y], [z])
    sch = Schedule(func)
    block = BlockRef("c")
    _, depth = sizes(name)
    copies = [sch.cache_read(block, n, "warp") for n in (0, 1)]
    sch.cache_write(block, "warp")
    loops = [
        sch.split(loop, [None, f]) for loop, f in zip(sch.get_loops(block), (16, 8, depth), strict=True)
    ]
    (i0, i1), (j0, j1), (k0, k1) = loops
    sch.reorder(i0, j0, k0, i1, j1, k1)
    for copy in copies:
        sch.compute_at(copy, k0)
    sch.decompose_reduction(block, k0)
    sch.tensorize(i1, name)
    return func, sch


@pytest.mark.parametrize("name", [i.name for i in tensor_intrinsics() if i.name.startswith("cuda.")])
def test_matrix_products_of_a_warp(name: str) -> None:
    func, sch = mma(name)
    checked(func, sch)
    lowered = to_text(lower(sch.func))
    assert f'tensor_call("{name}"' in lowered
    assert 'scope="warp"' in lowered


def test_other_primitives_respect_calls() -> None:
    func, sch = by_dots("x86.vpdpbusd.8", 8, 16, 8)
    with pytest.raises(ScheduleError, match=r"compute_at: .*|split: .*|block 'c' is not a single store"):
        sch.cache_write(BlockRef("c"), "global")
    read = sch.copy()
    read.cache_read(BlockRef("c"), 0, "global")
    assert [r.buffer.name for r in calls_of(read.func)[0].operands] == ["a_global", "b", "c_register"]
    checked(func, read)
    moved = sch.copy()
    moved.set_scope(BlockRef("c_init"), "global")
    checked(func, moved)
    with pytest.raises(ScheduleError, match=r"set_scope: operand 'C' of 'x86.vpdpbusd.8' lives in scope"):
        sch.set_scope(BlockRef("c_init"), "shared")
    with pytest.raises(ScheduleError, match=r"transform_layout: 'c_register' is an operand of a tensor intr"):
        sch.transform_layout(BlockRef("c_init"), "write", 0, IndexMap.parse("i,j -> j, i"))


def test_producers_of_operands_are_not_inlined() -> None:
    x, b = te.placeholder((2, 4), "uint8", "x"), te.placeholder((16, 4), "int8", "b")
    a = te.compute((2, 4), lambda i, k: maximum(x[i, k], 3), "a")
    c = te.compute(
        (2, 16),
        lambda i, j: te.reduce("sum", (4,), lambda k: a[i, k].astype("int32") * b[j, k].astype("int32")),
        "c",
    )
    sch = Schedule(te.primfunc("f", [x, b], [c]))
    sch.tensorize(sch.get_loops(BlockRef("c"))[1], "x86.vpdpbusd.16")
    with pytest.raises(ScheduleError, match=r"compute_inline: 'a' is an operand of a tensor intrinsic there"):
        sch.compute_inline(BlockRef("a"))


# -- refusals ------------------------------------------------------------------------------------------------

C = BlockRef("c")


def dot(
    types: tuple[str, str, str] = ("uint8", "int8", "int32"),
    shape: tuple[int, int, int] = (2, 16, 8),
    layout: str | None = "k,n -> k//4, n, k%4",
    factor: int = 4,
) -> Schedule:
    """A product whose loops ``j`` and four steps of ``k`` are innermost: loops[2:]."""
    sch = Schedule(product(*types, *shape))
    if layout is not None:
        sch.transform_layout(C, "read", 1, IndexMap.parse(layout))
    _, j, k = sch.get_loops(C)
    k0, k1 = sch.split(k, [None, factor])
    sch.reorder(k0, j, k1)
    return sch


def tensorize(sch: Schedule, name: str = "x86.vpdpbusd.16", at: int = 2) -> None:
    sch.tensorize(sch.get_loops(C)[at], name)


def cut(n: int, columns: int, to: str | None) -> Schedule:
    """Columns split by 16; the product goes to a temporary of scope ``to``."""
    sch = Schedule(product("uint8", "int8", "int32", 2, n, columns))
    if to is not None:
        sch.cache_write(C, to)
    _, j, k = sch.get_loops(C)
    j0, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(j0, k0, j1, k1)
    return sch


REFUSED: list[tuple[str, Callable[[], Schedule], Callable[[Schedule], None], str]] = [
    ("unknown", dot, lambda s: tensorize(s, "x86.vpdpbusd.61"), "there is no tensor intrinsic"),
    (
        "extent",
        lambda: dot(shape=(2, 12, 8)),
        tensorize,
        "loop 'i1' has extent 12 where 16 is wanted",
    ),
    ("depth", lambda: dot(factor=2), tensorize, "loop 'r0_1' has extent 2 where 4 is wanted"),
    (
        "dtype",
        lambda: dot(("int8", "int8", "int32")),
        tensorize,
        "operand 'A' is uint8, 'a' is int8",
    ),
    (
        "layout",
        lambda: dot(layout=None),
        tensorize,
        "moves with loop 'i1', 'b' with 'r0_1' there",
    ),
    (
        "stride",
        lambda: dot(layout="k,n -> n, k//4, k%4"),
        tensorize,
        "operand 'B' of 'x86.vpdpbusd.16' needs neighbours along dimension 0 4 elements apart; in 'b'",
    ),
    (
        "flat",
        lambda: dot(layout="k,n -> k//4, n*4 + k%4"),
        tensorize,
        "operand 'B' is not contiguous along dimension 1 of 'b'",
    ),
    ("missing", dot, lambda s: tensorize(s, at=3), "operand 'C' is read along a loop of extent 16; no loop"),
    ("extra", dot, lambda s: tensorize(s, at=1), "operand 'A' is not contiguous|does not move"),
    ("meaning", dot, lambda s: tensorize(s, "test.difference"), "the program computes .* where the int"),
    (
        "scope",
        lambda: mma_in_memory(),
        lambda s: tensorize(s, "cuda.mma.m16n8k32.s8", at=0),
        "lives in scope warp, 'a' in global",
    ),
    (
        "reduction cut short",
        lambda: dot(shape=(2, 16, 10)),
        tensorize,
        r"the condition \(\(\(r0_0 \* 4\) \+ r0_1\) < 10\) of block 'c' cuts some tiles short",
    ),
    ("columns cut short", lambda: cut(20, 8, None), lambda s: tensorize(s, at=3), "cuts some tiles short"),
    (
        "operand ends",
        lambda: cut(20, 8, "register"),
        lambda s: tensorize(s, at=3),
        "whole tiles of block 'c' would read 'b' beyond its extent 20 in dimension 1",
    ),
    ("computed operand", lambda: computed_operand(), tensorize, "operand 'A' is read from memory; the"),
    ("part of a tile", lambda: partly_padded(), tensorize, "holds for a part of the tile only"),
    ("several blocks", lambda: several(), lambda s: tensorize(s, at=0), "is not around a single block alone"),
    ("kind", lambda: threaded(), tensorize, "tensorize: loop 'i1' is parallel"),
    (
        "blockize: gaps",
        lambda: Schedule(matmul(4, 10, 10)),
        lambda s: gapped(s),
        "which the loops inside do not run through without gaps",
    ),
    (
        "blockize: predicate",
        lambda: tiled((2, 3, 5)),
        lambda s: s.blockize(s.get_loops(BlockRef("C"))[3]),
        "blockize: the condition .* of block 'C' cuts some tiles short",
    ),
    (
        "vectorize around tiles",
        lambda: tiled(),
        lambda s: (s.blockize(s.get_loops(BlockRef("C"))[3]), s.vectorize(s.get_loops(BlockRef("C"))[2])),
        "vectorize: block 'C' has loops of its own inside",
    ),
    (
        "store",
        lambda: tiled(),
        lambda s: (
            s.blockize(s.get_loops(BlockRef("C"))[3]),
            s.rfactor(s.get_loops(BlockRef("C"))[2], 0),
        ),
        "block 'C' is not a single store",
    ),
]


def mma_in_memory() -> Schedule:
    a, b = te.placeholder((16, 32), "int8", "a"), te.placeholder((8, 32), "int8", "b")
    c = te.compute(
        (16, 8),
        lambda i, j: te.reduce("sum", (32,), lambda k: a[i, k].astype("int32") * b[j, k].astype("int32")),
        "c",
    )
    return Schedule(te.primfunc("f", [a, b], [c]))


def computed_operand() -> Schedule:
    a, b = te.placeholder((2, 8), "uint8", "a"), te.placeholder((2, 16, 4), "int8", "b")
    c = te.compute(
        (2, 16),
        lambda i, j: te.reduce(
            "sum",
            (2, 4),
            lambda k, q: (a[i, k * 4 + q] + 1).astype("int32") * b[k, j, q].astype("int32"),
        ),
        "c",
    )
    sch = Schedule(te.primfunc("f", [a, b], [c]))
    i, j, k, quad = sch.get_loops(C)
    sch.reorder(i, k, j, quad)
    return sch


def partly_padded() -> Schedule:
    a, b = te.placeholder((2, 6), "uint8", "a"), te.placeholder((2, 16, 4), "int8", "b")
    p = te.compute((2, 8), lambda i, k: select(k < 6, a[i, k], 0), "p")
    c = te.compute(
        (2, 16),
        lambda i, j: te.reduce(
            "sum", (2, 4), lambda k, q: p[i, k * 4 + q].astype("int32") * b[k, j, q].astype("int32")
        ),
        "c",
    )
    sch = Schedule(te.primfunc("f", [a, b], [c]))
    sch.compute_inline(BlockRef("p"))
    i, j, k, quad = sch.get_loops(C)
    sch.reorder(i, k, j, quad)
    return sch


def several() -> Schedule:
    sch = dot()
    sch.decompose_reduction(C, sch.get_loops(C)[1])
    return sch


def threaded() -> Schedule:
    sch = dot()
    sch.parallel(sch.get_loops(C)[2])
    return sch


def gapped(sch: Schedule) -> None:
    loops = sch.get_loops(BlockRef("C"))
    outer, inner = sch.split(loops[1], [5, 2])
    sch.reorder(inner, outer, loops[2])
    sch.blockize(outer)


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c[0])
def test_refusals_say_what_differs_and_change_nothing(
    case: tuple[str, Callable[[], Schedule], Callable[[Schedule], None], str],
) -> None:
    _, make, step, message = case
    register("test.difference", DIFFERENCE)
    sch = make()
    with pytest.raises(ScheduleError, match=message) as error:
        step(sch)
    if "there is no tensor" not in message and "not a single store" not in message:
        assert error.value.location is not None
        assert "^" in error.value.location
    verify(sch.func)


DIFFERENCE = """
@primfunc({"outputs": 1})
def difference(A: uint8[4], B: int8[16, 4], C: int32[16]):
    for j in serial(16):
        for k in serial(4):
            C[j] = C[j] + (int32(A[k]) - int32(B[j, k]))
"""


def test_convolutions_of_floats_are_not_taken_for_something_else() -> None:
    sch = Schedule(conv())
    with pytest.raises(ScheduleError, match=r"is not 'x86.vpdpbusd.16'"):
        sch.tensorize(sch.get_loops(BlockRef("conv"))[-1], "x86.vpdpbusd.16")
    arrays = inputs_of(product("uint8", "int8", "int32", 2, 3, 4))
    assert len(laid_out(product("uint8", "int8", "int32", 2, 3, 4), arrays)) == 2
    assert run(product("uint8", "int8", "int32", 2, 3, 4), arrays)[0].dtype == np.int32
