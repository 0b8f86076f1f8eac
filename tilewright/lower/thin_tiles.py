"""Tiles of few rows, where a run decides how many there are.

A register tile at the edge of a dimension is computed in full, however few of its rows exist. That costs
little beside many whole tiles, but a decoder's single step has one row and nothing else. Where all of a
dimension may be that small, this pass makes copies of the tile's code for a quarter of the rows, and for half
of them where these are many; comparisons in front of the tile choose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from tilewright.ir import dtype as dt
from tilewright.ir.bounds import interval
from tilewright.ir.expr import Cmp, Expr, Var, as_expr, conjuncts
from tilewright.ir.linear import from_terms, linear
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Annotate, For, If, PrimFunc, Seq, Stmt, child_stmts, seq
from tilewright.ir.visit import const_int, free_vars, loads_of, substitute, transform_stmt, walk_stmt

#: Tiles of fewer rows have no second copy.
MIN_ROWS: Final = 4
#: Marks what chooses between copies: the last one is right for any number of rows.
CHOICE_KEY: Final = "tile_rows"
#: Nor tiles of fewer rows a third one, for half of them.
MIN_ROWS_HALVED: Final = 8


def thin_tiles(func: PrimFunc) -> PrimFunc:
    """Version register tiles over run-time dimensions by how many of their rows exist, see the module's
    text. Guards on the rows must still be there."""
    dims = {p for p in func.params if isinstance(p, Var)}
    return func.with_(body=_walk(func.body, dims)) if dims else func


def _walk(stmt: Stmt, dims: set[Var]) -> Stmt:
    if isinstance(stmt, Alloc) and stmt.buffer.scope == "register":
        rows = _rows(stmt, dims)
        if rows is not None:
            count, extent, least = rows
            result: Stmt = stmt
            for few in _heights(extent):
                if least <= few:
                    result = If(simplify(count <= few), _shortened(stmt, count, extent, few), result)
            return Annotate(CHOICE_KEY, True, result)
    if isinstance(stmt, For | Alloc | Annotate):
        return dataclasses.replace(stmt, body=_walk(stmt.body, dims))
    if isinstance(stmt, If):
        orelse = None if stmt.orelse is None else _walk(stmt.orelse, dims)
        return If(stmt.cond, _walk(stmt.then, dims), orelse)
    return seq([_walk(s, dims) for s in stmt.stmts]) if isinstance(stmt, Seq) else stmt


def whole_tiles(stmt: Stmt) -> Stmt:
    """``stmt`` without the copies for few rows: the whole tile does for them, too."""

    def visit(inner: Stmt) -> Stmt | None:
        if not (isinstance(inner, Annotate) and inner.key == CHOICE_KEY):
            return None
        whole = inner.body
        while isinstance(whole, If) and whole.orelse is not None:
            whole = whole.orelse
        return whole

    return transform_stmt(stmt, visit)


def _heights(extent: int) -> Iterator[int]:
    """The rows of the copies of a tile with ``extent`` of them, the highest first."""
    if extent >= MIN_ROWS_HALVED:
        yield -(-extent // 2)
    yield -(-extent // 4)


def _rows(tile: Alloc, dims: set[Var]) -> tuple[Expr, int, int] | None:
    """How many rows of a tile exist where a reduction inside of it guards them, as an expression over what is
    around the tile, how many the tile has, and how few the dimension may have. None where there are none, or
    always more than a few."""
    loops = {s.var: s for s in walk_stmt(tile.body) if isinstance(s, For)}
    for reduction in loops.values():
        if reduction.kind != "serial" or const_int(reduction.extent) == 1:
            continue
        for var, count in _guards(reduction.body):
            loop = loops.get(var)
            extent = const_int(loop.extent) if loop is not None and loop.kind == "unrolled" else None
            if extent is None or extent < MIN_ROWS or free_vars(count) & loops.keys():
                continue
            form = linear(count)
            assert form is not None
            size = {atom: k for atom, k in form.terms.items() if free_vars(atom) <= dims}
            least = interval(from_terms(size, form.const)).lo if size else None
            if least is not None and least <= max(_heights(extent)):
                return count, extent, least
    return None


def _guards(stmt: Stmt) -> Iterator[tuple[Var, Expr]]:
    """Pairs ``(v, count)`` for conditions ``v < count`` under a statement."""
    for inside in walk_stmt(stmt):
        if isinstance(inside, If):
            for cond in conjuncts(inside.cond):
                yield from _limits(cond)


def _limits(cond: Expr) -> Iterator[tuple[Var, Expr]]:
    """Every reading of a condition as ``v < count``."""
    if not isinstance(cond, Cmp) or cond.op != "lt" or cond.a.dtype != dt.INDEX or any(loads_of(cond)):
        return
    form = linear(simplify(cond.b - cond.a))
    for atom, k in form.terms.items() if form is not None else ():
        if isinstance(atom, Var) and k == -1:
            assert form is not None
            yield atom, from_terms({a: c for a, c in form.terms.items() if a is not atom}, form.const)


def _shortened(tile: Alloc, count: Expr, extent: int, few: int) -> Stmt:
    """The tile where no more than ``few`` of the rows exist: loops that do nothing for others are shorter."""

    def visit(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, For) and stmt.kind == "unrolled" and const_int(stmt.extent) == extent:
            if _all_guarded(stmt.body, stmt.var, count):
                # Conditions are told apart by their variables: those of the whole tile mean more rows.
                row = Var(stmt.var.name, lo=0, hi=few - 1)
                return For(row, as_expr(few), substitute(stmt.body, {stmt.var: row}), stmt.kind)
        return None

    return transform_stmt(tile, visit)


def _all_guarded(stmt: Stmt, var: Var, count: Expr) -> bool:
    """Whether nothing under ``stmt`` happens unless ``var < count``."""
    if isinstance(stmt, If) and any((var, count) in _limits(cond) for cond in conjuncts(stmt.cond)):
        return stmt.orelse is None
    children = list(child_stmts(stmt)) if isinstance(stmt, For | If | Seq | Alloc | Annotate) else []
    return bool(children) and all(_all_guarded(child, var, count) for child in children)
