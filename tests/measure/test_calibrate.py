"""Calibration: coefficients come back from times that they have made, and what is known is not measured."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from tilewright.cost.coefficients import BOUNDS, Coefficients
from tilewright.cost.draft import DraftModel, draft_model
from tilewright.measure import calibrate as module
from tilewright.measure.calibrate import (
    Calibration,
    Timed,
    calibrate,
    calibrated,
    fit,
    probes,
    store_calibration,
)
from tilewright.records import open_store
from tilewright.schedule.features import FEATURES, features_of
from tilewright.target import PRESETS, Target

TARGET = PRESETS["x86-64-v4"]
#: A machine that is not what the target's numbers suggest.
OTHER = dataclasses.replace(
    Coefficients.of(TARGET), multiply_add=0.6, divide=20.0, call=14.0, l2=5e10, l3=2e10, memory=2.5e10,
    invoke=4e-7, gather=2.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def timed() -> tuple[Timed, ...]:
    """The probes, with the times that the model of :data:`OTHER` says."""
    wanted = probes(TARGET)
    features = np.stack([features_of(p.schedule(TARGET).func, TARGET) for p in wanted])
    times = np.exp(DraftModel(TARGET, OTHER).predict_features(features, 1, cold=0.0).log_seconds)
    return tuple(Timed(p.name, f, float(s)) for p, f, s in zip(wanted, features, times, strict=True))


def test_coefficients_come_back_from_the_times_that_they_made(timed: tuple[Timed, ...]) -> None:
    found = fit(timed, TARGET, 1)
    for name in ("multiply_add", "divide", "call", "l2", "l3", "memory", "invoke"):
        # The cycle may share a little of what the others say.
        assert abs(math.log(getattr(found, name) / getattr(OTHER, name))) < 0.3, name
    before, after = (
        np.abs(np.log([t.seconds for t in timed]) - _logs(timed, c)).max()
        for c in (Coefficients.of(TARGET), found)
    )
    assert after < 0.25 < before


def test_a_disturbed_probe_does_not_decide(timed: tuple[Timed, ...]) -> None:
    place = next(n for n, t in enumerate(timed) if t.name == "product in L2")
    disturbed = list(timed)
    disturbed[place] = dataclasses.replace(timed[place], seconds=20 * timed[place].seconds)
    quiet, found = fit(timed, TARGET, 1), fit(disturbed, TARGET, 1)
    assert abs(math.log(found.multiply_add / quiet.multiply_add)) < 0.3


def test_what_no_machine_does_ends_at_the_bounds(timed: tuple[Timed, ...]) -> None:
    found = fit([dataclasses.replace(t, seconds=1e3) for t in timed], TARGET, 1)
    for name, (low, high) in BOUNDS.items():
        assert low <= getattr(found, name) <= high


def test_a_calibration_is_stored_for_its_device_and_threads_and_not_repeated(
    tmp_path: Path, timed: tuple[Timed, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pretend(target: Target, threads: int, progress: object) -> Calibration:
        asked.append(threads)
        return Calibration(OTHER, threads, timed, tuple(2 * t.seconds for t in timed), 1.5)

    monkeypatch.setattr(module, "calibrate", pretend)
    with open_store(tmp_path / "records.sqlite") as store:
        for _ in range(2):
            assert calibrated(TARGET, 2, store) == OTHER
        assert asked == [2]
        assert draft_model(TARGET, 2, store).coefficients == OTHER
        assert draft_model(TARGET, 1, store).coefficients != OTHER
        (stored,) = store.models("draft")
        assert stored.metrics == {"error": pytest.approx(2.0), "seconds": 1.5}
        calibrated(TARGET, 2, store, again=True)
        assert asked == [2, 2]
        for _ in range(9):
            store_calibration(store, TARGET, pretend(TARGET, 2, None))
        assert len(store.models("draft")) == 5


def test_probes_run_here_and_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [p for p in probes(Target.host()) if p.name in ("copy in L1", "next to nothing")]
    monkeypatch.setattr(module, "probes", lambda target: few)
    told: list[tuple[int, int, str]] = []
    found = calibrate(Target.host(), 2, lambda *step: told.append(step))
    assert told == [(0, 2, "copy in L1"), (1, 2, "next to nothing"), (2, 2, "times")]
    assert found.threads == 2
    assert [t.name for t in found.probes] == ["copy in L1", "next to nothing"]
    assert all(t.seconds > 0 and t.features.shape == (len(FEATURES),) for t in found.probes)
    assert found.error >= 1


def _logs(timed: tuple[Timed, ...], coefficients: Coefficients) -> np.ndarray:
    features = np.stack([t.features for t in timed])
    return DraftModel(TARGET, coefficients).predict_features(features, 1, cold=0.0).log_seconds
