"""Specialisation: symbolic dimensions become numbers, and shapes everywhere follow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tilewright.errors import ShapeError
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.fold import fold_node
from tilewright.graph.graph import Attr, Graph, Value
from tilewright.graph.limits import FoldBudget
from tilewright.graph.rewrite import computed_dims, eliminate_dead_code
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const, Expr, Var, as_expr
from tilewright.ir.visit import substitute_expr


def specialise(graph: Graph, bindings: Mapping[str, int | Var]) -> Graph:
    """``graph`` with the named input dimensions fixed, or replaced by variables (with ranges).

    Types are inferred anew; what that makes constant (shape arithmetic) is folded on the way, because later
    shapes depend on it. Dimensions without a binding stay symbolic. Raises ShapeError for an unknown name or
    a negative size, and GraphError when the sizes do not fit the model.
    """
    dims = graph.dims
    for name, size in bindings.items():
        if name not in dims:
            known = ", ".join(dims) or "none"
            raise ShapeError(f"the model has no dimension '{name}'", hint=f"its symbolic dimensions: {known}")
        if isinstance(size, int) and size < 0:
            raise ShapeError(f"dimension '{name}' cannot be {size}")
    mapping: dict[Expr, Expr] = {dims[name]: as_expr(size) for name, size in bindings.items()}
    return _rebuilt(graph, GraphBuilder(graph.name), mapping, FoldBudget())


def _rebuilt(graph: Graph, builder: GraphBuilder, mapping: dict[Expr, Expr], folding: FoldBudget) -> Graph:
    """``graph`` with dimensions replaced; those that it computes itself join ``mapping``."""
    values: dict[Value, Value] = {}
    for value in graph.inputs:
        shape = [substitute_expr(d, mapping) for d in value.shape]
        values[value] = builder.input(value.name, shape, value.dtype)
    for value, data in graph.constants.items():
        values[value] = builder.constant(data, value.name)
        folding.given(data.nbytes)
    for node in graph.nodes:
        inputs = [None if v is None else values[v] for v in node.inputs]
        names = [v.name for v in node.outputs]
        attrs = {k: _substitute(v, mapping) for k, v in node.attrs.items()}
        for name, region in node.regions.items():
            attrs[name] = _rebuilt(region, builder.nested(region.name), mapping, folding)
        for dim in computed_dims(node):
            # Its bound may follow from what is fixed now.
            most = attrs["most"]
            assert isinstance(most, int | Expr)
            attrs["dim"] = mapping[dim] = builder.new_dim(dim.name, most)
        outputs = builder.emit(node.op, inputs, attrs, name=node.name, origin=node.origin, output_names=names)
        folded = _known_shape_arithmetic(builder, outputs)
        if folded is None:
            emitted = builder.producer(outputs[0])
            assert emitted is not None
            folded = fold_node(emitted, builder.const, folding)
        if folded is not None:
            outputs = tuple(builder.constant(d, v.name) for v, d in zip(outputs, folded, strict=True))
        values.update(zip(node.outputs, outputs, strict=True))
    result = builder.build([values[v] for v in graph.outputs], graph.output_names)
    return eliminate_dead_code(result)


def _substitute(attr: Attr, mapping: Mapping[Expr, Expr]) -> Attr:
    """Symbolic dimensions inside an attribute replaced; what becomes a number is a plain int."""
    if isinstance(attr, tuple):
        return tuple(_substitute(a, mapping) for a in attr)
    if isinstance(attr, Expr):
        fresh = substitute_expr(attr, mapping)
        return int(fresh.value) if isinstance(fresh, Const) else fresh
    return attr


def _known_shape_arithmetic(builder: GraphBuilder, outputs: tuple[Value, ...]) -> list[np.ndarray] | None:
    """Data of outputs that shape arithmetic has turned into numbers."""
    results: list[np.ndarray] = []
    for value in outputs:
        known = builder.exprs(value)
        if known is None or not all(isinstance(e, Const) for e in known.flat):
            return None
        numbers = [e.value for e in known.flat]
        results.append(np.array(numbers, dt.to_numpy(value.dtype)).reshape(known.shape))
    return results
