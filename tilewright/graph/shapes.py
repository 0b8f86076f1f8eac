"""Arithmetic on static shapes and permutations: which data movements are views, and how views map broadcast
operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

Dims: TypeAlias = tuple[int, ...]
Perm: TypeAlias = tuple[int, ...]


def compose(outer: Perm, inner: Perm) -> Perm:
    """The permutation of ``transpose(transpose(x, inner), outer)``."""
    return tuple(inner[p] for p in outer)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    result = [0] * len(perm)
    for position, axis in enumerate(perm):
        result[axis] = position
    return tuple(result)


def permute(dims: Sequence[int], perm: Perm) -> Dims:
    """The shape of a transpose by ``perm``."""
    return tuple(dims[p] for p in perm)


def is_identity(perm: Perm) -> bool:
    """Whether a transpose by ``perm`` moves nothing."""
    return perm == tuple(range(len(perm)))


def transpose_is_view(dims: Dims, perm: Perm) -> bool:
    """Whether a transpose leaves the memory order alone: only dimensions of size 1 change their place."""
    moved = [p for p in perm if dims[p] != 1]
    return moved == sorted(moved) or 0 in dims


def same_but_units(a: Dims, b: Dims) -> bool:
    """Whether two shapes differ in dimensions of size 1 only: a reshape between them copies indices."""
    return [d for d in a if d != 1] == [d for d in b if d != 1]


def keeps_innermost(dims: Dims, perm: Perm) -> bool:
    """Whether the innermost dimension that is not of size 1 stays innermost under a transpose."""
    moved = [p for p in perm if dims[p] != 1]
    return not moved or moved[-1] == max(moved)


def align(a: Dims, b: Dims) -> list[tuple[range, range]] | None:
    """The finest split of two shapes of equal size into runs of dimensions with equal products.

    Returns pairs (dimensions of ``a``, dimensions of ``b``) in order; None when a size is 0 or the products
    differ. Size-1 dimensions join the run before them (the first run where there is none).
    """
    if 0 in a or 0 in b or prod(a) != prod(b):
        return None
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        start_i, start_j = i, j
        size_a = size_b = 1
        while True:
            if size_a == size_b and size_a > 1:
                break
            if size_a <= size_b and i < len(a):
                size_a *= a[i]
                i += 1
            elif j < len(b):
                size_b *= b[j]
                j += 1
            elif i < len(a):
                size_a *= a[i]
                i += 1
            else:
                break
        while i < len(a) and a[i] == 1:
            i += 1
        while j < len(b) and b[j] == 1:
            j += 1
        groups.append((range(start_i, i), range(start_j, j)))
    return groups


def view_operand(operand: Dims, whole: Dims, other: Dims, spread: bool = False) -> tuple[Dims, Dims] | None:
    """How an operand that broadcasts to ``whole`` looks when ``whole`` is viewed as ``other``.

    Right-aligned broadcasting on both sides. Returns two shapes: that to which the operand is broadcast first
    (only its rank grows unless ``spread``), and its view. None when no view does it: the operand is broadcast
    along a part of a merged dimension. With ``spread`` it is repeated there.
    """
    padded = (1,) * (len(whole) - len(operand)) + operand
    groups = align(whole, other)
    if len(padded) != len(whole) or groups is None:
        return None
    expanded: list[int] = []
    result: list[int] = []
    for ours, theirs in groups:
        part, full = [padded[d] for d in ours], [whole[d] for d in ours]
        target = [other[d] for d in theirs]
        if part == full:
            view: list[int] | None = target
        elif all(p == 1 for p in part):
            view = [1] * len(target)
        else:
            view = _view_prefix(part, full, target)
            if view is None and spread:
                part, view = full, target
        if view is None:
            return None
        expanded.extend(part)
        result.extend(view)
    return tuple(expanded), tuple(result)


def _view_prefix(part: list[int], whole: list[int], target: list[int]) -> list[int] | None:
    """Within one run: an operand that is broadcast along some dimensions of it. Only when ``target`` has the
    same non-unit dimensions can it be a view.
    """
    ours = [(p, w) for p, w in zip(part, whole, strict=True) if w != 1]
    sizes = [t for t in target if t != 1]
    if [w for _, w in ours] != sizes:
        return None
    queue = iter(p for p, _ in ours)
    return [1 if t == 1 else next(queue) for t in target]


def transpose_through_view(dims: Dims, perm: Perm, target: Dims) -> tuple[Dims, Perm] | None:
    """Swap ``reshape(transpose(x, perm), target)`` into ``transpose(reshape(x, new_dims), new_perm)``.

    ``dims`` is the shape of x. None when the view tears runs that are not contiguous in x.
    """
    moved = permute(dims, perm)
    groups = align(moved, target)
    if groups is None:
        return None
    runs: list[tuple[int, range]] = []
    for ours, theirs in groups:
        axes = [perm[d] for d in ours if moved[d] != 1]
        if axes and any(dims[a] != 1 for a in range(axes[0], axes[-1] + 1) if a not in axes):
            return None
        if axes != sorted(axes):
            return None
        runs.append((axes[0] if axes else -1, theirs))
    order = sorted(range(len(runs)), key=lambda r: runs[r][0])
    new_dims: list[int] = []
    place: dict[int, int] = {}
    for r in order:
        for d in runs[r][1]:
            place[d] = len(new_dims)
            new_dims.append(target[d])
    return tuple(new_dims), tuple(place[d] for d in range(len(target)))


def broadcast(*shapes: Dims) -> Dims | None:
    """NumPy's broadcast shape, or None."""
    rank = max(map(len, shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for offset, dim in enumerate(reversed(shape), 1):
            if result[-offset] == 1:
                result[-offset] = dim
            elif dim not in (1, result[-offset]):
                return None
    return tuple(result)
