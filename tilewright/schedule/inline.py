"""Primitives that dissolve a block into its consumers or its producer: compute_inline and
reverse_compute_inline.
"""

from __future__ import annotations

from collections.abc import Callable

from tilewright.ir.expr import Expr, Load, Var, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Block, Buffer, PrimFunc, Stmt, Store
from tilewright.ir.visit import const_int, map_stmt, rewrite_expr, substitute_expr
from tilewright.schedule.dependence import recheck_kinds, require_covered, require_no_recurrence
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import BlockRef, Tree, find_block, replace, with_body, without_alloc


def compute_inline(func: PrimFunc, ref: BlockRef) -> PrimFunc:
    """Delete a block; every read of its buffer becomes the expression that the block would have stored there.

    The block must be elementwise or injective: no reduction, one store, at its own iterators in any order.
    Raises ScheduleError otherwise, or when its buffer is an output.
    """
    tree = Tree(func)
    block = find_block(tree, ref, "compute_inline")
    store = _injective_store(tree, block, "compute_inline")
    if tree.is_param(store.buffer):
        raise failure(
            tree,
            f"compute_inline: block '{block.name}' writes the output '{store.buffer.name}', which must stay "
            "in memory",
            block,
            hint="use reverse_compute_inline to fuse an output block into its producer",
        )
    places = _positions(tree, block, store.indices, store.buffer, "compute_inline", "writes")

    def value_at(indices: tuple[Expr, ...]) -> Expr:
        return simplify(substitute_expr(store.value, {v: indices[d] for v, d in places.items()}))

    consumers = tree.consumers(block)
    if not consumers:
        raise failure(
            tree,
            f"compute_inline: nothing reads the result of block '{block.name}'",
            block,
            hint="a block that nothing reads has no consumer to move into",
        )
    changes: dict[Stmt, Stmt | None] = {c: _with_loads(c, store.buffer, value_at) for c in consumers}
    func = without_alloc(replace(tree, changes | {tree.own_nest(block): None}), store.buffer)
    fresh = Tree(func)
    for consumer in consumers:
        require_covered(fresh, fresh.blocks[consumer.name], "compute_inline")
    recheck_kinds(fresh)
    return func


def reverse_compute_inline(func: PrimFunc, ref: BlockRef) -> PrimFunc:
    """Delete an elementwise block by storing its result right where its only producer stores.

    The block must read one produced buffer at its own iterators (in any order), each element once; the
    producer must have no reduction and no other consumer. Raises ScheduleError otherwise.
    """
    tree = Tree(func)
    what = "reverse_compute_inline"
    block = find_block(tree, ref, what)
    store = _injective_store(tree, block, what)
    producers = tree.producers(block)
    if len(producers) != 1:
        names = ", ".join(f"'{p.name}'" for p in producers) or "none"
        raise failure(
            tree,
            f"{what}: block '{block.name}' must have exactly one producer, it has {names}",
            block,
            hint="inline or cache the other inputs first",
        )
    producer = producers[0]
    source = _injective_store(tree, producer, what)
    buffer = source.buffer
    others = [c.name for c in tree.consumers(producer) if c is not block]
    if others or tree.is_param(buffer):
        use = f"is read by block '{others[0]}' too" if others else "is an output"
        raise failure(
            tree,
            f"{what}: '{buffer.name}', written by block '{producer.name}', {use}",
            producer,
            block,
            hint="keep the block, and move it with reverse_compute_at",
        )
    loads = tree.accesses[block.name].loads[buffer]
    if len({node.indices for node in loads}) > 1:
        raise failure(
            tree,
            f"{what}: block '{block.name}' reads '{buffer.name}' at several positions",
            block,
            hint="keep the block, and move it with reverse_compute_at",
        )
    places = _positions(tree, block, loads[0].indices, buffer, what, "reads")
    at: dict[Expr, Expr] = {it.var: as_expr(0) for it in block.iters}
    at.update({v: source.indices[d] for v, d in places.items()})

    def rewritten(e: Expr) -> Expr:
        e = substitute_expr(e, at)
        return simplify(
            rewrite_expr(e, lambda n: source.value if isinstance(n, Load) and n.buffer is buffer else None)
        )

    value = rewritten(store.value)
    indices = tuple(simplify(substitute_expr(i, at)) for i in store.indices)
    fused = with_body(producer, Store(store.buffer, indices, value))
    func = without_alloc(replace(tree, {producer: fused, tree.own_nest(block): None}), buffer)
    fresh = Tree(func)
    require_covered(fresh, fresh.blocks[producer.name], what)
    for consumer in fresh.consumers(fresh.blocks[producer.name]):
        require_covered(fresh, consumer, what)
    recheck_kinds(fresh)
    return func


def _injective_store(tree: Tree, block: Block, what: str) -> Store:
    store = tree.store(block)
    require_no_recurrence(tree, block, what)
    if (
        block.init is not None
        or any(it.kind == "reduce" for it in block.iters)
        or tree.accesses[block.name].accumulates
    ):
        raise failure(
            tree,
            f"{what}: block '{block.name}' is a reduction; its value is not one expression",
            block,
            hint="move it with compute_at instead",
        )
    if len(tree.writers(store.buffer)) > 1:
        raise failure(
            tree,
            f"{what}: several blocks write '{store.buffer.name}'",
            *tree.writers(store.buffer),
            hint="inline before decompose_reduction and rfactor",
        )
    return store


def _positions(
    tree: Tree, block: Block, indices: tuple[Expr, ...], buffer: Buffer, what: str, verb: str
) -> dict[Var, int]:
    """Which dimension of ``buffer`` each iterator of ``block`` indexes, when every iterator that counts
    indexes exactly one.
    """
    iters = {it.var: it for it in block.iters}
    places: dict[Var, int] = {}
    for dim, index in enumerate(indices):
        if (
            isinstance(index, Var)
            and index in iters
            and index not in places
            and iters[index].extent is buffer.shape[dim]
        ):
            places[index] = dim
        elif const_int(buffer.shape[dim]) != 1:
            raise failure(
                tree,
                f"{what}: block '{block.name}' {verb} '{buffer.name}' at {index!r} in dimension {dim}, "
                "which is not an iterator of its own over the whole dimension",
                block,
                hint="only a block whose elements correspond one to one can be inlined",
            )
    for it in block.iters:
        if it.var not in places and const_int(it.extent) != 1:
            raise failure(
                tree,
                f"{what}: iterator '{it.var.name}' of block '{block.name}' does not index '{buffer.name}'",
                block,
                hint="only a block whose elements correspond one to one can be inlined",
            )
    return places


def _with_loads(consumer: Block, buffer: Buffer, value_at: Callable[[tuple[Expr, ...]], Expr]) -> Block:
    memo: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr | None:
        return value_at(node.indices) if isinstance(node, Load) and node.buffer is buffer else None

    def rewrite(e: Expr) -> Expr:
        return rewrite_expr(e, visit, memo)

    body = map_stmt(consumer.body, rewrite)
    init = None if consumer.init is None else map_stmt(consumer.init, rewrite)
    return with_body(consumer, body, init)
