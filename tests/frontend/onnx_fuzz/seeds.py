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


def _flow() -> onnx.ModelProto:
    """A condition, a Loop and a Scan whose course only a run knows."""
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Add", ["s", "x"], ["s1"]),
            node("ReduceMax", ["s1"], ["top"], keepdims=0),
            node("Less", ["top", "bound"], ["on"]),
            node("Identity", ["s1"], ["kept"]),
        ],
        "body",
        [_info("i", [], INT64), _info("go", [], TensorProto.BOOL), _info("s", [3])],
        [_info("on", [], TensorProto.BOOL), _info("s1", [3]), _info("kept", [3])],
    )
    step = helper.make_graph(
        [node("Mul", ["h", "e"], ["m"]), node("Add", ["m", "e"], ["h1"]), node("Neg", ["h1"], ["o"])],
        "step", [_info("h", [3]), _info("e", [3])], [_info("h1", [3]), _info("o", [3])],
    )  # fmt: skip
    then = helper.make_graph([node("Exp", ["s2"], ["t"])], "then", [], [_info("t", [3])])
    other = helper.make_graph([node("Mul", ["s2", "x"], ["f"])], "else", [], [_info("f", [3])])
    nodes = [
        node("Loop", ["trips", "go0", "x"], ["s2", "all"], body=body),
        node("Scan", ["x", "rows"], ["last", "outs"], body=step, num_scan_inputs=1),
        node("ReduceSum", ["last"], ["sum"], keepdims=0),
        node("Greater", ["sum", "bound"], ["big"]),
        node("If", ["big"], ["y"], then_branch=then, else_branch=other),
    ]
    weights = [_weight("trips", 4, "int64"), _weight("go0", True, "bool"), _weight("bound", 5.0)]
    return _model(nodes, [_info("x", [3]), _info("rows", [4, 3])], ["y", "all", "outs"], weights)


def _sequences() -> onnx.ModelProto:
    """Lists of tensors made, taken apart and put together."""
    node = helper.make_node
    nodes = [
        node("SplitToSequence", ["x", "parts"], ["list"], axis=0, keepdims=1),
        node("Relu", ["x"], ["r"]),
        node("SequenceInsert", ["list", "r", "one"], ["longer"]),
        node("SequenceErase", ["longer", "one"], ["again"]),
        node("SequenceAt", ["longer", "one"], ["at"]),
        node("SequenceLength", ["longer"], ["length"]),
        node("ConcatFromSequence", ["again"], ["joined"], axis=0),
        node("SequenceConstruct", ["at", "x"], ["pair"]),
        node("ConcatFromSequence", ["pair"], ["y"], axis=0, new_axis=0),
    ]
    weights = [_weight("parts", [1, 3], "int64"), _weight("one", 1, "int64")]
    return _model(nodes, [_info("x", [4, 2])], ["y", "joined", "length"], weights)


def _steered() -> onnx.ModelProto:
    """Sizes and axes that come with the data, and sizes that data decides."""
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "shape"], ["a"]),
        node("Slice", ["a", "starts", "ends"], ["b"]),
        node("NonZero", ["b"], ["c"]),
        node("Compress", ["x", "mask"], ["d"], axis=0),
        node("ReduceSum", ["d", "axes"], ["e"], keepdims=0),
        node("Range", ["zero", "n", "step"], ["f"]),
    ]
    inputs = [_info("x", [4, 3]), _info("mask", [4], TensorProto.BOOL)]
    inputs += [_info(name, [2], INT64) for name in ("shape", "starts", "ends")]
    inputs += [_info("axes", [1], INT64), _info("n", [], INT64)]
    weights = [_weight("zero", 0, "int64"), _weight("step", 2, "int64")]
    return _model(nodes, inputs, ["c", "e", "f"], weights)


def _bytes() -> onnx.ModelProto:
    """Products of bytes."""
    node = helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        node("MatMulInteger", ["q", "w", "qz", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=1),
        node("Mul", ["f", "qs"], ["g"]),
        node("QuantizeLinear", ["g", "s", "z"], ["p"]),
        node("QLinearMatMul", ["p", "s", "z", "u", "s", "z", "s", "z"], ["o"]),
        node("QLinearConv", ["image", "s", "z", "k", "s", "kz", "s", "z"], ["c"], pads=[1, 1, 1, 1]),
        node("ConvInteger", ["image", "k", "z", "kz"], ["d"]),
        node("DequantizeLinear", ["o", "s", "z"], ["y"]),
    ]
    weights = [
        _weight("w", np.arange(12).reshape(4, 3) - 6, "int8"), _weight("wz", 1, "int8"), _weight("s", 0.05),
        _weight("z", 128, "uint8"), _weight("u", np.arange(6).reshape(3, 2) * 40, "uint8"),
        _weight("k", np.arange(18).reshape(2, 1, 3, 3) - 9, "int8"), _weight("kz", 0, "int8"),
    ]  # fmt: skip
    inputs = [_info("x", [2, 4]), _info("image", [1, 1, 5, 5], TensorProto.UINT8)]
    return _model(nodes, inputs, ["y", "c", "d"], weights, opset=21)


def _small_types() -> onnx.ModelProto:
    """Types of 16, 8 and 4 bits, quantised in blocks."""
    node = helper.make_node
    packed = onnx.TensorProto(name="w", data_type=TensorProto.INT4, dims=[4, 4], raw_data=bytes(range(8)))
    nodes = [
        node("DequantizeLinear", ["w", "ws"], ["d"], axis=0, block_size=2),
        node("MatMul", ["x", "d"], ["m"]),
        node("Cast", ["m"], ["h"], to=TensorProto.FLOAT16),
        node("Add", ["h", "h"], ["h2"]),
        node("Cast", ["h2"], ["b"], to=TensorProto.BFLOAT16),
        node("Cast", ["b"], ["e"], to=TensorProto.FLOAT8E4M3FN, saturate=0),
        node("Cast", ["e"], ["g"], to=1),
        node("QuantizeLinear", ["g", "s", "z4"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z4"], ["y"]),
        node("Cast", ["q"], ["i"], to=TensorProto.INT8),
        node("Cast", ["i"], ["j"], to=TensorProto.INT4),
        node("Cast", ["j"], ["k"], to=1),
    ]
    weights = [
        _random("ws", 2, 4), _weight("s", 0.5), packed,
        onnx.TensorProto(name="z4", data_type=TensorProto.UINT4, dims=[], raw_data=b"\3"),
    ]  # fmt: skip
    return _model(nodes, [_info("x", [2, 4])], ["y", "k"], weights, opset=23)


def own_seeds() -> dict[str, bytes]:
    """Small models of several operators each, by name."""
    makers = (
        _image, _text, _recurrent, _control, _functions, _quantized, _movement, _constants, _flow, _sequences,
        _steered, _bytes, _small_types,
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
