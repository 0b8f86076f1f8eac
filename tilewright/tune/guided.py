"""The best of some candidates by a cost model, where it is sure enough: a choice without any measurement."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.errors import ScheduleError
from tilewright.ir.parser import parse
from tilewright.schedule.default import Structure, compose
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.sketch import Sketch
from tilewright.target import Target

#: Candidates that are drawn, and as many again that are mutations of the best.
POPULATION: Final = 256
#: Of which so many are the parents.
PARENTS: Final = 32


@dataclasses.dataclass(frozen=True)
class Guided:
    """A candidate that a model prefers to the default schedule.

    Attributes:
        trace: its schedule.
        seconds: the predicted time of a call.
        gain: the predicted time of the default schedule over it.
    """

    trace: str
    seconds: float
    gain: float


def best_by_model(text: str, target: Target, threads: int, model: CostModel) -> Guided | None:
    """The candidate that a model likes best among those of the default schedule's structure; None unless its
    predicted advantage over the default is larger than what the model knows of both.

    Only that structure is looked at: making the others open takes longer than all the rest of a compilation.

    Args:
        text: the workload's.
    """
    func = parse(text)
    try:
        sketch = Sketch("default", func, compose(Schedule(func, symbolic=True), target, Structure()), target)
    except ScheduleError:
        return None
    if not sketch.columns:
        return None
    drawn = np.concatenate([sketch.default, sketch.sample(POPULATION)])
    first = model.predict(sketch, drawn, threads).log_seconds
    parents = drawn[np.argsort(first, kind="stable")[:PARENTS]]
    rows = np.concatenate([drawn, sketch.mutate(np.repeat(parents, POPULATION // PARENTS, axis=0), 1)])
    prediction = model.predict(sketch, rows, threads)
    times, spread = prediction.log_seconds, prediction.spread
    best = int(np.argmin(times))
    gain = float(times[0] - times[best])
    if not gain > math.hypot(spread[0], spread[best]):
        return None
    return Guided(sketch.bind(rows[best]).trace.to_json(), math.exp(times[best]), math.exp(gain))
