"""Layers of com.microsoft: against onnxruntime where it has them for CPUs, else against their parts."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper

import tilewright as tw
from tests.frontend.models import agree, model, run, run_peer, value
from tests.frontend.nodes import floats, node, rng
from tilewright.errors import GraphError, UnsupportedError


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def group_norm(x: np.ndarray, groups: int, g: np.ndarray, b: np.ndarray, epsilon: float) -> np.ndarray:
    """Of ``[N, H, W, C]``."""
    n, h, w, c = x.shape
    apart = x.reshape(n, h * w, groups, c // groups)
    centred = apart - apart.mean((1, 3), keepdims=True)
    normal = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + epsilon)
    return normal.reshape(x.shape) * g + b


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("activation", [0, 1])
def test_group_norms(last: int, activation: int) -> None:
    x, skip, bias, g, b = floats(2, 5, 3, 8), floats(2, 5, 3, 8), floats(8), floats(8), floats(8)
    attrs = {"groups": 4, "activation": activation, "channels_last": last, "epsilon": 1e-3}

    def as_given(a: np.ndarray) -> np.ndarray:
        return a if last else np.ascontiguousarray(np.moveaxis(a, 3, 1))

    def expected(a: np.ndarray) -> np.ndarray:
        y = group_norm(a, 4, g, b, 1e-3)
        return as_given(y * sigmoid(y) if activation else y)

    got = run(*node("GroupNorm", {"x": as_given(x), "g": g, "b": b}, **attrs))["y"]
    np.testing.assert_allclose(got, expected(x), rtol=1e-4, atol=1e-5)
    for part, added in ((as_given(skip), skip), (skip[:, 0, 0], skip[:, :1, :1])):
        for extra in (bias, None):
            total = x + added + (0 if extra is None else extra)
            arrays = {"x": as_given(x), "g": g, "b": b, "s": part, "c": extra}
            both = run(*node("SkipGroupNorm", arrays, ("y", "sum"), **attrs))
            np.testing.assert_allclose(both["y"], expected(total), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(both["sum"], as_given(total), rtol=1e-5)


def test_convolutions() -> None:
    x, w, b, z = floats(1, 6, 5, 4), floats(8, 2, 3, 3), floats(8), floats(1, 6, 5, 8)
    attrs = {"pads": [1] * 4, "group": 2, "activation": "LeakyRelu", "activation_params": [0.2]}
    got = run(*node("NhwcFusedConv", {"x": x, "w": w, "b": b, "z": z}, **attrs))["y"]
    first = np.ascontiguousarray(np.moveaxis(x, 3, 1))
    arrays = {"x": first, "w": w, "b": b, "z": np.moveaxis(z, 3, 1).copy()}
    want = run_peer(*node("FusedConv", arrays, **attrs))["y"]
    np.testing.assert_allclose(np.moveaxis(got, 3, 1), want, rtol=1e-4, atol=1e-5)
    arrays = {"x": floats(1, 2, 4, 5), "w": floats(2, 3, 3, 3), "p": np.array([1, 0, 1, 1], np.int64)}
    agree(*node("ConvTransposeWithDynamicPads", arrays, fixed=("p",), strides=[2, 1]))
    agree(*node("ConvTransposeWithDynamicPads", arrays | {"b": floats(3)}, fixed=("p",), strides=[2, 3]))


def test_operators_that_the_standard_has_too() -> None:
    agree(*node("Trilu", {"x": floats(2, 3, 4), "k": np.array(1, np.int64)}, fixed=("k",), upper=0))
    agree(*node("Pad", {"x": floats(2, 3), "p": np.array([0, 1, 1, 0], np.int64)}, fixed=("p",)))
    limits = {n: np.array(v, np.float32) for n, v in (("a", 1.0), ("b", 5.5), ("c", 1.5))}
    agree(*node("Range", dict(limits), fixed=tuple(limits)))
    arrays = {"x": floats(1, 2, 4, 5), "g": floats(1, 3, 3, 2)}
    agree(*node("GridSample", arrays, mode="bilinear", padding_mode="border"))


def test_what_is_in_tensors() -> None:
    x = np.array([3, 1, 3, 2, 1, 3], np.float32)
    proto, feeds = node("Unique", {"x": x}, ("y", "places", "counts"))
    for output in proto.graph.output[1:]:
        output.type.tensor_type.elem_type = onnx.TensorProto.INT64
    agree(proto, feeds)
    for metric in ("euclidean", "sqeuclidean"):
        agree(*node("CDist", {"a": floats(4, 3), "b": floats(5, 3)}, metric=metric))
    for last in (1.0, np.inf, np.nan):
        for attrs in ({}, {"isinf_only": 1}, {"isnan_only": 1}):
            arrays = {"x": floats(3), "z": np.array([[2.0, last]], np.float32)}
            proto, feeds = node("IsAllFinite", dict(arrays), **attrs)
            proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BOOL
            got = run(proto, feeds)["y"]
            seen = {"isinf_only": np.isinf, "isnan_only": np.isnan}.get(next(iter(attrs), ""))
            want = np.isfinite(last) if seen is None else not seen(last)
            assert got == want


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 4), (1, 2), (5, 1)])
def test_crop_and_resize(mode: str, size: tuple[int, int]) -> None:
    boxes = [[0, 0, 1, 1], [0.2, 0.3, 0.8, 0.6], [-0.1, 0.2, 1.2, 0.9], [0.9, 0.8, 0.1, 0.2]]
    arrays = {
        "x": floats(2, 3, 5, 6), "r": np.array(boxes, np.float32), "b": np.array([0, 1, 1, 0], np.int32),
        "s": np.array(size, np.int32),
    }  # fmt: skip
    agree(*node("CropAndResize", arrays, fixed=("s",), mode=mode, extrapolation_value=0.5))


def test_inverses() -> None:
    x = floats(3, 5, 5) + 2 * np.eye(5, dtype=np.float32)
    agree(*node("Inverse", {"x": x}))
    proto, _ = node("Inverse", {"x": x})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    compiled = tw.compile(proto.SerializeToString(), dims={"n": (1, 8)})
    turned = x[:, ::-1].copy()  # small numbers on the diagonal: rows must change places
    for data in (x, turned, x[:1]):
        np.testing.assert_allclose(compiled.run({"x": data})["y"], np.linalg.inv(data), rtol=1e-3, atol=1e-4)
    with pytest.raises(GraphError, match="square matrices"):
        run(*node("Inverse", {"x": floats(2, 3)}))


# -------------------------------------------------------------------------------------------- position biases
def bucket(distance: int, both: bool, buckets: int, most: int) -> int:
    """As T5 counts; ``distance`` is the key's position less the query's."""
    first = 0
    if both:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = -min(distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    far = exact + int(math.log(distance / exact) / math.log(most / exact) * (buckets - exact))
    return first + min(far, buckets - 1)


@pytest.mark.parametrize("both", [False, True])
def test_relative_position_bias(both: bool) -> None:
    table = floats(8, 3)  # stands for [3, 8]
    made = helper.make_node(
        "RelativePositionBias", ["t", "s0", "k0"], ["y"], domain="com.microsoft", max_distance=20,
        is_bidirectional=int(both),
    )  # fmt: skip
    sizes = [helper.make_node("Shape", ["x"], [f"{n}0"], start=a, end=a + 1) for a, n in enumerate("sk")]
    inputs = [value("t", [8, 3]), value("x", ["s", "k"])]
    proto = model([*sizes, made], inputs, ["y"], domains={"com.microsoft": 1})
    compiled = tw.compile(proto.SerializeToString(), dims={"s": (1, 40), "k": (1, 40)})
    for steps, keys in ((1, 1), (5, 9), (33, 31)):
        got = compiled.run({"t": table, "x": floats(steps, keys)})["y"]
        places = [[bucket(k - q, both, 8, 20) for k in range(keys)] for q in range(steps)]
        np.testing.assert_array_equal(got, table.reshape(3, 8)[:, places][None])


def test_gated_relative_position_bias() -> None:
    b, s, heads, size, width = 2, 5, 3, 4, 6
    arrays = {
        "q": floats(b, s, heads * size), "qb": floats(heads * size), "rel": floats(1, heads, s, s),
        "w": floats(size, width), "wb": floats(width), "eco": floats(1, heads, 1, 1),
    }  # fmt: skip
    got = run(*node("GatedRelativePositionBias", arrays, num_heads=heads))["y"]
    q = (arrays["q"] + arrays["qb"]).reshape(b, s, heads, size).swapaxes(1, 2)
    gates = sigmoid((q @ arrays["w"] + arrays["wb"]).reshape(b, heads, s, 2, width // 2).sum(-1))
    update, reset = gates[..., :1], gates[..., 1:]
    want = (update * (reset * arrays["eco"] - 1) + 2) * arrays["rel"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="packed batches"):
        run(*node("GatedRelativePositionBias", arrays | {"o": rng.integers(0, 5, (b, s))}, num_heads=heads))


def test_embeddings_with_everything_open() -> None:
    arrays = {
        "ids": rng.integers(0, 11, (2, 5)).astype(np.int32),
        "segments": rng.integers(0, 2, (2, 5)).astype(np.int32),
        "words": floats(11, 8), "places": floats(9, 8), "parts": floats(2, 8), "g": floats(8), "b": floats(8),
    }  # fmt: skip
    fixed = ("words", "places", "parts", "g", "b")
    proto, feeds = node("EmbedLayerNormalization", arrays, ("y", "int_mask"), fixed=fixed)
    for info in proto.graph.input:
        for dim, name in zip(info.type.tensor_type.shape.dim, "bs", strict=True):
            dim.dim_param = name
    compiled = tw.compile(proto.SerializeToString(), dims={"b": (1, 4), "s": (1, 9)})
    for b, s in ((1, 1), (2, 5), (4, 9)):
        feeds = {n: rng.integers(0, 2, (b, s)).astype(np.int32) for n in ("ids", "segments")}
        got, want = compiled.run(feeds), run_peer(proto, feeds)
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)
