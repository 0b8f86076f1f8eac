"""Register buffers as SSA values.

A register buffer whose every access has a constant offset (apart from a vector variable) is split into
*slots*: runs of elements that are accessed together and become one SSA value each. Runs nest or are disjoint;
the widest ones are the slots, narrower accesses take lanes out of them. A load that takes one lane out of
each of several slots is a *column* of the block that they are the rows of (see
:mod:`tilewright.backend.llvm.shuffles`); one whose lanes are any known elements is put together from the
slots that have them. Any other buffer stays in memory, on the stack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from tilewright.backend.llvm.lanes import LaneForms, offset_terms
from tilewright.backend.llvm.shuffles import can_transpose
from tilewright.ir.expr import Expr, Var
from tilewright.ir.stmt import Buffer, Region
from tilewright.ir.visit import const_int, free_vars

_MAX_SLOTS = 4096


@dataclasses.dataclass
class Slots:
    """The slots of one buffer and the SSA values that they hold now.

    Attributes:
        dtype: element type.
        lanes: per slot, its vector length (0: scalar).
        where: element offset -> (slot, lane).
        values: per slot, the name of its current value.
    """

    dtype: str
    lanes: list[int]
    where: dict[int, tuple[int, int]]
    values: list[str]

    def places(self, picks: Sequence[int]) -> list[tuple[int, int]] | None:
        """The (slot, lane) of each of several elements, when those slots are vectors of one length."""
        found = [self.where.get(element) for element in picks]
        known = [place for place in found if place is not None]
        widths = {self.lanes[slot] for slot, _ in known}
        return known if len(known) == len(found) and len(widths) == 1 and widths != {0} else None

    def column(self, run: Run) -> tuple[list[int], int] | None:
        """The slots that a strided access takes one lane out of, and that lane; None when they are not rows
        of a block."""
        found = [self.where.get(run.start + run.step * i) for i in range(run.lanes)]
        slots = [place[0] for place in found if place is not None]
        lane = {place[1] for place in found if place is not None}
        widths = {self.lanes[slot] for slot in slots}
        distinct = len(set(slots)) == len(slots) == run.lanes
        if not distinct or len(lane) > 1 or len(widths) > 1 or not can_transpose(run.lanes, *widths):
            return None
        return slots, lane.pop()


class Run(NamedTuple):
    """The elements ``start + step * i`` for each of ``lanes`` lanes (0: one element, scalar)."""

    start: int
    lanes: int
    step: int


def access_run(
    forms: LaneForms, lanes: Mapping[Var, int], indices: tuple[Expr, ...], strides: tuple[int | Expr, ...]
) -> Run | None:
    """The elements of an access at a constant offset; None for any other access."""
    terms, base = offset_terms(forms, indices, strides)
    if not terms:
        return Run(base, 0, 1)
    if len(terms) == 1:
        ((atom, k),) = terms.items()
        if k >= 1 and isinstance(atom, Var) and atom in lanes:
            return Run(base, lanes[atom], k)
    return None


def access_picks(
    forms: LaneForms, indices: tuple[Expr, ...], strides: tuple[int | Expr, ...]
) -> tuple[int, ...] | None:
    """The element of each lane of a load whose lanes are known elements in any order; None for any other."""
    terms, base = offset_terms(forms, indices, strides)
    lengths = {forms.lanes[v] for atom in terms for v in free_vars(atom) if v in forms.lanes}
    if len(lengths) != 1:
        return None
    form = forms.form_of_terms(terms, base, lengths.pop())
    return None if form is None or form.terms else tuple(form.base + o for o in form.offsets)


def operand_run(forms: LaneForms, region: Region, strides: tuple[int | Expr, ...]) -> Run | None:
    """The elements of a tensor call's operand, when they lie at a constant offset, one after the other."""
    terms, base = offset_terms(forms, tuple(r.lo for r in region.ranges), strides)
    count = 1
    for r, stride in zip(reversed(region.ranges), reversed(strides), strict=True):
        size = const_int(r.extent)
        if size is None or (size > 1 and stride != count):
            return None
        count *= size
    return None if terms else Run(base, count if count > 1 else 0, 1)


def plan_slots(
    buffer: Buffer,
    accesses: Iterable[tuple[Expr, ...]],
    stores: Collection[tuple[Expr, ...]],
    operands: Iterable[Region],
    forms: LaneForms,
    lanes: Mapping[Var, int],
    strides: tuple[int | Expr, ...],
) -> Slots | None:
    """The slots of ``buffer``, or None when it cannot be promoted. ``stores``: those of its accesses that
    write; ``operands``: the parts that tensor calls take.
    """
    runs: set[tuple[int, int]] = set()
    columns: set[Run] = set()
    scattered: set[tuple[int, ...]] = set()
    for indices in accesses:
        run = access_run(forms, lanes, indices, strides)
        picks = None if run is not None or indices in stores else access_picks(forms, indices, strides)
        if picks is not None:
            scattered.add(picks)
            continue
        if run is None or len(runs) >= _MAX_SLOTS or (run.step > 1 and indices in stores):
            return None
        if run.step > 1:
            columns.add(run)
        else:
            runs.add((run.start, run.lanes))
    for region in operands:
        run = operand_run(forms, region, strides)
        if run is None:
            return None
        runs.add((run.start, run.lanes))
    slots: list[int] = []
    where: dict[int, tuple[int, int]] = {}
    end = 0
    # Widest first at each start, so that what overlaps a slot must lie inside it.
    for start, length in sorted(runs, key=lambda r: (r[0], -r[1])):
        width = max(length, 1)
        if start < end:
            if start + width > end:
                return None
            continue
        for lane in range(width):
            where[start + lane] = (len(slots), lane)
        slots.append(length)
        end = start + width
    # Lanes of columns that no row was stored to are computed with, though not used: any value will do.
    initial = ["zeroinitializer" if columns and length else "poison" for length in slots]
    planned = Slots(buffer.dtype, slots, where, initial)
    readable = all(planned.column(run) is not None for run in columns)
    return planned if readable and all(planned.places(picks) is not None for picks in scattered) else None
