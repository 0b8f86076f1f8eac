"""The rules for GPU targets: every function has sketches, and candidates compute the same, within the
limits.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.gpu_programs import row_sums
from tests.schedule.programs import arrays, chain, conv, integer_sum, matmul_relu, softmax, symbolic
from tests.schedule.spaces import FUNCTIONS
from tilewright.errors import ScheduleError
from tilewright.ir.interp import run
from tilewright.ir.launch import thread_axis
from tilewright.ir.stmt import Alloc, For, PrimFunc
from tilewright.ir.visit import walk_stmt
from tilewright.lower import lower, passes_for
from tilewright.lower.limits import launches
from tilewright.schedule import BlockRef, Schedule
from tilewright.schedule.default import default_schedule
from tilewright.schedule.features import FEATURES
from tilewright.schedule.rules.gpu_tiling import tile_in_shared_memory
from tilewright.schedule.sketch import Sketch
from tilewright.schedule.space import sketches
from tilewright.target import Target

TARGET = Target.parse("sm_80")
PROGRAMS = {
    "dense": matmul_relu(9, 10, 7),
    "convolution": conv((3, 4), (3, 6)),
    "softmax": softmax(3, 20),
    "row sums": row_sums(3, 40),
    "elementwise": chain(5, 7),
    "integers": integer_sum(30),
}
CASES = {name: sketches(func, TARGET) for name, func in PROGRAMS.items()}
SKETCHES = [pytest.param(s, id=f"{name}-{s.name}") for name, found in CASES.items() for s in found]


@pytest.mark.parametrize("sketch", SKETCHES)
def test_candidates_compute_the_same_on_threads(sketch: Sketch) -> None:
    inputs = arrays(sketch.func)
    expected = run(sketch.func, inputs)
    for row in [*sketch.default, *sketch.sample(2, seed=3)]:
        bound = sketch.bind(row).func
        for program in (bound, lower(bound, passes=passes_for(TARGET))):
            for a, b in zip(run(program, inputs, check_undefined=True), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=str(row))


@pytest.mark.parametrize("sketch", SKETCHES)
def test_candidates_fit_the_target(sketch: Sketch) -> None:
    """What the constraints let through, lowering accepts."""
    for row in sketch.sample(3, seed=5):
        lowered = lower(sketch.bind(row).func, passes=passes_for(TARGET))
        for launch in launches(lowered):
            assert launch.threads is not None
            assert launch.threads <= 1024


@pytest.mark.parametrize("sketch", SKETCHES)
def test_features_of_candidates_are_finite(sketch: Sketch) -> None:
    rows = sketch.sample(20, seed=1)
    features = sketch.features(rows)
    assert features.shape == (len(rows), len(FEATURES))
    assert np.isfinite(features).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_default_schedules_use_threads(name: str) -> None:
    func = FUNCTIONS[name]()
    sch = default_schedule(func, TARGET)
    parts = [s for s in walk_stmt(sch.func.body) if isinstance(s, For) and thread_axis(s)]
    assert parts
    lowered = lower(sch.func, passes=passes_for(TARGET))
    inputs = arrays(func)
    for got, wanted in zip(run(lowered, inputs), run(func, inputs), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


def test_structures() -> None:
    """Products go through shared memory, rows across threads, the rest element by element."""

    def scopes(name: str) -> set[str]:
        lowered = lower(default_schedule(FUNCTIONS[name](), TARGET).func, passes=passes_for(TARGET))
        return {s.buffer.scope for s in walk_stmt(lowered.body) if isinstance(s, Alloc)}

    assert scopes("dense") == {"shared", "register"}
    assert scopes("convolution") == {"shared", "register"}
    assert scopes("softmax") == {"shared"}
    assert scopes("transposition") == set()
    names = {s.name for s in CASES["dense"]}
    assert {"default", "rows", "elements_each", "loops"} <= names


@pytest.mark.parametrize(
    "func",
    [matmul_relu(1, 9, 4), matmul_relu(3, 1, 2), matmul_relu(1, 1, 1), softmax(1, 1)],
    ids=["one row", "one column", "one element", "a row of one element"],
)
def test_any_function_has_sketches(func: PrimFunc) -> None:
    found = sketches(func, TARGET)
    assert found
    inputs = arrays(func)
    for sketch in found:
        lowered = lower(sketch.bind(sketch.default[0]).func, passes=passes_for(TARGET))
        for got, wanted in zip(run(lowered, inputs), run(func, inputs), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


def test_sizes_known_at_run_time() -> None:
    func = symbolic()
    sch = default_schedule(func, TARGET)
    lowered = lower(sch.func, passes=passes_for(TARGET))
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.testing.assert_allclose(run(lowered, [x])[0], run(func, [x])[0])


def test_constraints_keep_to_the_limits() -> None:
    """Threads of a block, its shared memory and registers are bounded for every candidate that is valid."""
    sketch = CASES["dense"][0]
    rows = sketch.sample(400, seed=0)
    value = dict(zip(sketch.columns, rows.T, strict=True))
    threads = value["C_threads_y"] * value["C_threads_x"]
    assert threads.max() <= 1024
    assert threads.min() >= 32
    assert len(np.unique(threads)) > 3


def test_rules_refuse_what_does_not_suit() -> None:
    sch = Schedule(chain(5, 7))
    with pytest.raises(ScheduleError, match="'c' is not a reduction"):
        tile_in_shared_memory(sch, BlockRef("c"), TARGET)
    with pytest.raises(ScheduleError, match="target 'x86-64-v4' has no thread axes"):
        tile_in_shared_memory(sch, BlockRef("c"), Target.parse("x86-64-v4"))
