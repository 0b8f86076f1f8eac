"""Barriers: as few as needed for no thread to overtake what it depends on.

The statements of a launch are walked in order with the memory accesses that have happened since the last
barrier. A barrier is placed before a statement that touches what another thread may have touched since, one
of them writing; of a loop, the accesses of the iteration before count too. Whether two accesses can meet in
an element from different threads is decided from their indices, and answered with "yes" when in doubt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, Load, Var, conjuncts
from tilewright.ir.intrinsics import effect
from tilewright.ir.launch import is_thread_axis, thread_axis
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Evaluate,
    For,
    If,
    PrimFunc,
    Seq,
    Stmt,
    Store,
    child_stmts,
    seq,
)
from tilewright.ir.visit import const_int, loads_of, own_exprs, stores_of, transform_stmt, walk_expr
from tilewright.lower.conflicts import Access, Conflicts
from tilewright.lower.threads import STEP

_BARRIER = effect("barrier")


def place_barriers(func: PrimFunc) -> PrimFunc:
    """Replace all barriers of each launch by those that its accesses to shared and global memory need.

    What an asynchronous copy writes counts as written when it is waited for. Raises ScheduleError when
    threads would have to meet where not all of them come by.
    """
    return func.with_(body=_walk(func.body))


def _walk(s: Stmt) -> Stmt:
    if isinstance(s, For) and thread_axis(s) is not None:
        return _launch(s, {})
    if isinstance(s, Seq):
        return seq([_walk(x) for x in s.stmts])
    if isinstance(s, Alloc | Annotate | For):
        return dataclasses.replace(s, body=_walk(s.body))
    if isinstance(s, If):
        return If(s.cond, _walk(s.then), None if s.orelse is None else _walk(s.orelse))
    return s


def _launch(s: Stmt, threads: dict[Var, Expr]) -> Stmt:
    """A launch, from its outermost loop in; ``threads`` are the ``threadIdx`` loops seen so far."""
    if isinstance(s, For) and thread_axis(s) is not None:
        inner = {**threads, s.var: s.extent} if is_thread_axis(s) and const_int(s.extent) != 1 else threads
        return dataclasses.replace(s, body=_launch(s.body, inner))
    if isinstance(s, Alloc | Annotate) and not threads:
        return dataclasses.replace(s, body=_launch(s.body, threads))
    body = transform_stmt(s, lambda x: seq(()) if isinstance(x, Evaluate) and x.value is _BARRIER else None)
    return _Placer(body, threads).place() if threads else body


@dataclasses.dataclass(frozen=True)
class _Done:
    """An access that has happened since the last barrier.

    Attributes:
        access: what was touched.
        earlier: loops of which it happened in an iteration before this one.
        pending: it is the write of an asynchronous copy that was not waited for yet; barriers do not help.
    """

    access: Access
    earlier: frozenset[Var] = frozenset()
    pending: bool = False


@dataclasses.dataclass(frozen=True)
class _Part:
    """A statement with barriers in it.

    Attributes:
        stmt: the statement.
        heads: accesses from its start to its first barrier.
        after: accesses since its last barrier, and pending ones, when it is done.
        meets: whether every thread certainly comes to a barrier inside.
    """

    stmt: Stmt
    heads: tuple[Access, ...]
    after: frozenset[_Done]
    meets: bool


class _Placer:
    """Places the barriers of one launch, whose threads run ``body``."""

    def __init__(self, body: Stmt, threads: dict[Var, Expr]) -> None:
        self._body = body
        self._threads = threads
        self._written = {s.buffer for s in stores_of(body) if s.buffer.scope != "register"}
        self._conflicts = Conflicts(threads)

    def place(self) -> Stmt:
        return self._part(self._body, (), (), False, frozenset()).stmt

    # -- statements ------------------------------------------------------------------------------------------

    def _part(
        self,
        s: Stmt,
        loops: tuple[For, ...],
        conds: tuple[Expr, ...],
        asynchronous: bool,
        pending: frozenset[_Done],
    ) -> _Part:
        """``s``, which is inside ``loops`` and ``conds``, when copies are ``pending``."""
        if isinstance(s, Annotate) and s.key == STEP:
            step = self._leaf(s, loops, conds, asynchronous, pending)
            return dataclasses.replace(step, stmt=s.body)
        if isinstance(s, Seq):
            return self._seq(s.stmts, loops, conds, asynchronous, pending)
        if isinstance(s, For) and self._is_alike(s.extent):
            return self._for(s, loops, conds, asynchronous, pending)
        if isinstance(s, If) and self._is_alike(s.cond):
            return self._if(s, loops, conds, asynchronous, pending)
        if isinstance(s, Alloc | Annotate):
            copies = asynchronous or (isinstance(s, Annotate) and s.key == "async_copy" and bool(s.value))
            part = self._part(s.body, loops, conds, copies, pending)
            return dataclasses.replace(part, stmt=dataclasses.replace(s, body=part.stmt))
        wait = _wait(s)
        if wait is not None:
            arrived = frozenset(dataclasses.replace(d, pending=False) for d in pending)
            return _Part(s, (), arrived if const_int(wait) == 0 else arrived | pending, False)
        self._require_no_meeting(list(self._accesses(s, loops, conds, asynchronous)))
        return self._leaf(s, loops, conds, asynchronous, pending)

    def _leaf(
        self,
        s: Stmt,
        loops: tuple[For, ...],
        conds: tuple[Expr, ...],
        asynchronous: bool,
        pending: frozenset[_Done],
    ) -> _Part:
        """A statement without barriers inside."""
        found = list(self._accesses(s, loops, conds, asynchronous))
        done = frozenset(_Done(a) for _, a in found)
        issued = frozenset(_Done(a, pending=True) for _, a in found if a.asynchronous)
        return _Part(s, tuple(a for _, a in found), done | issued | pending, False)

    def _seq(
        self,
        stmts: Sequence[Stmt],
        loops: tuple[For, ...],
        conds: tuple[Expr, ...],
        asynchronous: bool,
        state: frozenset[_Done],
    ) -> _Part:
        """Statements one after the other, when ``state`` has happened before."""
        result: list[Stmt] = []
        heads: list[Access] = []
        meets = False
        for stmt in stmts:
            pending = frozenset(d for d in state if d.pending)
            part = self._part(stmt, loops, conds, asynchronous, pending)
            if self._must_meet(state, part.heads):
                result.append(Evaluate(effect("barrier")))
                state, meets = pending, True
            if not meets:
                heads += part.heads
            passed = frozenset(d for d in state if not d.pending)
            state = part.after if part.meets else part.after | passed
            meets = meets or part.meets
            result.append(part.stmt)
        return _Part(seq(result), tuple(heads), state, meets)

    def _for(
        self,
        s: For,
        loops: tuple[For, ...],
        conds: tuple[Expr, ...],
        asynchronous: bool,
        pending: frozenset[_Done],
    ) -> _Part:
        inner = (*loops, s)
        body = s.body.stmts if isinstance(s.body, Seq) else (s.body,)
        carried = pending
        while True:
            part = self._seq(body, inner, conds, asynchronous, carried)
            again = carried | frozenset(
                dataclasses.replace(d, earlier=d.earlier | {s.var}) for d in part.after
            )
            if again == carried:
                break
            carried = again
        runs = const_int(s.extent)
        done = runs is not None and runs > 0
        after = part.after if done else part.after | pending
        return _Part(dataclasses.replace(s, body=part.stmt), part.heads, after, part.meets and done)

    def _if(
        self,
        s: If,
        loops: tuple[For, ...],
        conds: tuple[Expr, ...],
        asynchronous: bool,
        pending: frozenset[_Done],
    ) -> _Part:
        own = [Access.read(n, loops, conds) for n in loads_of(s.cond) if n.buffer in self._written]
        then = self._part(s.then, loops, (*conds, *conjuncts(s.cond)), asynchronous, pending)
        other = _Part(seq(()), (), pending, False)
        if s.orelse is not None:
            other = self._part(s.orelse, loops, conds, asynchronous, pending)
        after = then.after | other.after | {_Done(a) for a in own}
        stmt = If(s.cond, then.stmt, None if s.orelse is None else other.stmt)
        return _Part(stmt, (*own, *then.heads, *other.heads), after, then.meets and other.meets)

    # -- accesses --------------------------------------------------------------------------------------------

    def _accesses(
        self, s: Stmt, loops: tuple[For, ...], conds: tuple[Expr, ...], asynchronous: bool
    ) -> Iterator[tuple[Stmt, Access]]:
        """All accesses in ``s`` to memory that the launch writes, each with its statement."""
        if isinstance(s, Store) and s.buffer in self._written:
            yield (
                s,
                Access(s.buffer, s.indices, True, loops, conds, asynchronous and s.buffer.scope == "shared"),
            )
        for e in own_exprs(s):
            for node in loads_of(e):
                if node.buffer in self._written:
                    yield s, Access.read(node, loops, conds)
        if isinstance(s, For):
            yield from self._accesses(s.body, (*loops, s), conds, asynchronous)
        elif isinstance(s, If):
            yield from self._accesses(s.then, loops, (*conds, *conjuncts(s.cond)), asynchronous)
            if s.orelse is not None:
                yield from self._accesses(s.orelse, loops, conds, asynchronous)
        elif isinstance(s, Annotate):
            copies = asynchronous or (s.key == "async_copy" and bool(s.value))
            yield from self._accesses(s.body, loops, conds, copies)
        else:
            for child in child_stmts(s):
                yield from self._accesses(child, loops, conds, asynchronous)

    def _must_meet(self, state: frozenset[_Done], heads: Sequence[Access]) -> bool:
        return any(
            self._conflicts.between(d.access, a, d.earlier) for a in heads for d in state if not d.pending
        )

    def _require_no_meeting(self, found: Sequence[tuple[Stmt, Access]]) -> None:
        """Within a statement that not all threads run in step, different parts must not depend on each
        other.
        """
        for n, (x, a) in enumerate(found):
            for y, b in found[n + 1 :]:
                if x is not y and self._conflicts.between(a, b, frozenset()):
                    raise ScheduleError(
                        f"threads would have to meet inside of a condition that differs between them, over "
                        f"'{a.buffer.name}'"
                    )

    def _is_alike(self, e: Expr) -> bool:
        """Whether all threads of a block agree on ``e``."""
        for node in walk_expr(e):
            if node in self._threads:
                return False
            if isinstance(node, Load) and (node.buffer in self._written or node.buffer.scope == "register"):
                return False
        return True


def _wait(s: Stmt) -> Expr | None:
    """The operand of an ``async_wait``, else None."""
    is_wait = isinstance(s, Evaluate) and getattr(s.value, "name", "") == "async_wait"
    return s.value.children[0] if is_wait and isinstance(s, Evaluate) else None
