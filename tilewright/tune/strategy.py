"""Strategies: who says which candidates of a workload to measure next, and how to add one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.errors import OptionError
from tilewright.records.record import ROLES
from tilewright.tune.history import History
from tilewright.tune.population import Point
from tilewright.tune.space import SearchSpace


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """A point to measure, and why: one of :data:`tilewright.records.ROLES`."""

    point: Point
    role: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"there is no role '{self.role}'")


@runtime_checkable
class Strategy(Protocol):
    """Says what to measure next. One object serves all workloads of a session, in any order: what it needs
    to know of one is in its history."""

    def propose(
        self,
        space: SearchSpace,
        model: CostModel,
        history: History,
        count: int,
        rng: np.random.Generator,
        threads: int,
    ) -> list[Proposal]:
        """At most ``count`` valid points, all of different programs that ``history`` has not seen; none
        where nothing is left to measure. Equal states of ``rng`` give equal proposals.

        Args:
            model: says how long points take, without measuring.
            threads: threads that a call runs on.
        """
        ...


_Factory = TypeVar("_Factory", bound=Callable[[], Strategy])
_REGISTRY: dict[str, Callable[[], Strategy]] = {}


def register_strategy(name: str) -> Callable[[_Factory], _Factory]:
    """A decorator: makes a class, or a function without arguments, known as the strategy ``name``.

    Raises OptionError when the name is taken.
    """

    def register(factory: _Factory) -> _Factory:
        if name in _REGISTRY:
            raise OptionError(f"there is a strategy '{name}' already", hint="choose another name")
        _REGISTRY[name] = factory
        return factory

    return register


def strategy_names() -> tuple[str, ...]:
    """The names of all strategies, in alphabetical order."""
    return tuple(sorted(_REGISTRY))


def make_strategy(name: str) -> Strategy:
    """The strategy of that name. Raises OptionError when there is none."""
    if name not in _REGISTRY:
        hint = f"choose one of {', '.join(strategy_names())}"
        raise OptionError(f"there is no strategy '{name}'", hint=hint)
    return _REGISTRY[name]()
