from __future__ import annotations

import pytest

from tests.graph.graphs import Maker, apply, ops
from tilewright.graph.narrow import pack_narrow_convolutions


def conv(m: Maker, shape: tuple[int, ...], kernel: tuple[int, ...], co: int, **attrs: object):
    y = m.op("conv", m.x(*shape), m.f(*kernel, shape[-1], co), m.f(co), channels_last=True, **attrs)
    return m.done(y)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 4, 1, 5), (0, 9, 2, 0)])
@pytest.mark.parametrize("width", [48, 47])
def test_columns_become_channels(stride: int, pads: tuple[int, ...], width: int):
    graph = conv(Maker(), (2, 6, width, 2), (3, 12), 4, strides=(2, stride), pads=pads)
    packed = apply(graph, pack_narrow_convolutions)
    assert packed is not graph
    first = packed.nodes[0]
    assert first.output.dims()[-1] in (8, 16)


def test_dilation_and_one_dimension():
    graph = conv(Maker(), (1, 64, 1), (20,), 2, dilations=(2,), pads=(7, 3))
    assert apply(graph, pack_narrow_convolutions) is not graph


def test_a_decimating_filter():
    """One channel in and out, half the rate: sixteen outputs at a time."""
    graph = apply(conv(Maker(), (1, 1, 500, 1), (1, 64), 1, strides=(1, 2)), pack_narrow_convolutions)
    assert graph.nodes[0].output.dims() == (1, 1, 14, 16)
    assert ops(graph) == {"conv": 1, "reshape": 1, "slice": 1}


@pytest.mark.parametrize(
    ("kernel", "co", "attrs"),
    [
        ((1, 1), 8, {}),  # zeros would double the work
        ((3, 3), 16, {}),  # vectors are full
        ((3, 3), 24, {}),
        ((1, 9), 1, {}),  # already along the row
        ((1, 9), 4, {"groups": 2}),
    ],
)
def test_where_it_does_not_pay(kernel: tuple[int, int], co: int, attrs: dict[str, object]):
    m = Maker()
    ci = 1 if kernel == (1, 9) and co == 1 else 4
    groups = attrs.get("groups", 1)
    y = m.op("conv", m.x(1, 6, 48, ci), m.f(*kernel, ci // groups, co), channels_last=True, **attrs)
    graph = m.done(y)
    assert pack_narrow_convolutions(graph) is graph


def test_weights_that_are_not_constant():
    m = Maker()
    graph = m.done(m.op("conv", m.x(1, 1, 48, 2), m.x(1, 12, 2, 4, name="w"), channels_last=True))
    assert pack_narrow_convolutions(graph) is graph
