"""Choices between places to read from, made once instead of for each element."""

from __future__ import annotations

import dataclasses
from typing import Final

from tilewright.ir.expr import Expr, Select
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import For, If, PrimFunc, Stmt, Store
from tilewright.ir.visit import free_vars, loads_of, rewrite_expr, transform_stmt, walk_expr

#: Most copies of a loop that choices may cost.
MAX_COPIES: Final = 8


def hoist_choices(func: PrimFunc) -> PrimFunc:
    """``for v: out[v] = select(c, x[v], y[v])`` becomes ``if c: for v: out[v] = x[v]`` and the same with y
    else, when ``c`` does not depend on ``v``; out of further loops around it too.

    A concatenation in front of the innermost dimension then copies whole lines, where each vector would ask
    for its operand. Only loops that do nothing else are copied, and parallel ones are not: what is chosen
    inside of them costs little there.
    """

    def visit(stmt: Stmt) -> Stmt | None:
        if not isinstance(stmt, For) or stmt.kind not in ("serial", "vectorized"):
            return None
        if isinstance(stmt.body, Store):
            return _by_choices(stmt, stmt.body, MAX_COPIES)
        return _out_of(stmt)

    return func.with_(body=transform_stmt(func.body, visit))


def _by_choices(loop: For, store: Store, copies: int) -> Stmt | None:
    """The loop for each outcome of the store's choices; None without one, or if they are too many."""
    condition = _choice(store.value, loop)
    if condition is None:
        return None
    halves: list[Stmt] = []
    for holds in (True, False):
        half = dataclasses.replace(store, value=_given(store.value, condition, holds))
        inner = dataclasses.replace(loop, body=half)
        left = copies - _count(halves) - (1 if holds else 0)
        if left < 1:
            return None
        if _choice(half.value, loop) is None:
            halves.append(inner)
        else:
            further = _by_choices(inner, half, left)
            if further is None:
                return None
            halves.append(further)
    return If(condition, *halves)


def _count(stmts: list[Stmt]) -> int:
    return sum(
        _count([s.then, *([] if s.orelse is None else [s.orelse])]) if isinstance(s, If) else 1 for s in stmts
    )


def _choice(value: Expr, loop: For) -> Expr | None:
    """A condition that chooses what is read and is the same in every iteration of the loop, the outermost."""
    for e in reversed([*walk_expr(value)]):
        if (
            isinstance(e, Select)
            and loop.var not in free_vars(e.cond)
            and not any(True for _ in loads_of(e.cond))
            and any(True for side in (e.a, e.b) for _ in loads_of(side))
        ):
            return e.cond
    return None


def _given(value: Expr, condition: Expr, holds: bool) -> Expr:
    """``value`` where it is known whether the condition holds."""

    def visit(e: Expr) -> Expr | None:
        if isinstance(e, Select) and e.cond is condition:
            return e.a if holds else e.b
        return None

    return simplify(rewrite_expr(value, visit))


def _out_of(loop: For) -> Stmt | None:
    """The loop inside of the choices that are its body, as far as they do not depend on it."""
    if not (isinstance(loop.body, If) and loop.body.orelse is not None and _leaves_are_loops(loop.body)):
        return None
    if loop.var in free_vars(loop.body.cond) or any(True for _ in loads_of(loop.body.cond)):
        return None
    halves = [dataclasses.replace(loop, body=body) for body in (loop.body.then, loop.body.orelse)]
    return If(loop.body.cond, *(_out_of(half) or half for half in halves))


def _leaves_are_loops(stmt: Stmt) -> bool:
    if isinstance(stmt, If):
        return stmt.orelse is not None and _leaves_are_loops(stmt.then) and _leaves_are_loops(stmt.orelse)
    return isinstance(stmt, For)
