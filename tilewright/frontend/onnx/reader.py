"""Reading ONNX files: from a path, bytes or a ``ModelProto`` to a checked, sorted :class:`RawModel` without
protobuf objects.

Everything that is wrong with the file itself is found here and raised as ``ModelFileError``.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx

from tilewright.errors import ModelFileError, UnsupportedError
from tilewright.frontend.onnx.functions import expand_functions, opsets_of
from tilewright.frontend.onnx.tensors import TensorReader, dtype_name

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto"

#: A declared dimension: a size, a shared name, or None when the file says nothing usable.
Dim: TypeAlias = "int | str | None"

_HINT: Final = "expected a binary ONNX file (.onnx), as written by onnx.save or an exporter"


@dataclasses.dataclass(frozen=True)
class RawValue:
    """A graph input or output as the file declares it; ``shape`` None means that even the rank is not
    declared.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None


@dataclasses.dataclass(frozen=True)
class RawNode:
    """A node. Attribute values are Python numbers, strings, tuples, arrays or, for control flow, bodies.

    '' in ``inputs`` is an input left out. ``captures``: what its bodies read from around the node.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    index: int
    captures: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all tensors that must exist before the node."""
        return (*filter(None, self.inputs), *self.captures)

    def __str__(self) -> str:
        return f"{self.op_type} node '{self.name}'"


@dataclasses.dataclass(frozen=True)
class RawBody:
    """A graph inside a node, such as a branch: nodes in topological order. Names that it does not define are
    those of the graph around it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: Mapping[str, np.ndarray]
    nodes: tuple[RawNode, ...]

    @property
    def captures(self) -> tuple[str, ...]:
        """Names that it reads from the graph around it."""
        own = {*self.inputs, *self.initializers, *(n for node in self.nodes for n in node.outputs)}
        read = [*(n for node in self.nodes for n in node.reads), *self.outputs]
        return tuple(dict.fromkeys(n for n in read if n not in own))


@dataclasses.dataclass(frozen=True)
class RawModel:
    """The whole file: nodes in topological order, opset versions by domain ('' is ai.onnx)."""

    location: str
    opsets: Mapping[str, int]
    inputs: tuple[RawValue, ...]
    outputs: tuple[RawValue, ...]
    initializers: Mapping[str, np.ndarray]
    nodes: tuple[RawNode, ...]


def read(source: Source) -> RawModel:
    """Read and check an ONNX model.

    Raises ModelFileError when the file is missing, empty, truncated, not ONNX, cyclic or contradicts itself,
    and UnsupportedError when it holds constructs that no node of ours could mean (sequence inputs, sparse
    weights).
    """
    proto, location, folder = _load(source)
    proto = expand_functions(proto, location)
    graph, opsets = proto.graph, opsets_of(proto)
    tensors = TensorReader(folder, location)
    initializers = _initializers(graph, tensors, location)
    inputs = tuple(_value(v, location) for v in graph.input if v.name not in initializers)
    nodes = _nodes(graph, tensors, location)
    outputs = tuple(_value(v, location) for v in graph.output)
    if not outputs:
        raise ModelFileError("the model has no outputs", location=location)
    ordered = _sort(nodes, {v.name for v in inputs} | set(initializers), [o.name for o in outputs], location)
    return RawModel(location, opsets, inputs, outputs, initializers, tuple(ordered))


def _load(source: Source) -> tuple[onnx.ModelProto, str, Path | None]:
    """The parsed file, what to call it in messages, and the folder for external data."""
    if isinstance(source, onnx.ModelProto):
        _check_model(source, "ModelProto")
        return source, "ModelProto", None
    if isinstance(source, bytes | bytearray | memoryview):
        return _parse(bytes(source), "bytes"), "bytes", None
    path = Path(source)
    location = str(path)
    if not path.exists():
        raise ModelFileError("no such model file", location=location)
    if path.is_dir():
        raise ModelFileError("this is a folder, not a model file", location=location)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(f"the model file cannot be read: {reason}", location=location) from error
    return _parse(data, location), location, path.parent


def _parse(data: bytes, location: str) -> onnx.ModelProto:
    if not data:
        raise ModelFileError("the model file is empty (0 bytes)", location=location)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (
        Exception
    ) as error:  # protobuf's DecodeError; its module differs between protobuf's implementations
        # Every ONNX writer puts ir_version (field 1, a small varint) first.
        looks_right = len(data) > 2 and data[0] == 0x08 and data[1] < 0x40
        what = "the ONNX file is truncated or corrupt" if looks_right else "this is not an ONNX model"
        raise ModelFileError(f"{what} ({len(data)} bytes)", location=location, hint=_HINT) from error
    _check_model(proto, location)
    return proto


def _check_model(proto: onnx.ModelProto, location: str) -> None:
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelFileError("this is not an ONNX model: it holds no graph", location=location, hint=_HINT)
    if not proto.opset_import:
        raise ModelFileError(
            "the ONNX file names no operator set: it is truncated or corrupt", location=location, hint=_HINT
        )


def _value(info: onnx.ValueInfoProto, location: str) -> RawValue:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        what = (kind or "nothing").removesuffix("_type")
        raise UnsupportedError(
            f"'{info.name}' is declared as {what}; only tensors are supported as inputs and outputs",
            location=location,
        )
    tensor = info.type.tensor_type
    dtype = dtype_name(tensor.elem_type, f"'{info.name}'", location)
    if not tensor.HasField("shape"):
        return RawValue(info.name, dtype, None)
    return RawValue(info.name, dtype, tuple(_dim(d) for d in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    """Exporters write an open dimension as a name, as '?', as -1, as 0 or as nothing at all."""
    if dim.WhichOneof("value") == "dim_value":
        return int(dim.dim_value) if dim.dim_value > 0 else None
    name = str(dim.dim_param).strip()
    return name if name not in ("", "?", "-1", "None") else None


def _initializers(graph: onnx.GraphProto, tensors: TensorReader, location: str) -> dict[str, np.ndarray]:
    if graph.sparse_initializer:
        names = [t.values.name for t in graph.sparse_initializer]
        raise UnsupportedError("sparse weights are not supported", names, location=location)
    return {t.name: tensors.array(t, f"initializer '{t.name}'") for t in graph.initializer}


def _body(graph: onnx.GraphProto, tensors: TensorReader, location: str) -> RawBody:
    inputs, outputs = (tuple(v.name for v in values) for values in (graph.input, graph.output))
    initializers = _initializers(graph, tensors, location)
    unsorted = RawBody(inputs, outputs, initializers, tuple(_nodes(graph, tensors, location)))
    given = {*inputs, *initializers, *unsorted.captures}
    nodes = _sort(unsorted.nodes, given, outputs, location)
    return dataclasses.replace(unsorted, nodes=tuple(nodes))


def _nodes(graph: onnx.GraphProto, tensors: TensorReader, location: str) -> list[RawNode]:
    """Nodes with unique names: a missing one becomes ``OpType_index``, a repeated one gets its index."""
    counts = Counter(n.name for n in graph.node if n.name)
    taken = set(counts)
    seen: set[str] = set()
    nodes = []
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"
        if (not node.name and name in taken) or name in seen:
            name = f"{name}_{index}"
        seen.add(name)
        domain = "" if node.domain == "ai.onnx" else node.domain
        attrs = {a.name: tensors.attribute(a, f"{node.op_type} node '{name}'") for a in node.attribute}
        bodies = {k: _body(g, tensors, location) for k, g in attrs.items() if isinstance(g, onnx.GraphProto)}
        captures = tuple(dict.fromkeys(c for body in bodies.values() for c in body.captures))
        operands = (tuple(node.input), tuple(node.output))
        nodes.append(RawNode(name, node.op_type, domain, *operands, {**attrs, **bodies}, index, captures))
    return nodes


def _sort(nodes: Sequence[RawNode], given: set[str], wanted: Sequence[str], location: str) -> list[RawNode]:
    """Nodes in topological order, keeping the file's order where it already is one."""
    producer: dict[str, RawNode] = {}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in producer or name in given:
                raise ModelFileError(
                    f"two things produce the tensor '{name}'", location=f"{location}, {node}"
                )
            producer[name] = node
    waiting: dict[int, int] = {}
    readers: dict[int, list[RawNode]] = {}
    ready: list[RawNode] = []
    for node in nodes:
        for name in node.reads:
            if name not in given and name not in producer:
                raise ModelFileError(f"{node} reads '{name}', which nothing produces", location=location)
        sources = {producer[n].index for n in node.reads if n in producer}
        waiting[node.index] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(node)
        if not sources:
            ready.append(node)
    for name in wanted:
        if name not in given and name not in producer:
            raise ModelFileError(f"the output '{name}' is produced by no node", location=location)
    order: list[RawNode] = []
    heap = [(n.index, n) for n in ready]
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
        path = " → ".join(f"'{n.name}'" for n in [*cycle, cycle[0]])
        raise ModelFileError(f"the graph is cyclic: {path}", location=location)
    return order


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
