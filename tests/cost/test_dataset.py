"""Records as features and times."""

import dataclasses

import numpy as np
import pytest

from tests.cost.synthetic import DRAFT, EPOCH, SIZES, TARGET, dataset, records
from tilewright.cache import DiskCache
from tilewright.cost.dataset import FeatureReader, dataset_of, near_duplicates, read_dataset
from tilewright.ir.parser import parse
from tilewright.records import Sample, open_store
from tilewright.schedule.features import features_of
from tilewright.schedule.trace import Trace


def test_features_are_those_of_the_replayed_traces():
    data = dataset()
    rows = sorted(records(), key=lambda r: r.uid)
    for n in range(0, len(rows), 17):
        func = Trace.from_json(rows[n].trace).apply(parse(rows[n].workload.text)).func
        assert np.allclose(data.features[n], features_of(func, TARGET), rtol=1e-4, atol=1e-4)


def test_the_best_of_a_task_is_its_least_time():
    data = dataset()
    assert len(data.tasks) == len(SIZES)
    for task in range(len(data.tasks)):
        assert data.best[task] == data.log_seconds[data.task == task].min()
    assert data.default.sum() == len(SIZES)
    assert np.isclose(data.weight.mean(), 1)


def test_what_does_not_apply_and_what_failed_is_counted():
    some = list(records()[:8])
    broken = dataclasses.replace(some[0], trace=some[0].trace.replace('"get_block"', '"get_blocks"'))
    other = dataclasses.replace(some[1], workload=records()[-1].workload)
    failed = dataclasses.replace(some[2], status="timeout", samples=())
    data = dataset_of([broken, other, failed, *some[3:]])
    assert data.failures == {"timeout": 1}
    assert data.skipped >= 1
    assert len(data) + data.skipped == 7


def test_nothing_measured_is_an_empty_data_set():
    data = dataset_of([])
    assert len(data) == 0
    assert data.vectors.shape[0] == 0


def test_the_least_time_of_any_epoch_counts():
    first, second = records()[:2]
    later = dataclasses.replace(EPOCH, uid="3" * 32)
    busy = dataclasses.replace(first, samples=(Sample(3.0, 9.0), Sample(2.0)))
    quiet = dataclasses.replace(first, epoch=later, samples=(Sample(1.0), Sample(1.5)))
    other = dataclasses.replace(second, samples=(Sample(1.0),))
    data = dataset_of([busy, quiet, other])
    assert data.log_seconds.tolist() == [0.0, 0.0]


def test_a_store_is_read_without_what_was_rejected(tmp_path):
    wrong = dataclasses.replace(EPOCH, uid="1" * 32)
    imported = dataclasses.replace(EPOCH, uid="2" * 32, origin="imported")
    with open_store(str(tmp_path / "records.sqlite")) as store:
        store.add(*records()[:6])
        store.add(*(dataclasses.replace(r, epoch=wrong) for r in records()[6:9]))
        store.add(*(dataclasses.replace(r, epoch=imported) for r in records()[9:12]))
        store.set_origin(wrong.uid, "rejected")
        data = read_dataset(store)
        none = read_dataset(store, threads=2)
        mine = read_dataset(store, workloads=[records()[0].workload.key], device=EPOCH.device.fingerprint)
    assert len(data) == 9
    assert np.isclose(data.weight.min() / data.weight.max(), 0.5)
    assert len(none) == 0
    assert len(mine) == 9


def test_near_duplicates_are_found_and_others_are_not():
    data = dataset()
    place = {t.workload.key: n for n, t in enumerate(data.tasks)}
    numbers = [place[r.workload.key] for r in records()]
    first = numbers[0]
    second = next(n for n in numbers if n != first)
    near = near_duplicates(data.vectors, [first])
    assert near[first]
    assert near[second]
    assert near.sum() == 2


def test_only_keeps_the_order_of_records():
    data = dataset()
    some = data.only([3, 1])
    rows = np.flatnonzero(np.isin(data.task, [1, 3]))
    assert np.array_equal(some.features, data.features[rows])
    assert some.tasks == (data.tasks[3], data.tasks[1])
    assert np.array_equal(some.task == 0, data.task[rows] == 3)


def test_default_schedules_can_be_left_out():
    data = dataset()
    rest = data.without_default()
    assert not rest.default.any()
    assert rest.tasks == data.tasks
    assert np.array_equal(rest.log_seconds, data.log_seconds[~data.default])


def test_the_draft_speaks_of_these_features():
    assert np.isfinite(DRAFT.predict_features(dataset().features, 1).log_seconds).all()


@pytest.mark.parametrize("count", [1, 3])
def test_tasks_with_too_few_records_are_left_out(count):
    first, last = records()[0].workload.key, records()[-1].workload.key
    many = [r for r in records() if r.workload.key == first][:8]
    few = [r for r in records() if r.workload.key == last][:count]
    data = dataset_of([*many, *few])
    assert len(data.tasks) == 2
    assert len(data.with_at_least(count + 1).tasks) == 1


def test_features_are_kept_from_process_to_process(tmp_path, monkeypatch):
    some = list(records()[:9])
    broken = dataclasses.replace(some[0], trace=some[0].trace.replace('"get_block"', '"get_blocks"'))
    cache = DiskCache(tmp_path)
    first = FeatureReader(cache, "one")
    found = first.features([*some[:6], broken])
    more = FeatureReader(cache, "one")
    assert np.array_equal(more.features(some[3:])[0], found[3])
    with monkeypatch.context() as patch:
        patch.setattr("tilewright.cost.dataset.parse", None)
        again = FeatureReader(cache, "one")
        kept = again.features([*some[:6], broken])
        assert kept[6] is None
        assert np.array_equal(kept[:6], found[:6])
        assert len(again.features(some)) == len(some)
        assert np.array_equal(again.task(some[0]).vector, first.task(some[0]).vector)
        assert again.task(some[0]).cold == first.task(some[0]).cold > 0
        with pytest.raises(TypeError):
            FeatureReader(cache, "another compiler").features(some)
