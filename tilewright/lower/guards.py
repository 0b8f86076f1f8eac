"""Conditions: turn padding into guards, move guards outwards, turn guards into loop bounds."""

from __future__ import annotations

import dataclasses
import math

from tilewright.ir import dtype as dt
from tilewright.ir.expr import (
    BinOp,
    Cmp,
    Const,
    Expr,
    Load,
    Select,
    Var,
    all_of,
    as_expr,
    binop,
    conjuncts,
    maximum,
    minimum,
)
from tilewright.ir.linear import linear
from tilewright.ir.padding import is_padding, split_zero
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import For, If, PrimFunc, Stmt, Store
from tilewright.ir.visit import const_int, free_vars, loads_of, substitute, transform_stmt


def guard_padded_updates(func: PrimFunc) -> PrimFunc:
    """``acc += select(c, x, 0) * w`` becomes ``if c: acc += x * w``; likewise for max and min with their
    identities.

    The work on padding is then skipped instead of done with zeros. It differs only where the skipped factor
    is infinite or NaN: padding contributes nothing, also then.
    """

    def visit(stmt: Stmt) -> Stmt | None:
        if not isinstance(stmt, Store) or not isinstance(stmt.value, BinOp):
            return None
        op, a, b = stmt.value.op, stmt.value.a, stmt.value.b
        if isinstance(b, Load) and b.buffer is stmt.buffer and b.indices == stmt.indices:
            a, b = b, a
        if not (isinstance(a, Load) and a.buffer is stmt.buffer and a.indices == stmt.indices):
            return None
        if op == "add":
            conds, term = split_zero(b)
        elif op in ("max", "min"):
            conds, term = _split_identity(op, b)
        else:
            return None
        return If(all_of(conds), Store(stmt.buffer, stmt.indices, binop(op, a, term))) if conds else None

    return func.with_(body=transform_stmt(func.body, visit))


def _split_identity(op: str, e: Expr) -> tuple[list[Expr], Expr]:
    """Conditions without which ``e`` is the identity of max/min, and ``e`` given that they hold."""
    if isinstance(e, Select) and isinstance(e.b, Const) and is_padding(e):
        if dt.is_float(e.dtype):
            identity: float = -math.inf if op == "max" else math.inf
        else:
            identity = dt.int_range(e.dtype)[0 if op == "max" else 1]
        if e.b.value == identity:
            conds, value = _split_identity(op, e.a)
            return conjuncts(e.cond) + conds, value
    return [], e


def hoist_guards(func: PrimFunc) -> PrimFunc:
    """Move the parts of an if that do not depend on the loop directly around it out of that loop."""

    def visit(stmt: Stmt) -> Stmt | None:
        if (
            isinstance(stmt, If)
            and stmt.orelse is None
            and isinstance(stmt.then, If)
            and stmt.then.orelse is None
        ):
            return If(all_of(conjuncts(stmt.cond) + conjuncts(stmt.then.cond)), stmt.then.then)
        if not (isinstance(stmt, For) and isinstance(stmt.body, If) and stmt.body.orelse is None):
            return None
        parts = conjuncts(stmt.body.cond)
        moved = [c for c in parts if stmt.var not in free_vars(c) and not any(True for _ in loads_of(c))]
        if not moved:
            return None
        kept = [c for c in parts if c not in moved]
        body = If(all_of(kept), stmt.body.then) if kept else stmt.body.then
        return If(all_of(moved), dataclasses.replace(stmt, body=body))

    return func.with_(body=transform_stmt(func.body, visit))


def clip_loops(func: PrimFunc) -> PrimFunc:
    """``for v: if a*v + r >= 0: ...`` runs only over the ``v`` that pass: linear guards of serial loops
    become bounds."""

    def visit(stmt: Stmt) -> Stmt | None:
        if not (isinstance(stmt, For) and stmt.kind == "serial"):
            return None
        if not (isinstance(stmt.body, If) and stmt.body.orelse is None):
            return None
        low: list[Expr] = []
        high: list[Expr] = []
        kept: list[Expr] = []
        for cond in conjuncts(stmt.body.cond):
            bound = _bound_on(cond, stmt.var)
            if bound is None:
                kept.append(cond)
            else:
                (low if bound[0] == "low" else high).append(bound[1])
        if not low and not high:
            return None
        begin: Expr = as_expr(0)
        for e in low:
            begin = simplify(maximum(begin, e))
        end = stmt.extent
        for e in high:
            end = simplify(minimum(end, e))
        body = If(all_of(kept), stmt.body.then) if kept else stmt.body.then
        top = const_int(stmt.extent)
        inner = Var(stmt.var.name, lo=0, hi=None if top is None else max(top - 1, 0))
        if const_int(begin) != 0:
            body = substitute(body, {stmt.var: inner + begin})
        else:
            body = substitute(body, {stmt.var: inner})
        return dataclasses.replace(stmt, var=inner, extent=simplify(maximum(end - begin, 0)), body=body)

    return func.with_(body=transform_stmt(func.body, visit))


def _bound_on(cond: Expr, var: Var) -> tuple[str, Expr] | None:
    """``("low", e)`` when ``cond`` says ``var >= e``, ``("high", e)`` for ``var < e``; None when it is
    neither."""
    if not isinstance(cond, Cmp) or cond.op not in ("lt", "le") or cond.a.dtype != dt.INDEX:
        return None
    # cond: a < b, as form = b - a - (1 if strict) >= 0
    form = linear(simplify(cond.b - cond.a - (1 if cond.op == "lt" else 0)))
    if form is None or var not in form.terms:
        return None
    coefficient = form.terms[var]
    rest: Expr = as_expr(form.const)
    for atom, factor in form.terms.items():
        if atom is var:
            continue
        if var in free_vars(atom) or any(True for _ in loads_of(atom)):
            return None
        rest = rest + atom * factor
    if coefficient > 0:  # var >= ceil(-rest / c)
        return "low", simplify((rest * -1 + (coefficient - 1)) // coefficient)
    return "high", simplify(rest // -coefficient + 1)
