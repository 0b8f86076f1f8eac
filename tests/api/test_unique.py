"""Distinct elements and rows, beside ONNX's reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tilewright as tw
from tests.api.test_computed import model

NAMES = ["values", "first", "inverse", "counts"]


def unique(
    kind: int, shape: list[int | str], axis: int | None, in_order: int, outputs: int = 4
) -> onnx.ModelProto:
    attrs = {"sorted": in_order} | ({} if axis is None else {"axis": axis})
    node = helper.make_node("Unique", ["x"], NAMES[:outputs], **attrs)
    return model(
        [node],
        {"x": (kind, shape)},
        dict(zip(NAMES[:outputs], [kind, *[TensorProto.INT64] * 3], strict=False)),
    )


def expected(x: np.ndarray, axis: int | None, in_order: int) -> list[np.ndarray]:
    """As ONNX defines it: sorted, or in the order of the first ones."""
    _, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not in_order:
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        first, inverse, counts = first[order], place[inverse], counts[order]
    return [np.take(x, first, axis), first, inverse, counts]


def assert_same(got: list[np.ndarray], x: np.ndarray, axis: int | None, in_order: int) -> None:
    for name, a, b in zip(NAMES, got, expected(x, axis, in_order), strict=False):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize(("axis", "in_order"), [(None, 1), (None, 0), (0, 1), (-1, 0)])
def test_modes(axis: int | None, in_order: int) -> None:
    proto = unique(TensorProto.FLOAT, [6, 4], axis, in_order)
    rng = np.random.default_rng(0)
    xs = [rng.integers(0, high, (6, 4)).astype(np.float32) for high in (1, 2, 3, 50)]
    xs.append(np.where(rng.random((6, 4)) < 0.4, np.nan, xs[1]).astype(np.float32))
    reference = ReferenceEvaluator(proto)
    compiled = tw.compile(proto, threads=2, cache=False)
    for x in xs:
        got = compiled(x)
        if axis is None or not np.isnan(x).any():  # NumPy tells NaN apart in rows
            assert_same(got, x, axis, in_order)
        if in_order and not np.isnan(x).any():
            for a, b in zip(got, reference.run(None, {"x": x}), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float16", "bool"])
def test_types(dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    compiled = tw.compile(unique(kind, [9], None, 1), cache=False)
    x = np.random.default_rng(1).integers(0, 5, 9).astype(dtype)
    assert_same(compiled(x), x, None, 1)


def test_fewer_outputs_and_nothing() -> None:
    x = np.array([3, 1, 3, 2], np.float32)
    for count in (1, 3):
        compiled = tw.compile(unique(TensorProto.FLOAT, [4], None, 0, count), cache=False)
        assert len(compiled.outputs) == count
        assert_same(compiled(x), x, None, 0)
    empty = np.zeros(0, np.float32)
    for shape in ([0], ["n"]):
        compiled = tw.compile(unique(TensorProto.FLOAT, shape, None, 1), cache=False)
        assert [r.shape for r in compiled(empty)] == [(0,)] * 4


_ranged = tw.compile(
    unique(TensorProto.INT32, ["n", "m"], 0, 0), dims={"n": (0, 12), "m": (1, 4)}, cache=False
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_any_size_from_one_variant(rows: int, columns: int, values: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, values, (rows, columns)).astype(np.int32)
    if rows:
        assert_same(_ranged(x), x, 0, 0)
    else:
        assert [r.shape for r in _ranged(x)] == [(0, columns), (0,), (0,), (0,)]
