"""Branches and loops of the entry function: each is a function of the entry's signature that calls the
functions of its regions. An iteration costs a few stores of addresses and a call; nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tilewright.runtime.control import GOING, Branch, Loop, Region, Stop
from tilewright.runtime.plan import STATUS_BITS, STOPPED, TOO_LARGE, KernelCall
from tilewright.runtime.records import Operand, Space

SIGNATURE: Final = "(ptr %pool, ptr %inputs, ptr %outputs, ptr %weights, ptr %arena, ptr %prof, ptr %dims)"
_CALL: Final = "(ptr %pool, ptr %in, ptr %out, ptr %weights, ptr %work, ptr %prof, ptr %dims)"
_ENDLESS: Final = (1 << 63) - 1


def control_function(number: int, call: KernelCall, regions: Sequence[Region]) -> list[str]:
    """The function ``control<number>`` that does what the step of that number does."""
    control = call.control
    assert control is not None
    if isinstance(control, Stop):
        status = (number + 1) << STATUS_BITS | STOPPED
        return [f"define internal i32 @control{number}{SIGNATURE} {{", f"  ret i32 {status}", "}"]
    shape = regions[control.regions[0]]
    lines = [
        f"define internal i32 @control{number}{SIGNATURE} {{",
        "entry:",
        f"  %in = alloca [{max(shape.inputs, 1)} x ptr], align 16",
        f"  %out = alloca [{max(shape.outputs, 1)} x ptr], align 16",
        f"  %work = getelementptr i8, ptr %arena, i64 {call.workspace or 0}",
    ]
    lines += _branch(control) if isinstance(control, Branch) else _Loop(number, control).lines()
    return [*lines, "}"]


def _branch(control: Branch) -> list[str]:
    lines = []
    for table, operands in (("in", control.operands), ("out", control.results)):
        for slot, operand in enumerate(operands):
            lines += _pointer(operand, table, slot)
    text, address = address_of(control.condition, "%cond")
    lines += [
        *text,
        f"  %flag = load i8, ptr {address}",
        "  %taken = icmp ne i8 %flag, 0",
        "  br i1 %taken, label %then, label %otherwise",
    ]
    for label, region in (("then", control.then), ("otherwise", control.otherwise)):
        lines += [f"{label}:", f"  %{label}.r = call i32 @region{region}{_CALL}", f"  ret i32 %{label}.r"]
    return lines


def _pointer(operand: Operand, table: str, slot: int) -> list[str]:
    """Put the operand's address into a table of a region's inputs or outputs."""
    text, address = address_of(operand, f"%{table}{slot}")
    return [*text, *_put(address, table, slot)]


def _put(address: str, table: str, slot: int) -> list[str]:
    name = f"%{table}{slot}.slot"
    return [f"  {name} = getelementptr ptr, ptr %{table}, i64 {slot}", f"  store ptr {address}, ptr {name}"]


class _Loop:
    """The function of one loop."""

    def __init__(self, number: int, control: Loop) -> None:
        self.number, self.control = number, control
        self.first_scanned = 1 + len(control.states)
        self.first_stacked = int(control.conditional) + len(control.states)

    def lines(self) -> list[str]:
        return [*self._before(), *self._head(), *self._body(), *self._after()]

    def _before(self) -> list[str]:
        """What all iterations share; whether to begin."""
        loop = self.control
        lines = [
            f"  %number = getelementptr i8, ptr %arena, i64 {loop.scratch}",
            f"  %going = getelementptr i8, ptr %arena, i64 {loop.scratch + GOING}",
            *_put("%number", "in", 0),
        ]
        for n, operand in enumerate(loop.same, self.first_scanned + len(loop.scanned)):
            lines += _pointer(operand, "in", n)
        if loop.conditional:
            lines += _put("%going", "out", 0)
        for n, state in enumerate(loop.states):
            for name, operand in (("first", state.first), ("last", state.last)):
                text, address = address_of(operand, f"%state{n}.{name}.at")
                lines += [*text, f"  %state{n}.{name} = getelementptr i8, ptr {address}, i64 0"]
            lines.append(f"  %state{n}.spare = getelementptr i8, ptr %arena, i64 {state.spare}")
        for kind, rows in (("scanned", loop.scanned), ("stacked", loop.stacked)):
            for n, row in enumerate(rows):
                text, address = address_of(row.operand, f"%{kind}{n}.at")
                lines += [*text, f"  %{kind}{n} = getelementptr i8, ptr {address}, i64 0"]
                lines += _bytes(f"%{kind}{n}.bytes", row.nbytes, row.size)
        lines += self._trip()
        if loop.going is None:
            return [*lines, "  br label %head"]
        text, address = address_of(loop.going, "%begin.at")
        return [
            *lines,
            *text,
            f"  %begin = load i8, ptr {address}",
            "  %begins = icmp ne i8 %begin, 0",
            "  br i1 %begins, label %head, label %done",
        ]

    def _trip(self) -> list[str]:
        """The number of iterations as ``%trip``."""
        loop = self.control
        if loop.trip_size is not None:
            return [f"  %trip = call i64 @size{loop.trip_size}(ptr %dims)"]
        if loop.trip is None or loop.trip.space is Space.SCALAR:
            trip = _ENDLESS if loop.trip is None else loop.trip.value
            return [f"  %trip = add i64 {trip}, 0"]
        text, address = address_of(loop.trip, "%trip.at")
        return [*text, f"  %trip = load i64, ptr {address}"]

    def _head(self) -> list[str]:
        """States of an iteration; whether there is one."""
        names = [f"%state{n}" for n in range(len(self.control.states))]
        return [
            "head:",
            "  %i = phi i64 [ 0, %entry ], [ %next, %again ]",
            *(f"  {name} = phi ptr [ {name}.first, %entry ], [ {name}.new, %again ]" for name in names),
            "  %more = icmp slt i64 %i, %trip",
            "  br i1 %more, label %body, label %done",
        ]

    def _body(self) -> list[str]:
        loop = self.control
        lines = ["body:"]
        if loop.most is not None:
            lines.append(f"  %full = icmp sge i64 %i, {loop.most}")
            lines += stop("%full", "full", self.number, TOO_LARGE)
        lines.append("  store i64 %i, ptr %number")
        if loop.index is not None:
            lines.append(f"  %index = getelementptr i64, ptr %dims, i64 {loop.index}")
            lines.append("  store i64 %i, ptr %index")
        if loop.states:
            lines += ["  %odd = trunc i64 %i to i1"]
        for n in range(len(loop.states)):
            lines.append(f"  %state{n}.new = select i1 %odd, ptr %state{n}.spare, ptr %state{n}.last")
            lines += _put(f"%state{n}", "in", 1 + n)
            lines += _put(f"%state{n}.new", "out", int(loop.conditional) + n)
        if any(row.backwards for row in (*loop.scanned, *loop.stacked)):
            lines += ["  %left = sub i64 %trip, %i", "  %back = sub i64 %left, 1"]
        for kind, table, first, rows in (
            ("scanned", "in", self.first_scanned, loop.scanned),
            ("stacked", "out", self.first_stacked, loop.stacked),
        ):
            for n, row in enumerate(rows):
                place = "%back" if row.backwards else "%i"
                lines.append(f"  %{kind}{n}.offset = mul i64 {place}, %{kind}{n}.bytes")
                lines.append(f"  %{kind}{n}.row = getelementptr i8, ptr %{kind}{n}, i64 %{kind}{n}.offset")
                lines += _put(f"%{kind}{n}.row", table, first + n)
        lines += [
            f"  %status = call i32 @region{loop.body}{_CALL}",
            "  %failed = icmp ne i32 %status, 0",
            "  br i1 %failed, label %fail, label %ran",
            "fail:",
            "  ret i32 %status",
            "ran:",
            "  %next = add i64 %i, 1",
        ]
        if not loop.conditional:
            return [*lines, "  br label %again", "again:", "  br label %head"]
        return [
            *lines,
            "  %go = load i8, ptr %going",
            "  %goes = icmp ne i8 %go, 0",
            "  br i1 %goes, label %again, label %done",
            "again:",
            "  br label %head",
        ]

    def _after(self) -> list[str]:
        """Move the states where they belong."""
        loop = self.control
        ways = [("%head", "%i", "")]
        if loop.conditional:
            ways.append(("%ran", "%next", ".new"))
        if loop.going is not None:
            ways.append(("%entry", "0", ".first"))
        counts = ", ".join(f"[ {count}, {block} ]" for block, count, _ in ways)
        lines = ["done:", f"  %count = phi i64 {counts}"]
        for n in range(len(loop.states)):
            found = ", ".join(f"[ %state{n}{suffix}, {block} ]" for block, _, suffix in ways)
            lines.append(f"  %state{n}.end = phi ptr {found}")
        lines.append("  %never = icmp eq i64 %count, 0")
        for n, state in enumerate(loop.states):
            name = f"%state{n}"
            moved = f"ptr {name}.last, ptr {name}.end, i64 {name}.bytes, i1 false"
            lines += [
                f"  {name}.there = icmp eq ptr {name}.end, {name}.last",
                f"  br i1 {name}.there, label %kept{n}, label %move{n}",
                f"move{n}:",
                *_bytes(f"{name}.given", state.nbytes, state.size),
                *_bytes(f"{name}.begun", state.first_nbytes, state.first_size),
                f"  {name}.bytes = select i1 %never, i64 {name}.begun, i64 {name}.given",
                f"  call void @llvm.memcpy.p0.p0.i64({moved})",
                f"  br label %kept{n}",
                f"kept{n}:",
            ]
        if loop.count is not None:
            text, address = address_of(loop.count, "%count.at")
            lines += [*text, f"  store i64 %count, ptr {address}"]
        return [*lines, "  ret i32 0"]


def _bytes(name: str, nbytes: int, size: int | None) -> list[str]:
    """A number of bytes that is fixed, or that a function computes."""
    if size is None:
        return [f"  {name} = add i64 {nbytes}, 0"]
    return [f"  {name} = call i64 @size{size}(ptr %dims)"]


def stop(cond: str, name: str, number: int, status: int) -> list[str]:
    """Return ``status`` of kernel ``number`` if ``cond``; labels begin with ``name``."""
    return [
        f"  br i1 {cond}, label %{name}.stop, label %{name}.go",
        f"{name}.stop:",
        f"  ret i32 {(number + 1) << STATUS_BITS | status}",
        f"{name}.go:",
    ]


def address_of(operand: Operand, name: str) -> tuple[list[str], str]:
    """Instructions that compute the operand's address, and the value that holds it."""
    if operand.space in (Space.WEIGHT, Space.ARENA):
        base = "%weights" if operand.space is Space.WEIGHT else "%arena"
        lines, address = [f"  {name} = getelementptr i8, ptr {base}, i64 {operand.value}"], name
    else:
        base = "%inputs" if operand.space is Space.INPUT else "%outputs"
        lines, address = (
            [
                f"  {name}.b = getelementptr ptr, ptr {base}, i64 {operand.value}",
                f"  {name} = load ptr, ptr {name}.b",
            ],
            name,
        )
    if operand.offset:
        lines.append(f"  {name}.o = getelementptr i8, ptr {address}, i64 {operand.offset}")
        address = f"{name}.o"
    if operand.size is not None:
        lines.append(f"  {name}.n = call i64 @size{operand.size}(ptr %dims)")
        lines.append(f"  {name}.s = getelementptr i8, ptr {address}, i64 {name}.n")
        address = f"{name}.s"
    return lines, address
