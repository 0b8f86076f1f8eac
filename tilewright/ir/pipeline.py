"""Pipelined loops: how a program says in which stage each part of a loop's body runs.

The body of a pipelined loop is a sequence of parts, each under ``Annotate("pipeline_stage", ...)``. A part of
stage ``s`` works on an iteration ``s`` steps after the parts of stage 0 did: while one part computes on what
was loaded for an iteration, another one loads for a later iteration. As an annotation, it changes no result;
lowering makes the overlapping loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from tilewright.ir.stmt import Alloc, Annotate, Evaluate, For, Seq, Stmt, child_stmts
from tilewright.ir.visit import walk_stmt

#: Key of the annotation of a part; its value is a mapping with ``stage``, ``order`` and ``async``.
STAGE_KEY: Final = "pipeline_stage"
#: Key of the annotation of asynchronous copies.
ASYNC_KEY: Final = "async_copy"


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One part of a pipelined loop's body.

    Attributes:
        mark: the annotation; its body is what the part does in an iteration.
        stage: how many steps after stage 0 it works on an iteration.
        order: its place in a step, among the parts of all stages.
        asynchronous: its stores are asynchronous copies.
    """

    mark: Annotate
    stage: int
    order: int
    asynchronous: bool


def mark(stmt: Stmt, stage: int, order: int, asynchronous: bool) -> Annotate:
    """``stmt`` as a part of a pipelined loop."""
    return Annotate(STAGE_KEY, {"stage": stage, "order": order, "async": asynchronous}, stmt)


def loop_body(loop: For) -> list[Stmt]:
    """The statements of a loop's body, one after the other, inside its allocations."""
    body = loop.body
    while isinstance(body, Alloc):
        body = body.body
    return list(body.stmts) if isinstance(body, Seq) else [body]


def marked(stmt: Stmt) -> Part | None:
    """The part that ``stmt`` is, or None for other statements."""
    if not isinstance(stmt, Annotate) or stmt.key != STAGE_KEY:
        return None
    assert isinstance(stmt.value, Mapping)
    stage, order = stmt.value["stage"], stmt.value["order"]
    assert isinstance(stage, int)
    assert isinstance(order, int)
    return Part(stmt, stage, order, bool(stmt.value["async"]))


def pipeline_parts(loop: For) -> list[Part]:
    """The parts of a pipelined loop in program order; empty for any other loop. Barriers between parts are
    left out.
    """
    found = [marked(s) for s in loop_body(loop) if not isinstance(s, Evaluate)]
    parts = [p for p in found if p is not None]
    return parts if len(parts) == len(found) else []


def has_marks(stmt: Stmt) -> bool:
    """Whether any statement in ``stmt`` is marked as part of a pipelined loop."""
    return any(isinstance(s, Annotate) and s.key == STAGE_KEY for s in walk_stmt(stmt))


def stray_mark(body: Stmt) -> Annotate | None:
    """A mark that is not a part of a loop whose body is marked completely; None when there is none."""
    stack: list[tuple[Stmt, bool]] = [(body, False)]
    while stack:
        stmt, expected = stack.pop()
        if isinstance(stmt, Annotate) and stmt.key == STAGE_KEY and not expected:
            return stmt
        whole = isinstance(stmt, For) and bool(pipeline_parts(stmt))
        inside = whole or (expected and isinstance(stmt, Alloc | Seq))
        stack.extend((child, inside) for child in child_stmts(stmt))
    return None


def in_order(parts: Sequence[Part]) -> list[Part]:
    """The parts as they follow each other in a step."""
    return sorted(parts, key=lambda p: p.order)
