from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.frontend.models import FLOAT, INT64, model, value


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    proto = model([node], [value("x", [2, 3]), value("axes", ["k"], INT64)], [value("y", None, FLOAT)])
    path = tmp_path / "sums.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    np.save(tmp_path / "axes.npy", np.array([1]))
    return ["--input", f"axes={tmp_path / 'axes.npy'}"]


def test_values_of_inputs_that_steer(cli, sums, given, tmp_path):
    artifact = tmp_path / "sums.tw"
    cli("compile", sums, "-o", artifact, *given)
    result = cli("inspect", artifact)
    assert "input axes steers; compiled for [1]" in result.out
    outputs = cli("run", artifact, "--input", f"x={tmp_path / 'x.npy'}", *given, "--json").out
    assert json.loads(outputs)["outputs"][0]["max"] == 12
    assert "compiled for [1]" in cli("inspect", sums, *given).out
    assert json.loads(cli("inspect", sums, *given, "--json").out)["steering"] == ["axes"]
    assert "ok: 1 outputs agree" in cli("check", sums, *given).out
    assert "reduce" in cli("inspect", sums, *given, "--stage", "simplify").out
    assert cli("profile", artifact, *given, "--runs", 2).code == 0
    assert "onnxruntime" in cli("bench", sums, *given, "--runs", 2).out


def test_values_are_needed(cli, sums, given, tmp_path):
    message = "the value of input 'axes' decides what is compiled, so that it cannot be sampled"
    shape = ["--shape", "axes=1"]
    for command in ("check", "bench", "profile"):
        result = cli(command, sums, *shape)
        assert result.code == 2
        assert message in result.err
        assert "--input axes=FILE.npy" in result.err
    result = cli("compile", sums, "-o", tmp_path / "none.tw", *shape)
    assert result.code == 2
    assert "inputs that steer (axes)" in result.err
    assert "give a value with --input" in cli("inspect", sums, *shape).out


def test_check_of_several_sizes(cli, tmp_path, given):
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    proto = model([node], [value("x", ["n", 3]), value("axes", [1], INT64)], [value("y", None, FLOAT)])
    onnx.save(proto, tmp_path / "open.onnx")
    assert "ok: 4 outputs agree" in cli("check", tmp_path / "open.onnx", "--dim", "n=1..9", *given).out
    result = cli("check", tmp_path / "open.onnx", "--dim", "n=1..9")
    assert result.code == 2
    assert "the value of input 'axes' decides what is compiled" in result.err


def test_values_that_do_not_fit(cli, sums, given, tmp_path):
    result = cli("compile", sums, "-o", tmp_path / "none.tw", *given, "--input", f"x={tmp_path / 'x.npy'}")
    assert result.code == 2
    assert "the input 'x' does not steer" in result.err
    artifact = tmp_path / "sums.tw"
    cli("compile", sums, "-o", artifact, *given)
    assert "an artifact is compiled already" in cli("inspect", artifact, *given).err


def test_sequences_are_for_python(cli, tmp_path):
    node = helper.make_node("SequenceLength", ["s"], ["n"])
    declared = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    onnx.save(model([node], [declared], [value("n", [], INT64)]), tmp_path / "s.onnx")
    result = cli("check", tmp_path / "s.onnx")
    assert result.code == 2
    assert "input 's' is declared as sequence; only tensors can be read from files or sampled" in result.err
