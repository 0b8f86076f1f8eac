"""Separate the interior of a loop from its edges.

Guards remain where tiles overrun a tensor or touch its padding. They hold for nearly all iterations of an
outer loop; this pass makes one copy of the loop's body for those, without guards, and one for each edge value
with that value put in as a constant, so that the guards inside fold (or become constant vector masks) once
inner loops are unrolled. Where sizes are known at run time only, so is what is an edge: the copy for the
edges then keeps its guards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Set

from tilewright.ir import dtype as dt
from tilewright.ir.bounds import Interval, Ranges, interval
from tilewright.ir.expr import Cmp, Expr, Select, Var, all_of, as_expr, conjuncts
from tilewright.ir.linear import linear
from tilewright.ir.simplify import Simplifier, simplify, simplify_within
from tilewright.ir.stmt import Alloc, Annotate, For, If, PrimFunc, Seq, Stmt, Store, child_stmts, seq
from tilewright.ir.visit import (
    const_int,
    free_vars,
    loads_of,
    substitute,
    transform_stmt,
    walk_expr,
    walk_stmt,
)
from tilewright.lower.thin_tiles import whole_tiles

#: Most copies of one loop body that edges may cost, and most edge values of one tile index.
MAX_VERSIONS = 12
MAX_EDGES = 3
#: Edges that are no more than one of so many values, at any size, are rare.
RARE = 8
#: Serial loops up to this length are unrolled when their guards fold by it.
MAX_EDGE_UNROLL = 16

Bounds = Mapping[Var, Interval]


@dataclasses.dataclass(frozen=True)
class _Guard:
    """``cond`` holds whenever ``atom`` lies in ``[lo, hi]`` (None: unbounded), whatever the inner loops
    do."""

    cond: Expr
    atom: Expr
    lo: int | None
    hi: int | None


@dataclasses.dataclass(frozen=True)
class _RunTimeGuard:
    """``cond`` holds whenever ``inside`` does, whatever the inner loops do; that is a condition on ``atom``
    and on dimensions, on these alone where a tile index has become a number (None)."""

    cond: Expr
    atom: Expr | None
    inside: Expr


@dataclasses.dataclass(frozen=True)
class _Scope:
    """Where a statement stands: what the loops around it say, and what at the least sizes that there may be;
    how many copies it may become, whether comparisons at run time may tell these apart, and the tile indices
    that are outside by such a one."""

    env: Simplifier
    least: Simplifier
    budget: int = MAX_VERSIONS
    at_run_time: bool = True
    outside: frozenset[Expr | None] = frozenset()

    def inside(self, loop: For) -> _Scope:
        """The scope of a loop's body."""
        env, least = (e.with_loop(loop.var, loop.extent) for e in (self.env, self.least))
        return dataclasses.replace(self, env=env, least=least)

    def shared(self, copies: int, rare: bool = False) -> _Scope:
        """The scope of one of so many copies; ``rare`` ones are not worth comparisons at run time."""
        budget = max(self.budget // copies, 1)
        return dataclasses.replace(self, budget=budget, at_run_time=self.at_run_time and not rare)


def split_edges(func: PrimFunc) -> PrimFunc:
    """Version loop bodies by their tile indices, see the module's text."""
    sizes = {d: max(d.lo or 0, 1) for d in func.params if isinstance(d, Var)}
    least = Simplifier({d: Interval(size, size) for d, size in sizes.items()})
    return func.with_(body=_walk(func.body, _Scope(Simplifier(), least)))


def _walk(stmt: Stmt, scope: _Scope) -> Stmt:
    if isinstance(stmt, For):
        inner = scope.inside(stmt)
        versioned = stmt.kind in ("serial", "parallel")
        body = _version(stmt.body, stmt.var, inner) if versioned else _walk(stmt.body, inner)
        return dataclasses.replace(stmt, body=body)
    if isinstance(stmt, If):
        orelse = None if stmt.orelse is None else _walk(stmt.orelse, scope)
        return If(stmt.cond, _walk(stmt.then, scope), orelse)
    return _map_children(stmt, lambda s: _walk(s, scope))


def _map_children(stmt: Stmt, fn: Callable[[Stmt], Stmt]) -> Stmt:
    if isinstance(stmt, Seq):
        return seq([fn(s) for s in stmt.stmts])
    if isinstance(stmt, Alloc | Annotate):
        return dataclasses.replace(stmt, body=fn(stmt.body))
    return stmt


def _version(body: Stmt, var: Var, scope: _Scope, at_edge: bool = False) -> Stmt:
    """``body`` of the loop over ``var``, split into an interior and edges for every tile index that ``var``
    completes. Edges that are known now come first: what they leave over has no masks, whatever a run says.
    ``at_edge``: one of these indices has become a number."""
    guards = _guards(body, var, scope.env)
    split = _edges_of(guards, scope) if guards else None
    if split is not None:
        return _version_by(split, body, var, scope)
    at_run_time: list[_RunTimeGuard] = []
    if scope.at_run_time and scope.budget > 1:
        at_run_time = _run_time_guards(body, var, scope, at_edge) or _run_time_choices(body, var, scope)
    if at_run_time:
        return _version_at_run_time(body, var, scope, at_run_time)
    if any(g.atom is not guards[0].atom for g in guards):
        return _walk(body, dataclasses.replace(scope, budget=1))
    return _walk(body, scope)


@dataclasses.dataclass(frozen=True)
class _Split:
    """``guards`` on ``atom``, whose values are in ``span``, hold from ``lo`` to ``hi``."""

    atom: Expr
    guards: frozenset[Expr]
    span: range
    lo: int
    hi: int

    @property
    def below(self) -> range:
        """Edge values in front of the interior; all values, where there is none."""
        return range(self.span.start, min(self.lo, self.span.stop))

    @property
    def above(self) -> range:
        """Edge values behind it."""
        return range(max(self.hi + 1, self.lo, self.span.start), self.span.stop)


def _edges_of(guards: list[_Guard], scope: _Scope) -> _Split | None:
    """The split by the first guard's tile index; None where that makes too many copies."""
    atom = guards[0].atom
    mine = [g for g in guards if g.atom is atom]
    span = scope.env.interval(atom)
    assert span.lo is not None
    assert span.hi is not None
    lo = max([span.lo, *(g.lo for g in mine if g.lo is not None)])
    hi = min([span.hi, *(g.hi for g in mine if g.hi is not None)])
    split = _Split(atom, frozenset(g.cond for g in mine), range(span.lo, span.hi + 1), lo, hi)
    edges = len(split.below) + len(split.above)
    return None if edges + (lo <= hi) > scope.budget or edges > 2 * MAX_EDGES else split


def _version_by(split: _Split, body: Stmt, var: Var, scope: _Scope) -> Stmt:
    """``body`` once for the interior and once for each edge value."""
    atom, edges = split.atom, [*split.below, *split.above]
    copies = len(edges) + (split.lo <= split.hi)
    result: Stmt | None = None
    count = scope.least.interval(atom)
    rare = count.lo is not None and count.hi is not None and len(edges) * RARE <= count.hi - count.lo + 1
    edge = scope.shared(copies, rare)
    at_edges = whole_tiles(body) if rare else body
    for value in edges:
        fixed = simplify_within(substitute(at_edges, {atom: as_expr(value)}), scope.env)
        piece = _version(fixed, var, edge, at_edge=True)
        result = piece if result is None else If(atom.eq(value), piece, result)
    if split.lo > split.hi:
        assert result is not None
        return result
    bare = simplify_within(_drop_guards(body, split.guards), scope.env)
    interior = _version(bare, var, scope.shared(copies))
    if result is None:
        return interior
    inside = []
    if split.below:
        inside.append(as_expr(split.lo) <= atom)
    if split.above:
        inside.append(atom <= split.hi)
    return If(all_of(inside), interior, result)


def _version_at_run_time(body: Stmt, var: Var, scope: _Scope, guards: list[_RunTimeGuard]) -> Stmt:
    """``body`` without the guards of the first tile index among ``guards`` where it is inside, decided at run
    time, else as it is."""
    mine = [g for g in guards if g.atom is guards[0].atom]
    inside = all_of(list(dict.fromkeys(g.inside for g in mine)))
    ranges = scope.env.assuming(inside)
    bare = simplify_within(_drop_guards(body, {g.cond for g in mine}), ranges)
    share = scope.shared(2)
    interior = _version(bare, var, share)
    others = [g for g in guards if g.atom is not mine[0].atom]
    if others and share.budget > 1:
        beyond = dataclasses.replace(share, outside=share.outside | {mine[0].atom})
        edge = _version_at_run_time(body, var, beyond, others)
    else:
        edge = _walk(body, dataclasses.replace(scope, budget=1))
    return If(inside, interior, edge)


def _guards(body: Stmt, var: Var, env: Simplifier) -> list[_Guard]:
    found = {c: _analyse(c, var, inner, env) for c, inner in _conditions(body, env).items()}
    return [guard for guard in found.values() if guard is not None]


def _run_time_guards(body: Stmt, var: Var, scope: _Scope, at_edge: bool) -> list[_RunTimeGuard]:
    found = {c: _at_run_time(c, var, inner, at_edge) for c, inner in _conditions(body, scope.env).items()}
    return [guard for guard in found.values() if guard is not None and guard.atom not in scope.outside]


def _run_time_choices(body: Stmt, var: Var, scope: _Scope) -> list[_RunTimeGuard]:
    """The first condition by which inner loops choose between two elements, as those of a concatenation's
    operands: where one way is known, its elements are read in vectors."""
    for cond, inner in _conditions(body, scope.env, choices=True).items():
        guard = _at_run_time(cond, var, inner) if free_vars(cond) & inner.keys() else None
        if guard is not None and guard.atom not in scope.outside:
            return [guard]
    return []


def _conditions(body: Stmt, env: Simplifier, choices: bool = False) -> dict[Expr, Bounds]:
    """The conditions under ``body``, or those by which values are chosen, each with the loops inside ``body``
    around its first place."""
    found: dict[Expr, Bounds] = {}
    stack: list[tuple[Stmt, dict[Var, Interval]]] = [(body, {})]
    while stack:
        stmt, inner = stack.pop()
        if isinstance(stmt, For):
            top = Ranges({**env.ranges.atoms, **inner}).interval(stmt.extent).hi
            inner = {**inner, stmt.var: Interval(0, None if top is None else max(top - 1, 0))}
        elif isinstance(stmt, Store) and choices:
            for node in walk_expr(stmt.value):
                if isinstance(node, Select):
                    for cond in conjuncts(node.cond):
                        found.setdefault(cond, inner)
        elif isinstance(stmt, If):
            # What chooses between two ways is no guard: it need not hold in the interior.
            for cond in conjuncts(stmt.cond) if stmt.orelse is None and not choices else ():
                found.setdefault(cond, inner)
        stack += [(child, inner) for child in reversed(child_stmts(stmt))]
    return found


def _analyse(cond: Expr, var: Var, inner: Bounds, env: Simplifier) -> _Guard | None:
    """``cond`` as a guard on one atom that ``var`` completes, when it has that form and edges are worth
    it."""
    if not isinstance(cond, Cmp) or cond.op not in ("lt", "le") or cond.a.dtype != dt.INDEX:
        return None
    # cond: slack >= 0
    slack = simplify(cond.b - cond.a - (1 if cond.op == "lt" else 0))
    form = linear(slack)
    if form is None:
        return None
    atom: Expr | None = None
    worst = form.const
    coefficient = 0
    for term, factor in form.terms.items():
        variables = free_vars(term)
        if any(True for _ in loads_of(term)):
            return None
        if variables & inner.keys():
            if variables - inner.keys():
                return None
            span = interval(term * factor, inner)
            if span.lo is None:
                return None
            worst += span.lo
        elif atom is None:
            atom, coefficient = term, factor
        else:
            return None
    if atom is None or var not in free_vars(atom):
        return None
    limits = env.interval(atom)
    if limits.lo is None or limits.hi is None:
        return None
    # coefficient * atom + worst >= 0
    if coefficient > 0:
        return _Guard(cond, atom, -(worst // coefficient), None)
    return _Guard(cond, atom, None, worst // -coefficient)


def _at_run_time(cond: Expr, var: Var, inner: Bounds, at_edge: bool = False) -> _RunTimeGuard | None:
    """``cond`` as a guard on one atom that ``var`` completes and on dimensions known at run time, or
    ``at_edge`` on dimensions alone."""
    if not isinstance(cond, Cmp) or cond.op not in ("lt", "le") or cond.a.dtype != dt.INDEX:
        return None
    form = linear(simplify(cond.b - cond.a - (1 if cond.op == "lt" else 0)))
    if form is None:
        return None
    atom: Expr | None = None
    least: Expr = as_expr(form.const)
    sizes = False
    for term, factor in form.terms.items():
        variables = free_vars(term)
        if any(True for _ in loads_of(term)):
            return None
        if variables & inner.keys():
            span = interval(term * factor, inner)
            if variables - inner.keys() or span.lo is None:
                return None
            least = least + span.lo
            continue
        least = least + term * factor
        if all(v.typical is not None for v in variables):
            sizes = True
        elif atom is None:
            atom = term
        else:
            return None
    if not sizes or (not at_edge if atom is None else var not in free_vars(atom)):
        return None
    return _RunTimeGuard(cond, atom, simplify(least >= 0))


def _drop_guards(body: Stmt, known: Set[Expr]) -> Stmt:
    def visit(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, If):
            parts = conjuncts(stmt.cond)
            kept = [c for c in parts if c not in known]
            if len(kept) < len(parts):
                return If(all_of(kept), stmt.then, stmt.orelse) if kept else stmt.then
        return None

    return transform_stmt(body, visit)


def unroll_guarded(func: PrimFunc) -> PrimFunc:
    """Unroll short serial loops whose guards depend only on them and on loops inside: unrolled, the guards
    fold."""

    def visit(stmt: Stmt) -> Stmt | None:
        if not isinstance(stmt, For) or stmt.kind != "serial":
            return None
        extent = const_int(stmt.extent)
        if extent is None or extent > MAX_EDGE_UNROLL:
            return None
        inside = {s.var for s in walk_stmt(stmt.body) if isinstance(s, For)}
        unrolled = {s.var for s in walk_stmt(stmt.body) if isinstance(s, For) and s.kind == "unrolled"}
        for inner in walk_stmt(stmt.body):
            if isinstance(inner, If):
                for cond in conjuncts(inner.cond):
                    variables = free_vars(cond)
                    if stmt.var in variables and variables & unrolled and variables <= inside | {stmt.var}:
                        return dataclasses.replace(stmt, kind="unrolled")
        return None

    return func.with_(body=transform_stmt(func.body, visit))
