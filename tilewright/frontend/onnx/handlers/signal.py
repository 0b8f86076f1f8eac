"""Spectra: discrete Fourier transforms, short-time ones, mel filter banks."""

from __future__ import annotations

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Value
from tilewright.ir.visit import const_int


@onnx_op("DFT", 17, limits="lengths over 512 need two factors up to 2048")
def dft_17(ctx: NodeContext) -> Value:
    """The axis as an attribute."""
    return _dft(ctx, ctx.axis(ctx.x.rank, 1))


@onnx_op("DFT", 20, limits="lengths over 512 need two factors up to 2048")
def dft_20(ctx: NodeContext) -> Value:
    """The axis as an input."""
    axis = int(ctx.scalar(2, "the axis of a DFT")) if ctx.has(2) else -2
    return _dft(ctx, ctx.check_axis(axis, ctx.x.rank))


def _dft(ctx: NodeContext, axis: int) -> Value:
    length = int(ctx.scalar(1, "the length of a DFT")) if ctx.has(1) else None
    kinds = {name: bool(ctx.attr(name, 0)) for name in ("inverse", "onesided")}
    return ctx.op("dft", ctx.x, axis=axis, length=length, **kinds)


@onnx_op("STFT", 17, limits="lengths as for DFT")
def stft(ctx: NodeContext) -> Value:
    """Frames of the signal, times the window, transformed one by one."""
    signal, step = ctx.x, int(ctx.scalar(1, "the step of a STFT"))
    window = ctx.optional(2)
    samples = const_int(signal.shape[1])
    if samples is None:
        ctx.unsupported("a signal of open length is not supported")
    if ctx.has(3):
        length = int(ctx.scalar(3, "the frame length of a STFT"))
    else:
        length = samples if window is None else ctx.static_dims(window, "the window")[0]
    if step < 1 or not 0 < length <= samples:
        ctx.fail(f"frames of {length} every {step} samples do not fit a signal of {samples}")
    count = 1 + (samples - length) // step
    places = np.arange(count)[:, None] * step + np.arange(length)[None, :]
    frames = ctx.op("gather", signal, ctx.constant(places, "int64"), axis=1)
    if window is not None:
        frames = ctx.op("mul", frames, ctx.reshape(window, [length, 1]))
    return ctx.op("dft", frames, axis=2, onesided=bool(ctx.attr("onesided", 1)))


@onnx_op("MelWeightMatrix", 17, limits="constant operands")
def mel_weight_matrix(ctx: NodeContext) -> Value:
    """Triangular filters, evenly spaced on the mel scale, as a constant ``[dft_length // 2 + 1, bins]``."""
    what = ("number of bins", "length", "sample rate", "lower edge", "upper edge")
    bins, length, rate, lower, upper = (
        ctx.scalar(n, f"the {name} of a MelWeightMatrix") for n, name in enumerate(what)
    )
    dtype = dtype_name(int(ctx.attr("output_datatype", 1)), "the result of MelWeightMatrix", ctx.where)
    low, high = (2595 * np.log10(1 + edge / 700) for edge in (lower, upper))
    mels = low + np.arange(bins + 2) * (high - low) / (bins + 2)
    edges = ((length + 1) * 700 * (10 ** (mels / 2595) - 1) // rate).astype(np.int64)
    if edges.min() < 0 or edges.max() > length // 2:
        ctx.fail(f"a filter bank from {lower} to {upper} Hz does not fit a spectrum up to {rate / 2} Hz")
    row = np.arange(length // 2 + 1)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = np.where(centre > left, (row - left) / np.maximum(centre - left, 1), 1.0)
    falling = (right - row) / np.maximum(right - centre, 1)
    up, down = (left <= row) & (row <= centre), (centre <= row) & (row < right)
    up &= (centre > left) | (row == centre)
    return ctx.constant(np.where(down, falling, np.where(up, rising, 0.0)), dtype)
