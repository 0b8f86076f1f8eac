"""Contractions of bytes that count from zero points: exact sums in 32 bits.

``matmul_integer`` is ``(a - a_zero) @ (b - b_zero)``, ``conv_integer`` the same of a convolution. The
attribute ``operands`` says what the target multiplies: ``uint8`` (the default) or ``int8`` data with signed
weights, or ``int16``, where the zero points are subtracted beforehand. Of bytes they move out of the sums:

    sum (a - p) (b - q)  =  sum a b  -  p sum b  -  q sum (a - p)

For constant weights ``p sum b`` is known when the model is compiled, and ``q`` vanishes where ``b - q`` fits
a signed byte. Padding is filled with the data's zero point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.graph import Attr, TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, get_op, make_context, register
from tilewright.graph.shapes import known
from tilewright.ops.common import Operands, broadcast_shapes, is_one
from tilewright.ops.contract import conv_infer, matmul_infer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilewright.graph.builder import GraphBuilder


def _as_contraction(ctx: OpContext, op: str, operands: int) -> OpContext:
    """The context of the contraction ``op`` of the same bytes, with sums in 32 bits."""
    types = [*ctx.inputs[:2], *([ctx.inputs[4]] if operands == 3 and ctx.has_input(4) else [])]
    return make_context(get_op(op), types, _conv_attrs(ctx), node=ctx.node, where=ctx.where)


def _check_zero_points(ctx: OpContext) -> None:
    """Rejects zero points of other types than their data's."""
    for index in (2, 3):
        if ctx.has_input(index) and ctx.input(index).dtype != ctx.input(index - 2).dtype:
            data, zero = ctx.input(index - 2), ctx.input(index)
            ctx.fail(f"the zero point of {data.dtype} data must be {data.dtype}, not {zero.dtype}")


def _int32(array: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    return array.astype(np.int32) if zero is None else array.astype(np.int32) - zero.astype(np.int32)


def _at(inputs: Sequence[Value | None], index: int) -> Value | None:
    return inputs[index] if index < len(inputs) else None


class _Bytes:
    """An operand as bytes of a given signedness (or as 16-bit integers) and the number (int32) that stands
    for 0 in them.

    Attributes:
        value: the bytes.
        data: the bytes of a constant, else None.
        zero: the zero point; None when it is 0.
        fill: the zero point as one of the bytes; None when it is 0.
    """

    def __init__(
        self, builder: GraphBuilder, value: Value, zero: Value | None, dtype: str, fold: bool = False
    ) -> None:
        data = builder.const(value)
        offset = None if zero is None else builder.const(zero)
        self.builder = builder
        self.fill: Value | None = zero
        if dtype == "int16":
            self._set_words(value, zero, data, offset)
            return
        if fold and data is not None and (zero is None or offset is not None):
            shifted = _int32(data, offset)
            if shifted.min(initial=0) >= -128 and shifted.max(initial=0) <= 127:
                self.data: np.ndarray | None = shifted.astype(np.int8)
                self.value = builder.constant(self.data, value.name)
                self.zero: Value | None = None
                return
        shift = 0
        if value.dtype != dtype:
            shift = 128 if dtype == "uint8" else -128
            made = builder.producer(value)
            if data is not None:
                data = (data.astype(np.int16) + shift).astype(dtype)
                value = builder.constant(data, value.name)
            elif made is not None and made.op == "flip_sign" and made.inputs[0] is not None:
                value = made.inputs[0]
            else:
                value = builder.op("flip_sign", value)
        self.value, self.data = value, data
        self._set_zero(zero, offset, shift, dtype)

    def _set_words(
        self, value: Value, zero: Value | None, data: np.ndarray | None, offset: np.ndarray | None
    ) -> None:
        """The differences from the zero point, which 16 bits hold."""
        builder = self.builder
        self.zero, self.fill, self.data = None, None, None
        if data is not None and (zero is None or offset is not None):
            self.data = _int32(data, offset).astype(np.int16)
            self.value = builder.constant(self.data, value.name)
            return
        self.value = builder.op("cast", value, to="int16")
        if zero is not None and (offset is None or offset.any()):
            self.value = builder.op("sub", self.value, builder.op("cast", zero, to="int16"))

    def _set_zero(self, zero: Value | None, known: np.ndarray | None, shift: int, dtype: str) -> None:
        builder = self.builder
        if zero is None or known is not None:
            number = np.zeros((), np.int32) if known is None else known.astype(np.int32)
            number = np.asarray(number + shift, np.int32)
            self.zero = builder.constant(number, "zero_point") if number.any() else None
            self.fill = builder.constant(number.astype(dtype), "zero_point") if number.any() else None
            return
        self.zero = builder.op("cast", zero, to="int32")
        if shift:
            self.zero = builder.op("add", self.zero, builder.constant(np.array(shift, np.int32), "shift"))
            self.fill = builder.op("flip_sign", zero)

    def total(self, axes: tuple[int, ...]) -> Value:
        """The sum of the bytes, in 32 bits, along ``axes``, which stay with size 1."""
        if self.data is not None:
            sums = self.data.sum(axis=axes, keepdims=True, dtype=np.int32)
            return self.builder.constant(np.asarray(sums), "sums")
        wide = self.builder.op("cast", self.value, to="int32")
        return self.builder.op("reduce", wide, op="sum", axes=axes, keepdims=True)


def _operands(ctx: OpContext) -> tuple[str, str]:
    """The types in which data and weights are multiplied."""
    data = str(ctx.attr("operands", "uint8"))
    return data, "int16" if data == "int16" else "int8"


def _product(builder: GraphBuilder, a: Value, b: Value) -> Value:
    """``a * b``, now where both are known: sums of weights are small, but what they are made of is not."""
    left, right = builder.const(a), builder.const(b)
    if left is not None and right is not None:
        return builder.constant(np.asarray(left * right, np.int32), "correction")
    return builder.op("mul", a, b)


# --------------------------------------------------------------------------------------------- matmul_integer
def _matmul_infer(ctx: OpContext) -> list[TensorType]:
    _check_zero_points(ctx)
    (result,) = matmul_infer(_as_contraction(ctx, "matmul", 2))
    for index, summed in ((2, -1), (3, -2)):
        if ctx.has_input(index):
            data, zero = ctx.input(index - 2), ctx.input(index)
            fits = zero.rank <= data.rank and broadcast_shapes(ctx, zero.shape, data.shape) == data.shape
            if not fits or (zero.rank >= -summed and not is_one(zero.shape[summed])):
                ctx.fail(f"zero points {zero} are neither one number nor one for each sum over {data}")
    return [result]


def _matmul_decompose(builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]) -> list[Value]:
    a_value, b_value = inputs[0], inputs[1]
    assert a_value is not None
    assert b_value is not None
    first, second = _operands(ctx)
    a = _Bytes(builder, a_value, _at(inputs, 2), first)
    b = _Bytes(builder, b_value, _at(inputs, 3), second, fold=True)
    y = builder.op("matmul", a.value, b.value, to="int32")
    if a.zero is not None:
        y = builder.op("sub", y, _product(builder, a.zero, b.total((b.value.rank - 2,))))
    if b.zero is not None:
        wide = builder.op("cast", a.value, to="int32")
        centred = wide if a.zero is None else builder.op("sub", wide, a.zero)
        rows = builder.op("reduce", centred, op="sum", axes=(a.value.rank - 1,), keepdims=True)
        y = builder.op("sub", y, builder.op("mul", b.zero, rows))
    return [y]


def _matmul_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    a, b, p, q = (*inputs, None, None)[:4]
    return [np.matmul(_int32(a, p), _int32(b, q))]


register(
    OpDef(
        "matmul_integer",
        FusionKind.contraction,
        infer=_matmul_infer,
        decompose=_matmul_decompose,
        reference=_matmul_numpy,
    )
)


# ----------------------------------------------------------------------------------------------- conv_integer
def _conv_infer(ctx: OpContext) -> list[TensorType]:
    _check_zero_points(ctx)
    result = conv_infer(_as_contraction(ctx, "conv", 3))
    if ctx.has_input(2) and ctx.input(2).static_shape not in ((), (1,)):
        ctx.fail(f"the zero point of a convolution's data must be one number, not {ctx.input(2)}")
    channels = (ctx.input(1).static_shape or ())[:1]
    if ctx.has_input(3) and ctx.input(3).static_shape not in ((), (1,), channels):
        ctx.fail(f"the zero points of weights must be one number or one a channel, not {ctx.input(3)}")
    return result


def _conv_decompose(builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]) -> list[Value]:
    x_value, w_value, bias = inputs[0], inputs[1], _at(inputs, 4)
    assert x_value is not None
    assert w_value is not None
    rank = w_value.rank
    first, second = _operands(ctx)
    x = _Bytes(builder, x_value, _single(builder, _at(inputs, 2)), first)
    w = _Bytes(builder, w_value, _aligned(builder, _at(inputs, 3), rank), second, fold=True)
    attrs = _conv_attrs(ctx)
    late: list[Value] = []
    if x.zero is not None:
        sums = _product(builder, x.zero, w.total(tuple(range(1, rank))))
        data, given = builder.const(sums), None if bias is None else builder.const(bias)
        if data is not None and (bias is None or given is not None):
            total = -data.reshape(-1) if given is None else given - data.reshape(-1)
            bias = builder.constant(np.asarray(total, np.int32), "bias")
        else:
            late.append(_viewed(builder, sums, (1, -1, *(1,) * (rank - 2))))
    if w.zero is not None:
        late.append(builder.op("mul", _channels(builder, w.zero), _windows_total(builder, ctx, x, w.value)))
    (y,) = builder.emit("conv", [x.value, w.value, bias, x.fill], attrs)
    for term in late:
        y = builder.op("sub", y, term)
    return [y]


def _conv_attrs(ctx: OpContext) -> dict[str, Attr]:
    """The attributes of the convolution of bytes."""
    return {**{name: value for name, value in ctx.attrs.items() if name != "operands"}, "to": "int32"}


def _single(builder: GraphBuilder, zero: Value | None) -> Value | None:
    """A zero point as a tensor without dimensions."""
    return None if zero is None else _viewed(builder, zero, ())


def _aligned(builder: GraphBuilder, zero: Value | None, rank: int) -> Value | None:
    """Zero points of weights ``[CO, ...]``, to be broadcast against them."""
    if zero is None or zero.dims() in ((), (1,)):
        return _single(builder, zero)
    return _viewed(builder, zero, (-1, *(1,) * (rank - 1)))


def _channels(builder: GraphBuilder, zero: Value) -> Value:
    """Zero points aligned with weights as ones aligned with the convolution's result."""
    return zero if zero.rank == 0 else _viewed(builder, zero, (1, -1, *(1,) * (zero.rank - 2)))


def _viewed(builder: GraphBuilder, value: Value, shape: tuple[int, ...]) -> Value:
    data = builder.const(value)
    if data is not None:
        return builder.constant(data.reshape(shape), value.name)
    return builder.op("reshape", value, shape=shape)


def _windows_total(builder: GraphBuilder, ctx: OpContext, x: _Bytes, w: Value) -> Value:
    """``sum (x - zero)`` over each window, for every output channel: a convolution with ones."""
    co, per_group, *kernel = known(w.dims())
    groups = int(ctx.attr("groups", 1))
    ones = builder.constant(np.ones((groups, per_group, *kernel), np.int8), "ones")
    attrs = _conv_attrs(ctx)
    (total,) = builder.emit("conv", [x.value, ones, None, x.fill], attrs)
    if x.zero is not None:
        taps = builder.constant(np.array(per_group * int(np.prod(kernel)), np.int32), "taps")
        total = builder.op("sub", total, _product(builder, x.zero, taps))
    if groups in (1, co):
        return total
    batch, _, *spatial = total.dims()
    apart = builder.op("reshape", total, shape=(batch, groups, 1, *spatial))
    spread = builder.op("expand", apart, shape=(batch, groups, co // groups, *spatial))
    return builder.op("reshape", spread, shape=(batch, co, *spatial))


def _conv_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, w, p, q, bias = (*inputs, None, None, None)[:5]
    if q is not None and q.size > 1:
        q = q.reshape(-1, *(1,) * (w.ndim - 1))
    plain = _as_contraction(ctx, "conv", 3)
    return list(get_op("conv").reference(plain, [_int32(x, p), _int32(w, q), bias]))


register(
    OpDef(
        "conv_integer",
        FusionKind.contraction,
        infer=_conv_infer,
        decompose=_conv_decompose,
        reference=_conv_numpy,
    )
)
