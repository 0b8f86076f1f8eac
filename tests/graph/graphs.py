"""Small graphs for the tests of graph passes, and the checks that all of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

import tilewright.ops  # noqa: F401 - registers the operators
from tilewright.graph import Graph, GraphBuilder, Value, check_types, verify
from tilewright.graph.interpret import interpret
from tilewright.graph.partition import Group, partition
from tilewright.graph.primfunc import lower_group
from tilewright.ir.interp import run


class Maker(GraphBuilder):
    """A builder with seeded weights; ``m.f(2, 3)`` is a float constant."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__("test")
        self.rng = np.random.default_rng(seed)

    def x(self, *shape: int, name: str = "x", dtype: str = "float32") -> Value:
        return self.input(name, shape, dtype)

    def f(self, *shape: int) -> Value:
        return self.constant(self.rng.standard_normal(shape).astype(np.float32), "w")

    def n(self, number: float) -> Value:
        return self.constant(np.float32(number), "n")

    def done(self, *outputs: Value) -> Graph:
        graph = self.build(outputs, [f"out{i}" for i in range(len(outputs))])
        verify(graph)
        check_types(graph)
        return graph


def feeds(graph: Graph, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    result = {}
    for value in graph.inputs:
        if value.dtype.startswith("float"):
            result[value.name] = rng.standard_normal(value.dims()).astype(np.float32)
        else:
            result[value.name] = rng.integers(0, 4, value.dims()).astype(value.dtype)
    return result


def ops(graph: Graph) -> Counter[str]:
    return Counter(n.op for n in graph.nodes)


def same_results(before: Graph, after: Graph, rtol: float = 1e-4) -> None:
    """Both graphs are valid, have one signature, and compute the same."""
    verify(after)
    check_types(after)
    assert after.output_names == before.output_names
    assert after.inputs == before.inputs
    data = feeds(before)
    expected, actual = interpret(before, data), interpret(after, data)
    for name, want in expected.items():
        have = actual[name]
        assert have.shape == want.shape
        assert have.dtype == want.dtype
        scale = float(np.abs(want[np.isfinite(want)]).max(initial=0)) or 1.0
        np.testing.assert_allclose(have, want, rtol=rtol, atol=rtol * scale, err_msg=name)


def apply(graph: Graph, *passes: Callable[[Graph], Graph]) -> Graph:
    """The result of the passes, checked against the graph that came in after each."""
    for step in passes:
        after = step(graph)
        same_results(graph, after)
        graph = after
    return graph


def run_kernels(graph: Graph, groups: Sequence[Group], data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Execute the groups' loop programs with the IR interpreter."""
    values: dict[Value, np.ndarray] = {v: data[v.name] for v in graph.inputs}
    values.update(graph.constants)
    for group in groups:
        if group.is_view:
            for node in group.nodes:
                source = node.inputs[0]
                assert source is not None
                values[node.output] = values[source].reshape(node.output.dims())
            continue
        kernel = lower_group(graph, group)
        results = run(kernel.func, [np.ascontiguousarray(values[v]) for v in kernel.inputs])
        values.update(zip(kernel.outputs, results, strict=True))
    return {name: values[v] for name, v in zip(graph.output_names, graph.outputs, strict=True)}


def kernels(graph: Graph) -> list[str]:
    """Names of the groups that run code; the groups together compute what the graph does."""
    groups = partition(graph)
    data = feeds(graph)
    expected = interpret(graph, data)
    for name, have in run_kernels(graph, groups, data).items():
        scale = float(np.abs(expected[name]).max(initial=0)) or 1.0
        np.testing.assert_allclose(have, expected[name], rtol=1e-4, atol=1e-4 * scale)
    covered = [n for g in groups for n in g.nodes]
    assert len(covered) == len(set(covered)) == len(graph.nodes)
    return [g.name for g in groups if not g.is_view]
