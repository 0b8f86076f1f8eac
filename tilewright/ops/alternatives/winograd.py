"""3x3 convolutions of stride 1 as Winograd's minimal filtering, and the rule for when it pays.

F(4x4, 3x3) does a quarter of the multiplications of a direct convolution, but reads four times the weights
and computes whole tiles of 4x4 outputs. With few tiles reading the transformed weights takes longer than the
multiplications saved; then F(2x2, 3x3) is preferred (a half of the multiplications, 1.8 times the weights),
or none. docs/winograd.md states the measurements behind the numbers below, and the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import Final

import tilewright.ops.contract
import tilewright.ops.winograd  # noqa: F401 - both register the operators
from tilewright.graph.alternatives import Alternative, Numerics, register_alternative
from tilewright.graph.graph import Node, Value
from tilewright.graph.opdef import OpContext
from tilewright.graph.rewrite import Rewriter
from tilewright.graph.shapes import typical
from tilewright.graph.winograd import POINTS, tile_size, transform_weights

#: Each element of the transformed weights must be used for at least this many tiles.
MIN_TILES: Final = 16
#: Tiles that one thread computes together, at least.
MIN_BLOCK: Final = 8
#: Fewer channels than this on either side do not pay for the transforms.
MIN_CHANNELS: Final = 32
#: Multiplications of the direct convolution must be this many times those of all whole tiles.
MIN_GAIN: Final = 1.5


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


def applies(ctx: OpContext) -> bool:
    """Channels-last float32 images, constant 3x3 weights, stride 1, no dilation, one group."""
    x, w = ctx.input(0), ctx.consts[1]
    if not ctx.attr("channels_last", False) or ctx.attr("groups", 1) != 1:
        return False
    if x.dtype != "float32" or w is None or w.ndim != 4 or w.shape[:2] != (3, 3):
        return False
    if min(w.shape[2:]) < 1:
        return False
    return all(ctx.attr(name, None) in (None, (1, 1)) for name in ("strides", "dilations"))


def _rewrite(m: int, rw: Rewriter, node: Node) -> Sequence[Value]:
    weights, source = rw.const(node.inputs[1]), node.inputs[1]
    assert weights is not None
    assert source is not None
    pads = node.attrs.get("pads") or (0, 0, 0, 0)
    if node.attrs.get("auto_pad") is not None:
        pads = (1, 1, 1, 1)
    transformed = rw.constant(transform_weights(weights, m), f"{source.name}.winograd{m}")
    inputs = [node.inputs[0], transformed, *node.inputs[2:]]
    return rw.emit_like(node, "winograd_conv", inputs, {"tile": m, "pads": pads})


def _growth(m: int, ctx: OpContext) -> int:
    weights = ctx.consts[1]
    assert weights is not None
    return (tile_size(m) ** 2 - 9) * weights.shape[2] * weights.shape[3] * weights.itemsize


def _preferred(m: int, ctx: OpContext, threads: int) -> bool:
    weights = ctx.consts[1]
    assert weights is not None
    assert ctx.node is not None
    output = tuple(typical(d) for d in ctx.node.output.dims())
    return choose_tile(output, weights.shape, threads) == m


for _m in sorted(POINTS, reverse=True):
    register_alternative(
        Alternative(
            "conv",
            f"winograd{_m}",
            applies,
            rewrite=partial(_rewrite, _m),
            numerics=Numerics.bounded,
            error="at most 5e-6 of the largest result (docs/winograd.md)",
            growth=partial(_growth, _m),
            preferred=partial(_preferred, _m),
            option="fast_conv",
        )
    )
