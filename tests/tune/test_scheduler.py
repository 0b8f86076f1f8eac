"""The budget goes where the end-to-end time falls most for a second of tuning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.tune.scheduler import Progress, Visit, gain_rate, next_task


def visits(*seconds: float, spent: float = 1.0) -> tuple[Visit, ...]:
    return tuple(Visit(spent, s) for s in seconds)


def test_every_task_is_visited_once_the_longest_first():
    tasks = [Progress(1, 1e-3), Progress(10, 2e-3), Progress(1, 5e-3)]
    order = []
    for _ in tasks:
        n = next_task(tasks)
        assert n is not None
        order.append(n)
        tasks[n] = Progress(tasks[n].weight, tasks[n].start, visits(tasks[n].start))
    assert order == [1, 2, 0]


def test_a_task_that_falls_goes_before_one_that_does_not():
    falling = Progress(1, 1e-3, visits(0.9e-3, 0.8e-3, 0.7e-3))
    still = Progress(1, 1e-3, visits(1e-3, 1e-3, 1e-3))
    assert next_task([still, falling]) == 1
    assert gain_rate(falling) > 2 * gain_rate(still)


def test_occurrences_are_weights():
    tasks = [Progress(n, 1e-3, visits(0.9e-3)) for n in (1, 30, 7)]
    assert next_task(tasks) == 1
    assert gain_rate(tasks[1]) == pytest.approx(30 * gain_rate(tasks[0]))


def test_slow_measurements_count():
    cheap = Progress(1, 1e-3, visits(0.9e-3, spent=1.0))
    dear = Progress(1, 1e-3, visits(0.9e-3, spent=10.0))
    assert next_task([dear, cheap]) == 1


def test_what_is_at_its_bound_is_left_alone():
    done = Progress(100, 1e-3, visits(1e-3), floor=0.96e-3)
    other = Progress(1, 1e-3, visits(1e-3), floor=0.1e-3)
    assert gain_rate(done) == 0
    assert next_task([done, other]) == 1
    assert next_task([done]) is None


def test_a_bound_that_is_reached_needs_no_first_visit():
    assert next_task([Progress(1, 1e-3, floor=1e-3)]) is None


def test_what_the_model_hopes_for_decides_between_equals():
    hopeful = Progress(1, 1e-3, visits(1e-3), predicted=0.4e-3)
    hopeless = Progress(1, 1e-3, visits(1e-3), predicted=0.99e-3)
    assert next_task([hopeless, hopeful]) == 1


def test_what_has_not_fallen_for_long_falls_behind():
    fresh, stale = Progress(1, 1e-3, visits(1e-3)), Progress(1, 1e-3, visits(*[1e-3] * 20))
    assert gain_rate(fresh) > 5 * gain_rate(stale) > 0


def test_exhausted_tasks_and_small_gains_end_the_search():
    assert next_task([Progress(1, 1e-3, visits(1e-3), exhausted=True)]) is None
    assert next_task([Progress(1, 1e-3, visits(1e-3))], least=1.0) is None
    assert next_task([]) is None


@given(
    st.lists(
        st.builds(
            Progress,
            weight=st.floats(0, 100),
            start=st.floats(1e-6, 1),
            visits=st.lists(st.builds(Visit, st.floats(0.01, 100), st.floats(1e-6, 1)), max_size=8).map(
                tuple
            ),
            floor=st.floats(0, 1),
            predicted=st.none() | st.floats(1e-7, 1),
            exhausted=st.booleans(),
        ),
        max_size=6,
    )
)
def test_the_choice_is_never_one_without_hope(tasks):
    n = next_task(tasks)
    assert all(gain_rate(t) >= 0 for t in tasks)
    if n is None:
        assert all(gain_rate(t) == 0 for t in tasks)
    else:
        assert gain_rate(tasks[n]) > 0
