"""Winograd convolutions through the whole compiler, against direct ones in float64."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright as tw
from tests.graph.graphs import Maker
from tilewright.config import overriding

#: What docs/winograd.md states: the largest error, relative to the largest result.
MAX_ERROR = 5e-6


def conv64(x: np.ndarray, w: np.ndarray, pads: tuple[int, int, int, int]) -> np.ndarray:
    top, left, bottom, right = pads
    x = np.pad(x.astype(np.float64), [(0, 0), (top, bottom), (left, right), (0, 0)])
    height, width = x.shape[1] - 2, x.shape[2] - 2
    taps = [
        x[:, i : i + height, j : j + width] @ w[i, j].astype(np.float64) for i in (0, 1, 2) for j in (0, 1, 2)
    ]
    return np.sum(taps, axis=0)


@pytest.mark.parametrize(
    ("shape", "co", "pads", "kernel"),
    [
        ((1, 16, 16, 32), 32, (1, 1, 1, 1), "winograd_conv"),
        ((1, 14, 14, 64), 48, (1, 1, 1, 1), "winograd_conv"),
        ((2, 13, 17, 40), 56, (1, 1, 1, 1), "winograd_conv"),  # odd, batch, no multiples of a vector
        ((1, 19, 30, 33), 35, (0, 2, 1, 0), "winograd_conv"),  # asymmetric pads
        ((1, 18, 22, 32), 64, (0, 0, 0, 0), "winograd_conv"),
        ((1, 7, 7, 48), 64, (1, 1, 1, 1), "winograd_conv"),  # F(2, 3)
        ((3, 5, 8, 32), 40, (2, 2, 2, 2), "winograd_conv"),
        ((1, 1, 300, 32), 32, (1, 1, 1, 1), "conv"),  # tiles mostly beyond the edge
        ((1, 4, 4, 64), 64, (1, 1, 1, 1), "conv"),  # too few tiles
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_error_stays_within_what_is_documented(shape, co, pads, kernel, threads):
    m = Maker(seed=3)
    x = m.x(*shape)
    w = m.rng.standard_normal((3, 3, shape[-1], co)).astype(np.float32) * np.float32(
        np.sqrt(2 / 9 / shape[-1])
    )
    bias = m.f(co)
    y = m.op("conv", x, m.constant(w, "weights"), bias, channels_last=True, pads=pads)
    rest = m.input("rest", y.dims(), "float32")
    graph = m.done(m.op("relu", m.op("add", y, rest)))
    rng = np.random.default_rng(4)
    data = rng.standard_normal(shape).astype(np.float32)
    other = rng.standard_normal(y.dims()).astype(np.float32)
    bias_data = graph.constants[next(v for v in graph.constants if v.dims() == (co,))]
    want = np.maximum(conv64(data, w, pads) + bias_data + other, 0)
    model = tw.compile(graph, threads=threads)
    kernels = model.artifact.variants[0].kernels
    assert [k.name for k in kernels] == [f"{kernel}_add_relu"]
    got = model.run({"x": data, "rest": other})["out0"]
    assert np.abs(got - want).max() <= MAX_ERROR * np.abs(want).max()


def test_the_switch_turns_it_off():
    m = Maker()
    graph = m.done(m.op("conv", m.x(1, 16, 16, 32), m.f(3, 3, 32, 32), channels_last=True, pads=(1, 1, 1, 1)))
    with overriding(fast_conv=False):
        direct = tw.compile(graph, threads=1)
    assert [k.name for k in direct.artifact.variants[0].kernels] == ["conv"]
