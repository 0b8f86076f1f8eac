"""Which task to work on next: the one where the end-to-end time falls most for a second of tuning.

What a task will gain is not known. Three things are said of it: how fast it fell lately, how much is left to
what bounds it, and what a cost model hopes for. The rate that they give is multiplied by how often the model
runs the kernel (after Ansor's task scheduler, Zheng et al., OSDI 2020, section 6; their rule assumes equal
times for all measurements, ours counts seconds).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

#: Weight of what a task gained lately; the rest is the weight of what it may still gain.
RECENT: Final = 0.5
#: Visits that count as lately.
WINDOW: Final = 3
#: A kernel at this share of what bounds it is done.
ENOUGH: Final = 0.95
#: Share of the distance to the bound that is hoped for where no model says anything: bounds are not reached.
HOPE: Final = 0.3


@dataclasses.dataclass(frozen=True)
class Visit:
    """A stretch of tuning of one task.

    Attributes:
        spent: seconds that it took.
        seconds: the best time of the kernel after it.
    """

    spent: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a task has come.

    Attributes:
        weight: how often the model runs the kernel; less for kernels that it may run.
        start: the time of the kernel at the beginning, in seconds.
        visits: in order.
        floor: seconds below which no schedule can be; 0: not known.
        predicted: the least time that the cost model hopes for, in seconds; None: it says nothing.
        exhausted: whether nothing is left to measure.
    """

    weight: float
    start: float
    visits: tuple[Visit, ...] = ()
    floor: float = 0.0
    predicted: float | None = None
    exhausted: bool = False

    @property
    def seconds(self) -> float:
        """The best time of the kernel so far."""
        return self.visits[-1].seconds if self.visits else self.start


def gain_rate(task: Progress) -> float:
    """By how many seconds a run of the model is expected to become shorter for each second of tuning."""
    if task.exhausted:
        return 0.0
    now = task.seconds
    bound = task.floor / ENOUGH
    room = max(now - bound, 0.0)
    hoped = HOPE * room if task.predicted is None else min(max(now - task.predicted, 0.1 * HOPE * room), room)
    spent = sum(v.spent for v in task.visits)
    lately = task.visits[-WINDOW:]
    before = task.visits[-WINDOW - 1].seconds if len(task.visits) > WINDOW else task.start
    typical = spent / len(task.visits) if task.visits else 1.0
    recent = max(before - now, 0.0) / max(sum(v.spent for v in lately), 1e-9) if lately else 0.0
    # What has not been found after long is not likely to be found soon.
    future = hoped / max(spent + typical, 1e-9)
    return task.weight * (RECENT * min(recent, room / max(typical, 1e-9)) + (1 - RECENT) * future)


def next_task(tasks: Sequence[Progress], least: float = 0.0) -> int | None:
    """The number of the task to work on; None where nothing more is to be gained.

    Each is visited once first, those with the longest time in the model before others, unless it is at its
    bound already.

    Args:
        least: tasks that are expected to gain less than so many seconds of a run for each second of tuning
            are left alone once they have been visited.
    """
    fresh = [n for n, t in enumerate(tasks) if not t.visits and gain_rate(t) > 0]
    if fresh:
        return max(fresh, key=lambda n: tasks[n].weight * tasks[n].start)
    rates = [gain_rate(t) for t in tasks]
    best = max(range(len(tasks)), key=rates.__getitem__, default=None)
    return None if best is None or rates[best] <= least else best
