"""Steps of a compiled model that run other steps: branches and loops (docs/control_flow.md).

What they run are regions: runs of steps with inputs and outputs of their own, compiled to functions with the
entry's calling convention.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from tilewright.runtime.records import Operand, Space, reading, record_json, text, whole


@dataclasses.dataclass(frozen=True)
class Region:
    """A function inside a variant.

    Attributes:
        first, steps: which of the variant's kernels it runs.
        inputs, outputs: how many there are.
        arena_bytes: its scratch memory, which lies in the arena of what runs it.
        checks: which of the variant's checks must hold when it begins.
    """

    first: int
    steps: int
    inputs: int
    outputs: int
    arena_bytes: int
    checks: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> Region:
        """Inverse of :meth:`to_json`."""
        with reading("region"):
            return Region(
                whole(data["first"]),
                whole(data["steps"]),
                whole(data["inputs"]),
                whole(data["outputs"]),
                whole(data["arena_bytes"]),
                tuple(map(whole, data.get("checks", ()))),
            )


@dataclasses.dataclass(frozen=True)
class Branch:
    """Run one of two regions.

    Attributes:
        condition: a bool.
        then, otherwise: the regions for true and for false.
        operands, results: inputs and outputs of both.
    """

    condition: Operand
    then: int
    otherwise: int
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]

    @property
    def regions(self) -> tuple[int, ...]:
        """The regions that it may run."""
        return self.then, self.otherwise

    @property
    def addresses(self) -> tuple[Operand, ...]:
        """Everything that it reads or writes."""
        return self.condition, *self.operands, *self.results

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return record_json(self)


@dataclasses.dataclass(frozen=True)
class State:
    """What one iteration of a loop hands to the next.

    Iterations write in turns to ``last`` and to ``spare``; in the end the state is in ``last``.

    Attributes:
        first: its value before the first iteration.
        last: where the last value belongs.
        spare: byte offset in the arena of memory for another one.
        nbytes: the size of what an iteration gives.
        size: position among the variant's ``sizes`` of the number of bytes; None: it is ``nbytes``.
        first_nbytes, first_size: the same of ``first``.
    """

    first: Operand
    last: Operand
    spare: int
    nbytes: int
    size: int | None
    first_nbytes: int
    first_size: int | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> State:
        """Inverse of :meth:`to_json`."""
        first, last = (Operand.from_json(data[key]) for key in ("first", "last"))
        return State(
            first,
            last,
            whole(data["spare"]),
            whole(data["nbytes"]),
            _optional(data["size"]),
            whole(data["first_nbytes"]),
            _optional(data["first_size"]),
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    """An array of which each iteration reads or writes a row.

    Attributes:
        operand: the array.
        backwards: whether the first iteration has the last row.
        nbytes, size: of a row, as in :class:`State`.
    """

    operand: Operand
    backwards: bool
    nbytes: int
    size: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> Rows:
        """Inverse of :meth:`to_json`."""
        operand = Operand.from_json(data["operand"])
        return Rows(operand, bool(data["backwards"]), whole(data["nbytes"]), _optional(data.get("size")))


@dataclasses.dataclass(frozen=True)
class Loop:
    """Run a region again and again.

    Attributes:
        body: the region. Its inputs are the iteration's number, the states, the rows of ``scanned``, and
            ``same``; its outputs are whether to go on (if ``conditional``), the states, the rows of
            ``stacked``.
        scratch: byte offset in the arena of 64 bytes: the iteration's number (int64), then whether to go on.
        trip: the number of iterations: an int64 in memory or a scalar; None: there is no limit.
        trip_size: position among the variant's ``sizes`` of that number instead.
        going: a bool that says whether to begin at all; None: yes.
        conditional: whether iterations say if there is another one.
        states, scanned, stacked: what is handed on, and the arrays that are read and written by rows.
        same: operands of all iterations.
        most: iterations that memory is planned for; None: there is nothing to plan.
        count: where to write how many iterations there were.
        index: the variant's dimension that is the iteration's number; None: no kernel wants it.
    """

    body: int
    scratch: int
    trip: Operand | None = None
    trip_size: int | None = None
    going: Operand | None = None
    conditional: bool = False
    states: tuple[State, ...] = ()
    scanned: tuple[Rows, ...] = ()
    same: tuple[Operand, ...] = ()
    stacked: tuple[Rows, ...] = ()
    most: int | None = None
    count: Operand | None = None
    index: int | None = None

    @property
    def regions(self) -> tuple[int, ...]:
        """The region that it runs."""
        return (self.body,)

    @property
    def addresses(self) -> tuple[Operand, ...]:
        """Everything that it reads or writes."""
        single = (o for o in (self.trip, self.going, self.count) if o is not None)
        states = (o for state in self.states for o in (state.first, state.last))
        rows = (r.operand for r in (*self.scanned, *self.stacked))
        return *single, *states, *rows, *self.same

    @property
    def sizes(self) -> tuple[int, ...]:
        """Positions among the variant's ``sizes`` that it refers to."""
        states = (size for s in self.states for size in (s.size, s.first_size))
        sizes = (*states, *(r.size for r in (*self.scanned, *self.stacked)))
        found = (self.trip_size, *sizes)
        return tuple(n for n in found if n is not None)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return record_json(self)


@dataclasses.dataclass(frozen=True)
class Stop:
    """End the run with an error: ``message``, and where in the model."""

    message: str
    where: str

    @property
    def regions(self) -> tuple[int, ...]:
        """None."""
        return ()

    @property
    def addresses(self) -> tuple[Operand, ...]:
        """None."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return record_json(self)


Control = Branch | Loop | Stop
"""A step that is control flow."""

LOOP_SCRATCH: Final = 64
"""Bytes of :attr:`Loop.scratch`."""
GOING: Final = 8
"""Where in them the byte is that says whether to go on."""


def control_from_json(data: Any) -> Control:
    """A step from what its ``to_json`` gave."""
    with reading("control flow step"):
        if "message" in data:
            return Stop(text(data["message"]), text(data["where"]))
        if "condition" in data:
            return Branch(
                Operand.from_json(data["condition"]),
                whole(data["then"]),
                whole(data["otherwise"]),
                *(tuple(map(Operand.from_json, data[key])) for key in ("operands", "results")),
            )
        return Loop(
            whole(data["body"]),
            whole(data["scratch"]),
            trip=_place(data.get("trip")),
            trip_size=_optional(data.get("trip_size")),
            going=_place(data.get("going")),
            conditional=bool(data.get("conditional", False)),
            states=tuple(map(State.from_json, data.get("states", ()))),
            scanned=tuple(map(Rows.from_json, data.get("scanned", ()))),
            same=tuple(map(Operand.from_json, data.get("same", ()))),
            stacked=tuple(map(Rows.from_json, data.get("stacked", ()))),
            most=_optional(data.get("most")),
            count=_place(data.get("count")),
            index=_optional(data.get("index")),
        )


def fits(control: Control, regions: tuple[Region, ...]) -> bool:
    """Whether a step hands each of its regions as many inputs and outputs as it has."""
    if any(not 0 <= n < len(regions) for n in control.regions):
        return False
    if isinstance(control, Branch):
        sides = len(control.operands), len(control.results)
        return all((regions[n].inputs, regions[n].outputs) == sides for n in control.regions)
    if isinstance(control, Stop):
        return True
    body, states = regions[control.body], len(control.states)
    inputs = 1 + states + len(control.scanned) + len(control.same)
    outputs = int(control.conditional) + states + len(control.stacked)
    trips = control.trip is None or control.trip.space is not Space.DIM
    return (body.inputs, body.outputs) == (inputs, outputs) and trips


def _optional(value: Any) -> int | None:
    return None if value is None else whole(value)


def _place(value: Any) -> Operand | None:
    return None if value is None else Operand.from_json(value)
