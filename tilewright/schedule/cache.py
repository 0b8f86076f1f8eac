"""Primitives on where data lives: cache_read, cache_write and set_scope."""

from __future__ import annotations

from tilewright.ir.expr import Expr, Load, load
from tilewright.ir.stmt import Block, Buffer, IterVar, PrimFunc, Stmt, Store, seq
from tilewright.ir.visit import map_stmt, replace_buffers, rewrite_expr
from tilewright.schedule.dependence import recheck_kinds
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import (
    BlockRef,
    Tree,
    find_block,
    loop_var,
    nest_of,
    replace,
    with_alloc,
    with_body,
)


def cache_write(func: PrimFunc, ref: BlockRef, scope: str) -> tuple[PrimFunc, BlockRef]:
    """Let a block write a new buffer in ``scope``; a new block right after its nest copies that to the
    block's old buffer.

    Other blocks go on reading the old buffer. Returns the copying block, named ``<block>_<scope>``. The block
    must be alone in its loops; raises ScheduleError otherwise, or when it is split into initialisation and
    update.
    """
    tree = Tree(func)
    block = find_block(tree, ref, "cache_write")
    buffer = tree.store(block).buffer
    if len(tree.writers(buffer)) > 1:
        raise failure(
            tree,
            f"cache_write: block '{block.name}' is split into initialisation and update",
            *tree.writers(buffer),
            hint="cache_write before decompose_reduction",
        )
    nest = tree.own_nest(block)
    shared = tree.loops_above(nest)
    if shared:
        raise failure(
            tree,
            f"cache_write: block '{block.name}' shares loop '{shared[-1].var.name}' with other blocks",
            shared[-1],
            block,
            hint="cache_write before compute_at",
        )
    cached = Buffer(tree.fresh_name(f"{buffer.name}_{scope}"), buffer.shape, buffer.dtype, scope)
    copy_nest, copy = _copy(tree.fresh_name(f"{block.name}_{scope}"), cached, buffer)
    func = replace(tree, {nest: seq([replace_buffers(nest, {buffer: cached}), copy_nest])})
    func = with_alloc(func, cached)
    recheck_kinds(Tree(func))
    return func, BlockRef(copy.name)


def cache_read(func: PrimFunc, ref: BlockRef, buffer_index: int, scope: str) -> tuple[PrimFunc, BlockRef]:
    """Let a block read one of its inputs from a copy in ``scope``, made by a new block before the nest that
    holds the block.

    ``buffer_index`` counts the distinct buffers that the block reads, in the order of ``Block.reads``.
    Returns the copying block, named ``<buffer>_<scope>``. Raises ScheduleError when there is no such input,
    or it is produced inside the same loops.
    """
    tree = Tree(func)
    block = find_block(tree, ref, "cache_read")
    buffers = list(dict.fromkeys(r.buffer for r in block.reads))
    if not 0 <= buffer_index < len(buffers):
        names = ", ".join(f"{n}: '{b.name}'" for n, b in enumerate(buffers)) or "none"
        raise failure(
            tree,
            f"cache_read: block '{block.name}' has no input {buffer_index} (inputs: {names})",
            block,
            hint="count the buffers that the block reads, from 0, each one once",
        )
    buffer = buffers[buffer_index]
    top: Stmt = _root_part(tree, block)
    inside = next((w for w in tree.writers(buffer) if tree.is_below(w, top)), None)
    if inside is not None:
        raise failure(
            tree,
            f"cache_read: '{buffer.name}' is produced by block '{inside.name}' in the same loops as block "
            f"'{block.name}'",
            inside,
            block,
            hint="cache_read before the producer moves under the consumer's loops",
        )
    cached = Buffer(tree.fresh_name(f"{buffer.name}_{scope}"), buffer.shape, buffer.dtype, scope)
    copy_nest, copy = _copy(tree.fresh_name(f"{buffer.name}_{scope}"), buffer, cached)

    def visit(node: Expr) -> Expr | None:
        return load(cached, node.indices) if isinstance(node, Load) and node.buffer is buffer else None

    memo: dict[Expr, Expr] = {}
    own = tree.accesses[block.name].written
    body = map_stmt(
        block.body,
        lambda e: rewrite_expr(e, visit, memo),
        lambda b: cached if b is buffer and b not in own else b,
    )
    tree = Tree(replace(tree, {block: with_body(block, body, block.init)}))
    top = _root_part(tree, tree.blocks[block.name])
    func = with_alloc(replace(tree, {top: seq([copy_nest, top])}), cached)
    recheck_kinds(Tree(func))
    return func, BlockRef(copy.name)


def set_scope(func: PrimFunc, ref: BlockRef, scope: str) -> PrimFunc:
    """Put the buffer that a block writes into another memory scope (``register``, ``global`` ...).

    Raises ScheduleError for parameters, whose memory is the caller's, and where threads would no longer have
    the copies of it that they need.
    """
    tree = Tree(func)
    block = find_block(tree, ref, "set_scope")
    buffer = tree.store(block).buffer
    if tree.is_param(buffer):
        raise failure(
            tree,
            f"set_scope: block '{block.name}' writes the parameter '{buffer.name}', which lives in the "
            "caller's memory",
            block,
            hint="cache_write first: the block then writes a buffer of its own",
        )
    if buffer.scope == scope:
        return func
    func = func.with_(body=replace_buffers(func.body, {buffer: buffer.with_(scope=scope)}))
    recheck_kinds(Tree(func))
    return func


def _root_part(tree: Tree, block: Block) -> Stmt:
    """The outermost loop around ``block`` (or the block itself)."""
    loops = tree.loops_above(block)
    return loops[0] if loops else block


def _copy(name: str, source: Buffer, target: Buffer) -> tuple[Stmt, Block]:
    """A nest that copies all of ``source`` to ``target``."""
    iters = []
    for n, dim in enumerate(source.shape):
        var, loop = loop_var(f"vi{n}", dim), loop_var(f"i{n}", dim)
        iters.append(IterVar(var, dim, "spatial", loop))
    indices = tuple(it.var for it in iters)
    store = Store(target, indices, load(source, indices))
    block = with_body(Block(name, tuple(iters), (), (), store), store)
    return nest_of(block), block
