from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import tilewright as tw
from tests.frontend.models import INT64, constant, model, value
from tilewright.errors import GraphError, InputError, ShapeError, UnsupportedError

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
rng = np.random.default_rng(8)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def sequence(name: str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, kind, None)


def optional(name: str, kind: int = FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    inner = helper.make_tensor_type_proto(kind, shape)
    return helper.make_value_info(name, helper.make_optional_type_proto(inner))


def same(got: Any, want: Any) -> None:
    """Equal lists of arrays, or arrays."""
    assert isinstance(got, list) == isinstance(want, list)
    got, want = (v if isinstance(v, list) else [v] for v in (got, want))
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def agree(proto: onnx.ModelProto, **feeds: Any) -> dict[str, Any]:
    """The outputs, which are onnxruntime's."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    with tw.compile(proto, threads=1) as compiled:
        got = compiled.run(feeds)
    for name, want in expected.items():
        same(got[name], want)
    return got


# ------------------------------------------------------------------------------------------ inside of a model
def test_lists_are_edited_when_the_model_is_compiled() -> None:
    nodes = [
        helper.make_node("SequenceEmpty", [], ["none"]),
        helper.make_node("SequenceInsert", ["none", "a"], ["one"]),
        helper.make_node("SequenceInsert", ["one", "b", "front"], ["two"]),
        helper.make_node("SequenceConstruct", ["a", "c"], ["pair"]),
        helper.make_node("SequenceAt", ["pair", "last"], ["c1"]),
        helper.make_node("SequenceInsert", ["two", "c1", "last"], ["three"]),
        helper.make_node("SequenceErase", ["three"], ["shorter"]),
        helper.make_node("SequenceErase", ["shorter", "front"], ["shortest"]),
        helper.make_node("SequenceLength", ["three"], ["length"]),
        helper.make_node("ConcatFromSequence", ["three"], ["y"], axis=1),
        helper.make_node("ConcatFromSequence", ["three"], ["stacked"], axis=-1, new_axis=1),
        helper.make_node("SequenceAt", ["shortest", "front"], ["z"]),
    ]
    inputs = [value(name, [2, 3]) for name in "abc"]
    outputs = [value("y", None), value("stacked", None), value("z", None), value("length", [], INT64)]
    proto = model(nodes, inputs, outputs, [constant("front", 0), constant("last", -1)])
    got = agree(proto, a=floats(2, 3), b=floats(2, 3), c=floats(2, 3))
    assert got["y"].shape == (2, 9)
    assert got["stacked"].shape == (2, 3, 3)


def test_positions_may_steer() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x", "sizes"], ["parts"], axis=1),
        helper.make_node("SequenceAt", ["parts", "n"], ["y"]),
    ]
    inputs = [value("x", [2, 5]), value("sizes", ["k"], INT64), value("n", [], INT64)]
    proto = model(nodes, inputs, [value("y", None)])
    x = floats(2, 5)
    with tw.compile(proto, threads=1) as compiled:
        for sizes, n, part in (([2, 3], 1, x[:, 2:]), ([2, 3], -2, x[:, :2]), ([1, 1, 3], 1, x[:, 1:2])):
            got = compiled.run({"x": x, "sizes": np.array(sizes), "n": np.array(n)})["y"]
            np.testing.assert_array_equal(got, part)
        assert compiled.steering == ("sizes", "n")


@pytest.mark.parametrize(("size", "keepdims"), [(None, 1), (None, 0), (2, 1), (7, 1), ([4, 1], 1)])
def test_split_to_sequence(size: int | list[int] | None, keepdims: int) -> None:
    operands = ["x"] if size is None else ["x", "sizes"]
    node = helper.make_node("SplitToSequence", operands, ["y"], axis=-2, keepdims=keepdims)
    constants = [] if size is None else [constant("sizes", size)]
    got = agree(model([node], [value("x", [2, 5, 3])], [sequence("y")], constants), x=floats(2, 5, 3))
    assert sum(part.shape[1] if part.ndim == 3 else 1 for part in got["y"]) == 5


# ----------------------------------------------------------------------------------------- inputs and outputs
def doubled() -> onnx.ModelProto:
    """Every tensor of a sequence plus itself and another input, and how many they are."""
    inner = [helper.make_node("Add", ["e", "e"], ["d"]), helper.make_node("Add", ["d", "b"], ["r"])]
    body = helper.make_graph(inner, "body", [value("e", None), value("b", None)], [value("r", None)])
    nodes = [
        helper.make_node("SequenceMap", ["xs", "by"], ["ys"], body=body),
        helper.make_node("SequenceLength", ["xs"], ["n"]),
    ]
    return model(nodes, [sequence("xs"), value("by", [1])], [sequence("ys"), value("n", [], INT64)])


def test_sequences_are_lists_of_arrays(tmp_path: Path) -> None:
    by = floats(1)
    a, b = floats(2, 3), floats(4)
    cases = [[a], [a, b], [b, a], [a, b]]
    with tw.compile(doubled(), threads=1) as compiled:
        assert [str(spec) for spec in compiled.inputs] == ["xs: sequence of float32", "by: float32[1]"]
        assert compiled.steering == ("xs",)
        for xs in cases:
            got = compiled.run({"xs": xs, "by": by})
            same(got["ys"], [2 * x + by for x in xs])
            assert got["n"] == len(xs)
        assert compiled.compilations == 3
        same(compiled(tuple(cases[0]), by)[0], [2 * cases[0][0] + by])
        compiled.save(tmp_path / "doubled.tw")
    with tw.load(tmp_path / "doubled.tw") as loaded:
        same(loaded.run({"xs": cases[1], "by": by})["ys"], [2 * x + by for x in cases[1]])
        with pytest.raises(ShapeError, match=r"not compiled for xs\[0\]=\[7\], by=\[1\]") as error:
            loaded.run({"xs": [floats(7)], "by": by})
        assert "xs[0]=[2, 3], xs[1]=[4], by=[1]" in str(error.value.hint)


def test_sequences_can_be_compiled_for_ahead() -> None:
    with tw.compile(doubled(), threads=1, values={"xs": [np.zeros((2, 3), np.float32)]}) as compiled:
        xs, by = [floats(2, 3)], floats(1)
        same(compiled.run({"xs": xs, "by": by})["ys"], [2 * xs[0] + by])
        assert compiled.compilations == 0


def chosen() -> onnx.ModelProto:
    """An optional tensor or, without one, another input."""
    there = helper.make_graph(
        [helper.make_node("OptionalGetElement", ["o"], ["t"])], "there", [], [value("t", None)]
    )
    missing = helper.make_graph([helper.make_node("Neg", ["x"], ["f"])], "missing", [], [value("f", None)])
    nodes = [
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
        helper.make_node("If", ["has"], ["y"], then_branch=there, else_branch=missing),
        helper.make_node("Identity", ["o"], ["same"]),
    ]
    outputs = [value("y", None), value("has", [], BOOL), optional("same")]
    return model(nodes, [optional("o"), value("x", [2])], outputs, opset=18)


def test_optional_values_are_arrays_or_none() -> None:
    x, o = floats(2), floats(3, 2)
    with tw.compile(chosen(), threads=1) as compiled:
        for _ in range(2):
            got = compiled.run({"o": None, "x": x})
            assert got["same"] is None
            assert not got["has"]
            same(got["y"], -x)
            got = compiled.run({"o": o, "x": x})
            same(got["same"], o)
            same(got["y"], o)
        assert compiled.compilations == 2


@pytest.mark.parametrize("count", [0, 1, 4])
def test_loops_over_sequences_are_written_out(count: int) -> None:
    """Each iteration appends the sum of the last tensor and the number of the iteration."""
    inner = [
        helper.make_node("SequenceAt", ["s", "back"], ["e"]),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Add", ["e", "f"], ["next"]),
        helper.make_node("SequenceInsert", ["s", "next"], ["out"]),
        helper.make_node("Identity", ["c"], ["going"]),
    ]
    formals = [value("i", [], INT64), value("c", [], BOOL), sequence("s")]
    body = helper.make_graph(inner, "body", formals, [value("going", [], BOOL), sequence("out")])
    nodes = [
        helper.make_node("SequenceConstruct", ["x"], ["first"]),
        helper.make_node("Loop", ["trips", "yes", "first"], ["ys"], body=body),
    ]
    inputs = [value("x", [2]), value("trips", [], INT64)]
    proto = model(nodes, inputs, [sequence("ys")], [constant("yes", True, "bool"), constant("back", -1)])
    assert len(agree(proto, x=floats(2), trips=np.array(count))["ys"]) == count + 1


@pytest.mark.parametrize("flag", [False, True])
def test_branches_that_give_sequences_decide_what_is_compiled(flag: bool) -> None:
    one = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["a"])], "one", [], [sequence("a")])
    two = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["b"])], "two", [], [sequence("b")]
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=one, else_branch=two)
    proto = model([node], [value("flag", [], BOOL), value("x", [2])], [sequence("y")])
    assert len(agree(proto, flag=np.array(flag), x=floats(2))["y"]) == 2 - flag


# ----------------------------------------------------------------------------------------------------- errors
def at(position: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("SequenceAt", ["s", "n"], ["y"]),
    ]
    return model(nodes, [value("x", [2])], [value("y", None)], [constant("n", position)])


def test_operands_that_do_not_fit() -> None:
    with pytest.raises(GraphError, match="position 2 is outside of a sequence of 2 tensors"):
        tw.compile(at(2), threads=1)
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    with pytest.raises(GraphError, match="cannot be a sequence of 1 tensors of float32"):
        tw.compile(model(nodes, [value("x", [2])], [value("y", None)]), threads=1)
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    with pytest.raises(GraphError, match="'y' is declared as tensor, but it is a sequence of 1 tensors"):
        tw.compile(model(nodes, [value("x", [2])], [value("y", None)]), threads=1)
    kind = helper.make_tensor_type_proto(FLOAT, None)
    nodes = [
        helper.make_node("Optional", [], ["o"], type=kind),
        helper.make_node("OptionalGetElement", ["o"], ["y"]),
    ]
    with pytest.raises(GraphError, match="optional tensor of float32 without a value has no element to get"):
        tw.compile(model(nodes, [], [value("y", None)], opset=18), threads=1)


def test_inputs_that_do_not_fit() -> None:
    with tw.compile(doubled(), threads=1) as compiled:
        by = np.zeros(1, np.float32)
        with pytest.raises(InputError, match="input 'xs' is a ndarray, expected a list of arrays of float32"):
            compiled.run({"xs": floats(2), "by": by})
        with pytest.raises(InputError, match=r"input 'xs\[1\]' has dtype float64, expected float32"):
            compiled.run({"xs": [floats(2), np.zeros(2)], "by": by})
        with pytest.raises(UnsupportedError, match="a sequence of no tensors does not tell"):
            compiled.run({"xs": [], "by": by})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (sequence("s", TensorProto.STRING), "the element type string, which is not supported"),
        (
            helper.make_value_info(
                "s", helper.make_sequence_type_proto(helper.make_sequence_type_proto(
                    helper.make_tensor_type_proto(FLOAT, None)))
            ),
            "'s' is declared as sequence of sequence of tensor; tensors, sequences of them",
        ),
    ],
)  # fmt: skip
def test_types_that_are_not_supported(declared: onnx.ValueInfoProto, message: str) -> None:
    node = helper.make_node("SequenceLength", ["s"], ["y"])
    with pytest.raises(UnsupportedError, match=message):
        tw.compile(model([node], [declared], [value("y", [], INT64)]), threads=1)
