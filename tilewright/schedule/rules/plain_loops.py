"""What is always possible: the loops as they are, threads outside and vectors inside where that is legal."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Var
from tilewright.ir.sizes import typical_size
from tilewright.ir.stmt import For
from tilewright.ir.visit import const_int, find_blocks, stores_of, walk_stmt
from tilewright.schedule.rules.common import (
    block_named,
    loop_of,
    loops_by_iter,
    own_loops,
    parallelize,
    pick,
    powers,
)
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Shortest vectors that are considered.
MIN_LANES = 4
#: What a dimension that is not known is taken for, to judge whether threads pay.
SYMBOLIC_SIZE = 1024


def schedule_plainly(sch: Schedule, target: Target) -> Schedule:
    """``sch`` with every nest of serial loops run on threads along its outermost loop and in vectors along
    its innermost one, where these are legal. Never fails."""
    untouched = [
        b.name
        for b in find_blocks(sch.func.body)
        if all(s.kind == "serial" for s in _nest(sch, BlockRef(b.name)))
    ]
    for name in untouched:
        for step in (_vectorize, _parallelize):
            trial = sch.copy()
            try:
                step(trial, BlockRef(name), target)
            except ScheduleError:
                continue
            sch = trial
    return sch


def _vectorize(sch: Schedule, ref: BlockRef, target: Target) -> None:
    """Vectors along the iterator that the output's last dimension walks, moved inwards of the others."""
    block = block_named(sch, ref.name)
    stores = list(stores_of(block.body))
    loops = loops_by_iter(sch, ref)
    index = stores[0].indices[-1] if stores and stores[0].indices else None
    if not isinstance(index, Var) or index not in loops:
        raise ScheduleError(f"'{ref.name}' has no loop for vectors")
    inner = loops[index]
    others = [loop for loop in own_loops(sch, ref) if loop != inner]
    lanes = target.lanes(max(*(dt.bits(s.buffer.dtype) for s in stores), 8))
    extent = const_int(loop_of(sch, inner).extent)
    if others:
        sch.reorder(*others, inner)
    if extent is not None and extent <= lanes:
        sch.vectorize(inner)
        return
    width = pick(sch, ref, "lanes", powers(min(MIN_LANES, lanes), lanes), lanes)
    _, lane = sch.split(inner, [None, width])
    sch.vectorize(lane)


def _parallelize(sch: Schedule, ref: BlockRef, target: Target) -> None:
    nest = _nest(sch, ref)
    if not nest or nest[0].kind != "serial":
        raise ScheduleError(f"'{ref.name}' has no loop for threads")
    block = block_named(sch, ref.name)
    work = 1
    for it in block.iters:
        size = typical_size(it.extent)
        work *= SYMBOLIC_SIZE if size is None else max(size, 1)
    parallelize(sch, LoopRef(nest[0].var), work * 8, target)


def _nest(sch: Schedule, ref: BlockRef) -> list[For]:
    around = {loop.var for loop in sch.get_loops(ref)}
    return [s for s in walk_stmt(sch.func.body) if isinstance(s, For) and s.var in around]
