"""Max, average and Lp pooling over sliding windows, in any number of spatial dimensions and either layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import (
    Expr,
    all_of,
    as_expr,
    ceildiv,
    const,
    maximum,
    minimum,
    reduce_identity,
    select,
)
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, accumulator_dtype, as_dtype, is_half, product
from tilewright.ops.window import Layout, Window, arrange, pad_spatial, windowed, windows


class _Pool(NamedTuple):
    """``windows`` hold the pads of the model, ``reaching`` those enlarged by what ``ceil_mode`` reaches over
    the end.
    """

    layout: Layout
    last: bool
    windows: list[Window]
    reaching: list[Window]
    out: list[Expr]


def _pool(ctx: OpContext) -> _Pool:
    x = ctx.input(0)
    if x.rank < 3:
        ctx.fail("pooling takes data with at least one spatial dimension")
    layout, last = Layout.of(ctx, x.rank), bool(ctx.attr("channels_last", False))
    kernel = tuple(int(k) for k in ctx.attr("kernel"))
    if len(kernel) != len(layout.spatial):
        ctx.fail(f"a kernel of {len(kernel)} dimensions for data with {len(layout.spatial)} spatial ones")
    dims = [x.shape[d] for d in layout.spatial]
    own = windows(ctx, kernel, dims)
    reaching, out = list(own), []
    for n, (dim, w) in enumerate(zip(dims, own, strict=True)):
        if ctx.attr("ceil_mode", False) and ctx.attr("auto_pad", None) is None:
            count = _ceil_positions(dim, w)
            out.append(count)
            size, positions = const_int(dim), const_int(count)
            if size is not None and positions is not None:
                over = (positions - 1) * w.stride + w.reach - (size + w.before)
                reaching[n] = w._replace(after=max(over, w.after))
        else:
            out.append(windowed(ctx, dim, w))
    return _Pool(layout, last, own, reaching, out)


def _ceil_positions(dim: Expr, w: Window) -> Expr:
    """Rounded up, but no window starts beyond the data and the padding before it."""
    count = ceildiv(dim + (w.before + w.after - w.reach), w.stride) + 1
    return minimum(count, (dim + w.before - 1) // w.stride + 1)


def _infer(ctx: OpContext) -> list[TensorType]:
    x, pool = ctx.input(0), _pool(ctx)
    if x.dtype == "bool":
        ctx.fail("pooling is not defined for bool")
    return [TensorType(arrange(pool.last, x.shape[0], x.shape[pool.layout.channel], pool.out), x.dtype)]


def _window_reduce(
    ctx: OpContext,
    x: te.Tensor,
    pool: _Pool,
    op: str,
    fill: float,
    name: str,
    element: Callable[[Expr], Expr] = lambda e: e,
) -> te.Tensor:
    """``op`` over ``element`` of the window at each position; what is outside the data counts as ``fill``."""
    padded = pad_spatial(x, pool.layout, pool.reaching, fill)
    wide = accumulator_dtype(x.dtype) if op == "sum" else x.dtype

    def body(*i: Expr) -> Expr:
        n, channel, spatial = (i[0], i[-1], i[1:-1]) if pool.last else (i[0], i[1], i[2:])

        def term(*taps: Expr) -> Expr:
            where = [
                p * w.stride + t * w.dilation for p, t, w in zip(spatial, taps, pool.windows, strict=True)
            ]
            return element(padded[arrange(pool.last, n, channel, where)].astype(wide))

        return te.reduce(op, [w.size for w in pool.windows], term)

    return te.compute(_infer(ctx)[0].shape, body, name)


def _numpy_windows(
    ctx: OpContext, x: np.ndarray, pool: _Pool, fill: Any
) -> tuple[np.ndarray, tuple[int, ...]]:
    """All windows of channels-last data along new trailing axes, and those axes."""
    rank = len(pool.windows)
    x = np.pad(x, [(0, 0), *((w.before, w.after) for w in pool.reaching), (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(
        x, [w.reach for w in pool.windows], tuple(range(1, rank + 1))
    )
    out = [const_int(o) or 0 for o in pool.out]
    places = tuple(slice(0, (n - 1) * w.stride + 1, w.stride) for n, w in zip(out, pool.windows, strict=True))
    taps = tuple(slice(None, None, w.dilation) for w in pool.windows)
    return view[(slice(None), *places, slice(None), *taps)], tuple(range(rank + 2, 2 * rank + 2))


# -------------------------------------------------------------------------------------------------------- max
def _max_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x = inputs[0]
    return [_window_reduce(ctx, x, _pool(ctx), "max", reduce_identity("max", x.dtype).value, "max_pool")]


def _max_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, pool = inputs[0], _pool(ctx)
    last = x if pool.last else np.moveaxis(x, 1, -1)
    fill = reduce_identity("max", dt.from_numpy(x.dtype)).value
    view, axes = _numpy_windows(ctx, last, pool, fill)
    result = view.max(axis=axes)
    return [np.ascontiguousarray(result if pool.last else np.moveaxis(result, -1, 1))]


register(OpDef("max_pool", FusionKind.reduction, infer=_infer, compute=_max_compute, reference=_max_numpy))


# ---------------------------------------------------------------------------------------- positions of maxima
def _positions_infer(ctx: OpContext) -> list[TensorType]:
    (kind,) = _infer(ctx)
    if ctx.attr("channels_last", False):
        ctx.fail("positions count in data with the channels first")
    return [TensorType(kind.shape, "int64")]


def _positions_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """The flat position in the data of the first maximum of each window; -1 where it only holds padding."""
    x, pool = inputs[0], _pool(ctx)
    best = _max_compute(ctx, inputs)[0]
    dims = [x.shape[d] for d in pool.layout.spatial]
    column_major = bool(ctx.attr("column_major", False))
    size = product(x.shape)

    def body(*i: Expr) -> Expr:
        def term(*taps: Expr) -> Expr:
            at = [
                p * w.stride + t * w.dilation - w.before
                for p, t, w in zip(i[2:], taps, pool.windows, strict=True)
            ]
            inside = [c for a, d in zip(at, dims, strict=True) for c in (as_expr(0) <= a, a < d)]
            value = x[(i[0], i[1], *at)]
            found = value.eq(best[i])
            if dt.is_float(x.dtype):
                found = found | intrinsic("isnan", value)
            return select(all_of(inside), select(found, _flat(x.shape, (*i[:2], *at)), size), size)

        return te.reduce("min", [w.size for w in pool.windows], term)

    first = te.compute(best.shape, body, "first")

    def place(*i: Expr) -> Expr:
        found = _column_major(x.shape, first[i]) if column_major else first[i]
        return select(first[i] < size, found, as_expr(-1))

    return [te.compute(best.shape, place, "max_positions")]


def _flat(shape: Sequence[Any], index: Sequence[Any]) -> Any:
    """Row-major place of ``index``."""
    flat: Any = 0
    for size, place in zip(shape, index, strict=True):
        flat = flat * size + place
    return flat


def _column_major(shape: Sequence[Any], flat: Any) -> Any:
    """The place of what lies at the row-major place ``flat`` when the spatial part counts the other way: the
    first of equal maxima is found row by row in any case."""
    area: Any = 1
    for size in shape[2:]:
        area = area * size
    inside = flat % area
    digits = []
    for size in reversed(shape[2:]):
        digits.append(inside % size)
        inside = inside // size
    other: Any = 0
    for size, digit in zip(reversed(shape[2:]), digits, strict=True):
        other = other * size + digit
    return flat // area * area + other


def _positions_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, pool = inputs[0], _pool(ctx)
    order = _flat(x.shape, np.indices(x.shape, sparse=True))
    where = np.broadcast_to(order, x.shape).astype(np.int64)
    fill = reduce_identity("max", dt.from_numpy(x.dtype)).value
    view, axes = _numpy_windows(ctx, np.moveaxis(x, 1, -1), pool, fill)
    places, _ = _numpy_windows(ctx, np.moveaxis(where, 1, -1), pool, -1)
    best = view.max(axis=axes, keepdims=True)
    found = ((view == best) | (view != view)) & (places >= 0)
    first = np.where(found, places, x.size).min(axis=axes)
    if ctx.attr("column_major", False):
        first = np.where(first < x.size, _column_major(x.shape, first), x.size)
    return [np.ascontiguousarray(np.moveaxis(np.where(first < x.size, first, -1), -1, 1))]


register(
    OpDef(
        "max_positions",
        FusionKind.opaque,
        infer=_positions_infer,
        compute=_positions_compute,
        reference=_positions_numpy,
    )
)


# --------------------------------------------------------------------------------------------------------- Lp
def _lp_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """``(sum |x| ** p) ** (1 / p)`` over each window."""
    x, p = inputs[0], float(ctx.attr("p", 2))

    def element(value: Expr) -> Expr:
        if p == 2:
            return value * value
        size = intrinsic("abs", value)
        return size if p == 1 else intrinsic("pow", size, const(p, size.dtype))

    total = _window_reduce(ctx, x, _pool(ctx), "sum", 0.0, "power_sum", element)

    def body(*i: Expr) -> Expr:
        value = total[i]
        if p != 1:
            root = intrinsic("sqrt", value) if p == 2 else intrinsic("pow", value, const(1 / p, value.dtype))
            value = root
        return value.astype(x.dtype)

    return [te.compute(total.shape, body, "lp_pool")]


def _lp_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, pool, p = inputs[0], _pool(ctx), float(ctx.attr("p", 2))
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    view, axes = _numpy_windows(ctx, wide if pool.last else np.moveaxis(wide, 1, -1), pool, 0)
    result = (np.abs(view) ** p).sum(axis=axes) ** (1 / p)
    result = as_dtype(result, x.dtype.name)
    return [np.ascontiguousarray(result if pool.last else np.moveaxis(result, -1, 1))]


# ---------------------------------------------------------------------------------------------------- average
def _countable(ctx: OpContext, pool: _Pool) -> list[Window]:
    """The border that counts into the average: the model's own pads, or none. What ``ceil_mode`` adds never
    does.
    """
    if ctx.attr("count_include_pad", False):
        return pool.windows
    return [w._replace(before=0, after=0) for w in pool.windows]


def _taps_inside(position: Expr, dim: Expr, w: Window, border: Window) -> Expr:
    """How many taps of the window at ``position`` fall on the data or its counted border."""
    start = position * w.stride - w.before
    # Tap t lies inside when -border.before <= start + t * dilation < dim + border.after.
    first = maximum(ceildiv(-border.before - start, w.dilation), 0)
    end = minimum(ceildiv(dim + border.after - start, w.dilation), w.size)
    return end - first


def _avg_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, pool = inputs[0], _pool(ctx)
    total = _window_reduce(ctx, x, pool, "sum", 0.0, "pool_sum")
    wide, dtype = total.dtype, x.dtype
    border = _countable(ctx, pool)
    dims = [x.shape[d] for d in pool.layout.spatial]
    partial = [
        (r.before, r.after) != (b.before, b.after) or const_int(d) is None
        for r, b, d in zip(pool.reaching, border, dims, strict=True)
    ]

    def body(*i: Expr) -> Expr:
        spatial = i[1:-1] if pool.last else i[2:]
        fixed = 1
        varying: Expr = as_expr(1)
        for n, w in enumerate(pool.windows):
            if partial[n]:
                varying = varying * _taps_inside(spatial[n], dims[n], w, border[n])
            else:
                fixed *= w.size
        if not any(partial):
            return (total[i] * const(1.0 / fixed, wide)).astype(dtype)
        return (total[i] / (varying * fixed).astype(wide)).astype(dtype)

    return [te.compute(total.shape, body, "avg_pool")]


def _avg_infer(ctx: OpContext) -> list[TensorType]:
    if not dt.is_float(ctx.input(0).dtype):
        ctx.fail(f"average pooling is not defined for {ctx.input(0).dtype}")
    return _infer(ctx)


def _avg_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, pool = inputs[0], _pool(ctx)
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    last = wide if pool.last else np.moveaxis(wide, 1, -1)
    view, axes = _numpy_windows(ctx, last, pool, 0)
    # The counts are the same average over ones: on the data, and on the border where that is counted.
    ones = np.ones((1, *last.shape[1:-1], 1), wide.dtype)
    border = _countable(ctx, pool)
    ones = np.pad(ones, [(0, 0), *((b.before, b.after) for b in border), (0, 0)], constant_values=1)
    rest = pool._replace(
        reaching=[
            r._replace(before=r.before - b.before, after=r.after - b.after)
            for r, b in zip(pool.reaching, border, strict=True)
        ]
    )
    counts, _ = _numpy_windows(ctx, ones, rest, 0)
    result = view.sum(axis=axes) / counts.sum(axis=axes)
    result = as_dtype(result, x.dtype.name)
    return [np.ascontiguousarray(result if pool.last else np.moveaxis(result, -1, 1))]


register(
    OpDef("avg_pool", FusionKind.reduction, infer=_avg_infer, compute=_avg_compute, reference=_avg_numpy)
)
register(OpDef("lp_pool", FusionKind.reduction, infer=_avg_infer, compute=_lp_compute, reference=_lp_numpy))


# ----------------------------------------------------------------------------------------------------- col2im
class _Columns(NamedTuple):
    """``image`` and the number of ``blocks`` in each dimension."""

    image: tuple[int, ...]
    blocks: tuple[int, ...]
    windows: list[Window]


def _columns(ctx: OpContext) -> _Columns:
    x = ctx.input(0)
    image, kernel = (tuple(int(v) for v in ctx.attr(name)) for name in ("image", "kernel"))
    if x.rank != 3 or len(image) != len(kernel):
        ctx.fail("col2im takes columns [N, C * taps, blocks], and an image and a kernel of one rank")
    own = windows(ctx, kernel, [as_expr(d) for d in image])
    blocks = tuple(
        (d + w.before + w.after - w.reach) // w.stride + 1 for d, w in zip(image, own, strict=True)
    )
    rows, count = const_int(x.shape[1]), const_int(x.shape[2])
    if (count is not None and count != prod(blocks)) or (rows is not None and rows % prod(kernel)):
        ctx.fail(f"{prod(blocks)} blocks of {prod(kernel)} elements do not fit the columns")
    return _Columns(image, blocks, own)


def _columns_infer(ctx: OpContext) -> list[TensorType]:
    x, columns = ctx.input(0), _columns(ctx)
    taps = prod(w.size for w in columns.windows)
    return [TensorType((x.shape[0], x.shape[1] // taps, *map(as_expr, columns.image)), x.dtype)]


def _columns_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Each pixel sums the taps that fall on it: what im2col copied from there."""
    x, columns = inputs[0], _columns(ctx)
    taps, wide = prod(w.size for w in columns.windows), accumulator_dtype(x.dtype)

    def body(*i: Expr) -> Expr:
        def term(*t: Expr) -> Expr:
            tap, block, inside = as_expr(0), as_expr(0), []
            for place, step, w, blocks in zip(i[2:], t, columns.windows, columns.blocks, strict=True):
                start = place + w.before - step * w.dilation
                at = start // w.stride
                inside += [(start % w.stride).eq(0), as_expr(0) <= at, at < blocks]
                tap, block = tap * w.size + step, block * blocks + at
            return select(all_of(inside), x[i[0], i[1] * taps + tap, block].astype(wide), const(0, wide))

        return te.reduce("sum", [w.size for w in columns.windows], term)

    total = te.compute(_columns_infer(ctx)[0].shape, body, "col2im")
    return [te.compute(total.shape, lambda *i: total[i].astype(x.dtype), "image")]


def _columns_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, columns = inputs[0], _columns(ctx)
    taps = [w.size for w in columns.windows]
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    blocks = wide.reshape(x.shape[0], x.shape[1] // prod(taps), *taps, *columns.blocks)
    padded = [d + w.before + w.after for d, w in zip(columns.image, columns.windows, strict=True)]
    result = np.zeros((*blocks.shape[:2], *padded), wide.dtype)
    for tap in np.ndindex(*taps):
        view = tuple(
            slice(t * w.dilation, t * w.dilation + (n - 1) * w.stride + 1, w.stride)
            for t, w, n in zip(tap, columns.windows, columns.blocks, strict=True)
        )
        result[(slice(None), slice(None), *view)] += blocks[(slice(None), slice(None), *tap)]
    cut = tuple(slice(w.before, w.before + d) for d, w in zip(columns.image, columns.windows, strict=True))
    return [np.ascontiguousarray(as_dtype(result[(slice(None), slice(None), *cut)], x.dtype.name))]


register(
    OpDef(
        "col2im",
        FusionKind.opaque,
        infer=_columns_infer,
        compute=_columns_compute,
        reference=_columns_numpy,
    )
)
