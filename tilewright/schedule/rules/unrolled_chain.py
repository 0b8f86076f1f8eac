"""A contraction between small dense transforms: Winograd convolution, and whatever has its shape.

A *small transform* is a pair of injective blocks in which each element of the second is computed from several
elements of the first, chosen by iterators of tiny constant extent (the rows and columns of one tile). Done as
loops it would be all selects and index arithmetic; here those iterators are unrolled, so that the selects
fold, the first block's tile stays in registers, and vectors run along the contiguous axis.

The contraction's operand comes from one such transform and its result goes into another. All three are
computed in blocks of the iterators that they share, so that what passes between them stays in the cache.
"""

from __future__ import annotations

import dataclasses
import math

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Cmp, Const, Expr, Select, Var, as_expr
from tilewright.ir.visit import const_int, free_vars, walk_expr
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.rules.analysis import Access, BlockInfo, block_info, is_injective
from tilewright.schedule.rules.common import (
    at_default,
    block_named,
    extent_of,
    loop_of,
    loops_by_iter,
    parallelize,
    pick,
    powers,
)
from tilewright.schedule.rules.tiles import OpenTile, Tile, TileProblem, choose_tile, pick_tile
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Longest extent of an iterator that is unrolled for a small transform.
MAX_UNROLL = 8
#: Tiles in a block: with fewer the contraction reads its other operand too often, with more the block leaves
#: the cache. Down to half as many where there would be fewer blocks than cores.
BLOCK_TILES = 16
#: Lines of tiles whose rows share a register tile, at most.
MAX_LINES = 4


@dataclasses.dataclass(frozen=True)
class Chain:
    """``before`` (two blocks) makes the contraction's operand; ``after`` (two or more) uses its result.

    Of ``after`` the first block is a transform's first half and the last one writes the output; what is
    between them works elementwise on the second half.
    """

    before: tuple[BlockRef, BlockRef]
    contraction: BlockRef
    after: tuple[BlockRef, ...]


def find_chain(sch: Schedule) -> Chain | None:
    """The chain that the whole function is, if it is one."""
    refs = sch.get_blocks()
    infos = {ref: block_info(block_named(sch, ref.name)) for ref in refs}
    reductions = [ref for ref, info in infos.items() if info is not None and info.reduce]
    if len(refs) < 5 or len(reductions) != 1 or len(sch.func.outputs) != 1 or None in infos.values():
        return None
    place = refs.index(reductions[0])
    others = [ref for ref in refs if ref != reductions[0]]
    if place != 2 or not all(is_injective(block_named(sch, ref.name)) for ref in others):
        return None
    first, second, contraction, *after = refs
    if sch.get_producers(second) != [first] or sch.get_producers(contraction) != [second]:
        return None
    if sch.get_consumers(contraction) != [after[0]]:
        return None
    return Chain((first, second), contraction, tuple(after))


def schedule_chain(sch: Schedule, chain: Chain, target: Target, whole_lines: bool = False) -> None:
    """Schedule the whole function; with open decisions, ``whole_lines`` makes the contraction's register
    tiles of several whole lines of rows. Raises ScheduleError where it is not such a chain after all."""
    info = _info(sch, chain.contraction)
    flops = 2 * info.points(info.spatial + info.reduce)
    lines: Expr | None = None
    if whole_lines:
        lines = as_expr(pick(sch, chain.contraction, "lines", range(1, MAX_LINES + 1), 1))
    block, inside, tile_loop = _tile_output(sch, chain, target, lines)
    # The contraction's result in memory, its accumulators in registers.
    stored = sch.cache_write(chain.contraction, "register")
    for ref in reversed(chain.after[:-1]):
        sch.compute_at(ref, tile_loop)
        _unroll_tile(sch, ref, tile_loop, target)
    sch.compute_at(stored, block)
    strips, tile = _contraction_tile(sch, chain.contraction, stored, block, target, lines)
    around = block
    if _crowded(sch, chain.contraction, stored, block, target):
        around = _panels(sch, inside, tile_loop, tile)
        sch.compute_at(stored, around)
    _tile_contraction(sch, chain.contraction, stored, around, strips, tile, by_panels=around != block)
    sch.compute_at(chain.before[1], block)
    _transform(sch, chain.before, block, target)
    parallelize(sch, block, flops, target)


def _info(sch: Schedule, ref: BlockRef) -> BlockInfo:
    info = block_info(block_named(sch, ref.name))
    if info is None:
        raise ScheduleError(f"'{ref.name}' has more than one store")
    return info


def _short(info: BlockInfo) -> list[Var]:
    """Iterators that choose between expressions."""
    found: dict[Var, None] = {}
    for node in walk_expr(info.store.value):
        if isinstance(node, Select):
            for cond in walk_expr(node.cond):
                if isinstance(cond, Cmp) and cond.op == "eq" and isinstance(cond.b, Const):
                    found.update(dict.fromkeys(v for v in info.spatial if v in free_vars(cond.a)))
    return [v for v in found if info.extent(v) <= MAX_UNROLL]


def _short_of_pair(info: BlockInfo, source: BlockInfo) -> list[Var]:
    """Iterators of a transform's second half that choose between expressions in it, or in its first half
    (``source``)."""
    short = _short(info)
    picks = _short(source)
    for access in info.loads:
        if access.buffer is source.store.buffer:
            for index, position in zip(access.indices, source.store.indices, strict=True):
                if position in picks and isinstance(index, Var) and index not in short:
                    short.append(index)
    return short


def _divisors(info: BlockInfo) -> dict[Var, int]:
    """Iterators that the body takes apart by ``// d`` and ``% d``, with that ``d``."""
    found: dict[Var, int] = {}
    roots: list[Expr] = [info.store.value, *(i for a in info.loads for i in a.indices)]
    for root in roots:
        for node in walk_expr(root):
            if isinstance(node, BinOp) and node.op == "mod" and isinstance(node.a, Var):
                size = const_int(node.b)
                if size is not None and 1 < size <= MAX_UNROLL:
                    found[node.a] = size
    return found


def _crowded(sch: Schedule, ref: BlockRef, stored: BlockRef, block: LoopRef, target: Target) -> bool:
    """Whether what passes between the steps of a block takes so much of the second-level cache that the
    contraction's other operand finds no room beside it."""
    axes = _axes(sch, ref, stored, block)
    points = math.prod(at_default(sch, loop_of(sch, axes.loops[v]).extent) for v in [*axes.batch, *axes.rows])
    columns = at_default(sch, loop_of(sch, axes.loops[axes.vector]).extent)
    info = _info(sch, ref)
    passing = points * (columns + info.points(info.reduce)) * dt.nbytes(info.store.buffer.dtype)
    return passing >= target.l2_bytes // 2


def _panels(sch: Schedule, inside: list[LoopRef], chunk: LoopRef, tile: OpenTile) -> LoopRef:
    """Go through a block by panels of as many columns as a register tile has: contraction and transform of
    one panel after the other, so that few results wait for the transform at a time while the other operand
    passes through the cache. Returns that loop."""
    panel, chunk = sch.split(chunk, [None, tile.vectors])
    sch.reorder(panel, *inside, chunk)
    return panel


def _tile_output(
    sch: Schedule, chain: Chain, target: Target, lines: Expr | None
) -> tuple[LoopRef, list[LoopRef], LoopRef]:
    """Tile the last block; returns the loop over blocks of tiles, those over the tiles of a block, and the
    loop whose body makes one tile."""
    info = _info(sch, chain.after[-1])
    # Elementwise blocks behind the transform's second half have its iterators, by position.
    half = _info(sch, chain.after[1])
    divisors = dict(zip(info.store.indices, half.store.indices, strict=True))
    # One tile in all: its iterator is not taken apart.
    single = _short_of_pair(half, _info(sch, chain.after[0]))
    sizes = {**{var: half.extent(var) for var in single}, **_divisors(half)}
    loops = loops_by_iter(sch, chain.after[-1])
    outer: list[LoopRef] = []
    short: list[LoopRef] = []
    vector: LoopRef | None = None
    for var in info.spatial:
        if var not in loops:
            continue
        own = divisors.get(var)
        if info.out.stride(var) == 1:
            vector = loops[var]
        elif isinstance(own, Var) and own in sizes:
            many, few = sch.split(loops[var], [None, sizes[own]])
            outer.append(many)
            short.append(few)
        else:
            outer.append(loops[var])
    if vector is None or not short:
        raise ScheduleError(f"'{info.block.name}' is not made of tiles")
    chunk, lane = sch.split(vector, [None, target.lanes(dt.bits(info.store.buffer.dtype))])
    blocks, inside = _split_block(sch, chain.after[-1], outer, target, lines)
    sch.reorder(*blocks, *inside, chunk, *short, lane)
    block = sch.fuse(*blocks) if len(blocks) > 1 else blocks[0]
    for loop in short:
        sch.unroll(loop)
    sch.vectorize(lane)
    return block, inside, chunk


def _split_block(
    sch: Schedule, ref: BlockRef, outer: list[LoopRef], target: Target, lines: Expr | None
) -> tuple[list[LoopRef], list[LoopRef]]:
    """The loops over tiles, outermost first, as loops over blocks and loops inside a block: a multiple of
    ``lines`` lines of tiles, if that is given."""
    total = math.prod(extent_of(sch, loop) for loop in outer)
    wanted = min(max(total // max(target.cores, 1), BLOCK_TILES // 2), BLOCK_TILES)
    inside: list[LoopRef] = []
    size = 1
    for place in range(len(outer) - 1, -1, -1):
        loop = outer[place]
        count = extent_of(sch, loop)
        part = count if size * count <= wanted else _divisor_near(count, max(round(wanted / size), 1))
        known = const_int(loop_of(sch, loop).extent) is not None
        if place == len(outer) - 1 and known:
            part = count  # whole lines: where their borders are is known when compiling
        if part < count or place == 0 or not known:
            within_line = place == len(outer) - 1
            if within_line and lines is not None:
                raise ScheduleError(f"'{ref.name}' has no lines of tiles")
            block_size = part if within_line else pick(sch, ref, "block_lines", powers(1, count), part)
            if lines is not None:
                block_size = lines * block_size
                sch.require(block_size <= count)
            blocks, rest = sch.split(loop, [None, block_size])
            return [*outer[:place], blocks], [rest, *inside]
        inside.insert(0, loop)
        size *= count
    raise ScheduleError("nothing to make blocks of")


def _divisor_near(count: int, wanted: int) -> int:
    """The divisor of ``count`` nearest to ``wanted`` if one is near, else ``wanted``."""
    near = [d for d in range(1, count + 1) if count % d == 0 and wanted <= 2 * d and d <= 2 * wanted]
    return min(near, key=lambda d: abs(d - wanted), default=wanted)


def _unroll_tile(sch: Schedule, ref: BlockRef, loop: LoopRef, target: Target) -> None:
    """The block, computed in ``loop`` for one tile, in registers and straight-line code."""
    info = _info(sch, ref)
    sch.set_scope(ref, "register")
    loops = loops_by_iter(sch, ref, below=loop)
    vector: LoopRef | None = None
    for var in info.spatial:
        if var not in loops:
            continue
        if info.out.stride(var) == 1:
            vector = loops[var]
        elif extent_of(sch, loops[var]) <= MAX_UNROLL:
            sch.unroll(loops[var])
        else:
            raise ScheduleError(f"'{ref.name}' is no small tile")
    if vector is None or extent_of(sch, vector) > target.lanes(dt.bits(info.store.buffer.dtype)):
        raise ScheduleError(f"'{ref.name}' does not move along vectors")
    sch.vectorize(vector)


def _transform(sch: Schedule, pair: tuple[BlockRef, BlockRef], below: LoopRef, target: Target) -> None:
    """The second block's short iterators unrolled inside vectors of its contiguous one, the first block
    computed there."""
    first, second = pair
    info = _info(sch, second)
    short = _short_of_pair(info, _info(sch, first))
    loops = loops_by_iter(sch, second, below=below)
    outer = [loops[v] for v in info.spatial if v in loops and v not in short and info.out.stride(v) != 1]
    vector = next((loops[v] for v in info.spatial if v in loops and info.out.stride(v) == 1), None)
    if vector is None or not short:
        raise ScheduleError(f"'{second.name}' is not made of tiles")
    lanes = target.lanes(dt.bits(info.store.buffer.dtype))
    chunk, lane = sch.split(vector, [None, lanes])
    unrolled = [loops[v] for v in short if v in loops]
    sch.reorder(*outer, chunk, *unrolled, lane)
    sch.compute_at(first, chunk)
    _unroll_tile(sch, first, chunk, target)
    for loop in unrolled:
        sch.unroll(loop)
    sch.vectorize(lane)


@dataclasses.dataclass(frozen=True)
class _Axes:
    """Iterators of the contraction's copy that loops move: ``rows`` share the vector operand ``weights``,
    ``batch`` do not; ``vector`` walks its dimension ``dim``."""

    loops: dict[Var, LoopRef]
    rows: list[Var]
    batch: list[Var]
    vector: Var
    weights: Access
    dim: int


def _axes(sch: Schedule, ref: BlockRef, stored: BlockRef, below: LoopRef) -> _Axes:
    info, out = _info(sch, ref), _info(sch, stored)
    loops = loops_by_iter(sch, stored, below=below)
    order = [v for v in out.spatial if v in loops]
    # The copy has the contraction's spatial iterators in their order.
    same = dict(zip(out.spatial, info.spatial, strict=True))
    vector = order[-1]
    weights = [a for a in info.loads if a.stride(same[vector]) == 1]
    if len(weights) != 1 or out.out.stride(vector) != 1:
        raise ScheduleError(f"'{ref.name}' has no contiguous operand")
    rows = [v for v in order[:-1] if weights[0].stride(same[v]) == 0]
    batch = [v for v in order[:-1] if weights[0].stride(same[v]) != 0]
    if not rows:
        raise ScheduleError(f"'{ref.name}' has no rows that share the constant operand")
    return _Axes(loops, rows, batch, vector, weights[0], weights[0].indices.index(same[vector]))


def _contraction_tile(
    sch: Schedule, ref: BlockRef, stored: BlockRef, below: LoopRef, target: Target, given: Expr | None
) -> tuple[int | Expr, OpenTile]:
    """The register tile inside a block: over how many lines of rows it goes (``given``, if that is decided),
    and its size. Rows lie along the last iterator that the vector operand does not move with."""
    info, axes = _info(sch, ref), _axes(sch, ref, stored, below)
    loops, rows = axes.loops, axes.rows
    row = rows[-1]
    problem = TileProblem(
        rows=extent_of(sch, loops[row]),
        columns=extent_of(sch, loops[axes.vector]),
        bits=dt.bits(info.store.buffer.dtype),
        depth=info.points(info.reduce),
        outer=math.prod(at_default(sch, loop_of(sch, loops[v]).extent) for v in [*axes.batch, *rows[:-1]]),
    )
    lines: int | Expr = 1
    if given is not None:
        if len(rows) < 2:
            raise ScheduleError(f"'{ref.name}' has no lines of rows")
        lines, tile = given, pick_tile(sch, ref, problem, target, given * problem.rows)
    else:
        tile = pick_tile(sch, ref, problem, target)
        if isinstance(tile.rows, int) and len(rows) > 1 and tile.rows == problem.rows:
            best = choose_tile(problem, target)
            lines, wider = _several_lines(problem, best, extent_of(sch, loops[rows[-2]]), target)
            tile = OpenTile(wider.rows, wider.vectors, wider.lanes)
    return lines, tile


def _tile_contraction(
    sch: Schedule,
    ref: BlockRef,
    stored: BlockRef,
    below: LoopRef,
    lines: int | Expr,
    tile: OpenTile,
    by_panels: bool,
) -> None:
    """Compute the contraction in register tiles inside ``below``, which is one panel or a whole block."""
    axes = _axes(sch, ref, stored, below)
    loops, rows, batch = axes.loops, axes.rows, axes.batch
    row = rows[-1]
    if axes.weights.buffer.name in sch.func.attr("const_params", ()):
        _pack(sch, ref, axes, tile.width, by_panels)
    panel, columns, lane = sch.split(loops[axes.vector], [None, tile.vectors, tile.lanes])
    if not isinstance(lines, int) or lines > 1:
        strips, line = sch.split(loops[rows[-2]], [None, lines])
        before, inner = rows[:-2], [line, loops[row]]
    else:
        strips, strip = sch.split(loops[row], [None, tile.rows])
        before, inner = rows[:-1], [strip]
    sch.reorder(*(loops[v] for v in batch), panel, *(loops[v] for v in before), strips, *inner, columns, lane)
    for loop in [*inner, columns]:
        sch.unroll(loop)
    sch.vectorize(lane)
    sch.compute_at(ref, strips)
    _accumulate(sch, ref, strips, tile)


def _several_lines(problem: TileProblem, tile: Tile, lines: int, target: Target) -> tuple[int, Tile]:
    """How many of ``lines`` short lines of rows make one register tile, and that tile: the more rows share a
    vector operand that comes from memory, the less they wait for it. But each scalar serves two vectors at
    least: the rows are as many streams, read once for each panel."""
    best = 1, tile
    for count in range(2, lines + 1):
        wider = choose_tile(dataclasses.replace(problem, rows=count * problem.rows), target)
        whole = lines % count == 0 and wider.rows == count * problem.rows
        if whole and wider.vectors >= min(tile.vectors, 2):
            best = count, wider
    return best


def _pack(sch: Schedule, ref: BlockRef, axes: _Axes, width: int | Expr, by_panels: bool) -> None:
    """Lay the constant operand ``[..., K, N]`` out in the order in which it is read: ``[N / width, ..., K,
    width]`` by panels, else ``[..., N / width, K, width]``."""
    buffer, dim = axes.weights.buffer, axes.dim
    names = list(dict.fromkeys(r.buffer.name for r in block_named(sch, ref.name).reads))
    order = [dim, *range(dim), dim + 1] if by_panels else [*range(dim - 1), dim, dim - 1, dim + 1]
    index_map = IndexMap.tile(len(buffer.shape), dim, width, order)
    sch.transform_layout(ref, "read", names.index(buffer.name), index_map)


def _accumulate(sch: Schedule, ref: BlockRef, below: LoopRef, tile: OpenTile) -> None:
    info = _info(sch, ref)
    loops = loops_by_iter(sch, ref, below=below)
    spatial = [v for v in info.spatial if v in loops]
    reduce_loops = [loops[v] for v in info.reduce if v in loops]
    columns, lane = sch.split(loops[spatial[-1]], [tile.vectors, tile.lanes])
    rows = [loops[v] for v in spatial[:-1]]
    sch.reorder(*reduce_loops, *rows, columns, lane)
    for loop in [*rows, columns]:
        sch.unroll(loop)
    sch.vectorize(lane)
    if reduce_loops:
        sch.decompose_reduction(ref, reduce_loops[0])
