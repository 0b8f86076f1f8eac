"""Reductions whose operands are contiguous only along a reduce iterator, over many outputs: a convolution to
one channel.

The contiguous iterator is split into lanes, and each lane gets a partial sum of its own. The partial sums
have a contiguous axis, the lanes, so they are computed by register tiles like any other reduction; a second,
short reduction adds the lanes up.
"""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Var
from tilewright.schedule.rules.analysis import BlockInfo, block_info
from tilewright.schedule.rules.common import block_named, loops_by_iter
from tilewright.schedule.rules.multi_level_tiling import tile_reduction
from tilewright.schedule.schedule import BlockRef, Schedule
from tilewright.target import Target

MIN_LANES = 4


def applies(info: BlockInfo, target: Target) -> bool:
    """A reduction of many outputs over several iterators, or over one too short to be worth vectors of its
    own."""
    contiguous = _contiguous(info)
    if contiguous is None or info.extent(contiguous) < MIN_LANES:
        return False
    lanes = target.lanes(dt.bits(info.store.buffer.dtype))
    moving = [v for v in info.reduce if info.extent(v) > 1]
    if info.points(info.spatial) < 4 * lanes or not any(info.out.stride(v) == 1 for v in info.spatial):
        return False
    return len(moving) > 1 or info.extent(contiguous) < 2 * lanes


def _contiguous(info: BlockInfo) -> Var | None:
    """The reduce iterator that every load that moves with it walks contiguously."""
    for var in info.reduce:
        moving = [a for a in info.loads if a.stride(var) != 0]
        if moving and all(a.stride(var) == 1 for a in moving):
            return var
    return None


def split_lanes(sch: Schedule, ref: BlockRef, target: Target) -> None:
    """Schedule ``ref`` as partial sums by lane and their sum. Raises ScheduleError where a step is not
    legal."""
    info = block_info(block_named(sch, ref.name))
    assert info is not None
    contiguous = _contiguous(info)
    if contiguous is None:
        raise ScheduleError(f"'{ref.name}' has no contiguous reduce iterator")
    loop = loops_by_iter(sch, ref)[contiguous]
    _, part = sch.split(
        loop, [None, _lanes(info.extent(contiguous), target.lanes(dt.bits(info.store.buffer.dtype)))]
    )
    partial = sch.rfactor(part, len(info.store.indices))
    tile_reduction(sch, partial, target)
    tile_reduction(sch, ref, target)


def _lanes(extent: int, widest: int) -> int:
    """The vector length that wastes least on ``extent``; the longest of equals."""
    candidates = []
    lanes = widest
    while lanes >= MIN_LANES:
        candidates.append(lanes)
        lanes //= 2
    return min(candidates, key=lambda n: (-(-extent // n) * n, -n))
