"""Non-maximum suppression: of boxes that overlap, the one with the highest score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, ceildiv, const, maximum, minimum, select
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, dims_attr
from tilewright.ops.computed import computed_size, positions_of

#: Candidates are looked at in vectors of so many.
LANES: Final = 16
_NONE: Final = 2**31 - 1
Place: TypeAlias = tuple[Expr, Expr, Expr]


# ---------------------------------------------------------------------------------------------- row_positions
def _rows_infer(ctx: OpContext) -> list[TensorType]:
    rows, size = ctx.attr("rows"), ctx.attr("size")
    return [TensorType.make((rows, as_expr(size) + 1), "int64"), TensorType.make((rows,), "int64")]


def _rows_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Where counts grow within each row of a matrix that they run through, in order, and how often. What
    follows the last place means nothing: where counts do not grow goes to one place behind the others."""
    (counts,) = inputs
    rows, size = as_expr(ctx.attr("rows")), as_expr(ctx.attr("size"))

    def write(state: te.Tensor, r: Expr, n: Expr) -> tuple[tuple[Expr, Expr], Expr]:
        before = counts[r * size + n]
        return (r, select(before < counts[r * size + n + 1], before - counts[r * size], size)), n

    empty = te.compute((rows, size + 1), lambda r, n: as_expr(0), "row_positions")
    places = te.update(empty, [(rows, "spatial"), (size, "reduce")], write)
    return [places, te.compute((rows,), lambda r: counts[r * size + size] - counts[r * size], "row_count")]


def _rows_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    rows, size = int(ctx.attr("rows")), int(ctx.attr("size"))
    found = np.diff(inputs[0]).reshape(rows, size) > 0
    places = np.zeros((rows, size + 1), np.int64)
    for row, there in zip(places, found, strict=True):
        row[: there.sum()] = np.flatnonzero(there)
        if not there.all():
            row[-1] = np.flatnonzero(~there)[-1]
    return [places, found.sum(1)]


register(
    OpDef(
        "row_positions",
        FusionKind.opaque,
        infer=_rows_infer,
        compute=_rows_compute,
        reference=_rows_numpy,
    )
)


# ------------------------------------------------------------------------------------------------- best_boxes
def _best_infer(ctx: OpContext) -> list[TensorType]:
    boxes, scores = ctx.input(0), ctx.input(1)
    if boxes.rank != 3 or const_int(boxes.shape[2]) != 4 or scores.rank != 3 or boxes.dtype != scores.dtype:
        ctx.fail("best_boxes takes boxes [B, N, 4] and scores [B, C, N] of one dtype")
    rows = scores.shape[0] * scores.shape[1]
    return [TensorType((rows, as_expr(ctx.attr("steps"))), "int64")]


def _corners(box: Sequence[Expr], centred: bool) -> tuple[Expr, Expr, Expr, Expr]:
    """The least and largest x, and the least and largest y."""
    if not centred:  # two opposite corners, each y before x
        y0, x0, y1, x1 = box
        return minimum(x0, x1), maximum(x0, x1), minimum(y0, y1), maximum(y0, y1)
    x, y, width, height = box
    half = [side / const(2, side.dtype) for side in (width, height)]
    return x - half[0], x + half[0], y - half[1], y + half[1]


def _best_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """In each step, of the candidates that are left the one with the highest score, the first one of equals,
    is taken; it goes, and so does all that overlaps it too much. -1 where none is left.

    Candidates are ``places`` of which each row has its own ``counts``, at most ``width``.
    """
    boxes, scores, places, counts, limit = inputs
    rows, steps = places.shape[0], as_expr(ctx.attr("steps"))
    classes, dtype, last = scores.shape[1], boxes.dtype, places.shape[1] - 1
    centred = bool(ctx.attr("centred", False))
    vectors = ceildiv(as_expr(ctx.attr("width")), LANES)

    def candidates(body: Callable[[Expr, Expr, Expr], Expr], name: str) -> te.Tensor:
        """``body(batch, class, box)`` of all candidates. Behind those of a row are some other boxes."""

        def at(r: Expr, v: Expr, lane: Expr) -> Expr:
            return body(r // classes, r % classes, places[r, minimum(v * LANES + lane, last)])

        return te.compute((rows, vectors, LANES), at, name)

    def side(n: int) -> te.Tensor:
        def body(batch: Expr, kind: Expr, box: Expr) -> Expr:
            return _corners([boxes[batch, box, d] for d in range(4)], centred)[n]

        return candidates(body, ("left", "right", "top", "bottom")[n])

    score = candidates(lambda batch, kind, box: scores[batch, kind, box], "candidate_scores")
    left, right, top, bottom = (side(n) for n in range(4))
    area = te.compute((rows, vectors, LANES), lambda *i: (right[i] - left[i]) * (bottom[i] - top[i]), "area")
    zero, one = const(0, dtype), const(1, dtype)

    def overlap(a: Place, b: Place) -> Expr:
        """Whether two candidates of a row overlap too much."""
        wide = minimum(right[a], right[b]) - maximum(left[a], left[b])
        high = minimum(bottom[a], bottom[b]) - maximum(top[a], top[b])
        common = wide * high
        union = area[a] + area[b] - common
        real = (zero < wide) & (zero < high) & (zero < common) & (zero < union)
        real = real & (zero < area[a]) & (zero < area[b])
        return real & (limit[(0,) * limit.ndim] < common / select(zero < union, union, one))

    worst, none = const(-float("inf"), dtype), const(_NONE, "int32")

    def best_of(open_: Callable[[Expr], Expr], r: Expr, lane: Expr) -> Expr:
        """The highest score in a lane, of the candidates that ``open_`` tells by their vector."""
        return te.reduce("max", [vectors], lambda v: select(open_(v), score[r, v, lane], worst))

    def step(state: te.Tensor, lanes: te.Tensor, taken: te.Tensor) -> list[te.Tensor]:
        best = te.compute(
            (steps, rows), lambda t, r: te.reduce("max", [LANES], lambda lane: lanes[t, r, lane]), "best"
        )

        def place(t: Expr, r: Expr, lane: Expr) -> Expr:
            def term(v: Expr) -> Expr:
                is_best = state[t, r, v, lane] & score[r, v, lane].eq(best[t, r])
                return select(is_best, (v * LANES + lane).astype("int32"), none)

            return te.reduce("min", [vectors], term)

        by_lane = te.compute((steps, rows, LANES), place, "place_by_lane")
        chosen = te.compute(
            (steps, rows), lambda t, r: te.reduce("min", [LANES], lambda lane: by_lane[t, r, lane]), "chosen"
        )
        found = te.compute(
            (steps, rows), lambda t, r: select(chosen[t, r] < none, chosen[t, r], 0).astype(dt.INDEX), "found"
        )

        def stays(t: Expr, r: Expr, v: Expr, lane: Expr) -> Expr:
            other = state[t, r, v, lane] & (v * LANES + lane).astype("int32").ne(chosen[t, r])
            best_one = (r, found[t, r] // LANES, found[t, r] % LANES)
            return select(overlap(best_one, (r, v, lane)), const(False, "bool"), other)

        still = te.compute((steps, rows, vectors, LANES), stays, "still_left")
        return [
            still,
            te.compute(
                (steps, rows, LANES),
                lambda t, r, lane: best_of(lambda v: still[t, r, v, lane], r, lane),
                "next_best",
            ),
            te.compute(
                (steps, rows), lambda t, r: select(chosen[t, r] < none, places[r, found[t, r]], -1), "box"
            ),
        ]

    left_over = te.compute(
        (rows, vectors, LANES), lambda r, v, lane: v * LANES + lane < counts[r], "all_left"
    )
    starts = [
        left_over,
        te.compute(
            (rows, LANES), lambda r, lane: best_of(lambda v: left_over[r, v, lane], r, lane), "first_best"
        ),
        te.compute((rows,), lambda r: as_expr(-1), "none_taken"),
    ]
    taken = te.scan(steps, starts, step, ["left_over", "best_by_lane", "taken"])[-1]
    return [te.compute((rows, steps), lambda r, t: taken[t + 1, r], "best_boxes")]


def _best_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    boxes, scores, places, counts, limit = inputs
    steps, rows = int(ctx.attr("steps")), places.shape[0]
    result = np.full((rows, steps), -1, np.int64)
    for r in range(rows):
        batch, kind = divmod(r, scores.shape[1])
        open_places = list(places[r, : counts[r]])
        for t in range(steps):
            if not open_places:
                break
            best = max(open_places, key=lambda p: scores[batch, kind, p])
            result[r, t] = best
            ratios = [_overlap_numpy(ctx, boxes[batch, best], boxes[batch, p]) for p in open_places]
            open_places = [
                p for p, o in zip(open_places, ratios, strict=True) if p != best and o <= limit.reshape(())
            ]
    return [result]


def _overlap_numpy(ctx: OpContext, a: np.ndarray, b: np.ndarray) -> np.float32:
    """Intersection over union of two boxes; -inf where they do not meet."""
    sides = []
    for box in (a, b):
        if ctx.attr("centred", False):
            half = box[2:] / np.float32(2)
            sides.append((box[0] - half[0], box[0] + half[0], box[1] - half[1], box[1] + half[1]))
        else:
            y, x = sorted(box[0::2]), sorted(box[1::2])
            sides.append((x[0], x[1], y[0], y[1]))
    (l0, r0, t0, b0), (l1, r1, t1, b1) = sides
    wide, high = min(r0, r1) - max(l0, l1), min(b0, b1) - max(t0, t1)
    areas = [(r0 - l0) * (b0 - t0), (r1 - l1) * (b1 - t1)]
    union = areas[0] + areas[1] - wide * high
    if min(wide, high, wide * high, *areas, union) <= 0:
        return np.float32(-np.inf)
    return np.float32(wide * high / union)


register(
    OpDef("best_boxes", FusionKind.opaque, infer=_best_infer, compute=_best_compute, reference=_best_numpy)
)


def non_max_suppression(
    builder: GraphBuilder,
    boxes: Value,
    scores: Value,
    most: Value,
    overlap: Value,
    threshold: Value | None,
    centred: bool,
    name: str,
) -> Value:
    """Boxes ``[B, N, 4]`` whose scores ``[B, C, N]`` are the highest among those that overlap: triples
    (batch, class, box) ``[count, 3]`` int64, by batch, class, then falling score.

    Args:
        most: int64, at most so many boxes of each class.
        overlap: a box goes when its intersection over union with a better one is above this.
        threshold: boxes with scores up to this are not looked at; None: all are.
        name: of the dimension that the number of boxes is.
    """
    batches, classes, size = scores.shape
    rows = batches * classes
    if threshold is None:
        whole = builder.op("range", start=(0,), limit=dims_attr((size,)), delta=(1,), dtype="int64")
        places = builder.op("expand", whole, shape=dims_attr((rows, size)))
        (width_attr,) = dims_attr((size,))
        each = builder.op("expand", builder.op("shape", whole), shape=dims_attr((rows,)))
        left, width = builder.op("reshape", builder.op("shape", whole), shape=()), size
    else:
        flat = builder.op("reshape", scores, shape=dims_attr((rows * size,)))
        above = builder.op("less", builder.op("reshape", threshold, shape=()), flat)
        count, length = dims_attr((rows, size))
        counts = builder.op("running_count", above)
        places, each = builder.emit("row_positions", [counts], {"rows": count, "size": length})
        left = builder.op("reduce", each, op="max", axes=(0,), keepdims=False)
        left, width = computed_size(builder, left, size, f"{name}_candidates")
        (width_attr,) = dims_attr((width,))
    number = builder.op("reshape", builder.op("maximum", most, builder.constant(0)), shape=())
    known = builder.const(most)
    limit = width if known is None else minimum(width, max(int(known.reshape(())), 0))
    _, steps = computed_size(builder, builder.op("minimum", number, left), limit, f"{name}_steps")
    (steps_attr,) = dims_attr((steps,))
    taken = builder.op(
        "best_boxes",
        boxes,
        scores,
        places,
        each,
        overlap,
        steps=steps_attr,
        width=width_attr,
        centred=centred,
    )
    found = builder.op("less", builder.constant(-1), taken)
    where = positions_of(builder, found, name)
    flat = builder.op("reshape", taken, shape=dims_attr((rows * steps,)))
    box = builder.op("reshape", builder.op("gather", flat, where, axis=0), shape=dims_attr((*where.shape, 1)))
    triple = builder.op("unravel", where, shape=dims_attr((batches, classes, steps)))
    pair = builder.op(
        "slice", builder.op("transpose", triple, perm=(1, 0)), starts=(0,), ends=(2,), axes=(1,)
    )
    return builder.op("concat", pair, box, axis=1)
