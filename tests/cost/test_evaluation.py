"""How choices are judged."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cost.synthetic import SIZES, dataset
from tilewright.cost.evaluation import (
    default_quality,
    folds,
    groups,
    pair_accuracy,
    qualities,
    quality,
    random_quality,
    summary,
    top,
)

TIMES = np.log([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


def test_top_is_the_best_time_over_that_of_the_choice():
    assert top(np.array([0, 1, 2, 3, 4, 5.0]), TIMES, 1) == 1
    assert math.isclose(top(np.array([5, 4, 0, 3, 2, 1.0]), TIMES, 1), 0.25)
    assert math.isclose(top(np.array([5, 3, 4, 1, 2, 0.0]), TIMES, 5), 0.5)


def test_equal_scores_are_no_merit():
    assert math.isclose(top(np.zeros(6), TIMES, 1), 1 / 32)
    assert pair_accuracy(np.zeros(6), TIMES) == 0.5


@given(st.permutations(range(6)))
def test_pairs_count_inversions(order):
    scores = np.array(order, float)
    wrong = sum(order[a] > order[b] for a in range(6) for b in range(a + 1, 6))
    assert math.isclose(pair_accuracy(scores, TIMES), 1 - wrong / 15)


def test_choosing_at_random():
    found = random_quality(TIMES)
    assert math.isclose(found.top1, np.mean([2.0**-n for n in range(6)]))
    # One of six is left out: the best is among five in five of six draws.
    assert math.isclose(found.top5, (5 + 0.5) / 6, abs_tol=0.05)


def test_summaries_are_of_the_mean_and_the_worst():
    found = summary([quality(TIMES, TIMES), quality(-TIMES, TIMES)])
    assert found.tasks == 2
    assert math.isclose(found.mean.top1, (1 + 1 / 32) / 2)
    assert math.isclose(found.worst.top1, 1 / 32)
    assert found.worst.pairs == 0
    with pytest.raises(ValueError, match="no tasks"):
        summary([])


def test_the_right_order_is_perfect_in_every_task():
    data = dataset()
    assert all(q.top1 == 1 and q.pairs == 1 for q in qualities(data.log_seconds, data))


def test_the_default_is_judged_where_it_was_measured():
    data = dataset()
    assert all(q is not None and 0 < q.top1 <= 1 for q in default_quality(data))
    without = dataclasses.replace(data, default=np.zeros(len(data), bool))
    assert default_quality(without) == [None] * len(SIZES)


def test_near_duplicates_of_what_is_held_out_are_not_trained_on():
    data = dataset()
    sizes = []
    for used, held in folds(data, "task"):
        assert not set(used) & set(held)
        sizes.append(len(used))
    assert sorted(sizes) == [len(SIZES) - 2] * 2 + [len(SIZES) - 1] * (len(SIZES) - 2)


def test_groups_are_held_out_as_a_whole():
    data = dataset()
    assert [name for name, _ in groups(data, "source")] == ["model0", "model1", "model2", "model3"]
    parts = [held for _, held in folds(data, "source", limit=2)]
    assert sorted(t for held in parts for t in held) == list(range(len(SIZES)))
    assert len(parts) == 2
    assert len(groups(data, "family")) == 1
    with pytest.raises(ValueError, match="task, source, family"):
        groups(data, "color")
