from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.ops.harness import check, floats, ints, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType


def _session(kind: str, x: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    names = {"kernel": "kernel_shape"}
    onnx_attrs = {names.get(k, k): int(v) if isinstance(v, bool) else v for k, v in attrs.items()}
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * x.ndim) for n in "xy"]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], **onnx_attrs)], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pools_agree_with_onnxruntime(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 2))
    each = st.integers
    kernel = tuple(data.draw(each(1, 3)) for _ in range(rank))
    strides = tuple(data.draw(each(1, 3)) for _ in range(rank))
    pads = tuple(data.draw(each(0, k - 1)) for k in kernel * 2)
    size = tuple(data.draw(each(3, 8)) for _ in range(rank))
    attrs = {"kernel": kernel, "strides": strides, "pads": pads, "ceil_mode": data.draw(st.booleans())}
    x = floats(2, 3, *size)
    if data.draw(st.booleans()):
        attrs["dilations"] = dilations = tuple(data.draw(each(1, 2)) for _ in range(rank))
        if any((k - 1) * d + 1 > n for k, d, n in zip(kernel, dilations, size, strict=True)):
            del attrs["dilations"]
    (got,) = check("max_pool", [x], **attrs)
    np.testing.assert_allclose(got, _session("MaxPool", x, attrs))
    attrs["count_include_pad"] = data.draw(st.booleans())
    (got,) = check("avg_pool", [x], **attrs)
    np.testing.assert_allclose(got, _session("AveragePool", x, attrs), rtol=1e-5, atol=1e-6)
    last = np.moveaxis(x, 1, -1)
    (moved,) = check("avg_pool", [last], channels_last=True, **attrs)
    np.testing.assert_allclose(np.moveaxis(moved, -1, 1), got, rtol=1e-5, atol=1e-6)


def test_max_pool_of_integers_and_nan() -> None:
    check("max_pool", [ints(1, 2, 6, 6, dtype="int8")], kernel=(2, 2), strides=(2, 2), pads=(1, 0, 0, 1))
    x = floats(1, 1, 4)
    x[0, 0, 1] = np.nan
    (got,) = check("max_pool", [x], kernel=(2,), strides=(2,))
    assert np.isnan(got[0, 0]).tolist() == [True, False]


def test_same_padding_waits_for_the_size() -> None:
    attrs = {"kernel": (3,), "strides": (2,), "auto_pad": "same_upper"}
    (got,) = check("max_pool", [floats(1, 1, 8)], **attrs)
    assert got.shape == (1, 1, 4)


def test_bad_pools_are_rejected() -> None:
    x = TensorType.make((1, 2, 4, 4), "float32")
    with pytest.raises(GraphError, match="kernel of 1 dimensions"):
        type_of("max_pool", [x], kernel=(2,))
    with pytest.raises(GraphError, match="does not fit"):
        type_of("max_pool", [x], kernel=(5, 5))
