"""Contractions in canonical form: products without needless dimensions, padding inside the operator that
reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.movement import Replaced, viewed
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.graph.shapes import Dims, count, same_but_units


def channel_axis(node: Node, rank: int) -> int:
    """The channel dimension of a convolution's or pool's input and output."""
    return rank - 1 if node.attrs.get("channels_last") else 1


def collapse_matmul(graph: Graph) -> Graph:
    """``a[..., M, K] @ B[K, N]`` is one 2-D product: leading dimensions of ``a`` join its rows (views on both
    sides).

    A ``B`` with leading dimensions of size 1 loses them.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op != "matmul":
            return None
        a, b = node.inputs
        assert a is not None
        assert b is not None
        dims_a, dims_b, out = a.dims(), b.dims(), node.output.dims()
        if 0 in out:
            return None
        shape_a, shape_b = _collapsed(dims_a, dims_b)
        if (shape_a, shape_b) == (dims_a, dims_b):
            return None
        operands = [viewed(rw, a, shape_a), viewed(rw, b, shape_b)]
        (result,) = rw.emit("matmul", operands, dict(node.attrs), name=node.name)
        return [rw.op("reshape", result, shape=out)]

    return rewrite(graph, visit)


def _collapsed(a: Dims, b: Dims) -> tuple[Dims, Dims]:
    if count(b[:-2]) == 1:
        return (count(a[:-1]), a[-1]), b[-2:]
    return a, b


def fold_pads(graph: Graph) -> Graph:
    """A pad with zeros before a convolution becomes the convolution's own padding, as does one with -inf
    before a max pool and one with zeros before an average pool that counts its padding.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if node.op not in ("conv", "max_pool", "avg_pool") or node.inputs[0] is None:
            return None
        pad = _pad_before(rw, node.inputs[0])
        if pad is None or pad.op != "pad" or pad.attrs.get("mode", "constant") != "constant":
            return None
        around = _spatial_pads(rw, node, pad)
        if around is None:
            return None
        own = node.attrs.get("pads") or (0,) * len(around)
        assert isinstance(own, tuple)
        attrs = {
            **node.attrs,
            "pads": tuple(p + int(o) for p, o in zip(around, own, strict=True) if isinstance(o, int)),
        }
        if node.op == "avg_pool":
            if any(own) and not node.attrs.get("count_include_pad"):
                return None
            attrs["count_include_pad"] = True
        return rw.emit(node.op, [pad.inputs[0], *node.inputs[1:]], attrs, name=node.name)

    return rewrite(graph, visit)


def _pad_before(rw: Rewriter, x: Value) -> Node | None:
    """The pad that makes ``x``; one behind a view that only adds or drops dimensions of size 1 is moved
    before it.
    """
    node = rw.producer(x)
    if node is None or node.op != "reshape":
        return node
    padded, shape = node.inputs[0], x.dims()
    pad = None if padded is None else rw.producer(padded)
    if padded is None or pad is None or pad.op != "pad" or rw.use_count(padded) > 1:
        return None
    if pad.attrs.get("mode", "constant") != "constant":
        return None
    source, before, pads = pad.inputs[0], padded.dims(), _ints(pad.attrs.get("pads"))
    if source is None or pads is None or not same_but_units(before, shape):
        return None
    axes = _ints(pad.attrs.get("axes")) or tuple(range(len(before)))
    small = source.dims()
    if any(before[d] == 1 and small[d] != 1 for d in axes):
        return None
    place = dict(zip(_sized(before), _sized(shape), strict=True))
    dims = list(shape)
    for d, e in place.items():
        dims[e] = small[d]
    view = rw.op("reshape", source, shape=tuple(dims))
    kept = [n for n, d in enumerate(axes) if d in place]
    amounts = (*(pads[n] for n in kept), *(pads[n + len(axes)] for n in kept))
    attrs = {**pad.attrs, "pads": amounts, "axes": tuple(place[axes[n]] for n in kept)}
    return rw.producer(rw.emit("pad", [view, *pad.inputs[1:]], attrs, name=pad.name)[0])


def _sized(dims: Dims) -> list[int]:
    return [n for n, d in enumerate(dims) if d != 1]


def _spatial_pads(rw: Rewriter, node: Node, pad: Node) -> tuple[int, ...] | None:
    """The pad's amounts on the spatial dimensions (begins, ends), when the consumer pads with the same
    value.
    """
    x = pad.inputs[0]
    pads = _ints(pad.attrs.get("pads"))
    if x is None or pads is None or (len(pad.inputs) > 1 and pad.inputs[1] is not None):
        return None
    fill = 0.0
    if len(pad.inputs) > 2 and pad.inputs[2] is not None:
        data = rw.const(pad.inputs[2])
        if data is None:
            return None
        fill = float(data.reshape(()))
    if fill != (-np.inf if node.op == "max_pool" else 0.0):
        return None
    axes = _ints(pad.attrs.get("axes")) or tuple(range(x.rank))
    begins, ends = [0] * x.rank, [0] * x.rank
    for n, axis in enumerate(axes):
        begins[axis], ends[axis] = pads[n], pads[n + len(axes)]
    channel = channel_axis(node, x.rank)
    spatial = [d for d in range(1, x.rank) if d != channel]
    outside = (0, channel)
    if any(begins[d] or ends[d] for d in outside) or min(begins + ends) < 0:
        return None
    return (*(begins[d] for d in spatial), *(ends[d] for d in spatial))


def _ints(attr: Any) -> tuple[int, ...] | None:
    if not isinstance(attr, tuple) or not all(isinstance(a, int) for a in attr):
        return None
    return attr
