"""Common subexpressions: equal nodes on equal operands are one node, equal constants one constant."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

from tilewright.graph.graph import Attr, Graph, Node, Value
from tilewright.graph.rewrite import Rewriter, rewrite

#: Larger constants are compared only by identity: hashing them would cost more than the duplicates.
MAX_COMPARED_BYTES = 64 << 10


def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """Merge equal nodes and equal small constants. Operators are pure, so equal means same op, attributes and
    operands.
    """
    known: dict[Hashable, tuple[Value, ...]] = {}
    constants = _equal_constants(graph)

    def visit(rw: Rewriter, node: Node) -> Sequence[Value] | None:
        inputs = [None if v is None else constants.get(v, v) for v in node.inputs]
        key = (node.op, tuple(inputs), _key(node.attrs))
        earlier = known.get(key)
        if earlier is None:
            known[key] = node.outputs
            return None
        return earlier

    return rewrite(graph, visit)


def _equal_constants(graph: Graph) -> dict[Value, Value]:
    """Constant -> the first constant with the same type and data."""
    first: dict[Hashable, Value] = {}
    same: dict[Value, Value] = {}
    for value, data in graph.constants.items():
        if data.nbytes <= MAX_COMPARED_BYTES:
            digest = hashlib.sha256(np.ascontiguousarray(data).tobytes()).digest()
            same[value] = first.setdefault((value.type, digest), value)
        else:
            same[value] = first.setdefault((value.type, id(data)), value)
    return same


def _key(attrs: object) -> Hashable:
    assert hasattr(attrs, "items")
    return tuple(sorted((k, _typed(v)) for k, v in attrs.items()))


def _typed(value: Attr) -> str:
    """1, 1.0 and True are equal in Python, but not as attributes."""
    if isinstance(value, tuple):
        return "(" + ",".join(map(_typed, value)) + ")"
    if isinstance(value, Graph):
        return f"region:{id(value)}"
    return f"{type(value).__name__}:{value!r}"
