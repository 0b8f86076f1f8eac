"""Blocks without reductions: contiguous vectors inside, threads outside."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.visit import const_int
from tilewright.schedule.rules.analysis import block_info
from tilewright.schedule.rules.common import (
    block_named,
    extent_of,
    loop_of,
    loops_by_iter,
    own_loops,
    parallelize,
    pick,
    powers,
)
from tilewright.schedule.rules.transpose import find_transposition, schedule_transposition
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Elements that one iteration of the parallel loop should at least write when there is only one loop.
CHUNK = 2048
#: Shortest vectors that are considered.
MIN_LANES = 4


def schedule_injective(sch: Schedule, ref: BlockRef, target: Target, tiled: bool = True) -> None:
    """Vectorize the axis that the output walks contiguously, fuse the others and run them on threads.

    ``tiled``: go by register tiles where operands are read along another axis. Raises ScheduleError where a
    step is not legal.
    """
    info = block_info(block_named(sch, ref.name))
    if info is None:
        raise ScheduleError(f"'{ref.name}' has more than one store")
    plan = find_transposition(info, target) if tiled else None
    if plan is not None:
        schedule_transposition(sch, ref, plan, target)
        return
    lanes = target.lanes(max(dt.bits(info.store.buffer.dtype), 8))
    widest = max([dt.bits(info.store.buffer.dtype), *(dt.bits(a.buffer.dtype) for a in info.loads)])
    lanes = min(lanes, target.lanes(max(widest, 8)))
    # Loops that hold other blocks too, such as the steps of a recurrence, are not this block's to move.
    own = own_loops(sch, ref)
    loops = {var: loop for var, loop in loops_by_iter(sch, ref).items() if loop in own}
    moving = [v for v in info.spatial if v in loops]
    if not moving:
        return
    # Last what the output walks contiguously: stores do not scatter.
    moving.sort(key=lambda v: info.out.stride(v) == 1)
    order = [loops[v] for v in moving]
    if len(order) > 1:
        sch.reorder(*order)
    # Memory-bound work: count bytes as operations so that large copies go to threads.
    work = max(info.flops(), info.bytes_touched()) * 4
    inner = order[-1]
    outer = order[:-1]
    extent = extent_of(sch, inner)
    if not outer and extent >= 2 * CHUNK:
        size = pick(sch, ref, "chunk", powers(512, min(extent, 1 << 16)), CHUNK)
        chunk, inner = sch.split(inner, [None, size])
        outer = [chunk]
    if outer:
        fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
        parallelize(sch, fused, work, target)
    vectorize_inner(sch, ref, inner, lanes)


def vectorize_inner(sch: Schedule, ref: BlockRef, loop: LoopRef, lanes: int) -> None:
    """Vectorize ``loop`` of block ``ref`` in chunks of ``lanes``; one that is shorter becomes a vector of its
    own length. Several vectors in a row may be unrolled."""
    extent = const_int(loop_of(sch, loop).extent)
    if extent == 1:
        return
    if extent is not None and extent <= lanes:
        sch.vectorize(loop)
        return
    width = pick(sch, ref, "lanes", powers(min(MIN_LANES, lanes), lanes), lanes)
    unroll = pick(sch, ref, "unroll", (1, 2, 4, 8), 1)
    if unroll == 1:
        _, lane = sch.split(loop, [None, width])
    else:
        _, several, lane = sch.split(loop, [None, unroll, width])
        sch.unroll(several)
    sch.vectorize(lane)
