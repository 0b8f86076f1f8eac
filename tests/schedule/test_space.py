"""Sketches that users add to the search space."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.schedule.programs import assert_same
from tests.schedule.spaces import FUNCTIONS
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import Var, const
from tilewright.ir.stmt import For, PrimFunc
from tilewright.ir.visit import walk_stmt
from tilewright.lower import lower
from tilewright.schedule import Schedule
from tilewright.schedule.space import register_sketch, sketches, unregister_sketch
from tilewright.target import Target

TARGET = Target.parse("x86-64-v4")


def squares(func: PrimFunc, target: Target) -> Schedule | None:
    """Square tiles of the last block, where it has two loops."""
    sch = Schedule(func, symbolic=True)
    ref = sch.get_blocks()[-1]
    if len(sch.get_loops(ref)) != 2:
        return None
    side = sch.decide("side", [2, 4, 8], 4)
    outer, inner = ([*sch.split(loop, [None, side])] for loop in sch.get_loops(ref))
    sch.reorder(outer[0], inner[0], outer[1], inner[1])
    return sch


def undecided(func: PrimFunc, target: Target) -> Schedule:
    """Says no value to begin with."""
    sch = Schedule(func, symbolic=True)
    sch.split(sch.get_loops(sch.get_blocks()[0])[0], [None, sch.decide("side", [2, 4])])
    return sch


def unused(func: PrimFunc, target: Target) -> Schedule:
    """Decides what nothing is made of."""
    sch = Schedule(func, symbolic=True)
    sch.decide("side", [2, 4], 4)
    return sch


@pytest.fixture
def registered() -> Iterator[None]:
    """The rule, for the time of a test."""
    register_sketch("squares", squares)
    yield
    unregister_sketch("squares")


@pytest.mark.usefixtures("registered")
def test_registered_sketches_are_part_of_the_space() -> None:
    func = FUNCTIONS["transposition"]()
    found = sketches(func, TARGET)[-1]
    assert found.name == "squares"
    assert found.columns == ("side",)
    assert np.isfinite(found.features(found.enumerate())).all()
    for row in found.enumerate():
        assert_same(func, found.bind(row))
    assert "squares" not in [s.name for s in sketches(FUNCTIONS["reflection"](), TARGET)]


def _steps(func: PrimFunc) -> list[For]:
    """The serial loops of three steps."""
    loops = [s for s in walk_stmt(lower(func).body) if isinstance(s, For) and s.kind == "serial"]
    return [loop for loop in loops if loop.extent == const(3)]


def test_short_windows_may_be_unrolled_as_a_whole() -> None:
    func = FUNCTIONS["depthwise"]()
    found = {s.name: s for s in sketches(func, TARGET)}
    assert _steps(found["default"].bind(found["default"].sample(1, seed=0)[0]).func)
    for row in found["tile_window"].sample(8, seed=0):
        assert_same(func, sch := found["tile_window"].bind(row))
        assert not _steps(sch.func)
    assert "tile_window" not in [s.name for s in sketches(FUNCTIONS["convolution"](), TARGET)]


def test_windows_of_open_size_are_not_unrolled() -> None:
    n = Var("n", lo=1, hi=64, typical=3)
    x = te.placeholder((n, 20, 21), "float32", "x")
    w = te.placeholder((n, 3, 21), "float32", "w")
    y = te.compute(
        (18, 21), lambda v, c: te.reduce("sum", (3, n), lambda i, j: x[j, v + i, c] * w[j, i, c]), "y"
    )
    found = [s.name for s in sketches(te.primfunc("open_window", [x, w], [y]), TARGET)]
    assert "rows_each" in found
    assert "tile_window" not in found


def test_rules_that_do_not_apply_are_left_out() -> None:
    def never(func: PrimFunc, target: Target) -> Schedule:
        raise ScheduleError("not here")

    before = [s.name for s in sketches(FUNCTIONS["reflection"](), TARGET)]
    register_sketch("never", never)
    try:
        assert [s.name for s in sketches(FUNCTIONS["reflection"](), TARGET)] == before
    finally:
        unregister_sketch("never")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda func, target: Schedule(func), "gave Schedule, not a symbolic schedule"),
        (lambda func, target: "tiles", "gave str, not a symbolic schedule"),
        (lambda func, target: squares(FUNCTIONS["dense"](), target), "of another function than 'softmax'"),
        (undecided, "gave no value for side"),
        (unused, "nothing in the trace is written over side"),
    ],
)
def test_what_rules_give_is_checked(made: object, message: str) -> None:
    register_sketch("wrong", made)  # type: ignore[arg-type]
    try:
        with pytest.raises(ScheduleError, match=f"rule for sketches 'wrong' .*{message}"):
            sketches(FUNCTIONS["softmax"](), TARGET)
    finally:
        unregister_sketch("wrong")


@pytest.mark.usefixtures("registered")
def test_names_of_sketches_are_taken_once() -> None:
    with pytest.raises(ScheduleError, match="there is a rule for sketches 'squares' already"):
        register_sketch("squares", squares)


def test_names_of_sketches_are_identifiers() -> None:
    with pytest.raises(ScheduleError, match="'my tiles' cannot name a sketch"):
        register_sketch("my tiles", squares)


def test_only_registered_sketches_are_taken_back() -> None:
    with pytest.raises(ScheduleError, match="there is no rule for sketches 'nobody'"):
        unregister_sketch("nobody")
