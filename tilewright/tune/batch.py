"""From many candidates to the few that are measured next."""

from __future__ import annotations

from typing import Final

import numpy as np

from tilewright.tune.fitness import Fitness, Floats
from tilewright.tune.history import History
from tilewright.tune.population import Point, Population

#: Candidates, the most promising ones, among which a batch is chosen.
POOL: Final = 256
#: Candidates of each sketch that are among them anyway.
OF_EACH_SKETCH: Final = 8
#: Standard deviations by which a point may turn out better than expected: the uncertain is worth a try.
OPTIMISM: Final = 2.0


def choose(
    fitness: Fitness, history: History, candidates: Population, count: int, chosen: list[Point]
) -> list[Point]:
    """At most ``count`` of ``candidates`` whose programs are neither in ``history`` nor among ``chosen``.

    One after the other, each time the one that may be fastest. What was chosen counts as measured and to be
    as fast as expected, so that what is like it is less uncertain and the next one rather lies elsewhere, in
    other sketches too (Desautels, Krause and Burdick, *Parallelizing Exploration-Exploitation Tradeoffs in
    Gaussian Process Bandit Optimization*, 2014).
    """
    candidates = candidates.distinct().without(history.keys)
    if count <= 0 or not len(candidates):
        return []
    mean, spread = fitness.expected(candidates)
    order = np.argsort(mean - OPTIMISM * spread, kind="stable")
    ranked = candidates.take(order)
    kept = np.zeros(len(ranked), bool)
    kept[: max(POOL, 4 * count)] = True
    for _, positions in ranked.by_sketch():
        kept[positions[:OF_EACH_SKETCH]] = True
    pool = ranked.take(kept)
    known = history.space.population(chosen)
    mean, covariance = fitness.joint(Population.concat([pool, known]) if len(known) else pool)
    for place in range(len(pool), len(mean)):
        covariance = _measured(covariance, place, fitness.noise)
    found: list[Point] = []
    left = np.ones(len(mean), bool)
    left[len(pool) :] = False
    while len(found) < count and left.any():
        hopeful = mean - OPTIMISM * np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        place = int(np.argmin(np.where(left, hopeful, np.inf)))
        left[place] = False
        new = history.fresh([pool[place]], 1, [*chosen, *found])
        if new:
            found += new
            covariance = _measured(covariance, place, fitness.noise)
    return found


def _measured(covariance: Floats, place: int, noise: float) -> Floats:
    """The covariance once the point at ``place`` has been measured."""
    column = covariance[:, place]
    return np.asarray(covariance - np.outer(column, column) / (column[place] + noise**2))


def probes(count: int, share: float, rng: np.random.Generator) -> int:
    """How many of ``count`` proposals are random, ``share`` of them on average."""
    return min(int(share * count + rng.random()), count)
