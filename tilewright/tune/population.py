"""Many candidates of a workload at once, as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tilewright.schedule.sketch import Rows

_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A candidate of a search space.

    Attributes:
        sketch: the number of its sketch in the space.
        row: the values of the sketch's decisions, in the order of its columns.
    """

    sketch: int
    row: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Population(Sequence[Point]):
    """``n`` candidates of one space: a sequence of points that keeps them in two arrays.

    Attributes:
        sketch: ``[n]`` int64, the numbers of their sketches.
        rows: ``[n, width]`` int64, the values of their decisions, zeros behind those of sketches with fewer.
        widths: how many decisions each sketch of the space has.
    """

    sketch: NDArray[np.int64]
    rows: Rows
    widths: tuple[int, ...]

    @staticmethod
    def of(points: Sequence[Point], widths: tuple[int, ...]) -> Population:
        """The population of these points; a population stays as it is."""
        if isinstance(points, Population):
            return points
        rows = np.zeros((len(points), max(widths)), np.int64)
        for n, point in enumerate(points):
            rows[n, : len(point.row)] = point.row
        return Population(np.array([p.sketch for p in points], np.int64), rows, widths)

    @staticmethod
    def of_sketch(sketch: int, rows: Rows, widths: tuple[int, ...]) -> Population:
        """Candidates of one sketch, from ``[n, decisions]`` of it."""
        padded = np.zeros((len(rows), max(widths)), np.int64)
        padded[:, : rows.shape[1]] = rows
        return Population(np.full(len(rows), sketch, np.int64), padded, widths)

    @staticmethod
    def concat(parts: Sequence[Population]) -> Population:
        """All candidates of at least one population, in order."""
        sketch = np.concatenate([p.sketch for p in parts])
        return Population(sketch, np.concatenate([p.rows for p in parts]), parts[0].widths)

    def __len__(self) -> int:
        return len(self.sketch)

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> Population: ...
    def __getitem__(self, index: int | slice) -> Point | Population:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        sketch = int(self.sketch[index])
        return Point(sketch, tuple(self.rows[index, : self.widths[sketch]].tolist()))

    def __iter__(self) -> Iterator[Point]:
        for sketch, row in zip(self.sketch.tolist(), self.rows.tolist(), strict=True):
            yield Point(sketch, tuple(row[: self.widths[sketch]]))

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Population:
        """The candidates at these positions, or where a mask is true."""
        return Population(self.sketch[which], self.rows[which], self.widths)

    def by_sketch(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """For each sketch that occurs its number and the positions of its candidates."""
        for sketch in np.unique(self.sketch).tolist():
            yield sketch, np.flatnonzero(self.sketch == sketch)

    def rows_at(self, sketch: int, positions: NDArray[np.int64]) -> Rows:
        """``[len(positions), decisions]``: the rows there, as the sketch takes them."""
        return self.rows[positions, : self.widths[sketch]]

    def keys(self) -> NDArray[np.uint64]:
        """``[n]``: equal for equal candidates; 64 mixed bits: practically never for different ones."""
        mixed = (self.sketch.astype(np.uint64) + np.uint64(1)) * _MIX
        for column in self.rows.T.astype(np.uint64):
            mixed = (mixed ^ column) * _MIX
            mixed ^= mixed >> _SHIFT
        return mixed

    def distinct(self) -> Population:
        """Each candidate once, in the order of their first appearance."""
        _, first = np.unique(self.keys(), return_index=True)
        return self.take(np.sort(first))

    def without(self, keys: NDArray[np.uint64]) -> Population:
        """The candidates whose keys are none of these."""
        return self.take(~np.isin(self.keys(), keys))
