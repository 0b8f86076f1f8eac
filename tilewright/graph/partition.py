"""Fusion: operators are gathered into groups, each of which becomes one kernel.

A group has one value that others read (its sink) and at most one anchor: a contraction, a windowed reduction,
or a chain of reductions over the same rows (softmax, normalisations, also written out). Groups grow forwards
from the anchor: the immediate post-dominator of the sink, with everything on the way to it, joins when all of
that may (so diamonds such as ``x * sigmoid(x)`` fuse, and a group never has to wait for what depends on it).
Then they grow backwards over producers that only they read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

from tilewright.graph.dominance import PostDominators
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.inplace import Part, find_parts
from tilewright.graph.opdef import FusionKind, get_op
from tilewright.graph.shapes import Dims, keeps_innermost, same_but_units, typical_count
from tilewright.ir import dtype as dt

#: A concat of more operands than this reads through too many selects to be fused with its neighbours.
MAX_FUSED_CONCAT = 4
#: Groups larger than this only cost compile time.
MAX_NODES = 64
#: A convolution reads up to this many channels from planes (an image as the model has it) without a
#: transpose.
MAX_PLANES = 4
#: A product whose second operand is used less often than this reads it along the reduced dimension, if it
#: lies so: a transpose would cost more than the product.
MIN_USES = 6
#: Cheap work may be repeated this often instead of being stored.
MAX_RECOMPUTE = 4
#: Elementwise operators cheap enough to be computed again for each reader.
CHEAP: Final = frozenset(
    ["add", "sub", "mul", "relu", "clip", "cast", "neg", "abs", "maximum", "minimum", "where", "leaky_relu"]
)
_WINDOWED_REDUCTIONS: Final = frozenset(["max_pool", "avg_pool"])
#: What makes small elements large, and nothing else.
_WIDENING: Final = frozenset(["dequantize", "cast"])
_MOVEMENT: Final = frozenset(["reshape", "transpose", "slice", "expand", "tile", "pad", "concat", "identity"])


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Nodes that run as one kernel (or, for a lone reshape, as none).

    Attributes:
        nodes: in topological order.
        inputs: values read from outside, constants included, in order of first use.
        outputs: values read outside, in order.
        anchor: the node that decides the schedule: a contraction or the first reduction, else None.
        parts: of the values read, written or concatenated here, those that live inside a larger one; and of
            those larger ones.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    anchor: Node | None
    parts: Mapping[Value, Part] = dataclasses.field(default_factory=dict)

    @property
    def is_view(self) -> bool:
        """Whether the group only names memory that others write (a reshape, a concatenation in place): it has
        no code.
        """
        return all(n.op == "reshape" for n in self.nodes) or self.is_concat_in_place

    @property
    def is_concat_in_place(self) -> bool:
        """Whether the group is a concatenation whose operands are computed where they belong."""
        node = self.nodes[0]
        return node.op == "concat" and any(p.whole is node.output for p in self.parts.values())

    @property
    def control(self) -> Node | None:
        """The control flow node that the group consists of, if it does: no kernel, but a step of its own."""
        return self.nodes[0] if get_op(self.nodes[0].op).control else None

    @property
    def written(self) -> tuple[Value, ...]:
        """The values that need memory: control flow writes all of its results."""
        return self.outputs if self.control is None else self.control.outputs

    @property
    def is_elementwise(self) -> bool:
        """Whether every element of the output depends on elements of the same index only (or broadcast
        ones).
        """
        return all(get_op(n.op).kind is FusionKind.elementwise for n in self.nodes)

    @property
    def permuted(self) -> Node | None:
        """The transpose that ends a contraction's group, if one does: it only reorders the loops that write
        the result.
        """
        last = self.nodes[-1]
        contraction = self.anchor is not None and _kind(self.anchor) is FusionKind.contraction
        return last if contraction and last.op == "transpose" else None

    @cached_property
    def name(self) -> str:
        """The operators' names joined; repeated ones once."""
        ops = list(dict.fromkeys(n.op for n in self.nodes))
        return "_".join(ops[:6])


def partition(graph: Graph) -> list[Group]:
    """All nodes of a graph in groups, in an order in which every group's inputs exist.

    Deterministic: equal graphs give equal groups.
    """
    return _Partitioner(graph).run()


def _kind(node: Node) -> FusionKind:
    return get_op(node.op).kind


def _is_row_reduction(node: Node) -> bool:
    return _kind(node) is FusionKind.reduction and _rows(node) is not None


def _rows(node: Node) -> tuple[Dims, tuple[int, ...]] | None:
    """(shape, reduced dimensions) of a reduction along whole dimensions that keeps its rank."""
    x = node.inputs[0]
    if x is None:
        return None
    rank = x.rank
    if node.op == "reduce" and node.attrs.get("keepdims", True):
        axes = node.attrs.get("axes")
        if axes is None:
            return x.dims(), tuple(range(rank))
        assert isinstance(axes, tuple)
        return x.dims(), tuple(sorted(int(a) % rank for a in axes if isinstance(a, int)))
    if node.op in ("softmax", "log_softmax"):
        axis = node.attrs["axis"]
        assert isinstance(axis, int)
        return x.dims(), (axis % rank,)
    return None


def _reads_widely(user: Node) -> bool:
    """Whether an operator reads elements of its first operands more than once."""
    return _kind(user) is FusionKind.contraction or user.op in _WINDOWED_REDUCTIONS


def _perm(node: Node) -> tuple[int, ...]:
    perm = node.attrs["perm"]
    assert isinstance(perm, tuple)
    return tuple(int(p) for p in perm if isinstance(p, int))


def _reads_few_channels(user: Node, value: Value) -> bool:
    """Whether ``value`` is the data of a convolution with so few channels that it may read each from a plane
    of its own.
    """
    if user.op != "conv" or user.inputs[0] is not value or user.attrs.get("groups", 1) != 1:
        return False
    channels = value.dims()[-1 if user.attrs.get("channels_last") else 1]
    return isinstance(channels, int) and channels <= MAX_PLANES


def _reads_rows(user: Node, value: Value, nodes: Iterable[Node]) -> bool:
    """Whether ``value`` is the second operand of a product with so few rows that it may be read as it lies
    before ``nodes``, one transpose that puts the reduced dimension last but one instead of last.
    """
    if user.op != "matmul" or user.inputs[1] is not value or value.rank < 2:
        return False
    transposes = [n for n in nodes if n.op == "transpose"]
    if len(transposes) != 1 or _perm(transposes[0])[-2:-1] != (transposes[0].output.rank - 1,):
        return False
    size, read = typical_count(user.output.dims()), typical_count(value.dims())
    uses = size * typical_count(value.dims()[-2:-1]) // max(read, 1)
    return uses < MIN_USES


def _movement_keeps_vectors(nodes: Iterable[Node], anywhere: bool = False) -> bool:
    """Pure data movement whose innermost dimension stays innermost may be read in place by a contraction.

    ``anywhere``: other transposes may, too.
    """
    for node in nodes:
        x = node.inputs[0]
        if x is None or len(node.inputs) > 1:
            return False
        if node.op == "transpose":
            if not anywhere and not keeps_innermost(x.dims(), _perm(node)):
                return False
        elif node.op == "slice":
            steps = node.attrs.get("steps") or (1,)
            if not isinstance(steps, tuple) or any(s != 1 for s in steps):
                return False
        elif node.op != "reshape" or not same_but_units(x.dims(), node.output.dims()):
            return False
    return True


class _Cluster:
    """A group while it grows."""

    def __init__(self, start: Node) -> None:
        self.nodes: set[Node] = {start}
        self.sink = start
        self.anchor: Node | None = None
        self.rows: tuple[Dims, tuple[int, ...]] | None = None
        if _kind(start) in (FusionKind.contraction, FusionKind.reduction):
            self.anchor = start
            self.rows = _rows(start)

    @property
    def is_complete(self) -> bool:
        """Nothing joins behind an opaque operator, or behind a contraction's permuted result."""
        moved = self.anchor is not None and self.sink.op == "transpose"
        return moved or _kind(self.sink) is FusionKind.opaque or len(self.nodes) >= MAX_NODES

    @property
    def domain(self) -> Dims:
        """The shape over which an anchored group's epilogue runs."""
        assert self.anchor is not None
        return self.rows[0] if self.rows is not None else self.anchor.output.dims()


class _Partitioner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.order = {node: n for n, node in enumerate(graph.nodes)}
        self.dominators = PostDominators(graph)
        self.cluster: dict[Node, _Cluster] = {}
        self.parts = find_parts(graph)
        self.placed = {graph.producer(p.whole) for p in self.parts.values()}

    def run(self) -> list[Group]:
        nodes = self.graph.nodes
        for node in nodes:
            if node in self.placed:
                self._start(node)
        # Later contractions first: a residual sum then joins the one that is computed last.
        for node in reversed(nodes):
            if _kind(node) is FusionKind.contraction:
                self._grow(self._start(node))
        for node in nodes:
            if _kind(node) is FusionKind.reduction and node not in self.cluster:
                self._grow(self._start(node))
        for node in nodes:
            if node not in self.cluster and node.op != "reshape":
                self._grow(self._start(node))
        for node in reversed(nodes):
            if node in self.cluster and self.cluster[node].sink is node:
                self._absorb(self.cluster[node])
        for node in nodes:
            if node not in self.cluster:
                self._start(node)
        return self._sorted(dict.fromkeys(self.cluster[n] for n in nodes))

    def _start(self, node: Node) -> _Cluster:
        cluster = self.cluster[node] = _Cluster(node)
        return cluster

    # ----------------------------------------------------------------------------------------------------
    # forwards
    def _grow(self, cluster: _Cluster) -> None:
        self._extend(cluster)
        if cluster.anchor is not None:
            self._leave_conversion(cluster)

    def _leave_conversion(self, cluster: _Cluster) -> None:
        """Let the reader of a group's result make integers floats, in registers: the result is smaller."""
        last = cluster.sink
        if last is cluster.anchor or last.op not in _WIDENING or last.output in self.graph.outputs:
            return
        x, users = last.inputs[0], self.graph.users(last.output)
        source = None if x is None else self.graph.producer(x)
        if x is None or source not in cluster.nodes or dt.bits(x.dtype) >= dt.bits(last.output.dtype):
            return
        if all(
            u in self.cluster and _kind(u) is FusionKind.elementwise and u.output.dims() == last.output.dims()
            for u in users
        ):
            assert source is not None
            cluster.nodes.discard(last)
            del self.cluster[last]
            cluster.sink = source

    def _extend(self, cluster: _Cluster) -> None:
        while not cluster.is_complete:
            target, fresh = self._next(cluster)
            if target is None:
                return
            for node in fresh:
                self.cluster[node] = cluster
                cluster.nodes.add(node)
                if cluster.anchor is None and _kind(node) is FusionKind.reduction:
                    cluster.anchor, cluster.rows = node, _rows(node)
            cluster.sink = target

    def _next(self, cluster: _Cluster) -> tuple[Node | None, list[Node]]:
        """The next sink and the nodes that join with it; (None, []) when the group is complete."""
        views: list[Node] = []
        sink = cluster.sink
        while True:
            target = self.dominators.immediate(sink)
            if target is None:
                return None, []
            between = self._between(sink, target)
            if between is None:
                return None, []
            if cluster.anchor is None and target.op == "reshape" and not between:
                # A view joins only when work behind it does; at the end of a group it is free.
                if target in self.cluster:
                    return None, []
                views.append(target)
                sink = target
                continue
            fresh = [*views, *between, target]
            return (target, fresh) if self._may_join(cluster, sink, fresh) else (None, [])

    def _between(self, sink: Node, target: Node) -> list[Node] | None:
        """Nodes strictly between, in order; None when one is taken or there are too many."""
        found: set[Node] = set()
        stack = [sink]
        while stack:
            for value in stack.pop().outputs:
                for user in self.graph.users(value):
                    if user is target or user in found:
                        continue
                    if user in self.cluster or len(found) > MAX_NODES:
                        return None
                    found.add(user)
                    stack.append(user)
        return sorted(found, key=self.order.__getitem__)

    def _may_join(self, cluster: _Cluster, sink: Node, fresh: Sequence[Node]) -> bool:
        if any(n in self.cluster for n in fresh) or any(len(n.outputs) != 1 for n in fresh):
            return False
        if cluster.anchor is None:
            return self._may_join_chain(cluster, sink, fresh)
        if cluster.rows is not None:
            return all(_fits_rows(n, cluster.rows) for n in fresh)
        if len(fresh) == 1 and fresh[0].op == "transpose" and _kind(cluster.anchor) is FusionKind.contraction:
            # The anchor's loops over its result may stand in any order, as long as vectors stay vectors.
            return keeps_innermost(cluster.domain, _perm(fresh[0]))
        return all(_kind(n) is FusionKind.elementwise and n.output.dims() == cluster.domain for n in fresh)

    def _may_join_chain(self, cluster: _Cluster, sink: Node, fresh: Sequence[Node]) -> bool:
        """Behind a group without an anchor: more elementwise and injective work, or a reduction along
        rows.
        """
        reductions = [n for n in fresh if _is_row_reduction(n)]
        if reductions:
            rows = _rows(reductions[0])
            assert rows is not None
            inside = [n for n in cluster.nodes if n.op != "reshape"]
            return all(_fits_rows(n, rows) for n in [*inside, *fresh])
        size = typical_count(sink.outputs[0].dims())
        for node in fresh:
            if _kind(node) not in (FusionKind.elementwise, FusionKind.injective):
                return False
            if node.op == "concat" and not self._fusable_concat(node):
                return False
            if not self._affordable(cluster.nodes, size, typical_count(node.output.dims())):
                return False
        return True

    def _fusable_concat(self, node: Node) -> bool:
        return len(node.inputs) <= MAX_FUSED_CONCAT

    def _affordable(self, nodes: Iterable[Node], size: int, read: int) -> bool:
        """Whether ``nodes``, which make ``size`` elements, may be computed anew for each of ``read`` elements
        read.
        """
        if read <= 2 * size:
            return True
        work = [n for n in nodes if n.op not in _MOVEMENT]
        return not work or (
            read <= MAX_RECOMPUTE * size and len(work) <= 2 and all(n.op in CHEAP for n in work)
        )

    # ---------------------------------------------------------------------------------------------------
    # backwards
    def _absorb(self, cluster: _Cluster) -> None:
        """Take in producers that nothing outside reads."""
        changed = True
        while changed:
            changed = False
            for node in sorted(cluster.nodes, key=self.order.__getitem__):
                for value in node.inputs:
                    if value is None:
                        continue
                    other, views = self._source(cluster, value)
                    if other is None or other is cluster or not self._may_absorb(cluster, other, views):
                        continue
                    for member in (*other.nodes, *views):
                        self.cluster[member] = cluster
                        cluster.nodes.add(member)
                    if cluster.anchor is None and other.anchor is not None:
                        cluster.anchor, cluster.rows = other.anchor, other.rows
                    changed = True

    def _source(self, cluster: _Cluster, value: Value) -> tuple[_Cluster | None, list[Node]]:
        """The group that makes ``value``, seen through views that only add or drop dimensions of size 1."""
        views: list[Node] = []
        producer = self.graph.producer(value)
        while producer is not None and producer.op == "reshape" and producer not in self.cluster:
            x = producer.inputs[0]
            users = self.graph.users(producer.output)
            inside = all(self.cluster.get(u) is cluster or u in views for u in users)
            if x is None or not inside or producer.output in self.graph.outputs:
                return None, []
            if not same_but_units(x.dims(), producer.output.dims()):
                return None, []
            views.append(producer)
            producer = self.graph.producer(x)
        return (None, []) if producer is None else (self.cluster.get(producer), views)

    def _may_absorb(self, cluster: _Cluster, other: _Cluster, views: Sequence[Node]) -> bool:
        if other.anchor is not None or len(cluster.nodes) + len(other.nodes) > MAX_NODES:
            return False
        if any(_kind(n) is FusionKind.opaque or n in self.placed for n in (*other.nodes, *cluster.nodes)):
            return False
        users = [u for v in other.sink.outputs for u in self.graph.users(v)]
        if len(other.sink.outputs) != 1 or other.sink.output in self.graph.outputs:
            return False
        if any(self.cluster.get(u) is not cluster and u not in views for u in users):
            return False
        out = other.sink.output
        if views:
            users = list(self.graph.users(views[0].output))
        if cluster.rows is not None:
            # Before the rows are reduced: the same elements, once for each reduction that reads them.
            return not views and all(_fits_rows(n, cluster.rows) for n in other.nodes)
        if cluster.anchor is not None:
            if any(_reads_widely(u) for u in users):
                read = views[0].output if views else out
                few = all(_reads_few_channels(u, read) or _reads_rows(u, read, other.nodes) for u in users)
                return _movement_keeps_vectors(other.nodes, few)
            return (
                not views
                and all(_kind(n) is FusionKind.elementwise for n in other.nodes)
                and out.dims() == cluster.domain
            )
        if any(n.op == "concat" and not self._fusable_concat(n) for n in (*other.nodes, *users)):
            return False
        return self._affordable(
            other.nodes,
            typical_count(out.dims()),
            max(typical_count(v.dims()) for u in users for v in u.outputs),
        )

    # -------------------------------------------------------------------------------------------------------
    # order
    def _sorted(self, clusters: Iterable[_Cluster]) -> list[Group]:
        """Groups in the order of their last node's place; producers always come first because sinks do."""
        ordered = sorted(clusters, key=lambda c: self.order[c.sink])
        return [self._group(c) for c in ordered]

    def _group(self, cluster: _Cluster) -> Group:
        nodes = tuple(sorted(cluster.nodes, key=self.order.__getitem__))
        made = {v for n in nodes for v in n.outputs}
        inputs = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v not in made)
        outputs = [
            v
            for n in nodes
            for v in n.outputs
            if v in self.graph.outputs or any(u not in cluster.nodes for u in self.graph.users(v))
        ]
        parts: dict[Value, Part] = {}
        for value in (*inputs, *outputs):
            while value in self.parts:
                parts[value] = self.parts[value]
                value = parts[value].whole
        return Group(nodes, tuple(inputs), tuple(outputs), cluster.anchor, parts)


def _fits_rows(node: Node, rows: tuple[Dims, tuple[int, ...]]) -> bool:
    """Whether a node works on whole rows: elementwise on all elements or on one number a row, or a reduction
    of them.
    """
    shape, axes = rows
    reduced = tuple(1 if d in axes else s for d, s in enumerate(shape))
    if _kind(node) is FusionKind.elementwise:
        return node.output.dims() in (shape, reduced)
    return _kind(node) is FusionKind.reduction and _rows(node) == rows
