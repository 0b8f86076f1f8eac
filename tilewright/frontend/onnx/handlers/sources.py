"""Tensors that do not come from data: constants, ranges, shapes."""

from __future__ import annotations

import numpy as np

from tilewright.config import options
from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.visit import const_int
from tilewright.ops.computed import computed_size


@onnx_op("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def constant(ctx: NodeContext) -> Value:
    """A tensor, a number or a list of numbers in an attribute."""
    name = ctx.node.outputs[0]
    attrs = ctx.node.attrs
    for key in ("value", "sparse_value"):
        if key in attrs:
            return ctx.builder.constant(attrs[key], name)
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in attrs:
            return ctx.builder.constant(np.array(attrs[key], dtype=dtype), name)
    given = ", ".join(attrs) or "nothing"
    return ctx.unsupported(f"a constant given as {given} is not supported")


@onnx_op("ConstantOfShape", 9, 20, 21, 23, 24, 25)
def constant_of_shape(ctx: NodeContext) -> Value:
    """One number in every place; the default is a float32 0."""
    value = ctx.attr("value", None)
    number = np.zeros((), np.float32) if value is None else np.asarray(value).reshape(())
    return ctx.op("expand", ctx.builder.constant(number), ctx.x)


@onnx_op("EyeLike", 9, 22)
def eye_like(ctx: NodeContext) -> Value:
    """Ones on the k-th diagonal, in the shape of the input."""
    rows, columns = ctx.static_dims(ctx.x, "the input")
    to = ctx.attr("dtype", None)
    dtype = ctx.x.dtype if to is None else dtype_name(int(to), "the result of EyeLike", ctx.where)
    return ctx.constant(np.eye(rows, columns, int(ctx.attr("k", 0))), dtype)


@onnx_op("Range", 11, 27)
def arange(ctx: NodeContext) -> Value:
    """From start (inclusive) to limit (exclusive) in steps of delta."""
    for index, name in enumerate(("start", "limit", "delta")):
        if any(const_int(d) not in (1, None) for d in ctx.value(index).shape):
            ctx.fail(f"the {name} of a Range must be one number, not {ctx.value(index).type}")
    operands = [ctx.value(n) for n in range(3)]
    if all(ctx.builder.const(v) is not None or ctx.builder.exprs(v) is not None for v in operands):
        return ctx.op("range", *operands, dtype=ctx.x.dtype)
    length = ctx.op("range_length", *operands)
    most = options().max_computed
    total, dim = computed_size(ctx.builder, length, most, f"{ctx.result_name}_length")
    return ctx.op("arange", operands[0], operands[2], total, dim=dim)


@onnx_op("OneHot", 9, 11, 28)
def one_hot(ctx: NodeContext) -> Value:
    """Indices may be of any number type; ``values`` is the pair [off, on]."""
    indices = ctx.x
    if not dt.is_int(indices.dtype):
        indices = ctx.op("cast", indices, to="int64")
    axis = ctx.axis(indices.rank + 1, -1)
    depth = ctx.value(1)
    if const_int(product(depth.shape)) not in (None, 1):
        ctx.fail(f"the depth is one number, not {depth.type}")
    if not dt.is_int(depth.dtype):
        depth = ctx.op("cast", depth, to="int64")
    return ctx.op("one_hot", indices, ctx.value(2), depth, axis=axis)


@onnx_op("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape(ctx: NodeContext) -> Value:
    """The input's shape, or the part of it from ``start`` to ``end`` (opset 15)."""
    return ctx.op("shape", ctx.x, start=ctx.attr("start", 0), end=ctx.attr("end", None))


@onnx_op("Size", 1, 13, 19, 21, 23, 24, 25)
def size(ctx: NodeContext) -> Value:
    """The number of elements."""
    return ctx.op("reduce", ctx.op("shape", ctx.x, start=0), op="prod", axes=(0,), keepdims=False)
