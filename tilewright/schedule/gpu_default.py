"""Schedules for GPU targets when nothing better is known, and the structures of their search space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tilewright.errors import ScheduleError
from tilewright.ir.visit import find_blocks
from tilewright.schedule.rules.analysis import BlockInfo, block_info, is_injective
from tilewright.schedule.rules.common import block_named
from tilewright.schedule.rules.gpu_common import is_bound
from tilewright.schedule.rules.gpu_elements import bind_elements, bind_plainly
from tilewright.schedule.rules.gpu_rows import schedule_rows_on_threads
from tilewright.schedule.rules.gpu_tiling import reuses, tile_in_shared_memory
from tilewright.schedule.rules.inline import auto_inline
from tilewright.schedule.schedule import BlockRef, Schedule
from tilewright.target import Target

#: Rules for one reduction: tiles through shared memory, a row for each thread block, an output for each
#: thread.
REDUCTIONS = ("tile", "rows", "elements")


def compose_on_threads(
    sch: Schedule, target: Target, whole: str | None, order: tuple[str, ...] | None, inline: bool
) -> Schedule:
    """Apply rules for a GPU to ``sch``, a schedule without instructions yet.

    ``whole`` is ``rows`` for all blocks row by row, ``blocks`` for each by itself, None for what suits;
    ``order`` names the rules to try on each reduction (None: what suits). Raises ScheduleError when a rule
    named for the whole function does not apply.
    """
    sch = _attempt(sch, partial(auto_inline, into_reductions=inline)) or sch
    refs = sch.get_blocks()
    infos = {ref: block_info(block_named(sch, ref.name)) for ref in refs}
    reductions = [info for info in infos.values() if info is not None and info.reduce]
    if whole == "rows" or (whole is None and reductions and not any(map(_tiles, reductions))):
        rows = None
        if len(sch.func.outputs) == 1 and all(infos.values()):
            rows = _attempt(sch, partial(schedule_rows_on_threads, refs=refs, target=target))
        if rows is not None:
            return bind_plainly(rows, target)
        if whole == "rows":
            raise ScheduleError(f"'{sch.func.name}' does not go row by row")
    for ref, info in infos.items():
        if info is None or not info.reduce or is_bound(sch, ref):
            continue
        steps: dict[str, Callable[[Schedule], None]] = {
            "tile": partial(tile_in_shared_memory, ref=ref, target=target),
            "rows": partial(schedule_rows_on_threads, refs=[ref], target=target),
            "elements": partial(bind_elements, ref=ref, target=target),
        }
        suits = REDUCTIONS if _tiles(info) else REDUCTIONS[1:]
        for name in suits if order is None else order:
            scheduled = _attempt(sch, steps[name])
            if scheduled is not None:
                sch = scheduled
                break
    for block in find_blocks(sch.func.body):
        ref = BlockRef(block.name)
        if is_injective(block_named(sch, block.name)) and not is_bound(sch, ref):
            sch = _attempt(sch, partial(bind_elements, ref=ref, target=target)) or sch
    return bind_plainly(sch, target)


def structures_on_threads(sch: Schedule) -> list[tuple[str, str | None, tuple[str, ...] | None, bool]]:
    """Names of structures and how :func:`compose_on_threads` makes them, the default's first."""
    found: list[tuple[str, str | None, tuple[str, ...] | None, bool]] = [("default", None, None, True)]
    infos = [block_info(block_named(sch, ref.name)) for ref in sch.get_blocks()]
    if any(info is not None and info.reduce for info in infos):
        found.append(("rows", "rows", None, True))
        for first in REDUCTIONS:
            order = (first, *(r for r in REDUCTIONS if r != first))
            found.append((f"{first}_each", "blocks", order, True))
        found.append(("tile_apart", "blocks", REDUCTIONS, False))
    return [*found, ("loops", "blocks", (), False)]


def _tiles(info: BlockInfo) -> bool:
    try:
        return reuses(info)
    except ScheduleError:
        return False


def _attempt(sch: Schedule, rule: Callable[[Schedule], None]) -> Schedule | None:
    """A copy of ``sch`` with ``rule`` applied, or None when a step of it is not legal here."""
    trial = sch.copy()
    try:
        rule(trial)
    except ScheduleError:
        return None
    return trial
