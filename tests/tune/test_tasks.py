"""The tasks of models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.tune.stored import TARGET, dense_model
from tests.tune.stored import tasks as functions
from tilewright.errors import OptionError
from tilewright.graph.alternatives import DIRECT
from tilewright.graph.graph import Graph
from tilewright.records import Workload
from tilewright.sources import open_model
from tilewright.tune.tasks import extract


def twins() -> onnx.ModelProto:
    """Two layers of the same sizes, one of others."""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in
               (("a", (32, 32)), ("b", (32, 32)), ("c", (32, 8)))}  # fmt: skip
    nodes = []
    last = "x"
    for name in weights:
        nodes.append(helper.make_node("MatMul", [last, name], [f"m{name}"], name=f"dense_{name}"))
        nodes.append(helper.make_node("Relu", [f"m{name}"], [f"r{name}"], name=f"relu_{name}"))
        last = f"r{name}"
    graph = helper.make_graph(
        nodes,
        "twins",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def graph_of(model, **kw) -> Graph:
    return open_model(model, **kw).case({}, {}).graph


def test_tasks_are_the_workloads_that_compile_has():
    found = extract([graph_of(dense_model())], TARGET, 1, source="dense")
    assert [t.key for t in found.tasks] == [Workload.of(f).key for f in functions(dense_model())]
    assert [t.workload.family for t in found.tasks] == ["matmul", "softmax"]
    assert {t.workload.source for t in found.tasks} == {"dense"}
    assert found.tasks[0].flops >= 2 * 24 * 40 * 36
    assert found.tasks[0].nbytes == 4 * (24 * 40 + 40 * 36 + 24 * 36)


def test_equal_kernels_are_one_task():
    found = extract([graph_of(twins(), shapes={"x": (16, 32)})], TARGET, 1)
    assert [t.occurrences for t in found.tasks] == [2, 1]
    assert set(found.tasks[0].origins) >= {"dense_a", "dense_b"}
    assert found.skipped == ()


def test_kernels_of_open_sizes_are_not_tuned_and_say_so():
    found = extract([graph_of(twins(), dims={"N": (1, 64)})], TARGET, 1)
    assert found.tasks == ()
    assert {s.reason for s in found.skipped} == {"sizes have ranges"}
    with pytest.raises(OptionError, match="no kernel to tune computes 'dense_a': sizes have ranges"):
        found.only(["dense_a"])


def test_tasks_by_name_of_a_node_and_by_key():
    found = extract([graph_of(twins(), shapes={"x": (16, 32)})], TARGET, 1)
    assert found.only(["dense_c"]).tasks == (found.tasks[1],)
    assert found.only([found.tasks[0].key[:10]]).tasks == (found.tasks[0],)
    with pytest.raises(OptionError, match="computes 'nothing'"):
        found.only(["nothing"])


def test_other_ways_to_compute_heavy_nodes_have_tasks():
    w = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 16, 16])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = extract([graph_of(model)], TARGET, 1, ways=True)
    (ways,) = found.ways
    assert ways.origins == ("conv",)
    assert DIRECT in ways.kernels
    assert len(ways.kernels) > 1
    keys = {t.key for t in found.tasks}
    assert all(key in keys for kernels in ways.kernels.values() for key in kernels)
    assert any(t.occurrences == 0 for t in found.tasks)
    known = dict.fromkeys(ways.kernels[DIRECT], 1e-3)
    assert ways.seconds(known) == {DIRECT: pytest.approx(1e-3 * len(ways.kernels[DIRECT]))}
