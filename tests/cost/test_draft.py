"""The draft model: its physics in the direction that they have, what it says of a kernel, and its numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tilewright.cost import CostModel
from tilewright.cost.coefficients import BOUNDS, Coefficients
from tilewright.cost.draft import LIMITS, DraftModel, bound, cold_bytes, draft_model, least_seconds
from tilewright.errors import StoreError
from tilewright.ir import te
from tilewright.ir.expr import call
from tilewright.ir.stmt import PrimFunc
from tilewright.records import Device, open_store
from tilewright.schedule.default import default_schedule
from tilewright.schedule.features import FEATURES, features_of
from tilewright.schedule.sketch import Rows, Sketch
from tilewright.schedule.space import sketches
from tilewright.target import PRESETS

TARGET = PRESETS["x86-64-v4"]


def product(m: int = 96, n: int = 192, k: int = 256) -> PrimFunc:
    a, w = te.placeholder((m, k), "float32", "a"), te.placeholder((k, n), "float32", "w")
    c = te.compute((m, n), lambda i, j: te.reduce("sum", (k,), lambda at: a[i, at] * w[at, j]), "c")
    return te.primfunc("product", [a, w], [c], const_inputs=[w])


def elements(count: int, function: str = "") -> PrimFunc:
    x = te.placeholder((count,), "float32", "x")
    y = te.compute((count,), lambda i: call(function, [x[i]]) if function else x[i] * 2.0, "y")
    return te.primfunc("elements", [x], [y])


def transpose(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    return te.primfunc("transpose", [x], [te.compute((columns, rows), lambda i, j: x[j, i] * 2.0, "y")])


def sketch_named(func: PrimFunc, name: str) -> Sketch:
    """That sketch; the only one where the structures come out alike."""
    found = sketches(func, TARGET)
    return next((s for s in found if s.name == name), found[0])


def row(sketch: Sketch, **decisions: int) -> Rows:
    """The default candidate with other values, by the last parts of the decisions' names."""
    found = sketch.default.copy()
    decisions = {"panels": 1, "tiles": 1, **decisions}
    for column, name in enumerate(sketch.columns):
        found[0, column] = decisions.get(name.rpartition("_")[2], found[0, column])
    assert sketch.valid(found).all()
    return found


def features(func: PrimFunc) -> NDArray[np.float32]:
    return features_of(default_schedule(func, TARGET).func, TARGET)


def seconds(sketch: Sketch, rows: Rows, threads: int = 1) -> float:
    return float(np.exp(DraftModel(TARGET).predict(sketch, rows, threads).log_seconds[0]))


def test_it_is_a_cost_model_for_candidates_and_for_features() -> None:
    model = DraftModel(TARGET)
    assert isinstance(model, CostModel)
    sketch = sketches(product(), TARGET)[0]
    rows = sketch.sample(300, 0)
    found = model.predict(sketch, rows, 2)
    assert found.log_seconds.shape == (300,)
    assert np.isfinite(found.log_seconds).all()
    assert (found.spread > 0).all()
    again = model.predict_features(sketch.features(rows), 2, cold_bytes(sketch.func))
    np.testing.assert_array_equal(found.log_seconds, again.log_seconds)
    many = model.predict_features(np.resize(sketch.features(rows), (9000, len(FEATURES))), 2)
    np.testing.assert_allclose(many.log_seconds[8100:8400], many.log_seconds[:300])


def test_constant_operands_come_from_memory() -> None:
    assert cold_bytes(product(8, 16, 4)) == 4 * 16 * 4
    model = DraftModel(TARGET)
    f = features(product())[None]
    assert model.predict_features(f, 1, cold=1e9).log_seconds > model.predict_features(f, 1).log_seconds + 1


def test_tiles_that_do_not_fit_the_registers_and_tiny_ones_are_slower() -> None:
    sketch = sketches(product(), TARGET)[0]
    good = seconds(sketch, row(sketch, rows=8, vectors=3, lanes=16))
    assert seconds(sketch, row(sketch, rows=1, vectors=1, lanes=16)) > 1.5 * good
    assert seconds(sketch, row(sketch, rows=8, vectors=3, lanes=4)) > 1.5 * good
    narrow = dataclasses.replace(TARGET, vector_registers=16)
    spilled = DraftModel(narrow).predict(sketch, row(sketch, rows=8, vectors=3, lanes=16), 1)
    assert np.exp(spilled.log_seconds[0]) > 1.2 * good


def test_short_vectors_strided_accesses_and_waste_are_slower() -> None:
    plain = sketch_named(elements(1 << 13), "loops")
    assert seconds(plain, row(plain, lanes=4)) > 1.3 * seconds(plain, row(plain, lanes=16))
    spread = sketch_named(transpose(64, 64), "rows")
    copied = sketch_named(elements(64 * 64), "loops")
    assert seconds(spread, spread.default) > 2 * seconds(copied, copied.default)
    sketch = sketches(product(97), TARGET)[0]
    ragged, even = row(sketch, rows=13, vectors=1), row(sketch, rows=14, vectors=1)
    waste = sketch.features(np.concatenate([ragged, even]))[:, FEATURES.index("waste")]
    assert waste[0] > waste[1]
    assert seconds(sketch, ragged) > 0.98 * seconds(sketch, even)


def test_threads_share_work_until_there_is_none_left_to_share() -> None:
    sketch = sketches(product(384, 768, 384), TARGET)[0]
    one, four = (seconds(sketch, sketch.default, threads) for threads in (1, 4))
    assert one / 4.2 < four < one / 2
    model = DraftModel(TARGET)
    base = features(product(384, 768, 384))[None]
    base[0, FEATURES.index("items")] = np.log2(5)
    terms = model.terms(base, 4)
    imbalance = terms.seconds[0, LIMITS.index("imbalance")]
    assert 0.2 < imbalance / terms.total[0] < 0.5


@pytest.mark.parametrize(
    ("func", "limit"),
    [
        (product(512, 768, 768), "compute"),
        (elements(1 << 24), "memory"),
        (elements(1 << 15), "l2"),
        (elements(1 << 13, "exp"), "compute"),
        (elements(16), "overhead"),
    ],
    ids=["product", "large copy", "copy in L2", "exponential", "tiny"],
)
def test_what_bounds_a_kernel(func: PrimFunc, limit: str) -> None:
    found = bound(features(func), DraftModel(TARGET), 1)
    assert found.limit == limit
    assert found.runner_up != limit
    assert found.distance >= 1
    assert 0 < found.share <= 1
    assert str(found).startswith("bound by ")
    assert f"{found.seconds * 1e6:.1f} us" in str(found)


def lookup(rows: int, read: int = 16, width: int = 64) -> PrimFunc:
    table, ids = te.placeholder((rows, width), "float32", "table"), te.placeholder((read,), "int64", "ids")
    y = te.compute((read, width), lambda i, j: table[ids[i], j], "y")
    return te.primfunc("lookup", [table, ids], [y], const_inputs=[table])


def test_a_table_that_is_looked_up_does_not_come_from_memory() -> None:
    model = DraftModel(TARGET)
    small, large = lookup(1 << 10), lookup(1 << 20)
    assert cold_bytes(large) == 0
    assert cold_bytes(lookup(8, read=16)) == 8 * 64 * 4
    for said in (
        lambda func: least_seconds(features(func), model, 1, cold_bytes(func), 32),
        lambda func: bound(features(func), model, 1, cold_bytes(func)).seconds,
    ):
        assert said(large) == pytest.approx(said(small), rel=0.05)


def test_no_schedule_takes_less_than_the_least_time() -> None:
    model = DraftModel(TARGET)
    c = model.coefficients
    for func in (product(), product(16, 4096, 4096), elements(1 << 12), elements(1 << 24)):
        sketch, cold = sketches(func, TARGET)[0], cold_bytes(func)
        floors = [least_seconds(f, model, 2, cold, 32) for f in sketch.features(sketch.sample(20))]
        assert max(floors) == pytest.approx(min(floors))
        assert max(floors) < float(np.exp(model.predict(sketch, sketch.sample(20), 2).log_seconds.min()))
    weights = 4096 * 4096 * 4
    assert least_seconds(features(product(1, 4096, 4096)), model, 1, weights, 32) == weights / c.memory
    large = product(512, 768, 768)
    assert least_seconds(features(large), model, 1, cold_bytes(large), 32) == pytest.approx(
        512 * 768 * 768 / 16 * c.multiply_add * c.cycle
    )


def test_default_coefficients_are_plausible_for_every_preset_and_read_back() -> None:
    for target in PRESETS.values():
        if target.gpu is None:
            for threads in (1, 8):
                found = Coefficients.of(target, threads)
                assert Coefficients.from_json(found.to_json()) == found
    assert Coefficients.of(TARGET, 8).memory > Coefficients.of(TARGET, 1).memory
    wide = Coefficients.of(TARGET).with_logs({"gather": 99.0, "load": -99.0})
    assert (wide.gather, wide.load) == (BOUNDS["gather"][1], BOUNDS["load"][0])


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"cycle": "x"}', '{"speed": 1}'])
def test_texts_that_are_no_coefficients(text: str) -> None:
    with pytest.raises(StoreError, match="no coefficients of the draft model"):
        Coefficients.from_json(text)


def test_a_number_that_no_machine_has() -> None:
    with pytest.raises(ValueError, match="'cycle' is 1, not between"):
        dataclasses.replace(Coefficients.of(TARGET), cycle=1)


def test_the_store_has_coefficients_of_a_device_and_a_number_of_threads(tmp_path: Path) -> None:
    slow = dataclasses.replace(Coefficients.of(TARGET), multiply_add=6.0)
    with open_store(tmp_path / "records.sqlite") as store:
        assert draft_model(TARGET, 2, store).coefficients == Coefficients.of(TARGET, 2)
        store.put_model("draft", Device.of(TARGET).fingerprint, slow.to_json().encode(), threads=2)
        assert draft_model(TARGET, 2, store).coefficients == slow
        assert draft_model(TARGET, 1, store).coefficients == Coefficients.of(TARGET, 1)
        assert draft_model(PRESETS["x86-64-v3"], 2, store).coefficients != slow
        store.put_model("draft", Device.of(TARGET).fingerprint, b"{", threads=2)
        with pytest.raises(StoreError, match="no coefficients"):
            draft_model(TARGET, 2, store)
    assert draft_model(TARGET, 2).coefficients == Coefficients.of(TARGET, 2)
