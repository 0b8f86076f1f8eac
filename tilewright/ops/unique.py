"""Distinct elements or rows: sorted by rank, equal ones next to each other, counted."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import FALSE, Expr, as_expr, binop, call, const, maximum, minimum, select
from tilewright.ir.intrinsics import bitcast
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, dims_attr, widen
from tilewright.ops.computed import computed_size

#: Values of a byte.
BUCKETS: Final = 256


# -------------------------------------------------------------------------------------------------- row_ranks
def _is_nan(x: Expr) -> Expr:
    return call("isnan", [x], "bool") if dt.is_float(x.dtype) else FALSE


def _check_rows(ctx: OpContext) -> TensorType:
    x = ctx.input(0)
    if x.rank != 2 or x.dtype == "bool":
        ctx.fail(f"rows [N, M] of numbers are needed, not {x}")
    return x


def _ranks_infer(ctx: OpContext) -> list[TensorType]:
    return [TensorType(_check_rows(ctx).shape[:1], "int32")]


def _ranks_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """The place of each row among the sorted ones; equal ones stay in order, and NaN comes last.

    As a sort by digits does, but with columns: from the last one to the first, a row's place is the number of
    rows that come before it in this column, or are equal there and came before it up to now. Quadratic in
    the number of rows; all comparisons of a column are independent.
    """
    (x,) = inputs
    (rows, columns), real = x.shape, dt.is_float(x.dtype)

    def key(m: Expr, i: Expr) -> Expr:
        """Numbers, with NaN as the largest."""
        value = widen(x[i, columns - 1 - m])
        return select(_is_nan(value), const(float("inf"), value.dtype), value) if real else value

    keys = te.compute((columns, rows), key, "keys")

    def step(state: te.Tensor) -> list[te.Tensor]:
        def tie(m: Expr, i: Expr) -> Expr:
            behind = select(_is_nan(widen(x[i, columns - 1 - m])), rows, 0).astype("int32")
            return state[m, i] + behind

        ties = te.compute((columns, rows), tie, "ties") if real else state

        def rank(m: Expr, i: Expr) -> Expr:
            def before(j: Expr) -> Expr:
                a, b = keys[m, j], keys[m, i]
                return ((a < b) | (a.eq(b) & (ties[m, j] < ties[m, i]))).astype("int32")

            return te.reduce("sum", [rows], before)

        return [te.compute((columns, rows), rank, "next_ranks")]

    start = te.compute((rows,), lambda i: i.astype("int32"), "as_they_stand")
    (ranks,) = te.scan(columns, [start], step, ["ranks"])
    return [te.compute((rows,), lambda i: ranks[columns, i], "row_ranks")]


def _ranks_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    (x,) = inputs
    if dt.is_float(dt.from_numpy(x.dtype)) and x.dtype.itemsize < 4:
        x = x.astype(np.float32)
    # lexsort knows no NaN: each column is a number, then whether there is none.
    columns = []
    for column in reversed(x.T):
        nan = np.isnan(column) if column.dtype.kind == "f" else np.zeros(column.shape, bool)
        columns += [nan, np.where(nan, np.inf, column) if nan.any() else column]
    order = np.lexsort(columns) if columns else np.arange(x.shape[0])
    ranks = np.empty(x.shape[0], np.int32)
    ranks[order] = np.arange(x.shape[0])
    return [ranks]


register(
    OpDef("row_ranks", FusionKind.opaque, infer=_ranks_infer, compute=_ranks_compute, reference=_ranks_numpy)
)


# -------------------------------------------------------------------------------------------------- sort_keys
def _has_keys(dtype: str) -> bool:
    """Whether numbers of a type have keys of int64."""
    return dtype != "uint64" and (dt.is_int(dtype) or dtype in ("float16", "bfloat16", "float32", "float64"))


def _key_bytes(dtype: str) -> int:
    """How many bytes of a key count."""
    return max(dt.nbytes(dtype), 4) if dt.is_float(dtype) else dt.nbytes(dtype)


def _keys_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    if x.rank != 1 or not _has_keys(x.dtype):
        ctx.fail(f"sort_keys takes a vector of numbers, not {x}")
    return [TensorType(x.shape, "int64")]


def _key(value: Expr) -> Expr:
    """A number as an int64 whose bytes, taken without a sign, are ordered as numbers are. All NaN are one
    number, the largest; so are both zeros."""
    if dt.is_float(value.dtype):
        value = widen(value)
        bits = "int64" if value.dtype == "float64" else "int32"
        largest = 2 ** (dt.bits(bits) - 1) - 1
        word = bitcast(bits, value)
        # Of negative numbers, a larger magnitude comes first.
        word = select(word < 0, binop("xor", word, const(largest, bits)), word)
        word = select(value.eq(const(0, value.dtype)), const(0, bits), word)
        value = select(_is_nan(value), const(largest, bits), word)
    if not value.dtype.startswith("int"):
        return value.astype(dt.INDEX)
    if value.dtype == "int64":
        return binop("xor", value, const(-(2**63), "int64"))
    return value.astype(dt.INDEX) + 2 ** (dt.bits(value.dtype) - 1)


def _keys_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,) = inputs
    return [te.compute(x.shape, lambda i: _key(x[i]), "sort_keys")]


def _keys_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    (x,) = inputs
    if dt.is_float(dt.from_numpy(x.dtype)):
        wide = x if x.dtype.itemsize > 4 else x.astype(np.float32)
        word = wide.view(f"int{8 * wide.itemsize}")
        largest = np.iinfo(word.dtype).max
        x = np.where(wide == 0, 0, np.where(word < 0, word ^ largest, word))
        x = np.where(np.isnan(wide), largest, x).astype(word.dtype)
    if x.dtype.kind == "u":
        return [x.astype(np.int64)]
    lowest = np.iinfo(x.dtype).min
    return [x ^ lowest if x.dtype == np.int64 else x.astype(np.int64) - lowest]


register(
    OpDef("sort_keys", FusionKind.injective, infer=_keys_infer, compute=_keys_compute, reference=_keys_numpy)
)


# ------------------------------------------------------------------------------------------------- byte_order
def _byte_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """``order``, sorted by the lowest byte of the keys that it names, and the keys without that byte.

    Elements go behind each other into one bucket for each value of the byte. The buckets' cursors lie in
    front of the result.
    """
    keys, order = inputs
    (size,) = keys.shape
    buckets = te.compute((size,), lambda i: keys[order[i]] % BUCKETS, "bucket")
    none = te.compute((BUCKETS,), lambda b: as_expr(0), "in_bucket")
    counts = te.update(none, [(size, "reduce")], lambda s, i: ((buckets[i],), s[buckets[i]] + 1))

    def before(b: Expr) -> Expr:
        return te.reduce("sum", [BUCKETS], lambda c: select(c < b, counts[c], 0))

    starts = te.compute((BUCKETS,), before, "bucket_start")
    cursors = te.compute(
        (simplify(size + BUCKETS),),
        lambda i: select(i < BUCKETS, starts[minimum(i, BUCKETS - 1)] + BUCKETS, 0),
        "cursors_and_order",
    )

    def write(state: te.Tensor, i: Expr, phase: Expr) -> tuple[tuple[Expr], Expr]:
        cursor = state[buckets[i]]
        return (select(phase.eq(0), cursor, buckets[i]),), select(phase.eq(0), order[i], cursor + 1)

    placed = te.update(cursors, [(size, "reduce"), (2, "reduce")], write)
    return [
        te.compute((size,), lambda i: placed[i + BUCKETS], "byte_order"),
        te.compute((size,), lambda i: keys[i] // BUCKETS, "shorter_keys"),
    ]


def _byte_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    keys, order = inputs
    return [order[np.argsort(keys[order] % BUCKETS, kind="stable")], keys // BUCKETS]


register(
    OpDef(
        "byte_order",
        FusionKind.opaque,
        infer=lambda ctx: [ctx.input(1), ctx.input(0)],
        compute=_byte_compute,
        reference=_byte_numpy,
    )
)


def sorted_order(builder: GraphBuilder, x: Value) -> Value:
    """Positions of the elements of a vector in their order, int64; equal ones stay in order, and NaN comes
    last. A radix sort: by each byte of the keys, from the lowest on."""
    (size,) = dims_attr(x.shape)
    keys = builder.op("sort_keys", x)
    order = builder.op("range", start=(0,), limit=(size,), delta=(1,), dtype="int64")
    for _ in range(_key_bytes(x.dtype)):
        order, keys = builder.emit("byte_order", [keys, order])
    return order


# ------------------------------------------------------------------------------------------------ row_changes
def _changes_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Whether a row differs from the one before it; the first one does."""
    (x,) = inputs
    rows, columns = x.shape

    def differences(i: Expr) -> Expr:
        def term(m: Expr) -> Expr:
            a, b = widen(x[i, m]), widen(x[maximum(i - 1, 0), m])
            return select(_is_nan(a) & _is_nan(b), FALSE, a.ne(b)).astype("int32")

        return te.reduce("sum", [columns], term)

    count = te.compute((rows,), differences, "differences")
    return [te.compute((rows,), lambda i: i.eq(0) | (count[i] > 0), "row_changes")]


def _changes_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    (x,) = inputs
    if dt.is_float(dt.from_numpy(x.dtype)):
        x = x.astype(np.float64)
    same = (x[1:] == x[:-1]) | ((x[1:] != x[1:]) & (x[:-1] != x[:-1]))
    return [np.concatenate([[True], ~same.all(1)])[: x.shape[0]]]


register(
    OpDef(
        "row_changes",
        FusionKind.opaque,
        infer=lambda ctx: [TensorType(_check_rows(ctx).shape[:1], "bool")],
        compute=_changes_compute,
        reference=_changes_numpy,
    )
)


# ------------------------------------------------------------------------------------------------ run_lengths
def _lengths_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """How far it is from each start to the next one; behind the last one to ``end``."""
    (starts,) = inputs
    (count,), end = starts.shape, as_expr(ctx.attr("end"))

    def body(k: Expr) -> Expr:
        return select(k + 1 < count, starts[minimum(k + 1, count - 1)], end) - starts[k]

    return [te.compute((count,), body, "run_lengths")]


register(
    OpDef(
        "run_lengths",
        FusionKind.opaque,
        infer=lambda ctx: [ctx.input(0)],
        compute=_lengths_compute,
        reference=lambda ctx, inputs: [np.diff(np.append(inputs[0], int(ctx.attr("end"))))],  # type: ignore[arg-type]
    )
)


# ----------------------------------------------------------------------------------------------------- unique
class Distinct(NamedTuple):
    """The distinct rows of a matrix ``[N, M]``, ``count`` of them; all int64.

    Attributes:
        first: where each of them stands for the first time, ``[count]``.
        inverse: for every row of the matrix, which of them it is, ``[N]``.
        counts: how often each of them occurs, ``[count]``.
    """

    first: Value
    inverse: Value
    counts: Value


def distinct_rows(builder: GraphBuilder, x: Value, in_order: bool, name: str) -> Distinct:
    """The distinct rows of ``x`` ``[N, M]``, sorted (``in_order``) or as they appear. Their number is a
    dimension called ``name``."""
    rows = x.shape[0]
    (size,) = dims_attr((rows,))

    def along(values: Value, places: Value) -> Value:
        return builder.op("gather", values, places, axis=0)

    def from_one(values: Value) -> Value:
        (behind,) = dims_attr((rows + 1,))
        return builder.op("slice", values, starts=(1,), ends=(behind,), axes=(0,))

    numbers = builder.op("range", start=(0,), limit=(size,), delta=(1,), dtype="int64")
    if const_int(x.shape[1]) == 1 and _has_keys(x.dtype):
        order = sorted_order(builder, builder.op("reshape", x, shape=(size,)))
        ranks = builder.op("scatter_elements", numbers, order, numbers, axis=0)
    else:
        ranks = builder.op("row_ranks", x)
        order = builder.op("scatter_elements", numbers, ranks, numbers, axis=0)
    changes = builder.op("row_changes", along(x, order))
    counts = builder.op("running_count", changes)
    last = builder.op("slice", counts, starts=(size,), ends=dims_attr((rows + 1,)), axes=(0,))
    total, count = computed_size(builder, builder.op("reshape", last, shape=()), rows, name)
    (extent,) = dims_attr((count,))
    starts = builder.op("front", builder.op("positions", counts), total, dim=extent)
    groups = builder.op("sub", from_one(counts), builder.constant(1))
    inverse = along(groups, ranks)
    first = along(order, starts)
    lengths = builder.op("run_lengths", starts, end=size)
    if in_order:
        return Distinct(first, inverse, lengths)
    begins = along(first, inverse)
    seen = builder.op("running_count", builder.op("equal", begins, numbers))
    appearing = builder.op("front", builder.op("positions", seen), total, dim=extent)
    return Distinct(appearing, along(seen, begins), along(lengths, along(inverse, appearing)))
