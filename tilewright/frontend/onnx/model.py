"""An ONNX model as the rest of the compiler sees it: a signature, a list of what is not supported, and graphs
on demand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

import tilewright.frontend.onnx.handlers  # noqa: F401  (registers them)
from tilewright.errors import (
    GraphError,
    InputError,
    ModelFileError,
    ShapeError,
    TilewrightError,
    UnsupportedError,
)
from tilewright.frontend.common import Imported, SteeringError, UnsupportedReport, bind_dims
from tilewright.frontend.onnx.importer import Importer, all_nodes, report_unsupported
from tilewright.frontend.onnx.lists import Absent, TensorList, absent, shown, tensor_list, tensors_of
from tilewright.frontend.onnx.raw import RawModel, RawValue
from tilewright.frontend.onnx.reader import Source, read
from tilewright.frontend.onnx.registry import MAX_OPSET, MIN_OPSET
from tilewright.frontend.onnx.steering import as_value, check_size
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Graph, Origin, TensorType, Value
from tilewright.graph.limits import check_type
from tilewright.graph.rewrite import eliminate_dead_code
from tilewright.ir.dtype import to_numpy
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.sizes import typical_size
from tilewright.runtime.plan import TensorSpec
from tilewright.runtime.special import ABSENT, Given, count_of, counts_of, flat_specs, is_list


@dataclasses.dataclass(frozen=True)
class Signature:
    """Name and type of a model's input or output; open dimensions are named variables."""

    name: str
    type: TensorType
    kind: str = "tensor"


class OnnxModel:
    """A read and checked ONNX model.

    Attributes:
        inputs: what the model takes, in its order. Dimensions that the file leaves open are variables: one
            variable for each name in the file, and ``<input>_dim<N>`` where it gives none.
        location: the file, for messages.
    """

    def __init__(self, raw: RawModel) -> None:
        self._raw = raw
        self._dims: dict[str, Var] = {}
        self._named = {d for v in (*raw.inputs, *raw.outputs) for d in v.shape or () if isinstance(d, str)}
        self.location = raw.location
        self._inputs = {v.name: self._declared(v) for v in raw.inputs if v.shape is not None}

    @property
    def inputs(self) -> tuple[Signature, ...]:
        """What the model takes. Raises ShapeError when the file does not even declare an input's rank."""
        self._require_ranks(self._inputs)
        return tuple(Signature(v.name, self._inputs[v.name], v.kind) for v in self._raw.inputs)

    @cached_property
    def outputs(self) -> tuple[Signature, ...]:
        """What the model gives: inferred where that is possible with open dimensions, else as the file
        declares it.
        """
        try:
            graph = self.to_graph()
        except TilewrightError:
            return self.declared()[1]
        return tuple(Signature(n, v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True))

    def declared(
        self,
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        values: Mapping[str, Given] | None = None,
    ) -> tuple[tuple[Signature, ...], tuple[Signature, ...]]:
        """Inputs and outputs as the file declares them, with sizes that ``shapes`` fixes for the inputs, and
        ``values`` for some of them.

        Raises ShapeError for shapes that do not fit the model, UnsupportedError naming all unsupported
        operators at once, and as :meth:`to_graph` where the file leaves out an output's element type.
        """
        self._check_opsets()
        self._report().raise_if_any(self.location)
        types = self._input_types(shapes)
        bound = bind_dims(types, shapes, None)

        kinds = {v.name: v.kind for v in self._raw.inputs}

        def fixed(name: str, kind: TensorType, what: str) -> Signature:
            dims = tuple(as_expr(bound.get(d, d)) if isinstance(d, Var) else d for d in kind.shape)
            return Signature(name, TensorType(dims, kind.dtype), what)

        inputs = tuple(fixed(name, kind, kinds.get(name, "tensor")) for name, kind in types.items())
        outputs = self._raw.outputs
        if not all(v.dtype for v in outputs):
            open_dims = {d.name: 2 for s in inputs for d in s.type.shape if isinstance(d, Var)}
            sample = self.to_graph(shapes, open_dims, values)  # element types do not depend on sizes
            types_of = (v.dtype for v in sample.outputs)
            outputs = tuple(dataclasses.replace(v, dtype=t) for v, t in zip(outputs, types_of, strict=True))
        return inputs, tuple(fixed(v.name, self._declared(v), v.kind) for v in outputs)

    def as_values(self, given: Mapping[str, object]) -> dict[str, Given]:
        """Values of inputs as arrays of their element types. Raises InputError where the model has no such
        input, or one of another type.
        """
        inputs = {v.name: v for v in (*self._raw.inputs, *self._raw.overridable)}
        arrays: dict[str, Given] = {}
        for name, value in given.items():
            if name not in inputs:
                known = ", ".join(inputs) or "none"
                raise InputError(f"no input is called '{name}'", hint=f"inputs: {known}")
            declared = inputs[name]
            dtype = to_numpy(declared.dtype)
            count = count_of(TensorSpec(name, (), declared.dtype, declared.kind), value)
            if count == ABSENT:
                arrays[name] = None
            elif is_list(declared.kind):
                assert isinstance(value, list | tuple)  # or count_of would have raised
                arrays[name] = [as_value(f"{name}[{n}]", item, dtype) for n, item in enumerate(value)]
            else:
                arrays[name] = as_value(name, value, dtype)
        return arrays

    def unsupported(self) -> list[str]:
        """One line for each operator that is not supported: how many nodes use it, and the first by name."""
        return self._report().items()

    def to_graph(
        self,
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        dims: Mapping[str, int | Var] | None = None,
        values: Mapping[str, Given] | None = None,
    ) -> Graph:
        """The model as a graph: see :meth:`import_for`."""
        return self.import_for(shapes, dims, values).graph

    def import_for(
        self,
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        dims: Mapping[str, int | Var] | None = None,
        values: Mapping[str, Given] | None = None,
    ) -> Imported:
        """The model as a graph.

        ``shapes`` fixes the shapes of inputs (None leaves a dimension open), ``dims`` sizes of dimensions by
        name, or gives them ranges. With all of them fixed every shape in the graph is a number. ``values``
        are the elements of inputs: they stay inputs, which nothing reads. Of sequences and optional values
        they say which tensors there are, and their shapes.

        Raises UnsupportedError naming all unsupported operators at once, or the nodes whose shapes depend on
        the inputs' data, SteeringError naming inputs that ``values`` must give, ShapeError for shapes that do
        not fit the model, InputError for values that do not, and GraphError for nodes that contradict their
        definition.
        """
        values = values or {}
        elements = {
            v.name: array
            for v in (*self._raw.inputs, *self._raw.overridable)
            if v.kind == "tensor" and isinstance(array := values.get(v.name), np.ndarray)
        }
        shapes = {**(shapes or {}), **{name: array.shape for name, array in elements.items()}}
        self._check_opsets()
        self._report().raise_if_any(self.location)
        types = self._input_types(shapes)
        bound = bind_dims(types, shapes, dims)
        builder = GraphBuilder(_graph_name(self.location))
        known: dict[str, Value | None] = {}
        lists = {v.name: v for v in self._raw.inputs if v.kind != "tensor"}
        for name, kind in types.items():
            if name in lists:
                known[name] = self._list_input(builder, lists[name], values)
                continue
            shape = [bound.get(d, d) if isinstance(d, Var) else d for d in kind.shape]
            check_type(TensorType.make(shape, kind.dtype), f"input '{name}'", self.location)
            known[name] = builder.input(name, shape, kind.dtype)
            if name in elements:
                array = elements[name]
                if array.dtype != to_numpy(kind.dtype):
                    raise InputError(f"the value of input '{name}' is {array.dtype}, not {kind.dtype}")
                check_size(name, array.shape, "what the model does", self.location)
                known[name] = builder.constant(array.copy(), name)
        Importer(self._raw, builder).add(known)
        builder.origin = Origin()
        results = [self._result(v, known[v.name]) for v in self._raw.outputs]
        specs = [TensorSpec(v.name, (), v.dtype, v.kind) for v in self._raw.outputs]
        counts = [ABSENT if isinstance(v, Absent) else len(tensors_of(v)) for v in results]
        output_counts = tuple(counts) if any(v.kind != "tensor" for v in self._raw.outputs) else ()
        names = [spec.name for spec in flat_specs(specs, output_counts)]
        graph = eliminate_dead_code(builder.build([t for v in results for t in tensors_of(v)], names))
        if all(v.static_shape is not None for v in graph.inputs):
            _require_static(graph, self.location)
        inputs = [TensorSpec(v.name, (), v.dtype, v.kind) for v in self._raw.inputs]
        return Imported(graph, counts_of(inputs, values) if lists else (), output_counts)

    def _list_input(self, builder: GraphBuilder, declared: RawValue, values: Mapping[str, Given]) -> Value:
        """A sequence or an optional value. Raises SteeringError when it is not among ``values``."""
        name, dtype = declared.name, declared.dtype
        if name not in values:
            what = f"which tensors there are in the {declared.kind} '{name}' decides what is compiled"
            raise SteeringError(what, (name,), location=self.location)
        given = values[name]
        if given is None:
            return absent(dtype, is_list(declared.kind), name)
        if isinstance(given, np.ndarray):
            return builder.input(name, given.shape, dtype)
        items = (builder.input(f"{name}[{n}]", array.shape, dtype) for n, array in enumerate(given))
        return tensor_list(items, dtype, name)

    def _result(self, declared: RawValue, value: Value | None) -> Value:
        """An output. Its declared shape is ignored, because exporters get it wrong; its type must be right.

        Raises GraphError when it is not.
        """
        assert value is not None  # only formals of functions may be left out
        listed = value.of_list if isinstance(value, Absent) else isinstance(value, TensorList)
        optional = declared.kind.startswith("optional")
        if listed != is_list(declared.kind) or (isinstance(value, Absent) and not optional):
            raise GraphError(
                f"output '{declared.name}' is declared as {declared.kind}, but it is {shown(value)}",
                location=self.location,
            )
        if declared.dtype not in ("", value.dtype):
            raise GraphError(
                f"output '{declared.name}' is declared as {declared.dtype}, but it is {value.dtype}",
                location=self.location,
            )
        return value

    def _input_types(self, shapes: Mapping[str, Sequence[int | None]] | None) -> dict[str, TensorType]:
        """The inputs' types; a shape from the user stands in for a rank that the file does not declare, and
        makes an input of a weight that the file lists among its inputs.
        """
        types = dict(self._inputs)
        for raw in self._raw.inputs:
            if raw.shape is None and shapes is not None and raw.name in shapes:
                dims = tuple(None if s is None else int(s) for s in shapes[raw.name])
                types[raw.name] = self._declared(dataclasses.replace(raw, shape=dims))
        self._require_ranks(types)
        overridden = [v for v in self._raw.overridable if shapes is not None and v.name in shapes]
        return {v.name: types[v.name] for v in self._raw.inputs} | {
            v.name: self._declared(v) for v in overridden
        }

    def _require_ranks(self, types: Mapping[str, TensorType]) -> None:
        for raw in self._raw.inputs:
            if raw.name not in types:
                raise ShapeError(
                    f"the model does not declare the rank of its input '{raw.name}'",
                    location=self.location,
                    hint="give the input's shape",
                )

    def _declared(self, value: RawValue) -> TensorType:
        dims = [self._dim(value, n, d) for n, d in enumerate(value.shape or ())]
        return TensorType(tuple(dims), value.dtype)

    def _dim(self, value: RawValue, axis: int, dim: int | str | None) -> Expr:
        if isinstance(dim, int):
            return as_expr(dim)
        name = dim if dim is not None else self._own_name(f"{value.name}_dim{axis}")
        return self._dims.setdefault(name, Var(name, lo=0))

    def _own_name(self, name: str) -> str:
        """``name``, lengthened until no dimension of the file is called so."""
        while name in self._named:
            name += "_"
        return name

    def _check_opsets(self) -> None:
        """The opset of ai.onnx must be one whose definitions are known; other domains matter only where nodes
        use them.
        """
        used = {opsets.get("") for node, opsets in all_nodes(self._raw) if not node.domain}
        for opset in sorted(used, key=lambda version: version or 0):
            self._check_opset(opset)

    def _check_opset(self, opset: int | None) -> None:
        if opset is None:
            raise ModelFileError(
                "the ONNX file imports no opset of ai.onnx, but its nodes use it", location=self.location
            )
        written = f"the model is written for opset {opset} of ai.onnx"
        if opset < MIN_OPSET:
            raise UnsupportedError(
                f"{written}; {MIN_OPSET} is the oldest that is supported",
                location=self.location,
                hint="onnx.version_converter.convert_version(model, 17) brings it up to date",
            )
        if opset > MAX_OPSET:
            raise UnsupportedError(
                f"{written}; {MAX_OPSET} is the newest that is known here",
                location=self.location,
                hint=f"export it with an opset of at most {MAX_OPSET}",
            )

    def _report(self) -> UnsupportedReport:
        return report_unsupported(self._raw)


def _require_static(graph: Graph, location: str) -> None:
    """Raise UnsupportedError naming the nodes whose shapes neither follow from the inputs' shapes nor are
    sizes that kernels compute."""
    report = UnsupportedReport()
    known = set(graph.inputs) | set(graph.constants)
    for node in graph.nodes:
        open_shape = any(typical_size(d) is None for v in node.outputs for d in v.shape)
        if open_shape and all(v is None or v in known for v in node.inputs):
            report.add(node.origin.op_type, node.origin.name)
        if not open_shape:
            known.update(node.outputs)
    items = report.items()
    if items:
        raise UnsupportedError(
            "shapes that depend on the data of inputs are not supported", items, location=location
        )


def _graph_name(location: str) -> str:
    stem = location.replace("\\", "/").rsplit("/", 1)[-1]
    return stem.rsplit(".", 1)[0] or "graph"


def read_model(source: Source) -> OnnxModel:
    """Read an ONNX model from a path, bytes or a ``ModelProto``.

    Raises ModelFileError when the file is missing, empty, truncated, not ONNX, cyclic, or contradicts itself.
    """
    return OnnxModel(read(source))


def import_onnx(
    source: Source,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """``read_model(source).to_graph(shapes, dims, values)``."""
    return read_model(source).to_graph(shapes, dims, values)
