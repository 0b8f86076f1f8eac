"""Resize and its predecessor Upsample."""

from __future__ import annotations

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Attr, Value
from tilewright.ir.expr import Const


@onnx_op("Upsample", 7)
def upsample_7(ctx: NodeContext) -> Value:
    """Scales as an attribute."""
    return ctx.op("resize", ctx.x, scales=tuple(float(s) for s in ctx.attr("scales")), **_legacy(ctx))


@onnx_op("Upsample", 9)
@onnx_op("Upsample", 10)
@onnx_op("Resize", 10, limits="no tf_half_pixel_for_nn")
def resize_10(ctx: NodeContext) -> Value:
    """Scales as an input."""
    return ctx.op("resize", ctx.x, None, ctx.value(1), **_legacy(ctx))


def _legacy(ctx: NodeContext) -> dict[str, Attr]:
    """Before opset 11 coordinates were always asymmetric and rounded down."""
    mode = ctx.attr("mode", "nearest")
    return {
        "mode": "linear" if mode in ("linear", "bilinear") else mode,
        "coordinates": "asymmetric",
        "nearest": "floor",
    }


@onnx_op("Resize", 11, 13, 18, 19, limits="no tf_half_pixel_for_nn")
def resize_11(ctx: NodeContext) -> Value:
    """Sizes or scales (for ``axes`` only, since opset 18), with every coordinate transformation."""
    mode, coordinates = ctx.attr("mode", "nearest"), ctx.attr("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_half_pixel_for_nn":
        ctx.unsupported("coordinate_transformation_mode tf_half_pixel_for_nn is not supported")
    attrs: dict[str, Attr] = {"mode": mode, "coordinates": coordinates}
    if mode == "nearest":
        attrs["nearest"] = ctx.attr("nearest_mode", "round_prefer_floor")
    if mode == "cubic":
        attrs["cubic_coeff_a"] = float(ctx.attr("cubic_coeff_a", -0.75))
        attrs["exclude_outside"] = bool(ctx.attr("exclude_outside", 0)) or None
    if coordinates == "tf_crop_and_resize":
        attrs["extrapolation_value"] = float(ctx.attr("extrapolation_value", 0.0))
        attrs["roi"] = _roi(ctx)
    scales = ctx.optional(2) if ctx.has(2) and not _is_empty(ctx.value(2)) else None
    sizes = ctx.optional(3) if ctx.has(3) and not _is_empty(ctx.value(3)) else None
    if (scales is None) == (sizes is None):
        ctx.fail("Resize takes either scales or sizes")
    if ctx.attr("axes", None) is None and ctx.attr("keep_aspect_ratio_policy", "stretch") == "stretch":
        return ctx.op(_operator(ctx, mode), ctx.x, sizes, scales, **attrs)
    return _resize_axes(ctx, attrs, scales is not None)


def _operator(ctx: NodeContext, mode: str) -> str:
    """Antialiasing only means something where pixels are weighed."""
    return "resize_antialias" if ctx.attr("antialias", 0) and mode != "nearest" else "resize"


def _is_empty(value: Value) -> bool:
    return any(isinstance(d, Const) and d.value == 0 for d in value.shape)


def _roi(ctx: NodeContext) -> tuple[tuple[float, float], ...]:
    """Start and end of every dimension, as fractions of it. The input holds all starts, then all ends."""
    values = [float(v) for v in ctx.require_data(1, "the region of a Resize").reshape(-1)]
    rank = ctx.x.rank
    axes = [ctx.check_axis(int(a), rank) for a in ctx.attr("axes", range(rank))]
    if len(values) != 2 * len(axes):
        ctx.fail(f"the region holds {len(values)} numbers for {len(axes)} dimensions")
    region = [(0.0, 1.0)] * rank
    for n, axis in enumerate(axes):
        region[axis] = (values[n], values[len(axes) + n])
    return tuple(region)


def _resize_axes(ctx: NodeContext, attrs: dict[str, Attr], by_scales: bool) -> Value:
    """Sizes or scales of some dimensions only, or sizes under an aspect ratio policy."""
    x, rank = ctx.x, ctx.x.rank
    axes = [ctx.check_axis(int(a), rank) for a in ctx.attr("axes", range(rank))]
    given = ctx.require_data(2 if by_scales else 3, "the result's size of a Resize").reshape(-1)
    if len(given) != len(axes):
        ctx.fail(f"{len(given)} sizes or scales are given for {len(axes)} dimensions")
    if by_scales:
        scales = [1.0] * rank
        for axis, scale in zip(axes, given, strict=True):
            scales[axis] = float(scale)
        return ctx.op(_operator(ctx, str(attrs["mode"])), x, scales=tuple(scales), **attrs)
    wanted = [int(s) for s in given]
    policy = ctx.attr("keep_aspect_ratio_policy", "stretch")
    dims = ctx.static_dims(x, "the input of a Resize")
    sizes = list(dims)
    if policy == "stretch":
        for axis, size in zip(axes, wanted, strict=True):
            sizes[axis] = size
        return ctx.op(_operator(ctx, str(attrs["mode"])), x, sizes=tuple(sizes), **attrs)
    if policy not in ("not_larger", "not_smaller"):
        ctx.fail(f"keep_aspect_ratio_policy '{policy}' is not defined")
    if not axes or any(dims[axis] == 0 for axis in axes):
        ctx.fail(f"{x.type} has no aspect ratio along {axes}")
    ratios = [size / dims[axis] for axis, size in zip(axes, wanted, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    for axis in axes:
        sizes[axis] = int(scale * dims[axis] + 0.5)
    # The one scale, not the rounded sizes, places the samples.
    fixed = tuple(scale if n in axes else 1.0 for n in range(rank))
    return ctx.op(_operator(ctx, str(attrs["mode"])), x, sizes=tuple(sizes), scales=fixed, **attrs)
