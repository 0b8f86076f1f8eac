from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graph.graphs import Maker, apply, ops
from tilewright.graph import Graph, Value
from tilewright.graph.layout import assign_layouts
from tilewright.graph.mincut import MinCut
from tilewright.graph.pipeline import simplify


def laid_out(m: Maker, *outputs: Value) -> Graph:
    return apply(m.done(*outputs), simplify, assign_layouts, simplify)


def conv(m: Maker, x: Value, co: int, k: int = 3, last: bool = False, **attrs: object) -> Value:
    ci = x.dims()[-1 if last else 1] // attrs.get("groups", 1)
    w = m.f(k, k, ci, co) if last else m.f(co, ci, k, k)
    return m.op("conv", x, w, m.f(co), pads=(k // 2,) * 4, **attrs)


def test_one_transpose_in_and_one_out():
    m = Maker()
    y = m.op("relu", conv(m, m.x(1, 3, 8, 8), 4))
    y = m.op("max_pool", y, kernel=(2, 2), strides=(2, 2))
    y = m.op("add", conv(m, y, 4), y)
    graph = laid_out(m, y)
    assert ops(graph)["transpose"] == 2
    assert all(n.attrs["channels_last"] for n in graph.nodes if n.op in ("conv", "max_pool"))


def test_a_channels_last_model_loses_its_transposes():
    """As TensorFlow exports: NHWC in and out, transposes round the NCHW region."""
    m = Maker()
    y = m.op("transpose", m.x(1, 8, 8, 3), perm=(0, 3, 1, 2))
    y = m.op("relu", conv(m, y, 4))
    z = m.op("pad", conv(m, y, 4, groups=4), pads=(0, 0, 1, 0, 0, 0, 0, 1), mode="constant")
    z = m.op("concat", z, z, axis=1)
    z = m.op("mul", z, m.f(8, 1, 1))
    z = m.op("slice", z, starts=(2,), ends=(7,), axes=(1,), steps=(1,))
    z = m.op("softmax", z, axis=1)
    out = m.op("transpose", z, perm=(0, 2, 3, 1))
    assert "transpose" not in ops(laid_out(m, out))


def test_global_pooling_ends_the_region_for_free():
    m = Maker()
    y = conv(m, m.x(2, 3, 8, 8), 4)
    y = m.op("reduce", y, op="mean", axes=(2, 3), keepdims=True)
    y = m.op("matmul", m.op("reshape", y, shape=(2, 4)), m.f(4, 5))
    assert ops(laid_out(m, y))["transpose"] == 1  # the input


def test_tokens_from_a_feature_map():
    """[N, C, H, W] -> [N, HW, C] -> matmul -> back -> conv needs no transpose of activations in between."""
    m = Maker()
    x = m.x(1, 5, 4, 3)
    y = conv(m, m.op("transpose", x, perm=(0, 3, 1, 2)), 6)
    t = m.op("transpose", m.op("reshape", y, shape=(1, 6, 20)), perm=(0, 2, 1))
    t = m.op("add", m.op("matmul", t, m.f(6, 6)), t)
    y = m.op("reshape", m.op("transpose", t, perm=(0, 2, 1)), shape=(1, 6, 5, 4))
    y = m.op("transpose", conv(m, y, 2), perm=(0, 2, 3, 1))
    assert "transpose" not in ops(laid_out(m, y))


def test_squeezed_height():
    m = Maker()
    y = conv(m, m.op("transpose", m.x(1, 1, 10, 3), perm=(0, 3, 1, 2)), 6)
    y = m.op("transpose", m.op("reshape", y, shape=(1, 6, 10)), perm=(0, 2, 1))
    y = m.op("matmul", y, m.f(6, 7))
    assert "transpose" not in ops(laid_out(m, y))


def test_resize_and_transposed_convolution():
    m = Maker()
    x = m.x(1, 4, 5, 5)
    up = m.op("resize", x, scales=(1.0, 1.0, 2.0, 2.0), mode="nearest")
    y = m.op("conv_transpose", up, m.f(4, 2, 2, 2), strides=(2, 2), groups=2)
    graph = laid_out(m, conv(m, y, 3))
    assert ops(graph)["transpose"] == 2


def test_operands_of_lower_rank_are_aligned():
    m = Maker()
    y = conv(m, m.x(1, 3, 6, 7), 4)
    y = m.op("add", m.op("mul", y, m.x(7, name="width")), m.x(4, 1, 1, name="channel"))
    y = m.op("add", y, m.x(6, 7, name="plane"))
    graph = laid_out(m, conv(m, y, 2))
    assert all(n.output.dims()[-1] != 6 for n in graph.nodes)


def test_a_region_that_costs_more_than_it_saves_keeps_its_layout():
    """One small convolution beside much work on the model's own layout: only its operand moves."""
    m = Maker()
    x = m.x(1, 4, 32, 32)
    y = m.op("exp", m.op("add", x, m.x(1, 4, 32, 32, name="b")))
    small = m.op("slice", y, starts=(0, 0), ends=(4, 4), axes=(2, 3), steps=(1, 1))
    graph = laid_out(m, y, conv(m, small, 4))
    moved = [n for n in graph.nodes if n.op == "transpose"]
    assert sum(np.prod(n.output.dims()) for n in moved) == 2 * 64


def test_weights_that_are_not_constant():
    m = Maker()
    y = m.op("conv", m.x(1, 3, 5, 5), m.x(4, 3, 3, 3, name="w"))
    graph = laid_out(m, y)
    assert ops(graph)["transpose"] == 3


def test_one_dimensional():
    m = Maker()
    y = m.op("conv", m.x(2, 3, 9), m.f(4, 3, 3), m.f(4))
    y = m.op("relu", m.op("reshape", y, shape=(2, 4, 7, 1)))
    y = m.op("conv", y, m.f(2, 4, 1, 1))
    assert ops(laid_out(m, y))["transpose"] == 2


def test_without_windows_nothing_changes():
    m = Maker()
    graph = m.done(m.op("transpose", m.x(1, 3, 4, 4), perm=(0, 2, 3, 1)))
    assert assign_layouts(graph) is graph


# --------------------------------------------------------------------------------------------------------
# minimum cut
@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int]]]:
    count = draw(st.integers(1, 6))
    node = st.integers(0, count + 1)
    return count, draw(st.lists(st.tuples(node, node, st.integers(0, 9)), max_size=16))


@given(cuts())
@settings(max_examples=200, deadline=None)
def test_labels_cost_least(problem: tuple[int, list[tuple[int, int, int]]]):
    count, costs = problem
    cut = MinCut()
    for _ in range(count):
        cut.variable()
    for a, b, cost in costs:
        cut.add(a, b, cost)

    def total(labels: tuple[int, ...]) -> int:
        return sum(c for a, b, c in costs if labels[a] == 0 and labels[b] == 1)

    best = min(total((0, 1, *rest)) for rest in product((0, 1), repeat=count))
    labels = cut.solve()
    assert labels[:2] == [0, 1]
    assert total(tuple(labels)) == best


def test_ties():
    cut = MinCut()
    a, b = cut.variable(), cut.variable()
    cut.tie(a, b)
    cut.add(0, a, 5)
    assert cut.solve()[2:] == [0, 0] or cut.solve()[2:] == [1, 1]
    with pytest.raises(IndexError):
        cut.add(0, 9, 1)
