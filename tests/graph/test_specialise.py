from __future__ import annotations

import numpy as np
import pytest

from tests.graph.graphs import Maker, ops
from tilewright.errors import GraphError, ShapeError
from tilewright.graph import Graph
from tilewright.graph.fold import absorb_parameters
from tilewright.graph.interpret import interpret
from tilewright.graph.specialise import specialise
from tilewright.ir.expr import Const, Var


def ints(m: Maker, *values: int):
    return m.constant(np.array(values, np.int64), "ints")


def flatten_like_exporters_do() -> Graph:
    """reshape(x, concat(shape(x)[0:1], [-1])), then a resize target of 2 * shape."""
    m = Maker()
    x = m.input("x", (Var("n", lo=0), 3, Var("h", lo=0), 4), "float32")
    shape = m.op("shape", x)
    batch = m.op("slice", shape, ints(m, 0), ints(m, 1), ints(m, 0))
    flat = m.op("reshape", x, m.op("concat", batch, ints(m, -1), axis=0))
    height = m.op("gather", shape, m.constant(np.array(2)), axis=0)
    double = m.op("mul", height, m.constant(np.array(2)))
    target = m.op("concat", batch, m.op("reshape", double, ints(m, 1)), axis=0)
    ones = m.op("expand", m.constant(np.ones((1, 1), np.float32)), target)
    return m.done(flat, ones)


def test_shape_arithmetic_is_followed_before_specialisation():
    graph = flatten_like_exporters_do()
    n, h = graph.dims["n"], graph.dims["h"]
    flat, ones = graph.outputs
    assert flat.shape[0] is n
    assert repr(flat.shape[1]) in ("(h * 12)", "((h * 12))")
    assert ones.shape[0] is n
    assert ones.shape[1] is h * 2


def test_specialise_makes_all_static_and_folds_shapes():
    graph = specialise(flatten_like_exporters_do(), {"n": 2, "h": 5})
    assert graph.is_static
    assert graph.outputs[0].dims() == (2, 60)
    assert graph.outputs[1].dims() == (2, 10)
    assert set(ops(graph)) <= {"reshape", "expand"}
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 5, 4)
    out = interpret(graph, {"x": x})
    np.testing.assert_array_equal(out["out0"], x.reshape(2, 60))
    clean = absorb_parameters(graph)
    assert all(len([v for v in n.inputs if v is not None]) == 1 for n in clean.nodes)


def test_partial_specialisation_keeps_the_rest_symbolic():
    graph = specialise(flatten_like_exporters_do(), {"n": 2})
    assert list(graph.dims) == ["h"]
    assert isinstance(graph.outputs[0].shape[0], Const)
    assert specialise(graph, {"h": 5}).outputs[0].dims() == (2, 60)


def test_unknown_values_become_fresh_dims_and_are_resolved_later():
    m = Maker()
    x = m.input("x", (Var("n", lo=0), 4), "float32")
    shape = m.op("shape", x)
    halves = m.op("cast", m.op("ceil", m.op("mul", m.op("cast", shape, to="float32"), m.n(0.5))), to="int64")
    graph = m.done(m.op("expand", m.constant(np.zeros((1, 1), np.float32)), halves))
    assert graph.outputs[0].rank == 2
    assert specialise(graph, {"n": 5}).outputs[0].dims() == (3, 2)


def test_errors():
    graph = flatten_like_exporters_do()
    with pytest.raises(ShapeError, match="no dimension 'k'") as caught:
        specialise(graph, {"k": 1})
    assert caught.value.hint == "its symbolic dimensions: n, h"
    with pytest.raises(ShapeError, match="cannot be -1"):
        specialise(graph, {"n": -1})
    m = Maker()
    a, b = m.input("a", (Var("p", lo=0),), "float32"), m.input("b", (Var("q", lo=0),), "float32")
    mixed = m.done(m.op("add", a, b))
    with pytest.raises(GraphError, match="broadcast"):
        specialise(mixed, {"p": 2, "q": 3})
