"""Reading and writing at computed positions, and triangles."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.expr import Expr, as_expr
from tilewright.ops.common import dims_attr
from tilewright.ops.computed import computed_size

#: Beyond the sides of every matrix.
_FAR = 1 << 40


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
    k = max(min(k, _FAR), -_FAR)  # beyond any matrix it is all the same
    return ctx.op("trilu", ctx.x, upper=bool(ctx.attr("upper", 1)), k=k)


def _reduction(ctx: NodeContext) -> str:
    return str(ctx.attr("reduction", "none"))


@onnx_op("Scatter", 9, 11)
@onnx_op("ScatterElements", 11, 13, 16, 18)
def scatter_elements(ctx: NodeContext) -> Value:
    """Single elements along ``axis``; ``reduction`` (opset 16) combines them with those there."""
    axis = ctx.axis(ctx.x.rank, 0)
    operands = (ctx.value(n) for n in range(3))
    return ctx.op("scatter_elements", *operands, axis=axis, reduction=_reduction(ctx))


@onnx_op("ScatterND", 11, 13, 16, 18)
def scatter_nd(ctx: NodeContext) -> Value:
    """Slices at index tuples; ``reduction`` (opset 16) combines them with those there."""
    return ctx.op("scatter_nd", *(ctx.value(n) for n in range(3)), reduction=_reduction(ctx))


@onnx_op("TensorScatter", 24)
def tensor_scatter(ctx: NodeContext) -> Value:
    """New keys or values into a cache, from each sample's position on."""
    axis, mode = ctx.axis(ctx.x.rank, -2), str(ctx.attr("mode", "linear"))
    return ctx.op("tensor_scatter", ctx.value(0), ctx.value(1), ctx.optional(2), axis=axis, mode=mode)


@onnx_op("ReverseSequence", 10, 28)
def reverse_sequence(ctx: NodeContext) -> Value:
    """Each sample's own number of steps, backwards."""
    axes = {"time_axis": int(ctx.attr("time_axis", 0)), "batch_axis": int(ctx.attr("batch_axis", 1))}
    return ctx.op("reverse_sequence", ctx.value(0), ctx.value(1), **axes)


def _no_order(ctx: NodeContext) -> None:
    if not ctx.x.rank:
        ctx.fail("a single number has no largest elements")


@onnx_op("TopK", 1)
def top_k_1(ctx: NodeContext) -> Sequence[Value]:
    """``k`` as an attribute."""
    _no_order(ctx)
    return _top_k(ctx, int(ctx.attr("k")))


@onnx_op("TopK", 10, 11, 24)
def top_k_10(ctx: NodeContext) -> Sequence[Value]:
    """``k`` as an input; always in order, the smallest ones too since opset 11."""
    _no_order(ctx)
    count = ctx.value(1)
    known = ctx.builder.exprs(count)
    if ctx.data(1) is not None:
        return _top_k(ctx, int(ctx.scalar(1, "the number of elements of a TopK")))
    if known is None or known.size != 1:
        most = ctx.x.shape[ctx.axis(ctx.x.rank, -1)]
        number = ctx.op("cast", ctx.reshape(count, ()), to="int64")
        return _top_k(ctx, computed_size(ctx.builder, number, most, f"{ctx.result_name}_count")[1])
    return _top_k(ctx, known.reshape(-1)[0])


def _top_k(ctx: NodeContext, k: Expr | int) -> Sequence[Value]:
    x = ctx.x
    axis = ctx.axis(x.rank, -1)
    (count,) = dims_attr((k,))
    last = (*(d for d in range(x.rank) if d != axis), axis)
    moved = x if axis == x.rank - 1 else ctx.op("transpose", x, perm=last)
    rows = ctx.reshape(moved, [product(moved.shape[:-1]), moved.shape[-1]])
    results = []
    for y in ctx.emit("top_k", [rows], k=count, largest=bool(ctx.attr("largest", 1))):
        y = ctx.reshape(y, [*moved.shape[:-1], as_expr(k)])
        back = tuple(last.index(d) for d in range(x.rank))
        results.append(y if moved is x else ctx.op("transpose", y, perm=back))
    return results
