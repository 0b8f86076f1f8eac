"""Lowering: from scheduled blocks to the loops that a backend emits.

``lower`` runs :data:`PASSES` in order. Each is a pure function on PrimFuncs with a name.
"""

from __future__ import annotations

from collections.abc import Callable

from tilewright.ir.simplify import simplify_stmt
from tilewright.ir.stmt import PrimFunc
from tilewright.lower.compact import compact_buffers
from tilewright.lower.edges import split_edges, unroll_guarded
from tilewright.lower.flatten import decompose_reductions, flatten_blocks
from tilewright.lower.guards import clip_loops, guard_padded_updates, hoist_guards
from tilewright.lower.overrun import drop_overrun_guards
from tilewright.lower.unroll import unroll_loops

Pass = Callable[[PrimFunc], PrimFunc]


def simplify_body(func: PrimFunc) -> PrimFunc:
    """Simplify every expression and drop dead statements."""
    return func.with_(body=simplify_stmt(func.body))


PASSES: tuple[tuple[str, Pass], ...] = (
    ("decompose_reductions", decompose_reductions),
    ("flatten_blocks", flatten_blocks),
    ("compact_buffers", compact_buffers),
    ("drop_overrun_guards", drop_overrun_guards),
    ("simplify_body", simplify_body),
    ("guard_padded_updates", guard_padded_updates),
    ("hoist_guards", hoist_guards),
    ("clip_loops", clip_loops),
    ("split_edges", split_edges),
    ("unroll_guarded", unroll_guarded),
    ("unroll_loops", unroll_loops),
)


def lower(func: PrimFunc, on_pass: Callable[[str, PrimFunc], None] | None = None) -> PrimFunc:
    """The loop program of a scheduled PrimFunc: no blocks, loops serial, parallel or vectorized.

    ``on_pass(name, result)`` is called after each pass (dumping, verification). Raises ValueError when an
    unrolled loop has no constant extent.
    """
    for name, step in PASSES:
        func = step(func)
        if on_pass is not None:
            on_pass(name, func)
    return func
