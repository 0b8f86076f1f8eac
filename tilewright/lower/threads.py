"""From loops over thread axes to launches: one nest of block and thread loops around what each thread does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, Var, all_of, as_expr, maximum
from tilewright.ir.intrinsics import effect
from tilewright.ir.launch import BLOCK_AXES, THREAD_AXES, has_thread_axes, root_parts, thread_axis
from tilewright.ir.pipeline import STAGE_KEY
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.stmt import Alloc, Annotate, Buffer, Evaluate, For, If, PrimFunc, Seq, Stmt, seq
from tilewright.ir.visit import (
    all_exprs,
    const_int,
    free_vars,
    loads_of,
    replace_buffers,
    stores_of,
    substitute,
    walk_stmt,
)

#: Key of an annotation around what each thread does by itself between two places where threads may meet. No
#: two threads touch the same element in it, one of them writing: that is what binding a loop has required.
STEP: Final = "thread_step"


def refuse_threads(func: PrimFunc) -> PrimFunc:
    """``func`` itself; for targets without thread axes. Raises ScheduleError for a loop that is bound to
    one.
    """
    for loop in walk_stmt(func.body):
        if isinstance(loop, For) and thread_axis(loop) is not None:
            raise ScheduleError(
                f"loop '{loop.var.name}' of '{func.name}' is bound to {thread_axis(loop)}, and the target "
                "has no "
                "such threads",
                hint="choose a GPU target, or parallel and vectorize instead of bind",
            )
    return func


def bind_threads(func: PrimFunc) -> PrimFunc:
    """Make each part of the function a launch: ``blockIdx`` loops, inside them ``threadIdx`` loops, inside
    them what one thread does.

    A launch has as many threads on an axis as the longest loop over it needs. Statements of shorter loops are
    guarded; what is under no loop over an axis runs in thread 0 of it, except for stores to registers, which
    every thread does for itself. Threads meet at a ``barrier`` between any two statements (``place_barriers``
    removes those that nobody needs). A part without thread axes becomes a launch of one thread. Shared and
    register buffers that several launches use move to global memory.
    """
    parts = list(root_parts(func.body))
    body = replace_buffers(func.body, {b: b.with_(scope="global") for b in _between(parts)})
    return func.with_(body=_launches(body))


def _between(parts: Sequence[Stmt]) -> list[Buffer]:
    """Shared and register buffers that several parts use."""
    owners: dict[Buffer, int] = {}
    found: dict[Buffer, None] = {}
    for number, part in enumerate(parts):
        used = {s.buffer for s in stores_of(part)} | {n.buffer for e in all_exprs(part) for n in loads_of(e)}
        for buffer in used:
            if owners.setdefault(buffer, number) != number and buffer.scope in ("shared", "register"):
                found[buffer] = None
    return list(found)


def _launches(body: Stmt) -> Stmt:
    if isinstance(body, Alloc | Annotate):
        return dataclasses.replace(body, body=_launches(body.body))
    if isinstance(body, Seq):
        return seq([_launches(s) for s in body.stmts])
    return _launch(body)


def _launch(part: Stmt) -> Stmt:
    extents: dict[str, Expr] = {}
    loops: list[For] = []
    for loop in walk_stmt(part):
        if isinstance(loop, For) and (axis := thread_axis(loop)) is not None:
            loops.append(loop)
            known = extents.get(axis)
            extents[axis] = loop.extent if known is None else simplify(maximum(known, loop.extent))
    # A launch without any axis still has one thread.
    order = [a for axes in (BLOCK_AXES, THREAD_AXES) for a in reversed(axes)]
    axes = [a for a in order if a.endswith(".x") or const_int(extents.get(a, as_expr(1))) != 1]
    variables: dict[str, Var] = {}
    for axis in axes:
        extent = extents.setdefault(axis, as_expr(1))
        top = const_int(extent)
        variables[axis] = Var(axis.replace(".", "_"), lo=0, hi=None if top is None else max(top - 1, 0))
    mapping: dict[Expr, Expr] = {}
    for loop in loops:
        axis = thread_axis(loop)
        assert axis is not None
        mapping[loop.var] = variables.get(axis, as_expr(0))
    body = substitute(_Threads(extents, variables, mapping).walk(part, frozenset(), (), True)[0], mapping)
    for axis in reversed(axes):
        body = For(variables[axis], extents[axis], body, f"thread:{axis}")
    return body


@dataclasses.dataclass(frozen=True)
class _Threads:
    """What the threads of one launch do. ``mapping`` has the variables of loops over thread axes, which
    :meth:`walk` removes."""

    extents: dict[str, Expr]
    variables: dict[str, Var]
    mapping: dict[Expr, Expr]

    def walk(
        self, s: Stmt, axes: frozenset[str], guards: tuple[Expr, ...], together: bool
    ) -> tuple[Stmt, bool]:
        """``s`` without loops over thread axes, and whether threads may have to meet inside.

        ``axes`` are those of the loops around it, ``guards`` hold in threads that these loops reach.
        Threads run through it ``together`` if no condition that differs between them is around it.
        """
        if isinstance(s, For) and (axis := thread_axis(s)) is not None:
            whole = prove(self.extents[axis] <= s.extent)
            inner = guards if whole else (*guards, s.var < s.extent)
            return self.walk(s.body, axes | {axis}, inner, together)[0], True
        if together and isinstance(s, Annotate) and s.key == STAGE_KEY:
            # A part of a pipelined loop is a step of its own, and stays one.
            return dataclasses.replace(s, body=self.walk(s.body, axes, guards, together)[0]), True
        if not _has_steps(s) or not together:
            if has_thread_axes(s):
                raise ScheduleError(
                    "a loop over a thread axis is under a condition that differs between the threads of "
                    "a block"
                )
            if isinstance(s, Evaluate):
                return s, False
            return Annotate(STEP, True, self._guarded(s, axes, guards)), False
        if isinstance(s, Seq):
            return _with_barriers([self.walk(x, axes, guards, together)[0] for x in s.stmts]), True
        if isinstance(s, If):
            alike = self._is_alike(s.cond)
            then, meets = self.walk(s.then, axes, guards, alike)
            orelse = None
            if s.orelse is not None:
                orelse, more = self.walk(s.orelse, axes, guards, alike)
                meets = meets or more
            return If(s.cond, then, orelse), meets
        assert isinstance(s, For | Alloc | Annotate)
        body, meets = self.walk(s.body, axes, guards, together)
        if isinstance(s, For) and meets:
            body = seq([body, Evaluate(effect("barrier"))])
        return dataclasses.replace(s, body=body), meets

    def _guarded(self, s: Stmt, axes: frozenset[str], guards: tuple[Expr, ...]) -> Stmt:
        """``s`` where it is to run: in the threads that the loops around it reach, or in one."""
        conds = [*guards]
        missing = [v for a, v in self.variables.items() if a not in axes and const_int(self.extents[a]) != 1]
        scopes = {store.buffer.scope == "register" for store in stores_of(s)}
        if missing and scopes == {True, False}:
            if isinstance(s, Seq):
                return seq([self._guarded(x, axes, guards) for x in s.stmts])
            if isinstance(s, For | Alloc | Annotate):
                return dataclasses.replace(s, body=self._guarded(s.body, axes, guards))
            assert isinstance(s, If)
            orelse = None if s.orelse is None else self._guarded(s.orelse, axes, guards)
            return If(s.cond, self._guarded(s.then, axes, guards), orelse)
        if missing and scopes == {False}:
            conds += [var.eq(0) for var in missing]
        return If(all_of(conds), s) if conds else s

    def _is_alike(self, cond: Expr) -> bool:
        """Whether all threads of a block certainly agree on ``cond``."""
        own = {v for v, to in self.mapping.items() if isinstance(to, Var) and to.name.startswith("threadIdx")}
        return not free_vars(cond) & own and not any(True for _ in loads_of(cond))


def _has_steps(s: Stmt) -> bool:
    """Whether ``s`` contains a sequence or a loop over a thread axis."""
    return any(isinstance(x, Seq) for x in walk_stmt(s)) or has_thread_axes(s)


def _with_barriers(stmts: list[Stmt]) -> Stmt:
    result = stmts[:1]
    for stmt in stmts[1:]:
        result += [Evaluate(effect("barrier")), stmt]
    return seq(result)
