"""Taking parts and adding borders: slice, split, pad, trilu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import te
from tilewright.ir.expr import Expr, all_of, as_expr, ceildiv, const, maximum, minimum, select
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, axis_of

#: Ends from here on mean "all the rest": exporters write the largest integer of some type, or a round number.
_TO_THE_END: Final = 10**9


# ------------------------------------------------------------------------------------------------------ slice
class Slice(NamedTuple):
    """One dimension of a slice: element ``i`` of the result is element ``start + i * step``."""

    start: Expr
    extent: Expr
    step: int


def _clamped(value: Any, dim: Expr, low: int, high: int) -> Expr:
    """A start or end as a position: negative ones count from the end, then clamped to ``low .. dim + high``.

    Symbolic ends are kept simple where their sign is known.
    """
    e = as_expr(value)
    number, size = const_int(e), const_int(dim)
    if number is not None and size is not None:
        position = number + size if number < 0 else number
        return as_expr(min(max(position, low), size + high))
    if number is None:
        # A computed position: exporters write sizes of other tensors here, which are not negative.
        e = select(e < 0, e + dim, e) if not _not_negative(e) else e
    elif number < 0:
        e = dim + number
    elif number >= _TO_THE_END:
        return dim + high
    return simplify(minimum(maximum(e, low), dim + high))


def _not_negative(e: Expr) -> bool:
    from tilewright.ir.bounds import interval

    low = interval(e, {}).lo
    return low is not None and low >= 0


def slices(ctx: OpContext) -> list[Slice] | None:
    """The slice of every dimension, or None when starts or ends are not known yet."""
    x = ctx.input(0)
    starts, ends, axes, steps = (ctx.arg(name) for name in ("starts", "ends", "axes", "steps"))
    if (axes is None and ctx.has_arg("axes")) or (steps is None and ctx.has_arg("steps")):
        return None
    if starts is None or ends is None:
        return None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        ctx.fail("starts, ends, axes and steps of a slice must be of one length")
    result = [Slice(as_expr(0), dim, 1) for dim in x.shape]
    for start, end, raw_axis, raw_step in zip(starts, ends, axes, steps, strict=True):
        step, axis = const_int(as_expr(raw_step)), const_int(as_expr(raw_axis))
        if step is None or axis is None or step == 0:
            ctx.fail("steps of a slice must be numbers other than 0")
        axis = axis_of(ctx, axis, x.rank)
        dim = x.shape[axis]
        if step > 0:
            first, last = _clamped(start, dim, 0, 0), _clamped(end, dim, 0, 0)
            extent = ceildiv(last - first, step)
        else:
            first, last = _clamped(start, dim, 0, -1), _clamped(end, dim, -1, -1)
            extent = ceildiv(first - last, -step)
        result[axis] = Slice(first, simplify(maximum(extent, 0)), step)
    return result


def _slice_infer(ctx: OpContext) -> list[TensorType]:
    x, parts = ctx.input(0), slices(ctx)
    if parts is None:
        return [TensorType(tuple(ctx.unknown_dim() for _ in x.shape), x.dtype)]
    return [TensorType(tuple(p.extent for p in parts), x.dtype)]


def _slice_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, parts = inputs[0], slices(ctx) or []

    def body(*i: Expr) -> Expr:
        return x[tuple(p.start + e * p.step for e, p in zip(i, parts, strict=True))]

    return [te.compute([p.extent for p in parts], body, "slice")]


def _slice_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    index = []
    for part in slices(ctx) or []:
        start, extent = const_int(part.start) or 0, const_int(part.extent) or 0
        stop = start + extent * part.step
        index.append(slice(start, None if stop < 0 else stop, part.step))
    return [np.asarray(inputs[0][tuple(index)], order="C")]


register(
    OpDef(
        "slice",
        FusionKind.injective,
        infer=_slice_infer,
        compute=_slice_compute,
        reference=_slice_numpy,
        params={1: "starts", 2: "ends", 3: "axes", 4: "steps"},
        symbolic=_slice_numpy,
    )
)


# ------------------------------------------------------------------------------------------------------ split
def _split_sizes(ctx: OpContext) -> tuple[int, ...]:
    axis = axis_of(ctx, ctx.attr("axis"), ctx.input(0).rank)
    sizes = ctx.arg("sizes")
    if sizes is None:
        ctx.fail("the sizes of a split must be known")
    numbers = [const_int(as_expr(s)) for s in sizes]
    if any(s is None or s < 0 for s in numbers):
        ctx.fail(f"the sizes of a split must be non-negative numbers, not {tuple(sizes)}")
    known = tuple(s for s in numbers if s is not None)
    dim = const_int(ctx.input(0).shape[axis])
    if dim is not None and sum(known) != dim:
        ctx.fail(f"a dimension of {dim} cannot be split into {known}")
    return known


def _split_infer(ctx: OpContext) -> list[TensorType]:
    x, sizes = ctx.input(0), _split_sizes(ctx)
    axis = axis_of(ctx, ctx.attr("axis"), x.rank)
    return [TensorType((*x.shape[:axis], as_expr(s), *x.shape[axis + 1 :]), x.dtype) for s in sizes]


def _split_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, axis = inputs[0], axis_of(ctx, ctx.attr("axis"), inputs[0].ndim)
    outputs, start = [], 0
    for kind, size in zip(_split_infer(ctx), _split_sizes(ctx), strict=True):
        outputs.append(
            te.compute(kind.shape, lambda *i, s=start: x[(*i[:axis], i[axis] + s, *i[axis + 1 :])], "split")
        )
        start += size
    return outputs


def _split_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    ends = np.cumsum(_split_sizes(ctx))
    return [np.ascontiguousarray(part) for part in np.split(inputs[0], ends[:-1], axis=ctx.attr("axis"))]


register(
    OpDef(
        "split",
        FusionKind.injective,
        infer=_split_infer,
        compute=_split_compute,
        reference=_split_numpy,
        params={1: "sizes"},
        symbolic=_split_numpy,
    )
)


# -------------------------------------------------------------------------------------------------------- pad
_MODES = ("constant", "reflect", "edge", "wrap")


def _pads(ctx: OpContext) -> list[tuple[Any, Any]] | None:
    """Elements added before and after each dimension (negative: removed), or None when not known yet."""
    rank, pads, axes = ctx.input(0).rank, ctx.arg("pads"), ctx.arg("axes")
    if pads is None or (axes is None and ctx.has_arg("axes")):
        return None
    numbers = [const_int(as_expr(a)) for a in axes] if axes is not None else list(range(rank))
    if len(pads) != 2 * len(numbers):
        ctx.fail(f"{len(pads)} pads for {len(numbers)} dimensions (all begins, then all ends)")
    result: list[tuple[Any, Any]] = [(0, 0)] * rank
    for n, axis in enumerate(numbers):
        if axis is None:
            ctx.fail("the axes of a pad must be numbers")
        result[axis_of(ctx, axis, rank)] = (pads[n], pads[len(numbers) + n])
    return result


def _pad_infer(ctx: OpContext) -> list[TensorType]:
    x, pads = ctx.input(0), _pads(ctx)
    mode = ctx.attr("mode", "constant")
    if mode not in _MODES:
        ctx.fail(f"there is no pad mode '{mode}' (there are {', '.join(_MODES)})")
    if pads is None:
        return [TensorType(tuple(ctx.unknown_dim() for _ in x.shape), x.dtype)]
    dims = []
    for dim, (before, after) in zip(x.shape, pads, strict=True):
        size, low, high = const_int(dim), const_int(as_expr(before)), const_int(as_expr(after))
        if size is not None and low is not None and high is not None:
            if size + low + high < 0:
                ctx.fail(f"pads ({low}, {high}) remove more than a dimension of {size} has")
            if mode == "reflect" and max(low, high) > max(size - 1, 0):
                ctx.fail(f"pads ({low}, {high}) reflect more than a dimension of {size} holds")
            if mode in ("edge", "wrap") and size == 0 and max(low, high) > 0:
                ctx.fail(f"an empty dimension has no elements to pad with in mode '{mode}'")
        dims.append(dim + before + after)
    return [TensorType(tuple(dims), x.dtype)]


def _source_index(i: Expr, dim: Expr, before: Any, after: Any, mode: str) -> Expr:
    """Where position ``i`` of a padded dimension comes from, for modes other than constant."""
    position = i - before
    if const_int(as_expr(before)) == 0 and const_int(as_expr(after)) == 0:
        return i
    if mode == "edge":
        return minimum(maximum(position, 0), dim - 1)
    if mode == "wrap":
        return position % dim
    folded = select(position < 0, -position, position)
    return select(folded < dim, folded, (dim - 1) * 2 - folded)


def pad_constant(
    x: te.Tensor, pads: Sequence[tuple[Any, Any]], value: Expr | Any, name: str = "pad"
) -> te.Tensor:
    """``x`` with a border of ``value`` (an expression, or a function that makes one inside the body)."""
    shape = [d + b + a for d, (b, a) in zip(x.shape, pads, strict=True)]

    def body(*i: Expr) -> Expr:
        source: list[Expr] = []
        inside: list[Expr] = []
        for e, dim, (before, after) in zip(i, x.shape, pads, strict=True):
            low, high = const_int(as_expr(before)), const_int(as_expr(after))
            position = e - before
            source.append(position)
            if low is None or low > 0:
                inside.append(as_expr(before) <= e)
            if high is None or high > 0:
                inside.append(e < dim + before)
        fill = value() if callable(value) else value
        return select(all_of(inside), x[tuple(source)], fill)

    return te.compute(shape, body, name)


def _pad_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, pads, mode = inputs[0], _pads(ctx) or [], ctx.attr("mode", "constant")
    if mode == "constant":
        known = ctx.consts[2] if ctx.has_input(2) else np.zeros(())
        given = inputs[2] if len(inputs) > 2 else None
        if known is not None:
            return [pad_constant(x, pads, const(known.reshape(()).item(), x.dtype))]
        assert given is not None
        return [pad_constant(x, pads, lambda: given[(0,) * given.ndim])]

    def body(*i: Expr) -> Expr:
        return x[
            tuple(_source_index(e, d, b, a, mode) for e, d, (b, a) in zip(i, x.shape, pads, strict=True))
        ]

    return [te.compute(_pad_infer(ctx)[0].shape, body, "pad")]


def _pad_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, mode = inputs[0], ctx.attr("mode", "constant")
    pads = [(const_int(as_expr(b)) or 0, const_int(as_expr(a)) or 0) for b, a in _pads(ctx) or []]
    added = [(max(b, 0), max(a, 0)) for b, a in pads]
    options: dict[str, Any] = {}
    if mode == "constant":
        options["constant_values"] = (
            0 if len(inputs) < 3 or inputs[2] is None else inputs[2].reshape(()).item()
        )
    # Positions refer to the tensor as it was, so negative pads cut after the others have grown it.
    grown = np.pad(x, added, mode, **options)
    cut = tuple(slice(max(-b, 0), g - max(-a, 0)) for (b, a), g in zip(pads, grown.shape, strict=True))
    return [np.ascontiguousarray(grown[cut])]


register(
    OpDef(
        "pad",
        FusionKind.injective,
        infer=_pad_infer,
        compute=_pad_compute,
        reference=_pad_numpy,
        params={1: "pads", 3: "axes"},
    )
)


# ------------------------------------------------------------------------------------------------------ trilu
def _trilu_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    if x.rank < 2:
        ctx.fail("trilu takes matrices")
    return [x]


def _trilu_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """The upper (or lower) triangle; ``k`` moves the diagonal."""
    x, k, upper = inputs[0], int(ctx.attr("k", 0)), bool(ctx.attr("upper", True))

    def body(*i: Expr) -> Expr:
        row, column = i[-2], i[-1]
        kept = row + k <= column if upper else column <= row + k
        return select(kept, x[i], const(0, x.dtype))

    return [te.compute(x.shape, body, "trilu")]


register(
    OpDef(
        "trilu",
        FusionKind.injective,
        infer=_trilu_infer,
        compute=_trilu_compute,
        reference=lambda ctx, inputs: [
            (np.triu if ctx.attr("upper", True) else np.tril)(inputs[0], int(ctx.attr("k", 0)))  # type: ignore[arg-type]
        ],
    )
)
