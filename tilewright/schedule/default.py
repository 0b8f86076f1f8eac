"""The schedule that is used when nothing better is known: rules over blocks, for any PrimFunc."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from tilewright.errors import ScheduleError
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.visit import find_blocks
from tilewright.schedule.rules import lane_reduction, multi_level_tiling, row_reduction, unrolled_chain
from tilewright.schedule.rules.analysis import BlockInfo, block_info, is_injective
from tilewright.schedule.rules.common import block_named, extent_of
from tilewright.schedule.rules.injective import schedule_injective
from tilewright.schedule.rules.inline import auto_inline
from tilewright.schedule.schedule import BlockRef, Schedule
from tilewright.target import Target

#: Computing an element this often is still padding to whole vectors, not repeated work.
MAX_REPEAT = 2


def default_schedule(func: PrimFunc, target: Target) -> Schedule:
    """Schedule ``func`` for ``target`` without any measurement.

    A rule that meets a program it cannot schedule leaves those blocks to the next one; in the end plain
    loops are always legal.
    """
    sch = Schedule(func)
    auto_inline(sch)
    chain = unrolled_chain.find_chain(sch)
    if chain is not None:
        whole = _attempt(sch, partial(unrolled_chain.schedule_chain, chain=chain, target=target))
        if whole is not None:
            return whole
    refs = [BlockRef(b.name) for b in find_blocks(sch.func.body)]
    infos = [block_info(block_named(sch, r.name)) for r in refs]
    known = [i for i in infos if i is not None]
    consts = func.attr("const_params", ())
    tiled = any(i.reduce and multi_level_tiling.applies(i, consts) for i in known)
    lanes = any(i.reduce and lane_reduction.applies(i, target) for i in known)
    reductions = [i for i in known if i.reduce]
    by_tiles = all(_prefers_tile(i, target) for i in reductions) and (
        len(reductions) == 1 or all(map(row_reduction.is_short, reductions))
    )
    if (
        not tiled
        and not lanes
        and not by_tiles
        and len(known) == len(infos)
        and len(func.outputs) == 1
        and row_reduction.applies(known)
    ):
        rows = _attempt(sch, partial(row_reduction.schedule_rows, refs=refs, target=target))
        if rows is not None and not _repeats_work(sch, rows):
            return rows
    original = {r.name for r in refs}
    done: set[str] = set()
    for ref, info in zip(refs, infos, strict=True):
        if info is None or not info.reduce:
            continue
        scheduled: Schedule | None = None
        tile = partial(multi_level_tiling.tile_reduction, ref=ref, target=target)
        if multi_level_tiling.applies(info, consts):
            scheduled = _attempt(sch, tile)
        if scheduled is None and lane_reduction.applies(info, target):
            scheduled = _attempt(sch, partial(lane_reduction.split_lanes, ref=ref, target=target))
        if scheduled is None and _prefers_tile(info, target):
            scheduled = _attempt(sch, tile)
        if scheduled is None:
            scheduled = _attempt(sch, partial(row_reduction.schedule_rows, refs=[ref], target=target))
        if scheduled is not None:
            sch = scheduled
            done |= {
                b.name
                for b in find_blocks(sch.func.body)
                if b.name not in original or _shares_nest(sch, b.name, ref)
            }
    for block in find_blocks(sch.func.body):
        if block.name not in done and is_injective(block):
            rule = partial(schedule_injective, ref=BlockRef(block.name), target=target)
            sch = _attempt(sch, rule) or _attempt(sch, partial(rule, tiled=False)) or sch
    return sch


def _prefers_tile(info: BlockInfo, target: Target) -> bool:
    """Whether a tile that gathers its operands is the only way to vectors: better than element by element."""
    return multi_level_tiling.has_vector_axis(info) and not row_reduction.vectorizes(info, target)


def _repeats_work(before: Schedule, after: Schedule) -> bool:
    """Whether a block runs much more often than it did: rows that overlap compute what they share again."""
    was, now = _runs(before), _runs(after)
    return any(now[name] > MAX_REPEAT * runs for name, runs in was.items() if name in now)


def _runs(sch: Schedule) -> dict[str, int]:
    """How often each block's body runs."""
    names = [b.name for b in find_blocks(sch.func.body)]
    return {n: math.prod(extent_of(sch, loop) for loop in sch.get_loops(BlockRef(n))) for n in names}


def _attempt(sch: Schedule, rule: Callable[[Schedule], None]) -> Schedule | None:
    """A copy of ``sch`` with ``rule`` applied, or None when a step of it is not legal here."""
    trial = sch.copy()
    try:
        rule(trial)
    except ScheduleError:
        return None
    return trial


def _shares_nest(sch: Schedule, name: str, ref: BlockRef) -> bool:
    """Whether block ``name`` stands under the same outermost loop as ``ref``."""
    if name == ref.name:
        return True
    mine, theirs = sch.get_loops(BlockRef(name)), sch.get_loops(ref)
    return bool(mine) and bool(theirs) and mine[0].var is theirs[0].var
