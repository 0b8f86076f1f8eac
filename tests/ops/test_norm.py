from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_layer_norm(axis: int) -> None:
    x = floats(2, 3, 8) + 100
    scale, bias = floats(*x.shape[axis:]), floats(*x.shape[axis:])
    (got,) = check("layer_norm", [x, scale, bias], axis=axis, epsilon=1e-5, rtol=1e-3, atol=1e-4)
    axes = tuple(range(axis % 3, 3))
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, normal * scale + bias, rtol=1e-3, atol=1e-3)


def test_layer_norm_without_scale_and_in_half_precision() -> None:
    check("layer_norm", [floats(4, 8)], axis=-1)
    check("layer_norm", [floats(4, 8).astype(np.float16), floats(8).astype(np.float16)], axis=-1, rtol=1e-2)


def test_rms_norm() -> None:
    x, scale = floats(3, 8), floats(8)
    (got,) = check("rms_norm", [x, scale], axis=-1, epsilon=1e-6)
    np.testing.assert_allclose(got, x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale, rtol=1e-5)


def test_batch_norm_decomposes() -> None:
    x, scale, bias, mean = floats(2, 3, 4, 5), floats(3), floats(3), floats(3)
    check(
        "batch_norm", [x, scale, bias, mean, floats(3, low=0.1)], consts=(1, 2, 3, 4), epsilon=1e-3, rtol=1e-4
    )
    check("batch_norm", [floats(2, 3), scale, bias, mean, floats(3, low=0.1)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [0, 1, 2, 4])
def test_group_norm(groups: int) -> None:
    check("group_norm", [floats(2, 4, 3, 3), floats(4), floats(4)], groups=groups, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_lrn(size: int) -> None:
    check("lrn", [floats(2, 5, 3, 3)], size=size, alpha=0.1, beta=0.75, bias=1.0, rtol=1e-4)


def test_bad_normalisations_are_rejected() -> None:
    x = TensorType.make((2, 4, 3), "float32")
    with pytest.raises(GraphError, match="cannot be broadcast together"):
        type_of("layer_norm", [x, TensorType.make((5,), "float32")], axis=-1)
    with pytest.raises(GraphError, match="cannot be broadcast together"):
        type_of("batch_norm", [x, *[TensorType.make((3,), "float32")] * 4])
