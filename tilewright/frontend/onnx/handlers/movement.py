"""Operators that move elements: reshape and its kin, transpose, concat, split, slice, pad, tile, expand."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.expr import as_expr
from tilewright.ir.visit import const_int


@onnx_op("Reshape", 5, 13, 14, 19, 21, 23, 24, 25)
def reshape(ctx: NodeContext) -> Value:
    """0 copies a dimension unless ``allowzero``, -1 takes what is left."""
    return ctx.op("reshape", ctx.x, ctx.value(1), copy_zeros=None if ctx.attr("allowzero", 0) else True)


@onnx_op("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def flatten(ctx: NodeContext) -> Value:
    """A matrix: dimensions before ``axis`` by those from it on."""
    axis = int(ctx.attr("axis", 1))
    rank = ctx.x.rank
    if not -rank <= axis <= rank:
        ctx.fail(f"axis {axis} is outside a tensor of rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return ctx.reshape(ctx.x, [product(ctx.x.shape[:axis]), product(ctx.x.shape[axis:])])


@onnx_op("Squeeze", 1, 11)
def squeeze_1(ctx: NodeContext) -> Value:
    """Axes as an attribute."""
    return _squeeze(ctx, ctx.attr("axes", None))


@onnx_op("Squeeze", 13, 21, 23, 24, 25)
def squeeze_13(ctx: NodeContext) -> Value:
    """Axes as an input."""
    return _squeeze(ctx, ctx.ints(1, "the axes of Squeeze"))


def _squeeze(ctx: NodeContext, axes: Sequence[int] | None) -> Value:
    shape = ctx.x.shape
    if axes is None:
        static = ctx.static_dims(ctx.x, "a tensor squeezed without axes")
        axes = [n for n, d in enumerate(static) if d == 1]
    gone = ctx.check_axes(axes, len(shape))
    for axis in gone:
        size = const_int(shape[axis])
        if size is not None and size != 1:
            ctx.fail(f"dimension {axis} has {size} elements and cannot be squeezed")
    return ctx.reshape(ctx.x, [d for n, d in enumerate(shape) if n not in gone])


@onnx_op("Unsqueeze", 1, 11)
def unsqueeze_1(ctx: NodeContext) -> Value:
    """Axes as an attribute."""
    return _unsqueeze(ctx, ctx.attr("axes"))


@onnx_op("Unsqueeze", 13, 21, 23, 24, 25)
def unsqueeze_13(ctx: NodeContext) -> Value:
    """Axes as an input."""
    return _unsqueeze(ctx, ctx.ints(1, "the axes of Unsqueeze") or ())


def _unsqueeze(ctx: NodeContext, axes: Sequence[int]) -> Value:
    rank = ctx.x.rank + len(axes)
    fresh = ctx.check_axes(axes, rank)
    rest = iter(ctx.x.shape)
    return ctx.reshape(ctx.x, [as_expr(1) if n in fresh else next(rest) for n in range(rank)])


@onnx_op("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(ctx: NodeContext) -> Value:
    """Reverses the dimensions when no permutation is given."""
    perm = ctx.attr("perm", None)
    return ctx.op(
        "transpose", ctx.x, perm=tuple(reversed(range(ctx.x.rank))) if perm is None else tuple(perm)
    )


@onnx_op("Concat", 4, 11, 13)
def concat(ctx: NodeContext) -> Value:
    """Along ``axis``."""
    return ctx.op("concat", *ctx.inputs, axis=ctx.axis(ctx.x.rank))


@onnx_op("Split", 2, 11)
def split_2(ctx: NodeContext) -> Sequence[Value]:
    """Sizes as an attribute."""
    return _split(ctx, ctx.attr("split", None))


@onnx_op("Split", 13, 18)
def split_13(ctx: NodeContext) -> Sequence[Value]:
    """Sizes as an input; without them, equal parts of which the last may be smaller (opset 18)."""
    return _split(ctx, ctx.ints(1, "the sizes of Split"))


def _split(ctx: NodeContext, sizes: Sequence[int] | None) -> Sequence[Value]:
    axis = ctx.axis(ctx.x.rank, 0)
    if not ctx.x.rank:
        ctx.fail("a single number cannot be split")
    if sizes is None:
        count = int(ctx.attr("num_outputs", len(ctx.node.outputs)))
        whole = const_int(ctx.x.shape[axis])
        if whole is None:
            ctx.unsupported("splitting a dimension of open size into equal parts is not supported")
        if count != len(ctx.node.outputs) or count < 1:
            ctx.fail(f"Split into {count} parts has {len(ctx.node.outputs)} outputs")
        if ctx.since < 18 and whole % count:
            ctx.fail(f"a dimension of {whole} cannot be split into {count} equal parts")
        part = -(-whole // count)
        sizes = [max(min(part, whole - n * part), 0) for n in range(count)]
    return ctx.emit("split", [ctx.x], axis=axis, sizes=tuple(int(s) for s in sizes))


@onnx_op("Slice", 1)
def slice_1(ctx: NodeContext) -> Value:
    """Starts, ends and axes as attributes."""
    starts, ends = tuple(ctx.attr("starts")), tuple(ctx.attr("ends"))
    axes = tuple(ctx.attr("axes", range(len(starts))))
    return ctx.op("slice", ctx.x, starts=starts, ends=ends, axes=axes)


@onnx_op("Slice", 10, 11, 13)
def slice_10(ctx: NodeContext) -> Value:
    """Starts, ends, axes and steps as inputs."""
    return ctx.op("slice", *(ctx.optional(n) for n in range(5)))


@onnx_op("Pad", 2)
def pad_2(ctx: NodeContext) -> Value:
    """Pads and value as attributes."""
    mode = ctx.attr("mode", "constant")
    fill = ctx.like(ctx.attr("value", 0.0), ctx.x) if mode == "constant" else None
    return ctx.op("pad", ctx.x, None, fill, pads=tuple(ctx.attr("pads")), mode=mode)


@onnx_op("Pad", 11, 13, 18, 19, 21, 23, 24, 25)
def pad_11(ctx: NodeContext) -> Value:
    """Pads, value and axes (opset 18) as inputs; mode wrap since opset 19."""
    mode = ctx.attr("mode", "constant")
    fill = ctx.optional(2) if mode == "constant" else None
    return ctx.op("pad", ctx.x, ctx.value(1), fill, ctx.optional(3), mode=mode)


@onnx_op("Tile", 6, 13)
def tile(ctx: NodeContext) -> Value:
    """Repeats as an input."""
    return ctx.op("tile", ctx.x, ctx.value(1))


@onnx_op("Expand", 8, 13)
def expand(ctx: NodeContext) -> Value:
    """Broadcast with a shape, both ways."""
    return ctx.op("expand", ctx.x, ctx.value(1))


@onnx_op("DepthToSpace", 1, 11, 13, 28)
def depth_to_space(ctx: NodeContext) -> Value:
    """Blocks of channels become blocks of pixels; ``mode`` says which way channels count."""
    n, c, h, w = ctx.x.shape
    b = int(ctx.attr("blocksize"))
    if ctx.attr("mode", "DCR") == "DCR":
        y = ctx.reshape(ctx.x, [n, b, b, c // (b * b), h, w])
        y = ctx.op("transpose", y, perm=(0, 3, 4, 1, 5, 2))
    else:
        y = ctx.reshape(ctx.x, [n, c // (b * b), b, b, h, w])
        y = ctx.op("transpose", y, perm=(0, 1, 4, 2, 5, 3))
    return ctx.reshape(y, [n, c // (b * b), h * b, w * b])


@onnx_op("SpaceToDepth", 1, 13, 28)
def space_to_depth(ctx: NodeContext) -> Value:
    """Blocks of pixels become blocks of channels; ``mode`` (opset 28) says which way channels count."""
    n, c, h, w = ctx.x.shape
    b = int(ctx.attr("blocksize"))
    y = ctx.reshape(ctx.x, [n, c, h // b, b, w // b, b])
    perm = (0, 3, 5, 1, 2, 4) if ctx.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return ctx.reshape(ctx.op("transpose", y, perm=perm), [n, c * (b * b), h // b, w // b])
