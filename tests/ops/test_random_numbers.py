from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper

import tilewright
from tests.frontend.models import constant, model, run, value
from tests.ops.harness import check, reference, type_of
from tilewright.errors import GraphError
from tilewright.ops.random import threefry_numpy


@pytest.mark.parametrize(
    ("key", "counter", "want"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(key: tuple[int, int], counter: tuple[int, int], want: tuple[int, int]) -> None:
    """The test vectors that the authors publish."""
    assert tuple(int(w) for w in threefry_numpy(key, counter)) == want


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_expression_and_reference_agree(dtype: str, distribution: str) -> None:
    tolerance = 1e-2 if dtype == "float16" else 1e-5
    attrs = {
        "shape": (7, 11),
        "dtype": dtype,
        "distribution": distribution,
        "key": (3, 4),
        "a": -1.0,
        "b": 2.0,
    }
    check("random", [], rtol=tolerance, atol=tolerance, **attrs)


def test_moments() -> None:
    uniform = reference("random", [], shape=(200_000,), key=(1, 2), a=2.0, b=4.0)[0].astype(float)
    assert uniform.min() >= 2
    assert uniform.max() < 4
    np.testing.assert_allclose([uniform.mean(), uniform.std()], [3, 2 / math.sqrt(12)], atol=0.01)
    normal = reference("random", [], shape=(200_000,), key=(1, 2), distribution="normal", a=1.0, b=3.0)[0]
    np.testing.assert_allclose([normal.mean(), normal.std()], [1, 3], atol=0.03)
    assert abs(np.mean(((normal - 1) / 3) ** 4) - 3) < 0.1


def _model(op: str, shape: tuple[int, ...] = (4, 5), name: str = "n", **attrs: object) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], name=name, **attrs)
    return model([node], [value("x", shape)], ["y"], opset=22)


def test_numbers_depend_on_the_seed_or_else_on_the_name() -> None:
    x = np.zeros((4, 5), np.float32)

    def draw(**attrs: object) -> np.ndarray:
        return run(_model("RandomNormalLike", **attrs), {"x": x})["y"]

    np.testing.assert_array_equal(draw(seed=3.0), draw(seed=3.0, name="other"))
    np.testing.assert_array_equal(draw(), draw())
    assert (draw(seed=3.0) != draw(seed=4.0)).any()
    assert (draw(name="a") != draw(name="b")).any()


def test_compiled_draws_are_the_same_on_any_number_of_threads() -> None:
    proto = _model("RandomUniformLike", (64, 1024), seed=1.0)
    x = np.zeros((64, 1024), np.float32)
    one, two = (tilewright.compile(proto, threads=n, cache=False).run({"x": x})["y"] for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, run(proto, {"x": x})["y"])


def test_draws_from_distributions() -> None:
    p = np.full((100, 100), 0.3, np.float32)
    drawn = run(_model("Bernoulli", (100, 100), seed=2.0), {"x": p})["y"]
    assert set(np.unique(drawn)) == {0, 1}
    assert abs(drawn.mean() - 0.3) < 0.02
    weights = np.log(np.array([[0.7, 0.2, 0.1]], np.float32))
    classes = run(_model("Multinomial", (1, 3), seed=2.0, sample_size=5000), {"x": weights})["y"]
    np.testing.assert_allclose(np.bincount(classes[0]) / 5000, [0.7, 0.2, 0.1], atol=0.03)


def test_dropout_in_training() -> None:
    node = helper.make_node("Dropout", ["x", "r", "t"], ["y", "m"], seed=7)
    constants = [constant("r", 0.25, "float32"), constant("t", True, "bool")]
    x = np.ones((100, 100), np.float32)
    got = run(model([node], [value("x", x.shape)], ["y", "m"], constants), {"x": x})
    np.testing.assert_allclose(got["y"], got["m"] / 0.75, rtol=1e-6)
    assert abs(got["m"].mean() - 0.75) < 0.02


def test_what_is_no_float_is_rejected() -> None:
    with pytest.raises(GraphError, match="random numbers are floats, not int32"):
        type_of("random", [], shape=(2,), dtype="int32", key=(0, 0))
    with pytest.raises(GraphError, match="no distribution 'cauchy'"):
        type_of("random", [], shape=(2,), key=(0, 0), distribution="cauchy")
