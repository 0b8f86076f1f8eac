"""Quantized graphs on integers.

Models hold quantized values as a pair: ``quantize`` makes integers, ``dequantize`` turns them back into
floats for the operator that reads them. Taken by the letter everything between is float arithmetic. These
passes leave integers where they are:

* ``keep_integers``: what only moves or compares elements works on the integers; ``dequantize`` sinks below
  it, ``quantize`` rises above it, and a pair that undoes itself vanishes. Bytes are unsigned, as the
  instructions that multiply them want the data.
* ``multiply_integers``: products and convolutions of two dequantized operands become products of integers
  (``ops.integer``), whose sums are scaled once. The sums are exact; float sums are not.
* ``merge_scales``: between sums and ``quantize`` stands one factor for each channel.
* ``choose_operands``: as bytes or wider integers, whatever the target multiplies.
* ``fold_dequantized``: weights of what stays float become floats.

Elementwise operators stay what they are: kernels of them read and write integers, and convert in registers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from math import prod
from typing import Final

import numpy as np

from tilewright.graph.fold import absorb_parameters, fold_constants
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.interpret import run_reference
from tilewright.graph.movement import Replaced, viewed
from tilewright.graph.rewrite import Rewriter, fixpoint, rewrite
from tilewright.ir import dtype as dt
from tilewright.ir.tensor_intrinsics import parameters, tensor_intrinsics
from tilewright.target import Target

#: Operators that move elements of their first operand, and nothing else; other operands steer them.
_MOVEMENT: Final = frozenset(
    ["reshape", "transpose", "slice", "expand", "tile", "identity", "gather", "max_pool", "pad"]
)
#: Those of which each element of the operand is in the result; and maxima, made of data that is fresh anyway.
_RAISED: Final = frozenset(["reshape", "transpose", "identity", "max_pool"])
#: Movement that compares values: right for scales above 0 only.
_COMPARING: Final = frozenset(["max_pool"])
_BYTES: Final = ("int8", "uint8")
#: The largest sum that 32 bits hold.
_MAX_SUM: Final = 2**31 - 1
#: Relative difference up to which a bias counts in units of the product of two scales.
_SAME_SCALE: Final = 1e-5


def use_integers(graph: Graph, operands: str = "uint8") -> Graph:
    """All passes of this module, in order; a graph without quantized values is returned as it is.
    ``operands`` is what the target multiplies (:func:`multiplied_type`)."""
    if not any(n.op in ("quantize", "dequantize", "matmul_integer", "conv_integer") for n in graph.nodes):
        return graph
    graph = fixpoint(graph, (fold_constants, absorb_parameters, keep_integers))
    graph = fold_constants(fold_dequantized(multiply_integers(graph)))
    return choose_operands(merge_scales(graph), operands)


def multiplied_type(target: Target) -> str:
    """The type of data that an instruction of ``target`` multiplies with weights of 8 (``int16``: 16) bits:
    ``uint8``, ``int8`` or ``int16``, in this order; ``uint8`` where there is none."""
    found = set()
    for intrinsic in tensor_intrinsics():
        if all(map(target.has, intrinsic.requires)):
            shapes = [len(p.shape) for p in parameters(intrinsic)]
            kinds = tuple(p.dtype for p in parameters(intrinsic))
            if shapes == [1, 2, 1] and kinds[1:] == ("int16" if kinds[0] == "int16" else "int8", "int32"):
                found.add(kinds[0])
    return next((kind for kind in ("uint8", "int8", "int16") if kind in found), "uint8")


def choose_operands(graph: Graph, operands: str) -> Graph:
    """Products of bytes get the operands that the target multiplies. Convolutions in groups stay with bytes:
    no instruction serves them."""
    if operands == "uint8":
        return graph

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op not in ("matmul_integer", "conv_integer") or node.attrs.get("operands") is not None:
            return None
        if node.attrs.get("groups", 1) != 1:
            return None
        return rw.emit_like(node, node.op, node.inputs, {**node.attrs, "operands": operands})

    return rewrite(graph, visit)


@dataclasses.dataclass(frozen=True)
class _Quantized:
    """Integers ``value`` that stand for ``(value - zero) * scale``."""

    value: Value
    scale: Value
    zero: Value | None

    @property
    def is_uniform(self) -> bool:
        """Whether scale and zero point are one number each."""
        return all(p is None or prod_of(p) == 1 for p in (self.scale, self.zero))


def prod_of(value: Value) -> int | None:
    """The number of elements of a value, if it is known."""
    shape = value.static_shape
    return None if shape is None else prod(shape)


def _dequantized(rw: Rewriter, value: Value | None) -> _Quantized | None:
    """What ``value`` is the float form of."""
    node = None if value is None else rw.producer(value)
    if node is None or node.op != "dequantize" or node.attrs["to"] != "float32":
        return None
    x, scale, zero = (*node.inputs, None)[:3]
    assert x is not None
    assert scale is not None
    # What is packed, and floats of 8 bits, only come as weights.
    if not dt.is_int(x.dtype) or dt.bits(x.dtype) < 8:
        return None
    return _Quantized(x, scale, zero)


def _same(rw: Rewriter, a: Value | None, b: Value | None) -> bool:
    """Whether two scales or zero points are known to be one and the same number."""
    if a is b:
        return True
    known = [np.zeros(()) if v is None else rw.const(v) for v in (a, b)]
    return all(k is not None and k.size == 1 for k in known) and known[0].item() == known[1].item()  # type: ignore[union-attr]


def _number(rw: Rewriter, value: Value | None) -> int | None:
    """A zero point as a number: 0 where it is left out, None where it is not one known number."""
    if value is None:
        return 0
    data = rw.const(value)
    return int(data.reshape(())) if data is not None and data.size == 1 else None


def _is_positive(rw: Rewriter, scale: Value) -> bool:
    data = rw.const(scale)
    return data is not None and bool((data > 0).all())


def _zero(rw: Rewriter, number: int, dtype: str) -> Value:
    return rw.constant(np.array(number, dt.to_numpy(dtype)), "zero_point")


# ---------------------------------------------------------------------------------------------- keep_integers
def keep_integers(graph: Graph) -> Graph:
    """One sweep: conversions move out of the way of data movement, comparisons and each other."""

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op == "quantize":
            return _undone(rw, node) or _unsigned(rw, node) or _raised(rw, node)
        if node.op == "dequantize":
            return _of_unsigned(rw, node)
        if node.op == "flip_sign":
            inner = rw.producer(_first(node))
            return [_first(inner)] if inner is not None and inner.op == "flip_sign" else None
        if node.op in _MOVEMENT:
            return _sunk(rw, node) or _flip_sunk(rw, node)
        if node.op == "concat":
            return _concat(rw, node)
        if node.op == "relu":
            return _relu(rw, node)
        return None

    return rewrite(graph, visit)


def _first(node: Node) -> Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _undone(rw: Rewriter, node: Node) -> Replaced:
    """``quantize(dequantize(x))`` with the same numbers is ``x``: the quotient of a product by its factor is
    nowhere near half a unit off."""
    inner = _dequantized(rw, node.inputs[0])
    _, scale, zero = (*node.inputs, None)[:3]
    if inner is None or inner.value.dtype != node.output.dtype:
        return None
    return [inner.value] if _same(rw, inner.scale, scale) and _same(rw, inner.zero, zero) else None


def _unsigned(rw: Rewriter, node: Node) -> Replaced:
    """Signed bytes as unsigned ones that count from a place 128 higher."""
    x, scale, zero = (*node.inputs, None)[:3]
    number = _number(rw, zero)
    if node.output.dtype != "int8" or number is None:
        return None
    attrs = {**node.attrs, "to": "uint8"}
    (u,) = rw.emit("quantize", [x, scale, _zero(rw, number + 128, "uint8")], attrs, name=node.name)
    return [rw.op("flip_sign", u)]


def _of_unsigned(rw: Rewriter, node: Node) -> Replaced:
    """``dequantize(flip_sign(u))`` reads ``u``, and counts from elsewhere."""
    x, scale, zero = (*node.inputs, None)[:3]
    assert x is not None
    inner, number = rw.producer(x), _number(rw, zero)
    if inner is None or inner.op != "flip_sign" or number is None:
        return None
    u = _first(inner)
    shifted = _zero(rw, number + (128 if u.dtype == "uint8" else -128), u.dtype)
    return rw.emit_like(node, "dequantize", [u, scale, shifted], dict(node.attrs))


def _raised(rw: Rewriter, node: Node) -> Replaced:
    """``quantize`` of moved data is moved quantized data: less to move, and the conversion joins what makes
    the data."""
    x, scale, zero = (*node.inputs, None)[:3]
    assert x is not None
    inner = rw.producer(x)
    if inner is None or rw.use_count(x) > 1 or any(p is not None and prod_of(p) != 1 for p in (scale, zero)):
        return None
    if inner.op == "concat":
        parts = [rw.emit("quantize", [v, scale, zero], dict(node.attrs))[0] for v in inner.inputs]
        return list(rw.emit("concat", parts, dict(inner.attrs), name=node.name))
    if inner.op not in _RAISED or not _keeps_order(rw, inner, scale):
        return None
    source = _first(inner)
    (q,) = rw.emit("quantize", [source, scale, zero], dict(node.attrs), name=node.name)
    return list(rw.emit(inner.op, [q, *inner.inputs[1:]], dict(inner.attrs), name=inner.name))


def _keeps_order(rw: Rewriter, node: Node, scale: Value | None) -> bool:
    return node.op not in _COMPARING or (scale is not None and _is_positive(rw, scale))


def _sunk(rw: Rewriter, node: Node) -> Replaced:
    """Movement of dequantized data is dequantization of moved data."""
    q = _dequantized(rw, node.inputs[0])
    if q is None or not _keeps_order(rw, node, q.scale):
        return None
    inputs, params = [q.value, *node.inputs[1:]], [q.scale, q.zero]
    if not q.is_uniform:
        if node.op != "transpose":
            return None
        moved = [None if p is None else _transposed(rw, node, p) for p in params]
        if moved[0] is None or (q.zero is not None and moved[1] is None):
            return None
        params = moved
    if node.op == "pad" and not _pads_with_zero(rw, node, q, inputs):
        return None
    (y,) = rw.emit(node.op, inputs, dict(node.attrs), name=node.name)
    return rw.emit_like(node, "dequantize", [y, *params], {"to": "float32"})


def _transposed(rw: Rewriter, node: Node, param: Value) -> Value | None:
    """Constant scales or zero points for transposed data."""
    data, perm, rank = rw.const(param), node.attrs["perm"], node.output.rank
    if data is None or not isinstance(perm, tuple):
        return None
    aligned = data.reshape((1,) * (rank - data.ndim) + data.shape)
    axes = [int(p) for p in perm if isinstance(p, int)]
    return rw.constant(np.ascontiguousarray(aligned.transpose(axes)), param.name)


def _pads_with_zero(rw: Rewriter, node: Node, q: _Quantized, inputs: list[Value | None]) -> bool:
    """Whether a pad repeats data or fills with 0; in ``inputs`` that becomes the zero point."""
    if node.attrs.get("mode", "constant") != "constant":
        return True
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    known, number = None if fill is None else rw.const(fill), _number(rw, q.zero)
    if number is None or (fill is not None and (known is None or known.any())):
        return False
    inputs.extend([None] * (3 - len(inputs)))
    inputs[2] = _zero(rw, number, q.value.dtype)
    return True


def _flip_sunk(rw: Rewriter, node: Node) -> Replaced:
    """Movement of bytes with the other sign is movement of the bytes."""
    inner = rw.producer(_first(node))
    if inner is None or inner.op != "flip_sign" or node.op == "pad":
        return None
    (y,) = rw.emit(node.op, [_first(inner), *node.inputs[1:]], dict(node.attrs), name=node.name)
    return rw.emit_like(node, "flip_sign", [y], {})


def _concat(rw: Rewriter, node: Node) -> Replaced:
    """Side by side what counts in the same units."""
    parts = [_dequantized(rw, v) for v in node.inputs]
    first = parts[0]
    if first is None or not first.is_uniform:
        return None
    for q in parts:
        if q is None or q.value.dtype != first.value.dtype:
            return None
        if not _same(rw, q.scale, first.scale) or not _same(rw, q.zero, first.zero):
            return None
    values = [q.value for q in parts if q is not None]
    (y,) = rw.emit("concat", values, dict(node.attrs), name=node.name)
    return rw.emit_like(node, "dequantize", [y, first.scale, first.zero], {"to": "float32"})


def _relu(rw: Rewriter, node: Node) -> Replaced:
    """What is below 0 is below the zero point."""
    q = _dequantized(rw, node.inputs[0])
    if q is None or not q.is_uniform or not _is_positive(rw, q.scale):
        return None
    number = _number(rw, q.zero)
    if number is None:
        return None
    y = q.value
    if number > dt.int_range(y.dtype)[0]:
        y = rw.op("maximum", y, _zero(rw, number, y.dtype))
    return rw.emit_like(node, "dequantize", [y, q.scale, q.zero], {"to": "float32"})


# ------------------------------------------------------------------------------------------ multiply_integers
def multiply_integers(graph: Graph) -> Graph:
    """Convolutions and products of dequantized bytes sum integers, and scale the sums.

    Where 32 bits might not hold a sum, floats stay.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op == "matmul":
            return _integer_matmul(rw, node)
        return _integer_conv(rw, node) if node.op == "conv" else None

    return rewrite(graph, visit)


def _bytes_operands(rw: Rewriter, node: Node, steps: int) -> tuple[_Quantized, _Quantized] | None:
    a, b = _dequantized(rw, node.inputs[0]), _dequantized(rw, node.inputs[1])
    if a is None or b is None or a.value.dtype not in _BYTES or b.value.dtype not in _BYTES:
        return None
    known = all(rw.const(q.value) is not None for q in (a, b))
    return None if known or steps * 255 * 255 > _MAX_SUM else (a, b)


def _scaled(rw: Rewriter, total: Value, a: Value, b: Value) -> Value:
    """Sums in units of ``a * b`` as floats."""
    left, right = rw.const(a), rw.const(b)
    sums = rw.op("cast", total, to="float32")
    if left is None or right is None:
        return rw.op("mul", sums, rw.op("mul", a, b))
    with np.errstate(over="ignore"):
        unit = np.asarray(left * right, np.float32)
    if not np.isfinite(unit).all():  # a sum of 0 stays 0
        return rw.op("mul", rw.op("mul", sums, a), b)
    return rw.op("mul", sums, rw.constant(unit, "scale"))


def _integer_matmul(rw: Rewriter, node: Node) -> Replaced:
    steps = node.inputs[0].dims()[-1] if node.inputs[0] is not None else None
    operands = _bytes_operands(rw, node, steps) if isinstance(steps, int) else None
    if operands is None:
        return None
    a, b = operands
    if not all(_keeps_sums(p, -1) for p in (a.scale, a.zero)):
        return None
    if not all(_keeps_sums(p, -2) for p in (b.scale, b.zero)):
        return None
    (total,) = rw.emit("matmul_integer", [a.value, b.value, a.zero, b.zero], name=node.name)
    return [_scaled(rw, total, a.scale, b.scale)]


def _keeps_sums(param: Value | None, axis: int) -> bool:
    """Whether a scale or zero point is the same for all terms of each sum, which run along ``axis``."""
    return param is None or param.rank < -axis or param.dims()[axis] == 1


def _integer_conv(rw: Rewriter, node: Node) -> Replaced:
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None
    assert w is not None
    shape = w.static_shape
    operands = None if shape is None else _bytes_operands(rw, node, prod(shape[1:]))
    if operands is None or shape is None or node.attrs.get("channels_last") or len(node.inputs) > 3:
        return None
    data, weights = operands
    if not data.is_uniform or not all(_is_per_channel(p, w.rank) for p in (weights.scale, weights.zero)):
        return None
    if rw.const(weights.zero) is None and weights.zero is not None:
        return None
    scale = viewed(rw, data.scale, ())
    channels = _channels(rw, weights.scale, x.rank)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    number = None if bias is None else _integer_bias(rw, bias, scale, channels)
    zero = None if weights.zero is None else _flat(rw, weights.zero)
    point = None if data.zero is None else viewed(rw, data.zero, ())
    inputs = [data.value, weights.value, point, zero, number]
    (total,) = rw.emit("conv_integer", inputs, dict(node.attrs), name=node.name)
    y = _scaled(rw, total, scale, channels)
    if bias is not None and number is None:
        y = rw.op("add", y, viewed(rw, bias, (*bias.dims(), *(1,) * (x.rank - 2))))
    return [y]


def _is_per_channel(param: Value | None, rank: int) -> bool:
    """Whether a scale or zero point of weights ``[CO, ...]`` is one number, or one for each channel."""
    if param is None or prod_of(param) == 1:
        return True
    return param.rank == rank and all(d == 1 for d in param.dims()[1:])


def _flat(rw: Rewriter, param: Value) -> Value:
    return viewed(rw, param, () if prod_of(param) == 1 else param.dims()[:1])


def _channels(rw: Rewriter, param: Value, rank: int) -> Value:
    """Numbers for each channel, to be broadcast against a convolution's result."""
    return viewed(rw, param, () if prod_of(param) == 1 else (*param.dims()[:1], *(1,) * (rank - 2)))


def _integer_bias(rw: Rewriter, bias: Value, scale: Value, channels: Value) -> Value | None:
    """The integers behind a bias that counts in units of the product of the scales; None for any other."""
    node = rw.producer(bias)
    if node is None or node.op != "dequantize" or _first(node).dtype != "int32":
        return None
    unit = node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    known = [None if v is None else rw.const(v) for v in (unit, scale, channels)]
    offset = np.zeros(()) if zero is None else rw.const(zero)
    if any(k is None for k in known) or offset is None or offset.any():
        return None
    found, first, second = (np.asarray(k, np.float64).reshape(-1) for k in known if k is not None)
    product = first * second
    if (np.abs(found - product) > _SAME_SCALE * np.abs(product)).any():
        return None
    return _first(node)


# ----------------------------------------------------------------------------------------------- merge_scales
def merge_scales(graph: Graph) -> Graph:
    """What is divided by a scale is given in its units to begin with.

    ``quantize(sum * c, s)`` becomes ``quantize(sum * (c / s), 1)``, through additions and activations that a
    factor passes. One rounding instead of two: where a result lies within a few millionths of half a unit it
    may become the neighbour.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op != "quantize" or node.attrs.get("precision") or not dt.is_int(node.output.dtype):
            return None
        x, scale, zero = (*node.inputs, None)[:3]
        assert x is not None
        data = None if scale is None else rw.const(scale)
        if x.dtype != "float32" or data is None or data.dtype != np.float32 or data.size != 1:
            return None
        unit, number = float(data.reshape(())), _number(rw, zero)
        if not unit > 0:
            return None
        fresh = _Units(rw, unit).of(_without_clip(rw, x, node, number, unit))
        if fresh is None:
            return None
        one = rw.constant(np.ones((), np.float32), "one")
        return rw.emit_like(node, "quantize", [fresh, one, zero], dict(node.attrs))

    return rewrite(graph, visit)


def _without_clip(rw: Rewriter, x: Value, node: Node, zero: int | None, unit: float) -> Value:
    """The operand of a ``relu`` or ``clip`` that only cuts off what saturation cuts off, too."""
    inner = rw.producer(x)
    if zero is None or inner is None or inner.op not in ("relu", "clip"):
        return x
    low, high = dt.int_range(node.output.dtype)
    least, most = 0.0, np.inf
    if inner.op == "clip":
        ends = [None if v is None else rw.const(v) for v in (*inner.inputs[1:], None, None)[:2]]
        if any(v is not None and e is None for v, e in zip(inner.inputs[1:], ends, strict=False)):
            return x
        least = -np.inf if ends[0] is None else float(ends[0].reshape(()))
        most = np.inf if ends[1] is None else float(ends[1].reshape(()))
    if least / unit <= low - zero and most / unit >= high - zero:
        return _without_clip(rw, _first(inner), node, zero, unit)
    return x


class _Units:
    """Rewrites values as their quotients by ``unit``."""

    def __init__(self, rw: Rewriter, unit: float) -> None:
        self.rw = rw
        self.unit = unit

    def of(self, value: Value) -> Value | None:
        """``value / unit`` without a division, or None where it would take one."""
        rw = self.rw
        data = rw.const(value)
        if data is not None:
            return self._constant(data, value) if value.dtype == "float32" else None
        node = rw.producer(value)
        if node is None:
            return None
        if node.op == "dequantize":
            return self._dequantize(node)
        rule = self._RULES.get(node.op)
        return None if rule is None or rw.use_count(value) > 1 else rule(self, node)

    def _constant(self, data: np.ndarray, value: Value) -> Value:
        return self.rw.constant(np.asarray(data / np.float64(self.unit), np.float32), value.name)

    def _dequantize(self, node: Node) -> Value | None:
        x, scale, zero = (*node.inputs, None)[:3]
        data = None if scale is None else self.rw.const(scale)
        if scale is None or data is None or node.output.dtype != "float32":
            return None
        return self.rw.emit("dequantize", [x, self._constant(data, scale), zero], dict(node.attrs))[0]

    def _factor(self, node: Node) -> Value | None:
        for index, value in enumerate(node.inputs):
            data = None if value is None else self.rw.const(value)
            if value is not None and data is not None:
                inputs = list(node.inputs)
                inputs[index] = self._constant(data, value)
                return self.rw.emit("mul", inputs, name=node.name)[0]
        return None

    def _all(self, node: Node) -> Value | None:
        fresh = [None if v is None else self.of(v) for v in node.inputs]
        if any(new is None and old is not None for new, old in zip(fresh, node.inputs, strict=True)):
            return None
        return self.rw.emit(node.op, fresh, dict(node.attrs), name=node.name)[0]

    _RULES: Mapping[str, Callable[[_Units, Node], Value | None]] = {
        "mul": _factor,
        **dict.fromkeys(("add", "sub", "relu", "leaky_relu", "clip", "minimum", "maximum"), _all),
    }


# ------------------------------------------------------------------------------------------- fold_dequantized
def fold_dequantized(graph: Graph) -> Graph:
    """Constants that are still dequantized become floats: weights of what is computed in floats."""

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op != "dequantize":
            return None
        operands = [None if v is None else rw.const(v) for v in node.inputs]
        if any(v is not None and d is None for v, d in zip(node.inputs, operands, strict=True)):
            return None
        (data,) = run_reference(node, operands)
        return [rw.constant(data, node.output.name)]

    return rewrite(graph, visit)
