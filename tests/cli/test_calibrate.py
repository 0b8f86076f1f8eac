"""``tilewright calibrate`` shows what the store has, and measures where it has nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tilewright.cost import Coefficients
from tilewright.measure import calibrate as module
from tilewright.target import Target


def test_calibrate_measures_once_and_shows_the_coefficients(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pretend(target: Target, threads: int, progress: object) -> module.Calibration:
        asked.append(threads)
        return module.Calibration(Coefficients.of(target, threads), threads, (), (), 2.0)

    monkeypatch.setattr(module, "calibrate", pretend)
    monkeypatch.setattr(module.Calibration, "error", 1.05)
    store = ("--store", tmp_path / "records.sqlite", "calibrate", "--threads", "1")
    done = cli(*store, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["coefficients"] == dataclasses.asdict(Coefficients.of(Target.host(), 1))
    assert (found["threads"], found["error"], found["seconds"]) == (1, 1.05, 2.0)
    done = cli(*store)
    assert done.code == 0
    for words in ("a multiply-add of a full vector", "bytes/s", "within a factor of 1.05"):
        assert words in done.out
    assert asked == [1]
    assert cli(*store, "--again").code == 0
    assert asked == [1, 1]
