"""Sessions with made-up times: budgets, promotion, resumption, Ctrl-C, noise, failures."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tune.faked import Clock, FakeMeasurer, search_space, speed
from tests.tune.stored import DEVICE, TARGET, dense_model
from tilewright.errors import StoreError
from tilewright.records import Epoch, Record, Sample, Store, Workload, open_store
from tilewright.sources import open_model
from tilewright.tune.events import (
    KINDS,
    Baseline,
    Began,
    Ended,
    Event,
    EventLog,
    Measured,
    Noted,
    Raced,
    Visited,
)
from tilewright.tune.models import Ignorance
from tilewright.tune.plugins import find_strategy
from tilewright.tune.session import Session, Settings
from tilewright.tune.tasks import Extracted, Ways, extract

COMPILER = "0.1.0+test"


@pytest.fixture(scope="module")
def extracted() -> Extracted:
    return extract([open_model(dense_model()).case({}, {}).graph], TARGET, 1, source="dense")


@pytest.fixture(autouse=True)
def _shared_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.tune.session.SearchSpace", search_space)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "records.sqlite") as opened:
        yield opened


def one(extracted: Extracted) -> Extracted:
    return Extracted(extracted.tasks[:1])


def session(
    extracted: Extracted,
    store: Store,
    measurer: FakeMeasurer,
    events: list[Event] | None = None,
    strategy: str = "random",
    **settings: object,
) -> Session:
    return Session(
        extracted,
        store,
        TARGET,
        1,
        find_strategy(strategy),
        Ignorance(),
        lambda: measurer,
        Epoch.begin(DEVICE, COMPILER),
        Settings(**{"batch": 4, **settings}),
        [] if events is None else [events.append],
        clock=measurer.clock,
    )


def test_a_session_promotes_what_a_race_says_is_faster_and_ends_at_its_trials(extracted, store):
    events: list[Event] = []
    measurer = FakeMeasurer(Clock(), noise=0.02)
    outcome = session(extracted, store, measurer, events, trials=24).run(("dense", "random"))
    assert outcome.reason == "trials"
    assert outcome.trials == 24
    assert measurer.closed == 1
    assert [type(e) for e in events[:5]] == [Began, Measured, Baseline, Measured, Baseline]
    assert isinstance(events[-1], Ended)
    assert sum(isinstance(e, Measured) and e.role not in ("default", "anchor") for e in events) == 24
    for state in outcome.states:
        assert state.seconds <= state.at_start
        if state.best != state.start:
            assert state.gain is not None
            assert state.gain.faster
            assert state.space is not None
            assert speed(state.space.trace(state.best)) < 1.2
    promoted = [e for e in events if isinstance(e, Raced) and e.promoted]
    assert promoted
    assert all(e.promoted in e.schedules[1:] and e.ratio is not None and e.ratio < 1 for e in promoted)


def test_every_race_has_the_best_one_and_that_of_the_beginning(extracted, store):
    measurer = FakeMeasurer(Clock())
    events: list[Event] = []
    outcome = session(one(extracted), store, measurer, events, trials=20).run()
    state = outcome.states[0]
    assert state.space is not None
    start = state.space.trace(state.start)
    assert measurer.raced
    assert all(start in traces for traces in measurer.raced)
    best = start
    for traces, event in zip(measurer.raced, [e for e in events if isinstance(e, Raced)], strict=True):
        assert traces[0] == best
        if event.promoted:
            best = traces[event.schedules.index(event.promoted)]
    assert best == state.space.trace(state.best)


def test_the_schedule_of_the_beginning_comes_back_when_it_is_faster_after_all(extracted, store):
    """Lucky races have made a slow one the best, and look as if another one were better still."""
    measurer, events = FakeMeasurer(Clock(), noise=0.01), []
    tuning = session(one(extracted), store, measurer, events, trials=20)
    state = tuning.run().states[0]
    assert state.space is not None
    times = {point: measurer.plain(state.space.trace(point)) for point in state.ratios}
    slow, slower = [point for point, seconds in times.items() if seconds > 1.3][:2]
    state.raced = set(times) - {slower}
    state.best = slow
    state.ratios |= {slow: 0.5, slower: 0.4}
    tuning._race(state)
    assert measurer.raced[-1] == [state.space.trace(p) for p in (slow, slower, state.space.default)]
    assert isinstance(events[-1], Raced)
    assert events[-1].promoted == events[-1].schedules[2]
    assert state.best == state.start == state.space.default
    assert state.seconds == state.at_start
    assert state.gain is None
    assert state.ratios[slow] == pytest.approx(times[slow] / 1.2, rel=0.05)


@pytest.mark.parametrize("apart", [1.1, 10.0])
def test_ways_that_cannot_win_are_left_alone(extracted, store, apart):
    """One way to compute a node takes ``apart`` times as long as the other one."""
    measurer = FakeMeasurer(Clock(), ratio=lambda trace: 1.0 if trace == measurer.default else 1.5)
    one, other = (dataclasses.replace(task, occurrences=0) for task in extracted.tasks[:2])
    set_workload = measurer.set_workload

    def found(workload: Workload) -> None:
        set_workload(workload)
        measurer.reference = 1e-3 * (apart if workload == other.workload else 1.0)

    measurer.set_workload = found  # type: ignore[method-assign]
    ways = Ways(("node",), 1, {"this": (one.key,), "that": (other.key,)})
    outcome = session(Extracted((one, other), (), (ways,)), store, measurer, trials=20).run()
    assert all(state.ready for state in outcome.states)
    assert [state.trials > 0 for state in outcome.states] == [apart < 2] * 2


def test_lucky_samples_are_not_promoted(extracted, store):
    """All candidates are as fast as the default schedule: looks of two noisy samples say otherwise."""
    measurer = FakeMeasurer(Clock(), ratio=lambda trace: 1.0, noise=0.05)
    events: list[Event] = []
    outcome = session(extracted, store, measurer, events, trials=60, batch=10).run()
    races = [e for e in events if isinstance(e, Raced)]
    assert len(races) >= 5
    # Two-sided intervals of 95 %: of the challengers of a race each has 2.5 % to win by luck.
    assert sum(e.promoted is not None for e in races) <= 2
    now, before = sum(s.seconds for s in outcome.states), sum(s.at_start for s in outcome.states)
    assert now == pytest.approx(before, rel=0.05)


def test_nothing_faster_leaves_everything_as_it_was(extracted, store):
    measurer = FakeMeasurer(Clock(), ratio=lambda trace: 1.0 if trace == measurer.default else 1.5)
    state = session(one(extracted), store, measurer, trials=12).run().states[0]
    assert state.space is not None
    assert state.best == state.start == state.space.default
    assert state.gain is None
    assert measurer.raced == []


def test_a_budget_in_time_ends_after_the_candidate_in_flight(extracted, store):
    clock = Clock()
    measurer = FakeMeasurer(clock, cost=2.0)
    outcome = session(extracted, store, measurer, budget=31.0, batch=40).run()
    assert outcome.reason == "budget"
    assert 31.0 <= outcome.seconds <= 31.0 + 2.0 + 1.0  # a candidate, and a race of what was found


def test_a_budget_that_is_too_small_for_all_tasks_says_which_were_not_reached(extracted, store):
    outcome = session(extracted, store, FakeMeasurer(Clock(), cost=5.0), budget=3.0).run()
    assert outcome.reason == "budget"
    assert [s.ready for s in outcome.states] == [True, False]


def test_the_search_ends_when_enough_was_measured_or_nothing_is_left(extracted, store):
    measurer = FakeMeasurer(Clock())
    outcome = session(extracted, store, measurer, enough=9).run()
    assert outcome.reason == "done"
    assert all(s.history is not None and len(s.history) >= 9 for s in outcome.states)
    assert outcome.trials <= 2 * 9


def test_the_same_again_goes_on_and_measures_nothing_twice(extracted, store):
    clock = Clock()
    first, second = FakeMeasurer(clock), FakeMeasurer(clock)
    before = session(extracted, store, first, trials=20).run()
    after = session(extracted, store, second, trials=20).run()
    assert not set(first.measured) & set(second.measured)
    assert len(first.measured) == 22  # and the default schedules
    assert len(second.measured) == 20
    for old, new in zip(before.states, after.states, strict=True):
        assert new.at_start == pytest.approx(old.seconds, rel=1e-6)
        assert new.seconds <= old.seconds * (1 + 1e-9)


def test_times_of_all_sessions_count_together(extracted, store):
    (task,) = one(extracted).tasks
    space = search_space(task.workload, TARGET)
    for milliseconds, count in ((1, 2), (3, 4), (2, 3)):
        times = tuple(Sample(milliseconds * 1e-3, 1e-3) for _ in range(count))
        epoch = Epoch.begin(DEVICE, COMPILER)
        store.add(Record(task.workload, space.trace(space.default), epoch, 1, "ok", times, "default"))
    state = session(one(extracted), store, FakeMeasurer(Clock()), trials=0).run().states[0]
    assert state.default == pytest.approx(2e-3)


def test_another_compiler_begins_with_the_old_best_and_measures_it_again(extracted, store):
    clock = Clock()
    before = session(one(extracted), store, FakeMeasurer(clock), trials=20).run().states[0]
    assert before.best != before.start
    measurer = FakeMeasurer(clock)
    new = session(one(extracted), store, measurer, trials=0)
    new.epoch = Epoch.begin(DEVICE, COMPILER + "2")
    state = new.run().states[0]
    assert state.space is not None
    assert state.start == before.best
    assert measurer.measured == [state.space.trace(p) for p in (state.space.default, state.start)]


def test_nothing_is_measured_where_nothing_is_to_be(extracted, store):
    outcome = session(extracted, store, FakeMeasurer(Clock()), measure=False).run()
    assert outcome.reason == "done"
    assert all(s.error == "it was not measured yet" for s in outcome.states)
    assert list(store.records()) == []


def test_every_measurement_is_in_the_store_at_once(extracted, store):
    kept: list[int] = []
    measurer = FakeMeasurer(
        Clock(),
        ratio=lambda trace: 1.0 if trace == measurer.default else 1.5,
        before=lambda trace: kept.append(len(list(store.records()))),
    )
    session(one(extracted), store, measurer, trials=8).run()
    assert kept == list(range(9))


def test_failures_are_counted_kept_and_never_chosen(extracted, store):
    defaults = {
        s.space.trace(s.space.default)
        for s in session(extracted, store, FakeMeasurer(Clock()), trials=0).run().states
        if s.space is not None
    }
    kinds = ("crash", "timeout", "wrong_result", "not_finite", "compile_error", "out_of_memory")

    def status(trace: str) -> str:
        n = int(speed(trace) * 1e6)
        return "ok" if trace in defaults or n % 2 else kinds[n // 2 % len(kinds)]

    measurer = FakeMeasurer(Clock(), status=status)
    outcome = session(extracted, store, measurer, trials=40, batch=8).run()
    failed = [r for r in store.records() if r.status != "ok"]
    assert len(failed) == sum(outcome.failures.values()) > 5
    assert set(outcome.failures) <= set(kinds)
    assert all(not r.samples for r in failed)
    bad = {r.trace for r in failed}
    assert all(s.space is not None and s.space.trace(s.best) not in bad for s in outcome.states)


def test_a_crash_has_a_second_chance(extracted, store):
    """Somebody may have killed the process that compiled or ran it."""
    seen: set[str] = set()

    def status(trace: str) -> str:
        first = trace not in seen
        seen.add(trace)
        return "crash" if first else "ok"

    outcome = session(one(extracted), store, FakeMeasurer(Clock(), status=status), trials=8).run()
    assert outcome.failures == {}
    assert outcome.trials == 8
    assert {r.status for r in store.records()} == {"ok"}


def test_a_task_whose_default_schedule_fails_is_left_alone(extracted, store):
    measurer = FakeMeasurer(Clock(), status=lambda trace: "timeout")
    outcome = session(one(extracted), store, measurer, trials=8).run()
    assert outcome.states[0].error.startswith("its default schedule fails (timeout)")
    assert outcome.reason == "done"
    assert len(measurer.measured) == 1


def test_the_best_one_is_left_out_when_it_fails_in_a_race(extracted, store):
    clock = Clock()
    first = session(one(extracted), store, FakeMeasurer(clock), trials=20).run().states[0]
    assert first.space is not None
    best = first.space.trace(first.best)
    known = {first.space.trace(p) for p in first.ratios}
    measurer = FakeMeasurer(
        clock,
        ratio=lambda t: measurer.plain(t) if t in known else 0.4,
        status=lambda t: "wrong_result" if t == best else "ok",
    )
    state = session(one(extracted), store, measurer, trials=4).run().states[0]
    assert state.space is not None
    assert state.space.trace(state.best) != best
    assert [r.trace for r in store.records(status="wrong_result")] == [best]


def test_control_c_ends_it_and_keeps_what_was_found(extracted, store):
    measurer = FakeMeasurer(Clock())
    measurer.before = lambda trace: (
        os.kill(os.getpid(), signal.SIGINT) if len(measurer.measured) == 10 else None
    )
    events: list[Event] = []
    handler = signal.getsignal(signal.SIGINT)
    outcome = session(extracted, store, measurer, events, trials=100).run()
    assert outcome.reason == "interrupted"
    assert len(measurer.measured) == 11  # the one in flight is finished
    assert len({(r.workload.key, r.trace) for r in store.records() if r.role != "finalist"}) >= 10
    assert signal.getsignal(signal.SIGINT) is handler
    assert measurer.closed == 1
    assert "better schedules are kept" in next(e.message for e in reversed(events) if hasattr(e, "message"))


def test_control_c_twice_ends_it_at_once(extracted, store):
    measurer = FakeMeasurer(Clock())

    def twice(trace: str) -> None:
        if len(measurer.measured) == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    measurer.before = twice
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        session(extracted, store, measurer, trials=100).run()
    assert len(list(store.records())) >= 6
    assert signal.getsignal(signal.SIGINT) is handler
    assert measurer.closed == 1


def test_a_store_that_fails_is_an_error_that_leaves_what_was_there(extracted, store, monkeypatch):
    add, count = store.add, 0

    def failing(*records):
        nonlocal count
        count += 1
        if count > 5:
            raise StoreError("the disk of the measurement store is full")
        add(*records)

    monkeypatch.setattr(store, "add", failing)
    measurer = FakeMeasurer(Clock())
    with pytest.raises(StoreError, match="full"):
        session(extracted, store, measurer, trials=100).run()
    assert len(list(store.records())) == 5
    assert measurer.closed == 1


def test_the_projection_counts_occurrences(extracted, store):
    tasks = tuple(dataclasses.replace(t, occurrences=n) for t, n in zip(extracted.tasks, (3, 5), strict=True))
    made = session(Extracted(tasks), store, FakeMeasurer(Clock(), ratio=lambda trace: 1.0), trials=0)
    made.run()
    assert made.projected() == (pytest.approx(8e-3), pytest.approx(8e-3))


def test_the_log_has_a_documented_line_for_each_event(extracted, store, tmp_path):
    path = tmp_path / "events.jsonl"
    events: list[Event] = []
    with EventLog(path) as log:
        made = session(extracted, store, FakeMeasurer(Clock()), events, trials=10)
        made._listeners = (*made._listeners, log)
        made.run(("dense", "random"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(events)
    kinds = {kind.__name__.lower(): kind for kind in KINDS}
    for line in lines:
        fields = {f.name for f in dataclasses.fields(kinds[line["event"]])}
        assert set(line) - {"event", "format"} == fields
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert lines[0]["format"] == 1
    assert {r.schedule for r in store.records()} >= {x["schedule"] for x in lines if x["event"] == "measured"}


def test_visits_tell_what_is_left(extracted, store):
    events: list[Event] = []
    session(extracted, store, FakeMeasurer(Clock()), events, trials=12).run()
    visited = [e for e in events if isinstance(e, Visited)]
    assert visited[-1].spent_budget == 1.0
    assert visited[-1].trials == 12
    assert all(e.projected <= e.at_start for e in visited)


def test_the_search_begins_before_all_baselines_where_time_is_short(extracted, store):
    """Each baseline takes 1.5 seconds here: of the budget of 3 seconds the second one has no part."""
    big = dataclasses.replace(extracted.tasks[1], occurrences=100)
    tasks = Extracted((extracted.tasks[0], big))
    states = session(tasks, store, FakeMeasurer(Clock()), budget=3.0).run().states
    assert [s.ready for s in states] == [False, True]
    assert states[1].trials > 0


def test_times_of_a_slow_hour_count_like_others(extracted, store):
    """The second session finds the machine four times as slow; what is fast stays fast."""
    session(one(extracted), store, FakeMeasurer(Clock()), trials=8).run()
    measurer = FakeMeasurer(Clock(), reference=4e-3)
    state = session(one(extracted), store, measurer, trials=8).run().states[0]
    assert state.history is not None
    assert state.space is not None
    assert len(state.history) > 9
    for seen in state.history.observations:
        expected = 1e-3 * measurer.plain(state.space.trace(seen.point))
        assert seen.seconds == pytest.approx(expected, rel=1e-6)


def test_a_machine_that_is_not_quiet_is_told(extracted, store):
    measurer, events = FakeMeasurer(Clock()), []
    measurer.warnings = ("times of the same kernel vary by 30%",)
    session(one(extracted), store, measurer, events, trials=40).run()
    told = [e.message for e in events if isinstance(e, Noted)]
    assert sum(message.endswith("times of the same kernel vary by 30%") for message in told) == 1
