"""Lowering: from scheduled blocks to the loops that a backend emits.

``lower`` runs :data:`PASSES` in order, or :data:`THREAD_PASSES` for a target whose programs run on threads
of a GPU. Each is a pure function on PrimFuncs with a name.
"""

from __future__ import annotations

from collections.abc import Callable

from tilewright.ir.simplify import simplify_stmt
from tilewright.ir.stmt import PrimFunc
from tilewright.lower.allocations import place_allocations
from tilewright.lower.barriers import place_barriers
from tilewright.lower.choices import hoist_choices
from tilewright.lower.clamp import clamp_overruns
from tilewright.lower.compact import compact_buffers
from tilewright.lower.edges import split_edges, unroll_guarded
from tilewright.lower.flatten import decompose_reductions, flatten_blocks
from tilewright.lower.guards import clip_loops, guard_padded_updates, hoist_guards
from tilewright.lower.limits import check_limits
from tilewright.lower.overrun import drop_overrun_guards
from tilewright.lower.pipeline import copy_synchronously, pipeline_loops
from tilewright.lower.thin_tiles import thin_tiles
from tilewright.lower.threads import bind_threads, refuse_threads
from tilewright.lower.unroll import unroll_loops
from tilewright.lower.virtual import lower_virtual_threads
from tilewright.target import Target

Pass = Callable[[PrimFunc], PrimFunc]
Passes = tuple[tuple[str, Pass], ...]


def simplify_body(func: PrimFunc) -> PrimFunc:
    """Simplify every expression and drop dead statements."""
    return func.with_(body=simplify_stmt(func.body))


PASSES: Passes = (
    ("refuse_threads", refuse_threads),
    ("decompose_reductions", decompose_reductions),
    ("flatten_blocks", flatten_blocks),
    ("compact_buffers", compact_buffers),
    ("lower_virtual_threads", lower_virtual_threads),
    ("pipeline_loops", pipeline_loops),
    ("copy_synchronously", copy_synchronously),
    ("drop_overrun_guards", drop_overrun_guards),
    ("thin_tiles", thin_tiles),
    ("clamp_overruns", clamp_overruns),
    ("simplify_body", simplify_body),
    ("guard_padded_updates", guard_padded_updates),
    ("hoist_guards", hoist_guards),
    ("clip_loops", clip_loops),
    ("split_edges", split_edges),
    ("unroll_guarded", unroll_guarded),
    ("unroll_loops", unroll_loops),
    ("hoist_choices", hoist_choices),
)

#: What threads do together is decided before guards move: no barrier may get under a condition that differs
#: between threads. Guards stay inside loops, whose extents must be constant for registers to be indexed.
THREAD_PASSES: Passes = (
    ("decompose_reductions", decompose_reductions),
    ("flatten_blocks", flatten_blocks),
    ("bind_threads", bind_threads),
    ("compact_buffers", compact_buffers),
    ("lower_virtual_threads", lower_virtual_threads),
    ("pipeline_loops", pipeline_loops),
    ("place_allocations", place_allocations),
    ("drop_overrun_guards", drop_overrun_guards),
    ("simplify_body", simplify_body),
    ("place_barriers", place_barriers),
    ("hoist_guards", hoist_guards),
    ("unroll_loops", unroll_loops),
)


def passes_for(target: Target) -> Passes:
    """The passes that lower programs for ``target``; for a GPU the last one refuses what does not fit it."""
    gpu = target.gpu
    if gpu is None:
        return PASSES
    return (*THREAD_PASSES, ("check_limits", lambda func: check_limits(func, gpu)))


def lower(
    func: PrimFunc,
    on_pass: Callable[[str, PrimFunc], None] | None = None,
    passes: Passes = PASSES,
) -> PrimFunc:
    """The loop program of a scheduled PrimFunc: no blocks, loops serial, parallel or vectorized; with
    :data:`THREAD_PASSES` instead of parallel loops a sequence of launches, each one nest of loops over thread
    axes, outermost.

    ``on_pass(name, result)`` is called after each pass (dumping, verification). Raises ValueError when an
    unrolled loop has no constant extent, and ScheduleError when threads cannot do what the schedule asks.
    """
    for name, step in passes:
        func = step(func)
        if on_pass is not None:
            on_pass(name, func)
    return func
