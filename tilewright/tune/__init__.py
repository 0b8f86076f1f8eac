"""The tuner: which candidates of a workload to measure next, and what is known of them.

``space`` is what may be chosen from, ``history`` what has been seen of it, a ``strategy`` proposes, and a
``session`` spends a budget on the ``tasks`` of a model. The package itself can be called: ``tw.tune(model)``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tilewright.tune import annealing, evolutionary, exhaustive, random_search
from tilewright.tune.history import History, Observation
from tilewright.tune.plugins import register_measurer, register_model
from tilewright.tune.space import Point, Population, SearchSpace
from tilewright.tune.strategy import Proposal, Strategy, make_strategy, register_strategy, strategy_names

if TYPE_CHECKING:
    from tilewright.tuning import TuningResult

__all__ = [
    "History",
    "Observation",
    "Point",
    "Population",
    "Proposal",
    "SearchSpace",
    "Strategy",
    "annealing",
    "evolutionary",
    "exhaustive",
    "make_strategy",
    "random_search",
    "register_measurer",
    "register_model",
    "register_strategy",
    "strategy_names",
]


class _CallablePackage(ModuleType):
    """A package whose name is also what one does with it."""

    def __call__(self, *args: Any, **options: Any) -> TuningResult:
        """See :func:`tilewright.tuning.tune`, which is above this package in the layers."""
        result: TuningResult = importlib.import_module("tilewright.tuning").tune(*args, **options)
        return result


sys.modules[__name__].__class__ = _CallablePackage
