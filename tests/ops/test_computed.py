"""The operators behind sizes that data decide: tensor expressions against their references."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, ints, reference
from tilewright.errors import GraphError
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.ops.computed import range_length
from tilewright.ops.unique import sorted_order


@pytest.mark.parametrize("dtype", ["float32", "bool", "uint8", "float16"])
@pytest.mark.parametrize("size", [1, 2, 37])
def test_counts_and_positions(dtype: str, size: int) -> None:
    for high in (1, 2, 40):
        x = ints(size, low=0, high=high).astype(dtype)
        (counts,) = check("running_count", [x])
        (places,) = check("positions", [counts])
        found = np.flatnonzero(x)
        assert counts[-1] == found.size
        np.testing.assert_array_equal(places[: found.size], found)


def test_counts_of_nan_and_negative_zero() -> None:
    assert check("running_count", [np.array([np.nan, -0.0, 0.0, -1.0], np.float32)])[0].tolist() == [
        0,
        1,
        1,
        1,
        2,
    ]


def test_positions_within_rows() -> None:
    for share in (0.0, 0.4, 1.0):
        mask = floats(4, 9, low=0, high=1) < share
        counts = reference("running_count", [mask.reshape(-1)])[0]
        places, each = check("row_positions", [counts], rows=4, size=9)
        for row, place, count in zip(mask, places, each, strict=True):
            np.testing.assert_array_equal(place[:count], np.flatnonzero(row))


def test_parts_of_flat_positions() -> None:
    flat = ints(11, low=0, high=24)
    for shape in ((24,), (4, 6), (2, 3, 4)):
        (parts,) = check("unravel", [flat], shape=shape)
        np.testing.assert_array_equal(np.ravel_multi_index(tuple(parts), shape), flat)


def test_the_front_of_a_tensor() -> None:
    x = floats(7, 3)
    for count in (0, 3, 7):
        np.testing.assert_array_equal(check("front", [x, np.array(count)], dim=count)[0], x[:count])


def test_a_size_is_one_number() -> None:
    check("size_of", [np.array(3)], dim=3, most=5)
    for count in (np.array([3]), np.array(3, np.int32)):
        with pytest.raises(GraphError, match="size_of takes one int64"):
            check("size_of", [count], dim=3, most=5)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32", "float64", "float16", "bfloat16"])
def test_ranges(dtype: str) -> None:
    import ml_dtypes  # noqa: F401 - bfloat16

    kind = np.dtype(dtype)
    for numbers in ((0, 7, 2), (3, 3, 1), (5, 1, 1), (9, 2, -3), (2, 9, 0)):
        if dtype == "uint8" and min(numbers) < 0:
            continue
        start, limit, delta = (np.array(n).astype(kind) for n in numbers)
        (length,) = check("range_length", [start, limit, delta])
        if numbers[2]:
            wanted = np.arange(*numbers)
            (got,) = check("arange", [start, delta, length], dim=int(length))
            np.testing.assert_array_equal(got.astype(np.float64), wanted)


def test_lengths_that_are_no_numbers() -> None:
    endless = 1 << 60
    one = np.float32(1)
    assert range_length(np.int64(0), np.int64(5), np.int64(0)) == -1
    for numbers in ((0, np.inf, 1), (0, 1, 0), (np.nan, 1, 1), (0, 3e38, 1e-30)):
        arrays = [np.float32(n) * one for n in numbers]
        assert check("range_length", [np.asarray(a) for a in arrays])[0] == endless
    assert (
        check("range_length", [np.float32(0).reshape(()), np.float32(-np.inf).reshape(()), np.asarray(one)])[
            0
        ]
        == 0
    )


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float16"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (9, 1), (12, 3)])
def test_ranks_of_rows(dtype: str, rows: int, columns: int) -> None:
    x = ints(rows, columns, low=0, high=3).astype(dtype)
    if dtype.startswith("float"):
        x[floats(rows, columns) > 1.2] = np.nan
        x[floats(rows, columns) > 1.2] = np.inf
    (ranks,) = check("row_ranks", [x])
    order = np.argsort(ranks)
    assert sorted(ranks) == list(range(rows))
    check("row_changes", [x[order]])
    if not (dtype.startswith("float") and np.isnan(x).any()):
        assert [tuple(r) for r in x[order]] == sorted(map(tuple, x))


def order_of(x: np.ndarray) -> np.ndarray:
    """Positions in order: step by step by the operators, all together by the graph's meaning."""
    order, (keys,) = np.arange(x.size), check("sort_keys", [x])
    for _ in range(max(x.dtype.itemsize, 4) if x.dtype.kind not in "iu" else x.dtype.itemsize):
        order, keys = check("byte_order", [keys, order])
    builder = GraphBuilder()
    value = builder.input("x", x.shape, x.dtype.name)
    graph = builder.build([sorted_order(builder, value)], ["order"])
    np.testing.assert_array_equal(interpret(graph, {"x": x})["order"], order)
    return order


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int64", "int32", "int8", "uint16"])
@pytest.mark.parametrize("size", [1, 50])
def test_order_of_numbers(dtype: str, size: int) -> None:
    x = ints(size, low=0 if dtype.startswith("u") else -9, high=9) * (1 if dtype == "int8" else 257)
    x = x.astype(np.dtype(dtype))
    wide = x
    if x.dtype.kind not in "iu":
        for odd in (np.nan, -0.0, -np.inf):
            x[floats(size) > 1.5] = odd
        wide = x.astype(np.float64)
    np.testing.assert_array_equal(order_of(x), np.argsort(wide, kind="stable"))


def test_order_of_the_largest_numbers() -> None:
    for dtype in ("int32", "int64"):
        limits = np.iinfo(dtype)
        x = np.array([limits.max, -1, limits.min, 0, limits.max, 1], dtype)
        assert order_of(x).tolist() == [2, 1, 3, 5, 0, 4]
    x = np.array([np.inf, -3e38, 3e38, -np.inf, 1e-45, -1e-45, 0], np.float32)
    assert order_of(x).tolist() == [3, 1, 5, 6, 4, 2, 0]
    with pytest.raises(GraphError, match="sort_keys takes a vector of numbers"):
        check("sort_keys", [np.zeros(3, np.uint64)])


def test_ranks_need_rows_of_numbers() -> None:
    for x in (floats(3), np.zeros((2, 2), bool)):
        with pytest.raises(GraphError, match=r"rows \[N, M\] of numbers are needed"):
            check("row_ranks", [x])


def test_lengths_of_runs() -> None:
    assert check("run_lengths", [np.array([0, 3, 4])], end=9)[0].tolist() == [3, 1, 5]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("size", [1, 5, 40])
def test_best_boxes(centred: bool, size: int) -> None:
    boxes, scores = floats(2, size, 4, low=0, high=1), floats(2, 3, size, low=0, high=1)
    above = scores.reshape(6, size) > 0.3
    counts = reference("running_count", [above.reshape(-1)])[0]
    places, each = reference("row_positions", [counts], rows=6, size=size)
    width = int(each.max())
    for steps in {1, min(3, max(width, 1)), max(width, 1)}:
        operands = [boxes, scores, places, each, np.array([0.4], np.float32)]
        (taken,) = check("best_boxes", operands, steps=steps, width=max(width, 1), centred=centred)
        for row, place, count in zip(taken, places, each, strict=True):
            assert set(row) <= {-1, *place[:count]}


def test_best_boxes_need_boxes() -> None:
    counts, limit = np.zeros(1, np.int64), np.array([0.4], np.float32)
    operands = [floats(1, 5, 3), floats(1, 1, 5), np.zeros((1, 6), np.int64), counts, limit]
    with pytest.raises(GraphError, match=r"best_boxes takes boxes \[B, N, 4\]"):
        check("best_boxes", operands, steps=1, width=1)
