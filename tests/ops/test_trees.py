"""Ensembles of decision trees."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, rng, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType
from tilewright.ops.trees import AGGREGATES, MODES

#: Two trees: nodes 0 and 1 with leaves 2 to 4, node 5 with leaves 6 and 7.
FEATURE = np.array([0, 2, 0, 0, 0, 1, 0, 0], np.int32)
YES = np.array([2, 3, 2, 3, 4, 6, 6, 7], np.int32)
NO = np.array([1, 4, 2, 3, 4, 7, 6, 7], np.int32)
ROOTS = np.array([0, 5], np.int32)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("mode", [*range(len(MODES)), None])
@pytest.mark.parametrize("missing", [False, True])
def test_tree_ensemble(aggregate: str, mode: int | None, missing: bool) -> None:
    x = rng.integers(-1, 2, (9, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    threshold, weights = rng.integers(-1, 2, 8).astype(np.float32), floats(8, 2)
    modes = rng.integers(0, len(MODES), 8).astype(np.int32) if mode is None else None
    known = rng.integers(0, 2, 8).astype(np.int32) if missing else None
    arrays = [x, FEATURE, threshold, YES, NO, ROOTS, weights, modes, known]
    check("tree_ensemble", arrays, depth=2, aggregate=aggregate, mode=mode)


def test_a_leaf_alone_is_a_tree() -> None:
    one = np.zeros(1, np.int32)
    arrays = [floats(4, 3), one, np.zeros(1, np.float32), one, one, one, floats(1, 2)]
    (result,) = check("tree_ensemble", arrays, depth=0, aggregate="sum", mode=0)
    np.testing.assert_array_equal(result, np.broadcast_to(arrays[-1], (4, 2)))


def test_operands_of_tree_ensembles() -> None:
    lists = [TensorType.make((8,), d) for d in ("int32", "float32", "int32", "int32", "int32")]
    x, weights = (TensorType.make(s, "float32") for s in ((4, 3), (8, 2)))
    with pytest.raises(GraphError, match=r"samples \[N, F\] and leaves"):
        type_of("tree_ensemble", [TensorType.make((4,), "float32"), *lists, weights], aggregate="sum")
    with pytest.raises(GraphError, match="no aggregate 'mean'"):
        type_of("tree_ensemble", [x, *lists, weights], aggregate="mean")
    with pytest.raises(GraphError, match="nodes are lists"):
        type_of("tree_ensemble", [x, weights, *lists[1:], weights], aggregate="sum")
