"""Virtual threads: loops whose iterations run interleaved."""

from __future__ import annotations

import dataclasses

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, Var
from tilewright.ir.intrinsics import effect
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Seq,
    Stmt,
    Store,
    TensorCall,
    seq,
)
from tilewright.ir.visit import (
    loads_of,
    own_exprs,
    stores_of,
    substitute,
    transform_stmt,
    uses,
    walk_stmt,
)
from tilewright.lower.copies import in_copies, with_copies


def lower_virtual_threads(func: PrimFunc) -> PrimFunc:
    """Run each statement in a virtual loop for all iterations before the next statement, in an unrolled
    loop of its own.

    Buffers that are allocated inside and whose content depends on the iteration get a dimension for it;
    what does not depend on it is computed once. Raises ScheduleError when threads would have to meet under
    a condition that depends on the iteration.
    """
    return func.with_(body=transform_stmt(func.body, lambda s: _interleaved(s) if _is_virtual(s) else None))


def _is_virtual(s: Stmt) -> bool:
    return isinstance(s, For) and s.kind == "virtual"


def _interleaved(loop: Stmt) -> Stmt:
    assert isinstance(loop, For)
    inside = {s.buffer for s in walk_stmt(loop.body) if isinstance(s, Alloc)}
    private = {b: with_copies(b, loop.extent) for b in _varying(loop, inside)}
    return _Interleave(loop, inside, private).walk(loop.body)


def _varying(loop: For, inside: set[Buffer]) -> set[Buffer]:
    """Buffers of ``inside`` whose content depends on the iteration of ``loop``."""
    varying: set[Buffer] = set()
    while True:
        found = set(varying)
        _collect_varying(loop.body, loop.var, inside, varying, False, found)
        if found == varying:
            return varying
        varying = found


def _collect_varying(
    s: Stmt, var: Var, inside: set[Buffer], varying: set[Buffer], under: bool, found: set[Buffer]
) -> None:
    """Add to ``found`` what ``s`` stores depending on ``var`` or on ``varying`` buffers; ``under`` says
    that a condition around it does.
    """
    under = under or any(_depends(e, var, varying) for e in own_exprs(s))
    if isinstance(s, Store) and under and s.buffer in inside:
        found.add(s.buffer)
    if isinstance(s, Seq):
        for child in s.stmts:
            _collect_varying(child, var, inside, varying, under, found)
    elif isinstance(s, If):
        _collect_varying(s.then, var, inside, varying, under, found)
        if s.orelse is not None:
            _collect_varying(s.orelse, var, inside, varying, under, found)
    elif isinstance(s, For | Alloc | Annotate):
        _collect_varying(s.body, var, inside, varying, under, found)
    elif isinstance(s, TensorCall):
        for inner in walk_stmt(s):
            if isinstance(inner, Store) and inner is not s:
                _collect_varying(inner, var, inside, varying, under, found)


def _depends(e: Expr, var: Var, varying: set[Buffer]) -> bool:
    return uses(e, {var}) or any(node.buffer in varying for node in loads_of(e))


@dataclasses.dataclass(frozen=True)
class _Interleave:
    """The body of the virtual ``loop``, distributed. ``private`` maps varying buffers to those with a
    dimension for the iteration; what is stored outside of ``inside`` is stored by each iteration.
    """

    loop: For
    inside: set[Buffer]
    private: dict[Buffer, Buffer]

    def walk(self, s: Stmt) -> Stmt:
        if isinstance(s, Seq):
            return seq([self.walk(x) for x in s.stmts])
        if isinstance(s, Alloc):
            return Alloc(self.private.get(s.buffer, s.buffer), self.walk(s.body))
        if isinstance(s, Annotate):
            return dataclasses.replace(s, body=self.walk(s.body))
        steers = any(_depends(e, self.loop.var, set(self.private)) for e in own_exprs(s))
        if isinstance(s, For) and not steers:
            return dataclasses.replace(s, body=self.walk(s.body))
        if isinstance(s, If) and not steers:
            return If(s.cond, self.walk(s.then), None if s.orelse is None else self.walk(s.orelse))
        return self._each(s)

    def _each(self, s: Stmt) -> Stmt:
        """``s`` for every iteration, or once where all would do the same."""
        expressions = [e for x in walk_stmt(s) for e in own_exprs(x)]
        varies = any(_depends(e, self.loop.var, set(self.private)) for e in expressions)
        stored = [store.buffer for store in stores_of(s)]
        if not varies and all(b in self.inside and b not in self.private for b in stored):
            return s
        if any(isinstance(x, Evaluate) and x.value is effect("barrier") for x in walk_stmt(s)):
            raise ScheduleError(
                "threads would have to meet under a condition that differs between the iterations of "
                "virtual "
                f"loop '{self.loop.var.name}'"
            )
        var = Var(self.loop.var.name, lo=self.loop.var.lo, hi=self.loop.var.hi)
        own = {b: (many, self.loop.var) for b, many in self.private.items()}
        body = substitute(in_copies(s, own), {self.loop.var: var})
        return For(var, self.loop.extent, body, "unrolled")
