"""Counts of n-grams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.expr import as_expr
from tilewright.ir.visit import const_int
from tilewright.ops.common import dims_attr


@onnx_op("TfIdfVectorizer", 9, limits="whole numbers in rows of known length")
def tf_idf_vectorizer(ctx: NodeContext) -> Value:
    """How often n-grams occur in each row, also with up to ``max_skip_count`` elements left out between
    neighbours, weighted by ``mode``.
    """
    x = ctx.op("cast", ctx.x, to="int64") if ctx.x.dtype != "int64" else ctx.x
    if x.rank not in (1, 2):
        ctx.fail(f"TfIdfVectorizer takes a row or a batch of rows, not {x.type}")
    rows = ctx.reshape(x, (as_expr(1), *x.shape)) if x.rank == 1 else x
    places = np.array(ctx.attr("ngram_indexes"), np.int64)
    if not places.size or places.min() < 0:
        ctx.fail("'ngram_indexes' must hold places in the result")
    found = [(numbers, _occurrences(ctx, rows, grams)) for numbers, grams in _pool(ctx, len(places))]
    mode, weights = ctx.attr("mode"), ctx.attr("weights", None)
    if mode not in ("TF", "IDF", "TFIDF"):
        ctx.fail(f"mode '{mode}' is not defined")
    scale = np.ones(len(places)) if weights is None or mode == "TF" else np.array(weights)
    if len(scale) != len(places):
        ctx.fail(f"there are {len(scale)} weights for {len(places)} n-grams")
    if mode == "IDF":
        ones = _placed(ctx, rows, places, np.ones(len(places)), found)
        weight = np.zeros(int(places.max()) + 1)
        weight[places] = scale
        if (weight[places] != scale).any():
            ctx.unsupported("n-grams of different weights in one place of the result have no IDF")
        y = ctx.op("mul", ctx.op("minimum", ones, ctx.like(1, ones)), ctx.constant(weight, "float32"))
    else:
        y = _placed(ctx, rows, places, scale, found)
    return y if x.rank == 2 else ctx.reshape(y, y.shape[1:])


def _pool(ctx: NodeContext, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The n-grams of each length that counts: their numbers in the pool, and the n-grams ``[count, n]``."""
    pool = ctx.attr("pool_int64s", None)
    if pool is None:
        ctx.unsupported("n-grams of texts are not supported")
    flat, starts = np.array(pool, np.int64), [int(n) for n in ctx.attr("ngram_counts")]
    ends = [*starts[1:], len(flat)]
    shortest, longest = int(ctx.attr("min_gram_length")), int(ctx.attr("max_gram_length"))
    if not 1 <= shortest <= longest <= len(starts) or int(ctx.attr("max_skip_count")) < 0:
        ctx.fail(f"n-grams of {shortest} to {longest} elements do not fit 'ngram_counts' {tuple(starts)}")
    first = 0
    for length, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        if not 0 <= start <= end <= len(flat) or (end - start) % length:
            ctx.fail(f"'ngram_counts' {tuple(starts)} do not fit a pool of {len(flat)} elements")
        grams = flat[start:end].reshape(-1, length)
        if shortest <= length <= longest and len(grams):
            yield np.arange(first, first + len(grams)), grams
        first += len(grams)
    if first != count:
        ctx.fail(f"'ngram_indexes' has {count} places for {first} n-grams")


def _occurrences(ctx: NodeContext, rows: Value, grams: np.ndarray) -> Value | None:
    """How often each n-gram ``[count, n]`` occurs in each row, float32 ``[rows, count]``; None: never."""
    count, length = grams.shape
    size = const_int(rows.shape[1])
    if size is None:
        ctx.unsupported("rows of open length are not supported")
    total = None
    # Nothing can be left out of a single element: it is counted once.
    for step in range(1, 2 + (int(ctx.attr("max_skip_count")) if length > 1 else 0)):
        windows = size - step * (length - 1)
        if windows < 1:
            break
        here = None
        for n in range(length):
            begin = n * step
            part = ctx.op("slice", rows, starts=(begin,), ends=(begin + windows,), axes=(1,), steps=(1,))
            column = ctx.reshape(part, (rows.shape[0], as_expr(windows), as_expr(1)))
            same = ctx.op("equal", column, ctx.constant(grams[:, n].reshape(1, 1, count), "int64"))
            here = same if here is None else ctx.op("and", here, same)
        assert here is not None
        found = ctx.op("reduce", ctx.op("cast", here, to="float32"), op="sum", axes=(1,), keepdims=False)
        total = found if total is None else ctx.op("add", total, found)
    return total


def _placed(
    ctx: NodeContext,
    rows: Value,
    places: np.ndarray,
    scale: np.ndarray,
    found: list[tuple[np.ndarray, Value | None]],
) -> Value:
    """Sums ``[rows, places]`` of counts times ``scale``; counts are those of n-grams by their numbers in the
    pool.
    """
    batch, size = rows.shape[0], int(places.max()) + 1
    known = [(numbers, counts) for numbers, counts in found if counts is not None]
    zero = ctx.op("expand", ctx.constant(np.zeros((1, 1)), "float32"), shape=dims_attr((batch, as_expr(1))))
    columns = ctx.op("concat", *(counts for _, counts in known), zero, axis=1)
    numbers = np.concatenate([n for n, _ in known]) if known else np.zeros(0, np.int64)
    factors = np.append(scale[numbers], 0)
    if (factors[:-1] != 1).any():
        columns = ctx.op("mul", columns, ctx.constant(factors, "float32"))
    # For each place the columns that are added up there; the last column is 0.
    lists: list[list[int]] = [[] for _ in range(size)]
    for column, number in enumerate(numbers):
        lists[int(places[number])].append(column)
    most = max(1, *map(len, lists))
    table = np.array([[*listed, *[len(numbers)] * (most - len(listed))] for listed in lists])
    if most == 1:
        return ctx.op("gather", columns, ctx.constant(table[:, 0], "int64"), axis=1)
    each = ctx.op("gather", columns, ctx.constant(table, "int64"), axis=1)
    return ctx.op("reduce", each, op="sum", axes=(2,), keepdims=False)
