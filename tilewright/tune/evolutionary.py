"""Evolutionary search: a population that a model judges, changed and mixed over a few generations."""

from __future__ import annotations

import dataclasses

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.tune.batch import OPTIMISM, choose, probes
from tilewright.tune.constructed import around_default, constructed
from tilewright.tune.fitness import Fitness, Floats
from tilewright.tune.history import History
from tilewright.tune.population import Point, Population
from tilewright.tune.random_search import draw
from tilewright.tune.space import SearchSpace
from tilewright.tune.strategy import Proposal, register_strategy


@register_strategy("evolutionary")
@dataclasses.dataclass(frozen=True)
class Evolutionary:
    """The default strategy.

    A share of the first proposals is close to the default schedule. The population begins with the first
    guess of every sketch, points transferred from other shapes and machines, constructed ones, the best that
    were measured, and random ones. Children are mutations of good parents and mixes of two of them; of
    parents and children the most hopeful stay.

    Attributes:
        size: candidates of a generation.
        generations: how often children are made.
        crossed: share of the children that have two parents.
        share: share of the first proposals that is kept for transferred points, and for constructed ones: a
            model that knows nothing of this workload yet is not trusted alone.
        random: share of random proposals, from which data without bias comes.
    """

    size: int = 1024
    generations: int = 6
    crossed: float = 0.4
    share: float = 0.25
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

        def take(points: list[Point], role: str) -> None:
            chosen.extend(points)
            proposals.extend(Proposal(p, role) for p in points)

        fitness = Fitness(space, model, history, threads)
        take(around_default(fitness, history, count, chosen), "search")
        built = constructed(space, self.size // 8, rng, threads)
        moved = space.population(history.transferred)
        if not len(history):
            each = int(self.share * count)
            take(history.fresh(moved, min(each, count - len(chosen)), chosen), "neighbour")
            take(choose(fitness, history, built, min(each, count - len(chosen)), chosen), "constructed")
        blind = probes(count - len(chosen), self.random, rng)
        best = space.population([o.point for o in history.ranked[: self.size // 8]])
        guesses = [Point(n, tuple(s.default[0].tolist())) for n, s in enumerate(space.sketches)]
        seeds = [space.population(guesses), best, moved, built, space.sample(self.size, rng)]
        final = self._evolve(space, fitness, Population.concat([s for s in seeds if len(s)]), rng)
        roles = {**dict.fromkeys(built, "constructed"), **dict.fromkeys(moved, "neighbour")}
        for point in choose(fitness, history, final, count - len(chosen) - blind, chosen):
            take([point], roles.get(point, "search"))
        take(draw(space, history, count - len(chosen), rng, chosen), "random")
        return proposals

    def _evolve(
        self, space: SearchSpace, fitness: Fitness, seeds: Population, rng: np.random.Generator
    ) -> Population:
        """The last population, most hopeful first."""
        population, hope = self._fittest(seeds.distinct(), None, fitness)
        for _ in range(self.generations):
            # Ranks, not values, say who is a parent: one outlier must not have all the children.
            drawn = rng.integers(len(population), size=(2, self.size)).min(axis=0)
            parents = population.take(drawn)
            mixed = int(self.crossed * self.size)
            drawn = rng.integers(len(population), size=(2, mixed)).min(axis=0)
            others = population.take(drawn)
            crossed = space.crossover(parents[:mixed], others, rng)
            children = Population.concat([crossed, space.mutate(parents[mixed:], rng)])
            children = children.distinct().without(population.keys())
            if len(children):
                mean, spread = fitness.expected(children)
                both = Population.concat([population, children])
                population, hope = self._fittest(
                    both, np.concatenate([hope, mean - OPTIMISM * spread]), fitness
                )
        return population

    def _fittest(
        self, population: Population, hope: Floats | None, fitness: Fitness
    ) -> tuple[Population, Floats]:
        """The ``size`` most hopeful ones, in this order, with what makes them so."""
        if hope is None:
            mean, spread = fitness.expected(population)
            hope = mean - OPTIMISM * spread
        order = np.argsort(hope, kind="stable")[: self.size]
        return population.take(order), hope[order]
