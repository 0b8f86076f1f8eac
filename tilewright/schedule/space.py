"""The search space of a function: a few sketches, each a structure with open decisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tilewright.errors import ScheduleError
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.schedule.default import Structure, compose, reduction_rules
from tilewright.schedule.dependence import recheck_kinds, rechecked_later
from tilewright.schedule.gpu_default import structures_on_threads
from tilewright.schedule.rules import multi_level_tiling
from tilewright.schedule.rules.analysis import BlockInfo, block_info
from tilewright.schedule.rules.common import block_named
from tilewright.schedule.rules.inline import auto_inline
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.sketch import Sketch
from tilewright.schedule.state import Tree
from tilewright.target import Target

#: Axes that are tried for the rows of a register tile.
ROW_AXES = 2

#: Makes a symbolic schedule of a function for a target; None, or a ScheduleError, where it does not apply.
SketchRule: TypeAlias = Callable[[PrimFunc, Target], Schedule | None]
_RULES: dict[str, SketchRule] = {}


def register_sketch(name: str, rule: SketchRule) -> None:
    """Add the schedules that ``rule`` makes to the search space of every function, as sketches of that name.

    The rule begins with ``Schedule(func, symbolic=True)`` and leaves numbers open with ``decide``; legality
    is checked by the primitives that it applies. Raises ScheduleError for a name that is taken.
    """
    if not name.isidentifier():
        raise ScheduleError(f"{name!r} cannot name a sketch", hint="use an identifier such as 'my_tiles'")
    if name in _RULES:
        raise ScheduleError(f"there is a rule for sketches '{name}' already", hint="choose another name")
    _RULES[name] = rule


def unregister_sketch(name: str) -> None:
    """Take back what :func:`register_sketch` did. Raises ScheduleError for a name that is not registered."""
    if _RULES.pop(name, None) is None:
        raise ScheduleError(f"there is no rule for sketches '{name}'")


def sketches(func: PrimFunc, target: Target) -> list[Sketch]:
    """The sketches of ``func``, at least one, the one nearest to the default schedule first.

    Structures that come out alike are given once. The last one of these, ``loops``, always exists: the loops
    as they are, with threads and vectors where legal. Behind it are those of registered rules.

    Raises ScheduleError when a registered rule gives anything but a symbolic schedule of ``func``.
    """
    found: dict[str, Sketch] = {}
    for name, structure in _structures(func, target):
        try:
            schedule = _composed(func, target, structure)
        except ScheduleError:
            continue
        found.setdefault(str(schedule.trace), Sketch(name, func, schedule, target))
    for name, rule in _RULES.items():
        try:
            made = rule(func, target)
        except ScheduleError:
            continue
        if made is not None:
            _require_symbolic(name, made, func)
            found.setdefault(str(made.trace), Sketch(name, func, made, target))
    return list(found.values())


def _composed(func: PrimFunc, target: Target, structure: Structure) -> Schedule:
    """The rules' schedule with open decisions. Loops' kinds are proved once more at its end, not after every
    step; where that fails, a step was wrong that the rules have to do without."""
    with rechecked_later():
        schedule = compose(Schedule(func, symbolic=True), target, structure)
    try:
        recheck_kinds(Tree(schedule.func))
    except ScheduleError:
        return compose(Schedule(func, symbolic=True), target, structure)
    return schedule


def _require_symbolic(name: str, made: object, func: PrimFunc) -> None:
    """Raise ScheduleError unless what a registered rule made is a symbolic schedule of ``func``."""
    if not isinstance(made, Schedule) or not made.symbolic:
        raise ScheduleError(
            f"the rule for sketches '{name}' gave {type(made).__name__}, not a symbolic schedule",
            hint="begin with Schedule(func, symbolic=True) and return it, or None where it does not apply",
        )
    values = made.trace.decisions()
    open_ones = [n for n, value in values.items() if value is None]
    if open_ones:
        raise ScheduleError(
            f"the rule for sketches '{name}' gave no value for {', '.join(open_ones)}",
            hint="decide(name, domain, value): the search begins there",
        )
    if _signature(made.func) != _signature(func):
        raise ScheduleError(
            f"the rule for sketches '{name}' gave a schedule of another function than '{func.name}'",
            hint="begin with Schedule(func, symbolic=True)",
        )
    try:
        made.trace.bind({n: v for n, v in values.items() if v is not None}).apply(func)
    except ScheduleError as error:
        raise ScheduleError(
            f"the rule for sketches '{name}' gave a schedule that does not apply to '{func.name}': "
            f"{error.message}",
            hint="every decision must be used in a factor or a layout",
        ) from error


def _signature(func: PrimFunc) -> list[object]:
    """What no primitive changes: names and types of parameters, and shapes of those that are not constant."""
    consts = func.attr("const_params", ())
    buffers = [p for p in func.params if isinstance(p, Buffer)]
    return [(p.name, p.dtype, () if p.name in consts else p.shape) for p in buffers]


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
        if rules[0] == "tile":
            structures.append(("tile_unpacked", Structure("blocks", order, pack=False)))
            if multi_level_tiling.has_window(main):
                structures.append(("tile_window", Structure("blocks", order, window=True)))
    structures.append(("loops", Structure("blocks", (), inline=False)))
    return structures


def _work(info: BlockInfo) -> int:
    try:
        return info.flops()
    except ScheduleError:
        return 0
