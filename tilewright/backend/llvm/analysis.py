"""What the emitter wants to know of a function before it starts.

* Loops that run once are replaced by their bodies. Vector variables are made canonical: all vectorized loops
  of one length share one variable, so that equal expressions in different loops are one (interned) expression
  and are computed once.
* Which buffers each loop and branch stores to: those end the life of remembered loads and become phi nodes.
* How each register buffer is accessed, from which its slots follow (see
  :mod:`tilewright.backend.llvm.registers`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from tilewright.errors import CompileError
from tilewright.ir.expr import Const, Expr, Load, Var, as_expr
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Region,
    Seq,
    Stmt,
    Store,
    TensorCall,
    child_stmts,
    seq,
)
from tilewright.ir.visit import map_stmt, substitute, walk_stmt

Indices = tuple[Expr, ...]


@dataclasses.dataclass
class Analysis:
    """Facts about a lowered function.

    Attributes:
        body: the function's body with canonical vector variables.
        lanes: vector variable -> length.
        stored: per For and If (by identity): buffers stored to inside.
        used: per parallel For: buffers loaded or stored inside.
        mutable: every buffer that is stored to.
        accesses: per register buffer: the index tuples of its loads and stores.
        register_stores: per register buffer: those of its stores.
        tensor_operands: per register buffer: the parts of it that tensor calls take.
        shared_registers: register buffers used in a parallel loop that they are allocated outside of.
    """

    body: Stmt
    lanes: dict[Var, int]
    stored: dict[Stmt, frozenset[Buffer]]
    used: dict[Stmt, frozenset[Buffer]]
    mutable: frozenset[Buffer]
    accesses: dict[Buffer, set[Indices]]
    register_stores: dict[Buffer, set[Indices]]
    tensor_operands: dict[Buffer, set[Region]]
    shared_registers: frozenset[Buffer]


def analyse(func: PrimFunc) -> Analysis:
    """Collect the facts. Raises CompileError where the body is not in lowered form."""
    body, lanes = _normalise(func.body)
    walker = _Walker()
    _, stored = walker.visit(body)
    return Analysis(
        body,
        lanes,
        walker.stored,
        walker.used,
        stored,
        walker.accesses,
        walker.register_stores,
        walker.tensor_operands,
        frozenset(walker.shared_registers),
    )


def _normalise(body: Stmt) -> tuple[Stmt, dict[Var, int]]:
    """``body`` without loops that run once and with canonical vector variables; those variables with their
    lengths.
    """
    loops = [s for s in walk_stmt(body) if isinstance(s, For)]
    canonical = _canonical_vars(loops)
    # What each loop's variable becomes; a variable may belong to several loops, after copying.
    targets: dict[Var, dict[Expr, None]] = {}
    for loop in loops:
        target: Expr = loop.var
        if _runs_once(loop):
            target = as_expr(0)
        elif loop.kind == "vectorized":
            target = canonical[_vector_length(loop)]
        targets.setdefault(loop.var, {})[target] = None
    everywhere: dict[Expr, Expr] = {}
    for var, choices in targets.items():
        (first, *others) = choices
        if not others and first is not var:
            everywhere[var] = first
    mixed = {var for var, choices in targets.items() if len(choices) > 1}
    if everywhere or mixed:
        body = _Renaming(everywhere, canonical, mixed).statement(body)
    return body, {var: length for length, var in canonical.items()}


def _canonical_vars(loops: list[For]) -> dict[int, Var]:
    """A variable for each vector length: the one most loops of that length have, if it has no other use."""
    users: dict[int, Counter[Var]] = {}
    other: set[Var] = set()
    for loop in loops:
        if loop.kind == "vectorized" and not _runs_once(loop):
            users.setdefault(_vector_length(loop), Counter())[loop.var] += 1
        else:
            other.add(loop.var)
    canonical: dict[int, Var] = {}
    for length, counts in users.items():
        var = counts.most_common(1)[0][0]
        if var in other or var in canonical.values():
            var = Var(var.name, lo=0, hi=length - 1)
        canonical[length] = var
    return canonical


def _runs_once(loop: For) -> bool:
    return isinstance(loop.extent, Const) and loop.extent.value == 1 and loop.kind != "parallel"


def _vector_length(loop: For) -> int:
    if not isinstance(loop.extent, Const):
        raise CompileError(f"the extent of vectorized loop '{loop.var.name}' is not constant")
    if any(isinstance(s, For) and s.kind in ("vectorized", "parallel") for s in walk_stmt(loop.body)):
        raise CompileError(f"a vectorized or parallel loop inside vectorized loop '{loop.var.name}'")
    return int(loop.extent.value)


class _Renaming:
    """Replaces loop variables: ``everywhere`` those with one replacement, loop by loop the ``mixed`` ones."""

    def __init__(self, everywhere: dict[Expr, Expr], canonical: dict[int, Var], mixed: set[Var]) -> None:
        self._known = everywhere
        self._canonical = canonical
        self._mixed = mixed

    def expression(self, e: Expr) -> Expr:
        known = self._known.get(e)
        if known is None:
            children = e.children
            fresh = [self.expression(c) for c in children]
            same = all(a is b for a, b in zip(children, fresh, strict=True))
            known = self._known[e] = e if same else e.rebuild(fresh)
        return known

    def statement(self, s: Stmt) -> Stmt:
        if isinstance(s, Store):
            return Store(s.buffer, tuple(map(self.expression, s.indices)), self.expression(s.value))
        if isinstance(s, Seq):
            return seq([self.statement(x) for x in s.stmts])
        if isinstance(s, For):
            return self._for(s)
        if isinstance(s, If):
            orelse = None if s.orelse is None else self.statement(s.orelse)
            return If(self.expression(s.cond), self.statement(s.then), orelse)
        if isinstance(s, Alloc):
            return Alloc(s.buffer, self.statement(s.body))
        if isinstance(s, Annotate):
            return self.statement(s.body)
        return map_stmt(s, self.expression) if isinstance(s, TensorCall) else s

    def _for(self, s: For) -> Stmt:
        once = _runs_once(s)
        var = self._canonical[_vector_length(s)] if s.kind == "vectorized" and not once else s.var
        body = s.body
        if s.var in self._mixed and (once or var is not s.var):
            body = substitute(body, {s.var: as_expr(0) if once else var})
        body = self.statement(body)
        return body if once else For(var, self.expression(s.extent), body, s.kind, s.annotations)


_NONE: frozenset[Buffer] = frozenset()


class _Walker:
    """One pass over all statements; every distinct expression is visited once."""

    def __init__(self) -> None:
        self.stored: dict[Stmt, frozenset[Buffer]] = {}
        self.used: dict[Stmt, frozenset[Buffer]] = {}
        self.accesses: dict[Buffer, set[Indices]] = {}
        self.register_stores: dict[Buffer, set[Indices]] = {}
        self.tensor_operands: dict[Buffer, set[Region]] = {}
        self.shared_registers: set[Buffer] = set()
        self._loads: dict[Expr, frozenset[Buffer]] = {}

    def visit(self, stmt: Stmt) -> tuple[frozenset[Buffer], frozenset[Buffer]]:
        """(buffers loaded or stored, buffers stored) in ``stmt``."""
        if isinstance(stmt, Store):
            if stmt.buffer.scope == "register":
                self.accesses.setdefault(stmt.buffer, set()).add(stmt.indices)
                self.register_stores.setdefault(stmt.buffer, set()).add(stmt.indices)
            loads = self._of(stmt.value)
            for index in stmt.indices:
                loads |= self._of(index)
            stored = frozenset((stmt.buffer,))
            return loads | stored, stored
        if isinstance(stmt, TensorCall):
            for region in stmt.operands:
                if region.buffer.scope == "register":
                    self.tensor_operands.setdefault(region.buffer, set()).add(region)
            # Operands are in the order of parameters: outputs come last.
            return frozenset(r.buffer for r in stmt.operands), frozenset((stmt.operands[-1].buffer,))
        used: frozenset[Buffer] = _NONE
        written: frozenset[Buffer] = _NONE
        if isinstance(stmt, Seq):
            uses: set[Buffer] = set()
            writes: set[Buffer] = set()
            for child in stmt.stmts:
                child_used, child_written = self.visit(child)
                uses |= child_used
                writes |= child_written
            return frozenset(uses), frozenset(writes)
        for child in child_stmts(stmt):
            child_used, child_written = self.visit(child)
            used |= child_used
            written |= child_written
        if isinstance(stmt, For):
            used |= self._of(stmt.extent)
            self.stored[stmt] = written
            if stmt.kind == "parallel":
                self.used[stmt] = used
                inside = {s.buffer for s in walk_stmt(stmt.body) if isinstance(s, Alloc)}
                self.shared_registers |= {b for b in used if b.scope == "register" and b not in inside}
            elif stmt.kind not in ("serial", "vectorized"):
                raise CompileError(f"loop '{stmt.var.name}' of kind '{stmt.kind}' reached the LLVM backend")
        elif isinstance(stmt, If):
            used |= self._of(stmt.cond)
            self.stored[stmt] = written
        elif isinstance(stmt, Evaluate):
            used |= self._of(stmt.value)
        elif not isinstance(stmt, Alloc | Annotate):
            raise CompileError(f"a {type(stmt).__name__} reached the LLVM backend")
        return used, written

    def _of(self, e: Expr) -> frozenset[Buffer]:
        known = self._loads.get(e)
        if known is not None:
            return known
        result = _NONE
        for child in e.children:
            inner = self._of(child)
            if inner:
                result = result | inner if result else inner
        if isinstance(e, Load):
            result |= {e.buffer}
            if e.buffer.scope == "register":
                self.accesses.setdefault(e.buffer, set()).add(e.indices)
        self._loads[e] = result
        return result
