"""The largest or smallest elements of rows, in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, ceildiv, const, maximum, minimum, reduce_identity, select
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import largest_size
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands

#: Offers of parts, over all rows and steps, that are kept at most.
KEPT: Final = 1 << 22


def _infer(ctx: OpContext) -> list[TensorType]:
    x, k = ctx.input(0), as_expr(ctx.attr("k"))
    number, size = const_int(k), const_int(x.shape[-1]) if x.rank else None
    fits = number is None or (number >= 0 and (size is None or number <= size))
    if x.rank != 2 or not fits or x.dtype == "bool":
        ctx.fail(f"top_k takes rows [R, N] of numbers and k from 0 to N, not {x} and k = {k!r}")
    shape = (x.shape[0], k)
    return [TensorType(shape, x.dtype), TensorType(shape, "int64")]


def _parts(rows: int, size: int, k: int) -> int:
    """Into how many parts a row is split: finding the next element costs one look at every part and at every
    element of one of them, least when they are as many as long. All steps' parts are kept in memory.
    """
    affordable = KEPT // max(rows * (k + 1), 1)
    return max(min(math.isqrt(max(size - 1, 0)) + 1, affordable, size), 1)


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Every part of a row offers its best element. Step by step the best offer is taken, the first one of
    equals, and its part offers the element that follows: by value, then by position.
    """
    (x,) = inputs
    k, largest = as_expr(ctx.attr("k")), bool(ctx.attr("largest", True))
    rows, size = x.shape
    # How many parts is decided for the largest sizes, how long they are for those of the run.
    most = [largest_size(e) for e in (rows, size, k)]
    parts = _parts(*(1 if e is None else e for e in most))
    length = simplify(maximum(ceildiv(size, parts), 1))
    op = "max" if largest else "min"
    worst = reduce_identity(op, x.dtype)

    def element(r: Expr, part: Expr, j: Expr) -> tuple[Expr, Expr, Expr]:
        """Position, whether it exists, and value of an element of a part."""
        place = part * length + j
        return place, place < size, x[r, minimum(place, maximum(size - 1, 0))]

    def best(r: Expr, part: Expr, counts: Callable[[Expr, Expr], Expr]) -> Expr:
        def term(j: Expr) -> Expr:
            place, exists, value = element(r, part, j)
            return select(exists & counts(place, value), value, worst)

        return te.reduce(op, [length], term)

    def first(r: Expr, part: Expr, counts: Callable[[Expr, Expr], Expr], wanted: Expr) -> Expr:
        def term(j: Expr) -> Expr:
            place, exists, value = element(r, part, j)
            return select(exists & counts(place, value) & value.eq(wanted), place, size)

        return te.reduce("min", [length], term)

    def always(place: Expr, value: Expr) -> Expr:
        return const(True, "bool")

    offers = te.compute((rows, parts), lambda r, p: best(r, p, always), "offers")
    places = te.compute((rows, parts), lambda r, p: first(r, p, always, offers[r, p]), "places")

    def step(offer: te.Tensor, place: te.Tensor, values: te.Tensor, positions: te.Tensor) -> list[te.Tensor]:
        def found(t: Expr, r: Expr) -> Expr:
            return te.reduce(op, [parts], lambda p: select(place[t, r, p] < size, offer[t, r, p], worst))

        top = te.compute((k, rows), found, "top")

        def chosen(t: Expr, r: Expr) -> Expr:
            def at(p: Expr) -> Expr:
                return select((place[t, r, p] < size) & offer[t, r, p].eq(top[t, r]), p, parts)

            return te.reduce("min", [parts], at)

        part = te.compute((k, rows), chosen, "part")

        def taken(t: Expr, r: Expr) -> Expr:
            return minimum(part[t, r], parts - 1)

        where = te.compute((k, rows), lambda t, r: place[t, r, taken(t, r)], "where")

        def follows(t: Expr, r: Expr) -> Callable[[Expr, Expr], Expr]:
            last = top[t, r]

            def counts(at: Expr, value: Expr) -> Expr:
                later = value < last if largest else last < value
                return later | (value.eq(last) & (where[t, r] < at))

            return counts

        after = te.compute((k, rows), lambda t, r: best(r, taken(t, r), follows(t, r)), "after")
        after_place = te.compute(
            (k, rows), lambda t, r: first(r, taken(t, r), follows(t, r), after[t, r]), "after_place"
        )

        def renewed(old: te.Tensor, new: te.Tensor, name: str) -> te.Tensor:
            return te.compute(
                (k, rows, parts), lambda t, r, p: select(p.eq(part[t, r]), new[t, r], old[t, r, p]), name
            )

        return [renewed(offer, after, "next_offers"), renewed(place, after_place, "next_places"), top, where]

    starts = [
        offers,
        places,
        te.compute((rows,), lambda r: worst, "no_value"),
        te.compute((rows,), lambda r: as_expr(0), "no_place"),
    ]
    names = ["offered", "offered_places", "taken", "taken_places"]
    _, _, values, positions = te.scan(k, starts, step, names)
    # NaN follows nothing: where only such elements are left the last position is given.
    return [
        te.compute((rows, k), lambda r, t: values[t + 1, r], "top_values"),
        te.compute((rows, k), lambda r, t: minimum(positions[t + 1, r], size - 1), "top_places"),
    ]


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, k = inputs[0], int(ctx.attr("k"))
    keys = x.astype(np.float32) if dt.is_float(dt.from_numpy(x.dtype)) and x.dtype.itemsize == 2 else x
    if ctx.attr("largest", True):
        order = x.shape[1] - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1]
    else:
        order = np.argsort(keys, axis=1, kind="stable")
    places = np.ascontiguousarray(order[:, :k]).astype(np.int64)
    return [np.take_along_axis(x, places, 1), places]


register(OpDef("top_k", FusionKind.opaque, infer=_infer, compute=_compute, reference=_reference))
