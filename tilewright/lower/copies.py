"""Several copies of a buffer as one buffer with a first dimension for the copy."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.expr import Expr, Load, as_expr, load
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Buffer, Range, Region, Stmt, Store, TensorCall
from tilewright.ir.visit import map_stmt, rewrite_expr, transform_stmt

_ONE = as_expr(1)


def with_copies(buffer: Buffer, count: Expr) -> Buffer:
    """``buffer`` with a first dimension for ``count`` copies of it, one after the other in memory."""
    strides = buffer.strides
    if strides is not None:
        strides = (simplify(strides[0] * buffer.shape[0]) if strides else _ONE, *strides)
    align = tuple((dim + 1, factor, offset) for dim, factor, offset in buffer.stride_align)
    return buffer.with_(shape=(count, *buffer.shape), strides=strides, stride_align=align)


def in_copies(s: Stmt, copies: Mapping[Buffer, tuple[Buffer, Expr]]) -> Stmt:
    """``s`` with every access to a buffer of ``copies`` made to the buffer that has several of it, at the
    index given.
    """
    memo: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.buffer in copies:
            many, index = copies[node.buffer]
            return load(many, (index, *node.indices))
        return None

    def moved(region: Region) -> Region:
        if region.buffer not in copies:
            return region
        many, index = copies[region.buffer]
        return Region(many, (Range(index, _ONE), *region.ranges))

    def stored(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, Store) and stmt.buffer in copies:
            many, index = copies[stmt.buffer]
            return Store(many, (index, *stmt.indices), stmt.value)
        if isinstance(stmt, TensorCall):
            return TensorCall(stmt.intrinsic, tuple(map(moved, stmt.operands)))
        return None

    return transform_stmt(map_stmt(s, lambda e: rewrite_expr(e, visit, memo)), stored)
