"""Networks that rank."""

import dataclasses

import numpy as np
import pytest

from tilewright.cost.evaluation import pair_accuracy
from tilewright.cost.network import Network, _pairs, _slopes, continue_network, train_network


def data(tasks: int = 8, count: int = 30, seed: int = 0):
    """Times of tasks differ by their levels; within a task feature 1 decides, the other way round above 0."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tasks * count, 5)).astype(np.float32)
    x[:, 3] = 7  # says nothing
    task = np.repeat(np.arange(tasks), count)
    slow = np.abs(x[:, 1]).astype(float) + 0.3 * x[:, 2]
    best = np.array([slow[task == t].min() for t in range(tasks)])
    return x, best[task] - slow, task


def test_a_network_ranks_tasks_that_it_has_not_seen():
    network = train_network(*data(), seed=0, steps=300)
    x, y, task = data(seed=5)
    score = network.predict(x)
    accuracy = np.mean([pair_accuracy(score[task == t], -y[task == t]) for t in range(8)])
    assert accuracy > 0.85
    # Scaled to logarithms of times.
    assert np.corrcoef(score, -y)[0, 1] > 0.85
    assert 0.5 < np.polyfit(score, -y, 1)[0] < 2


def test_training_is_the_same_for_the_same_seed():
    one, two = (train_network(*data(), seed=3, steps=30) for _ in range(2))
    other = train_network(*data(), seed=4, steps=30)
    x = data(seed=9)[0]
    assert np.array_equal(one.predict(x), two.predict(x))
    assert not np.array_equal(one.predict(x), other.predict(x))


def test_slopes_are_those_of_the_loss():
    rng = np.random.default_rng(0)
    sizes = [(4, 6), (6, 6), (6, 1), (6,), (6,), (1,)]
    parts = [rng.standard_normal(s).astype(np.float32) for s in sizes]
    x, y = rng.standard_normal((12, 4)).astype(np.float32), rng.standard_normal((2, 6))

    def loss() -> float:
        layer = x
        for n in range(3):
            layer = layer @ parts[n] + parts[3 + n]
            layer = np.maximum(layer, 0) if n < 2 else layer
        return float(_pairs(layer.reshape(2, 6), y)[0])

    slopes = _slopes(x, y, parts)
    for part, slope in zip(parts[:3], slopes[:3], strict=True):
        place = tuple(rng.integers(s) for s in part.shape)
        kept, step = part[place], np.float32(1e-2)
        part[place] = kept + step
        above = loss()
        part[place] = kept - step
        below = loss()
        part[place] = kept
        assert np.isclose((above - below) / (2 * step), slope[place], rtol=0.1, atol=2e-3)


def test_pairs_of_different_tasks_are_not_compared():
    scores = np.array([[0.0, 1.0], [5.0, 6.0]], np.float32)
    right = np.array([[0.0, -1.0], [0.0, -1.0]])
    loss, _ = _pairs(scores, right)
    moved, _ = _pairs(scores + np.array([[100.0], [0.0]], np.float32), right)
    assert np.isclose(loss, moved)


def test_learning_goes_on_without_forgetting():
    x, y, task = data(tasks=6)
    network = train_network(x, y, task, steps=200)
    # A new task, in which feature 4 matters.
    rng = np.random.default_rng(1)
    more = rng.standard_normal((30, 5)).astype(np.float32)
    more[:, 3] = 7
    slow = 3 * more[:, 4].astype(float)
    x2, task2 = np.concatenate([x, more]), np.concatenate([task, np.full(30, 6)])
    y2 = np.concatenate([y, slow.min() - slow])
    after = continue_network(network, x2, y2, task2, task2 == 6, steps=100)
    assert pair_accuracy(after.predict(more), slow) > pair_accuracy(network.predict(more), slow) + 0.1
    assert np.mean([pair_accuracy(after.predict(x[task == t]), -y[task == t]) for t in range(6)]) > 0.7
    assert continue_network(network, x, y, task, np.zeros(len(x), bool)) is network


def test_one_candidate_a_task_is_nothing_to_compare():
    with pytest.raises(ValueError, match="two candidates"):
        train_network(np.zeros((3, 2), np.float32), np.zeros(3), np.arange(3))


def test_arrays_there_and_back():
    network = train_network(*data(), steps=10)
    x = data(seed=2)[0]
    assert np.array_equal(Network.of_arrays(network.arrays(), 5).predict(x), network.predict(x))
    with pytest.raises(ValueError, match="mean"):
        Network.of_arrays(network.arrays(), 6)
    broken = dataclasses.replace(network, scale=float("nan"))
    with pytest.raises(ValueError, match="scale"):
        Network.of_arrays(broken.arrays(), 5)
