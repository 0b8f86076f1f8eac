"""GPU: reductions across the threads of a block, with everything that shares their rows."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.visit import const_int
from tilewright.schedule.rules.analysis import is_injective
from tilewright.schedule.rules.common import block_named, pick, powers
from tilewright.schedule.rules.gpu_common import (
    elements,
    fuse_all,
    gpu_of,
    iter_loops,
    loop_over,
    loops_below,
    nbytes_written,
    power_up,
)
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Threads of a block that works on one row.
THREADS = 256
#: Partial results that are added up by one thread.
COMBINED = 8


def schedule_rows_on_threads(sch: Schedule, refs: list[BlockRef], target: Target) -> None:
    """Compute blocks row by row, a row for each thread block.

    The last of ``refs`` gives the rows: its spatial loops but for the inner ones that it needs to have
    something for every thread. Reductions become partial results of each thread in shared memory, then of a
    few threads, then one. What else is computed on the way stays in shared memory. Raises ScheduleError
    where a step is not legal, or no part of the output's loops are rows of all blocks.
    """
    out = refs[-1]
    loops = iter_loops(sch, out, "spatial")
    injective = is_injective(block_named(sch, out.name))
    most = len(loops) - (1 if injective else 0)
    for count in range(most, 0, -1):
        trial = sch.copy()
        try:
            _rows(trial, refs, count, target)
        except ScheduleError:
            continue
        _rows(sch, refs, count, target)
        return
    raise ScheduleError(f"the loops of '{out.name}' are not rows of all blocks")


def _rows(sch: Schedule, refs: list[BlockRef], count: int, target: Target) -> None:
    gpu = gpu_of(target)
    out = refs[-1]
    injective = is_injective(block_named(sch, out.name))
    length = _longest(sch, refs, count)
    if length < 2:
        raise ScheduleError("a row has one element")
    most = min(gpu.block_threads, power_up(length))
    threads = pick(sch, out, "threads", powers(min(gpu.warp, most), most), min(THREADS, most))
    few = pick(sch, out, "combined", powers(2, min(gpu.warp, most)), min(COMBINED, most))
    temporaries = [ref for ref in refs if ref != out]
    partial: list[BlockRef] = []
    stages: list[BlockRef] = []
    for ref in refs:
        if iter_loops(sch, ref, "reduce"):
            parts = _split_reduction(sch, ref, threads, few)
            partial += parts
            stages += parts
        stages.append(ref)
    for ref in temporaries:
        sch.set_scope(ref, "shared")
    row = fuse_all(sch, iter_loops(sch, out, "spatial")[:count])
    sch.bind(row, "blockIdx.x")
    for ref in reversed(stages):
        if ref != out:
            sch.compute_at(ref, row)
    used: Expr = as_expr(0)
    for ref in stages:
        if ref == out:
            if injective:
                _spread(sch, loops_below(sch, out, row), threads)
            continue
        own = iter_loops(sch, ref, "spatial", row)
        used = used + elements(sch, own) * nbytes_written(sch, ref)
        if ref in partial:
            sch.bind(loop_over(sch, ref, row, -1), "threadIdx.x")
        elif not iter_loops(sch, ref, "reduce", row):
            _spread(sch, own, threads)
    sch.require(used <= gpu.block_shared_bytes)


def _spread(sch: Schedule, loops: list[LoopRef], threads: int | Expr) -> None:
    """Nested loops on the threads of a block."""
    _, thread = sch.split(fuse_all(sch, loops), [None, threads])
    sch.bind(thread, "threadIdx.x")


def _longest(sch: Schedule, refs: list[BlockRef], count: int) -> int:
    """The most iterations of a block in a row: reductions, or what the output has inside of its rows."""
    lengths = [elements(sch, iter_loops(sch, refs[-1], "spatial")[count:])]
    lengths += [elements(sch, iter_loops(sch, ref, "reduce")) for ref in refs]
    sizes = [const_int(e) for e in lengths]
    if any(size is None for size in sizes):
        raise ScheduleError("the length of a row is not constant")
    return max(size for size in sizes if size is not None)


def _split_reduction(sch: Schedule, ref: BlockRef, threads: int | Expr, few: int | Expr) -> list[BlockRef]:
    """Partial results by thread, then by few threads, in shared memory; the block itself combines the rest.
    """
    found = []
    for width in (threads, few):
        _, lane = sch.split(fuse_all(sch, iter_loops(sch, ref, "reduce")), [None, width])
        rank = len(block_named(sch, ref.name).writes[0].buffer.shape)
        part = sch.rfactor(lane, rank)
        sch.set_scope(part, "shared")
        found.append(part)
    return found
