"""3x3 convolutions of stride 1 as Winograd's minimal filtering, where it is known to pay.

F(4x4, 3x3) does a quarter of the multiplications of a direct convolution, but reads four times the weights
and computes whole tiles of 4x4 outputs. With few tiles reading the transformed weights takes longer than the
multiplications saved; then F(2x2, 3x3) is chosen (a half of the multiplications, 1.8 times the weights), or
none. docs/winograd.md states the measurements behind the numbers below, and the error.
"""

from __future__ import annotations

from math import ceil
from typing import Final

import numpy as np

from tilewright.graph.graph import Graph, Node
from tilewright.graph.movement import Replaced
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.graph.winograd import tile_size, transform_weights

#: Each element of the transformed weights must be used for at least this many tiles.
MIN_TILES: Final = 16
#: Tiles that one thread computes together, at least.
MIN_BLOCK: Final = 8
#: Fewer channels than this on either side do not pay for the transforms.
MIN_CHANNELS: Final = 32
#: Multiplications of the direct convolution must be this many times those of all whole tiles.
MIN_GAIN: Final = 1.5
#: How many bytes a model's weights may grow by, in all.
MAX_GROWTH_BYTES: Final = 256 << 20


def use_fast_convolutions(graph: Graph, threads: int = 1) -> Graph:
    """Replace channels-last float32 convolutions with constant 3x3 weights, stride 1, no dilation and one
    group by ``winograd_conv`` where the rule above says so for runs on ``threads`` threads."""
    grown = 0

    def visit(rw: Rewriter, node: Node) -> Replaced:
        nonlocal grown
        pads = _pads(node)
        w = rw.const(node.inputs[1]) if pads is not None else None
        if pads is None or w is None or w.dtype != np.float32:
            return None
        m = choose_tile(node.output.dims(), w.shape, threads)
        if m is None:
            return None
        growth = (tile_size(m) ** 2 - 9) * w.shape[2] * w.shape[3] * w.itemsize
        if grown + growth > MAX_GROWTH_BYTES:
            return None
        grown += growth
        assert node.inputs[1] is not None
        weights = rw.constant(transform_weights(w, m), f"{node.inputs[1].name}.winograd{m}")
        inputs = [node.inputs[0], weights, *node.inputs[2:]]
        return rw.emit_like(node, "winograd_conv", inputs, {"tile": m, "pads": pads})

    return rewrite(graph, visit)


def choose_tile(output: tuple[int, ...], weights: tuple[int, ...], threads: int = 1) -> int | None:
    """Outputs along a tile's side for an output ``[N, H, W, CO]`` and weights ``[3, 3, CI, CO]``; None for a
    direct convolution.

    Threads share the tiles in blocks of at least :data:`MIN_BLOCK`, a direct convolution in much smaller
    pieces: with few blocks a part of the threads stands idle, which the multiplications saved must outweigh.
    """
    batch, height, width, _ = output
    if min(weights[2:]) < MIN_CHANNELS:
        return None
    for m in (4, 2):
        tiles = batch * ceil(height / m) * ceil(width / m)
        gain = 9 * batch * height * width / (tile_size(m) ** 2 * tiles)
        rounds = ceil(tiles / (MIN_BLOCK * threads))
        gain *= min(tiles / (MIN_BLOCK * threads * rounds), 1.0)
        if tiles >= MIN_TILES and gain >= MIN_GAIN:
            return m
    return None


def _pads(node: Node) -> tuple[int, int, int, int] | None:
    """The pads (begins, then ends) of a convolution of the right kind, else None."""
    attrs = node.attrs
    if node.op != "conv" or not attrs.get("channels_last") or attrs.get("groups", 1) != 1:
        return None
    x, w = node.inputs[0], node.inputs[1]
    if (
        x is None
        or w is None
        or x.dtype != "float32"
        or w.static_shape is None
        or w.static_shape[:2] != (3, 3)
    ):
        return None
    if w.rank != 4 or x.static_shape is None or node.output.static_shape is None:
        return None
    if attrs.get("strides") not in (None, (1, 1)) or attrs.get("dilations") not in (None, (1, 1)):
        return None
    auto = attrs.get("auto_pad")
    if auto is not None:
        return (1, 1, 1, 1)
    pads = attrs.get("pads") or (0, 0, 0, 0)
    assert isinstance(pads, tuple)
    top, left, bottom, right = (int(p) for p in pads if isinstance(p, int))
    return top, left, bottom, right
