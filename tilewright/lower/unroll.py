"""Expand unrolled loops."""

from __future__ import annotations

import dataclasses
from operator import is_not

from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.simplify import simplify_stmt
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    For,
    If,
    PrimFunc,
    Seq,
    Stmt,
    Store,
    seq,
    with_inner,
)
from tilewright.ir.visit import const_extent, map_stmt


def unroll_loops(func: PrimFunc) -> PrimFunc:
    """Replace every loop of kind ``unrolled`` by one copy of its body an iteration.

    Raises ValueError when the extent of one is not constant.
    """
    return func.with_(body=simplify_stmt(_expand(func.body, _Iteration())))


@dataclasses.dataclass(slots=True)
class _Iteration:
    """An iteration of an unrolled loop: ``known`` has its variable's value, and what expressions with that
    variable have become. What does not depend on it is left to the iteration ``around`` it, which has the
    same for all iterations of the inner loop."""

    var: Var | None = None
    around: _Iteration | None = None
    known: dict[Expr, Expr] = dataclasses.field(default_factory=dict)

    def value(self, e: Expr) -> Expr:
        """``e`` in this iteration."""
        variables = e.variables
        where = self
        while where.var not in variables:
            if where.around is None:
                return e
            where = where.around
        found = where.known.get(e)
        if found is None:
            children = e.children
            fresh = [where.value(child) for child in children]
            found = where.known[e] = e.rebuild(fresh) if any(map(is_not, fresh, children)) else e
        return found


def _expand(s: Stmt, at: _Iteration) -> Stmt:
    """``s`` in an iteration of the unrolled loops around it."""
    if isinstance(s, Store):
        return Store(s.buffer, tuple(map(at.value, s.indices)), at.value(s.value))
    if isinstance(s, Seq):
        return seq([_expand(x, at) for x in s.stmts])
    if isinstance(s, For):
        if s.kind != "unrolled":
            return For(s.var, at.value(s.extent), _expand(s.body, at), s.kind, s.annotations)
        extent = const_extent(at.value(s.extent), f"extent of unrolled loop '{s.var.name}'")
        copies = [_expand(s.body, _Iteration(s.var, at, {s.var: as_expr(i)})) for i in range(extent)]
        return seq(copies)
    if isinstance(s, If):
        orelse = None if s.orelse is None else _expand(s.orelse, at)
        return If(at.value(s.cond), _expand(s.then, at), orelse)
    if isinstance(s, Alloc | Annotate):
        return with_inner(s, _expand(s.body, at))
    return map_stmt(s, at.value)
