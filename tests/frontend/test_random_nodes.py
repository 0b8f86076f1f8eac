"""Random nodes of the most used operators, compiled and held against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frontend.random_nodes.compare import batch, difference, findings, merged
from tests.frontend.random_nodes.makers import MAKERS, Case, draw


@pytest.mark.parametrize(("first", "opset"), [(0, 13), (9000, 21)])
def test_random_nodes(first: int, opset: int) -> None:
    assert not findings(batch(first, 30, opset))


def test_every_maker_makes_nodes() -> None:
    for op in MAKERS:
        case = draw(1, op, 22)
        assert case is not None
        assert len(merged([case])[0].graph.node) == 1


def test_differences_are_found() -> None:
    """What the comparison finds: the value, the type and the shape; NaN agrees with NaN."""
    one, two = np.array([1.0, np.nan], np.float32), np.array([1.5, np.nan], np.float32)
    assert difference(one, one) is None
    assert difference(one, two) == "[1.0] instead of [1.5]"
    assert "float32[2] instead of float64[2]" in str(difference(one, one.astype(np.float64)))
    assert "instead of float32[1]" in str(difference(one, one[:1]))
    assert str(Case("Neg", 13, {"x": one}, {})) == "Neg-13(float32[2]) {}"


def test_reductions_over_no_axes_do_what_stands_around_the_reduction() -> None:
    x = np.array([[0.5, 2.0], [3.0, 1.0]], np.float32)
    ops = ("ReduceLogSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean")
    none = np.array([], np.int64)
    cases = [Case(op, 18, {"x": x, "axes": none}, {"noop_with_empty_axes": 1}, ("axes",)) for op in ops]
    assert not findings(cases)


def test_reductions_of_integers() -> None:
    x = np.array([[1, 7, 3], [2, 2, 5]], np.int32)
    ops = ("ReduceLogSum", "ReduceL2", "ReduceLogSumExp", "ReduceMean")
    assert not findings([Case(op, 17, {"x": x}, {"axes": [1]}) for op in ops])


def test_nan_is_not_above_a_threshold() -> None:
    assert not findings([Case("ThresholdedRelu", 22, {"x": np.array([np.nan, 2.0, 0.5], np.float32)}, {})])
