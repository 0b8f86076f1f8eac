from __future__ import annotations

import numpy as np
import pytest

from tests.graph.graphs import Maker, apply, ops
from tilewright.graph import alternatives
from tilewright.graph.alternatives import choose_alternatives
from tilewright.graph.winograd import input_matrix, output_matrix, transform_weights, weight_matrix
from tilewright.ops.alternatives.winograd import choose_tile


@pytest.mark.parametrize(
    ("output", "channels", "tile"),
    [
        ((1, 56, 56), (64, 64), 4),
        ((1, 14, 14), (256, 256), 4),
        ((1, 7, 7), (512, 512), 2),
        ((4, 7, 7), (512, 512), 4),
        ((1, 6, 6), (512, 512), None),
        ((1, 56, 56), (16, 64), None),
        ((1, 56, 56), (64, 24), None),
        ((1, 1, 400), (64, 64), None),  # three of four rows of a tile would be thrown away
    ],
)
def test_the_rule(output: tuple[int, ...], channels: tuple[int, int], tile: int | None):
    assert choose_tile((*output, channels[1]), (3, 3, *channels)) == tile


def test_threads_that_would_stand_idle_count():
    layer, weights = (1, 14, 14, 256), (3, 3, 256, 256)
    assert [choose_tile(layer, weights, threads) for threads in (1, 2, 8, 32)] == [4, 4, 2, None]


@pytest.mark.parametrize("m", [2, 4])
def test_the_identity(m: int):
    """Exact in float64, up to rounding, on one tile."""
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    u = transform_weights(w.reshape(3, 3, 1, 1), m)[..., 0, 0]
    b, a = input_matrix(m), output_matrix(m)
    want = [[np.sum(d[i : i + 3, j : j + 3] * w) for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(a @ (u * (b @ d @ b.T)) @ a.T, want, atol=1e-13)
    np.testing.assert_allclose(u, weight_matrix(m) @ w @ weight_matrix(m).T, atol=1e-15)


def conv(m: Maker, *, kernel: tuple[int, int] = (3, 3), weights: object = None, **attrs: object):
    w = weights or m.f(*kernel, 32, 32)
    return m.done(m.op("conv", m.x(1, 20, 20, 32), w, m.f(32), channels_last=True, **attrs))


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 0, 1)])
def test_convolutions_are_replaced(pads: tuple[int, ...]):
    fast = apply(conv(Maker(), pads=pads), choose_alternatives)
    assert ops(fast) == {"winograd_conv": 1}
    assert fast.nodes[0].attrs == {"tile": 4, "pads": pads}


def test_automatic_pads():
    fast = apply(conv(Maker(), auto_pad="same_upper"), choose_alternatives)
    assert fast.nodes[0].attrs["pads"] == (1, 1, 1, 1)


def test_what_is_left_alone():
    def kept(graph: object) -> bool:
        return choose_alternatives(graph) is graph

    assert kept(conv(Maker(), strides=(2, 2)))
    assert kept(conv(Maker(), dilations=(2, 2)))
    assert kept(conv(Maker(), kernel=(5, 5)))
    assert kept(conv(Maker(), kernel=(1, 1)))
    m = Maker()
    assert kept(conv(m, weights=m.x(3, 3, 32, 32, name="w")))
    m = Maker()
    assert kept(m.done(m.op("conv", m.x(1, 20, 20, 64), m.f(3, 3, 32, 64), channels_last=True, groups=2)))
    m = Maker()
    assert kept(m.done(m.op("conv", m.x(1, 32, 20, 20), m.f(32, 32, 3, 3))))  # channels first


def test_weights_grow_within_a_limit(monkeypatch: pytest.MonkeyPatch):
    m = Maker()
    y = m.x(1, 20, 20, 32)
    for _ in range(3):
        y = m.op("conv", y, m.f(3, 3, 32, 32), channels_last=True, pads=(1, 1, 1, 1))
    graph = m.done(y)
    monkeypatch.setattr(alternatives, "MAX_GROWTH_BYTES", 2 * 27 * 32 * 32 * 4)
    assert ops(choose_alternatives(graph)) == {"winograd_conv": 2, "conv": 1}
