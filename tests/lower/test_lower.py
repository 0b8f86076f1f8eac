"""Lowering keeps meaning and gives the promised form: every program under its default schedule, on two
targets."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lower.programs import (
    column_means,
    conv,
    masked_row_sums,
    matmul,
    max_pool,
    random_inputs,
    relaid,
    softmax,
    transpose_add,
)
from tilewright.ir import te
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.expr import Var
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.stmt import Alloc, Block, For, If, PrimFunc, Store
from tilewright.ir.verify import verify
from tilewright.ir.visit import const_int, free_vars, walk_stmt
from tilewright.lower import PASSES, lower
from tilewright.lower.overrun import drop_overrun_guards
from tilewright.schedule import Schedule
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

PROGRAMS = {
    "matmul": matmul(16, 96, 8),
    "matmul with odd sizes": matmul(13, 50, 7),
    "matrix times vector": matmul(9, 1, 33),
    "vector times matrix": matmul(1, 70, 12),
    "conv": conv(8, 9, 5, 20, 3, 1, 1),
    "conv with stride": conv(9, 11, 3, 18, 5, 2, 2),
    "conv with more padding than input": conv(3, 2, 4, 16, 5, 1, 3),
    "conv without padding": conv(6, 7, 4, 33, 2, 1, 0),
    "pointwise conv": conv(5, 6, 8, 16, 1, 1, 0),
    "depthwise": conv(7, 8, 20, 20, 3, 1, 1, depthwise=True),
    "depthwise with stride": conv(9, 8, 33, 33, 3, 2, 1, depthwise=True),
    "max pool": max_pool(9, 9, 10, 3, 2, 1),
    "softmax": softmax(5, 37),
    "softmax of one long row": softmax(1, 133),
    "masked sums": masked_row_sums(6, 70),
    "column means": column_means(13, 21),
    "transpose and add": transpose_add(4, 5, 19),
}


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_scheduled_and_lowered_programs_compute_the_same(name: str, target: str) -> None:
    func = collapse_dims(PROGRAMS[name])
    inputs = random_inputs(func)
    expected = run(func, inputs)[0]
    scheduled = default_schedule(func, Target.parse(target)).func
    packed = relaid(func, scheduled, inputs)
    np.testing.assert_allclose(run(scheduled, packed)[0], expected, rtol=1e-4, atol=1e-5)
    seen: list[str] = []

    def after(pass_name: str, result: PrimFunc) -> None:
        seen.append(pass_name)
        verify(result)
        got = run(result, packed)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=f"after {pass_name}")

    lowered = lower(scheduled, after)
    assert seen == [pass_name for pass_name, _ in PASSES]
    for stmt in walk_stmt(lowered.body):
        assert not isinstance(stmt, Block)
        assert not isinstance(stmt, For) or stmt.kind in ("serial", "parallel", "vectorized")


def lowered(func: PrimFunc) -> PrimFunc:
    return lower(default_schedule(collapse_dims(func), Target.parse("x86-64-v4")).func)


def test_accumulators_are_one_tile_in_registers() -> None:
    result = lowered(matmul(16, 96, 8))
    buffers = [s.buffer for s in walk_stmt(result.body) if isinstance(s, Alloc)]
    assert [b.scope for b in buffers] == ["register"]
    shape = buffers[0].static_shape
    assert shape is not None
    assert shape[0] * shape[1] <= 30 * 16


def test_register_indices_are_constant_apart_from_the_lane() -> None:
    for stmt in walk_stmt(lowered(conv(8, 9, 5, 20, 3, 1, 1)).body):
        if isinstance(stmt, Store) and stmt.buffer.scope == "register":
            for index in stmt.indices:
                assert const_int(index) is not None or len(free_vars(index)) == 1


def test_no_guard_inside_the_interior_of_a_padded_convolution() -> None:
    """The body of the interior is free of conditions; they are decided once per tile."""
    result = lowered(conv(64, 64, 8, 32, 3, 1, 1))
    interiors = [s.then for s in walk_stmt(result.body) if isinstance(s, If) and s.orelse is not None]
    assert interiors
    assert not any(isinstance(s, If) for s in walk_stmt(interiors[0]))


def test_padding_rows_are_skipped_by_loop_bounds() -> None:
    """The kernel's row loop runs only over rows inside the image: its extent is no constant."""
    result = lowered(conv(64, 64, 8, 32, 3, 1, 1))
    assert any(isinstance(s, For) and const_int(s.extent) is None for s in walk_stmt(result.body))


def test_overrun_of_packed_weights_is_not_masked() -> None:
    """20 channels in panels of whole vectors: accumulation runs unmasked, only the write-back has a guard."""
    result = lowered(conv(8, 8, 4, 20, 1, 1, 0))
    vectors = [s for s in walk_stmt(result.body) if isinstance(s, For) and s.kind == "vectorized"]
    assert any(isinstance(s.body, If) for s in vectors)
    for stmt in vectors:
        stores = [s for s in walk_stmt(stmt.body) if isinstance(s, Store)]
        assert not isinstance(stmt.body, If) or all(s.buffer.scope != "register" for s in stores)


def test_meaningful_conditions_survive() -> None:
    func = collapse_dims(masked_row_sums(6, 70))
    inputs = random_inputs(func)
    got = run(lower(default_schedule(func, Target.parse("x86-64-v3")).func), inputs)[0]
    expected = np.array([row[: i + 1].sum() for i, row in enumerate(inputs[0])])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_registers_of_unknown_number_live_in_memory() -> None:
    n = Var("n", lo=1)
    x = te.placeholder((4, n), "float32", "x")
    y = te.compute((4, n), lambda i, j: x[i, j] * 2.0, "y")
    sch = Schedule(te.primfunc("f", [x], [y], dims=[n]))
    sch.cache_read(sch.get_block("y"), 0, "register")
    result = lower(sch.func)
    verify(result)
    assert [s.buffer.scope for s in walk_stmt(result.body) if isinstance(s, Alloc)] == ["global"]
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(run(result, [data])[0], data * 2)


def test_a_guard_stays_before_reads_under_conditions_on_what_it_limits() -> None:
    """Where the guard does not hold, the condition may, and ``x[2, -1]`` does not exist."""
    func = parse("""
@primfunc({"outputs": 1})
def late(x: float32[4, 1], y: float32[1]):
    t = alloc(float32[3])
    for i in serial(3):
        if i < 1:
            t[i] = select(2 <= i, x[2, -1], 0.0)
    y[0] = t[0]
""")
    lowered = drop_overrun_guards(func)
    assert [s for s in walk_stmt(lowered.body) if isinstance(s, If)]
    (found,) = run(lowered, [np.ones((4, 1), np.float32)])
    assert found.tolist() == [0.0]


def test_what_earlier_iterations_wrote_stays() -> None:
    """Running sums read all that the loop has written so far: the buffer cannot live in the loop."""
    func = parse("""
@primfunc({"outputs": 1})
def running(x: float32[5], y: float32[5]):
    t = alloc(float32[5])
    for i in serial(5):
        t[i] = x[i] * 2.0
        y[i] = 0.0
        for r in serial(5):
            y[i] = y[i] + select(r <= i, t[r], 0.0)
""")
    data = np.arange(5, dtype=np.float32) + 1
    np.testing.assert_array_equal(run(lower(func), [data])[0], np.cumsum(2 * data))
