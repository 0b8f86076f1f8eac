"""What a session knows of one of its tasks."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Final

from tilewright.measure.timing import Difference
from tilewright.records.record import Sample
from tilewright.tune.history import History
from tilewright.tune.population import Point
from tilewright.tune.scheduler import Progress, Visit
from tilewright.tune.space import SearchSpace
from tilewright.tune.tasks import Task

#: A candidate has to look faster than the best one by this share to run against it: of many that are as fast,
#: some look a little faster, and a race takes as long as looking at dozens.
WORTHWHILE: Final = 0.01
#: By how much the best schedule may be faster than a cost model thought before anything was measured.
SURPRISE: Final = 0.15


@dataclasses.dataclass
class State:
    """A task in the course of a session.

    Attributes:
        task: what it is.
        space, history: its candidates, and what is known of them. Set with the baseline.
        default: seconds with the default schedule; all other times are ratios to it, measured side by side,
            so that a machine that became slower does not look like a bad schedule.
        start, best: the schedules that the store gave at the beginning, and that it gives now.
        ratios: time relative to the default schedule, by point, of the successful ones.
        raced: points that have run against the best one and were not surely faster.
        visits: what was spent, and what came of it.
        gain: how much slower the best schedule is than that of the beginning: negative where it gained.
        failures: number of failed candidates of this session by status.
        trials: candidates measured in this session.
        predicted: the least ratio that the cost model hopes for.
        floor: seconds below which no schedule can be; 0: not known.
        bound: what bounds the kernel, in words; empty: not known.
        exhausted: nothing is left to measure.
        error: why it cannot be tuned; empty otherwise.
    """

    task: Task
    space: SearchSpace | None = None
    history: History | None = None
    default: float = math.nan
    start: Point | None = None
    best: Point | None = None
    ratios: dict[Point, float] = dataclasses.field(default_factory=dict)
    raced: set[Point] = dataclasses.field(default_factory=set)
    visits: list[Visit] = dataclasses.field(default_factory=list)
    gain: Difference | None = None
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    trials: int = 0
    predicted: float | None = None
    floor: float = 0.0
    bound: str = ""
    exhausted: bool = False
    error: str = ""

    @property
    def ready(self) -> bool:
        """Whether its baseline is known."""
        return self.best is not None and not self.error

    @property
    def seconds(self) -> float:
        """The time of the best schedule; NaN before the baseline is known."""
        return math.nan if self.best is None else self.default * self.ratios[self.best]

    @property
    def at_start(self) -> float:
        """The time of the schedule of the beginning, likewise."""
        return math.nan if self.start is None else self.default * self.ratios[self.start]

    @property
    def reachable(self) -> float:
        """Seconds below which the best schedule is not likely to come; no more than it takes now."""
        hoped = 1.0 if self.predicted is None else min(self.predicted, 1.0)
        return min(max((1 - SURPRISE) * hoped * self.default, self.floor), self.seconds)

    def progress(self, weight: float) -> Progress:
        """For the scheduler."""
        predicted = None if self.predicted is None else self.predicted * self.default
        visits = tuple(self.visits)
        return Progress(weight, self.at_start, visits, self.floor, predicted, self.exhausted)

    def challengers(self, count: int) -> list[Point]:
        """Points that look faster than the best one and have not run against it, the fastest first."""
        assert self.best is not None
        limit = self.ratios[self.best] * (1 - WORTHWHILE)
        found = [p for p, r in self.ratios.items() if r < limit and p != self.best and p not in self.raced]
        return sorted(found, key=self.ratios.__getitem__)[:count]


def ratio_of(samples: Sequence[Sample], default: float) -> float:
    """A program's time relative to the default schedule's: that beside it, or else ``default`` seconds."""
    return statistics.median(s.seconds / (s.reference or default) for s in samples)
