"""Let tiles overrun dimensions whose size is known at run time only.

A tile at the edge of a tensor is computed in full where nobody reads what is too much of it. Where sizes are
numbers, :mod:`overrun` decides that for each access; a size that a run decides leaves the guards of all
accesses in the innermost loop. Reading the last valid element again in place of those behind it costs less:
the address does not change within the loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tilewright.ir.conditions import negate
from tilewright.ir.expr import Expr, Load, Select, Var, all_of, conjuncts, load, minimum, select
from tilewright.ir.simplify import Simplifier, lasting
from tilewright.ir.sizes import dims_of
from tilewright.ir.stmt import Alloc, Annotate, Buffer, For, If, PrimFunc, Seq, Stmt, Store
from tilewright.ir.visit import free_vars, loads_of, uses


def clamp_overruns(func: PrimFunc) -> PrimFunc:
    """Replace guards over run-time dimensions on updates of temporaries by clamped indices of what is read.

    A guard stays where it limits a reduction, where vector lanes differ in it (masks are cheap, gathers are
    not), and where an index may be negative.
    """
    if not any(isinstance(p, Var) for p in func.params):
        return func
    return func.with_(body=_walk(func.body, Simplifier(), {}, set()))


def _walk(stmt: Stmt, env: Simplifier, inside: Mapping[Buffer, set[Var]], lanes: set[Var]) -> Stmt:
    """``inside``: for every temporary in scope, the loop variables between its allocation and here.
    ``lanes``: the variables of vectorized loops around.
    """
    if isinstance(stmt, For):
        below = {b: {*v, stmt.var} for b, v in inside.items()}
        vector = {*lanes, stmt.var} if stmt.kind == "vectorized" else lanes
        return dataclasses.replace(
            stmt, body=_walk(stmt.body, env.with_loop(stmt.var, stmt.extent), below, vector)
        )
    if isinstance(stmt, Alloc):
        return Alloc(stmt.buffer, _walk(stmt.body, env, {**inside, stmt.buffer: set()}, lanes))
    if isinstance(stmt, Seq):
        return Seq(tuple(_walk(s, env, inside, lanes) for s in stmt.stmts))
    if isinstance(stmt, Annotate):
        return dataclasses.replace(stmt, body=_walk(stmt.body, env, inside, lanes))
    if isinstance(stmt, If):
        if isinstance(stmt.then, Store) and stmt.then.buffer in inside and stmt.orelse is None:
            return _without_guards(stmt, stmt.then, env, inside[stmt.then.buffer], lanes)
        cond, orelse = lasting(stmt.cond), stmt.orelse
        if orelse is not None:
            orelse = _walk(orelse, env.assuming(lasting(negate(stmt.cond))), inside, lanes)
        return If(stmt.cond, _walk(stmt.then, env.assuming(cond), inside, lanes), orelse)
    return stmt


def _without_guards(stmt: If, store: Store, env: Simplifier, own: set[Var], lanes: set[Var]) -> Stmt:
    """``stmt`` without those of its guards that clamped indices make needless. ``own``: the loops inside the
    allocation of what is stored to."""
    moved = {v for index in store.indices for v in free_vars(index)}
    parts = conjuncts(stmt.cond)
    loose = [
        c
        for c in parts
        if dims_of([c]) and not uses(c, lanes) and not (free_vars(c) & own) - moved and not _reads(c)
    ]
    loose = [c for c in loose if not env.prove(c)]  # what always holds is nothing that may not be read
    if not loose:
        return stmt
    kept = [c for c in parts if c not in loose]
    ranges = env.assuming(all_of(kept))
    fits = all(_inside(i, size, ranges) for i, size in zip(store.indices, store.buffer.shape, strict=True))
    value = _clamped(store.value, ranges, {v for c in loose for v in free_vars(c)}) if fits else None
    if value is None:
        return stmt
    fresh = Store(store.buffer, store.indices, value)
    return If(all_of(kept), fresh) if kept else fresh


def _reads(e: Expr) -> bool:
    return any(True for _ in loads_of(e))


def _inside(index: Expr, size: Expr, ranges: Simplifier) -> bool:
    return ranges.prove(index >= 0) and ranges.prove(index < size)


def _clamped(e: Expr, ranges: Simplifier, guarded: set[Var]) -> Expr | None:
    """``e`` with every load inside its buffer; None when one may begin before it. Indices without any of the
    ``guarded`` variables are inside anyway: what guarded them still does."""
    if isinstance(e, Select):
        cond = _clamped(e.cond, ranges, guarded)
        a = _clamped(e.a, ranges.assuming(lasting(e.cond)), guarded)
        b = _clamped(e.b, ranges.assuming(lasting(negate(e.cond))), guarded)
        return None if cond is None or a is None or b is None else select(cond, a, b)
    children = [_clamped(child, ranges, guarded) for child in e.children]
    if any(child is None for child in children):
        return None
    known = [child for child in children if child is not None]
    if not isinstance(e, Load):
        return e.rebuild(known) if known else e
    indices = []
    for index, size in zip(known, e.buffer.shape, strict=True):
        if not uses(index, guarded) or ranges.prove(index < size):
            indices.append(index)
        elif _reads(index) or not ranges.prove(size >= 1):
            return None
        else:
            indices.append(minimum(index, size - 1))
        if uses(index, guarded) and not ranges.prove(index >= 0):
            return None
    return load(e.buffer, indices)
