"""Graphs inside graphs: what control flow nodes run (docs/control_flow.md).

A region is closed: what it reads from around it comes in through operands of its node. The passes here keep
those few (constants move inside, what is unused or given twice goes), decide branches whose condition has
become known, and take out of loops what does not change in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from tilewright.graph.graph import Attr, Graph, Node, Value
from tilewright.graph.rewrite import Rewriter, eliminate_dead_code, rewrite, with_inputs


def map_regions(graph: Graph, change: Callable[[str, Graph], Graph]) -> Graph:
    """``graph`` with every region of its nodes changed; ``change`` gets a name for it, too."""
    nodes = []
    for number, node in enumerate(graph.nodes):
        regions = {name: change(f"{node.op}{number}_{name}", r) for name, r in node.regions.items()}
        same = all(new is node.attrs[name] for name, new in regions.items())
        nodes.append(node if same else node.with_(attrs={**node.attrs, **regions}))
    if all(a is b for a, b in zip(nodes, graph.nodes, strict=True)):
        return graph
    return graph.with_(nodes=tuple(nodes))


def simplify_regions(graph: Graph) -> Graph:
    """Fewer operands and results of control flow nodes; branches that are known in their place."""

    def visit(rw: Rewriter, node: Node) -> Sequence[Value] | None:
        return _SIMPLIFY[node.op](rw, node) if node.op in _SIMPLIFY else None

    return rewrite(graph, visit)


def inline(rw: Rewriter, region: Graph, operands: Sequence[Value]) -> list[Value]:
    """The nodes of ``region`` in the place of a node of ``rw``; its results."""
    values = dict(zip(region.inputs, operands, strict=True))
    for value, data in region.constants.items():
        values[value] = rw.constant(data, value.name)
    for node in region.nodes:
        inputs = [None if v is None else values[v] for v in node.inputs]
        outputs = rw.emit(node.op, inputs, node.attrs, name=node.name, origin=node.origin)
        values.update(zip(node.outputs, outputs, strict=True))
    return [values[v] for v in region.outputs]


def _simplify_if(rw: Rewriter, node: Node) -> Sequence[Value] | None:
    condition = rw.const(node.inputs[0])
    packed = node.attrs["packed"]
    assert isinstance(packed, tuple)
    if condition is not None and not any(packed):
        region = node.attrs["then" if condition else "otherwise"]
        assert isinstance(region, Graph)
        return inline(rw, region, _present(node.inputs[1:]))
    operands, regions = _without_needless(rw, node, 1, 0)
    if operands is None:
        return None
    return rw.emit_like(node, node.op, [node.inputs[0], *operands], {**node.attrs, **regions})


def _simplify_loop(rw: Rewriter, node: Node) -> Sequence[Value] | None:
    states, scanned = node.attrs["states"], node.attrs["scanned"]
    assert isinstance(states, int)
    assert isinstance(scanned, tuple)
    trip = rw.const(node.inputs[0])
    if trip is not None:
        known = {**node.attrs, "trip": max(int(trip), 0)}
        return rw.emit_like(node, node.op, [None, *node.inputs[1:]], known)
    own = states + len(scanned)
    operands, regions = _without_needless(rw, node, 2 + own, 1 + own)
    if operands is not None:
        return rw.emit_like(node, node.op, [*node.inputs[: 2 + own], *operands], {**node.attrs, **regions})
    return _without_invariants(rw, node, states)


#: Passes over single nodes by operator.
_SIMPLIFY: Final[Mapping[str, Callable[[Rewriter, Node], Sequence[Value] | None]]] = {
    "if": _simplify_if,
    "loop": _simplify_loop,
}


def _without_needless(
    rw: Rewriter, node: Node, first: int, own: int
) -> tuple[list[Value] | None, dict[str, Attr]]:
    """The operands from ``first`` on, which are the regions' inputs from ``own`` on, without constants, those
    that no region reads, and those that are there before; and regions to fit. (None, {}) when all are needed.
    """
    regions = dict(node.regions)
    kept: list[Value] = []
    for operand in _present(node.inputs[first:]):
        place = own + len(kept)
        inputs = {name: region.inputs[place] for name, region in regions.items()}
        data = rw.const(operand)
        used = any(region.use_count(inputs[name]) for name, region in regions.items())
        if data is not None:
            regions = {name: _with_constant(r, inputs[name], data) for name, r in regions.items()}
        elif operand in kept:
            earlier = own + kept.index(operand)
            regions = {name: _replaced(r, inputs[name], r.inputs[earlier]) for name, r in regions.items()}
        elif not used:
            regions = {name: _without_input(r, inputs[name]) for name, r in regions.items()}
        else:
            kept.append(operand)
    if len(kept) == len(node.inputs) - first:
        return None, {}
    return kept, dict(regions)


def _without_invariants(rw: Rewriter, node: Node, states: int) -> Sequence[Value] | None:
    """A loop without the states that never change: they are operands like others."""
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    given = int(bool(node.attrs["conditional"]))
    same = [n for n in range(states) if body.outputs[given + n] is body.inputs[1 + n]]
    if not same:
        return None
    changing = [n for n in range(states) if n not in same]
    index, own = body.inputs[0], body.inputs[1 : 1 + states]
    fresh = eliminate_dead_code(
        body.with_(
            inputs=(index, *(own[n] for n in changing), *body.inputs[1 + states :], *(own[n] for n in same)),
            outputs=_without(body.outputs, [given + n for n in same]),
            output_names=_without(body.output_names, [given + n for n in same]),
        )
    )
    first = node.inputs[2 : 2 + states]
    operands = [
        *node.inputs[:2],
        *(first[n] for n in changing),
        *node.inputs[2 + states :],
        *(first[n] for n in same),
    ]
    wished = [v.name for n, v in enumerate(node.outputs) if n not in same]
    results = iter(
        rw.emit(
            node.op,
            operands,
            {**node.attrs, "body": fresh, "states": len(changing), **_flags(node, changing)},
            name=node.name,
            origin=node.origin,
            output_names=[f"{name}.changing" for name in wished],
        )
    )
    found = [first[n] if n in same else next(results) for n in range(len(node.outputs))]
    return _present(found)


def _flags(node: Node, changing: Sequence[int]) -> dict[str, Attr]:
    """Which states grow, of those that are left."""
    flags = node.attrs.get("grown")
    return {"grown": tuple(flags[n] for n in changing)} if isinstance(flags, tuple) else {}


def _without(items: tuple, places: Sequence[int]) -> tuple:  # type: ignore[type-arg]
    return tuple(item for n, item in enumerate(items) if n not in places)


def _with_constant(region: Graph, value: Value, data: np.ndarray) -> Graph:
    """``region`` with an input turned into a constant."""
    constants = {**region.constants, value: data} if region.use_count(value) else region.constants
    return region.with_(inputs=tuple(v for v in region.inputs if v is not value), constants=constants)


def _without_input(region: Graph, value: Value) -> Graph:
    return region.with_(inputs=tuple(v for v in region.inputs if v is not value))


def _replaced(region: Graph, value: Value, other: Value) -> Graph:
    """``region`` with the input ``other`` in the place of the input ``value``."""
    nodes = tuple(with_inputs(n, [other if v is value else v for v in n.inputs]) for n in region.nodes)
    outputs = tuple(other if v is value else v for v in region.outputs)
    return _without_input(region.with_(nodes=nodes, outputs=outputs), value)


def _present(values: Sequence[Value | None]) -> list[Value]:
    """The operands, none of which is optional."""
    found = [v for v in values if v is not None]
    assert len(found) == len(values)
    return found

