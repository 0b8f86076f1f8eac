"""Dependences between the iterations of a loop, from block iterators and access regions alone.

A loop's iterations are independent when every block in it either writes elements of its own in each
iteration, or writes a buffer that lives only inside the loop, of which each iteration has a copy, and that is
complete again in each iteration; and when nothing read in an iteration was written in another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from tilewright.ir.bounds import affine
from tilewright.ir.expr import TRUE, BinOp, Cmp, Expr, Load, Var, all_of, as_expr, conjuncts, load
from tilewright.ir.itermap import ascending, determined_vars, step_size
from tilewright.ir.launch import is_private
from tilewright.ir.linear import linear
from tilewright.ir.regions import local_loops
from tilewright.ir.simplify import Simplifier, prove, simplify
from tilewright.ir.stmt import Block, Buffer, For, IterVar, Range
from tilewright.ir.visit import const_int, free_vars, substitute_expr, uses, walk_expr
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.region import touched
from tilewright.schedule.state import Tree, binding_vars, reduction_op
from tilewright.schedule.threads import require_launches

_proved: ContextVar[bool] = ContextVar("proved", default=False)
_later: ContextVar[bool] = ContextVar("later", default=False)


@contextmanager
def proved_before() -> Iterator[None]:
    """Inside, independence of iterations and completeness of reads are not proved: for whoever replays steps
    of which both are known (:mod:`tilewright.schedule.replay`)."""
    before = _proved.set(True)
    try:
        yield
    finally:
        _proved.reset(before)


@contextmanager
def rechecked_later() -> Iterator[None]:
    """Inside, steps do not look again at loops whose kinds were proved before: for whoever takes many steps
    and calls :func:`recheck_kinds` on what they have come to."""
    before = _later.set(True)
    try:
        yield
    finally:
        _later.reset(before)


def require_independent(tree: Tree, loop: For, what: str) -> None:
    """Raise ScheduleError, beginning with ``what``, unless the iterations of ``loop`` may run in any order.

    A vectorized loop may also drive an associative reduction: its lanes are then combined.
    """
    if const_int(loop.extent) == 1 or _proved.get():
        return
    blocks = tree.blocks_below(loop)
    for block in blocks:
        require_no_recurrence(tree, block, what)
    for block in blocks:
        if loop.var in binding_vars(block, "reduce"):
            if loop.kind == "vectorized" and len(blocks) == 1 and _combines_lanes(tree, block, loop):
                continue
            raise failure(
                tree,
                f"{what}: loop '{loop.var.name}' drives the reduction of block '{block.name}'",
                loop,
                hint="only loops over spatial iterators have independent iterations; use rfactor to split "
                "off a part of the reduction as a spatial dimension",
            )
        _require_own_elements(tree, loop, block, what)
    for block in blocks:
        _require_complete_reads(tree, loop, block, what)


def require_no_recurrence(tree: Tree, block: Block, what: str) -> None:
    """Raise ScheduleError when ``block`` reads other elements of a buffer that it writes."""
    access = tree.accesses[block.name]
    for buffer in access.written & access.loads.keys():
        raise failure(
            tree,
            f"{what}: block '{block.name}' reads elements of '{buffer.name}' that other instances of it "
            "write",
            block,
            hint="such a recurrence runs in its given order only",
        )


def _combines_lanes(tree: Tree, block: Block, loop: For) -> bool:
    """Whether ``block`` accumulates with an associative operator into one element as ``loop`` runs.

    An initialisation still in the block does no harm, since lowering takes it out of all reduce loops, unless
    the loop repeats instances of the block, each of which starts anew.
    """
    store, var = tree.inner_store(block), loop.var
    if block.init is not None:
        bindings = [it.binding for it in block.iters]
        if var not in determined_vars(bindings, {var}, block.predicate, {var: loop.extent}):
            return False
    driven = {it.var for it in block.iters if var in free_vars(it.binding)}
    moves = any(free_vars(index) & driven for index in store.indices)
    return not moves and var not in binding_vars(block, "spatial") and reduction_op(store) is not None


def _require_own_elements(tree: Tree, loop: For, block: Block, what: str) -> None:
    """Every iteration of ``loop`` writes elements of its own, or the buffer is private to an iteration."""
    below = {inner.var: inner.extent for inner in [loop, *tree.loops_between(loop, block)]}
    spatial = [it.binding for it in block.iters if it.kind == "spatial"]
    if loop.var in determined_vars(spatial, set(below), block.predicate, below):
        return
    for buffer in tree.accesses[block.name].written:
        users = {b.name: b for b in [*tree.writers(buffer), *tree.readers(buffer)]}
        outside = next((b for b in users.values() if not tree.is_below(b, loop)), None)
        if tree.is_param(buffer) or outside is not None or not is_private(loop, buffer):
            place = "is a parameter" if tree.is_param(buffer) else "is shared by the lanes"
            if outside is not None:
                place = f"is also used by block '{outside.name}' outside the loop"
            elif loop.kind.startswith("thread:"):
                place = f"is in {buffer.scope} memory, where they have one copy together"
            raise failure(
                tree,
                f"{what}: different iterations of loop '{loop.var.name}' write the same elements of "
                f"'{buffer.name}' in block '{block.name}', and '{buffer.name}' {place}",
                loop,
                block,
                hint="the loop must appear in a spatial binding of every block below it",
            )


def _require_complete_reads(tree: Tree, loop: For, block: Block, what: str) -> None:
    """What ``block`` reads of buffers written in the loop was written in the same iteration."""
    access = tree.accesses[block.name]
    reads = list(access.loads)
    if access.accumulates and block.init is None:
        reads.extend(access.written - set(reads))
    for buffer in reads:
        writers = [w for w in tree.writers(buffer) if w is not block and tree.is_below(w, loop)]
        if writers and not covers(tree, writers[-1], block, buffer):
            raise failure(
                tree,
                f"{what}: block '{block.name}' may read elements of '{buffer.name}' that block "
                f"'{writers[-1].name}' writes in another iteration of loop '{loop.var.name}'",
                loop,
                writers[-1],
                block,
                hint="compute the producer completely inside the iteration (compute_at), or before the loop",
            )


def recheck_kinds(tree: Tree) -> None:
    """Raise ScheduleError when a parallel, vectorized, virtual or thread loop no longer has independent
    iterations, or loops over thread axes no longer make a launch."""
    if _later.get():
        return
    for loop in tree.loops.values():
        if loop.kind not in ("serial", "unrolled"):
            name = loop.kind.removeprefix("thread:")
            require_independent(tree, loop, f"the {name} loop '{loop.var.name}' would become illegal")
    require_launches(tree, "the loops over thread axes would become illegal")


def covers(tree: Tree, writer: Block, reader: Block, buffer: Buffer) -> bool:
    """Whether, in each iteration of the loops around both, ``writer`` first writes all that ``reader`` then
    reads of ``buffer``.

    False means "not known".
    """
    if tree.order[writer] > tree.order[reader]:
        return False
    shared = tree.common_loops(writer, reader)
    if not shared:
        return True
    if any(loop.var in binding_vars(writer, "reduce") for loop in shared):
        return False
    inner = tree.loops_above(reader)[len(shared) :]
    alone = {loop.var for loop in inner}
    holds = all_of([c for c in conjuncts(reader.predicate) if not uses(c, alone)])
    written = written_ranges(tree, writer, tree.loops_above(writer)[len(shared) :], holds)
    if written is None:
        return False
    for node in _loads(tree, reader, buffer):
        for r, w, dim in zip(touched(reader, node.indices, inner), written, buffer.shape, strict=True):
            starts = prove(w.lo <= 0) or (r is not None and prove(w.lo <= r.lo))
            end = w.lo + w.extent
            stops = prove(dim <= end) or (r is not None and prove(r.lo + r.extent <= end))
            if not (starts and stops):
                return False
    return True


def _loads(tree: Tree, block: Block, buffer: Buffer) -> list[Load]:
    access = tree.accesses[block.name]
    loads = list(access.loads.get(buffer, ()))
    if buffer in access.written:
        own = load(buffer, tree.inner_store(block).indices)
        assert isinstance(own, Load)
        loads.append(own)
    return loads


def written_ranges(tree: Tree, block: Block, inner: list[For], holds: Expr = TRUE) -> list[Range] | None:
    """Per dimension the gapless range that ``block`` writes as ``inner`` run, up to the buffer's edges, in
    those iterations of the loops outside in which ``holds`` does; None when not known.
    """
    store = tree.inner_store(block)
    bindings: dict[Expr, Expr] = {it.var: it.binding for it in block.iters}
    extents = {loop.var: loop.extent for loop in inner} | local_loops(block.body)
    indices = [simplify(substitute_expr(index, bindings)) for index in store.indices]
    every = set(extents)
    for cond in _limits(block, store.indices, store.buffer, holds):
        joined = _limited(cond, indices, extents)
        if joined is None or free_vars(cond) & every - extents.keys():
            return None
        indices, extents = joined
    indices, extents = _fused(indices, extents)
    used: dict[Var, list[Expr]] = {}
    result = []
    for index in indices:
        r = _dense(index, extents, used)
        if r is None:
            return None
        result.append(r)
    return result if all(_independent_digits(v, atoms, extents[v]) for v, atoms in used.items()) else None


def _limits(block: Block, indices: tuple[Expr, ...], buffer: Buffer, holds: Expr) -> list[Expr]:
    """The conditions of the predicate that may leave an element of the buffer out: not those that exclude
    only instances that would write outside of it, or all but the first along reduce loops, and not what
    ``holds`` implies.
    """
    if block.predicate is TRUE:
        return []
    full = dict(zip(indices, buffer.shape, strict=True))
    begin: dict[Expr, Expr] = {var: as_expr(0) for var in local_loops(block.body)}
    inside: list[Expr] = []
    for it in block.iters:
        if it.kind == "spatial" and (full.get(it.var) is it.extent or _overruns(it, full, begin)):
            inside += [as_expr(0) <= it.binding, it.binding < it.extent]
    known = Simplifier().assuming(all_of([simplify(c) for c in inside])).assuming(holds)
    reduced = binding_vars(block, "reduce") - binding_vars(block, "spatial")
    at_first: dict[Expr, Expr] = {v: as_expr(0) for v in reduced}
    return [
        c
        for c in conjuncts(block.predicate)
        if known.simplify(c) is not TRUE
        and not (free_vars(c) <= reduced and prove(substitute_expr(c, at_first)))
    ]


def _limited(
    cond: Expr, indices: list[Expr], extents: dict[Var, Expr]
) -> tuple[list[Expr], dict[Var, Expr]] | None:
    """Indices and loops where ``cond`` cuts the overrun of a split loop, ``outer*4 + inner < n``: these loops
    become one of ``n`` iterations. None when it is another condition.
    """
    form = None
    if isinstance(cond, Cmp) and cond.op in ("lt", "le"):
        form = affine(simplify(cond.b - cond.a - (1 if cond.op == "lt" else 0)), extents)
    if form is None or not all(atom in extents for atom in form.terms):
        return None
    index: Expr = as_expr(0)  # the index of the loop before it was split
    for atom, coefficient in form.terms.items():
        index = index - atom * coefficient
    index, count = simplify(index), simplify(form.base + 1)
    last = next((v for v in extents if form.terms.get(v) is as_expr(-1)), None)
    full = _dense(index, extents, {})
    fits = full is not None and const_int(full.lo) == 0 and prove(count <= full.extent) and prove(count >= 1)
    if last is None or not fits:
        return None
    top = const_int(count)
    whole = Var(last.name, lo=0, hi=None if top is None else top - 1)
    parts = {v for v in extents if v in form.terms}
    at: dict[Expr, Expr] = {last: simplify(whole - (index - last))}
    rewritten = [simplify(substitute_expr(e, at)) for e in indices]
    if any(uses(e, parts) for e in rewritten):
        return None
    return rewritten, {v: n for v, n in extents.items() if v not in parts} | {whole: count}


def _fused(indices: list[Expr], extents: dict[Var, Expr]) -> tuple[list[Expr], dict[Var, Expr]]:
    """Indices and loops where several loops that only move quotients and remainders of one sum, as in
    ``(outer*8 + inner) // 3`` and ``(outer*8 + inner) % 3``, are one loop again.
    """
    for e in indices:
        for node in walk_expr(e):
            if not (isinstance(node, BinOp) and node.op == "floordiv") or isinstance(node.a, Var):
                continue
            parts = free_vars(node.a)
            if not parts or not parts <= extents.keys():
                continue
            used: dict[Var, list[Expr]] = {}
            whole = _dense(node.a, {v: extents[v] for v in parts}, used)
            if whole is None or const_int(whole.lo) != 0:
                continue
            if not all(_independent_digits(v, atoms, extents[v]) for v, atoms in used.items()):
                continue
            count = const_int(whole.extent)
            fused = Var("fused", lo=0, hi=None if count is None else count - 1)
            # Simplified, the remainder may be one of another sum.
            digits: dict[Expr, Expr] = {node: fused // node.b, simplify(node.a % node.b): fused % node.b}
            rewritten = [simplify(substitute_expr(i, digits)) for i in indices]
            if not any(uses(i, parts) for i in rewritten):
                rest = {v: n for v, n in extents.items() if v not in parts}
                return _fused(rewritten, rest | {fused: whole.extent})
    return indices, extents


def _overruns(it: IterVar, full: Mapping[Expr, Expr], begin: Mapping[Expr, Expr]) -> bool:
    """Whether the block would write outside of the buffer, from the first iteration of its own loops
    (``begin``) on, if ``it`` reached its extent.
    """
    for index, dim in full.items():
        form = linear(index)
        if form is None or form.terms.get(it.var, 0) <= 0 or any(form.terms.get(v, 0) < 0 for v in begin):
            continue
        alone = all(atom in begin or atom is it.var or not uses(atom, {it.var}) for atom in form.terms)
        if alone and prove(dim <= substitute_expr(index, {**begin, it.var: it.extent})):
            return True
    return False


def _dense(e: Expr, extents: dict[Var, Expr], used: dict[Var, list[Expr]]) -> Range | None:
    """The range that ``e`` fills without gaps, or None; notes in ``used`` which digits of which loop it
    consumes.
    """
    form = affine(e, extents)
    if form is None:
        return None
    env = Simplifier()
    base: Expr = form.base
    terms: list[tuple[Expr, Expr]] = []  # |coefficient|, number of values
    for atom, coefficient in form.terms.items():
        count = _digit_count(atom, extents)
        step = step_size(coefficient, env)
        if count is None or step is None:
            return None
        used.setdefault(next(iter(free_vars(atom) & extents.keys())), []).append(atom)
        if step is not env.simplify(coefficient):
            base = base + (count - 1) * coefficient
        terms.append((step, count))
    ordered = ascending(terms, env)
    if ordered is None:
        return None
    reach: Expr = as_expr(1)
    for step, count in ordered:
        if not env.prove(reach >= step):
            return None
        reach = env.simplify(reach + (count - 1) * step)
    return Range(simplify(base), reach)


def _digit_count(atom: Expr, extents: dict[Var, Expr]) -> Expr | None:
    """How many values ``0 ..`` a loop variable, or its quotient or remainder by another number, takes."""
    if isinstance(atom, Var):
        return extents[atom]
    if not isinstance(atom, BinOp) or atom.op not in ("floordiv", "mod") or not isinstance(atom.a, Var):
        return None
    extent, divisor = extents[atom.a], atom.b
    size, n = const_int(extent), const_int(divisor)
    if size is not None and n is not None and n > 0:
        return as_expr((size - 1) // n + 1 if atom.op == "floordiv" else min(size, n))
    if free_vars(divisor) & extents.keys() or not _divides(divisor, extent):
        return None
    return simplify(extent // divisor) if atom.op == "floordiv" else divisor


def _divides(divisor: Expr, extent: Expr) -> bool:
    return prove(divisor >= 1) and prove((extent % divisor).eq(0))


def _independent_digits(var: Var, atoms: list[Expr], extent: Expr) -> bool:
    """Whether all combinations of the digits ``atoms`` of one loop variable occur."""
    if len(atoms) == 1:
        return True
    if len(atoms) != 2 or not all(isinstance(a, BinOp) for a in atoms):
        return False
    (a, b) = atoms
    assert isinstance(a, BinOp)
    assert isinstance(b, BinOp)
    return {a.op, b.op} == {"floordiv", "mod"} and a.b is b.b and _divides(a.b, extent)


def require_covered(tree: Tree, block: Block, what: str) -> None:
    """Raise ScheduleError unless all that ``block`` reads is complete when it runs."""
    if _proved.get():
        return
    for producer in tree.producers(block):
        for buffer in tree.accesses[producer.name].written & tree.accesses[block.name].loads.keys():
            if not covers(tree, producer, block, buffer):
                raise failure(
                    tree,
                    f"{what}: block '{block.name}' would read elements of '{buffer.name}' before block "
                    f"'{producer.name}' has written them",
                    producer,
                    block,
                    hint="move the producer there first, or choose a loop around all that it writes",
                )
