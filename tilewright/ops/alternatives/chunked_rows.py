"""Softmax and normalisations whose statistics are computed chunk by chunk of a long row.

The operators' own definitions go over a row once for each statistic: for the maximum and then for the sum,
or for the mean and then for the variance. Here each chunk of :data:`chunks.CHUNK` elements gets statistics of
its own, the second computed while the chunk is still in the first-level cache, and a few numbers for each
chunk are combined at the end:

* softmax (M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018): with the maximum
  ``m_c`` and ``s_c = sum exp(x - m_c)`` of chunk ``c``, ``m = max m_c`` and ``s = sum s_c exp(m_c - m)``. No
  exponent is above zero, as in the direct way.
* normalisations (T. Chan, G. Golub, R. LeVeque, "Algorithms for computing the sample variance", 1983): with
  the mean ``a_c`` and the squared deviations from it ``q_c`` of the ``n_c`` elements of chunk ``c``,
  ``q = sum q_c + n_c (a_c - a)^2``. No large numbers cancel: the error is that of the two-pass way, or less.
  The shorter
  ``E[x^2] - E[x]^2``, shifted or not, is not offered: its error grows with the square of the mean relative to
  the variance (or, shifted by one element, of that element's deviation).

A row is read twice in all instead of three times, and its chunks can run on different threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial as bind

import numpy as np

from tilewright.graph.alternatives import Alternative, Numerics, register_alternative
from tilewright.graph.opdef import OpContext
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, const, maximum
from tilewright.ir.intrinsics import intrinsic
from tilewright.ops.alternatives.chunks import Chunks, combined, is_static, long_axis, partial
from tilewright.ops.common import Operands, accumulator_dtype, axis_of, product
from tilewright.ops.norm import scaled, trailing_axes

#: The name of these alternatives.
NAME = "chunked"


def _ones(shape: Sequence[Expr], axes: Sequence[int]) -> tuple[Expr, ...]:
    return tuple(as_expr(1) if n in axes else d for n, d in enumerate(shape))


def _zeroed(index: Sequence[Expr], axes: Sequence[int]) -> tuple[Expr, ...]:
    return tuple(as_expr(0) if n in axes else i for n, i in enumerate(index))


# ------------------------------------------------------------------------------------------------- softmax
def _softmax_applies(ctx: OpContext) -> bool:
    x = ctx.input(0)
    return is_static(ctx) and long_axis(x.shape, [axis_of(ctx, ctx.attr("axis"), x.rank)]) is not None


def _softmax(log: bool, ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,) = inputs
    axis, wide = axis_of(ctx, ctx.attr("axis"), x.ndim), accumulator_dtype(x.dtype)
    chunks = long_axis(x.shape, [axis])
    assert chunks is not None
    # A chunk of -inf alone has no maximum to subtract: any finite number gives exp(-inf) = 0 there.
    lowest = const(-float(np.finfo(dt.to_numpy(wide)).max), wide)
    top = partial(x, [axis], chunks, "max", "chunk_max", lambda e, _: e.astype(wide))

    def shift(at: Sequence[Expr]) -> Expr:
        return maximum(top[tuple(at)], lowest)

    powers = _powers(x, chunks, shift)
    sums = te.compute(
        top.shape,
        lambda *at: te.reduce(
            "sum", [chunks.length], lambda r: powers[(*at[: axis + 1], r, *at[axis + 1 :])]
        ),
        "chunk_sum",
    )
    whole = _ones(x.shape, [axis])
    highest = combined(whole, chunks, "max", "max", lambda at, _: shift(at))

    def rescale(at: Sequence[Expr]) -> Expr:
        return intrinsic("exp", shift(at) - highest[_zeroed(at, [axis])])

    total = combined(whole, chunks, "sum", "sum", lambda at, _: sums[at] * rescale(at))
    if log:
        logarithm = te.compute(whole, lambda *at: intrinsic("log", total[at]), "log_sum")

        def shifted(*i: Expr) -> Expr:
            at = _zeroed(i, [axis])
            return (x[i].astype(wide) - highest[at] - logarithm[at]).astype(x.dtype)

        return [te.compute(x.shape, shifted, "log_softmax")]
    factor = te.compute(top.shape, lambda *at: rescale(at) / total[_zeroed(at, [axis])], "factor")

    def scaled_power(*i: Expr) -> Expr:
        chunk, inner = i[axis] // chunks.length, i[axis] % chunks.length
        before, after = i[:axis], i[axis + 1 :]
        return (powers[(*before, chunk, inner, *after)] * factor[(*before, chunk, *after)]).astype(x.dtype)

    return [te.compute(x.shape, scaled_power, "softmax")]


def _powers(x: te.Tensor, chunks: Chunks, shift: Callable[[Sequence[Expr]], Expr]) -> te.Tensor:
    """``exp(x - shift)`` with the axis taken apart into chunk and element; 0 behind the end."""
    axis, wide = chunks.axis, accumulator_dtype(x.dtype)

    def body(*i: Expr) -> Expr:
        at = (*i[: axis + 1], *i[axis + 2 :])
        position = chunks.position(i[axis], i[axis + 1])
        value = x[(*i[:axis], position, *i[axis + 2 :])].astype(wide)
        return chunks.guarded(position, intrinsic("exp", value - shift(at)), "sum")

    shape = (*x.shape[:axis], const(chunks.count), const(chunks.length), *x.shape[axis + 1 :])
    return te.compute(shape, body, "exp")


for _op, _log in (("softmax", False), ("log_softmax", True)):
    register_alternative(
        Alternative(
            _op,
            NAME,
            _softmax_applies,
            compute=bind(_softmax, _log),
            numerics=Numerics.bounded,
            error="one more rounding of exp for each chunk: relative 2e-6 (tests/ops/alternatives)",
        )
    )


# ------------------------------------------------------------------------------------------- normalisations
def _norm_chunks(ctx: OpContext) -> Chunks | None:
    x = ctx.input(0)
    return long_axis(x.shape, trailing_axes(ctx, x.rank)) if is_static(ctx) else None


def _layer_norm(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x = inputs[0]
    axes, wide, chunks = trailing_axes(ctx, x.ndim), accumulator_dtype(x.dtype), _norm_chunks(ctx)
    assert chunks is not None
    rest = product([x.shape[a] for a in axes if a != chunks.axis])
    inverse = const(1.0, wide) / product([x.shape[a] for a in axes]).astype(wide)

    def count(at: Sequence[Expr]) -> Expr:
        return (chunks.filled(at[chunks.axis]) * rest).astype(wide)

    sums = partial(x, axes, chunks, "sum", "chunk_sum", lambda e, _: e.astype(wide))
    means = te.compute(sums.shape, lambda *i: sums[i] * (const(1.0, wide) / count(i)), "chunk_mean")

    def squared(value: Expr, at: Sequence[Expr]) -> Expr:
        deviation = value.astype(wide) - means[tuple(at)]
        return deviation * deviation

    squares = partial(x, axes, chunks, "sum", "chunk_square_sum", squared)
    whole = _ones(x.shape, axes)
    # The means of chunks lie close to each other, whatever they are: their differences from one are exact.
    apart = combined(whole, chunks, "sum", "sum", lambda at, i: (means[at] - means[tuple(i)]) * count(at))
    mean = te.compute(whole, lambda *i: means[i] + apart[i] * inverse, "mean")

    def contribution(at: tuple[Expr, ...], index: Sequence[Expr]) -> Expr:
        deviation = means[at] - mean[tuple(index)]
        return squares[at] + deviation * deviation * count(at)

    square = combined(whole, chunks, "sum", "square_sum", contribution)

    def at_row(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return _zeroed(i, axes)

    centred = te.compute(x.shape, lambda *i: x[i].astype(wide) - mean[at_row(i)], "centred")
    return [scaled(ctx, inputs, centred, square, inverse, at_row, "layer_norm")]


def _rms_norm(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x = inputs[0]
    axes, wide, chunks = trailing_axes(ctx, x.ndim), accumulator_dtype(x.dtype), _norm_chunks(ctx)
    assert chunks is not None
    inverse = const(1.0, wide) / product([x.shape[a] for a in axes]).astype(wide)
    squares = partial(
        x, axes, chunks, "sum", "chunk_square_sum", lambda e, _: e.astype(wide) * e.astype(wide)
    )
    square = combined(_ones(x.shape, axes), chunks, "sum", "square_sum", lambda at, _: squares[at])
    return [scaled(ctx, inputs, x, square, inverse, lambda i: _zeroed(i, axes), "rms_norm")]


for _op, _compute, _numerics, _error in (
    (
        "layer_norm",
        _layer_norm,
        Numerics.bounded,
        "that of the two-pass way, whatever the mean: tested up to means of 1e4 deviations",
    ),
    ("rms_norm", _rms_norm, Numerics.reordered, ""),
):
    register_alternative(
        Alternative(
            _op,
            NAME,
            lambda ctx: _norm_chunks(ctx) is not None,
            compute=_compute,
            numerics=_numerics,
            error=_error,
        )
    )
