"""The search space of a function: a few sketches, each a structure with open decisions."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule.default import Structure, compose, reduction_rules
from tilewright.schedule.gpu_default import structures_on_threads
from tilewright.schedule.rules import multi_level_tiling
from tilewright.schedule.rules.analysis import BlockInfo, block_info
from tilewright.schedule.rules.common import block_named
from tilewright.schedule.rules.inline import auto_inline
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.sketch import Sketch
from tilewright.target import Target

#: Axes that are tried for the rows of a register tile.
ROW_AXES = 2


def sketches(func: PrimFunc, target: Target) -> list[Sketch]:
    """The sketches of ``func``, at least one, the one nearest to the default schedule first.

    Structures that come out alike are given once. The last one, ``loops``, always exists: the loops as they
    are, with threads and vectors where legal.
    """
    found: dict[str, Sketch] = {}
    for name, structure in _structures(func, target):
        try:
            schedule = compose(Schedule(func, symbolic=True), target, structure)
        except ScheduleError:
            continue
        found.setdefault(str(schedule.trace), Sketch(name, func, schedule, target))
    return list(found.values())


def _structures(func: PrimFunc, target: Target) -> list[tuple[str, Structure]]:
    """Names and structures worth trying, the default's first."""
    inlined = Schedule(func)
    auto_inline(inlined)
    if target.gpu is not None:
        found = structures_on_threads(inlined)
        return [(name, Structure(whole, order, inline=inline)) for name, whole, order, inline in found]
    infos = [block_info(block_named(inlined, ref.name)) for ref in inlined.get_blocks()]
    reductions = [info for info in infos if info is not None and info.reduce]
    structures = [("default", Structure())]
    structures += [(whole, Structure(whole)) for whole in ("chain", "chain_lines", "parts", "rows")]
    if reductions:
        main = max(reductions, key=_work)
        known = reduction_rules(main, inlined.func, target)
        rules = [*known, *(r for r in ("tile", "lanes", "rows") if r not in known)]
        for first in rules:
            order = (first, *(r for r in rules if r != first))
            structures.append((f"{first}_each", Structure("blocks", order)))
        order = tuple(rules)
        rows = range(1, min(multi_level_tiling.row_axes(main), ROW_AXES))
        structures += [(f"{rules[0]}_row{row}", Structure("blocks", order, row=row)) for row in rows]
        structures.append((f"{rules[0]}_apart", Structure("blocks", order, inline=False)))
    structures.append(("loops", Structure("blocks", (), inline=False)))
    return structures


def _work(info: BlockInfo) -> int:
    try:
        return info.flops()
    except ScheduleError:
        return 0
