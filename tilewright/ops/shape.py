"""Data movement whose result is the same elements in another arrangement: reshape, transpose, expand, concat,
tile, shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, const, select
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import const_int
from tilewright.ops.common import (
    Operands,
    Shape,
    axis_of,
    broadcast_shapes,
    format_shape,
    product,
    read_broadcast,
    shape_of,
)


# ---------------------------------------------------------------------------------------------------- reshape
def reshaped(ctx: OpContext) -> Shape:
    """The result shape of a reshape: -1 takes what is left, and 0 copies a dimension if ``copy_zeros``."""
    x = ctx.input(0)
    wanted = ctx.arg("shape")
    if wanted is None:
        return tuple(ctx.unknown_dim() for _ in range(_unknown_rank(ctx, 1)))
    copy_zeros = bool(ctx.attr("copy_zeros", False))
    dims: list[Expr | None] = []
    for n, value in enumerate(wanted):
        size = const_int(as_expr(value))
        if size == -1:
            dims.append(None)
        elif size == 0 and copy_zeros:
            if n >= x.rank:
                ctx.fail(
                    f"dimension {n} of the target shape copies a dimension that the tensor does not have"
                )
            dims.append(x.shape[n])
        elif size is not None and size < -1:
            ctx.fail(f"the target shape {tuple(wanted)} holds a negative size")
        else:
            dims.append(as_expr(value))
    if dims.count(None) > 1:
        ctx.fail(f"the target shape {tuple(wanted)} holds more than one -1")
    if None in dims:
        dims[dims.index(None)] = _remaining(ctx, x.shape, [d for d in dims if d is not None], wanted)
    result = tuple(d for d in dims if d is not None)
    have, need = _size(x.shape), _size(result)
    if have is not None and need is not None and have != need:
        ctx.fail(
            f"{format_shape(x.shape)} has {have} elements, the target shape {format_shape(result)} {need}"
        )
    return result


def _remaining(ctx: OpContext, shape: Shape, dims: Sequence[Expr], wanted: Sequence[Any]) -> Expr:
    """The size that -1 stands for; equal symbolic factors cancel."""
    numerator, denominator = list(shape), list(dims)
    for dim in dims:
        if dim in numerator and const_int(dim) is None:
            numerator.remove(dim)
            denominator.remove(dim)
    have, rest = _size(numerator), _size(denominator)
    if have is not None and rest is not None:
        if rest == 0 or have % rest:
            ctx.fail(f"{format_shape(shape)} cannot be reshaped to {tuple(wanted)}")
        return as_expr(have // rest)
    return simplify(product(numerator) // product(denominator))


def _size(shape: Sequence[Expr]) -> int | None:
    dims = [const_int(d) for d in shape]
    return None if any(d is None for d in dims) else math.prod(d for d in dims if d is not None)


def _unknown_rank(ctx: OpContext, index: int) -> int:
    """The number of elements of an input whose values are not known yet."""
    kind = ctx.input(index)
    length = const_int(kind.shape[0]) if kind.rank == 1 else None
    if length is None:
        ctx.fail("the rank of the result must be known: the shape input must be a vector of known length")
    return length


def _reshape_infer(ctx: OpContext) -> list[TensorType]:
    return [TensorType(reshaped(ctx), ctx.input(0).dtype)]


def flat_index(shape: Sequence[Expr], index: Sequence[Expr]) -> Expr:
    """The row-major position of ``index`` in ``shape``."""
    flat: Expr = as_expr(0)
    for dim, i in zip(shape, index, strict=True):
        flat = flat * dim + i
    return flat


def reshape_index(source: Sequence[Expr], target: Sequence[Expr], index: Sequence[Expr]) -> tuple[Expr, ...]:
    """Where element ``index`` of shape ``target`` lies in ``source``.

    Dimensions are matched in the smallest groups of equal size, so that a dimension that both shapes share is
    copied without a division, and a split or merged one gets one only by its own factors.
    """
    result: list[Expr] = []
    s = t = 0
    while s < len(source) or t < len(target):
        s_end, t_end = _next_group(source, target, s, t)
        result.extend(_regroup(source[s:s_end], target[t:t_end], index[t:t_end]))
        s, t = s_end, t_end
    return tuple(result)


def _next_group(source: Sequence[Expr], target: Sequence[Expr], s: int, t: int) -> tuple[int, int]:
    """Ends of the shortest runs from ``s`` and ``t`` on that hold the same number of elements."""
    if s < len(source) and t < len(target) and source[s] is target[t]:
        return s + 1, t + 1
    s_end, t_end, a, b = s, t, 1, 1
    while s_end < len(source) or t_end < len(target):
        behind = a < b or (a == b and s_end - s <= t_end - t)
        grow_source = t_end == len(target) or (s_end < len(source) and behind)
        dim = const_int(source[s_end] if grow_source else target[t_end])
        if dim is None or dim == 0:
            return len(source), len(target)
        if grow_source:
            a, s_end = a * dim, s_end + 1
        else:
            b, t_end = b * dim, t_end + 1
        if a == b and s_end > s and t_end > t:
            return s_end, t_end
    return len(source), len(target)


def _regroup(source: Sequence[Expr], target: Sequence[Expr], index: Sequence[Expr]) -> list[Expr]:
    live = [n for n, d in enumerate(source) if const_int(d) != 1]
    if len(live) == 0:
        return [as_expr(0)] * len(source)
    kept = [(d, i) for d, i in zip(target, index, strict=True) if const_int(d) != 1]
    flat = flat_index([d for d, _ in kept], [i for _, i in kept])
    parts: list[Expr] = [as_expr(0)] * len(source)
    for n in reversed(live[1:]):
        parts[n] = flat % source[n]
        flat = flat // source[n]
    parts[live[0]] = flat
    return parts


def _reshape_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, shape = inputs[0], reshaped(ctx)
    return [te.compute(shape, lambda *i: x[reshape_index(x.shape, shape, i)], "reshape")]


def _reshape_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    wanted = [int(const_int(as_expr(d)) or 0) for d in ctx.arg("shape") or ()]
    if ctx.attr("copy_zeros", False):
        wanted = [x.shape[n] if d == 0 else d for n, d in enumerate(wanted)]
    if -1 in wanted and x.size == 0:
        rest = math.prod(d for d in wanted if d != -1)
        wanted = [0 if d == -1 and rest else d for d in wanted]
    return [x.reshape(wanted)]


def _reshape_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    shape = [const_int(d) for d in reshaped(ctx)]
    return [x.reshape([d for d in shape if d is not None])]


register(
    OpDef(
        "reshape",
        FusionKind.injective,
        infer=_reshape_infer,
        compute=_reshape_compute,
        reference=_reshape_numpy,
        params={1: "shape"},
        symbolic=_reshape_symbolic,
    )
)


# -------------------------------------------------------------------------------------------------- transpose
def _perm(ctx: OpContext) -> tuple[int, ...]:
    rank = ctx.input(0).rank
    perm = ctx.attr("perm", None)
    if perm is None:
        return tuple(reversed(range(rank)))
    if sorted(perm) != list(range(rank)):
        ctx.fail(f"perm {tuple(perm)} is no permutation of the {rank} dimensions")
    return tuple(perm)


def _transpose_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    return [TensorType(tuple(x.shape[p] for p in _perm(ctx)), x.dtype)]


def _transpose_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, perm = inputs[0], _perm(ctx)

    def body(*i: Expr) -> Expr:
        source = list(i)
        for n, p in enumerate(perm):
            source[p] = i[n]
        return x[tuple(source)]

    return [te.compute([x.shape[p] for p in perm], body, "transpose")]


def _transpose_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    return [np.transpose(inputs[0], _perm(ctx))]


register(
    OpDef(
        "transpose",
        FusionKind.injective,
        infer=_transpose_infer,
        compute=_transpose_compute,
        reference=_transpose_numpy,
        symbolic=_transpose_numpy,
    )
)


# ----------------------------------------------------------------------------------------------------- expand
def _expand_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    wanted = ctx.arg("shape")
    if wanted is None:
        unknown = tuple(ctx.unknown_dim() for _ in range(max(_unknown_rank(ctx, 1), x.rank)))
        return [TensorType(unknown, x.dtype)]
    return [TensorType(broadcast_shapes(ctx, x.shape, shape_of(wanted)), x.dtype)]


def _expand_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, shape = inputs[0], _expand_infer(ctx)[0].shape
    return [te.compute(shape, lambda *i: read_broadcast(x, shape, i), "expand")]


def _expand_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    wanted = tuple(const_int(as_expr(d)) or 0 for d in ctx.arg("shape") or ())
    shape = np.broadcast_shapes(inputs[0].shape, wanted)
    return [np.array(np.broadcast_to(inputs[0], shape), order="C")]


def _expand_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    shape = [const_int(d) for d in _expand_infer(ctx)[0].shape]
    return [np.broadcast_to(inputs[0], [d for d in shape if d is not None])]


register(
    OpDef(
        "expand",
        FusionKind.injective,
        infer=_expand_infer,
        compute=_expand_compute,
        reference=_expand_numpy,
        params={1: "shape"},
        symbolic=_expand_symbolic,
    )
)


# ----------------------------------------------------------------------------------------------------- concat
def _concat_infer(ctx: OpContext) -> list[TensorType]:
    first = ctx.input(0)
    axis = axis_of(ctx, ctx.attr("axis"), first.rank)
    total: Expr = as_expr(0)
    dims = list(first.shape)
    for n in range(len(ctx.inputs)):
        x = ctx.input(n)
        if x.rank != first.rank or x.dtype != first.dtype:
            ctx.fail("concatenated tensors must agree in rank and dtype")
        for d, (a, b) in enumerate(zip(dims, x.shape, strict=True)):
            if d == axis or a is b:
                continue
            if const_int(a) is not None and const_int(b) is not None:
                ctx.fail(f"concatenated tensors differ in dimension {d}")
            dims[d] = b if const_int(a) is None else a
        total = total + x.shape[axis]
    dims[axis] = total
    return [TensorType(tuple(dims), first.dtype)]


def _concat_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    axis = axis_of(ctx, ctx.attr("axis"), inputs[0].ndim)
    kind = _concat_infer(ctx)[0]
    # Empty operands hold nothing to read.
    parts = [t for t in inputs if const_int(t.shape[axis]) != 0]
    starts: list[Expr] = [as_expr(0)]
    for part in parts:
        starts.append(starts[-1] + part.shape[axis])

    def body(*i: Expr) -> Expr:
        if not parts:
            return const(0, kind.dtype)
        value: Expr | None = None
        for part, start, end in reversed(list(zip(parts, starts[:-1], starts[1:], strict=True))):
            piece = part[(*i[:axis], i[axis] - start, *i[axis + 1 :])]
            value = piece if value is None else select(i[axis] < end, piece, value)
        assert value is not None
        return value

    return [te.compute(kind.shape, body, "concat")]


register(
    OpDef(
        "concat",
        FusionKind.injective,
        infer=_concat_infer,
        compute=_concat_compute,
        reference=lambda ctx, inputs: [np.concatenate(inputs, axis=ctx.attr("axis"))],  # type: ignore[arg-type]
        symbolic=lambda ctx, inputs: [np.concatenate(inputs, axis=ctx.attr("axis"))],  # type: ignore[arg-type]
    )
)


# ------------------------------------------------------------------------------------------------------- tile
def _repeats(ctx: OpContext) -> Sequence[Any] | None:
    repeats = ctx.arg("repeats")
    if repeats is not None and len(repeats) != ctx.input(0).rank:
        ctx.fail(f"tile takes one repeat for each of {ctx.input(0).rank} dimensions, not {len(repeats)}")
    return repeats


def _tile_infer(ctx: OpContext) -> list[TensorType]:
    x, repeats = ctx.input(0), _repeats(ctx)
    if repeats is None:
        return [TensorType(tuple(ctx.unknown_dim() for _ in x.shape), x.dtype)]
    return [TensorType(tuple(d * r for d, r in zip(x.shape, repeats, strict=True)), x.dtype)]


def _tile_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, repeats = inputs[0], _repeats(ctx) or ()

    def body(*i: Expr) -> Expr:
        return x[
            tuple(
                e if const_int(as_expr(r)) == 1 else e % d
                for e, r, d in zip(i, repeats, x.shape, strict=True)
            )
        ]

    return [te.compute(_tile_infer(ctx)[0].shape, body, "tile")]


def _tile_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    return [np.tile(inputs[0], [const_int(as_expr(r)) or 0 for r in _repeats(ctx) or ()])]


register(
    OpDef(
        "tile",
        FusionKind.injective,
        infer=_tile_infer,
        compute=_tile_compute,
        reference=_tile_numpy,
        params={1: "repeats"},
    )
)


# ------------------------------------------------------------------------------------------------------ shape
def _shape_range(ctx: OpContext) -> Shape:
    x = ctx.input(0)
    start, end, _ = slice(ctx.attr("start", 0), ctx.attr("end", None)).indices(x.rank)
    return x.shape[start:end]


def _shape_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    dims = _shape_range(ctx)
    out = np.empty(len(dims), dtype=object)
    out[:] = dims
    return [out]


def _shape_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    dims = _shape_range(ctx)

    def body(i: Expr) -> Expr:
        value: Expr = dims[-1] if dims else as_expr(0)
        for n in reversed(range(len(dims) - 1)):
            value = select(i.eq(n), dims[n], value)
        return value

    return [te.compute((len(dims),), body, "shape")]


register(
    OpDef(
        "shape",
        FusionKind.opaque,
        infer=lambda ctx: [TensorType.make((len(_shape_range(ctx)),), "int64")],
        compute=_shape_compute,
        reference=lambda ctx, inputs: [
            np.asarray(inputs[0].shape[slice(ctx.attr("start", 0), ctx.attr("end", None))], dtype=np.int64)  # type: ignore[union-attr]
        ],
        symbolic=_shape_symbolic,
        reads_data=False,
    )
)
