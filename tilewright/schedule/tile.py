"""The primitive tile: split several loops of one nest and put their parts level by level.

It is made of split and reorder, and recorded as these: whoever reads or changes a trace meets two kinds of
lines instead of three, and a factor stays where it is in the line of its loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import LoopRef, Tree, binding_vars, find_loop

if TYPE_CHECKING:
    from tilewright.schedule.schedule import Schedule

Factor: TypeAlias = int | str | Expr | None


def tile(
    sch: Schedule,
    loops: Sequence[LoopRef],
    factors: Sequence[Factor | Sequence[Factor]],
    structure: str | None = None,
) -> list[list[LoopRef]]:
    """Split ``loops`` and reorder the parts: all parts of the first level outside, in the order of ``loops``,
    then those of the second, and so on.

    ``factors`` has an entry for each loop: the extent of its inner part (two levels, the outer extent is
    inferred), or a list of one factor a level as for split. All loops have the same number of levels; with
    ``structure``, a string of ``S`` and ``R`` with a letter a level, loops over spatial iterators have the
    levels ``S`` and loops over reduce iterators the levels ``R`` (``"SSRSRS"``: the tiling of a matrix
    product on a CPU). Returns the loops of each level.

    Raises ScheduleError, and changes nothing, when the numbers of loops, factors and levels do not fit
    together, or a split or the reordering is not legal.
    """
    tree = Tree(sch.func)
    nest = [find_loop(tree, loop, "tile") for loop in loops]
    if not nest or len(factors) != len(nest):
        raise failure(
            tree,
            f"tile: {len(nest)} loops and {len(factors)} factors are given",
            *nest,
            hint="give one entry of factors for each loop",
        )
    parts = [[None, f] if f is None or isinstance(f, int | str | Expr) else list(f) for f in factors]
    levels = _levels(tree, sch, loops, structure, max(map(len, parts)))
    for loop, mine, wanted in zip(nest, parts, levels, strict=True):
        if len(mine) != len(wanted):
            raise failure(
                tree,
                f"tile: loop '{loop.var.name}' has {len(mine)} factors for {len(wanted)} levels",
                loop,
                hint="give one factor for each level of the loop, one of them may be None",
            )
    trial = sch.copy()
    result: list[list[LoopRef]] = [[] for _ in range(1 + max(level for wanted in levels for level in wanted))]
    for ref, mine, wanted in zip(loops, parts, levels, strict=True):
        for part, level in zip(trial.split(ref, mine), wanted, strict=True):
            result[level].append(part)
    trial.reorder(*(part for level in result for part in level))
    sch.adopt(trial)
    return result


def _levels(
    tree: Tree, sch: Schedule, loops: Sequence[LoopRef], structure: str | None, count: int
) -> list[list[int]]:
    """For each loop the levels that its parts go to."""
    if structure is None:
        return [list(range(count))] * len(loops)
    if not structure or set(structure) - {"S", "R"}:
        raise ScheduleError(
            f"tile: {structure!r} is no structure of levels", hint="use the letters S and R, as in 'SSRSRS'"
        )
    result = []
    for ref in loops:
        loop = tree.loops[ref.var]
        blocks = tree.blocks_below(loop)
        reduced = [b for b in blocks if ref.var in binding_vars(b, "reduce")]
        letter = "R" if reduced else "S"
        if any(ref.var in binding_vars(b, "spatial") for b in reduced):
            raise failure(
                tree,
                f"tile: loop '{ref.var.name}' drives both spatial and reduce iterators",
                loop,
                hint="give no structure: every loop then has all levels",
            )
        result.append([n for n, kind in enumerate(structure) if kind == letter])
    return result
