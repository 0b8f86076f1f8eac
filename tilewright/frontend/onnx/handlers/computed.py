"""Results whose sizes depend on data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.visit import const_int
from tilewright.ops.common import dims_attr
from tilewright.ops.computed import positions_of
from tilewright.ops.detection import non_max_suppression
from tilewright.ops.unique import distinct_rows


@onnx_op("NonZero", 9, 13)
def non_zero(ctx: NodeContext) -> Value:
    """Indices of what is not zero, ``[rank, count]``, in row-major order; a scalar counts as a vector."""
    known = ctx.data(0)
    if known is not None:
        return ctx.constant(np.stack(np.nonzero(np.atleast_1d(known))), "int64")
    shape = ctx.x.shape or (1,)
    flat = positions_of(ctx.builder, ctx.x, f"{ctx.result_name}_count")
    return ctx.op("unravel", flat, shape=dims_attr(shape))


@onnx_op("Compress", 9, 11, 28)
def compress(ctx: NodeContext) -> Value:
    """The slices along ``axis``, by default the elements, for which the condition holds."""
    x = ctx.x
    if ctx.attr("axis", None) is None:
        x, axis = ctx.reshape(x, [product(x.shape)]), 0
    else:
        axis = ctx.axis(x.rank)
    known = ctx.data(1)
    if known is not None:
        return ctx.op("gather", x, ctx.constant(np.flatnonzero(known), "int64"), axis=axis)
    # The condition may be shorter than the axis, not longer: a position out of it reads a wrong element.
    chosen = positions_of(ctx.builder, ctx.value(1), f"{ctx.result_name}_count")
    return ctx.op("gather", x, chosen, axis=axis)


@onnx_op("Unique", 11, 28)
def unique(ctx: NodeContext) -> Sequence[Value]:
    """Distinct elements, or slices along ``axis``: where they stand first, which of them each is, how often
    they occur."""
    x = ctx.x
    if ctx.attr("axis", None) is None:
        x, axis = ctx.reshape(x, [product(x.shape)]), 0
    elif not x.rank:
        ctx.fail("a single number has no axes")
    else:
        axis = ctx.axis(x.rank)
    moved = ctx.op("transpose", x, perm=(axis, *(d for d in range(x.rank) if d != axis))) if axis else x
    rows = ctx.reshape(moved, [moved.shape[0], product(moved.shape[1:])])
    if const_int(rows.shape[0]) == 0:
        nothing = ctx.constant([], "int64")
        return [x, nothing, nothing, nothing][: len(ctx.node.outputs)]
    if rows.dtype == "bool":
        rows = ctx.op("cast", rows, to="uint8")
    in_order, name = bool(ctx.attr("sorted", 1)), f"{ctx.result_name}_count"
    found = distinct_rows(ctx.builder, rows, in_order, name)
    results = [ctx.op("gather", x, found.first, axis=axis), found.first, found.inverse, found.counts]
    return results[: len(ctx.node.outputs)]


@onnx_op("NonMaxSuppression", 10, 11)
def non_max(ctx: NodeContext) -> Value:
    """Triples (batch, class, box) ``[count, 3]``; no boxes unless a number of them is given."""
    boxes, scores = ctx.value(0), ctx.value(1)
    if boxes.rank != 3 or scores.rank != 3 or const_int(boxes.shape[2]) not in (4, None):
        ctx.fail(f"boxes [batch, boxes, 4] and scores [batch, classes, boxes] are needed, not {boxes.type}")
    known = ctx.data(2)
    empty = known is not None and (known.size != 1 or known.item() <= 0)
    if not ctx.has(2) or empty or const_int(product(scores.shape)) == 0:
        return ctx.constant(np.zeros((0, 3)), "int64")
    most = ctx.value(2) if known is None else ctx.constant(known.reshape(()), "int64")
    overlap = ctx.value(3) if ctx.has(3) else ctx.constant(0, boxes.dtype)
    centred = bool(ctx.attr("center_point_box", 0))
    name = f"{ctx.result_name}_count"
    return non_max_suppression(ctx.builder, boxes, scores, most, overlap, ctx.optional(4), centred, name)
