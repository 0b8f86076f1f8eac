"""The graph's meaning, node by node in NumPy: the oracle of every graph pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tilewright.errors import InputError
from tilewright.graph.graph import Graph, Node, TensorType, Value
from tilewright.graph.opdef import OpContext, get_op
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const


def interpret(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    on_node: Callable[[Node, list[np.ndarray]], None] | None = None,
) -> dict[str, np.ndarray]:
    """Run every node's reference. ``inputs`` by name; returns outputs by name.

    ``on_node`` sees each node with its results, in order. Raises InputError for missing, superfluous or
    misshapen inputs.
    """
    values: dict[Value, np.ndarray] = dict(graph.constants)
    unknown = sorted(set(inputs) - {v.name for v in graph.inputs})
    if unknown:
        raise InputError(f"the graph has no input {', '.join(map(repr, unknown))}")
    for value in graph.inputs:
        if value.name not in inputs:
            raise InputError(f"input '{value.name}' is missing")
        values[value] = _checked(value, np.asarray(inputs[value.name]))
    remaining = graph._use_counts.copy()
    for node in graph.nodes:
        operands = [None if v is None else values[v] for v in node.inputs]
        results = run_reference(node, operands)
        if on_node is not None:
            on_node(node, results)
        values.update(zip(node.outputs, results, strict=True))
        for operand in node.inputs:
            if operand is not None:
                remaining[operand] -= 1
                if not remaining[operand]:
                    del values[operand]
    return {name: values[v] for name, v in zip(graph.output_names, graph.outputs, strict=True)}


def run_reference(node: Node, operands: list[np.ndarray | None]) -> list[np.ndarray]:
    """One node on concrete operands. Results have the operator's inferred dtypes."""
    opdef = get_op(node.op)
    types = tuple(None if a is None else TensorType.of(a) for a in operands)
    ctx = OpContext(
        node.attrs, types, tuple(operands), (None,) * len(operands), node, opdef.params, node.location
    )
    return [np.asarray(r) for r in opdef.reference(ctx, operands)]


def _checked(value: Value, data: np.ndarray) -> np.ndarray:
    dtype = dt.from_numpy(data.dtype)
    fits = dtype == value.dtype and data.ndim == value.rank
    dims = zip(value.shape, data.shape, strict=False)
    if not fits or any(isinstance(want, Const) and want.value != have for want, have in dims):
        raise InputError(f"input '{value.name}' should be {value.type}, not {dtype}{list(data.shape)}")
    return data
