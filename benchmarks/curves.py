"""What a search has found by when: arithmetic on curves, for :mod:`benchmarks.metaschedule`."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tilewright.measure.timing import student


@dataclasses.dataclass(frozen=True)
class Measured:
    """A moment of a search.

    Attributes:
        trial: the number of the measurement, or how many there had been; 0 is what the search began with.
        wall: seconds since the search began.
        seconds: of a call, as the search has seen it; None for a failure.
    """

    trial: int
    wall: float
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Curve:
    """The moments of a search, in order. Raises ValueError where numbers or times go back."""

    points: tuple[Measured, ...]

    def __post_init__(self) -> None:
        for before, after in zip(self.points, self.points[1:], strict=False):
            if after.trial <= before.trial or after.wall < before.wall:
                raise ValueError(f"measurement {after.trial} comes after {before.trial}")

    @staticmethod
    def read(path: Path) -> Curve:
        """From JSON lines; a last line that was cut off is left out. Failed builds share the time at which
        their batch ended, so times are made to rise.
        """
        points: list[Measured] = []
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            wall = max(entry["wall"], points[-1].wall if points else 0.0)
            points.append(Measured(entry["trial"], wall, entry["seconds"]))
        return Curve(tuple(points))

    @property
    def failures(self) -> int:
        """Measurements without a time."""
        return sum(point.seconds is None for point in self.points)

    def improvements(self) -> tuple[Measured, ...]:
        """The measurements that were faster than all before them."""
        found: list[Measured] = []
        for point in self.points:
            if point.seconds is not None and (not found or point.seconds < (found[-1].seconds or math.inf)):
                found.append(point)
        return tuple(found)

    def best(self, trials: int | None = None) -> Measured | None:
        """The fastest of the measurements up to number ``trials``; None where none has a time."""
        reached = [p for p in self.improvements() if trials is None or p.trial <= trials]
        return reached[-1] if reached else None

    def wall_at(self, trials: int) -> float | None:
        """Seconds until measurement number ``trials`` had ended; None where the search was shorter."""
        return next((p.wall for p in self.points if p.trial >= trials), None)

    def steps(self, least: float, always: Sequence[int]) -> tuple[Measured, ...]:
        """Improvements worth timing again: those by the factor ``1 + least`` over the last one kept, and the
        best after each number of measurements in ``always``, and at the end.
        """
        wanted = {best.trial for n in [*always, None] if (best := self.best(n)) is not None}
        kept: list[Measured] = []
        last = math.inf
        for point in self.improvements():
            seconds = point.seconds or math.inf
            if point.trial in wanted or seconds * (1 + least) <= last:
                kept.append(point)
                last = seconds
        return tuple(kept)


def first_reaching(curve: Curve, again: Mapping[int, float], seconds: float) -> Measured | None:
    """The first measurement after which the program picked takes at most ``seconds``.

    Args:
        curve: the search, which decides what is picked.
        again: seconds of the improvements' programs, by trial, timed again beside the other search's.
    """
    return next((p for p in curve.improvements() if again.get(p.trial, math.inf) <= seconds), None)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times longer one program takes than another, with a 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def paired_ratio(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """Of the times of two programs that took turns, by round: the geometric mean of the ratios.

    The interval is Student's, of the mean of the logarithms; infinite below two rounds. Raises ValueError
    for times that are not of the same rounds.
    """
    logs = [math.log(a / b) for a, b in zip(one, other, strict=True)]
    if not logs:
        raise ValueError("no rounds")
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), 0.0, math.inf)
    half = student(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def geometric_mean(values: Sequence[float]) -> float:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    return math.exp(statistics.fmean(math.log(v) for v in values))
