"""Parallel simulated annealing over a model, as in Chen et al., *TVM* (OSDI 2018) and *Learning to Optimize
Tensor Programs* (NeurIPS 2018)."""

from __future__ import annotations

import dataclasses

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.tune.batch import OPTIMISM, choose, probes
from tilewright.tune.constructed import around_default
from tilewright.tune.fitness import Fitness, Floats
from tilewright.tune.history import History
from tilewright.tune.population import Population
from tilewright.tune.random_search import draw
from tilewright.tune.space import SearchSpace
from tilewright.tune.strategy import Proposal, register_strategy


@register_strategy("annealing")
@dataclasses.dataclass(frozen=True)
class Annealing:
    """Many chains that walk over the space at once. A step to a slower point is taken with a probability
    that falls with the temperature; what any chain has visited may be proposed.

    Attributes:
        chains: how many walk, beginning at the best points measured, transferred ones and random ones.
        steps: steps of each.
        temperature: of the first step, in logarithms of time; it falls linearly to 0.
        random: share of random proposals.
    """

    chains: int = 256
    steps: int = 48
    temperature: float = 0.5
    random: float = 0.06

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
        chosen = history.fresh([space.default], min(count, 1))
        proposals = [Proposal(p, "default") for p in chosen]
        fitness = Fitness(space, model, history, threads)
        close = around_default(fitness, history, count, chosen)
        proposals += [Proposal(p, "search") for p in close]
        chosen += close
        blind = probes(count - len(chosen), self.random, rng)
        best = space.population([o.point for o in history.ranked[: self.chains // 4]])
        moved = space.population(history.transferred[: self.chains // 4])
        seeds = [s for s in (best, moved, space.sample(self.chains, rng)) if len(s)]
        starts = Population.concat(seeds).distinct()[: self.chains]
        visited = self._anneal(space, fitness, starts, rng)
        found = choose(fitness, history, visited, count - len(chosen) - blind, chosen)
        transferred = set(history.transferred)
        proposals += [Proposal(p, "neighbour" if p in transferred else "search") for p in found]
        chosen += found
        rest = draw(space, history, count - len(chosen), rng, chosen)
        return [*proposals, *(Proposal(p, "random") for p in rest)]

    def _anneal(
        self, space: SearchSpace, fitness: Fitness, points: Population, rng: np.random.Generator
    ) -> Population:
        """All points that chains stood on, each once."""

        def energy(points: Population) -> Floats:
            mean, spread = fitness.expected(points)
            return np.asarray(mean - OPTIMISM * spread)

        now = energy(points)
        visited = [points]
        for step in range(self.steps):
            heat = self.temperature * (1 - step / self.steps)
            trial = space.mutate(points, rng)
            then = energy(trial)
            taken = rng.random(len(points)) < np.exp(np.minimum((now - then) / heat, 0.0))
            sketch = np.where(taken, trial.sketch, points.sketch)
            rows = np.where(taken[:, None], trial.rows, points.rows)
            points, now = Population(sketch, rows, points.widths), np.where(taken, then, now)
            visited.append(points)
        return Population.concat(visited).distinct()
