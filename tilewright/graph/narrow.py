"""Convolutions with few output channels: neighbouring output columns become channels, so that vectors are
full.

With channels-last data, vectors run over output channels; eight of them fill half a vector of sixteen. But
``p`` neighbouring columns with ``c`` channels each are, in memory, one column with ``p * c`` channels. They
are computed by one convolution with ``p`` times the stride, whose kernel holds ``p`` shifted copies of the
original one, side by side, with zeros around:

    y[q * p + r] = sum_k x[(q * p + r) * s + k * d] w[k]  =  sum_j x[q * (p * s) + j] v[j, r],   v[r * s + k *
    d, r] = w[k].

The zeros are wasted work, the fuller vectors are saved work; wide kernels gain, narrow ones do not.

A zero tap times an infinite or NaN input is NaN: such inputs reach up to ``p - 1`` columns further than their
window.
"""

from __future__ import annotations

import dataclasses
from math import ceil
from typing import Final

import numpy as np

from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.movement import Replaced
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.graph.shapes import known
from tilewright.ir import dtype as dt

#: Bytes of the widest vectors. On narrower ones packing gains less, but never loses more than the zeros cost.
VECTOR_BYTES: Final = 64
#: What fraction of full speed a convolution with one output channel reaches: its vectors run along a row of
#: the output and are gathered, unless there is one input channel too and the stride is 1.
ONE_CHANNEL_SPEED: Final = 0.4
#: Packing must promise this factor.
MIN_GAIN: Final = 1.4


@dataclasses.dataclass(frozen=True, slots=True)
class _Axis:
    """The spatial dimension along which columns are packed: its place among the spatial ones, and its
    window.
    """

    index: int
    taps: int
    stride: int
    dilation: int

    def packed_taps(self, columns: int) -> int:
        return (columns - 1) * self.stride + (self.taps - 1) * self.dilation + 1


def pack_narrow_convolutions(graph: Graph) -> Graph:
    """Apply the rewriting above to channels-last convolutions with constant weights and one group, where it
    pays.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op != "conv" or not node.attrs.get("channels_last") or node.attrs.get("groups", 1) != 1:
            return None
        x, w = node.inputs[0], rw.const(node.inputs[1])
        bias_value = node.inputs[2] if len(node.inputs) > 2 else None
        bias = rw.const(bias_value)
        if (
            x is None
            or w is None
            or (bias_value is not None and bias is None)
            or node.output.static_shape is None
            or x.static_shape is None
        ):
            return None
        axis = _axis(node, w.shape)
        columns = None if axis is None else _best_columns(node, w, axis)
        if axis is None or columns is None:
            return None
        return [_packed(rw, node, w, bias, axis, columns)]

    return rewrite(graph, visit)


def _per_dim(node: Node, name: str, count: int, default: int) -> list[int]:
    values = node.attrs.get(name)
    if not isinstance(values, tuple):
        return [default] * count
    return [int(v) for v in values if isinstance(v, int)]


def _axis(node: Node, weight: tuple[int, ...]) -> _Axis | None:
    """The last spatial dimension of the output that is not of size 1."""
    spatial = known(node.output.dims())[1:-1]
    sized = [n for n, d in enumerate(spatial) if d > 1]
    if not sized:
        return None
    n, rank = sized[-1], len(spatial)
    return _Axis(n, weight[n], _per_dim(node, "strides", rank, 1)[n], _per_dim(node, "dilations", rank, 1)[n])


def _best_columns(node: Node, w: np.ndarray, axis: _Axis) -> int | None:
    """How many columns to pack; None when none pays."""
    lanes = VECTOR_BYTES // dt.nbytes(node.output.dtype)
    channels, width = w.shape[-1], known(node.output.dims())[1 + axis.index]

    def speed(columns: int) -> float:
        used = columns * channels
        full = used / (ceil(used / lanes) * lanes)
        rounded = ceil(width / columns) * columns / width
        return float(full * axis.taps / (axis.packed_taps(columns) * rounded))

    now = speed(1)
    if channels == 1:
        now = 1.0 if w.shape[-2] == 1 and axis.stride == 1 else ONE_CHANNEL_SPEED
    best = max((c for c in (2, 4, 8, 16) if c * channels <= lanes), key=speed, default=None)
    return best if best is not None and speed(best) >= MIN_GAIN * now else None


def _packed(
    rw: Rewriter, node: Node, w: np.ndarray, bias: np.ndarray | None, axis: _Axis, columns: int
) -> Value:
    x = node.inputs[0]
    assert x is not None
    n, rank, channels = axis.index, w.ndim - 2, w.shape[-1]
    shape = list(w.shape[:-1])
    shape[n] = axis.packed_taps(columns)
    fresh = np.zeros((*shape, columns, channels), w.dtype)
    for r in range(columns):
        taps = slice(r * axis.stride, r * axis.stride + (axis.taps - 1) * axis.dilation + 1, axis.dilation)
        np.moveaxis(fresh[..., r, :], n, 0)[taps] = np.moveaxis(w, n, 0)
    out = list(known(node.output.dims()))
    groups = ceil(out[1 + n] / columns)
    strides, dilations = _per_dim(node, "strides", rank, 1), _per_dim(node, "dilations", rank, 1)
    pads = _per_dim(node, "pads", 2 * rank, 0)
    # The end of the last window decides how much follows the data; it may even be less than before.
    reach = (groups - 1) * columns * axis.stride + shape[n]
    after = reach - known(x.dims())[1 + n] - pads[n]
    strides[n], dilations[n], pads[rank + n] = columns * axis.stride, 1, max(after, 0)
    name = node.name or node.op
    operands = [x, rw.constant(fresh.reshape(*shape, columns * channels), f"{name}.packed"), *node.inputs[2:]]
    if bias is not None:
        operands[2] = rw.constant(np.tile(bias, columns), f"{name}.bias")
    attrs = {**node.attrs, "strides": tuple(strides), "dilations": tuple(dilations), "pads": tuple(pads)}
    (packed,) = rw.emit("conv", operands, attrs, name=node.name)
    whole = (*out[: 1 + n], groups * columns, *out[2 + n :])
    y = rw.op("reshape", packed, shape=whole)
    if whole == tuple(out):
        return y
    return rw.op("slice", y, starts=(0,), ends=(out[1 + n],), axes=(1 + n,), steps=(1,))
