"""Writing at computed positions: scatter and its kin.

Where several updates meet in one element without a reduction, the last one wins. A wrong index writes a wrong
element instead of foreign memory (:func:`tilewright.ops.index.position`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, binop, const, maximum
from tilewright.ir.visit import const_int
from tilewright.ops.common import (
    Operands,
    as_dtype,
    axis_of,
    format_shape,
    in_float32,
    static_shape,
)
from tilewright.ops.index import check_indices, position, positions_numpy, require_within

#: attribute ``reduction`` -> operator of the IR that combines the old element with the update.
REDUCTIONS: Final = {"none": None, "add": "add", "mul": "mul", "max": "max", "min": "min"}
_UFUNCS: Final = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _reduction(ctx: OpContext) -> str | None:
    name = ctx.attr("reduction", "none")
    if name not in REDUCTIONS:
        ctx.fail(f"there is no reduction '{name}' (there are {', '.join(REDUCTIONS)})")
    if name != "none" and ctx.input(0).dtype == "bool":
        ctx.fail(f"reduction '{name}' is not defined for bool")
    return REDUCTIONS[name]


def _combined(op: str | None, old: Callable[[], Expr], fresh: Expr) -> Expr:
    return fresh if op is None else in_float32(lambda a, b: binop(op, a, b), old(), fresh)


def _copy(x: te.Tensor, name: str) -> te.Tensor:
    return te.compute(x.shape, lambda *i: x[i], name)


def _write_numpy(op: str | None, result: np.ndarray, where: tuple[Any, ...], updates: np.ndarray) -> None:
    """``result[where] = updates`` in order, or combined with what is there."""
    if op is None:
        result[where] = updates
    else:
        _UFUNCS[op].at(result, where, updates)


# ------------------------------------------------------------------------------------------- scatter_elements
def _elements_infer(ctx: OpContext) -> list[TensorType]:
    x, indices, updates = ctx.input(0), check_indices(ctx, 1), ctx.input(2)
    _reduction(ctx)
    axis = axis_of(ctx, ctx.attr("axis", 0), x.rank)
    shapes = (format_shape(t.shape) for t in (x, indices, updates))
    if not x.rank == indices.rank == updates.rank or x.dtype != updates.dtype:
        ctx.fail(f"scatter_elements takes data, indices and updates of one rank, not {', '.join(shapes)}")
    for a, b in zip(indices.shape, updates.shape, strict=True):
        if None not in (const_int(a), const_int(b)) and const_int(a) != const_int(b):
            ctx.fail("indices and updates of scatter_elements have one shape")
    require_within(ctx, indices, x, axis)
    return [x]


def _elements_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, indices, updates = inputs
    axis, op = axis_of(ctx, ctx.attr("axis", 0), x.ndim), _reduction(ctx)

    def write(state: te.Tensor, *p: Expr) -> tuple[tuple[Expr, ...], Expr]:
        where = (*p[:axis], position(indices[p], x.shape[axis]), *p[axis + 1 :])
        return where, _combined(op, lambda: state[where], updates[p])

    loops = [(d, "reduce" if n == axis else "spatial") for n, d in enumerate(indices.shape)]
    return [te.update(_copy(x, "scatter_elements"), loops, write)]


def _elements_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, indices, updates = inputs
    axis = axis_of(ctx, ctx.attr("axis", 0), x.ndim)
    where = list(np.indices(indices.shape, sparse=True))
    where[axis] = positions_numpy(indices, x.shape[axis])
    return [_scattered(ctx, x, tuple(where), updates)]


def _scattered(ctx: OpContext, x: np.ndarray, where: tuple[Any, ...], updates: np.ndarray) -> np.ndarray:
    op = _reduction(ctx)
    if op is not None and x.dtype.itemsize == 2 and dt.is_float(dt.from_numpy(x.dtype)):
        result = x.astype(np.float32)  # exact: rounding once is what the interpreter cannot tell from often
        _write_numpy(op, result, where, updates.astype(np.float32))
        return as_dtype(result, x.dtype.name)
    result = x.copy()
    _write_numpy(op, result, where, updates)
    return result


register(
    OpDef(
        "scatter_elements",
        FusionKind.opaque,
        infer=_elements_infer,
        compute=_elements_compute,
        reference=_elements_numpy,
    )
)


# ------------------------------------------------------------------------------------------------- scatter_nd
def _nd_infer(ctx: OpContext) -> list[TensorType]:
    x, indices, updates = ctx.input(0), check_indices(ctx, 1), ctx.input(2)
    _reduction(ctx)
    depth = const_int(indices.shape[-1]) if indices.rank else None
    if depth is None or depth > x.rank or updates.rank != indices.rank - 1 + x.rank - depth:
        ctx.fail(
            f"scatter_nd: indices {format_shape(indices.shape)} and updates {format_shape(updates.shape)} "
            f"do not fit data {format_shape(x.shape)}"
        )
    if x.dtype != updates.dtype:
        ctx.fail(f"scatter_nd takes data and updates of one dtype, not {x.dtype} and {updates.dtype}")
    _require_shape(ctx, updates, (*indices.shape[:-1], *x.shape[depth:]))
    return [x]


def _require_shape(ctx: OpContext, kind: TensorType, wanted: Sequence[Expr]) -> None:
    """Fail when a known dimension differs from that of ``wanted``."""
    for a, b in zip(kind.shape, wanted, strict=True):
        known = const_int(a), const_int(b)
        if None not in known and known[0] != known[1]:
            ctx.fail(f"updates must have the shape {format_shape(wanted)}, not {format_shape(kind.shape)}")


def _nd_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, indices, updates = inputs
    op, outer, depth = _reduction(ctx), indices.ndim - 1, const_int(indices.shape[-1]) or 0

    def write(state: te.Tensor, *p: Expr) -> tuple[tuple[Expr, ...], Expr]:
        found = [position(indices[(*p[:outer], as_expr(d))], x.shape[d]) for d in range(depth)]
        where = (*found, *p[outer:])
        return where, _combined(op, lambda: state[where], updates[p])

    loops = [(d, "reduce" if n < outer else "spatial") for n, d in enumerate(updates.shape)]
    return [te.update(_copy(x, "scatter_nd"), loops, write)]


def _nd_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, indices, updates = inputs
    where = tuple(positions_numpy(indices[..., d], x.shape[d]) for d in range(indices.shape[-1]))
    return [_scattered(ctx, x, where, updates)]


register(OpDef("scatter_nd", FusionKind.opaque, infer=_nd_infer, compute=_nd_compute, reference=_nd_numpy))


# --------------------------------------------------------------------------------------------- tensor_scatter
def _cache_infer(ctx: OpContext) -> list[TensorType]:
    x, updates = ctx.input(0), ctx.input(1)
    axis = axis_of(ctx, ctx.attr("axis", -2), x.rank)
    if x.rank != updates.rank or axis == 0 or x.dtype != updates.dtype:
        ctx.fail("tensor_scatter takes a cache and updates of one rank, along an axis after the first")
    if ctx.has_input(2):
        _require_shape(ctx, check_indices(ctx, 2), x.shape[:1])
    _require_shape(ctx, updates, [*x.shape[:axis], updates.shape[axis], *x.shape[axis + 1 :]])
    if ctx.attr("mode", "linear") not in ("linear", "circular"):
        ctx.fail(f"tensor_scatter has no mode '{ctx.attr('mode')}' (there are linear, circular)")
    return [x]


def _cache_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Each sample's updates go to its cache from its own start on."""
    x, updates = inputs[0], inputs[1]
    starts = inputs[2] if len(inputs) > 2 else None
    axis, circular = axis_of(ctx, ctx.attr("axis", -2), x.ndim), ctx.attr("mode", "linear") == "circular"

    def write(state: te.Tensor, *p: Expr) -> tuple[tuple[Expr, ...], Expr]:
        at = p[axis] if starts is None else starts[p[0]].astype("int64") + p[axis]
        at = at % x.shape[axis] if circular else position(maximum(at, 0), x.shape[axis])
        return (*p[:axis], at, *p[axis + 1 :]), updates[p]

    loops = [(d, "reduce" if n == axis else "spatial") for n, d in enumerate(updates.shape)]
    return [te.update(_copy(x, "tensor_scatter"), loops, write)]


def _cache_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, updates = inputs[0], inputs[1]
    axis, size = axis_of(ctx, ctx.attr("axis", -2), x.ndim), x.shape[ctx.attr("axis", -2)]
    starts = np.zeros(x.shape[0], np.int64) if len(inputs) < 3 or inputs[2] is None else inputs[2]
    where = list(np.indices(updates.shape, sparse=True))
    at = where[axis] + starts.astype(np.int64).reshape(-1, *[1] * (x.ndim - 1))
    where[axis] = at % size if ctx.attr("mode", "linear") == "circular" else np.clip(at, 0, size - 1)
    result = x.copy()
    result[tuple(where)] = updates
    return [result]


register(
    OpDef(
        "tensor_scatter",
        FusionKind.opaque,
        infer=_cache_infer,
        compute=_cache_compute,
        reference=_cache_numpy,
    )
)


# ------------------------------------------------------------------------------------------------- max_unpool
def _unpool_infer(ctx: OpContext) -> list[TensorType]:
    x, indices, shape = ctx.input(0), check_indices(ctx, 1), ctx.attr("shape")
    if indices.rank != x.rank or len(shape) != x.rank:
        ctx.fail("max_unpool takes data and positions of one shape")
    _require_shape(ctx, indices, x.shape)
    return [TensorType.make(shape, x.dtype)]


def _unpool_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Zeros, with each element at its flat position; ``source`` is the shape that positions count in."""
    x, indices = inputs
    shape = _unpool_infer(ctx)[0].shape
    source = static_shape(ctx, [as_expr(d) for d in ctx.attr("source")], "the pooled tensor")

    def write(state: te.Tensor, *p: Expr) -> tuple[tuple[Expr, ...], Expr]:
        rest, where = indices[p].astype("int64"), []
        for size, dim in reversed(list(zip(source, shape, strict=True))):
            where.append(position(rest % size, dim))
            rest = rest // size
        return tuple(reversed(where)), x[p]

    start = te.compute(shape, lambda *i: const(0, x.dtype), "max_unpool")
    return [te.update(start, [(d, "reduce") for d in x.shape], write)]


def _unpool_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, indices = inputs
    shape = tuple(const_int(d) or 0 for d in _unpool_infer(ctx)[0].shape)
    result = np.zeros(shape, x.dtype)
    where = np.unravel_index(indices.astype(np.int64), tuple(ctx.attr("source")))
    result[tuple(positions_numpy(w, d) for w, d in zip(where, shape, strict=True))] = x
    return [result]


register(
    OpDef(
        "max_unpool",
        FusionKind.opaque,
        infer=_unpool_infer,
        compute=_unpool_compute,
        reference=_unpool_numpy,
    )
)
