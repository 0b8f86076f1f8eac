"""Reductions, arg-reductions, softmax and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.visit import const_int


def _axes(ctx: NodeContext, first_with_input: int) -> tuple[int, ...]:
    """The reduced axes, perhaps none: then only what stands around the reduction is done."""
    rank = ctx.x.rank
    if ctx.since < first_with_input:
        return ctx.check_axes(ctx.attr("axes", ()) or range(rank), rank)
    axes = ctx.ints(1, "the axes of a reduction")
    if not axes:
        return () if ctx.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return ctx.check_axes(axes, rank)


def reduce(ctx: NodeContext, x: Value, op: str, axes: Sequence[int], keepdims: bool) -> Value:
    """``op`` (sum mean max min prod) over ``axes``; ``x`` itself where there are none."""
    if not axes:
        return ctx.op("identity", x)
    return ctx.op("reduce", x, op=op, axes=tuple(axes), keepdims=keepdims)


def _log_sum_exp(ctx: NodeContext, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    """log(sum(exp(x - top))) + top, where an infinite top must not turn into Inf - Inf."""
    top = reduce(ctx, x, "max", axes, True)
    infinite = ctx.op("isinf", top)
    shift = ctx.op("where", infinite, ctx.like(0, x), top)
    total = ctx.op("log", reduce(ctx, ctx.op("exp", ctx.op("sub", x, shift)), "sum", axes, True))
    result = ctx.op("add", total, shift)
    if keepdims:
        return result
    return ctx.reshape(result, [d for n, d in enumerate(result.shape) if n not in axes])


#: The operands are the node, its (first) input, the axes, and whether they stay as dimensions of size 1.
_Kind = Callable[[NodeContext, Value, tuple[int, ...], bool], Value]


def _composed(name: str) -> _Kind:
    def handler(ctx: NodeContext, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
        if name in ("l2", "square"):
            x = ctx.op("mul", x, x)
        elif name == "l1":
            x = ctx.op("abs", x)
        total = reduce(ctx, x, "sum", axes, keepdims)
        if name == "l2":
            return ctx.op("sqrt", total)
        return ctx.op("log", total) if name == "log" else total

    return handler


def _of_floats(kind: _Kind) -> _Kind:
    """Integers are floats in between, and cut off at the end."""

    def handler(ctx: NodeContext, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
        if dt.is_float(x.dtype):
            return kind(ctx, x, axes, keepdims)
        result = kind(ctx, ctx.op("cast", x, to="float64"), axes, keepdims)
        return ctx.op("cast", result, to=x.dtype)

    return handler


def _direct(op: str) -> _Kind:
    return lambda ctx, x, axes, keepdims: reduce(ctx, x, op, axes, keepdims)


#: ONNX operator -> (meaning, versions, first version with the axes as an input).
_REDUCTIONS: Final[dict[str, tuple[_Kind, tuple[int, ...], int]]] = {
    "ReduceL1": (_composed("l1"), (1, 11, 13, 18), 18),
    "ReduceL2": (_of_floats(_composed("l2")), (1, 11, 13, 18), 18),
    "ReduceLogSum": (_of_floats(_composed("log")), (1, 11, 13, 18, 28), 18),
    "ReduceLogSumExp": (_of_floats(_log_sum_exp), (1, 11, 13, 18, 28), 18),
    "ReduceMax": (_direct("max"), (1, 11, 12, 13, 18, 20), 18),
    "ReduceMean": (_direct("mean"), (1, 11, 13, 18), 18),
    "ReduceMin": (_direct("min"), (1, 11, 12, 13, 18, 20), 18),
    "ReduceProd": (_direct("prod"), (1, 11, 13, 18), 18),
    "ReduceSum": (_direct("sum"), (1, 11, 13), 13),
    "ReduceSumSquare": (_composed("square"), (1, 11, 13, 18), 18),
}


def _reduction(kind: _Kind, first_with_input: int) -> Callable[[NodeContext], Value]:
    def handler(ctx: NodeContext) -> Value:
        axes = _axes(ctx, first_with_input)
        return kind(ctx, ctx.x, axes, bool(ctx.attr("keepdims", 1)))

    return handler


for _type, (_kind, _versions, _first) in _REDUCTIONS.items():
    onnx_op(_type, *_versions)(_reduction(_kind, _first))


def _arg(op: str) -> Callable[[NodeContext], Value]:
    def handler(ctx: NodeContext) -> Value:
        return ctx.op(
            op,
            ctx.x,
            axis=ctx.axis(ctx.x.rank, 0),
            keepdims=bool(ctx.attr("keepdims", 1)),
            select_last=bool(ctx.attr("select_last_index", 0)),
        )

    return handler


onnx_op("ArgMax", 1, 11, 12, 13)(_arg("argmax"))
onnx_op("ArgMin", 1, 11, 12, 13)(_arg("argmin"))


def _flat_softmax(op: str) -> Callable[[NodeContext], Value]:
    """Before opset 13 the tensor was seen as a matrix whose rows hold all dimensions from ``axis`` on."""

    def handler(ctx: NodeContext) -> Value:
        x = ctx.x
        axis = ctx.axis(x.rank, 1)
        if all(const_int(d) == 1 for d in x.shape[axis + 1 :]):
            return ctx.op(op, x, axis=axis)
        rows = ctx.reshape(x, [product(x.shape[:axis]), product(x.shape[axis:])])
        return ctx.reshape(ctx.op(op, rows, axis=1), x.shape)

    return handler


def _softmax(op: str) -> Callable[[NodeContext], Value]:
    return lambda ctx: ctx.op(op, ctx.x, axis=ctx.axis(ctx.x.rank, -1))


for _type, _op in (("Softmax", "softmax"), ("LogSoftmax", "log_softmax")):
    onnx_op(_type, 1, 11)(_flat_softmax(_op))
    onnx_op(_type, 13)(_softmax(_op))


def _one_hot(ctx: NodeContext, x: Value, axis: int) -> Value:
    """1 where the first maximum along ``axis`` is, else 0."""
    best = ctx.op("argmax", x, axis=axis, keepdims=False)
    pair = ctx.constant([0, 1], x.dtype)
    depth = ctx.static_dims(x, "the input of a Hardmax")[axis]
    return ctx.op("one_hot", best, pair, ctx.constant(depth, "int64"), axis=axis)


@onnx_op("Hardmax", 1, 11)
def flat_hardmax(ctx: NodeContext) -> Value:
    """Before opset 13: of a matrix whose rows hold all dimensions from ``axis`` on."""
    x = ctx.x
    axis = ctx.axis(x.rank, 1)
    rows = ctx.reshape(x, [product(x.shape[:axis]), product(x.shape[axis:])])
    return ctx.reshape(_one_hot(ctx, rows, 1), x.shape)


@onnx_op("Hardmax", 13)
def hardmax(ctx: NodeContext) -> Value:
    """1 at the first maximum along ``axis``."""
    return _one_hot(ctx, ctx.x, ctx.axis(ctx.x.rank, -1))


def _running(op: str) -> Callable[[NodeContext], Value]:
    def handler(ctx: NodeContext) -> Value:
        axis = ctx.check_axis(int(ctx.scalar(1, f"the axis of {ctx.node.op_type}")), ctx.x.rank)
        kinds = {name: bool(ctx.attr(name, 0)) for name in ("exclusive", "reverse")}
        return ctx.op(op, ctx.x, axis=axis, **kinds)

    return handler


onnx_op("CumSum", 11, 14)(_running("cumsum"))
onnx_op("CumProd", 26)(_running("cumprod"))
