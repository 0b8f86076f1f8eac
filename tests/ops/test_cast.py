from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tests.ops.harness import check, type_of
from tilewright.errors import GraphError
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType
from tilewright.graph.storage import pack_constants
from tilewright.ir import dtype as dt
from tilewright.ops.cast import cast_numpy

STORAGE = sorted(dt.STORAGE)
OTHERS = ["float32", "float64", "float16", "bfloat16", "int8", "uint16", "int64", "bool"]
#: Ordinary numbers, ties, and what lies beyond every small type.
NUMBERS = np.array(
    [0, -0.0, 1, -1, 0.3, 0.75, -2.5, 5, -7, 9, 200, -300, 1e5, -1e9, np.inf, -np.inf, np.nan, 1e-9]
)


@pytest.mark.parametrize("source", [*STORAGE, *OTHERS])
def test_cast_between_all_types(source: str) -> None:
    """Tensor expressions against ml_dtypes."""
    with np.errstate(all="ignore"):
        x = NUMBERS.astype(np.float32).astype(dt.to_numpy(source))
    for to in [*STORAGE, *OTHERS]:
        (want,) = check("cast", [x], to=to)
        assert want.dtype == dt.to_numpy(to)
        check("cast", [x], to=to, saturate=False)


def test_cast_refuses_what_it_does_not_know() -> None:
    with pytest.raises(GraphError, match="there is no element type 'float7'"):
        type_of("cast", [TensorType((2,), "float32")], to="float7")
    with pytest.raises(GraphError, match="no way to round is called 'odd'"):
        type_of("cast", [TensorType((2,), "float32")], to="float8_e8m0fnu", round_mode="odd")


def test_bitcast() -> None:
    x = np.array([1.5, -0.0, np.nan], np.float32)
    for to in ("int32", "uint32", "float32"):
        (got,) = check("bitcast", [x], to=to)
        assert got.view(np.uint32).tolist() == x.view(np.uint32).tolist()
    check("bitcast", [np.arange(256, dtype=np.uint8)], to="float8_e5m2")
    check("bitcast", [np.arange(16, dtype=np.uint8).view(ml_dtypes.uint4)], to="float4_e2m1fn")
    check("bitcast", [np.array([0, 1, 2], np.uint8)], to="bool")
    check("bitcast", [np.array([True, False])], to="int8")
    with pytest.raises(GraphError, match="float32 has 32 bits, int64 has 64"):
        type_of("bitcast", [TensorType((2,), "float32")], to="int64")
    with pytest.raises(GraphError, match="uint8 has 8 bits, int4 has 4"):
        type_of("bitcast", [TensorType((2,), "uint8")], to="int4")


def random_codes(shape: tuple[int, ...], name: str) -> np.ndarray:
    codes = np.random.default_rng(0).integers(0, 1 << dt.bits(name), shape)
    return codes.astype(np.uint8).view(dt.to_numpy(name))


@pytest.mark.parametrize("name", [d for d in STORAGE if dt.is_packed(d)])
def test_unpack(name: str) -> None:
    shape = (3, 7)
    data = random_codes(shape, name)
    (got,) = check("unpack", [dt.pack(data)], to=name, shape=shape)
    assert np.array_equal(got.view(np.uint8), data.view(np.uint8))
    with pytest.raises(GraphError, match="bytes hold"):
        type_of("unpack", [TensorType((2,), "uint8")], to=name, shape=shape)
    with pytest.raises(GraphError, match="'unpack' takes flat bytes"):
        type_of("unpack", [TensorType((2,), "int8")], to=name, shape=(2,))


def model(nodes: list, inputs: list, outputs: list, weights: list = ()) -> bytes:  # type: ignore[type-arg, assignment]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)], ir_version=14)
    return made.SerializeToString()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e8m0fnu", "float6_e3m2fn", "float4_e2m1fn", "int4", "uint2"]
)
def test_native_code_of_storage_types(name: str) -> None:
    """To the type, movement within it, and back: inputs and outputs are arrays of ml_dtypes."""
    kind = helper.np_dtype_to_tensor_dtype(dt.to_numpy(name))
    f32 = TensorProto.FLOAT
    moved = "Transpose" if dt.bits(name) != 6 else "Cast"  # ONNX moves no floats of 6 bits
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=kind),
        helper.make_node(moved, ["q"], ["y"], **({"perm": [1, 0]} if moved == "Transpose" else {"to": kind})),
        helper.make_node("Cast", ["y"], ["f"], to=f32),
        helper.make_node("Cast", ["z"], ["g"], to=f32),
    ]
    inputs = [
        helper.make_tensor_value_info("x", f32, [5, 19]),
        helper.make_tensor_value_info("z", kind, [19, 3]),
    ]
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("y", kind), ("f", f32), ("g", f32))]
    x = np.random.default_rng(0).integers(-2, 8, (5, 19)).astype(np.float32)
    z = random_codes((19, 3), name)
    with tilewright.compile(model(nodes, inputs, outputs), threads=1) as compiled:
        got = compiled.run({"x": x, "z": z})
    want = cast_numpy(x, name)
    want = np.ascontiguousarray(want.T if moved == "Transpose" else want)
    assert got["y"].dtype == want.dtype
    assert np.array_equal(got["y"].view(np.uint8), want.view(np.uint8))
    assert np.array_equal(got["f"], want.astype(np.float32), equal_nan=True)
    assert np.array_equal(got["g"], z.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("name", "raw"),
    [("int4", True), ("float6_e2m3fn", True), ("uint2", True),
     ("float4_e2m1fn", False), ("float6_e3m2fn", False), ("int2", False)],
)  # fmt: skip
def test_weights_stay_packed(name: str, raw: bool) -> None:
    data = random_codes((80, 133), name)
    weight = numpy_helper.from_array(data, "w")
    if not raw:
        numbers = data.view(np.uint8).reshape(-1) if dt.bits(name) == 6 else dt.pack(data)
        weight.ClearField("raw_data")
        weight.int32_data.extend(numbers.tolist())
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [80, 133])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    x = np.random.default_rng(1).normal(size=(80, 133)).astype(np.float32)
    with tilewright.compile(model(nodes, inputs, outputs, [weight]), threads=1) as compiled:
        assert compiled.artifact.weights.nbytes < dt.packed_count(name, data.size) + 128
        assert np.array_equal(compiled.run({"x": x})["y"], x + data.astype(np.float32))


def test_small_constants_are_not_packed() -> None:
    builder = GraphBuilder()
    small = builder.constant(np.zeros(64, ml_dtypes.int4))
    graph = builder.build([builder.op("cast", small, to="float32")])
    assert pack_constants(graph) is graph
