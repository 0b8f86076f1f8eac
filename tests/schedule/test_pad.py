"""pad: iteration domains filled up so that tiles divide them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.programs import arrays, assert_same, chain, conv, matmul, matmul_relu, softmax
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var, binop, call, cast, const
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.printer import structural_equal, to_text
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.verify import verify
from tilewright.ir.visit import find_blocks
from tilewright.lower import lower
from tilewright.schedule import BlockRef, IndexMap, Schedule, Trace

C = BlockRef("C")


def extents(sch: Schedule, block: str) -> list[Any]:
    (found,) = [b for b in find_blocks(sch.func.body) if b.name == block]
    return [getattr(it.extent, "value", it.extent) for it in found.iters]


def contraction(
    term: Callable[[Expr, Expr], Expr], op: str = "sum", dtypes: tuple[str, str] = ("float32", "float32")
) -> PrimFunc:
    a = te.placeholder((7, 5), dtypes[0], "A")
    b = te.placeholder((5, 9), dtypes[1], "B")
    c = te.compute((7, 9), lambda i, j: te.reduce(op, (5,), lambda r: term(a[i, r], b[r, j])), "C")
    return te.primfunc("contraction", [a, b], [c])


def test_a_constant_operand_is_stored_filled_up_and_the_result_is_cut() -> None:
    func = matmul(7, 10, 5)
    sch = Schedule(func)
    made = sch.pad(C, [4, 16, 8])
    expected = parse(
        """
@primfunc({"const_params": ("B",), "outputs": 1, "param_layouts": {"B": "i0:8,i1:16 -> i0, i1"}})
def matmul(A: float32[7, 5], B: float32[8, 16], C: float32[7, 10]):
    C_pad = alloc(float32[8, 16])
    A_pad = alloc(float32[8, 8])
    for i0 in serial(8):
        for i1 in serial(8):
            with block("A_pad"):
                vi0 = spatial(8, i0)
                vi1 = spatial(8, i1)
                reads(A[vi0, vi1])
                writes(A_pad[vi0, vi1])
                A_pad[vi0, vi1] = select((vi0 < 7) & (vi1 < 5), A[vi0, vi1], 0.0)
    for i0 in serial(8):
        for i1 in serial(16):
            for r0 in serial(8):
                with block("C"):
                    vi0 = spatial(8, i0)
                    vi1 = spatial(16, i1)
                    vr0 = reduce(8, r0)
                    reads(A_pad[vi0, vr0], B[vr0, vi1])
                    writes(C_pad[vi0, vi1])
                    with init():
                        C_pad[vi0, vi1] = 0.0
                    C_pad[vi0, vi1] = C_pad[vi0, vi1] + A_pad[vi0, vr0] * B[vr0, vi1]
    for i0 in serial(7):
        for i1 in serial(10):
            with block("C_cut"):
                vi0 = spatial(7, i0)
                vi1 = spatial(10, i1)
                reads(C_pad[vi0, vi1])
                writes(C[vi0, vi1])
                C[vi0, vi1] = C_pad[vi0, vi1]
"""
    )
    assert made == [BlockRef("A_pad"), BlockRef("C_cut")]
    assert structural_equal(sch.func, expected)
    assert_same(func, sch)


def test_tiles_then_divide() -> None:
    func = matmul_relu(7, 10, 5)
    sch = Schedule(func)
    sch.pad(C, [4, 16, 8])
    sch.tile(sch.get_loops(C), [4, 16, 8])
    (block,) = [b for b in find_blocks(sch.func.body) if b.name == "C"]
    assert repr(block.predicate) == "True"
    assert_same(func, sch)


def test_iterators_with_none_stay() -> None:
    func = matmul(7, 10, 5)
    sch = Schedule(func)
    loops = sch.get_loops(C)
    assert sch.pad(C, [None, None, 4]) == [BlockRef("A_pad")]  # only the sum: nothing to cut
    assert extents(sch, "C") == [7, 10, 8]
    assert sch.get_loops(C)[:2] == loops[:2]
    assert_same(func, sch)
    assert sch.pad(BlockRef("A_pad"), [None, None]) == []


def test_the_blocks_made_do_not_depend_on_sizes() -> None:
    sch = Schedule(matmul(7, 10, 5))
    sch.pad(C, [4, 16, 8])
    sch.compute_inline(BlockRef("A_pad"))
    for shape in [(8, 16, 8), (1, 1, 1), (13, 3, 9)]:
        func = matmul(*shape)
        again = Trace.from_json(sch.trace.to_json()).apply(func)
        assert [b.name for b in find_blocks(again.func.body)] == ["C", "C_cut"]
        assert_same(func, again)


def test_factors_may_be_decisions() -> None:
    sch = Schedule(matmul(7, 10, 5), symbolic=True)
    sch.decide("rows", [1, 2, 4])
    sch.pad(C, ["rows", None, "rows*2"])
    for rows in (1, 2, 4):
        bound = sch.trace.bind({"rows": rows}).apply(matmul(7, 10, 5))
        assert extents(bound, "C") == [-(-7 // rows) * rows, 10, -(-5 // (2 * rows)) * 2 * rows]
        assert_same(matmul(7, 10, 5), bound)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8])
def test_run_time_sizes(size: int) -> None:
    n = Var("n", lo=1)
    a = te.placeholder((n, n), "float32", "A")
    b = te.placeholder((n, 6), "float32", "B")
    c = te.compute((n, 6), lambda i, j: te.reduce("sum", (n,), lambda r: a[i, r] * b[r, j]), "C")
    func = te.primfunc("product", [a, b], [c], dims=[n])
    sch = Schedule(func)
    sch.pad(C, [4, 4, 4])
    sch.tile(sch.get_loops(C), [4, 4, 4])
    (block,) = [x for x in find_blocks(sch.func.body) if x.name == "C"]
    assert repr(block.predicate) == "True"
    assert_same(func, sch, {"n": size})


@pytest.mark.parametrize(
    ("func", "filling"),
    [
        (contraction(lambda a, b: binop("max", a, b), "max"), 'float32("-inf")'),
        (contraction(lambda a, b: a + b, "max"), 'float32("-inf")'),
        (contraction(lambda a, b: a + b, "min"), 'float32("inf")'),
        (contraction(lambda a, b: a * b, "prod"), "1.0"),
        (contraction(lambda a, b: call("exp", [a + b])), 'float32("-inf")'),
        (contraction(lambda a, b: (a - b) * (a - b)), "0.0"),
        (contraction(lambda a, b: call("abs", [a]) * b), "0.0"),
        (
            contraction(lambda a, b: cast("int32", a) * cast("int32", b), dtypes=("uint8", "int8")),
            "uint8(0)",
        ),
    ],
)
def test_fillings(func: PrimFunc, filling: str) -> None:
    sch = Schedule(func)
    sch.pad(C, [4, 4, 4])
    assert f", {filling})" in repr(sch.func)
    assert_same(func, sch)


def test_a_zero_point_is_filled_with_itself() -> None:
    func = contraction(
        lambda a, b: (cast("int32", a) - const(17, "int32")) * (cast("int32", b) - const(100, "int32")),
        dtypes=("uint8", "int8"),
    )
    sch = Schedule(func)
    sch.pad(C, [None, None, 8])
    assert "uint8(17)" in repr(sch.func) or "int8(100)" in repr(sch.func)
    assert_same(func, sch)


def test_infinities_and_nans_are_as_before() -> None:
    """Padding never meets data: 0 * inf would be NaN."""
    func = matmul(7, 10, 5)
    a, b = arrays(func)
    a[2, 1], a[3, 0], b[4, 9], b[0, 3] = np.inf, np.nan, -np.inf, np.inf
    sch = Schedule(func)
    sch.pad(C, [8, 8, 8])
    laid = IndexMap.parse(sch.func.attr("param_layouts")["B"]).apply(b)
    np.testing.assert_array_equal(run(sch.func, [a, laid])[0], run(func, [a, b])[0])


def test_windows() -> None:
    """A convolution padded in its channels and positions; the input grows by what the last windows read."""
    func = conv(size=(6, 7), channels=(3, 10))
    sch = Schedule(func)
    made = sch.pad(BlockRef("conv"), [None, 4, 4, 16, None, None, 4])
    assert [b.name for b in made] == ["pad_pad", "conv_cut"]
    assert extents(sch, "pad_pad") == [1, 10, 10, 4]
    assert sch.func.attr("param_layouts") == {"weight": "i0,i1,i2:4,i3:16 -> i0, i1, i2, i3"}
    assert_same(func, sch)


def test_the_filled_constant_may_be_relaid_after() -> None:
    func = matmul(7, 10, 5)
    sch = Schedule(func)
    sch.pad(C, [4, 16, 4])
    sch.transform_layout(C, "read", 1, "k,n -> n//8, k//4, n%8, k%4")
    assert sch.func.attr("param_layouts") == {"B": "k:4,n:16 -> n//8, k//4, n%8, k%4"}
    assert_same(func, sch)
    assert_same(func, Trace.from_json(sch.trace.to_json()).apply(func))


def test_a_constant_with_a_layout_is_copied() -> None:
    func = matmul(7, 10, 5)
    sch = Schedule(func)
    sch.transform_layout(C, "read", 1, "k,n -> n, k")
    assert [b.name for b in sch.pad(C, [None, 4, 4])] == ["A_pad", "B_pad", "C_cut"]
    assert_same(func, sch)


def test_blocks_without_a_reduction() -> None:
    func = chain()
    sch = Schedule(func)
    sch.pad(BlockRef("c"), [4, 4])
    assert_same(func, sch)


def test_epilogue_reads_the_cut_part() -> None:
    func = softmax(5, 9)
    sch = Schedule(func)
    sch.pad(BlockRef("total"), [4, 4])
    sch.pad(BlockRef("top"), [None, 16])
    assert_same(func, sch)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.sampled_from([None, 1, 2, 3, 4, 8])] * 3),
    st.sampled_from(["sum", "max", "min"]),
    st.booleans(),
)
def test_random_shapes_and_factors(
    shape: tuple[int, int, int], factors: tuple[int | None, ...], op: str, constant: bool
) -> None:
    m, n, k = shape
    a = te.placeholder((m, k), "float32", "A")
    b = te.placeholder((k, n), "float32", "B")

    def term(x: Expr, y: Expr) -> Expr:
        return x * y if op == "sum" else x + y

    c = te.compute((m, n), lambda i, j: te.reduce(op, (k,), lambda r: term(a[i, r], b[r, j])), "C")
    func = te.primfunc("f", [a, b], [c], const_inputs=[b] if constant else [])
    sch = Schedule(func)
    sch.pad(C, factors)
    verify(sch.func)
    assert structural_equal(parse(to_text(sch.func)), sch.func)
    assert_same(func, sch)
    lowered = lower(sch.func)
    verify(lowered)
    assert_same(func, lowered)


def test_native() -> None:
    import tilewright as tw

    func = matmul(13, 21, 10)
    sch = tw.schedule(func)
    sch.pad(C, [4, 16, 4])
    (i, j, k), (i1, j1, k1) = sch.tile(sch.get_loops(C), [4, 16, 4])
    sch.reorder(i, j, k, k1, i1, j1)
    sch.vectorize(j1)
    sch.parallel(i)
    sch.check(native=True)


def shifted() -> PrimFunc:
    a = te.placeholder((9,), "float32", "A")
    return te.primfunc("shifted", [a], [te.compute((7,), lambda i: a[6 - i] + a[i + 2], "C")])


def gathered() -> PrimFunc:
    a = te.placeholder((9,), "float32", "A")
    x = te.placeholder((7,), "int64", "x")
    return te.primfunc("gathered", [a, x], [te.compute((7,), lambda i: a[x[i]], "C")])


def quotient() -> PrimFunc:
    a = te.placeholder((9,), "int32", "A")
    return te.primfunc("quotient", [a], [te.compute((9,), lambda i: const(7, "int32") // a[i], "C")])


def windows(op: str = "sum") -> PrimFunc:
    x = te.placeholder((9,), "float32", "x")
    w = te.placeholder((3,), "float32", "w")
    c = te.compute((7,), lambda i: te.reduce(op, (3,), lambda r: x[i + r] * w[r]), "C")
    return te.primfunc("windows", [x, w], [c])


def flattened() -> PrimFunc:
    return parse(
        """
@primfunc({"outputs": 1})
def flattened(x: float32[3, 4], C: float32[12]):
    for i in serial(3):
        for j in serial(4):
            with block("C"):
                vi = spatial(3, i)
                vj = spatial(4, j)
                reads(x[vi, vj])
                writes(C[vi * 4 + vj])
                C[vi * 4 + vj] = x[vi, vj]
"""
    )


def counted() -> PrimFunc:
    """A reduction by subtraction, which has no neutral element."""
    return parse(
        """
@primfunc({"outputs": 1})
def counted(x: float32[3], C: float32[1]):
    for i in serial(1):
        for k in serial(3):
            with block("C"):
                vi = spatial(1, i)
                vk = reduce(3, k)
                reads(x[vk])
                writes(C[vi])
                with init():
                    C[vi] = 0.0
                C[vi] = C[vi] - x[vk]
"""
    )


def late() -> PrimFunc:
    """``A[-2]`` stands for ``A[vi - 2]``, which is never read while ``vi`` is 0."""
    return parse(
        """
@primfunc({"outputs": 1})
def late(A: float32[1], C: float32[1]):
    for i in serial(1):
        with block("C"):
            vi = spatial(1, i)
            reads(A[-2])
            writes(C[vi])
            C[vi] = select(2 <= vi, A[-2], 0.0)
"""
    )


def with_steps(func: PrimFunc, *steps: Callable[[Schedule], object]) -> Schedule:
    sch = Schedule(func)
    for step in steps:
        step(sch)
    return sch


REFUSED: list[tuple[str, Callable[[], Schedule], list[int | None]]] = [
    (
        "2 factors are given for the 3 iterators of block 'C' .vi0, vi1, vr0.",
        lambda: Schedule(matmul()),
        [4, 4],
    ),
    ("factor 0 is not a positive integer", lambda: Schedule(matmul()), [0, None, None]),
    (
        "block 'C' shares loop 'i0' with other blocks",
        lambda: with_steps(matmul_relu(), lambda s: s.compute_at(C, s.get_loops(BlockRef("D"))[0])),
        [4, 4, 4],
    ),
    (
        "loop 'i0_0' is not a serial loop over one iterator of block 'C'",
        lambda: with_steps(matmul(), lambda s: s.split(s.get_loops(C)[0], [None, 2])),
        [4, 4, 4],
    ),
    (
        "loop 'i0' is not a serial loop over one iterator",
        lambda: with_steps(matmul(), lambda s: s.parallel(s.get_loops(C)[0])),
        [4, 4, 4],
    ),
    (
        "block 'C' is split into initialisation and update",
        lambda: with_steps(matmul(), lambda s: s.decompose_reduction(C, s.get_loops(C)[0])),
        [4, 4, 4],
    ),
    ("block 'C' does not store at its spatial iterators", lambda: Schedule(flattened()), [None, 4]),
    ("reads 'A' at .6 - vi0., and how far", lambda: Schedule(shifted()), [4]),
    ("reads 'A' at x.vi0., and how far", lambda: Schedule(gathered()), [4]),
    (
        "reads 'A' at -2 under a condition that padded instances may satisfy",
        lambda: Schedule(late()),
        [3],
    ),
    ("divides integers by data", lambda: Schedule(quotient()), [4]),
    ("does not accumulate with", lambda: Schedule(counted()), [None, 4]),
    ("is not proved to be 0.0, the neutral element of its add", lambda: Schedule(windows()), [None, 4]),
    ("is not proved to be -inf, the neutral element of its max", lambda: Schedule(windows("max")), [None, 4]),
    (
        "is not proved to be 0.0",
        lambda: Schedule(contraction(lambda a, b: a * b + 1.0)),
        [None, None, 4],
    ),
]


@pytest.mark.parametrize(("message", "start", "factors"), REFUSED)
def test_refused(message: str, start: Callable[[], Schedule], factors: list[int | None]) -> None:
    sch = start()
    before = sch.func
    with pytest.raises(ScheduleError, match=f"pad: .*{message}") as error:
        sch.pad(C, factors)
    assert sch.func is before
    assert error.value.hint
    assert error.value.location
    assert "^" in error.value.location


def test_integer_windows_may_be_padded() -> None:
    """Zero times any integer is zero."""
    x = te.placeholder((9,), "int32", "x")
    w = te.placeholder((3,), "int32", "w")
    c = te.compute((7,), lambda i: te.reduce("sum", (3,), lambda r: x[i + r] * w[r]), "C")
    func = te.primfunc("windows", [x, w], [c])
    sch = Schedule(func)
    sch.pad(C, [4, 4])
    assert_same(func, sch)


def test_a_constant_is_copied_where_factors_are_known_at_run_time_only() -> None:
    n = Var("n", lo=1)
    x = te.placeholder((n, 3), "float32", "x")
    w = te.placeholder((3, 4), "float32", "w")
    y = te.compute((n, 4), lambda i, j: te.reduce("sum", (3,), lambda r: x[i, r] * w[r, j]), "y")
    func = te.primfunc("f", [x, w], [y], const_inputs=[w], dims=[n])
    sch = Schedule(func)
    assert sch.pad(sch.get_block("y"), [None, n, None])[0] == BlockRef("w_pad")
    assert_same(func, sch, {"n": 5})
    with pytest.raises(ScheduleError, match="uses n, neither an index nor a decision"):
        Schedule(func).transform_layout(BlockRef("y"), "read", 1, "r,j -> j//n, r, j%n")


def test_a_sum_of_one_term_is_filled_up() -> None:
    """What loops once has indices that simplify to 0; they must not, before the loop grows."""
    func = matmul(3, 4, 1)
    sch = Schedule(func)
    sch.pad(C, [None, None, 2])
    assert_same(func, sch)
