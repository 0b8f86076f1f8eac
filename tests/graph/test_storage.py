"""Weights under 8 bits: products that read them packed, and everything else."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.graph.graphs import Maker, kernels, ops
from tilewright.graph import Graph, Value
from tilewright.graph.interpret import interpret
from tilewright.graph.pipeline import optimise
from tilewright.graph.storage import multiply_packed, pack_constants
from tilewright.ir import dtype as dt

rng = np.random.default_rng(0)


def weights(m: Maker, dtype: str, depth: int, columns: int, block: int, form: str) -> Value:
    """``[depth, columns]`` dequantized: in blocks along dimension 0, or ``[columns, depth]`` transposed."""
    low, high = dt.int_range(dtype)
    target = dt.to_numpy(dtype)
    shape, parts = (depth // block, block, columns), (depth // block, 1, columns)
    if form == "transposed":
        shape, parts = (columns, depth // block, block), (columns, depth // block, 1)
    data = m.constant(rng.integers(low, high + 1, shape).astype(target), "w")
    scale = m.constant(rng.uniform(0.5, 2, parts).astype(np.float32), "s")
    zero = m.constant(rng.integers(low, high + 1, parts).astype(target), "z")
    y = m.op("dequantize", data, scale, None if form == "no zero" else zero, to="float32")
    if form == "transposed":
        return m.op("transpose", m.op("reshape", y, shape=(columns, depth)), perm=(1, 0))
    return m.op("reshape", y, shape=(depth, columns))


def product(dtype: str, form: str, block: int = 16) -> Graph:
    m = Maker()
    x = m.input("x", (2, 3, 48), "float32")
    return m.build([m.op("matmul", x, weights(m, dtype, 48, 20, block, form))])


@pytest.mark.parametrize("form", ["blocks", "no zero", "transposed"])
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2", "uint2"])
def test_products_read_packed_weights(dtype: str, form: str) -> None:
    graph = product(dtype, form)
    packed = multiply_packed(graph)
    assert "matmul_nbits" in ops(packed)
    x = rng.standard_normal((2, 3, 48)).astype(np.float32)
    (want,) = interpret(graph, {"x": x}).values()
    for other in (packed, optimise(graph, check=True)):
        assert "dequantize" not in ops(other)
        (got,) = interpret(other, {"x": x}).values()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    kernels(optimise(graph))  # compute what the graph does


def test_what_is_no_such_product_stays() -> None:
    for graph in (product("int4", "blocks", block=4), product("int8", "blocks")):
        assert multiply_packed(graph) is graph
    m = Maker()
    x = m.input("x", (48, 20), "float32")
    graph = m.build([m.op("add", x, weights(m, "int4", 48, 20, 16, "blocks"))])
    assert multiply_packed(graph) is graph


def test_constants_are_packed_for_other_readers_once() -> None:
    m = Maker()
    data = m.constant(rng.integers(-8, 8, (9, 11)).astype(ml_dtypes.int4), "w")
    a, b = (m.op("cast", data, to=to) for to in ("float32", "int8"))
    graph = pack_constants(m.build([a, b]))
    assert ops(graph) == {"cast": 2, "unpack": 1}
    (packed,) = graph.constants.values()
    assert packed.dtype == np.uint8
    assert packed.shape == (50,)
