from __future__ import annotations

import numpy as np
import pytest

from tests.graph.graphs import Maker, feeds
from tilewright.errors import GraphError, InputError, UnsupportedError
from tilewright.graph import Graph, Node, Origin, TensorType, Value, all_ops, check_types, get_op, verify
from tilewright.graph.interpret import interpret
from tilewright.graph.rewrite import eliminate_dead_code
from tilewright.ir.expr import Var


def small() -> Graph:
    m = Maker()
    x = m.x(2, 3)
    m.origin = Origin("onnx", "act", "Relu")
    y = m.op("relu", m.op("add", x, m.f(3)), name="act")
    return m.done(y)


def test_users_and_producers():
    graph = small()
    add, relu = graph.nodes
    x, y = graph.inputs[0], graph.outputs[0]
    assert graph.producer(y) is relu
    assert graph.producer(x) is None
    assert list(graph.users(x)) == [add]
    assert graph.use_count(y) == 1  # the graph's output
    assert graph.use_count(x) == 1


def test_text():
    text = str(small())
    assert "%act: float32[2, 3] = relu(%add)  # onnx Relu 'act'" in text
    assert "return out0=%act" in text


def test_names_are_unique():
    m = Maker()
    x = m.x(2)
    names = [m.op("relu", x, name="same").name for _ in range(3)]
    assert len(set(names)) == 3
    with pytest.raises(GraphError, match="is taken"):
        m.x(2)


def test_errors_name_the_origin():
    m = Maker()
    x = m.x(2, 3)
    m.origin = Origin("onnx", "sum", "Add", "model.py:7")
    with pytest.raises(GraphError, match="broadcast") as caught:
        m.op("add", x, m.f(4))
    assert caught.value.location == "onnx Add 'sum' (model.py:7)"
    with pytest.raises(UnsupportedError, match="frobnicate"):
        m.op("frobnicate", x)
    with pytest.raises(UnsupportedError):
        get_op("frobnicate")
    assert "add" in all_ops()


def broken(**changes: object) -> Graph:
    return small().with_(**changes)


def test_verify_rejects():
    graph = small()
    verify(graph)
    add, relu = graph.nodes
    with pytest.raises(GraphError, match="before it is defined"):
        verify(broken(nodes=(relu,)))
    with pytest.raises(GraphError, match="defined twice"):
        verify(graph.with_(nodes=(add, add, relu)))
    twin = Node("relu", (graph.inputs[0],), (Value(add.output.name, add.output.type),))
    with pytest.raises(GraphError, match="two values are named"):
        verify(graph.with_(nodes=(add, twin, relu)))
    with pytest.raises(GraphError, match="output"):
        verify(graph.with_(outputs=(Value("q", TensorType.make([1], "float32")),)))
    with pytest.raises(GraphError, match="names"):
        verify(graph.with_(output_names=("a", "b")))
    constant = next(iter(graph.constants))
    with pytest.raises(GraphError, match="holds"):
        verify(graph.with_(constants={constant: np.zeros(7, np.float32)}))


def test_check_types_rejects_wrong_declarations():
    graph = small()
    add, relu = graph.nodes
    wrong = Value("wrong", TensorType.make([2, 4], "float32"))
    with pytest.raises(GraphError, match="inferred"):
        check_types(graph.with_(nodes=(add, relu.with_(outputs=(wrong,))), outputs=(wrong,)))


def test_dead_code():
    m = Maker()
    x = m.x(2, 3)
    y = m.op("relu", x)
    m.op("exp", m.op("add", x, m.f(3)))
    graph = eliminate_dead_code(m.done(y))
    assert [n.op for n in graph.nodes] == ["relu"]
    assert not graph.constants
    assert eliminate_dead_code(graph) is graph


def test_interpret_checks_inputs():
    graph = small()
    data = feeds(graph)
    out = interpret(graph, data)["out0"]
    w = next(iter(graph.constants.values()))
    np.testing.assert_array_equal(out, np.maximum(data["x"] + w, 0))
    with pytest.raises(InputError, match="missing"):
        interpret(graph, {})
    with pytest.raises(InputError, match="no input 'y'"):
        interpret(graph, {**data, "y": data["x"]})
    with pytest.raises(InputError, match="should be"):
        interpret(graph, {"x": np.zeros((2, 4), np.float32)})


def test_interpret_reports_every_node():
    graph = small()
    seen: list[str] = []
    interpret(graph, feeds(graph), lambda node, results: seen.append(f"{node.op} {results[0].shape}"))
    assert seen == ["add (2, 3)", "relu (2, 3)"]


def test_symbolic_dims():
    m = Maker()
    batch = Var("batch", lo=0)
    x = m.input("x", (batch, 3), "float32")
    graph = m.done(m.op("relu", x))
    assert graph.dims == {"batch": batch}
    assert not graph.is_static
    with pytest.raises(GraphError, match="not known"):
        graph.outputs[0].dims()
