"""The cost models by name, which of them a session takes, and what bounds a kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilewright.cost.model import CostModel, Prediction
from tilewright.records.store import Store
from tilewright.schedule.sketch import Rows, Sketch
from tilewright.target import Target
from tilewright.tune.plugins import register_model
from tilewright.tune.tasks import Task


class Ignorance:
    """Knows nothing: all candidates look alike. What any other model has to beat."""

    name = "none"

    def predict(self, sketch: Sketch, rows: Rows, threads: int) -> Prediction:
        """As :meth:`CostModel.predict`."""
        return Prediction(np.zeros(len(rows)), np.ones(len(rows)))


@register_model("none")
def _none(target: Target, threads: int, store: Store) -> CostModel:
    return Ignorance()


def default_model(
    store: Store, target: Target, threads: int, calibrate: bool, note: Callable[[str], None]
) -> str:
    """The name of the best model that there is for a machine.

    Args:
        calibrate: whether to measure the machine where that was not done yet.
        note: is told what takes time.
    """
    return "none"


def bound_of(store: Store, target: Target, threads: int) -> Callable[[Task], tuple[float, str]] | None:
    """What says the least seconds of a task and what bounds it; None before the machine was measured."""
    return None
