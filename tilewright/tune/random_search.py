"""Points drawn without looking at anything: what every other strategy must beat."""

from __future__ import annotations

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.tune.history import History
from tilewright.tune.population import Point
from tilewright.tune.space import SearchSpace
from tilewright.tune.strategy import Proposal, register_strategy


@register_strategy("random")
class RandomSearch:
    """The default schedule, then random points; no model is asked."""

    def propose(
        self,
        space: SearchSpace,
        model: CostModel,
        history: History,
        count: int,
        rng: np.random.Generator,
        threads: int,
    ) -> list[Proposal]:
        """As :meth:`tilewright.tune.strategy.Strategy.propose`."""
        first = history.fresh([space.default], min(count, 1))
        rest = draw(space, history, count - len(first), rng, first)
        return [*(Proposal(p, "default") for p in first), *(Proposal(p, "random") for p in rest)]


def draw(
    space: SearchSpace, history: History, count: int, rng: np.random.Generator, chosen: list[Point]
) -> list[Point]:
    """At most ``count`` random points of programs that are neither in ``history`` nor among ``chosen``."""
    if count <= 0:
        return []
    drawn = space.sample(4 * (count + len(history) + len(chosen)), rng)
    return history.fresh(drawn, count, chosen)
