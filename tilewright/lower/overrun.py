"""Drop guards against overrunning a temporary where nothing is lost by overrunning it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tilewright.ir.digits import digits
from tilewright.ir.expr import Expr, Select, Var, all_of, as_expr, conjuncts
from tilewright.ir.launch import is_block_axis
from tilewright.ir.simplify import Simplifier, lasting
from tilewright.ir.stmt import Alloc, Annotate, Buffer, For, If, PrimFunc, Seq, Stmt, Store
from tilewright.ir.visit import const_int, free_vars, loads_of, own_exprs, stores_of, walk_expr, walk_stmt


def drop_overrun_guards(func: PrimFunc) -> PrimFunc:
    """Compute a tile in full where its overrun stays inside the buffers it touches.

    Consumers of a temporary are guarded themselves, so elements beyond the valid part are never read;
    computing them is cheaper than masking. Runs before padding becomes guards: at this point a guard only
    says which instances of a block exist. A guard stays when an access under it may leave its buffer, when
    it limits a reduction (the element does not tell where its loops are), or when it keeps thread blocks of a
    GPU from reading what others write.
    """
    grid = {s.var for s in walk_stmt(func.body) if isinstance(s, For) and is_block_axis(s)}
    return func.with_(body=_Overrun(grid).walk(func.body, Simplifier(), {}))


@dataclasses.dataclass(frozen=True)
class _Overrun:
    """The walk of :func:`drop_overrun_guards`; ``grid`` has the variables of loops over thread blocks."""

    grid: set[Var]

    def walk(self, stmt: Stmt, env: Simplifier, inside: dict[Buffer, set[Var]]) -> Stmt:
        """``inside``: for every temporary in scope, the loop variables between its allocation and here."""
        if isinstance(stmt, For):
            below = {b: {*v, stmt.var} for b, v in inside.items()}
            return dataclasses.replace(
                stmt, body=self.walk(stmt.body, env.with_loop(stmt.var, stmt.extent), below)
            )
        if isinstance(stmt, Alloc):
            return dataclasses.replace(stmt, body=self.walk(stmt.body, env, {**inside, stmt.buffer: set()}))
        if isinstance(stmt, Seq):
            return Seq(tuple(self.walk(s, env, inside) for s in stmt.stmts))
        if isinstance(stmt, Annotate):
            return dataclasses.replace(stmt, body=self.walk(stmt.body, env, inside))
        if isinstance(stmt, If) and stmt.orelse is None:
            kept = conjuncts(stmt.cond)
            for c in tuple(kept):
                others = [k for k in kept if k is not c]
                if self._harmless(c, others, stmt.then, env, inside):
                    kept = others
            then = self.walk(stmt.then, env, inside)
            return If(all_of(kept), then) if kept else then
        return stmt

    def _harmless(
        self, cond: Expr, others: list[Expr], body: Stmt, env: Simplifier, inside: dict[Buffer, set[Var]]
    ) -> bool:
        """Whether what is under ``cond`` and ``others`` may also run where only the others hold."""
        guarded = free_vars(cond)
        for stmt in walk_stmt(body):
            if isinstance(stmt, For):
                env = env.with_loop(stmt.var, stmt.extent)
        if not any(type(v) is Var and v in guarded for v in env.ranges.atoms):
            return False  # no tile's overrun: it says whether this runs at all
        if guarded & self.grid and any(
            node.buffer.scope == "global" and node.buffer in inside
            for stmt in walk_stmt(body)
            for e in own_exprs(stmt)
            for node in loads_of(e)
        ):
            return False
        for store in stores_of(body):
            if store.buffer not in inside:
                return False
            if not all(_tells(store, var, env) for var in guarded & inside[store.buffer]):
                return False
        # What is only read where a condition holds may not be there at all where no instance is.
        ranges: Simplifier | None = None
        decides = any(free_vars(c) & guarded for c in _conditions(body))
        for index, size in _indices(body):
            if not decides and not free_vars(index) & guarded:
                continue
            limit = const_int(size)
            if limit is None:
                # Sizes that a run decides have no numbers to compare with: the other guards say what fits.
                ranges = ranges or env.assuming(lasting(all_of(others)))
                if not (ranges.prove(index >= 0) and ranges.prove(index < size)):
                    return False
                continue
            span = env.interval(env.simplify(index))
            if span.lo is None or span.hi is None or span.lo < 0 or span.hi >= limit:
                return False
        return True


def _tells(store: Store, var: Var, env: Simplifier) -> bool:
    """Whether the element that is stored says what ``var`` is: then what overruns is stored elsewhere."""
    span = env.interval(var)
    if span.is_point:
        return True
    if span.hi is None:
        return False
    return bool(digits(var, as_expr(span.hi + 1), store.indices, store.buffer.shape, env))


def _conditions(body: Stmt) -> Iterator[Expr]:
    """Every condition under ``body``."""
    for stmt in walk_stmt(body):
        if isinstance(stmt, If):
            yield stmt.cond
        for e in own_exprs(stmt):
            yield from (node.cond for node in walk_expr(e) if isinstance(node, Select))


def _indices(body: Stmt) -> Iterator[tuple[Expr, Expr]]:
    """Every index under ``body`` with the size of its dimension."""
    for stmt in walk_stmt(body):
        if isinstance(stmt, Store):
            yield from zip(stmt.indices, stmt.buffer.shape, strict=True)
        for e in own_exprs(stmt):
            for node in loads_of(e):
                yield from zip(node.indices, node.buffer.shape, strict=True)
