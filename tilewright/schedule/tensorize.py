"""The primitive tensorize: a loop nest becomes one call of a tensor intrinsic."""

from __future__ import annotations

import dataclasses

from tilewright.errors import IntrinsicError, ScheduleError
from tilewright.ir.expr import TRUE, BinOp, Expr, Load, Var, all_of, as_expr, binop, ceildiv, conjuncts
from tilewright.ir.padding import split_zero
from tilewright.ir.simplify import Simplifier, prove, simplify
from tilewright.ir.stmt import (
    Alloc,
    Block,
    Buffer,
    For,
    If,
    PrimFunc,
    Stmt,
    Store,
    TensorCall,
    TensorIntrinsic,
)
from tilewright.ir.tensor_intrinsics import check_operands, tensor_intrinsic
from tilewright.ir.visit import (
    find_blocks,
    free_vars,
    replace_buffers,
    substitute,
    substitute_expr,
    uses,
    walk_stmt,
)
from tilewright.schedule.blockize import Split, nest_of, splits_of, tiled_block
from tilewright.schedule.dependence import recheck_kinds
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.match import Mismatch, match
from tilewright.schedule.state import (
    BlockRef,
    LoopRef,
    Tree,
    find_block,
    find_loop,
    loop_var,
    replace,
    with_body,
)


def tensorize(func: PrimFunc, ref: BlockRef | LoopRef, intrinsic: str) -> PrimFunc:
    """Let an instruction do what a nest of loops does: that of ``ref`` and inside, or inside a block that
    blockize made.

    The nest must be the intrinsic's meaning: the same extents, the same expression over the same types, each
    operand moving with the same loops, in the scope and with the strides that the intrinsic wants. Where a
    tile overruns the end of a temporary along a spatial iterator, the temporary grows to whole tiles, if the
    other operands can be read that far: nobody reads what is beyond. Factors that are zero in padding become
    a condition around the call. Sums of floats may be taken in another order, and rounded as the instruction
    rounds them.

    Raises ScheduleError that says what differs.
    """
    tree = Tree(func)
    try:
        wanted = tensor_intrinsic(intrinsic)
    except IntrinsicError as error:
        raise ScheduleError(f"tensorize: {error.message}", hint=error.hint) from None
    if isinstance(ref, BlockRef):
        block = find_block(tree, ref, "tensorize")
        place: Stmt = block
    else:
        target = find_loop(tree, ref, "tensorize")
        nest, inside = nest_of(tree, target, "tensorize")
        tree, nest, inside = _grown(tree, nest, inside)
        place, block = nest[0], tiled_block(tree, nest, inside, "tensorize")
    body = _call(tree, place, block, wanted)
    func = replace(tree, {place: with_body(block, body, block.init)})
    recheck_kinds(Tree(func))
    return func


def require_valid_calls(func: PrimFunc, what: str) -> None:
    """Raise ScheduleError, beginning with ``what``, when a tensor call got an operand that its intrinsic does
    not take, or one that is no more.
    """
    buffers: set[Buffer] | None = None
    for block in find_blocks(func.body):
        if isinstance(block.body, Store):
            continue
        for call in walk_stmt(block.body):
            if not isinstance(call, TensorCall):
                continue
            buffers = buffers or _buffers(func)
            gone = [r.buffer.name for r in call.operands if r.buffer not in buffers]
            reason = f"'{gone[0]}' is an operand of a tensor intrinsic there" if gone else None
            try:
                check_operands(call.intrinsic, call.operands)
            except IntrinsicError as error:
                reason = error.message
            if reason is not None:
                raise failure(
                    Tree(func), f"{what}: {reason}", block, hint=f"{what} before tensorize"
                )


def _buffers(func: PrimFunc) -> set[Buffer]:
    params = {p for p in func.params if isinstance(p, Buffer)}
    return params | {s.buffer for s in walk_stmt(func.body) if isinstance(s, Alloc)}


def _call(tree: Tree, place: Stmt, block: Block, intrinsic: TensorIntrinsic) -> Stmt:
    """The call that does what the body of ``block`` does."""
    loops: list[For] = []
    conds: list[Expr] = []
    stmt = block.body
    while isinstance(stmt, For | If):
        if isinstance(stmt, If):
            if stmt.orelse is not None:
                break
            conds += conjuncts(stmt.cond)
            stmt = stmt.then
        else:
            loops.append(stmt)
            stmt = stmt.body

    def refuse(reason: str, hint: str | None) -> ScheduleError:
        return failure(
            tree, f"tensorize: block '{block.name}' is not '{intrinsic.name}': {reason}", place, hint=hint
        )

    if not isinstance(stmt, Store):
        raise refuse("it is not one nest of loops around one store", "blockize the loops around it first")
    zero, store = _without_padding(stmt)
    conds += zero
    for cond in conds:
        if free_vars(cond) & {loop.var for loop in loops}:
            raise refuse(
                f"{cond!r} holds for a part of the tile only",
                "pad to whole tiles first: a padded copy that is not inlined",
            )
    try:
        operands = match(intrinsic, loops, store)
    except Mismatch as mismatch:
        raise refuse(mismatch.reason, mismatch.hint) from None
    call = TensorCall(intrinsic, operands)
    return If(all_of(conds), call) if conds else call


def _without_padding(store: Store) -> tuple[list[Expr], Store]:
    """Conditions without which a sum does not change, and the store given that they hold."""
    value = store.value
    if isinstance(value, BinOp) and value.op == "add":
        for own, term in ((value.a, value.b), (value.b, value.a)):
            if isinstance(own, Load) and own.buffer is store.buffer and own.indices == store.indices:
                conds, rest = split_zero(term)
                if conds:
                    return conds, dataclasses.replace(store, value=binop("add", own, rest))
    return [], store


# -- overrun -------------------------------------------------------------------------------------------------


def _grown(tree: Tree, nest: list[For], block: Block) -> tuple[Tree, list[For], Block]:
    """The program with room for whole tiles in the temporary that ``block`` writes, where conditions on the
    loops ``nest`` only keep it from overrunning that."""
    inner = {loop.var for loop in nest}
    cutting = [c for c in conjuncts(block.predicate) if free_vars(c) & inner]
    if not cutting:
        return tree, nest, block
    store = tree.store(block)
    splits = splits_of(tree, nest, block, "tensorize")
    kept = [c for c in conjuncts(block.predicate) if c not in cutting]
    sizes = list(store.buffer.shape)
    iters = {it.var: it for it in block.iters}
    for cond in cutting:
        split = _overrunning(cond, splits)
        dim = next((d for d, i in enumerate(store.indices) if split is not None and i is split.it.var), None)
        fits = split is not None and dim is not None and simplify(sizes[dim]) is simplify(split.it.extent)
        if split is None or dim is None or not fits or tree.is_param(store.buffer):
            raise failure(
                tree,
                f"tensorize: the condition {cond!r} of block '{block.name}' cuts some tiles short",
                block,
                hint="pad to whole tiles first (pad); along a spatial iterator, let the block write a "
                "temporary (cache_write), which then grows to whole tiles",
            )
        whole = simplify(ceildiv(split.it.extent, split.count) * split.count)
        sizes[dim] = whole
        var = loop_var(split.it.var.name, whole)
        iters[split.it.var] = dataclasses.replace(split.it, var=var, extent=whole)
        kept.append(simplify(split.rest < simplify(whole // split.count)))
    renamed: dict[Expr, Expr] = {old: it.var for old, it in iters.items() if it.var is not old}
    _require_readable(tree, block, renamed)
    body = substitute(block.body, renamed)
    init = None if block.init is None else substitute(block.init, renamed)
    wide = with_body(
        block.with_(iters=tuple(iters[it.var] for it in block.iters), predicate=all_of(kept)), body, init
    )
    changed: dict[Stmt, Stmt | None] = {block: wide}
    for other in tree.writers(store.buffer):
        if other is not block:
            changed[other] = _widened(tree, other, tuple(sizes))
    func = replace(tree, changed)
    grown = store.buffer.with_(shape=tuple(sizes))
    func = func.with_(body=replace_buffers(func.body, {store.buffer: grown}))
    fresh = Tree(func)
    return fresh, *nest_of(fresh, fresh.loops[nest[0].var], "tensorize")


def _widened(tree: Tree, block: Block, sizes: tuple[Expr, ...]) -> Block:
    """``block``, which fills its buffer with what depends on no data, over the buffer's new ``sizes``, as far
    as its loops go; as it is where that is not its form."""
    store, access = block.body, tree.accesses[block.name]
    if not isinstance(store, Store) or access.loads or access.accumulates:
        return block
    iters = {it.var: it for it in block.iters}
    predicate = conjuncts(block.predicate)
    for index, old, new in zip(store.indices, store.buffer.shape, sizes, strict=True):
        it = iters.get(index) if isinstance(index, Var) else None
        if it is None or old is new or it.extent is not old:
            continue
        known = Simplifier().assuming(simplify(it.binding < old))
        rest = [c for c in predicate if not known.prove(c)]
        if len(rest) < len(predicate):
            inside = simplify(it.binding < new)
            predicate = rest if inside is TRUE else [*rest, inside]
            iters[it.var] = dataclasses.replace(it, var=loop_var(it.var.name, new), extent=new)
    renamed: dict[Expr, Expr] = {old_var: it.var for old_var, it in iters.items() if it.var is not old_var}
    body = substitute(block.body, renamed)
    return with_body(
        block.with_(iters=tuple(iters[it.var] for it in block.iters), predicate=all_of(predicate)), body
    )


def _overrunning(cond: Expr, splits: list[Split]) -> Split | None:
    """The spatial iterator that ``cond`` keeps below its extent and does nothing else; None without one."""
    for split in splits:
        if split.it.kind == "spatial" and split.digits:
            inside = simplify(split.it.binding < split.it.extent)
            if Simplifier().assuming(inside).prove(cond):
                return split
    return None


def _require_readable(tree: Tree, block: Block, renamed: dict[Expr, Expr]) -> None:
    """Raise ScheduleError when the block, on its larger domain, could read beyond the end of an operand."""
    changed = {v for v in renamed if isinstance(v, Var)}
    for buffer, loads in tree.accesses[block.name].loads.items():
        for node in loads:
            for dim, (index, size) in enumerate(zip(node.indices, buffer.shape, strict=True)):
                wide = simplify(substitute_expr(index, renamed))
                if not uses(index, changed) or (prove(as_expr(0) <= wide) and prove(wide < size)):
                    continue
                raise failure(
                    tree,
                    f"tensorize: whole tiles of block '{block.name}' would read '{buffer.name}' beyond its "
                    f"extent {size!r} in dimension {dim}",
                    block,
                    hint="lay it out in whole tiles, which pads it (transform_layout), or pad",
                )
