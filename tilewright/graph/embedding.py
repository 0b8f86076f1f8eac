"""A product with one-hot rows is a table lookup."""

from __future__ import annotations

import numpy as np

from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.movement import Replaced
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.ir import dtype as dt


def lookup_one_hot_products(graph: Graph) -> Graph:
    """``cast(indices == [0, 1, ..., n-1]) @ W`` becomes ``gather(W, indices)``.

    As JAX and TensorFlow write embeddings: each row of the left operand holds a single 1, so the product
    picks a row of W. Indices outside the range pick a row of zeros, which is appended to the table. Only for
    finite
    weights: zero times infinity would be NaN.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op != "matmul":
            return None
        table = rw.const(node.inputs[1])
        indices = _one_hot_indices(rw, node.inputs[0])
        if indices is None or table is None or table.ndim != 2 or not np.isfinite(table).all():
            return None
        rows = table.shape[0]
        padded = np.concatenate([table, np.zeros((1, table.shape[1]), table.dtype)])
        number = dt.to_numpy(indices.dtype).type
        if rows > dt.int_range(indices.dtype)[1]:
            return None
        last = rw.constant(number(rows), "last")
        inside = rw.op("minimum", indices, last)
        if dt.is_signed(indices.dtype):
            inside = rw.op("where", rw.op("less", inside, rw.constant(number(0), "zero")), last, inside)
        lead = node.output.dims()[:-1]
        flat = rw.op("reshape", inside, shape=lead)
        operand = rw.constant(padded, f"{node.name or 'table'}.rows")
        return [rw.op("gather", operand, flat, axis=0, name=node.name)]

    return rewrite(graph, visit)


def _one_hot_indices(rw: Rewriter, value: Value | None) -> Value | None:
    """The indices, of shape ``[..., 1]``, when ``value`` is ``cast(equal(indices, 0..n-1))`` to a float
    type.
    """
    cast = None if value is None else rw.producer(value)
    if value is None or cast is None or cast.op != "cast" or not dt.is_float(value.dtype):
        return None
    source = cast.inputs[0]
    equal = None if source is None else rw.producer(source)
    shape = value.dims()
    if equal is None or equal.op != "equal":
        return None
    for indices, numbers in (equal.inputs, equal.inputs[::-1]):
        data = rw.const(numbers)
        if indices is None or data is None or not dt.is_int(indices.dtype):
            continue
        counts = data.size == shape[-1] and data.shape[-1:] == shape[-1:]
        if (
            counts
            and indices.dims() == (*shape[:-1], 1)
            and (data.reshape(-1) == np.arange(data.size)).all()
        ):
            return indices
    return None
