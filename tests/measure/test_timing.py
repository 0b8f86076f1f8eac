"""Races on machines that are made up: with noise, slow phases, and drift."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from tilewright.measure import Plan, race
from tilewright.measure.timing import student
from tilewright.records import Sample


class Machine:
    """A clock that programs move: ``speed`` gives the slowness at a time, ``noise`` is that of a call."""

    def __init__(self, speed: Callable[[float], float] = lambda _: 1.0, noise: float = 0.0) -> None:
        self.now, self._speed, self._noise, self._rng = 0.0, speed, noise, random.Random(1)

    def clock(self) -> float:
        return self.now

    def program(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds * self._speed(self.now) * math.exp(self._rng.gauss(0.0, self._noise))

        return call


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_the_fastest_wins(noise: float) -> None:
    machine = Machine(noise=noise)
    times = [2e-3, 1e-3, 1.5e-3, 1.03e-3, 8e-3]
    found = race([machine.program(t) for t in times], machine.program(1e-3), clock=machine.clock)
    assert found.leader == 1
    assert found.difference(0, 1).log_ratio == pytest.approx(math.log(2), abs=3 * noise + 1e-9)
    assert found.difference(4, 1).slower
    assert not found.difference(1, 4).slower
    assert found.difference(1, 4).faster


def test_a_slow_phase_moves_nobody() -> None:
    """The machine is three times slower in every other tenth of a second."""
    machine = Machine(lambda t: 3.0 if int(t * 10) % 2 else 1.0, noise=0.1)
    plan = Plan(min_rounds=30, max_rounds=60, precision=1e-9)
    programs = [machine.program(1.1e-3), machine.program(1e-3)]
    found = race(programs, machine.program(1e-3), plan, clock=machine.clock)
    assert found.leader == 1
    assert found.disturbed > 0
    assert found.noise > 0.2
    assert found.difference(0, 1).log_ratio == pytest.approx(math.log(1.1), abs=0.05)


def test_drift_is_told() -> None:
    machine = Machine(lambda t: 1.0 + t)
    plan = Plan(min_rounds=20, max_rounds=20)
    found = race([machine.program(1e-3)], machine.program(1e-3), plan, clock=machine.clock)
    assert found.drift > 0.1


def test_the_slow_leave_early_and_the_good_are_known_well() -> None:
    machine = Machine(noise=0.4)
    times = [1e-3 * (1 + n / 10) for n in range(32)]
    plan = Plan(calm=1.0, turn_seconds=1e-3)
    found = race([machine.program(t) for t in times], machine.program(1e-3), plan, clock=machine.clock)
    runs = [len(s) for s in found.samples]
    assert found.leader < 4
    assert max(runs[20:]) <= 12
    assert sum(runs) < 32 * found.rounds / 2
    rounds = found.rounds + found.disturbed
    assert runs == [rounds if left is None else left for left in found.left_at]


def test_equal_programs_end_when_they_are_known_to_be_equal() -> None:
    machine = Machine(noise=0.02)
    plan = Plan(precision=0.02)
    found = race([machine.program(1e-3)] * 2, machine.program(1e-3), plan, clock=machine.clock)
    assert found.rounds < 48
    assert found.difference(0, 1).half_width <= 0.02


def test_turns_last_long_enough_and_all_is_told() -> None:
    machine = Machine()
    told: list[tuple[int, Sample]] = []
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        machine.now += 1e-6

    plan = Plan(turn_seconds=5e-3, min_rounds=3, max_rounds=3)
    reference = machine.program(1e-6)
    found = race([counted], reference, plan, clock=machine.clock, seen=lambda *what: told.append(what))
    assert calls >= 3 * 5000
    assert [s for _, s in told] == list(found.samples[0])
    assert all(s.seconds == pytest.approx(1e-6) for s in found.samples[0])


def test_time_runs_out() -> None:
    machine = Machine()
    plan = Plan(seconds=0.05, precision=1e-12, min_rounds=40, max_rounds=40)
    found = race([machine.program(1e-3)] * 3, machine.program(1e-3), plan, clock=machine.clock)
    assert found.rounds < 6


def test_one_program_is_timed_too() -> None:
    machine = Machine()
    found = race([machine.program(1e-3)], machine.program(1e-3), clock=machine.clock)
    assert (found.leader, found.left_at, found.rounds) == (0, (None,), 3)


@pytest.mark.parametrize(
    "changes",
    [{"turn_seconds": 0.0}, {"precision": 0.0}, {"min_rounds": 1}, {"max_rounds": 2}, {"finalists": 0}],
)
def test_plans_that_cannot_be_run(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"plan|race"):
        Plan(**changes)  # type: ignore[arg-type]


def test_a_race_needs_programs() -> None:
    with pytest.raises(ValueError, match="without programs"):
        race([], lambda: None)


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042)])
def test_quantiles(freedom: int, value: float) -> None:
    assert student(freedom) == pytest.approx(value, rel=5e-3)
