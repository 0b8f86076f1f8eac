"""Every point, for spaces that are small enough to be listed."""

from __future__ import annotations

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.tune.fitness import Fitness
from tilewright.tune.history import History
from tilewright.tune.space import SearchSpace
from tilewright.tune.strategy import Proposal, register_strategy


@register_strategy("exhaustive")
class Exhaustive:
    """The default schedule, then all points, in the order in which the model and what was measured so far
    expect them; in the end each program was measured once."""

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
        order = np.argsort(Fitness(space, model, history, threads).expected(every)[0], kind="stable")
        rest = history.fresh(every.take(order), count - len(first), first)
        return [*(Proposal(p, "default") for p in first), *(Proposal(p, "search") for p in rest)]
