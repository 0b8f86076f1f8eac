"""Limits on what a model may ask of the compiler (``tilewright.config.Options``): sizes of tensors, and work
and memory of constant folding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from tilewright.config import options
from tilewright.errors import GraphError, LimitError
from tilewright.graph.graph import Graph, Node, TensorType, Value
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const

#: No more dimensions than NumPy has had for long.
MAX_RANK: Final = 32
#: Folding may make this many times the bytes of a model's weights: casts and transposes of weights in a row.
_FOLD_GROWTH: Final = 4


def check_type(kind: TensorType, what: str, where: str | None) -> None:
    """Raise GraphError when ``what`` has negative or too many dimensions, LimitError when it takes more than
    ``Options.max_tensor_bytes``. Symbolic dimensions count as 1.
    """
    sizes = [int(d.value) for d in kind.shape if isinstance(d, Const)]
    if any(d < 0 for d in sizes):
        raise GraphError(f"{what} would have a negative dimension: {kind}", location=where)
    if kind.rank > MAX_RANK:
        raise GraphError(f"{what} would have {kind.rank} dimensions; {MAX_RANK} are possible", location=where)
    limit = options().max_tensor_bytes
    # An empty tensor may have dimensions that no array can have.
    if math.prod(max(d, 1) for d in sizes) * dt.bits(kind.dtype) > 8 * limit:
        raise LimitError(
            f"{what} is {kind}, more than {limit} bytes",
            location=where,
            hint="--max-tensor-bytes raises the limit",
        )


def fold_work(node: Node, operands: Sequence[np.ndarray | None]) -> int:
    """Roughly how many operations on elements the NumPy reference of ``node`` takes."""
    if node.regions:
        return _iterations(node, operands) * sum(map(_region_work, node.regions.values()))
    sizes = [a.size for a in operands if a is not None]
    result = sum(_size(v) for v in node.outputs)
    repeats = 1
    if node.op == "matmul" and operands[0] is not None and operands[0].ndim:
        repeats = operands[0].shape[-1]
    elif node.op in ("conv", "conv_transpose") and len(operands) > 1 and operands[1] is not None:
        repeats = operands[1].size // max(min(operands[1].shape, default=1), 1)
    kernel = node.attrs.get("kernel")
    if isinstance(kernel, tuple):
        repeats = math.prod(k for k in kernel if isinstance(k, int))
    return sum(sizes) + result * max(repeats, 1) + _padded(node, operands)


def _iterations(node: Node, operands: Sequence[np.ndarray | None]) -> int:
    """How often the regions of a node run; more than any limit where only running them tells."""
    if node.op != "loop":
        return 1
    trip = node.attrs.get("trip", operands[0])
    return int(trip) if isinstance(trip, int | np.ndarray) else options().max_fold_work + 1


def _region_work(region: Graph) -> int:
    """Roughly how many elements the nodes of a region read and write."""
    total = 1
    for node in region.nodes:
        total += sum(map(_size, (*(v for v in node.inputs if v is not None), *node.outputs)))
        total += fold_work(node, [None] * len(node.inputs)) if node.regions else 0
    return total


def _padded(node: Node, operands: Sequence[np.ndarray | None]) -> int:
    """Elements of the data of a sliding window with its padding: of a transposed convolution's result."""
    x = operands[0] if operands else None
    given = node.attrs.get("pads")
    pads = [p for p in given if isinstance(p, int)] if isinstance(given, tuple) else []
    if x is None or not pads or len(pads) != 2 * (x.ndim - 2):
        return 0
    dims = x.shape
    if node.op == "conv_transpose":
        dims = node.outputs[0].static_shape or dims
    rank = len(dims) - 2
    around = (max(b, 0) + max(e, 0) for b, e in zip(pads[:rank], pads[rank:], strict=True))
    return int(math.prod(dims[:2]) * math.prod(d + p for d, p in zip(dims[2:], around, strict=True)))


def _size(value: Value) -> int:
    return math.prod(value.static_shape or ())


class FoldBudget:
    """What folding may take while one model is imported or specialised."""

    def __init__(self) -> None:
        self._weights = 0
        self._folded = 0
        self._work = 0

    def given(self, nbytes: int) -> None:
        """A weight of the model."""
        self._weights += nbytes

    def spend(self, nbytes: int, work: int, where: str) -> None:
        """Raise LimitError when results of ``nbytes`` after ``work`` operations are too much."""
        self._folded += nbytes
        self._work += work
        if self._folded > options().max_fold_bytes + _FOLD_GROWTH * self._weights:
            raise LimitError(
                f"constant folding would take {self._folded} bytes for weights of {self._weights} bytes",
                location=where,
                hint="--max-fold-bytes raises the limit",
            )
        if self._work > options().max_fold_work:
            raise LimitError(
                f"constant folding would take more than {options().max_fold_work} operations",
                location=where,
                hint="--max-fold-work raises the limit",
            )
