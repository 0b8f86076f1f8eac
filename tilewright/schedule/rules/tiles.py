"""Choosing a register tile: rows that share the vector operand times vectors that share the scalar operand."""

from __future__ import annotations

import dataclasses
import math

from tilewright.target import Target


@dataclasses.dataclass(frozen=True)
class TileProblem:
    """The innermost loops of a contraction.

    Attributes:
        rows: iterations of the row axis.
        columns: elements of the vector axis.
        lanes: elements in one vector.
        depth: reduction steps per output.
        shared_vector: whether the rows share the vector operand (False for depthwise: every row has its own).
        row_stride: bytes between the scalar operand's rows (0: none).
        outer: how often the tiles are walked by the loops around.
    """

    rows: int
    columns: int
    lanes: int
    depth: int
    shared_vector: bool = True
    row_stride: int = 0
    outer: int = 1


@dataclasses.dataclass(frozen=True)
class Tile:
    """``rows`` times ``vectors`` accumulators."""

    rows: int
    vectors: int


def choose_tile(problem: TileProblem, target: Target) -> Tile:
    """The tile with the least estimated time.

    A reduction step costs the larger of its multiply-adds, its loads and the latency of a chain; a tile also costs its start and its
    write-back. Remainder tiles are counted with what they cost themselves.
    """
    vectors_all = math.ceil(problem.columns / problem.lanes)
    best: tuple[float, Tile] | None = None
    for vectors in range(1, min(vectors_all, 8) + 1):
        for rows in range(1, min(problem.rows, max_rows(problem, target)) + 1):
            if register_need(rows, vectors, problem) > target.vector_registers - 1:
                break
            tile = Tile(rows, vectors)
            time = estimate(problem, tile, target)
            # Near ties go to the larger tile: fewer, longer inner loops.
            rank = time * (1 - 1e-4 * rows * vectors)
            if best is None or rank < best[0]:
                best = (rank, tile)
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
    """Cycles for all tiles, in units of one vector multiply-add a cycle."""
    wide = target.vector_bits >= 512
    fma = 1.0 if wide else 0.5
    load = 1.0 if wide else 0.5
    vectors_all = math.ceil(problem.columns / problem.lanes)

    def cost(rows: int, vectors: int) -> float:
        work = rows * vectors * fma
        scalars = rows * 0.5 if problem.shared_vector else rows * vectors * load
        step = max(work, vectors * load + scalars, 4.0 * fma, 1.0)
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
