"""Long rows in parts: statistics of each part, then what is made of all parts of a row.

A reduction over parts of a row, whose results a later reduction combines, is the shape of softmax with a
running maximum, of variances combined from parts, and of sums in two steps. All that only concerns one part
is computed in one loop over the parts, while the part is in the first-level cache. Where there are many rows,
everything else is done row by row around that loop; where there are few, the parts run on threads, and what
follows is scheduled on its own.
"""

from __future__ import annotations

import dataclasses
import math

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Var
from tilewright.schedule.rules.analysis import BlockInfo, block_info, is_injective
from tilewright.schedule.rules.common import block_named, loops_by_iter, parallelize
from tilewright.schedule.rules.injective import schedule_injective, vectorize_inner
from tilewright.schedule.rules.row_reduction import (
    factor_lanes,
    schedule_row_block,
    schedule_rows,
    vectorize_final,
    vectorize_partial,
    vectorizes,
)
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Rows for each core from which on a row is one thread's work, parts and all.
ROWS_PER_CORE = 2


@dataclasses.dataclass(frozen=True)
class RowParts:
    """``head``: what is computed for each part; its blocks' first ``axes`` spatial iterators are the rows
    and, last, the part. ``tail``: the rest, in order, the output last."""

    head: tuple[BlockRef, ...]
    tail: tuple[BlockRef, ...]
    axes: int


def find_parts(sch: Schedule, target: Target) -> RowParts | None:
    """The parts of rows that the function goes over, if it has that shape."""
    refs = sch.get_blocks()
    infos: list[BlockInfo] = []
    for ref in refs:
        info = block_info(block_named(sch, ref.name))
        if info is None:
            return None
        infos.append(info)
    if not infos or not infos[0].reduce or not infos[0].spatial or len(sch.func.outputs) != 1:
        return None
    first = infos[0]
    if not vectorizes(first, target):
        return None
    axes = len(first.spatial)
    head: list[BlockInfo] = [first]
    tail: list[BlockInfo] = []
    for info in infos[1:]:
        (head if _goes_with(info, head, tail, axes) else tail).append(info)
    if not any(_combines(info, head, axes) for info in tail):
        return None
    names = {info.block.name for info in head}
    return RowParts(
        tuple(ref for ref in refs if ref.name in names),
        tuple(ref for ref in refs if ref.name not in names),
        axes,
    )


def _combines(info: BlockInfo, head: list[BlockInfo], axes: int) -> bool:
    """Whether a reduction walks the parts of something that the head computed."""
    part = {other.store.buffer: other.store.indices.index(other.spatial[axes - 1]) for other in head}
    return any(
        access.buffer in part and access.indices[part[access.buffer]] in info.reduce for access in info.loads
    )


def _goes_with(info: BlockInfo, head: list[BlockInfo], tail: list[BlockInfo], axes: int) -> bool:
    """Whether a block reads of each part only what the head computed for the same part."""
    if any(access.buffer is other.store.buffer for access in info.loads for other in tail):
        return False
    own = info.spatial[:axes]
    first = head[0]
    if len(own) < axes or [info.extent(v) for v in own] != [first.extent(v) for v in first.spatial]:
        return False
    same = dict(zip(first.spatial, own, strict=True))
    known = {other.store.buffer: other for other in head}
    for access in info.loads:
        other = known.get(access.buffer)
        if other is None:
            continue
        places = zip(access.indices, other.store.indices, strict=True)
        theirs = dict(zip(other.spatial[:axes], first.spatial, strict=True))
        if any(isinstance(i, Var) and i in theirs and at is not same[theirs[i]] for at, i in places):
            return False
    return any(access.buffer in known for access in info.loads)


def schedule_parts(sch: Schedule, parts: RowParts, target: Target) -> None:
    """Schedule the whole function. Raises ScheduleError where a step is not legal."""
    infos = [block_info(block_named(sch, ref.name)) for ref in (*parts.head, *parts.tail)]
    flops = 4 * sum(info.flops() for info in infos if info is not None)
    first, last = infos[0], infos[-1]
    assert first is not None
    assert last is not None
    rows = first.points(first.spatial[: parts.axes - 1])
    row: LoopRef | None = None
    if rows >= ROWS_PER_CORE * max(target.cores, 1) and not last.reduce:
        row = _fused(sch, parts.tail[-1], parts.axes - 1)
        parallelize(sch, row, flops, target)
        for ref in reversed((*parts.head, *parts.tail[:-1])):
            sch.compute_at(ref, row)
    factored = factor_lanes(sch, parts.head[0], row, target)
    if factored is None:
        raise ScheduleError(f"'{parts.head[0].name}' has no long contiguous axis")
    partial, lanes = factored
    if row is not None:
        part = _part_loop(sch, parts.head[0], parts.axes, row)
    else:
        part = _fused(sch, parts.head[0], parts.axes)
        parallelize(sch, part, flops, target)
    sch.compute_at(partial, part)
    for ref in parts.head[1:]:
        sch.reverse_compute_at(ref, part)
    vectorize_partial(sch, partial, part, lanes)
    vectorize_final(sch, parts.head[0], part, lanes)
    for ref in parts.head[1:]:
        schedule_row_block(sch, ref, part, target)
    for ref in parts.tail:
        if _by_runs(sch, ref, row, flops, target):
            continue
        if row is not None:
            schedule_row_block(sch, ref, row, target)
        elif is_injective(block_named(sch, ref.name)):
            schedule_injective(sch, ref, target)
        else:
            schedule_rows(sch, [ref], target)


def _fused(sch: Schedule, ref: BlockRef, count: int) -> LoopRef:
    """The block's ``count`` outermost loops as one."""
    loops = sch.get_loops(ref)[:count]
    if len(loops) < count:
        raise ScheduleError(f"'{ref.name}' has fewer loops than there are rows")
    return sch.fuse(*loops) if count > 1 else loops[0]


def _part_loop(sch: Schedule, ref: BlockRef, axes: int, below: LoopRef) -> LoopRef:
    """The loop over the parts of one row."""
    spatial = [it.var for it in block_named(sch, ref.name).iters if it.kind == "spatial"]
    loop = loops_by_iter(sch, ref, below=below).get(spatial[axes - 1])
    if loop is None:
        raise ScheduleError(f"'{ref.name}' has no loop over parts")
    return loop


def _by_runs(sch: Schedule, ref: BlockRef, below: LoopRef | None, flops: int, target: Target) -> bool:
    """Schedule an injective block some operand of which, one number for each part, stands still along runs of
    the contiguous axis: run by run, vectors inside. False where there is none."""
    info = block_info(block_named(sch, ref.name))
    loops = loops_by_iter(sch, ref, below=below)
    if info is None or info.reduce:
        return False
    vector = next((v for v in info.spatial if v in loops and info.out.stride(v) == 1), None)
    if vector is None:
        return False
    runs = [run for access in info.loads if 1 < (run := access.run(vector)) < info.extent(vector)]
    if not runs:
        return False
    outer = [loops[v] for v in info.spatial if v in loops and v is not vector]
    many, inside = sch.split(loops[vector], [None, math.gcd(*runs)])
    sch.reorder(*outer, many, inside)
    if below is None:
        fused = sch.fuse(*outer, many) if outer else many
        parallelize(sch, fused, flops, target)
    vectorize_inner(sch, ref, inside, target.lanes(dt.bits(info.store.buffer.dtype)))
    return True
