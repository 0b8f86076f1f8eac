"""The primitive blockize: a block and the loops right around it become one block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tilewright.ir.bounds import affine
from tilewright.ir.expr import Expr, Var, as_expr, conjuncts
from tilewright.ir.itermap import ascending, step_size
from tilewright.ir.simplify import Simplifier, prove, simplify, simplify_stmt
from tilewright.ir.stmt import Block, For, IterVar, PrimFunc, Stmt
from tilewright.ir.visit import free_vars, substitute
from tilewright.schedule.dependence import recheck_kinds, require_no_recurrence
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import BlockRef, LoopRef, Tree, find_loop, loop_var, replace, with_body


@dataclasses.dataclass(frozen=True)
class Split:
    """How the loops that go into a block move one of its iterators.

    Attributes:
        it: the iterator.
        rest: what the loops outside give to the binding, divided by ``count``.
        count: values that the inner loops run through, all of them and without gaps.
        digits: the inner loops' variables with their steps, the smallest first.
    """

    it: IterVar
    rest: Expr
    count: Expr
    digits: tuple[tuple[Var, Expr], ...]


def blockize(func: PrimFunc, loop: LoopRef) -> tuple[PrimFunc, BlockRef]:
    """Move ``loop``, the loops inside it and nothing else into the single block that they are around.

    The block keeps its name; one instance now does what all iterations of those loops did, and its iterators
    count tiles. Its initialisation, if it still has one, comes along with the spatial loops. The iteration
    space of such a block is fixed: primitives that would rewrite it refuse.

    Raises ScheduleError when the loops are not perfectly nested around one block, run on threads, cut an
    iterator into pieces of unequal size (a predicate over them is in the way), or drive several iterators.
    """
    tree = Tree(func)
    nest, block = nest_of(tree, find_loop(tree, loop, "blockize"), "blockize")
    func = replace(tree, {nest[0]: tiled_block(tree, nest, block, "blockize")})
    recheck_kinds(Tree(func))
    return func, BlockRef(block.name)


def nest_of(tree: Tree, target: For, what: str) -> tuple[list[For], Block]:
    """``target``, the loops inside and the block that they are around. Raises ScheduleError when there is
    anything else."""
    nest, inner = [target], target.body
    while isinstance(inner, For):
        nest.append(inner)
        inner = inner.body
    if not isinstance(inner, Block):
        names = ", ".join(f"'{b.name}'" for b in tree.blocks_below(target))
        raise failure(
            tree,
            f"{what}: loop '{target.var.name}' is not around a single block alone (inside: {names})",
            target,
            hint="choose a loop further in; decompose_reduction takes an initialisation out",
        )
    for loop in nest:
        if loop.kind not in ("serial", "unrolled", "vectorized"):
            raise failure(
                tree,
                f"{what}: loop '{loop.var.name}' is {loop.kind}",
                loop,
                hint="iterations inside a block run one after the other",
            )
    require_no_recurrence(tree, inner, what)
    return nest, inner


def tiled_block(tree: Tree, nest: Sequence[For], block: Block, what: str) -> Block:
    """``block`` with the loops ``nest`` inside. Raises ScheduleError, beginning with ``what``."""
    inner = {loop.var: loop.extent for loop in nest}
    for cond in conjuncts(block.predicate):
        if free_vars(cond) & inner.keys():
            raise failure(
                tree,
                f"{what}: the condition {cond!r} of block '{block.name}' cuts some tiles short",
                block,
                hint="pad to whole tiles first (pad), or split by a factor of the extent",
            )
    splits = splits_of(tree, nest, block, what)
    mapping: dict[Expr, Expr] = {}
    iters = []
    for split in splits:
        it = split.it
        if not split.digits:  # a loop that runs once is in no binding any more, and goes inside
            iters.append(dataclasses.replace(it, binding=split.rest))
            continue
        extent = simplify(it.extent // split.count)
        var = loop_var(it.var.name, extent)
        iters.append(IterVar(var, extent, it.kind, split.rest))
        value: Expr = var * split.count
        for digit, step in reversed(split.digits):
            value = value + digit * step
        mapping[it.var] = value
    spatial = {d for s in splits if s.it.kind == "spatial" for d, _ in s.digits}
    body = _under(nest, substitute(block.body, mapping))
    init = None
    if block.init is not None:
        init = _under([s for s in nest if s.var in spatial], substitute(block.init, mapping), fresh=True)
    return with_body(block.with_(iters=tuple(iters)), body, init)


def _under(loops: Sequence[For], body: Stmt, fresh: bool = False) -> Stmt:
    """``body`` under ``loops``, with variables of their own if ``fresh``."""
    renamed: dict[Expr, Expr] = {}
    nest = body
    for loop in reversed(loops):
        var = loop.var
        if fresh:
            var = loop_var(loop.var.name, loop.extent)
            renamed[loop.var] = var
        nest = For(var, loop.extent, nest)
    return simplify_stmt(substitute(nest, renamed))


def splits_of(tree: Tree, nest: Sequence[For], block: Block, what: str) -> list[Split]:
    """For each iterator of ``block``, how ``nest`` moves it. Raises ScheduleError when not in whole tiles."""
    inner = {loop.var: loop.extent for loop in nest}
    used: dict[Var, IterVar] = {}
    splits = [_split(tree, it, inner, block, what) for it in block.iters]
    for split in splits:
        for var, _ in split.digits:
            if var in used:
                raise failure(
                    tree,
                    f"{what}: loop '{var.name}' drives both '{used[var].var.name}' and "
                    f"'{split.it.var.name}' of block '{block.name}'",
                    block,
                    hint="split and reorder loops so that each one moves one iterator",
                )
            used[var] = split.it
    for loop in nest:
        if loop.var not in used and not prove(loop.extent.eq(1)):
            raise failure(
                tree,
                f"{what}: loop '{loop.var.name}' drives no iterator of block '{block.name}'; its iterations "
                "repeat each other",
                loop,
                hint="leave the loop outside",
            )
    return splits


def _split(tree: Tree, it: IterVar, inner: Mapping[Var, Expr], block: Block, what: str) -> Split:
    binding = simplify(it.binding)
    if not free_vars(binding) & inner.keys():
        return Split(it, binding, as_expr(1), ())

    def refuse(reason: str) -> Exception:
        return failure(
            tree,
            f"{what}: iterator '{it.var.name}' of block '{block.name}' is bound to {binding!r}, {reason}",
            block,
            hint="the loops inside must run through whole tiles, as those that split makes do",
        )

    env = Simplifier()
    form = affine(binding, inner)
    if form is None or any(not isinstance(atom, Var) for atom in form.terms):
        raise refuse("which is not linear in the loops inside")
    steps = [(step_size(k, env), atom) for atom, k in form.terms.items()]
    known = [(step, atom) for step, atom in steps if step is not None]
    ordered = ascending(known, env) if len(known) == len(steps) else None
    count: Expr = as_expr(1)
    digits: list[tuple[Var, Expr]] = []
    for step, atom in ordered or ():
        assert isinstance(atom, Var)
        if form.terms[atom] is step and prove(step.eq(count)):
            digits.append((atom, step))
            count = simplify(count * inner[atom])
    if len(digits) < len(form.terms):
        raise refuse("which the loops inside do not run through without gaps")
    base = simplify(form.base)
    rest = simplify(base // count)
    if not prove((rest * count).eq(base)):
        raise refuse(f"which does not advance in steps of {count!r} outside")
    return Split(it, rest, count, tuple(digits))
