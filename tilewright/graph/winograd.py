"""Winograd's minimal filtering F(m, 3): its points and matrices.

A tile of ``m`` x ``m`` outputs of a 3x3 convolution reads ``n`` x ``n`` inputs ``d``, ``n = m + 2``, and is
``A^T [(G w G^T) * (B^T d B)] A`` with an elementwise product: ``n * n`` multiplications instead of ``9 * m *
m``. The matrices evaluate polynomials at ``n - 1`` points and at infinity. Points of moderate size matter for
accuracy: with 0, +-3/4, +-3/2 the error of F(4, 3) is 3 to 5 times smaller than with the textbook's 0, +-1,
+-2 (B. Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", ACM TOMS 2020,
search such sets).
"""

from __future__ import annotations

from typing import Final

import numpy as np

#: By ``m``: the points other than 0 and infinity come in pairs of opposite sign; this is their size.
POINTS: Final[dict[int, tuple[float, ...]]] = {2: (1.0,), 4: (0.75, 1.5)}


def tile_size(m: int) -> int:
    """Inputs along one side of a tile with ``m`` outputs."""
    return m + 2


def input_matrix(m: int) -> np.ndarray:
    """``B^T``: [n, n], float64. Row ``i`` holds the coefficients of the product over all other points."""
    points = _finite(m)
    n = tile_size(m)
    rows = np.zeros((n, n))
    for i in range(len(points)):
        others = [p for k, p in enumerate(points) if k != i]
        rows[i, : n - 1] = np.poly(others)[::-1]
    rows[n - 1] = np.poly(points)[::-1]
    return rows


def weight_matrix(m: int) -> np.ndarray:
    """``G``: [n, 3], float64."""
    points = _finite(m)
    rows = np.zeros((tile_size(m), 3))
    for i, point in enumerate(points):
        scale = np.prod([point - p for k, p in enumerate(points) if k != i])
        rows[i] = np.array([1.0, point, point * point]) / scale
    rows[-1, 2] = 1.0
    return rows


def output_matrix(m: int) -> np.ndarray:
    """``A^T``: [m, n], float64: the powers of the points."""
    columns = [[float(p) ** k for k in range(m)] for p in _finite(m)]
    return np.array([*columns, [0.0] * (m - 1) + [1.0]]).T


def transform_weights(weights: np.ndarray, m: int) -> np.ndarray:
    """``G w G^T`` for weights ``[3, 3, CI, CO]``: ``[n, n, CI, CO]``, computed in float64, in their dtype."""
    g = weight_matrix(m)
    once = np.tensordot(g, weights.astype(np.float64), axes=(1, 0))
    twice = np.moveaxis(np.tensordot(g, once, axes=(1, 1)), 0, 1)
    return np.ascontiguousarray(twice.astype(weights.dtype))


def _finite(m: int) -> list[float]:
    return [0.0, *(p for size in POINTS[m] for p in (size, -size))]
