from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.frontend.models import INT64, agree, constant, model, value
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


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_lp_pool(p: int, channels_last: bool) -> None:
    x = floats(2, 3, 7, 6) if not channels_last else floats(2, 7, 6, 3)
    attrs = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "channels_last": channels_last}
    check("lp_pool", [x], p=p, rtol=1e-4, **attrs)


@pytest.mark.parametrize("column_major", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_positions_of_maxima_agree_with_onnxruntime(column_major: bool, ceil_mode: bool) -> None:
    x = floats(2, 2, 6, 5).round(1)  # with ties
    attrs = {"kernel": (3, 2), "strides": (2, 2), "pads": (1, 0, 1, 1), "ceil_mode": ceil_mode}
    check("max_positions", [x], column_major=column_major, **attrs)
    node = helper.make_node(
        "MaxPool", ["x"], ["y", "i"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1],
        ceil_mode=int(ceil_mode), storage_order=int(column_major),
    )  # fmt: skip
    agree(model([node], [value("x", x.shape)], ["y", value("i", None, INT64)]), {"x": x})


def test_unpooling_puts_maxima_back() -> None:
    x = floats(1, 2, 6, 4)
    nodes = [
        helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxUnpool", ["y", "i"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    got = agree(model(nodes, [value("x", x.shape)], ["z"]), {"x": x})["z"]
    assert np.count_nonzero(got) == 12


@pytest.mark.parametrize("dilation", [1, 2])
def test_col2im(dilation: int) -> None:
    reach = (2 - 1) * dilation + 1
    blocks = ((5 + 1 - 3) // 2 + 1) * ((6 - reach) + 1)
    x = floats(2, 2 * 3 * 2, blocks)
    attrs = {
        "image": (5, 6),
        "kernel": (3, 2),
        "strides": (2, 1),
        "pads": (1, 0, 0, 0),
        "dilations": (1, dilation),
    }
    check("col2im", [x], rtol=1e-4, **attrs)
    node = helper.make_node(
        "Col2Im", ["x", "s", "k"], ["y"], strides=[2, 1], pads=[1, 0, 0, 0], dilations=[1, dilation]
    )
    sizes = [constant("s", [5, 6]), constant("k", [3, 2])]
    agree(model([node], [value("x", x.shape)], ["y"], sizes, opset=18), {"x": x})
    with pytest.raises(GraphError, match="do not fit the columns"):
        check("col2im", [floats(1, 4, 5)], image=(4, 4), kernel=(2, 2))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool_agrees_with_onnxruntime(p: int) -> None:
    x = floats(2, 3, 5, 4)
    agree(
        model([helper.make_node("GlobalLpPool", ["x"], ["y"], p=p)], [value("x", x.shape)], ["y"]), {"x": x}
    )


@pytest.mark.parametrize(("opset", "axis"), [(11, 1), (13, 1), (13, -1), (13, 0)])
def test_hardmax_agrees_with_onnxruntime(opset: int, axis: int) -> None:
    x = floats(3, 4, 5).round(1)
    node = helper.make_node("Hardmax", ["x"], ["y"], axis=axis)
    agree(model([node], [value("x", x.shape)], ["y"], opset=opset), {"x": x})
