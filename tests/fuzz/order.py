"""Another order of execution that legal schedules must survive."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from math import gcd
from random import Random

from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Buffer, For, PrimFunc, Stmt
from tilewright.ir.visit import const_int, find_blocks, free_vars, stores_of, substitute, transform_stmt


def adversarial(func: PrimFunc, rng: Random | None = None) -> PrimFunc:
    """The scheduled function with its parallel and vectorized loops run in another order, and temporaries
    private to parallel iterations.

    The order is backwards, or (with ``rng``) sometimes one that jumps. A schedule that is legal computes the
    same.
    """
    return func.with_(body=reordered(sink_allocs(func.body), rng))


def reordered(body: Stmt, rng: Random | None = None) -> Stmt:
    """``body`` with serial loops for the parallel and vectorized ones, in another order."""

    def visit(stmt: Stmt) -> Stmt | None:
        if not isinstance(stmt, For) or stmt.kind not in ("parallel", "vectorized"):
            return None
        if stmt.kind == "vectorized":
            blocks = find_blocks(stmt)
            if not blocks or any(
                it.kind == "reduce" and stmt.var in free_vars(it.binding) for it in blocks[0].iters
            ):
                return None  # lanes that are combined, which lowering decides
        moved = substitute(stmt.body, {stmt.var: _another(stmt, rng)})
        return dataclasses.replace(stmt, kind="serial", body=moved)

    return transform_stmt(body, visit)


def _another(loop: For, rng: Random | None) -> Expr:
    """Which iteration comes at ``loop.var``: a permutation of ``0 .. extent-1``."""
    extent = const_int(loop.extent)
    if rng is not None and extent is not None and extent > 2 and rng.random() < 0.5:
        stride = rng.choice([s for s in range(1, extent) if gcd(s, extent) == 1])
        return (loop.var * stride + rng.randrange(extent)) % extent
    return simplify(as_expr(0) + loop.extent - 1 - loop.var)


def sink_allocs(body: Stmt, kinds: Collection[str] = ("parallel",)) -> Stmt:
    """Move each allocation into the innermost loop of one of ``kinds`` that contains all uses of its buffer,
    if any does.
    """
    buffers: list[Buffer] = []

    def drop(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, Alloc):
            buffers.append(stmt.buffer)
            return stmt.body
        return None

    body = transform_stmt(body, drop)
    total = {b: len(_users(body, b)) for b in buffers}
    placed: set[Buffer] = set()

    def place(stmt: Stmt) -> Stmt | None:
        if not (isinstance(stmt, For) and stmt.kind in kinds and const_int(stmt.extent) != 1):
            return None
        inner = stmt.body
        for b in buffers:
            if b not in placed and len(_users(inner, b)) == total[b]:
                placed.add(b)
                inner = Alloc(b, inner)
        return dataclasses.replace(stmt, body=inner)

    body = transform_stmt(body, place)
    for b in buffers:
        if b not in placed:
            body = Alloc(b, body)
    return body


def _users(stmt: Stmt, buffer: Buffer) -> list[str]:
    found = []
    for block in find_blocks(stmt):
        regions = [*block.reads, *block.writes]
        if any(r.buffer is buffer for r in regions) or any(s.buffer is buffer for s in stores_of(block)):
            found.append(block.name)
    return found
