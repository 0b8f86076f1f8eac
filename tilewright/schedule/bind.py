"""Primitives on GPU threads: bind and virtual_thread."""

from __future__ import annotations

import dataclasses

from tilewright.ir.launch import AXES
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule.dependence import require_independent
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.loops import known_when_compiling
from tilewright.schedule.state import LoopRef, Tree, find_loop, replace
from tilewright.schedule.threads import require_launches


def bind(func: PrimFunc, loop: LoopRef, axis: str) -> PrimFunc:
    """Let the iterations of a loop be thread blocks (``axis`` is ``blockIdx.x``, ``.y`` or ``.z``) or the
    threads of one (``threadIdx.x``, ``.y`` or ``.z``).

    Loops over one axis in one launch are worked on by the same threads, one after the other; the launch has
    as many threads as the longest needs, and lowering guards the shorter ones. Barriers are lowering's
    business as well: what a block has written to shared or global memory is visible to the blocks after it
    in the same thread block.

    Raises ScheduleError when the loop is not serial, its iterations are not independent (each thread block
    has its own ``shared`` buffers and each thread its own ``register`` buffers, everything else is one for
    all), the loop is inside or around another one over the axis, ``blockIdx`` loops are not the outermost
    ones of a perfect nest, a thread would read registers of another one, or the program has parallel loops.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "bind")
    if axis not in AXES:
        raise failure(tree, f"bind: '{axis}' is not a thread axis", target, hint=f"one of {', '.join(AXES)}")
    return _with_kind(tree, loop, f"thread:{axis}", "bind")


def virtual_thread(func: PrimFunc, loop: LoopRef) -> PrimFunc:
    """Let the iterations of a loop run interleaved in each thread: every statement for all of them before the
    next, each iteration with its own copy of what is computed inside.

    What does not depend on the loop is computed once. Raises ScheduleError when the loop is not serial, its
    extent is not constant or its iterations are not independent.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "virtual_thread")
    if not known_when_compiling(tree, target.extent):
        raise failure(
            tree,
            f"virtual_thread: the extent {target.extent!r} of loop '{target.var.name}' is not constant",
            target,
            hint="split off an inner loop of constant extent first",
        )
    return _with_kind(tree, loop, "virtual", "virtual_thread")


def _with_kind(tree: Tree, ref: LoopRef, kind: str, what: str) -> PrimFunc:
    loop = find_loop(tree, ref, what)
    if loop.kind == kind:
        return tree.func
    if loop.kind != "serial":
        raise failure(
            tree,
            f"{what}: loop '{loop.var.name}' is already {loop.kind.removeprefix('thread:')}",
            loop,
            hint="a loop has one kind",
        )
    changed = dataclasses.replace(loop, kind=kind)
    func = replace(tree, {loop: changed})
    fresh = Tree(func)
    require_launches(fresh, what)
    require_independent(fresh, changed, what)
    return func
