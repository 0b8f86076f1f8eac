"""Definitions of opsets 1 to 6."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.frontend.models import constant, model, run, value
from tilewright.errors import GraphError, UnsupportedError

rng = np.random.default_rng(1)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def result(op: str, *inputs: np.ndarray, opset: int = 6, outputs: int = 1, **attrs: Any) -> list[np.ndarray]:
    names = [f"x{n}" for n in range(len(inputs))]
    infos = [
        value(n, x.shape, helper.np_dtype_to_tensor_dtype(x.dtype))
        for n, x in zip(names, inputs, strict=True)
    ]
    outs = [f"y{n}" for n in range(outputs)]
    proto = model([helper.make_node(op, names, outs, **attrs)], infos, outs, opset=opset)
    return list(run(proto, dict(zip(names, inputs, strict=True))).values())


@pytest.mark.parametrize(("shape", "axis"), [((3,), 1), ((3, 4), 1), ((4, 5), None), ((5,), None), ((1,), 0)])
def test_broadcast_lines_up_from_an_axis(shape: tuple[int, ...], axis: int | None) -> None:
    a, b = floats(2, 3, 4, 5), floats(*shape)
    start = 4 - b.ndim if axis is None else axis
    aligned = b.reshape(*shape, *[1] * (4 - start - b.ndim))
    attrs = {} if axis is None else {"axis": axis}
    for op, function in (("Add", np.add), ("Mul", np.multiply), ("Sub", np.subtract), ("Div", np.divide)):
        np.testing.assert_allclose(result(op, a, b, broadcast=1, **attrs)[0], function(a, aligned), rtol=1e-5)
    np.testing.assert_array_equal(result("Greater", a, b, broadcast=1, **attrs)[0], a > aligned)


def test_without_broadcast_shapes_are_equal() -> None:
    np.testing.assert_array_equal(result("Add", np.ones(3, "f"), np.ones(3, "f"))[0], np.full(3, 2, "f"))
    with pytest.raises(GraphError, match="takes broadcast=1"):
        result("Add", floats(2, 3), floats(3))
    with pytest.raises(GraphError, match="takes broadcast=1"):
        result("Add", floats(2, 3), floats(2, 1))
    with pytest.raises(GraphError, match="more dimensions than"):
        result("Add", floats(2, 3), floats(3, 1), broadcast=1, axis=1)


def test_a_slope_for_each_channel() -> None:
    x, slope = floats(2, 3, 4), floats(3)
    np.testing.assert_allclose(
        result("PRelu", x, slope)[0], np.where(x < 0, x * slope[:, None], x), rtol=1e-6
    )


def test_steering_operands_as_attributes() -> None:
    x = floats(2, 3)
    np.testing.assert_array_equal(result("Reshape", x, opset=1, shape=[3, -1])[0], x.reshape(3, 2))
    np.testing.assert_array_equal(
        result("Pad", x, opset=1, paddings=[0, 1, 0, 2], value=5.0)[0],
        np.pad(x, ((0, 0), (1, 2)), constant_values=5),
    )
    np.testing.assert_array_equal(result("Concat", x, x, opset=1)[0], np.concatenate([x, x], 1))
    first, second = result("Split", x, opset=1, outputs=2, axis=1, split=[1, 2])
    assert (first.shape, second.shape) == ((2, 1), (2, 2))
    np.testing.assert_array_equal(result("Cast", x, opset=1, to="INT32")[0], x.astype(np.int32))
    image = floats(1, 1, 2, 2)
    scaled = result("Upsample", image, opset=1, height_scale=2.0, width_scale=3.0)[0]
    np.testing.assert_array_equal(scaled, image.repeat(2, 2).repeat(3, 3))
    tiled = model(
        [helper.make_node("Tile", ["x", "n", "axis"], ["y"])],
        [value("x", [2, 3])],
        ["y"],
        [constant("n", 2, "float32"), constant("axis", 1, "float32")],
        opset=1,
    )
    np.testing.assert_array_equal(run(tiled, {"x": x})["y"], np.tile(x, (1, 2)))


def test_training_is_not_supported() -> None:
    with pytest.raises(UnsupportedError, match="is_test=0"):
        result("Dropout", floats(2))
    np.testing.assert_array_equal(result("Dropout", np.ones(2, "f"), is_test=1)[0], np.ones(2, "f"))
    with pytest.raises(UnsupportedError, match="is_test=0"):
        result("BatchNormalization", floats(2, 3), *(np.ones(3, "f") for _ in range(4)))
