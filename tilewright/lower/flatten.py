"""From blocks to plain loops."""

from __future__ import annotations

import dataclasses

from tilewright.ir.expr import Expr, Var, all_of, conjuncts
from tilewright.ir.itermap import determined_vars
from tilewright.ir.stmt import Alloc, Annotate, Block, For, If, PrimFunc, Seq, Stmt, seq
from tilewright.ir.visit import const_int, free_vars, substitute, substitute_expr, transform_stmt


def decompose_reductions(func: PrimFunc) -> PrimFunc:
    """Give every block that still has an ``init`` a separate initialising nest.

    The nest stands just before the outermost loop that a reduce iterator of the block is bound to, and runs
    over the spatial loops inside that loop. Where that loop may repeat instances of the block, each
    repetition starts anew: then the init stands at the block, under the condition that all reduce iterators
    are at their first value.
    """
    return func.with_(body=_decompose(func.body))


def _decompose(stmt: Stmt) -> Stmt:
    if isinstance(stmt, For):
        reduced = _blocks_with_init_reduced_by(stmt)
        pending = [block for block in reduced if _starts_once(stmt, block)]
        # A loop that runs once starts nothing anew: one further in decides.
        again = [] if const_int(stmt.extent) == 1 else [b for b in reduced if b not in pending]
        body = _decompose(_without_init(stmt, pending, again).body) if reduced else _decompose(stmt.body)
        loop = dataclasses.replace(stmt, body=body)
        return seq([*(_init_nest(stmt, block) for block in pending), loop])
    if isinstance(stmt, Block) and stmt.init is not None:
        return seq([_first_init(stmt), dataclasses.replace(stmt, init=None)])
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


def _starts_once(loop: For, block: Block) -> bool:
    """Whether every element that ``block`` reduces to certainly starts once while ``loop`` runs."""
    path = _loops_to(loop, block)
    assert path is not None
    several = {inner.var: inner.extent for inner in path if const_int(inner.extent) != 1}
    spatial = {v for it in block.iters if it.kind == "spatial" for v in free_vars(it.binding)}
    if not several.keys().isdisjoint(spatial & _reduce_vars(block)):
        return False
    bindings = [it.binding for it in block.iters]
    return several.keys() <= determined_vars(bindings, set(several), block.predicate, several)


def _without_init(loop: For, blocks: list[Block], at_the_block: list[Block]) -> For:
    """``loop`` with the inits of ``blocks`` gone, and those of others in front of their block."""
    gone, kept = {b.name for b in blocks}, {b.name for b in at_the_block}

    def strip(stmt: Stmt) -> Stmt | None:
        if not isinstance(stmt, Block) or stmt.name not in gone | kept:
            return None
        bare = dataclasses.replace(stmt, init=None)
        return bare if stmt.name in gone else seq([_first_init(stmt), bare])

    stripped = transform_stmt(loop, strip)
    assert isinstance(stripped, For)
    return stripped


def _init_nest(loop: For, block: Block) -> Stmt:
    """Loops for the init of ``block``: the loops from ``loop`` down to it that its spatial bindings use."""
    path = _loops_to(loop, block)
    assert path is not None
    # Bindings may hold dimensions besides loops' variables: their guards stay.
    reduced = _reduce_vars(block) & {inner.var for inner in path}
    guards = [c for c in conjuncts(block.predicate) if not free_vars(c) & reduced]
    spatial = {v for it in block.iters if it.kind == "spatial" for v in free_vars(it.binding)}
    spatial |= {v for c in guards for v in free_vars(c)}
    kept = [inner for inner in path if inner.var in spatial]
    mapping: dict[Expr, Expr] = {
        inner.var: Var(f"{inner.var.name}_init", lo=inner.var.lo, hi=inner.var.hi) for inner in kept
    }
    nest: Stmt = _init_block(block, mapping, guards)
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


def _init_block(block: Block, mapping: dict[Expr, Expr], guards: list[Expr]) -> Block:
    """The init of ``block`` as a block of its own, over its spatial iterators only, under ``guards``."""
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
        substitute_expr(all_of(guards), mapping),
    )


def _first_init(block: Block) -> Block:
    """The init of ``block`` for where the block stands: only its first instance along the reduce iterators
    does something.
    """
    first = [it.binding.eq(0) for it in block.iters if it.kind == "reduce"]
    return _init_block(block, {}, [*conjuncts(block.predicate), *first])


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
