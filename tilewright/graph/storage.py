"""Weights of fewer than 8 bits an element stay packed: in the artifact, and in memory while a model runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.ir import dtype as dt

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
