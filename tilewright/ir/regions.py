"""Which parts of which buffers a statement reads and writes."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.linear import linear
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Buffer, For, Range, Region, Stmt, Store
from tilewright.ir.visit import all_exprs, free_vars, loads_of, stores_of, walk_stmt


def point_region(buffer: Buffer, indices: tuple[Expr, ...]) -> Region:
    """The region that is one element."""
    one = as_expr(1)
    return Region(buffer, tuple(Range(i, one) for i in indices))


def local_loops(body: Stmt | None) -> dict[Var, Expr]:
    """The loops inside a block's body, those that tensor calls stand for included: variable to extent."""
    if body is None or isinstance(body, Store):
        return {}
    return {s.var: s.extent for s in walk_stmt(body) if isinstance(s, For)}


def hull_region(buffer: Buffer, indices: tuple[Expr, ...], loops: Mapping[Var, Expr]) -> Region:
    """The smallest box that holds the element at ``indices`` while ``loops`` run; a whole dimension where
    the index is not linear in them.
    """
    return Region(buffer, tuple(_hull(i, loops, dim) for i, dim in zip(indices, buffer.shape, strict=True)))


def _hull(index: Expr, loops: Mapping[Var, Expr], dim: Expr) -> Range:
    if not free_vars(index) & loops.keys():
        return Range(index, as_expr(1))
    form = linear(simplify(index))
    if form is None or any(free_vars(atom) & loops.keys() for atom in form.terms if atom not in loops):
        return Range(as_expr(0), dim)
    low: Expr = as_expr(form.const)
    span: Expr = as_expr(1)
    for atom, k in form.terms.items():
        steps = loops.get(atom) if isinstance(atom, Var) else None
        if steps is None:
            low = low + atom * k
            continue
        low = low + (steps - 1) * min(k, 0)
        span = span + (steps - 1) * abs(k)
    return Range(simplify(low), simplify(span))


def block_regions(body: Stmt, init: Stmt | None = None) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
    """Reads and writes of a block body: one region per distinct access, a box where loops inside move it.

    Reading the element that the block itself accumulates into is not listed as a read.
    """
    writes: list[Region] = []
    reads: list[Region] = []
    inner = {**local_loops(init), **local_loops(body)}

    def region(buffer: Buffer, indices: tuple[Expr, ...]) -> Region:
        return hull_region(buffer, indices, inner) if inner else point_region(buffer, indices)

    written: set[tuple[Buffer, tuple[Expr, ...]]] = set()
    for part in [body] if init is None else [init, body]:
        for store in stores_of(part):
            written.add((store.buffer, store.indices))
            touched = region(store.buffer, store.indices)
            if touched not in writes:
                writes.append(touched)
    for e in all_exprs(body):
        for node in loads_of(e):
            if (node.buffer, node.indices) not in written:
                touched = region(node.buffer, node.indices)
                if touched not in reads:
                    reads.append(touched)
    return tuple(reads), tuple(writes)
