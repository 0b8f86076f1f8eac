"""Reductions inside a recurrence: what they accumulate into stays in cache, weights stream past it.

The loop over steps holds several blocks, so the tile of a step cannot be merged with what follows it as
:mod:`multi_level_tiling` does. One step is a product of few rows, bound by reading its weights: each is read
once, in the order in which it lies, for all rows.
"""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.schedule.rules.analysis import block_info
from tilewright.schedule.rules.common import (
    PARALLEL_FLOPS,
    block_named,
    extent_of,
    loops_by_iter,
    own_loops,
)
from tilewright.schedule.rules.injective import vectorize_inner
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Elements of all rows together that are accumulated at a time: half of a small first-level cache.
ACCUMULATED = 4096


def stream_reduction(sch: Schedule, ref: BlockRef, target: Target) -> None:
    """Parts of the vector axis outside (on threads when there is enough work), then the reduction, then rows
    and vectors. Raises ScheduleError for a block that is alone in its loops, or has no vector axis."""
    info, own = block_info(block_named(sch, ref.name)), own_loops(sch, ref)
    loops = {var: loop for var, loop in loops_by_iter(sch, ref).items() if loop in own}
    if info is None or len(own) == len(sch.get_loops(ref)):
        raise ScheduleError(f"'{ref.name}' is not part of a recurrence")
    vector = next((v for v in info.spatial if v in loops and info.out.stride(v) == 1), None)
    if vector is None or any(a.stride(vector) not in (0, 1) for a in info.loads):
        raise ScheduleError(f"'{ref.name}' does not walk its operands along its result")
    rows = [loops[v] for v in info.spatial if v in loops and v is not vector]
    reduced = [loops[v] for v in info.reduce if v in loops]
    extent, lanes = extent_of(sch, loops[vector]), target.lanes(max(dt.bits(info.store.buffer.dtype), 8))
    height = 1
    for loop in rows:
        height *= extent_of(sch, loop)
    depth = info.points(info.reduce)
    work = 2 * height * extent * depth
    width = max(ACCUMULATED // height, lanes)
    if work >= PARALLEL_FLOPS:
        width = min(width, -(-extent // max(target.cores, 1)))
    width = max(-(-width // lanes) * lanes, lanes)
    inner = loops[vector]
    part: list[LoopRef] = []
    if width < extent:
        outer, inner = sch.split(inner, [None, width])
        part = [outer]
    sch.reorder(*part, *reduced, *rows, inner)
    if part and work >= PARALLEL_FLOPS:
        sch.parallel(part[0])
    vectorize_inner(sch, ref, inner, lanes)
