"""Histories: what records say becomes observations, each program counts once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tune.spaces import TARGET, shared_alike, space
from tilewright.records import Device, Epoch, Record, Sample, open_store
from tilewright.target import Target
from tilewright.tune import History, Observation, Point, SearchSpace

DEVICE = Device("tested", TARGET.to_json())


def record(
    here: SearchSpace, point: Point, seconds: float | None, threads: int = 1, device: Device | None = None,
    compiler: str = "1", status: str = "ok", origin: str = "local",
) -> Record:  # fmt: skip
    """A record of ``point`` with one time."""
    epoch = Epoch.begin(device or Device.of(TARGET), compiler)
    epoch = Epoch(epoch.uid, epoch.device, epoch.compiler, epoch.system, epoch.started, origin)
    samples = () if seconds is None else (Sample(seconds),)
    name = here.sketches[point.sketch].name
    return Record(here.workload, here.trace(point), epoch, threads, status, samples, "search", name)


def test_the_fastest_success_is_best() -> None:
    here = space("product")
    points = list(here.sample(3, np.random.default_rng(0)))
    history = History(here, 1)
    assert history.best is None
    history.add(points[0], "ok", 3e-3)
    history.add(points[1], "wrong_result")
    history.add(points[2], "ok", 2e-3)
    assert history.best == Observation(points[2], "ok", 2e-3)
    assert [o.point for o in history.ranked] == [points[2], points[0]]
    assert len(history) == 3
    assert all(history.seen(p) for p in points)
    assert set(history.keys.tolist()) == set(here.population(points).keys().tolist())


def test_points_of_one_program_count_once() -> None:
    here, first, guess = shared_alike()
    alone, together = History(here, 1), History(here, 2)
    for history in (alone, together):
        history.add(first, "ok", 2e-3)
    assert alone.seen(guess)
    assert not together.seen(guess)
    assert alone.fresh([guess], 1) == []
    assert together.fresh([guess, guess], 2) == [guess]
    assert History(here, 1).fresh([guess, first], 2) == [guess]
    assert History(here, 1).fresh([guess], 1, [first]) == []
    alone.add(guess, "ok", 1e-3)
    assert alone.observations == (Observation(guess, "ok", 1e-3),)
    alone.add(first, "crash")
    assert alone.observations == (Observation(first, "crash"),)
    alone.add(guess, "ok", 1e-4)
    assert alone.best is None


def test_records_of_this_device_are_observations_and_those_of_others_are_transferred(tmp_path: Path) -> None:
    here = space("product")
    own, wrong, elsewhere, older, threads, imported = here.sample(6, np.random.default_rng(1))
    foreign = space("softmax")
    with open_store(tmp_path / "records.sqlite") as store:
        store.add(
            record(here, own, 3e-3),
            record(here, wrong, None, status="not_finite"),
            record(here, elsewhere, 1e-3, device=DEVICE),
            record(here, older, 2e-3, compiler="0"),
            record(here, threads, 1e-3, threads=2),
            record(here, imported, 1e-4, origin="imported"),
            record(foreign, foreign.default, 1e-5),
        )
        history = History.of(here, store, 1, "1")
        assert {o.point: o.status for o in history.observations} == {own: "ok", wrong: "not_finite"}
        assert set(history.transferred) == {elsewhere, older, threads, imported}
        anywhen = History.of(here, store, 1)
        assert {o.point for o in anywhen.observations} == {own, wrong, older}


def test_a_record_of_another_structure_is_left_out() -> None:
    here, foreign = space("product"), space("softmax")
    history = History(here, 1)
    assert not history.add_record(record(foreign, foreign.default, 1.0))
    assert len(history) == 0


def test_a_success_needs_a_time() -> None:
    with pytest.raises(ValueError, match="status 'ok' with a time of None"):
        Observation(Point(0, ()), "ok")


def test_statuses_are_those_of_records() -> None:
    with pytest.raises(ValueError, match="there is no status 'fine'"):
        Observation(Point(0, ()), "fine", 1.0)


def test_the_host_is_a_device_of_its_own() -> None:
    assert Device.of(TARGET).fingerprint != Device.of(Target.host()).fingerprint
