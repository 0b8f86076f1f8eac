"""Which cost model guides a session, and what bounds kernels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.tune.faked import Clock, FakeMeasurer, search_space
from tests.tune.stored import DEVICE, TARGET, dense_model
from tilewright.cost.coefficients import Coefficients
from tilewright.errors import OptionError
from tilewright.records import Epoch, open_store
from tilewright.sources import open_model
from tilewright.tune import models
from tilewright.tune.models import bounds_of, calibrate_once, default_model, train_again
from tilewright.tune.plugins import find_strategy, load_plugin, make_model
from tilewright.tune.session import Session, Settings
from tilewright.tune.tasks import extract

DOCS = Path(__file__).parents[2] / "docs" / "tuning.md"


@pytest.fixture(scope="module")
def extracted():
    return extract([open_model(dense_model()).case({}, {}).graph], TARGET, 1)


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "records.sqlite") as opened:
        yield opened


def put_calibration(store, threads=1):
    data = Coefficients.of(TARGET, threads).to_json().encode()
    store.put_model("draft", DEVICE.fingerprint, data, threads=threads)


def test_the_draft_is_taken_where_nothing_was_learned(store):
    assert default_model(store, TARGET, 1) == "draft"
    assert make_model("draft", TARGET, 1, store).name == "draft"


def test_a_learned_model_that_there_is_not(store):
    with pytest.raises(OptionError, match="no learned model for this machine") as caught:
        make_model("learned", TARGET, 1, store)
    assert "--effort full" in str(caught.value)


def test_a_machine_is_measured_once(store, monkeypatch):
    calls, notes = [], []

    def calibrated(target, threads, where):
        calls.append(threads)
        put_calibration(where, threads)

    monkeypatch.setattr(models, "calibrated", calibrated)
    for _ in range(2):
        calibrate_once(store, TARGET, 1, notes.append)
    calibrate_once(store, TARGET, 2, notes.append)
    assert calls == [1, 2]
    assert len(notes) == 2
    assert "20 seconds" in notes[0]


def test_bounds_are_for_machines_that_were_measured(store, extracted):
    task = extracted.tasks[0]
    space = search_space(task.workload, TARGET)
    floor, words = bounds_of(store, TARGET, 1)(task, space, space.default)
    assert floor == 0
    assert words
    put_calibration(store)
    floor, _ = bounds_of(store, TARGET, 1)(task, space, space.default)
    c = Coefficients.of(TARGET)
    macs = 24 * 40 * 36  # what the activation adds can be hidden behind them
    assert floor == pytest.approx(macs * c.multiply_add * c.cycle / TARGET.lanes(32), rel=0.01)


def test_too_few_records_to_learn_from_are_no_error(store):
    assert train_again(store, TARGET, 1).startswith("no learned model was trained")


def test_the_example_of_the_documents_works(store, extracted, tmp_path):
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)[-1]
    plugin = tmp_path / "mine.py"
    plugin.write_text(code)
    found = load_plugin(plugin)
    assert found.strategies == ("sampled",)
    assert found.models == ("parallel-first",)
    clock = Clock()
    measurer = FakeMeasurer(clock)
    session = Session(
        extracted,
        store,
        TARGET,
        1,
        find_strategy("sampled"),
        make_model("parallel-first", TARGET, 1, store),
        lambda: measurer,
        Epoch.begin(DEVICE, "test"),
        Settings(trials=6, batch=3),
        bounds=bounds_of(store, TARGET, 1),
        clock=clock,
    )
    outcome = session.run()
    assert outcome.trials == 6
    assert all(s.bound for s in outcome.states)
    assert all(np.isfinite(s.seconds) for s in outcome.states)
