"""Results whose sizes depend on data."""

from __future__ import annotations

import numpy as np

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ops.common import dims_attr
from tilewright.ops.computed import positions_of


@onnx_op("NonZero", 9, 13)
def non_zero(ctx: NodeContext) -> Value:
    """Indices of what is not zero, ``[rank, count]``, in row-major order; a scalar counts as a vector."""
    known = ctx.data(0)
    if known is not None:
        return ctx.constant(np.stack(np.nonzero(np.atleast_1d(known))), "int64")
    shape = ctx.x.shape or (1,)
    flat = positions_of(ctx.builder, ctx.x, f"{ctx.result_name}_count")
    return ctx.op("unravel", flat, shape=dims_attr(shape))


@onnx_op("Compress", 9, 11)
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
