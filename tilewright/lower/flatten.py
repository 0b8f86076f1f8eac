"""From blocks to plain loops."""

from __future__ import annotations

import dataclasses

from tilewright.ir.expr import Expr, Var, all_of, conjuncts
from tilewright.ir.stmt import Alloc, Annotate, Block, For, If, PrimFunc, Seq, Stmt, seq
from tilewright.ir.visit import free_vars, substitute, substitute_expr, transform_stmt


def decompose_reductions(func: PrimFunc) -> PrimFunc:
    """Give every block that still has an ``init`` a separate initialising nest.

    The nest stands just before the outermost loop that a reduce iterator of the block is bound to, and runs
    over the spatial loops inside that loop.
    """
    return func.with_(body=_decompose(func.body))


def _decompose(stmt: Stmt) -> Stmt:
    if isinstance(stmt, For):
        pending = _blocks_with_init_reduced_by(stmt)
        body = _decompose(_without_init(stmt, pending).body) if pending else _decompose(stmt.body)
        loop = dataclasses.replace(stmt, body=body)
        return seq([*(_init_nest(stmt, block) for block in pending), loop])
    if isinstance(stmt, Block) and stmt.init is not None:
        return seq([_init_block(stmt, {}), dataclasses.replace(stmt, init=None)])
    if isinstance(stmt, Seq):
        return seq([_decompose(s) for s in stmt.stmts])
    if isinstance(stmt, Alloc | Annotate):
        return dataclasses.replace(stmt, body=_decompose(stmt.body))
    if isinstance(stmt, If):
        return If(stmt.cond, _decompose(stmt.then), None if stmt.orelse is None else _decompose(stmt.orelse))
    return stmt


def _reduce_vars(block: Block) -> set[Var]:
    return {v for it in block.iters if it.kind == "reduce" for v in free_vars(it.binding)}


def _blocks_with_init_reduced_by(loop: For) -> list[Block]:
    """Blocks below ``loop`` that have an init and a reduce iterator bound to ``loop``'s variable."""
    found: list[Block] = []
    stack: list[Stmt] = [loop.body]
    while stack:
        node = stack.pop()
        if isinstance(node, Block):
            if node.init is not None and loop.var in _reduce_vars(node):
                found.append(node)
        elif isinstance(node, Seq):
            stack.extend(reversed(node.stmts))
        elif isinstance(node, For | Alloc | Annotate):
            stack.append(node.body)
        elif isinstance(node, If):
            stack.extend(s for s in (node.orelse, node.then) if s is not None)
    return found


def _without_init(loop: For, blocks: list[Block]) -> For:
    names = {b.name for b in blocks}
    stripped = transform_stmt(
        loop,
        lambda s: dataclasses.replace(s, init=None) if isinstance(s, Block) and s.name in names else None,
    )
    assert isinstance(stripped, For)
    return stripped


def _init_nest(loop: For, block: Block) -> Stmt:
    """Loops for the init of ``block``: the loops from ``loop`` down to it that its spatial bindings use."""
    spatial = {v for it in block.iters if it.kind == "spatial" for v in free_vars(it.binding)}
    spatial |= {v for c in _init_guards(block) for v in free_vars(c)}
    path = _loops_to(loop, block)
    assert path is not None
    kept = [inner for inner in path if inner.var in spatial]
    mapping: dict[Expr, Expr] = {
        inner.var: Var(f"{inner.var.name}_init", lo=inner.var.lo, hi=inner.var.hi) for inner in kept
    }
    nest: Stmt = _init_block(block, mapping)
    for inner in reversed(kept):
        var = mapping[inner.var]
        assert isinstance(var, Var)
        nest = For(var, substitute_expr(inner.extent, mapping), nest, inner.kind, inner.annotations)
    return nest


def _loops_to(stmt: Stmt, block: Block) -> list[For] | None:
    if stmt is block:
        return []
    if isinstance(stmt, For):
        rest = _loops_to(stmt.body, block)
        return None if rest is None else [stmt, *rest]
    children: tuple[Stmt, ...] = ()
    if isinstance(stmt, Seq):
        children = stmt.stmts
    elif isinstance(stmt, Alloc | Annotate):
        children = (stmt.body,)
    elif isinstance(stmt, If):
        children = (stmt.then,) if stmt.orelse is None else (stmt.then, stmt.orelse)
    for child in children:
        path = _loops_to(child, block)
        if path is not None:
            return path
    return None


def _init_block(block: Block, mapping: dict[Expr, Expr]) -> Block:
    """The init of ``block`` as a block of its own, over its spatial iterators only."""
    assert block.init is not None
    return Block(
        f"{block.name}_init",
        tuple(
            dataclasses.replace(it, binding=substitute_expr(it.binding, mapping))
            for it in block.iters
            if it.kind == "spatial"
        ),
        (),
        block.writes,
        block.init,
        None,
        substitute_expr(all_of(_init_guards(block)), mapping),
    )


def _init_guards(block: Block) -> list[Expr]:
    """The parts of the predicate that concern the init: those without reduce loops."""
    reduced = _reduce_vars(block)
    return [c for c in conjuncts(block.predicate) if not free_vars(c) & reduced]


def flatten_blocks(func: PrimFunc) -> PrimFunc:
    """Replace every block by its body over the surrounding loops; predicates become ifs.

    Needs ``decompose_reductions`` first. Raises ValueError on a block that still has an init.
    """

    def visit(stmt: Stmt) -> Stmt | None:
        if not isinstance(stmt, Block):
            return None
        if stmt.init is not None:
            raise ValueError(f"block '{stmt.name}' still has an init")
        body = substitute(stmt.body, {it.var: it.binding for it in stmt.iters})
        guards = conjuncts(stmt.predicate)
        return If(all_of(guards), body) if guards else body

    return func.with_(body=transform_stmt(func.body, visit))
