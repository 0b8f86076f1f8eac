"""Choosing a register tile: rows that share the vector operand times vectors that share the scalar
operand."""

from __future__ import annotations

import dataclasses
import math
from typing import TypeVar

from tilewright.ir.expr import Expr, as_expr
from tilewright.schedule.rules.common import pick, powers
from tilewright.schedule.schedule import BlockRef, Schedule
from tilewright.target import Target

#: Bits of the shortest vectors that are considered.
SHORTEST_BITS = 128
#: Vectors side by side in a tile, at most.
MAX_VECTORS = 8


@dataclasses.dataclass(frozen=True)
class TileProblem:
    """The innermost loops of a contraction.

    Attributes:
        rows: iterations of the row axis.
        columns: elements of the vector axis.
        bits: size of one element.
        depth: reduction steps per output.
        shared_vector: whether the rows share the vector operand (False for depthwise: every row has its own).
        row_stride: bytes between the scalar operand's rows (0: none).
        outer: how often the tiles are walked by the loops around.
        run: columns, counted from a multiple of that, that share the scalar operand (0: all).
        lanes: lengths of vectors that there are (none: all up to the target's).
    """

    rows: int
    columns: int
    bits: int
    depth: int
    shared_vector: bool = True
    row_stride: int = 0
    outer: int = 1
    run: int = 0
    lanes: tuple[int, ...] = ()

    def fits(self, lanes: int, vectors: int) -> bool:
        """Whether there are such vectors, and none of them, and no tile, reaches from one run into part of
        another."""
        if self.lanes and lanes not in self.lanes:
            return False
        width = lanes * vectors
        return self.run % lanes == 0 and (self.run % width == 0 or width % self.run == 0)


@dataclasses.dataclass(frozen=True)
class Tile:
    """``rows`` times ``vectors`` accumulators of ``lanes`` elements."""

    rows: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        """Elements of one row of the tile."""
        return self.vectors * self.lanes


@dataclasses.dataclass(frozen=True)
class OpenTile:
    """A :class:`Tile` whose sizes may be open decisions."""

    rows: int | Expr
    vectors: int | Expr
    lanes: int | Expr

    @property
    def width(self) -> int | Expr:
        """Elements of one row of the tile."""
        return self.vectors * self.lanes


def pick_tile(
    sch: Schedule, ref: BlockRef, problem: TileProblem, target: Target, rows: Expr | None = None
) -> OpenTile:
    """The tile of block ``ref``: the estimated best, or open where decisions are. ``rows`` may be given."""
    best = choose_tile(problem, target)
    widest = target.lanes(problem.bits)
    narrowest = min(SHORTEST_BITS // problem.bits, widest)
    lengths = powers(narrowest, widest) if not problem.lanes else [best.lanes]
    lanes = pick(sch, ref, "lanes", lengths, best.lanes)
    most = min(-(-problem.columns // narrowest), MAX_VECTORS)
    vectors = pick(sch, ref, "vectors", range(1, most + 1), best.vectors)
    most_rows = min(problem.rows, max_rows(problem, target))
    height = pick(sch, ref, "rows", range(1, most_rows + 1), best.rows) if rows is None else rows
    tile = OpenTile(height, vectors, lanes)
    if sch.symbolic:
        need = register_need(as_expr(height), as_expr(vectors), problem)
        sch.require(need <= target.vector_registers - 1)
        # Whole vectors outside of the tensor are work for nothing.
        sch.require(as_expr(tile.width) < problem.columns + lanes)
        if problem.run:
            width, run = as_expr(tile.width), as_expr(problem.run)
            sch.require((run % lanes).eq(0) & ((run % width).eq(0) | (width % run).eq(0)))
    return tile


def choose_tile(problem: TileProblem, target: Target) -> Tile:
    """The tile with the least estimated time.

    A reduction step costs the larger of its multiply-adds, its loads and the latency of a chain; a tile also
    costs its start and its write-back. Remainder tiles are counted with what they cost themselves. Vectors
    shorter than the target's are considered
    too: where two short ones run in the time of a long one, they waste less on odd numbers of columns.
    """
    best: tuple[float, Tile] | None = None
    lanes = target.lanes(problem.bits)
    while lanes * problem.bits >= SHORTEST_BITS:
        vectors_all = math.ceil(problem.columns / lanes)
        for vectors in range(1, min(vectors_all, MAX_VECTORS) + 1):
            if not problem.fits(lanes, vectors):
                continue
            for rows in range(1, min(problem.rows, max_rows(problem, target)) + 1):
                if register_need(rows, vectors, problem) > target.vector_registers - 1:
                    break
                tile = Tile(rows, vectors, lanes)
                # Near ties go to the larger tile: fewer, longer inner loops.
                rank = estimate(problem, tile, target) * (
                    1 - 1e-4 * rows * vectors * lanes / target.lanes(problem.bits)
                )
                if best is None or rank < best[0]:
                    best = (rank, tile)
        lanes //= 2
    assert best is not None
    return best[1]


Size = TypeVar("Size", int, Expr)


def register_need(rows: Size, vectors: Size, problem: TileProblem) -> Size:
    """Vector registers a reduction step keeps alive."""
    if problem.shared_vector:
        return rows * vectors + vectors + 1
    return 2 * rows * vectors + vectors + 1


def max_rows(problem: TileProblem, target: Target) -> int:
    """Rows whose streams do not evict each other: rows a multiple of the L1 way size apart share few sets."""
    if problem.row_stride <= 0:
        return 28
    way = 4096
    ways = max(target.l1d_bytes // way, 1)
    sets_apart = way // math.gcd(problem.row_stride, way)
    return max(min(28, ways * max(sets_apart, 1)), 4)


def estimate(problem: TileProblem, tile: Tile, target: Target) -> float:
    """Cycles for all tiles. Two vector operations start in a cycle at most, whatever their width."""
    bits = tile.lanes * problem.bits
    fma = max(bits / target.fma_bits, 0.5)
    load = max(bits / target.load_bits, 0.5)
    vectors_all = math.ceil(problem.columns / tile.lanes)

    def cost(rows: int, vectors: int) -> float:
        runs = 1 if problem.run == 0 else math.ceil(vectors * tile.lanes / problem.run)
        scalars = rows * runs * 0.5 if problem.shared_vector else rows * vectors * load
        step = max(rows * vectors * fma, vectors * load + scalars, 4.0)
        return problem.depth * step + 12 + 3.0 * rows * vectors

    full_rows, rest_rows = divmod(problem.rows, tile.rows)
    full_vectors, rest_vectors = divmod(vectors_all, tile.vectors)
    total = full_rows * full_vectors * cost(tile.rows, tile.vectors)
    if rest_rows:
        total += full_vectors * cost(rest_rows, tile.vectors)
    if rest_vectors:
        total += full_rows * cost(tile.rows, rest_vectors)
    if rest_rows and rest_vectors:
        total += cost(rest_rows, rest_vectors)
    # Edge copies of the code cost instruction cache and compile time.
    edges = (rest_rows > 0) + (rest_vectors > 0)
    return total * (1 + 0.01 * edges)
