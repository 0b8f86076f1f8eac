"""The search for the first diverging node, against a compiler that is wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.models import save
from tilewright import checking
from tilewright.errors import CheckFailed
from tilewright.peers import open_peer

FLOAT = TensorProto.FLOAT


def chain(path: Path, length: int = 60) -> Path:
    """A chain of nodes with a side branch that joins at the end."""
    nodes = [helper.make_node("Abs", ["x"], ["side0"], name="side0")]
    nodes += [helper.make_node("Sin", ["side0"], ["side1"], name="side1")]
    value = "x"
    for index in range(length):
        nodes.append(helper.make_node("Neg", [value], [f"v{index}"], name=f"n{index}"))
        value = f"v{index}"
    nodes.append(helper.make_node("Add", [value, "side1"], ["y"], name="join"))
    return save(path, nodes, {"x": (FLOAT, [3, 5])}, {"y": (FLOAT, [3, 5])})


WRONG = {"Neg": "Abs", "Sin": "Cos", "Add": "Sub"}


class Wrong:
    """Compiles with onnxruntime, except that one node computes something else.

    Args:
        node: the node that is wrong.
        only_fused: whether it becomes right when the value before it is a model output.
    """

    def __init__(self, node: str, only_fused: bool = False) -> None:
        self.node = node
        self.only_fused = only_fused
        self.compilations = 0

    def compile(self, source, **options):
        self.compilations += 1
        model = source if isinstance(source, onnx.ModelProto) else onnx.load(source)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        outputs = {value.name for value in copy.graph.output}
        for node in copy.graph.node:
            if node.name == self.node and not (self.only_fused and len(outputs) > 1):
                node.op_type = WRONG[node.op_type]
        data = copy.SerializeToString()

        class Model:
            steering = ()

            def run(self, inputs):
                return open_peer("onnxruntime", data, inputs).run()

        return Model()


@pytest.mark.parametrize("wrong", ["n0", "n1", "n31", "n58", "n59", "side1", "join"])
def test_the_wrong_node_is_named(tmp_path, monkeypatch, wrong):
    compiler = Wrong(wrong)
    monkeypatch.setattr(checking, "api", compiler)
    report = checking.check(chain(tmp_path / "chain.onnx"))
    assert not report.ok
    assert report.divergence is not None
    assert report.divergence.node == wrong
    assert report.divergence.exact
    assert not report.divergence.difference.ok
    assert compiler.compilations <= 8
    with pytest.raises(CheckFailed, match=f"first diverging node: {wrong} ") as caught:
        report.require()
    assert caught.value.exit_code == 1
    assert report.to_dict()["divergence"]["node"] == wrong


def test_an_error_that_hides_when_values_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "api", Wrong("n31", only_fused=True))
    report = checking.check(chain(tmp_path / "chain.onnx"))
    assert not report.ok
    assert report.divergence is not None
    assert not report.divergence.exact
    assert "fused" in report.divergence.describe()


def test_nothing_is_looked_for_when_all_agrees(tmp_path, monkeypatch):
    compiler = Wrong("none")
    monkeypatch.setattr(checking, "api", compiler)
    report = checking.check(chain(tmp_path / "chain.onnx"))
    assert report.ok
    assert report.divergence is None
    assert compiler.compilations == 1
    report.require()


def test_values_that_depend_on_shapes_alone_are_not_compared(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "index"], ["size"]),
        helper.make_node("Cast", ["size"], ["scale"], to=FLOAT),
        helper.make_node("Mul", ["x", "scale"], ["y"]),
    ]
    weights = {"index": np.array(0, np.int64)}
    path = save(tmp_path / "m.onnx", nodes, {"x": (FLOAT, [3])}, {"y": (FLOAT, [3])}, weights)
    assert list(checking._computed_values(onnx.load(path))) == ["y"]


def test_failed_check_exits_1_and_names_the_node(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "api", Wrong("n7"))
    done = cli("check", chain(tmp_path / "chain.onnx", 20))
    assert done.code == 1
    assert "DIFFERS" in done.out
    assert "first diverging node: n7 (Neg), output 'v7'" in done.err
    assert "max abs error" in done.err
