"""Quantized models as machine code, against onnxruntime without its own fusions."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper

import tilewright as tw
from tests.frontend.models import constant, model, value
from tilewright.target import Target


def network(sign: str, seed: int = 0) -> ModelProto:
    """Two convolutions with a residual sum, a pool, a product; quantized in between. Scales have no common
    measure, so that halves are rare."""
    rng = np.random.default_rng(seed)
    nodes, constants = [], []

    def const(name: str, data: object, dtype: str) -> str:
        constants.append(constant(name, data, dtype))
        return name

    def both(x: str, scale: float, zero: int) -> str:
        s, z = const(f"{x}_s", scale, "float32"), const(f"{x}_z", zero, sign)
        nodes.append(helper.make_node("QuantizeLinear", [x, s, z], [f"{x}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{x}_q", s, z], [f"{x}_d"]))
        return f"{x}_d"

    def weights(name: str, *shape: int, axis: int = 0) -> str:
        data = const(name, rng.integers(-128, 128, shape), "int8")
        scale = const(f"{name}_s", rng.uniform(0.001, 0.003, shape[axis]), "float32")
        zero = const(f"{name}_z", np.zeros(shape[axis]), "int8")
        nodes.append(helper.make_node("DequantizeLinear", [data, scale, zero], [f"{name}_d"], axis=axis))
        return f"{name}_d"

    def op(kind: str, inputs: list[str], name: str, **attrs: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], **attrs))
        return name

    low = 0 if sign == "uint8" else -128
    x = both("x", 0.02113, low + 131)
    y = op("Conv", [x, weights("w0", 18, 3, 3, 3)], "c0", pads=[1, 1, 1, 1])
    y = both(op("Relu", [y], "r0"), 0.01307, low)
    z = both(op("Conv", [y, weights("w1", 18, 18, 1, 1)], "c1"), 0.02029, low + 120)
    y = both(op("Relu", [op("Add", [z, y], "a")], "r1"), 0.01709, low)
    y = op("MaxPool", [y], "p", kernel_shape=[2, 2], strides=[2, 2])
    y = op("Transpose", [y], "t", perm=[0, 2, 3, 1])
    y = both(op("MatMul", [y, weights("w2", 18, 7, axis=1)], "m"), 0.01511, low + 99)
    inputs = [value("x", ["n", 3, 8, "w"])]
    return model(nodes, inputs, [y], constants, opset=17)


@pytest.mark.parametrize("sign", ["uint8", "int8"])
@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
def test_a_network_at_several_sizes(sign: str, target: str) -> None:
    if target != "native" and not (Target.host().has("avx2") and Target.host().has("fma")):
        pytest.skip("this machine does not run the target's code")
    proto = network(sign)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    compiled = tw.compile(proto, target, threads=1, dims={"n": (1, 3), "w": (4, 20)})
    for batch, width in ((1, 8), (3, 13)):
        x = np.random.default_rng(width).standard_normal((batch, 3, 8, width)).astype(np.float32)
        (want,), (got,) = session.run(None, {"x": x}), compiled.run({"x": x}).values()
        assert got.shape == want.shape
        units = np.abs(got - want) / 0.01511
        assert units.max() < 2.01
        assert (units > 0.01).mean() < 0.02
