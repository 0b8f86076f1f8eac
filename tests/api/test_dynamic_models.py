"""Models with computed shapes, each compiled once and compared with onnxruntime at many sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tilewright as tw
from tilewright.errors import ShapeError

Nodes = list[onnx.NodeProto]


class Builder:
    """Collects nodes and weights of a model."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: Nodes = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        self._count += 1
        names = [f"{kind}_{self._count}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"{kind}_{self._count}", **attrs))
        return names[0] if outputs == 1 else names

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        self._count += 1
        name = f"const_{self._count}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        data = self._rng.standard_normal(shape) / max(math.prod(shape[1:]), 1) ** 0.5
        return self.const(data, np.float32)

    def model(self, inputs: Mapping[str, Sequence[int | str]], outputs: Sequence[str]) -> bytes:
        makes = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
        graph = helper.make_graph(
            self.nodes,
            "model",
            [makes(name, shape=list(shape)) for name, shape in inputs.items()],
            [makes(name, shape=None) for name in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())


def attention() -> bytes:
    """A transformer block whose heads are split by computed shapes."""
    b = Builder()
    normed = b.op("LayerNormalization", "x", b.weight(32), b.weight(32), axis=-1)
    shape = b.op("Shape", "x")
    batch, time = (b.op("Gather", shape, b.const([n])) for n in (0, 1))
    heads = b.op("Concat", batch, time, b.const([4]), b.const([8]), axis=0)
    q, k, v = (
        b.op(
            "Transpose",
            b.op("Reshape", b.op("MatMul", normed, b.weight(32, 32)), heads),
            perm=[0, 2, 3, 1] if n == 1 else [0, 2, 1, 3],
        )
        for n in range(3)
    )
    scores = b.op("Mul", b.op("MatMul", q, k), b.const(8**-0.5, np.float32))
    mixed = b.op("MatMul", b.op("Softmax", b.op("Add", scores, "mask"), axis=-1), v)
    flat = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.const([0, -1, 32]))
    out = b.op("Add", b.op("MatMul", flat, b.weight(32, 32)), "x")
    hidden = b.op("MatMul", out, b.weight(32, 64))
    gelu = b.op("Mul", hidden, b.op("Sigmoid", hidden))
    y = b.op("Add", b.op("MatMul", gelu, b.weight(64, 32)), out)
    return b.model({"x": ["batch", "time", 32], "mask": ["batch", 1, 1, "time"]}, [y])


def pyramid() -> bytes:
    """Convolutions, pooling, a skip connection through an upsampling, and a global mean."""
    b = Builder()
    first = b.op("Relu", b.op("Conv", "x", b.weight(16, 3, 3, 3), b.weight(16), pads=[1] * 4))
    down = b.op("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])
    deep = b.op("Relu", b.op("Conv", down, b.weight(16, 1, 3, 3), group=16, pads=[1] * 4, strides=[1, 1]))
    deep = b.op("HardSwish", b.op("Conv", deep, b.weight(24, 16, 1, 1), b.weight(24)))
    scales = b.const([1, 1, 2, 2], np.float32)
    up = b.op("Resize", deep, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
              nearest_mode="floor")  # fmt: skip
    both = b.op("Concat", up, first, axis=1)
    y = b.op("Conv", both, b.weight(8, 40, 3, 3), pads=[1] * 4, strides=[2, 2])
    return b.model({"x": ["batch", 3, "h", "w"]}, [y, b.op("GlobalAveragePool", y)])


def cache() -> bytes:
    """Keys appended to those of earlier steps; the newest positions sliced out by a computed start."""
    b = Builder()
    whole = b.op("Concat", "past", b.op("MatMul", "x", b.weight(8, 8)), axis=1)
    steps = b.op("Gather", b.op("Shape", "x"), b.const([1]))
    total = b.op("Gather", b.op("Shape", whole), b.const([1]))
    newest = b.op("Slice", whole, b.op("Sub", total, steps), total, b.const([1]))
    positions = b.op("Range", b.const(0), b.op("Squeeze", total), b.const(1))
    offsets = b.op("Unsqueeze", b.op("Cast", positions, to=TensorProto.FLOAT), b.const([1]))
    return b.model(
        {"x": ["batch", "steps", 8], "past": ["batch", "before", 8]}, [b.op("Add", whole, offsets), newest]
    )


def recurrent() -> bytes:
    """An LSTM over any number of steps and samples."""
    b = Builder()
    y, last, _ = b.op(
        "LSTM", "x", b.weight(1, 32, 6), b.weight(1, 32, 8), b.weight(1, 64), outputs=3, hidden_size=8
    )
    return b.model({"x": ["time", "batch", 6]}, [b.op("Squeeze", y, b.const([1])), last])


def columns() -> bytes:
    """Reductions and normalisations along open dimensions, transposes and splits."""
    b = Builder()
    mean = b.op("ReduceMean", "x", axes=[1], keepdims=1)
    centred = b.op("Sub", "x", mean)
    soft = b.op("Softmax", centred, axis=1)
    turned = b.op("Transpose", soft, perm=[0, 2, 1])
    left, right = b.op("Split", turned, b.const([5, 7]), axis=1, outputs=2)
    largest = b.op("ReduceMax", b.op("Mul", b.op("Slice", left, b.const([1]), b.const([5]), b.const([1])),
                                     b.op("Slice", right, b.const([0]), b.const([4]), b.const([1]))),
                   axes=[2], keepdims=0)  # fmt: skip
    tiled = b.op("Expand", mean, b.op("Shape", "x"))
    return b.model({"x": ["batch", "time", 12]}, [largest, b.op("Add", tiled, "x")])


def filtered() -> bytes:
    """Two 3x3 convolutions, wide enough for minimal filtering at typical sizes."""
    b = Builder()
    first = b.op("Relu", b.op("Conv", "x", b.weight(32, 32, 3, 3), b.weight(32), pads=[1] * 4))
    y = b.op("Add", b.op("Conv", first, b.weight(32, 32, 3, 3), pads=[1, 1, 1, 1]), "x")
    return b.model({"x": ["batch", 32, "h", "w"]}, [y])


CASES: dict[str, tuple[Callable[[], bytes], dict[str, tuple[int, int]]]] = {
    "attention": (attention, {"batch": (1, 3), "time": (1, 70)}),
    "pyramid": (pyramid, {"batch": (1, 2), "h": (4, 40), "w": (4, 70)}),
    "cache": (cache, {"batch": (1, 3), "steps": (1, 20), "before": (0, 40)}),
    "recurrent": (recurrent, {"time": (1, 12), "batch": (1, 6)}),
    "filtered": (filtered, {"batch": (1, 3), "h": (1, 41), "w": (1, 80)}),
    "columns": (columns, {"batch": (1, 4), "time": (1, 90)}),
}


@functools.cache
def compiled(name: str) -> tuple[tw.Model, onnxruntime.InferenceSession]:
    make, dims = CASES[name]
    source = make()
    model = tw.compile(source, dims=dims, cache=False)
    assert len(model.artifact.variants) == 1
    return model, onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def compare(name: str, sizes: Mapping[str, int]) -> None:
    model, reference = compiled(name)
    rng = np.random.default_rng(1)
    feeds = {}
    for spec in model.inputs:
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        feeds[spec.name] = rng.standard_normal(shape).astype(np.float32)
    for got, expected in zip(model(*feeds.values()), reference.run(None, feeds), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_smallest_and_largest_sizes(name: str) -> None:
    dims = CASES[name][1]
    compare(name, {dim: lo for dim, (lo, _) in dims.items()})
    compare(name, {dim: hi for dim, (_, hi) in dims.items()})


@pytest.mark.parametrize("name", [n for n in CASES if n != "pyramid"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_size(name: str, data: st.DataObject) -> None:
    compare(name, {d: data.draw(st.integers(*limits), d) for d, limits in CASES[name][1].items()})


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 2), h=st.integers(2, 20), w=st.integers(2, 35))
def test_any_even_image(batch: int, h: int, w: int) -> None:
    compare("pyramid", {"batch": batch, "h": 2 * h, "w": 2 * w})


def test_open_convolutions_are_filtered_minimally() -> None:
    kernels = compiled("filtered")[0].artifact.variants[0].kernels
    assert sum("winograd" in kernel.name for kernel in kernels) == 2


def broadcasting() -> bytes:
    """Positions repeated over the batch as torch's tracing exporter writes ``expand(-1, n, 4)``: conditions
    on shapes choose between what was asked for and the sizes that there are."""
    b = Builder()
    shape = b.op("Shape", "x")
    batch, length = (b.op("Gather", shape, b.const([n]), axis=0) for n in range(2))
    wanted = b.op("Concat", batch, b.const([-1]), b.const([4]), axis=0)
    ones = b.op("ConstantOfShape", b.op("Shape", wanted), value=numpy_helper.from_array(np.array([1])))
    keep = b.op("Equal", wanted, b.op("Mul", ones, b.const([-1])))
    target = b.op("Where", keep, ones, wanted)
    table = b.op("Slice", b.weight(1, 40, 4), b.const([0]), length, b.const([1]))
    near = b.op("Not", b.op("Less", batch, b.const([1])))
    both = b.op("And", near, b.op("LessOrEqual", length, b.const([40])))
    scale = b.op("Cast", b.op("Add", b.op("Cast", both, to=TensorProto.INT64), length), to=TensorProto.FLOAT)
    repeated = b.op("Mul", b.op("Expand", table, target), scale)
    return b.model({"x": ["batch", "length", 4]}, [b.op("Add", "x", repeated)])


def test_conditions_on_sizes_are_decided_within_the_ranges() -> None:
    source = broadcasting()
    model = tw.compile(source, dims={"batch": (1, 8), "length": (2, 40)})
    session = onnxruntime.InferenceSession(source)
    for batch, length in ((1, 2), (3, 17), (8, 40)):
        x = np.random.default_rng(batch).standard_normal((batch, length, 4)).astype(np.float32)
        (got,) = model(x)
        np.testing.assert_allclose(got, session.run(None, {"x": x})[0], rtol=1e-5, atol=1e-5)
    assert model.compilations == 0


def test_a_size_of_the_example_in_a_reshape() -> None:
    b = Builder()
    batch = b.op("Gather", b.op("Shape", "x"), b.const([0]), axis=0)
    target = b.op("Concat", b.const([15]), b.op("Mul", batch, b.const([4])), axis=0)
    source = b.model({"x": ["batch", "length", 4]}, [b.op("Reshape", "x", target)])
    model = tw.compile(source, dims={"batch": (1, 8), "length": (2, 40)})
    assert model.run({"x": np.zeros((2, 15, 4), np.float32)})
    with pytest.raises(ShapeError, match=r"(?s)it needs \(length == 15\).*export the model again") as caught:
        model.run({"x": np.zeros((2, 16, 4), np.float32)})
    assert "Reshape" in str(caught.value)
    with pytest.raises(ShapeError, match="which no size in range can make them"):
        tw.compile(source, dims={"batch": (1, 8), "length": (16, 40)})


def test_sizes_that_do_not_fit_each_other() -> None:
    model, _ = compiled("pyramid")
    message = r"cannot run with batch=1, h=7, w=8: it needs .*\(for onnx Concat"
    with pytest.raises(ShapeError, match=message):
        model(np.zeros((1, 3, 7, 8), np.float32))


def test_explain_names_the_ranges() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert "variant n=1..6: " in tw.compile(proto, dims={"n": (1, 6)}).explain()
