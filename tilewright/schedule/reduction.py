"""Primitives on reductions: decompose_reduction and rfactor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tilewright.ir.expr import (
    REDUCE_OPS,
    BinOp,
    Const,
    Expr,
    Load,
    Var,
    all_of,
    binop,
    conjuncts,
    load,
    reduce_identity,
    select,
)
from tilewright.ir.itermap import determined_vars
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Block, Buffer, For, IterVar, PrimFunc, Stmt, Store, seq
from tilewright.ir.visit import const_int, free_vars, substitute, substitute_expr
from tilewright.schedule.dependence import recheck_kinds
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import (
    BlockRef,
    LoopRef,
    Tree,
    binding_vars,
    find_block,
    find_loop,
    loop_var,
    reduction_op,
    replace,
    with_alloc,
    with_body,
)


def decompose_reduction(func: PrimFunc, ref: BlockRef, loop: LoopRef) -> tuple[PrimFunc, BlockRef]:
    """Take the initialisation out of a reduction block into a block ``<block>_init`` just before ``loop``.

    The new block runs over the spatial loops from ``loop`` inwards, which keep their kinds. ``loop`` must be
    around the block, at or outside its outermost reduce loop. Raises ScheduleError otherwise.
    """
    tree = Tree(func)
    block, target = find_block(tree, ref, "decompose_reduction"), find_loop(tree, loop, "decompose_reduction")
    _require_reduction(tree, block, "decompose_reduction")
    if not tree.is_below(block, target):
        raise failure(
            tree,
            f"decompose_reduction: loop '{target.var.name}' is not around block '{block.name}'",
            target,
            block,
            hint="choose one of the loops that get_loops gives for the block",
        )
    around = {outer.var for outer in tree.loops_above(block)}
    spatial, reduced = binding_vars(block, "spatial") & around, binding_vars(block, "reduce") & around
    for outer in tree.loops_above(target):
        if outer.var in reduced and const_int(outer.extent) != 1:
            raise failure(
                tree,
                f"decompose_reduction: loop '{outer.var.name}' outside of loop '{target.var.name}' already "
                f"reduces block '{block.name}'",
                outer,
                target,
                hint=f"choose loop '{outer.var.name}' or one around it",
            )
    nest = [target, *tree.loops_between(target, block)]
    _require_one_start(tree, block, nest, "decompose_reduction", "choose a loop further in")
    init = _init_block(tree, block, spatial, reduced)
    kept = [inner for inner in nest if inner.var in spatial | free_vars(init.predicate)]
    fresh: dict[Expr, Expr] = {inner.var: loop_var(inner.var.name, inner.extent) for inner in kept}
    init = init.with_(
        iters=tuple(dataclasses.replace(it, binding=substitute_expr(it.binding, fresh)) for it in init.iters),
        predicate=substitute_expr(init.predicate, fresh),
    )
    new: Stmt = init
    for inner in reversed(kept):
        var = fresh[inner.var]
        assert isinstance(var, Var)
        kind = "serial" if inner.kind == "parallel" else inner.kind
        new = For(var, inner.extent, new, kind)
    tree = Tree(replace(tree, {block: with_body(block, block.body)}))
    func = replace(tree, {tree.loops[target.var]: seq([new, tree.loops[target.var]])})
    recheck_kinds(Tree(func))
    return func, BlockRef(init.name)


def _require_one_start(tree: Tree, block: Block, nest: Sequence[For], what: str, hint: str) -> None:
    """Every element that the block reduces to must start once while the loops of ``nest`` run."""
    variables = {inner.var for inner in nest if const_int(inner.extent) != 1}
    extents = {inner.var: inner.extent for inner in nest}
    bindings = [it.binding for it in block.iters]
    determined = determined_vars(bindings, variables, block.predicate, extents)
    both = binding_vars(block, "spatial") & binding_vars(block, "reduce")
    for inner in nest:
        if inner.var in variables - determined or inner.var in both:
            raise failure(
                tree,
                f"{what}: loop '{inner.var.name}' may repeat iterations of block '{block.name}', each of "
                "which starts its sum anew",
                inner,
                hint=hint,
            )


def _require_reduction(tree: Tree, block: Block, what: str) -> None:
    if block.init is None:
        raise failure(
            tree,
            f"{what}: block '{block.name}' has no initialisation",
            block,
            hint="it is not a reduction, or its initialisation was already taken out",
        )


def _init_block(tree: Tree, block: Block, spatial: set[Var], reduced: set[Var]) -> Block:
    """The init of ``block`` over its spatial iterators. Guards on reduce loops do not concern it: the sum
    starts in any case.
    """
    guards = []
    for cond in conjuncts(block.predicate):
        variables = free_vars(cond)
        if variables & reduced and variables & spatial:
            raise failure(
                tree,
                f"decompose_reduction: the condition {cond!r} of block '{block.name}' ties spatial and "
                "reduce loops together",
                block,
                hint="split loops so that tiles divide them, or pad the block",
            )
        if not variables & reduced:
            guards.append(cond)
    assert block.init is not None
    iters = tuple(it for it in block.iters if it.kind == "spatial")
    empty = Block(tree.fresh_name(f"{block.name}_init"), iters, (), (), block.init, None, all_of(guards))
    return with_body(empty, block.init)


def rfactor(func: PrimFunc, loop: LoopRef, axis: int) -> tuple[PrimFunc, BlockRef]:
    """Split a reduction in two: partial results for every iteration of ``loop``, then their combination.

    A new block ``<block>_rf`` reduces over the other reduce loops into a buffer with an extra dimension, at
    position ``axis``, of the extent of ``loop``; the block itself then reduces that buffer over the
    dimension, right after. Iterations that the block's predicate excludes along ``loop`` add the neutral
    element. Returns the new block. Raises ScheduleError when ``loop`` is not a reduce loop of a block that is
    alone in it, or the operator is not associative.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "rfactor")
    blocks = tree.blocks_below(target)
    if len(blocks) != 1:
        raise failure(
            tree,
            f"rfactor: loop '{target.var.name}' contains {len(blocks)} blocks",
            target,
            hint="move the other blocks out of the loop first",
        )
    block = blocks[0]
    _require_reduction(tree, block, "rfactor")
    spatial, reduced = binding_vars(block, "spatial"), binding_vars(block, "reduce")
    if target.var not in reduced or target.var in spatial:
        raise failure(
            tree,
            f"rfactor: loop '{target.var.name}' does not drive only reduce iterators of block '{block.name}'",
            target,
            hint="choose a reduce loop, as made by splitting one",
        )
    store = tree.store(block)
    op = reduction_op(store)
    if op is None:
        raise failure(
            tree,
            f"rfactor: block '{block.name}' does not accumulate with + * max or min",
            block,
            hint="partial results can only be combined by an associative operator",
        )
    if not (isinstance(block.init, Store) and block.init.value is neutral(op, store.buffer.dtype)):
        raise failure(
            tree,
            f"rfactor: block '{block.name}' does not start from the neutral element of its operator",
            block,
            hint="every partial result would start from that value; add it in a block of its own",
        )
    rank = len(store.buffer.shape)
    if not -rank - 1 <= axis <= rank:
        raise failure(
            tree,
            f"rfactor: axis {axis} is outside of the {rank + 1} dimensions of the partial results",
            block,
            hint="count dimensions from 0, or from -1 backwards",
        )
    axis = axis if axis >= 0 else axis + rank + 1
    top = tree.own_nest(block)
    nest = [outer for outer in tree.loops_above(block) if tree.is_below(outer, top)]
    _require_one_start(tree, block, nest, "rfactor", "choose loops that run through the sum once")
    shape = list(store.buffer.shape)
    shape.insert(axis, target.extent)
    partial = Buffer(tree.fresh_name(f"{store.buffer.name}_rf"), tuple(shape), store.buffer.dtype)
    partial_block = _partial_block(tree, block, target, op, partial, axis)
    final = _final_nest(tree, block, target, top, op, partial, axis)
    step = Tree(replace(tree, {block: partial_block}))
    func = replace(step, {step.own_nest(partial_block): seq([step.own_nest(partial_block), final])})
    func = with_alloc(func, partial)
    recheck_kinds(Tree(func))
    return func, BlockRef(partial_block.name)


def _partial_block(tree: Tree, block: Block, target: For, op: str, partial: Buffer, axis: int) -> Block:
    """The block that reduces over all reduce loops but ``target``, which becomes a spatial iterator."""
    store = tree.store(block)
    identity = neutral(op, partial.dtype)
    factored = loop_var(f"v{target.var.name}", target.extent)
    reduced, spatial = binding_vars(block, "reduce"), binding_vars(block, "spatial")
    # A loop that runs once is in no binding any more; it stays, as it would with more iterations.
    others = [
        s
        for s in tree.loops_above(block)
        if s is not target and (s.var in reduced or (const_int(s.extent) == 1 and s.var not in spatial))
    ]
    rest: dict[Expr, Var] = {s.var: loop_var(f"v{s.var.name}", s.extent) for s in others}
    over_iters: dict[Expr, Expr] = {target.var: factored, **rest}
    values: dict[Expr, Expr] = {
        it.var: simplify(substitute_expr(it.binding, over_iters)) for it in block.iters if it.kind == "reduce"
    }
    iters = [it for it in block.iters if it.kind == "spatial"]
    iters.append(IterVar(factored, target.extent, "spatial", target.var))
    iters += [IterVar(rest[s.var], s.extent, "reduce", s.var) for s in others]
    kept, masked = [], []
    for cond in conjuncts(block.predicate):
        if free_vars(cond) & (binding_vars(block, "reduce")):
            if free_vars(cond) & binding_vars(block, "spatial"):
                raise failure(
                    tree,
                    f"rfactor: the condition {cond!r} of block '{block.name}' ties spatial and reduce loops "
                    "together",
                    block,
                    hint="split loops so that tiles divide them, or pad the block",
                )
            masked.append(simplify(substitute_expr(cond, over_iters)))
        else:
            kept.append(cond)
    term = substitute_expr(reduced_term(store), values)
    if masked:
        term = select(all_of(masked), term, identity)
    indices = list(store.indices)
    indices.insert(axis, factored)
    own = load(partial, indices)
    update = Store(partial, tuple(indices), binop(op, own, simplify(term)))
    init = Store(partial, tuple(indices), identity)
    name = tree.fresh_name(f"{block.name}_rf")
    return with_body(block.with_(name=name, iters=tuple(iters), predicate=all_of(kept)), update, init)


def _final_nest(
    tree: Tree, block: Block, target: For, top: Stmt, op: str, partial: Buffer, axis: int
) -> Stmt:
    """Loops over the spatial loops of the block's own nest, then over the partial results, around the
    combining block.
    """
    store, spatial = tree.store(block), binding_vars(block, "spatial")
    inside = [s for s in tree.loops_above(block) if tree.is_below(s, top)]
    guards = [c for c in conjuncts(block.predicate) if not free_vars(c) & binding_vars(block, "reduce")]
    spatial |= {v for c in guards for v in free_vars(c)}
    kept = [s for s in inside if s.var in spatial]
    fresh: dict[Expr, Expr] = {s.var: loop_var(s.var.name, s.extent) for s in kept}
    step = loop_var(target.var.name, target.extent)
    over = loop_var(f"v{target.var.name}", target.extent)
    renamed: dict[Expr, Expr] = {
        it.var: loop_var(it.var.name, it.extent) for it in block.iters if it.kind == "spatial"
    }
    iters = []
    for it in block.iters:
        var = renamed.get(it.var)
        if isinstance(var, Var):
            iters.append(IterVar(var, it.extent, "spatial", substitute_expr(it.binding, fresh)))
    iters.append(IterVar(over, target.extent, "reduce", step))
    source = [substitute_expr(i, renamed) for i in store.indices]
    indices = tuple(source)
    source.insert(axis, over)
    update = Store(store.buffer, indices, binop(op, load(store.buffer, indices), load(partial, source)))
    assert block.init is not None
    init = substitute(block.init, renamed)
    predicate = substitute_expr(all_of(guards), fresh)
    final = with_body(block.with_(iters=tuple(iters), predicate=predicate), update, init)
    nest: Stmt = For(step, target.extent, final)
    for s in reversed(kept):
        var = fresh[s.var]
        assert isinstance(var, Var)
        nest = For(var, s.extent, nest)
    return nest


def reduced_term(store: Store) -> Expr:
    """What a reduction's update combines with the element."""
    assert isinstance(store.value, BinOp)
    own = store.value.a
    is_own = isinstance(own, Load) and own.buffer is store.buffer and own.indices == store.indices
    return store.value.b if is_own else store.value.a


def neutral(op: str, dtype: str) -> Const:
    """The neutral element of an associative operator."""
    name = next(name for name, operator in REDUCE_OPS.items() if operator == op)
    return reduce_identity(name, dtype)
