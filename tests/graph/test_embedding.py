from __future__ import annotations

import numpy as np
import pytest

from tests.graph.graphs import Maker, apply, ops
from tilewright.graph import Graph
from tilewright.graph.embedding import lookup_one_hot_products
from tilewright.graph.interpret import interpret


def one_hot_product(m: Maker, dtype: str = "int32", count: int = 4, swap: bool = False) -> Graph:
    indices = m.x(2, 5, 1, dtype=dtype)
    numbers = m.constant(np.arange(4).astype(dtype))
    pair = (numbers, indices) if swap else (indices, numbers)
    return m.done(m.op("matmul", m.op("cast", m.op("equal", *pair), to="float32"), m.f(count, 3)))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("swap", [False, True])
def test_a_one_hot_product_is_a_lookup(dtype: str, swap: bool):
    graph = one_hot_product(Maker(), dtype, swap=swap)
    after = apply(graph, lookup_one_hot_products)
    assert ops(after)["gather"] == 1
    assert "matmul" not in ops(after)
    low = 0 if dtype == "uint8" else -3
    x = np.array([low, 0, 1, 2, 3, 4, 5, 77, 3, 0], dtype).reshape(2, 5, 1)
    np.testing.assert_array_equal(interpret(after, {"x": x})["out0"], interpret(graph, {"x": x})["out0"])


def test_other_products_stay():
    m = Maker()
    indices = m.x(5, 1, dtype="int32")
    shifted = m.op("equal", indices, m.constant(np.arange(1, 5).astype("int32")))
    a = m.op("matmul", m.op("cast", shifted, to="float32"), m.f(4, 3))
    hot = m.op("equal", indices, m.constant(np.arange(4).astype("int32")))
    b = m.op("matmul", m.op("cast", hot, to="float32"), m.constant(np.full((4, 3), np.inf, np.float32)))
    c = m.op("matmul", m.op("cast", hot, to="float32"), m.x(4, 3, name="table"))
    graph = m.done(a, b, c)
    assert lookup_one_hot_products(graph) is graph
