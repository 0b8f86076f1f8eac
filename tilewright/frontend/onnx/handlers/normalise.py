"""Normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.expr import as_expr


@onnx_op("BatchNormalization", 7, 9, 14, 15, limits="no statistics for each position (spatial=0)")
def batch_normalization(ctx: NodeContext) -> Value | Sequence[Value]:
    """With the statistics given for each channel or, in training mode, those of the data."""
    if ctx.since < 9 and not ctx.attr("spatial", 1):
        ctx.unsupported("statistics for each position (spatial=0) are not supported")
    if not ctx.attr("training_mode", 0):
        return inference_batch_norm(ctx)
    epsilon = float(ctx.attr("epsilon", 1e-5))
    x, scale, bias, mean, variance = (ctx.value(n) for n in range(5))
    axes = (0, *range(2, x.rank))
    if x.rank < 2:
        ctx.fail(f"BatchNormalization takes data with channels, not {x.type}")
    shape = [as_expr(1), x.shape[1], *[as_expr(1)] * (x.rank - 2)]
    centre = ctx.op("reduce", x, op="mean", axes=axes, keepdims=False)
    apart = ctx.op("sub", x, ctx.reshape(centre, shape))
    spread = ctx.op("reduce", ctx.op("mul", apart, apart), op="mean", axes=axes, keepdims=False)
    y = ctx.op("batch_norm", x, scale, bias, centre, spread, epsilon=epsilon)
    momentum = float(ctx.attr("momentum", 0.9))
    return [y, _running(ctx, mean, centre, momentum), _running(ctx, variance, spread, momentum)]


def inference_batch_norm(ctx: NodeContext) -> Value:
    """With given statistics."""
    return ctx.op("batch_norm", *(ctx.value(n) for n in range(5)), epsilon=float(ctx.attr("epsilon", 1e-5)))


def _running(ctx: NodeContext, old: Value, new: Value, momentum: float) -> Value:
    kept = ctx.op("mul", old, ctx.like(momentum, old))
    return ctx.op("add", kept, ctx.op("mul", new, ctx.like(1.0 - momentum, new)))


@onnx_op("InstanceNormalization", 1, 6, 22)
def instance_normalization(ctx: NodeContext) -> Value:
    """Each channel of each sample by its own statistics."""
    x, scale, bias = (ctx.value(n) for n in range(3))
    return ctx.op("group_norm", x, scale, bias, groups=0, epsilon=float(ctx.attr("epsilon", 1e-5)))


@onnx_op("GroupNormalization", 18)
def group_normalization_18(ctx: NodeContext) -> Value:
    """Scale and bias for each group."""
    x, groups = ctx.x, int(ctx.attr("num_groups"))
    channels = ctx.static_dims(ctx.value(0), "the data")[1]
    if channels % groups:
        ctx.fail(f"{channels} channels cannot be split into {groups} groups")
    spread = [ctx.reshape(ctx.value(n), [groups, 1]) for n in (1, 2)]
    spread = [ctx.op("expand", v, shape=(groups, channels // groups)) for v in spread]
    scale, bias = (ctx.reshape(v, [channels]) for v in spread)
    return ctx.op("group_norm", x, scale, bias, groups=groups, epsilon=float(ctx.attr("epsilon", 1e-5)))


@onnx_op("GroupNormalization", 21)
def group_normalization_21(ctx: NodeContext) -> Value:
    """Scale and bias for each channel."""
    x, scale, bias = (ctx.value(n) for n in range(3))
    groups, epsilon = int(ctx.attr("num_groups")), float(ctx.attr("epsilon", 1e-5))
    return ctx.op("group_norm", x, scale, bias, groups=groups, epsilon=epsilon)


@onnx_op("LayerNormalization", 17)
def layer_normalization(ctx: NodeContext) -> list[Value]:
    """Over all dimensions from ``axis`` on; also the mean and 1 / deviation where the model reads them."""
    x, axis, epsilon = ctx.x, ctx.axis(ctx.x.rank, -1), float(ctx.attr("epsilon", 1e-5))
    y = ctx.op("layer_norm", x, ctx.value(1), ctx.optional(2), axis=axis, epsilon=epsilon)
    if not ctx.wants_output(1) and not ctx.wants_output(2):
        return [y]
    axes = tuple(range(axis, x.rank))
    wide = ctx.op("cast", x, to="float32") if x.dtype in ("float16", "bfloat16") else x
    mean = ctx.op("reduce", wide, op="mean", axes=axes, keepdims=True)
    centred = ctx.op("sub", wide, mean)
    variance = ctx.op("reduce", ctx.op("mul", centred, centred), op="mean", axes=axes, keepdims=True)
    deviation = ctx.op("sqrt", ctx.op("add", variance, ctx.like(epsilon, variance)))
    return [y, mean, ctx.op("reciprocal", deviation)]


@onnx_op("RMSNormalization", 23)
def rms_normalization(ctx: NodeContext) -> Value:
    """Layer normalisation without the mean."""
    axis = ctx.axis(ctx.x.rank, -1)
    return ctx.op("rms_norm", ctx.x, ctx.value(1), axis=axis, epsilon=float(ctx.attr("epsilon", 1e-5)))


@onnx_op("LRN", 1, 13)
def lrn(ctx: NodeContext) -> Value:
    """Local response normalisation across channels."""
    size = int(ctx.attr("size"))
    if size < 1:
        ctx.fail(f"the sum goes over at least one channel, not {size}")
    if ctx.x.rank < 2:
        ctx.fail(f"{ctx.x.type} has no channels")
    return ctx.op(
        "lrn",
        ctx.x,
        size=size,
        alpha=float(ctx.attr("alpha", 1e-4)),
        beta=float(ctx.attr("beta", 0.75)),
        bias=float(ctx.attr("bias", 1.0)),
    )


@onnx_op("LpNormalization", 1, 22)
def lp_normalization(ctx: NodeContext) -> Value:
    """``x`` divided by its 1- or 2-norm along ``axis``; 0 where the norm is 0."""
    x, p = ctx.x, int(ctx.attr("p", 2))
    axis = ctx.axis(x.rank, -1)
    if p not in (1, 2):
        ctx.fail(f"p must be 1 or 2, not {p}")
    magnitude = ctx.op("abs", x) if p == 1 else ctx.op("mul", x, x)
    norm = ctx.op("reduce", magnitude, op="sum", axes=(axis,), keepdims=True)
    norm = norm if p == 1 else ctx.op("sqrt", norm)
    zero = ctx.op("equal", norm, ctx.like(0, norm))
    return ctx.op(
        "where", zero, ctx.like(0, x), ctx.op("div", x, ctx.op("where", zero, ctx.like(1, x), norm))
    )


@onnx_op("MeanVarianceNormalization", 9, 13)
def mean_variance_normalization(ctx: NodeContext) -> Value:
    """``(x - mean) / (deviation + 1e-9)`` over ``axes``."""
    x = ctx.x
    axes = ctx.check_axes(ctx.attr("axes", (0, 2, 3)), x.rank)
    if not dt.is_float(x.dtype):
        ctx.fail(f"a normalisation takes floats, not {x.dtype}")
    centred = ctx.op("sub", x, ctx.op("reduce", x, op="mean", axes=axes, keepdims=True))
    variance = ctx.op("reduce", ctx.op("mul", centred, centred), op="mean", axes=axes, keepdims=True)
    return ctx.op("div", centred, ctx.op("add", ctx.op("sqrt", variance), ctx.like(1e-9, x)))
