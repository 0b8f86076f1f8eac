"""The default schedule uses the target's dot products, for any shape, and only where they are the meaning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.tensor_programs import assert_equal, inputs_of, product
from tilewright.ir import te
from tilewright.ir.expr import Expr, binop, const, maximum, select
from tilewright.ir.interp import run
from tilewright.ir.printer import to_text
from tilewright.ir.stmt import PrimFunc, TensorCall
from tilewright.ir.verify import verify
from tilewright.ir.visit import walk_stmt
from tilewright.lower import lower
from tilewright.schedule.default import default_schedule
from tilewright.schedule.sketch import Sketch
from tilewright.schedule.space import sketches
from tilewright.target import Target

X86, VEX, ARM = (Target.parse(t) for t in ("x86-64-v4-dot", "x86-64-v3-dot", "aarch64-dot"))
BF16, BYTES = ("bfloat16", "bfloat16", "float32"), ("uint8", "int8", "int32")
SIGNED = ("int8", "int8", "int32")
WORDS = ("int16", "int16", "int32")


def intrinsics_of(func: PrimFunc) -> set[str]:
    return {s.intrinsic.name for s in walk_stmt(func.body) if isinstance(s, TensorCall)}


def checked(func: PrimFunc, target: Target) -> set[str]:
    """The intrinsics of the default schedule, which computes the same, scheduled and lowered."""
    sch = default_schedule(func, target)
    verify(sch.func)
    assert_equal(func, sch.func)
    lowered = lower(sch.func, lambda _, result: verify(result))
    assert_equal(func, lowered)
    assert intrinsics_of(lowered) == intrinsics_of(sch.func)
    return intrinsics_of(sch.func)


@pytest.mark.parametrize(
    ("target", "types", "name"),
    [
        (X86, BF16, "x86.vdpbf16ps"),
        (X86, BYTES, "x86.vpdpbusd"),
        (VEX, BYTES, "x86.vpdpbusd"),
        (VEX, SIGNED, "x86.vpdpbssd"),
        (Target.parse("x86-64-v3"), WORDS, "x86.vpmaddwd"),
        (Target.parse("x86-64-v4"), WORDS, "x86.vpmaddwd.16"),
        (ARM, BF16, "arm.bfdot"),
        (ARM, BYTES, "arm.usdot"),
        (ARM, SIGNED, "arm.sdot"),
        (ARM, ("uint8", "uint8", "uint32"), "arm.udot"),
    ],
)
def test_products_use_the_targets_instruction(target: Target, types: tuple[str, str, str], name: str) -> None:
    (found,) = checked(product(*types, 20, 100, 24), target)
    assert found.startswith(name)


@pytest.mark.parametrize(
    ("target", "types"), [(Target.parse("x86-64-v4"), BYTES), (X86, ("float32",) * 3), (VEX, BF16)]
)
def test_other_products_go_on_as_before(target: Target, types: tuple[str, str, str]) -> None:
    assert not checked(product(*types, 20, 40, 24), target)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(X86, BF16), (X86, BYTES), (VEX, BYTES), (ARM, SIGNED)]),
    st.integers(1, 33),
    st.integers(2, 120),
    st.integers(2, 21),
)
def test_any_shape(case: tuple[Target, tuple[str, str, str]], m: int, n: int, k: int) -> None:
    target, types = case
    assert checked(product(*types, m, n, k), target)


def conv(
    size: int, ci: int, co: int, stride: int, pad: int, dtypes: tuple[str, str, str], flip: bool = False
) -> PrimFunc:
    """A padded 3x3 convolution and a clipping epilogue, channels last; with ``flip`` of bytes that count from
    -128."""
    a, b, c = dtypes

    def wide(e: Expr) -> Expr:
        return binop("xor", e.astype("uint8"), const(128, "uint8")).astype(c) if flip else e.astype(c)

    x, w = te.placeholder((size, size, ci), a, "x"), te.placeholder((3, 3, ci, co), b, "w")

    def padded(i: Expr, j: Expr, k: Expr) -> Expr:
        inside = (i >= pad) & (i < size + pad) & (j >= pad) & (j < size + pad)
        return select(inside, x[i - pad, j - pad, k], 0)

    p = te.compute((size + 2 * pad, size + 2 * pad, ci), padded, "pad")
    out = (size + 2 * pad - 3) // stride + 1
    y = te.compute(
        (out, out, co),
        lambda i, j, o: te.reduce(
            "sum",
            (3, 3, ci),
            lambda r, s, k: wide(p[i * stride + r, j * stride + s, k]) * w[r, s, k, o].astype(c),
        ),
        "conv",
    )
    z = te.compute((out, out, co), lambda i, j, o: maximum(y[i, j, o], 0), "relu")
    return te.primfunc("conv", [x, w], [z], const_inputs=[w])


@pytest.mark.parametrize("types", [BF16, BYTES])
@pytest.mark.parametrize(("stride", "pad"), [(1, 1), (2, 1), (1, 0)])
def test_convolutions_skip_padding_around_the_instruction(
    types: tuple[str, str, str], stride: int, pad: int
) -> None:
    func = conv(6, 8, 20, stride, pad, types)
    assert checked(func, X86)
    text = to_text(lower(default_schedule(func, X86).func))
    assert "select(" not in text


@pytest.mark.parametrize(("channels", "flip"), [(3, False), (8, True), (5, True)])
def test_operands_that_padding_would_spoil_are_laid_out_first(channels: int, flip: bool) -> None:
    """Channels that fill no group, and bytes whose padding is not zero to the instruction."""
    types = SIGNED if flip else BYTES
    (found,) = checked(conv(6, channels, 20, 1, 1, types, flip), X86)
    assert found.startswith("x86.vpdpbusd.s8" if flip else "x86.vpdpbusd")


def test_operands_made_at_run_time_are_packed_when_they_are_used_often() -> None:
    def batched(m: int) -> PrimFunc:
        x, y = te.placeholder((m, 24), "bfloat16", "a"), te.placeholder((24, 40), "bfloat16", "b")
        z = te.compute(
            (m, 40),
            lambda i, j: te.reduce(
                "sum", (24,), lambda k: x[i, k].astype("float32") * y[k, j].astype("float32")
            ),
            "c",
        )
        return te.primfunc("product", [x, y], [z])

    assert checked(batched(16), X86)
    assert not checked(batched(2), X86)


def test_transposed_weights_are_packed_from_where_they_lie() -> None:
    x, y = te.placeholder((9, 24), "uint8", "a"), te.placeholder((40, 24), "int8", "b")
    z = te.compute(
        (9, 40),
        lambda i, j: te.reduce("sum", (24,), lambda k: x[i, k].astype("int32") * y[j, k].astype("int32")),
        "c",
    )
    func = te.primfunc("product", [x, y], [z], const_inputs=[y])
    assert checked(func, X86)
    (layout,) = default_schedule(func, X86).func.attr("param_layouts").values()
    assert "i1//4" in layout
    assert layout.endswith("i1%4")


def test_narrowing_is_the_write_back() -> None:
    a, b = te.placeholder((9, 24), "bfloat16", "a"), te.placeholder((24, 40), "bfloat16", "b")
    c = te.compute(
        (9, 40),
        lambda i, j: te.reduce("sum", (24,), lambda k: a[i, k].astype("float32") * b[k, j].astype("float32")),
        "c",
    )
    d = te.compute((9, 40), lambda i, j: c[i, j].astype("bfloat16"), "d")
    func = te.primfunc("product", [a, b], [d], const_inputs=[b])
    assert checked(func, X86) == {"x86.vdpbf16ps.16"}
    assert to_text(lower(default_schedule(func, X86).func)).count("alloc(") == 1


def test_sketches_offer_the_instruction_and_the_plain_tile() -> None:
    func = product(*BYTES, 32, 64, 32)
    found = sketches(func, X86)
    with_calls = [s for s in found if intrinsics_of(s.schedule.func)]
    assert with_calls
    assert len(with_calls) < len(found)
    arrays = inputs_of(func)
    (expected,) = run(func, arrays)

    def compare(sketch: Sketch, row: np.ndarray) -> None:
        bound = sketch.bind(row)
        assert intrinsics_of(bound.func)
        assert_equal(func, bound.func)

    for sketch in with_calls:
        for row in sketch.sample(3, seed=1):
            compare(sketch, row)
    assert expected.dtype == np.int32


def half_product(dtype: str, m: int, k: int, n: int) -> PrimFunc:
    """As the operator says it: the left operand widened in a stage of its own."""
    a, b = te.placeholder((m, k), dtype, "a"), te.placeholder((k, n), dtype, "b")
    wide = te.compute((m, k), lambda i, j: a[i, j].astype("float32"), "widen")
    body = te.compute(
        (m, n), lambda i, j: te.reduce("sum", [k], lambda r: wide[i, r] * b[r, j].astype("float32")), "c"
    )
    return te.primfunc("product", [a, b], [body], [b])


def test_operands_stay_narrow_for_an_instruction_and_are_widened_once_without() -> None:
    narrow = default_schedule(half_product("bfloat16", 16, 32, 48), X86)
    assert [b.name for b in narrow.get_blocks()].count("widen") == 0
    assert intrinsics_of(narrow.func) == {"x86.vdpbf16ps.16"}
    for dtype, target in (("float16", X86), ("bfloat16", VEX)):
        func = half_product(dtype, 16, 32, 48)
        wide = default_schedule(func, target)
        assert "widen" in [b.name for b in wide.get_blocks()]
        assert_equal(func, wide.func)
