"""Nodes in topological order; what is read and never written, written twice, or cyclic is refused."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from tilewright.errors import ModelFileError
from tilewright.frontend.onnx.raw import RawNode

#: How many nodes of a cycle a message names.
_MAX_NAMED = 8


def sort_nodes(
    nodes: Sequence[RawNode], given: set[str], wanted: Sequence[str], location: str
) -> list[RawNode]:
    """``nodes`` so that each reads only ``given`` names and results of nodes before it, in the order of the
    file where that already is one.

    Raises ModelFileError for names that nothing or two things produce (``wanted`` are read at the end), and
    for cycles.
    """
    producer = _producers(nodes, given, location)
    for node in nodes:
        for name in node.reads:
            if name not in given and name not in producer:
                raise ModelFileError(f"{node} reads '{name}', which nothing produces", location=location)
    for name in wanted:
        if name not in given and name not in producer:
            raise ModelFileError(f"the output '{name}' is produced by no node", location=location)
    waiting: dict[int, int] = {}
    readers: dict[int, list[RawNode]] = {}
    heap: list[tuple[int, RawNode]] = []
    for node in nodes:
        sources = {producer[n].index for n in node.reads if n in producer}
        waiting[node.index] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(node)
        if not sources:
            heap.append((node.index, node))
    order: list[RawNode] = []
    heapq.heapify(heap)
    while heap:
        _, node = heapq.heappop(heap)
        order.append(node)
        for reader in readers.get(node.index, []):
            waiting[reader.index] -= 1
            if waiting[reader.index] == 0:
                heapq.heappush(heap, (reader.index, reader))
    if len(order) < len(nodes):
        cycle = _find_cycle([n for n in nodes if waiting[n.index]], producer)
        names = [f"'{n.name}'" for n in [*cycle, cycle[0]]]
        if len(names) > _MAX_NAMED:
            names[_MAX_NAMED // 2 : -_MAX_NAMED // 2] = ["…"]
        raise ModelFileError(f"the graph is cyclic: {' → '.join(names)}", location=location)
    return order


def _producers(nodes: Sequence[RawNode], given: set[str], location: str) -> dict[str, RawNode]:
    producer: dict[str, RawNode] = {}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in producer or name in given:
                raise ModelFileError(
                    f"two things produce the tensor '{name}'", location=f"{location}, {node}"
                )
            producer[name] = node
    return producer


def _find_cycle(blocked: Sequence[RawNode], producer: Mapping[str, RawNode]) -> list[RawNode]:
    """One cycle, in the direction of the data. Every blocked node reads some blocked node, so walking back
    closes one.
    """
    stuck = {n.index for n in blocked}
    path: list[RawNode] = []
    position: dict[int, int] = {}
    node = blocked[0]
    while node.index not in position:
        position[node.index] = len(path)
        path.append(node)
        node = next(p for n in node.reads if (p := producer.get(n)) is not None and p.index in stuck)
    return path[position[node.index] :][::-1]
