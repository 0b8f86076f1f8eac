"""Reading at computed positions, and triangles."""

from __future__ import annotations

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value


@onnx_op("Gather", 1, 11, 13)
def gather(ctx: NodeContext) -> Value:
    """Whole slices along ``axis``."""
    return ctx.op("gather", ctx.x, ctx.value(1), axis=ctx.axis(ctx.x.rank, 0))


@onnx_op("GatherElements", 11, 13)
def gather_elements(ctx: NodeContext) -> Value:
    """Single elements along ``axis``."""
    return ctx.op("gather_elements", ctx.x, ctx.value(1), axis=ctx.axis(ctx.x.rank, 0))


@onnx_op("GatherND", 11, 12, 13)
def gather_nd(ctx: NodeContext) -> Value:
    """Slices at index tuples; leading batch dimensions since opset 12."""
    return ctx.op("gather_nd", ctx.x, ctx.value(1), batch_dims=int(ctx.attr("batch_dims", 0)))


@onnx_op("Trilu", 14)
def trilu(ctx: NodeContext) -> Value:
    """A triangle of each matrix; the diagonal's offset is a constant input."""
    k = int(ctx.scalar(1, "the diagonal of Trilu")) if ctx.has(1) else 0
    return ctx.op("trilu", ctx.x, upper=bool(ctx.attr("upper", 1)), k=k)
