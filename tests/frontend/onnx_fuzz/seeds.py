"""Models that the fuzzer starts from: small ones of all families of operators, and ONNX's own node tests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
#: ONNX's node tests up to this many bytes.
MAX_BYTES = 8000


def _info(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _weight(name: str, data: Any, dtype: str = "float32") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(data, dtype), name)


def _random(name: str, *shape: int) -> onnx.TensorProto:
    return _weight(name, np.random.default_rng(len(name)).standard_normal(shape))


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    weights: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "g", list(inputs), [onnx.ValueInfoProto(name=o) for o in outputs], list(weights)
    )
    imports = [helper.make_opsetid(d, v) for d, v in (("", opset), ("own", 1), ("com.microsoft", 1))]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def _image() -> onnx.ModelProto:
    """Convolutions, pooling, normalisation, resizing."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[1, 1], group=1),
        node("BatchNormalization", ["c", "s", "s", "s", "v"], ["n"], epsilon=1e-3),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("ConvTranspose", ["p", "t"], ["u"], strides=[2, 2], output_padding=[1, 1]),
        node("Resize", ["u", "", "scales"], ["z"], mode="linear"),
        node("GlobalAveragePool", ["z"], ["g"]),
        node("Flatten", ["g"], ["y"]),
    ]
    weights = [
        _random("w", 4, 3, 3, 3), _random("b", 4), _random("s", 4), _weight("v", np.ones(4)),
        _random("t", 4, 2, 2, 2), _weight("scales", [1, 1, 1.5, 2]),
    ]  # fmt: skip
    return _model(nodes, [_info("x", ["n", 3, 6, 6])], ["y"], weights)


def _text() -> onnx.ModelProto:
    """An embedding, attention by hand, normalisation, shape arithmetic."""
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("LayerNormalization", ["e", "g", "g0"], ["n"], axis=-1),
        node("MatMul", ["n", "wq"], ["q"]),
        node("Transpose", ["n"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["a"]),
        node("Div", ["a", "root"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "n"], ["o"]),
        node("Shape", ["o"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        node("Unsqueeze", ["batch", "axes"], ["b1"]),
        node("Concat", ["b1", "rest"], ["target"], axis=0),
        node("Reshape", ["o", "target"], ["y"]),
    ]
    weights = [
        _random("table", 10, 8), _random("g", 8), _random("g0", 8), _random("wq", 8, 8), _weight("root", 2.8),
        _weight("zero", 0, "int64"), _weight("axes", [0], "int64"), _weight("rest", [-1], "int64"),
    ]  # fmt: skip
    return _model(nodes, [_info("ids", ["b", 5], INT64)], ["y"], weights)


def _recurrent() -> onnx.ModelProto:
    nodes = [
        helper.make_node(
            "LSTM", ["x", "w", "r", "b", "", "h"], ["s", "last"], hidden_size=4, direction="bidirectional"
        ),
        helper.make_node("ReduceMean", ["s"], ["y"], axes=[0], keepdims=0),
    ]
    weights = [_random("w", 2, 16, 3), _random("r", 2, 16, 4), _random("b", 2, 32), _random("h", 2, 2, 4)]
    return _model(nodes, [_info("x", [5, 2, 3])], ["y", "last"], weights)


def _control() -> onnx.ModelProto:
    """An If within an If, reading what stands around it."""
    node = helper.make_node

    def branch(nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
        return helper.make_graph(list(nodes), output, [], [onnx.ValueInfoProto(name=output)])

    inner = node(
        "If", ["no"], ["i"],
        then_branch=branch([node("Neg", ["h"], ["a"])], "a"),
        else_branch=branch([node("Mul", ["h", "w"], ["b"])], "b"),
    )  # fmt: skip
    outer = node(
        "If", ["yes"], ["y"],
        then_branch=branch([inner], "i"), else_branch=branch([node("Identity", ["x"], ["o"])], "o"),
    )  # fmt: skip
    flags = [_weight("yes", True, "bool"), _weight("no", False, "bool"), _weight("w", [2.0])]
    return _model([node("Exp", ["x"], ["h"]), outer], [_info("x", [3])], ["y"], flags)


def _functions() -> onnx.ModelProto:
    """Functions that call functions, with attributes that have defaults."""
    node = helper.make_node
    leaky = node("LeakyRelu", ["v"], ["l"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="a", type=1))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Inner", ["v"], ["l"], [leaky], opsets)
    inner.attribute_proto.append(helper.make_attribute("a", 0.25))
    call = node("Inner", ["u"], ["m"], domain="own")
    call.attribute.append(onnx.AttributeProto(name="a", ref_attr_name="slope", type=1))
    outer = helper.make_function(
        "own", "Outer", ["u", "k"], ["o"], [call, node("Add", ["m", "u"], ["o"])], opsets, ["slope"]
    )
    nodes = [
        node("Outer", ["x"], ["t"], domain="own", slope=0.5),
        node("Inner", ["t"], ["z"], domain="own"),
        node("Celu", ["z"], ["y"], alpha=2.0),
    ]
    return _model(nodes, [_info("x", [2, "n"])], ["y"], functions=[inner, outer])


def _quantized() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "s"], ["wd"]),
        node("MatMul", ["d", "wd"], ["m"]),
        node("Gelu", ["m"], ["y"], domain="com.microsoft"),
    ]
    weights = [
        _weight("s", 0.1), _weight("z", 3, "uint8"), _weight("w", np.arange(12).reshape(4, 3) - 5, "int8"),
    ]  # fmt: skip
    return _model(nodes, [_info("x", [2, 4])], ["y"], weights)


def _movement() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Slice", ["x", "starts", "ends", "axes", "steps"], ["a"]),
        node("Pad", ["a", "pads", "fill"], ["b"], mode="constant"),
        node("Tile", ["b", "repeats"], ["c"]),
        node("Split", ["c", "sizes"], ["d", "e"], axis=1),
        node("Concat", ["e", "d"], ["f"], axis=1),
        node("Expand", ["f", "shape"], ["g"]),
        node("TopK", ["g", "k"], ["h", "i"], axis=-1),
        node("CumSum", ["h", "axis"], ["j"]),
        node("Where", ["m", "j", "h"], ["y"]),
    ]
    lists = {
        "starts": [0], "ends": [4], "axes": [1], "steps": [2], "pads": [0, 1, 0, 1], "repeats": [1, 2],
        "sizes": [3, 5], "shape": [2, 3, 8], "k": [2],
    }  # fmt: skip
    weights = [_weight(name, data, "int64") for name, data in lists.items()]
    weights += [_weight("fill", 0.5), _weight("axis", 1, "int64"), _weight("m", [True, False], "bool")]
    return _model(nodes, [_info("x", [3, 5])], ["y", "i"], weights)


def _constants() -> onnx.ModelProto:
    """Weights in nodes, in every form."""
    node = helper.make_node
    sparse = helper.make_sparse_tensor(_weight("", [1.0, 2.0]), _weight("", [1, 3], "int64"), [4])
    nodes = [
        node("Constant", [], ["a"], value=_weight("", [1, 2, 3, 4])),
        node("Constant", [], ["b"], value_floats=[1.0, 0.5, 0.25, 2.0]),
        node("Constant", [], ["c"], value_int=3),
        node("Constant", [], ["s"], sparse_value=sparse),
        node("Cast", ["c"], ["d"], to=1),
        node("Add", ["a", "b"], ["e"]),
        node("Add", ["e", "s"], ["k"]),
        node("ConstantOfShape", ["n"], ["f"], value=_weight("", [2.0])),
        node("Mul", ["k", "f"], ["g"]),
        node("Sum", ["x", "g", "d"], ["y"]),
    ]
    return _model(nodes, [_info("x", [2, 4])], ["y"], [_weight("n", [4], "int64")])


def own_seeds() -> dict[str, bytes]:
    """Small models of several operators each, by name."""
    makers = (
        _image, _text, _recurrent, _control, _functions, _quantized, _movement, _constants,
    )  # fmt: skip
    return {make.__name__.strip("_"): make().SerializeToString() for make in makers}


def node_seeds() -> dict[str, bytes]:
    """The models of ONNX's node tests, by name. Takes seconds."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    found = {case.name: case.model.SerializeToString() for case in cases}
    return {name: data for name, data in sorted(found.items()) if len(data) <= MAX_BYTES}
