"""Primitives that move a block under a loop of its consumer or producer."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.expr import TRUE, BinOp, Const, Expr, Load, Select, Var, as_expr
from tilewright.ir.itermap import determined_vars
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Block,
    Buffer,
    For,
    IterVar,
    PrimFunc,
    Range,
    Seq,
    Stmt,
    child_stmts,
    seq,
)
from tilewright.ir.visit import const_int, loads_of, substitute_expr, walk_expr
from tilewright.schedule import region
from tilewright.schedule.dependence import (
    recheck_kinds,
    require_covered,
    require_no_recurrence,
    written_ranges,
)
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import (
    BlockRef,
    LoopRef,
    Tree,
    binding_vars,
    find_block,
    find_loop,
    loop_name,
    loop_var,
    replace,
)


def compute_at(func: PrimFunc, ref: BlockRef, loop: LoopRef) -> PrimFunc:
    """Compute a block inside ``loop``, just before its first consumer there, only as far as the consumers
    below need it.

    The block gets new loops, one per iterator in the block's order: over the region that one iteration of
    ``loop`` needs (a lower bound in the loops outside, a constant extent where the accesses are affine, else
    the whole dimension), then over the whole reduction. Where the region may leave the buffer, the block's
    predicate cuts it. The buffer keeps its shape; lowering shrinks it. Raises ScheduleError when a consumer
    is not below ``loop``, the block writes a parameter, is split into initialisation and update, or ``loop``
    is vectorized.
    """
    tree = Tree(func)
    block, target = find_block(tree, ref, "compute_at"), find_loop(tree, loop, "compute_at")
    buffer = _moved_buffer(tree, block, target, "compute_at")
    consumers = tree.consumers(block)
    if tree.is_param(buffer) or not consumers:
        raise failure(
            tree,
            f"compute_at: block '{block.name}' writes the output '{buffer.name}'; nothing below the loop "
            "needs it",
            block,
            hint="use reverse_compute_at to move an output block under its producer's loop",
        )
    outside = [c for c in consumers if not tree.is_below(c, target)]
    if outside:
        raise failure(
            tree,
            f"compute_at: consumer '{outside[0].name}' of block '{block.name}' is not below loop "
            f"'{target.var.name}'",
            outside[0],
            target,
            hint="choose a loop around all consumers, or inline the block into the others",
        )
    needed: list[Range | None] | None = None
    for consumer in consumers:
        loads = tree.accesses[consumer.name].loads[buffer]
        found: list[Range | None] = list(
            region.loads_region(consumer, loads, tree.loops_between(target, consumer))
        )
        needed = found if needed is None else [region.union(a, b) for a, b in zip(needed, found, strict=True)]
    assert needed is not None
    ranges = [region.clip(r, dim) for r, dim in zip(needed, buffer.shape, strict=True)]
    domains = _domains(block, tree.store(block).indices, ranges)
    first = min(consumers, key=lambda c: tree.order[c])
    return _moved(tree, block, target, _regenerate(block, domains), first, before=True, what="compute_at")


def reverse_compute_at(func: PrimFunc, ref: BlockRef, loop: LoopRef) -> PrimFunc:
    """Compute a block inside ``loop`` of its producers, just after the last of them there, on what one
    iteration has produced.

    The block reads each element at plain iterators; its loops then cover exactly the region written in one
    iteration. Raises ScheduleError when no producer is below ``loop``, the producers' region is not a gapless
    box, a producer is still being reduced there, or the block reads something that is complete only later.
    """
    tree = Tree(func)
    what = "reverse_compute_at"
    block, target = find_block(tree, ref, what), find_loop(tree, loop, what)
    _moved_buffer(tree, block, target, what)
    producers = [p for p in tree.producers(block) if tree.is_below(p, target)]
    if not producers:
        raise failure(
            tree,
            f"{what}: no producer of block '{block.name}' is below loop '{target.var.name}'",
            target,
            block,
            hint="choose a loop around the block that computes its input",
        )
    domains: dict[Var, Range] = {}
    together: list[set[Var]] = []  # iterators that one load restricts independently of each other
    for producer in producers:
        _require_complete(tree, producer, target)
        for buffer in tree.accesses[producer.name].written & tree.accesses[block.name].loads.keys():
            ranges = written_ranges(tree, producer, tree.loops_between(target, producer))
            if ranges is None:
                raise failure(
                    tree,
                    f"{what}: block '{producer.name}' does not write a gapless box of '{buffer.name}' in "
                    f"one iteration of loop '{target.var.name}'",
                    target,
                    producer,
                    hint="choose a loop further out, in whose iterations whole tiles are written",
                )
            for node in tree.accesses[block.name].loads[buffer]:
                limited = _restrict(tree, block, node.indices, ranges, buffer, domains)
                together.append(limited)
                if limited and _is_conditional(tree.store(block).value, node):
                    _require_all_written(tree, producer, buffer, block)
    if not any(domains.keys() <= some for some in together):
        names = ", ".join(f"'{v.name}'" for v in domains)
        raise failure(
            tree,
            f"{what}: block '{block.name}' reads what one iteration of loop '{target.var.name}' has "
            f"produced at different iterators ({names}); it needs several iterations at once",
            target,
            block,
            hint="compute the block after the loop",
        )
    last = max(producers, key=lambda p: tree.order[p])
    return _moved(tree, block, target, _regenerate(block, domains), last, before=False, what=what)


def _moved_buffer(tree: Tree, block: Block, target: For, what: str) -> Buffer:
    """The buffer that ``block`` writes, when the block may be moved at all."""
    buffer = tree.store(block).buffer
    if tree.is_below(target, tree.own_nest(block)):
        raise failure(
            tree,
            f"{what}: loop '{target.var.name}' is the block's own",
            target,
            block,
            hint="choose a loop of another block",
        )
    for loop in [*tree.loops_above(target), target]:
        if loop.kind == "vectorized":
            raise failure(
                tree,
                f"{what}: loop '{loop.var.name}' is vectorized",
                loop,
                hint="choose a loop outside of it; lanes have no memory of their own",
            )
    require_no_recurrence(tree, block, what)
    if len(tree.writers(buffer)) > 1 or (block.init is None and tree.accesses[block.name].accumulates):
        raise failure(
            tree,
            f"{what}: block '{block.name}' is split into initialisation and update",
            block,
            hint=f"{what} before decompose_reduction",
        )
    return buffer


def _require_complete(tree: Tree, producer: Block, target: For) -> None:
    reduced = binding_vars(producer, "reduce")
    for loop in [*tree.loops_above(target), target]:
        if loop.var in reduced:
            raise failure(
                tree,
                f"reverse_compute_at: loop '{loop.var.name}' still reduces block '{producer.name}'; its "
                "elements are not complete in one iteration",
                loop,
                producer,
                hint="choose a loop outside of all reduce loops of the producer",
            )


def _is_conditional(value: Expr, node: Load) -> bool:
    """Whether ``node`` may be left out where ``value`` is computed."""
    return any(
        isinstance(e, Select) and any(x is node for side in (e.a, e.b) for x in loads_of(side))
        for e in walk_expr(value)
    )


def _require_all_written(tree: Tree, producer: Block, buffer: Buffer, block: Block) -> None:
    """Instances that do not read what nobody writes would otherwise belong to no iteration."""
    ranges = written_ranges(tree, producer, tree.loops_above(producer))
    dims = buffer.shape
    if ranges is None or not all(
        prove(r.lo <= 0) and prove(dim <= r.lo + r.extent) for r, dim in zip(ranges, dims, strict=True)
    ):
        raise failure(
            tree,
            f"reverse_compute_at: block '{block.name}' reads '{buffer.name}' under a condition, and block "
            f"'{producer.name}' does not write all of it: what is computed for the rest has no loop",
            block,
            hint="compute the block after the loop",
        )


def _restrict(
    tree: Tree,
    block: Block,
    indices: Sequence[Expr],
    ranges: Sequence[Range],
    buffer: Buffer,
    domains: dict[Var, Range],
) -> set[Var]:
    """Limit the iterators that index ``buffer`` to the ranges written in one iteration; returns these
    iterators.
    """
    iters = {it.var: it for it in block.iters}
    limited: set[Var] = set()
    for index, r, dim in zip(indices, ranges, buffer.shape, strict=True):
        if prove(r.lo <= 0) and prove(dim <= r.lo + r.extent):
            continue
        it = iters.get(index) if isinstance(index, Var) else None
        if it is None or it.extent is not dim or it.var in limited:
            raise failure(
                tree,
                f"reverse_compute_at: block '{block.name}' reads '{buffer.name}' at {index!r}, which is not "
                "an iterator of its own over that dimension",
                block,
                hint="only blocks that read each produced element at its own position can follow their "
                "producer",
            )
        if domains.setdefault(it.var, r) != r:
            raise failure(
                tree,
                f"reverse_compute_at: block '{block.name}' reads at '{it.var.name}' what its producers "
                "write at different places",
                block,
                hint="compute the block after the loop, or the producers at different loops",
            )
        limited.add(it.var)
    return limited


def _domains(block: Block, indices: Sequence[Expr], ranges: Sequence[Range]) -> dict[Var, Range]:
    """For the spatial iterators, the values that write into ``ranges`` (a superset where the store index is
    not invertible).
    """
    domains: dict[Var, Range] = {}
    for it in block.iters:
        if it.kind != "spatial":
            continue
        for index, r in zip(indices, ranges, strict=True):
            if index is it.var:
                domains[it.var] = r
                break
            if (
                isinstance(index, BinOp)
                and index.op == "floordiv"
                and index.a is it.var
                and isinstance(index.b, Const)
            ):
                scaled = Range(simplify(r.lo * index.b), simplify(r.extent * index.b))
                domains[it.var] = region.clip(scaled, it.extent)
                break
    return domains


def _regenerate(block: Block, domains: dict[Var, Range]) -> Stmt:
    """New loops around ``block``: per iterator over its domain, where none is given over its whole extent."""
    loops: list[tuple[Var, Expr]] = []
    iters: list[IterVar] = []
    guard: Expr = TRUE
    for it in block.iters:
        r = domains.get(it.var, region.whole(it.extent))
        var = loop_var(loop_name(it), r.extent)
        binding = simplify(r.lo + var)
        if binding is not var or r.extent is not it.extent:
            guard = guard & simplify(as_expr(0) <= binding) & simplify(binding < it.extent)
        loops.append((var, r.extent))
        iters.append(IterVar(it.var, it.extent, it.kind, binding))
    nest: Stmt = block.with_(iters=tuple(iters), predicate=guard)
    for var, extent in reversed(loops):
        nest = For(var, extent, nest)
    return nest


def _moved(
    tree: Tree, block: Block, target: For, nest: Stmt, anchor: Block, before: bool, what: str
) -> PrimFunc:
    """The function with the block's old nest gone and ``nest`` inside ``target``, beside the part that holds
    ``anchor``.
    """
    cleared = Tree(replace(tree, {tree.own_nest(block): None}))
    found = cleared.blocks[anchor.name]
    part = cleared.loops[target.var].body
    while isinstance(part, Alloc | Annotate | Seq):
        part = next(s for s in child_stmts(part) if cleared.is_below(found, s))
    func = replace(cleared, {part: seq([nest, part] if before else [part, nest])})
    moved_tree = Tree(func)
    moved = moved_tree.blocks[block.name]
    require_covered(moved_tree, moved, what)
    if not before:
        # Moved towards its inputs, the block may have left a consumer behind.
        for consumer in moved_tree.consumers(moved):
            require_covered(moved_tree, consumer, what)
        if moved.init is not None:
            _require_once(moved_tree, moved)
    recheck_kinds(moved_tree)
    return func


def _require_once(tree: Tree, block: Block) -> None:
    """A reduction must not see an instance twice, and must begin with its first."""
    variables = {loop.var for loop in tree.loops_above(block) if const_int(loop.extent) != 1}
    extents = {loop.var: loop.extent for loop in tree.loops_above(block)}
    bindings = [it.binding for it in block.iters]
    missing = variables - determined_vars(bindings, variables, block.predicate, extents)
    mixed = binding_vars(block, "spatial") & binding_vars(block, "reduce")
    for loop in tree.loops_above(block):
        if loop.var in missing | mixed:
            raise failure(
                tree,
                f"reverse_compute_at: block '{block.name}' accumulates, and iterations of loop "
                f"'{loop.var.name}' would repeat its work",
                loop,
                block,
                hint="choose a loop whose iterations produce different elements",
            )
    begin: dict[Expr, Expr] = {loop.var: as_expr(0) for loop in tree.loops_above(block)}
    for it in block.iters:
        # The instance at 0 starts the sum: it has to come first.
        if it.kind == "reduce" and not prove(substitute_expr(it.binding, begin).eq(0)):
            raise failure(
                tree,
                f"reverse_compute_at: block '{block.name}' accumulates over '{it.var.name}', which would not "
                f"begin at 0 but at {it.binding!r}",
                block,
                hint="compute the block after the loop",
            )
