"""Quantized graphs keep integers: structure of the result, and equality with floats in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.graphs import Maker, feeds, ops, run_kernels
from tilewright.graph import Graph, Value, check_types, verify
from tilewright.graph.interpret import interpret
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise
from tilewright.graph.quantize import multiplied_type, use_integers
from tilewright.ir import dtype as dt
from tilewright.target import Target


class Quantizer(Maker):
    """A builder of graphs in which integers and floats take turns.

    Scales should have no common measure: halves, which rounding decides, are then as rare as they are in
    models.
    """

    def number(self, number: float, dtype: str = "float32") -> Value:
        return self.constant(np.array(number, dtype), "n")

    def q(self, x: Value, scale: float = 0.05127, zero: int | None = 3, to: str = "uint8") -> Value:
        return self.op("quantize", x, self.number(scale), self._zero(zero, to), to=to)

    def dq(self, x: Value, scale: float = 0.05127, zero: int | None = 3) -> Value:
        return self.op("dequantize", x, self.number(scale), self._zero(zero, x.dtype), to="float32")

    def both(self, x: Value, scale: float = 0.05127, zero: int | None = 3, to: str = "uint8") -> Value:
        """``x`` rounded to what integers can say."""
        return self.dq(self.q(x, scale, zero, to), scale, zero)

    def _zero(self, zero: int | None, dtype: str) -> Value | None:
        return None if zero is None else self.number(zero, dtype)

    def weights(self, *shape: int, dtype: str = "int8", scales: int = 1, zero: int | None = None) -> Value:
        """Dequantized weights, with one scale or one for each place along the first (or last) dimension."""
        low, high = dt.int_range(dtype)
        data = self.constant(self.rng.integers(low, high + 1, shape).astype(dtype), "w")
        sizes = self.rng.uniform(0.002, 0.01, scales).astype(np.float32)
        scale = self.constant(sizes.reshape((-1,) + (1,) * (len(shape) - 1)) if scales > 1 else sizes[0], "s")
        return self.op("dequantize", data, scale, self._zero(zero, dtype), to="float32")

    def bias(self, count: int, scale: float) -> Value:
        data = self.constant(self.rng.integers(-3000, 3000, count).astype(np.int32), "b")
        return self.op("dequantize", data, self.number(scale), None, to="float32")


def agree(graph: Graph, after: Graph, unit: float = 1.0, often: float = 0.01, kernels: bool = True) -> None:
    """Results are equal but for single units in few elements."""
    verify(after)
    check_types(after)
    data = feeds(graph)
    want, got = interpret(graph, data), interpret(after, data)
    made = run_kernels(after, partition(after), data) if kernels else got
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        for have in (got[name], made[name]):
            apart = np.abs(have.astype(np.float64) - array.astype(np.float64)) / unit
            assert apart.max(initial=0) < 1.01
            assert (apart > 0.01).mean() <= often


def floats_in_products(graph: Graph) -> bool:
    return any(n.op in ("conv", "matmul") and n.attrs.get("to") is None for n in graph.nodes)


def test_a_convolution_becomes_one_kernel_on_bytes() -> None:
    m = Quantizer()
    x = m.x(1, 8, 9, 7)
    w, b = m.weights(16, 8, 3, 3, scales=16), m.weights(16)
    y = m.op("conv", m.both(x), w, b, pads=(1, 1, 1, 1))
    graph = m.done(m.q(m.op("relu", y), 0.1, 0))
    after = optimise(graph)
    agree(graph, after)
    assert not floats_in_products(after)
    assert ops(after)["conv"] == ops(after)["quantize"] - 1 == 1
    assert "relu" not in ops(after)  # saturation at 0 does it


@pytest.mark.parametrize("channels", [2, 16])
def test_padding_holds_the_zero_point(channels: int) -> None:
    """Also where few channels are packed."""
    m = Quantizer()
    y = m.op("conv", m.both(m.x(1, 3, 5, 6), zero=77), m.weights(channels, 3, 3, 3), None, pads=(1,) * 4)
    graph = m.done(m.q(y, 0.1, 128))
    agree(graph, optimise(graph))


def test_a_bias_in_units_of_the_scales_joins_the_sums() -> None:
    m = Quantizer()
    x, w = m.x(1, 4, 5, 5), m.constant(m.rng.integers(-128, 128, (8, 4, 1, 1)).astype(np.int8), "w")
    weights = m.op("dequantize", w, m.number(0.01), None, to="float32")
    y = m.op("conv", m.both(x), weights, m.bias(8, 0.05127 * 0.01))
    graph = m.done(m.q(y, 0.1, 9))
    after = optimise(graph)
    agree(graph, after)
    assert "add" not in ops(after)


def test_residuals_are_read_as_bytes_and_added_in_registers() -> None:
    m = Quantizer()
    x = m.both(m.x(1, 16, 6, 6))
    y = m.both(m.op("conv", x, m.weights(16, 16, 1, 1), None), 0.1034, 100)
    z = m.both(m.op("relu", m.op("add", y, x)), 0.0817, 0)
    u = m.both(m.op("conv", z, m.weights(16, 16, 3, 3), None, pads=(1,) * 4), 0.2031, 120)
    graph = m.done(m.q(m.op("add", u, z), 0.2977, 40))
    after = optimise(graph)
    agree(graph, after, often=0.03)
    stored = [v for g in partition(after) for v in g.outputs if v.rank == 4]
    assert {v.dtype for v in stored} == {"uint8"}


@pytest.mark.parametrize("to", ["int8", "uint8"])
def test_movement_and_pooling_stay_in_bytes(to: str) -> None:
    m = Quantizer()
    x = m.both(m.x(1, 4, 6, 6), 0.05, 3, to)
    y = m.op("max_pool", x, kernel=(2, 2), strides=(2, 2))
    y = m.both(y, 0.05, 3, to)
    y = m.op("concat", y, m.both(m.op("relu", y), 0.05, 3, to), axis=1)
    y = m.both(m.op("transpose", m.op("reshape", y, shape=(1, 8, 9)), perm=(0, 2, 1)), 0.05, 3, to)
    graph = m.done(m.q(m.op("pad", y, pads=(0, 1, 0, 0, 1, 0)), 0.05, 3, to))
    after = optimise(graph)
    agree(graph, after, often=0)
    assert sum(n.op == "quantize" for n in after.nodes) == 1
    assert "dequantize" not in ops(after)


def test_products_with_both_operands_at_run_time() -> None:
    m = Quantizer()
    a, b = m.both(m.x(2, 5, 8, name="a"), 0.02, 7), m.both(m.x(2, 8, 6, name="b"), 0.03, -4, "int8")
    graph = m.done(m.q(m.op("matmul", a, b), 0.05, 128))
    after = optimise(graph)
    agree(graph, after)
    assert not floats_in_products(after)


def test_weights_of_what_stays_float_become_floats() -> None:
    m = Quantizer()
    graph = m.done(m.op("matmul", m.x(3, 8), m.weights(8, 5)))
    after = optimise(graph)
    assert floats_in_products(after)
    assert [n.op for n in after.nodes] == ["matmul"]
    agree(graph, after, 1e-4)


def test_sums_that_32_bits_may_not_hold_stay_floats() -> None:
    m = Quantizer()
    graph = m.done(m.op("matmul", m.both(m.x(1, 40_000)), m.weights(40_000, 1)))
    assert floats_in_products(use_integers(graph))


def test_numbers_of_16_bits_stay_floats() -> None:
    m = Quantizer()
    x = m.both(m.x(3, 8), 0.001, 5, "uint16")
    graph = m.done(m.q(m.op("matmul", x, m.weights(8, 5)), 0.001, 0, "int16"))
    after = optimise(graph)
    agree(graph, after)
    assert floats_in_products(after)


def test_products_have_the_operands_that_the_target_multiplies() -> None:
    kinds = {
        "x86-64-v4-dot": "uint8", "x86-64-v3": "int16", "x86-64-v4": "int16", "aarch64-dot": "uint8",
        "aarch64": "uint8",
    }  # fmt: skip
    m = Quantizer()
    y = m.op("conv", m.both(m.x(1, 5, 6, 4)), m.weights(16, 5, 3, 3), m.weights(16), pads=(1,) * 4)
    graph = m.done(m.q(y, 0.1034, 128), m.q(m.op("matmul", m.both(m.x(3, 7, name="a")), m.weights(7, 5))))
    for name, kind in kinds.items():
        assert multiplied_type(Target.parse(name)) == kind
    for kind in ("uint8", "int8", "int16"):
        after = optimise(graph, operands=kind)
        agree(graph, after)
        products = [n for n in after.nodes if n.op in ("conv", "matmul")]
        assert {v.dtype for n in products for v in n.inputs[:1] if v is not None} == {kind}


def test_graphs_without_integers_are_left_alone() -> None:
    m = Maker()
    graph = m.done(m.op("matmul", m.x(3, 8), m.f(8, 5)))
    assert use_integers(graph) is graph


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int) -> None:
    """Convolutions of all kinds, sums, pools and activations in any order."""
    m, rng = Quantizer(seed), np.random.default_rng(seed)

    def draw(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    to = draw("int8", "uint8")
    low, high = dt.int_range(to)
    zero, channels = draw(None, low, 0, high, (low + high) // 2), draw(3, 4, 6)
    x = m.both(m.x(1, channels, 5, 4), 0.0213, zero, to)
    for _ in range(draw(1, 2, 3)):
        kind = draw("conv", "conv", "depthwise", "add", "sigmoid", "max_pool", "avg_pool")
        before = x
        if kind in ("conv", "depthwise"):
            groups, size = channels if kind == "depthwise" else 1, draw(1, 3)
            dtype, offset = draw("int8", "uint8"), draw(None, 7, 120)
            w = m.weights(channels, channels // groups, size, size, dtype=dtype, zero=offset, scales=channels)
            x = m.op("conv", x, w, None, pads=(size // 2,) * 4, groups=groups)
            x = m.op("mul", x, m.number(0.197))
        elif kind == "add":
            x = m.op("add", x, m.op("mul", x, x))
        elif kind == "sigmoid":
            x = m.op("sigmoid", x)
        else:
            x = m.op(kind, x, kernel=(3, 3), pads=(1, 1, 1, 1))
        if draw(True, False):
            x = m.op("relu", x)
        zero = draw(None, low, 0, high, (low + high) // 2)
        x = m.both(x, 0.0532, zero, to)
        if draw(True, False):
            x = m.both(m.op("add", x, before), 0.0641, zero, to)
    graph = m.done(x)
    after = use_integers(graph)
    # One unit more or less in a layer is a few in the next; most elements are equal.
    got, want = (next(iter(interpret(g, feeds(graph)).values())) for g in (after, graph))
    assert (np.abs(got - want) > 0.01).mean() <= 0.05
    agree(after, optimise(graph), unit=0.0641, kernels=False, often=0.05)
