from __future__ import annotations

import numpy as np
import pytest

from tests.graph.graphs import Maker, apply, ops
from tilewright.graph import Graph, Value
from tilewright.graph.decompose import decompose_elementwise
from tilewright.graph.pipeline import canonicalise_views, simplify


def simplified(m: Maker, *outputs: Value) -> Graph:
    return apply(m.done(*outputs), decompose_elementwise, simplify)


def batch_norm(m: Maker, y: Value, channels: int) -> Value:
    variance = m.constant(np.abs(m.rng.standard_normal(channels)).astype(np.float32) + 0.5)
    return m.op("batch_norm", y, m.f(channels), m.f(channels), m.f(channels), variance, epsilon=1e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_batch_norm_folds_into_a_convolution(bias: bool, groups: int):
    m = Maker()
    y = m.op("conv", m.x(1, 4, 5, 5), m.f(8, 4 // groups, 3, 3), m.f(8) if bias else None, groups=groups)
    assert ops(simplified(m, batch_norm(m, y, 8))) == {"conv": 1}


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_folds_into_a_transposed_convolution(groups: int):
    m = Maker()
    y = m.op("conv_transpose", m.x(1, 4, 5, 5), m.f(4, 6 // groups, 2, 2), strides=(2, 2), groups=groups)
    assert ops(simplified(m, batch_norm(m, y, 6))) == {"conv_transpose": 1}


def test_it_does_not_fold_when_the_convolution_is_read_elsewhere():
    m = Maker()
    y = m.op("conv", m.x(1, 4, 5, 5), m.f(8, 4, 3, 3))
    graph = simplified(m, m.op("mul", y, m.f(1, 8, 1, 1)), m.op("relu", y))
    assert ops(graph) == {"conv": 1, "mul": 1, "relu": 1}


def test_only_per_channel_constants_fold():
    m = Maker()
    y = m.op("conv", m.x(1, 4, 5, 5), m.f(8, 4, 3, 3))
    graph = simplified(m, m.op("mul", y, m.f(1, 1, 3, 1)))
    assert ops(graph) == {"conv": 1, "mul": 1}


def test_scalars_sub_and_div_fold_too():
    m = Maker()
    y = m.op("conv", m.x(1, 4, 5, 5), m.f(8, 4, 3, 3))
    y = m.op("sub", m.op("div", m.op("mul", y, m.n(3.0)), m.f(8, 1, 1)), m.f(1, 8, 1, 1))
    assert ops(simplified(m, y)) == {"conv": 1}


def test_a_constant_minus_a_convolution_stays():
    m = Maker()
    y = m.op("conv", m.x(1, 4, 5, 5), m.f(8, 4, 3, 3))
    assert ops(simplified(m, m.op("sub", m.n(1.0), y))) == {"conv": 1, "sub": 1}


def test_a_scaled_input_folds_even_with_padding():
    m = Maker()
    y = m.op("mul", m.x(1, 4, 5, 5), m.f(4, 1, 1))
    y = m.op("conv", y, m.f(8, 4, 3, 3), m.f(8), pads=(1, 1, 1, 1))
    assert ops(simplified(m, y)) == {"conv": 1}


def test_a_shifted_input_does_not():
    m = Maker()
    y = m.op("conv", m.op("add", m.x(1, 4, 5, 5), m.f(4, 1, 1)), m.f(8, 4, 3, 3), pads=(1, 1, 1, 1))
    assert ops(simplified(m, y)) == {"add": 1, "conv": 1}


def test_column_scales_fold_into_a_matmul():
    m = Maker()
    y = m.op("mul", m.op("matmul", m.x(3, 4), m.f(4, 8)), m.f(8))
    assert ops(simplified(m, y)) == {"matmul": 1}


def test_a_scaled_operand_becomes_an_epilogue():
    m = Maker()
    q, k = m.op("mul", m.x(3, 4), m.n(0.5)), m.op("div", m.x(4, 5, name="k"), m.n(4.0))
    graph = simplified(m, m.op("matmul", q, k))
    assert graph.nodes[0].op == "matmul"
    assert graph.nodes[0].inputs == graph.inputs


def test_constant_chains_merge():
    m = Maker()
    y = m.op("add", m.op("add", m.x(3, 4), m.f(4)), m.n(2.0))
    z = m.op("mul", m.op("mul", y, m.f(4)), m.f(4))
    assert ops(simplified(m, z)) == {"add": 1, "mul": 1}


def test_powers():
    m = Maker()
    x = m.op("exp", m.x(3, 4))
    y = m.op("pow", m.op("pow", x, m.n(2.0)), m.n(0.5))
    assert ops(simplified(m, m.op("pow", y, m.n(1.0)))) == {"exp": 1, "mul": 1, "sqrt": 1}


def test_uniform_constants_shrink():
    m = Maker()
    full = m.constant(np.full((3, 4), 6.0, np.float32))
    graph = simplified(m, m.op("minimum", m.x(3, 4), full))
    assert [a.size for a in graph.constants.values()] == [1]


def test_integer_arithmetic_is_left_alone():
    m = Maker()
    x = m.x(4, dtype="int64")
    y = m.op("div", m.op("mul", x, m.constant(np.array(2))), m.constant(np.array(2)))
    assert ops(simplified(m, y)) == {"mul": 1, "div": 1}


def test_pads_fold_into_convolutions_and_pools():
    m = Maker()
    x = m.x(1, 4, 5, 5)
    pads = (0, 0, 1, 1, 0, 0, 1, 2)
    a = m.op("conv", m.op("pad", x, pads=pads, mode="constant"), m.f(8, 4, 3, 3), pads=(1, 0, 0, 1))
    inf = m.op("pad", x, None, m.n(-np.inf), pads=pads, mode="constant")
    b = m.op("max_pool", inf, kernel=(2, 2), strides=(1, 1))
    zero = m.op("pad", x, pads=pads, mode="constant")
    c = m.op("avg_pool", zero, kernel=(2, 2), strides=(1, 1))
    graph = simplified(m, a, b, c)
    assert "pad" not in ops(graph)
    conv = next(n for n in graph.nodes if n.op == "conv")
    assert conv.attrs["pads"] == (2, 1, 1, 3)


def test_other_pads_stay():
    m = Maker()
    x = m.x(1, 4, 5, 5)
    ones = m.op("pad", x, None, m.n(1.0), pads=(0, 0, 1, 1, 0, 0, 1, 1), mode="constant")
    a = m.op("conv", ones, m.f(8, 4, 3, 3))
    b = m.op("conv", m.op("pad", x, pads=(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), m.f(8, 4, 3, 3))
    channels = m.op("pad", x, pads=(0, 1, 0, 0, 0, 0, 0, 0), mode="constant")
    c = m.op("conv", channels, m.f(8, 5, 3, 3))
    d = m.op("max_pool", m.op("pad", x, pads=(0, 0, 1, 1, 0, 0, 1, 1), mode="constant"), kernel=(2, 2))
    assert ops(simplified(m, a, b, c, d))["pad"] == 4


def test_products_with_a_matrix_are_two_dimensional():
    m = Maker()
    y = m.op("matmul", m.x(2, 3, 5, 4), m.f(4, 8))
    y = m.op("relu", m.op("add", y, m.f(8)))
    graph = apply(m.done(y), canonicalise_views)
    assert [n.op for n in graph.nodes] == ["reshape", "matmul", "add", "relu", "reshape"]
    assert graph.nodes[1].output.dims() == (30, 8)
