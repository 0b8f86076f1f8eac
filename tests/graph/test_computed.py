"""Graphs with sizes that kernels compute: what passes must keep."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright.ops  # noqa: F401 - registers the operators
from tests.graph.graphs import ops
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.cse import eliminate_common_subexpressions
from tilewright.graph.graph import Graph, Value
from tilewright.graph.inplace import find_parts
from tilewright.graph.interpret import interpret
from tilewright.graph.memory import plan_memory
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise
from tilewright.graph.rewrite import computed_dims, eliminate_dead_code
from tilewright.graph.specialise import specialise
from tilewright.ir.expr import Const, Expr, Var
from tilewright.ir.sizes import dimension
from tilewright.ops.common import dims_attr
from tilewright.ops.computed import computed_size, positions_of


def found(builder: GraphBuilder, x: Value, name: str = "count") -> Value:
    """The elements of a vector that are not zero."""
    return builder.op("gather", x, positions_of(builder, x, name), axis=0)


def defining(graph: Graph) -> list[str]:
    return [dim.name for node in graph.nodes for dim in computed_dims(node)]


def test_a_size_stays_as_long_as_it_is_needed() -> None:
    """Also where only a shape or an attribute says so."""
    builder = GraphBuilder()
    x = builder.input("x", (6,), "float32")
    (count,) = dims_attr(found(builder, x).shape)
    ones = builder.op("expand", builder.constant(1.0), shape=(count, 2))
    kept = optimise(builder.build([ones]), check=True)
    assert defining(kept) == ["count"]
    assert "positions" not in ops(kept)
    assert defining(eliminate_dead_code(builder.build([x]))) == []


def test_references_go_by_the_numbers() -> None:
    builder = GraphBuilder()
    graph = builder.build([found(builder, builder.input("x", (6,), "float32"))], ["y"])
    for x in (np.float32([0, 2, 0, 3, 0, 4]), np.zeros(6, np.float32)):
        assert interpret(graph, {"x": x})["y"].tolist() == x[x != 0].tolist()


def test_names_of_sizes_are_unique() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (dimension("count", 1, 8),), "float32")
    for n in range(3):
        found(builder, x, "count" if n else "other")
    assert defining(builder.build([found(builder, x, "count")])) == ["other", "count_1", "count_2", "count_3"]


def test_equal_counts_are_not_taken_for_one_size() -> None:
    """Two dimensions stay two, since shapes name them; what they are computed from is shared."""
    builder = GraphBuilder()
    x = builder.input("x", (6,), "float32")
    graph = builder.build([found(builder, x, "a"), found(builder, x, "b")])
    merged = eliminate_common_subexpressions(graph)
    assert defining(merged) == ["a", "b"]
    assert ops(merged)["running_count"] == ops(merged)["positions"] == 1


def test_nothing_lies_where_computed_sizes_say() -> None:
    """An operand of a concatenation may be computed before the size that decides its place."""
    builder = GraphBuilder()
    x, w = builder.input("x", (64,), "float32"), builder.constant(np.ones((16, 32), np.float32))
    rows = builder.op("reshape", found(builder, x), shape=(*dims_attr(found(builder, x).shape), 1))
    wide = builder.op("expand", rows, shape=(*dims_attr(rows.shape[:1]), 32))
    joined = builder.op("concat", builder.op("relu", wide), builder.op("exp", w), axis=0)
    assert find_parts(builder.build([builder.op("sigmoid", joined)])) == {}


def test_memory_is_planned_for_the_largest() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (dimension("n", 1, 100),), "float32")
    graph = optimise(builder.build([builder.op("exp", builder.op("softmax", found(builder, x), axis=0))]))
    plan = plan_memory(graph, partition(graph))
    assert plan.arena_size >= 2 * 8 * 101  # counts and positions


def test_specialising_tightens_the_limits() -> None:
    builder = GraphBuilder()
    n = Var("n", lo=0)
    x = builder.input("x", (n,), "float32")
    graph = builder.build([found(builder, x)])
    (open_dim,) = graph.outputs[0].shape
    assert isinstance(open_dim, Var)
    assert open_dim.hi is None
    (fixed,) = specialise(graph, {"n": 7}).outputs[0].shape
    assert isinstance(fixed, Var)
    assert (fixed.name, fixed.lo, fixed.hi) == ("count", 0, 7)
    (none,) = specialise(graph, {"n": 0}).outputs[0].shape
    assert isinstance(none, Const)
    assert none.value == 0


def test_conditions_on_sizes() -> None:
    builder = GraphBuilder()
    n, m = Var("n", lo=1, hi=4), Var("m", lo=5, hi=9)
    dims = builder.op("shape", builder.input("x", (n, m), "float32"))
    swapped = builder.op("gather", dims, builder.constant(np.array([1, 0])))

    def chosen(cond: Value) -> list[Expr] | None:
        exprs = builder.exprs(builder.op("where", cond, dims, swapped))
        return None if exprs is None else exprs.tolist()

    below = builder.op("less", dims, swapped)
    assert chosen(below) == [n, n]
    assert chosen(builder.op("not", below)) == [m, m]
    assert chosen(builder.op("equal", dims, swapped)) == [m, n]
    same = builder.op("less_equal", dims, dims)
    assert chosen(builder.op("xor", same, below)) == [m, m]
    assert chosen(builder.op("cast", builder.op("cast", below, to="int64"), to="bool")) == [n, n]
    three = builder.op("equal", dims, builder.constant(3))
    assert builder.exprs(three) is not None
    assert chosen(three) is None, "n decides, which is known to a run only"
    assert chosen(builder.op("and", three, builder.constant(False))) == [m, n]
    number = builder.op("cast", three, to="int64")
    assert builder.exprs(builder.op("gather", dims, number)) is None
    largest = builder.op("reduce", builder.op("mul", number, dims), op="max", axes=(0,), keepdims=False)
    assert builder.exprs(builder.op("where", builder.op("less", largest, dims), dims, dims)) is not None


@pytest.mark.parametrize("most", [0, 5])
def test_what_is_known_of_a_size(most: int) -> None:
    builder = GraphBuilder()
    total, dim = computed_size(builder, builder.input("n", (), "int64"), most, "size")
    exprs = builder.exprs(total)
    assert exprs is not None
    assert exprs[()] is dim
    assert isinstance(dim, Var if most else Const)
