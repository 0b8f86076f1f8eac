"""The rule of agreement."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilewright.compare import compare

F32 = np.float32


@given(hnp.arrays(F32, hnp.array_shapes(max_side=5), elements=st.floats(width=32)))
def test_a_tensor_agrees_with_itself(array):
    found = compare("t", array, array.copy())
    assert found.ok
    assert (found.bad, found.max_abs, found.first_bad) == (0, 0.0, None)
    found.to_dict()


@given(
    hnp.arrays(F32, (4, 3), elements=st.floats(-100, 100, width=32)),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_one_wrong_element_is_found_and_named(array, row, column):
    array[0, 0] = 100
    wrong = array.copy()
    wrong[row, column] += 1
    found = compare("t", wrong, array)
    assert not found.ok
    assert (found.bad, found.size, found.first_bad) == (1, 12, (row, column))
    assert found.max_abs == pytest.approx(1, rel=1e-4)
    assert found.got == wrong[row, column]
    assert str([row, column]) in found.describe()


def test_default_tolerance_scales_with_the_reference():
    reference = np.array([1e4, 0.0], F32)
    assert compare("t", reference + F32(0.9), reference).ok
    assert not compare("t", reference + np.array([0, 1.2], F32), reference).ok
    small = reference * F32(1e-9)
    assert not compare("t", small + np.array([0, 1e-7], F32), small).ok


def test_saturating_outputs_may_be_wrong_by_two_units_in_the_last_place_of_one():
    reference = np.array([8e-4, 1e-7], F32)
    assert compare("t", np.array([8e-4, 3e-7], F32), reference).ok
    assert not compare("t", np.array([8e-4, 6e-7], F32), reference).ok


def test_given_tolerances_hold():
    reference = np.array([1.0, 10.0])
    assert compare("t", reference * 1.05, reference, rtol=0.06, atol=0).ok
    assert not compare("t", reference * 1.05, reference, rtol=0.04, atol=0).ok
    assert compare("t", reference + 0.5, reference, rtol=0, atol=0.5).ok


def test_special_values():
    reference = np.array([np.nan, np.inf, -np.inf, 1], F32)
    assert compare("t", reference.copy(), reference).ok
    for index, value in ((0, 0.0), (1, -np.inf), (1, 3e38), (2, np.nan), (3, np.nan), (3, np.inf)):
        wrong = reference.copy()
        wrong[index] = value
        found = compare("t", wrong, reference)
        assert found.first_bad == (index,)
        assert isinstance(found.to_dict()["got"], float | str)


def test_integers_and_bools_are_exact():
    reference = np.array([1, 2, 3], np.int64)
    assert compare("t", reference, reference).ok
    found = compare("t", reference + np.array([0, 0, 1]), reference)
    assert (found.first_bad, found.got, found.expected) == ((2,), 4.0, 3.0)
    assert not compare("t", np.array([True]), np.array([False])).ok


def test_half_precision_is_compared_more_loosely():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        reference = np.array([1.0, 2.0], dtype)
        assert compare("t", (reference * dtype(1.0078125)).astype(dtype), reference).ok
    assert not compare("t", np.array([1.0078125], F32), np.array([1.0], F32)).ok


def test_shape_and_dtype_must_match():
    assert "shape [2] instead of [3]" in compare("t", np.zeros(2), np.zeros(3)).describe()
    assert "dtype float32 instead of float64" in compare("t", np.zeros(2, F32), np.zeros(2)).describe()


def test_empty_tensors_agree():
    assert compare("t", np.zeros((0, 3), F32), np.zeros((0, 3), F32)).ok
