"""Walking and rewriting expressions and statements.

``rewrite_expr`` and ``rewrite_stmt`` rebuild only what changed, so untouched subtrees keep their identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Set
from operator import is_not

from tilewright.ir.expr import Const, Expr, Load, Var, as_expr, load
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Block,
    Buffer,
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
    child_stmts,
    seq,
    with_inner,
)


def walk_expr(e: Expr) -> Iterator[Expr]:
    """Every distinct node of ``e``, children before parents."""
    seen: set[Expr] = set()
    stack = [e]
    while stack:
        node = stack[-1]
        if node in seen:
            stack.pop()
            continue
        missing = [child for child in node.children if child not in seen]
        if missing:
            missing.reverse()
            stack += missing
        else:
            stack.pop()
            seen.add(node)
            yield node


def free_vars(e: Expr) -> Set[Var]:
    """Variables of ``e`` that no Reduce inside binds."""
    return e.contents.free


def uses(e: Expr, variables: Set[Var]) -> bool:
    """Whether any of ``variables`` occurs in ``e``."""
    return not e.variables.isdisjoint(variables)


def loads_of(e: Expr) -> Iterator[Load]:
    """Every distinct Load in ``e``."""
    return iter(e.contents.loads)


def rewrite_expr(e: Expr, fn: Callable[[Expr], Expr | None], memo: dict[Expr, Expr] | None = None) -> Expr:
    """Rebuild ``e`` bottom-up. ``fn`` sees each node after its children were rewritten and returns a
    replacement or None.
    """
    memo = {} if memo is None else memo
    known = memo.get(e)
    if known is not None:
        return known
    stack = [e]
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        children = node.children
        missing = [child for child in children if child not in memo]
        if missing:
            missing.reverse()
            stack += missing
            continue
        stack.pop()
        fresh = node
        if children:
            mapped = [memo[child] for child in children]
            if any(map(is_not, mapped, children)):
                fresh = node.rebuild(mapped)
        replaced = fn(fresh)
        memo[node] = fresh if replaced is None else replaced
    return memo[e]


def substitute_expr(e: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """Replace whole sub-expressions (variables or any interned node) by others."""
    return _Substitution(mapping).of(e) if mapping else e


class _Substitution:
    """Replaces sub-expressions and remembers what it has seen. It leaves alone what has none of the variables
    of the expressions to be replaced."""

    def __init__(self, mapping: Mapping[Expr, Expr]) -> None:
        self._memo: dict[Expr, Expr] = dict(mapping)
        keys = [key.variables for key in mapping]
        # An expression without variables may be anywhere.
        self._variables = frozenset[Var]().union(*keys) if all(keys) else None

    def of(self, e: Expr) -> Expr:
        """``e`` with the replacements made."""
        known = self._memo.get(e)
        if known is None:
            if self._variables is not None and e.variables.isdisjoint(self._variables):
                return e
            children = e.children
            fresh = [self.of(child) for child in children]
            known = self._memo[e] = e.rebuild(fresh) if any(map(is_not, fresh, children)) else e
        return known


def walk_stmt(s: Stmt) -> Iterator[Stmt]:
    """``s`` and every statement inside, parents first; inside a tensor call, those that it stands for."""
    stack = [s]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(child_stmts(node))


def own_exprs(s: Stmt) -> Iterator[Expr]:
    """Expressions that belong to ``s`` itself, not to statements inside it (regions of a block excluded)."""
    if isinstance(s, Store):
        yield from s.indices
        yield s.value
    elif isinstance(s, For):
        yield s.extent
    elif isinstance(s, If):
        yield s.cond
    elif isinstance(s, Evaluate):
        yield s.value
    elif isinstance(s, Block):
        for it in s.iters:
            yield it.extent
            yield it.binding
        yield s.predicate


def all_exprs(s: Stmt) -> Iterator[Expr]:
    """Top-level expressions of every statement in ``s``."""
    for node in walk_stmt(s):
        yield from own_exprs(node)


def stores_of(s: Stmt) -> Iterator[Store]:
    """Every Store in ``s``, in program order."""
    return (node for node in walk_stmt(s) if isinstance(node, Store))


def find_blocks(s: Stmt) -> list[Block]:
    """All blocks in ``s`` in program order."""
    return [node for node in walk_stmt(s) if isinstance(node, Block)]


def map_stmt(
    s: Stmt,
    expr: Callable[[Expr], Expr],
    buffer: Callable[[Buffer], Buffer] = lambda b: b,
) -> Stmt:
    """Apply ``expr`` to every expression and ``buffer`` to every buffer named by a statement (Store, Alloc,
    TensorCall, regions).

    Buffers inside Load expressions are ``expr``'s business.
    """
    if isinstance(s, Store):
        fresh = (buffer(s.buffer), tuple(expr(i) for i in s.indices), expr(s.value))
        same = (
            fresh[0] is s.buffer
            and fresh[2] is s.value
            and all(a is b for a, b in zip(fresh[1], s.indices, strict=True))
        )
        return s if same else Store(*fresh)
    if isinstance(s, For):
        body, extent = map_stmt(s.body, expr, buffer), expr(s.extent)
        same = body is s.body and extent is s.extent
        return s if same else For(s.var, extent, body, s.kind, s.annotations)
    if isinstance(s, If):
        orelse = None if s.orelse is None else map_stmt(s.orelse, expr, buffer)
        return If(expr(s.cond), map_stmt(s.then, expr, buffer), orelse)
    if isinstance(s, Seq):
        stmts = tuple(map_stmt(x, expr, buffer) for x in s.stmts)
        return s if all(a is b for a, b in zip(stmts, s.stmts, strict=True)) else seq(stmts)
    if isinstance(s, Alloc):
        return Alloc(buffer(s.buffer), map_stmt(s.body, expr, buffer))
    if isinstance(s, Annotate):
        return Annotate(s.key, s.value, map_stmt(s.body, expr, buffer))
    if isinstance(s, Evaluate):
        return Evaluate(expr(s.value))

    def region(r: Region) -> Region:
        return Region(buffer(r.buffer), tuple(Range(expr(x.lo), expr(x.extent)) for x in r.ranges))

    if isinstance(s, TensorCall):
        operands = tuple(map(region, s.operands))
        return s if operands == s.operands else TensorCall(s.intrinsic, operands)
    assert isinstance(s, Block)

    return dataclasses.replace(
        s,
        iters=tuple(IterVar(i.var, expr(i.extent), i.kind, expr(i.binding)) for i in s.iters),
        reads=tuple(region(r) for r in s.reads),
        writes=tuple(region(r) for r in s.writes),
        body=map_stmt(s.body, expr, buffer),
        init=None if s.init is None else map_stmt(s.init, expr, buffer),
        predicate=expr(s.predicate),
    )


def substitute(s: Stmt, mapping: Mapping[Expr, Expr]) -> Stmt:
    """Replace sub-expressions everywhere in ``s``; the memo is shared, so one pass costs one visit a node."""
    if not mapping:
        return s
    return map_stmt(s, _Substitution(mapping).of)


def replace_buffers(s: Stmt, mapping: Mapping[Buffer, Buffer]) -> Stmt:
    """Swap buffers for others of the same rank in loads, stores, allocations and regions."""
    memo: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.buffer in mapping:
            return load(mapping[node.buffer], node.indices)
        return None

    return map_stmt(s, lambda e: rewrite_expr(e, visit, memo), lambda b: mapping.get(b, b))


def transform_stmt(s: Stmt, fn: Callable[[Stmt], Stmt | None]) -> Stmt:
    """Rebuild statements bottom-up; ``fn`` sees each after its children and returns a replacement or None."""
    fresh: Stmt = s
    if isinstance(s, For | Alloc | Annotate):
        fresh = with_inner(s, transform_stmt(s.body, fn))
    elif isinstance(s, If):
        then = transform_stmt(s.then, fn)
        orelse = None if s.orelse is None else transform_stmt(s.orelse, fn)
        if then is not s.then or orelse is not s.orelse:
            fresh = If(s.cond, then, orelse)
    elif isinstance(s, Seq):
        stmts = [transform_stmt(x, fn) for x in s.stmts]
        if any(a is not b for a, b in zip(stmts, s.stmts, strict=True)):
            fresh = seq(stmts)
    elif isinstance(s, Block):
        body = transform_stmt(s.body, fn)
        init = None if s.init is None else transform_stmt(s.init, fn)
        if body is not s.body or init is not s.init:
            fresh = dataclasses.replace(s, body=body, init=init)
    replaced = fn(fresh)
    return fresh if replaced is None else replaced


def const_int(e: Expr) -> int | None:
    """The value of an integer constant, else None."""
    return int(e.value) if isinstance(e, Const) else None


def const_extent(e: Expr, what: str) -> int:
    """The value of a constant extent. Raises ValueError naming ``what`` when it is not constant."""
    value = const_int(as_expr(e))
    if value is None:
        raise ValueError(f"{what} is not a constant: {e!r}")
    return value
