"""Operators of the domain com.microsoft against onnxruntime, whose own they are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frontend.models import agree, run
from tests.frontend.nodes import floats, node, rng
from tilewright.errors import UnsupportedError


@pytest.mark.parametrize("trans", [{}, {"transA": 1}, {"transB": 1}, {"transBatchA": 1, "transBatchB": 1}])
def test_fused_matmul(trans: dict[str, int]) -> None:
    a, b = floats(2, 3, 4), floats(2, 4, 5)
    if "transA" in trans:
        a = np.ascontiguousarray(a.swapaxes(1, 2))
    if "transB" in trans:
        b = np.ascontiguousarray(b.swapaxes(1, 2))
    if "transBatchA" in trans:
        a, b = (np.ascontiguousarray(x.swapaxes(0, 1)) for x in (a, b))
    agree(*node("FusedMatMul", {"a": a, "b": b}, alpha=0.5, **trans))


def test_activations_with_biases() -> None:
    x, bias = floats(2, 3, 8), floats(8)
    agree(*node("Gelu", {"x": x}))
    agree(*node("BiasGelu", {"x": x, "b": bias}))
    agree(*node("FastGelu", {"x": x}))
    agree(*node("FastGelu", {"x": x, "b": bias}))
    agree(*node("QuickGelu", {"x": x}, alpha=1.5))
    scores, mask = floats(2, 3, 4, 4), floats(2, 1, 1, 4)
    got = run(*node("BiasSoftmax", {"x": scores, "b": mask}, axis=3, is_inner_broadcast=0))["y"]
    powers = np.exp(scores + mask)
    np.testing.assert_allclose(got, powers / powers.sum(-1, keepdims=True), rtol=1e-5)
    agree(*node("ExpandDims", {"x": x, "axis": np.array(-2, np.int32)}, fixed=("axis",)))
    assert run(*node("BiasSplitGelu", {"x": x, "b": bias}))["y"].shape == (2, 3, 4)
    np.testing.assert_allclose(
        run(*node("BiasAdd", {"x": x, "b": bias, "s": x}))["y"], x + bias + x, rtol=1e-5
    )


@pytest.mark.parametrize("bias", [False, True])
def test_skip_normalisations(bias: bool) -> None:
    x, skip, scale = floats(2, 3, 8), floats(2, 3, 8), floats(8)
    extra = floats(8) if bias else None
    outputs = ("y", "", "", "sum")
    agree(
        *node("SkipLayerNormalization", {"x": x, "k": skip, "g": scale, "b": floats(8), "c": extra}, outputs)
    )
    agree(*node("SkipSimplifiedLayerNormalization", {"x": x, "k": skip, "g": scale, "c": extra}, outputs))
    agree(*node("SimplifiedLayerNormalization", {"x": x, "g": scale}, domain="", axis=-1, epsilon=1e-3))


@pytest.mark.parametrize("full", [False, True])
def test_embed_layer_normalization(full: bool) -> None:
    ids = rng.integers(0, 11, (2, 5)).astype(np.int32)
    arrays: dict[str, np.ndarray | None] = {
        "ids": ids,
        "segments": ids % 2 if full else None,
        "words": floats(11, 8),
        "places": floats(9, 8),
        "parts": floats(2, 8) if full else None,
        "g": floats(8),
        "b": floats(8),
        "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32) if full else None,
    }
    agree(*node("EmbedLayerNormalization", arrays, ("y", "int_mask")))


@pytest.mark.parametrize(
    ("activation", "params"),
    [("Relu", []), ("LeakyRelu", [0.2]), ("Clip", [-0.1, 0.4]), ("HardSigmoid", [0.3, 0.4])],
)
def test_fused_conv_and_gemm(activation: str, params: list[float]) -> None:
    arrays = {"x": floats(1, 3, 6, 5), "w": floats(4, 3, 3, 3), "b": floats(4)}
    more = {"activation_params": params} if params else {}
    agree(*node("FusedConv", arrays, activation=activation, kernel_shape=[3, 3], pads=[1] * 4, **more))
    if activation in ("Relu", "LeakyRelu"):
        gemm = {"a": floats(3, 4), "b": floats(5, 4), "c": floats(5)}
        names = {"activation_alpha": params[0]} if params else {}
        agree(*node("FusedGemm", gemm, activation=activation, transB=1, **names))


def test_what_is_not_supported_says_so() -> None:
    arrays = {"a": floats(1, 16), "b": np.zeros((1, 1, 8), np.uint8), "s": floats(1), "z": None}
    arrays["g"] = np.zeros(16, np.int32)
    with pytest.raises(UnsupportedError, match="in another order"):
        run(*node("MatMulNBits", arrays, fixed=("b", "s", "g"), K=16, N=1, bits=4, block_size=16))
