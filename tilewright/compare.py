"""Numeric comparison of one tensor with its reference.

A floating-point element agrees when ``|got - expected| <= atol + rtol * |expected|``. Where no ``atol`` is
given it is ``0.1 * rtol * M`` with ``M = max|expected|`` over the finite elements of the reference: rounding
errors of a sum are proportional to its largest terms, not to what is left after they cancel. Where that is
below two units in the last place of 1.0, it is raised to them, though not above ``rtol * M``: saturating
functions (sigmoid, softmax) are no more exact than that in any engine, however small their results. NaN
agrees with NaN, an infinity with the same infinity; integers and booleans have to be equal.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

#: Default relative tolerance by floating-point width in bytes: float64 and float32, then 16-bit floats.
DEFAULT_RTOL = {8: 1e-3, 4: 1e-3, 2: 1e-2}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one tensor is from its reference.

    Attributes:
        name: the tensor.
        ok: every element agrees.
        rtol, atol: the tolerances that were applied.
        max_abs: largest absolute difference over elements finite in both.
        max_rel: largest of those differences divided by ``max|expected|``.
        bad: how many elements disagree, of ``size``.
        first_bad: index of the first one in C order, or None.
        got, expected: the two values there.
        note: why no element-wise comparison was possible (shape or dtype differ), or None.
    """

    name: str
    ok: bool
    rtol: float = 0.0
    atol: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0
    bad: int = 0
    size: int = 0
    first_bad: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able mapping; non-finite numbers become strings."""
        return {key: _jsonable(value) for key, value in dataclasses.asdict(self).items()}

    def describe(self) -> str:
        """One line in words."""
        if self.note:
            return self.note
        text = f"max abs error {self.max_abs:.3g}, max rel error {self.max_rel:.3g} (of max |reference|)"
        if not self.ok:
            text += f"; {self.bad} of {self.size} elements differ, first at {list(self.first_bad or ())}"
            text += f": got {self.got:.7g}, expected {self.expected:.7g}"
        return text


def compare(
    name: str, got: np.ndarray, expected: np.ndarray, rtol: float | None = None, atol: float | None = None
) -> Difference:
    """Compare ``got`` with the reference ``expected``; see the module's text for the rule."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return Difference(name, False, note=f"shape {list(got.shape)} instead of {list(expected.shape)}")
    if got.dtype != expected.dtype:
        return Difference(name, False, note=f"dtype {got.dtype} instead of {expected.dtype}")
    if expected.dtype == np.bool_ or np.issubdtype(expected.dtype, np.integer):
        return _compare_exact(name, got, expected)
    rtol = DEFAULT_RTOL.get(expected.dtype.itemsize, 1e-1) if rtol is None else rtol
    a, b = got.astype(np.float64), expected.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    magnitude = float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0))
    if atol is None:
        atol = max(0.1 * rtol * magnitude, min(2 * _epsilon(expected.dtype), rtol * magnitude))
    with np.errstate(invalid="ignore"):
        error = np.where(both, np.abs(a - b), 0.0)
        agree = np.where(both, error <= atol + rtol * np.abs(b), (a == b) | (np.isnan(a) & np.isnan(b)))
    max_abs = float(np.max(error, initial=0.0))
    max_rel = max_abs / magnitude if magnitude else (0.0 if max_abs == 0 else float("inf"))
    return _verdict(name, agree, a, b, rtol, atol, max_abs, max_rel)


def _epsilon(dtype: np.dtype[Any]) -> float:
    """The distance from 1.0 to the next number of the type."""
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)


def _compare_exact(name: str, got: np.ndarray, expected: np.ndarray) -> Difference:
    a, b = got.astype(np.float64), expected.astype(np.float64)
    max_abs = float(np.max(np.abs(a - b), initial=0.0))
    magnitude = float(np.max(np.abs(b), initial=0.0))
    max_rel = max_abs / magnitude if magnitude else (0.0 if max_abs == 0 else float("inf"))
    return _verdict(name, got == expected, a, b, 0.0, 0.0, max_abs, max_rel)


def _verdict(
    name: str,
    agree: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    rtol: float,
    atol: float,
    max_abs: float,
    max_rel: float,
) -> Difference:
    bad = int(agree.size - np.count_nonzero(agree))
    if not bad:
        return Difference(name, True, rtol, atol, max_abs, max_rel, 0, int(agree.size))
    first = np.unravel_index(int(np.argmin(agree.reshape(-1))), agree.shape)
    index = tuple(int(i) for i in first)
    return Difference(
        name,
        False,
        rtol,
        atol,
        max_abs,
        max_rel,
        bad,
        int(agree.size),
        index,
        float(a[index]),
        float(b[index]),
    )


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
