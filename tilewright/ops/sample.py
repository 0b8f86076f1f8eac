"""Reading images between their pixels, at positions computed from data: grid_sample, roi_align and the
patches of deformable convolutions. Data is ``[N, C, *spatial]``.

Coordinates are floats (float32 for 16-bit data) in pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, all_of, as_expr, const, maximum, minimum, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, accumulator_dtype, as_dtype, format_shape, static_shape
from tilewright.ops.resize import cubic_weights
from tilewright.ops.window import per_dim

MODES: Final = ("nearest", "linear", "cubic")
PADDINGS: Final = ("zeros", "border", "reflection")
_CUBIC: Final = -0.75
#: A pixel's value at whole-number coordinates, which may lie outside.
Pixel = Callable[[Sequence[Expr]], Expr]


# -------------------------------------------------------------------------------------------------- in common
def _interpolate(pixel: Pixel, coordinates: Sequence[Expr], mode: str) -> Expr:
    """The value between pixels, dimension by dimension; halves round to even numbers."""
    if mode == "nearest":
        return pixel([intrinsic("round", c).astype("int64") for c in coordinates])
    taps: list[list[tuple[Expr, Expr]]] = []
    for c in coordinates:
        low = intrinsic("floor", c)
        t, first = c - low, low.astype("int64")
        if mode == "linear":
            taps.append([(first, 1.0 - t), (first + 1, t)])
        else:
            taps.append([(first + (n - 1), w) for n, w in enumerate(cubic_weights(t, _CUBIC))])

    def value(chosen: list[Expr], rest: list[list[tuple[Expr, Expr]]]) -> Expr:
        if not rest:
            return pixel(chosen)
        terms = [value([*chosen, where], rest[1:]) * weight for where, weight in rest[0]]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    return value([], taps)


def _clamped(where: Expr, size: Expr) -> Expr:
    return minimum(maximum(where, 0), size - 1)


def _pixel_or_zero(x: te.Tensor, lead: Sequence[Expr], wide: str) -> Pixel:
    """Pixels of ``x``, 0 outside of it."""
    spatial = x.shape[len(lead) :]

    def pixel(where: Sequence[Expr]) -> Expr:
        inside = [c for i, d in zip(where, spatial, strict=True) for c in (as_expr(0) <= i, i < d)]
        at = [_clamped(i, d) for i, d in zip(where, spatial, strict=True)]
        return select(all_of(inside), x[(*lead, *at)].astype(wide), const(0, wide))

    return pixel


def _interpolate_numpy(
    data: np.ndarray, coordinates: Sequence[np.ndarray], mode: str, place: Callable[[int, np.ndarray], Any]
) -> np.ndarray:
    """As :func:`_interpolate` on ``data`` ``[C, *spatial]`` at arrays of coordinates: ``[C, *points]``.

    ``place(d, i)`` gives for whole numbers in dimension ``d`` the positions to read and whether they count.
    """
    if mode == "nearest":
        taps = [[(np.rint(c).astype(np.int64), np.ones_like(c))] for c in coordinates]
    else:
        taps = []
        for c in coordinates:
            low = np.floor(c)
            t, first = c - low, low.astype(np.int64)
            weights = [1 - t, t] if mode == "linear" else cubic_weights(t, _CUBIC)
            taps.append([(first + n - (mode == "cubic"), w) for n, w in enumerate(weights)])
    total = np.zeros((data.shape[0], *coordinates[0].shape), coordinates[0].dtype)
    for combination in itertools.product(*taps):
        weight = np.ones_like(coordinates[0])
        index = []
        for d, (where, w) in enumerate(combination):
            at, counts = place(d, where)
            index.append(at)
            weight = weight * w * counts
        total += data[(slice(None), *index)] * weight
    return total


def _zero_outside(sizes: Sequence[int]) -> Callable[[int, np.ndarray], Any]:
    return lambda d, i: (np.clip(i, 0, sizes[d] - 1), (i >= 0) & (i < sizes[d]))


def _wide_numpy(x: np.ndarray) -> np.dtype[Any]:
    return np.dtype(accumulator_dtype(dt.from_numpy(x.dtype)))


# ------------------------------------------------------------------------------------------------ grid_sample
def _grid_infer(ctx: OpContext) -> list[TensorType]:
    x, grid = ctx.input(0), ctx.input(1)
    batches = {const_int(x.shape[0]), const_int(grid.shape[0])} - {None} if x.rank and grid.rank else set()
    if x.rank < 3 or grid.rank != x.rank or const_int(grid.shape[-1]) != x.rank - 2 or len(batches) > 1:
        ctx.fail(f"a grid {format_shape(grid.shape)} does not fit data {format_shape(x.shape)}")
    if not dt.is_float(x.dtype) or not dt.is_float(grid.dtype):
        ctx.fail(f"grid_sample takes floats, not {x.dtype} and {grid.dtype}")
    for name, known in (("mode", MODES), ("padding", PADDINGS)):
        if ctx.attr(name, known[0]) not in known:
            ctx.fail(f"grid_sample has no {name} '{ctx.attr(name)}' (there are {', '.join(known)})")
    return [TensorType((x.shape[0], x.shape[1], *grid.shape[1:-1]), x.dtype)]


def _borders(size: Any, aligned: bool) -> tuple[Any, Any]:
    """Where a dimension begins and ends: at the centres of its outer pixels, or half a pixel further out."""
    return (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)


def _grid_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """First the coordinates of every point, in pixels and inside the borders, then the values."""
    x, grid = inputs
    wide, rank = accumulator_dtype(x.dtype), x.ndim - 2
    mode, padding = ctx.attr("mode", "linear"), ctx.attr("padding", "zeros")
    aligned = bool(ctx.attr("align_corners", False))
    sizes = static_shape(ctx, x.shape[2:], "the image of a grid_sample")

    def coordinate(*i: Expr) -> Expr:
        raw = grid[i].astype(wide)
        value: Expr = const(0, wide)
        for d in range(rank):  # the grid's last dimension counts them from the last
            value = select(i[-1].eq(rank - 1 - d), _in_pixels(raw, sizes[d], aligned, mode, padding), value)
        return value

    places = te.compute(grid.shape, coordinate, "coordinates")

    def body(*i: Expr) -> Expr:
        at = [places[(i[0], *i[2:], as_expr(rank - 1 - d))] for d in range(rank)]
        if padding == "zeros":
            pixel = _pixel_or_zero(x, i[:2], wide)
        else:

            def pixel(where: Sequence[Expr]) -> Expr:
                inner = [
                    _clamped(p, as_expr(n)) if padding == "border" else _reflected_index(p, n, aligned)
                    for p, n in zip(where, sizes, strict=True)
                ]
                return x[(*i[:2], *inner)].astype(wide)

        return _interpolate(pixel, at, mode).astype(x.dtype)

    return [te.compute(_grid_infer(ctx)[0].shape, body, "grid_sample")]


def _in_pixels(value: Expr, size: int, aligned: bool, mode: str, padding: str) -> Expr:
    """From -1 .. 1 to pixels; what lies outside moves onto the border, or is mirrored at it."""
    at = (value + 1.0) * (0.5 * (size - 1)) if aligned else ((value + 1.0) * float(size) - 1.0) * 0.5
    if mode == "nearest":
        at = intrinsic("round", at)
    low, high = _borders(size, aligned)
    if mode == "cubic":
        return at  # whose pixels are moved one by one
    if padding == "border":
        outside = (at < low) | (at > high)
        return select(outside, minimum(maximum(at, 0.0), size - 1.0), at)
    return _reflected(at, low, high) if padding == "reflection" else at


def _reflected(value: Expr, low: float, high: float) -> Expr:
    """``value`` mirrored at the borders as often as needed."""
    span = high - low
    if span <= 0:
        return const(low, value.dtype)
    beyond = maximum(const(low, value.dtype) - value, value - const(high, value.dtype))
    turns = intrinsic("floor", beyond * (1.0 / span))
    rest = beyond - turns * span
    odd = (turns - intrinsic("floor", turns * 0.5) * 2.0) > 0.5
    below = value < low
    # Past the upper border an even number of turns counts down from it, past the lower one up from that.
    return select(beyond <= 0.0, value, select(below.ne(odd), rest + low, const(high, value.dtype) - rest))


def _reflected_index(where: Expr, size: int, aligned: bool) -> Expr:
    """A whole-number position mirrored into ``0 .. size - 1``."""
    if size == 1:
        return as_expr(0)
    period = 2 * (size - 1) if aligned else 2 * size
    folded = where % period
    last = period - folded if aligned else period - 1 - folded
    return minimum(folded, last)


def _grid_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, grid = inputs
    wide, mode, padding = _wide_numpy(x), ctx.attr("mode", "linear"), ctx.attr("padding", "zeros")
    aligned, sizes = bool(ctx.attr("align_corners", False)), x.shape[2:]
    result = np.zeros((*x.shape[:2], *grid.shape[1:-1]), wide)

    def place(d: int, i: np.ndarray) -> Any:
        if padding == "zeros":
            return _zero_outside(sizes)(d, i)
        if padding == "border":
            return np.clip(i, 0, sizes[d] - 1), True
        period = max(2 * (sizes[d] - 1), 1) if aligned else 2 * sizes[d]
        folded = i % period
        return np.minimum(folded, period - folded - (not aligned)), True

    for n in range(x.shape[0] if x.size and grid.size else 0):
        at = []
        for d, size in enumerate(sizes):
            value = grid[n, ..., len(sizes) - 1 - d].astype(wide)
            c = (value + 1) / 2 * (size - 1) if aligned else ((value + 1) * size - 1) / 2
            c = np.rint(c) if mode == "nearest" else c
            low, high = _borders(size, aligned)
            if mode != "cubic" and padding == "border":
                c = np.where((c < low) | (c > high), np.clip(c, 0, size - 1), c)
            elif mode != "cubic" and padding == "reflection":
                c = _reflected_numpy(c, low, high)
            at.append(c.astype(wide))
        result[n] = _interpolate_numpy(x[n].astype(wide), at, mode, place)
    return [as_dtype(result, dt.from_numpy(x.dtype))]


def _reflected_numpy(value: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high - low
    if span <= 0:
        return np.full_like(value, low)
    rest = np.mod(value - low, 2 * span)
    return low + np.minimum(rest, 2 * span - rest)


register(
    OpDef(
        "grid_sample",
        FusionKind.injective,
        infer=_grid_infer,
        compute=_grid_compute,
        reference=_grid_numpy,
    )
)


# -------------------------------------------------------------------------------------------------- roi_align
def _roi_infer(ctx: OpContext) -> list[TensorType]:
    x, rois, batch = ctx.input(0), ctx.input(1), ctx.input(2)
    if x.rank != 4 or rois.rank != 2 or const_int(rois.shape[1]) != 4 or batch.rank != 1:
        ctx.fail("roi_align takes images, boxes of four coordinates and the number of the image of each box")
    if const_int(rois.shape[0]) != const_int(batch.shape[0]):
        ctx.fail(f"{format_shape(batch.shape)} numbers of images for {format_shape(rois.shape)} boxes")
    if ctx.attr("mode", "avg") not in ("avg", "max"):
        ctx.fail(f"roi_align has no mode '{ctx.attr('mode')}' (there are avg, max)")
    if int(ctx.attr("sampling")) < 1:
        ctx.fail("roi_align takes a fixed number of samples in each direction")
    height, width = (as_expr(int(s)) for s in ctx.attr("size"))
    return [TensorType((rois.shape[0], x.shape[1], height, width), x.dtype)]


def _roi_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """The mean of bilinear samples in each bin; in mode max the largest weighted pixel, as in ONNX."""
    x, rois, batch = inputs
    wide, samples, mode = accumulator_dtype(x.dtype), int(ctx.attr("sampling")), ctx.attr("mode", "avg")
    scale, offset = float(ctx.attr("scale", 1.0)), 0.5 if ctx.attr("half_pixel", True) else 0.0

    def sample(r: Expr, part: Expr, step: Expr, axis: int) -> tuple[Expr, Expr, Expr, Expr]:
        """The two pixels of a sample's coordinate along ``axis`` (0: rows) with their weights."""
        start = rois[r, as_expr(1 - axis)].astype(wide) * scale - offset
        extent = rois[r, as_expr(3 - axis)].astype(wide) * scale - offset - start
        if not offset:
            extent = maximum(extent, 1.0)
        size = extent * (1.0 / int(ctx.attr("size")[axis]))
        at = start + part.astype(wide) * size + (step.astype(wide) + 0.5) * size * (1.0 / samples)
        limit = x.shape[2 + axis]
        far = (at < -1.0) | (limit.astype(wide) < at)
        at = maximum(at, 0.0)
        low = minimum(intrinsic("floor", at).astype("int64"), limit - 1)
        t = select(low < limit - 1, at - low.astype(wide), const(0, wide))
        zero = const(0, wide)
        return low, minimum(low + 1, limit - 1), select(far, zero, 1.0 - t), select(far, zero, t)

    def body(*i: Expr) -> Expr:
        r, c, row, column = i
        image = _clamped(batch[r].astype("int64"), x.shape[0])

        def term(v: Expr, h: Expr) -> Expr:
            top, bottom, up, down = sample(r, row, v, 0)
            left, right, west, east = sample(r, column, h, 1)
            corners = [
                x[image, c, p, q].astype(wide) * (a * b)
                for p, a in ((top, up), (bottom, down))
                for q, b in ((left, west), (right, east))
            ]
            if mode == "max":
                return maximum(maximum(corners[0], corners[1]), maximum(corners[2], corners[3]))
            return corners[0] + corners[1] + corners[2] + corners[3]

        return te.reduce("max" if mode == "max" else "sum", [samples, samples], term)

    total = te.compute(_roi_infer(ctx)[0].shape, body, "roi_align")
    factor = const(1.0 if mode == "max" else 1.0 / samples**2, wide)
    return [te.compute(total.shape, lambda *i: (total[i] * factor).astype(x.dtype), "roi_mean")]


def _roi_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, rois, batch = inputs
    wide, samples, mode = _wide_numpy(x), int(ctx.attr("sampling")), ctx.attr("mode", "avg")
    half = bool(ctx.attr("half_pixel", True))
    boxes = rois.astype(wide) * wide.type(ctx.attr("scale", 1.0)) - wide.type(0.5 if half else 0)
    sizes = [int(s) for s in ctx.attr("size")]
    result = np.zeros((len(rois), x.shape[1], *sizes), wide)
    for r in range(len(rois)):
        axes = []
        for axis in (0, 1):
            start, extent = boxes[r, 1 - axis], boxes[r, 3 - axis] - boxes[r, 1 - axis]
            size = (extent if half else max(extent, 1)) / sizes[axis]
            at = start + (np.arange(sizes[axis] * samples) + 0.5) * size / samples
            limit = x.shape[2 + axis]
            near = (at >= -1) & (at <= limit)
            at = np.maximum(at, 0)
            low = np.minimum(np.floor(at).astype(np.int64), limit - 1)
            t = np.where(low < limit - 1, at - low, 0)
            axes.append([(low, (1 - t) * near), (np.minimum(low + 1, limit - 1), t * near)])
        image = x[int(np.clip(batch[r], 0, x.shape[0] - 1))].astype(wide)
        corners = [
            image[:, p[:, None], q[None, :]] * (a[:, None] * b[None, :])
            for p, a in axes[0]
            for q, b in axes[1]
        ]
        values = np.max(corners, axis=0) if mode == "max" else np.sum(corners, axis=0)
        values = values.reshape(x.shape[1], sizes[0], samples, sizes[1], samples)
        result[r] = values.max(axis=(2, 4)) if mode == "max" else values.mean(axis=(2, 4))
    return [as_dtype(result, dt.from_numpy(x.dtype))]


register(OpDef("roi_align", FusionKind.opaque, infer=_roi_infer, compute=_roi_compute, reference=_roi_numpy))


# --------------------------------------------------------------------------------------------- deform_patches
def _deform_infer(ctx: OpContext) -> list[TensorType]:
    x, offsets = ctx.input(0), ctx.input(1)
    kernel = tuple(int(k) for k in ctx.attr("kernel"))
    rank, taps = len(kernel), math.prod(kernel)
    groups, channels = int(ctx.attr("groups", 1)), const_int(x.shape[1])
    if x.rank != rank + 2 or offsets.rank != rank + 2 or channels is None or channels % groups:
        ctx.fail("deform_patches takes data and offsets of the kernel's rank, channels in whole groups")
    if const_int(offsets.shape[1]) != groups * taps * rank or const_int(offsets.shape[0]) != const_int(
        x.shape[0]
    ):
        ctx.fail(f"{groups} groups of {taps} taps do not fit offsets {format_shape(offsets.shape)}")
    if ctx.has_input(2):
        mask, wanted = ctx.input(2), (offsets.shape[0], as_expr(groups * taps), *offsets.shape[2:])
        if tuple(map(const_int, mask.shape)) != tuple(map(const_int, wanted)):
            ctx.fail(f"a mask {format_shape(mask.shape)} does not fit offsets {format_shape(offsets.shape)}")
    return [TensorType((x.shape[0], x.shape[1], as_expr(taps), *offsets.shape[2:]), x.dtype)]


def _tap_offsets(kernel: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """Of each tap in row-major order, the offset in each dimension."""
    grid = np.stack(np.meshgrid(*map(np.arange, kernel), indexing="ij"), -1).reshape(-1, len(kernel))
    return np.asarray(grid * np.asarray(dilations))


def _deform_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """For every place of a kernel and every tap, the pixel that its offset points at, times its mask."""
    x, offsets = inputs[0], inputs[1]
    mask = inputs[2] if len(inputs) > 2 else None
    wide, kernel = accumulator_dtype(x.dtype), tuple(int(k) for k in ctx.attr("kernel"))
    rank, taps = len(kernel), math.prod(kernel)
    strides, dilations = per_dim(ctx, "strides", rank, 1), per_dim(ctx, "dilations", rank, 1)
    pads = per_dim(ctx, "pads", 2 * rank, 0)
    per_group = (const_int(x.shape[1]) or 1) // int(ctx.attr("groups", 1))

    def body(*i: Expr) -> Expr:
        n, c, tap, place = i[0], i[1], i[2], i[3:]
        group, rest, steps = c // per_group, tap, []
        for size in reversed(kernel):
            steps.append(rest % size)
            rest = rest // size
        at = []
        for d, step in enumerate(reversed(steps)):
            fixed = place[d] * strides[d] - pads[d] + step * dilations[d]
            moved = offsets[(n, (group * taps + tap) * rank + d, *place)]
            at.append(fixed.astype(wide) + moved.astype(wide))
        value = _interpolate(_pixel_or_zero(x, (n, c), wide), at, "linear")
        if mask is not None:
            value = value * mask[(n, group * taps + tap, *place)].astype(wide)
        return value.astype(x.dtype)

    return [te.compute(_deform_infer(ctx)[0].shape, body, "deform_patches")]


def _deform_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, offsets = inputs[0], inputs[1]
    wide, kernel = _wide_numpy(x), tuple(int(k) for k in ctx.attr("kernel"))
    rank, taps, groups = len(kernel), math.prod(kernel), int(ctx.attr("groups", 1))
    strides, pads = per_dim(ctx, "strides", rank, 1), per_dim(ctx, "pads", 2 * rank, 0)
    steps = _tap_offsets(kernel, per_dim(ctx, "dilations", rank, 1))
    out = offsets.shape[2:]
    moved = offsets.reshape(x.shape[0], groups, taps, rank, *out).astype(wide)
    result = np.zeros((*x.shape[:2], taps, *out), wide)
    places = np.meshgrid(*map(np.arange, out), indexing="ij")
    per_group = x.shape[1] // groups
    for n, g, tap in np.ndindex(x.shape[0], groups, taps):
        at = [
            (places[d] * strides[d] - pads[d] + steps[tap, d] + moved[n, g, tap, d]).astype(wide)
            for d in range(rank)
        ]
        part = slice(g * per_group, (g + 1) * per_group)
        data = x[n, part].astype(wide)
        value = _interpolate_numpy(data, at, "linear", _zero_outside(x.shape[2:]))
        if len(inputs) > 2 and inputs[2] is not None:
            value = value * inputs[2][n, g * taps + tap].astype(wide)
        result[n, part, tap] = value
    return [as_dtype(result, dt.from_numpy(x.dtype))]


register(
    OpDef(
        "deform_patches",
        FusionKind.injective,
        infer=_deform_infer,
        compute=_deform_compute,
        reference=_deform_numpy,
    )
)
