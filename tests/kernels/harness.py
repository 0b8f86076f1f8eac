"""A program through the whole kernel path: scheduled by the rules, lowered, interpreted, run natively."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from tests.fuzz.case import Case
from tests.fuzz.checks import MAX_STATEMENTS, check_schedule, collapsed, statements
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.stmt import Block, For, PrimFunc, Stmt, Store
from tilewright.ir.visit import child_stmts, const_int, find_blocks
from tilewright.lower import lower
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

#: Presets that every kernel is checked for.
TARGETS = ("x86-64-v3", "x86-64-v4")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The stages of one program for one target."""

    collapsed: PrimFunc
    scheduled: PrimFunc
    lowered: PrimFunc

    def scheduled_blocks(self) -> list[Block]:
        """The blocks that are left after inlining and those that the schedule made."""
        return find_blocks(self.scheduled.body)


def prepare(case: Case, target: Target) -> Prepared:
    """Collapse, schedule and lower ``case``."""
    func = collapse_dims(case.func)
    scheduled = default_schedule(func, target).func
    lowered = lower(scheduled)
    assert statements(lowered.body) <= MAX_STATEMENTS, "the lowered program is too large"
    return Prepared(func, scheduled, lowered)


def check(case: Case, targets: Sequence[str], native: Sequence[str]) -> None:
    """The whole path: ``targets`` in the interpreter, those of ``native`` as machine code too."""
    small = collapsed(case)
    for name in targets:
        target = Target.parse(name)
        sch = default_schedule(small.func, target)
        check_schedule(small, sch, native=target if name in native else None)


# -------------------------------------------------------------------------------------------- poor schedules


@dataclasses.dataclass(frozen=True)
class Slow:
    """A store that runs often without vectors, or much work outside parallel loops."""

    block: str
    reason: str
    count: int


def slow_parts(prepared: Prepared, scalar: int = 5_000, serial: int = 1_000_000) -> Iterator[Slow]:
    """Blocks of the scheduled function that were left to plain loops although they run often."""

    def visit(stmt: Stmt, trips: int, vector: bool, parallel: bool) -> Iterator[Slow]:
        if isinstance(stmt, For):
            extent = const_int(stmt.extent) or 1
            yield from visit(
                stmt.body,
                trips * extent,
                vector or stmt.kind == "vectorized",
                parallel or stmt.kind == "parallel",
            )
            return
        if isinstance(stmt, Block) and isinstance(stmt.body, Store):
            if not vector and trips >= scalar:
                yield Slow(stmt.name, "scalar", trips)
            if not parallel and trips >= serial:
                yield Slow(stmt.name, "serial", trips)
        for child in child_stmts(stmt):
            yield from visit(child, trips, vector, parallel)

    yield from visit(prepared.scheduled.body, 1, False, False)
