"""Random nodes in one model, compiled and held against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import tilewright as tw
from tests.frontend.random_nodes.makers import MAKERS, Case, draw
from tilewright.errors import TilewrightError, UnsupportedError


def merged(cases: Sequence[Case]) -> tuple[onnx.ModelProto, dict[str, np.ndarray], list[list[str]]]:
    """One model of all nodes, its inputs, and the names of each node's results."""
    nodes, infos, weights, results = [], [], [], []
    feeds: dict[str, np.ndarray] = {}
    for n, case in enumerate(cases):
        names = ["" if a is None else f"{name}_{n}" for name, a in case.arrays.items()]
        while names and not names[-1]:
            names.pop()
        for name, array in case.arrays.items():
            if array is None:
                continue
            full = f"{name}_{n}"
            if name in case.fixed:
                weights.append(numpy_helper.from_array(array, full))
            else:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                infos.append(helper.make_tensor_value_info(full, kind, array.shape))
                feeds[full] = array
        results.append([f"y{n}_{i}" for i in range(case.outputs)])
        nodes.append(helper.make_node(case.op, names, results[-1], name=f"n{n}", **case.attrs))
    outs = [onnx.ValueInfoProto(name=y) for ys in results for y in ys]
    graph = helper.make_graph(nodes, "nodes", infos, outs, weights)
    opset = helper.make_opsetid("", cases[0].opset)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8), feeds, results


def expected(case: Case) -> list[np.ndarray] | None:
    """onnxruntime's results for one node; None where it refuses it."""
    proto, feeds, _ = merged([case])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, feeds))
    except Exception:  # of onnxruntime's many classes, for models that it does not take
        return None


def difference(got: np.ndarray, want: np.ndarray) -> str | None:
    """What is different, if anything."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    try:
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)
    except AssertionError:
        where = ~np.isclose(got, want, rtol=2e-4, atol=1e-5, equal_nan=True)
        return f"{got[where][:4].tolist()} instead of {want[where][:4].tolist()}"
    return None


def findings(cases: Sequence[Case]) -> list[str]:
    """Nodes for which compiled results differ from onnxruntime's, or that are refused as wrong."""
    wanted = [(c, w) for c in cases if (w := expected(c)) is not None]
    if not wanted:
        return []
    proto, feeds, results = merged([c for c, _ in wanted])
    for info, array in zip(proto.graph.output, (a for _, want in wanted for a in want), strict=True):
        info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    try:
        got = tw.compile(proto.SerializeToString()).run(feeds)
    except UnsupportedError as error:
        return [] if len(cases) == 1 else _each(cases, error)
    except TilewrightError as error:
        return [f"{cases[0]}: {error}"] if len(cases) == 1 else _each(cases, error)
    found = []
    for (case, want), names in zip(wanted, results, strict=True):
        for name, array in zip(names, want, strict=True):
            different = difference(got[name], array)
            if different:
                found.append(f"{case}: {different}")
    return found


def _each(cases: Sequence[Case], error: TilewrightError) -> list[str]:
    """The findings of nodes one by one, where together they end in an error."""
    alone = [f for case in cases for f in findings([case])]
    return alone if alone or isinstance(error, UnsupportedError) else [f"together: {error}"]


def batch(first: int, count: int, opset: int) -> list[Case]:
    """Nodes of many operators."""
    ops = list(MAKERS)
    made = (draw(seed, ops[seed % len(ops)], opset) for seed in range(first, first + count))
    return [case for case in made if case is not None]
