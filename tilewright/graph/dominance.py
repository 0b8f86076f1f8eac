"""Post-dominators of a graph's nodes: where all ways onwards from a node meet."""

from __future__ import annotations

from tilewright.graph.graph import Graph, Node


class PostDominators:
    """The post-dominator tree, in one sweep backwards. The exit (the graph's outputs) is its root."""

    def __init__(self, graph: Graph) -> None:
        self._parent: dict[Node, Node | None] = {}
        self._depth: dict[Node, int] = {}
        outputs = set(graph.outputs)
        for node in reversed(graph.nodes):
            users = [u for v in node.outputs for u in graph.users(v)]
            if not users or any(v in outputs for v in node.outputs):
                parent: Node | None = None
            else:
                parent = users[0]
                for user in users[1:]:
                    parent = self._meet(parent, user)
            self._parent[node] = parent
            self._depth[node] = 1 + (0 if parent is None else self._depth[parent])

    def immediate(self, node: Node) -> Node | None:
        """The first node that every way from ``node`` to an output passes; None for the exit."""
        return self._parent[node]

    def _meet(self, a: Node | None, b: Node | None) -> Node | None:
        while a is not b:
            if a is None or b is None:
                return None
            if self._depth[a] >= self._depth[b]:
                a = self._parent[a]
            else:
                b = self._parent[b]
        return a
