"""The graph's meaning, node by node in NumPy: the oracle of every graph pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tilewright.errors import InputError
from tilewright.graph.graph import Attr, Graph, Node, TensorType, Value
from tilewright.graph.opdef import OpContext, get_op
from tilewright.graph.rewrite import computed_dims
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const, Expr, Var, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import substitute_expr


def interpret(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    on_node: Callable[[Node, list[np.ndarray]], None] | None = None,
) -> dict[str, np.ndarray]:
    """Run every node's reference. ``inputs`` by name; returns outputs by name.

    ``on_node`` sees each node with its results, in order. Sizes that the graph leaves open are those of the
    inputs, or what nodes compute. Raises InputError for missing, superfluous or misshapen inputs.
    """
    values: dict[Value, np.ndarray] = dict(graph.constants)
    sizes: dict[Expr, Expr] = {}
    unknown = sorted(set(inputs) - {v.name for v in graph.inputs})
    if unknown:
        raise InputError(f"the graph has no input {', '.join(map(repr, unknown))}")
    for value in graph.inputs:
        if value.name not in inputs:
            raise InputError(f"input '{value.name}' is missing")
        values[value] = data = _checked(value, np.asarray(inputs[value.name]))
        given = zip(value.shape, data.shape, strict=True)
        sizes.update((d, as_expr(n)) for d, n in given if isinstance(d, Var))
    remaining = graph._use_counts.copy()
    for node in graph.nodes:
        operands = [None if v is None else values[v] for v in node.inputs]
        results = run_reference(with_sizes(node, sizes), operands)
        sizes.update((d, as_expr(int(results[0]))) for d in computed_dims(node))
        if on_node is not None:
            on_node(node, results)
        values.update(zip(node.outputs, results, strict=True))
        for operand in node.inputs:
            if operand is not None:
                remaining[operand] -= 1
                if not remaining[operand]:
                    del values[operand]
    return {name: values[v] for name, v in zip(graph.output_names, graph.outputs, strict=True)}


def with_sizes(node: Node, sizes: Mapping[Expr, Expr]) -> Node:
    """``node``, in whose attributes (and those of the graphs that it runs) known sizes are numbers."""
    if not sizes:
        return node
    attrs = {key: _with_sizes(attr, sizes) for key, attr in node.attrs.items()}
    return node if all(attrs[k] is v for k, v in node.attrs.items()) else node.with_(attrs=attrs)


def _with_sizes(attr: Attr, sizes: Mapping[Expr, Expr]) -> Attr:
    if isinstance(attr, Graph):
        nodes = tuple(with_sizes(node, sizes) for node in attr.nodes)
        return attr if nodes == attr.nodes else attr.with_(nodes=nodes)
    if isinstance(attr, tuple):
        parts = tuple(_with_sizes(a, sizes) for a in attr)
        return attr if all(a is b for a, b in zip(parts, attr, strict=True)) else parts
    if isinstance(attr, Expr):
        known = substitute_expr(attr, sizes)
        if known is not attr:
            known = simplify(known)
        return int(known.value) if isinstance(known, Const) else known
    return attr


def run_reference(node: Node, operands: list[np.ndarray | None]) -> list[np.ndarray]:
    """One node on concrete operands. Results have the operator's inferred dtypes."""
    opdef = get_op(node.op)
    types = tuple(None if a is None else TensorType.of(a) for a in operands)
    ctx = OpContext(
        node.attrs, types, tuple(operands), (None,) * len(operands), node, opdef.params, node.location
    )
    with np.errstate(all="ignore"):  # infinities and NaN are results like others
        return [np.asarray(r) for r in opdef.reference(ctx, operands)]


def _checked(value: Value, data: np.ndarray) -> np.ndarray:
    dtype = dt.from_numpy(data.dtype)
    fits = dtype == value.dtype and data.ndim == value.rank
    dims = zip(value.shape, data.shape, strict=False)
    if not fits or any(isinstance(want, Const) and want.value != have for want, have in dims):
        raise InputError(f"input '{value.name}' should be {value.type}, not {dtype}{list(data.shape)}")
    return data
