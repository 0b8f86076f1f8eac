"""What the benchmark of choices says of measured candidates."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.choice import (
    KERNELS,
    Task,
    choices,
    default_share,
    predictions,
    random_share,
    share,
    tasks,
)
from tests.cost.synthetic import DRAFT, dataset
from tests.records.samples import EPOCH, product, record
from tilewright.cost.learned import Beside, Training
from tilewright.cost.training import train
from tilewright.ir.parser import parse
from tilewright.records import open_store
from tilewright.schedule.features import FEATURES
from tilewright.target import Target

TIMES = (4.0, 1.0, 8.0, 2.0, 1.6)


def task(default: int | None = 1) -> Task:
    features = np.zeros((len(TIMES), len(FEATURES)), np.float32)
    is_default = np.array([n == default for n in range(len(TIMES))])
    return Task("a kernel", product(), 1, features, np.array(TIMES), is_default, ())


def test_the_share_of_a_choice() -> None:
    predicted = np.array([0.1, 0.5, 0.9, 0.2, 0.4])
    assert share(task(), predicted) == share(task(), predicted + 7)
    assert (share(task(), predicted).first, share(task(), predicted).of_five) == (0.25, 1.0)
    assert share(task(), -predicted).first == 0.125
    among_random = share(task(), -np.array([0, 1.0, 0, 0, 0.5]), of_random=True)
    assert among_random.first == 1 / 1.6


@pytest.mark.parametrize("picks", [1, 2, 4, 9])
def test_what_is_expected_of_random_choices(picks: int) -> None:
    rest = [t for n, t in enumerate(TIMES) if n != 1]
    draws = list(itertools.combinations(rest, min(picks, len(rest))))
    assert random_share(task(), picks) == pytest.approx(sum(1 / min(d) for d in draws) / len(draws))


def test_the_share_of_the_default() -> None:
    assert default_share(task(3)) == 0.5
    assert math.isnan(default_share(task(None)))


def test_tasks_take_the_least_time_of_a_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.choice as module

    monkeypatch.setattr(module.Device, "of", staticmethod(lambda target: EPOCH.device))
    with open_store(tmp_path / "records.sqlite") as store:
        store.add(record(3e-3, 2e-3), record(1e-3, 5e-3, factor=4), record(status="timeout", factor=8))
        assert tasks(store, Target.host()) == []
        (found,) = tasks(store, Target.host(), least=2)
    assert sorted(found.seconds) == [1e-3, 2e-3]
    assert found.features.shape == (2, len(FEATURES))
    assert found.name.startswith("matmul 8x4 4x16")
    assert [min(s.seconds for s in r.samples) for r in found.rows] == list(found.seconds)


def test_choices_of_the_draft_and_of_a_learned_model() -> None:
    data = dataset().only([0])
    func, default = parse(data.tasks[0].workload.text), data.default
    measured = Task("a kernel", func, 1, data.features, np.exp(data.log_seconds), default, ())
    few = Training(trees=False, networks=1, steps=20, folds=2)
    learned = train(dataset(), DRAFT, few)
    assert np.allclose(predictions(learned, [measured])[0], learned.predict_tasks(data).log_seconds)
    assert np.allclose(predictions(DRAFT, [measured])[0], Beside.of(data, DRAFT).draft)
    columns = choices([DRAFT, learned], [measured])
    assert [name for name, _ in columns] == ["draft", "draft of random", "learned", "learned of random"]
    assert all(0 < s.first <= s.of_five <= 1 for _, shares in columns for s in shares)


def test_the_kernels_are_different_and_of_known_sizes() -> None:
    assert len({str(func) for _, func in KERNELS}) == len(KERNELS) >= 12
    assert all(p.static_shape for _, func in KERNELS for p in func.params)
