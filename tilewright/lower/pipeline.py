"""Software pipelines: from a loop whose parts have stages to one whose steps overlap iterations.

With stages 0 .. S, step ``t`` runs a part of stage ``s`` for iteration ``t - s``. Steps ``0 .. S-1`` are the
prologue, in which late stages have nothing to do yet, steps from the extent on the epilogue, in which early
ones have nothing left; between them is the steady loop. What several stages use exists once for each
iteration that is under way: iteration ``i`` has copy ``i % copies``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from tilewright.ir.expr import FALSE, TRUE, Expr, Var, as_expr, maximum
from tilewright.ir.intrinsics import effect
from tilewright.ir.pipeline import ASYNC_KEY, Part, in_order, loop_body, pipeline_parts
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Annotate, Buffer, Evaluate, For, If, PrimFunc, Stmt, seq
from tilewright.ir.visit import all_exprs, const_int, loads_of, stores_of, substitute, transform_stmt
from tilewright.lower.copies import in_copies, with_copies


def pipeline_loops(func: PrimFunc) -> PrimFunc:
    """Make prologue, steady loop and epilogue of every pipelined loop, and copies of what stages share.

    Needs ``compact_buffers`` first: what is allocated in the loop's body is what one iteration uses. Where a
    copy in registers would be chosen by the loop's variable, the steady loop is unrolled by the number of
    copies. Parts of asynchronous stages become ``Annotate("async_copy")``; each step commits them, and waits
    in front of what uses them for as many groups as must have arrived.
    """

    def visit(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, For) and (parts := pipeline_parts(stmt)):
            return _Pipeline(stmt, parts).build()
        return None

    return func.with_(body=transform_stmt(func.body, visit))


def copy_synchronously(func: PrimFunc) -> PrimFunc:
    """Make asynchronous copies plain ones, for targets that have no others: they are done when the next
    statement begins, and nobody commits or waits.
    """
    nothing = seq(())

    def visit(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, Annotate) and stmt.key == ASYNC_KEY:
            return stmt.body
        if isinstance(stmt, Evaluate) and getattr(stmt.value, "name", "") in ("async_commit", "async_wait"):
            return nothing
        return None

    return func.with_(body=transform_stmt(func.body, visit))


#: Steps in the body of a steady loop, at most, unless one buffer alone has more copies.
MAX_UNROLL = 16

#: The iteration that a stage works on in a step, and the condition under which there is one.
_Times = Callable[[int], tuple[Expr, Expr]]


class _Pipeline:
    """The lowering of one pipelined loop."""

    def __init__(self, loop: For, parts: Sequence[Part]) -> None:
        self._loop = loop
        self._parts = in_order(parts)
        self._depth = max(p.stage for p in parts)
        self._used = {p.mark: _buffers(p.mark) for p in parts}
        self._meets = any(isinstance(s, Evaluate) for s in loop_body(loop))
        self._allocs = _allocations(loop)
        counts = {b: self._copies_of(b) for b in self._allocs}
        named = [n for b, n in counts.items() if b.scope == "register"]
        self._unroll = math.lcm(*named) if math.lcm(*named) <= MAX_UNROLL else max(named)
        self._copies: dict[Buffer, tuple[Buffer, int]] = {}
        for buffer, count in counts.items():
            if buffer.scope == "register" and self._unroll % count != 0:
                count = self._unroll
            if count > 1:
                self._copies[buffer] = with_copies(buffer, as_expr(count)), count

    def _copies_of(self, buffer: Buffer) -> int:
        """How many iterations use ``buffer`` at a time."""
        stages = [p.stage for p in self._parts if buffer in self._used[p.mark]]
        return max(stages) - min(stages) + 1 if stages else 1

    def build(self) -> Stmt:
        steps = [*self._prologue(), *self._steady(), *self._epilogue()]
        result = seq(steps)
        for buffer in reversed(self._allocs):
            result = Alloc(self._copies[buffer][0] if buffer in self._copies else buffer, result)
        return result

    def _prologue(self) -> list[Stmt]:
        extent = self._loop.extent

        def times(step: int) -> _Times:
            return lambda stage: (
                as_expr(step - stage),
                simplify(as_expr(step - stage) < extent) if stage <= step else FALSE,
            )

        return [self._step(times(step)) for step in range(self._depth)]

    def _steady(self) -> list[Stmt]:
        """The steps in which every stage has an iteration."""
        count = simplify(maximum(self._loop.extent - self._depth, 0))
        if const_int(count) == 0:
            return []
        rounds = simplify(count // self._unroll)
        top = const_int(rounds)
        var = Var(self._loop.var.name, lo=0, hi=None if top is None else max(top - 1, 0))

        def times(step: Expr) -> _Times:
            return lambda stage: (simplify(step + (self._depth - stage)), TRUE)

        body = [self._step(times(var * self._unroll + n)) for n in range(self._unroll)]
        result: list[Stmt] = [dataclasses.replace(self._loop, var=var, extent=rounds, body=seq(body))]
        for n in range(self._unroll - 1):
            runs = simplify(as_expr(n) < count % self._unroll)
            if runs is not FALSE:
                rest = self._step(times(rounds * self._unroll + n))
                result.append(rest if runs is TRUE else If(runs, rest))
        return result

    def _epilogue(self) -> list[Stmt]:
        extent = self._loop.extent

        def times(step: int) -> _Times:
            return lambda stage: (simplify(extent + (step - stage)), TRUE if step < stage else FALSE)

        result = []
        for step in range(self._depth):
            # Steps of a short loop have been in the prologue already.
            runs = simplify(extent + step >= self._depth)
            if runs is not FALSE:
                stmt = self._step(times(step))
                result.append(stmt if runs is TRUE else If(runs, stmt))
        return result

    def _step(self, times: _Times) -> Stmt:
        """The parts of one step, each for the iteration of its stage."""
        stmts: list[Stmt] = []
        pending: int | None = None  # copies that a wait before has left under way
        for place, part in enumerate(self._parts):
            iteration, exists = times(part.stage)
            if exists is not FALSE:
                body = self._work(part, iteration)
                allowed = self._allowed(place)
                if allowed is not None and (pending is None or allowed < pending):
                    body = self._sequence([Evaluate(effect("async_wait", as_expr(allowed))), body])
                    pending = allowed if exists is TRUE else pending
                stmts.append(body if exists is TRUE else If(exists, body))
            if self._closes(place):
                stmts.append(Evaluate(effect("async_commit")))
                pending = None
        return self._sequence(stmts, last=True)

    def _sequence(self, stmts: list[Stmt], last: bool = False) -> Stmt:
        """The statements, with a meeting of all threads after each where the loop had some."""
        if not self._meets:
            return seq(stmts)
        result: list[Stmt] = []
        for n, stmt in enumerate(stmts):
            result.append(stmt)
            if last or n + 1 < len(stmts):
                result.append(Evaluate(effect("barrier")))
        return seq(result)

    def _work(self, part: Part, iteration: Expr) -> Stmt:
        body = substitute(part.mark.body, {self._loop.var: iteration})
        chosen = {b: (many, simplify(iteration % n)) for b, (many, n) in self._copies.items()}
        body = in_copies(body, chosen)
        return Annotate(ASYNC_KEY, True, body) if part.asynchronous else body

    def _closes(self, place: int) -> bool:
        """Whether the part at ``place`` is the last one of an asynchronous stage in a step."""
        part = self._parts[place]
        return part.asynchronous and all(p.stage != part.stage for p in self._parts[place + 1 :])

    def _allowed(self, place: int) -> int | None:
        """How many groups of asynchronous copies may be under way when the part at ``place`` begins; None
        when it uses none.

        Each step closes one group for each asynchronous stage, also where that stage has nothing to do.
        """
        closing = [n for n in range(len(self._parts)) if self._closes(n)]
        allowed = None
        for end in closing:
            stage = self._parts[end].stage
            sources = [p for p in self._parts if p.stage == stage]
            stored = {b for p in sources for b in _stored(p.mark)}
            steps = self._parts[place].stage - stage
            if steps <= 0 or not stored & self._used[self._parts[place].mark]:
                continue
            later = (
                sum(n > end for n in closing) + (steps - 1) * len(closing) + sum(n < place for n in closing)
            )
            allowed = later if allowed is None else min(allowed, later)
        return allowed


def _allocations(loop: For) -> list[Buffer]:
    found = []
    body = loop.body
    while isinstance(body, Alloc):
        found.append(body.buffer)
        body = body.body
    return found


def _stored(stmt: Stmt) -> set[Buffer]:
    return {s.buffer for s in stores_of(stmt)}


def _buffers(stmt: Stmt) -> set[Buffer]:
    return _stored(stmt) | {node.buffer for e in all_exprs(stmt) for node in loads_of(e)}
