from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.frontend.models import agree, constant, model, run, value
from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("length", [None, 7, 13, 1])
@pytest.mark.parametrize("axis", [1, 2])
def test_dft(parts: int, inverse: bool, length: int | None, axis: int) -> None:
    x = floats(2, 9, 10, parts)
    check("dft", [x], axis=axis, length=length, inverse=inverse, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("length", [None, 8, 9])
def test_one_sided_transforms_are_inverse_to_each_other(length: int | None) -> None:
    x = floats(3, 8 if length is None else length, 1)
    (spectrum,) = check("dft", [x], axis=1, onesided=True, rtol=1e-3, atol=1e-5)
    (back,) = check(
        "dft", [spectrum], axis=1, onesided=True, inverse=True, length=length, rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(back, x, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dft_of_other_floats(dtype: str) -> None:
    tolerance = 1e-2 if dtype == "float16" else 1e-9
    check("dft", [floats(2, 6, 2, dtype=dtype)], axis=1, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("length", "parts", "inverse", "onesided"), [
    (1024, 1, False, True), (600, 2, True, False), (514, 2, False, False), (521, 1, False, False),
])  # fmt: skip
def test_long_transforms_go_in_two_rounds(length: int, parts: int, inverse: bool, onesided: bool) -> None:
    x = floats(2, length - 3, parts)
    attrs = {"axis": 1, "length": length, "inverse": inverse, "onesided": onesided}
    check("dft", [x], rtol=1e-3, atol=1e-3, **attrs)


def test_bad_transforms_are_rejected() -> None:
    with pytest.raises(GraphError, match="two factors up to 2048"):
        check("dft", [floats(1, 4099, 1)], axis=1)
    with pytest.raises(GraphError, match="last dimension of 1 or 2"):
        type_of("dft", [TensorType.make((1, 8, 3), "float32")], axis=1)
    with pytest.raises(GraphError, match="takes real data"):
        type_of("dft", [TensorType.make((1, 8, 2), "float32")], axis=1, onesided=True)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [False, True])
def test_stft_agrees_with_onnxruntime(onesided: int, windowed: bool) -> None:
    x, window = floats(2, 50, 1), np.hanning(16).astype(np.float32)
    names = ["x", "step", "w", ""] if windowed else ["x", "step", "", "n"]
    constants = [constant("step", 5), constant("n", 16), constant("w", window, "float32")]
    node = helper.make_node("STFT", names, ["y"], onesided=onesided)
    proto = model([node], [value("x", x.shape)], ["y"], constants)
    got = run(proto, {"x": x})["y"]
    frames = np.stack([x[:, n * 5 : n * 5 + 16, 0] for n in range(7)], 1) * (window if windowed else 1)
    want = np.fft.rfft(frames) if onesided else np.fft.fft(frames)
    np.testing.assert_allclose(got, np.stack([want.real, want.imag], -1), atol=1e-4)


def test_mel_filters_agree_with_onnxruntime() -> None:
    numbers = [constant("n", 12), constant("l", 256), constant("r", 8000)]
    numbers += [constant("lo", 20.0, "float32"), constant("hi", 3800.0, "float32")]
    nodes = [
        helper.make_node(
            "MelWeightMatrix", ["n", "l", "r", "lo", "hi"], ["m"], output_datatype=TensorProto.FLOAT
        ),
        helper.make_node("MatMul", ["x", "m"], ["y"]),
    ]
    x = floats(2, 129)
    agree(model(nodes, [value("x", x.shape)], ["y"], numbers), {"x": x})
