"""Strategies: what they propose is valid, new and repeatable, and better than chance."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tune.spaces import Guess, Truth, space
from tilewright.errors import OptionError, ScheduleError
from tilewright.tune import (
    History,
    Point,
    Proposal,
    SearchSpace,
    make_strategy,
    register_strategy,
    strategy_names,
)
from tilewright.tune.annealing import Annealing
from tilewright.tune.batch import probes
from tilewright.tune.constructed import CLOSE, EARLY, around_default, constructed, misfit
from tilewright.tune.evolutionary import Evolutionary
from tilewright.tune.exhaustive import Exhaustive
from tilewright.tune.fitness import Fitness
from tilewright.tune.random_search import RandomSearch
from tilewright.tune.strategy import Strategy

#: As the default ones, with fewer candidates, so that tests are quick.
QUICK: dict[str, Strategy] = {
    "random": RandomSearch(),
    "evolutionary": Evolutionary(size=128, generations=4),
    "annealing": Annealing(chains=32, steps=12),
}


def observe(history: History, points: list[Point]) -> None:
    """Measure points by the made-up truth."""
    times = np.exp(history.space.predict(Truth(), points, history.threads).log_seconds)
    for point, seconds in zip(points, times, strict=True):
        history.add(point, "ok", float(seconds))


def search(here: SearchSpace, strategy: Strategy, seed: int, rounds: int = 2, count: int = 8) -> History:
    """The history after some rounds of proposals."""
    history, rng = History(here, 1), np.random.default_rng(seed)
    for _ in range(rounds):
        observe(history, [p.point for p in strategy.propose(here, Guess(), history, count, rng, 1)])
    return history


def test_the_strategies_are_registered() -> None:
    assert {"random", "evolutionary", "annealing", "exhaustive"} <= set(strategy_names())
    assert make_strategy("evolutionary") == Evolutionary()


@pytest.mark.parametrize("name", ["product", "convolution", "softmax"])
@pytest.mark.parametrize("strategy", QUICK)
def test_proposals_are_valid_new_and_different(strategy: str, name: str) -> None:
    here, rng = space(name), np.random.default_rng(0)
    history = History(here, 1)
    observe(history, list(here.sample(2, rng)))
    for _ in range(2):
        proposals = QUICK[strategy].propose(here, Guess(), history, 4, rng, 1)
        points = [p.point for p in proposals]
        assert len(points) <= 4
        assert here.valid(points).all()
        assert not any(history.seen(p) for p in points)
        assert len({here.program(p, 1) for p in points}) == len(points)
        observe(history, points)
    assert here.default in {o.point for o in history.observations} or history.seen(here.default)


@pytest.mark.parametrize("strategy", QUICK)
def test_equal_seeds_give_equal_proposals(strategy: str) -> None:
    here = space("depthwise")
    runs = [search(here, QUICK[strategy], seed) for seed in (1, 1, 2)]
    assert runs[0].observations == runs[1].observations
    assert runs[0].observations != runs[2].observations


@pytest.mark.parametrize("strategy", ["evolutionary", "annealing"])
def test_strategies_beat_chance(strategy: str) -> None:
    """Of all pairs of 8 runs each at least 52 of 64 go to the strategy: chance does that once in 50 times
    (Mann and Whitney)."""
    here = space("product")

    def best(kind: str, seed: int) -> float:
        found = search(here, QUICK[kind], seed).best
        assert found is not None
        return found.seconds or 0.0

    ours = [best(strategy, seed) for seed in range(8)]
    others = [best("random", seed) for seed in range(8, 16)]
    assert sum(a < b for a in ours for b in others) >= 52


def test_a_good_model_is_believed_and_a_wrong_one_corrected() -> None:
    here, rng = space("product"), np.random.default_rng(0)
    history = History(here, 1)
    drawn = here.sample(200, rng)
    truth = here.predict(Truth(), drawn, 1).log_seconds
    before, unsure = Fitness(here, Guess(), history, 1).expected(drawn)
    observe(history, list(drawn[:40]))
    after, surer = Fitness(here, Guess(), history, 1).expected(drawn)
    assert np.abs(after[:40] - truth[:40]).max() < 0.15
    assert np.std((after - truth)[40:]) < 0.8 * np.std((before - truth)[40:])
    assert (surer[:40] < unsure[:40]).all()
    mean, covariance = Fitness(here, Guess(), history, 1).joint(drawn)
    np.testing.assert_allclose(mean, after)
    np.testing.assert_allclose(np.sqrt(np.maximum(np.diagonal(covariance), 0)), surer, atol=1e-4)


def test_failures_count_as_slow() -> None:
    here, rng = space("product"), np.random.default_rng(0)
    drawn = here.sample(20, rng)
    history = History(here, 1)
    observe(history, list(drawn[1:]))
    before, _ = Fitness(here, Guess(), history, 1).expected(drawn)
    history.add(drawn[0], "crash")
    after, _ = Fitness(here, Guess(), history, 1).expected(drawn)
    assert after[0] > before[0]
    failed = History(here, 1)
    failed.add(drawn[0], "timeout")
    guessed = here.predict(Guess(), drawn, 1).log_seconds
    assert Fitness(here, Guess(), failed, 1).expected(drawn)[0][0] > guessed[0]


def test_exhaustive_search_measures_each_program_once() -> None:
    here, rng = space("transposition"), np.random.default_rng(0)
    history = History(here, 1)
    while proposals := Exhaustive().propose(here, Guess(), history, 7, rng, 1):
        observe(history, [p.point for p in proposals])
    assert len(history) == len({here.program(p, 1) for p in here.enumerate()})
    for strategy in QUICK.values():
        assert strategy.propose(here, Guess(), history, 5, rng, 1) == []


def test_first_proposals_come_from_everywhere() -> None:
    here, rng = space("convolution"), np.random.default_rng(0)
    moved = here.sample(2, rng)
    proposals = Evolutionary(size=128, random=0.2).propose(here, Guess(), History(here, 1, moved), 16, rng, 1)
    roles = [p.role for p in proposals]
    assert roles[0] == "default"
    assert [p.point for p in proposals if p.role == "neighbour"] == list(moved)
    assert {"constructed", "search", "random"} <= set(roles)


@pytest.mark.parametrize("strategy", ["evolutionary", "annealing"])
def test_a_quarter_of_the_first_proposals_is_close_to_the_default(strategy: str) -> None:
    here = space("product")
    history = search(here, QUICK[strategy], 0, rounds=2, count=8)
    close = {o.point for o in history.observations} & set(here.near(here.default))
    assert len(history) == EARLY
    assert len(close) >= CLOSE * EARLY
    assert around_default(Fitness(here, Guess(), history, 1), history, 8, []) == []


def test_constructed_points_fit_better_than_random_ones() -> None:
    here = space("convolution")
    built = constructed(here, 16, np.random.default_rng(0), 1)
    drawn = here.sample(200, np.random.default_rng(1))
    assert len(built) == 16
    assert misfit(here, built, 1).max() < np.quantile(misfit(here, drawn, 1), 0.25)


def test_random_probes_have_their_share() -> None:
    rng = np.random.default_rng(0)
    drawn = [probes(16, 0.06, rng) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(16 * 0.06, abs=0.1)
    assert probes(0, 0.5, rng) == 0


def test_roles_are_those_of_records() -> None:
    with pytest.raises(ValueError, match="there is no role 'lucky'"):
        Proposal(Point(0, ()), "lucky")


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(OptionError, match=r"there is no strategy 'psychic'(.|\n)*evolutionary"):
        make_strategy("psychic")


def test_names_of_strategies_are_taken_once() -> None:
    with pytest.raises(OptionError, match="there is a strategy 'random' already"):
        register_strategy("random")(RandomSearch)


def test_large_spaces_are_not_searched_exhaustively() -> None:
    here = space("softmax")
    with pytest.raises(ScheduleError, match="too many to list"):
        Exhaustive().propose(here, Guess(), History(here, 1), 4, np.random.default_rng(0), 1)
