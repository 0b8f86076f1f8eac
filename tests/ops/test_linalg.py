from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 4, 4), (2, 2, 7, 7), (0, 3, 3), (2, 0, 0)])
def test_det(shape: tuple[int, ...]) -> None:
    check("det", [floats(*shape)], rtol=1e-3, atol=1e-4)


def test_pivots_of_zero_and_singular_matrices() -> None:
    check("det", [np.array([[0, 1, 2], [1, 0, 3], [4, -3, 8]], np.float32)], rtol=1e-4)
    for singular in (np.zeros((3, 3), np.float32), np.ones((4, 4), np.float32)):
        assert check("det", [singular], atol=1e-6)[0] == pytest.approx(0)
    check("det", [np.eye(5, dtype=np.float64)[[2, 0, 1, 4, 3]]])


def test_only_small_square_matrices() -> None:
    with pytest.raises(GraphError, match="square matrices"):
        type_of("det", [TensorType.make((2, 3), "float32")])
    with pytest.raises(GraphError, match="larger than 32 x 32"):
        type_of("det", [TensorType.make((40, 40), "float32")])


@pytest.mark.parametrize("size", [1, 2, 6])
def test_inverse(size: int) -> None:
    x = floats(2, 3, size, size) + np.eye(size, dtype=np.float32)
    check("inverse", [x], rtol=1e-2, atol=1e-2)
    swapped = np.array([[0.0, 2.0], [1.0, 0.0]])
    (result,) = check("inverse", [swapped])
    np.testing.assert_array_equal(result, [[0.0, 1.0], [0.5, 0.0]])
