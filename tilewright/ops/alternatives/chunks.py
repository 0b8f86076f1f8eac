"""A reduced axis in chunks: what alternatives that go over long axes in two steps share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from math import prod
from typing import Final

from tilewright.graph.opdef import OpContext
from tilewright.ir import te
from tilewright.ir.expr import Expr, const, minimum, reduce_identity, select
from tilewright.ir.visit import const_int
from tilewright.ops.common import Shape

#: Elements that one chunk should have: enough to be worth starting, and they stay in the first-level cache
#: while they are read a second time.
CHUNK: Final = 4096
#: Lengths of chunks are multiples of this where they do not divide the axis: whole vectors.
ALIGN: Final = 64


@dataclasses.dataclass(frozen=True)
class Chunks:
    """``axis`` of ``extent`` elements as ``count`` chunks of ``length``; the last one may be shorter."""

    axis: int
    extent: int
    count: int
    length: int

    @property
    def even(self) -> bool:
        """Whether all chunks are equally long."""
        return self.count * self.length == self.extent

    def shape(self, shape: Sequence[Expr]) -> Shape:
        """``shape`` with a place for each chunk in place of the axis."""
        return tuple(const(self.count) if n == self.axis else d for n, d in enumerate(shape))

    def position(self, chunk: Expr, inner: Expr) -> Expr:
        """Where element ``inner`` of a chunk lies on the axis."""
        return chunk * self.length + inner

    def filled(self, chunk: Expr) -> Expr:
        """How long a chunk is."""
        if self.even:
            return const(self.length)
        return minimum(const(self.length), self.extent - chunk * self.length)

    def guarded(self, position: Expr, value: Expr, op: str) -> Expr:
        """``value``, or what changes nothing under the reduction ``op`` behind the end of the axis."""
        if self.even:
            return value
        return select(position < self.extent, value, reduce_identity(op, value.dtype))


def chunks_of(axis: int, extent: int, wanted: int) -> Chunks:
    """Chunks of about ``wanted`` elements: a divisor of the extent if one is near, else multiples of
    :data:`ALIGN`."""
    near = range(max(wanted // 2, 1), min(2 * wanted, extent // 2) + 1)
    even = [n for n in near if extent % n == 0]
    if even:
        length = min(even, key=lambda n: (n % 16 != 0, abs(n - wanted)))
    else:
        length = min(wanted, extent)
        length = -(-length // ALIGN) * ALIGN if length > ALIGN else length
    return Chunks(axis, extent, -(-extent // length), length)


def long_axis(shape: Sequence[Expr], axes: Sequence[int]) -> Chunks | None:
    """Chunks of :data:`CHUNK` elements of the space that ``axes`` span: of its first axis, or of the longest
    one where that is too short. None when there would be fewer than two, or a size is not known."""
    sizes = {a: const_int(shape[a]) or 0 for a in axes}
    total = prod(sizes.values())
    if total < 2 * CHUNK:
        return None
    count = total // CHUNK
    axis = next((a for a in axes if sizes[a] >= min(count, 8)), max(axes, key=lambda a: sizes[a]))
    chunks = chunks_of(axis, sizes[axis], max(CHUNK * sizes[axis] // total, 1))
    return chunks if chunks.count > 1 else None


def partial(
    x: te.Tensor,
    axes: Sequence[int],
    chunks: Chunks,
    op: str,
    name: str,
    element: Callable[[Expr, Sequence[Expr]], Expr],
) -> te.Tensor:
    """``op`` over each chunk of ``axes``: of the rank of ``x``, 1 along the other reduced axes.

    ``element(value, index)``: what is reduced, from an element of ``x`` and the index of the result.
    """
    inner = [chunks.length if a == chunks.axis else x.shape[a] for a in axes]
    shape = tuple(const(1) if n in axes else d for n, d in enumerate(x.shape))

    def body(*index: Expr) -> Expr:
        def term(*r: Expr) -> Expr:
            at = list(index)
            for a, i in zip(axes, r, strict=True):
                at[a] = chunks.position(index[a], i) if a == chunks.axis else i
            return chunks.guarded(at[chunks.axis], element(x[tuple(at)], index), op)

        return te.reduce(op, inner, term)

    return te.compute(chunks.shape(shape), body, name)


def combined(
    shape: Sequence[Expr],
    chunks: Chunks,
    op: str,
    name: str,
    term: Callable[[tuple[Expr, ...], Sequence[Expr]], Expr],
) -> te.Tensor:
    """``op`` over all chunks: ``shape`` has 1 along the reduced axes. ``term(at, index)`` is a chunk's
    contribution, from its index among the partial results and the index of the result."""

    def body(*index: Expr) -> Expr:
        def one(chunk: Expr) -> Expr:
            return term(tuple(chunk if n == chunks.axis else i for n, i in enumerate(index)), index)

        return te.reduce(op, [chunks.count], one)

    return te.compute(shape, body, name)


def is_static(ctx: OpContext) -> bool:
    """Whether every operand's shape is known."""
    return all(t is None or t.static_shape is not None for t in ctx.inputs)
