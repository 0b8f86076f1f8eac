"""Blocks without reductions: contiguous vectors inside, threads outside."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.schedule.rules.analysis import block_info
from tilewright.schedule.rules.common import block_named, extent_of, loops_by_iter, parallelize
from tilewright.schedule.rules.transpose import find_transposition, schedule_transposition
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Elements that one iteration of the parallel loop should at least write when there is only one loop.
CHUNK = 2048


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
    loops = loops_by_iter(sch, ref)
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
    if not outer and extent_of(sch, inner) >= 2 * CHUNK:
        chunk, inner = sch.split(inner, [None, CHUNK])
        outer = [chunk]
    if outer:
        fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
        parallelize(sch, fused, work, target)
    vectorize_inner(sch, inner, lanes)


def vectorize_inner(sch: Schedule, loop: LoopRef, lanes: int) -> None:
    """Vectorize ``loop`` in chunks of ``lanes``; one that is shorter becomes a vector of its own length."""
    extent = extent_of(sch, loop)
    if extent == 1:
        return
    if extent <= lanes:
        sch.vectorize(loop)
        return
    _, lane = sch.split(loop, [None, lanes])
    sch.vectorize(lane)
