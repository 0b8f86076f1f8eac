"""Primitives on loops: split, fuse, reorder, and the kinds parallel, vectorized and unrolled."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from tilewright.ir.expr import TRUE, Expr, Var, as_expr, ceildiv
from tilewright.ir.itermap import determined_vars
from tilewright.ir.regions import local_loops
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.stmt import Block, For, PrimFunc, Stmt
from tilewright.ir.visit import const_int, free_vars
from tilewright.schedule.dependence import require_independent, require_no_recurrence
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import LoopRef, Tree, binding_vars, find_loop, loop_var, rebind, replace
from tilewright.schedule.threads import require_launches

#: Iterations that a split may make of a loop; indices are int64.
MAX_ITERATIONS = 1 << 47
#: Iterations of a loop whose code is written out once for each, or whose lanes are.
MAX_WRITTEN_OUT = 1 << 16


def split(
    func: PrimFunc, loop: LoopRef, factors: Sequence[int | Expr | None]
) -> tuple[PrimFunc, list[LoopRef]]:
    """Replace a loop by nested loops of the given extents, outermost first; their product must reach the
    extent.

    One factor may be None: the smallest that reaches it. When the product exceeds the extent, the blocks
    below run only where the index is in range (``Block.predicate``). Raises ScheduleError for non-positive
    factors, several None, a product below the extent, or a loop that is not serial.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "split")
    _require_serial(tree, target, "split")
    extents = _split_extents(tree, target, factors)
    parts = [loop_var(f"{target.var.name}_{n}", extent) for n, extent in enumerate(extents)]
    index: Expr = as_expr(0)
    for var, extent in zip(parts, extents, strict=True):
        index = index * extent + var
    index = simplify(index)
    exact = simplify(_product(extents)) is simplify(target.extent)
    guard = TRUE if exact else simplify(index < target.extent)
    body = rebind(target.body, {target.var: index}, None if guard is TRUE else guard)
    for n in reversed(range(len(parts))):
        body = (
            dataclasses.replace(target, var=parts[n], extent=extents[n], body=body)
            if n == 0
            else For(parts[n], extents[n], body)
        )
    return replace(tree, {target: body}), [LoopRef(v) for v in parts]


def _product(extents: Sequence[Expr]) -> Expr:
    total: Expr = as_expr(1)
    for extent in extents:
        total = total * extent
    return total


def _split_extents(tree: Tree, loop: For, factors: Sequence[int | Expr | None]) -> list[Expr]:
    inferred = [n for n, f in enumerate(factors) if f is None]
    if not factors or len(inferred) > 1:
        problem = "no factors are given" if not factors else f"{len(inferred)} factors are None"
        raise failure(tree, f"split: {problem}", loop, hint="give every factor, or leave exactly one as None")
    for f in factors:
        if f is not None and not prove(as_expr(f) >= 1):
            raise failure(
                tree,
                f"split: factor {f!r} is not a positive integer",
                loop,
                hint="factors are loop extents, at least 1",
            )
    if math.prod(f for f in map(_constant, factors) if f is not None) > MAX_ITERATIONS:
        raise failure(
            tree,
            f"split: the factors multiply to more than {MAX_ITERATIONS} iterations",
            loop,
            hint="no index would reach that far",
        )
    product = simplify(_product([as_expr(f) for f in factors if f is not None]))
    if inferred:
        rest = simplify(ceildiv(loop.extent, product))
        return [rest if f is None else as_expr(f) for f in factors]
    if not prove(loop.extent <= product):
        raise failure(
            tree,
            f"split: the factors' product {product!r} is less than the extent {loop.extent!r} of loop "
            f"'{loop.var.name}'",
            loop,
            hint="let one factor be None; it is then inferred by rounding up",
        )
    return [as_expr(f) for f in factors if f is not None]


def _constant(factor: int | Expr | None) -> int | None:
    return const_int(factor) if isinstance(factor, Expr) else factor


def fuse(func: PrimFunc, loops: Sequence[LoopRef]) -> tuple[PrimFunc, LoopRef]:
    """Replace perfectly nested loops (given outermost first) by one over all their iterations in the same
    order.

    Raises ScheduleError when the loops are not directly nested in that order, not serial, or drive both
    spatial and reduce iterators of one block.
    """
    tree = Tree(func)
    nest = [find_loop(tree, loop, "fuse") for loop in loops]
    if not nest:
        raise failure(
            tree,
            "fuse: no loops are given",
            hint="give at least one loop",
        )
    for outer, inner in itertools.pairwise(nest):
        if outer.body is not inner:
            raise failure(
                tree,
                f"fuse: loop '{inner.var.name}' is not directly inside loop '{outer.var.name}'",
                outer,
                inner,
                hint="give loops from the outermost in, with nothing between them; reorder first if needed",
            )
    for loop in nest:
        _require_serial(tree, loop, "fuse")
    variables = {loop.var for loop in nest}
    for block in tree.blocks_below(nest[0]):
        reduced = binding_vars(block, "reduce")
        # A loop that only a guard depends on counts as spatial: each of its iterations may start the sum
        # anew.
        spatial = binding_vars(block, "spatial") | (free_vars(block.predicate) - reduced)
        if variables & spatial and variables & reduced:
            raise failure(
                tree,
                f"fuse: the loops drive both spatial and reduce iterators of block '{block.name}'",
                *nest,
                hint="fuse spatial loops with spatial loops, and reduce loops with reduce loops",
            )
    extent = simplify(_product([loop.extent for loop in nest]))
    fused = loop_var("_".join(loop.var.name for loop in nest), extent)
    mapping: dict[Expr, Expr] = {}
    rest: Expr = fused
    # Where all loops outside of one run once, its variable is the whole rest, whatever its extent is.
    first = next((n for n, loop in enumerate(nest[:-1]) if const_int(loop.extent) != 1), len(nest) - 1)
    for loop in reversed(nest[first + 1 :]):
        mapping[loop.var] = simplify(rest % loop.extent)
        rest = simplify(rest // loop.extent)
    mapping[nest[first].var] = rest
    mapping.update({loop.var: as_expr(0) for loop in nest[:first]})
    body = For(fused, extent, rebind(nest[-1].body, mapping), "serial", nest[0].annotations)
    return replace(tree, {nest[0]: body}), LoopRef(fused)


def reorder(func: PrimFunc, loops: Sequence[LoopRef]) -> PrimFunc:
    """Put loops of one perfect nest in the given order (outermost first), in the places these loops have now.

    Raises ScheduleError when the loops are not in one perfect nest, or the new order could change a result.
    """
    tree = Tree(func)
    wanted = [find_loop(tree, loop, "reorder") for loop in loops]
    if len({loop.var for loop in wanted}) < len(wanted):
        raise failure(
            tree,
            "reorder: a loop is given twice",
            *wanted,
            hint="name each loop once, in the wanted order from the outermost in",
        )
    if len(wanted) < 2:
        return func
    places = sorted(wanted, key=lambda s: tree.order[s])
    if places == wanted:
        return func
    chain = [places[0]]
    while chain[-1] is not places[-1]:
        inner = chain[-1].body
        if not isinstance(inner, For):
            missing = next(p for p in places if p not in chain)
            raise failure(
                tree,
                f"reorder: loops '{places[0].var.name}' and '{missing.var.name}' are not in one perfect nest",
                places[0],
                missing,
                hint="only loops with nothing else between them can be reordered",
            )
        chain.append(inner)
    moved = dict(zip(places, wanted, strict=True))
    order = [moved.get(loop, loop) for loop in chain]
    _require_reorderable(tree, chain, order)
    body: Stmt = chain[-1].body
    for loop in reversed(order):
        body = dataclasses.replace(loop, body=body)
    func = replace(tree, {chain[0]: body})
    require_launches(Tree(func), "reorder")
    return func


def _require_reorderable(tree: Tree, chain: list[For], order: list[For]) -> None:
    for n, loop in enumerate(order):
        if loop.kind == "vectorized" and n + 1 < len(order):
            raise failure(
                tree,
                f"reorder: the vectorized loop '{loop.var.name}' would no longer be innermost",
                loop,
                hint="reorder before vectorize",
            )
    blocks = tree.blocks_below(chain[0])
    if len(blocks) > 1:
        for loop in chain:
            require_independent(tree, loop, "reorder")
        return
    block = blocks[0]
    require_no_recurrence(tree, block, "reorder")
    if block.init is None and not tree.accesses[block.name].accumulates:
        return
    below = [*chain, *tree.loops_between(chain[-1], block)]
    variables = {loop.var for loop in below if const_int(loop.extent) != 1}
    extents = {loop.var: loop.extent for loop in below}
    bindings = [it.binding for it in block.iters]
    missing = variables - determined_vars(bindings, variables, block.predicate, extents)
    mixed = binding_vars(block, "spatial") & binding_vars(block, "reduce") & variables
    for loop in below:
        if loop.var in missing or loop.var in mixed:
            raise failure(
                tree,
                f"reorder: block '{block.name}' accumulates, and loop '{loop.var.name}' may repeat an "
                "iteration of it",
                loop,
                hint="every loop must count in the binding of exactly one kind of iterator",
            )


def parallel(func: PrimFunc, loop: LoopRef) -> PrimFunc:
    """Let the iterations of a loop run on several threads.

    Raises ScheduleError when iterations are not independent, the loop is inside or around another parallel
    loop, or the program has thread axes.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "parallel")
    for other in tree.loops.values():
        if (
            other.kind == "parallel"
            and other is not target
            and (tree.is_below(target, other) or tree.is_below(other, target))
        ):
            raise failure(
                tree,
                "parallel: parallel loops cannot be nested",
                other,
                target,
                hint="fuse the two loops and run the result in parallel",
            )
    func = _with_kind(tree, target, "parallel")
    require_launches(Tree(func), "parallel")
    return func


def vectorize(func: PrimFunc, loop: LoopRef) -> PrimFunc:
    """Run the iterations of a loop in the lanes of vector instructions.

    The loop must be innermost, with a constant extent. A loop over reduce iterators is legal when the update
    is one of + * max min: the lanes are then combined. Raises ScheduleError otherwise.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "vectorize")
    if not known_when_compiling(tree, target.extent):
        raise failure(
            tree,
            f"vectorize: the extent {target.extent!r} of loop '{target.var.name}' is not constant",
            target,
            hint="split off an inner loop of constant extent first",
        )
    _require_short(tree, target, "vectorize")
    if not isinstance(target.body, Block):
        raise failure(
            tree,
            f"vectorize: loop '{target.var.name}' is not innermost around a single block",
            target,
            hint="reorder the loop inwards, or split off an inner part",
        )
    if local_loops(target.body.body):
        raise failure(
            tree,
            f"vectorize: block '{target.body.name}' has loops of its own inside",
            target,
            hint="blockize and tensorize take the loops that instructions run through",
        )
    return _with_kind(tree, target, "vectorized")


def unroll(func: PrimFunc, loop: LoopRef) -> PrimFunc:
    """Write out the iterations of a loop one after the other when lowering. Raises ScheduleError when the
    extent is not constant.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "unroll")
    if not known_when_compiling(tree, target.extent):
        raise failure(
            tree,
            f"unroll: the extent {target.extent!r} of loop '{target.var.name}' is not constant",
            target,
            hint="split off an inner loop of constant extent first",
        )
    _require_short(tree, target, "unroll")
    return _with_kind(tree, target, "unrolled")


def _require_short(tree: Tree, loop: For, primitive: str) -> None:
    if (const_int(loop.extent) or 1) > MAX_WRITTEN_OUT:
        raise failure(
            tree,
            f"{primitive}: loop '{loop.var.name}' has more than {MAX_WRITTEN_OUT} iterations",
            loop,
            hint="split off a short inner loop first",
        )


def known_when_compiling(tree: Tree, extent: Expr) -> bool:
    """Whether ``extent`` is constant once the open decisions are taken."""
    return not free_vars(extent) & {p for p in tree.func.params if isinstance(p, Var)}


def _with_kind(tree: Tree, loop: For, kind: str) -> PrimFunc:
    if loop.kind == kind:
        return tree.func
    if loop.kind != "serial":
        raise failure(
            tree, f"loop '{loop.var.name}' is already {loop.kind}", loop, hint="a loop has one kind"
        )
    changed = dataclasses.replace(loop, kind=kind)
    func = replace(tree, {loop: changed})
    if kind != "unrolled":
        name = {"parallel": "parallel", "vectorized": "vectorize"}[kind]
        require_independent(Tree(func), changed, name)
    return func


def _require_serial(tree: Tree, loop: For, primitive: str) -> None:
    if loop.kind != "serial":
        raise failure(
            tree,
            f"{primitive}: loop '{loop.var.name}' is {loop.kind}",
            loop,
            hint=f"{primitive} first, then choose the kind of the resulting loops",
        )
