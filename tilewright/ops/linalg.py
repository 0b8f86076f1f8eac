"""Determinants of small matrices, and inverses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, const, maximum, minimum, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, accumulator_dtype, as_dtype, is_half

#: Every step of the elimination is code of its own.
LARGEST: Final = 32


def _infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    rows, columns = (const_int(d) for d in x.shape[-2:]) if x.rank >= 2 else (None, None)
    if rows is None or rows != columns or not dt.is_float(x.dtype):
        ctx.fail("det takes square matrices of floats of a known size")
    if rows > LARGEST:
        ctx.fail(f"determinants of matrices larger than {LARGEST} x {LARGEST} are not supported")
    return [TensorType(x.shape[:-2], x.dtype)]


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Gaussian elimination with partial pivoting; the determinant is the signed product of the pivots."""
    x = inputs[0]
    batch, wide = x.shape[:-2], accumulator_dtype(x.dtype)
    matrix = te.compute(x.shape, lambda *i: x[i].astype(wide), "matrix")
    pivots: list[te.Tensor] = []
    for size in range(const_int(x.shape[-1]) or 0, 0, -1):
        matrix, pivot = _eliminate(matrix, batch, size)
        pivots.append(pivot)

    def body(*i: Expr) -> Expr:
        product: Expr = const(1, wide)
        for pivot in pivots:
            product = product * pivot[i]
        return product.astype(x.dtype)

    return [te.compute(batch, body, "det")]


def _eliminate(matrix: te.Tensor, batch: Sequence[Expr], size: int) -> tuple[te.Tensor, te.Tensor]:
    """The matrix without its first column and the pivot's row, and the pivot with its sign."""
    zero = const(0, matrix.dtype)

    def largest(*i: Expr) -> Expr:
        return te.reduce("max", [size], lambda r: intrinsic("abs", matrix[(*i, r, as_expr(0))]))

    top = te.compute(batch, largest, "largest")

    def first(*i: Expr) -> Expr:
        def place(r: Expr) -> Expr:
            found = intrinsic("abs", matrix[(*i, r, as_expr(0))]).eq(top[i])
            return select(found, r, as_expr(size - 1))

        return te.reduce("min", [size], place)

    row = te.compute(batch, first, "pivot_row")

    def signed(*i: Expr) -> Expr:
        value = matrix[(*i, row[i], as_expr(0))]
        return select(row[i].eq(0), value, -value)

    def rest(*i: Expr) -> Expr:
        b, r, c = i[:-2], i[-2], i[-1]
        own = select((r + 1).eq(row[b]), as_expr(0), r + 1)  # the first row takes the pivot's place
        pivot = matrix[(*b, row[b], as_expr(0))]
        factor = select(pivot.eq(zero), zero, matrix[(*b, own, as_expr(0))] / pivot)
        return matrix[(*b, own, c + 1)] - factor * matrix[(*b, row[b], c + 1)]

    left = te.compute((*batch, size - 1, size - 1), rest, "eliminated")
    return left, te.compute(batch, signed, "pivot")


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    return [as_dtype(np.linalg.det(wide), dt.from_numpy(x.dtype))]


register(OpDef("det", FusionKind.opaque, infer=_infer, compute=_compute, reference=_reference))


# ---------------------------------------------------------------------------------------------------- inverse
def _inverse_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    rows, columns = (const_int(d) for d in x.shape[-2:]) if x.rank >= 2 else (None, None)
    if rows is None or rows != columns or not dt.is_float(x.dtype):
        ctx.fail("inverse takes square matrices of floats of a known size")
    return [x]


def _inverse_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Gauss-Jordan elimination with partial pivoting of the matrix and, behind it, the identity: one step a
    column.
    """
    x = inputs[0]
    batch, size, wide = x.shape[:-2], const_int(x.shape[-1]) or 0, accumulator_dtype(x.dtype)
    if size == 0:
        return [te.compute(x.shape, lambda *i: const(0, x.dtype), "inverse")]
    one, zero = const(1, wide), const(0, wide)

    def begin(*i: Expr) -> Expr:
        column = minimum(i[-1], size - 1)
        right = select((i[-1] - size).eq(i[-2]), one, zero)
        return select(i[-1] < size, x[(*i[:-1], column)].astype(wide), right)

    def step(state: te.Tensor) -> list[te.Tensor]:
        def height(t: Expr, b: Sequence[Expr], r: Expr) -> Expr:
            return select(r < t, const(-1, wide), intrinsic("abs", state[(t, *b, r, t)]))

        def largest(t: Expr, *b: Expr) -> Expr:
            return te.reduce("max", [size], lambda r: height(t, b, r))

        top = te.compute((size, *batch), largest, "largest")

        def first(t: Expr, *b: Expr) -> Expr:
            def place(r: Expr) -> Expr:
                return select(height(t, b, r).eq(top[(t, *b)]), r, as_expr(size - 1))

            return te.reduce("min", [size], place)

        row = te.compute((size, *batch), first, "pivot_row")

        def following(t: Expr, *i: Expr) -> Expr:
            b, r, c = i[:-2], i[-2], i[-1]
            pivot = minimum(maximum(row[(t, *b)], 0), size - 1)
            own = select(r.eq(pivot), t, r)  # the row of the step takes the pivot's place
            scaled = state[(t, *b, pivot, c)] / state[(t, *b, pivot, t)]
            return select(r.eq(t), scaled, state[(t, *b, own, c)] - state[(t, *b, own, t)] * scaled)

        return [te.compute((size, *batch, size, 2 * size), following, "eliminated")]

    start = te.compute((*batch, size, 2 * size), begin, "augmented")
    (states,) = te.scan(size, [start], step, ["matrices"])

    def body(*i: Expr) -> Expr:
        return states[(as_expr(size), *i[:-1], i[-1] + size)].astype(x.dtype)

    return [te.compute(x.shape, body, "inverse")]


def _inverse_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    wide = x.astype(np.float32) if is_half(x.dtype.name) else x
    return [as_dtype(np.linalg.inv(wide), dt.from_numpy(x.dtype))]


register(
    OpDef(
        "inverse", FusionKind.opaque, infer=_inverse_infer, compute=_inverse_compute, reference=_inverse_numpy
    )
)
