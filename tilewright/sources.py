"""Where a model comes from: its signature, and its graph for any sizes of its dimensions and any values of
inputs that steer it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from tilewright.dims import Declared, Dims, Shapes, declare
from tilewright.errors import GraphError, InputError, OptionError, ShapeError, UnsupportedError
from tilewright.graph.graph import Graph, TensorType
from tilewright.graph.specialise import specialise
from tilewright.ir.expr import Const, Expr, Var
from tilewright.runtime.plan import Dim, Range, Signature, TensorSpec
from tilewright.runtime.special import Given

if TYPE_CHECKING:
    import onnx

Source: TypeAlias = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, "onnx.ModelProto", Graph]


#: Makes a graph for sizes of dimensions (numbers or ranges) and values of inputs.
GraphFor: TypeAlias = Callable[[Mapping[str, "int | Var"], Mapping[str, np.ndarray]], Graph]


@dataclasses.dataclass(frozen=True)
class Case:
    """What one variant is compiled for.

    Attributes:
        graph: its dimensions are numbers or have ranges.
        binding: the dimensions that are fixed.
        values: the inputs that steer; the graph holds them as constants.
    """

    graph: Graph
    binding: Mapping[str, int]
    values: Mapping[str, np.ndarray]


class OpenModel:
    """A model before it is compiled.

    Attributes:
        name: for people.
        signature: inputs, outputs and open dimensions.
        declared: what the user has said of the dimensions.
        steering: the inputs that are known to steer. What one of them decides may show that others do, too.
        values: those to compile for at once.
    """

    def __init__(
        self,
        name: str,
        signature: Signature,
        declared: Declared,
        graph_for: GraphFor,
        steering: tuple[str, ...] = (),
        values: Sequence[Mapping[str, np.ndarray]] = (),
    ) -> None:
        self.name = name
        self.signature = signature
        self.declared = declared
        self.steering = steering
        self.values = tuple(values)
        self._graph_for = graph_for

    @property
    def undeclared(self) -> tuple[str, ...]:
        """The open dimensions without a range: a variant is made for each of their sizes."""
        return tuple(name for name in self.signature.dims if name not in self.declared.dims)

    def case(self, binding: Mapping[str, int], inputs: Mapping[str, Given]) -> Case:
        """The model with some dimensions fixed (the others have ranges), for the values that the inputs which
        steer have in ``inputs``; further ones are not looked at.

        Raises SteeringError for an input that steers and is not given, else as the importer does.
        """
        from tilewright.frontend.onnx.steering import SteeringError

        while True:
            values = {n: v for n in self.steering if isinstance(v := inputs.get(n), np.ndarray)}
            fixed = {**binding, **self.sizes_of(values)}
            try:
                return Case(self._graph_for(self.declared.bind(fixed), values), fixed, values)
            except SteeringError as missing:
                if not all(n in inputs and n not in values for n in missing.names):
                    raise
                self.steering = (*self.steering, *missing.names)

    def sizes_of(self, values: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The sizes of dimensions of inputs of such values. Raises InputError for shapes that do not fit."""
        sizes: dict[str, int] = {}
        for spec in self.signature.inputs:
            array = values.get(spec.name)
            if array is None:
                continue
            pairs = list(zip(spec.shape, array.shape, strict=False))
            if array.ndim != len(spec.shape) or any(
                (sizes.setdefault(dim, size) if isinstance(dim, str) else dim) != size for dim, size in pairs
            ):
                raise InputError(f"input '{spec}' cannot have a value of shape {list(array.shape)}")
        return sizes


def open_model(
    source: Source,
    shapes: Shapes | None = None,
    dims: Dims | None = None,
    values: Sequence[Mapping[str, Any]] = (),
) -> OpenModel:
    """Read a model and fit the user's ``shapes``, ``dims`` and ``values`` to it.

    Raises:
        ModelFileError, UnsupportedError, GraphError: it cannot be read.
        ShapeError, OptionError: the shapes or dimensions do not fit it.
        InputError: the values do not fit it.
    """
    if isinstance(source, Graph):
        if values:
            raise OptionError("values are for inputs of ONNX models", hint="make the input a constant")
        return _open_graph(source, shapes, dims)
    from tilewright.frontend.onnx import read_model
    from tilewright.frontend.onnx.steering import SteeringError

    model = read_model(source)
    name = Path(source).name if isinstance(source, str | os.PathLike) else "model"
    plain = {key: [d if isinstance(d, int) else None for d in shape] for key, shape in (shapes or {}).items()}
    given = [model.as_values(v) for v in values]
    declares = model.declared(plain, given[0] if given else None)
    inputs, outputs = ([(v.name, v.type) for v in side] for side in declares)
    declared = declare(inputs, shapes, dims)
    try:
        opened = model.to_graph(declared.fixed, declared.sizes)
    except (GraphError, UnsupportedError) as error:
        # What cannot be said of open dimensions may be plain for sizes: those of the first run decide.
        # The same holds for inputs that steer and their values.
        signature = _signature(
            *([(n, _sized(t, declared.sizes)) for n, t in side] for side in (inputs, outputs))
        )
        steering = error.names if isinstance(error, SteeringError) else ()
        if not steering and (not signature.dims or declared.dims):
            raise

        def typed(sizes: Mapping[str, int | Var], values: Mapping[str, np.ndarray]) -> Graph:
            return _with_types(model.to_graph(declared.fixed, sizes, values), signature)

        return OpenModel(name, signature, declared, typed, steering, given)
    signature = graph_signature(opened)

    def graph(sizes: Mapping[str, int | Var], values: Mapping[str, np.ndarray]) -> Graph:
        return opened if sizes == declared.sizes else model.to_graph(declared.fixed, sizes, values)

    return OpenModel(name, signature, declared, graph, (), given)


def _sized(kind: TensorType, sizes: Mapping[str, int | Var]) -> TensorType:
    """A declared type with the sizes that the user has said."""
    return TensorType.make(
        [sizes.get(d.name, d) if isinstance(d, Var) else d for d in kind.shape], kind.dtype
    )


def _open_graph(source: Graph, shapes: Shapes | None, dims: Dims | None) -> OpenModel:
    declared = declare([(v.name, v.type) for v in source.inputs], shapes, dims)
    fixed = _with_shapes(source, declared.fixed)

    def graph(sizes: Mapping[str, int | Var], values: Mapping[str, np.ndarray]) -> Graph:
        return specialise(fixed, sizes) if sizes else fixed

    signature = graph_signature(graph(declared.sizes, {}))
    return OpenModel(source.name, signature, declared, graph)


def graph_signature(graph: Graph) -> Signature:
    """Inputs, outputs and open dimensions of a graph."""
    outputs = zip(graph.output_names, graph.outputs, strict=True)
    return _signature([(v.name, v.type) for v in graph.inputs], [(name, v.type) for name, v in outputs])


def _signature(
    inputs: Sequence[tuple[str, TensorType]], outputs: Sequence[tuple[str, TensorType]]
) -> Signature:
    dims: dict[str, Range] = {}
    for _, kind in inputs:
        for dim in kind.shape:
            if isinstance(dim, Var):
                dims[dim.name] = Range(dim.lo or 0, dim.hi, dim.multiple_of)
    return Signature(tuple(_spec(*i) for i in inputs), tuple(_spec(*o) for o in outputs), dims)


def _spec(name: str, kind: TensorType) -> TensorSpec:
    return TensorSpec(name, _dims(kind.shape), kind.dtype)


def _dims(shape: Sequence[Expr]) -> tuple[Dim, ...]:
    return tuple(int(d.value) if isinstance(d, Const) else repr(d) for d in shape)


def _with_types(graph: Graph, signature: Signature) -> Graph:
    """``graph``, whose outputs have the declared types. Raises GraphError where they have others."""
    for spec, value in zip(signature.outputs, graph.outputs, strict=True):
        if spec.dtype != value.dtype:
            raise GraphError(f"output '{spec.name}' is declared as {spec.dtype}, but it is {value.dtype}")
    return graph


def _with_shapes(graph: Graph, shapes: Mapping[str, Sequence[int | None]]) -> Graph:
    """``graph`` with its open dimensions fixed where ``shapes`` gives a number."""
    binding: dict[str, int] = {}
    by_name = {v.name: v for v in graph.inputs}
    for name, shape in shapes.items():
        value = by_name.get(name)
        if value is None:
            raise ShapeError(f"the model has no input '{name}'", hint=f"its inputs: {', '.join(by_name)}")
        if len(shape) != value.rank:
            raise ShapeError(f"input '{name}' has {value.rank} dimensions, {len(shape)} were given")
        for dim, size in zip(value.shape, shape, strict=True):
            if size is None:
                continue
            if isinstance(dim, Const):
                if dim.value != size:
                    raise ShapeError(f"input '{name}' has size {dim.value} where {size} was given")
            elif binding.setdefault(repr(dim), size) != size:
                raise ShapeError(f"dimension '{dim!r}' is given as {binding[repr(dim)]} and as {size}")
    return specialise(graph, binding) if binding else graph
