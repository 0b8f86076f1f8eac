"""Operators that are defined by others become those others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.errors import GraphError
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.opdef import FusionKind, OpDef, get_op
from tilewright.graph.rewrite import Rewriter, rewrite

#: Operators may decompose into others that decompose; a chain longer than this is a definition that goes in
#: circles.
MAX_DEPTH = 16


def decompose(graph: Graph) -> Graph:
    """Replace every node whose operator has no ``compute``, until none is left. New nodes keep the origin."""
    return _decompose(graph, lambda opdef: True)


def decompose_elementwise(graph: Graph) -> Graph:
    """Only elementwise operators (inference-time batch normalisation): what they become folds into others'
    weights, which must still be whole then.
    """
    return _decompose(graph, lambda opdef: opdef.kind is FusionKind.elementwise)


def _decompose(graph: Graph, chosen: Callable[[OpDef], bool]) -> Graph:
    def visit(rw: Rewriter, node: Node) -> Sequence[Value] | None:
        opdef = get_op(node.op)
        if opdef.compute is not None or opdef.decompose is None or not chosen(opdef):
            return None
        results = opdef.decompose(rw, rw.context(node), node.inputs)
        for declared, result in zip(node.outputs, results, strict=True):
            if declared.dtype != result.dtype or declared.rank != result.rank:
                message = f"'{node.op}' decomposes to {result.type}, not {declared.type}"
                raise GraphError(message, location=node.location)
        return results

    for _ in range(MAX_DEPTH):
        before = graph
        graph = rewrite(graph, visit)
        if graph is before:
            return graph
    raise GraphError("operators decompose in circles", location=graph.nodes[0].location)
