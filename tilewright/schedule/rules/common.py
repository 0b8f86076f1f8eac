"""Small helpers that all rules share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import typical_size
from tilewright.ir.stmt import Block, Buffer, For
from tilewright.ir.visit import const_int, find_blocks, free_vars, substitute_expr, walk_stmt
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Work below which a second thread costs more than it gives, in floating-point operations.
PARALLEL_FLOPS = 200_000
#: Work that one claim of a thread should at least have.
CHUNK_FLOPS = 1_000_000
CHUNKS_PER_CORE = 4


def block_named(sch: Schedule, name: str) -> Block:
    """The block of that name. Raises ScheduleError when there is none."""
    for block in find_blocks(sch.func.body):
        if block.name == name:
            return block
    raise ScheduleError(f"no block named '{name}'")


def extent_of(sch: Schedule, loop: LoopRef) -> int:
    """Extent of a loop, for typical sizes of dimensions known at run time only. Raises ScheduleError when it
    is over open decisions, or the loop is gone."""
    extent = typical_size(loop_of(sch, loop).extent)
    if extent is None:
        raise ScheduleError(f"loop '{loop.var.name}' has no constant extent")
    return extent


def loop_of(sch: Schedule, loop: LoopRef) -> For:
    """The loop of a handle. Raises ScheduleError when it is gone."""
    for stmt in walk_stmt(sch.func.body):
        if isinstance(stmt, For) and stmt.var is loop.var:
            return stmt
    raise ScheduleError(f"there is no loop '{loop.var.name}'")


def loops_by_iter(sch: Schedule, ref: BlockRef, below: LoopRef | None = None) -> dict[Var, LoopRef]:
    """For each iterator of the block the one loop (inside ``below``) that moves it; iterators that stand
    still are left out."""
    loops = sch.get_loops(ref)
    if below is not None:
        variables = [loop.var for loop in loops]
        if below.var not in variables:
            raise ScheduleError(f"block '{ref.name}' is not below loop '{below.var.name}'")
        loops = loops[variables.index(below.var) + 1 :]
    by_var = {loop.var: loop for loop in loops}
    found: dict[Var, LoopRef] = {}
    for it in block_named(sch, ref.name).iters:
        moving = [v for v in free_vars(it.binding) if v in by_var]
        if len(moving) > 1:
            raise ScheduleError(f"iterator '{it.var.name}' of '{ref.name}' is moved by several loops")
        if moving and const_int(loop_of(sch, by_var[moving[0]]).extent) != 1:
            found[it.var] = by_var[moving[0]]
    return found


def own_loops(sch: Schedule, ref: BlockRef) -> list[LoopRef]:
    """The loops around ``ref`` that hold no other block, outermost first."""
    around = [loop.var for loop in sch.get_loops(ref)]
    loops = [s for s in walk_stmt(sch.func.body) if isinstance(s, For) and s.var in around]
    return [LoopRef(s.var) for s in loops if len(find_blocks(s)) == 1]


def read_index(sch: Schedule, ref: BlockRef, buffer: Buffer) -> int:
    """The position of ``buffer`` among the distinct inputs of the block."""
    names = dict.fromkeys(region.buffer.name for region in block_named(sch, ref.name).reads)
    return list(names).index(buffer.name)


def pick(sch: Schedule, ref: BlockRef, what: str, domain: Iterable[int], default: int) -> int | Expr:
    """``default``, or in a symbolic schedule an open decision ``<block>_<what>`` over ``domain``, if that
    leaves a choice."""
    if not sch.symbolic or {*domain} <= {default}:
        return default
    stem = re.sub(r"\W", "_", f"{ref.name}_{what}")
    stem = stem if stem.isidentifier() else f"b_{stem}"
    name, n = stem, 1
    while name in sch.scope():
        name, n = f"{stem}_{n}", n + 1
    return sch.decide(name, sorted({*domain, default}), default)


def at_default(sch: Schedule, e: Expr) -> int:
    """The value of ``e`` where every open decision has its default."""
    values = sch.trace.decisions()
    mapping = {d.symbol: as_expr(values[name] or 1) for name, d in sch.decisions.items()}
    return const_int(simplify(substitute_expr(e, mapping))) or 1


def powers(least: int, most: int) -> list[int]:
    """``least``, its doubles up to ``most``, and ``most``."""
    found = []
    while least < most:
        found.append(least)
        least *= 2
    return [*found, most]


def parallelize(sch: Schedule, loop: LoopRef, flops: int, target: Target) -> None:
    """Run ``loop`` on threads when there is enough work, in chunks that are worth claiming.

    The hint is how many chunks there should be, not how long they are: it is the same whatever the loop's
    extent is, which may be over open decisions.
    """
    if flops < PARALLEL_FLOPS or typical_size(loop_of(sch, loop).extent) == 1:
        return
    sch.parallel(loop)
    # A few claims per core, so that one that is slow or interrupted does not keep the others waiting.
    fair = CHUNKS_PER_CORE * max(target.cores, 2)
    sch.annotate(loop, "chunks", max(flops // CHUNK_FLOPS, fair))
