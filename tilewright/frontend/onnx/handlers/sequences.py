"""Sequences and optional values: lists of tensors that are known when the model is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.lists import Absent, Structure, TensorList, absent, kind_of, shown, tensor_list
from tilewright.frontend.onnx.raw import RawBody
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Value
from tilewright.ir.expr import as_expr
from tilewright.ir.visit import const_int
from tilewright.runtime.special import is_list


def _sequence(ctx: NodeContext, index: int = 0) -> TensorList:
    value = ctx.item(index)
    if not isinstance(value, TensorList):
        ctx.fail(f"input {index} of {ctx.node.op_type} is {shown(value)}, not a sequence")
    return value


def _tensor(ctx: NodeContext, index: int) -> Value:
    value = ctx.item(index)
    if value is None or isinstance(value, Structure):
        ctx.fail(f"input {index} of {ctx.node.op_type} is {shown(value)}, not a tensor")
    return value


def _position(ctx: NodeContext, index: int, length: int, end: bool = False) -> int:
    """A position in a sequence of ``length`` tensors, counted from the front; ``end``: or behind the last."""
    position = int(ctx.scalar(index, "the position"))
    if not -length <= position < length + end:
        ctx.fail(f"position {position} is outside of a sequence of {length} tensors")
    return position + length if position < 0 else position


@onnx_op("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25, lists=True)
def identity(ctx: NodeContext) -> Sequence[Value | None]:
    """Tensors, sequences and optional values."""
    value = ctx.item(0)
    return [value] if isinstance(value, Structure) else [ctx.op("identity", ctx.x)]


@onnx_op("SequenceEmpty", 11)
def sequence_empty(ctx: NodeContext) -> Sequence[Value]:
    """Without tensors."""
    what = "the elements of a SequenceEmpty"
    return [tensor_list((), dtype_name(int(ctx.attr("dtype", onnx.TensorProto.FLOAT)), what, ctx.where))]


@onnx_op("SequenceConstruct", 11)
def sequence_construct(ctx: NodeContext) -> Sequence[Value]:
    """The inputs, in their order."""
    return [tensor_list((ctx.value(n) for n in range(len(ctx.inputs))), ctx.x.dtype)]


@onnx_op("SequenceAt", 11, lists=True, limits="positions that are constants or steer")
def sequence_at(ctx: NodeContext) -> Sequence[Value]:
    """The tensor at a position."""
    items = _sequence(ctx).items
    return [items[_position(ctx, 1, len(items))]]


@onnx_op("SequenceInsert", 11, lists=True, limits="positions that are constants or steer")
def sequence_insert(ctx: NodeContext) -> Sequence[Value]:
    """With one tensor more, at a position or at the end."""
    given, value = _sequence(ctx), _tensor(ctx, 1)
    if given.dtype != value.dtype:
        ctx.fail(f"a tensor of {value.dtype} does not fit {shown(given)}")
    items = list(given.items)
    items.insert(_position(ctx, 2, len(items), end=True) if ctx.has(2) else len(items), value)
    return [tensor_list(items, given.dtype)]


@onnx_op("SequenceErase", 11, lists=True, limits="positions that are constants or steer")
def sequence_erase(ctx: NodeContext) -> Sequence[Value]:
    """Without the tensor at a position, or without the last."""
    given = _sequence(ctx)
    items = list(given.items)
    if not items:
        ctx.fail("a sequence of no tensors cannot lose one")
    del items[_position(ctx, 1, len(items)) if ctx.has(1) else -1]
    return [tensor_list(items, given.dtype)]


@onnx_op("SequenceLength", 11, lists=True)
def sequence_length(ctx: NodeContext) -> Value:
    """The number of tensors."""
    return ctx.constant(len(_sequence(ctx).items), "int64")


@onnx_op("ConcatFromSequence", 11, lists=True)
def concat_from_sequence(ctx: NodeContext) -> Value:
    """The tensors one behind the other along ``axis``, or along a new one."""
    items = _sequence(ctx).items
    if not items:
        ctx.fail("a sequence of no tensors cannot be concatenated")
    fresh = bool(ctx.attr("new_axis", 0))
    axis = ctx.axis(items[0].rank + fresh)
    if fresh:
        items = tuple(
            ctx.reshape(v, (*v.shape[:axis], as_expr(1), *v.shape[axis:])) if v.rank >= axis else v
            for v in items
        )
    return ctx.op("concat", *items, axis=axis)


@onnx_op("SplitToSequence", 11, 24, limits="sizes that are constants or steer")
def split_to_sequence(ctx: NodeContext) -> Sequence[Value]:
    """Parts of a tensor: of given sizes, of one size (the last may be smaller), or of one element each, which
    lose their dimension without ``keepdims``.
    """
    x, axis = ctx.x, ctx.axis(ctx.x.rank, 0)
    if not ctx.has(1):
        whole = _length(ctx, x, axis)
        parts = _split(ctx, x, axis, [1] * whole)
        if not ctx.attr("keepdims", 1):
            parts = [ctx.reshape(p, (*x.shape[:axis], *x.shape[axis + 1 :])) for p in parts]
        return [tensor_list(parts, x.dtype)]
    given = ctx.require_data(1, "the sizes of a SplitToSequence")
    sizes = [int(n) for n in given.reshape(-1)]
    if not given.ndim:
        whole, part = _length(ctx, x, axis), sizes[0]
        if part < 1:
            ctx.fail(f"a tensor cannot be split into parts of {part}")
        sizes = [min(part, whole - begin) for begin in range(0, whole, part)]
    return [tensor_list(_split(ctx, x, axis, sizes), x.dtype)]


def _length(ctx: NodeContext, x: Value, axis: int) -> int:
    length = const_int(x.shape[axis])
    if length is None:
        ctx.unsupported("splitting a dimension of open size into a sequence is not supported")
    return length


def _split(ctx: NodeContext, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    if not sizes:
        return []
    return list(ctx.emit("split", [x], axis=axis, sizes=tuple(sizes)))


@onnx_op("SequenceMap", 17, lists=True)
def sequence_map(ctx: NodeContext) -> Sequence[Value]:
    """The body for each tensor of the first sequence, written out; it reads other sequences at the same
    position, and tensors whole.
    """
    body: RawBody = ctx.attr("body")
    operands = [ctx.item(n) for n in range(len(ctx.inputs))]
    first = _sequence(ctx)
    for value in operands:
        if isinstance(value, TensorList) and len(value.items) != len(first.items):
            ctx.fail(f"sequences of {len(first.items)} and of {len(value.items)} tensors are mapped together")
    if len(body.inputs) != len(operands):
        ctx.fail(f"the body takes {len(body.inputs)} tensors, not {len(operands)}")
    if not first.items:
        ctx.unsupported("a sequence of no tensors does not tell the types of what is made of it")
    rows = []
    for n in range(len(first.items)):
        given = [v.items[n] if isinstance(v, TensorList) else v for v in operands if v is not None]
        rows.append(ctx.bodies.inline(body, given))
    return [tensor_list(column, column[0].dtype) for column in zip(*rows, strict=True)]


# -------------------------------------------------------------------------------------------- optional values
@onnx_op("Optional", 15, 28, lists=True)
def optional(ctx: NodeContext) -> Sequence[Value | None]:
    """What the input is; without one, nothing of the declared type."""
    if ctx.has(0):
        return [ctx.item(0)]
    declared: Any = ctx.attr("type", None)
    if declared is None:
        ctx.fail("an Optional without an input needs the attribute 'type'")
    kind, tensor = kind_of(declared, "the type of an Optional", ctx.where)
    what = "the type of an Optional"
    return [absent(dtype_name(tensor.elem_type, what, ctx.where), is_list(kind))]


@onnx_op("OptionalHasElement", 15, 18, 28, lists=True)
def optional_has_element(ctx: NodeContext) -> Value:
    """Whether there is anything."""
    there = ctx.has(0) and not isinstance(ctx.item(0), Absent)
    return ctx.constant(np.asarray(there), "bool")


@onnx_op("OptionalGetElement", 15, 18, 28, lists=True)
def optional_get_element(ctx: NodeContext) -> Sequence[Value | None]:
    """What is there."""
    value = ctx.item(0)
    if value is None or isinstance(value, Absent):
        ctx.fail(f"{shown(value)} has no element to get")
    return [value]
