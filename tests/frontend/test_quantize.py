"""Quantized operators against onnxruntime, at most one unit apart where it takes short cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.frontend.models import agree, constant, model, run, run_peer, value
from tests.frontend.test_microsoft import node as node_of_floats
from tilewright.errors import GraphError, UnsupportedError

rng = np.random.default_rng(9)


def of(dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.asarray(rng.integers(info.min, info.max + 1, shape)).astype(dtype)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def scale(*shape: int, size: float = 0.02) -> np.ndarray:
    return np.asarray(rng.uniform(size / 2, size, shape)).astype(np.float32)


def node(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one node whose outputs have the types that they have."""
    proto, feeds = node_of_floats(*args, **kwargs)
    for output in proto.graph.output:
        output.ClearField("type")
    return proto, feeds


def near(proto: Any, feeds: dict[str, np.ndarray], often: float = 0.02) -> None:
    """Hold results equal to onnxruntime's but for single units in a share ``often`` of the elements."""
    got, want = run(proto, feeds), run_peer(proto, feeds)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        apart = np.abs(got[name].astype(np.int64) - array.astype(np.int64))
        assert apart.max(initial=0) <= 1
        assert (apart > 0).mean() <= often


@pytest.mark.parametrize("opset", [10, 13, 19, 21])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_to_integers_and_back(opset: int, dtype: str, axis: int | None) -> None:
    if opset == 10 and axis is not None:
        pytest.skip("opset 10 has one scale a tensor")
    shape = () if axis is None else (3,) if axis == 1 else (5,)
    x = floats(2, 3, 5) * 4
    attrs = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    constants = [constant("s", scale(*shape), "float32"), constant("z", of(dtype, *shape), dtype)]
    proto = model(nodes, [value("x", x.shape)], ["q", "y"], constants, opset=opset)
    agree(proto, {"x": x})


@pytest.mark.parametrize(("axis", "size"), [(0, 2), (1, 3), (1, 4)])
def test_blocks(axis: int, size: int) -> None:
    """Blocks that fill the axis and blocks that do not."""
    shape = [4, 6, 2]
    shape[axis] = -(-shape[axis] // size)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis, block_size=size),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis, block_size=size),
    ]
    constants = [constant("s", scale(*shape), "float32"), constant("z", of("int8", *shape), "int8")]
    proto = model(nodes, [value("x", (4, 6, 2))], ["q", "y"], constants, opset=21)
    x = floats(4, 6, 2)
    got = run(proto, {"x": x})
    wide = np.repeat(np.frombuffer(constants[0].raw_data, np.float32).reshape(shape), size, axis)
    zero = np.repeat(np.frombuffer(constants[1].raw_data, np.int8).reshape(shape), size, axis)
    part = tuple(slice(0, d) for d in x.shape)
    want = np.clip(np.rint(x / wide[part]) + zero[part].astype(np.float32), -128, 127)
    np.testing.assert_array_equal(got["q"], want.astype(np.int8))
    back = (want.astype(np.float32) - zero[part]) * wide[part]
    np.testing.assert_allclose(got["y"], back, rtol=1e-6)


def test_the_type_may_be_an_attribute() -> None:
    kind = TensorProto.INT16
    made = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=kind)
    proto = model([made], [value("x", (7,))], ["y"], [constant("s", 0.001, "float32")], opset=21)
    assert agree(proto, {"x": floats(7)})["y"].dtype == np.int16


def test_dynamic_quantization() -> None:
    made = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    proto = model([made], [value("x", (4, 9))], ["q", "s", "z"], opset=11)
    for x in (floats(4, 9), np.abs(floats(4, 9)), -np.abs(floats(4, 9))):
        agree(proto, {"x": x})
    assert not run(proto, {"x": np.zeros((4, 9), np.float32)})["q"].any()


@pytest.mark.parametrize("shapes", [((5, 7), (7, 3)), ((7,), (7, 3)), ((2, 5, 7), (7,)), ((7,), (7,))])
def test_matmul_integer_of_any_rank(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    arrays = {"a": of("uint8", *shapes[0]), "b": of("int8", *shapes[1])}
    proto, feeds = node("MatMulInteger", {**arrays, "p": of("uint8")}, domain="")
    got = run(proto, feeds)["y"]
    want = np.matmul(feeds["a"].astype(np.int32) - feeds["p"], feeds["b"].astype(np.int32))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("columns", [False, True])
def test_products(columns: bool) -> None:
    shape = (9,) if columns else ()
    arrays: dict[str, np.ndarray | None] = {
        "a": of("uint8", 5, 8), "as": scale(), "az": of("uint8"),
        "b": of("int8", 8, 9), "bs": scale(*shape), "bz": np.zeros(shape, np.int8),
        "ys": scale(size=0.4), "yz": of("uint8"),
    }  # fmt: skip
    fixed = tuple(n for n in arrays if n != "a")
    near(*node("QLinearMatMul", arrays, domain="", fixed=fixed))
    gemm = {**arrays, "b": of("int8", 9, 8), "c": rng.integers(-999, 999, 9).astype(np.int32)}
    order = ("a", "as", "az", "b", "bs", "bz", "c", "ys", "yz")
    fixed = tuple(n for n in order if n != "a")
    near(*node("QGemm", {n: gemm[n] for n in order}, fixed=fixed, transB=1, alpha=1.0))
    plain = {n: gemm[n] for n in order[:7]}
    agree(*node("QGemm", plain, fixed=order[1:7], transB=1, alpha=0.5))
    to_float = {"a": arrays["a"], "b": arrays["b"], "as": arrays["as"], "bs": arrays["bs"],
                "az": arrays["az"], "bz": arrays["bz"], "bias": floats(9)}  # fmt: skip
    agree(*node("MatMulIntegerToFloat", to_float))


def test_products_with_dynamic_quantization() -> None:
    arrays: dict[str, np.ndarray | None] = {
        "a": floats(5, 8), "b": of("int8", 8, 9), "s": scale(9), "z": np.zeros(9, np.int8), "bias": floats(9)
    }  # fmt: skip
    agree(*node("DynamicQuantizeMatMul", arrays, fixed=("b", "s", "z", "bias")))


@pytest.mark.parametrize("kinds", [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")])
@pytest.mark.parametrize(
    ("groups", "attrs"),
    [
        (1, {"pads": [1, 1, 1, 1]}),
        (2, {"strides": [2, 1]}),
        (1, {"pads": [2, 0, 1, 1], "dilations": [2, 1]}),
    ],
)
def test_convolutions(kinds: tuple[str, str], groups: int, attrs: dict[str, Any]) -> None:
    data, weights = kinds
    each = (6,) if weights == "int8" else ()
    arrays: dict[str, np.ndarray | None] = {
        "x": of(data, 1, 4, 7, 6), "xs": scale(), "xz": of(data),
        "w": of(weights, 6, 4 // groups, 3, 2), "ws": scale(*each),
        "wz": np.zeros(each, weights) if each else of(weights),
        "ys": scale(size=0.4), "yz": of(data), "b": rng.integers(-999, 999, 6).astype(np.int32),
    }  # fmt: skip
    fixed = tuple(n for n in arrays if n != "x")
    near(*node("QLinearConv", arrays, domain="", fixed=fixed, group=groups, **attrs))
    integer = {n: arrays[n] for n in ("x", "w", "xz", "wz")}
    if each or groups == 1:
        integer["wz"] = of(weights)
    agree(*node("ConvInteger", integer, domain="", fixed=("w", "xz", "wz"), group=groups, **attrs))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_elementwise(dtype: str) -> None:
    a: dict[str, np.ndarray | None] = {"a": of(dtype, 2, 3, 5), "as": scale(), "az": of(dtype)}
    b = {"b": of(dtype, 3, 5), "bs": scale(), "bz": of(dtype)}
    y = {"ys": scale(size=0.03), "yz": of(dtype)}
    near(*node("QLinearAdd", {**a, **b, **y}))
    near(*node("QLinearMul", {**a, **b, **y}))
    near(*node("QLinearSigmoid", {**a, **y}, fixed=("as", "az", "ys", "yz")))
    near(*node("QLinearLeakyRelu", {**a, **y}, fixed=("as", "az", "ys", "yz"), alpha=0.1))
    small = {"ys": np.array(1 / 256, np.float32), "yz": np.array(0 if dtype == "uint8" else -128, dtype)}
    near(*node("QLinearSoftmax", {**a, **small}, fixed=("as", "az", "ys", "yz"), axis=-1, opset=13))
    near(*node("QLinearSoftmax", {**a, **small}, fixed=("as", "az", "ys", "yz"), axis=1, opset=12))
    parts = {**y, **a, "c": of(dtype, 2, 4, 5), "cs": scale(), "cz": of(dtype)}
    near(*node("QLinearConcat", parts, fixed=("ys", "yz", "as", "az", "cs", "cz"), axis=1))


@pytest.mark.parametrize("last", [0, 1])
def test_pools(last: int) -> None:
    x = of("uint8", 1, 7, 6, 4) if last else of("uint8", 1, 4, 7, 6)
    arrays: dict[str, np.ndarray | None] = {
        "x": x, "xs": scale(), "xz": of("uint8"), "ys": scale(), "yz": of("uint8")
    }  # fmt: skip
    fixed = ("xs", "xz", "ys", "yz")
    near(*node("QLinearGlobalAveragePool", arrays, fixed=fixed, channels_last=last))
    near(
        *node(
            "QLinearAveragePool",
            arrays,
            fixed=fixed,
            channels_last=last,
            kernel_shape=[3, 2],
            pads=[1, 0, 1, 1],
        )
    )
    if last:
        agree(*node("NhwcMaxPool", {"x": x}, kernel_shape=[3, 2], pads=[1, 0, 1, 1]))


def test_lstm_with_weights_of_8_bits() -> None:
    """Near onnxruntime, which rounds data and states as well."""
    hidden, size = 6, 5
    arrays: dict[str, np.ndarray | None] = {
        "x": floats(3, 2, size), "w": of("int8", 1, size, 4 * hidden), "r": of("int8", 1, hidden, 4 * hidden),
        "b": floats(1, 8 * hidden), "lens": None, "h": None, "c": None, "p": None,
        "ws": scale(1, size=0.005), "wz": np.zeros(1, np.int8),
        "rs": scale(1, size=0.005), "rz": np.zeros(1, np.int8),
    }  # fmt: skip
    fixed = ("w", "r", "b", "ws", "wz", "rs", "rz")
    proto, feeds = node(
        "DynamicQuantizeLSTM", arrays, ("y", "h_out", "c_out"), fixed=fixed, hidden_size=hidden
    )
    got, want = run(proto, feeds), run_peer(proto, feeds)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=0.03)


@pytest.mark.parametrize(
    ("op", "arrays", "attrs", "message"),
    [
        ("QuantizeLinear", {"x": floats(2, 3), "s": scale(2, 3)}, {}, "one number or one a place"),
        ("QuantizeLinear", {"x": floats(2, 3), "s": scale(2), "z": of("int8", 1)}, {}, "must have one shape"),
        ("QuantizeLinear", {"x": floats(2), "s": scale(), "z": of("int8")}, {"output_dtype": 2}, "output_d"),
        ("QuantizeLinear", {"x": floats(2, 6), "s": scale(6)}, {"block_size": 2}, "blocks of 2 take a scale"),
        ("QuantizeLinear", {"x": floats(2, 6), "s": scale(2, 2)}, {"block_size": 2}, "3 blocks of 2"),
    ],
)  # fmt: skip
def test_contradictions(
    op: str, arrays: dict[str, np.ndarray | None], attrs: dict[str, Any], message: str
) -> None:
    proto, feeds = node(op, arrays, domain="", **attrs)
    proto.opset_import[0].version = 21
    with pytest.raises(GraphError, match=message):
        run(proto, feeds)


def test_types_that_are_not_supported() -> None:
    arrays: dict[str, np.ndarray | None] = {
        "x": floats(1, 1, 5),
        "w": of("int8", 1, 5, 8),
        "r": of("int8", 1, 2, 8),
    }
    arrays |= dict.fromkeys(("b", "lens", "h", "c", "p"))
    arrays |= {"ws": scale(1), "wz": np.zeros(1, np.int8), "rs": scale(1), "rz": np.zeros(1, np.int8)}
    fixed = ("w", "r", "wz", "rs", "rz")
    with pytest.raises(UnsupportedError, match="must be constant"):
        run(*node("DynamicQuantizeLSTM", arrays, fixed=fixed, hidden_size=2))
