"""GPU: an element, or a few, for each thread."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir.visit import const_int, find_blocks
from tilewright.schedule.rules.common import block_named, loop_of, own_loops, pick, powers
from tilewright.schedule.rules.gpu_common import fuse_all, gpu_of, is_bound, power_up
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.schedule.state import binding_vars
from tilewright.target import Target

#: Threads of a block that just go over elements.
THREADS = 256


def bind_elements(sch: Schedule, ref: BlockRef, target: Target) -> None:
    """Spread the spatial iterations of a block over threads, neighbours in the output on neighbouring
    threads.

    Reduce loops stay inside a thread. Raises ScheduleError where a step is not legal.
    """
    reduced = binding_vars(block_named(sch, ref.name), "reduce")
    loops = own_loops(sch, ref)
    outer = [loop for loop in loops if loop.var not in reduced]
    inner = [loop for loop in loops if loop.var in reduced]
    if loops != [*outer, *inner]:
        sch.reorder(*outer, *inner)
    spread(sch, ref, fuse_all(sch, outer), target)


def spread(sch: Schedule, ref: BlockRef, loop: LoopRef, target: Target) -> None:
    """Bind a loop to thread blocks and threads; each thread takes one or several iterations."""
    gpu = gpu_of(target)
    extent = const_int(loop_of(sch, loop).extent)
    most = gpu.block_threads if extent is None else min(gpu.block_threads, power_up(extent))
    least = min(gpu.warp, most)
    threads = pick(sch, ref, "threads", powers(least, most), min(THREADS, most))
    several = pick(sch, ref, "elements", (1, 2, 4, 8), 1)
    block, each, thread = sch.split(loop, [None, several, threads])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    if const_int(loop_of(sch, each).extent) is not None or sch.symbolic:
        sch.unroll(each)


def bind_plainly(sch: Schedule, target: Target) -> Schedule:
    """``sch`` with every nest that is not bound yet spread over threads: over all its spatial loops if that
    is legal, else over its outermost one. Never fails: what cannot be spread runs in one thread.
    """
    for name in [b.name for b in find_blocks(sch.func.body)]:
        ref = BlockRef(name)
        for rule in (bind_elements, _bind_outermost):
            if is_bound(sch, ref):
                break
            trial = sch.copy()
            try:
                rule(trial, ref, target)
            except ScheduleError:
                continue
            sch = trial
    return sch


def _bind_outermost(sch: Schedule, ref: BlockRef, target: Target) -> None:
    loops = sch.get_loops(ref)
    if not loops:
        raise ScheduleError(f"block '{ref.name}' is in no loop")
    spread(sch, ref, loops[0], target)
