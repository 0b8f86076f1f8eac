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
from tilewright.frontend.common import Imported, SteeringError
from tilewright.graph.graph import Graph, TensorType
from tilewright.graph.specialise import specialise
from tilewright.ir.expr import Const, Expr, Var
from tilewright.runtime.plan import Dim, Range, Signature, TensorSpec
from tilewright.runtime.special import Given, flat_specs

if TYPE_CHECKING:
    import onnx

Source: TypeAlias = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, "onnx.ModelProto", Graph]


#: Imports a model for sizes of dimensions (numbers or ranges) and values of inputs.
ImportFor: TypeAlias = Callable[[Mapping[str, "int | Var"], Mapping[str, Given]], Imported]


@dataclasses.dataclass(frozen=True)
class Case:
    """What one variant is compiled for.

    Attributes:
        graph: its dimensions are numbers or have ranges.
        binding: the dimensions that are fixed.
        values: the inputs that steer; the graph holds them as constants.
        input_counts, output_counts: how many of the graph's inputs and outputs each of the model's is
            (:mod:`tilewright.runtime.special`).
    """

    graph: Graph
    binding: Mapping[str, int]
    values: Mapping[str, np.ndarray]
    input_counts: tuple[int, ...]
    output_counts: tuple[int, ...]


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
        import_for: ImportFor,
        steering: tuple[str, ...] = (),
        values: Sequence[Mapping[str, Given]] = (),
    ) -> None:
        self.name = name
        self.signature = signature
        self.declared = declared
        self.steering = steering
        self.values = tuple(values)
        self._import_for = import_for

    @property
    def undeclared(self) -> tuple[str, ...]:
        """The open dimensions without a range: a variant is made for each of their sizes."""
        return tuple(name for name in self.signature.dims if name not in self.declared.dims)

    def case(self, binding: Mapping[str, int], inputs: Mapping[str, Given]) -> Case:
        """The model with some dimensions fixed (the others have ranges), for the values that the inputs which
        steer have in ``inputs``; further ones are not looked at.

        Raises SteeringError for an input that steers and is not given, else as the importer does.
        """
        while True:
            given = {name: inputs[name] for name in self.steering if name in inputs}
            fixed = {**binding, **self.sizes_of(given)}
            try:
                made = self._import_for(self.declared.bind(fixed), given)
            except SteeringError as missing:
                if not all(name in inputs and name not in given for name in missing.names):
                    raise
                self.steering = (*self.steering, *missing.names)
                continue
            tensors = {spec.name for spec in self.signature.inputs if spec.kind == "tensor"}
            values = {n: v for n, v in given.items() if n in tensors and isinstance(v, np.ndarray)}
            return Case(made.graph, fixed, values, made.input_counts, made.output_counts)

    def require_steering(self, values: Mapping[str, Given]) -> None:
        """Raise OptionError for a value of an input that does not steer, as far as the cases made so far
        tell."""
        if idle := [name for name in values if name not in self.steering]:
            raise OptionError(
                f"the input '{idle[0]}' does not steer: the compiled model takes any value of it",
                hint=f"inputs that steer: {', '.join(self.steering) or 'none'}",
            )

    def sizes_of(self, values: Mapping[str, Given]) -> dict[str, int]:
        """The sizes of dimensions of inputs of such values. Raises InputError for shapes that do not fit."""
        sizes: dict[str, int] = {}
        for spec in self.signature.inputs:
            array = values.get(spec.name)
            if spec.kind != "tensor" or not isinstance(array, np.ndarray):
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

    model = read_model(source)
    name = Path(source).name if isinstance(source, str | os.PathLike) else "model"
    plain = {key: [d if isinstance(d, int) else None for d in shape] for key, shape in (shapes or {}).items()}
    given = [model.as_values(v) for v in values]
    declares = model.declared(plain, given[0] if given else None)
    declared = declare([(v.name, v.type) for v in declares[0]], shapes, dims)

    def typed(sizes: Mapping[str, int | Var], values: Mapping[str, Given]) -> Imported:
        made = model.import_for(declared.fixed, sizes, values)
        _check_types(made.graph, flat_specs(signature.outputs, made.output_counts))
        return made

    inputs, outputs = ([(v.name, _sized(v.type, declared.sizes), v.kind) for v in side] for side in declares)
    signature = _signature(inputs, outputs)
    try:
        opened = model.import_for(declared.fixed, declared.sizes)
    except (GraphError, UnsupportedError) as error:
        # What cannot be said of open dimensions may be plain for sizes: those of the first run decide.
        # The same holds for inputs that steer and their values.
        steering = error.names if isinstance(error, SteeringError) else ()
        if not steering and (not signature.dims or declared.dims):
            raise

        return OpenModel(name, signature, declared, typed, steering, given)
    if not opened.output_counts:
        signature = graph_signature(opened.graph)

    def again(sizes: Mapping[str, int | Var], values: Mapping[str, Given]) -> Imported:
        return opened if sizes == declared.sizes else typed(sizes, values)

    return OpenModel(name, signature, declared, again, (), given)


def _sized(kind: TensorType, sizes: Mapping[str, int | Var]) -> TensorType:
    """A declared type with the sizes that the user has said."""
    return TensorType.make(
        [sizes.get(d.name, d) if isinstance(d, Var) else d for d in kind.shape], kind.dtype
    )


def _open_graph(source: Graph, shapes: Shapes | None, dims: Dims | None) -> OpenModel:
    declared = declare([(v.name, v.type) for v in source.inputs], shapes, dims)
    fixed = _with_shapes(source, declared.fixed)

    def graph(sizes: Mapping[str, int | Var], values: Mapping[str, Given]) -> Imported:
        return Imported(specialise(fixed, sizes) if sizes else fixed, (), ())

    signature = graph_signature(graph(declared.sizes, {}).graph)
    return OpenModel(source.name, signature, declared, graph)


def graph_signature(graph: Graph) -> Signature:
    """Inputs, outputs and open dimensions of a graph."""
    outputs = zip(graph.output_names, graph.outputs, strict=True)
    inputs = [(v.name, v.type, "tensor") for v in graph.inputs]
    return _signature(inputs, [(name, v.type, "tensor") for name, v in outputs])


def _signature(
    inputs: Sequence[tuple[str, TensorType, str]], outputs: Sequence[tuple[str, TensorType, str]]
) -> Signature:
    dims: dict[str, Range] = {}
    for _, tensor, _ in inputs:
        for dim in tensor.shape:
            if isinstance(dim, Var):
                dims[dim.name] = Range(dim.lo or 0, dim.hi, dim.multiple_of)
    return Signature(tuple(_spec(*i) for i in inputs), tuple(_spec(*o) for o in outputs), dims)


def _spec(name: str, tensor: TensorType, kind: str) -> TensorSpec:
    return TensorSpec(name, _dims(tensor.shape), tensor.dtype, kind)


def _dims(shape: Sequence[Expr]) -> tuple[Dim, ...]:
    return tuple(int(d.value) if isinstance(d, Const) else repr(d) for d in shape)


def _check_types(graph: Graph, specs: Sequence[TensorSpec]) -> None:
    """Raise GraphError where an output has another type than declared."""
    for spec, value in zip(specs, graph.outputs, strict=True):
        if spec.dtype != value.dtype:
            raise GraphError(f"output '{spec.name}' is declared as {spec.dtype}, but it is {value.dtype}")


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
