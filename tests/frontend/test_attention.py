"""Attention and rotary embeddings of both domains against onnxruntime and ONNX's reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tilewright as tw
from tests.frontend.models import agree, model, run, run_peer, value
from tests.frontend.nodes import floats, node, rng
from tilewright.errors import UnsupportedError

Arrays = dict[str, np.ndarray | None]


# -------------------------------------------------------------------------------- Attention, rotary embedding
@pytest.mark.parametrize("mask", [None, "lengths", "ranges", "cumulated", "keys", "pairs"])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [False, True])
def test_attention(mask: str | None, causal: int, past: bool) -> None:
    b, s, heads, size, old = 2, 5, 2, 4, 3 if past else 0
    masks = {
        None: None,
        "lengths": np.array([4, 5], np.int32),
        "ranges": np.array([4, 5, 1, 0], np.int32),
        "cumulated": np.array([4, 5, 0, 4, 9, 0, 4, 9], np.int32),
        "keys": np.tril(np.ones((s + old, s + old), np.int32))[[old + 2, old + 4]],
        "pairs": rng.integers(0, 2, (b, s, s + old)).astype(np.int32),
    }
    arrays = {
        "x": floats(b, s, 6),
        "w": floats(6, 3 * heads * size),
        "b": floats(3 * heads * size),
        "m": masks[mask],
        "p": floats(2, b, heads, old, size) if past else None,
    }
    if mask == "pairs":
        arrays["m"] |= np.eye(s, s + old, old, dtype=np.int32)
    outputs = ("y", "present") if past else ("y",)
    agree(*node("Attention", arrays, outputs, num_heads=heads, unidirectional=causal))


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention(causal: int, past: bool, bias: bool) -> None:
    b, s, heads, size = 2, 4, 2, 4
    width = heads * size
    arrays = {
        "q": floats(b, s, width), "k": floats(b, s, width), "v": floats(b, s, width),
        "b": floats(3 * width) if bias else None, "m": None,
        "a": floats(1, heads, s, s + 3 * past),
        "pk": floats(b, heads, 3, size) if past else None, "pv": floats(b, heads, 3, size) if past else None,
    }  # fmt: skip
    outputs = ("y", "k2", "v2") if past else ("y",)
    agree(*node("MultiHeadAttention", arrays, outputs, num_heads=heads, unidirectional=causal, scale=0.3))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_rotary_embedding(interleaved: int, heads: bool, partial: bool) -> None:
    size = 8
    half = size // 4 if partial else size // 2
    x = floats(2, 3, 5, size) if heads else floats(2, 5, 3 * size)
    angles = rng.uniform(0, 3, (9, half)).astype(np.float32)
    attrs: dict[str, Any] = {"interleaved": interleaved}
    if partial:
        attrs |= {"rotary_embedding_dim": 2 * half, "num_heads": 3}
    for places in (np.array([2], np.int64), rng.integers(0, 9, (2, 5)).astype(np.int64)):
        agree(
            *node("RotaryEmbedding", {"x": x, "p": places, "c": np.cos(angles), "s": np.sin(angles)}, **attrs)
        )


# ----------------------------------------------------------------------------------------- MultiHeadAttention
def heads_of(past: int, *, b: int = 2, s: int = 3, heads: int = 2, size: int = 4) -> Arrays:
    width = heads * size
    return {
        "q": floats(b, s, width), "k": floats(b, s, width), "v": floats(b, s, width), "b": None,
        "m": None, "a": None,
        "pk": floats(b, heads, past, size) if past else None,
        "pv": floats(b, heads, past, size) if past else None,
    }  # fmt: skip


@pytest.mark.parametrize("mask", ["lengths", "keys", "pairs"])
@pytest.mark.parametrize("past", [0, 3])
def test_masks_of_multi_head_attention(mask: str, past: int) -> None:
    arrays = heads_of(past)
    keys = 3 + past
    arrays["m"] = {
        "lengths": np.array([1, 3], np.int32),
        "keys": np.tril(np.ones((keys, keys), np.int32))[[1, keys - 1]],
        "pairs": rng.integers(0, 2, (2, 3, keys)).astype(np.int32),
    }[mask]
    outputs = ("y", "k2", "v2") if past else ("y",)
    agree(*node("MultiHeadAttention", arrays, outputs, num_heads=2))


def test_packed_operands_are_those_side_by_side() -> None:
    """onnxruntime has these forms on GPUs only."""
    arrays = heads_of(0)
    want = run(*node("MultiHeadAttention", arrays | {"b": (bias := floats(24))}, num_heads=2))["y"]
    q, k, v = (np.asarray(arrays[n]).reshape(2, 3, 2, 4) for n in "qkv")
    two = {"q": arrays["q"], "k": np.stack([k, v], 3), "v": None, "b": bias}
    three = {"q": np.stack([q, k, v], 3), "k": None, "v": None, "b": bias}
    for packed in (two, three):
        got = run(*node("MultiHeadAttention", packed, num_heads=2))["y"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_keys_and_values_as_heads() -> None:
    arrays = {"q": floats(2, 3, 8), "k": floats(2, 2, 5, 4), "v": floats(2, 2, 5, 4)}
    agree(*node("MultiHeadAttention", arrays, num_heads=2))


@pytest.mark.parametrize("bias", [False, True])
def test_one_step_of_a_decoder_with_a_fixed_cache(bias: bool) -> None:
    room, filled = 7, 4
    arrays: Arrays = {
        "q": floats(2, 1, 8), "k": floats(2, 1, 8), "v": floats(2, 1, 8),
        "m": None, "a": None, "pk": floats(2, 2, room, 4), "pv": floats(2, 2, room, 4),
        "n": np.array([filled], np.int32), "w": None, "c": None, "b": floats(24) if bias else None,
    }  # fmt: skip
    outputs = ("y", "pk2", "pv2")
    proto, feeds = node(
        "DecoderMaskedMultiHeadAttention", arrays, outputs, num_heads=2, past_present_share_buffer=1
    )
    got = run(proto, feeds)
    grown = {
        "q": arrays["q"], "k": arrays["k"], "v": arrays["v"], "b": arrays["b"], "m": None, "a": None,
        "pk": feeds["pk"][:, :, :filled], "pv": feeds["pv"][:, :, :filled],
    }  # fmt: skip
    want = run_peer(*node("MultiHeadAttention", grown, outputs, num_heads=2))
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-6)
    for name, cache in (("pk2", feeds["pk"]), ("pv2", feeds["pv"])):
        np.testing.assert_array_equal(got[name][:, :, : filled + 1], want[name])
        np.testing.assert_array_equal(got[name][:, :, filled + 1 :], cache[:, :, filled + 1 :])


# ---------------------------------------------------------------------------------------- GroupQueryAttention
def grouped(
    *,
    b: int = 2,
    steps: int = 3,
    past: int = 0,
    room: int | None = None,
    count: int = 4,
    shared: int = 2,
    size: int = 16,
    lengths: tuple[int, ...] | None = None,
    packed: bool = False,
    rotary: bool = False,
    positions: bool = False,
    bias: bool = False,
    sink: bool = False,
) -> Arrays:
    """Operands of a GroupQueryAttention; ``room`` is the length of the caches."""
    total = past + steps
    room = past if room is None else room
    angles = rng.uniform(0, 3, (max(total, room) + 1, size // 2)).astype(np.float32)
    q, k, v = floats(b, steps, count * size), floats(b, steps, shared * size), floats(b, steps, shared * size)
    counts = np.array(lengths or (total,) * b, np.int32)
    where = np.maximum(counts - steps, 0)[:, None] + np.arange(steps)
    return {
        "q": np.concatenate([q, k, v], 2) if packed else q,
        "k": None if packed else k,
        "v": None if packed else v,
        "pk": floats(b, shared, room, size) if room or past else None,
        "pv": floats(b, shared, room, size) if room or past else None,
        "l": counts - 1,
        "t": np.array(total, np.int32),
        "cos": np.cos(angles) if rotary else None,
        "sin": np.sin(angles) if rotary else None,
        "p": where.astype(np.int64) if positions else None,
        "a": floats(b, 1, steps, total) if bias else None,
        "h": floats(count) if sink else None,
    }


GROUPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prompt": ({}, {}),
    "prompt with an empty past": ({"room": 9}, {}),
    "step": ({"steps": 1, "past": 5}, {}),
    "several steps": ({"past": 5, "b": 1}, {}),
    "lengths": ({"steps": 1, "past": 5, "lengths": (6, 3), "room": 9}, {}),
    "buffers": ({"steps": 1, "past": 5, "room": 9}, {}),
    "packed": ({"packed": True, "past": 4, "b": 1}, {}),
    "rotary": ({"rotary": True, "steps": 1, "past": 4, "lengths": (5, 2), "room": 8}, {"do_rotary": 1}),
    "rotary prompt": ({"rotary": True}, {"do_rotary": 1, "rotary_interleaved": 1}),
    "packed rotary": ({"packed": True, "rotary": True, "steps": 1, "past": 4}, {"do_rotary": 1}),
    "positions": ({"rotary": True, "positions": True, "b": 1, "past": 2}, {"do_rotary": 1}),
    "window": ({"past": 5, "b": 1}, {"local_window_size": 3}),
    "window prompt": ({"steps": 7}, {"local_window_size": 2}),
    "softcap": ({"past": 2, "b": 1}, {"softcap": 0.7, "scale": 0.4}),
    "smooth": ({"past": 2, "b": 1}, {"smooth_softmax": 1}),
    "sink": ({"sink": True}, {}),
    "bias": ({"bias": True, "past": 3, "b": 1}, {}),
    "one head of keys": ({"shared": 1, "steps": 5}, {}),
    "as many heads": ({"shared": 4, "steps": 5}, {}),
    "all": (
        {"steps": 1, "past": 4, "lengths": (5, 2), "room": 8, "rotary": True, "packed": True, "bias": True},
        {"do_rotary": 1, "local_window_size": 3, "softcap": 2.0, "smooth_softmax": 1},
    ),
}


@pytest.mark.parametrize("case", GROUPED)
def test_group_query_attention(case: str) -> None:
    sizes, attrs = GROUPED[case]
    arrays = grouped(**sizes)
    proto, feeds = node(
        "GroupQueryAttention", arrays, ("y", "pk2", "pv2"), fixed=("t",),
        num_heads=sizes.get("count", 4), kv_num_heads=sizes.get("shared", 2), **attrs,
    )  # fmt: skip
    got, want = run(proto, feeds), run_peer(proto, feeds)
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-4, atol=1e-5)
    for name in ("pk2", "pv2"):
        assert got[name].shape == want[name].shape
        for sample, last in enumerate(feeds["l"]):  # behind that, onnxruntime leaves what was in memory
            np.testing.assert_allclose(
                got[name][sample, :, : last + 1], want[name][sample, :, : last + 1], rtol=1e-4, atol=1e-5
            )


def test_group_query_attention_with_everything_open() -> None:
    """As exporters write it: lengths come from a mask, whose width is the total length."""
    count, shared, size = 4, 2, 16
    angles = rng.uniform(0, 3, (40, size // 2)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["mask", "axis"], ["sums"], keepdims=0),
        helper.make_node("Sub", ["sums", "axis"], ["less"]),
        helper.make_node("Cast", ["less"], ["l"], to=onnx.TensorProto.INT32),
        helper.make_node("Shape", ["mask"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["width"]),
        helper.make_node("Cast", ["width"], ["t"], to=onnx.TensorProto.INT32),
        helper.make_node(
            "GroupQueryAttention", ["q", "k", "v", "pk", "pv", "l", "t", "cos", "sin"], ["y", "pk2", "pv2"],
            domain="com.microsoft", num_heads=count, kv_num_heads=shared, do_rotary=1,
        ),
    ]  # fmt: skip
    cache = ["b", shared, "p", size]
    inputs = [
        value("q", ["b", "s", count * size]), value("k", ["b", "s", shared * size]),
        value("v", ["b", "s", shared * size]), value("pk", cache), value("pv", cache),
        value("mask", ["b", "t"], onnx.TensorProto.INT64),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(a, n)
        for n, a in (("axis", np.array([1])), ("cos", np.cos(angles)), ("sin", np.sin(angles)))
    ]
    proto = model(nodes, inputs, ["y", "pk2", "pv2"], constants, domains={"com.microsoft": 1})
    compiled = tw.compile(
        proto.SerializeToString(), dims={"b": (1, 3), "s": (1, 8), "p": (0, 24), "t": (1, 32)}
    )
    for b, s, p in ((1, 1, 0), (2, 5, 0), (2, 1, 7), (1, 4, 6), (3, 8, 0)):
        feeds = {
            "q": floats(b, s, count * size), "k": floats(b, s, shared * size),
            "v": floats(b, s, shared * size), "pk": floats(b, shared, p, size),
            "pv": floats(b, shared, p, size), "mask": np.ones((b, p + s), np.int64),
        }  # fmt: skip
        if b > 1 and p:
            feeds["mask"][0, :3] = 0
        got, want = compiled.run(feeds), run_peer(proto, feeds)
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-4, atol=1e-5)
        assert got["pk2"].shape == want["pk2"].shape
        for sample, filled in enumerate(feeds["mask"].sum(1)):
            for name in ("pk2", "pv2"):
                np.testing.assert_allclose(
                    got[name][sample, :, :filled], want[name][sample, :, :filled], rtol=1e-4, atol=1e-5
                )


# ---------------------------------------------------------------------------------- Attention of the standard
def standard(arrays: Mapping[str, np.ndarray | None], opset: int, **attrs: Any) -> dict[str, np.ndarray]:
    """Our results for an Attention, held equal to those of ONNX's reference."""
    proto, feeds = node("Attention", dict(arrays), ("y", "k2", "v2", "qk"), domain="", **attrs)
    proto.opset_import[0].version = opset
    if "n" in arrays:
        for index in (1, 2):
            proto.graph.node[0].output[index] = ""
        del proto.graph.output[1:3]
    got = run(proto, feeds)
    want = ReferenceEvaluator(proto).run(None, feeds)
    for name, array in zip(got, want, strict=True):
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)
    return got


MASKS = {
    "none": None,
    "bool": rng.integers(0, 2, (2, 1, 3, 5)).astype(bool),
    "rows": np.where(rng.integers(0, 2, (3, 5)), 0, -np.inf).astype(np.float32),
    "heads": rng.standard_normal((4, 3, 5)).astype(np.float32),
    "short": rng.integers(0, 2, (3, 4)).astype(bool),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("form", ["flat", "heads", "past"])
def test_standard_attention(mask: str, causal: int, form: str) -> None:
    if mask == "short" and form != "heads":
        form = "heads"
    keys = 2 if form == "past" else 5
    shapes = (
        [(2, 3, 16), (2, keys, 8), (2, keys, 6)]
        if form == "flat"
        else [(2, 4, 3, 4), (2, 2, keys, 4), (2, 2, keys, 3)]
    )
    arrays: Arrays = dict(zip("qkv", (floats(*s) for s in shapes), strict=True)) | {"m": MASKS[mask]}
    if form == "past":
        arrays |= {"pk": floats(2, 2, 3, 4), "pv": floats(2, 2, 3, 3)}
    attrs: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2} if form == "flat" else {}
    for mode in range(4):
        more = {"scale": 0.3} if mode == 1 else {"softcap": 0.8} if mode == 2 else {}
        standard(arrays, 24, is_causal=causal, qk_matmul_output_mode=mode, **more, **attrs)


@pytest.mark.parametrize("causal", [0, 1])
def test_standard_attention_over_a_filled_cache(causal: int) -> None:
    arrays: Arrays = {
        "q": floats(2, 4, 3, 4), "k": floats(2, 2, 5, 4), "v": floats(2, 2, 5, 4), "m": None, "pk": None,
        "pv": None, "n": np.array([2, 5], np.int64),
    }  # fmt: skip
    standard(arrays, 24, is_causal=causal)
    for left, right in ((1, -1), (-1, 1), (1, 0)):
        standard(arrays, 25, is_causal=causal, left_window_size=left, right_window_size=right)


def test_standard_attention_with_everything_open() -> None:
    names = ("q", "k", "v", "m", "pk", "pv")
    made = helper.make_node("Attention", names, ["y", "k2", "v2"], is_causal=1)
    shapes = [
        ["b", 4, "s", 8],
        ["b", 2, "s", 8],
        ["b", 2, "s", 8],
        ["b", 1, "s", "t"],
        ["b", 2, "p", 8],
        ["b", 2, "p", 8],
    ]
    infos = [value(n, s) for n, s in zip(names, shapes, strict=True)]
    proto = model([made], infos, ["y", "k2", "v2"], opset=24)
    compiled = tw.compile(
        proto.SerializeToString(), dims={"b": (1, 3), "s": (1, 8), "p": (0, 24), "t": (1, 32)}
    )
    for b, s, p in ((1, 1, 0), (2, 5, 0), (2, 1, 7), (3, 4, 6)):
        sizes = {"b": b, "s": s, "p": p, "t": s + p}
        feeds = {n: floats(*(sizes.get(d, d) for d in shape)) for n, shape in zip(names, shapes, strict=True)}
        got, want = compiled.run(feeds), ReferenceEvaluator(proto).run(None, feeds)
        for name, array in zip(got, want, strict=True):
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------- messages
def test_what_is_not_supported_says_so() -> None:
    beams = heads_of(3) | {"n": np.array([3], np.int32), "c": np.zeros((2, 1, 3), np.int32)}
    with pytest.raises(UnsupportedError, match="several beams"):
        run(*node("MultiHeadAttention", beams, num_heads=2))
    arrays = grouped() | dict.fromkeys("pah") | {"s": floats(1), "z": floats(1)}
    with pytest.raises(UnsupportedError, match="quantized caches"):
        run(*node("GroupQueryAttention", arrays, fixed=("t",), num_heads=4, kv_num_heads=2))
    outputs = ("y", "k2", "v2", "qk")
    with pytest.raises(UnsupportedError, match="scores as an output"):
        run(*node("MultiHeadAttention", heads_of(0), outputs, num_heads=2))
    arrays = {"x": floats(1, 2, 4), "w": floats(4, 12), "b": floats(12)}
    with pytest.raises(UnsupportedError, match="rotary embeddings and shared caches"):
        run(*node("Attention", arrays, num_heads=2, do_rotary=1))


@pytest.mark.parametrize("modified", [False, True])
def test_flex_attention(modified: bool) -> None:
    def body(op: str, factor: float) -> onnx.GraphProto:
        constant = helper.make_node("Constant", [], ["c"], value_float=factor)
        x, y = (value(n, [2, 4, 3, 5]) for n in "xy")
        return helper.make_graph([constant, helper.make_node(op, ["x", "c"], ["y"])], "body", [x], [y])

    arrays: Arrays = {"q": floats(2, 4, 3, 8), "k": floats(2, 2, 5, 8), "v": floats(2, 2, 5, 6)}
    attrs: dict[str, Any] = {"score_mod": body("Sub", 0.5), "prob_mod": body("Mul", 2.0)} if modified else {}
    proto, feeds = node("FlexAttention", arrays, domain="ai.onnx.preview", scale=0.3, **attrs)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.preview", 1))
    proto.opset_import[0].version = 24
    got, (want,) = run(proto, feeds)["y"], ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
