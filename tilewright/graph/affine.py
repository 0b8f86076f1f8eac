"""Arithmetic with constants moves into weights, and chains of constants become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np

from tilewright.graph.canonical import channel_axis
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.movement import Replaced
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.ir import dtype as dt

_CONVS: Final = ("conv", "conv_transpose")


def fold_affine(graph: Graph) -> Graph:
    """One sweep: ``mul``, ``neg`` and ``add``/``sub`` by per-channel constants fold into the weights and bias
    of the convolution or matmul whose only reader they are, or (``mul``) that is their only reader; constant
    chains merge.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        rule = _RULES.get(node.op)
        return None if rule is None else rule(rw, node)

    return rewrite(graph, visit)


def _split(rw: Rewriter, node: Node) -> tuple[Value, np.ndarray, bool] | None:
    """(variable operand, constant operand, whether the constant stands first) of a binary float node."""
    a, b = node.inputs
    assert a is not None
    assert b is not None
    if not dt.is_float(node.output.dtype):
        return None
    left, right = rw.const(a), rw.const(b)
    if right is not None and left is None and a.dims() == node.output.dims():
        return a, right, False
    if left is not None and right is None and b.dims() == node.output.dims():
        return b, left, True
    return None


def _scale(rw: Rewriter, node: Node) -> Replaced:
    """``y * c``."""
    parts = _split(rw, node)
    if parts is None:
        return None
    x, c, _ = parts
    if (c == 1).all() and c.ndim <= x.rank:
        return [x]
    return _scale_conv(rw, x, c) or _scale_matmul(rw, x, c) or _merge(rw, node, x, c, "mul", np.multiply)


def _divide(rw: Rewriter, node: Node) -> Replaced:
    """``y / c`` as ``y * (1 / c)``: one more rounding, half a unit in the last place, for a fraction of the
    time.

    Only where every reciprocal is a normal number: others would lose what the division keeps.
    """
    parts = _split(rw, node)
    if parts is None or parts[2]:
        return None
    x, c, _ = parts
    with np.errstate(all="ignore"):
        reciprocal = (1 / c.astype(np.float64)).astype(c.dtype)
    size = np.abs(reciprocal.astype(np.float64))
    info = ml_dtypes.finfo(c.dtype)
    if not ((size >= float(info.tiny)) & (size <= float(info.max))).all():
        return None
    return [rw.op("mul", x, rw.constant(reciprocal, "reciprocal"), name=node.name)]


def _negate(rw: Rewriter, node: Node) -> Replaced:
    """``-y`` where y is a convolution or a product with a constant, whose weights can take the sign."""
    x = node.inputs[0]
    assert x is not None
    if not dt.is_float(x.dtype):
        return None
    minus = np.asarray(-1, dt.to_numpy(x.dtype))
    return _scale_conv(rw, x, minus) or _scale_matmul(rw, x, minus)


def _shift(rw: Rewriter, node: Node) -> Replaced:
    """``y + c``, ``y - c`` and (for a convolution) ``c - y``."""
    parts = _split(rw, node)
    if parts is None:
        return None
    x, c, first = parts
    if node.op == "sub" and first:
        return None
    offset = c if node.op == "add" else -c
    if (offset == 0).all() and c.ndim <= x.rank:
        return [x]
    return _shift_conv(rw, x, offset) or _merge(rw, node, x, c, "add", np.add)


def _merge(
    rw: Rewriter, node: Node, x: Value, c: np.ndarray, op: str, fn: Callable[[Any, Any], Any]
) -> Replaced:
    """``(x op a) op b`` with constants a and b."""
    inner = rw.single_use(x, op)
    if inner is None or node.op != op:
        return None
    parts = _split(rw, inner)
    if parts is None:
        return None
    source, first, _ = parts
    if prod(np.broadcast_shapes(c.shape, first.shape)) > max(c.size, first.size):
        return None
    with np.errstate(all="ignore"):
        both = np.asarray(fn(first, c), c.dtype)
    if c.dtype.kind not in "iub" and not np.isfinite(both.astype(np.float64)).all():
        return None  # 0 * a * b is 0, however large a and b are
    return [rw.op(op, source, rw.constant(both, "const"), name=node.name)]


def _per_channel(c: np.ndarray, x: Value, axis: int) -> np.ndarray | None:
    """``c``, broadcast against ``x``, as one number per channel; None when it varies along another
    dimension, or their number is not known.
    """
    channels = x.dims()[axis]
    if c.ndim > x.rank or not isinstance(channels, int):
        return None
    shape = (1,) * (x.rank - c.ndim) + c.shape
    if any(d != 1 for n, d in enumerate(shape) if n != axis):
        return None
    return np.broadcast_to(c.reshape(-1), (channels,))


def scale_out_channels(node: Node, w: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Convolution weights with output channel ``i`` multiplied by ``factor[i]``."""
    if node.attrs.get("channels_last"):
        return _times(w, factor)
    if node.op == "conv":
        return _times(w, factor.reshape(-1, *(1,) * (w.ndim - 1)))
    groups = node.attrs.get("groups", 1)
    assert isinstance(groups, int)
    per_group = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return _times(per_group, factor.reshape(groups, 1, -1, *(1,) * (w.ndim - 2))).reshape(w.shape)


def _times(w: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The product rounded once, from double precision."""
    with np.errstate(all="ignore"):  # what overflows is infinite at run time, too
        return np.asarray((w.astype(np.float64) * factor.astype(np.float64)).astype(w.dtype))


def _conv_parts(rw: Rewriter, x: Value) -> tuple[Node, np.ndarray, np.ndarray | None] | None:
    """The convolution behind ``x``, when nothing else reads it, with constant weights and bias (None: no
    bias).
    """
    conv = rw.producer(x)
    if conv is None or conv.op not in _CONVS or rw.use_count(x) > 1:
        return None
    w = rw.const(conv.inputs[1])
    bias_value = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias = rw.const(bias_value)
    if w is None or (bias_value is not None and bias is None):
        return None
    return conv, w, bias


def _with_weights(
    rw: Rewriter, conv: Node, w: np.ndarray | None, bias: np.ndarray | None, x: Value | None = None
) -> list[Value]:
    operands = [conv.inputs[0] if x is None else x, conv.inputs[1]]
    if w is not None:
        operands[1] = rw.constant(w, _name(conv.inputs[1]))
    if bias is not None:
        operands.append(rw.constant(bias, f"{conv.name or conv.op}.bias"))
    return list(rw.emit(conv.op, operands, dict(conv.attrs), name=conv.name, origin=conv.origin))


def _name(value: Value | None) -> str:
    return "weight" if value is None else value.name


def _scale_conv(rw: Rewriter, x: Value, factor: np.ndarray) -> Replaced:
    parts = _conv_parts(rw, x)
    if parts is None:
        return None
    conv, w, bias = parts
    axis = channel_axis(conv, x.rank)
    per_channel = _per_channel(factor, x, axis)
    if per_channel is None:
        return None
    fresh = None if bias is None else _times(bias, per_channel)
    return _with_weights(rw, conv, scale_out_channels(conv, w, per_channel), fresh)


def _shift_conv(rw: Rewriter, x: Value, offset: np.ndarray) -> Replaced:
    parts = _conv_parts(rw, x)
    if parts is None:
        return None
    conv, _, bias = parts
    axis = channel_axis(conv, x.rank)
    per_channel = _per_channel(offset, x, axis)
    if per_channel is None:
        return None
    total = per_channel if bias is None else (bias + per_channel).astype(bias.dtype)
    return _with_weights(rw, conv, None, np.ascontiguousarray(total))


def _scale_matmul(rw: Rewriter, x: Value, factor: np.ndarray) -> Replaced:
    matmul = rw.producer(x)
    if matmul is None or matmul.op != "matmul" or rw.use_count(x) > 1:
        return None
    b = rw.const(matmul.inputs[1])
    per_column = _per_channel(factor, x, x.rank - 1)
    if b is None or per_column is None:
        return None
    weights = rw.constant(_times(b, per_column), _name(matmul.inputs[1]))
    return list(rw.emit("matmul", [matmul.inputs[0], weights], name=matmul.name, origin=matmul.origin))


def _scaled_input(rw: Rewriter, node: Node) -> Replaced:
    """A convolution of ``x * c`` with one factor per input channel: the factor goes into the weights.

    Zero padding stays zero under scaling, so pads do not matter.
    """
    x, w_value = node.inputs[0], node.inputs[1]
    assert x is not None
    mul = rw.single_use(x, "mul")
    w = rw.const(w_value)
    parts = None if mul is None else _split(rw, mul)
    if parts is None or w is None or node.attrs.get("groups", 1) != 1:
        return None
    source, c, _ = parts
    axis = channel_axis(node, x.rank)
    factor = _per_channel(c, x, axis)
    if factor is None:
        return None
    input_axis = w.ndim - 2 if node.attrs.get("channels_last") else 1 if node.op == "conv" else 0
    shape = [1] * w.ndim
    shape[input_axis] = -1
    bias = rw.const(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and bias is None:
        return None
    return _with_weights(rw, node, _times(w, factor.reshape(shape)), bias, source)


def _scaled_operand(rw: Rewriter, node: Node) -> Replaced:
    """``(x * s) @ y`` with one number s is ``(x @ y) * s``: an epilogue instead of work on an operand."""
    for index, value in enumerate(node.inputs):
        mul = None if value is None else rw.producer(value)
        if value is None or mul is None or mul.op not in ("mul", "div") or rw.use_count(value) > 1:
            continue
        parts = _split(rw, mul)
        if parts is None or parts[1].size != 1 or (mul.op == "div" and parts[2]):
            continue
        operands = [*node.inputs[:index], parts[0], *node.inputs[index + 1 :]]
        (product,) = rw.emit("matmul", operands, dict(node.attrs), name=node.name)
        scale = rw.constant(parts[1].reshape(()), "scale")
        return [rw.op(mul.op, product, scale)]
    return None


def _power(rw: Rewriter, node: Node) -> Replaced:
    """Powers that are cheaper operations."""
    x, exponent = node.inputs
    e = rw.const(exponent)
    assert x is not None
    if e is None or e.size != 1 or not dt.is_float(x.dtype) or e.ndim > x.rank:
        return None
    value = float(e.reshape(()))
    if value == 1:
        return [x]
    if value == 2:
        return [rw.op("mul", x, x, name=node.name)]
    if value == 0.5:
        return [rw.op("sqrt", x, name=node.name)]
    return None


def shrink_uniform(graph: Graph) -> Graph:
    """Constants that are one number everywhere become that number, where elementwise operators broadcast it
    anyway.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op not in ("add", "sub", "mul", "div", "maximum", "minimum", "pow"):
            return None
        whole = node.output.dims()
        inputs = list(node.inputs)
        for index, value in enumerate(inputs):
            data, other = rw.const(value), inputs[1 - index]
            if data is None or data.size < 2 or other is None or other.dims() != whole:
                continue
            if (data == data.flat[0]).all():
                inputs[index] = rw.constant(np.asarray(data.flat[0]), _name(value))
        if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
            return None
        return rw.emit_like(node, node.op, inputs, dict(node.attrs))

    return rewrite(graph, visit)


_RULES: Final[Mapping[str, Callable[[Rewriter, Node], Replaced]]] = {
    "mul": _scale,
    "div": _divide,
    "neg": _negate,
    "add": _shift,
    "sub": _shift,
    "pow": _power,
    "conv": _scaled_input,
    "matmul": _scaled_operand,
    "conv_transpose": _scaled_input,
}
