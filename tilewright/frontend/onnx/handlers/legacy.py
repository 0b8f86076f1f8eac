"""Definitions of opsets 1 to 6 that later ones replaced: broadcasting by attributes, steering operands as
attributes.

The attribute ``consumed_inputs`` of opset 1 was a hint about memory and means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import onnx

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.math import cast_to
from tilewright.frontend.onnx.handlers.normalise import inference_batch_norm
from tilewright.frontend.onnx.handlers.random import inference_dropout
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import DTYPES
from tilewright.graph.graph import Value
from tilewright.ir.expr import as_expr
from tilewright.ir.visit import const_int

#: ONNX operator -> (our operator, versions) with attributes ``broadcast`` and ``axis``.
_BINARY: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "Add": ("add", (1, 6)),
    "And": ("and", (1,)),
    "Div": ("div", (1, 6)),
    "Equal": ("equal", (1,)),
    "Less": ("less", (1,)),
    "Mul": ("mul", (1, 6)),
    "Or": ("or", (1,)),
    "Pow": ("pow", (1,)),
    "Sub": ("sub", (1, 6)),
    "Xor": ("xor", (1,)),
}


def _operands(ctx: NodeContext) -> tuple[Value, Value]:
    """Both operands, the second in a shape that NumPy's broadcasting lines up with the first.

    With ``broadcast`` its dimensions are those of the first from ``axis`` on, by default the last ones.
    """
    a, b = ctx.value(0), ctx.value(1)
    if not ctx.attr("broadcast", 0):
        known = [(const_int(m), const_int(n)) for m, n in zip(a.shape, b.shape, strict=False)]
        if a.rank != b.rank or any(None not in (m, n) and m != n for m, n in known):
            ctx.fail(f"operands {a.type} and {b.type} differ in shape, which takes broadcast=1")
        return a, b
    if b.rank > a.rank:
        ctx.fail(f"{b.type} cannot be broadcast to {a.type}")
    axis = ctx.attr("axis", None)
    if axis is None:
        return a, b
    behind = a.rank - b.rank - ctx.check_axis(int(axis), a.rank)
    if behind < 0:
        ctx.fail(f"{b.type} has more dimensions than {a.type} from axis {axis} on")
    return a, ctx.reshape(b, [*b.shape, *[as_expr(1)] * behind])


def _binary(op: str) -> Callable[[NodeContext], Value]:
    return lambda ctx: ctx.op(op, *_operands(ctx))


for _type, (_op, _versions) in _BINARY.items():
    onnx_op(_type, *_versions)(_binary(_op))


@onnx_op("Greater", 1)
def greater_1(ctx: NodeContext) -> Value:
    """``a > b`` is ``b < a``."""
    a, b = _operands(ctx)
    return ctx.op("less", b, a)


@onnx_op("PRelu", 1, 6)
def prelu_1(ctx: NodeContext) -> Value:
    """One slope, or one for each channel."""
    x, slope = ctx.value(0), ctx.value(1)
    if slope.rank == 1 and x.rank > 1 and const_int(slope.shape[0]) != 1:
        slope = ctx.reshape(slope, [*slope.shape, *[as_expr(1)] * (x.rank - 2)])
    return ctx.op("prelu", x, slope)


@onnx_op("Selu", 1)
def selu_1(ctx: NodeContext) -> Value:
    """With the constants as they were first published."""
    return ctx.op("selu", ctx.x, alpha=ctx.attr("alpha", 1.6732), gamma=ctx.attr("gamma", 1.0507))


@onnx_op("Cast", 1)
def cast_1(ctx: NodeContext) -> Value:
    """To an element type by name."""
    name = str(ctx.attr("to")).upper()
    numbers = dict(onnx.TensorProto.DataType.items())
    if numbers.get(name) not in DTYPES:
        ctx.unsupported(f"there is no element type '{name}' to cast to")
    return cast_to(ctx, DTYPES[numbers[name]])


@onnx_op("BatchNormalization", 1, 6, limits="before opset 7 inference only")
def batch_normalization_1(ctx: NodeContext) -> Value:
    """Only with given statistics (``is_test``)."""
    if not ctx.attr("is_test", 0):
        ctx.unsupported("training mode (is_test=0) is not supported")
    if not ctx.attr("spatial", 1):
        ctx.unsupported("statistics for each position (spatial=0) are not supported")
    return inference_batch_norm(ctx)


@onnx_op("Dropout", 1, 6, limits="before opset 7 inference only")
def dropout_1(ctx: NodeContext) -> list[Value | None]:
    """Only for inference (``is_test``)."""
    if not ctx.attr("is_test", 0):
        ctx.unsupported("training mode (is_test=0) is not supported")
    return inference_dropout(ctx)


@onnx_op("Concat", 1)
def concat_1(ctx: NodeContext) -> Value:
    """Along the channels when no axis is given."""
    return ctx.op("concat", *ctx.inputs, axis=ctx.axis(ctx.x.rank, 1))


@onnx_op("Reshape", 1)
def reshape_1(ctx: NodeContext) -> Value:
    """The shape as an attribute."""
    return ctx.op("reshape", ctx.x, shape=tuple(ctx.attr("shape")), copy_zeros=True)


@onnx_op("Tile", 1)
def tile_1(ctx: NodeContext) -> Value:
    """``tiles`` copies along ``axis``, both constant inputs."""
    repeats = [1] * ctx.x.rank
    axis = ctx.check_axis(int(ctx.scalar(2, "the axis of Tile")), ctx.x.rank)
    repeats[axis] = int(ctx.scalar(1, "the copies of Tile"))
    return ctx.op("tile", ctx.x, repeats=tuple(repeats))


@onnx_op("Split", 1)
def split_1(ctx: NodeContext) -> Sequence[Value]:
    """Sizes as an attribute or an input; equal parts without."""
    axis = ctx.axis(ctx.x.rank, 0)
    if not ctx.x.rank:
        ctx.fail("a single number cannot be split")
    sizes = ctx.ints(1, "the sizes of Split") or ctx.attr("split", None)
    if sizes is None:
        whole, count = const_int(ctx.x.shape[axis]), len(ctx.node.outputs)
        if whole is None or whole % count:
            ctx.unsupported(f"splitting {ctx.x.type} into {count} equal parts is not supported")
        sizes = (whole // count,) * count
    return ctx.emit("split", [ctx.x], axis=axis, sizes=tuple(int(s) for s in sizes))


@onnx_op("Pad", 1)
def pad_1(ctx: NodeContext) -> Value:
    """Pads and value as attributes."""
    mode = ctx.attr("mode", "constant")
    fill = ctx.like(ctx.attr("value", 0.0), ctx.x) if mode == "constant" else None
    return ctx.op("pad", ctx.x, None, fill, pads=tuple(ctx.attr("paddings")), mode=mode)


@onnx_op("Upsample", 1)
def upsample_1(ctx: NodeContext) -> Value:
    """Images by ``height_scale`` and ``width_scale``."""
    mode = ctx.attr("mode", "nearest")
    scales = (1.0, 1.0, float(ctx.attr("height_scale")), float(ctx.attr("width_scale")))
    kind = "linear" if mode in ("linear", "bilinear") else mode
    return ctx.op("resize", ctx.x, scales=scales, mode=kind, coordinates="asymmetric", nearest="floor")
