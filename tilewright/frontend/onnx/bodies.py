"""Bodies of control flow nodes as graphs of their own.

A body reads names of the graph around it. In a graph those values are inputs, so that a node that runs bodies
has an operand for each: constants alone are taken over as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from tilewright.errors import GraphError
from tilewright.frontend.onnx.lists import Absent, TensorList, tensor_list
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Graph, TensorType, Value
from tilewright.graph.rewrite import eliminate_dead_code
from tilewright.graph.shapes import as_dim, count
from tilewright.ir.expr import Expr
from tilewright.ir.sizes import largest_size
from tilewright.ops.common import dims_attr
from tilewright.ops.computed import computed_size

#: What a body's own input is: a type, a type with elements that are known as expressions, a constant, or
#: something that changes its shape.
Formal: TypeAlias = "TensorType | tuple[TensorType, np.ndarray] | np.ndarray | Grown"
#: Imports a body's nodes into the builder, from and to values by name.
AddNodes: TypeAlias = Callable[[GraphBuilder, dict[str, "Value | None"]], None]


@dataclasses.dataclass(frozen=True)
class Grown:
    """An own input whose shape changes from one run of the body to the next. The graph takes it as a vector
    that has room for the largest, and, behind all other own inputs, an int64 for each open size.

    Attributes:
        shape: None for open sizes.
        most: the largest that each of those may be.
    """

    shape: tuple[Expr | None, ...]
    most: tuple[int, ...]
    dtype: str

    @property
    def room(self) -> int:
        """The largest number of elements. Raises GraphError when a size has no upper bound."""
        sizes = [as_dim(d) for d in self.shape if d is not None]
        elements = largest_size(count((*sizes, *self.most)))
        if elements is None:
            raise GraphError("a tensor that changes its shape in a loop has a size without an upper bound")
        return elements

    def whole(self, builder: GraphBuilder, vector: Value, counts: Sequence[Value], name: str) -> Value:
        """The tensor that ``vector`` is, with the open sizes ``counts``."""
        values, shape = self.sizes(builder, counts, name)
        return builder.op("leading", vector, *values, shape=dims_attr(shape))

    def sizes(
        self, builder: GraphBuilder, counts: Sequence[Value], name: str
    ) -> tuple[list[Value], list[Expr]]:
        """Values behind which the open sizes are known, and the shape."""
        values, shape = [], []
        waiting = iter(zip(counts, self.most, strict=True))
        for axis, size in enumerate(self.shape):
            if size is None:
                given, most = next(waiting)
                value, size = computed_size(builder, given, most, f"{name}_dim{axis}")
                values.append(value)
            shape.append(size)
        return values, shape


@dataclasses.dataclass(eq=False)
class Body:
    """A body that has been imported, before its graph is closed.

    Attributes:
        builder: makes the graph; more nodes may be added.
        formals: the body's own inputs; those that are constants are left out.
        captured: values of the graph around it, and what they are inside.
        results: what the body gives.
        grown: for each :class:`Grown` among the own inputs, the tensor that it is.
    """

    builder: GraphBuilder
    formals: list[Value]
    captured: dict[Value, Value]
    results: list[Value]
    grown: list[Value] = dataclasses.field(default_factory=list)

    def give(self, results: Sequence[Value]) -> None:
        """Let the body give ``results``, values of its builder."""
        self.results = list(results)


def begin(
    around: GraphBuilder,
    name: str,
    names: Sequence[str],
    formals: Sequence[Formal],
    captures: Mapping[str, Value | None],
) -> tuple[Body, dict[str, Value | None]]:
    """An empty body whose own inputs have ``names``, and its values by name.

    ``around`` builds the graph around it; ``captures`` are the values of that which the body reads.
    """
    builder = around.nested(name)
    values: dict[str, Value | None] = {}
    body = Body(builder, [], {}, [])
    growing: list[tuple[str, Value, Grown]] = []
    for own, formal in zip(names, formals, strict=True):
        if isinstance(formal, np.ndarray):
            values[own] = builder.constant(formal, own)
            continue
        if isinstance(formal, Grown):
            vector = builder.input(builder.unused_name(own), (formal.room,), formal.dtype)
            body.formals.append(vector)
            growing.append((own, vector, formal))
            continue
        kind, exprs = formal if isinstance(formal, tuple) else (formal, None)
        values[own] = value = builder.input(builder.unused_name(own), kind.shape, kind.dtype)
        body.formals.append(value)
        if exprs is not None:
            builder.know(value, exprs)
    for own, vector, grown in growing:
        counts = [builder.input(builder.unused_name(f"{own}_size"), (), "int64") for _ in grown.most]
        body.formals += counts
        values[own] = whole = grown.whole(builder, vector, counts, own)
        body.grown.append(whole)
    for outer_name, outer in captures.items():
        if isinstance(outer, TensorList):
            values[outer_name] = tensor_list((_capture(around, body, v) for v in outer.items), outer.dtype)
        elif outer is None or isinstance(outer, Absent):
            values[outer_name] = outer
        else:
            values[outer_name] = _capture(around, body, outer)
    return body, values


def _capture(around: GraphBuilder, body: Body, outer: Value) -> Value:
    data = around.const(outer)
    if data is not None:
        return body.builder.constant(data, outer.name)
    if outer not in body.captured:
        name = body.builder.unused_name(outer.name)
        inner = body.captured[outer] = body.builder.input(name, outer.shape, outer.dtype)
        exprs = around.exprs(outer)
        if exprs is not None:
            body.builder.know(inner, exprs)
    return body.captured[outer]


def close(bodies: Sequence[Body]) -> tuple[list[Graph], list[Value]]:
    """The graphs, and the values around them that their inputs behind their own ones stand for: the same for
    all, and none that no graph reads.
    """
    graphs = [eliminate_dead_code(b.builder.build(b.results, _output_names(b))) for b in bodies]
    used = dict.fromkeys(
        outer
        for body, graph in zip(bodies, graphs, strict=True)
        for outer, inner in body.captured.items()
        if graph.use_count(inner)
    )
    closed = []
    for body, graph in zip(bodies, graphs, strict=True):
        inputs = list(body.formals)
        for outer in used:
            inner = body.captured.get(outer)
            inputs.append(Value(body.builder.unique_name(outer.name), outer.type) if inner is None else inner)
        closed.append(graph.with_(inputs=tuple(inputs)))
    return closed, list(used)


def _output_names(body: Body) -> list[str]:
    return [f"result_{n}" for n in range(len(body.results))]
