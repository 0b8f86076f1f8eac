"""Layout: windowed operators (convolution, pooling, resize) work on channels-last data; everything between
them follows.

Every value of rank 3 or more is kept either as the model has it (label 0) or channels-last, ``[N, *spatial,
C]`` (label 1). Windowed operators need label 1; elementwise operators, concat, slices, reductions and the
like take either, as long as their operands agree; matmuls, gathers, graph inputs and outputs need label 0. A
value read under another label than it was made in costs one transpose, that is its size in bytes. A minimum
cut gives the labels of least total cost, so transposes stand only where they must, and a model that carries
its own (a TensorFlow export) loses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tilewright.graph.axes import permuted_attrs
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.mincut import INFINITE, MinCut
from tilewright.graph.opdef import FusionKind, get_op
from tilewright.graph.rewrite import Rewriter
from tilewright.graph.shapes import (
    Dims,
    Perm,
    compose,
    count,
    known,
    permute,
    transpose_is_view,
    typical_count,
)
from tilewright.ir import dtype as dt

#: Operators that read windows of their first input, with weights (if any) second.
WINDOWED: Final = frozenset(["conv", "conv_transpose", "max_pool", "avg_pool", "resize"])
FIRST, LAST = 0, 1
#: Units of cost a byte. What is left below breaks ties: label 0 where it makes no difference (one unit a
#: node), but label 1 right behind a windowed operator (half a byte), so that elementwise work there stays in
#: its kernel.
SCALE = 1 << 12


def to_last(rank: int) -> Perm:
    """``[N, C, *spatial]`` to ``[N, *spatial, C]``."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> Perm:
    """``[N, *spatial, C]`` to ``[N, C, *spatial]``."""
    return (0, rank - 1, *range(1, rank - 1))


def assign_layouts(graph: Graph) -> Graph:
    """Choose labels and rewrite. Windowed operators get ``channels_last``; their constant weights are re-
    laid. A graph without windowed operators is returned as it is.
    """
    if not any(_is_windowed(n) for n in graph.nodes):
        return graph
    return _Apply(graph, _Assignment(graph)).run()


def _is_windowed(node: Node) -> bool:
    if (
        node.op not in WINDOWED
        or node.attrs.get("channels_last")
        or node.inputs[0] is None
        or node.inputs[0].rank < 3
    ):
        return False
    return node.op != "resize" or _resizes_space_only(node)


def _resizes_space_only(node: Node) -> bool:
    x = node.inputs[0]
    assert x is not None
    attrs_only = all(v is None for v in node.inputs[1:])
    return attrs_only and x.dims()[:2] == node.output.dims()[:2]


def _perm_of(node: Node) -> Perm:
    perm = node.attrs.get("perm")
    assert isinstance(perm, tuple)
    return tuple(int(p) for p in perm if isinstance(p, int))


def _nbytes(value: Value) -> int:
    return typical_count(value.dims()) * dt.nbytes(value.dtype)


def relayout_cost(value: Value) -> int:
    """Bytes that change place when ``value`` changes its label; 0 when only dimensions of size 1 move."""
    return 0 if transpose_is_view(value.dims(), to_last(value.rank)) else _nbytes(value)


class _Assignment:
    """The labels: of every value (the form it is made in) and of every node that takes either."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.cut = MinCut()
        self.made: dict[Value, int] = {}
        self.follows: dict[Node, int] = {}
        self.to_last: set[Node] = set()
        self.to_first: set[Node] = set()
        self._wants: dict[Value, list[int]] = {}
        for node in graph.nodes:
            self._constrain(node)
        for value in graph.outputs:
            self._want(value, FIRST)
        for value, wants in self._wants.items():
            self._charge(value, wants)
        labels = self.cut.solve()
        self.value_label = {v: labels[x] for v, x in self.made.items()}
        self.node_label = {n: labels[x] for n, x in self.follows.items()}

    def _want(self, value: Value | None, label: int) -> None:
        if value is not None and value.rank >= 3 and self.graph.constant(value) is None:
            self._wants.setdefault(value, []).append(label)

    def _constrain(self, node: Node) -> None:
        if _is_windowed(node):
            self._want(node.inputs[0], LAST)
            for value in node.inputs[1:]:
                self._want(value, FIRST)
            self.made[node.output] = LAST
        elif self._commutes(node):
            variable = self.cut.variable()
            self.cut.add(FIRST, variable, 1)
            self.follows[node] = variable
            for value in node.outputs:
                self.made[value] = variable
            for value in node.inputs:
                self._follow(node, value, variable)
        elif node.op == "transpose" and node.output.rank >= 3:
            self._constrain_transpose(node)
        else:
            for value in node.inputs:
                self._want(value, FIRST)

    def _follow(self, node: Node, value: Value | None, variable: int) -> None:
        """An operand of a node whose label is ``variable``."""
        out = node.outputs[0]
        if value is None or self.graph.constant(value) is not None:
            return
        if value.rank == out.rank or node.op == "reshape":
            self._want(value, variable)
            return
        self._want(value, FIRST)
        dims = (1,) * (out.rank - value.rank) + value.dims()
        if not transpose_is_view(dims, to_last(out.rank)):
            self.cut.add(FIRST, variable, _nbytes(value) * SCALE)

    def _commutes(self, node: Node) -> bool:
        rank = node.outputs[0].rank
        if rank < 3 or any(v.rank != rank for v in node.outputs):
            return False
        if get_op(node.op).kind is FusionKind.elementwise:
            return all(v is None or v.rank <= rank for v in node.inputs)
        x = node.inputs[0] if node.inputs else None
        if x is None:
            return False
        if node.op == "reshape":
            return x.rank >= 3 and x.dims()[:2] == node.output.dims()[:2] and 0 not in x.dims()
        return permuted_attrs(node, to_last(rank)) is not None and x.rank == rank

    def _constrain_transpose(self, node: Node) -> None:
        """A transpose that only relabels is free under the right labels; any other reads and makes either
        form alike.
        """
        x, perm = node.inputs[0], _perm_of(node)
        assert x is not None
        last, first = perm == to_last(x.rank), perm == to_first(x.rank)
        if last and first:
            last = self._comes_from_window(x)
        if last:
            self.to_last.add(node)
            self._want(x, LAST)
        elif first:
            self.to_first.add(node)
            self._want(x, FIRST)
            self.made[node.output] = self.cut.variable()
            self.cut.add(self.made[node.output], LAST, relayout_cost(x) * SCALE)
        else:
            self.made[node.output] = self.cut.variable()
            self.cut.add(FIRST, self.made[node.output], 1)

    def _comes_from_window(self, value: Value) -> bool:
        """Whether ``value`` is made by windowed operators, through operators that take either label."""
        stack, seen = [value], set[Value]()
        while stack:
            node = self.graph.producer(stack.pop())
            if node is None:
                continue
            if _is_windowed(node):
                return True
            fresh = [v for v in node.inputs if v is not None and v not in seen]
            if node in self.follows:
                seen.update(fresh)
                stack.extend(fresh)
        return False

    def _is_windowed_result(self, value: Value) -> bool:
        producer = self.graph.producer(value)
        return producer is not None and _is_windowed(producer)

    def _charge(self, value: Value, wants: Sequence[int]) -> None:
        """One transpose of ``value`` serves all readers that want the other label."""
        made, cost = self.made.get(value, FIRST), relayout_cost(value) * SCALE
        if cost and self._is_windowed_result(value):
            cost += SCALE // 2
        distinct = list(dict.fromkeys(wants))
        if len(distinct) == 1:
            self.cut.add(made, distinct[0], cost)
            self.cut.add(distinct[0], made, cost)
            return
        wanted_last, wanted_first = self.cut.variable(), self.cut.variable()
        self.cut.add(made, wanted_last, cost)
        self.cut.add(wanted_first, made, cost)
        for want in distinct:
            self.cut.add(wanted_last, want, INFINITE)
            self.cut.add(want, wanted_first, INFINITE)


class _Apply:
    """Rebuilds the graph under an assignment. ``forms`` holds each old value in the labels made so far."""

    def __init__(self, graph: Graph, assignment: _Assignment) -> None:
        self.graph = graph
        self.labels = assignment
        self.rw = Rewriter(graph)
        self.forms: dict[tuple[Value, int], Value] = {}

    def run(self) -> Graph:
        for value in (*self.graph.inputs, *self.graph.constants):
            self.forms[value, FIRST] = value
        for node in self.graph.nodes:
            self.rw.origin = node.origin
            self._node(node)
        self.rw.changed = True
        for value in self.graph.outputs:
            self.rw.replace(value, self._get(value, FIRST))
        return self.rw.finish()

    def _get(self, value: Value, label: int) -> Value:
        """``value`` in the form of ``label``; made by one transpose at its first use if need be."""
        form = self.forms.get((value, label))
        if form is None:
            other = self.forms[value, 1 - label]
            perm = (to_first if label == FIRST else to_last)(value.rank)
            form = self._transposed(other, perm)
            self.forms[value, label] = form
        return form

    def _transposed(self, value: Value, perm: Perm) -> Value:
        data = self.rw.const(value)
        if data is not None:
            return self.rw.constant(np.ascontiguousarray(np.transpose(data, perm)), value.name)
        if transpose_is_view(value.dims(), perm):
            return self.rw.op("reshape", value, shape=permute(value.dims(), perm))
        return self.rw.op("transpose", value, perm=perm, name=f"{value.name}.layout")

    def _node(self, node: Node) -> None:
        if _is_windowed(node):
            self._windowed(node)
        elif self.labels.node_label.get(node) == LAST:
            self._channels_last(node)
        elif node in self.labels.to_last:
            assert node.inputs[0] is not None
            self.forms[node.output, FIRST] = self._get(node.inputs[0], LAST)
        elif node.op == "transpose" and node.output in self.labels.made:
            self._transpose(node)
        else:
            self._keep(node)

    def _keep(self, node: Node) -> None:
        inputs = [None if v is None else self._get(v, FIRST) for v in node.inputs]
        outputs = self.rw.emit_like(node, node.op, inputs, dict(node.attrs))
        self._made(node, outputs, FIRST)

    def _made(self, node: Node, outputs: Sequence[Value], label: int) -> None:
        for old, new in zip(node.outputs, outputs, strict=True):
            self.forms[old, label] = new

    def _windowed(self, node: Node) -> None:
        x = node.inputs[0]
        assert x is not None
        inputs: list[Value | None] = [
            self._get(x, LAST),
            *(None if v is None else self._get(v, FIRST) for v in node.inputs[1:]),
        ]
        attrs = dict(node.attrs)
        rank = x.rank
        if node.op == "resize":
            for name in ("sizes", "scales", "roi"):
                values = attrs.get(name)
                if isinstance(values, tuple) and len(values) == rank:
                    attrs[name] = tuple(values[p] for p in to_last(rank))
        else:
            attrs["channels_last"] = True
        if node.op in ("conv", "conv_transpose"):
            weights = node.inputs[1]
            assert weights is not None
            inputs[1] = self._weights(node, self._get(weights, FIRST))
        self._made(node, self.rw.emit_like(node, node.op, inputs, attrs), LAST)

    def _weights(self, node: Node, w: Value) -> Value:
        """``[CO, CI/g, *K]`` (transposed convolution: ``[CI, CO/g, *K]``) to ``[*K, CI/g, CO]``."""
        spatial = tuple(range(2, w.rank))
        if node.op == "conv":
            return self._transposed(w, (*spatial, 1, 0))
        groups = node.attrs.get("groups", 1)
        assert isinstance(groups, int)
        ci, co, *kernel = known(w.dims())
        if groups == 1:
            return self._transposed(w, (*spatial, 0, 1))
        split = self._viewed(w, (groups, ci // groups, co, *kernel))
        taps_first = self._transposed(split, (*(s + 1 for s in spatial), 1, 0, 2))
        return self._viewed(taps_first, (*kernel, ci // groups, groups * co))

    def _viewed(self, value: Value, shape: Dims) -> Value:
        data = self.rw.const(value)
        if data is not None:
            return self.rw.constant(data.reshape(known(shape)), value.name)
        return self.rw.op("reshape", value, shape=shape)

    def _channels_last(self, node: Node) -> None:
        out = node.outputs[0]
        perm = to_last(out.rank)
        if node.op == "reshape":
            assert node.inputs[0] is not None
            shape = permute(out.dims(), perm)
            outputs = self.rw.emit_like(node, "reshape", [self._get(node.inputs[0], LAST)], {"shape": shape})
        else:
            inputs = [None if v is None else self._operand(v, out.rank) for v in node.inputs]
            attrs = permuted_attrs(node, perm)
            outputs = self.rw.emit_like(node, node.op, inputs, dict(node.attrs) if attrs is None else attrs)
        self._made(node, outputs, LAST)

    def _operand(self, value: Value, rank: int) -> Value:
        """An operand, broadcast right-aligned to ``rank``, in channels-last form."""
        if count(value.dims()) == 1 and value.rank <= 1:
            return self._get(value, FIRST)
        if value.rank == rank:
            return self._get(value, LAST)
        aligned = self._viewed(self._get(value, FIRST), (1,) * (rank - value.rank) + value.dims())
        return self._transposed(aligned, to_last(rank))

    def _transpose(self, node: Node) -> None:
        x, label = node.inputs[0], self.labels.value_label[node.output]
        assert x is not None
        if node in self.labels.to_first and label == LAST:
            self.forms[node.output, LAST] = self._get(x, FIRST)
            return
        source = LAST if (x, LAST) in self.forms and (x, FIRST) not in self.forms else FIRST
        perm = _perm_of(node)
        if source == LAST:
            perm = compose(perm, to_first(x.rank))
        if label == LAST:
            perm = compose(to_last(x.rank), perm)
        self.forms[node.output, label] = self._transposed(self._get(x, source), perm)
