"""Quantized operators of the domain com.microsoft, as onnxruntime's quantizer and optimizers write them.

What works element by element is written as dequantization, float arithmetic and quantization: graph passes
make one kernel of that. Where onnxruntime takes short cuts (one multiplication by a quotient of scales,
tables) results may differ from its own by one unit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final, cast

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.nn import pool
from tilewright.frontend.onnx.handlers.quantize import (
    dequantize_linear,
    dynamically_quantized,
    integer_product,
    per_column,
    per_row,
    quantize_linear,
    requantized,
    weights_as_floats,
)
from tilewright.frontend.onnx.handlers.recurrent import lstm
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Attr, Value
from tilewright.ir.expr import as_expr

DOMAIN: Final = "com.microsoft"

onnx_op("QuantizeLinear", 1, domain=DOMAIN)(quantize_linear)
onnx_op("DequantizeLinear", 1, domain=DOMAIN)(dequantize_linear)


def _single(ctx: NodeContext, index: int) -> Value | None:
    """A scale or zero point that is one number."""
    param = ctx.optional(index)
    return None if param is None else ctx.reshape(param, [])


def _dequantized(ctx: NodeContext, index: int) -> Value:
    """Operand ``index``, whose scale and zero point follow it, as floats."""
    scale = ctx.reshape(ctx.value(index + 1), [])
    return ctx.op("dequantize", ctx.value(index), scale, _single(ctx, index + 2), to=scale.dtype)


def _quantized(ctx: NodeContext, y: Value, index: int, like: Value) -> Value:
    """``y`` quantized with the scale and zero point of inputs ``index`` and ``index + 1``, of the type of
    ``like``."""
    return ctx.op("quantize", y, _single(ctx, index), _single(ctx, index + 1), to=like.dtype)


# ---------------------------------------------------------------------------------------------- elementwise
@onnx_op("QLinearAdd", 1, domain=DOMAIN)
def qlinear_add(ctx: NodeContext) -> Value:
    """The sum of two tensors."""
    return _quantized(ctx, ctx.op("add", _dequantized(ctx, 0), _dequantized(ctx, 3)), 6, ctx.x)


@onnx_op("QLinearMul", 1, domain=DOMAIN)
def qlinear_mul(ctx: NodeContext) -> Value:
    """The product of two tensors, element by element."""
    return _quantized(ctx, ctx.op("mul", _dequantized(ctx, 0), _dequantized(ctx, 3)), 6, ctx.x)


def _unary(ctx: NodeContext, op: str, **attrs: Attr) -> Value:
    return _quantized(ctx, ctx.op(op, _dequantized(ctx, 0), **attrs), 3, ctx.x)


@onnx_op("QLinearSigmoid", 1, domain=DOMAIN)
def qlinear_sigmoid(ctx: NodeContext) -> Value:
    """The logistic function."""
    return _unary(ctx, "sigmoid")


@onnx_op("QLinearLeakyRelu", 1, domain=DOMAIN)
def qlinear_leaky_relu(ctx: NodeContext) -> Value:
    """``x``, negative values times ``alpha``."""
    return _unary(ctx, "leaky_relu", alpha=float(ctx.attr("alpha", 0.01)))


@onnx_op("QLinearSoftmax", 1, domain=DOMAIN)
def qlinear_softmax(ctx: NodeContext) -> Value:
    """Softmax along an axis; before opset 13 of the standard over all dimensions from ``axis`` on."""
    x, axis = ctx.x, ctx.axis(ctx.x.rank, -1)
    if int(ctx.attr("opset")) >= 13:
        return _unary(ctx, "softmax", axis=axis)
    rows, columns = as_expr(1), as_expr(1)
    for n, dim in enumerate(x.shape):
        rows, columns = (rows * dim, columns) if n < axis else (rows, columns * dim)
    flat = ctx.reshape(_dequantized(ctx, 0), [rows, columns])
    return _quantized(ctx, ctx.reshape(ctx.op("softmax", flat, axis=1), x.shape), 3, x)


@onnx_op("QLinearConcat", 1, domain=DOMAIN)
def qlinear_concat(ctx: NodeContext) -> Value:
    """Tensors of different scales side by side: inputs are the result's scale and zero point, then three for
    each tensor."""
    if len(ctx.inputs) < 5 or len(ctx.inputs) % 3 != 2:
        ctx.fail(f"{len(ctx.inputs)} inputs are given: it takes two, then three for each tensor")
    parts = [_dequantized(ctx, index) for index in range(2, len(ctx.inputs), 3)]
    y = ctx.op("concat", *parts, axis=ctx.axis(parts[0].rank))
    return _quantized(ctx, y, 0, ctx.value(2))


# -------------------------------------------------------------------------------------------------- pooling
def _first(x: Value) -> tuple[int, ...]:
    return (0, x.rank - 1, *range(1, x.rank - 1))


@onnx_op("QLinearAveragePool", 1, domain=DOMAIN)
def qlinear_average_pool(ctx: NodeContext) -> Value:
    """Averages of windows; the channels may stand last."""
    x, last = _dequantized(ctx, 0), bool(ctx.attr("channels_last", 0))
    data = ctx.op("transpose", x, perm=_first(x)) if last else x
    y = pool(ctx, "avg_pool", data, count_include_pad=bool(ctx.attr("count_include_pad", 0)))
    y = ctx.op("transpose", y, perm=(0, *range(2, y.rank), 1)) if last else y
    return _quantized(ctx, y, 3, ctx.x)


@onnx_op("QLinearGlobalAveragePool", 1, domain=DOMAIN)
def qlinear_global_average_pool(ctx: NodeContext) -> Value:
    """Averages of channels, which may stand last."""
    x, first = _dequantized(ctx, 0), 1 if ctx.attr("channels_last", 0) else 2
    y = ctx.op("reduce", x, op="mean", axes=tuple(range(first, first + x.rank - 2)), keepdims=True)
    return _quantized(ctx, y, 3, ctx.x)


# ------------------------------------------------------------------------------------------------- products
@onnx_op("QGemm", 1, domain=DOMAIN)
def qgemm(ctx: NodeContext) -> Value:
    """``alpha * op(A) @ op(B) + C``, quantized where a scale for that is given; C counts in units of
    ``alpha * a_scale * b_scale``."""
    operands = []
    for index, name in ((0, "A"), (3, "B")):
        x = ctx.value(index)
        if x.rank != 2:
            ctx.fail(f"QGemm takes matrices, not {x.type}")
        operands.append(ctx.op("transpose", x, perm=(1, 0)) if ctx.attr(f"trans{name}", 0) else x)
    a, b = operands
    total = integer_product(ctx, a, b, _single(ctx, 2), ctx.optional(5))
    if ctx.has(6):
        total = ctx.op("add", total, ctx.value(6))
    scale, second = _single(ctx, 1), per_column(ctx, ctx.value(4))
    assert scale is not None
    alpha = float(ctx.attr("alpha", 1.0))
    if alpha != 1.0:
        scale = ctx.op("mul", scale, ctx.like(alpha, scale))
    if not ctx.has(7):
        y = ctx.op("cast", total, to="float32")
        return ctx.op("mul", y, ctx.op("mul", scale, second))
    result = _single(ctx, 7)
    assert result is not None
    return requantized(ctx, total, (scale, second, result), _single(ctx, 8), to=a.dtype)


@onnx_op("DynamicQuantizeMatMul", 1, domain=DOMAIN)
def dynamic_quantize_matmul(ctx: NodeContext) -> Value:
    """Floats, quantized by their own range, times quantized weights, as floats."""
    a, scale, zero = dynamically_quantized(ctx, ctx.value(0))
    total = integer_product(ctx, a, ctx.value(1), zero, ctx.optional(3))
    return _scaled(ctx, total, scale, ctx.value(2), 4)


@onnx_op("MatMulIntegerToFloat", 1, domain=DOMAIN)
def matmul_integer_to_float(ctx: NodeContext) -> Value:
    """The product of quantized matrices, as floats."""
    total = integer_product(ctx, ctx.value(0), ctx.value(1), ctx.optional(4), ctx.optional(5))
    return _scaled(ctx, total, per_row(ctx, ctx.value(2)), ctx.value(3), 6)


def _scaled(ctx: NodeContext, total: Value, first: Value, second: Value, bias: int) -> Value:
    """``total * first * second`` and the bias, if the node has one."""
    factor = ctx.op("mul", first, per_column(ctx, second))
    y = ctx.op("mul", ctx.op("cast", total, to=first.dtype), factor)
    return ctx.op("add", y, ctx.value(bias)) if ctx.has(bias) else y


@onnx_op("DynamicQuantizeLSTM", 1, domain=DOMAIN, limits="weights become floats; data stays float")
def dynamic_quantize_lstm(ctx: NodeContext) -> Sequence[Value | None]:
    """With weights of 8 bits, ``[directions, inputs, 4 * hidden]``.

    The weights become floats when the model is compiled. onnxruntime also rounds the data and the states to 8
    bits at every step; that is not done here.
    """
    weights = []
    for index, first in ((1, 8), (2, 10)):
        data = ctx.require_data(index, "the weights of a DynamicQuantizeLSTM")
        scale, zero = (ctx.data(n) for n in (first, first + 1))
        if scale is None:
            ctx.unsupported("the scales of the weights are computed at run time; they must be constant")
        directions = data.shape[0]
        floats = weights_as_floats(
            data,
            scale.reshape(directions, 1, -1),
            None if zero is None else zero.reshape(directions, 1, -1),
        )
        weights.append(ctx.constant(np.ascontiguousarray(floats.transpose(0, 2, 1)), "float32"))
    plain = copy.copy(ctx)
    plain.inputs = (ctx.value(0), *weights, *ctx.inputs[3:8])
    return cast("Sequence[Value | None]", lstm(plain))
