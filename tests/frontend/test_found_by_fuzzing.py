"""Files in which the fuzzer has found faults, and what they should do."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.frontend.models import INT64, agree, constant, model, run, value
from tilewright.errors import GraphError, LimitError, ModelFileError
from tilewright.frontend.onnx import import_onnx


def test_an_empty_list_of_axes_is_none() -> None:
    node = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)
    node.attribute.append(helper.make_attribute("axes", [], attr_type=7))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    agree(model([node], [value("x", [2, 3])], ["y"], opset=13), {"x": x})


def test_integers_to_negative_powers() -> None:
    """Folded, as at run time: the power as a number, rounded."""
    node = helper.make_node("Pow", ["x", "n"], ["y"])
    weights = [constant("x", [1, 2, -1, 3], "int32"), constant("n", [-2, -1, -3, 2], "int32")]
    found = run(model([node], [], ["y"], weights), {})
    assert found["y"].tolist() == [1, 0, -1, 9]
    assert found["y"].dtype == np.int32


@pytest.mark.parametrize(("dtype", "kind"), [("uint8", TensorProto.UINT8), ("int32", TensorProto.INT32)])
def test_shrinking_integers_by_fractions(dtype: str, kind: int) -> None:
    node = helper.make_node("Shrink", ["x"], ["y"], lambd=1.5, bias=1.5)
    agree(model([node], [value("x", [5], kind)], ["y"]), {"x": np.array([0, 1, 2, 3, 9], dtype)})


@pytest.mark.parametrize("op", ["LpPool", "GlobalLpPool"])
def test_norms_of_order_zero(op: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], p=0, **({"kernel_shape": [2]} if op == "LpPool" else {}))
    with pytest.raises(GraphError, match="there is no 0-norm: p must be positive"):
        import_onnx(model([node], [value("x", [1, 1, 4])], ["y"]))


def test_pairs_that_are_none_in_a_quantized_concat() -> None:
    node = helper.make_node("QLinearConcat", ["s", "z"], ["y"], domain="com.microsoft", axis=0)
    weights = [constant("s", 0.5, "float32"), constant("z", 3, "uint8")]
    with pytest.raises(GraphError, match="2 inputs are given: it takes two, then three for each tensor"):
        import_onnx(model([node], [], ["y"], weights, domains={"com.microsoft": 1}))


@pytest.mark.filterwarnings("error")
def test_folding_overflows_without_a_word() -> None:
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"])
    weights = [constant("x", [2**30, -(2**30), 0], "int32"), constant("s", 1e38, "float32")]
    found = run(model([node], [], ["y"], weights), {})
    assert found["y"].tolist() == [np.inf, -np.inf, 0]


@pytest.mark.parametrize(
    ("op", "domain", "shapes", "extra"),
    [
        ("Attention", "", ([1, 2, 3, 4], [1, 2], [1, 2, 3, 4]), {}),
        ("Attention", "", ([1, 2, 3, 4], [1, 2, 3, 4], [2]), {}),
        ("FlexAttention", "ai.onnx.preview", ([4], [1, 2, 3, 4], [1, 2, 3, 4]), {}),
        ("FlexAttention", "ai.onnx.preview", ([1, 2, 3, 4], [1, 2, 3, 4], []), {"scale": 1.0}),
    ],
)
def test_heads_of_other_ranks(
    op: str, domain: str, shapes: tuple[list[int], ...], extra: dict[str, float]
) -> None:
    node = helper.make_node(op, ["q", "k", "v"], ["y"], domain=domain, **extra)
    inputs = [value(name, shape) for name, shape in zip("qkv", shapes, strict=True)]
    with pytest.raises(GraphError, match=r"an attention takes heads of rank 4, not float32\["):
        import_onnx(model([node], inputs, ["y"], opset=24, domains={"ai.onnx.preview": 1}))


def test_a_mask_of_integers_that_is_too_short() -> None:
    node = helper.make_node("Attention", ["q", "q", "q", "m"], ["y"])
    inputs = [value("q", [1, 2, 3, 4]), value("m", [3, 2], TensorProto.INT64)]
    with pytest.raises(GraphError, match="-inf is no number of type int64"):
        import_onnx(model([node], inputs, ["y"], opset=24))


def test_resized_to_nothing() -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    scales = constant("scales", [1, 1, 1, 0.01], "float32")
    found = run(
        model([node], [value("x", [1, 1, 3, 3])], ["y"], [scales]), {"x": np.ones((1, 1, 3, 3), "f4")}
    )
    assert found["y"].shape == (1, 1, 3, 0)


def test_rotated_heads_of_rank_3() -> None:
    node = helper.make_node("RotaryEmbedding", ["x", "c", "c"], ["y"], rotary_embedding_dim=4)
    inputs = [value("x", [1, 2, 8]), value("c", [1, 2])]
    with pytest.raises(GraphError):
        import_onnx(model([node], inputs, ["y"], opset=23))


def test_a_scan_over_a_scalar() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"])],
        "body", [value("s", []), value("e", [])], [value("t", [])],
    )  # fmt: skip
    node = helper.make_node("Scan", ["x", "x"], ["y"], body=body, num_scan_inputs=1)
    with pytest.raises(GraphError, match="it walks over arrays, and one of them is a scalar"):
        import_onnx(model([node], [value("x", [])], ["y"]))


def test_attentions_that_lack_numbers() -> None:
    flat = [value("q", [1, 3, 8])]
    with pytest.raises(GraphError, match="side by side need q_num_heads and kv_num_heads"):
        import_onnx(model([helper.make_node("Attention", ["q", "q", "q"], ["y"])], flat, ["y"], opset=24))
    node = helper.make_node("Attention", ["q", "q", "q", "", "", "", "n"], ["y"])
    inputs = [value("q", [1, 2, 3, 4]), value("n", [], INT64)]
    with pytest.raises(GraphError, match="nonpad_kv_seqlen has one number for each element of the batch"):
        import_onnx(model([node], inputs, ["y"], opset=24))


def test_a_body_that_takes_more_than_it_is_given() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["s"], ["t"])], "body", [value("s", [])], [value("t", [])]
    )
    body.input.append(value("more", []))
    node = helper.make_node("FlexAttention", ["q", "q", "q"], ["y"], domain="ai.onnx.preview", score_mod=body)
    proto = model([node], [value("q", [1, 2, 3, 4])], ["y"], opset=24, domains={"ai.onnx.preview": 1})
    with pytest.raises(ModelFileError, match="a body takes 2 tensors and is given 1"):
        import_onnx(proto)


def test_branches_that_give_nothing() -> None:
    empty = helper.make_graph([], "branch", [], [])
    node = helper.make_node("If", ["c"], [], then_branch=empty, else_branch=empty)
    copy = helper.make_node("Identity", ["x"], ["y"])
    inputs = [value("c", [], TensorProto.BOOL), value("x", [2])]
    with pytest.raises(GraphError, match=r"If|output"):
        import_onnx(model([node, copy], inputs, ["y"]))


@pytest.mark.filterwarnings("error")
def test_scales_whose_product_is_no_number() -> None:
    """The sums of bytes are 0: so is the result, whatever the scales are."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["b"]),
        helper.make_node("MatMul", ["a", "b"], ["y"]),
    ]
    weights = [constant("s", 1e30, "float32"), constant("w", np.zeros((4, 2)), "int8")]
    proto = model(nodes, [value("x", [3, 4], TensorProto.UINT8)], ["y"], weights)
    found = run(proto, {"x": np.ones((3, 4), np.uint8)})
    assert found["y"].tolist() == np.zeros((3, 2)).tolist()


@pytest.mark.parametrize("size", [0, -3])
def test_response_normalisation_over_no_channels(size: int) -> None:
    node = helper.make_node("LRN", ["x"], ["y"], size=size)
    with pytest.raises(GraphError, match=f"the sum goes over at least one channel, not {size}"):
        import_onnx(model([node], [value("x", [1, 2, 3, 4])], ["y"]))


def test_the_mask_of_one_dropped_number() -> None:
    node = helper.make_node("Dropout", ["x"], ["y", "mask"])
    found = run(model([node], [], ["y", "mask"], [constant("x", 0.5, "float32")], opset=22), {})
    assert found["mask"].shape == ()
    assert found["mask"].all()


def test_pairs_are_side_by_side_or_not() -> None:
    """Implementations disagree about other numbers."""
    node = helper.make_node("RotaryEmbedding", ["x", "c", "c", "p"], ["y"], interleaved=2)
    inputs = [value("x", [2, 4, 3, 8]), value("c", [50, 4]), value("p", [2, 3], INT64)]
    with pytest.raises(GraphError, match="interleaved is 0 or 1, not 2"):
        import_onnx(model([node], inputs, ["y"], opset=23))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_the_extreme_of_nothing(op: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], axis=1, select_last_index=1)
    with pytest.raises(GraphError, match="no element of an empty axis is the extreme one"):
        import_onnx(model([node], [], ["y"], [constant("x", np.zeros((2, 0)), "float32")]))


@pytest.mark.parametrize("limit", [np.nan, np.inf])
def test_ranges_without_an_end(limit: float) -> None:
    node = helper.make_node("Range", ["a", "b", "c"], ["y"])
    weights = [constant(n, v, "float32") for n, v in (("a", 0.0), ("b", limit), ("c", 1.0))]
    with pytest.raises(GraphError, match="has no end"):
        import_onnx(model([node], [], ["y"], weights))


def test_numbers_without_axes() -> None:
    weights = [constant("x", 1.0, "float32")]
    node = helper.make_node("Unique", ["x"], ["y"], axis=0)
    with pytest.raises(GraphError, match="a single number has no axes"):
        import_onnx(model([node], [], ["y"], weights))
    for version, inputs, attrs in ((9, ["x"], {"k": 1}), (13, ["x", "k"], {})):
        node = helper.make_node("TopK", inputs, ["y", "z"], **attrs)
        given = [value("k", [1], INT64)] if version == 13 else []
        with pytest.raises(GraphError, match="a single number has no largest elements"):
            import_onnx(model([node], given, ["y", "z"], weights, opset=version))
    with pytest.raises(GraphError, match="has no channels"):
        import_onnx(model([helper.make_node("LRN", ["x"], ["y"], size=1)], [], ["y"], weights))


@pytest.mark.parametrize("k", [2**62, -(2**62)])
def test_triangles_far_away(k: int) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    node = helper.make_node("Trilu", ["x", "k"], ["y"])
    for inputs, weights in (([], [constant("x", x, "float32")]), ([value("x", [3, 4])], [])):
        proto = model([node], inputs, ["y"], [*weights, constant("k", k, "int64")])
        found = run(proto, {"x": x} if inputs else {})
        assert found["y"].tolist() == (x if k < 0 else x * 0).tolist()


def test_biases_of_other_channels() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"])
    weights = [constant(n, np.ones(s), "float32") for n, s in (("w", (2, 3, 1, 1)), ("b", (4,)))]
    with pytest.raises(GraphError, match="the bias must hold a number for each of 3 channels"):
        import_onnx(model([node], [value("x", [1, 2, 5, 5])], ["y"], weights))


def test_quantized_pools_without_a_scale() -> None:
    node = helper.make_node("QLinearAveragePool", ["x", "", "z", "s", "z"], ["y"], domain="com.microsoft")
    node.attribute.append(helper.make_attribute("kernel_shape", [2, 2]))
    weights = [constant("s", 0.5, "float32"), constant("z", 3, "uint8")]
    proto = model(
        [node], [value("x", [1, 1, 4, 4], TensorProto.UINT8)], ["y"], weights, domains={"com.microsoft": 1}
    )
    with pytest.raises(GraphError, match="input"):
        import_onnx(proto)


def test_windows_far_larger_than_the_image() -> None:
    node = helper.make_node("AveragePool", ["x"], ["y"], auto_pad="SAME_UPPER", kernel_shape=[2**40, 2**62])
    with pytest.raises(LimitError, match="the window is"):
        import_onnx(model([node], [value("x", [1, 1, 6, 6])], ["y"], opset=19))


def test_what_no_check_has_foreseen_is_an_error_of_the_model() -> None:
    """Positions in constants that are out of range are seen where the constants are worked on."""
    node = helper.make_node("GatherElements", ["x", "i"], ["y"])
    weights = [constant("x", np.zeros((0, 3)), "float32"), constant("i", [[0, 0, 0]], "int64")]
    with pytest.raises(GraphError, match="of these constants has no result"):
        import_onnx(model([node], [], ["y"], weights))
    node = helper.make_node("RotaryEmbedding", ["x", "c", "c"], ["y"], num_heads=2)
    node.input[2] = "s"
    inputs = [value("x", [2, 2, 2, 8]), value("c", [2, 2, 4]), value("s", [])]
    with pytest.raises(GraphError, match=r"its inputs .* do not fit together") as caught:
        import_onnx(model([node], inputs, ["y"], opset=23))
    assert caught.value.hint is not None


def test_depths_that_are_many_numbers() -> None:
    node = helper.make_node("OneHot", ["i", "d", "v"], ["y"])
    inputs = [value("i", [3], INT64), value("d", [65536]), value("v", [2])]
    with pytest.raises(GraphError, match="the depth is one number"):
        import_onnx(model([node], inputs, ["y"], opset=13))


def test_more_samples_than_any_image_has() -> None:
    node = helper.make_node("RoiAlign", ["x", "r", "b"], ["y"], sampling_ratio=2**32)
    inputs = [value("x", [1, 1, 10, 10]), value("r", [3, 4]), value("b", [3], INT64)]
    with pytest.raises(LimitError, match="the samples of one result"):
        import_onnx(model([node], inputs, ["y"], opset=16))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("axes", [[-1], [0, 1]])
def test_the_mean_of_nothing(axes: list[int]) -> None:
    """NaN, without a word."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=axes)
    found = run(model([node], [], ["y"], [constant("x", np.zeros((2, 0)), "float32")], opset=13), {})
    assert np.isnan(found["y"]).all()
