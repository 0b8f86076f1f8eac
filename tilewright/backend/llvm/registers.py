"""Register buffers as SSA values.

A register buffer whose every access has a constant offset (apart from a vector variable of stride 1) is split
into *slots*: runs of elements that are accessed together and become one SSA value each. Runs nest or are
disjoint; the widest ones are the slots, narrower accesses take lanes out of them. Any other buffer stays in
memory, on the stack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tilewright.backend.llvm.lanes import LaneForms, offset_terms
from tilewright.ir.expr import Expr, Var
from tilewright.ir.stmt import Buffer

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


def access_run(
    forms: LaneForms, lanes: Mapping[Var, int], indices: tuple[Expr, ...], strides: tuple[int | Expr, ...]
) -> tuple[int, int] | None:
    """(first element, vector length) of an access at a constant offset; None for any other access."""
    terms, base = offset_terms(forms, indices, strides)
    if not terms:
        return base, 0
    if len(terms) == 1:
        ((atom, k),) = terms.items()
        if k == 1 and isinstance(atom, Var) and atom in lanes:
            return base, lanes[atom]
    return None


def plan_slots(
    buffer: Buffer,
    accesses: Iterable[tuple[Expr, ...]],
    forms: LaneForms,
    lanes: Mapping[Var, int],
    strides: tuple[int | Expr, ...],
) -> Slots | None:
    """The slots of ``buffer``, or None when it cannot be promoted."""
    runs: set[tuple[int, int]] = set()
    for indices in accesses:
        run = access_run(forms, lanes, indices, strides)
        if run is None or len(runs) >= _MAX_SLOTS:
            return None
        runs.add(run)
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
    return Slots(buffer.dtype, slots, where, ["poison"] * len(slots))
