"""What every cost model is: predicted times of candidates, and how sure they are."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tilewright.schedule.sketch import Rows, Sketch


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of ``n`` candidates.

    Attributes:
        log_seconds: ``[n]`` float64, the natural logarithm of the time of one call of the whole kernel, in
            seconds, its weights in memory rather than in caches.
        spread: ``[n]`` float64, the standard deviation of that logarithm; not negative.
    """

    log_seconds: NDArray[np.float64]
    spread: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.log_seconds.ndim != 1 or self.log_seconds.shape != self.spread.shape:
            raise ValueError(f"times {self.log_seconds.shape} and spreads {self.spread.shape} differ")

    def __len__(self) -> int:
        return len(self.log_seconds)


@runtime_checkable
class CostModel(Protocol):
    """Says how long candidates of a sketch take."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        ...

    def predict(self, sketch: Sketch, rows: Rows, threads: int) -> Prediction:
        """The times of candidates.

        Args:
            sketch: a structure of the function.
            rows: ``[n, decisions]`` int64, valid candidates of it.
            threads: threads that a call runs on.
        """
        ...


class FeatureModel:
    """A cost model that looks at features alone (:data:`tilewright.schedule.features.FEATURES`), so that it
    serves bound programs as well as candidates of sketches.
    """

    name: str

    def predict_features(self, features: NDArray[np.float32], threads: int) -> Prediction:
        """The times of programs with these features, ``[n, len(FEATURES)]``."""
        raise NotImplementedError

    def predict(self, sketch: Sketch, rows: Rows, threads: int) -> Prediction:
        """As :meth:`CostModel.predict`."""
        return self.predict_features(sketch.features(rows), threads)
