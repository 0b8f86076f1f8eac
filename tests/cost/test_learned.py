"""The learned model: predictions, trust, the stored form, and what may replace what."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from tests.cost.synthetic import DEVICE, DRAFT, TARGET, dataset, product, records
from tilewright.cost.dataset import FeatureReader
from tilewright.cost.draft import cold_bytes
from tilewright.cost.evaluation import qualities, summary
from tilewright.cost.learned import Beside, LearnedModel, Level, Training
from tilewright.cost.model import CostModel
from tilewright.cost.training import (
    KEPT,
    calibrate_spread,
    choose_trust,
    hold_out,
    is_guarded,
    load_model,
    promotion,
    retrain,
    train,
)
from tilewright.errors import ArtifactError, StoreError
from tilewright.ir.parser import parse
from tilewright.records import open_store
from tilewright.schedule.space import sketches

FEW = Training(trees=False, networks=1, rounds=20, steps=160, folds=2)


@functools.cache
def model() -> LearnedModel:
    return train(dataset(), DRAFT, FEW)


def test_it_chooses_better_than_the_draft_where_the_draft_is_wrong():
    data = dataset()
    learned = summary(qualities(model().predict_tasks(data).log_seconds, data)).mean
    draft = summary(qualities(Beside.of(data, DRAFT).draft, data)).mean
    assert learned.pairs > draft.pairs
    assert learned.top5 >= draft.top5
    assert model().metrics["held_pairs"] > 0.6


def test_candidates_of_sketches_and_bound_programs_are_predicted_alike():
    func = parse(product(64, 64, 64).text)
    sketch = sketches(func, TARGET)[0]
    rows = sketch.sample(20, seed=3)
    assert isinstance(model(), CostModel)
    found = model().predict(sketch, rows, 1)
    assert len(found) == len(rows)
    assert (found.spread > 0).all()
    bound = model().predict_features(sketch.features(rows), 1)
    assert np.corrcoef(found.log_seconds, bound.log_seconds)[0, 1] > 0.9


def test_far_from_all_data_the_draft_decides():
    func = parse(product(2048, 4096, 4096).text)
    sketch = sketches(func, TARGET)[0]
    rows = sketch.sample(20, seed=3)
    careful = dataclasses.replace(model(), trust=100.0)
    found = careful.predict(sketch, rows, 1)
    own = DRAFT.predict_features(sketch.features(rows), 1, cold_bytes(func))
    assert np.allclose(found.log_seconds, own.log_seconds, atol=0.05)
    assert np.allclose(found.spread, own.spread, atol=0.1)
    near = careful.share(dataset().vectors)
    assert (near > 0.05).all()


def test_records_beside_the_draft_are_centred_within_tasks():
    data = dataset()
    beside = Beside.of(data, DRAFT)
    offsets = data.log_seconds - beside.draft - beside.rest
    for task in range(len(data.tasks)):
        assert np.ptp(offsets[data.task == task]) < 1e-9
    assert np.allclose(np.bincount(data.task, beside.rest), 0)
    assert np.isfinite(beside.inputs).all()


def test_levels_come_from_sizes_and_from_what_is_known_nearby():
    data = dataset()
    beside, ensemble = Beside.of(data, DRAFT), model().ensemble
    level = Level.of(data, beside, ensemble)
    same = level.of_workloads(data.vectors, np.eye(len(data.tasks)))
    left = data.log_seconds - beside.draft - ensemble.predict(beside.inputs)[0]
    offsets = np.array([left[data.task == task].mean() for task in range(len(data.tasks))])
    assert np.abs(same - offsets).max() < np.abs(level.residuals).max() + 1e-9
    assert np.abs(same - offsets).mean() < np.abs(offsets).mean()


def test_a_few_steps_on_new_records_move_it_towards_them():
    data = dataset()
    known = data.only(range(len(data.tasks) - 1))
    before = train(known, DRAFT, FEW)
    after = before.updated(data, data.task == len(data.tasks) - 1)
    own = data.only([len(data.tasks) - 1])

    def pairs(which: LearnedModel) -> float:
        return summary(qualities(which.predict_tasks(own).log_seconds, own)).mean.pairs

    assert pairs(after) >= pairs(before)
    assert len(after.counts) == len(data.tasks)
    error = np.abs(after.predict_tasks(own).log_seconds - own.log_seconds).mean()
    assert error < np.abs(Beside.of(own, DRAFT).draft - own.log_seconds).mean()


def test_trees_take_part_where_lightgbm_is_there():
    pytest.importorskip("lightgbm")
    made = train(dataset(), DRAFT, dataclasses.replace(FEW, trees=True))
    assert made.ensemble.trees is not None
    again = LearnedModel.from_bytes(made.to_bytes(), DRAFT)
    data = dataset()
    assert np.array_equal(again.predict_tasks(data).spread, made.predict_tasks(data).spread)


# -- what was not seen ---------------------------------------------------------------------------------------


def test_spreads_of_held_out_records_are_calibrated():
    held = hold_out(dataset(), DRAFT, "task", FEW)
    scale = calibrate_spread(held)
    wide = dataclasses.replace(held, level=held.level + 10)
    assert calibrate_spread(wide) > scale > 0
    assert choose_trust(held) >= 0


def test_a_useless_ensemble_is_not_trusted():
    held = hold_out(dataset(), DRAFT, "task", FEW)
    noise = np.random.default_rng(0).standard_normal(len(held.data))
    wrong = dataclasses.replace(held, rest=noise, draft=held.data.log_seconds)
    right = dataclasses.replace(held, rest=held.data.log_seconds - held.level - noise, draft=noise)
    assert choose_trust(wrong) >= 100
    assert choose_trust(right) < 100


def test_too_little_data_is_an_error():
    with pytest.raises(StoreError, match="too little was measured to learn from: 2 kernels"):
        train(dataset().only([0, 1]), DRAFT)


def test_kernels_that_are_all_alike_are_an_error():
    with pytest.raises(StoreError, match="all measured kernels are alike"):
        hold_out(dataset().only([0]), DRAFT, "task", FEW)


# -- the stored form -----------------------------------------------------------------------------------------


def test_bytes_there_and_back():
    again = LearnedModel.from_bytes(model().to_bytes(), DRAFT)
    data = dataset()
    assert np.array_equal(again.predict_tasks(data).log_seconds, model().predict_tasks(data).log_seconds)
    assert again.metrics == model().metrics


@pytest.mark.parametrize("kept", [0, 10, 1000, -200])
def test_truncated_bytes_are_refused(kept):
    with pytest.raises(ArtifactError, match="the learned model is damaged"):
        LearnedModel.from_bytes(model().to_bytes()[:kept], DRAFT)


def test_flipped_bytes_never_crash():
    data = model().to_bytes()
    for place in np.random.default_rng(0).integers(len(data), size=40):
        broken = bytearray(data)
        broken[place] ^= 0x55
        try:
            found = LearnedModel.from_bytes(bytes(broken), DRAFT)
        except ArtifactError:
            continue
        assert np.isfinite(found.trust)


def test_a_model_over_other_features_is_refused(monkeypatch):
    whole = json.dumps
    monkeypatch.setattr(json, "dumps", lambda head, **how: whole({**head, "features": ["flops"]}, **how))
    data = model().to_bytes()
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="with 1 features"):
        LearnedModel.from_bytes(data, DRAFT)


# -- in a store ----------------------------------------------------------------------------------------------


def test_a_challenger_that_is_worse_does_not_replace_the_champion():
    data = dataset()
    good = model()
    bad = dataclasses.replace(good, ensemble=_Backwards(good.ensemble), trust=0.0)
    kept = promotion(good, bad, data)
    assert not kept.promoted
    assert kept.model is good
    assert kept.reason.startswith("top-1 would fall from")
    replaced = promotion(bad, good, data)
    assert replaced.promoted
    assert replaced.model is good
    assert promotion(None, bad, data).reason == "the first model"
    assert promotion(good, bad, data.only([])).reason == "no tasks to compare by"


class _Backwards:
    def __init__(self, ensemble):
        self.ensemble = ensemble

    def predict(self, x):
        mean, spread = self.ensemble.predict(x)
        return -mean, spread


def test_models_are_kept_in_the_store(tmp_path):
    reader = FeatureReader()
    with open_store(str(tmp_path / "records.sqlite")) as store:
        assert load_model(store, DEVICE.fingerprint, DRAFT) is None
        store.add(*records())
        found = retrain(store, DEVICE.fingerprint, DRAFT, reader, FEW)
        assert found.promoted
        loaded = load_model(store, DEVICE.fingerprint, DRAFT)
        assert loaded is not None
        data = dataset()
        assert np.array_equal(
            loaded.predict_tasks(data).log_seconds, found.model.predict_tasks(data).log_seconds
        )
        for _ in range(KEPT + 1):
            store.put_model("learned", DEVICE.fingerprint, found.model.to_bytes(), keep=KEPT)
        assert len(store.models("learned")) == KEPT


def test_a_stored_model_that_cannot_be_read_is_said_and_left(tmp_path, caplog):
    with open_store(str(tmp_path / "records.sqlite")) as store, caplog.at_level("WARNING", "tilewright"):
        store.put_model("learned", DEVICE.fingerprint, b"junk")
        assert load_model(store, DEVICE.fingerprint, DRAFT) is None
    assert "the learned model is damaged" in caplog.text


def test_a_fifth_of_workloads_is_guarded():
    share = np.mean([is_guarded(f"{n:08x}{'0' * 56}") for n in range(1000)])
    assert 0.15 < share < 0.25
