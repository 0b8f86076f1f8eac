from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.frontend.models import INT64, agree, model, value
from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError, UnsupportedError
from tilewright.graph.graph import TensorType
from tilewright.ops.sample import MODES, PADDINGS


def _node(op: str, arrays: dict[str, np.ndarray], opset: int, **attrs: object) -> onnx.ModelProto:
    kinds = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in arrays.items()}
    infos = [value(name, a.shape, kinds[name]) for name, a in arrays.items()]
    return model([helper.make_node(op, list(arrays), ["y"], **attrs)], infos, ["y"], opset=opset)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("spatial", [(5, 4), (1, 6), (3, 2, 4)])
def test_grid_sample(mode: str, padding: str, aligned: bool, spatial: tuple[int, ...]) -> None:
    if mode == "cubic" and len(spatial) > 2:
        return  # not defined by onnxruntime; the standard's own suite has it
    x, grid = floats(2, 2, *spatial), floats(2, *(3, 4, 2)[: len(spatial)], len(spatial), low=-2.6, high=2.6)
    attrs = {"mode": mode, "padding": padding, "align_corners": aligned}
    (got,) = check("grid_sample", [x, grid], rtol=1e-4, atol=1e-5, **attrs)
    if 1 in spatial:
        assert np.isfinite(got).all()
        return  # onnxruntime divides by the width of a border without one
    proto = _node(
        "GridSample", {"x": x, "g": grid}, 20, mode=mode, padding_mode=padding, align_corners=int(aligned)
    )
    agree(proto, {"x": x, "g": grid})


def test_grid_sample_in_half_precision_and_of_nothing() -> None:
    x, grid = floats(1, 2, 4, 4, dtype="float16"), floats(1, 3, 3, 2, dtype="float16")
    check("grid_sample", [x, grid], rtol=2e-3, atol=2e-3)
    assert check("grid_sample", [floats(1, 2, 4, 4), floats(1, 0, 3, 2)])[0].shape == (1, 2, 0, 3)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("sampling", [1, 3])
def test_roi_align(mode: str, half: bool, sampling: int) -> None:
    x = floats(2, 3, 9, 11)
    corners = np.array([[0, 0, 4, 5], [3, 2, 30, 28], [-4, -3, 6, 8], [5, 5, 5, 5], [100, 100, 120, 120]])
    rois, batch = (corners + 0.3).astype(np.float32), np.array([0, 1, 1, 0, 1])
    attrs = {"mode": mode, "size": (3, 2), "sampling": sampling, "scale": 0.5, "half_pixel": half}
    check("roi_align", [x, rois, batch], rtol=1e-4, atol=1e-5, **attrs)
    proto = _node(
        "RoiAlign", {"x": x, "r": rois, "b": batch}, 16, mode=mode, output_height=3, output_width=2,
        sampling_ratio=sampling, spatial_scale=0.5,
        coordinate_transformation_mode="half_pixel" if half else "output_half_pixel",
    )  # fmt: skip
    agree(proto, {"x": x, "r": rois, "b": batch})


@pytest.mark.parametrize(("group", "offset_group"), [(1, 1), (2, 1), (1, 2)])
def test_deform_conv(group: int, offset_group: int) -> None:
    x, w = floats(2, 4, 6, 5), floats(6, 4 // group, 3, 2)
    arrays = {"x": x, "w": w, "o": floats(2, offset_group * 12, 3, 6, low=-3, high=3), "b": floats(6)}
    arrays["m"] = floats(2, offset_group * 6, 3, 6)
    attrs = {"strides": [2, 1], "pads": [1, 1, 0, 1], "dilations": [1, 1]}
    proto = _node("DeformConv", arrays, 19, group=group, offset_group=offset_group, **attrs)
    agree(proto, arrays)
    patches = {"kernel": (3, 2), "groups": offset_group, "strides": (2, 1), "pads": (1, 1, 0, 1)}
    check("deform_patches", [x, arrays["o"], arrays["m"]], rtol=1e-4, atol=1e-5, **patches)
    check("deform_patches", [x, arrays["o"]], rtol=1e-4, atol=1e-5, **patches)


def test_bad_uses_are_rejected() -> None:
    x, grid = TensorType.make((1, 2, 4, 4), "float32"), TensorType.make((1, 3, 3, 2), "float32")
    with pytest.raises(GraphError, match="does not fit data"):
        type_of("grid_sample", [x, TensorType.make((1, 3, 3, 3), "float32")])
    with pytest.raises(GraphError, match="no padding 'wrap'"):
        type_of("grid_sample", [x, grid], padding="wrap")
    with pytest.raises(GraphError, match="do not fit offsets"):
        type_of("deform_patches", [x, x], kernel=(3, 3))
    boxes = {"x": floats(1, 1, 4, 4), "r": floats(1, 4), "b": np.zeros(1, np.int64)}
    assert boxes["b"].dtype == helper.tensor_dtype_to_np_dtype(INT64)
    with pytest.raises(UnsupportedError, match="sampling_ratio=0"):
        agree(_node("RoiAlign", boxes, 16), boxes)
