"""Whether outputs are what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.measure.program import Parameter


class Judge:
    """Compares outputs with expected ones.

    Args:
        params: the outputs.
        expected: their values.
        rtol: how far a float may be off, relative to the largest finite one expected in its output.
        off_by_one: the share of an integer output that may be off by one: floats that were rounded, where a
            sum in another order may come to lie on the other side of a half.
    """

    def __init__(
        self,
        params: Sequence[Parameter],
        expected: Sequence[np.ndarray],
        rtol: float,
        off_by_one: float = 0.0,
    ) -> None:
        self._outputs = [_Output(p.name, e, rtol, off_by_one) for p, e in zip(params, expected, strict=True)]

    def __call__(self, outputs: Sequence[np.ndarray]) -> tuple[str, str] | None:
        """A status and what is wrong, or None."""
        for output, got in zip(self._outputs, outputs, strict=True):
            if (found := output.wrong(got)) is not None:
                return found
        return None


class _Output:
    def __init__(self, name: str, expected: np.ndarray, rtol: float, off_by_one: float) -> None:
        self._name, self._expected, self._off_by_one = name, expected, off_by_one
        self._exact = expected.dtype.kind in "iub"
        # float32 is compared as it is: what it rounds away is far below any tolerance.
        self._type: type[np.floating[Any]] = np.float32 if expected.dtype == np.float32 else np.float64
        values = expected.astype(self._type)
        self._finite = np.isfinite(values)
        self._all_finite = bool(self._finite.all())
        self._scale = float(np.max(np.abs(values), where=self._finite, initial=0.0))
        self._values, self._allowed = values, rtol * self._scale

    def wrong(self, got: np.ndarray) -> tuple[str, str] | None:
        if self._exact:
            return self._wrong_integers(got)
        with np.errstate(invalid="ignore", over="ignore"):
            values = got.astype(self._type, copy=False)
            difference = np.abs(values - self._values)
            worst = float(difference.max(initial=0.0))
            if self._all_finite and worst <= self._allowed:
                return None
            if not np.array_equal(np.isfinite(values), self._finite):
                return "not_finite", f"'{self._name}' is not finite where it should be"
            special = ~self._finite
            if not np.array_equal(values[special], self._values[special], equal_nan=True):
                return "wrong_result", f"'{self._name}' has other infinities or NaNs"
            worst = float(np.max(difference, where=self._finite, initial=0.0))
        if worst <= self._allowed:
            return None
        return "wrong_result", f"'{self._name}' is off by {worst:.3g}, its scale is {self._scale:.3g}"

    def _wrong_integers(self, got: np.ndarray) -> tuple[str, str] | None:
        if np.array_equal(got, self._expected):
            return None
        difference = np.abs(got.astype(np.float64) - self._expected.astype(np.float64))
        worst, share = float(difference.max()), float((difference > 0).mean())
        if worst <= 1 and share <= self._off_by_one:
            return None
        error = f"'{self._name}' is off by {worst:.3g}, its scale is {self._scale:.3g}"
        return "wrong_result", error
