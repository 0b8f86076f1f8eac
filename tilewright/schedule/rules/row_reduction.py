"""Reductions along the contiguous axis, with everything that shares their rows: softmax, layer
normalisation, row sums."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.visit import const_int
from tilewright.schedule.rules.analysis import BlockInfo, block_info
from tilewright.schedule.rules.common import (
    block_named,
    extent_of,
    loop_of,
    loops_by_iter,
    parallelize,
    pick,
    powers,
)
from tilewright.schedule.rules.injective import vectorize_inner
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Independent accumulator vectors of a row reduction: hides the latency of the add.
ACCUMULATORS = 2
#: Shortest vector worth a reduction over lanes.
MIN_LANES = 4


def applies(infos: list[BlockInfo]) -> bool:
    """Whether some reduction walks an operand contiguously with a reduce iterator."""
    return any(a.stride(v) == 1 for info in infos for v in info.reduce for a in info.loads)


def vectorizes(info: BlockInfo, target: Target) -> bool:
    """Whether a reduce iterator is long enough for partial results by lane."""
    axis = _contiguous(info)
    return axis is not None and info.extent(axis) >= 2 * _lanes(info, target)


def is_short(info: BlockInfo) -> bool:
    """Whether no reduce iterator is long enough for any vector along it."""
    axis = _contiguous(info)
    return axis is None or info.extent(axis) < MIN_LANES


def _contiguous(info: BlockInfo) -> Var | None:
    """The longest reduce iterator that walks an operand contiguously."""
    found = [v for v in info.reduce if any(a.stride(v) == 1 for a in info.loads)]
    return max(found, key=info.extent, default=None)


def schedule_rows(sch: Schedule, refs: list[BlockRef], target: Target) -> None:
    """Compute all blocks of ``refs`` (the last one is the output) row by row under one parallel loop.

    Raises ScheduleError where the blocks do not share their rows.
    """
    infos = [_info(sch, ref) for ref in refs]
    rows = min((len(i.spatial) for i in infos if i.reduce), default=0)
    flops = sum(i.flops() for i in infos) * 4
    last = refs[-1]
    before = refs[:-1]
    factored = factor_lanes(sch, last, None, target) if infos[-1].reduce else None
    partial, lanes = factored if factored is not None else (None, 0)
    if partial is not None:
        before = [*before, partial]
    loops = sch.get_loops(last)
    if len(loops) < rows:
        raise ScheduleError(f"'{last.name}' has fewer loops than its reductions have rows")
    outer: LoopRef | None = None
    if rows:
        outer = sch.fuse(*loops[:rows]) if rows > 1 else loops[0]
        parallelize(sch, outer, flops, target)
        for ref in reversed(before):
            sch.compute_at(ref, outer)
    for ref in [*before, last]:
        if ref == partial:
            vectorize_partial(sch, ref, outer, lanes)
        elif ref == last and partial is not None:
            vectorize_final(sch, ref, outer, lanes)
        else:
            schedule_row_block(sch, ref, outer, target)


def _info(sch: Schedule, ref: BlockRef) -> BlockInfo:
    info = block_info(block_named(sch, ref.name))
    if info is None:
        raise ScheduleError(f"'{ref.name}' has more than one store")
    return info


def _lanes(info: BlockInfo, target: Target) -> int:
    return target.lanes(dt.bits(info.store.buffer.dtype))


def schedule_row_block(sch: Schedule, ref: BlockRef, outer: LoopRef | None, target: Target) -> None:
    """Schedule a block inside ``outer``, one row: vectors along the row, partial results where it is
    reduced. Raises ScheduleError where a step is not legal."""
    info = _info(sch, ref)
    if not info.reduce:
        loops = loops_by_iter(sch, ref, below=outer)
        inner = [loops[v] for v in info.spatial if v in loops]
        if inner:
            vectorize_inner(sch, ref, inner[-1], _lanes(info, target))
        return
    factored = factor_lanes(sch, ref, outer, target)
    if factored is not None:
        partial, lanes = factored
        vectorize_partial(sch, partial, outer, lanes)
        vectorize_final(sch, ref, outer, lanes)
    else:
        _vectorize_short(sch, ref, outer, target)


def factor_lanes(
    sch: Schedule, ref: BlockRef, outer: LoopRef | None, target: Target
) -> tuple[BlockRef, int | Expr] | None:
    """Split a long contiguous reduction over lanes; the block of partial results and the length of its
    vectors, or None where it is too short."""
    info = _info(sch, ref)
    lanes = _lanes(info, target)
    loops = loops_by_iter(sch, ref, below=outer)
    contiguous: Var | None = next(
        (v for v in info.reduce if v in loops and any(a.stride(v) == 1 for a in info.loads)), None
    )
    if contiguous is None:
        return None
    extent = extent_of(sch, loops[contiguous])
    # A short axis still gets narrower vectors where the reduction goes on along other axes.
    steps = info.points(info.reduce)
    while extent < 2 * lanes and lanes > MIN_LANES and steps >= 4 * lanes:
        lanes //= 2
    if extent < 2 * lanes:
        return None
    many = ACCUMULATORS if extent >= 4 * lanes * ACCUMULATORS else 1
    accumulators = pick(sch, ref, "accumulators", [n for n in (1, 2, 4, 8) if n * lanes <= extent], many)
    vector = pick(sch, ref, "lanes", powers(MIN_LANES, lanes), lanes)
    sch.require(as_expr(vector) * accumulators * 2 <= max(extent, 2 * lanes * many))
    _, part = sch.split(loops[contiguous], [None, as_expr(vector) * accumulators])
    partial = sch.rfactor(part, len(info.store.indices))
    sch.set_scope(partial, "register")
    return partial, vector if sch.symbolic else _lanes(info, target)


def vectorize_partial(
    sch: Schedule, partial: BlockRef, outer: LoopRef | None, lanes: int | Expr
) -> None:
    """The lanes of the partial result are the vector; the long loop stays outside it."""
    info = _info(sch, partial)
    loops = loops_by_iter(sch, partial, below=outer)
    lane_var = next(v for v in info.spatial if v in loops and info.out.stride(v) == 1)
    lane = loops[lane_var]
    reduce_loops = [loops[v] for v in info.reduce if v in loops]
    if reduce_loops:
        sch.reorder(*reduce_loops, lane)
    _vectorize_by(sch, lane, lanes)
    if reduce_loops:
        sch.decompose_reduction(partial, reduce_loops[0])


def _vectorize_by(sch: Schedule, loop: LoopRef, lanes: int | Expr) -> None:
    """Unrolled vectors of ``lanes``; one vector where the loop is no longer."""
    extent = const_int(loop_of(sch, loop).extent)
    if extent is None or not isinstance(lanes, int) or extent > lanes:
        many, loop = sch.split(loop, [None, lanes])
        sch.unroll(many)
    sch.vectorize(loop)


def vectorize_final(sch: Schedule, ref: BlockRef, outer: LoopRef | None, lanes: int | Expr) -> None:
    """Combine the lanes by horizontal reductions."""
    info = _info(sch, ref)
    loops = loops_by_iter(sch, ref, below=outer)
    for var in info.reduce:
        if var in loops:
            _vectorize_by(sch, loops[var], lanes)


def _vectorize_short(sch: Schedule, ref: BlockRef, outer: LoopRef | None, target: Target) -> None:
    """Reduce an axis that is too short for partial results by horizontal reductions of what it has."""
    info = _info(sch, ref)
    loops = loops_by_iter(sch, ref, below=outer)
    axis = _contiguous(info)
    if axis is None or axis not in loops or extent_of(sch, loops[axis]) < MIN_LANES:
        return
    order = [loops[v] for v in info.spatial + info.reduce if v in loops and v is not axis]
    if order:
        sch.reorder(*order, loops[axis])
    vectorize_inner(sch, ref, loops[axis], _lanes(info, target))
