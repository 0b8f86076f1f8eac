"""Discrete Fourier transforms as matrix products.

Complex numbers are pairs in the last dimension. A short transform is one product with a constant matrix that
maps interleaved pairs to interleaved pairs; a long one is two rounds of short ones (Cooley and Tukey 1965).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir.expr import as_expr
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, accumulator_dtype, as_dtype, axis_of, dims_attr

#: Transforms up to this length are one matrix product.
DIRECT: Final = 512
#: The longest one; longer transforms need factors up to this length.
LONGEST_DIRECT: Final = 2048


def _transform(ctx: OpContext) -> tuple[int, int, int, int]:
    """Axis, length of the transform, elements taken from the input, and of the result."""
    x = ctx.input(0)
    axis = axis_of(ctx, ctx.attr("axis"), x.rank)
    given, parts = const_int(x.shape[axis]), const_int(x.shape[-1])
    if not dt.is_float(x.dtype) or axis == x.rank - 1 or parts not in (1, 2):
        ctx.fail("dft takes floats with the real (and imaginary) part in a last dimension of 1 or 2")
    if given is None:
        ctx.fail("dft takes an axis of known length")
    inverse, onesided = bool(ctx.attr("inverse", False)), bool(ctx.attr("onesided", False))
    length = ctx.attr("length", None)
    if length is None:
        length = 2 * (given - 1) if inverse and onesided else given
    length = int(length)
    if length < 1:
        ctx.fail(f"a transform of length {length} is not possible")
    if onesided and not inverse and parts == 2:
        ctx.fail("a one-sided transform takes real data")
    half = length // 2 + 1
    taken = min(given, half if inverse and onesided else length)
    return axis, length, taken, half if onesided and not inverse else length


def _infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    axis, _, _, count = _transform(ctx)
    real = ctx.attr("inverse", False) and ctx.attr("onesided", False)
    dims = (*x.shape[:axis], as_expr(count), *x.shape[axis + 1 : -1], as_expr(1 if real else 2))
    return [TensorType(dims, x.dtype)]


def transform_matrix(
    length: int, taken: int, count: int, parts: int, inverse: bool = False, onesided: bool = False
) -> np.ndarray:
    """``[taken * parts, count * 2]`` in float64: interleaved pairs to interleaved pairs.

    A one-sided inverse gives real results, ``[taken * parts, count]``: each frequency but the first (and the
    middle one of an even length) stands for its mirror image too.
    """
    n, k = np.arange(taken)[:, None], np.arange(count)[None, :]
    angle = (2 if inverse else -2) * math.pi * ((n * k) % length) / length
    scale = np.full((taken, 1), 1 / length if inverse else 1.0)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    if inverse and onesided:
        both = np.where((n == 0) | (2 * n == length), 1.0, 2.0)
        stacked = np.stack([cos * both, -sin * both][:parts], 1)
        return stacked.reshape(taken * parts, count)
    rows = [np.stack([cos, sin], -1), np.stack([-sin, cos], -1)][:parts]
    return np.stack(rows, 1).reshape(taken * parts, count * 2)


def _decompose(builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]) -> list[Value]:
    x = inputs[0]
    assert x is not None
    axis, length, taken, count = _transform(ctx)
    inverse, onesided = bool(ctx.attr("inverse", False)), bool(ctx.attr("onesided", False))
    wide, parts, rank = accumulator_dtype(x.dtype), const_int(x.shape[-1]) or 1, x.rank
    y = x if wide == x.dtype else builder.op("cast", x, to=wide)
    if const_int(x.shape[axis]) != taken:
        y = builder.op("slice", y, starts=(0,), ends=(taken,), axes=(axis,))
    behind = (*(d for d in range(rank - 1) if d != axis), axis, rank - 1)
    moved = behind != tuple(range(rank))
    if moved:
        y = builder.op("transpose", y, perm=behind)
    outer = y.shape[:-2]
    first = _factor(ctx, length)
    if first is None or (inverse and onesided):
        matrix = transform_matrix(length, taken, count, parts, inverse, onesided)
        y = builder.op("reshape", y, shape=dims_attr((-1, taken * parts)))
        y = builder.op("matmul", y, builder.constant(matrix, "dft", dtype=wide))
    else:
        if taken < length:
            pads = [0] * (2 * rank)
            pads[2 * rank - 2] = length - taken
            y = builder.op("pad", y, pads=tuple(pads))
        y = builder.op("reshape", y, shape=(-1, first, length // first, parts))
        y = _two_rounds(builder, y, first, length // first, inverse, wide)
        if count < length:
            y = builder.op("slice", y, starts=(0,), ends=(count,), axes=(1,))
    result = _infer(ctx)[0]
    y = builder.op("reshape", y, shape=dims_attr((*outer, count, result.shape[-1])))
    if moved:
        y = builder.op("transpose", y, perm=tuple(int(p) for p in np.argsort(behind)))
    return [y if wide == x.dtype else builder.op("cast", y, to=x.dtype)]


def _factor(ctx: OpContext, length: int) -> int | None:
    """The first of two factors of a long transform; None for a short one, done directly."""
    if length <= DIRECT:
        return None
    first = next(f for f in range(math.isqrt(length), 0, -1) if length % f == 0)
    if length // first <= LONGEST_DIRECT:
        return None if first == 1 else first
    return ctx.fail(
        f"a transform of length {length} is not supported",
        hint=f"lengths over {LONGEST_DIRECT} need two factors up to {LONGEST_DIRECT}",
    )


def _two_rounds(builder: GraphBuilder, x: Value, first: int, second: int, inverse: bool, dtype: str) -> Value:
    """``[batch, first, second, parts]`` to ``[batch, first * second, 2]``.

    With ``n = second * a + b`` and ``k = c + first * d`` the transform is one over ``a`` for each ``b``, a
    rotation by ``b * c / length``, and one over ``b`` for each ``c``.
    """
    length, parts = first * second, const_int(x.shape[-1]) or 1
    y = builder.op("transpose", x, perm=(0, 2, 1, 3))
    y = builder.op("reshape", y, shape=(-1, first * parts))
    matrix = transform_matrix(first, first, first, parts, inverse)
    y = builder.op("matmul", y, builder.constant(matrix, "dft", dtype=dtype))
    y = builder.op("reshape", y, shape=(-1, second, first, 2))
    turn = (2 if inverse else -2) * math.pi / length
    angle = turn * (np.arange(second)[:, None] * np.arange(first)[None, :])
    cos = np.repeat(np.cos(angle)[..., None], 2, -1)
    sin = np.stack([-np.sin(angle), np.sin(angle)], -1)
    swapped = builder.op("gather", y, builder.constant(np.array([1, 0])), axis=3)
    y = builder.op(
        "add",
        builder.op("mul", y, builder.constant(cos, "rotation", dtype=dtype)),
        builder.op("mul", swapped, builder.constant(sin, "rotation", dtype=dtype)),
    )
    y = builder.op("transpose", y, perm=(0, 2, 1, 3))
    y = builder.op("reshape", y, shape=(-1, second * 2))
    matrix = transform_matrix(second, second, second, 2, inverse)
    y = builder.op("matmul", y, builder.constant(matrix, "dft", dtype=dtype))
    y = builder.op("reshape", y, shape=(-1, first, second, 2))
    y = builder.op("transpose", y, perm=(0, 2, 1, 3))
    return builder.op("reshape", y, shape=(-1, length, 2))


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    axis, length, taken, count = _transform(ctx)
    data = x.astype(np.float64)
    signal = data[..., 0] if x.shape[-1] == 1 else data[..., 0] + 1j * data[..., 1]
    signal = np.take(signal, range(taken), axis)
    if ctx.attr("inverse", False) and ctx.attr("onesided", False):
        result = np.fft.irfft(signal, length, axis)[..., None]
    else:
        function = np.fft.ifft if ctx.attr("inverse", False) else np.fft.fft
        spectrum = np.take(function(signal, length, axis), range(count), axis)
        result = np.stack([spectrum.real, spectrum.imag], -1)
    return [as_dtype(result, dt.from_numpy(x.dtype))]


register(OpDef("dft", FusionKind.contraction, infer=_infer, decompose=_decompose, reference=_reference))
