"""Algebra on integer expressions, and the clean-up of statements with it.

int64 expressions become canonical linear forms (equal forms are the same object); divisions and remainders by
constants use divisibility and ranges; comparisons are decided or normalised. Floats are never reassociated:
only exact identities fold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from tilewright.ir.algebra import Simplifier
from tilewright.ir.bounds import (
    Interval,
)
from tilewright.ir.conditions import negate
from tilewright.ir.expr import (
    FALSE,
    TRUE,
    Const,
    Expr,
    Reduce,
    Var,
    all_of,
    conjuncts,
)
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Block,
    Evaluate,
    For,
    If,
    IterVar,
    Range,
    Region,
    Seq,
    Stmt,
    Store,
    TensorCall,
    seq,
)
from tilewright.ir.visit import loads_of

__all__ = [
    "NOOP",
    "Simplifier",
    "is_noop",
    "lasting",
    "prove",
    "simplify",
    "simplify_stmt",
    "simplify_within",
]

#: So many expressions are remembered with what they simplify to.
REMEMBERED: Final = 1 << 14
#: The statement that does nothing.
NOOP: Final = Seq(())


def simplify(e: Expr, bounds: Mapping[Var, Interval] | None = None) -> Expr:
    """An equal expression in canonical form, for variables within ``bounds`` (default: their own).

    Two int64 expressions that are the same linear combination of the same atoms simplify to the same object.
    """
    return _for(e, bounds).simplify(e)


def prove(cond: Expr, bounds: Mapping[Var, Interval] | None = None) -> bool:
    """Whether ``cond`` certainly holds for all variables within ``bounds``. False means "not known"."""
    return _for(cond, bounds).simplify(cond) is TRUE


_unassuming = Simplifier()


def _for(e: Expr, bounds: Mapping[Var, Interval] | None) -> Simplifier:
    """A simplifier for ``e``; without bounds the one that remembers what it has been asked, up to a size."""
    global _unassuming
    if bounds is not None or isinstance(
        e, Reduce
    ):  # what a reduction says of its variables holds inside only
        return Simplifier(bounds)
    if _unassuming.remembered > REMEMBERED:
        _unassuming = Simplifier()
    return _unassuming


def simplify_stmt(s: Stmt, bounds: Mapping[Var, Interval] | None = None) -> Stmt:
    """``s`` with all expressions simplified under the loops and conditions around them.

    Removes branches that are never or always taken, loops that never run, and loops that run once (their
    variable becomes 0); what does nothing becomes :data:`NOOP`, an empty Seq. Loops over ``thread:`` axes
    stay, as they are part of the launch.
    """
    return _StmtSimplifier().visit(s, Simplifier(bounds))


def simplify_within(s: Stmt, ranges: Simplifier) -> Stmt:
    """:func:`simplify_stmt` under the assumptions of ``ranges``."""
    return _StmtSimplifier().visit(s, ranges)


def lasting(cond: Expr) -> Expr:
    """The conjuncts of ``cond`` that stay true while a statement runs: stores change what loads give."""
    return all_of([c for c in conjuncts(cond) if not any(True for _ in loads_of(c))])


class _StmtSimplifier:
    """The walk of :func:`simplify_stmt`."""

    def visit(self, s: Stmt, env: Simplifier) -> Stmt:
        if isinstance(s, Store):
            indices = tuple(env.simplify(i) for i in s.indices)
            value = env.simplify(s.value)
            same = value is s.value and all(a is b for a, b in zip(indices, s.indices, strict=True))
            return s if same else Store(s.buffer, indices, value)
        if isinstance(s, Seq):
            stmts = [self.visit(x, env) for x in s.stmts]
            return s if all(a is b for a, b in zip(stmts, s.stmts, strict=True)) else seq(stmts)
        if isinstance(s, For):
            return self._for(s, env)
        if isinstance(s, If):
            return self._if(s, env)
        if isinstance(s, Alloc):
            body = self.visit(s.body, env)
            return body if is_noop(body) else s if body is s.body else Alloc(s.buffer, body)
        if isinstance(s, Annotate):
            body = self.visit(s.body, env)
            return body if is_noop(body) else s if body is s.body else Annotate(s.key, s.value, body)
        if isinstance(s, Evaluate):
            value = env.simplify(s.value)
            return s if value is s.value else Evaluate(value)
        if isinstance(s, TensorCall):
            operands = tuple(_region(r, env) for r in s.operands)
            return s if operands == s.operands else TensorCall(s.intrinsic, operands)
        assert isinstance(s, Block)
        return self._block(s, env)

    def _for(self, s: For, env: Simplifier) -> Stmt:
        extent = env.simplify(s.extent)
        hi = env.interval(extent).hi
        if hi is not None and hi <= 0:
            return NOOP
        body = self.visit(s.body, env.with_loop(s.var, extent))
        if is_noop(body):
            return NOOP
        if isinstance(extent, Const) and extent.value == 1 and not s.kind.startswith("thread:"):
            return body  # its variable, a point, has become 0
        if body is s.body and extent is s.extent:
            return s
        return For(s.var, extent, body, s.kind, s.annotations)

    def _if(self, s: If, env: Simplifier) -> Stmt:
        cond = env.simplify(s.cond)
        if cond is TRUE:
            return self.visit(s.then, env)
        if cond is FALSE:
            return NOOP if s.orelse is None else self.visit(s.orelse, env)
        then = self.visit(s.then, env.assuming(lasting(cond)))
        orelse = None if s.orelse is None else self.visit(s.orelse, env.assuming(lasting(negate(cond))))
        if orelse is not None and is_noop(orelse):
            orelse = None
        if is_noop(then):
            return NOOP if orelse is None else If(negate(cond), orelse)
        if cond is s.cond and then is s.then and orelse is s.orelse:
            return s
        return If(cond, then, orelse)

    def _block(self, s: Block, env: Simplifier) -> Stmt:
        predicate = env.simplify(s.predicate)
        if predicate is FALSE:
            return NOOP
        iters: list[IterVar] = []
        inner = env
        for it in s.iters:
            binding, extent = env.simplify(it.binding), env.simplify(it.extent)
            iters.append(
                it
                if binding is it.binding and extent is it.extent
                else IterVar(it.var, extent, it.kind, binding)
            )
            inner = inner.with_loop(it.var, extent)
        return dataclasses.replace(
            s,
            iters=tuple(iters),
            reads=tuple(_region(r, inner) for r in s.reads),
            writes=tuple(_region(r, inner) for r in s.writes),
            body=self.visit(s.body, inner),
            init=None if s.init is None else self.visit(s.init, inner),
            predicate=predicate,
        )


def _region(r: Region, env: Simplifier) -> Region:
    return Region(r.buffer, tuple(Range(env.simplify(x.lo), env.simplify(x.extent)) for x in r.ranges))


def is_noop(s: Stmt) -> bool:
    """Whether ``s`` is an empty Seq."""
    return isinstance(s, Seq) and not s.stmts
