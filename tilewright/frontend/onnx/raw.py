"""An ONNX file without protobuf objects: what the reader gives and the importer works on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

#: A declared dimension: a size, a shared name, or None when the file says nothing usable.
Dim: TypeAlias = "int | str | None"
#: What names a function: domain ('' is ai.onnx), name, overload.
FunctionId: TypeAlias = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class RawValue:
    """A graph input or output as the file declares it.

    ``shape`` None means that even the rank is not declared, ``dtype`` '' (outputs only) that the element type
    is not. ``kind``: one of :data:`tilewright.runtime.special.KINDS`.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None
    kind: str = "tensor"


@dataclasses.dataclass(frozen=True)
class AttrRef:
    """In the body of a function: the attribute ``name`` of the call."""

    name: str


@dataclasses.dataclass(frozen=True)
class RawNode:
    """A node.

    Attribute values are Python numbers, strings, tuples, arrays, bodies (:class:`RawBody`, for control flow)
    or, in the body of a function, :class:`AttrRef`. '' in ``inputs`` is an input left out. ``captures``: what
    its bodies read from around the node.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    index: int
    captures: tuple[str, ...] = ()
    overload: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all tensors that must exist before the node."""
        return (*filter(None, self.inputs), *self.captures)

    @property
    def function(self) -> FunctionId:
        """The function that it calls if the model has one of that name."""
        return self.domain, self.op_type, self.overload

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
class RawFunction:
    """An operator defined by nodes, in topological order.

    Attributes:
        attributes: names of those that a call must give.
        defaults: values of those that it may leave out.
        opsets: what the nodes' operators mean.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    defaults: Mapping[str, Any]
    opsets: Mapping[str, int]
    nodes: tuple[RawNode, ...]


@dataclasses.dataclass(frozen=True)
class RawModel:
    """The whole file.

    Attributes:
        location: the file, for messages.
        opsets: versions by domain ('' is ai.onnx).
        inputs: those without an initializer.
        outputs: at least one.
        initializers: weights, those of them that something reads.
        nodes: in topological order.
        overridable: weights that the file also lists as inputs.
        functions: operators that the file defines itself.
    """

    location: str
    opsets: Mapping[str, int]
    inputs: tuple[RawValue, ...]
    outputs: tuple[RawValue, ...]
    initializers: Mapping[str, np.ndarray]
    nodes: tuple[RawNode, ...]
    overridable: tuple[RawValue, ...] = ()
    functions: Mapping[FunctionId, RawFunction] = dataclasses.field(default_factory=dict)
