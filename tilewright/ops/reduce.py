"""Reductions, softmax, arg-reductions and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, const, maximum, minimum, reduce_identity, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.visit import const_int
from tilewright.ops.common import (
    Operands,
    Shape,
    accumulator_dtype,
    as_dtype,
    axes_of,
    axis_of,
    dims_attr,
    is_half,
    mean,
    product,
    reduced,
)

#: Running sums along axes up to this length are computed one by one.
_SHORT_AXIS: Final = 32
#: attribute ``op`` of the reduce operator -> reduction of the IR.
TE_OPS: Final = {"sum": "sum", "mean": "sum", "max": "max", "min": "min", "prod": "prod"}
_NUMPY: Final[dict[str, Callable[..., Any]]] = {
    "sum": np.sum,
    "mean": lambda x, axis, keepdims, dtype: mean(x, axis, keepdims),
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
}


# ----------------------------------------------------------------------------------------------------- reduce
def reduced_axes(ctx: OpContext) -> tuple[int, ...]:
    """The reduced axes, from the front; all of them when none are given."""
    rank = ctx.input(0).rank
    axes = ctx.arg("axes")
    if axes is None:
        if ctx.has_arg("axes"):
            ctx.fail("the axes of a reduction must be known when the model is compiled")
        return tuple(range(rank))
    return axes_of(ctx, [_number(ctx, a) for a in axes], rank)


def _number(ctx: OpContext, value: Any) -> int:
    """An integer given as a number or a constant expression."""
    from tilewright.ir.visit import const_int

    number = const_int(value) if isinstance(value, Expr) else int(value)
    if number is None:
        ctx.fail("an axis must be a number, not a symbolic size")
    return number


def reduced_shape(shape: Sequence[Expr], axes: Sequence[int], keepdims: bool) -> Shape:
    """``shape`` after reducing ``axes``."""
    if keepdims:
        return tuple(as_expr(1) if n in axes else d for n, d in enumerate(shape))
    return tuple(d for n, d in enumerate(shape) if n not in axes)


def reduce_tensor(
    x: te.Tensor,
    axes: Sequence[int],
    op: str,
    name: str,
    keepdims: bool = True,
    element: Callable[[Expr], Expr] = lambda e: e,
    dtype: str | None = None,
) -> te.Tensor:
    """``op`` over ``axes`` of ``element(x)``, which has ``dtype`` (default: that of ``x``)."""

    def body(*index: Expr) -> Expr:
        spatial = iter(index)
        outer: list[Expr | None] = []
        for n in range(x.ndim):
            if n in axes:
                if keepdims:
                    next(spatial)
                outer.append(None)
            else:
                outer.append(next(spatial))

        def term(*r: Expr) -> Expr:
            inner = iter(r)
            return element(x[tuple(next(inner) if i is None else i for i in outer)])

        return reduced(op, [x.shape[a] for a in axes], term, dtype or x.dtype)

    return te.compute(reduced_shape(x.shape, axes, keepdims), body, name)


def _reduce_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    op = ctx.attr("op")
    if op not in TE_OPS:
        ctx.fail(f"there is no reduction '{op}' (there are {', '.join(TE_OPS)})")
    if x.dtype == "bool" and op not in ("max", "min"):
        ctx.fail(f"reduction '{op}' is not defined for bool")
    return [TensorType(reduced_shape(x.shape, reduced_axes(ctx), bool(ctx.attr("keepdims", True))), x.dtype)]


def _reduce_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, op, axes, keepdims = inputs[0], ctx.attr("op"), reduced_axes(ctx), bool(ctx.attr("keepdims", True))
    if not axes:
        return [te.compute(x.shape, lambda *i: x[i], op)]
    wide = reduction_dtype(op, x.dtype)
    total = reduce_tensor(x, axes, TE_OPS[op], op, keepdims, lambda e: e.astype(wide), wide)
    return [finish_reduce(ctx, total, x)]


def reduction_dtype(op: str, dtype: str) -> str:
    """In what a reduction is kept: booleans have no minimum or maximum of their own; sums of 16-bit floats
    are kept in float32.
    """
    if dtype == "bool":
        return "uint8"
    return dtype if op in ("max", "min") else accumulator_dtype(dtype)


def _truncated(total: Expr, count: Expr) -> Expr:
    """The quotient of integers without its fraction."""
    if not dt.is_signed(total.dtype):
        return total // count
    return select(total < 0, -(-total // count), total // count)


def finish_reduce(ctx: OpContext, total: te.Tensor, x: te.Tensor) -> te.Tensor:
    """The result of a reduce operator from the reduction of ``x`` in :func:`reduction_dtype`."""
    wide, dtype = total.dtype, x.dtype
    if ctx.attr("op") == "mean":
        count = product([x.shape[a] for a in reduced_axes(ctx)])
        if dt.is_float(wide):
            inverse = const(1.0, wide) / count.astype(wide)
            return te.compute(total.shape, lambda *i: (total[i] * inverse).astype(dtype), "scale")
        return te.compute(total.shape, lambda *i: _truncated(total[i], count.astype(wide)), "scale")
    if wide == dtype:
        return total
    if dtype == "bool":
        return te.compute(total.shape, lambda *i: total[i].ne(0), "narrow")
    return te.compute(total.shape, lambda *i: total[i].astype(dtype), "narrow")


def _reduce_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, op = inputs[0], ctx.attr("op")
    axes, keepdims = reduced_axes(ctx), bool(ctx.attr("keepdims", True))
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    with np.errstate(all="ignore"):
        if op in ("max", "min") and wide.dtype != np.bool_:
            initial = reduce_identity(op, dt.from_numpy(wide.dtype)).value
            return [as_dtype(_NUMPY[op](wide, axis=axes, keepdims=keepdims, initial=initial), x.dtype.name)]
        if op in ("max", "min"):
            return [np.asarray((np.any if op == "max" else np.all)(wide, axis=axes, keepdims=keepdims))]
        if op == "mean" and np.issubdtype(wide.dtype, np.integer):
            count = int(np.prod([x.shape[a] for a in axes]))
            total = np.sum(wide, axis=axes, keepdims=keepdims, dtype=wide.dtype)
            quotient = total // count
            return [np.asarray(quotient + ((total < 0) & (quotient * count != total)).astype(wide.dtype))]
        result = _NUMPY[op](wide, axis=axes, keepdims=keepdims, dtype=wide.dtype)
    return [as_dtype(result, x.dtype.name)]


def _reduce_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    """Sizes of tensors: products and sums of dimensions."""
    x = inputs[0]
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "sum": lambda a, b: a + b,
        "prod": lambda a, b: a * b,
        "max": maximum,
        "min": minimum,
    }
    op, axes = ctx.attr("op"), reduced_axes(ctx)
    keep = bool(ctx.attr("keepdims", True))
    ufunc = np.frompyfunc(functions["sum" if op == "mean" else op], 2, 1)
    start = {"sum": 0, "mean": 0, "prod": 1}.get(op)
    for axis in reversed(axes):
        options = {} if start is None else {"initial": as_expr(start)}
        x = np.asarray(ufunc.reduce(x, axis=axis, keepdims=keep, **options), dtype=object)
    if op == "mean":
        count = product([ctx.input(0).shape[a] for a in axes])
        x = np.asarray(np.frompyfunc(lambda e: e // count, 1, 1)(x), dtype=object)
    return [x]


register(
    OpDef(
        "reduce",
        FusionKind.reduction,
        infer=_reduce_infer,
        compute=_reduce_compute,
        reference=_reduce_numpy,
        params={1: "axes"},
        symbolic=_reduce_symbolic,
    )
)


# ---------------------------------------------------------------------------------------------------- softmax
def _float_same(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    axis_of(ctx, ctx.attr("axis"), x.rank)
    if not dt.is_float(x.dtype):
        ctx.fail(f"softmax is not defined for {x.dtype}")
    return [x]


def _shifted(
    ctx: OpContext, x: te.Tensor, axis: int
) -> tuple[te.Tensor, Callable[..., Expr], Callable[..., Any]]:
    """The maximum along ``axis``, ``x`` minus it, and the index of a statistic that belongs to an index of
    ``x``.
    """
    wide = accumulator_dtype(x.dtype)
    top = reduce_tensor(x, [axis], "max", "max", element=lambda e: e.astype(wide), dtype=wide)

    def at(*i: Expr) -> tuple[Expr, ...]:
        return tuple(as_expr(0) if n == axis else e for n, e in enumerate(i))

    return top, lambda *i: x[i].astype(wide) - top[at(*i)], at


def _softmax_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,) = inputs
    axis = axis_of(ctx, ctx.attr("axis"), x.ndim)
    _, shifted, at = _shifted(ctx, x, axis)
    powers = te.compute(x.shape, lambda *i: intrinsic("exp", shifted(*i)), "exp")
    total = reduce_tensor(powers, [axis], "sum", "sum")
    return [te.compute(x.shape, lambda *i: (powers[i] / total[at(*i)]).astype(x.dtype), "softmax")]


def _log_softmax_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,) = inputs
    axis = axis_of(ctx, ctx.attr("axis"), x.ndim)
    _, shifted, at = _shifted(ctx, x, axis)
    powers = te.compute(x.shape, lambda *i: intrinsic("exp", shifted(*i)), "exp")
    total = reduce_tensor(powers, [axis], "sum", "sum")
    return [
        te.compute(
            x.shape, lambda *i: (shifted(*i) - intrinsic("log", total[at(*i)])).astype(x.dtype), "log_softmax"
        )
    ]


def _softmax_numpy(ctx: OpContext, inputs: Operands, log: bool = False) -> list[np.ndarray]:
    x, axis = inputs[0], ctx.attr("axis")
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    with np.errstate(all="ignore"):
        shifted = wide - np.max(wide, axis=axis, keepdims=True, initial=-np.inf)
        powers = np.exp(shifted)
        total = np.sum(powers, axis=axis, keepdims=True)
        return [as_dtype(shifted - np.log(total) if log else powers / total, x.dtype.name)]


register(
    OpDef(
        "softmax",
        FusionKind.reduction,
        infer=_float_same,
        compute=_softmax_compute,
        reference=_softmax_numpy,
    )
)
register(
    OpDef(
        "log_softmax",
        FusionKind.reduction,
        infer=_float_same,
        compute=_log_softmax_compute,
        reference=lambda ctx, inputs: _softmax_numpy(ctx, inputs, log=True),
    )
)


# --------------------------------------------------------------------------------------------- argmax, argmin
def _arg_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    axis = axis_of(ctx, ctx.attr("axis"), x.rank)
    if const_int(x.shape[axis]) == 0:
        ctx.fail(f"no element of an empty axis is the extreme one: the input is {x}")
    return [TensorType(reduced_shape(x.shape, [axis], bool(ctx.attr("keepdims", True))), "int64")]


def _arg_compute(op: str) -> Callable[[OpContext, Operands], list[te.Tensor]]:
    def compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
        """The extreme value first, then the smallest (or largest) position that holds it; NaN counts as the
        extreme.
        """
        (x,) = inputs
        axis, last = axis_of(ctx, ctx.attr("axis"), x.ndim), bool(ctx.attr("select_last", False))
        extent = x.shape[axis]
        best = reduce_tensor(x, [axis], op, op)
        keepdims = bool(ctx.attr("keepdims", True))

        def body(*index: Expr) -> Expr:
            rest = list(index)
            if keepdims:
                rest.pop(axis)

            def position(r: Expr) -> Expr:
                value = x[(*rest[:axis], r, *rest[axis:])]
                found = value.eq(best[(*rest[:axis], as_expr(0), *rest[axis:])])
                if dt.is_float(x.dtype):
                    found = found | intrinsic("isnan", value)
                return select(found, r, const(-1) if last else extent)

            return te.reduce("max" if last else "min", [extent], position)

        return [te.compute(reduced_shape(x.shape, [axis], keepdims), body, "arg" + op)]

    return compute


def _arg_numpy(function: Callable[..., Any]) -> Callable[[OpContext, Operands], list[np.ndarray]]:
    def reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
        x, axis = inputs[0], ctx.attr("axis")
        if ctx.attr("select_last", False):
            position = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis)
        else:
            position = function(x, axis=axis)
        position = np.asarray(position).astype(np.int64)
        return [np.expand_dims(position, axis) if ctx.attr("keepdims", True) else position]

    return reference


for _op, _function in (("max", np.argmax), ("min", np.argmin)):
    register(
        OpDef(
            "arg" + _op,
            FusionKind.reduction,
            infer=_arg_infer,
            compute=_arg_compute(_op),
            reference=_arg_numpy(_function),
        )
    )


# ----------------------------------------------------------------------------------------------------- cumsum
def _cumsum_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    axis_of(ctx, ctx.attr("axis"), x.rank)
    return [x]


def _cumsum_decompose(builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]) -> list[Value]:
    """Long axes in blocks: sums within blocks plus the sum of all blocks before. With blocks of the root of
    the length that is ``n ** 1.5`` additions, all of them in independent sums.
    """
    x = inputs[0]
    assert x is not None
    axis = axis_of(ctx, ctx.attr("axis"), x.rank)
    length = const_int(x.shape[axis])
    exclusive, reverse = bool(ctx.attr("exclusive", False)), bool(ctx.attr("reverse", False))
    if length is None or length <= _SHORT_AXIS:
        return [builder.op("prefix_sum", x, axis=axis, exclusive=exclusive, reverse=reverse)]
    wide = accumulator_dtype(x.dtype)
    block = math.isqrt(length - 1) + 1
    count = -(-length // block)
    missing = [0] * x.rank
    missing[axis] = count * block - length
    nothing = [0] * x.rank
    # The sums start at the padding only where that is harmless: with zeros.
    pads = (*missing, *nothing) if reverse else (*nothing, *missing)
    y = x if wide == x.dtype else builder.op("cast", x, to=wide)
    y = y if not any(missing) else builder.op("pad", y, pads=pads)
    whole, before, after = y.shape, y.shape[:axis], y.shape[axis + 1 :]
    y = builder.op("reshape", y, shape=dims_attr((*before, count, block, *after)))
    totals = builder.op("reduce", y, op="sum", axes=(axis + 1,), keepdims=True)
    carried = builder.op("cumsum", totals, axis=axis, exclusive=True, reverse=reverse)
    inside = builder.op("prefix_sum", y, axis=axis + 1, exclusive=exclusive, reverse=reverse)
    y = builder.op("add", inside, carried)
    y = builder.op("reshape", y, shape=dims_attr(whole))
    if any(missing):
        y = builder.op("pad", y, pads=tuple(-p for p in pads))
    return [y if wide == x.dtype else builder.op("cast", y, to=x.dtype)]


def _prefix_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Each element sums its own prefix: quadratic in the axis, parallel, and free of a loop-carried
    dependence.
    """
    (x,) = inputs
    axis = axis_of(ctx, ctx.attr("axis"), x.ndim)
    exclusive, reverse = bool(ctx.attr("exclusive", False)), bool(ctx.attr("reverse", False))
    wide = accumulator_dtype(x.dtype)

    def body(*i: Expr) -> Expr:
        def term(r: Expr) -> Expr:
            before, after = (i[axis], r) if reverse else (r, i[axis])
            counted = before < after if exclusive else before <= after
            return select(counted, x[(*i[:axis], r, *i[axis + 1 :])].astype(wide), const(0, wide))

        return te.reduce("sum", [x.shape[axis]], term)

    total = te.compute(x.shape, body, "prefix_sum")
    if wide == x.dtype:
        return [total]
    return [te.compute(x.shape, lambda *i: total[i].astype(x.dtype), "narrow")]


def _cumsum_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, axis = inputs[0], ctx.attr("axis")
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    if ctx.attr("reverse", False):
        wide = np.flip(wide, axis)
    total = np.cumsum(wide, axis=axis, dtype=wide.dtype)
    if ctx.attr("exclusive", False) and wide.shape[axis]:
        # Not total - wide: Inf - Inf is NaN.
        zero = np.zeros_like(np.take(wide, [0], axis))
        total = np.concatenate([zero, np.take(total, range(wide.shape[axis] - 1), axis)], axis)
    if ctx.attr("reverse", False):
        total = np.flip(total, axis)
    return [as_dtype(total, x.dtype.name)]


register(
    OpDef(
        "cumsum",
        FusionKind.reduction,
        infer=_cumsum_infer,
        decompose=_cumsum_decompose,
        reference=_cumsum_numpy,
    )
)
register(
    OpDef(
        "prefix_sum",
        FusionKind.reduction,
        infer=_cumsum_infer,
        compute=_prefix_compute,
        reference=_cumsum_numpy,
    )
)


# ---------------------------------------------------------------------------------------------------- cumprod
def _cumprod_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Each element is the one before it times the next factor: a recurrence along the axis."""
    (x,) = inputs
    axis, wide = axis_of(ctx, ctx.attr("axis"), x.ndim), accumulator_dtype(x.dtype)
    exclusive, reverse = bool(ctx.attr("exclusive", False)), bool(ctx.attr("reverse", False))
    extent, shift = x.shape[axis], 1 if exclusive else 0

    def place(n: Expr) -> Expr:
        return extent - 1 - n if reverse else n

    def at(i: Sequence[Expr], n: Expr) -> tuple[Expr, ...]:
        return (*i[:axis], n, *i[axis + 1 :])

    def first(*i: Expr) -> Expr:
        return const(1, wide) if exclusive else x[i].astype(wide)

    def step(state: te.Tensor, *p: Expr) -> tuple[tuple[Expr, ...], Expr]:
        here, before = at(p, place(p[axis] + 1)), at(p, place(p[axis]))
        return here, state[before] * x[at(p, place(p[axis] + 1 - shift))].astype(wide)

    steps = [
        (maximum(d - 1, 0) if n == axis else d, "reduce" if n == axis else "spatial")
        for n, d in enumerate(x.shape)
    ]
    total = te.update(te.compute(x.shape, first, "cumprod"), steps, step)
    if wide == x.dtype:
        return [total]
    return [te.compute(x.shape, lambda *i: total[i].astype(x.dtype), "narrow")]


def _cumprod_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, axis = inputs[0], ctx.attr("axis")
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    if ctx.attr("reverse", False):
        wide = np.flip(wide, axis)
    if ctx.attr("exclusive", False) and wide.shape[axis]:
        one = np.ones_like(np.take(wide, [0], axis))
        wide = np.concatenate([one, np.take(wide, range(wide.shape[axis] - 1), axis)], axis)
    total = np.cumprod(wide, axis=axis, dtype=wide.dtype)
    if ctx.attr("reverse", False):
        total = np.flip(total, axis)
    return [as_dtype(total, x.dtype.name)]


register(
    OpDef(
        "cumprod",
        FusionKind.opaque,
        infer=_cumsum_infer,
        compute=_cumprod_compute,
        reference=_cumprod_numpy,
    )
)
