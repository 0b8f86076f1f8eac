"""How well a model chooses: what is lost by trusting it on tasks that it has not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.dataset import Dataset, Task, near_duplicates

#: How tasks are grouped for holding out: each alone, all of a model, all of a family of operators.
GROUPINGS: Final = ("task", "source", "family")


@dataclasses.dataclass(frozen=True)
class Quality:
    """How well candidates of a task were chosen.

    Attributes:
        top1: time of the best candidate over that of the one chosen; 1 is perfect.
        top5: the same when the best of five chosen is known by measuring.
        pairs: share of pairs of candidates that are in the right order.
    """

    top1: float
    top5: float
    pairs: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Qualities over tasks."""

    mean: Quality
    worst: Quality
    tasks: int


def top(scores: NDArray[np.float64], log_seconds: NDArray[np.float64], count: int) -> float:
    """Time of the best over that of the best among the ``count`` candidates with the smallest scores; among
    candidates with equal scores the expectation over their orders is taken by ranking the slower first."""
    order = np.lexsort((-log_seconds, scores))[:count]
    return float(np.exp(log_seconds.min() - log_seconds[order].min()))


def pair_accuracy(scores: NDArray[np.float64], log_seconds: NDArray[np.float64]) -> float:
    """Share of the pairs with different times that are in the right order; ties in scores count half."""
    first, second = np.triu_indices(len(scores), 1)
    wanted = np.sign(log_seconds[first] - log_seconds[second])
    found = np.sign(scores[first] - scores[second])
    real = wanted != 0
    if not real.any():
        return 1.0
    return float(np.mean((1 + wanted[real] * found[real]) / 2))


def quality(scores: NDArray[np.float64], log_seconds: NDArray[np.float64]) -> Quality:
    """Of one task's candidates."""
    return Quality(
        top(scores, log_seconds, 1), top(scores, log_seconds, 5), pair_accuracy(scores, log_seconds)
    )


def qualities(scores: NDArray[np.float64], data: Dataset) -> list[Quality]:
    """Of each task of ``data``."""
    return [
        quality(scores[rows], data.log_seconds[rows])
        for rows in (np.flatnonzero(data.task == t) for t in range(len(data.tasks)))
    ]


def random_quality(log_seconds: NDArray[np.float64], draws: int = 200, seed: int = 0) -> Quality:
    """What choosing without looking gives, on average over so many draws."""
    rng = np.random.default_rng(seed)
    best = log_seconds.min()
    drawn = np.stack([rng.permutation(log_seconds)[:5] for _ in range(draws)])
    return Quality(
        float(np.exp(best - log_seconds).mean()), float(np.exp(best - drawn.min(axis=1)).mean()), 0.5
    )


def default_quality(data: Dataset) -> list[Quality | None]:
    """What the default schedule gives in each task; None where it was not measured."""
    found: list[Quality | None] = []
    for number, best in enumerate(data.best):
        own = data.log_seconds[(data.task == number) & data.default]
        ratio = float(np.exp(best - own.min())) if len(own) else None
        found.append(None if ratio is None else Quality(ratio, ratio, float("nan")))
    return found


def summary(found: Sequence[Quality]) -> Summary:
    """Mean and worst over tasks. Raises ValueError where there are none."""
    if not found:
        raise ValueError("no tasks to judge by")
    values = np.array([dataclasses.astuple(q) for q in found])
    return Summary(
        Quality(*map(float, values.mean(axis=0))), Quality(*map(float, values.min(axis=0))), len(found)
    )


def groups(data: Dataset, by: str) -> list[tuple[str, list[int]]]:
    """The numbers of the tasks in each group, by the groups' names: ``by`` is one of :data:`GROUPINGS`."""
    names: dict[str, Callable[[Task], str]] = {
        "task": lambda t: f"{t.workload.key}/{t.device}/{t.threads}",
        "source": lambda t: t.workload.source,
        "family": lambda t: t.workload.family,
    }
    if by not in names:
        raise ValueError(f"tasks are grouped by {', '.join(GROUPINGS)}, not by '{by}'")
    found: dict[str, list[int]] = {}
    for number, task in enumerate(data.tasks):
        found.setdefault(names[by](task), []).append(number)
    return sorted(found.items())


def folds(data: Dataset, by: str, limit: int | None = None) -> Iterator[tuple[list[int], list[int]]]:
    """Tasks to train on and tasks to judge by, for each group held out in turn.

    Near duplicates of what is held out (:func:`tilewright.cost.dataset.near_duplicates`) are in neither.
    With ``limit``, groups are put together into so many, of about equal numbers of tasks.
    """
    parts = [tasks for _, tasks in groups(data, by)]
    if limit is not None and len(parts) > limit:
        bins: list[list[int]] = [[] for _ in range(limit)]
        for tasks in sorted(parts, key=len, reverse=True):
            min(bins, key=len).extend(tasks)
        parts = bins
    vectors = data.vectors
    for held in parts:
        near = near_duplicates(vectors, held)
        yield [int(t) for t in np.flatnonzero(~near)], sorted(held)
