"""Which parts of which buffers a statement reads and writes."""

from __future__ import annotations

from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.stmt import Buffer, Range, Region, Stmt
from tilewright.ir.visit import all_exprs, loads_of, stores_of


def point_region(buffer: Buffer, indices: tuple[Expr, ...]) -> Region:
    """The region that is one element."""
    one = as_expr(1)
    return Region(buffer, tuple(Range(i, one) for i in indices))


def block_regions(body: Stmt, init: Stmt | None = None) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
    """Reads and writes of a block body that has no loops inside: one point region per distinct access.

    Reading the element that the block itself accumulates into is not listed as a read.
    """
    writes: list[Region] = []
    reads: list[Region] = []
    for part in [body] if init is None else [init, body]:
        for store in stores_of(part):
            region = point_region(store.buffer, store.indices)
            if region not in writes:
                writes.append(region)
    written = {(w.buffer, tuple(r.lo for r in w.ranges)) for w in writes}
    for e in all_exprs(body):
        for node in loads_of(e):
            region = point_region(node.buffer, node.indices)
            if region not in reads and (node.buffer, node.indices) not in written:
                reads.append(region)
    return tuple(reads), tuple(writes)
