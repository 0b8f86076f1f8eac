"""Reading ONNX files: from a path, bytes or a ``ModelProto`` to a checked, sorted :class:`RawModel` without
protobuf objects.

Everything that is wrong with the file itself is found here and raised as ``ModelFileError``; what is wrong
with a node is found when it is imported.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from tilewright.config import options
from tilewright.errors import LimitError, ModelFileError
from tilewright.frontend.onnx.files import Source, load
from tilewright.frontend.onnx.lists import kind_of
from tilewright.frontend.onnx.order import sort_nodes
from tilewright.frontend.onnx.raw import (
    Dim,
    FunctionId,
    RawBody,
    RawFunction,
    RawModel,
    RawNode,
    RawValue,
)
from tilewright.frontend.onnx.tensors import TensorReader, dtype_name

__all__ = ["RawModel", "Source", "read", "read_function"]

#: What holds a list of nodes.
_Nodes: TypeAlias = "onnx.GraphProto | onnx.FunctionProto"


def read(source: Source) -> RawModel:
    """Read and check an ONNX model.

    Raises ModelFileError when the file is missing, empty, truncated, not ONNX, cyclic or contradicts itself,
    UnsupportedError when it holds constructs that no node of ours could mean (maps, string weights), and
    LimitError when it is larger or nested deeper than the options allow.
    """
    proto, location, folder = load(source)
    reader = _Reader(TensorReader(folder, location), location)
    return reader.model(proto)


def read_function(
    proto: onnx.FunctionProto, opsets: Mapping[str, int], defaults: Iterable[onnx.AttributeProto]
) -> RawFunction:
    """A function of the ONNX standard; ``opsets`` hold where it imports none, ``defaults`` are those of its
    operator's attributes.
    """
    location = f"the definition of {proto.name}"
    reader = _Reader(TensorReader(None, location), location)
    return reader.function(proto, opsets, defaults, strict=False)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


class _Reader:
    """Reads one file."""

    def __init__(self, tensors: TensorReader, location: str) -> None:
        self.tensors = tensors
        self.location = location
        self.text = tensors.text

    def model(self, proto: onnx.ModelProto) -> RawModel:
        opsets = self._opsets(proto.opset_import)
        if not opsets and proto.ir_version < 3:
            opsets = {"": 1}  # files of that time do not say it
        graph = proto.graph
        functions = self._functions(proto, opsets)
        nodes = self._nodes(graph, 0)
        inputs = {self._name(v): v for v in graph.input}
        self._require_names([self._name(v) for v in graph.input], "inputs")
        weights = {*(t.name for t in graph.initializer), *(t.values.name for t in graph.sparse_initializer)}
        required = tuple(self._value(v, "input") for name, v in inputs.items() if name not in weights)
        outputs = tuple(self._value(v, "output") for v in graph.output)
        if not outputs:
            raise ModelFileError("the model has no outputs", location=self.location)
        self._require_names([v.name for v in outputs], "outputs")
        read = {*(n for node in nodes for n in node.reads), *(v.name for v in outputs)}
        names, initializers = self._initializers(graph, read)
        overridable = tuple(
            RawValue(name, initializers[name].dtype.name, tuple(initializers[name].shape))
            for name in inputs
            if name in initializers
        )
        given = {v.name for v in required} | names
        ordered = sort_nodes(nodes, given, [v.name for v in outputs], self.location)
        return RawModel(
            self.location, opsets, required, outputs, initializers, tuple(ordered), overridable, functions
        )

    def _opsets(self, imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
        """Versions by domain; '' is ai.onnx."""
        what = "the domain of an operator set"
        return {_domain(self.text(o.domain, what)): int(o.version) for o in imports}

    # ------------------------------------------------------------------------------------- inputs and outputs
    def _name(self, value: onnx.ValueInfoProto) -> str:
        return self.text(value.name, "the name of a tensor")

    def _require_names(self, names: Sequence[str], what: str) -> None:
        """Each of the model's inputs or outputs has a name of its own."""
        if not all(names):
            raise ModelFileError(f"one of the model's {what} has no name", location=self.location)
        doubles = [name for name, count in Counter(names).items() if count > 1]
        if doubles:
            raise ModelFileError(f"two {what} are called '{doubles[0]}'", location=self.location)

    def _value(self, info: onnx.ValueInfoProto, what: str) -> RawValue:
        name = self._name(info)
        if info.type.WhichOneof("value") is None and what == "output":
            return RawValue(name, "", None)
        kind, tensor = kind_of(info.type, f"'{name}'", self.location)
        if kind != "tensor":
            return RawValue(name, dtype_name(tensor.elem_type, f"{what} '{name}'", self.location), (), kind)
        undeclared = what == "output" and not tensor.elem_type
        dtype = "" if undeclared else dtype_name(tensor.elem_type, f"{what} '{name}'", self.location)
        if not tensor.HasField("shape"):
            return RawValue(name, dtype, None)
        return RawValue(name, dtype, tuple(self._dim(d) for d in tensor.shape.dim))

    def _dim(self, dim: onnx.TensorShapeProto.Dimension) -> Dim:
        """Exporters write an open dimension as a name, as '?', as -1, as 0 or as nothing at all."""
        if dim.WhichOneof("value") == "dim_value":
            return int(dim.dim_value) if dim.dim_value > 0 else None
        name = self.text(dim.dim_param, "the name of a dimension").strip()
        return name if name not in ("", "?", "-1", "None") else None

    # ---------------------------------------------------------------------------------------------- weights
    def _initializers(
        self, graph: onnx.GraphProto, read: Iterable[str] | None
    ) -> tuple[set[str], dict[str, np.ndarray]]:
        """Names of all weights, and the data of those in ``read`` (None: of all)."""
        wanted = None if read is None else set(read)
        names: set[str] = set()
        data: dict[str, np.ndarray] = {}
        readers: tuple[tuple[Any, Any, Any], ...] = (
            (graph.initializer, lambda t: t.name, self.tensors.array),
            (graph.sparse_initializer, lambda t: t.values.name, self.tensors.sparse),
        )
        for tensors, name_of, array_of in readers:
            for tensor in tensors:
                name = self.text(name_of(tensor), "the name of an initializer")
                if not name:
                    raise ModelFileError("an initializer has no name", location=self.location)
                if name in names:
                    raise ModelFileError(f"two initializers are called '{name}'", location=self.location)
                names.add(name)
                if wanted is None or name in wanted:
                    data[name] = array_of(tensor, f"initializer '{name}'")
        return names, data

    # ------------------------------------------------------------------------------------- nodes and bodies
    def _nodes(self, graph: _Nodes, depth: int) -> list[RawNode]:
        """Nodes with unique names: a missing one becomes ``OpType_index``, a repeated one gets its index."""
        if len(graph.node) > options().max_nodes:
            raise LimitError(
                f"the model has more than {options().max_nodes} nodes",
                location=self.location,
                hint="--max-nodes raises the limit",
            )
        names = [self.text(node.name, "the name of a node") for node in graph.node]
        taken = set(names)
        seen: set[str] = set()
        nodes = []
        for index, (node, given) in enumerate(zip(graph.node, names, strict=True)):
            op_type = self.text(node.op_type, f"the operator of node {index}")
            name = given or f"{op_type}_{index}"
            while (not given and name in taken) or name in seen:
                name = f"{name}_{index}"
            seen.add(name)
            nodes.append(self._node(node, op_type, name, index, depth))
        return nodes

    def _node(self, node: onnx.NodeProto, op_type: str, name: str, index: int, depth: int) -> RawNode:
        what = f"{op_type} node '{name}'"
        attrs: dict[str, Any] = {}
        for attribute in node.attribute:
            key = self.text(attribute.name, f"the name of an attribute of {what}")
            if key in attrs:
                raise ModelFileError(f"{what} gives its attribute '{key}' twice", location=self.location)
            value = self.tensors.attribute(attribute, what)
            if isinstance(value, onnx.GraphProto):
                value = self._body(value, depth + 1)
            elif isinstance(value, tuple):
                graphs = (isinstance(v, onnx.GraphProto) for v in value)
                value = tuple(
                    self._body(v, depth + 1) if g else v for v, g in zip(value, graphs, strict=True)
                )
            attrs[key] = value
        bodies = [v for v in attrs.values() if isinstance(v, RawBody)]
        captures = tuple(dict.fromkeys(c for body in bodies for c in body.captures))
        inputs, outputs = (
            tuple(self.text(n, f"the name of an operand of {what}") for n in side)
            for side in (node.input, node.output)
        )
        domain = _domain(self.text(node.domain, f"the domain of {what}"))
        overload = self.text(node.overload, f"the overload of {what}")
        return RawNode(name, op_type, domain, inputs, outputs, attrs, index, captures, overload)

    def _body(self, graph: onnx.GraphProto, depth: int) -> RawBody:
        if depth > options().max_nesting:
            raise LimitError(
                f"subgraphs stand inside each other more than {options().max_nesting} deep",
                location=self.location,
                hint="--max-nesting raises the limit",
            )
        inputs, outputs = (tuple(self._name(v) for v in values) for values in (graph.input, graph.output))
        _, initializers = self._initializers(graph, None)
        unsorted = RawBody(inputs, outputs, initializers, tuple(self._nodes(graph, depth)))
        given = {*inputs, *initializers, *unsorted.captures}
        nodes = sort_nodes(unsorted.nodes, given, outputs, self.location)
        return dataclasses.replace(unsorted, nodes=tuple(nodes))

    # ---------------------------------------------------------------------------------------------- functions
    def _functions(
        self, proto: onnx.ModelProto, opsets: Mapping[str, int]
    ) -> dict[FunctionId, RawFunction]:
        found: dict[FunctionId, RawFunction] = {}
        for function in proto.functions:
            domain, name, overload = (
                self.text(part, "the name of a function")
                for part in (function.domain, function.name, function.overload)
            )
            key = (_domain(domain), name, overload)
            if key in found:
                raise ModelFileError(f"two functions are called '{name}'", location=self.location)
            found[key] = self.function(function, opsets, function.attribute_proto)
        return found

    def function(
        self,
        proto: onnx.FunctionProto,
        opsets: Mapping[str, int],
        defaults: Iterable[onnx.AttributeProto],
        strict: bool = True,
    ) -> RawFunction:
        """A function; ``opsets`` hold where it does not import its own.

        Unless ``strict`` there may be outputs that nothing produces, as in the standard's own functions.
        """
        name = self.text(proto.name, "the name of a function")
        what = f"function '{name}'"
        inputs, outputs, attributes = (
            tuple(self.text(n, f"a name in {what}") for n in names)
            for names in (proto.input, proto.output, proto.attribute)
        )
        values = {
            self.text(a.name, f"an attribute of {what}"): self.tensors.attribute(a, what) for a in defaults
        }
        location = f"{self.location}, {what}"
        nodes = self._nodes(proto, 0)
        required = tuple(n for n in attributes if n not in values)
        made = {n for node in nodes for n in node.outputs} | set(inputs)
        ordered = sort_nodes(nodes, set(inputs), [n for n in outputs if strict or n in made], location)
        imports = {**opsets, **self._opsets(proto.opset_import)}
        return RawFunction(name, inputs, outputs, required, values, imports, tuple(ordered))
