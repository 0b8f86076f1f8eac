"""Many traces of one function, most of which differ in the values of their decisions alone.

What a primitive proves about a schedule with open decisions holds for every value in their domains. So a
structure that is met often is replayed once with all its decisions open; where that is legal, its other
members are replayed without proving again that iterations are independent and reads complete. Nothing is
taken on trust: neither who made a trace matters nor where it is from.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from tilewright.errors import ScheduleError
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule.dependence import proved_before
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.trace import Trace

#: Members of a structure that are checked one by one before all are at once, which takes as long as some.
PATIENCE: Final = 6


class Replay:
    """Replays traces on ``func``; it remembers which structures are legal for all values."""

    def __init__(self, func: PrimFunc) -> None:
        self.func = func
        self._met: Counter[tuple[str, ...]] = Counter()
        self._legal: dict[tuple[str, ...], bool] = {}

    def apply(self, trace: Trace) -> Schedule:
        """As :meth:`Trace.apply <tilewright.schedule.trace.Trace.apply>`, with the same schedule and the same
        errors."""
        if not self._proved(trace):
            return trace.apply(self.func)
        with proved_before():
            return trace.apply(self.func)

    def _proved(self, trace: Trace) -> bool:
        structure = structure_of(trace)
        known = self._legal.get(structure)
        if known is None:
            self._met[structure] += 1
            if self._met[structure] <= PATIENCE or not trace.decisions():
                return False
            try:
                trace.apply(self.func, symbolic=True)
            except ScheduleError:  # legal for some values only
                known = False
            else:
                known = True
            self._legal[structure] = known
        return known


def structure_of(trace: Trace) -> tuple[str, ...]:
    """What traces that differ in the values of decisions alone have in common."""
    return tuple(
        repr((i.name, i.inputs, i.outputs, {k: v for k, v in i.attrs.items() if k != "value"}))
        if i.name == "decide"
        else repr((i.name, i.inputs, i.outputs, i.attrs))
        for i in trace.instructions
    )
