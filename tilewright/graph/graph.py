"""The tensor graph: typed SSA over tensors, immutable, in topological order.

A :class:`Value` is a name with a type; who produces it and who reads it is known by the :class:`Graph` that
holds it, so a pass that changes one node shares all others with the graph it came from. Dimensions are
expressions of ``tilewright.ir`` (int64 constants or symbolic), and every node remembers the place in the
user's model it came from.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from tilewright.errors import GraphError
from tilewright.graph.shapes import Dims, as_dim
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const, Expr, ExprLike, Var, as_expr
from tilewright.ir.sizes import typical_size
from tilewright.ir.visit import walk_expr

#: What an attribute may hold; arrays are inputs, never attributes. Tuples, not lists, so that nodes compare
#: and hash. A graph is a region: what a control flow operator runs (docs/control_flow.md).
Attr: TypeAlias = "int | float | str | bool | Expr | tuple[Attr, ...] | Graph | None"


@dataclasses.dataclass(frozen=True, slots=True)
class TensorType:
    """Shape (one int64 expression per dimension) and element type of a tensor."""

    shape: tuple[Expr, ...]
    dtype: str

    @staticmethod
    def make(shape: Sequence[ExprLike], dtype: str) -> TensorType:
        """A type from ints and expressions. Raises ValueError for an unknown dtype."""
        if dtype not in dt.DTYPES:
            raise ValueError(f"unknown dtype '{dtype}'")
        return TensorType(tuple(as_expr(s) for s in shape), dtype)

    @staticmethod
    def of(array: np.ndarray) -> TensorType:
        return TensorType.make(array.shape, dt.from_numpy(array.dtype))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape as ints, or None when any dimension is symbolic."""
        dims = tuple(int(s.value) for s in self.shape if isinstance(s, Const))
        return dims if len(dims) == len(self.shape) else None

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(repr, self.shape))}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a node came from in the user's model.

    Attributes:
        framework: ``onnx``, ``torch``, or ``tilewright`` for nodes without a model behind them.
        name: the node's name there.
        op_type: the operator's name there.
        line: source file and line, where the framework knows it.
    """

    framework: str = "tilewright"
    name: str = ""
    op_type: str = ""
    line: str | None = None

    def __str__(self) -> str:
        text = f"{self.framework} {self.op_type or 'node'}" + (f" '{self.name}'" if self.name else "")
        return text + (f" ({self.line})" if self.line else "")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor in a graph: a name unique in the graph, and a type. Equality is identity."""

    name: str
    type: TensorType

    @property
    def shape(self) -> tuple[Expr, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype

    @property
    def rank(self) -> int:
        return len(self.type.shape)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape as ints, or None when any dimension is symbolic."""
        return self.type.static_shape

    def dims(self) -> Dims:
        """The shape: numbers, and expressions over dimensions with a range. Raises GraphError when nothing is
        known of a dimension.
        """
        shape = tuple(map(as_dim, self.shape))
        if any(not isinstance(d, int) and typical_size(d) is None for d in shape):
            raise GraphError(
                f"the shape of '{self.name}' is not known: {self.type}", hint="specialise the graph first"
            )
        return shape

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator application. An optional input that is absent is None."""

    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Attr] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    name: str = ""
    origin: Origin = Origin()

    @property
    def output(self) -> Value:
        """The only output. Raises GraphError when there are several."""
        if len(self.outputs) != 1:
            raise GraphError(f"'{self.op}' has {len(self.outputs)} outputs", location=self.location)
        return self.outputs[0]

    @property
    def location(self) -> str:
        """For error messages: the origin, or the node's own name."""
        return (
            str(self.origin) if self.origin.name or self.origin.op_type else f"node '{self.name}' ({self.op})"
        )

    @property
    def regions(self) -> Mapping[str, Graph]:
        """The graphs that the node runs, by the attributes that hold them; empty but for control flow."""
        return {name: value for name, value in self.attrs.items() if isinstance(value, Graph)}

    def with_(self, **changes: Any) -> Node:
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        return format_node(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order with inputs, outputs and constants.

    Attributes:
        inputs: values given at run time, in the order of the model's signature; their names are the user's.
        outputs: values handed back; one value may stand twice, and may be an input or a constant.
        nodes: producers before consumers.
        constants: data of values known at compile time. Arrays are never modified.
        output_names: the user's names of the outputs (values are renamed by passes, these are not).
        name: for people.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[Value, np.ndarray]
    output_names: tuple[str, ...]
    name: str = "graph"

    @cached_property
    def _producers(self) -> dict[Value, Node]:
        return {v: node for node in self.nodes for v in node.outputs}

    @cached_property
    def _users(self) -> dict[Value, list[Node]]:
        users: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(v for v in node.inputs if v is not None):
                users.setdefault(value, []).append(node)
        return users

    @cached_property
    def _use_counts(self) -> Counter[Value]:
        counts = Counter(v for node in self.nodes for v in node.inputs if v is not None)
        counts.update(self.outputs)
        return counts

    def producer(self, value: Value) -> Node | None:
        """The node that makes ``value``; None for inputs and constants."""
        return self._producers.get(value)

    def users(self, value: Value) -> Sequence[Node]:
        """The nodes that read ``value``, each once, in order. Being a graph output is not a user."""
        return self._users.get(value, ())

    def use_count(self, value: Value) -> int:
        """How often ``value`` is read: once per operand that names it, and once per graph output."""
        return self._use_counts[value]

    def constant(self, value: Value | None) -> np.ndarray | None:
        """The data of a constant, else None."""
        return None if value is None else self.constants.get(value)

    @property
    def dims(self) -> dict[str, Var]:
        """The symbolic dimensions of the inputs by name, in order of appearance."""
        found: dict[str, Var] = {}
        for value in self.inputs:
            for dim in value.shape:
                for node in walk_expr(dim):
                    if isinstance(node, Var):
                        found.setdefault(node.name, node)
        return found

    @property
    def is_static(self) -> bool:
        """Whether every dimension of every value is a number."""
        values = [*self.inputs, *(v for n in self.nodes for v in n.outputs)]
        regions = (region for node in self.nodes for region in node.regions.values())
        return all(v.static_shape is not None for v in values) and all(r.is_static for r in regions)

    def with_(self, **changes: Any) -> Graph:
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        return format_graph(self)

    __repr__ = __str__


def _format_attr(value: Attr) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_format_attr, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def format_node(node: Node) -> str:
    """``%y: float32[1, 8] = relu(%x) {attr=1}  # onnx Relu 'name'``."""
    outputs = ", ".join(map(repr, node.outputs))
    inputs = ", ".join("none" if v is None else f"%{v.name}" for v in node.inputs)
    plain = ((k, v) for k, v in sorted(node.attrs.items()) if not isinstance(v, Graph))
    attrs = ", ".join(f"{k}={_format_attr(v)}" for k, v in plain)
    text = f"{outputs} = {node.op}({inputs})" + (f" {{{attrs}}}" if attrs else "")
    return text + (f"  # {node.origin}" if node.origin.op_type else "")


def format_graph(graph: Graph) -> str:
    """The graph as text for people: constants by type (small ones by value), one node a line."""
    lines = [f"graph {graph.name}({', '.join(map(repr, graph.inputs))})"]
    for value, data in graph.constants.items():
        small = f" = {data.tolist()}" if data.size <= 4 else ""
        lines.append(f"  const {value!r}{small}")
    for node in graph.nodes:
        lines.append(f"  {format_node(node)}")
        for name, region in sorted(node.regions.items()):
            head, *rest = format_graph(region).split("\n")
            lines.append(f"    {name}: {head}")
            lines.extend(f"    {line}" for line in rest)
    outputs = (f"{name}=%{v.name}" for name, v in zip(graph.output_names, graph.outputs, strict=True))
    return "\n".join([*lines, f"  return {', '.join(outputs)}"])


def verify(graph: Graph) -> None:
    """Check the graph's own rules: topological order, unique names, known operands, constants' types.

    ``tilewright.graph.builder.check_types`` also re-infers every node's types. Raises GraphError.
    """
    defined: set[Value] = set()
    names: set[str] = set()

    def define(value: Value, where: str | None) -> None:
        if value in defined:
            raise GraphError(f"'{value.name}' is defined twice", location=where)
        if value.name in names:
            raise GraphError(f"two values are named '{value.name}'", location=where)
        defined.add(value)
        names.add(value.name)

    for value in graph.inputs:
        define(value, "the graph's inputs")
    for value, data in graph.constants.items():
        define(value, "the graph's constants")
        if TensorType.of(data) != value.type:
            raise GraphError(
                f"constant '{value.name}' is declared {value.type} but holds {TensorType.of(data)}"
            )
    for node in graph.nodes:
        for operand in node.inputs:
            if operand is not None and operand not in defined:
                raise GraphError(f"'{operand.name}' is read before it is defined", location=node.location)
        for value in node.outputs:
            define(value, node.location)
        for region in node.regions.values():
            verify(region)
    for value in graph.outputs:
        if value not in defined:
            raise GraphError(f"output '{value.name}' is not defined")
    if len(graph.output_names) != len(graph.outputs) or len(set(graph.output_names)) != len(
        graph.output_names
    ):
        raise GraphError(f"the outputs' names {graph.output_names} do not fit {len(graph.outputs)} outputs")
