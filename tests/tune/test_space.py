"""Search spaces: the default is a point, traces and points are one to one, populations stay valid."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.schedule.spaces import FUNCTIONS
from tests.tune.spaces import NAMES, TARGET, Guess, product, shared_alike, space
from tilewright.errors import ScheduleError
from tilewright.ir.printer import canonical_text
from tilewright.ir.sizes import dimension
from tilewright.lower import lower
from tilewright.records.record import Workload
from tilewright.schedule.default import default_schedule
from tilewright.schedule.trace import Trace
from tilewright.tune import Point, Population, SearchSpace


@pytest.mark.parametrize("name", [*FUNCTIONS, "product"])
def test_the_default_point_is_the_program_of_the_default_schedule(name: str) -> None:
    here = space(name)
    bound = lower(here.bind(here.default).func)
    assert canonical_text(bound) == canonical_text(lower(default_schedule(here.func, TARGET).func))
    assert here.point_of(here.trace(here.default)) == here.default


@pytest.mark.parametrize("name", NAMES)
def test_traces_and_points_are_one_to_one(name: str) -> None:
    here = space(name)
    points = list(here.sample(40, np.random.default_rng(0)))
    traces = [here.trace(p) for p in points]
    assert [here.point_of(t) for t in traces] == points
    assert len(set(traces)) == len(set(points))
    for point, trace in zip(points[:4], traces, strict=False):
        bound = here.bind(point)
        assert json.loads(trace) == json.loads(bound.trace.to_json())
        assert canonical_text(Trace.from_json(trace).apply(here.func).func) == canonical_text(bound.func)


@pytest.mark.parametrize("name", NAMES)
def test_populations_stay_valid(name: str) -> None:
    here, rng = space(name), np.random.default_rng(1)
    drawn = here.sample(500, rng)
    assert here.valid(drawn).all()
    assert len(drawn.distinct()) == len(drawn)
    if here.size > 5000:
        assert len(drawn) == 500
    changed = here.mutate(drawn, rng)
    assert here.valid(changed).all()
    assert (changed.sketch == drawn.sketch).all()
    assert np.mean(changed.keys() != drawn.keys()) > 0.5
    mixed = here.crossover(drawn, changed.take(rng.permutation(len(changed))), rng)
    assert here.valid(mixed).all()
    assert (mixed.sketch == drawn.sketch).all()


def test_a_mix_has_decisions_of_both_parents_where_sketches_differ() -> None:
    here = space("convolution")
    names = [s.name for s in here.sketches]
    a, b = names.index("default"), names.index("tile_row1")
    first = Population.of_sketch(a, here.sketches[a].sample(64, 0), here.widths)
    other = Population.of_sketch(b, here.sketches[b].sample(64, 1), here.widths)
    other = other.take(np.arange(len(first)))
    mixed = here.crossover(first, other, np.random.default_rng(0))
    shared = [n for n in here.sketches[a].columns if n in here.sketches[b].columns]
    ours = [here.sketches[a].columns.index(n) for n in shared]
    theirs = [here.sketches[b].columns.index(n) for n in shared]
    taken = (mixed.rows[:, ours] == other.rows[:, theirs]) & (mixed.rows[:, ours] != first.rows[:, ours])
    assert taken.any()


def test_populations_are_sequences_of_points() -> None:
    here = space("softmax")
    drawn = here.sample(20, np.random.default_rng(2))
    points = list(drawn)
    assert all(isinstance(p, Point) for p in points)
    assert drawn[3] == points[3]
    assert list(drawn[2:5]) == points[2:5]
    again = here.population(points)
    assert list(again) == points
    assert (again.keys() == drawn.keys()).all()
    assert len(set(drawn.keys().tolist())) == len(set(points))
    assert list(Population.concat([drawn, drawn]).distinct()) == points
    assert len(drawn.without(drawn.keys()[:5])) == 15


def test_predictions_are_those_of_each_sketch() -> None:
    here, model = space("depthwise"), Guess()
    points = list(here.sample(30, np.random.default_rng(3)))
    together = here.predict(model, points, 1)
    for point, log_seconds in zip(points, together.log_seconds, strict=True):
        alone = model.predict(here.sketches[point.sketch], np.array([point.row], np.int64), 1)
        assert alone.log_seconds[0] == pytest.approx(log_seconds)


def test_every_point_of_a_small_space_is_listed() -> None:
    here = space("transposition")
    every = here.enumerate()
    assert here.valid(every).all()
    assert len(every) == sum(len(s.enumerate()) for s in here.sketches)
    assert here.default in set(every)


@pytest.mark.parametrize("name", NAMES)
def test_equal_programs_have_equal_signatures(name: str) -> None:
    here, rng = space(name), np.random.default_rng(4)
    drawn = here.sample(6, rng)
    guesses = [Point(n, tuple(s.default[0].tolist())) for n, s in enumerate(here.sketches)]
    points = list(dict.fromkeys([*guesses, *drawn, *here.mutate(drawn, rng)]))
    known: dict[str, bytes] = {}
    for point, signature in zip(points, here.signatures(points), strict=True):
        assert known.setdefault(here.program(point, 1), signature) == signature


def test_chunks_of_threads_tell_programs_apart_only_where_there_are_several() -> None:
    here, one, many = shared_alike()
    assert here.program(one, 1) == here.program(many, 1)
    assert here.program(one, 2) != here.program(many, 2)


def test_traces_of_other_structures_are_no_points() -> None:
    foreign = space("softmax")
    assert space("product").point_of(foreign.trace(foreign.default)) is None


def test_a_trace_with_values_outside_of_the_domains_is_no_point() -> None:
    here = space("product")
    trace = json.loads(here.trace(here.sample(1, np.random.default_rng(0))[0]))
    for row in trace["instructions"]:
        if row[0] == "decide":
            row[2]["value"] = 77777
    assert here.point_of(json.dumps(trace)) is None


def test_functions_with_open_dimensions_are_refused() -> None:
    with pytest.raises(ScheduleError, match="1 dimensions that a run decides: it cannot be tuned"):
        SearchSpace(Workload.of(product(dimension("n", 1, 64))), TARGET)  # type: ignore[arg-type]


def test_points_of_no_sketch_are_refused() -> None:
    with pytest.raises(ScheduleError, match="has no sketch 99"):
        space("product").valid([Point(99, ())])


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ScheduleError, match="rows of 6 integers, not 1"):
        space("product").valid([Point(0, (1,))])


def test_traces_of_invalid_points_are_refused() -> None:
    with pytest.raises(ScheduleError, match=r"no valid candidate of sketch 'default': .*_lanes=5"):
        space("product").trace(Point(0, (5, 1, 1, 1, 1, 1)))


def test_large_spaces_are_not_listed() -> None:
    with pytest.raises(ScheduleError, match="combinations: too many to list"):
        space("softmax").enumerate()
