"""Rearranging lanes: transposing a block of vectors, collecting lanes from several vectors.

In a transposition rows become columns in log2(rows) stages, each a shuffle of two vectors. Within pieces of
128 bits the stages interleave (``unpck`` on x86, ``zip`` on Arm) runs of 1, 2, 4 .. elements; across pieces
they collect even and odd ones (``vperm2f128``, ``vshuff32x4``): what the hardware does in one instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tilewright.backend.llvm import types as ty

#: Bits of the pieces of a vector within which any shuffle is cheap.
PIECE_BITS = 128

Cell = tuple[int, int]


class _Vector(NamedTuple):
    """An SSA value and where each of its lanes comes from: (row, column)."""

    text: str
    cells: tuple[Cell, ...]


class _Shuffler:
    """Emits shuffles of vectors with elements of the LLVM type ``scalar``."""

    def __init__(self, scalar: str, emit: Callable[[str], str]) -> None:
        self._scalar = scalar
        self._emit = emit

    def pick(self, a: _Vector, b: _Vector | None, lanes: Sequence[int]) -> _Vector:
        """Lanes of the concatenation of ``a`` and ``b`` in the order given."""
        cells = a.cells + (b.cells if b is not None else ())
        chosen = tuple(cells[i] for i in lanes)
        if tuple(lanes) == tuple(range(len(a.cells))):
            return a
        kind = f"<{len(a.cells)} x {self._scalar}>"
        other = "poison" if b is None else b.text
        mask = ty.shuffle_mask(tuple(lanes))
        return _Vector(self._emit(f"shufflevector {kind} {a.text}, {kind} {other}, {mask}"), chosen)

    def interleave(self, a: _Vector, b: _Vector, run: int, piece: int) -> list[_Vector]:
        """In each piece the runs of ``a`` and ``b`` in turn: first those of the lower halves, then those of
        the upper ones."""
        width = len(a.cells)
        result = []
        for start in (0, piece // 2):
            lanes: list[int] = []
            for base in range(start, width, piece):
                for first in range(base, base + piece // 2, run):
                    lanes += [*range(first, first + run), *range(width + first, width + first + run)]
            result.append(self.pick(a, b, lanes))
        return result

    def unzip(self, vectors: list[_Vector], piece: int) -> list[_Vector]:
        """Transpose the pieces of ``vectors``: collect even and odd ones of neighbours, repeatedly."""
        if len(vectors) == 1:
            return vectors
        pieces = range(2 * len(vectors[0].cells) // piece)
        halves: list[_Vector] = []
        for parity in (0, 1):
            lanes = [lane for p in pieces if p % 2 == parity for lane in range(p * piece, (p + 1) * piece)]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            halves += self.unzip([self.pick(a, b, lanes) for a, b in pairs], piece)
        return halves


def can_transpose(rows: int, width: int) -> bool:
    """Whether :func:`transpose` takes a block of this shape."""
    return 1 < rows <= width and width & (width - 1) == 0


def transpose(
    rows: Sequence[str], width: int, scalar: str, bits: int, emit: Callable[[str], str]
) -> list[str]:
    """The columns of a block, as vectors with as many lanes as there are rows.

    Args:
        rows: SSA values, at most ``width``, of type ``<width x scalar>``.
        width: lanes of a row, a power of two.
        scalar: LLVM's name of the element type.
        bits: its size.
        emit: appends an instruction and returns the name of its value.
    """
    count = 1 << (len(rows) - 1).bit_length()
    padded = [*rows, *["poison"] * (count - len(rows))]
    piece = min(width, PIECE_BITS // bits)
    shuffler = _Shuffler(scalar, emit)
    groups = [[_Vector(text, tuple((r, c) for c in range(width)))] for r, text in enumerate(padded)]
    run = 1
    while run < min(count, piece):
        groups = [
            [v for a, b in zip(upper, lower, strict=True) for v in shuffler.interleave(a, b, run, piece)]
            for upper, lower in zip(groups[::2], groups[1::2], strict=True)
        ]
        run *= 2
    done = [v for parts in zip(*groups, strict=True) for v in shuffler.unzip(list(parts), piece)]
    home = {cell: (vector, lane) for vector in done for lane, cell in enumerate(vector.cells)}
    columns = []
    for column in range(width):
        vector, _ = home[0, column]
        lanes = [home[row, column][1] for row in range(len(rows))]
        columns.append(shuffler.pick(vector, None, lanes).text)
    return columns


def collect(
    vectors: Sequence[str],
    width: int,
    scalar: str,
    lanes: Sequence[tuple[int, int]],
    emit: Callable[[str], str],
) -> str:
    """One vector with the given (vector, lane) of several, which have the type ``<width x scalar>``."""
    result = ""
    source, into = f"<{width} x {scalar}>", f"<{len(lanes)} x {scalar}>"
    for first in range(0, len(vectors), 2):
        a, b = [*vectors[first : first + 2], "poison"][:2]
        inside = [first <= vector < first + 2 for vector, _ in lanes]
        mask = [
            (vector - first) * width + lane if here else -1
            for (vector, lane), here in zip(lanes, inside, strict=True)
        ]
        part = emit(f"shufflevector {source} {a}, {source} {b}, {ty.shuffle_mask(tuple(mask))}")
        if result:
            blend = tuple(n + len(lanes) if here else n for n, here in enumerate(inside))
            part = emit(f"shufflevector {into} {result}, {into} {part}, {ty.shuffle_mask(blend)}")
        result = part
    return result
