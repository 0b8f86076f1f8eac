"""ONNX's own node tests: every case that imports must give the expected results."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.onnx_suite import DISPUTED
from tests.ops.harness import run_compute, widened
from tilewright.errors import GraphError, UnsupportedError
from tilewright.frontend.onnx import read_model
from tilewright.graph import Graph
from tilewright.graph.decompose import decompose
from tilewright.graph.fold import absorb_parameters
from tilewright.graph.graph import Value
from tilewright.graph.interpret import interpret, run_reference
from tilewright.graph.opdef import get_op

#: Elements above which a node is too large for the interpreter of tensor expressions.
TOO_LARGE = 20_000


def _cases() -> Iterator[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from load_model_tests(kind="node")


def _arrays(data: Any) -> list[np.ndarray]:
    return [numpy_helper.to_array(d) if isinstance(d, onnx.TensorProto) else np.asarray(d) for d in data]


def _graph(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Graph:
    """The graph at the shapes of ``feeds``; all but the first become weights where that is needed."""
    try:
        return read_model(proto).to_graph({name: data.shape for name, data in feeds.items()})
    except (UnsupportedError, GraphError):
        if read_model(proto).unsupported():
            raise
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    for name in list(feeds)[1:]:
        fixed.graph.initializer.append(numpy_helper.from_array(feeds.pop(name), name))
    return read_model(fixed).to_graph({name: data.shape for name, data in feeds.items()})


def _assert_equal(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> None:
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if want.dtype.kind not in "iub":
        half = want.dtype.itemsize == 2  # expected data rounds after every step, we once
        np.testing.assert_allclose(
            widened(got), widened(want), max(rtol, 1e-2 if half else 0), max(atol, 4e-3 if half else 0)
        )
    else:
        np.testing.assert_array_equal(got, want)


def _run(each: Any) -> tuple[int, list[str]]:
    """Apply ``each`` to every case that imports; returns how many passed, and the failures."""
    passed, failures = 0, []
    for case in _cases():
        declared = [*case.model.graph.input, *case.model.graph.output]
        if not all(d.type.HasField("tensor_type") for d in declared):
            continue  # lists and what may be missing: graphs take tensors (tests/api/test_sequences.py)
        for inputs, expected in case.data_sets:
            try:
                names = [i.name for i in read_model(case.model).inputs]
                given = dict(zip([i.name for i in case.model.graph.input], _arrays(inputs), strict=False))
                feeds = {name: given[name] for name in names}
                graph = _graph(case.model, feeds)
            except UnsupportedError:
                continue
            try:
                each(graph, feeds, _arrays(expected), case)
                passed += 1
            except Exception as error:
                if not any(re.fullmatch(names, case.name) for names in DISPUTED):
                    failures.append(f"{case.name}: {error}")
    return passed, failures


def test_references_give_the_expected_results() -> None:
    def each(graph: Graph, feeds: dict[str, np.ndarray], expected: list[np.ndarray], case: Any) -> None:
        for got, want in zip(interpret(graph, feeds).values(), expected, strict=True):
            _assert_equal(got, want, case.rtol, case.atol)

    passed, failures = _run(each)
    assert not failures, "\n".join(failures)
    assert passed >= 1480


@pytest.mark.slow
def test_tensor_expressions_give_what_references_give() -> None:
    def each(graph: Graph, feeds: dict[str, np.ndarray], expected: list[np.ndarray], case: Any) -> None:
        graph = decompose(absorb_parameters(graph))
        if any(node.regions or node.op == "size_of" for node in graph.nodes):
            return  # what is computed depends on what was computed before: the interpreter's part
        values: dict[Value, np.ndarray] = dict(graph.constants)
        values.update((v, feeds[v.name]) for v in graph.inputs)
        for node in graph.nodes:
            operands = [None if v is None else values[v] for v in node.inputs]
            results = run_reference(node, operands)
            if sum(r.size for r in results) <= TOO_LARGE:
                steering = get_op(node.op).params
                known = [n for n, v in enumerate(node.inputs) if v in graph.constants or n in steering]
                for got, want in zip(run_compute(node, operands, known), results, strict=True):
                    _assert_equal(got, want, 1e-3, 1e-5)
            values.update(zip(node.outputs, results, strict=True))

    passed, failures = _run(each)
    assert not failures, "\n".join(failures)
    assert passed >= 1480
