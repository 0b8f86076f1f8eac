"""Normalisations. Statistics of 16-bit floats are computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, all_of, as_expr, const, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ops.common import (
    Operands,
    accumulator_dtype,
    as_dtype,
    axis_of,
    broadcast_index,
    broadcast_shapes,
    dims_attr,
    format_shape,
    is_half,
    mean,
    product,
)
from tilewright.ops.reduce import reduce_tensor


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if is_half(x.dtype.name) else x


def _float_input(ctx: OpContext) -> TensorType:
    x = ctx.input(0)
    if not dt.is_float(x.dtype):
        ctx.fail(f"a normalisation takes floats, not {x.dtype}")
    return x


# --------------------------------------------------------------------------------------- layer norm, rms norm
def trailing_axes(ctx: OpContext, rank: int) -> list[int]:
    """The axes that are normalised: ``axis`` and all behind it."""
    return list(range(axis_of(ctx, ctx.attr("axis", -1), rank), rank))


def _trailing_infer(ctx: OpContext) -> list[TensorType]:
    x = _float_input(ctx)
    trailing_axes(ctx, x.rank)
    for index in (1, 2):
        if ctx.has_input(index):
            operand = ctx.input(index)
            if operand.rank > x.rank or broadcast_shapes(ctx, x.shape, operand.shape) != x.shape:
                ctx.fail(f"scale and bias must broadcast to the data, {format_shape(operand.shape)} does not")
    return [x]


def _layer_norm_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Mean, then the mean of squared deviations (two passes: no cancellation), then one elementwise stage."""
    x = inputs[0]
    axes, wide = trailing_axes(ctx, x.ndim), accumulator_dtype(x.dtype)
    inverse = const(1.0, wide) / product([x.shape[a] for a in axes]).astype(wide)
    total = reduce_tensor(x, axes, "sum", "sum", element=lambda e: e.astype(wide), dtype=wide)
    mean = te.compute(total.shape, lambda *i: total[i] * inverse, "mean")

    def at(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(as_expr(0) if n in axes else e for n, e in enumerate(i))

    centred = te.compute(x.shape, lambda *i: x[i].astype(wide) - mean[at(i)], "centred")
    squares = reduce_tensor(centred, axes, "sum", "square_sum", element=lambda e: e * e)
    return [scaled(ctx, inputs, centred, squares, inverse, at, "layer_norm")]


def _rms_norm_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x = inputs[0]
    axes, wide = trailing_axes(ctx, x.ndim), accumulator_dtype(x.dtype)
    inverse = const(1.0, wide) / product([x.shape[a] for a in axes]).astype(wide)
    squares = reduce_tensor(
        x, axes, "sum", "square_sum", element=lambda e: e.astype(wide) * e.astype(wide), dtype=wide
    )

    def at(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(as_expr(0) if n in axes else e for n, e in enumerate(i))

    return [scaled(ctx, inputs, x, squares, inverse, at, "rms_norm")]


def scaled(
    ctx: OpContext,
    inputs: Operands,
    value: te.Tensor,
    squares: te.Tensor,
    inverse: Expr,
    at: Any,
    name: str,
) -> te.Tensor:
    """``value / sqrt(mean square + epsilon) * scale + bias``."""
    x = inputs[0]
    wide, epsilon = squares.dtype, float(ctx.attr("epsilon", 1e-5))
    deviation = te.compute(
        squares.shape,
        lambda *i: const(1.0, wide) / intrinsic("sqrt", squares[i] * inverse + const(epsilon, wide)),
        "inverse_deviation",
    )

    def body(*i: Expr) -> Expr:
        result = value[i].astype(wide) * deviation[at(i)]
        for index, combine in ((1, lambda a, b: a * b), (2, lambda a, b: a + b)):
            operand = inputs[index] if index < len(inputs) else None
            if operand is not None:
                result = combine(result, operand[broadcast_index(operand.shape, x.shape, i)].astype(wide))
        return result.astype(x.dtype)

    return te.compute(x.shape, body, name)


def _trailing_numpy(centre: bool) -> Any:
    def reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
        x = inputs[0]
        axes = tuple(trailing_axes(ctx, x.ndim))
        wide = _wide(x)
        if centre:
            wide = wide - mean(wide, axes)
        square = mean(wide * wide, axes)
        result = wide / np.sqrt(square + wide.dtype.type(ctx.attr("epsilon", 1e-5)))
        if len(inputs) > 1 and inputs[1] is not None:
            result = result * _wide(inputs[1])
        if len(inputs) > 2 and inputs[2] is not None:
            result = result + _wide(inputs[2])
        return [as_dtype(result, x.dtype.name)]

    return reference


for _name, _compute, _centre in (
    ("layer_norm", _layer_norm_compute, True),
    ("rms_norm", _rms_norm_compute, False),
):
    register(
        OpDef(
            _name,
            FusionKind.reduction,
            infer=_trailing_infer,
            compute=_compute,
            reference=_trailing_numpy(_centre),
        )
    )


# ------------------------------------------------------------------------------------------------- batch norm
def _batch_infer(ctx: OpContext) -> list[TensorType]:
    x = _float_input(ctx)
    if x.rank < 2:
        ctx.fail("batch_norm takes data with a channel dimension")
    for index, what in enumerate(("scale", "bias", "mean", "var"), 1):
        operand = ctx.input(index)
        if operand.rank != 1 or broadcast_shapes(ctx, (x.shape[1],), operand.shape) != (x.shape[1],):
            ctx.fail(f"{what} must hold one number for each channel, not {format_shape(operand.shape)}")
    return [x]


def _batch_decompose(builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]) -> list[Value]:
    """``x * a + (bias - mean * a)`` with ``a = scale / sqrt(var + epsilon)``, which folding turns into two
    constants.
    """
    x, scale, bias, mean, var = (v for v in inputs[:5] if v is not None)
    epsilon = builder.constant(float(ctx.attr("epsilon", 1e-5)), "epsilon", dtype=var.dtype)
    deviation = builder.op("sqrt", builder.op("add", var, epsilon))
    if scale.dtype != deviation.dtype:
        deviation = builder.op("cast", deviation, to=scale.dtype)
        mean = builder.op("cast", mean, to=scale.dtype)
    factor = builder.op("div", scale, deviation)
    offset = builder.op("sub", bias, builder.op("mul", mean, factor))
    shape = (-1, *[1] * (x.rank - 2))
    factor, offset = (builder.op("reshape", v, shape=shape) for v in (factor, offset))
    if factor.dtype != x.dtype:
        factor, offset = (builder.op("cast", v, to=x.dtype) for v in (factor, offset))
    return [builder.op("add", builder.op("mul", x, factor), offset)]


def _batch_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    shape = (-1, *[1] * (x.ndim - 2))
    scale, bias, mean, var = (_wide(a).reshape(shape) for a in inputs[1:5])
    wide = _wide(x)
    factor = scale / np.sqrt(var + var.dtype.type(ctx.attr("epsilon", 1e-5)))
    return [as_dtype((wide - mean) * factor + bias, x.dtype.name)]


register(
    OpDef(
        "batch_norm",
        FusionKind.elementwise,
        infer=_batch_infer,
        decompose=_batch_decompose,
        reference=_batch_numpy,
    )
)


# ---------------------------------------------------------------------------------- instance norm, group norm
def _group_infer(ctx: OpContext) -> list[TensorType]:
    x = _float_input(ctx)
    if x.rank < 3:
        ctx.fail("group_norm takes data with a channel and a spatial dimension")
    return [x]


def _group_count(ctx: OpContext) -> int:
    """``groups`` 0 means one group for each channel (instance norm)."""
    from tilewright.ir.visit import const_int

    channels = const_int(ctx.input(0).shape[1])
    groups = int(ctx.attr("groups", 0)) or channels
    if groups is None or channels is None or channels % groups:
        ctx.fail(f"{channels} channels cannot be split into {groups} groups")
    return groups


def _group_decompose(builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]) -> list[Value]:
    """A layer norm over each group's channels and positions, then scale and bias for each channel."""
    x, scale, bias = (inputs[n] if n < len(inputs) else None for n in range(3))
    assert x is not None
    groups = _group_count(ctx)
    split = builder.op("reshape", x, shape=dims_attr((x.shape[0], groups, -1)))
    normal = builder.op("layer_norm", split, axis=2, epsilon=float(ctx.attr("epsilon", 1e-5)))
    result = builder.op("reshape", normal, shape=dims_attr(x.shape))
    shape = (-1, *[1] * (x.rank - 2))
    if scale is not None:
        result = builder.op("mul", result, builder.op("reshape", scale, shape=shape))
    if bias is not None:
        result = builder.op("add", result, builder.op("reshape", bias, shape=shape))
    return [result]


def _group_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    wide = _wide(x).reshape(x.shape[0], _group_count(ctx), -1)
    wide = wide - mean(wide, (2,))
    square = mean(wide * wide, (2,))
    result = (wide / np.sqrt(square + wide.dtype.type(ctx.attr("epsilon", 1e-5)))).reshape(x.shape)
    shape = (-1, *[1] * (x.ndim - 2))
    if len(inputs) > 1 and inputs[1] is not None:
        result = result * _wide(inputs[1]).reshape(shape)
    if len(inputs) > 2 and inputs[2] is not None:
        result = result + _wide(inputs[2]).reshape(shape)
    return [as_dtype(result, x.dtype.name)]


register(
    OpDef(
        "group_norm",
        FusionKind.reduction,
        infer=_group_infer,
        decompose=_group_decompose,
        reference=_group_numpy,
    )
)


# -------------------------------------------------------------------------------------------------------- lrn
def _lrn_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Local response normalisation over ``size`` neighbouring channels (dimension 1)."""
    x, size = inputs[0], int(ctx.attr("size"))
    wide, channels = accumulator_dtype(x.dtype), x.shape[1]
    before = (size - 1) // 2

    def squares(*i: Expr) -> Expr:
        def term(r: Expr) -> Expr:
            c = i[1] + r - before
            value = x[(i[0], c, *i[2:])].astype(wide)
            return select(all_of([as_expr(0) <= c, c < channels]), value * value, const(0, wide))

        return te.reduce("sum", [size], term)

    total = te.compute(x.shape, squares, "square_sum")
    alpha, beta, bias = (float(ctx.attr(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))

    def body(*i: Expr) -> Expr:
        base = total[i] * const(alpha / size, wide) + const(bias, wide)
        return (x[i].astype(wide) / intrinsic("pow", base, const(beta, wide))).astype(x.dtype)

    return [te.compute(x.shape, body, "lrn")]


def _lrn_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, size = inputs[0], int(ctx.attr("size"))
    wide = _wide(x)
    before = (size - 1) // 2
    pads = [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)]
    padded = np.pad(wide * wide, pads)
    total = sum(padded[:, n : n + x.shape[1]] for n in range(size))
    alpha, beta, bias = (
        wide.dtype.type(ctx.attr(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    return [as_dtype(wide / (bias + alpha / size * total) ** beta, x.dtype.name)]


register(
    OpDef(
        "lrn",
        FusionKind.reduction,
        infer=lambda ctx: [_float_input(ctx)],
        compute=_lrn_compute,
        reference=_lrn_numpy,
    )
)
