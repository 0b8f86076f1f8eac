from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import tilewright
from tests.frontend.models import INT64, agree, constant, model, value
from tests.ops.harness import check, floats, ints, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("k", [0, 1, 3, 7])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "float16"])
def test_top_k(largest: bool, k: int, dtype: str) -> None:
    x = ints(4, 7, low=0, high=5).astype(dtype)  # with ties: the first one counts
    check("top_k", [x], k=k, largest=largest)


@pytest.mark.parametrize("size", [1, 17, 64, 100])
def test_rows_of_many_parts(size: int) -> None:
    x = ints(3, size, low=-20, high=20).astype(np.float32)
    for k in {1, size // 2, size}:
        check("top_k", [x], k=k, largest=bool(k % 2))


def test_infinities_are_numbers_too() -> None:
    x = np.array([[np.inf, 1, -np.inf, np.inf, -np.inf]], np.float32)
    for largest in (False, True):
        check("top_k", [x], k=5, largest=largest)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_agrees_with_onnxruntime(axis: int, largest: int) -> None:
    x = floats(4, 5, 6)
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=axis, largest=largest)
    outputs = ["v", value("i", None, INT64)]
    proto = model([node], [value("x", x.shape)], outputs, [constant("k", [3])])
    want = agree(proto, {"x": x})
    got = tilewright.compile(proto, threads=1, cache=False).run({"x": x})
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


def test_more_than_there_are() -> None:
    with pytest.raises(GraphError, match="k from 0 to N"):
        type_of("top_k", [TensorType.make((2, 3), "float32")], k=4)
