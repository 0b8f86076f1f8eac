"""Programs that once went wrong, or whose default schedules must not be plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz.case import Case
from tests.fuzz.checks import statements
from tests.fuzz.native import check_native
from tests.kernels.harness import TARGETS, check, prepare, slow_parts
from tilewright.ir import te
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.expr import Expr, Var, as_expr, const, load, maximum, minimum, select
from tilewright.ir.interp import run
from tilewright.ir.stmt import Buffer, For, If, PrimFunc, Store, seq
from tilewright.lower import lower
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

HOST = Target.host()


def case(inputs: list[te.Tensor], outputs: list[te.Tensor], consts: tuple[te.Tensor, ...] = ()) -> Case:
    """With small integers as inputs, so that results are exact."""
    return Case.integers(te.primfunc("case", inputs, outputs, consts))


def contraction(a: te.Tensor, b: te.Tensor, m: int, n: int, k: int, transposed: bool) -> te.Tensor:
    def body(i: Expr, j: Expr) -> Expr:
        return te.reduce("sum", (k,), lambda r: a[i, r] * (b[j, r] if transposed else b[r, j]))

    return te.compute((m, n), body, "product")


def masked_sum() -> Case:
    """The mask is read by vectors that would pass its end."""
    x = te.placeholder((3, 15), "int64", "x")
    mask = te.placeholder((15,), "bool", "mask")
    kept = te.compute((3, 15), lambda i, j: select(mask[j], x[i, j], const(0, "int64")), "kept")
    return case(
        [x, mask], [te.compute((1,), lambda i: te.reduce("sum", (3, 15), lambda r, s: kept[r, s]), "t")]
    )


def output_that_is_read() -> Case:
    """A product is an output and has an elementwise consumer."""
    a, b = te.placeholder((50, 8), "float32", "a"), te.placeholder((8, 33), "float32", "b")
    product = contraction(a, b, 50, 33, 8, False)
    return case(
        [a, b], [product, te.compute((50, 33), lambda i, j: maximum(product[i, j] - 3.0, 0.0), "relu")]
    )


def two_products() -> Case:
    """Two products with one consumer: only one of them can be written back by it."""
    tensors = [te.placeholder((33, 33), "float32", f"x{i}") for i in range(4)]
    first = contraction(tensors[0], tensors[1], 33, 33, 33, False)
    second = contraction(tensors[2], tensors[3], 33, 33, 33, False)
    return case(tensors, [te.compute((33, 33), lambda i, j: first[i, j] + second[i, j], "sum")])


def transposed_operand(dtype: str, k: int, constant: bool) -> Case:
    a, b = te.placeholder((49, k), dtype, "a"), te.placeholder((48, k), dtype, "b")
    return case([a, b], [contraction(a, b, 49, 48, k, True)], (b,) if constant else ())


def part_of_a_product() -> Case:
    """The consumer reads one column at a constant."""
    a, b = te.placeholder((20,), "float32", "a"), te.placeholder((20, 17), "float32", "b")
    row = te.compute((17,), lambda j: te.reduce("sum", (20,), lambda r: a[r] * b[r, j]), "row")
    return case([a, b], [te.compute((1,), lambda i: row[i + 4], "part")])


def channel_multiplier() -> Case:
    """Depthwise, three outputs a channel, one input channel each: there is nothing to sum over."""
    x, w = te.placeholder((40, 16), "float32", "x"), te.placeholder((1, 48), "float32", "w")
    out = te.compute(
        (40, 48), lambda i, c: te.reduce("sum", (1,), lambda r: x[i, c // 3 + r] * w[r, c]), "out"
    )
    return case([x, w], [out])


def strided_channels_first() -> Case:
    """A convolution with channels first and a stride: the output's contiguous axis steps over the input."""
    x, w = te.placeholder((20, 70), "float32", "x"), te.placeholder((33, 20, 2), "float32", "w")
    out = te.compute(
        (33, 23), lambda o, i: te.reduce("sum", (20, 2), lambda c, r: x[c, i * 3 + r] * w[o, c, r]), "out"
    )
    return case([x, w], [out])


def short_rows() -> Case:
    x = te.placeholder((60, 90, 3), "float32", "x")
    return case([x], [te.compute((60, 90), lambda i, j: te.reduce("max", (3,), lambda r: x[i, j, r]), "top")])


def pooled_unit_dimension() -> Case:
    """A dimension of size one that is read at a computed place cannot be dropped."""
    x = te.placeholder((20, 20), "int32", "x")
    one = te.compute((1, 20), lambda i, j: te.reduce("sum", (20,), lambda r: x[r, j]), "one")
    out = te.compute(
        (1, 20),
        lambda i, j: te.reduce(
            "max", (3,), lambda r: select((r >= 1) & (r < 2), one[i + r - 1, j], const(-(1 << 31), "int32"))
        ),
        "out",
    )
    return case([x], [out])


def work_behind_padding() -> Case:
    """Arithmetic, padding, a convolution: the arithmetic is not repeated for every use of an element."""
    x, w = te.placeholder((30, 16), "float32", "x"), te.placeholder((3, 16, 32), "float32", "w")
    scaled = te.compute((30, 16), lambda i, c: minimum(x[i, c] * x[i, c], 5.0), "scaled")
    padded = te.compute(
        (32, 16), lambda i, c: select((i >= 1) & (i < 31), scaled[i - 1, c], as_expr(0.0)), "padded"
    )
    out = te.compute(
        (30, 32), lambda i, o: te.reduce("sum", (3, 16), lambda r, c: padded[i + r, c] * w[r, c, o]), "out"
    )
    return case([x, w], [out], (w,))


CASES = {
    "masked sum": masked_sum(),
    "output that is read": output_that_is_read(),
    "two products": two_products(),
    "transposed operand": transposed_operand("float32", 17, False),
    "transposed operand of doubles": transposed_operand("float64", 3, False),
    "transposed operand of bytes": transposed_operand("uint8", 16, False),
    "transposed constant": transposed_operand("float32", 33, True),
    "part of a product": part_of_a_product(),
    "channel multiplier": channel_multiplier(),
    "strided convolution, channels first": strided_channels_first(),
    "short rows": short_rows(),
    "pooled unit dimension": pooled_unit_dimension(),
    "work behind padding": work_behind_padding(),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_computes_the_same(name: str, target: str) -> None:
    wide = Target.parse(target).vector_bits <= HOST.vector_bits
    check(CASES[name], [target], [target] if wide and HOST.arch == "x86_64" else [])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_is_vectorized(name: str, target: str) -> None:
    assert not list(slow_parts(prepare(CASES[name], Target.parse(target)), scalar=1000))


def test_arithmetic_behind_padding_is_not_repeated() -> None:
    prepared = prepare(CASES["work behind padding"], Target.parse("x86-64-v4"))
    assert "padded" in {b.name for b in prepared.scheduled_blocks()}


@pytest.mark.parametrize("sizes", [(0, 5, 5), (5, 0, 5), (5, 5, 0), (17, 33, 0), (1, 1, 0), (0, 0, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_empty_products(sizes: tuple[int, int, int], transposed: bool) -> None:
    m, n, k = sizes
    a = te.placeholder((m, k), "float32", "a")
    b = te.placeholder((n, k) if transposed else (k, n), "float32", "b")
    product = contraction(a, b, m, n, k, transposed)
    out = te.compute((m, n), lambda i, j: product[i, j] + 1.0, "out")
    check(case([a, b], [out]), [*TARGETS, "native"], ["native"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 10**9, 1), (10**9, 1, 1), (3, 5, 10**9), (10**9, 7, 3), (10**5,) * 3]
)
def test_code_does_not_grow_with_huge_loops(m: int, n: int, k: int, target: str) -> None:
    a, b = te.placeholder((m, k), "float32", "a"), te.placeholder((n, k), "float32", "b")
    product = contraction(a, b, m, n, k, True)
    func = collapse_dims(te.primfunc("huge", [a, b], [product]))
    assert statements(lower(default_schedule(func, Target.parse(target)).func).body) < 2000


@pytest.mark.skipif(HOST.arch != "x86_64", reason="compares with the host's own vectors")
def test_conditions_that_read_memory_are_evaluated_part_by_part() -> None:
    """The second part would read past the end of ``mask`` where the first does not hold."""
    mask, out = Buffer.make("mask", (15,), "bool"), Buffer.make("out", (16,), "int32")
    lane, serial = Var("lane", lo=0, hi=7), Var("i", lo=0, hi=15)
    stores = []
    for orelse in (None, Store(out, (lane,), const(2, "int32"))):
        guarded = If((lane < 7) & load(mask, [lane + 8]), Store(out, (lane,), const(1, "int32")), orelse)
        stores.append(For(lane, as_expr(8), guarded, "vectorized"))
    plain = If((serial < 15) & load(mask, [serial]), Store(out, (serial,), const(3, "int32")))
    clear = Store(out, (serial,), const(0, "int32"))
    body = seq([For(serial, as_expr(16), clear), stores[0], For(serial, as_expr(16), plain), stores[1]])
    func = PrimFunc("f", (mask, out), body)
    inputs = [np.arange(15) % 3 != 0]
    expected = run(func, inputs)
    check_native(func, inputs, HOST, lambda found: np.testing.assert_array_equal(found, expected))
