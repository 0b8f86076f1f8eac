"""How passes rebuild a graph: visit every node in order, replace some, share the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Attr, Graph, Node, Value
from tilewright.ir.expr import Expr, Var
from tilewright.ir.visit import free_vars


class Rewriter(GraphBuilder):
    """A builder of the new graph that knows the old one.

    ``visit`` functions get nodes whose inputs are already values of the new graph. Constants are shared.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.name)
        self.source = graph
        self.changed = False
        self._inputs = list(graph.inputs)
        self._constants = dict(graph.constants)
        self._names.update(v.name for v in graph.inputs)
        self._names.update(v.name for v in graph.constants)
        self._names.update(v.name for n in graph.nodes for v in n.outputs)
        self._map: dict[Value, Value] = {}
        self._counts: Counter[Value] = Counter()
        for value in [*graph.inputs, *graph.constants]:
            self._counts[value] = graph.use_count(value)

    def map(self, value: Value) -> Value:
        """The new value that stands for an old one."""
        return self._map.get(value, value)

    def replace(self, old: Value, new: Value) -> None:
        """Let readers of ``old`` read ``new``."""
        if old is not new:
            self._map[old] = new
        self._counts[new] += self.source.use_count(old)

    def use_count(self, value: Value) -> int:
        """An upper bound of how often a new value will be read (graph outputs included)."""
        return self._counts[value]

    def single_use(self, value: Value, op: str) -> Node | None:
        """The producer of ``value`` when it is an ``op`` and nothing else reads ``value``."""
        node = self.producer(value)
        return node if node is not None and node.op == op and self._counts[value] <= 1 else None

    def emit_like(
        self, node: Node, op: str, inputs: Sequence[Value | None], attrs: dict[str, Attr] | None = None
    ) -> tuple[Value, ...]:
        """``emit`` a node that takes the place of ``node``: same name, origin and names of outputs."""
        for value in node.outputs:
            self._names.discard(value.name)
        names = [v.name for v in node.outputs]
        return self.emit(op, inputs, attrs, name=node.name, origin=node.origin, output_names=names)

    def append(self, node: Node) -> None:
        super().append(node)
        if not self._copying:
            self._counts.update(v for v in node.inputs if v is not None)

    _copying = False

    def copy(self, node: Node) -> None:
        """Keep a node (its operands mapped)."""
        self._copying = True
        self.append(node)
        self._copying = False
        for value in node.outputs:
            self.replace(value, value)

    def finish(self) -> Graph:
        """The new graph without what nothing reads; the old one itself when nothing changed."""
        if not self.changed:
            return self.source
        graph = self.source
        outputs = tuple(self.map(v) for v in graph.outputs)
        fresh = graph.with_(outputs=outputs, nodes=tuple(self._nodes), constants=self._constants)
        return eliminate_dead_code(fresh)


#: Returns the values that replace the node's outputs, or None to keep the node.
Visit: TypeAlias = Callable[[Rewriter, Node], Sequence[Value] | None]


def rewrite(graph: Graph, visit: Visit) -> Graph:
    """One sweep of ``visit`` over the nodes in order. Returns ``graph`` itself when nothing was replaced."""
    rw = Rewriter(graph)
    for node in graph.nodes:
        mapped = with_inputs(node, [None if v is None else rw.map(v) for v in node.inputs])
        rw.origin = node.origin
        replaced = visit(rw, mapped)
        if replaced is None:
            rw.copy(mapped)
            continue
        rw.changed = True
        for old, new in zip(node.outputs, replaced, strict=True):
            rw.replace(old, new)
    return rw.finish()


def with_inputs(node: Node, inputs: Sequence[Value | None]) -> Node:
    """The node with other operands of the same types; itself when they are the same."""
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return node
    return node.with_(inputs=tuple(inputs))


def eliminate_dead_code(graph: Graph) -> Graph:
    """Drop nodes none of whose outputs are read, and constants that nothing reads. Inputs stay: they are the
    signature. A node that computes a dimension is read by all whose sizes or attributes it is in.
    """
    live: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    defined = any(computed_dims(node) for node in graph.nodes)
    sizes: set[Expr] = set()
    if defined:
        sizes.update(v for value in graph.outputs for d in value.shape for v in free_vars(d))
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs) or any(d in sizes for d in computed_dims(node)):
            kept.append(node)
            live.update(v for v in node.inputs if v is not None)
            if defined:
                sizes.update(dims_in(node))
    constants = {v: data for v, data in graph.constants.items() if v in live}
    if len(kept) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    return graph.with_(nodes=tuple(reversed(kept)), constants=constants)


def computed_dims(node: Node) -> tuple[Var, ...]:
    """The dimensions whose sizes the node computes: that of a ``size_of``."""
    dim = node.attrs["dim"] if node.op == "size_of" else None
    return (dim,) if isinstance(dim, Var) else ()


def dims_in(node: Node) -> set[Expr]:
    """The variables in a node's shapes and attributes (also inside the graphs that it runs), but not what the
    node itself computes.
    """
    exprs = [d for value in node.outputs for d in value.shape]
    stack = [] if computed_dims(node) else list(node.attrs.values())
    while stack:
        attr = stack.pop()
        if isinstance(attr, tuple):
            stack.extend(attr)
        elif isinstance(attr, Expr):
            exprs.append(attr)
        elif isinstance(attr, Graph):
            exprs.extend(v for inner in attr.nodes for v in dims_in(inner))
    return {v for e in exprs for v in free_vars(e)}


def fixpoint(graph: Graph, passes: Iterable[Callable[[Graph], Graph]], limit: int = 20) -> Graph:
    """Run ``passes`` in turn until none of them changes anything (at most ``limit`` rounds)."""
    steps = list(passes)
    for _ in range(limit):
        before = graph
        for step in steps:
            graph = step(graph)
        if graph is before:
            break
    return graph


def as_constant(rw: Rewriter, like: Value, data: np.ndarray, suffix: str) -> Value:
    """A new constant derived from the constant ``like``."""
    return rw.constant(data, f"{like.name}.{suffix}")
