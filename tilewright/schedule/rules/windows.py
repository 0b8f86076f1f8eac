"""Sliding windows laid out one after the other before a contraction: im2col.

A block that copies overlapping windows writes each element several times. Whoever wrote it wants the
contraction to walk the copies instead of the image, so it is not inlined like other data movement. It is
computed inside the loop over the contraction's register tiles, on the windows of one tile's rows: what is
copied is read at once, from the first-level cache or the second, and the whole matrix never exists.
"""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr
from tilewright.ir.linear import linear
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Block
from tilewright.ir.visit import free_vars
from tilewright.schedule.rules.analysis import BlockInfo, block_info, is_data_movement
from tilewright.schedule.rules.common import block_named, loops_by_iter
from tilewright.schedule.rules.injective import vectorize_inner
from tilewright.schedule.schedule import BlockRef, Schedule
from tilewright.target import Target


def copies_windows(block: Block) -> bool:
    """Whether the block only copies, and some dimension of its source is walked by several iterators that
    meet the same elements: windows that overlap."""
    info = block_info(block) if is_data_movement(block) else None
    return info is not None and any(_overlaps(info, index) for a in info.loads for index in a.indices)


def _overlaps(info: BlockInfo, index: Expr) -> bool:
    form = linear(simplify(index))
    moving = [v for v in info.spatial if v in free_vars(index) and info.extent(v) > 1]
    if form is None or len(moving) < 2 or any(v not in form.terms for v in moving):
        return False
    reach = 1 + sum(abs(form.terms[v]) * (info.extent(v) - 1) for v in moving)
    return reach < info.points(moving)


def stage_windows(sch: Schedule, ref: BlockRef, target: Target) -> None:
    """Compute the windows that the scheduled reduction ``ref`` reads tile by tile. Raises ScheduleError where
    it reads none, or a step is not legal."""
    staged = [p for p in sch.get_producers(ref) if copies_windows(block_named(sch, p.name))]
    if not staged:
        raise ScheduleError(f"'{ref.name}' reads no windows")
    tile = sch.get_loops(ref)[0]
    for producer in staged:
        sch.compute_at(producer, tile)
        info = block_info(block_named(sch, producer.name))
        assert info is not None
        loops = loops_by_iter(sch, producer, below=tile)
        inner = next((v for v in info.spatial if v in loops and info.out.stride(v) == 1), None)
        if inner is not None:
            vectorize_inner(sch, producer, loops[inner], target.lanes(dt.bits(info.store.buffer.dtype)))
