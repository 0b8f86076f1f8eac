"""Register-tiled reductions: matrix products, convolutions, depthwise convolutions, pooling, column
reductions.

One rule serves them all. The output's contiguous axis is the vector axis; another spatial axis gives the rows
of a register tile, so that a vector operand (weights) is loaded once for all rows and a scalar operand
(activations) once for all vectors. The block that follows, if it is elementwise, is the tile's write-back.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.bounds import interval
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.stmt import Buffer
from tilewright.ir.visit import const_int, free_vars
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.rules.analysis import (
    Access,
    BlockInfo,
    block_info,
    buffer_bytes,
    is_injective,
    reads_elementwise,
)
from tilewright.schedule.rules.common import (
    block_named,
    loop_of,
    loops_by_iter,
    parallelize,
    pick,
    powers,
    read_index,
)
from tilewright.schedule.rules.injective import schedule_injective
from tilewright.schedule.rules.tiles import SHORTEST_BITS, OpenTile, TileProblem, pick_tile
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.schedule.rules.tensorize import Instruction

#: Reduce loops up to this length directly around the tile are unrolled when there is no deeper reduction
#: (stencils).
STENCIL_UNROLL = 8
#: Windows of up to so many elements may be unrolled as a whole: rows at the edges then get code of their own.
WINDOW_UNROLL = 9
#: Innermost steps of a reduction that use the same vectors (parts of packed elements) are unrolled up to this
#: number.
PART_UNROLL = 8
#: Tiles along the vector axis, and along the rows, that one work item has at most.
MOST_PANELS = 64
MOST_ROW_TILES = 32
#: Iterations of the outermost loop over work items that take turns at most.
MOST_TURNS = 64
#: Uses of each element from which on a copy of an operand, with the vector axis last, pays.
PACK_REUSE = 8


@dataclasses.dataclass(frozen=True)
class _Axes:
    """``lanes``: elements of the shortest vectors that a tile may be made of."""

    vector: Var
    row: Var | None
    lanes: int


def applies(info: BlockInfo, consts: Collection[str] = ()) -> bool:
    """A reduction whose output has a contiguous axis that every operand walks contiguously (or not at all),
    or would after a copy that pays: of a constant (``consts`` names them), or of what is used many times."""
    axes = _axes(info)
    if axes is None or not info.reduce:
        return False
    return all(
        a.stride(axes.vector) == 1
        or _is_scalar(a, axes)
        or (plain_dim(a, axes.vector) is not None and packable(info, a, consts))
        for a in info.loads
    )


def has_vector_axis(info: BlockInfo) -> bool:
    """Whether the output has a contiguous axis: a tile is possible, though it may have to gather operands."""
    return bool(info.reduce) and _axes(info) is not None


def has_window(info: BlockInfo) -> bool:
    """Whether the reduction is a stencil over a short window of several dimensions: a depthwise convolution,
    a pooling."""
    axes = _axes(info)
    if axes is None or len(info.reduce) < 2 or not _is_stencil(info, axes):
        return False
    sizes = [const_int(it.extent) for it in info.block.iters if it.var in info.reduce]
    return math.prod(size or WINDOW_UNROLL + 1 for size in sizes) <= WINDOW_UNROLL


def _is_stencil(info: BlockInfo, axes: _Axes) -> bool:
    """Whether nothing that a reduction reads is one for all lanes."""
    return not any(_is_scalar(a, axes) for a in info.loads)


def _is_scalar(access: Access, axes: _Axes) -> bool:
    """Whether all lanes of a vector read one element, if need be of vectors that fit the access's runs."""
    run = access.run(axes.vector)
    return run == 0 or run % axes.lanes == 0


def plain_dim(access: Access, var: Var) -> int | None:
    """The dimension that ``var`` alone walks, when no other dimension moves with it."""
    moving = [d for d, index in enumerate(access.indices) if var in free_vars(index)]
    return moving[0] if len(moving) == 1 and access.indices[moving[0]] is var else None


def packable(info: BlockInfo, access: Access, consts: Collection[str]) -> bool:
    """Whether laying an operand out anew pays: a constant (``consts``), or what is used many times."""
    return access.buffer.name in consts or _reuse(info, access) >= PACK_REUSE


def _reuse(info: BlockInfo, access: Access) -> int:
    """How often each element that ``access`` reads is used."""
    return info.points([v for v in info.spatial if access.stride(v) == 0])


def row_axes(info: BlockInfo) -> int:
    """How many axes could give a tile its rows."""
    return len(_row_candidates(info))


def _axes(info: BlockInfo, choice: int = 0) -> _Axes | None:
    """The axes of a tile; ``choice`` counts the rows' candidates, best first."""
    vector = vector_axis(info)
    if vector is None:
        return None
    rows = _row_candidates(info)
    row = rows[min(choice, len(rows) - 1)] if rows else None
    return _Axes(vector, row, SHORTEST_BITS // max(dt.bits(info.store.buffer.dtype), 8))


def vector_axis(info: BlockInfo) -> Var | None:
    """The spatial iterator along which the output is contiguous."""
    return next((v for v in info.spatial if info.out.stride(v) == 1 and info.extent(v) > 1), None)


def _row_candidates(info: BlockInfo) -> list[Var]:
    """Axes for a tile's rows, best first: those that share an operand's vectors, long ones, inner ones."""
    vector = vector_axis(info)
    if vector is None:
        return []
    others = [v for v in info.spatial if v is not vector and info.extent(v) > 1]
    sharing = [v for v in others if any(a.stride(vector) != 0 and a.stride(v) == 0 for a in info.loads)]
    # Rows that share nothing only hide latency: not worth a tile that a short open axis leaves empty, nor one
    # of rows that such an axis keeps apart in memory.
    fixed = {it.var for it in info.block.iters if const_int(it.extent) is not None}
    inside = itertools.takewhile(lambda v: v in fixed, reversed(others))
    candidates = sharing or list(inside)[::-1]
    wide = [v for v in candidates if info.extent(v) >= 4]
    if wide:
        return wide[::-1]
    return sorted(candidates, key=info.extent, reverse=True)


def tile_reduction(
    sch: Schedule,
    ref: BlockRef,
    target: Target,
    row: int = 0,
    instruction: Instruction | None = None,
    pack: bool = True,
    window: bool = False,
) -> None:
    """Schedule the reduction block ``ref`` and its elementwise consumer; ``row`` chooses among
    :func:`row_axes`. With an ``instruction``, that does groups of reduction steps. Constant operands are
    laid out for the tile, unless ``pack`` is False. With ``window``, a window as of :func:`has_window` is
    unrolled as a whole. Raises ScheduleError where a step is not legal."""
    info = block_info(block_named(sch, ref.name))
    axes = None if info is None else _axes(info, row)
    if info is None or axes is None:
        raise ScheduleError(f"'{ref.name}' has no vector axis")
    problem = _problem(info, axes)
    if instruction is not None:
        depth = problem.depth // instruction.depth
        problem = dataclasses.replace(problem, depth=depth, lanes=tuple(instruction.names))
    tile = pick_tile(sch, ref, problem, target)
    write_back = _write_back(sch, ref, info)
    if instruction is not None:
        _pack_groups(sch, ref, axes, tile.width, instruction, target)
    else:
        packed = _pack_weights(sch, ref, info, axes, tile.width) if pack else set()
        _pack_operands(sch, ref, info, axes, packed, target)
    inner = _tile_write_back(sch, write_back, ref, info, axes, tile, target)
    sch.compute_at(ref, inner)
    sch.set_scope(ref, "register")
    _tile_accumulation(sch, ref, inner, info, axes, tile, instruction, window and has_window(info))


def _problem(info: BlockInfo, axes: _Axes) -> TileProblem:
    row = axes.row
    streams = [a for a in info.loads if row is not None and a.stride(row) not in (0, None)]
    scalar = [a for a in streams if _is_scalar(a, axes)]
    row_stride = 0
    if row is not None and scalar:
        row_stride = max(abs(a.stride(row) or 0) * dt.nbytes(a.buffer.dtype) for a in scalar)
    shared = all(_is_scalar(a, axes) for a in streams)
    runs = [a.run(axes.vector) for a in info.loads if _is_scalar(a, axes)]
    return TileProblem(
        rows=1 if row is None else info.extent(row),
        columns=info.extent(axes.vector),
        bits=dt.bits(info.store.buffer.dtype),
        depth=info.points(info.reduce),
        shared_vector=shared,
        row_stride=row_stride,
        outer=info.points([v for v in info.spatial if v not in (row, axes.vector)]),
        run=math.gcd(*runs),
    )


def _write_back(sch: Schedule, ref: BlockRef, info: BlockInfo) -> BlockRef:
    """The elementwise block that consumes the accumulators; a copy is made where there is none."""
    consumers = sch.get_consumers(ref)
    if len(consumers) == 1 and not _is_param(sch, info.store.buffer):
        block = block_named(sch, consumers[0].name)
        user = block_info(block)
        untouched = all(isinstance(it.binding, Var) for it in block.iters)
        fits = user is not None and reads_elementwise(user, info.store.buffer)
        if is_injective(block) and untouched and fits:
            return consumers[0]
    return sch.cache_write(ref, "register")


def _pack_weights(sch: Schedule, ref: BlockRef, info: BlockInfo, axes: _Axes, width: int | Expr) -> set[str]:
    """Re-lay constant vector operands into panels as wide as the tile, padded: contiguous, aligned, never
    masked. Returns their names."""
    const_params = set(sch.func.attr("const_params", ()))
    packed: set[str] = set()
    for access in info.loads:
        name = access.buffer.name
        if name not in const_params or name in packed or access.stride(axes.vector) == 0:
            continue
        if any(_selects(info, access, v) for v in info.spatial if v is not axes.vector):
            continue
        if sum(1 for a in info.loads if a.buffer is access.buffer) > 1 or _read_elsewhere(sch, access, ref):
            continue
        dim = plain_dim(access, axes.vector)
        size = access.buffer.static_shape
        if dim is None or size is None or (width == size[dim] and access.stride(axes.vector) == 1):
            continue
        packed.add(name)
        rank = len(size)
        order = [dim, *range(dim), *range(dim + 2, rank + 1), dim + 1]
        sch.transform_layout(
            ref, "read", read_index(sch, ref, access.buffer), IndexMap.tile(rank, dim, width, order)
        )
    return packed


def _selects(info: BlockInfo, access: Access, var: Var) -> bool:
    """Whether an iterator chooses among several operands, instead of a part of the reduced dimensions of one
    (``k = part * length + r``)."""
    moved = [free_vars(index) for index in access.indices if var in free_vars(index)]
    return any(not any(r in variables for r in info.reduce) for variables in moved)


def _pack_operands(
    sch: Schedule, ref: BlockRef, info: BlockInfo, axes: _Axes, packed: set[str], target: Target
) -> None:
    """Copy operands that the vector axis walks in steps, and that are used often, with that axis last."""
    walking = [a for a in info.loads if a.stride(axes.vector) != 1 and not _is_scalar(a, axes)]
    strided = [a for a in walking if a.buffer.name not in packed]
    for buffer in dict.fromkeys(a.buffer for a in strided):
        accesses = [a for a in info.loads if a.buffer is buffer]
        dim = plain_dim(accesses[0], axes.vector)
        if len(accesses) > 1 or dim is None or _reuse(info, accesses[0]) < PACK_REUSE:
            continue
        copy = sch.cache_read(ref, read_index(sch, ref, buffer), "global")
        copied = block_info(block_named(sch, copy.name))
        assert copied is not None
        names = tuple(Var(f"i{n}", lo=0) for n in range(len(buffer.shape)))
        order = (*names[:dim], *names[dim + 1 :], names[dim])
        index = read_index(sch, ref, copied.store.buffer)
        sch.transform_layout(ref, "read", index, IndexMap(names, order))
        schedule_injective(sch, copy, target)


def _pack_groups(
    sch: Schedule,
    ref: BlockRef,
    axes: _Axes,
    width: int | Expr,
    instruction: Instruction,
    target: Target,
) -> None:
    """Lay the vector operand out in panels as wide as the tile, in which the neighbours that one lane sums
    are next to each other: a constant where it is, anything else in a copy."""
    buffer = instruction.vectors.buffer
    columns = plain_dim(instruction.vectors, axes.vector)
    steps = plain_dim(instruction.vectors, instruction.step)
    assert columns is not None
    assert steps is not None
    if buffer.name in sch.func.attr("const_params", ()) and not _read_elsewhere(
        sch, instruction.vectors, ref
    ):
        index = read_index(sch, ref, buffer)
    else:
        copy = sch.cache_read(ref, read_index(sch, ref, buffer), "global")
        copied = block_info(block_named(sch, copy.name))
        assert copied is not None
        index = read_index(sch, ref, copied.store.buffer)
        schedule_injective(sch, copy, target)
    inputs = tuple(Var(f"i{n}", lo=0) for n in range(len(buffer.shape)))
    groups: list[Expr] = list(inputs)
    groups[steps] = inputs[steps] // instruction.depth
    del groups[columns]
    panel, lane = inputs[columns] // width, inputs[columns] % width
    outputs = (panel, *groups, lane, inputs[steps] % instruction.depth)
    sch.transform_layout(ref, "read", index, IndexMap(inputs, outputs))


def _is_param(sch: Schedule, buffer: Buffer) -> bool:
    return any(p is buffer for p in sch.func.params)


def _read_elsewhere(sch: Schedule, access: Access, ref: BlockRef) -> bool:
    return any(
        region.buffer is access.buffer
        for other in sch.get_blocks()
        if other.name != ref.name
        for region in block_named(sch, other.name).reads
    )


def _tile_write_back(
    sch: Schedule,
    write_back: BlockRef,
    ref: BlockRef,
    info: BlockInfo,
    axes: _Axes,
    tile: OpenTile,
    target: Target,
) -> LoopRef:
    """Tile the write-back's loops; returns the loop below which one tile is computed."""
    consumer = block_info(block_named(sch, write_back.name))
    assert consumer is not None
    loops = loops_by_iter(sch, write_back)
    role: dict[Var, Var] = {}
    reduction = block_info(block_named(sch, ref.name))
    assert reduction is not None
    for access in consumer.loads:
        if access.buffer is reduction.store.buffer:
            pairs = zip(access.indices, info.store.indices, strict=True)
            role.update({a: b for a, b in pairs if isinstance(a, Var) and isinstance(b, Var)})
    outer: list[LoopRef] = []
    row_outer: LoopRef | None = None
    row_inner: list[LoopRef] = []
    columns: tuple[LoopRef, LoopRef, LoopRef] | None = None
    for var in consumer.spatial:
        if var not in loops:
            continue
        loop = loops[var]
        if role.get(var) is axes.vector:
            panel, vector, lane = sch.split(loop, [None, tile.vectors, tile.lanes])
            columns = (panel, vector, lane)
        elif axes.row is not None and role.get(var) is axes.row:
            row_outer, row = sch.split(loop, [None, tile.rows])
            row_inner.append(row)
        else:
            outer.append(loop)
    if columns is None:
        raise ScheduleError(f"'{write_back.name}' does not move along the vector axis of '{info.block.name}'")
    panel, vector, lane = columns
    panel_bytes = sum(buffer_bytes(a.buffer) for a in info.loads if not _is_scalar(a, axes))
    large = panel_bytes > target.l2_bytes // 2
    rows = [row_outer] if row_outer is not None else []
    # One panel of weights stays in cache while all rows pass, or all weights do.
    order = [panel, *outer, *rows] if large else [*outer, *rows, panel]
    serial: list[LoopRef] = []
    if sch.symbolic:
        order, serial = _open_blocks(sch, ref, order, panel, row_outer)
    sch.reorder(*order, *serial, *row_inner, vector, lane)
    fused = sch.fuse(*order)
    flops = 2 * info.points(info.spatial + info.reduce)
    parallelize(sch, fused, flops, target)
    for loop in [*row_inner, vector]:
        sch.unroll(loop)
    sch.vectorize(lane)
    return serial[-1] if serial else fused


def _open_blocks(
    sch: Schedule, ref: BlockRef, order: list[LoopRef], panel: LoopRef, row: LoopRef | None
) -> tuple[list[LoopRef], list[LoopRef]]:
    """Blocks of tiles of open sizes, in an open order.

    A work item is ``panels`` times ``row_tiles`` tiles, computed by one thread one after the other, so that
    they share what they read. Items go in ``order``, but ``turns`` iterations of its outermost loop take
    turns innermost: what the other loops read serves all of them before the next is read. With one the order
    is as given, with all of them the outermost loop has become the innermost.

    Returns:
        the loops over items, outermost first, and those inside one.
    """
    sizes = [(panel, "panels", MOST_PANELS)]
    if row is not None:
        sizes.append((row, "row_tiles", MOST_ROW_TILES))
    serial: list[LoopRef] = []
    for loop, what, limit in sizes:
        extent = loop_of(sch, loop).extent
        most = min(interval(extent).hi or 1, limit)
        size = as_expr(pick(sch, ref, what, powers(1, most), 1))
        sch.require((size <= extent) | size.eq(1))
        blocks, inside = sch.split(loop, [None, size])
        order = [blocks if it == loop else it for it in order]
        serial.append(inside)
    if len(order) > 1:
        extent = loop_of(sch, order[0]).extent
        most = min(interval(extent).hi or 1, MOST_TURNS)
        turns = as_expr(pick(sch, ref, "turns", powers(1, most), 1))
        sch.require((turns <= extent) | turns.eq(1))
        blocks, turn = sch.split(order[0], [None, turns])
        order = [blocks, *order[1:], turn]
    return order, serial


def _parts(info: BlockInfo, axes: _Axes) -> Var | None:
    """The innermost step of a reduction, where it takes parts out of the same vectors."""
    vectors = [a for a in info.loads if not _is_scalar(a, axes)]
    step = info.reduce[-1]
    few = 1 < info.extent(step) <= PART_UNROLL
    return step if few and vectors and all(a.stride(step) == 0 for a in vectors) else None


def _tile_accumulation(
    sch: Schedule,
    ref: BlockRef,
    inner: LoopRef,
    info: BlockInfo,
    axes: _Axes,
    tile: OpenTile,
    instruction: Instruction | None,
    window: bool,
) -> None:
    """Order the accumulation's loops: reduce loops outside, the unrolled register tile inside, and in that
    the loops that an instruction runs through."""
    loops = loops_by_iter(sch, ref, below=inner)
    block = block_named(sch, ref.name)
    if [it.var.name for it in block.iters] != [it.var.name for it in info.block.iters]:
        raise ScheduleError(f"block '{ref.name}' changed its iterators")
    now = dict(zip([it.var for it in info.block.iters], [it.var for it in block.iters], strict=True))
    tile_loops: list[LoopRef] = []
    whole: list[LoopRef] = []
    if axes.row is not None and now[axes.row] in loops:
        row = loops[now[axes.row]]
        if not sch.symbolic and const_int(loop_of(sch, row).extent) is None:
            # An open axis that one tile can hold as a whole: as long as the tile, with a guard.
            outside, row = sch.split(row, [None, tile.rows])
            whole = [outside]
        tile_loops.append(row)
    vector: LoopRef | None = None
    if now[axes.vector] in loops:
        columns = loops[now[axes.vector]]
        vectors, vector = sch.split(columns, [tile.vectors, tile.lanes])
        tile_loops.append(vectors)
    reduce_loops = [loops[now[v]] for v in info.reduce if now[v] in loops]
    grouped: list[LoopRef] = []
    if instruction is not None:
        steps = loops[now[instruction.step]]
        outside, inside = sch.split(steps, [None, instruction.depth])
        reduce_loops[reduce_loops.index(steps)] = outside
        grouped = [inside]
    parts = _parts(info, axes) if instruction is None and len(reduce_loops) > 1 else None
    if parts is not None and now[parts] in loops:
        # One vector of weights after the other: all of its parts, each for all rows.
        part = loops[now[parts]]
        reduce_loops.remove(part)
        tile_loops = [*tile_loops[-1:], part, *tile_loops[:-1]]
    order = [*whole, *reduce_loops, *tile_loops, *grouped, *([vector] if vector is not None else [])]
    if len(order) > 1:
        sch.reorder(*order)
    for loop in tile_loops:
        sch.unroll(loop)
    if vector is not None:
        sch.vectorize(vector)
    if _is_stencil(info, axes) and len(reduce_loops) > 1:
        steps_inside = const_int(loop_of(sch, reduce_loops[-1]).extent)
        if steps_inside is not None and steps_inside <= STENCIL_UNROLL:
            for loop in reduce_loops if window else reduce_loops[-1:]:
                sch.unroll(loop)
    if reduce_loops:
        sch.decompose_reduction(ref, reduce_loops[0])
    if instruction is not None:
        name = instruction.names.get(tile.lanes) if isinstance(tile.lanes, int) else None
        if vector is None or name is None:
            raise ScheduleError(f"no lanes of block '{ref.name}' fit the instruction")
        sch.tensorize(grouped[0], name)
