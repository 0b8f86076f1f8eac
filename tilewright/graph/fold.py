"""Constant folding, and steering inputs becoming attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tilewright.config import options
from tilewright.errors import UNFIT, GraphError
from tilewright.graph.graph import Attr, Graph, Node, Value
from tilewright.graph.interpret import run_reference
from tilewright.graph.limits import FoldBudget, fold_work
from tilewright.graph.opdef import get_op
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr
from tilewright.ir.visit import const_int

#: A folded result may be larger than the operands together only up to this many bytes: a broadcast of one
#: number to a large tensor is cheaper to do than to store.
MAX_GROWTH_BYTES = 16 << 10


def fold_constants(graph: Graph) -> Graph:
    """Evaluate nodes whose operands are all constant, unless the result would be much larger than they
    are.
    """

    def visit(rw: Rewriter, node: Node) -> Sequence[Value] | None:
        results = fold_node(node, rw.const)
        if results is None:
            return None
        return [rw.constant(data, value.name) for value, data in zip(node.outputs, results, strict=True)]

    return rewrite(graph, visit)


def fold_node(
    node: Node,
    const: Callable[[Value | None], np.ndarray | None],
    budget: FoldBudget | None = None,
) -> list[np.ndarray] | None:
    """The results of a node whose operands are all constant; None when they are not, or when folding does not
    pay. Raises LimitError when they are more than ``budget`` has left.
    """
    if get_op(node.op).deferred:
        return None
    operands = [const(v) for v in node.inputs]
    if any(v is not None and data is None for v, data in zip(node.inputs, operands, strict=True)):
        return None
    if not all(region.is_static for region in node.regions.values()):
        return None
    if any(map(_is_open, node.attrs.values())):
        return None
    size = 0
    for value in node.outputs:
        shape = value.static_shape
        if shape is None:
            return None
        size += int(np.prod(shape, dtype=np.int64)) * dt.nbytes(value.dtype)
    if size > MAX_GROWTH_BYTES and size > sum(a.nbytes for a in operands if a is not None):
        return None
    work = fold_work(node, operands)
    if work > options().max_fold_work:
        return None
    if budget is not None:
        budget.spend(size, work, node.location)
    try:
        with np.errstate(all="ignore"):  # infinities and NaN are values like others
            return [_frozen(r) for r in run_reference(node, operands)]
    except UNFIT as error:
        raise GraphError(
            f"{node.op} of these constants has no result ({type(error).__name__}: {error})",
            location=node.location,
        ) from error


def _is_open(attr: Attr) -> bool:
    """Whether an attribute depends on sizes that are not known yet, as the start of a slice may."""
    if isinstance(attr, tuple):
        return any(map(_is_open, attr))
    return isinstance(attr, Expr) and const_int(attr) is None


def absorb_parameters(graph: Graph) -> Graph:
    """Move constant inputs that steer an operator (``OpDef.params``) into attributes, as tuples of
    numbers.
    """

    def visit(rw: Rewriter, node: Node) -> Sequence[Value] | None:
        params = get_op(node.op).params
        inputs, attrs = list(node.inputs), dict(node.attrs)
        for index, name in params.items():
            data = rw.const(inputs[index]) if index < len(inputs) else None
            if data is not None:
                attrs[name] = tuple(data.reshape(-1).tolist())
                inputs[index] = None
        if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
            return None
        return rw.emit_like(node, node.op, inputs, attrs)

    return rewrite(graph, visit)


def _frozen(array: np.ndarray) -> np.ndarray:
    result = np.ascontiguousarray(array) if array.ndim else array
    result.flags.writeable = False
    return result
