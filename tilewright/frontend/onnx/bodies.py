"""Bodies of control flow nodes as graphs of their own.

A body reads names of the graph around it. In a graph those values are inputs, so that a node that runs bodies
has an operand for each: constants alone are taken over as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from tilewright.frontend.onnx.lists import Absent, TensorList, tensor_list
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Graph, TensorType, Value
from tilewright.graph.rewrite import eliminate_dead_code

#: What a body's own input is: a type, a type with elements that are known as expressions, or a constant.
Formal: TypeAlias = "TensorType | tuple[TensorType, np.ndarray] | np.ndarray"
#: Imports a body's nodes into the builder, from and to values by name.
AddNodes: TypeAlias = Callable[[GraphBuilder, dict[str, "Value | None"]], None]


@dataclasses.dataclass(eq=False)
class Body:
    """A body that has been imported, before its graph is closed.

    Attributes:
        builder: makes the graph; more nodes may be added.
        formals: the body's own inputs; those that are constants are left out.
        captured: values of the graph around it, and what they are inside.
        results: what the body gives.
    """

    builder: GraphBuilder
    formals: list[Value]
    captured: dict[Value, Value]
    results: list[Value]

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
    for own, formal in zip(names, formals, strict=True):
        if isinstance(formal, np.ndarray):
            values[own] = builder.constant(formal, own)
            continue
        kind, exprs = formal if isinstance(formal, tuple) else (formal, None)
        values[own] = value = builder.input(builder.unused_name(own), kind.shape, kind.dtype)
        body.formals.append(value)
        if exprs is not None:
            builder.know(value, exprs)
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
