"""Arithmetic on shapes and permutations: which data movements are views, and how views map broadcast
operands.

Sizes are numbers, or canonical expressions where they are known at run time only. Two sizes are equal where
they are the same number or expression; what is not known to be equal, or to be 1, counts as different.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from tilewright.ir.expr import Const, Expr, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import MAX_TYPICAL, typical_size

Dim: TypeAlias = int | Expr
Dims: TypeAlias = tuple[Dim, ...]
Perm: TypeAlias = tuple[int, ...]


def as_dim(e: Expr) -> Dim:
    """A number where ``e`` is one, else its canonical form."""
    e = e if isinstance(e, Const) else simplify(e)
    return int(e.value) if isinstance(e, Const) else e


def count(dims: Sequence[Dim]) -> Dim:
    """The number of elements of a shape."""
    known = math.prod(d for d in dims if isinstance(d, int))
    open_dims = [d for d in dims if not isinstance(d, int)]
    if not open_dims or known == 0:
        return known
    total: Expr = as_expr(known)
    for dim in open_dims:
        total = total * dim
    return as_dim(total)


def known(dims: Iterable[Dim]) -> tuple[int, ...]:
    """The shape of something whose sizes must be numbers, such as a constant. Raises ValueError when one is
    not.
    """
    sizes = tuple(dims)
    found = tuple(d for d in sizes if isinstance(d, int))
    if len(found) != len(sizes):
        raise ValueError(f"a size among {sizes} is not a number")
    return found


def typical(dim: Dim) -> int:
    """A size to judge costs by: that of a dimension known at run time only is its typical one."""
    if isinstance(dim, int):
        return dim
    size = typical_size(dim)
    return MAX_TYPICAL if size is None else size


def typical_count(dims: Sequence[Dim]) -> int:
    """The number of elements where every dimension has its typical size."""
    return math.prod(typical(d) for d in dims)


def compose(outer: Perm, inner: Perm) -> Perm:
    """The permutation of ``transpose(transpose(x, inner), outer)``."""
    return tuple(inner[p] for p in outer)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    result = [0] * len(perm)
    for position, axis in enumerate(perm):
        result[axis] = position
    return tuple(result)


def permute(dims: Sequence[Dim], perm: Perm) -> Dims:
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
    are not known to be equal. Size-1 dimensions join the run before them (the first run where there is none).
    """
    if 0 in a or 0 in b or count(a) != count(b):
        return None
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        start_i, start_j = i, j
        # Typical sizes say which side is behind; whether both are equal is decided for all sizes.
        size_a = size_b = 1
        while True:
            if i > start_i and j > start_j and _same_run(a[start_i:i], b[start_j:j]):
                break
            if i < len(a) and (size_a <= size_b or j == len(b)):
                size_a *= typical(a[i])
                i += 1
            elif j < len(b):
                size_b *= typical(b[j])
                j += 1
            else:
                break
        while i < len(a) and a[i] == 1:
            i += 1
        while j < len(b) and b[j] == 1:
            j += 1
        groups.append((range(start_i, i), range(start_j, j)))
    return groups


def _same_run(a: Dims, b: Dims) -> bool:
    """Whether two runs hold equally many elements, and more than one."""
    size = count(a)
    return size != 1 and size == count(b)


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
    expanded: list[Dim] = []
    result: list[Dim] = []
    for ours, theirs in groups:
        part, full = [padded[d] for d in ours], [whole[d] for d in ours]
        target = [other[d] for d in theirs]
        if part == full:
            view: list[Dim] | None = target
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


def _view_prefix(part: list[Dim], whole: list[Dim], target: list[Dim]) -> list[Dim] | None:
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
    new_dims: list[Dim] = []
    place: dict[int, int] = {}
    for r in order:
        for d in runs[r][1]:
            place[d] = len(new_dims)
            new_dims.append(target[d])
    return tuple(new_dims), tuple(place[d] for d in range(len(target)))


def broadcast(*shapes: Dims) -> Dims | None:
    """NumPy's broadcast shape, or None."""
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for offset, dim in enumerate(reversed(shape), 1):
            if result[-offset] == 1:
                result[-offset] = dim
            elif dim not in (1, result[-offset]):
                return None
    return tuple(result)
