"""Results whose sizes the data decides: positions of what is not zero, ranges with computed ends.

Such a size is a dimension of the graph whose value an operator ``size_of`` makes at run time. Everything
behind it gets the size as kernels get those of inputs. Memory is planned for the largest value, and a run in
which the size is larger stops with an error.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, call, const, maximum, select
from tilewright.ops.common import Operands, dims_attr, in_float32, is_half, product

#: Lengths that are no numbers of elements: larger than any limit.
_ENDLESS: Final = 1 << 60


def _dim(ctx: OpContext) -> Expr:
    return as_expr(ctx.attr("dim"))


# ---------------------------------------------------------------------------------------------------- size_of
def _size_of_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    if x.rank or x.dtype != "int64":
        ctx.fail("size_of takes one int64")
    return [x]


def _size_of_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    out = np.empty((), dtype=object)
    out[()] = _dim(ctx)
    return [out]


def _size_of_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (count,) = inputs
    return [te.compute((), lambda: count[()], "size_of")]


register(
    OpDef(
        "size_of",
        FusionKind.opaque,
        infer=_size_of_infer,
        compute=_size_of_compute,
        reference=lambda ctx, inputs: [np.asarray(inputs[0])],
        symbolic=_size_of_symbolic,
        reads_data=False,
    )
)


def computed_size(builder: GraphBuilder, count: Value, most: Expr | int, name: str) -> tuple[Value, Expr]:
    """The int64 ``count`` (of rank 0) as a size of at most ``most``: the value behind which the size is
    known, and the dimension that it is."""
    dim = builder.new_dim(name, most)
    (size,) = dims_attr((dim,))
    (limit,) = dims_attr((as_expr(most),))
    return builder.op("size_of", count, dim=size, most=limit), dim


# ------------------------------------------------------------------------------------------------------ front
def _front_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x = inputs[0]
    return [te.compute((_dim(ctx), *x.shape[1:]), lambda *i: x[i], "front")]


def _front_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, count = inputs
    return [np.ascontiguousarray(x[: int(count)])]


register(
    OpDef(
        "front",
        FusionKind.injective,
        infer=lambda ctx: [TensorType((_dim(ctx), *ctx.input(0).shape[1:]), ctx.input(0).dtype)],
        compute=_front_compute,
        reference=_front_numpy,
    )
)


# ----------------------------------------------------------------------------------- positions of what is set
def _running_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """How many elements before each one are not zero, and how many there are in all."""
    (x,) = inputs
    start = te.compute((), lambda: as_expr(0), "none")

    def step(state: te.Tensor) -> list[te.Tensor]:
        def body(t: Expr) -> Expr:
            return state[t] + x[t].ne(const(0, x.dtype)).astype(dt.INDEX)

        return [te.compute(x.shape, body, "next_count")]

    return list(te.scan(x.shape[0], [start], step, ["running_count"]))


register(
    OpDef(
        "running_count",
        FusionKind.opaque,
        infer=lambda ctx: [TensorType((ctx.input(0).shape[0] + 1,), "int64")],
        compute=_running_compute,
        reference=lambda ctx, inputs: [
            np.concatenate([[0], np.cumsum(np.asarray(inputs[0]) != 0)]).astype(np.int64)
        ],
    )
)


def _positions_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Where counts grow, in order. What is not set goes to one place behind all others."""
    (counts,) = inputs
    size = counts.shape[0] - 1
    empty = te.compute(counts.shape, lambda i: as_expr(0), "positions")

    def write(state: te.Tensor, i: Expr) -> tuple[tuple[Expr], Expr]:
        return (select(counts[i] < counts[i + 1], counts[i], size),), i

    return [te.update(empty, [(size, "reduce")], write)]


def _positions_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    grows = np.diff(np.asarray(inputs[0])) > 0
    places = np.zeros(grows.size + 1, np.int64)
    places[: grows.sum()] = np.flatnonzero(grows)
    if not grows.all():
        places[-1] = np.flatnonzero(~grows)[-1]
    return [places]


register(
    OpDef(
        "positions",
        FusionKind.opaque,
        infer=lambda ctx: [ctx.input(0)],
        compute=_positions_compute,
        reference=_positions_numpy,
    )
)


def positions_of(builder: GraphBuilder, mask: Value, name: str) -> Value:
    """The positions in row-major order of what is not zero in ``mask``, ``[count]`` int64. The size of the
    result is a dimension called ``name``."""
    size = product(mask.shape)
    flat = builder.op("reshape", mask, shape=dims_attr((size,)))
    counts = builder.op("running_count", flat)
    last = builder.op("slice", counts, starts=dims_attr((size,)), ends=dims_attr((size + 1,)), axes=(0,))
    total, dim = computed_size(builder, builder.op("reshape", last, shape=()), size, name)
    (extent,) = dims_attr((dim,))
    return builder.op("front", builder.op("positions", counts), total, dim=extent)


# ---------------------------------------------------------------------------------------------------- unravel
def _unravel_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (flat,) = inputs
    sizes = [as_expr(s) for s in ctx.attr("shape")]

    def body(d: Expr, j: Expr) -> Expr:
        rest, coordinates = flat[j], []
        for size in reversed(sizes[1:]):
            coordinates.append(rest % size)
            rest = rest // size
        value = rest
        for n, coordinate in enumerate(reversed(coordinates), 1):
            value = select(d.eq(n), coordinate, value)
        return value

    return [te.compute((len(sizes), flat.shape[0]), body, "unravel")]


register(
    OpDef(
        "unravel",
        FusionKind.injective,
        infer=lambda ctx: [TensorType((as_expr(len(ctx.attr("shape"))), ctx.input(0).shape[0]), "int64")],
        compute=_unravel_compute,
        reference=lambda ctx, inputs: [
            np.stack(np.unravel_index(np.asarray(inputs[0]), [int(s) for s in ctx.attr("shape")]))
        ],
    )
)


# ------------------------------------------------------------------------------------------------------ range
def _length_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    def body() -> Expr:
        first, last, step = (t[(0,) * t.ndim] for t in inputs)
        if dt.is_float(first.dtype):
            distance = in_float32(lambda a, b: a - b, last, first).astype("float64")
            steps = call("ceil", [distance / step.astype("float64")])
            # Compared so that NaN is endless, too.
            steps = select(steps < const(_ENDLESS, "float64"), steps, const(_ENDLESS, "float64"))
            return select(steps > const(0, "float64"), steps, const(0, "float64")).astype(dt.INDEX)
        a, b, by = (e.astype(dt.INDEX) for e in (first, last, step))
        return select(by.eq(0), -1, maximum(-((a - b) // select(by.eq(0), 1, by)), 0))

    return [te.compute((), body, "range_length")]


def _length_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    start, limit, delta = (np.asarray(x).reshape(-1)[0] for x in inputs)
    return [np.asarray(range_length(start, limit, delta), np.int64)]


def range_length(start: Any, limit: Any, delta: Any) -> int:
    """The number of elements of a range between NumPy numbers of one dtype; -1 when ``delta`` is 0.

    The distance is taken in that dtype and divided in float64, as ONNX Runtime does.
    """
    if not dt.is_float(dt.from_numpy(np.asarray(start).dtype)):
        return -1 if delta == 0 else max(-((int(start) - int(limit)) // int(delta)), 0)
    with np.errstate(all="ignore"):
        steps = np.ceil(np.float64(limit - start) / np.float64(delta))
    return int(max(steps, 0)) if steps < _ENDLESS else _ENDLESS


register(
    OpDef(
        "range_length",
        FusionKind.opaque,
        infer=lambda ctx: [TensorType((), "int64")],
        compute=_length_compute,
        reference=_length_numpy,
    )
)


def _arange_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    start, delta, _ = inputs

    def body(i: Expr) -> Expr:
        first, step = (t[(0,) * t.ndim] for t in (start, delta))
        return in_float32(lambda a, b: a + i.astype(b.dtype) * b, first, step)

    return [te.compute((_dim(ctx),), body, "arange")]


def _arange_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    start, delta = (np.asarray(x).reshape(-1)[0] for x in inputs[:2])
    wide = np.dtype(np.float32 if is_half(start.dtype.name) else start.dtype)
    steps = np.arange(int(np.asarray(inputs[2]))).astype(wide)
    return [(start.astype(wide) + steps * delta.astype(wide)).astype(start.dtype)]


register(
    OpDef(
        "arange",
        FusionKind.injective,
        infer=lambda ctx: [TensorType((_dim(ctx),), ctx.input(0).dtype)],
        compute=_arange_compute,
        reference=_arange_numpy,
    )
)
