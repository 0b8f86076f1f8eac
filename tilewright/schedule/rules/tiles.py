"""Choosing a register tile: rows that share the vector operand times vectors that share the scalar
operand."""

from __future__ import annotations

import dataclasses
import math

from tilewright.target import Target

#: Bits of the shortest vectors that are considered.
SHORTEST_BITS = 128


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
    """

    rows: int
    columns: int
    bits: int
    depth: int
    shared_vector: bool = True
    row_stride: int = 0
    outer: int = 1
    run: int = 0

    def fits(self, lanes: int, vectors: int) -> bool:
        """Whether no vector, and no tile, reaches from one run into part of another."""
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
        for vectors in range(1, min(vectors_all, 8) + 1):
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


def register_need(rows: int, vectors: int, problem: TileProblem) -> int:
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
