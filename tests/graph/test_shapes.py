from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.graph.shapes import (
    align,
    compose,
    inverse,
    keeps_innermost,
    transpose_is_view,
    transpose_through_view,
    view_operand,
)


@st.composite
def factored(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of equal size, each merging runs of the same prime factors."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5))

    def merge() -> tuple[int, ...]:
        dims = [1]
        for f in factors:
            if draw(st.booleans()):
                dims.append(f)
            else:
                dims[-1] *= f
            if draw(st.integers(0, 4)) == 0:
                dims.append(1)
        return tuple(dims)

    return merge(), merge()


perms = st.integers(1, 4).flatmap(lambda n: st.permutations(range(n))).map(tuple)


@given(factored())
@settings(max_examples=200, deadline=None)
def test_alignment_covers_both_in_order(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    a, b = shapes
    groups = align(a, b)
    assert groups is not None
    assert [d for x, _ in groups for d in x] == list(range(len(a)))
    assert [d for _, y in groups for d in y] == list(range(len(b)))
    for x, y in groups:
        assert np.prod([a[d] for d in x]) == np.prod([b[d] for d in y])


def test_alignment_needs_equal_sizes():
    assert align((2, 3), (5,)) is None
    assert align((0, 3), (0,)) is None
    assert align((2, 6, 4), (2, 3, 8)) == [(range(1), range(1)), (range(1, 3), range(1, 3))]


@given(factored(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_viewed_operand_broadcasts_alike(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject
):
    whole, other = shapes
    operand = tuple(d if data.draw(st.booleans()) else 1 for d in whole)
    spread = data.draw(st.booleans())
    view = view_operand(operand, whole, other, spread)
    if view is None:
        assert not spread
        return
    expanded, shape = view
    array = np.arange(np.prod(operand)).reshape(operand)
    there = np.broadcast_to(np.broadcast_to(array, expanded).reshape(shape), other)
    np.testing.assert_array_equal(there.reshape(whole), np.broadcast_to(array, whole))


@given(factored(), st.data())
@settings(max_examples=300, deadline=None)
def test_transposes_swap_with_views(shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject):
    moved, target = shapes
    perm = tuple(data.draw(st.permutations(range(len(moved)))))
    dims = tuple(moved[i] for i in inverse(perm))
    swapped = transpose_through_view(dims, perm, target)
    if swapped is None:
        return
    x = np.arange(np.prod(dims)).reshape(dims)
    shape, after = swapped
    np.testing.assert_array_equal(x.transpose(perm).reshape(target), x.reshape(shape).transpose(after))


def test_transposes_swap_with_the_views_that_matter():
    assert transpose_through_view((1, 5, 4, 3), (0, 3, 1, 2), (1, 3, 20)) is not None
    assert transpose_through_view((2, 3, 4), (2, 0, 1), (4, 6)) == ((6, 4), (1, 0))
    assert transpose_through_view((2, 3, 4), (1, 0, 2), (6, 4)) is None


@given(perms)
def test_permutations(perm: tuple[int, ...]):
    x = np.arange(np.prod(range(2, 2 + len(perm)))).reshape(range(2, 2 + len(perm)))
    assert compose(inverse(perm), perm) == tuple(range(len(perm)))
    np.testing.assert_array_equal(x.transpose(perm).transpose(perm), x.transpose(compose(perm, perm)))


def test_transposes_that_move_nothing():
    assert transpose_is_view((1, 3, 1, 4), (1, 0, 3, 2))
    assert not transpose_is_view((2, 3, 1), (1, 0, 2))
    assert keeps_innermost((2, 3, 4, 1), (1, 0, 3, 2))
    assert not keeps_innermost((2, 3, 4), (0, 2, 1))
