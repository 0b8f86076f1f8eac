"""Boosted trees as arrays."""

import sys

import numpy as np
import pytest

from tilewright.cost.trees import Trees, train_trees
from tilewright.errors import MissingDependencyError


def stump() -> Trees:
    """-1 where feature 1 is at most 0.5, else 2; plus 10 in a tree that is a leaf."""
    return Trees(
        np.array([1, 0, 0, 0], np.int32), np.array([0.5, 0, 0, 0], np.float32),
        np.array([1, 1, 2, 3], np.int32), np.array([2, 1, 2, 3], np.int32),
        np.array([0, -1, 2, 10], np.float64), np.array([0, 3], np.int32), 1,
    )  # fmt: skip


def test_a_stump():
    x = np.array([[9, 0.5], [9, np.nextafter(np.float32(0.5), np.float32(1))], [9, -3]], np.float32)
    assert stump().predict(x).tolist() == [9, 12, 9]
    assert stump().predict(x[:0]).tolist() == []


def test_arrays_there_and_back():
    again = Trees.of_arrays(stump().arrays(), 2)
    x = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    assert np.array_equal(again.predict(x), stump().predict(x))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("left", np.array([1, 1, 2, 4], np.int32)),
        ("feature", np.array([2, 0, 0, 0], np.int32)),
        ("roots", np.array([-1], np.int32)),
        ("threshold", np.zeros(3, np.float32)),
        ("depth", np.array(99, np.int32)),
    ],
)
def test_what_is_no_forest_is_refused(name, value):
    with pytest.raises(ValueError, match="trees"):
        Trees.of_arrays({**stump().arrays(), name: value}, 2)


def test_without_lightgbm_training_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingDependencyError, match="LightGBM") as caught:
        train_trees(np.zeros((4, 2), np.float32), np.zeros(4), np.ones(4))
    assert "tilewright[train]" in str(caught.value.hint)


def test_predictions_are_lightgbms_own():
    pytest.importorskip("lightgbm")
    from tilewright.cost import trees

    rng = np.random.default_rng(1)
    x = np.concatenate(
        [rng.integers(0, 9, (600, 6)) / 2, rng.standard_normal((600, 6))], axis=1, dtype=np.float32
    )
    y = x[:, 0] * x[:, 7] + np.sin(3 * x[:, 8])
    booster = trees._booster(x, y.astype(float), np.ones(600), 0, 40)
    flat = trees._flat(booster.dump_model()["tree_info"])
    # Values on thresholds go the same way.
    other = np.concatenate([x, np.resize(flat.threshold, (300, 12))])
    assert flat.depth <= 6
    assert np.allclose(flat.predict(other), booster.predict(other), rtol=0, atol=1e-9)
    again = train_trees(x, y.astype(float), np.ones(600), 0, 40)
    assert np.array_equal(again.predict(other), flat.predict(other))
