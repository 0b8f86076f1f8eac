"""How good points are expected to be: a cost model, corrected by what was measured of the same workload.

A model's errors within one workload have a pattern: all its predictions are off by some factor, those of one
sketch by another, and points that differ little are off by much the same. So the logarithm of measured over
predicted time is taken to be a Gaussian process over the points (Rasmussen and Williams, *Gaussian Processes
for Machine Learning*, chapter 2): a constant, a constant for each sketch, and a part that is similar for
points of one sketch whose decisions are close in their logarithms, scaled by the spread that the model itself
gives. With nothing measured the model's word counts; each measurement makes it more certain around itself.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import CostModel
from tilewright.tune.history import History
from tilewright.tune.population import Population
from tilewright.tune.space import SearchSpace

Floats = NDArray[np.float64]

#: Observations that are looked at, the latest.
MEMORY: Final = 512
#: Standard deviation, in logarithms, of what a model's predictions of a whole workload are off by.
COMMON: Final = 1.0
#: The same of what those of one sketch are off by beside that.
OF_SKETCH: Final = 0.3
#: A model is never taken to be surer than this.
LEAST_SPREAD: Final = 0.1
#: A failure counts as so much slower, in logarithms, than the slowest success or prediction.
FAILED: Final = 0.5
#: Distances in doublings of decisions, multiples of the model's spread, and standard deviations of a
#: measurement's own error that the pattern may have; what explains the observations best is taken.
LENGTHS: Final = (0.7, 1.5, 3.0)
SCALES: Final = (0.5, 1.0, 2.0)
NOISES: Final = (0.02, 0.06, 0.2)
#: Observations from which on that is asked; the middle ones are taken before.
ENOUGH: Final = 6


class Fitness:
    """What to expect of points of a space, given a model and a history.

    Attributes:
        noise: standard deviation, in logarithms, that a measurement seems to have.
    """

    def __init__(self, space: SearchSpace, model: CostModel, history: History, threads: int) -> None:
        self.space, self.model, self.threads = space, model, threads
        self._length, self._scale, self.noise = LENGTHS[1], SCALES[1], NOISES[1]
        seen = history.observations[-MEMORY:]
        self._points = space.population([o.point for o in seen])
        self._seen = self._described(self._points)
        times = np.array([np.nan if o.seconds is None else np.log(o.seconds) for o in seen])
        known = np.concatenate([times[~np.isnan(times)], self._seen.predicted])
        slow = known.max(initial=-np.inf) + FAILED
        self._error = np.where(np.isnan(times), slow, times) - self._seen.predicted
        self._fit()

    def expected(self, points: Population) -> tuple[Floats, Floats]:
        """``[n]`` each: the expected logarithm of the time in seconds, and its standard deviation."""
        described = self._described(points)
        if not len(self._points):
            return described.predicted, np.maximum(described.spread, LEAST_SPREAD)
        across = self._covariance(described, self._seen)
        mean = described.predicted + across @ self._weights
        half = np.linalg.solve(self._root, across.T)
        variance = self._variance(described) - np.einsum("ij,ij->j", half, half)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def joint(self, points: Population) -> tuple[Floats, Floats]:
        """``[n]`` expected logarithms and their ``[n, n]`` covariance, for a few hundred points."""
        described = self._described(points)
        covariance = self._covariance(described, described)
        if not len(self._points):
            return described.predicted, covariance
        across = self._covariance(described, self._seen)
        half = np.linalg.solve(self._root, across.T)
        return described.predicted + across @ self._weights, covariance - half.T @ half

    def _fit(self) -> None:
        """Choose length and scale by their likelihood, and solve for the weights of the observations."""
        n = len(self._points)
        grid = itertools.product(LENGTHS, SCALES, NOISES)
        best = -np.inf
        for length, scale, noise in grid if n >= ENOUGH else [(self._length, self._scale, self.noise)]:
            covariance = self._covariance(self._seen, self._seen, length, scale) + noise**2 * np.eye(n)
            root = np.linalg.cholesky(covariance)
            half = np.linalg.solve(root, self._error)
            likelihood = -0.5 * float(half @ half) - float(np.log(np.diagonal(root)).sum())
            if likelihood > best:
                best, self._root, self._weights = likelihood, root, np.linalg.solve(root.T, half)
                self._length, self._scale, self.noise = length, scale, noise

    def _described(self, points: Population) -> _Described:
        prediction = self.space.predict(self.model, points, self.threads)
        spread = np.maximum(prediction.spread, LEAST_SPREAD)
        place = np.log2(np.maximum(points.rows, 1)).astype(np.float64)
        return _Described(points.sketch, place, prediction.log_seconds, spread)

    def _covariance(
        self, a: _Described, b: _Described, length: float | None = None, scale: float | None = None
    ) -> Floats:
        length, scale = length or self._length, scale or self._scale
        same = a.sketch[:, None] == b.sketch[None, :]
        square = (a.place**2).sum(axis=1)[:, None] + (b.place**2).sum(axis=1) - 2 * a.place @ b.place.T
        near = np.exp(-np.maximum(square, 0.0) / (2 * length**2))
        local = OF_SKETCH**2 + near * (scale**2 * a.spread[:, None] * b.spread[None, :])
        return np.asarray(COMMON**2 + np.where(same, local, 0.0))

    def _variance(self, a: _Described) -> Floats:
        return np.asarray(COMMON**2 + OF_SKETCH**2 + (self._scale * a.spread) ** 2)


@dataclasses.dataclass(frozen=True, eq=False)
class _Described:
    """Points as the process sees them: sketch ``[n]``, logarithms of decisions ``[n, width]``, the model's
    logarithms of times ``[n]`` and their spread ``[n]``."""

    sketch: NDArray[np.int64]
    place: Floats
    predicted: Floats
    spread: Floats
