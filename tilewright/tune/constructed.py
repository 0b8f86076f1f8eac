"""Points that look right by construction: what is close to the default schedule, and tiles that fit the shape
and the machine (as Zhu et al., *ROLLER*, OSDI 2022, build them).

The default schedule is what rules know to be good, so what differs from it by a step or two is seldom bad,
while a model that has seen nothing of a workload may rank all of it behind something that only looks better.
No operator has a template. Sketches are sampled, and what features say of each point decides: tiles divide
the extents, vectors are full, accumulators and operands fit the registers, working sets the caches. Where a
space has no such point the nearest ones are given.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.schedule.features import FEATURES
from tilewright.tune.batch import choose
from tilewright.tune.fitness import Fitness
from tilewright.tune.history import History
from tilewright.tune.population import Point, Population
from tilewright.tune.space import SearchSpace

#: Programs of a workload that are measured before a model is trusted alone.
EARLY: Final = 16
#: Share of the proposals until then that is close to the default schedule.
CLOSE: Final = 0.25
#: Points that are looked at.
SAMPLE: Final = 2048
#: What a doubling beyond each of these limits costs; the features are base-2 logarithms of a ratio to it.
LIMITS: Final = {"waste": 4.0, "other_waste": 1.0, "register_fill": 2.0, "l1_fill": 0.5, "l2_fill": 0.5}
#: What a doubling of the loads for each operation costs, and of imbalance where there are threads.
LOADS: Final = 0.5
IMBALANCE: Final = 2.0


def around_default(fitness: Fitness, history: History, count: int, chosen: list[Point]) -> list[Point]:
    """Of ``count`` proposals those that are close to the default schedule, the most hopeful ones: none once
    :data:`EARLY` programs were measured. What is like ``chosen`` is left out."""
    if len(history) >= EARLY:
        return []
    share = min(math.ceil(CLOSE * count), count - len(chosen))
    return choose(fitness, history, history.space.near(history.space.default), share, chosen)


def constructed(space: SearchSpace, count: int, rng: np.random.Generator, threads: int) -> Population:
    """At most ``count`` points of tiles that fit, the best first."""
    drawn = space.sample(SAMPLE, rng)
    return drawn.take(np.argsort(misfit(space, drawn, threads), kind="stable")[:count])


def misfit(space: SearchSpace, points: Population, threads: int) -> NDArray[np.float64]:
    """``[n]``: how badly the tiles of points fit shape and machine, in weighted doublings."""
    cost = np.zeros(len(points))
    for sketch, positions in points.by_sketch():
        features = space.sketches[sketch].features(points.rows_at(sketch, positions)).astype(np.float64)

        def named(name: str, features: NDArray[np.float64] = features) -> NDArray[np.float64]:
            return np.asarray(features[:, FEATURES.index(name)])

        total = LOADS * named("loads_per_op") - np.log2(np.clip(named("lane_fill"), 1 / 64, 1.0))
        for name, weight in LIMITS.items():
            total += weight * np.maximum(named(name), 0.0)
        if threads > 1:
            total += IMBALANCE * np.maximum(named("imbalance"), 0.0)
        cost[positions] = total
    return cost
