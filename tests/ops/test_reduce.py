from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, ints, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 2), (0, 1, 2), (-1,), None])
@pytest.mark.parametrize("keepdims", [True, False])
def test_reduce(op: str, axes: tuple[int, ...] | None, keepdims: bool) -> None:
    x = floats(3, 4, 5)
    (got,) = check("reduce", [x], op=op, axes=axes, keepdims=keepdims, rtol=1e-4)
    want = getattr(np, op)(x, axis=axes, keepdims=keepdims)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_axes_may_be_a_constant_input() -> None:
    check("reduce", [floats(3, 4), np.array([-1])], consts=(1,), op="sum", keepdims=False)


def test_reductions_of_integers_and_booleans() -> None:
    check("reduce", [ints(3, 4)], op="mean", axes=(1,), keepdims=True)
    check("reduce", [ints(3, 4, dtype="int32")], op="sum", axes=(0,), keepdims=False)
    check("reduce", [np.array([[True, False], [True, True]])], op="min", axes=(1,), keepdims=False)


def test_reductions_over_nothing_give_the_neutral_element() -> None:
    x = np.zeros((2, 0, 3), np.float32)
    assert check("reduce", [x], op="sum", axes=(1,), keepdims=False)[0].tolist() == [[0.0] * 3] * 2
    assert check("reduce", [x], op="prod", axes=(1,), keepdims=False)[0].tolist() == [[1.0] * 3] * 2
    assert check("reduce", [x], op="max", axes=(1,), keepdims=True)[0].tolist() == [[[-np.inf] * 3]] * 2
    assert check("reduce", [np.zeros((0, 3), np.float32)], op="sum", axes=(1,), keepdims=True)[0].shape == (
        0,
        1,
    )


def test_half_precision_sums_in_single() -> None:
    assert check("reduce", [np.ones((1, 4096), np.float16)], op="sum", axes=(1,), keepdims=False)[
        0
    ].tolist() == [4096.0]


def test_nan_reaches_maxima() -> None:
    x = np.array([[1.0, np.nan], [2.0, 3.0]], np.float32)
    (got,) = check("reduce", [x], op="max", axes=(1,), keepdims=False)
    assert np.isnan(got[0])
    assert got[1] == 3.0


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(op: str, axis: int) -> None:
    x = floats(3, 4, 5, low=-50, high=50)
    (got,) = check(op, [x], axis=axis, rtol=1e-4)
    total = np.exp(got) if op == "log_softmax" else got
    np.testing.assert_allclose(total.sum(axis), 1, rtol=1e-5)


def test_softmax_survives_large_and_masked_values() -> None:
    (got,) = check("softmax", [np.array([[1e4, 0.0, -np.inf]], np.float32)], axis=1)
    assert got.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("op", ["argmax", "argmin"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
def test_arg_reductions_with_ties(op: str, last: bool, keepdims: bool) -> None:
    x = ints(4, 9, low=0, high=3, dtype="int32")
    (got,) = check(op, [x], axis=1, select_last=last, keepdims=keepdims)
    extreme = x.max(1) if op == "argmax" else x.min(1)
    rows = [np.flatnonzero(row == e) for row, e in zip(x, extreme, strict=True)]
    assert got.reshape(-1).tolist() == [r[-1 if last else 0] for r in rows]


def test_argmax_of_nan_is_its_position() -> None:
    assert check("argmax", [np.array([1.0, np.nan, 3.0], np.float32)], axis=0, keepdims=False)[0] == 1


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, -1])
def test_cumsum(exclusive: bool, reverse: bool, axis: int) -> None:
    check("cumsum", [floats(3, 6)], axis=axis, exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((2, 49), 1), ((50, 3), 0), ((2, 1100), -1), ((33, 1, 2), 0)])
def test_cumsum_of_long_axes_in_blocks(
    exclusive: bool, reverse: bool, shape: tuple[int, ...], axis: int
) -> None:
    x = np.round(floats(*shape) * 8)  # sums of integers are exact in any order
    check("cumsum", [x], axis=axis, exclusive=exclusive, reverse=reverse)
    check("cumsum", [x.astype(np.int64)], axis=axis, exclusive=exclusive, reverse=reverse)


def test_cumsum_in_blocks_keeps_infinities_to_their_right() -> None:
    x = np.ones((1, 100), np.float32)
    x[0, 40] = np.inf
    (y,) = check("cumsum", [x], axis=1)
    assert np.isfinite(y[0, :40]).all()
    assert np.isinf(y[0, 40:]).all()


def test_cumsum_of_halves_is_rounded_once() -> None:
    x = np.full((1, 3000), 1.001, np.float16)
    (y,) = check("cumsum", [x], axis=1, rtol=1e-3)
    np.testing.assert_allclose(y[0, -1], 3000 * float(x[0, 0]), rtol=1e-3)


def test_bad_axes_are_rejected() -> None:
    x = TensorType.make((2, 3), "float32")
    with pytest.raises(GraphError, match="axis 2 is outside"):
        type_of("reduce", [x], op="sum", axes=(2,))
    with pytest.raises(GraphError, match="twice"):
        type_of("reduce", [x], op="sum", axes=(1, -1))
    with pytest.raises(GraphError, match="no reduction 'median'"):
        type_of("reduce", [x], op="median")


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int32", "float16"])
def test_cumprod(exclusive: bool, reverse: bool, dtype: str) -> None:
    for axis in (0, 1, -1):
        x = floats(3, 5, 4, low=0.5, high=1.5).astype(dtype)
        check("cumprod", [x], axis=axis % 3, exclusive=exclusive, reverse=reverse, rtol=2e-3)
    check("cumprod", [floats(0, 3)], axis=0, exclusive=exclusive, reverse=reverse)
    check("cumprod", [floats(1, 3)], axis=0, exclusive=exclusive, reverse=reverse)


def test_means_of_integers_lose_their_fraction() -> None:
    x = np.array([[-1, -1, 0], [-7, 1, 0], [5, 3, 0], [-3, -3, -3]], np.int32)
    (result,) = check("reduce", [x], op="mean", axes=(1,), keepdims=False)
    np.testing.assert_array_equal(result, [0, -2, 2, -3])
    (result,) = check("reduce", [np.abs(x).astype(np.uint8)], op="mean", axes=(1,), keepdims=False)
    np.testing.assert_array_equal(result, [0, 2, 2, 3])
