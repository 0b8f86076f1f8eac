from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, reference, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType
from tilewright.graph.winograd import transform_weights


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(
    ("shape", "pads"),
    [((1, 8, 8, 3), (1, 1, 1, 1)), ((2, 7, 9, 2), (0, 2, 1, 0)), ((1, 3, 3, 1), (0, 0, 0, 0))],
)
def test_equals_the_direct_convolution(tile: int, shape: tuple[int, ...], pads: tuple[int, ...]):
    x, w, bias = floats(*shape), floats(3, 3, shape[-1], 5), floats(5)
    (got,) = check("winograd_conv", [x, transform_weights(w, tile), bias], tile=tile, pads=pads, atol=1e-4)
    (want,) = reference("conv", [x, w, bias], channels_last=True, pads=pads)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_bad_operands_are_rejected():
    x, u = TensorType.of(floats(1, 8, 8, 3)), TensorType.of(floats(6, 6, 3, 4))
    assert type_of("winograd_conv", [x, u], tile=4, pads=(1, 1, 1, 1)).shape[1].value == 8
    with pytest.raises(GraphError, match="tiles of 3x3"):
        type_of("winograd_conv", [x, u], tile=3)
    with pytest.raises(GraphError, match=r"\[4, 4, CI, CO\]"):
        type_of("winograd_conv", [x, u], tile=2)
    with pytest.raises(GraphError, match="does not fit"):
        type_of("winograd_conv", [TensorType.of(floats(1, 2, 8, 3)), u], tile=4)
    with pytest.raises(GraphError, match="bias"):
        type_of("winograd_conv", [x, u, TensorType.of(floats(3))], tile=4)
