"""Every point, for spaces that are small enough to be listed."""

from __future__ import annotations

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.tune.batch import choose
from tilewright.tune.fitness import Fitness
from tilewright.tune.history import History
from tilewright.tune.space import SearchSpace
from tilewright.tune.strategy import Proposal, register_strategy


@register_strategy("exhaustive")
class Exhaustive:
    """The default schedule, then all points, the most hopeful first; in the end each program was measured
    once."""

    def propose(
        self,
        space: SearchSpace,
        model: CostModel,
        history: History,
        count: int,
        rng: np.random.Generator,
        threads: int,
    ) -> list[Proposal]:
        """As :meth:`tilewright.tune.strategy.Strategy.propose`. Raises ScheduleError where there are too many
        points to list."""
        every = space.enumerate().without(history.keys)
        first = history.fresh([space.default], min(count, 1))
        fitness = Fitness(space, model, history, threads)
        chosen = first + choose(fitness, history, every, count - len(first), first)
        chosen += history.fresh(every, count - len(chosen), chosen)
        return [Proposal(p, "default" if p in first else "search") for p in chosen]
