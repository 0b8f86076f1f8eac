"""Reading at computed positions (gather and its kin) and tensors made from nothing (range, one_hot)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.bounds import interval
from tilewright.ir.expr import Expr, as_expr, const, maximum, minimum, select
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, axis_of, broadcast_dim, format_shape


def check_indices(ctx: OpContext, index: int) -> TensorType:
    """The type of input ``index``, which must be integers."""
    kind = ctx.input(index)
    if not dt.is_int(kind.dtype):
        ctx.fail(f"indices must be integers, not {kind.dtype}")
    return kind


def position(value: Expr, dim: Expr) -> Expr:
    """An index of a model as a position: negative ones count from the end.

    Clamped into the dimension, so that a wrong index in the data reads a wrong element instead of foreign
    memory. A dimension that a run may find empty counts as one element: memory is planned for more.
    """
    e = value.astype("int64")
    e = select(e < 0, e + dim, e)
    smallest = interval(dim).lo
    if smallest is not None and smallest < 1 and const_int(dim) is None:
        return maximum(minimum(e, dim - 1), 0)
    return minimum(maximum(e, 0), dim - 1)


def positions_numpy(indices: np.ndarray, size: int) -> np.ndarray:
    """:func:`position` of an array."""
    wide = indices.astype(np.int64)
    return np.clip(np.where(wide < 0, wide + size, wide), 0, max(size - 1, 0))


# ----------------------------------------------------------------------------------------------------- gather
def _gather_infer(ctx: OpContext) -> list[TensorType]:
    x, indices = ctx.input(0), check_indices(ctx, 1)
    axis = axis_of(ctx, ctx.attr("axis", 0), x.rank)
    known, size = ctx.consts[1], const_int(x.shape[axis])
    if (
        known is not None
        and size is not None
        and known.size
        and not (-size <= known.min() and known.max() < size)
    ):
        ctx.fail(f"indices {known.min()} to {known.max()} are outside a dimension of {size}")
    return [TensorType((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)]


def _gather_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, indices = inputs
    axis = axis_of(ctx, ctx.attr("axis", 0), x.ndim)
    known = ctx.consts[1]
    rank = indices.ndim

    def body(*i: Expr) -> Expr:
        if known is not None and known.size == 1:
            raw = int(known.reshape(()))
            at: Expr = x.shape[axis] + raw if raw < 0 else as_expr(raw)
        else:
            at = position(indices[i[axis : axis + rank]], x.shape[axis])
        return x[(*i[:axis], at, *i[axis + rank :])]

    return [te.compute(_gather_infer(ctx)[0].shape, body, "gather")]


def _gather_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, indices = inputs
    axis = ctx.attr("axis", 0)
    return [np.asarray(np.take(x, positions_numpy(indices, x.shape[axis]), axis=axis))]


def _gather_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray] | None:
    x, indices = inputs
    numbers = np.array([const_int(e) for e in indices.reshape(-1)], dtype=object).reshape(indices.shape)
    if any(n is None for n in numbers.reshape(-1)):
        return None  # which element it is depends on sizes
    return [np.asarray(np.take(x, numbers.astype(np.int64), axis=ctx.attr("axis", 0)), dtype=object)]


register(
    OpDef(
        "gather",
        FusionKind.injective,
        infer=_gather_infer,
        compute=_gather_compute,
        reference=_gather_numpy,
        symbolic=_gather_symbolic,
    )
)


def require_within(ctx: OpContext, inner: TensorType, outer: TensorType, axis: int) -> None:
    """Fail unless ``inner`` is no larger than ``outer`` in every dimension but ``axis``."""
    for n, (a, b) in enumerate(zip(inner.shape, outer.shape, strict=True)):
        small, large = const_int(a), const_int(b)
        if n != axis and small is not None and large is not None and small > large:
            ctx.fail(
                f"{format_shape(inner.shape)} reaches beyond {format_shape(outer.shape)} in dimension {n}"
            )


# -------------------------------------------------------------------------------------------- gather_elements
def _elements_infer(ctx: OpContext) -> list[TensorType]:
    x, indices = ctx.input(0), check_indices(ctx, 1)
    if x.rank != indices.rank:
        ctx.fail("gather_elements takes data and indices of one rank")
    require_within(ctx, indices, x, axis_of(ctx, ctx.attr("axis", 0), x.rank))
    return [TensorType(indices.shape, x.dtype)]


def _elements_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, indices = inputs
    axis = axis_of(ctx, ctx.attr("axis", 0), x.ndim)

    def body(*i: Expr) -> Expr:
        return x[(*i[:axis], position(indices[i], x.shape[axis]), *i[axis + 1 :])]

    return [te.compute(indices.shape, body, "gather_elements")]


def _elements_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, indices = inputs
    axis = axis_of(ctx, ctx.attr("axis", 0), x.ndim)
    where = list(np.indices(indices.shape, sparse=True))
    where[axis] = positions_numpy(indices, x.shape[axis])
    return [x[tuple(where)]]


register(
    OpDef(
        "gather_elements",
        FusionKind.injective,
        infer=_elements_infer,
        compute=_elements_compute,
        reference=_elements_numpy,
    )
)


# -------------------------------------------------------------------------------------------------- gather_nd
def _nd_infer(ctx: OpContext) -> list[TensorType]:
    x, indices = ctx.input(0), check_indices(ctx, 1)
    batch = int(ctx.attr("batch_dims", 0))
    depth = const_int(indices.shape[-1]) if indices.rank else None
    if depth is None or not 0 <= batch < min(x.rank, indices.rank) or batch + depth > x.rank:
        ctx.fail(
            f"gather_nd: indices {format_shape(indices.shape)} with {batch} batch dimensions do not fit data "
            f"{format_shape(x.shape)}"
        )
    lead = tuple(
        broadcast_dim(ctx, a, b) for a, b in zip(x.shape[:batch], indices.shape[:batch], strict=True)
    )
    return [TensorType((*lead, *indices.shape[batch:-1], *x.shape[batch + depth :]), x.dtype)]


def _nd_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, indices = inputs
    batch, depth = int(ctx.attr("batch_dims", 0)), const_int(indices.shape[-1]) or 0

    def body(*i: Expr) -> Expr:
        lead = i[: indices.ndim - 1]
        found = [position(indices[(*lead, d)], x.shape[batch + d]) for d in range(depth)]
        return x[(*i[:batch], *found, *i[indices.ndim - 1 :])]

    return [te.compute(_nd_infer(ctx)[0].shape, body, "gather_nd")]


def _nd_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, indices = inputs
    batch, depth = int(ctx.attr("batch_dims", 0)), indices.shape[-1]
    outer = indices.shape[:-1]
    where: list[Any] = list(np.indices(outer, sparse=True))[:batch]
    where += [positions_numpy(indices[..., d], x.shape[batch + d]) for d in range(depth)]
    return [x[tuple(where)] if where else np.broadcast_to(x, (*outer, *x.shape)).copy()]


register(OpDef("gather_nd", FusionKind.injective, infer=_nd_infer, compute=_nd_compute, reference=_nd_numpy))


# ------------------------------------------------------------------------------------------- reverse_sequence
def _reverse_infer(ctx: OpContext) -> list[TensorType]:
    x, lengths = ctx.input(0), check_indices(ctx, 1)
    time, batch = int(ctx.attr("time_axis", 0)), int(ctx.attr("batch_axis", 1))
    if x.rank < 2 or lengths.rank != 1 or {time, batch} != {0, 1}:
        ctx.fail("reverse_sequence takes time and batch as the first two dimensions and a length a sample")
    known = const_int(x.shape[batch]), const_int(lengths.shape[0])
    if None not in known and known[0] != known[1]:
        ctx.fail(f"{known[1]} lengths for {known[0]} samples")
    return [x]


def _reverse_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """The first ``lengths[b]`` steps of each sample in reverse order, the rest as they are."""
    x, lengths = inputs
    time, batch = int(ctx.attr("time_axis", 0)), int(ctx.attr("batch_axis", 1))

    def body(*i: Expr) -> Expr:
        length = minimum(maximum(lengths[i[batch]].astype("int64"), 0), x.shape[time])
        at = select(i[time] < length, length - 1 - i[time], i[time])
        return x[(*i[:time], at, *i[time + 1 :])]

    return [te.compute(x.shape, body, "reverse_sequence")]


def _reverse_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, lengths = inputs
    time, batch = int(ctx.attr("time_axis", 0)), int(ctx.attr("batch_axis", 1))
    steps = np.arange(x.shape[time]).reshape(-1, 1) if time == 0 else np.arange(x.shape[time])
    ends = np.clip(lengths.astype(np.int64), 0, x.shape[time])
    ends = ends if batch == 1 else ends.reshape(-1, 1)
    at = np.where(steps < ends, ends - 1 - steps, steps)
    samples = np.arange(x.shape[batch])
    return [x[at, samples] if time == 0 else x[samples[:, None], at]]


register(
    OpDef(
        "reverse_sequence",
        FusionKind.injective,
        infer=_reverse_infer,
        compute=_reverse_compute,
        reference=_reverse_numpy,
    )
)


# ------------------------------------------------------------------------------------------------------ range
def _range_length(ctx: OpContext) -> tuple[Expr, Any, Any] | None:
    """Length, start and delta; None when they are not known yet."""
    start, limit, delta = (ctx.arg(name) for name in ("start", "limit", "delta"))
    if start is None or limit is None or delta is None:
        return None
    first, last, step = start[0], limit[0], delta[0]
    if isinstance(first, Expr) or isinstance(last, Expr) or isinstance(step, Expr):
        number = const_int(as_expr(step))
        if number is None or number == 0:
            ctx.fail("the step of a range must be a number other than 0")
        distance = as_expr(last) - first if number > 0 else as_expr(first) - last
        return simplify(maximum((distance + (abs(number) - 1)) // abs(number), 0)), first, step
    if step == 0:
        ctx.fail("the step of a range must not be 0")
    if not np.isfinite([first, last, step]).all():
        ctx.fail(f"a range from {first} to {last} by {step} has no end")
    return as_expr(max(int(np.ceil((last - first) / step)), 0)), first, step


def _range_infer(ctx: OpContext) -> list[TensorType]:
    found = _range_length(ctx)
    length = ctx.unknown_dim() if found is None else found[0]
    return [TensorType((length,), ctx.attr("dtype"))]


def _range_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    found = _range_length(ctx)
    if found is None:
        ctx.fail("the bounds of a range must be known when the model is compiled")
    length, start, step = found
    dtype = ctx.attr("dtype")

    def body(i: Expr) -> Expr:
        if dt.is_float(dtype):
            return i.astype(dtype) * const(step, dtype) + const(start, dtype)
        return (i * step + start).astype(dtype)

    return [te.compute((length,), body, "range")]


def _range_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    found = _range_length(ctx)
    assert found is not None
    length, start, step = ((const_int(e) or 0) if isinstance(e, Expr) else e for e in found)
    values = np.arange(length) * step + start
    return [np.asarray(values).astype(dt.to_numpy(ctx.attr("dtype")))]


def _range_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    found = _range_length(ctx)
    assert found is not None
    length, start, step = found
    values = [as_expr(start) + n * as_expr(step) for n in range(const_int(length) or 0)]
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return [out]


register(
    OpDef(
        "range",
        FusionKind.injective,
        infer=_range_infer,
        compute=_range_compute,
        reference=_range_numpy,
        params={0: "start", 1: "limit", 2: "delta"},
        symbolic=_range_symbolic,
    )
)


# ---------------------------------------------------------------------------------------------------- one_hot
def _one_hot_infer(ctx: OpContext) -> list[TensorType]:
    indices, values = ctx.input(0), ctx.input(1)
    if values.rank != 1 or const_int(values.shape[0]) not in (None, 2):
        ctx.fail(f"one_hot takes the pair [off, on] as values, not {format_shape(values.shape)}")
    axis = axis_of(ctx, ctx.attr("axis", -1), indices.rank + 1)
    depth = ctx.arg("depth")
    size = (
        ctx.unknown_dim()
        if depth is None
        else as_expr(depth[0] if isinstance(depth[0], Expr) else int(depth[0]))
    )
    return [TensorType((*indices.shape[:axis], size, *indices.shape[axis:]), values.dtype)]


def _one_hot_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Indices count from the end when negative; those outside the depth give only 'off'."""
    indices, values = inputs[0], inputs[1]
    shape = _one_hot_infer(ctx)[0].shape
    axis = axis_of(ctx, ctx.attr("axis", -1), len(shape))
    depth = shape[axis]

    def body(*i: Expr) -> Expr:
        raw = indices[(*i[:axis], *i[axis + 1 :])].astype("int64")
        where = select(raw < 0, raw + depth, raw)
        return select(i[axis].eq(where), values[1], values[0])

    return [te.compute(shape, body, "one_hot")]


def _one_hot_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    indices, values = inputs[0].astype(np.int64), inputs[1]
    shape = _one_hot_infer(ctx)[0].shape
    axis = axis_of(ctx, ctx.attr("axis", -1), len(shape))
    depth = const_int(shape[axis]) or 0
    where = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis)
    ruler = np.arange(depth).reshape([-1 if d == axis else 1 for d in range(len(shape))])
    return [np.where(where == ruler, values[1], values[0])]


register(
    OpDef(
        "one_hot",
        FusionKind.injective,
        infer=_one_hot_infer,
        compute=_one_hot_compute,
        reference=_one_hot_numpy,
        params={2: "depth"},
    )
)
