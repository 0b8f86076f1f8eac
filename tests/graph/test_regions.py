"""Graphs inside graphs: what passes do to control flow nodes and to what they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.graph.graphs import Maker, apply, ops
from tilewright.errors import GraphError, ShapeError
from tilewright.graph import Graph, GraphBuilder, Value, check_types, verify
from tilewright.graph.interpret import interpret
from tilewright.graph.pipeline import optimise
from tilewright.graph.regions import simplify_regions
from tilewright.graph.specialise import specialise
from tilewright.ir.expr import Var

Kind = tuple[Sequence[int | Var], str]
VECTOR: Kind = ((3,), "float32")
NUMBER: Kind = ((), "int64")


def region(kinds: Sequence[Kind], make: Callable[[GraphBuilder, list[Value]], Sequence[Value]]) -> Graph:
    builder = GraphBuilder("region")
    inputs = [builder.input(f"in{n}", shape, dtype) for n, (shape, dtype) in enumerate(kinds)]
    outputs = make(builder, inputs)
    return builder.build(outputs, [f"out{n}" for n in range(len(outputs))])


def branch(m: Maker, cond: Value, then: Graph, other: Graph, *operands: Value) -> tuple[Value, ...]:
    packed = (False,) * len(then.outputs)
    return m.emit("if", [cond, *operands], {"then": then, "otherwise": other, "packed": packed})


def attrs_of(graph: Graph, op: str) -> tuple[Graph, Sequence[Value | None]]:
    """The first region of the only node of an operator, and its operands."""
    (node,) = (n for n in graph.nodes if n.op == op)
    return next(iter(node.regions.values())), node.inputs


def loop(m: Maker, body: Graph, states: Sequence[Value], *same: Value, **attrs: object) -> tuple[Value, ...]:
    given = {"states": len(states), "scanned": (), "stacked": (), "conditional": False, "trip": 3, **attrs}
    return m.emit("loop", [None, None, *states, *same], {"body": body, **given})  # type: ignore[dict-item]


def test_constants_move_inside_and_what_is_given_twice_or_unused_goes() -> None:
    m = Maker()
    x, y = m.x(3), m.x(3, name="y")
    then = region([VECTOR] * 4, lambda b, v: [b.op("add", b.op("mul", v[0], v[1]), v[2])])
    other = region([VECTOR] * 4, lambda b, v: [b.op("sub", v[0], v[2])])
    cond = m.op("less", m.op("reduce", x, op="sum", axes=(0,), keepdims=False), m.n(0.0))
    graph = m.done(*branch(m, cond, then, other, x, m.f(3), x, y))
    after = apply(graph, simplify_regions)
    inside, operands = attrs_of(after, "if")
    assert operands == (operands[0], x)
    assert len(inside.inputs) == len(inside.constants) == 1


def test_known_branches_take_the_place_of_their_node() -> None:
    m = Maker()
    x = m.x(3)
    then = region([VECTOR], lambda b, v: [b.op("relu", v[0]), v[0]])
    other = region([VECTOR], lambda b, v: [b.op("neg", v[0]), v[0]])
    graph = m.done(*branch(m, m.constant(False), then, other, x))
    after = apply(graph, simplify_regions)
    assert ops(after) == {"neg": 1}
    assert after.outputs[1] is x


def test_states_that_never_change_leave_the_loop() -> None:
    m = Maker()
    x, y = m.x(3), m.x(3, name="y")
    body = region([NUMBER, VECTOR, VECTOR], lambda b, v: [b.op("add", v[1], v[2]), v[2]])
    graph = m.done(*loop(m, body, [x, y]))
    after = apply(graph, simplify_regions)
    (node,) = after.nodes
    assert node.attrs["states"] == 1
    assert after.outputs[1] is y


def test_passes_run_inside_and_constant_loops_fold() -> None:
    m = Maker()
    x = m.x(3)
    body = region(
        [NUMBER, VECTOR], lambda b, v: [b.op("add", b.op("identity", v[1]), b.op("sub", v[1], v[1]))]
    )
    folded = region([NUMBER, VECTOR], lambda b, v: [b.op("add", v[1], b.constant(np.float32(1)))])
    constant = loop(m, folded, [m.f(3)])[0]
    graph = m.done(m.op("add", loop(m, body, [x])[0], constant))
    seen: list[str] = []
    after = optimise(graph, lambda name, _: seen.append(name), check=True)
    assert ops(after) == {"loop": 1, "add": 1}
    inside, _ = attrs_of(after, "loop")
    assert "identity" not in ops(inside)
    assert any(name.startswith("loop0_body_") and name.endswith("simplify") for name in seen)


def test_equal_nodes_with_different_regions_stay_two() -> None:
    m = Maker()
    x = m.x(3)
    first, second = (region([VECTOR], lambda b, v, op=op: [b.op(op, v[0])]) for op in ("relu", "neg"))  # type: ignore[misc]
    cond = m.input("c", (), "bool")
    a, b = (branch(m, cond, first, region([VECTOR], lambda b, v: [v[0]]), x) for _ in range(2))
    c = branch(m, cond, second, region([VECTOR], lambda b, v: [v[0]]), x)
    graph = optimise(m.done(*a, *b, *c), check=True)
    data = {"x": np.float32([-1, 0, 1]), "c": np.array(True)}
    np.testing.assert_array_equal(interpret(graph, data)["out2"], -data["x"])


def test_specialisation_reaches_regions() -> None:
    size = Var("n", lo=0)
    builder = GraphBuilder("open")
    x, cond = builder.input("x", (size, 2), "float32"), builder.input("c", (), "bool")

    def turned(b: GraphBuilder, v: list[Value]) -> list[Value]:
        return [b.op("reshape", b.op("transpose", v[0], perm=(1, 0)), shape=(size, 2))]

    then, other = (
        region([((size, 2), "float32")], turned),
        region([((size, 2), "float32")], lambda b, v: [v[0]]),
    )
    (y,) = builder.emit("if", [cond, x], {"then": then, "otherwise": other, "packed": (False,)})
    graph = specialise(builder.build([y], ["y"]), {"n": 3})
    verify(graph)
    check_types(graph)
    assert graph.is_static
    data = np.arange(6, dtype=np.float32).reshape(3, 2)
    got = interpret(graph, {"x": data, "c": np.array(True)})["y"]
    np.testing.assert_array_equal(got, data.T.reshape(3, 2))


def test_regions_that_do_not_fit_are_refused() -> None:
    m = Maker()
    x = m.x(3)
    one = region([VECTOR], lambda b, v: [v[0]])
    two = region([VECTOR], lambda b, v: [v[0], v[0]])
    with pytest.raises(GraphError, match="different numbers of results"):
        branch(m, m.constant(True), one, two, x)
    with pytest.raises(GraphError, match="the condition must be one bool"):
        branch(m, x, one, one, x)
    with pytest.raises(GraphError, match="among the operands of a branch"):
        branch(m, m.constant(True), one, one, m.x(4, name="z"))
    with pytest.raises(GraphError, match="the operands of the body are 1, not 2"):
        loop(m, one, [x])


def test_what_stops_stops_only_where_it_is_run() -> None:
    m = Maker()
    x, cond = m.x(3), m.input("c", (), "bool")
    stop = {"types": (((3,), "float32"),), "message": "no such thing", "where": "there"}
    then = region([VECTOR], lambda b, v: list(b.emit("stop", (), stop)))
    graph = m.done(*branch(m, cond, then, region([VECTOR], lambda b, v: [v[0]]), x))
    data = np.zeros(3, np.float32)
    interpret(optimise(graph, check=True), {"x": data, "c": np.array(False)})
    with pytest.raises(ShapeError, match="no such thing"):
        interpret(graph, {"x": data, "c": np.array(True)})
