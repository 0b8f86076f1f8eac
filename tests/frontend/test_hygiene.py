"""Models as they come: declarations that are wrong, names that repeat, weights in every form, functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tilewright
from tests.frontend.models import FLOAT, INT64, agree, constant, model, ops, run, value
from tilewright import config
from tilewright.errors import GraphError, LimitError, ModelFileError, TilewrightError, UnsupportedError
from tilewright.feeds import integer_bounds
from tilewright.frontend.onnx import import_onnx, read_model
from tilewright.frontend.onnx.reader import read

node = helper.make_node
X = {"x": np.array([1.0, -2.0, 3.0], np.float32)}


def fails(proto: onnx.ModelProto | bytes, kind: type[TilewrightError], message: str) -> TilewrightError:
    with pytest.raises(kind, match=message) as caught:
        import_onnx(proto)
    assert "\n" not in caught.value.message
    return caught.value


def relu(**changes: Any) -> onnx.ModelProto:
    proto = model([node("Relu", ["x"], ["y"])], [value("x", [3])], ["y"])
    for name, content in changes.items():
        setattr(proto, name, content)
    return proto


# ----------------------------------------------------------------------------------------------- declarations
def test_declared_shapes_of_results_are_ignored_and_types_are_not() -> None:
    proto = model(
        [node("Relu", ["x"], ["m"]), node("Neg", ["m"], ["y"])], [value("x", [3])], [value("y", [9, 9])]
    )
    proto.graph.value_info.append(value("m", [7], INT64))
    proto.graph.value_info.append(value("nobody", [7]))
    assert import_onnx(proto).outputs[0].dims() == (3,)
    wrong = model([node("Relu", ["x"], ["y"])], [value("x", [3])], [value("y", [3], INT64)])
    fails(wrong, GraphError, "output 'y' is declared as int64, but it is float32")


def test_outputs_without_a_type() -> None:
    proto = model([node("Shape", ["x"], ["y"])], [value("x", [3])], ["y"])
    assert import_onnx(proto).outputs[0].dtype == "int64"
    undeclared = read_model(
        model([node("Add", ["x", "z"], ["y"])], [value("x", ["n"]), value("z", ["m"])], ["y"])
    )
    assert undeclared.declared()[1][0].type.dtype == "float32"


def test_dimensions_with_odd_names() -> None:
    names = ["batch size", "2*n+1", "x_dim3", "名前", "%s", "3"]
    proto = model([node("Relu", ["x"], ["y"])], [value("x", [*names[:3], None, *names[3:]])], ["y"])
    (x,) = read_model(proto).inputs
    assert len(set(x.type.shape)) == 7
    assert import_onnx(proto, dims=dict.fromkeys(names, 2) | {"x_dim3_": 5}).outputs[0].dims()[3] == 5


def test_names_with_control_characters_are_escaped() -> None:
    proto = model(
        [node("Relu", ["x"], ["a\nb"], name="r\x1b[31m"), node("Neg", ["a\nb"], ["y"])],
        [value("x", [3])],
        ["y"],
    )
    assert read(proto).nodes[0].name == r"r\x1b[31m"
    assert run(proto, X)["y"].tolist() == [-1, 0, -3]
    bad = model([node("Relu", ["q\x1b"], ["y"])], [value("x", [3])], ["y"])
    assert r"'q\x1b'" in fails(bad, ModelFileError, "nothing produces").message


def test_texts_that_are_no_utf8() -> None:
    data = relu().SerializeToString().replace(b"Relu", b"Re\xff\xfe")
    fails(data, ModelFileError, r"the operator of node 0 is not UTF-8 text: 'Re\\xff\\xfe'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.input.append(g.input[0]), "two inputs are called 'x'"),
        (lambda g: g.output.append(g.output[0]), "two outputs are called 'y'"),
        (lambda g: g.output.add(), "one of the model's outputs has no name"),
        (
            lambda g: g.initializer.extend([constant("w", [1]), constant("w", [2])]),
            "two initializers are called 'w'",
        ),
        (lambda g: g.initializer.append(constant("y", [1])), "two things produce the tensor 'y'"),
        (lambda g: g.initializer.add(data_type=1), "an initializer has no name"),
    ],
)
def test_names_that_repeat_or_lack(change: Any, message: str) -> None:
    proto = relu()
    change(proto.graph)
    fails(proto, ModelFileError, message)


def test_attributes_given_twice() -> None:
    proto = model([node("Elu", ["x"], ["y"], alpha=1.0)], [value("x", [3])], ["y"])
    proto.graph.node[0].attribute.append(helper.make_attribute("alpha", 2.0))
    fails(proto, ModelFileError, "gives its attribute 'alpha' twice")


# -------------------------------------------------------------------------------------- nodes and definitions
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (node("Relu", ["x"], ["y"], alpha=1.0), "Relu has no attribute 'alpha' in opset 14"),
        (node("Elu", ["x"], ["y"], alpha=1), "attribute 'alpha' of Elu must be a floating-point number"),
        (node("Concat", ["x", "x"], ["y"]), "Concat needs the attribute 'axis'"),
        (node("Relu", ["x", "x"], ["y"]), "Relu takes 1 inputs, not 2"),
        (node("Relu", [""], ["y"]), "Relu takes 1 inputs, not 0"),
        (node("Clip", ["", "x"], ["y"]), "Clip needs its input 'input'"),
        (node("Relu", ["x"], ["y", "z"]), "Relu has 1 outputs, not 2"),
        (node("Not", ["x"], ["y"]), r"input 'X' of Not cannot be float32\[3\]"),
        (node("Add", ["x", "i"], ["y"]), "inputs of Add must have one element type, not float and int64"),
        (node("Gemm", ["x", "x"], ["y"]), r"input 'A' of Gemm has 2 dimensions, not float32\[3\]"),
        (
            node("ReduceMean", ["x"], ["y"], keepdims=2),
            "attribute 'keepdims' of ReduceMean must be 0 or 1, not 2",
        ),
        (
            node("MaxPool", ["x"], ["y"], kernel_shape=[0]),
            r"'kernel_shape' of MaxPool must be positive, not \(0,\)",
        ),
    ],
)
def test_nodes_are_held_against_their_definitions(bad: onnx.NodeProto, message: str) -> None:
    proto = model([bad], [value("x", [3])], ["y"], [constant("i", [1])])
    error = fails(proto, GraphError, message)
    assert f"onnx {bad.op_type} node" in str(error)


def test_empty_optional_inputs() -> None:
    nodes = [
        node("Clip", ["x", "", "high"], ["a"]),
        node("Clip", ["a", "", ""], ["b"]),
        node("Resize", ["img", "", "", "sizes"], ["r"]),
        node("Add", ["b", "b"], ["y"]),
    ]
    inputs = [value("x", [3]), value("img", [1, 1, 2, 2])]
    proto = model(
        nodes, inputs, ["y", "r"], [constant("high", 0.5, "float32"), constant("sizes", [1, 1, 4, 4])]
    )
    agree(proto, X | {"img": np.ones((1, 1, 2, 2), np.float32)})


def test_metadata_changes_nothing() -> None:
    proto = relu(doc_string="text", producer_name="someone", model_version=7)
    helper.set_model_props(proto, {"a": "b"})
    proto.graph.doc_string = "more"
    assert ops(import_onnx(proto)) == ["relu"]


def test_versions_of_the_format() -> None:
    for version in (3, 4, 7, onnx.IR_VERSION):
        assert ops(import_onnx(relu(ir_version=version))) == ["relu"]
    error = fails(relu(ir_version=onnx.IR_VERSION + 1), UnsupportedError, "is the newest that is known here")
    assert error.hint is not None
    assert "--upgrade onnx" in error.hint
    old = model([node("Relu", ["x"], ["y"])], [value("x", [3])], ["y"])
    old.ir_version = 2
    del old.opset_import[:]
    assert ops(import_onnx(old)) == ["relu"]
    old.ir_version = 3
    fails(old, ModelFileError, "names no operator set")


# ---------------------------------------------------------------------------------------------------- weights
def test_weights_in_constant_nodes_of_every_form() -> None:
    sparse = helper.make_sparse_tensor(constant("", [5.0], "float32"), constant("", [2]), [3])
    forms: Sequence[tuple[dict[str, Any], list[float]]] = [
        ({"value": constant("", [1, 2, 3], "float32")}, [1, 2, 3]),
        ({"value_float": 2.5}, [2.5] * 3),
        ({"value_floats": [1.0, 0.5, 4.0]}, [1, 0.5, 4]),
        ({"sparse_value": sparse}, [0, 0, 5]),
    ]
    for attrs, expected in forms:
        proto = model(
            [node("Constant", [], ["c"], **attrs), node("Mul", ["one", "c"], ["y"])],
            [value("one", [3])],
            ["y"],
        )
        assert agree(proto, {"one": np.ones(3, np.float32)})["y"].tolist() == expected
    for attrs in ({"value_int": 2}, {"value_ints": [2]}):
        proto = model(
            [node("Constant", [], ["c"], **attrs), node("Add", ["i", "c"], ["y"])],
            [value("i", [3], INT64)],
            ["y"],
        )
        assert agree(proto, {"i": np.arange(3)})["y"].tolist() == [2, 3, 4]
    text = model(
        [node("Constant", [], ["c"], value_string="a"), node("Relu", ["x"], ["y"])],
        [value("x", [3])],
        ["y", "c"],
    )
    fails(text, UnsupportedError, "a constant given as value_string")


def test_sparse_weights() -> None:
    def proto(indices: Any, dims: Sequence[int] = (2, 3)) -> onnx.ModelProto:
        sparse = helper.make_sparse_tensor(constant("w", [5.0, 7.0], "float32"), constant("", indices), dims)
        made = model([node("Add", ["x", "w"], ["y"])], [value("x", [2, 3])], ["y"])
        made.graph.sparse_initializer.append(sparse)
        return made

    x = {"x": np.zeros((2, 3), np.float32)}
    assert agree(proto([1, 5]), x)["y"].tolist() == [[0, 5, 0], [0, 0, 7]]
    assert run(proto([[0, 1], [1, 2]]), x)["y"].tolist() == [[0, 5, 0], [0, 0, 7]]
    fails(proto([1, 6]), ModelFileError, r"has indices outside of \[2, 3\]")
    fails(proto([[0, 1], [2, 0]]), ModelFileError, r"has indices outside of \[2, 3\]")
    fails(proto([1, 2, 3]), ModelFileError, r"has values \[2\] at indices int64\[3\]")
    fails(proto([1, 2], [2**20, 2**20]), LimitError, "more than 274877906944 bytes")


def test_weights_that_are_inputs_are_weights_unless_they_are_given() -> None:
    proto = model(
        [node("Add", ["x", "w"], ["y"])],
        [value("x", [3]), value("w", [3])],
        ["y"],
        [constant("w", [1, 2, 3], "float32")],
    )
    assert run(proto, X)["y"].tolist() == [2, 0, 6]
    assert [v.name for v in import_onnx(proto, {"w": (3,)}).inputs] == ["x", "w"]
    with tilewright.compile(proto, shapes={"w": (3,)}, threads=1, cache=False) as compiled:
        got = compiled.run(X | {"w": np.full(3, 9, np.float32)})["y"]
    assert got.tolist() == [10, 7, 12]


def test_weights_as_outputs_and_weights_that_nothing_reads() -> None:
    weights = [constant("w", [4, 5], "float32"), helper.make_tensor("s", TensorProto.STRING, [1], [b"a"])]
    proto = model([node("Relu", ["x"], ["y"])], [value("x", [3])], ["y", "w"], weights)
    assert run(proto, X)["w"].tolist() == [4, 5]
    assert list(read(proto).initializers) == ["w"]
    proto.graph.output.append(onnx.ValueInfoProto(name="s"))
    fails(proto, UnsupportedError, "initializer 's' has the element type string")


def test_shared_weights_are_one_constant_and_lie_in_the_artifact_once() -> None:
    data = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = [constant("w", data, "float32"), constant("w2", data, "float32")]
    twice = model(nodes, [value("x", [64, 256])], ["y"], weights)
    nodes[2].input[1] = "w"
    shared = model(nodes, [value("x", [64, 256])], ["y"], weights[:1])
    assert len(import_onnx(shared).constants) == 1
    for proto in (shared, twice):
        with tilewright.compile(proto, threads=1, cache=False) as compiled:
            assert data.nbytes <= len(compiled.artifact.weights) < 1.5 * data.nbytes


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_four_bit_weights(signed: bool, raw: bool) -> None:
    numbers = [-8, 7, -1, 0, 3] if signed else [15, 7, 1, 0, 3]
    kind = TensorProto.INT4 if signed else TensorProto.UINT4
    tensor = helper.make_tensor("w", kind, [5], numbers)
    if raw:
        tensor.raw_data = bytes(tensor.int32_data)
        del tensor.int32_data[:]
    read_back = read(model([node("Identity", ["w"], ["y"])], [], ["y"], [tensor], opset=21)).initializers["w"]
    assert read_back.astype(int).tolist() == numbers


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorProto(name="w", data_type=1, dims=[-1]), r"has the impossible shape \[-1\]"),
        (TensorProto(name="w", data_type=1, dims=[1] * 40), "has the impossible shape"),
        (TensorProto(name="w", dims=[1]), "initializer 'w' has no element type"),
        (TensorProto(name="w", data_type=99, dims=[1]), "has the element type 99, which ONNX does not have"),
        (
            TensorProto(name="w", data_type=3, dims=[1], int32_data=[300]),
            "holds numbers that int8 does not have",
        ),
        (TensorProto(name="w", data_type=1, dims=[2], int64_data=[1, 2]), "0 numbers instead of 2"),
        (TensorProto(name="w", data_type=1, dims=[3], raw_data=b"1234"), "holds 4 bytes, but .* takes 12"),
    ],
)
def test_weights_that_make_no_sense(tensor: TensorProto, message: str) -> None:
    fails(
        model([node("Add", ["x", "w"], ["y"])], [value("x", [3])], ["y"], [tensor]), ModelFileError, message
    )


def test_empty_and_scalar_tensors() -> None:
    empty = TensorProto(name="e", data_type=FLOAT, dims=[0, 3])
    proto = model(
        [node("Concat", ["e", "x"], ["c"], axis=0), node("Mul", ["c", "s"], ["y"])],
        [value("x", [1, 3])], ["y"], [empty, constant("s", 2.0, "float32")],
    )  # fmt: skip
    assert agree(proto, {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]


# -------------------------------------------------------------------------------------------------- functions
def function(name: str, nodes: Sequence[onnx.NodeProto], **more: Any) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inputs, attributes = more.pop("inputs", ["a"]), more.pop("attributes", [])
    return helper.make_function("own", name, inputs, ["b"], list(nodes), opsets, attributes, **more)


def calling(functions: Sequence[onnx.FunctionProto], *calls: onnx.NodeProto) -> onnx.ModelProto:
    nodes = calls or (node("F", ["x"], ["y"], domain="own"),)
    proto = model(nodes, [value("x", [3])], ["y"], domains={"own": 1})
    proto.ir_version = 10
    proto.functions.extend(functions)
    return proto


def with_reference(made: onnx.NodeProto, **references: str) -> onnx.NodeProto:
    for name, source in references.items():
        made.attribute.append(
            onnx.AttributeProto(name=name, ref_attr_name=source, type=onnx.AttributeProto.FLOAT)
        )
    return made


def test_functions_pass_attributes_on_and_have_defaults() -> None:
    inner = function("G", [with_reference(node("LeakyRelu", ["a"], ["b"]), alpha="slope")])
    inner.attribute_proto.append(helper.make_attribute("slope", 0.5))
    outer = function(
        "F", [with_reference(node("G", ["a"], ["b"], domain="own"), slope="s")], attributes=["s"]
    )
    given = calling([inner, outer], node("F", ["x"], ["y"], domain="own", s=0.25))
    assert agree(given, X)["y"].tolist() == [1, -0.5, 3]
    default = calling([inner, outer], node("G", ["x"], ["y"], domain="own"))
    assert agree(default, X)["y"].tolist() == [1, -1, 3]
    fails(calling([inner, outer]), GraphError, "function 'F' needs the attribute 's'")


def test_overloads() -> None:
    first, second = function("F", [node("Neg", ["a"], ["b"])]), function("F", [node("Abs", ["a"], ["b"])])
    second.overload = "abs"
    call = node("F", ["x"], ["y"], domain="own")
    assert ops(import_onnx(calling([first, second], call))) == ["neg"]
    call.overload = "abs"
    assert ops(import_onnx(calling([first, second], call))) == ["abs"]
    fails(calling([first, first], call), ModelFileError, "two functions are called 'F'")


def test_functions_have_their_own_opsets_names_and_optional_inputs() -> None:
    nodes = [
        node("Softmax", ["m"], ["b"]),  # before opset 13: over all dimensions from axis 1 on
        node("Clip", ["a", "low"], ["m"]),
    ]
    body = function("F", nodes, inputs=["a", "low"])
    body.opset_import[0].version = 12
    proto = calling([body], node("Relu", ["x"], ["m"]), node("F", ["m"], ["y"], domain="own", name="call"))
    proto.graph.input[0].CopyFrom(value("x", [2, 2, 2]))
    x = {"x": np.arange(8, dtype=np.float32).reshape(2, 2, 2)}
    assert run(proto, x)["y"].sum() == pytest.approx(2), "onnxruntime refuses other opsets in functions"
    assert {n.origin.name for n in import_onnx(proto).nodes} >= {"call/Softmax_0"}


def test_functions_in_bodies_and_bodies_in_functions() -> None:
    def branch(made: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([made], "b", [], [onnx.ValueInfoProto(name=made.output[0])])

    chosen = node(
        "If", ["a"], ["b"],
        then_branch=branch(node("G", ["one"], ["t"], domain="own")),
        else_branch=branch(node("Neg", ["one"], ["e"])),
    )  # fmt: skip
    outer = function("F", [node("Constant", [], ["one"], value_float=1.0), chosen])
    proto = calling(
        [outer, function("G", [node("Exp", ["a"], ["b"])])], node("F", ["yes"], ["y"], domain="own")
    )
    proto.graph.initializer.append(constant("yes", True, "bool"))
    assert run(proto, {"x": X["x"]})["y"].tolist() == pytest.approx(np.e)


def test_functions_that_call_themselves() -> None:
    f, g = (
        function("F", [node("G", ["a"], ["b"], domain="own")]),
        function("G", [node("F", ["a"], ["b"], domain="own")]),
    )
    fails(calling([f, g]), ModelFileError, "a function calls itself: 'F' → 'G' → 'F'")


def test_calls_that_do_not_fit() -> None:
    f = function("F", [node("Relu", ["a"], ["b"])])
    fails(
        calling([f], node("F", ["x", "x"], ["y"], domain="own")),
        GraphError,
        "function 'F' takes 1 inputs and gives 1",
    )
    unknown = function("F", [node("Fantasy", ["a"], ["b"])])
    error = fails(calling([unknown]), UnsupportedError, "1 operator")
    assert isinstance(error, UnsupportedError)
    assert error.items == ("Fantasy (opset 17): 1 node ('Fantasy_0')",)
    outside = with_reference(node("LeakyRelu", ["x"], ["y"]), alpha="a")
    fails(calling([], outside), ModelFileError, "refers to an attribute of a function, but stands in none")


def test_a_function_does_not_replace_an_operator_of_the_standard() -> None:
    mine = function("Relu", [node("Neg", ["a"], ["b"])])
    mine.domain = ""
    agree(calling([mine], node("Relu", ["x"], ["y"])), X)


def test_samples_for_models_that_are_not_checked_yet() -> None:
    """Bounds of integer inputs are looked up before nodes are held against their definitions."""
    weights = [constant("t", [1, 2, 3]), constant("nan", np.nan, "float32"), constant("none", [])]
    for bad in (
        node("Gather", ["t", "i"], ["y"], axis=7),
        node("Gather", ["t", "i"], ["y"], axis="x"),
        node("Gather", ["t"], ["y"]),
        node("Gather", [], ["y"]),
        node("OneHot", ["i", "nan", "t"], ["y"]),
        node("OneHot", ["i", "none", "t"], ["y"]),
        node("Constant", [], ["y", "z"], value=weights[0]),
    ):
        assert integer_bounds(read(model([bad], [value("i", [2], INT64)], ["y"], weights))) == {}
    good = model([node("Gather", ["t", "i"], ["y"])], [value("i", [2], INT64)], ["y"], weights)
    assert integer_bounds(read(good)) == {"i": 3}


# ----------------------------------------------------------------------------------------------------- limits
def test_large_tensors() -> None:
    fails(
        model([node("Relu", ["x"], ["y"])], [value("x", [2**20, 2**20])], ["y"]),
        LimitError,
        "'x' is float32.*more than",
    )
    expand = model(
        [node("Expand", ["x", "n"], ["y"])], [value("x", [3])], ["y"], [constant("n", [2**40, 3])]
    )  # fmt: skip
    error = fails(expand, LimitError, "the result of expand")
    assert error.hint == "--max-tensor-bytes raises the limit"
    with config.overriding(max_tensor_bytes=8):
        fails(relu(), LimitError, "more than 8 bytes")


def test_constants_that_double() -> None:
    names = [f"c{n}" for n in range(60)]
    nodes = [node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)]
    proto = model(nodes, [], [names[-1]], [constant("c0", np.zeros(2000))])
    with config.overriding(max_fold_bytes=1 << 24):
        error = fails(proto, LimitError, "constant folding would take")
    assert error.hint == "--max-fold-bytes raises the limit"


def test_work_that_folding_would_take() -> None:
    nodes = [node("MatMul", ["w", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    proto = model(nodes, [], ["y"], [constant("w", np.eye(64), "float32")])
    assert ops(import_onnx(proto)) == []
    with config.overriding(max_fold_work=300_000):
        fails(proto, LimitError, "more than 300000 operations")
    with config.overriding(max_fold_work=100_000):
        assert ops(import_onnx(proto)) == ["matmul", "matmul"], (
            "a node that alone is too much runs with the model"
        )


def test_functions_that_multiply() -> None:
    functions = [
        function(
            f"F{n}",
            [node(f"F{n + 1}", ["a"], ["m"], domain="own"), node(f"F{n + 1}", ["m"], ["b"], domain="own")],
        )
        for n in range(20)
    ]
    functions.append(function("F20", [node("Relu", ["a"], ["b"])]))
    proto = calling(functions, node("F0", ["x"], ["y"], domain="own"))
    with config.overriding(max_nodes=2000):
        fails(proto, LimitError, "more than 2000 nodes once its functions are expanded")
    with config.overriding(max_nesting=10):
        fails(proto, LimitError, "more than 10 deep")
