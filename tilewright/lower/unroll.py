"""Expand unrolled loops."""

from __future__ import annotations

from tilewright.ir.expr import as_expr
from tilewright.ir.simplify import simplify_stmt
from tilewright.ir.stmt import For, PrimFunc, Stmt, seq
from tilewright.ir.visit import const_extent, substitute, transform_stmt


def unroll_loops(func: PrimFunc) -> PrimFunc:
    """Replace every loop of kind ``unrolled`` by one copy of its body an iteration.

    Raises ValueError when the extent of one is not constant.
    """

    def visit(stmt: Stmt) -> Stmt | None:
        if not (isinstance(stmt, For) and stmt.kind == "unrolled"):
            return None
        extent = const_extent(stmt.extent, f"extent of unrolled loop '{stmt.var.name}'")
        copies = [substitute(stmt.body, {stmt.var: as_expr(i)}) for i in range(extent)]
        return seq(copies)

    return func.with_(body=simplify_stmt(transform_stmt(func.body, visit)))
