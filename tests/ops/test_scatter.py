from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, ints, rng, type_of
from tilewright.errors import GraphError, ScheduleError
from tilewright.graph.graph import TensorType
from tilewright.ir import interp, te
from tilewright.ir.expr import Expr
from tilewright.ir.verify import verify
from tilewright.schedule.schedule import BlockRef, Schedule

REDUCTIONS = ["none", "add", "mul", "max", "min"]


def unique_indices(shape: tuple[int, ...], axis: int, size: int) -> np.ndarray:
    """Different indices along ``axis``, some of them negative."""
    order = np.argsort(rng.random((*shape[:axis], size, *shape[axis + 1 :])), axis=axis)
    picked = np.take(order, range(shape[axis]), axis)
    return np.where(rng.random(shape) < 0.5, picked, picked - size)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_scatter_elements(reduction: str, axis: int, dtype: str) -> None:
    x, updates = floats(4, 5, 3, dtype=dtype), floats(2, 3, 2, dtype=dtype)
    indices = unique_indices((2, 3, 2), axis % 3, x.shape[axis])
    check("scatter_elements", [x, indices, updates], axis=axis, reduction=reduction, rtol=2e-3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scatter_elements_that_meet(reduction: str) -> None:
    x, updates, indices = floats(7), floats(20), ints(20, low=-7, high=7)
    (got,) = check("scatter_elements", [x, indices, updates], axis=0, reduction=reduction, rtol=1e-4)
    if reduction == "none":
        last = {int(i) % 7: u for i, u in zip(indices, updates, strict=True)}
        np.testing.assert_array_equal(got, [last.get(n, x[n]) for n in range(7)])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(reduction: str, depth: int) -> None:
    x = floats(4, 5, 3)
    flat = rng.permutation(int(np.prod(x.shape[:depth])))[:4]
    indices = np.stack(np.unravel_index(flat, x.shape[:depth]), -1).reshape(2, 2, depth)
    check("scatter_nd", [x, indices, floats(2, 2, *x.shape[depth:])], reduction=reduction)


def test_nothing_to_scatter() -> None:
    x = floats(3, 2)
    (got,) = check("scatter_elements", [x, ints(0, 2), floats(0, 2)], axis=0)
    np.testing.assert_array_equal(got, x)
    check("scatter_nd", [x, ints(0, 1), floats(0, 2)])
    check("scatter_elements", [floats(0), ints(0), floats(0)], axis=0)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    starts = np.array([0, 3] if mode == "linear" else [4, 3])
    check("tensor_scatter", [floats(2, 3, 5, 4), floats(2, 3, 2, 4), starts], axis=-2, mode=mode)
    check("tensor_scatter", [floats(2, 5, 4), floats(2, 2, 4)], axis=1)


def test_max_unpool() -> None:
    check(
        "max_unpool",
        [floats(1, 2, 3), np.array([[[0, 3, 5], [7, 8, 11]]])],
        shape=(1, 2, 6),
        source=(1, 2, 6),
    )
    check("max_unpool", [floats(1, 1, 2), np.array([[[1, 5]]])], shape=(1, 1, 9), source=(1, 1, 6))


@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reverse_sequence(time: int, batch: int) -> None:
    x, lengths = floats(4, 4, 2), np.array([1, 4, 0, 3])
    (got,) = check("reverse_sequence", [x, lengths], time_axis=time, batch_axis=batch)
    want = x.copy()
    for b, length in enumerate(lengths):
        sample = (slice(length), b) if time == 0 else (b, slice(length))
        want[sample] = x[sample][::-1]
    np.testing.assert_array_equal(got, want)


def test_bad_scatters_are_rejected() -> None:
    x, i, flag = (
        TensorType.make((4,), "float32"),
        TensorType.make((2,), "int64"),
        TensorType.make((4,), "bool"),
    )
    with pytest.raises(GraphError, match="no reduction 'xor'"):
        type_of("scatter_elements", [x, i, x], reduction="xor")
    with pytest.raises(GraphError, match="not defined for bool"):
        type_of("scatter_elements", [flag, i, flag], reduction="add")
    with pytest.raises(GraphError, match="have one shape"):
        type_of("scatter_elements", [x, i, x])
    with pytest.raises(GraphError, match="do not fit data"):
        type_of("scatter_nd", [x, i, x])
    wide = TensorType.make((3, 4), "float32")
    narrow = TensorType.make((2, 4), "float32")
    with pytest.raises(GraphError, match=r"reaches beyond \[2, 4\] in dimension 0"):
        type_of("scatter_elements", [narrow, TensorType.make((3, 4), "int64"), wide], axis=1)
    with pytest.raises(GraphError, match=r"updates must have the shape \[2, 4\]"):
        type_of("scatter_nd", [wide, TensorType.make((2, 1), "int64"), wide])
    with pytest.raises(GraphError, match="indices must be integers"):
        type_of("scatter_nd", [x, x, x])


# ------------------------------------------------------------------------------------------------- te.update
def _histogram(count: int, bins: int) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    places = te.placeholder((count,), "int64", "places")
    weights = te.placeholder((count,), "float32", "weights")
    zeros = te.compute((bins,), lambda i: weights[0] * 0.0, "histogram")

    def write(state: te.Tensor, n: Expr) -> tuple[tuple[Expr, ...], Expr]:
        return (places[n],), state[places[n]] + weights[n]

    return places, weights, te.update(zeros, [(count, "reduce")], write)


def test_update_is_a_program_that_verifies_and_runs() -> None:
    places, weights, out = _histogram(32, 4)
    func = te.primfunc("histogram", [places, weights], [out])
    verify(func)
    where, data = ints(32, low=0, high=4), floats(32)
    (got,) = interp.run(func, [where, data])
    np.testing.assert_allclose(got, np.bincount(where, data, 4), rtol=1e-5, atol=1e-6)


def test_updates_that_may_meet_run_in_one_lane_of_one_thread() -> None:
    places, weights, out = _histogram(32, 4)
    func = te.primfunc("histogram", [places, weights], [out])
    for kind in ("vectorize", "parallel"):
        sch = Schedule(func)
        (loop,) = sch.get_loops(BlockRef("histogram"))
        with pytest.raises(ScheduleError, match="drives the reduction of block 'histogram'"):
            getattr(sch, kind)(loop)


def test_a_recurrence_keeps_its_order() -> None:
    x = te.placeholder((6, 5), "float32", "x")
    start = te.compute((6, 5), lambda i, j: x[i, j], "running")

    def write(state: te.Tensor, i: Expr, j: Expr) -> tuple[tuple[Expr, ...], Expr]:
        return (i, j + 1), state[i, j] + x[i, j + 1]

    out = te.update(start, [(6, "spatial"), (4, "reduce")], write)
    func = te.primfunc("running", [x], [out])
    data = floats(6, 5)
    np.testing.assert_allclose(interp.run(func, [data])[0], np.cumsum(data, 1), rtol=1e-5, atol=1e-6)
    sch = Schedule(func)
    rows, steps = sch.get_loops(BlockRef("running"))
    with pytest.raises(ScheduleError, match="reads elements of 'running' that other instances"):
        sch.reorder(steps, rows)


def test_only_fresh_computes_are_updated() -> None:
    x = te.placeholder((4,), "float32", "x")
    with pytest.raises(ValueError, match="'x' is an input or already updated"):
        te.update(x, [(4, "spatial")], lambda state, i: ((i,), state[i]))
