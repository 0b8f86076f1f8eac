"""Layers of the domain com.microsoft: normalisations and convolutions of images, position biases, crops; and
operators that the standard has too.
"""

from __future__ import annotations

import math
from typing import Final

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.attention import fixed_dim, key_places, query_places, split_heads
from tilewright.frontend.onnx.handlers.indexing import trilu
from tilewright.frontend.onnx.handlers.microsoft import DOMAIN, activated
from tilewright.frontend.onnx.handlers.movement import pad_11
from tilewright.frontend.onnx.handlers.nn import kernel_of, numbers, window_attrs
from tilewright.frontend.onnx.handlers.sampling import grid_sample
from tilewright.frontend.onnx.handlers.sources import arange
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.expr import Expr, as_expr
from tilewright.ops.unique import distinct_rows

onnx_op("Range", 1, domain=DOMAIN)(arange)
onnx_op("Trilu", 1, domain=DOMAIN)(trilu)
onnx_op("Pad", 1, domain=DOMAIN)(pad_11)
onnx_op("GridSample", 1, domain=DOMAIN)(grid_sample)
_SILU: Final = 1


# ---------------------------------------------------------------------------------------------- channels last
def _channels_first(ctx: NodeContext, x: Value) -> Value:
    return ctx.op("transpose", x, perm=(0, x.rank - 1, *range(1, x.rank - 1)))


def _channels_last(ctx: NodeContext, x: Value) -> Value:
    return ctx.op("transpose", x, perm=(0, *range(2, x.rank), 1))


@onnx_op("GroupNorm", 1, domain=DOMAIN)
def group_norm(ctx: NodeContext) -> Value:
    """Of images with the channels last, followed by silu (``activation`` 1)."""
    return _normalised(ctx, ctx.x)


@onnx_op("SkipGroupNorm", 1, domain=DOMAIN)
def skip_group_norm(ctx: NodeContext) -> list[Value]:
    """Of the sum of images, a skip connection (of images or of channels) and a bias; and that sum."""
    x, skip = ctx.value(0), ctx.value(3)
    last = bool(ctx.attr("channels_last", 1))
    if skip.rank == 2:
        ones = [1] * (x.rank - 2)
        n, c = skip.shape
        skip = ctx.reshape(skip, [n, *ones, c] if last else [n, c, *ones])
    total = ctx.op("add", x, skip)
    if ctx.has(4):
        bias = ctx.value(4)
        total = ctx.op(
            "add", total, bias if last else ctx.reshape(bias, [bias.shape[0], *[1] * (x.rank - 2)])
        )
    return [_normalised(ctx, total), total]


def _normalised(ctx: NodeContext, x: Value) -> Value:
    last = bool(ctx.attr("channels_last", 1))
    x = _channels_first(ctx, x) if last else x
    groups, epsilon = int(ctx.attr("groups")), float(ctx.attr("epsilon", 1e-5))
    y = ctx.op("group_norm", x, ctx.value(1), ctx.value(2), groups=groups, epsilon=epsilon)
    kind = int(ctx.attr("activation"))
    if kind not in (0, _SILU):
        ctx.fail(f"activation {kind} of a GroupNorm is neither 0 nor 1 (silu)")
    y = ctx.op("silu", y, alpha=1.0) if kind == _SILU else y
    return _channels_last(ctx, y) if last else y


@onnx_op("NhwcFusedConv", 1, domain=DOMAIN)
def nhwc_fused_conv(ctx: NodeContext) -> Value:
    """Convolution of images with the channels last (the weights have theirs second), a sum, an activation."""
    x, w = _channels_first(ctx, ctx.x), ctx.value(1)
    attrs = window_attrs(ctx, x, kernel_of(ctx, w))
    y = ctx.op("conv", x, w, ctx.optional(2), groups=int(ctx.attr("group", 1)), **attrs)
    y = _channels_last(ctx, y)
    y = ctx.op("add", y, ctx.value(3)) if ctx.has(3) else y
    return activated(ctx, y, tuple(float(p) for p in ctx.attr("activation_params", ())))


@onnx_op("ConvTransposeWithDynamicPads", 1, domain=DOMAIN)
def conv_transpose_with_dynamic_pads(ctx: NodeContext) -> Value:
    """Transposed convolution whose pads are an input."""
    x, w = ctx.value(0), ctx.value(1)
    kernel = kernel_of(ctx, w)
    pads = ctx.ints(2, "the pads") if ctx.has(2) else (0,) * (2 * len(kernel))
    if str(ctx.attr("auto_pad", "NOTSET")) not in ("NOTSET", "VALID") or len(pads or ()) != 2 * len(kernel):
        ctx.unsupported("pads are an input of two numbers for each spatial dimension, without auto_pad")
    return ctx.op(
        "conv_transpose",
        x,
        w,
        ctx.optional(3),
        groups=int(ctx.attr("group", 1)),
        strides=numbers(ctx, "strides", len(kernel), 1),
        dilations=numbers(ctx, "dilations", len(kernel), 1),
        output_padding=numbers(ctx, "output_padding", len(kernel), 0),
        pads=pads,
    )


# -------------------------------------------------------------------------------------------- position biases
def _length(ctx: NodeContext, index: int, what: str) -> Expr:
    exprs = ctx.builder.exprs(ctx.value(index))
    if exprs is not None and exprs.size == 1:
        return as_expr(exprs.reshape(-1)[0])
    return as_expr(int(ctx.require_data(index, what).reshape(-1)[0]))


@onnx_op("RelativePositionBias", 1, domain=DOMAIN)
def relative_position_bias(ctx: NodeContext) -> Value:
    """Biases ``[1, N, S, T]`` by the distance of query and key, in buckets that grow with it (T5).

    The table counts as ``[N, buckets]`` whatever its declared shape, as onnxruntime has it.
    """
    table = ctx.value(0)
    buckets, heads = (fixed_dim(ctx, table, n, "the table of biases") for n in (0, 1))
    steps, keys = _length(ctx, 1, "the number of queries"), _length(ctx, 2, "the number of keys")
    table = ctx.reshape(table, [heads, buckets])

    def whole(number: int) -> Value:
        return ctx.constant(number, "int64")

    behind = ctx.op("sub", query_places(ctx, steps, as_expr(0)), key_places(ctx, keys))
    offset: Value | None = None
    if ctx.attr("is_bidirectional", 0):
        buckets //= 2
        offset = ctx.op("where", ctx.op("less", behind, whole(0)), whole(buckets), whole(0))
        behind = ctx.op("abs", behind)
    else:
        behind = ctx.op("maximum", behind, whole(0))
    exact = buckets // 2
    most = int(ctx.attr("max_distance"))
    if exact < 1 or most <= exact:
        ctx.fail(f"{buckets} buckets do not divide distances up to {most}")
    share = ctx.op("cast", ctx.op("maximum", behind, whole(1)), to="float32")
    share = ctx.op("log", ctx.op("div", share, ctx.like(exact, share)))
    share = ctx.op("mul", share, ctx.like((buckets - exact) / math.log(most / exact), share))
    far = ctx.op("add", ctx.op("cast", share, to="int64"), whole(exact))
    far = ctx.op("minimum", far, whole(buckets - 1))
    bucket = ctx.op("where", ctx.op("less", behind, whole(exact)), behind, far)
    bucket = bucket if offset is None else ctx.op("add", bucket, offset)
    return ctx.reshape(ctx.op("gather", table, bucket, axis=1), [1, heads, steps, keys])


@onnx_op("GatedRelativePositionBias", 1, domain=DOMAIN, limits="no packed batches")
def gated_relative_position_bias(ctx: NodeContext) -> Value:
    """A bias by positions times gates that follow from the queries (WavLM)."""
    q, rel, weight = ctx.value(0), ctx.value(2), ctx.value(3)
    if ctx.has(6) or q.rank != 3:
        ctx.unsupported("packed batches (token_offset) are not supported")
    heads = split_heads(ctx, ctx.op("add", q, ctx.value(1)), int(ctx.attr("num_heads")))
    width = fixed_dim(ctx, weight, 1, "the gates' weights")
    gates = ctx.op("add", ctx.op("matmul", heads, weight), ctx.value(4))
    gates = ctx.reshape(gates, [*heads.shape[:3], 2, width // 2])
    gates = ctx.op("sigmoid", ctx.op("reduce", gates, op="sum", axes=(4,), keepdims=False))
    update, reset = ctx.emit("split", [gates], axis=3, sizes=(1, 1))
    one, two = ctx.like(1, gates), ctx.like(2, gates)
    inner = ctx.op("sub", ctx.op("mul", reset, ctx.value(5)), one)
    return ctx.op("mul", ctx.op("add", ctx.op("mul", update, inner), two), rel)


# ------------------------------------------------------------------------------------------------- the others
@onnx_op("Unique", 1, domain=DOMAIN)
def unique(ctx: NodeContext) -> list[Value]:
    """Distinct elements of a list in the order in which they occur, which of them each is, and how often."""
    x = ctx.reshape(ctx.x, [ctx.x.shape[0], 1])
    found = distinct_rows(ctx.builder, x, False, f"{ctx.result_name}_count")
    results = [ctx.op("gather", ctx.x, found.first, axis=0), found.inverse, found.counts]
    return results[: len(ctx.node.outputs)]


@onnx_op("IsAllFinite", 1, domain=DOMAIN)
def is_all_finite(ctx: NodeContext) -> Value:
    """Whether no element of any input is infinite or NaN (or only one of these)."""
    infinite, unknown = not ctx.attr("isnan_only", 0), not ctx.attr("isinf_only", 0)
    odd: Value | None = None
    for index in range(len(ctx.inputs)):
        x = ctx.value(index)
        for wanted, op in ((infinite, "isinf"), (unknown, "isnan")):
            if not wanted:
                continue
            some = ctx.op("reduce", ctx.op(op, x), op="max", axes=tuple(range(x.rank)), keepdims=False)
            odd = some if odd is None else ctx.op("or", odd, some)
    return ctx.constant(True, "bool") if odd is None else ctx.op("not", odd)


@onnx_op("CDist", 1, domain=DOMAIN)
def pairwise_distances(ctx: NodeContext) -> Value:
    """Euclidean distances of the rows of two matrices, or their squares."""
    a, b = ctx.value(0), ctx.value(1)
    metric = str(ctx.attr("metric", "sqeuclidean"))
    if a.rank != 2 or b.rank != 2 or metric not in ("euclidean", "sqeuclidean"):
        ctx.fail(f"CDist takes two matrices and no metric '{metric}'")
    rows = ctx.reshape(a, [a.shape[0], 1, a.shape[1]])
    apart = ctx.op("sub", rows, b)
    squares = ctx.op("reduce", ctx.op("mul", apart, apart), op="sum", axes=(2,), keepdims=False)
    return ctx.op("sqrt", squares) if metric == "euclidean" else squares


@onnx_op("Inverse", 1, domain=DOMAIN)
def inverse(ctx: NodeContext) -> Value:
    """The inverse of each matrix."""
    return ctx.op("inverse", ctx.x)


@onnx_op("CropAndResize", 1, domain=DOMAIN)
def crop_and_resize(ctx: NodeContext) -> Value:
    """Boxes of images (y1, x1, y2, x2 as parts of their size) in one size; a constant outside of images."""
    x, boxes, which = (ctx.value(n) for n in range(3))
    size = ctx.ints(3, "the size of the crops")
    if x.rank != 4 or boxes.rank != 2 or size is None or len(size) != 2 or min(size) < 1:
        ctx.fail(f"CropAndResize takes images, boxes [R, 4] and a size, not {x.type} and {boxes.type}")
    mode = str(ctx.attr("mode", "bilinear"))
    if mode not in ("bilinear", "nearest"):
        ctx.fail(f"CropAndResize has no mode '{mode}'")
    count = boxes.shape[0]
    sides = [ctx.reshape(s, [count, 1, 1]) for s in ctx.emit("split", [boxes], axis=1, sizes=(1,) * 4)]
    places, inside = [], []
    for axis in (0, 1):
        place = _along(ctx, sides[axis], sides[axis + 2], size[axis], axis)
        low, high = ctx.like(0, place), ctx.like(1, place)
        inside += [ctx.op("less_equal", low, place), ctx.op("less_equal", place, high)]
        if mode == "nearest":
            place = _on_pixels(ctx, place, fixed_dim(ctx, x, 2 + axis, "the size of images"))
        scaled = ctx.op("sub", ctx.op("mul", place, ctx.like(2, place)), high)
        places.append(ctx.reshape(ctx.op("expand", scaled, shape=(1, *size)), [count, *size, 1]))
    images = ctx.op("gather", x, which, axis=0)
    crops = ctx.op(
        "grid_sample",
        images,
        ctx.op("concat", places[1], places[0], axis=3),
        mode="linear" if mode == "bilinear" else "nearest",
        padding="border",
        align_corners=True,
    )
    shown = inside[0]
    for other in inside[1:]:
        shown = ctx.op("and", shown, other)
    shown = ctx.reshape(shown, [count, 1, *size])
    return ctx.op("where", shown, crops, ctx.like(float(ctx.attr("extrapolation_value", 0.0)), crops))


def _on_pixels(ctx: NodeContext, place: Value, size: int) -> Value:
    """Parts of an image at the nearest pixels, the later of two."""
    last = ctx.like(max(size - 1, 1), place)
    pixel = ctx.op("floor", ctx.op("add", ctx.op("mul", place, last), ctx.like(0.5, place)))
    return ctx.op("div", pixel, last)


def _along(ctx: NodeContext, start: Value, end: Value, size: int, axis: int) -> Value:
    """Where the points of a crop lie along one axis, as parts of the image."""
    if size == 1:
        return ctx.op("mul", ctx.op("add", start, end), ctx.like(0.5, start))
    steps = [n / (size - 1) for n in range(size)]
    parts = ctx.reshape(ctx.constant(steps, start.dtype), [1, size, 1] if axis == 0 else [1, 1, size])
    return ctx.op("add", start, ctx.op("mul", ctx.op("sub", end, start), parts))
