"""Weights of fewer than 8 bits an element stay packed: in the artifact, and in memory while a model runs.

* ``multiply_packed``: products with dequantized weights become ``matmul_nbits``, which dequantizes in
  registers.
* ``pack_constants``: what else reads such a constant gets it through ``unpack``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.interpret import run_reference
from tilewright.graph.movement import Replaced, viewed
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.graph.shapes import count
from tilewright.ir import dtype as dt

#: Operators that may stand between weights and the product that reads them.
_VIEWS = frozenset(["reshape", "transpose", "identity"])
#: Blocks of fewer elements are not worth their scales.
_SHORTEST_BLOCK = 8
#: Smaller constants take no less memory when packed: each starts on a multiple of that many bytes.
SMALLEST_BYTES = 64


def pack_constants(graph: Graph) -> Graph:
    """Constants of types under 8 bits become bytes with several elements each, and an ``unpack`` in front of
    what reads them, which fuses with it. Before, passes see (and fold) them as arrays like others.
    """
    unpacked: dict[Value, Value] = {}

    def visit(rw: Rewriter, node: Node) -> Sequence[Value] | None:
        inputs = [None if v is None else _unpacked(rw, v, unpacked) for v in node.inputs]
        if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
            return None
        return rw.emit_like(node, node.op, inputs, dict(node.attrs))

    return rewrite(graph, visit)


def _unpacked(rw: Rewriter, value: Value, known: dict[Value, Value]) -> Value:
    data: np.ndarray | None = rw.const(value)
    if data is None or not dt.is_packed(value.dtype) or data.size <= SMALLEST_BYTES:
        return value
    if value not in known:
        packed = rw.constant(dt.pack(data), value.name)
        known[value] = rw.op("unpack", packed, to=value.dtype, shape=data.shape)
    return known[value]


def pack_blocks(codes: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned numbers of ``bits`` bits, uint8[blocks, block, columns], as ``matmul_nbits`` reads
    them (docs/types.md): uint8[blocks, block * bits / 8, columns].
    """
    blocks, block, columns = codes.shape
    per = 8 // bits
    parts = codes.reshape(blocks, per, block // per, columns).astype(np.uint8)
    packed = np.zeros(parts[:, 0].shape, np.uint8)
    for p in range(per):
        packed |= parts[:, p] << np.uint8(p * bits)
    return packed


def multiply_packed(graph: Graph) -> Graph:
    """``matmul(a, dequantize(weights))`` becomes ``matmul_nbits`` where the weights are constants of 2 or 4
    bits and scales and zero points are the same over blocks of the reduction. Reshapes and transposes between
    the two are done to the weights.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op != "matmul" or node.attrs.get("to") is not None:
            return None
        a, b = node.inputs
        if a is None or b is None or b.rank != 2 or a.dtype == "float64" or 0 in node.output.dims():
            return None
        found = _dequantized_weights(rw, b)
        if found is None:
            return None
        codes, scale, offset, bits = found
        operands = [
            viewed(rw, a, (count(a.dims()[:-1]), a.dims()[-1])),
            rw.constant(pack_blocks(codes, bits), f"{b.name}.packed"),
            rw.constant(scale, f"{b.name}.scale"),
            rw.constant(offset, f"{b.name}.offset"),
        ]
        (result,) = rw.emit("matmul_nbits", operands, {"bits": bits}, name=node.name)
        return [viewed(rw, result, node.output.dims())]

    return rewrite(graph, visit)


def _dequantized_weights(rw: Rewriter, value: Value) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """The matrix ``value`` as unsigned codes ``[blocks, block, columns]``, scales and offsets ``[blocks,
    columns]``, and bits of a code; None when it is not that of dequantized constants.
    """
    views: list[Node] = []
    node = rw.producer(value)
    while node is not None and node.op in _VIEWS and node.inputs[0] is not None:
        views.append(node)
        node = rw.producer(node.inputs[0])
    if node is None or node.op != "dequantize" or node.inputs[0] is None:
        return None
    dtype = node.inputs[0].dtype
    data, scale, zero = (rw.const(v) for v in (*node.inputs, None)[:3])
    if data is None or scale is None or not dt.is_packed(dtype) or not dt.is_int(dtype):
        return None
    if (zero is None) != (len(node.inputs) < 3 or node.inputs[2] is None):
        return None
    bits, low = dt.bits(dtype), dt.int_range(dtype)[0]
    zeros = np.zeros((), np.float32) if zero is None else zero.astype(np.float32)
    wide: list[np.ndarray] = [data.astype(np.int16) - low, scale.astype(np.float32), zeros - low]
    parts: list[np.ndarray] = [np.broadcast_to(w, data.shape) for w in wide]
    for view in reversed(views):
        parts = [run_reference(view, [p])[0] for p in parts]
    codes, scales, zeros = parts
    depth, columns = codes.shape
    block = _block(depth, scales, zeros)
    if block < _SHORTEST_BLOCK or block % (8 // bits):
        return None
    scales, zeros = (np.ascontiguousarray(p[::block]) for p in (scales, zeros))
    return codes.reshape(-1, block, columns).astype(np.uint8), scales, scales * zeros, bits


def _block(depth: int, *params: np.ndarray) -> int:
    """The longest blocks of rows within which all rows of each array are equal."""
    changes = np.zeros(max(depth - 1, 0), bool)
    for param in params:
        changes |= (param[1:] != param[:-1]).any(axis=1)
    return math.gcd(depth, *(np.flatnonzero(changes) + 1).tolist())
