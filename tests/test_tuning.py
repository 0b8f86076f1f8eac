"""``tw.tune`` of models with ranges of sizes and points, or with inputs that steer. Times are made up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright as tw
from tests.tune.faked import Clock, FakeMeasurer
from tilewright import tuning
from tilewright.errors import OptionError, ShapeError
from tilewright.tuning import Gain, TuningResult, list_tasks

Tune = Callable[..., TuningResult]


def rows() -> bytes:
    """softmax(x[N, 24] @ w): two kernels."""
    w = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], name="dense"),
            helper.make_node("Softmax", ["product"], ["y"], name="softmax", axis=-1),
        ],
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 40])],
        [numpy_helper.from_array(w, "w")],
    )
    return _bytes(graph)


def steered() -> bytes:
    """The sum of x[A, B, C] over axes that an input decides."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], name="sum", keepdims=1)],
        "steered",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["A", "B", "C"]),
            helper.make_tensor_value_info("axes", TensorProto.INT64, ["K"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["A2", "B2", "C2"])],
    )
    return _bytes(graph)


def _bytes(graph: onnx.GraphProto) -> bytes:
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


@pytest.fixture
def tune(tmp_path, monkeypatch) -> Tune:
    """tw.tune with a measurer that believes everything but the default schedule to be twice as fast."""

    def measurer(*_):
        made = FakeMeasurer(Clock(), lambda trace: 1.0 if trace == made.default else 0.5)
        return made

    monkeypatch.setattr(tuning, "CLOSING_ALONE", 0.02)
    monkeypatch.setattr(tuning, "make_measurer", measurer)

    def call(source, **kw):
        own = {"trials": 6, "threads": 1, "model": "none", "strategy": "random"}
        return tw.tune(source, store=tmp_path / "records.sqlite", **{**own, **kw})

    return call


def test_the_points_of_a_range_are_tuned_found_by_compile_and_timed(tune: Tune):
    found = tune(rows(), shapes={"x": (tw.Dim(1, 64, points=(16,)), 24)})
    assert {s.reason for s in found.skipped} == {"sizes have ranges"}
    better = sum(t.gain is not None for t in found.tasks)
    assert better > 0
    assert found.end_to_end is not None, found.why_not
    assert dict(found.end_to_end.sizes) == {"N": 16}
    assert "whole model at N=16, measured" in str(found)
    with found.compile() as model:
        of_range, of_point = ([k.chosen.by for k in v.kernels] for v in model.artifact.variants)
        assert set(of_range) == {"default"}
        assert of_point.count("record") == better


def test_each_point_has_its_kernels():
    found = list_tasks(rows(), dims={"N": tw.Dim(1, 64, points=(1, 16))}, threads=1)
    assert [t.occurrences for t in found.tasks] == [1, 1, 1, 1]
    assert len(found.skipped) == 2


def test_values_that_steer_are_those_of_the_whole_and_say_sizes(tune: Tune):
    found = tune(steered(), values={"axes": [0, 2]}, shapes={"x": (3, 4, 50)}, trials=2)
    assert found.end_to_end is not None, found.why_not
    assert found.tasks[0].before is not None


def test_values_of_inputs_that_do_not_steer_are_an_error_before_anything_is_measured():
    with pytest.raises(OptionError, match="'x' does not steer"):
        list_tasks(steered(), values={"axes": [1], "x": np.ones((3, 4, 50), np.float32)}, threads=1)


def test_an_interval_of_too_few_runs_is_not_shown():
    assert str(Gain.of(np.log(0.5), 0.1)) == "2.000x [1.810, 2.210]"
    for half_width in (3.0, 500.0, np.inf):
        vague = Gain.of(np.log(0.5), half_width)
        assert str(vague) == "2.000x [too few runs to tell]"
        assert not vague.sure


def test_each_of_several_values_has_its_kernels():
    axes = [{"axes": np.array([1])}, {"axes": np.array([0, 2])}]
    found = list_tasks(steered(), shapes={"x": (3, 4, 50)}, values=axes, threads=1)
    assert len(found.tasks) == 2
    with pytest.raises(ShapeError, match="open dimensions: A, B, C"):
        list_tasks(steered(), values=axes, threads=1)
