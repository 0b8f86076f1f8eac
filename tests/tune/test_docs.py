"""The page on searching: its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tune.spaces import Guess
from tilewright.schedule.space import unregister_sketch
from tilewright.tune import strategy as registry

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text()


def test_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    scope: dict[str, Any] = {}
    try:
        exec(code.replace("512", "40").replace("256", "12").replace("1000", "100"), scope)
    finally:
        unregister_sketch("square_tiles")
    assert "'square_tiles'" in capsys.readouterr().out
    here, history = scope["space"], registry.History(scope["space"], 1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        for proposal in scope["strategy"].propose(here, Guess(), history, 4, rng, 1):
            seconds = float(np.exp(here.predict(Guess(), [proposal.point], 1).log_seconds[0]))
            history.add(proposal.point, "ok", seconds)
    assert len(history) > 4
    tiles = next(s for s in here.sketches if s.name == "square_tiles")
    assert np.isfinite(tiles.features(tiles.enumerate())).all()


def test_every_strategy_is_on_the_page() -> None:
    listed = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    assert listed == {"evolutionary", "annealing", "random", "exhaustive"}
