"""The schedule that is used when nothing better is known: rules over blocks, for any PrimFunc."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

from tilewright.errors import ScheduleError
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.visit import find_blocks
from tilewright.schedule.gpu_default import compose_on_threads
from tilewright.schedule.rules import (
    lane_reduction,
    multi_level_tiling,
    row_parts,
    row_reduction,
    streamed,
    unrolled_chain,
)
from tilewright.schedule.rules.analysis import BlockInfo, block_info, is_injective
from tilewright.schedule.rules.common import block_named, extent_of
from tilewright.schedule.rules.injective import schedule_injective
from tilewright.schedule.rules.inline import auto_inline
from tilewright.schedule.rules.plain_loops import schedule_plainly
from tilewright.schedule.rules.tensorize import find_instruction, inline_but_operands, tile_by_instruction
from tilewright.schedule.rules.windows import stage_windows
from tilewright.schedule.schedule import BlockRef, Schedule
from tilewright.target import Target

#: Computing an element this often is still padding to whole vectors, not repeated work.
MAX_REPEAT = 2


@dataclasses.dataclass(frozen=True)
class Structure:
    """The choices that give a schedule its shape; what is left open in them are decisions.

    Attributes:
        whole: a rule for the function as a whole: ``chain``, ``chain_lines``, ``parts``, ``rows``, or none
            of them (``blocks``); None takes the first that is known to be good.
        reductions: rules to try on each reduction, in this order; None: those known to be good.
        row: which axis gives register tiles their rows, best first.
        inline: which producers disappear into reductions: what pays (True), or none (False).
        pack: whether constant operands are laid out in the order in which tiles read them, where that can
            make a difference.
        window: whether short windows are unrolled as a whole.
    """

    whole: str | None = None
    reductions: tuple[str, ...] | None = None
    row: int = 0
    inline: bool = True
    pack: bool = True
    window: bool = False


def default_schedule(func: PrimFunc, target: Target) -> Schedule:
    """Schedule ``func`` for ``target`` without any measurement.

    A rule that meets a program it cannot schedule leaves those blocks to the next one; in the end plain
    loops are always legal.
    """
    return compose(Schedule(func), target, Structure())


def compose(sch: Schedule, target: Target, structure: Structure) -> Schedule:
    """Apply the rules that ``structure`` names to ``sch``, a schedule without instructions yet.

    Raises ScheduleError when a rule named for the whole function does not apply.
    """
    if target.gpu is not None:
        order = structure.reductions
        return compose_on_threads(sch, target, structure.whole, order, structure.inline)
    if structure.inline:
        inline_but_operands(sch, target)
    else:
        auto_inline(sch, into_reductions=False)
    if structure.whole in (None, "chain", "chain_lines"):
        chain = unrolled_chain.find_chain(sch)
        if chain is not None:
            lines = structure.whole == "chain_lines"
            by_chain = partial(unrolled_chain.schedule_chain, chain=chain, target=target, whole_lines=lines)
            whole = _attempt(sch, by_chain)
            if whole is not None:
                return whole
        if structure.whole is not None:
            raise ScheduleError(f"'{sch.func.name}' is not a chain of small transforms")
    if structure.whole in (None, "parts"):
        parts = row_parts.find_parts(sch, target)
        if parts is not None:
            whole = _attempt(sch, partial(row_parts.schedule_parts, parts=parts, target=target))
            if whole is not None:
                return whole
        if structure.whole == "parts":
            raise ScheduleError(f"'{sch.func.name}' does not go over parts of rows")
    refs = [BlockRef(b.name) for b in find_blocks(sch.func.body)]
    infos = {ref: block_info(block_named(sch, ref.name)) for ref in refs}
    known = [info for info in infos.values() if info is not None]
    if structure.whole == "rows" or (structure.whole is None and _by_rows(sch, known, len(refs), target)):
        rows = None
        if len(known) == len(refs) and len(sch.func.outputs) == 1:
            rows = _attempt(sch, partial(row_reduction.schedule_rows, refs=refs, target=target))
        if rows is not None and not _repeats_work(sch, rows):
            return rows
        if structure.whole == "rows":
            raise ScheduleError(f"'{sch.func.name}' does not go row by row")
    original = {ref.name for ref in refs}
    done: set[str] = set()
    for ref, info in infos.items():
        if info is None or not info.reduce:
            continue
        scheduled = _reduction(sch, ref, info, target, structure)
        if scheduled is not None:
            beside = {n for n in original - {ref.name} if n in _names(sch) and _shares_nest(sch, n, ref)}
            sch = scheduled
            done |= {
                n
                for n in _names(sch) - beside
                if n not in original or _shares_nest(sch, n, ref)
            }
    for block in find_blocks(sch.func.body):
        if block.name not in done and is_injective(block):
            rule = partial(schedule_injective, ref=BlockRef(block.name), target=target)
            sch = _attempt(sch, rule) or _attempt(sch, partial(rule, tiled=False)) or sch
    return schedule_plainly(sch, target)


def _by_rows(sch: Schedule, known: list[BlockInfo], blocks: int, target: Target) -> bool:
    """Whether the function is best computed row by row as a whole."""
    consts = sch.func.attr("const_params", ())
    reductions = [info for info in known if info.reduce]
    tiled = any(multi_level_tiling.applies(info, consts) for info in reductions)
    lanes = any(lane_reduction.applies(info, target) for info in reductions)
    by_tiles = all(_prefers_tile(i, target) for i in reductions) and (
        len(reductions) == 1 or all(map(row_reduction.is_short, reductions))
    )
    if tiled or lanes or by_tiles or len(known) < blocks or len(sch.func.outputs) != 1:
        return False
    return row_reduction.applies(known)


def reduction_rules(info: BlockInfo, func: PrimFunc, target: Target) -> list[str]:
    """The rules known to be good for a reduction, best first."""
    consts = func.attr("const_params", ())
    rules = []
    if find_instruction(info, target, consts) is not None:
        rules.append("instruction")
    if multi_level_tiling.applies(info, consts):
        rules.append("tile")
    if lane_reduction.applies(info, target):
        rules.append("lanes")
    if _prefers_tile(info, target) and "tile" not in rules:
        rules.append("tile")
    return [*rules, "rows", "stream"]


def _reduction(
    sch: Schedule, ref: BlockRef, info: BlockInfo, target: Target, structure: Structure
) -> Schedule | None:
    """``sch`` with the reduction ``ref`` scheduled by the first rule that can."""
    known = reduction_rules(info, sch.func, target)
    steps: dict[str, Callable[[Schedule], None]] = {
        "instruction": partial(tile_by_instruction, ref=ref, target=target, row=structure.row),
        "tile": partial(
            multi_level_tiling.tile_reduction,
            ref=ref,
            target=target,
            row=structure.row,
            pack=structure.pack,
            window=structure.window,
        ),
        "lanes": partial(lane_reduction.split_lanes, ref=ref, target=target),
        "rows": partial(row_reduction.schedule_rows, refs=[ref], target=target),
        "stream": partial(streamed.stream_reduction, ref=ref, target=target),
    }
    for name in known if structure.reductions is None else structure.reductions:
        scheduled = _attempt(sch, steps[name])
        if scheduled is not None:
            return _attempt(scheduled, partial(stage_windows, ref=ref, target=target)) or scheduled
    return None


def _prefers_tile(info: BlockInfo, target: Target) -> bool:
    """Whether a tile that gathers its operands is the only way to vectors: better than element by element."""
    return multi_level_tiling.has_vector_axis(info) and not row_reduction.vectorizes(info, target)


def _repeats_work(before: Schedule, after: Schedule) -> bool:
    """Whether a block runs much more often than it did: rows that overlap compute what they share again."""
    if after.symbolic:
        return False
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


def _names(sch: Schedule) -> set[str]:
    """The blocks of a schedule by name."""
    return {b.name for b in find_blocks(sch.func.body)}


def _shares_nest(sch: Schedule, name: str, ref: BlockRef) -> bool:
    """Whether block ``name`` stands under the same outermost loop as ``ref``."""
    if name == ref.name:
        return True
    mine, theirs = sch.get_loops(BlockRef(name)), sch.get_loops(ref)
    return bool(mine) and bool(theirs) and mine[0].var is theirs[0].var
