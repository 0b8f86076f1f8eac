"""Reading images at positions computed from data."""

from __future__ import annotations

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.handlers.nn import kernel_of, numbers
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.limits import check_type
from tilewright.ir.expr import as_expr


@onnx_op("GridSample", 16, 20, 22)
def grid_sample(ctx: NodeContext) -> Value:
    """Values of an image at the points of a grid; opset 16 names the modes bilinear and bicubic."""
    mode = str(ctx.attr("mode", "linear"))
    return ctx.op(
        "grid_sample",
        ctx.value(0),
        ctx.value(1),
        mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode),
        padding=str(ctx.attr("padding_mode", "zeros")),
        align_corners=bool(ctx.attr("align_corners", 0)),
    )


@onnx_op("RoiAlign", 10, 16, 22, limits="sampling_ratio of at least 1")
def roi_align(ctx: NodeContext) -> Value:
    """Boxes of feature maps in a fixed size; half-pixel offsets since opset 16."""
    sampling = int(ctx.attr("sampling_ratio", 0))
    if sampling < 1:
        ctx.unsupported("a number of samples that depends on the boxes (sampling_ratio=0) is not supported")
    check_type(TensorType((as_expr(sampling),) * 2, ctx.x.dtype), "the samples of one result", ctx.where)
    kind = ctx.attr("coordinate_transformation_mode", "half_pixel") if ctx.since >= 16 else ""
    return ctx.op(
        "roi_align",
        *(ctx.value(n) for n in range(3)),
        mode=str(ctx.attr("mode", "avg")),
        size=(int(ctx.attr("output_height", 1)), int(ctx.attr("output_width", 1))),
        sampling=sampling,
        scale=float(ctx.attr("spatial_scale", 1.0)),
        half_pixel=kind == "half_pixel",
    )


@onnx_op("DeformConv", 19, 22)
def deform_conv(ctx: NodeContext) -> Value:
    """The patches that the offsets point at, then a matrix product with the weights for each group."""
    x, w = ctx.value(0), ctx.value(1)
    kernel, groups = kernel_of(ctx, w), int(ctx.attr("group", 1))
    n, co, taps = x.shape[0], ctx.static_dims(w, "the weights")[0], 1
    for size in kernel:
        taps *= size
    patches = ctx.op(
        "deform_patches",
        x,
        ctx.value(2),
        ctx.optional(4),
        kernel=kernel,
        groups=int(ctx.attr("offset_group", 1)),
        strides=numbers(ctx, "strides", len(kernel), 1),
        dilations=numbers(ctx, "dilations", len(kernel), 1),
        pads=numbers(ctx, "pads", 2 * len(kernel), 0),
    )
    out = patches.shape[3:]
    ci = ctx.static_dims(w, "the weights")[1]
    columns = ctx.reshape(patches, [n, groups, ci * taps, product(out)])
    y = ctx.op("matmul", ctx.reshape(w, [groups, co // groups, ci * taps]), columns)
    y = ctx.reshape(y, [n, co, *out])
    if not ctx.has(3):
        return y
    return ctx.op("add", y, ctx.reshape(ctx.value(3), [co, *[1] * len(out)]))
