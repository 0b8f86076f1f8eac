"""Branches that are decided when the model is compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.frontend.models import agree, constant, model, ops, value
from tilewright.errors import ModelFileError, UnsupportedError
from tilewright.frontend.onnx import import_onnx

rng = np.random.default_rng(5)


def branch(
    nodes: Sequence[onnx.NodeProto], output: str, constants: Sequence[onnx.TensorProto] = ()
) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), f"{output}_branch", [], [value(output, None)], list(constants))


def same(output: str) -> onnx.GraphProto:
    return branch([helper.make_node("Identity", ["x"], [output])], output)


def squeeze_if_one() -> list[onnx.NodeProto]:
    """What PyTorch's exporter writes for a squeeze of a dimension of unknown size."""
    then = branch([helper.make_node("Squeeze", ["h", "axis"], ["t"])], "t", [constant("axis", [1])])
    other = branch([helper.make_node("Identity", ["h"], ["e"])], "e")
    return [
        helper.make_node("If", ["is_one"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Equal", ["n", "one"], ["is_one"]),
        helper.make_node("Gather", ["s", "one"], ["n"], axis=0),
        helper.make_node("Shape", ["h"], ["s"]),
        helper.make_node("Relu", ["x"], ["h"]),
    ]


@pytest.mark.parametrize("size", [1, 3])
def test_conditions_on_sizes(size: int) -> None:
    """The nodes stand in the wrong order: what branches read counts as read by the If."""
    proto = model(squeeze_if_one(), [value("x", [2, "n", 4])], ["y"], [constant("one", 1)])
    x = rng.standard_normal((2, size, 4)).astype(np.float32)
    nodes = {n.output[0]: n for n in proto.graph.node}
    ordered = model([nodes[n] for n in ("h", "s", "n", "is_one", "y")], [value("x", [2, "n", 4])], ["y"])
    ordered.graph.initializer.append(constant("one", 1))
    got = agree(ordered, {"x": x})["y"]
    assert got.shape == ((2, 4) if size == 1 else (2, 3, 4))
    assert ops(import_onnx(proto, {"x": x.shape})) == ops(import_onnx(ordered, {"x": x.shape}))


def test_branches_within_branches() -> None:
    inner = helper.make_node(
        "If",
        ["no"],
        ["i"],
        then_branch=branch([helper.make_node("Neg", ["x"], ["a"])], "a"),
        else_branch=branch(
            [helper.make_node("Add", ["x", "w"], ["b"])], "b", [constant("w", 2.0, "float32")]
        ),
    )
    outer = helper.make_node("If", ["yes"], ["y"], then_branch=branch([inner], "i"), else_branch=same("o"))
    flags = [constant("yes", True, "bool"), constant("no", False, "bool")]
    proto = model([outer], [value("x", [3])], ["y"], flags)
    assert ops(import_onnx(proto)) == ["add"]
    agree(proto, {"x": np.arange(3, dtype=np.float32)})


def test_unknown_operators_in_branches_are_reported() -> None:
    then = branch([helper.make_node("Fantasy", ["x"], ["t"])], "t")
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=same("e"))
    with pytest.raises(UnsupportedError, match="Fantasy"):
        import_onnx(model([node], [value("x", [3]), value("c", [], TensorProto.BOOL)], ["y"]))


def test_branches_that_read_what_nothing_produces() -> None:
    then = branch([helper.make_node("Relu", ["ghost"], ["t"])], "t")
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=same("e"))
    with pytest.raises(ModelFileError, match="'ghost', which nothing produces"):
        import_onnx(model([node], [value("x", [3])], ["y"], [constant("c", True, "bool")]))
