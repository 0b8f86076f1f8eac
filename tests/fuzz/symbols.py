"""Putting numbers in for the open decisions of a schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from random import Random

from tilewright.ir.expr import Expr, Load, Var, as_expr, load
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import map_stmt, rewrite_expr, substitute_expr
from tilewright.schedule import Schedule, Trace
from tilewright.schedule.decisions import Decision
from tilewright.schedule.index_map import IndexMap


def open_decisions(sch: Schedule) -> dict[str, Decision]:
    """The decisions without a value, by name."""
    return {name: d for name, d in sch.decisions.items() if d.value is None}


def sample(decisions: Mapping[str, Decision], rng: Random, count: int) -> list[dict[str, int]]:
    """Some assignments; none comes twice."""
    found: list[dict[str, int]] = []
    for _ in range(count * 3):
        values = {name: rng.choice(d.domain) for name, d in decisions.items()}
        if values not in found:
            found.append(values)
    return found[:count]


def bind_all(trace: Trace, values: Mapping[str, int]) -> Trace:
    """The trace with ``values`` for its decisions, used or not."""
    return Trace(
        tuple(
            dataclasses.replace(i, attrs={**i.attrs, "value": values[i.attrs["name"]]})
            if i.name == "decide" and i.attrs["name"] in values
            else i
            for i in trace.instructions
        )
    )


def substituted(func: PrimFunc, values: Mapping[Expr, int]) -> PrimFunc:
    """The function with numbers for variables, in the shapes of its buffers and in layouts, too."""
    mapping: dict[Expr, Expr] = {var: as_expr(value) for var, value in values.items()}
    buffers: dict[Buffer, Buffer] = {}

    def buffer(old: Buffer) -> Buffer:
        if old not in buffers:
            shape = tuple(substitute_expr(dim, mapping) for dim in old.shape)
            same = all(a is b for a, b in zip(shape, old.shape, strict=True))
            buffers[old] = old if same else old.with_(shape=shape)
        return buffers[old]

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, Load):
            return load(buffer(node.buffer), node.indices)
        return None

    memo: dict[Expr, Expr] = dict(mapping)
    body = map_stmt(func.body, lambda e: rewrite_expr(e, visit, memo), buffer)
    params = tuple(buffer(p) if isinstance(p, Buffer) else p for p in func.params)
    func = func.with_(params=params, body=body)
    numbers = {var.name: as_expr(value) for var, value in values.items() if isinstance(var, Var)}
    layouts = func.attr("param_layouts", {})
    bound = {name: str(IndexMap.parse(text, numbers)) for name, text in layouts.items()}
    return func.with_attr("param_layouts", bound) if layouts else func
