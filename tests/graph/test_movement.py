from __future__ import annotations

import pytest

from tests.graph.graphs import Maker, apply, ops
from tilewright.graph import Graph, Value
from tilewright.graph.movement import simplify_movement, sink_reshapes
from tilewright.graph.pipeline import canonicalise_views, optimise, simplify


def simplified(m: Maker, *outputs: Value) -> Graph:
    return apply(m.done(*outputs), simplify)


def test_nothing_is_nothing():
    m = Maker()
    x = m.x(2, 3, 4)
    y = m.op("identity", x)
    y = m.op("transpose", y, perm=(0, 1, 2))
    y = m.op("reshape", y, shape=(2, 3, -1))
    y = m.op("cast", y, to="float32")
    y = m.op("slice", y, starts=(0,), ends=(4,), axes=(2,), steps=(1,))
    y = m.op("pad", y, pads=(0,) * 6, mode="constant")
    y = m.op("expand", y, shape=(2, 3, 4))
    y = m.op("tile", y, repeats=(1, 1, 1))
    y = m.op("concat", y, axis=1)
    y = m.op("add", m.op("mul", y, m.n(1.0)), m.n(0.0))
    graph = simplified(m, y)
    assert not graph.nodes
    assert graph.outputs == graph.inputs


def test_shape_preserving_is_not_always_nothing():
    m = Maker()
    x = m.x(4, 4)
    a = m.op("slice", x, starts=(3,), ends=(-5,), axes=(0,), steps=(-1,))
    b = m.op("transpose", x, perm=(1, 0))
    c = m.op("pad", x, pads=(1, 0, -1, 0), mode="constant")
    assert ops(simplified(m, a, b, c)) == {"slice": 1, "transpose": 1, "pad": 1}


def test_transposes_merge_and_cancel():
    m = Maker()
    x = m.x(2, 3, 4)
    y = m.op("transpose", m.op("transpose", x, perm=(1, 2, 0)), perm=(2, 0, 1))
    z = m.op("transpose", m.op("transpose", x, perm=(1, 2, 0)), perm=(1, 0, 2))
    graph = simplified(m, y, z)
    assert [n.attrs["perm"] for n in graph.nodes] == [(2, 1, 0)]
    assert graph.outputs[0] is graph.inputs[0]


def test_transposes_of_unit_dims_are_views():
    m = Maker()
    graph = simplified(m, m.op("transpose", m.x(2, 1, 4, 1), perm=(0, 3, 2, 1)))
    assert ops(graph) == {}
    m = Maker()
    graph = simplified(m, m.op("transpose", m.x(2, 1, 4), perm=(1, 0, 2)))
    assert ops(graph) == {"reshape": 1}


def test_views_merge():
    m = Maker()
    y = m.op("reshape", m.op("reshape", m.x(2, 12), shape=(2, 3, 4)), shape=(6, 4))
    graph = simplified(m, y)
    (node,) = graph.nodes
    assert dict(node.attrs) == {"shape": (6, 4)}


def test_transposes_merge_through_a_view():
    m = Maker()
    x = m.x(1, 5, 4, 3)
    y = m.op("transpose", x, perm=(0, 3, 1, 2))  # NHWC -> NCHW
    y = m.op("reshape", y, shape=(1, 3, 20))
    y = m.op("transpose", y, perm=(0, 2, 1))
    assert ops(simplified(m, y)) == {"reshape": 1}


@pytest.mark.parametrize("keepdims", [True, False])
def test_reduce_over_unit_dims_is_a_view(keepdims: bool):
    m = Maker()
    y = m.op("reduce", m.x(3, 1, 4), op="mean", axes=(1,), keepdims=keepdims)
    assert set(ops(simplified(m, y))) <= {"reshape"}


def test_reduce_keeps_dims():
    m = Maker()
    graph = simplified(m, m.op("reduce", m.x(3, 5, 4), op="max", axes=(1,), keepdims=False))
    assert [n.op for n in graph.nodes] == ["reduce", "reshape"]


def test_expand_before_elementwise_work():
    m = Maker()
    x, small = m.x(4, 5), m.x(1, 5, name="small")
    y = m.op("mul", x, m.op("expand", small, shape=(4, 5)))
    z = m.op("mul", m.op("expand", small, shape=(4, 5)), m.op("expand", m.n(2.0), shape=(4, 1)))
    graph = simplified(m, y, z)
    assert ops(graph) == {"mul": 2}
    assert graph.outputs[1].dims() == (4, 5)


def test_slices_go_before_transposes():
    m = Maker()
    x = m.op("relu", m.x(6, 4, 5))
    y = m.op("slice", m.op("transpose", x, perm=(2, 0, 1)), starts=(1,), ends=(3,), axes=(0,), steps=(1,))
    graph = simplified(m, y)
    assert [n.op for n in graph.nodes] == ["relu", "slice", "transpose"]
    assert graph.nodes[1].attrs["axes"] == (2,)


def test_views_sink_behind_elementwise_work():
    m = Maker()
    y = m.op("matmul", m.x(6, 4), m.f(4, 8))
    y = m.op("reshape", y, shape=(1, 2, 3, 8))
    y = m.op("add", y, m.f(8))
    y = m.op("relu", m.op("mul", y, m.n(3.0)))
    graph = apply(m.done(y), canonicalise_views)
    assert [n.op for n in graph.nodes] == ["matmul", "add", "mul", "relu", "reshape"]


def test_views_do_not_sink_where_broadcasting_tears():
    m = Maker()
    y = m.op("reshape", m.op("relu", m.x(6, 4)), shape=(2, 3, 4))
    y = m.op("add", y, m.x(3, 1, name="rows"))
    graph = apply(m.done(y), sink_reshapes)
    assert [n.op for n in graph.nodes] == ["relu", "reshape", "add"]


def test_views_meet_without_chasing_each_other():
    m = Maker()
    a = m.op("reshape", m.op("relu", m.x(4, 6)), shape=(2, 2, 6))
    b = m.op("reshape", m.op("exp", m.x(24, name="b")), shape=(2, 2, 6))
    graph = apply(m.done(m.op("add", a, b)), canonicalise_views)
    assert canonicalise_views(graph) is graph
    last = graph.nodes[-1]
    assert last.op == "reshape"
    assert last.inputs[0] is not None
    assert last.inputs[0].dims() == (24,)


def test_one_sweep_returns_the_same_graph_when_done():
    m = Maker()
    graph = optimise(m.done(m.op("relu", m.op("transpose", m.x(2, 3), perm=(1, 0)))))
    assert simplify_movement(graph) is graph
