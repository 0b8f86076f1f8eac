from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.decompose import decompose
from tilewright.graph.fold import fold_constants
from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import OpContext, get_op
from tilewright.ir import te
from tilewright.ir.expr import BinOp
from tilewright.ir.visit import walk_expr


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((2, 1, 3, 4), (6, 4, 2)),
        ((1, 0), (0, 3)),
        ((0, 2), (2, 3)),
        ((1, 1), (1, 1)),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = floats(*a), floats(*b)
    np.testing.assert_allclose(check("matmul", [x, y])[0], x @ y, rtol=1e-5)


def test_matmul_of_half_precision_sums_in_single() -> None:
    x = np.full((1, 4096), 1.0, np.float16)
    assert check("matmul", [x, np.ones((4096, 1), np.float16)])[0].tolist() == [[4096.0]]


def _session(kind: str, arrays: list[np.ndarray], **attrs: Any) -> np.ndarray:
    names = ["x", "w", "b"][: len(arrays)]
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], **attrs)],
        "g",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape)
            for n, a in zip(names, arrays, strict=True)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString()).run(None, dict(zip(names, arrays, strict=True)))[0]


CONVS = [
    # x, w, attributes
    ((1, 3, 7, 9), (4, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 4, 8, 8), (6, 4, 1, 1), {}),
    ((1, 4, 9, 7), (4, 1, 3, 3), {"groups": 4, "pads": (1, 0, 2, 1), "strides": (2, 1)}),
    ((1, 4, 6, 6), (8, 1, 3, 3), {"groups": 4, "pads": (1, 1, 1, 1)}),
    ((1, 6, 6, 5), (4, 3, 2, 3), {"groups": 2, "dilations": (2, 1)}),
    ((1, 1, 5, 16), (3, 1, 1, 4), {"strides": (1, 4)}),
    ((2, 3, 10), (5, 3, 4), {"strides": (3,), "pads": (2, 1)}),
    ((1, 2, 4, 5, 3), (3, 2, 2, 2, 2), {"pads": (1, 0, 0, 0, 1, 1)}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), CONVS)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_in_both_layouts_and_against_onnxruntime(
    x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any], bias: bool
) -> None:
    arrays = [floats(*x), floats(*w), *([floats(w[0])] if bias else [])]
    (first,) = check("conv", arrays, rtol=1e-4, atol=1e-5, **attrs)
    onnx_attrs = {"group" if k == "groups" else k: v for k, v in attrs.items()}
    np.testing.assert_allclose(first, _session("Conv", arrays, **onnx_attrs), rtol=1e-4, atol=1e-5)
    last = [np.moveaxis(arrays[0], 1, -1), np.moveaxis(arrays[1], (0, 1), (-1, -2)), *arrays[2:]]
    (second,) = check("conv", last, rtol=1e-4, atol=1e-5, channels_last=True, **attrs)
    np.testing.assert_allclose(np.moveaxis(second, -1, 1), first, rtol=1e-4, atol=1e-5)


def test_depthwise_conv_indexes_channels_without_division() -> None:
    kinds = (TensorType.make((1, 8, 8, 16), "float32"), TensorType.make((3, 3, 1, 16), "float32"))
    attrs = {"groups": 16, "channels_last": True, "pads": (1, 1, 1, 1)}
    opdef = get_op("conv")
    assert opdef.compute is not None
    ctx = OpContext(attrs, kinds, (None, None), (None, None), None, opdef.params)
    (out,) = opdef.compute(ctx, [te.placeholder(k.shape, k.dtype, "t") for k in kinds])
    assert out.name == "depthwise_conv"
    assert [s.name for s in out.sources if s.body is not None] == ["pad"]
    assert out.body is not None
    divisions = [n for n in walk_expr(out.body) if isinstance(n, BinOp) and n.op in ("floordiv", "mod")]
    assert not divisions


TRANSPOSED = [
    ((1, 3, 4, 5), (3, 2, 2, 2), {"strides": (2, 2)}),
    ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
    ((2, 4, 3, 3), (4, 3, 4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 4, 3, 4), (4, 2, 3, 2), {"strides": (3, 2), "groups": 2}),
    ((1, 4, 5, 5), (4, 1, 3, 3), {"groups": 4, "pads": (1, 1, 1, 1)}),
    ((1, 2, 4, 4), (2, 3, 3, 3), {"strides": (2, 1), "dilations": (2, 3), "pads": (1, 0, 2, 1)}),
    ((1, 2, 7), (2, 3, 5), {"strides": (3,), "pads": (2, 1), "output_padding": (2,)}),
    ((1, 2, 3, 3), (2, 2, 1, 1), {"strides": (3, 3)}),
    ((2, 3, 4, 5), (3, 16, 2, 2), {"strides": (2, 2)}),
    ((2, 3, 5), (3, 9, 2), {"strides": (2,)}),
    ((1, 2, 2, 3, 2), (2, 8, 2, 3, 2), {"strides": (2, 3, 2)}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), TRANSPOSED)
def test_conv_transpose_decomposes_and_agrees_with_onnxruntime(
    x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    groups = int(attrs.get("groups", 1))
    arrays = [floats(*x), floats(*w), floats(w[1] * groups)]
    (first,) = check("conv_transpose", arrays, rtol=1e-4, atol=1e-5, **attrs)
    onnx_attrs = {"group" if k == "groups" else k: v for k, v in attrs.items()}
    np.testing.assert_allclose(first, _session("ConvTranspose", arrays, **onnx_attrs), rtol=1e-4, atol=1e-5)
    weights = arrays[1].reshape(groups, -1, *w[1:])  # [g, CI/g, CO/g, *K] -> [*K, CI/g, g * CO/g]
    weights = np.moveaxis(weights, (0, 1, 2), (-2, -3, -1)).reshape(*w[2:], x[1] // groups, w[1] * groups)
    last = [np.moveaxis(arrays[0], 1, -1), weights, arrays[2]]
    (second,) = check("conv_transpose", last, rtol=1e-4, atol=1e-5, channels_last=True, **attrs)
    np.testing.assert_allclose(np.moveaxis(second, -1, 1), first, rtol=1e-4, atol=1e-5)


def test_conv_transpose_into_disjoint_blocks_moves_nothing() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 5, 6, 8), "float32")
    w, bias = builder.constant(floats(2, 2, 8, 24)), builder.constant(floats(24))
    y = builder.op("conv_transpose", x, w, bias, strides=(2, 2), channels_last=True)
    graph = fold_constants(decompose(builder.build([y])))
    assert [n.op for n in graph.nodes] == ["reshape", "matmul", "add", "reshape"]


@pytest.mark.parametrize(
    ("kernel", "attrs", "taps"),
    [
        ((3, 3), {"strides": (2, 2)}, [4, 2, 2, 1]),  # every product that the result needs, none with a zero
        ((4, 4), {"strides": (2, 2)}, [4]),
        ((5, 3), {"strides": (4, 1), "dilations": (1, 2)}, [6, 3]),
        ((3, 3), {"dilations": (2, 2)}, [9]),
        ((1, 1), {"strides": (2, 2)}, [1]),
        ((3, 3), {"strides": (2, 2), "groups": 2}, [4]),
    ],
)
def test_conv_transpose_multiplies_few_zeros(
    kernel: tuple[int, int], attrs: dict[str, Any], taps: list[int]
) -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 5, 6, 8), "float32")
    w = builder.constant(floats(*kernel, 8 // attrs.get("groups", 1), 24))
    graph = fold_constants(
        decompose(builder.build([builder.op("conv_transpose", x, w, channels_last=True, **attrs)]))
    )
    found = [n.inputs[1].dims()[:2] for n in graph.nodes if n.op == "conv" and n.inputs[1] is not None]
    assert sorted((a * b for a, b in found), reverse=True) == taps


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_transposed_convolutions(data: st.DataObject) -> None:
    kernel, stride, size = (data.draw(st.integers(1, n)) for n in (5, 4, 4))
    dilation = data.draw(st.integers(1, 2))
    reach = (size - 1) * stride + (kernel - 1) * dilation + 1
    before = data.draw(st.integers(0, min(2, reach - 1)))
    after = data.draw(st.integers(0, min(2, reach - 1 - before)))
    extra = data.draw(st.integers(0, max(stride, dilation) - 1))
    attrs = {
        "strides": (stride,),
        "dilations": (dilation,),
        "pads": (before, after),
        "output_padding": (extra,),
    }
    check(
        "conv_transpose", [floats(1, size, 2), floats(kernel, 2, 3)], rtol=1e-4, channels_last=True, **attrs
    )


@pytest.mark.parametrize(
    ("x", "w", "attrs", "message"),
    [
        ((1, 3, 5, 5), (4, 2, 3, 3), {}, "input channels in 1 groups do not fit"),
        ((1, 3, 2, 2), (4, 3, 3, 3), {}, "does not fit into a dimension of 2"),
        ((1, 3, 5, 5), (4, 3, 3, 3), {"strides": (0, 1)}, "must be positive"),
        ((1, 3, 5, 5), (4, 3, 3, 3), {"pads": (1, 1)}, "'pads' must hold 4 numbers"),
        ((3, 5), (4, 3), {}, "rank of 3 or more"),
    ],
)
def test_bad_convolutions_are_rejected(
    x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        type_of("conv", [TensorType.make(x, "float32"), TensorType.make(w, "float32")], **attrs)


def test_inner_dimensions_must_agree() -> None:
    with pytest.raises(GraphError, match="inner dimensions"):
        type_of("matmul", [TensorType.make((2, 3), "float32"), TensorType.make((4, 5), "float32")])
