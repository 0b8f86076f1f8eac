from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import OpContext, get_op
from tilewright.ir import te
from tilewright.ir.expr import Load
from tilewright.ops.resize import COORDINATES, NEAREST

PLAIN = [c for c in COORDINATES if c != "tf_crop_and_resize"]


def _session(
    x: np.ndarray, sizes: tuple[int, ...] | None, scales: tuple[float, ...] | None, attrs: dict[str, Any]
) -> np.ndarray:
    names = {"coordinates": "coordinate_transformation_mode", "nearest": "nearest_mode"}
    onnx_attrs = {names.get(k, k): int(v) if isinstance(v, bool) else v for k, v in attrs.items()}
    inputs = ["x", "", "scales" if scales else "", "sizes" if sizes else ""]
    constants = []
    if scales:
        constants.append(numpy_helper.from_array(np.array(scales, np.float32), "scales"))
    if sizes:
        constants.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * x.ndim) for n in "xy"]
    node = helper.make_node("Resize", inputs, ["y"], **onnx_attrs)
    graph = helper.make_graph([node], "g", info[:1], info[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("coordinates", PLAIN)
@pytest.mark.parametrize("nearest", NEAREST)
@pytest.mark.parametrize("size", [(8, 10), (2, 4), (7, 4), (4, 5)])
def test_nearest(coordinates: str, nearest: str, size: tuple[int, int]) -> None:
    x = floats(1, 2, 4, 5)
    attrs = {"mode": "nearest", "coordinates": coordinates, "nearest": nearest}
    (got,) = check("resize", [x], sizes=(1, 2, *size), **attrs)
    np.testing.assert_array_equal(got, _session(x, (1, 2, *size), None, attrs))


@pytest.mark.parametrize("coordinates", PLAIN)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(8, 10), (3, 7), (1, 5)])
def test_interpolation(coordinates: str, mode: str, size: tuple[int, int]) -> None:
    x = floats(1, 2, 4, 5)
    attrs = {"mode": mode, "coordinates": coordinates}
    (got,) = check("resize", [x], sizes=(1, 2, *size), rtol=1e-4, atol=1e-5, **attrs)
    np.testing.assert_allclose(got, _session(x, (1, 2, *size), None, attrs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [2.0, 0.5, 0.6, 1.5, 3.0])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "half_pixel_symmetric"])
def test_scales(scale: float, mode: str, coordinates: str) -> None:
    x = floats(1, 1, 7, 6)
    attrs = {"mode": mode, "coordinates": coordinates, "nearest": "floor"}
    (got,) = check("resize", [x], scales=(1.0, 1.0, scale, scale), rtol=1e-4, atol=1e-5, **attrs)
    np.testing.assert_allclose(got, _session(x, None, (1, 1, scale, scale), attrs), rtol=1e-4, atol=1e-5)


def test_cubic_without_outside_neighbours() -> None:
    x = floats(1, 1, 5, 4)
    attrs = {"mode": "cubic", "coordinates": "half_pixel", "exclude_outside": True, "cubic_coeff_a": -0.5}
    (got,) = check("resize", [x], sizes=(1, 1, 9, 3), rtol=1e-4, atol=1e-5, **attrs)
    np.testing.assert_allclose(got, _session(x, (1, 1, 9, 3), None, attrs), rtol=1e-4, atol=1e-4)


def test_crop_and_resize_extrapolates() -> None:
    attrs = {"mode": "linear", "coordinates": "tf_crop_and_resize", "extrapolation_value": 9.0}
    (got,) = check(
        "resize",
        [floats(1, 1, 4, 4)],
        sizes=(1, 1, 3, 5),
        roi=((0, 1), (0, 1), (0.5, 1.0), (-0.5, 1.5)),
        **attrs,
    )
    assert (got[0, 0, :, 0] == 9.0).all()
    assert (got[0, 0, :, 2] != 9.0).all()


def test_doubling_needs_one_integer_division_a_dimension() -> None:
    kind = TensorType.make((1, 4, 6, 8), "float32")
    opdef = get_op("resize")
    assert opdef.compute is not None
    attrs = {"sizes": (1, 8, 12, 8), "coordinates": "half_pixel"}
    ctx = OpContext(attrs, (kind,), (None,), (None,), None, opdef.params)
    (out,) = opdef.compute(ctx, [te.placeholder(kind.shape, "float32", "x")])
    assert isinstance(out.body, Load)
    assert out.body.indices == (out.axes[0], out.axes[1] // 2, out.axes[2] // 2, out.axes[3])


def test_bad_resizes_are_rejected() -> None:
    x = TensorType.make((1, 1, 4, 4), "float32")
    with pytest.raises(GraphError, match="takes sizes or scales"):
        type_of("resize", [x])
    with pytest.raises(GraphError, match="for each of 4 dimensions"):
        type_of("resize", [x], sizes=(2, 2))
    with pytest.raises(GraphError, match="no mode 'lanczos'"):
        type_of("resize", [x], sizes=(1, 1, 2, 2), mode="lanczos")


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(5, 4), (3, 11), (20, 9), (1, 1)])
@pytest.mark.parametrize("exclude", [False, True])
def test_antialiased_images_keep_their_mean(mode: str, size: tuple[int, int], exclude: bool) -> None:
    x = floats(1, 2, 12, 10)
    attrs = {"mode": mode, "exclude_outside": exclude, "sizes": (1, 2, *size)}
    (got,) = check("resize_antialias", [x], rtol=1e-3, atol=1e-4, **attrs)
    (flat,) = check("resize_antialias", [np.full_like(x, 3.0)], rtol=1e-4, **attrs)
    np.testing.assert_allclose(flat, 3.0, rtol=1e-5)
    assert got.shape == (1, 2, *size)


def test_halving_with_antialias_averages_over_twice_the_reach() -> None:
    x = floats(1, 1, 1, 8)
    (got,) = check("resize_antialias", [x], mode="linear", sizes=(1, 1, 1, 4))
    padded = np.pad(x[0, 0, 0], 1, "edge")
    np.testing.assert_allclose(got[0, 0, 0, 1], np.dot(padded[2:6], [1, 3, 3, 1]) / 8, rtol=1e-5)


def test_antialias_takes_whole_images() -> None:
    with pytest.raises(GraphError, match="linear or cubic and whole images"):
        type_of("resize_antialias", [TensorType.make((1, 1, 4, 4), "float32")], sizes=(1, 1, 2, 2))
