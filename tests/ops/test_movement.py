from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.harness import check, floats, ints, type_of
from tilewright.errors import GraphError
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType
from tilewright.ir.expr import Const, Var, as_expr
from tilewright.ir.visit import const_int
from tilewright.ops.shape import reshape_index


def _factor(draw: st.DrawFn, total: int) -> tuple[int, ...]:
    """A shape of ``total`` elements with some dimensions of size 1."""
    dims = []
    while total > 1:
        factors = [f for f in range(2, total + 1) if total % f == 0]
        dims.append(draw(st.sampled_from(factors)))
        total //= dims[-1]
    for _ in range(draw(st.integers(0, 2))):
        dims.insert(draw(st.integers(0, len(dims))), 1)
    return tuple(dims)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_reshape_index_maps_row_major_positions(data: st.DataObject) -> None:
    total = data.draw(st.sampled_from([1, 6, 12, 24]))
    source, target = _factor(data.draw, total), _factor(data.draw, total)
    for index in np.ndindex(target):
        position = np.ravel_multi_index(index, target) if target else 0
        want = np.unravel_index(position, source) if source else ()
        got = reshape_index(
            tuple(map(as_expr, source)), tuple(map(as_expr, target)), tuple(as_expr(int(i)) for i in index)
        )
        assert [const_int(e) for e in got] == [int(w) for w in want]


def test_kept_dimensions_of_a_reshape_are_copied_without_division() -> None:
    i = tuple(Var(f"i{n}", lo=0) for n in range(3))
    dims = tuple(map(as_expr, (5, 7, 6)))
    assert reshape_index((*dims[:2], as_expr(2), as_expr(3)), dims, i)[:2] == i[:2]


@pytest.mark.parametrize("target", [(4, 6), (2, -1), (0, 3, -1), (24,), (1, 2, 12, 1), (-1, 1, 24)])
def test_reshape(target: tuple[int, ...]) -> None:
    check("reshape", [floats(2, 3, 4)], shape=target, copy_zeros=True)
    check("reshape", [floats(2, 3, 4), np.array(target)], consts=(1,), copy_zeros=True)


def test_reshape_of_empty_tensors() -> None:
    check("reshape", [floats(0, 3)], shape=(3, 0))
    check("reshape", [floats(0, 3)], shape=(0, 3, 1), copy_zeros=True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 5), "24 elements"),
        ((-1, 5), "cannot be reshaped"),
        ((-1, -1), "more than one"),
        ((1, 1, 1, 0), "copies"),
    ],
)
def test_bad_reshapes_are_rejected(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        type_of("reshape", [TensorType.make((2, 3, 4), "float32")], shape=shape, copy_zeros=True)


def test_reshape_cancels_open_dimensions() -> None:
    n, m = Var("n", lo=0), Var("m", lo=0)
    x = TensorType.make((n, 3, m, 4), "float32")
    assert type_of("reshape", [x], shape=(n, -1, m)).shape == (n, as_expr(12), m)
    assert type_of("reshape", [x], shape=(0, 0, -1), copy_zeros=True).shape[:2] == (n, as_expr(3))


@pytest.mark.parametrize("perm", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_transpose(perm: tuple[int, ...]) -> None:
    check("transpose", [floats(2, 3, 4)], perm=perm)


def test_expand_and_tile() -> None:
    check("expand", [floats(3, 1)], shape=(2, 1, 4))
    check("expand", [floats(2, 3, 4)], shape=(1,))
    check("tile", [floats(2, 3)], repeats=(2, 3))
    check("tile", [floats(2, 3), np.array([1, 0])], consts=(1,))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis: int) -> None:
    parts = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    for n, part in enumerate(parts):
        part[axis] = n
    check("concat", [floats(*p) for p in parts], axis=axis)


def test_concat_checks_its_operands() -> None:
    with pytest.raises(GraphError, match="differ in dimension 0"):
        type_of("concat", [TensorType.make((2, 3), "float32"), TensorType.make((3, 3), "float32")], axis=1)


_STEP = st.integers(-4, 4).filter(bool)
_END = st.one_of(st.integers(-9, 9), st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1]))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 6), st.integers(-9, 9), _END, _STEP)
def test_slice_is_pythons_but_for_clamped_starts(size: int, start: int, end: int, step: int) -> None:
    x = floats(2, size)
    (got,) = check("slice", [x], starts=(start,), ends=(end,), axes=(-1,), steps=(step,))
    # ONNX clamps a start before the first element, also downwards; any lower end is "down to the first".
    first = max(start, -size)
    stop = None if step < 0 and end < -size else end
    np.testing.assert_array_equal(got, x[:, first:stop:step])


def test_slice_of_an_open_dimension() -> None:
    n = Var("n", lo=0)
    x = TensorType.make((n, 8), "float32")
    assert type_of("slice", [x], starts=(0,), ends=(2**63 - 1,), axes=(0,)).shape[0] is n
    assert type_of("slice", [x], starts=(1,), ends=(-1,), axes=(1,)).shape == (n, as_expr(6))


def test_split() -> None:
    parts = check("split", [floats(2, 7)], axis=1, sizes=(3, 0, 4))
    assert [p.shape for p in parts] == [(2, 3), (2, 0), (2, 4)]
    with pytest.raises(GraphError, match="cannot be split"):
        type_of("split", [TensorType.make((7,), "float32")], axis=0, sizes=(3, 3))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(1, 0, 2, 1), (0, 0, 0, 0), (2, 1, 0, 0)])
def test_pad(mode: str, pads: tuple[int, ...]) -> None:
    (got,) = check("pad", [floats(4, 5)], pads=pads, mode=mode)
    assert got.shape == (4 + pads[0] + pads[2], 5 + pads[1] + pads[3])


def test_pad_with_a_value_axes_and_negative_amounts() -> None:
    value = np.array(7.0, np.float32)
    check("pad", [floats(4, 5), None, value], pads=(-1, 2, 0, -3), consts=(2,))
    check("pad", [floats(4, 5), np.array([1, 2]), value, np.array([-1])], consts=(1, 2, 3))
    check("pad", [ints(3), None, np.array(-1)], pads=(1, 1))
    with pytest.raises(GraphError, match="reflect more than"):
        type_of("pad", [TensorType.make((3,), "float32")], pads=(3, 0), mode="reflect")


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("k", [-2, 0, 1, 9])
def test_trilu(upper: bool, k: int) -> None:
    check("trilu", [floats(2, 4, 5)], upper=upper, k=k)


def test_gather_wraps_negative_indices_and_stays_inside() -> None:
    x = floats(5, 3)
    np.testing.assert_array_equal(
        check("gather", [x, np.array([[0, -1], [4, 2]])], axis=0)[0], x[[[0, -1], [4, 2]]]
    )
    assert check("gather", [x, np.array(-2)], axis=1, consts=(1,))[0].shape == (5,)
    check("gather", [x, ints(0, low=0)], axis=0)
    check("gather", [x, np.array([99, -99], np.int32)], axis=0)
    builder = GraphBuilder()
    with pytest.raises(GraphError, match="outside a dimension of 5"):
        builder.op("gather", builder.input("x", (5, 3), "float32"), builder.constant(np.array([5])), axis=0)


def test_gather_elements_and_gather_nd() -> None:
    x = floats(3, 4)
    check("gather_elements", [x, ints(3, 2, low=-4, high=4)], axis=1)
    check("gather_nd", [x, ints(5, 2, low=-3, high=3)])
    check("gather_nd", [x, ints(5, 1, low=-3, high=3)])
    check("gather_nd", [floats(2, 3, 4), ints(2, 5, 1, low=-3, high=3)], batch_dims=1)


def test_range_one_hot_and_shape() -> None:
    assert check("range", [], start=(3,), limit=(10,), delta=(2,), dtype="int64")[0].tolist() == [3, 5, 7, 9]
    assert check("range", [], start=(1.0,), limit=(0.0,), delta=(-0.25,), dtype="float32")[0].size == 4
    assert check("range", [], start=(5,), limit=(1,), delta=(1,), dtype="int32")[0].shape == (0,)
    check("one_hot", [ints(2, 3, low=-4, high=5), np.array([0.5, 2.0], np.float32)], depth=(4,), axis=1)
    assert check("shape", [floats(2, 0, 5)], start=-2)[0].tolist() == [0, 5]


def test_shape_arithmetic_is_followed_symbolically() -> None:
    n = Var("n", lo=0)
    b = GraphBuilder()
    x = b.input("x", (n, 6, 4), "float32")
    shape = b.op("shape", x)
    first = b.op("gather", shape, b.constant(np.array([0])), axis=0)
    rest = b.op("reduce", b.op("slice", shape, starts=(1,), ends=(3,)), op="prod", axes=(0,), keepdims=True)
    target = b.op(
        "concat", first, b.op("div", rest, b.constant(np.array([2]))), b.constant(np.array([-1])), axis=0
    )
    y = b.op("reshape", x, target)
    assert y.shape == (n, as_expr(12), as_expr(2))


def test_a_shape_known_only_at_run_time_has_open_dimensions() -> None:
    b = GraphBuilder()
    y = b.op("reshape", b.input("x", (6, 4), "float32"), b.input("shape", (3,), "int64"))
    assert y.rank == 3
    assert not any(isinstance(d, Const) for d in y.shape)
    assert prod(d.value for d in b.op("reshape", y, shape=(6, 4)).shape) == 24
