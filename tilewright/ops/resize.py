"""Resampling of any dimensions: nearest, linear and cubic, with every coordinate transformation of ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, all_of, as_expr, const, maximum, minimum, select
from tilewright.ir.simplify import prove
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, Shape, accumulator_dtype, as_dtype, axis_of, is_half
from tilewright.ops.resize_open import OpenAxis, open_axis

MODES: Final = ("nearest", "linear", "cubic")
COORDINATES: Final = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
NEAREST: Final = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


class Axis(NamedTuple):
    """One resampled dimension: ``size`` elements become ``out``.

    The source coordinate of position ``i`` is ``(slope * i + offset) / unit``: exact integers, so that no
    choice of a neighbour hangs on a rounding. ``crop`` marks tf_crop_and_resize, where coordinates outside
    the data take the extrapolation value.
    """

    dim: int
    size: int
    out: int
    slope: int
    offset: int
    unit: int
    crop: bool


# ------------------------------------------------------------------------------------------------------ shape
def _result_shape(ctx: OpContext) -> Shape | None:
    """The result's shape from ``sizes``, or from ``scales`` rounded down; None when neither is known yet.

    Where both are given, ``sizes`` decide the shape and ``scales`` the coordinates.
    """
    x = ctx.input(0)
    sizes, scales = ctx.arg("sizes"), ctx.arg("scales")
    given = sizes if sizes else scales
    if not given:
        if ctx.has_arg("sizes") or ctx.has_arg("scales"):
            return None
        ctx.fail("resize takes sizes or scales")
    if len(given) != x.rank:
        ctx.fail(f"resize takes one size or scale for each of {x.rank} dimensions, not {len(given)}")
    if sizes:
        return tuple(as_expr(s if isinstance(s, Expr) else int(s)) for s in sizes)
    if not all(math.isfinite(s) and s > 0 for s in given):
        ctx.fail(f"scales must be positive numbers, not {tuple(given)}")
    factors = [_fraction(float(s)) for s in given]
    if ctx.attr("coordinates", "half_pixel") == "tf_crop_and_resize":
        factors = [f * (end - start) for f, (start, end) in zip(factors, _regions(ctx), strict=True)]
    return tuple(_scaled(d, f) for d, f in zip(x.shape, factors, strict=True))


def _regions(ctx: OpContext) -> list[tuple[Fraction, Fraction]]:
    """The part of each dimension that tf_crop_and_resize takes, as fractions of it."""
    rank, roi = ctx.input(0).rank, ctx.attr("roi", None)
    if roi is None or ctx.attr("coordinates", "half_pixel") != "tf_crop_and_resize":
        return [(Fraction(0), Fraction(1))] * rank
    if not all(math.isfinite(edge) for pair in roi for edge in pair):
        ctx.fail(f"the region must be of numbers, not {roi}")
    return [(_fraction(float(start)), _fraction(float(end))) for start, end in roi]


def _scaled(dim: Expr, scale: Fraction) -> Expr:
    """``floor(dim * scale)``."""
    return dim * scale.numerator // scale.denominator


def _infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    for name, known in (("mode", MODES), ("coordinates", COORDINATES), ("nearest", NEAREST)):
        value = ctx.attr(name, known[0])
        if value not in known:
            ctx.fail(f"resize has no {name} '{value}' (there are {', '.join(known)})")
    if ctx.attr("mode", "nearest") != "nearest" and not dt.is_float(x.dtype):
        ctx.fail(f"resize in mode '{ctx.attr('mode')}' is not defined for {x.dtype}")
    shape = _result_shape(ctx)
    return [TensorType(shape or tuple(ctx.unknown_dim() for _ in x.shape), x.dtype)]


def _fraction(value: float) -> Fraction:
    """The simple fraction that a float32 attribute was meant as: 0.6 is 3/5, not its nearest float."""
    simple = Fraction(value).limit_denominator(4096)
    return (
        simple
        if abs(simple - Fraction(value)) <= abs(Fraction(value)) / 10**7
        else Fraction(value).limit_denominator(10**6)
    )


def resampled_axes(ctx: OpContext, skip_open: bool = False) -> list[Axis]:
    """The dimensions that are resampled (a crop of unchanged size included). Fails for an open size, or
    leaves it out (``skip_open``)."""
    x, shape = ctx.input(0), _result_shape(ctx)
    scales, regions = ctx.arg("scales"), _regions(ctx)
    kind = ctx.attr("coordinates", "half_pixel")
    axes = []
    for dim, (old, new) in enumerate(zip(x.shape, shape or (), strict=True)):
        size, out = const_int(old), const_int(new)
        if (size is None or out is None) and skip_open:
            continue
        if size is None or out is None:
            ctx.fail("resize needs known sizes when the model is compiled")
        if size == 0 and out > 0:
            ctx.fail(f"an empty dimension cannot be resized to {out}")
        start, end = regions[dim]
        scale = Fraction(out, size) if size and out else Fraction(1)
        if scales:
            scale = _fraction(float(scales[dim]))
        if size == out and scale == 1 and (start, end) == (0, 1):
            continue
        slope, offset = _coordinate(kind, size, out, scale, start, end)
        unit = math.lcm(slope.denominator, offset.denominator)
        axes.append(
            Axis(dim, size, out, int(slope * unit), int(offset * unit), unit, kind == "tf_crop_and_resize")
        )
    return axes


def sampled_axes(ctx: OpContext) -> list[Axis | OpenAxis]:
    """The dimensions that are resampled; sizes may be known at run time only."""
    x, shape = ctx.input(0), _result_shape(ctx) or ()
    if all(const_int(d) is not None for d in (*x.shape, *shape)):
        return list(resampled_axes(ctx))
    scales, kind = ctx.arg("scales"), ctx.attr("coordinates", "half_pixel")
    known = {axis.dim: axis for axis in resampled_axes(ctx, skip_open=True)}
    axes: list[Axis | OpenAxis] = []
    for dim, (old, new) in enumerate(zip(x.shape, shape, strict=True)):
        axis: Axis | OpenAxis | None = known.get(dim)
        if const_int(old) is None or const_int(new) is None:
            axis = open_axis(ctx, dim, old, new, _fraction(float(scales[dim])) if scales else None, kind)
        if axis is not None:
            axes.append(axis)
    return axes


def _coordinate(
    kind: str, size: int, out: int, scale: Fraction, start: Fraction, end: Fraction
) -> tuple[Fraction, Fraction]:
    """Slope and offset of the source coordinate as a function of the result's position (ONNX Resize's
    formulas).
    """
    zero, half = Fraction(0), Fraction(1, 2)
    if not out:
        return zero, zero  # there is no position
    if kind == "align_corners":
        return (Fraction(size - 1, out - 1), zero) if out > 1 else (zero, zero)
    if kind == "asymmetric":
        return 1 / scale, zero
    if kind == "tf_crop_and_resize":
        if out > 1:
            return (end - start) * (size - 1) / (out - 1), start * (size - 1)
        return zero, half * (start + end) * (size - 1)
    if kind == "pytorch_half_pixel" and out == 1:
        return zero, zero
    centred = half / scale - half
    if kind == "half_pixel_symmetric":
        # What rounding the size down cut off is shared between both ends.
        centred += half * size * (1 - out / (scale * size))
    return 1 / scale, centred


# ------------------------------------------------------------------------------------------------------- taps
# These work alike on expressions and on integer arrays.
def _floor(axis: Axis | OpenAxis, position: Any) -> Any:
    return (position * axis.slope + axis.offset) // axis.unit


def nearest_index(axis: Axis | OpenAxis, rule: str, position: Any) -> Any:
    """The chosen neighbour, not clamped yet."""
    scaled, unit = position * axis.slope + axis.offset, axis.unit
    if rule == "floor":
        return scaled // unit
    if rule == "ceil":
        return (scaled + (unit - 1)) // unit
    if rule == "round_prefer_floor":
        return (scaled * 2 + (unit - 1)) // (2 * unit)
    return (scaled * 2 + unit) // (2 * unit)


def cubic_weights(t: Any, a: float) -> list[Any]:
    """Keys' cubic convolution for the neighbours at distances 1 + t, t, 1 - t and 2 - t."""

    def near(d: Any) -> Any:
        return (d * (a + 2) - (a + 3)) * d * d + 1.0

    def far(d: Any) -> Any:
        return ((d * a - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]


# ------------------------------------------------------------------------------------------------- expression
def _closed_form(axis: Axis | OpenAxis, rule: str, position: Expr) -> Expr:
    """The clamped nearest index; whole-number factors get the plain form that address arithmetic simplifies
    best.
    """
    if isinstance(axis, OpenAxis):
        if axis.step is not None:
            slope, offset, unit = axis.step
            times = unit // slope
            period = Axis(axis.dim, 1, times, slope, offset, unit, False)
            first = nearest_index(period, rule, np.arange(times))
            if times * slope == unit and not first.any() and prove(axis.out <= axis.size * times):
                return position // times
        return minimum(maximum(nearest_index(axis, rule, position), 0), axis.size - 1)
    positions = np.arange(axis.out)
    table = np.clip(nearest_index(axis, rule, positions), 0, axis.size - 1)
    if axis.out % axis.size == 0 and np.array_equal(table, positions // (axis.out // axis.size)):
        return position // (axis.out // axis.size)
    if axis.size % axis.out == 0:
        step, first = axis.size // axis.out, int(table[0])
        if np.array_equal(table, positions * step + first):
            return position * step + first
    return minimum(maximum(nearest_index(axis, rule, position), 0), axis.size - 1)


def _taps(ctx: OpContext, axis: Axis | OpenAxis, position: Expr, dtype: str) -> list[tuple[Expr, Expr]]:
    """Clamped source indices with their weights."""
    low = _floor(axis, position)
    rest = position * axis.slope + axis.offset - low * axis.unit
    if isinstance(axis, OpenAxis):
        t = rest.astype(dtype) / axis.unit.astype(dtype)
    else:
        t = rest.astype(dtype) * const(1 / axis.unit, dtype)
    if ctx.attr("mode", "nearest") == "linear":
        indices, weights = [low, low + 1], [1.0 - t, t]
    else:
        indices = [low - 1, low, low + 1, low + 2]
        weights = cubic_weights(t, float(ctx.attr("cubic_coeff_a", -0.75)))
        if ctx.attr("exclude_outside", False):
            zero = const(0, dtype)
            weights = [
                select((as_expr(0) <= i) & (i < axis.size), w, zero)
                for i, w in zip(indices, weights, strict=True)
            ]
            total = weights[0] + weights[1] + weights[2] + weights[3]
            weights = [w / total for w in weights]
    return [(minimum(maximum(i, 0), axis.size - 1), w) for i, w in zip(indices, weights, strict=True)]


def _inside(axis: Axis, position: Expr) -> Expr:
    scaled = position * axis.slope + axis.offset
    return (as_expr(0) <= scaled) & (scaled <= (axis.size - 1) * axis.unit)


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, axes = inputs[0], sampled_axes(ctx)
    shape, wide = _infer(ctx)[0].shape, accumulator_dtype(x.dtype)
    mode, rule = ctx.attr("mode", "nearest"), ctx.attr("nearest", "round_prefer_floor")
    cropped = [a for a in axes if isinstance(a, Axis) and a.crop]

    def interpolated(index: list[Expr], rest: Sequence[Axis | OpenAxis]) -> Expr:
        if not rest:
            return x[tuple(index)].astype(wide)
        axis, total = rest[0], None
        for where, weight in _taps(ctx, axis, index[axis.dim], wide):
            term = interpolated([*index[: axis.dim], where, *index[axis.dim + 1 :]], rest[1:]) * weight
            total = term if total is None else total + term
        assert total is not None
        return total

    def body(*i: Expr) -> Expr:
        if mode == "nearest":
            index = list(i)
            for axis in axes:
                index[axis.dim] = _closed_form(axis, rule, i[axis.dim])
            value = x[tuple(index)]
        else:
            value = interpolated(list(i), axes).astype(x.dtype)
        if not cropped:
            return value
        outside = const(ctx.attr("extrapolation_value", 0.0), x.dtype)
        return select(all_of([_inside(a, i[a.dim]) for a in cropped]), value, outside)

    return [te.compute(shape, body, "resize")]


# -------------------------------------------------------------------------------------------------- antialias
def filter_taps(ctx: OpContext, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """First source index of each result position, and the weights ``[out, taps]`` of the indices from it on.

    When an image shrinks, the kernel grows with the distance of samples, so that every pixel counts.
    """
    cubic = ctx.attr("mode") == "cubic"
    shrink = min(axis.unit / axis.slope, 1.0) if axis.slope else 1.0
    reach = (2 if cubic else 1) / shrink
    centre = (np.arange(axis.out) * axis.slope + axis.offset) / axis.unit
    first = np.floor(centre - reach).astype(np.int64) + 1
    taps = np.arange(math.ceil(2 * reach) + 1)[None, :]
    places = first[:, None] + taps
    distance = np.abs(places - centre[:, None]) * shrink
    if cubic:
        a = float(ctx.attr("cubic_coeff_a", -0.75))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    else:
        weights = np.clip(1 - distance, 0, 1)
    if ctx.attr("exclude_outside", False):
        weights = np.where((places >= 0) & (places < axis.size), weights, 0.0)
    return first, weights / weights.sum(axis=1, keepdims=True)


def _filter_infer(ctx: OpContext) -> list[TensorType]:
    x, first, weights = ctx.input(0), ctx.input(1), ctx.input(2)
    axis = axis_of(ctx, ctx.attr("axis"), x.rank)
    if first.rank != 1 or weights.rank != 2:
        ctx.fail("filter takes a first index and a row of weights for each position of the result")
    return [TensorType((*x.shape[:axis], first.shape[0], *x.shape[axis + 1 :]), x.dtype)]


def _filter_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Weighted sums of neighbours along one axis, from ``first`` on; beyond the ends the last one counts."""
    x, first, weights = inputs
    axis, wide = axis_of(ctx, ctx.attr("axis"), x.ndim), accumulator_dtype(x.dtype)

    def body(*i: Expr) -> Expr:
        def term(r: Expr) -> Expr:
            at = minimum(maximum(first[i[axis]] + r, 0), x.shape[axis] - 1)
            return x[(*i[:axis], at, *i[axis + 1 :])].astype(wide) * weights[i[axis], r]

        return te.reduce("sum", [weights.shape[1]], term)

    total = te.compute(_filter_infer(ctx)[0].shape, body, "filter")
    return [te.compute(total.shape, lambda *i: total[i].astype(x.dtype), "filtered")]


def _filter_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, first, weights = inputs
    axis = axis_of(ctx, ctx.attr("axis"), x.ndim)
    places = np.clip(first[:, None] + np.arange(weights.shape[1]), 0, x.shape[axis] - 1)
    moved = np.moveaxis(x, axis, -1).astype(weights.dtype)
    result = np.moveaxis((moved[..., places] * weights).sum(axis=-1), -1, axis)
    return [np.ascontiguousarray(as_dtype(result, dt.from_numpy(x.dtype)))]


register(
    OpDef("filter", FusionKind.opaque, infer=_filter_infer, compute=_filter_compute, reference=_filter_numpy)
)


def _antialias_decompose(
    builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]
) -> list[Value]:
    """One filter for each dimension, with weights that are known when the model is compiled."""
    x = inputs[0]
    assert x is not None
    wide = accumulator_dtype(x.dtype)
    for axis in resampled_axes(ctx):
        first, weights = filter_taps(ctx, axis)
        table = builder.constant(weights, "weights", dtype=wide)
        x = builder.op("filter", x, builder.constant(first, "first"), table, axis=axis.dim)
    return [x]


def _antialias_infer(ctx: OpContext) -> list[TensorType]:
    if ctx.attr("mode", "nearest") == "nearest" or ctx.attr("coordinates", "") == "tf_crop_and_resize":
        ctx.fail("resize_antialias takes a mode linear or cubic and whole images")
    return _infer(ctx)


def _antialias_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    result = x.astype(np.float32) if is_half(x.dtype.name) else x
    for axis in resampled_axes(ctx):
        first, weights = filter_taps(ctx, axis)
        places = np.clip(first[:, None] + np.arange(weights.shape[1]), 0, axis.size - 1)
        matrix = np.zeros((axis.out, axis.size))
        np.add.at(matrix, (np.arange(axis.out)[:, None], places), weights)
        result = np.moveaxis(np.tensordot(matrix.astype(result.dtype), result, (1, axis.dim)), 0, axis.dim)
    return [np.ascontiguousarray(as_dtype(result, x.dtype.name))]


register(
    OpDef(
        "resize_antialias",
        FusionKind.opaque,
        infer=_antialias_infer,
        decompose=_antialias_decompose,
        reference=_antialias_numpy,
        params={1: "sizes", 2: "scales"},
    )
)


# -------------------------------------------------------------------------------------------------- reference
def resampling_matrix(ctx: OpContext, axis: Axis) -> np.ndarray:
    """The resampling of one dimension as a matrix [out, size]."""
    position = np.arange(axis.out)
    low = _floor(axis, position)
    t = (position * axis.slope + axis.offset - low * axis.unit) / axis.unit
    if ctx.attr("mode", "nearest") == "linear":
        indices, weights = [low, low + 1], [1 - t, t]
    else:
        indices = [low - 1, low, low + 1, low + 2]
        weights = cubic_weights(t, float(ctx.attr("cubic_coeff_a", -0.75)))
        if ctx.attr("exclude_outside", False):
            weights = [
                np.where((i >= 0) & (i < axis.size), w, 0) for i, w in zip(indices, weights, strict=True)
            ]
            total = sum(weights)
            weights = [w / total for w in weights]
    matrix = np.zeros((axis.out, axis.size))
    for i, w in zip(indices, weights, strict=True):
        np.add.at(matrix, (position, np.clip(i, 0, axis.size - 1)), w)
    return matrix


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, axes = inputs[0], resampled_axes(ctx)
    result = x.astype(np.float32) if is_half(x.dtype.name) else x
    for axis in axes:
        if ctx.attr("mode", "nearest") == "nearest":
            index = nearest_index(axis, ctx.attr("nearest", "round_prefer_floor"), np.arange(axis.out))
            result = np.take(result, np.clip(index, 0, axis.size - 1), axis=axis.dim)
        else:
            matrix = resampling_matrix(ctx, axis).astype(result.dtype)
            result = np.moveaxis(np.tensordot(matrix, result, (1, axis.dim)), 0, axis.dim)
    for axis in axes:
        if axis.crop:
            scaled = np.arange(axis.out) * axis.slope + axis.offset
            outside = (scaled < 0) | (scaled > (axis.size - 1) * axis.unit)
            result[(slice(None),) * axis.dim + (outside,)] = ctx.attr("extrapolation_value", 0.0)
    return [np.ascontiguousarray(as_dtype(result, x.dtype.name))]


register(
    OpDef(
        "resize",
        FusionKind.injective,
        infer=_infer,
        compute=_compute,
        reference=_reference,
        params={1: "sizes", 2: "scales"},
    )
)
