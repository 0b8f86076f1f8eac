"""Concatenation without copying: operands are computed where the result will be.

The kernel that makes an operand writes its elements with the strides of the whole; kernels that read the
operand alone read it there. The concatenation itself is then no work at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.shapes import Dim, Dims, as_dim, count, typical_count
from tilewright.ir.expr import as_expr
from tilewright.ir.sizes import dims_of

#: Shorter contiguous pieces than this many elements are written by one copying kernel instead: half-filled
#: vectors cost more.
MIN_RUN = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A value that lives inside a larger one: it is ``whole`` from ``start`` on along dimension ``axis``."""

    whole: Value
    axis: int
    start: Dim


def sum_of(a: Dim, b: Dim) -> Dim:
    """``a + b`` in canonical form."""
    return a + b if isinstance(a, int) and isinstance(b, int) else as_dim(as_expr(a) + b)


def row_major(dims: Dims) -> Dims:
    """Strides in elements of a compact array."""
    return tuple(count(dims[d + 1 :]) for d in range(len(dims)))


def part_layout(value: Value, parts: Mapping[Value, Part]) -> tuple[Value, Dim, Dims]:
    """Where a value lives: (the value whose memory it is, offset in elements, strides in elements)."""
    part = parts.get(value)
    if part is None:
        return value, 0, row_major(value.dims())
    root, offset, strides = part_layout(part.whole, parts)
    return root, sum_of(offset, count((part.start, strides[part.axis]))), strides


def find_parts(graph: Graph) -> dict[Value, Part]:
    """The operands of concatenations that can be computed in place.

    All of a concatenation's operands or none: each is made by an operator of its own (not a view), is no
    graph output, stands in one such concatenation only, and nothing but kernels reads it. Sizes that kernels
    compute may come after the first operand, so places must not depend on them.
    """
    parts: dict[Value, Part] = {}
    given = set(graph.dims.values())
    for node in graph.nodes:
        if node.op != "concat" or not _result_fits(graph, node) or set(dims_of(node.output.shape)) - given:
            continue
        axis = node.attrs["axis"]
        assert isinstance(axis, int)
        axis %= node.output.rank
        operands = [v for v in node.inputs if v is not None and v.dims()[axis] != 0]
        if len(operands) < 2 or len(set(operands)) != len(operands):
            continue
        if not all(v not in parts and _operand_fits(graph, v, axis) for v in operands):
            continue
        start: Dim = 0
        for value in operands:
            parts[value] = Part(node.output, axis, start)
            start = sum_of(start, value.dims()[axis])
    return parts


def _result_fits(graph: Graph, node: Node) -> bool:
    """Whether the result is ordinary memory of the arena. Its readers may be views: it is compact unless it
    is a part too.
    """
    stack = [node.output]
    while stack:
        value = stack.pop()
        if value in graph.outputs:
            return False
        stack.extend(u.output for u in graph.users(value) if u.op == "reshape")
    return True


def _operand_fits(graph: Graph, value: Value, axis: int) -> bool:
    dims = value.dims()
    producer = graph.producer(value)
    if producer is None or producer.op == "reshape" or value in graph.outputs:
        return False
    if any(u.op == "reshape" for u in graph.users(value)):
        return False
    compact = all(d == 1 for d in dims[:axis])
    return compact or typical_count(dims[axis:]) >= MIN_RUN
