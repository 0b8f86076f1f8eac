"""Operators of the domain com.microsoft that optimizers and quantizers of onnxruntime write.

Fused arithmetic, normalisations, products. Attention has a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.handlers.nn import conv, gemm, pool
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.expr import as_expr
from tilewright.ops.common import dims_attr

DOMAIN: Final = "com.microsoft"


# ------------------------------------------------------------------------------------------------- arithmetic
@onnx_op("FusedMatMul", 1, domain=DOMAIN)
@onnx_op("TransposeMatMul", 1, domain=DOMAIN)
def fused_matmul(ctx: NodeContext) -> Value:
    """``alpha * op(A) @ op(B)``; ``transBatch`` moves the first dimension behind the batch's."""
    operands = []
    for index, name in enumerate("AB"):
        x = ctx.value(index)
        order = list(range(x.rank))
        if ctx.attr(f"transBatch{name}", 0):
            order = [*order[1:-1], 0, order[-1]]
        if ctx.attr(f"trans{name}", 0):
            order[-2:] = reversed(order[-2:])
        moved = order != list(range(x.rank))
        operands.append(ctx.op("transpose", x, perm=tuple(order)) if moved else x)
    y = ctx.op("matmul", *operands)
    alpha = float(ctx.attr("alpha", 1.0))
    return y if alpha == 1.0 else ctx.op("mul", y, ctx.like(alpha, y))


@onnx_op("Gelu", 1, domain=DOMAIN)
def gelu(ctx: NodeContext) -> Value:
    """With the error function."""
    return ctx.op("gelu", ctx.x, approximate="none")


@onnx_op("BiasGelu", 1, domain=DOMAIN)
def bias_gelu(ctx: NodeContext) -> Value:
    """Of the sum of two tensors, with the error function."""
    return ctx.op("gelu", ctx.op("add", ctx.value(0), ctx.value(1)), approximate="none")


@onnx_op("FastGelu", 1, domain=DOMAIN)
def fast_gelu(ctx: NodeContext) -> Value:
    """With tanh, after a bias."""
    x = ctx.op("add", ctx.x, ctx.value(1)) if ctx.has(1) else ctx.x
    return ctx.op("gelu", x, approximate="tanh")


@onnx_op("QuickGelu", 1, domain=DOMAIN)
def quick_gelu(ctx: NodeContext) -> Value:
    """``x * sigmoid(alpha * x)``."""
    return ctx.op("silu", ctx.x, alpha=float(ctx.attr("alpha", 1.702)))


@onnx_op("BiasSplitGelu", 1, domain=DOMAIN)
def bias_split_gelu(ctx: NodeContext) -> Value:
    """After a bias, the first half of the last dimension times gelu of the second."""
    x = ctx.op("add", ctx.value(0), ctx.value(1))
    half = ctx.static_dims(x, "the input of a BiasSplitGelu")[-1] // 2
    left, right = ctx.emit("split", [x], axis=x.rank - 1, sizes=(half, half))
    return ctx.op("mul", left, ctx.op("gelu", right, approximate="none"))


@onnx_op("BiasAdd", 1, domain=DOMAIN)
def bias_add(ctx: NodeContext) -> Value:
    """The sum of three tensors."""
    return ctx.op("add", ctx.op("add", ctx.value(0), ctx.value(1)), ctx.value(2))


@onnx_op("BiasSoftmax", 1, domain=DOMAIN)
def bias_softmax(ctx: NodeContext) -> Value:
    """Softmax of a sum, over all dimensions from ``axis`` on."""
    x = ctx.op("add", ctx.value(0), ctx.value(1))
    axis = ctx.axis(x.rank, 1)
    rows = ctx.reshape(x, [product(x.shape[:axis]), product(x.shape[axis:])])
    return ctx.reshape(ctx.op("softmax", rows, axis=1), x.shape)


@onnx_op("ExpandDims", 1, domain=DOMAIN)
def expand_dims(ctx: NodeContext) -> Value:
    """One more dimension, of size 1."""
    axis = ctx.check_axis(int(ctx.scalar(1, "the axis of ExpandDims")), ctx.x.rank + 1)
    return ctx.reshape(ctx.x, [*ctx.x.shape[:axis], as_expr(1), *ctx.x.shape[axis:]])


# --------------------------------------------------------------------------------------------- normalisations
def _skipped(ctx: NodeContext, bias: int) -> Value:
    """The sum of input, skip connection and optional bias."""
    total = ctx.op("add", ctx.value(0), ctx.value(1))
    return ctx.op("add", total, ctx.value(bias)) if ctx.has(bias) else total


@onnx_op("SkipLayerNormalization", 1, domain=DOMAIN)
def skip_layer_normalization(ctx: NodeContext) -> Sequence[Value | None]:
    """Layer normalisation of a sum, and the sum (fourth output)."""
    total = _skipped(ctx, 4)
    epsilon = float(ctx.attr("epsilon", 1e-12))
    y = ctx.op("layer_norm", total, ctx.value(2), ctx.optional(3), axis=total.rank - 1, epsilon=epsilon)
    return [y, None, None, total]


@onnx_op("SkipSimplifiedLayerNormalization", 1, domain=DOMAIN)
def skip_rms_normalization(ctx: NodeContext) -> Sequence[Value | None]:
    """Normalisation without the mean of a sum, and the sum (fourth output)."""
    total = _skipped(ctx, 3)
    epsilon = float(ctx.attr("epsilon", 1e-12))
    return [
        ctx.op("rms_norm", total, ctx.value(2), axis=total.rank - 1, epsilon=epsilon),
        None,
        None,
        total,
    ]


@onnx_op("SimplifiedLayerNormalization", 1, domain="")
@onnx_op("SimplifiedLayerNormalization", 1, domain=DOMAIN)
def simplified_layer_normalization(ctx: NodeContext) -> Value:
    """Normalisation without the mean, as onnxruntime writes it into the standard's domain too."""
    axis = ctx.axis(ctx.x.rank, -1)
    return ctx.op("rms_norm", ctx.x, ctx.value(1), axis=axis, epsilon=float(ctx.attr("epsilon", 1e-5)))


@onnx_op("EmbedLayerNormalization", 1, domain=DOMAIN)
def embed_layer_normalization(ctx: NodeContext) -> Sequence[Value | None]:
    """Layer normalisation of the sum of word, position and segment embeddings."""
    ids, words, positions = ctx.value(0), ctx.value(2), ctx.value(3)
    if ids.rank != 2:
        ctx.fail(f"EmbedLayerNormalization takes ids [B, S], not {ids.type}")
    (length,) = dims_attr((ids.shape[1],))
    total = ctx.op("gather", words, ids, axis=0)
    if ctx.has(8):
        total = ctx.op("add", total, ctx.op("gather", positions, ctx.value(8), axis=0))
    else:
        total = ctx.op("add", total, ctx.op("slice", positions, starts=(0,), ends=(length,), axes=(0,)))
    if ctx.has(4):
        total = ctx.op("add", total, ctx.op("gather", ctx.value(4), ctx.value(1), axis=0))
    epsilon = float(ctx.attr("epsilon", 1e-12))
    y = ctx.op("layer_norm", total, ctx.value(5), ctx.value(6), axis=2, epsilon=epsilon)
    lasts = None
    if ctx.wants_output(1):
        if ctx.has(7):
            lasts = ctx.op("reduce", ctx.value(7), op="sum", axes=(1,), keepdims=False)
        else:
            lasts = ctx.op("expand", ctx.constant(0, "int32"), shape=dims_attr((ids.shape[0],)))
    return [y, lasts, total]


# ------------------------------------------------------------------------------- products and sliding windows
def activated(ctx: NodeContext, y: Value, params: Sequence[float]) -> Value:
    """``y`` after the activation that the node names, with its parameters."""
    kind = str(ctx.attr("activation", ""))
    if kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        return ctx.op(kind.lower(), y)
    if kind == "LeakyRelu":
        return ctx.op("leaky_relu", y, alpha=params[0])
    if kind == "HardSigmoid":
        return ctx.op("hard_sigmoid", y, alpha=params[0], beta=params[1])
    if kind == "Clip":
        return ctx.op("clip", y, ctx.like(params[0], y), ctx.like(params[1], y))
    return y if not kind else ctx.unsupported(f"the activation '{kind}' is not supported")


@onnx_op("FusedConv", 1, domain=DOMAIN)
def fused_conv(ctx: NodeContext) -> Value:
    """Convolution, a sum with the fourth input, an activation."""
    y = conv(ctx)
    assert isinstance(y, Value)
    y = ctx.op("add", y, ctx.value(3)) if ctx.has(3) else y
    return activated(ctx, y, tuple(float(p) for p in ctx.attr("activation_params", ())))


@onnx_op("FusedGemm", 1, domain=DOMAIN)
def fused_gemm(ctx: NodeContext) -> Value:
    """Gemm and an activation."""
    y = gemm(ctx)
    assert isinstance(y, Value)
    return activated(ctx, y, [float(ctx.attr(f"activation_{n}", 0.0)) for n in ("alpha", "beta")])


@onnx_op("NhwcMaxPool", 1, domain=DOMAIN)
def nhwc_max_pool(ctx: NodeContext) -> Value:
    """Maxima of windows, channels last."""
    x = ctx.op("transpose", ctx.x, perm=(0, ctx.x.rank - 1, *range(1, ctx.x.rank - 1)))
    return ctx.op("transpose", pool(ctx, "max_pool", x), perm=(0, *range(2, x.rank), 1))
