"""Checks of one operator: its tensor expression against its NumPy reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tilewright.ops  # noqa: F401 - registers the operators
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.decompose import decompose
from tilewright.graph.fold import absorb_parameters
from tilewright.graph.graph import Node, TensorType
from tilewright.graph.interpret import run_reference
from tilewright.graph.opdef import OpContext, get_op
from tilewright.ir import interp, te

rng = np.random.default_rng(0)


def floats(*shape: int, low: float = -2.0, high: float = 2.0, dtype: str = "float32") -> np.ndarray:
    return rng.uniform(low, high, shape).astype(dtype)


def ints(*shape: int, low: int = -5, high: int = 6, dtype: str = "int64") -> np.ndarray:
    return rng.integers(low, high, shape).astype(dtype)


def reference(op: str, arrays: Sequence[Any], /, **attrs: Any) -> list[np.ndarray]:
    """The operator's NumPy result on concrete operands."""
    return run_reference(Node(op, tuple(None for _ in arrays), (), attrs), list(arrays))


def run_compute(
    node: Node, arrays: Sequence[np.ndarray | None], known: Sequence[int] = ()
) -> list[np.ndarray]:
    """The node's tensor expression run by the interpreter; operands ``known`` are compile-time constants."""
    opdef = get_op(node.op)
    assert opdef.compute is not None
    types = tuple(None if a is None else TensorType.of(a) for a in arrays)
    tensors = [None if t is None else te.placeholder(t.shape, t.dtype, f"in{n}") for n, t in enumerate(types)]
    consts = tuple(a if n in known else None for n, a in enumerate(arrays))
    ctx = OpContext(node.attrs, types, consts, (None,) * len(types), node, opdef.params, node.location)
    outputs = list(opdef.compute(ctx, tensors))
    func = te.primfunc(node.op, [t for t in tensors if t is not None], outputs)
    return interp.run(func, [a for a in arrays if a is not None])


def check(
    op: str,
    arrays: Sequence[np.ndarray | None],
    /,
    *,
    consts: Sequence[int] = (),
    rtol: float = 1e-5,
    atol: float = 1e-6,
    **attrs: Any,
) -> list[np.ndarray]:
    """Hold inferred types, tensor expression and decomposition equal to the reference; returns its results.

    ``consts`` are the operands that become constants of the graph.
    """
    builder = GraphBuilder()
    values = []
    for n, array in enumerate(arrays):
        if array is None:
            values.append(None)
        elif n in consts:
            values.append(builder.constant(array))
        else:
            kind = TensorType.of(array)
            values.append(builder.input(f"x{n}", kind.shape, kind.dtype))
    outputs = builder.emit(op, values, attrs)
    graph = builder.build(outputs)
    want = run_reference(graph.nodes[-1], list(arrays))
    for value, array in zip(outputs, want, strict=True):
        assert value.type == TensorType.of(array), (
            f"inferred {value.type}, reference gives {TensorType.of(array)}"
        )
    graph = decompose(absorb_parameters(graph))
    known = dict(graph.constants)
    feeds = [a for n, a in enumerate(arrays) if a is not None and n not in consts]
    known.update(zip(graph.inputs, feeds, strict=True))
    for node in graph.nodes:
        operands = [None if v is None else known[v] for v in node.inputs]
        fixed = [n for n, v in enumerate(node.inputs) if v in graph.constants]
        known.update(zip(node.outputs, run_compute(node, operands, fixed), strict=True))
    for value, array in zip(graph.outputs, want, strict=True):
        got = known[value]
        assert got.dtype == array.dtype
        np.testing.assert_allclose(widened(got), widened(array), rtol=rtol, atol=atol)
    return want


def widened(array: np.ndarray) -> np.ndarray:
    """16-bit floats as float32: NumPy's comparisons do not know all of them."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 and array.dtype.kind not in "iu" else array


def type_of(op: str, types: Sequence[TensorType], /, **attrs: Any) -> TensorType:
    """The first output's inferred type."""
    opdef = get_op(op)
    ctx = OpContext(attrs, tuple(types), (None,) * len(types), (None,) * len(types), None, opdef.params)
    return opdef.infer(ctx)[0]
