"""The bookkeeping of measurements taken in turns. Nothing here depends on how long anything takes."""

from __future__ import annotations

from tilewright.benching import BURST_SECONDS, MIN_RUNS, Timing, time_in_turns


def test_every_engine_gets_the_same_number_of_rounds_and_samples():
    counts = [0, 0, 0]

    def call(index):
        def run():
            counts[index] += 1

        return run

    rounds = time_in_turns([call(0), call(1), call(2)], runs=40)
    assert len({len(turns) for turns in rounds}) == 1
    samples = [sum(map(len, turns)) for turns in rounds]
    assert len(set(samples)) == 1
    assert samples[0] >= 40
    assert all(count > samples[0] for count in counts), "the first call of a burst is not recorded"


def test_engines_take_turns_in_rotating_order():
    import time

    order: list[str] = []

    def slow(name):
        def run():
            order.append(name)
            time.sleep(BURST_SECONDS)

        return run

    rounds = time_in_turns([slow("a"), slow("b")], runs=4)
    assert [len(turn) for turns in rounds for turn in turns] == [1] * 8
    timed = order[-16:]  # two calls a burst, of which the second is recorded
    assert timed == ["a"] * 2 + ["b"] * 4 + ["a"] * 4 + ["b"] * 4 + ["a"] * 2


def test_the_default_number_of_runs_has_a_floor():
    import time

    rounds = time_in_turns([lambda: time.sleep(0.01)], total=0.001)
    assert sum(map(len, rounds[0])) >= MIN_RUNS


def test_statistics_of_a_timing():
    timing = Timing("t", "1", 0.5, ((1.0, 2.0), (3.0, 100.0)), 1.0, ())
    assert timing.median == 2.5
    assert timing.minimum == 1.0
    assert timing.agrees
    assert timing.to_dict()["runs"] == 4
