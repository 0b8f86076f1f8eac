"""Quantization of the standard: to and from integers, and products of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.nn import kernel_of, window_attrs
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Attr, Value
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, as_expr, ceildiv
from tilewright.ir.visit import const_int

#: What is quantized to.
_QUANTIZED: Final = frozenset(["int8", "uint8", "int16", "uint16"]) | dt.STORAGE - {"float8_e8m0fnu"}


# ------------------------------------------------------------------------------------ to integers and back
@onnx_op("QuantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def quantize_linear(ctx: NodeContext) -> Value:
    """``saturate(round(x / scale) + zero_point)``, halves to the even number."""
    zero, declared = ctx.optional(2), int(ctx.attr("output_dtype", 0))
    to = zero.dtype if zero is not None else "uint8"
    if declared:
        named = dtype_name(declared, "the result of a QuantizeLinear", ctx.where)
        if zero is not None and named != to:
            ctx.fail(f"output_dtype {named} does not fit a zero point of {to}")
        to = named
    if to not in _QUANTIZED:
        ctx.unsupported(f"quantization to {to}")
    given = int(ctx.attr("precision", 0))
    precision = dtype_name(given, "the precision of a QuantizeLinear", ctx.where) if given else None
    rules: dict[str, Attr] = {"precision": precision} if precision else {}
    if not ctx.attr("saturate", 1):
        rules["saturate"] = False
    return _by_blocks(ctx, "quantize", to=to, **rules)


@onnx_op("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def dequantize_linear(ctx: NodeContext) -> Value:
    """``(x - zero_point) * scale``."""
    declared = int(ctx.attr("output_dtype", 0))
    to = ctx.value(1).dtype
    if declared:
        to = dtype_name(declared, "the result of a DequantizeLinear", ctx.where)
    if ctx.x.dtype not in _QUANTIZED | {"int32"}:
        ctx.unsupported(f"dequantization of {ctx.x.dtype}")
    return _by_blocks(ctx, "dequantize", to=to)


def _by_blocks(ctx: NodeContext, op: str, **attrs: Attr) -> Value:
    """``op`` of the first input with the scale and zero point of the other two.

    Blocks become a dimension of their own; where they do not fill the axis, parameters are repeated instead.
    """
    x, size = ctx.x, int(ctx.attr("block_size", 0))
    scale, zero = ctx.value(1), ctx.optional(2)
    # onnxruntime's quantizer gives biases a scale of shape [1] and a zero point of shape [].
    if zero is not None and zero.shape != scale.shape and not (_is_single(scale) and _is_single(zero)):
        ctx.fail(f"scale {scale.type} and zero point {zero.type} must have one shape")
    if not size:
        axis = int(ctx.attr("axis", 1))
        return ctx.op(op, x, _per_axis(ctx, scale, x, axis), _per_axis(ctx, zero, x, axis), **attrs)
    axis = ctx.axis(x.rank, 1)
    if size < 0 or scale.rank != x.rank:
        ctx.fail(f"blocks of {size} take a scale with the dimensions of {x.type}, not {scale.type}")
    length, blocks = x.shape[axis], scale.shape[axis]
    needed = const_int(ceildiv(length, size))
    if needed is not None and const_int(blocks) not in (None, needed):
        ctx.fail(f"{x.type} has {needed} blocks of {size} along axis {axis}, not {blocks!r}")
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    one, several = as_expr(1), as_expr(size)
    outer = [ctx.reshape(p, [*before, blocks, one, *after]) for p in (scale, zero) if p is not None]
    number = const_int(length)
    if number is not None and number % size == 0:
        parts = ctx.reshape(x, [*before, blocks, several, *after])
        return ctx.reshape(ctx.op(op, parts, *outer, **attrs), x.shape)
    shape = tuple(_plain(d) for d in (*before, blocks, several, *after))
    spread = [ctx.op("expand", p, shape=shape) for p in outer]
    whole = [ctx.reshape(p, [*before, blocks * size, *after]) for p in spread]
    params = [ctx.op("slice", p, starts=(0,), ends=(_plain(length),), axes=(axis,)) for p in whole]
    return ctx.op(op, x, *params, **attrs)


def _is_single(param: Value) -> bool:
    return all(const_int(d) == 1 for d in param.shape)


def _plain(dim: Expr) -> int | Expr:
    number = const_int(dim)
    return dim if number is None else number


def _per_axis(ctx: NodeContext, param: Value | None, x: Value, axis: int) -> Value | None:
    """A scale or zero point, one number or one for each place along ``axis``, to be broadcast against
    ``x``."""
    if param is None or param.rank == 0:
        return param
    if param.rank != 1:
        ctx.fail(f"a scale or zero point must be one number or one a place of the axis, not {param.type}")
    if const_int(param.shape[0]) == 1:
        return ctx.reshape(param, [])
    place = ctx.check_axis(axis, x.rank)
    return ctx.reshape(param, [param.shape[0], *[as_expr(1)] * (x.rank - place - 1)])


@onnx_op("DynamicQuantizeLinear", 11)
def dynamic_quantize_linear(ctx: NodeContext) -> list[Value]:
    """To uint8 by the data's own range, which always holds 0; the scale and the zero point, too."""
    return list(dynamically_quantized(ctx, ctx.x))


def dynamically_quantized(ctx: NodeContext, x: Value) -> tuple[Value, Value, Value]:
    """``x`` as uint8, its scale (float32) and zero point (uint8), both without dimensions."""
    zero, one, steps = ctx.like(0, x), ctx.like(1, x), ctx.like(255, x)
    axes = tuple(range(x.rank))
    low = ctx.op("minimum", ctx.op("reduce", x, op="min", axes=axes, keepdims=False), zero)
    high = ctx.op("maximum", ctx.op("reduce", x, op="max", axes=axes, keepdims=False), zero)
    # Data that is 0 everywhere has a scale all the same: of a range of 1.
    span = ctx.op("where", ctx.op("equal", low, high), one, ctx.op("sub", high, low))
    scale = ctx.op("div", span, steps)
    point = ctx.op("quantize", ctx.op("neg", low), scale, None, to="uint8")
    return ctx.op("quantize", x, scale, point, to="uint8"), scale, point


# ------------------------------------------------------------------------------------- products of integers
@onnx_op("MatMulInteger", 10)
def matmul_integer(ctx: NodeContext) -> Value:
    """``(A - a_zero_point) @ (B - b_zero_point)`` in 32 bits."""
    return integer_product(ctx, ctx.value(0), ctx.value(1), ctx.optional(2), ctx.optional(3))


def integer_product(ctx: NodeContext, a: Value, b: Value, p: Value | None, q: Value | None) -> Value:
    """``(a - p) @ (b - q)``; a vector is a matrix of one row or column, whose dimension the result loses."""
    one = as_expr(1)
    left = ctx.reshape(a, [one, *a.shape]) if a.rank == 1 else a
    right = ctx.reshape(b, [*b.shape, one]) if b.rank == 1 else b
    rows = None if p is None else per_row(ctx, p)
    columns = None if q is None else per_column(ctx, q)
    y = ctx.op("matmul_integer", left, right, rows, columns)
    dims = list(y.shape)
    if b.rank == 1:
        dims.pop()
    if a.rank == 1:
        dims.pop(-1 if b.rank == 1 else -2)
    return ctx.reshape(y, dims)


def per_row(ctx: NodeContext, param: Value) -> Value:
    """A scale or zero point of a product's first operand or result: one number, or one for each row."""
    if param.rank != 1:
        return param
    return ctx.reshape(param, [] if const_int(param.shape[0]) == 1 else [param.shape[0], as_expr(1)])


def per_column(ctx: NodeContext, param: Value) -> Value:
    """A scale or zero point of a product's second operand: one number, or one for each column."""
    if param.rank != 1 or const_int(param.shape[0]) != 1:
        return param
    return ctx.reshape(param, [])


@onnx_op("QLinearMatMul", 10, 21, limits="no float8")
def qlinear_matmul(ctx: NodeContext) -> Value:
    """The product of quantized matrices, quantized."""
    total = integer_product(ctx, ctx.value(0), ctx.value(3), ctx.optional(2), ctx.optional(5))
    first, result = (per_row(ctx, ctx.value(index)) for index in (1, 6))
    second = per_column(ctx, ctx.value(4))
    return requantized(ctx, total, (first, second, result), per_row(ctx, ctx.value(7)))


def requantized(
    ctx: NodeContext, total: Value, scales: Sequence[Value], zero: Value | None, to: str = ""
) -> Value:
    """Sums (int32) in units of the product of the first two ``scales`` as numbers in units of the third that
    count from ``zero``."""
    wide = [s if s.dtype == "float32" else ctx.op("cast", s, to="float32") for s in scales]
    factor = ctx.op("div", ctx.op("mul", wide[0], wide[1]), wide[2])
    y = ctx.op("mul", ctx.op("cast", total, to="float32"), factor)
    kind = to or ("uint8" if zero is None else zero.dtype)
    return ctx.op("quantize", y, ctx.like(1, y), zero, to=kind)


@onnx_op("ConvInteger", 10)
def conv_integer(ctx: NodeContext) -> Value:
    """Convolution of ``x - x_zero_point`` with ``w - w_zero_point`` in 32 bits."""
    return integer_conv(ctx, ctx.value(0), ctx.value(1), ctx.optional(2), ctx.optional(3), None)


def integer_conv(
    ctx: NodeContext, x: Value, w: Value, p: Value | None, q: Value | None, bias: Value | None
) -> Value:
    """Convolution of ``x - p`` with ``w - q`` in 32 bits, plus ``bias``."""
    if x.rank < 3 or w.rank != x.rank:
        ctx.fail(
            f"{ctx.node.op_type} takes data and weights of one rank of 3 or more, not {x.type} and {w.type}"
        )
    attrs = window_attrs(ctx, x, kernel_of(ctx, w))
    return ctx.op("conv_integer", x, w, p, q, bias, groups=int(ctx.attr("group", 1)), **attrs)


@onnx_op("QLinearConv", 10)
def qlinear_conv(ctx: NodeContext) -> Value:
    """Convolution of quantized data and weights, quantized."""
    x, w = ctx.value(0), ctx.value(3)
    total = integer_conv(ctx, x, w, ctx.optional(2), ctx.optional(5), ctx.optional(8))
    scale = ctx.value(4)
    if scale.rank:
        known = const_int(scale.shape[0])
        last = [] if known == 1 else [scale.shape[0], *[as_expr(1)] * (x.rank - 2)]
        scale = ctx.reshape(scale, last)
    one_each = [ctx.reshape(v, []) for v in (ctx.value(1), ctx.value(6))]
    zero = None if not ctx.has(7) else ctx.reshape(ctx.value(7), [])
    return requantized(ctx, total, (one_each[0], scale, one_each[1]), zero)


def weights_as_floats(data: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """Constant weights dequantized when the model is compiled."""
    whole = data.astype(np.int32) - (0 if zero is None else zero.astype(np.int32))
    return np.asarray(whole * scale, dt.to_numpy("float32"))
