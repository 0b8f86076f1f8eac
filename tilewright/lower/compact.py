"""Shrink temporaries to what one iteration of their scope touches, and allocate them there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from tilewright.errors import ScheduleError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Expr, Load, Var, all_of, as_expr, load
from tilewright.ir.launch import is_private, thread_axis
from tilewright.ir.linear import linear
from tilewright.ir.pipeline import pipeline_parts
from tilewright.ir.simplify import Simplifier, lasting, simplify
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Range,
    Region,
    Seq,
    Stmt,
    Store,
    TensorCall,
    child_stmts,
)
from tilewright.ir.visit import (
    const_int,
    free_vars,
    loads_of,
    map_stmt,
    own_exprs,
    rewrite_expr,
    transform_stmt,
)

Path = tuple[Stmt, ...]


def compact_buffers(func: PrimFunc) -> PrimFunc:
    """Move each allocation to the innermost place that covers all its accesses, and shrink it to the
    accessed region.

    The region is the hull, per dimension, of all indices as loops inside that place run; where the indices
    are not affine in those loops the whole dimension stays. Allocations never move into vectorized loops: a
    lane has no memory of its own. Inside of loops over thread axes, memory that threads share holds what
    all of them touch at a time. Strides are aligned as ``Buffer.stride_align`` asks. A buffer stays outside
    of loops in an iteration of which more is read than written: earlier iterations may have left it there.

    Raises ScheduleError when the size of what a thread of a GPU has in registers is not constant.
    """
    inside = _allocs(func.body, ())
    if not inside:
        return func
    body = transform_stmt(func.body, lambda s: s.body if isinstance(s, Alloc) else None)
    accesses = _collect_accesses(body, set(inside))
    places: dict[Stmt, list[Buffer]] = {}
    fresh: dict[Buffer, tuple[Buffer, tuple[Expr, ...]]] = {}
    for buffer, around in inside.items():
        found = accesses.get(buffer)
        if not found:
            continue
        place, outer = _common_scope([access.path for access in found])
        place, outer = _before_carrying(buffer, place, outer, around, found)
        places.setdefault(place, []).append(buffer)
        small, bases = _shrink(_in_memory_if_shared(buffer, found, outer), found, _apart(buffer, outer))
        fresh[buffer] = _aligned(small), bases
    return func.with_(body=_rebuild(body, places, fresh))


def _allocs(stmt: Stmt, around: tuple[For, ...]) -> dict[Buffer, tuple[For, ...]]:
    """The buffers allocated in ``stmt``, with the loops around their allocations."""
    found = {stmt.buffer: around} if isinstance(stmt, Alloc) else {}
    inner = (*around, stmt) if isinstance(stmt, For) else around
    for child in child_stmts(stmt):
        found.update(_allocs(child, inner))
    return found


class Access(NamedTuple):
    """One access to a buffer: the statements around it from the root down, where, and whether it writes."""

    path: Path
    indices: tuple[Expr, ...]
    writes: bool


def _collect_accesses(body: Stmt, wanted: set[Buffer]) -> dict[Buffer, list[Access]]:
    """The accesses to every buffer in program order."""
    found: dict[Buffer, list[Access]] = {}
    stack: list[tuple[Stmt, Path]] = [(body, ())]
    while stack:
        stmt, path = stack.pop()
        path = (*path, stmt)
        if isinstance(stmt, Store) and stmt.buffer in wanted:
            found.setdefault(stmt.buffer, []).append(Access(path, stmt.indices, True))
        for e in own_exprs(stmt):
            for node in loads_of(e):
                if node.buffer in wanted:
                    found.setdefault(node.buffer, []).append(Access(path, node.indices, False))
        stack += [(child, path) for child in reversed(child_stmts(stmt))]
    return found


def _common_scope(paths: list[Path]) -> tuple[Stmt, list[For]]:
    """The innermost statement that contains all paths and may own an allocation, and the loops around it."""
    prefix = list(paths[0])
    for path in paths[1:]:
        n = 0
        while n < min(len(prefix), len(path)) and prefix[n] is path[n]:
            n += 1
        prefix = prefix[:n]
    for depth, stmt in enumerate(prefix):
        if isinstance(stmt, TensorCall) or (isinstance(stmt, For) and stmt.kind == "vectorized"):
            prefix = prefix[: depth + 1]
            break
    while len(prefix) > 1 and isinstance(prefix[-1], Store | Evaluate | TensorCall):
        prefix.pop()
    place = prefix[-1]
    outer = prefix[:-1]
    if isinstance(place, For) and place.kind != "vectorized":
        # All accesses are in the loop's body: the body is the place.
        outer, place = prefix, place.body
    return place, [s for s in outer if isinstance(s, For)]


def _before_carrying(
    buffer: Buffer, place: Stmt, outer: list[For], around: Collection[For], accesses: Sequence[Access]
) -> tuple[Stmt, list[For]]:
    """``place``, or a loop around it whose iterations leave values to later ones, and the loops around that.

    Args:
        place, outer: the innermost place that covers all accesses, and the loops around it.
        around: the loops around the allocation as it was.
        accesses: to the buffer.
    """
    kept = {loop.var for loop in around}
    while outer and outer[-1].kind in ("serial", "unrolled"):
        loop = outer[-1]
        if loop.var in kept or _spans_stages(loop, accesses) or not _reads_more(buffer, accesses, outer):
            break
        place, outer = loop, outer[:-1]
    return place, outer


def _spans_stages(loop: For, accesses: Sequence[Access]) -> bool:
    """Whether several stages of a pipelined loop use the buffer: legal only where each iteration reads no
    more than it has written, whatever the hulls say, and lowered to a copy for each iteration under way."""
    marks = {p.mark: p.stage for p in pipeline_parts(loop)}
    return len({marks[s] for a in accesses for s in a.path if s in marks}) > 1


def _reads_more(buffer: Buffer, accesses: Sequence[Access], outer: list[For]) -> bool:
    """Whether one iteration of ``outer`` reads elements beyond the hull of those that it writes."""
    outside = {loop.var for loop in _apart(buffer, outer)}
    for dim in range(len(buffer.shape)):
        written = _hull([(a.path, a.indices[dim]) for a in accesses if a.writes], outside, tight=True)
        for access in accesses:
            read = None if access.writes else _hull([(access.path, access.indices[dim])], outside, tight=True)
            if read is None or written is None:
                continue
            if read[0] is not written[0] or read[1] < written[1] or read[2] > written[2]:
                return True
    return False


def _apart(buffer: Buffer, outer: list[For]) -> list[For]:
    """The loops of ``outer`` whose iterations do not meet in ``buffer``: each has a copy, or runs when the
    one before is done.
    """
    kept: list[For] = []
    for loop in outer:
        if thread_axis(loop) is None or is_private(loop, buffer):
            kept.append(loop)
        elif buffer.scope != "shared":
            break  # thread blocks are not at the same iteration of what is inside
    return kept


def _aligned(buffer: Buffer) -> Buffer:
    """``buffer`` with explicit strides that are aligned as it asks, its rows apart by padding."""
    if not buffer.stride_align or buffer.scope == "register":
        return buffer.with_(stride_align=())
    wanted = {dim: (factor, offset) for dim, factor, offset in buffer.stride_align}
    strides: list[Expr] = []
    step: Expr = as_expr(1)
    for dim in reversed(range(len(buffer.shape))):
        factor, offset = wanted.get(dim, (1, 0))
        step = simplify(step + (offset - step) % factor)
        strides.append(step)
        step = step * buffer.shape[dim]
    return buffer.with_(strides=tuple(reversed(strides)), stride_align=())


def _in_memory_if_shared(buffer: Buffer, accesses: list[Access], outer: list[For]) -> Buffer:
    """A register buffer that iterations of a parallel loop share lives in memory instead: no thread sees
    another's registers."""
    shared = any(
        isinstance(stmt, For) and stmt.kind == "parallel" and stmt not in outer
        for access in accesses
        for stmt in access.path
    )
    return buffer.with_(scope="global") if shared and buffer.scope == "register" else buffer


def _shrink(buffer: Buffer, accesses: list[Access], outer: list[For]) -> tuple[Buffer, tuple[Expr, ...]]:
    """The smaller buffer and, per dimension, the index in the old one where it begins."""
    outside = {loop.var for loop in outer}
    bases: list[Expr] = []
    extents: list[Expr] = []
    for dim, size in enumerate(buffer.shape):
        # Overrunning a register tile is cheaper than guarding it; shared memory is scarcer.
        tight = buffer.scope == "shared"
        hull = _hull([(a.path, a.indices[dim]) for a in accesses], outside, tight)
        full = const_int(size)
        # A register tile may be larger than the tensor it is a part of: whole vectors are computed without
        # masks.
        whole = (
            full is not None and hull is not None and not free_vars(hull[0]) and hull[2] - hull[1] + 1 >= full
        )
        if hull is None or (whole and buffer.scope != "register"):
            bases.append(as_expr(0))
            extents.append(size)
        else:
            bases.append(simplify(hull[0] + hull[1]))
            extents.append(as_expr(hull[2] - hull[1] + 1))
    # How many registers it takes must be known when compiling.
    open_size = buffer.scope == "register" and any(const_int(e) is None for e in extents)
    if open_size and any(thread_axis(loop) is not None for loop in outer):
        raise ScheduleError(
            f"'{buffer.name}' is to live in the registers of a thread, and its size there is not constant: "
            f"{extents}",
            hint="divide it among the threads by constant factors, or put it into shared memory",
        )
    scope = "global" if open_size else buffer.scope
    return buffer.with_(shape=tuple(extents), scope=scope), tuple(bases)


def _hull(indices: list[tuple[Path, Expr]], outside: set[Var], tight: bool) -> tuple[Expr, int, int] | None:
    """``(base, lo, hi)`` such that every index lies in ``base + [lo, hi]`` with ``base`` over outer loops
    only; where ``tight``, every index that the conditions around it allow."""
    base: Expr | None = None
    low = high = 0
    for path, index in indices:
        bounds: dict[Var, Interval] = {}
        for stmt in path:
            if isinstance(stmt, For) and stmt.var not in outside:
                extent = const_int(stmt.extent)
                bounds[stmt.var] = Interval(0, None if extent is None else max(extent - 1, 0))
        ranges = Simplifier(bounds)
        if tight:
            ranges = ranges.assuming(all_of([lasting(c) for c in _conditions(path)]))
        form = linear(simplify(index))
        if form is None:
            return None
        own: Expr = as_expr(0)
        lo = hi = form.const
        for atom, coefficient in form.terms.items():
            variables = free_vars(atom)
            if any(True for _ in loads_of(atom)):
                return None
            if not variables & bounds.keys():
                own = own + atom * coefficient
                continue
            if variables - bounds.keys():
                return None
            span = ranges.interval(atom).scaled(coefficient)
            if span.lo is None or span.hi is None:
                return None
            lo, hi = lo + span.lo, hi + span.hi
        own = simplify(own)
        if base is None:
            base, low, high = own, lo, hi
        elif own is base:
            low, high = min(low, lo), max(high, hi)
        else:
            return None
    return None if base is None else (base, low, high)


def _conditions(path: Path) -> list[Expr]:
    """Simplified conditions that hold at the end of ``path``."""
    return [
        simplify(stmt.cond)
        for stmt, inner in itertools.pairwise(path)
        if isinstance(stmt, If) and inner is stmt.then
    ]


def _rebuild(
    stmt: Stmt, places: dict[Stmt, list[Buffer]], fresh: dict[Buffer, tuple[Buffer, tuple[Expr, ...]]]
) -> Stmt:
    memo: dict[Expr, Expr] = {}

    def shift(buffer: Buffer, indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(
            index if const_int(base) == 0 else simplify(index - base)
            for index, base in zip(indices, fresh[buffer][1], strict=True)
        )

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.buffer in fresh:
            return load(fresh[node.buffer][0], shift(node.buffer, node.indices))
        return None

    def rewrite(e: Expr) -> Expr:
        return rewrite_expr(e, visit, memo)

    def moved(region: Region) -> Region:
        ranges = [Range(rewrite(r.lo), r.extent) for r in region.ranges]
        if region.buffer not in fresh:
            return Region(region.buffer, tuple(ranges))
        lows = shift(region.buffer, tuple(r.lo for r in ranges))
        extents = (r.extent for r in ranges)
        return Region(fresh[region.buffer][0], tuple(map(Range, lows, extents)))

    def walk(node: Stmt) -> Stmt:
        if isinstance(node, Store):
            value = rewrite(node.value)
            indices = tuple(rewrite(i) for i in node.indices)
            if node.buffer in fresh:
                result: Stmt = Store(fresh[node.buffer][0], shift(node.buffer, indices), value)
            else:
                result = Store(node.buffer, indices, value)
        elif isinstance(node, For):
            result = dataclasses.replace(node, extent=rewrite(node.extent), body=walk(node.body))
        elif isinstance(node, If):
            orelse = None if node.orelse is None else walk(node.orelse)
            result = If(rewrite(node.cond), walk(node.then), orelse)
        elif isinstance(node, Seq):
            result = Seq(tuple(walk(s) for s in node.stmts))
        elif isinstance(node, Annotate):
            result = dataclasses.replace(node, body=walk(node.body))
        elif isinstance(node, TensorCall):
            result = TensorCall(node.intrinsic, tuple(map(moved, node.operands)))
        else:
            result = map_stmt(node, rewrite)
        for buffer in places.get(node, ()):
            result = Alloc(fresh[buffer][0], result)
        return result

    return walk(stmt)
