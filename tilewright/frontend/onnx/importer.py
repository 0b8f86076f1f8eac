"""Nodes of an ONNX model as nodes of a graph: scopes, bodies, and functions expanded where they are called.

A function's body is imported in the place of its call, under the opsets that it was written for. That is
true of the model's own functions and of those by which the standard defines operators without a handler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.config import options
from tilewright.errors import UNFIT, GraphError, LimitError, ModelFileError, UnsupportedError
from tilewright.frontend.common import UnsupportedReport
from tilewright.frontend.onnx.bodies import Body, Formal, begin
from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.functions import has_standard_body, standard_body
from tilewright.frontend.onnx.lists import Structure, shown, tensors_of
from tilewright.frontend.onnx.raw import (
    AttrRef,
    FunctionId,
    RawBody,
    RawFunction,
    RawModel,
    RawNode,
)
from tilewright.frontend.onnx.registry import ADVICE, lookup
from tilewright.frontend.onnx.schema import check_node, schema_of
from tilewright.frontend.onnx.steering import Steering
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Origin, Value
from tilewright.graph.limits import FoldBudget


@dataclasses.dataclass(frozen=True)
class _Scope:
    """Where nodes stand.

    Attributes:
        opsets: what their operators mean.
        attrs: attributes of the call around them; None outside of functions.
        prefix: what their names begin with.
        calls: the functions that are being expanded, outermost first.
        depth: how many bodies and functions there are around them.
    """

    opsets: Mapping[str, int]
    attrs: Mapping[str, Any] | None = None
    prefix: str = ""
    calls: tuple[FunctionId, ...] = ()
    depth: int = 0


@dataclasses.dataclass(frozen=True)
class _Bodies:
    """The bodies of a node, which stand among ``values``."""

    importer: Importer
    values: Mapping[str, Value | None]
    scope: _Scope

    def inline(self, body: RawBody, given: Sequence[Value] = ()) -> list[Value]:
        return self.importer.inline(body, given, self.values, self.scope)

    def separate(self, body: RawBody, formals: Sequence[Formal] = ()) -> Body:
        return self.importer.separate(body, formals, self.values, self.scope)


class Importer:
    """Adds a model's nodes to the graph that ``builder`` makes.

    Names of tensors are looked up in dictionaries of values; None there is an optional operand left out.
    """

    def __init__(self, raw: RawModel, builder: GraphBuilder) -> None:
        self._raw = raw
        self._builder = builder
        self._steering = Steering()
        self._folding = FoldBudget()
        self._count = 0

    def add(self, values: dict[str, Value | None]) -> None:
        """Add the whole model, whose inputs are in ``values``, and put all results there.

        Raises SteeringError where a node needs the elements of inputs.
        """
        for value in values.values():
            for tensor in () if value is None else tensors_of(value):
                if self._builder.const(tensor) is None:
                    self._steering.add_input(tensor)
        weights = {k: v for k, v in self._raw.initializers.items() if k not in values}
        self._add_nodes(weights, self._raw.nodes, values, _Scope(self._raw.opsets))

    def _add_nodes(
        self,
        initializers: Mapping[str, np.ndarray],
        nodes: Sequence[RawNode],
        values: dict[str, Value | None],
        scope: _Scope,
    ) -> None:
        for name, data in initializers.items():
            values[name] = self._builder.constant(data, name)
            self._folding.given(data.nbytes)
        for node in nodes:
            self._add_node(node, values, scope)

    def _add_node(self, node: RawNode, values: dict[str, Value | None], scope: _Scope) -> None:
        self._count += 1
        if self._count > options().max_nodes:
            raise LimitError(
                f"the model has more than {options().max_nodes} nodes once its functions are expanded",
                location=self._raw.location,
                hint="--max-nodes raises the limit",
            )
        node = self._resolved(node, scope)
        self._builder.origin = Origin("onnx", node.name, node.op_type)
        inputs = [values[n] if n else None for n in node.inputs]
        where = f"onnx {node} in {self._raw.location}"
        function = _function_of(self._raw, node, scope.opsets)
        if function is None:
            opset = scope.opsets.get(node.domain, 0)
            check_node(node, opset, inputs, where)
            entry = lookup(node.domain, node.op_type, opset)
            if entry is not None:
                if not entry.lists:
                    _require_tensors(node, inputs, where)
                bodies = _Bodies(self, values, scope)
                ctx = NodeContext(
                    node,
                    entry.since,
                    self._builder,
                    inputs,
                    self._raw.location,
                    bodies,
                    self._folding,
                    self._steering,
                )
                try:
                    result = entry.handler(ctx)
                except UNFIT as error:
                    raise GraphError(
                        f"its inputs {', '.join(map(shown, inputs))} and attributes do not fit together "
                        f"({type(error).__name__}: {error})",
                        location=where,
                        hint="if other programs run this model, please report it",
                    ) from error
                results = [result] if isinstance(result, Value) else list(result)
                _put(node, results, values, where)
                return
            _require_tensors(node, inputs, where)
            function = standard_body(node, opset, inputs)
            if function is None:
                types = ", ".join(map(shown, inputs))
                raise UnsupportedError(
                    f"{node.op_type} (opset {opset}) is not supported for operands {types}", location=where
                )
        _put(node, self._called(node, function, inputs, scope, where), values, where)

    def _resolved(self, node: RawNode, scope: _Scope) -> RawNode:
        """``node`` under its full name, with attributes that refer to those of the call filled in; a
        reference to one that the call leaves out vanishes.
        """
        attrs: Mapping[str, Any] = node.attrs
        if any(isinstance(v, AttrRef) for v in attrs.values()):
            if scope.attrs is None:
                raise ModelFileError(
                    f"{node} refers to an attribute of a function, but stands in none",
                    location=self._raw.location,
                )
            given = scope.attrs
            filled = {k: given.get(v.name) if isinstance(v, AttrRef) else v for k, v in attrs.items()}
            attrs = {k: v for k, v in filled.items() if v is not None}
        if attrs is node.attrs and not scope.prefix:
            return node
        return dataclasses.replace(node, name=scope.prefix + node.name, attrs=attrs)

    def inline(
        self, body: RawBody, given: Sequence[Value], around: Mapping[str, Value | None], scope: _Scope
    ) -> list[Value]:
        """A body of a node in its place; its outputs."""
        if len(body.inputs) != len(given):
            raise ModelFileError(
                f"a body takes {len(body.inputs)} tensors and is given {len(given)}",
                location=self._raw.location,
            )
        known = {**around, **dict(zip(body.inputs, given, strict=True))}
        return self._body(body, known, scope)

    def separate(
        self, body: RawBody, formals: Sequence[Formal], around: Mapping[str, Value | None], scope: _Scope
    ) -> Body:
        """A body of a node as a graph of its own."""
        builder = self._builder
        captures = {name: around[name] for name in body.captures}
        result, known = begin(builder, "body", body.inputs, formals, captures)
        self._steering.add_captures(builder, result.captured)
        self._builder = result.builder
        try:
            result.give(self._body(body, known, scope))
        finally:
            self._builder = builder
        return result

    def _body(self, body: RawBody, known: dict[str, Value | None], scope: _Scope) -> list[Value]:
        inner = dataclasses.replace(scope, depth=self._deeper(scope))
        origin = self._builder.origin
        self._add_nodes(body.initializers, body.nodes, known, inner)
        self._builder.origin = origin
        results = [known[name] for name in body.outputs]
        if any(v is None for v in results):
            raise ModelFileError("a body gives an input that is left out", location=self._raw.location)
        return [v for v in results if v is not None]

    def _called(
        self,
        node: RawNode,
        function: RawFunction,
        inputs: Sequence[Value | None],
        scope: _Scope,
        where: str,
    ) -> list[Value | None]:
        """The results of a call."""
        if node.function in scope.calls:
            cycle = [*scope.calls[scope.calls.index(node.function) :], node.function]
            path = " → ".join(f"'{name}'" for _, name, _ in cycle)
            raise ModelFileError(f"a function calls itself: {path}", location=where)
        if len(inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            raise GraphError(
                f"function '{function.name}' takes {len(function.inputs)} inputs and gives "
                f"{len(function.outputs)} outputs, not {len(inputs)} and {len(node.outputs)}",
                location=where,
            )
        for name in function.attributes:
            if name not in node.attrs and node.function in self._raw.functions:
                raise GraphError(f"function '{function.name}' needs the attribute '{name}'", location=where)
        formals: dict[str, Value | None] = dict.fromkeys(function.inputs)
        formals.update(zip(function.inputs, inputs, strict=False))
        inner = _Scope(
            function.opsets,
            {**function.defaults, **node.attrs},
            f"{node.name}/",
            (*scope.calls, node.function),
            self._deeper(scope),
        )
        self._add_nodes({}, function.nodes, formals, inner)
        return [formals.get(name) for name in function.outputs]

    def _deeper(self, scope: _Scope) -> int:
        if scope.depth >= options().max_nesting:
            raise LimitError(
                f"subgraphs and functions stand inside each other more than {options().max_nesting} deep",
                location=self._raw.location,
                hint="--max-nesting raises the limit",
            )
        return scope.depth + 1


def _function_of(raw: RawModel, node: RawNode, opsets: Mapping[str, int]) -> RawFunction | None:
    """The function of the model that ``node`` calls, if any.

    A function of the name of an operator that the standard has in that opset is never called: ONNX leaves it
    to the engine, and this is what onnxruntime does.
    """
    function = raw.functions.get(node.function)
    if function is None or schema_of(node.domain, node.op_type, opsets.get(node.domain, 0)) is not None:
        return None
    return function


def _require_tensors(node: RawNode, inputs: Sequence[Value | None], where: str) -> None:
    """Raise GraphError for a node that takes tensors and has a sequence or an optional value as operand."""
    for n, value in enumerate(inputs):
        if isinstance(value, Structure):
            raise GraphError(f"input {n} of {node.op_type} is {shown(value)}, not a tensor", location=where)


def _put(node: RawNode, results: Sequence[Value | None], values: dict[str, Value | None], where: str) -> None:
    for n, name in enumerate(node.outputs):
        if not name:
            continue
        value = results[n] if n < len(results) else None
        if value is None:
            raise UnsupportedError(f"output {n} of {node.op_type} is not supported", location=where)
        values[name] = value


def report_unsupported(raw: RawModel) -> UnsupportedReport:
    """Everything that the model uses and the importer does not have, bodies and functions included."""
    report = UnsupportedReport()
    for node, opsets in all_nodes(raw):
        opset = opsets.get(node.domain, 0)
        if lookup(node.domain, node.op_type, opset) is None and not has_standard_body(
            node.domain, node.op_type, opset
        ):
            domain = f"{node.domain}." if node.domain else ""
            advice = ADVICE.get((node.domain, node.op_type))
            more = f" ({advice})" if advice else ""
            report.add(f"{domain}{node.op_type} (opset {opset}){more}", node.name)
    return report


def all_nodes(raw: RawModel) -> Iterator[tuple[RawNode, Mapping[str, int]]]:
    """The nodes that have a meaning of their own, with the opsets that say it: those of the model, of their
    bodies, and of the model's functions that are called. Calls are left out.
    """
    waiting: list[tuple[Sequence[RawNode], Mapping[str, int]]] = [(raw.nodes, raw.opsets)]
    seen: set[FunctionId] = set()
    while waiting:
        nodes, opsets = waiting.pop()
        for node in _with_bodies(nodes):
            function = _function_of(raw, node, opsets)
            if function is None:
                yield node, opsets
            elif node.function not in seen:
                seen.add(node.function)
                waiting.append((function.nodes, function.opsets))


def _with_bodies(nodes: Sequence[RawNode]) -> Iterator[RawNode]:
    """The nodes and, recursively, those of their bodies."""
    for node in nodes:
        yield node
        for attr in node.attrs.values():
            if isinstance(attr, RawBody):
                yield from _with_bodies(attr.nodes)
