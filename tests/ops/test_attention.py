"""Caches of keys and values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType


@pytest.mark.parametrize("room", [0, 3, 6])
@pytest.mark.parametrize("starts", [(0, 2), (4, 1), (5, 6)])
def test_append_to_cache(room: int, starts: tuple[int, int]) -> None:
    cache = floats(2, 3, room, 4) if room else None
    new = floats(2, 3, 2, 4)
    (result,) = check("append_to_cache", [cache, new, np.array(starts)], length=6)
    for sample, start in enumerate(starts):
        kept = new[sample, :, : max(6 - start, 0)]
        np.testing.assert_array_equal(result[sample, :, start : start + 2], kept)
        if cache is not None:
            np.testing.assert_array_equal(
                result[sample, :, : min(start, room)], cache[sample, :, : min(start, room)]
            )


def test_what_does_not_fit_a_cache() -> None:
    types = [TensorType.make(s, "float32") for s in ((1, 2, 5, 4), (1, 2, 1, 8))]
    with pytest.raises(GraphError, match="differ in dimension 3"):
        type_of("append_to_cache", [*types, TensorType.make((1,), "int64")], length=5)
    with pytest.raises(GraphError, match="position for each sample"):
        type_of("append_to_cache", [*types, TensorType.make((), "int64")], length=5)
