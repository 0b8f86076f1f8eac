"""Transpositions: injective blocks that write along one axis and read along another.

The axis that the output walks contiguously (the columns of a tile) and the one that the operand walks
contiguously (its rows) are tiled together. The operand's tile is loaded into registers by vectors along its
own axis; the block reads it with its vector axis across the rows, which a backend turns into shuffles.
"""

from __future__ import annotations

import dataclasses

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Var
from tilewright.ir.linear import linear
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import typical_size
from tilewright.ir.visit import free_vars
from tilewright.schedule.rules.analysis import Access, BlockInfo, block_info, is_injective
from tilewright.schedule.rules.common import (
    block_named,
    extent_of,
    loops_by_iter,
    parallelize,
    pick,
    read_index,
)
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Widest rows of a tile, in bits. A block of n vectors takes log2(n) shuffles a vector: two blocks of half
#: the width and height, side by side, need less of them than one large block, and fewer registers.
ROW_BITS = 256
#: Shortest rows and columns that are worth a tile.
MIN_ROW, MIN_COLUMN = 4, 2
#: Bytes of each row, of operand and output alike, that one iteration completes: a cache line.
LINE = 64
#: How much longer the operand's axis must be than the output's for the inner loop to walk that one: streams
#: of writes cost more than streams of reads.
LONG_ROWS = 16
#: Most operands that are transposed at once (others are gathered): their tiles share the registers.
MAX_OPERANDS = 2


@dataclasses.dataclass(frozen=True)
class Transposition:
    """What to tile.

    Attributes:
        column: the iterator that the output walks contiguously.
        row: the one that the strided operands walk contiguously.
        operands: those operands.
        height: lanes along ``column``: rows of a register tile.
        width: elements along ``row``: lanes of a register tile.
    """

    column: Var
    row: Var
    operands: tuple[Access, ...]
    height: int
    width: int


def find_transposition(info: BlockInfo, target: Target) -> Transposition | None:
    """How to tile ``info``; None when it has no operand that this serves."""
    if not is_injective(info.block) or any(typical_size(it.extent) is None for it in info.block.iters):
        return None
    column = next((v for v in info.spatial if info.out.stride(v) == 1 and info.extent(v) > 1), None)
    if column is None:
        return None
    strided = [a for a in info.loads if a.stride(column) not in (0, 1)]
    rows = [_row(info, a, column) for a in strided]
    first = next((r for r in rows if r is not None), None)
    if first is None:
        return None
    operands = tuple(a for a, r in zip(strided, rows, strict=True) if r is first)[:MAX_OPERANDS]
    widest = max(dt.bits(info.store.buffer.dtype), *(dt.bits(a.buffer.dtype) for a in info.loads), 8)
    lanes = min(ROW_BITS, target.vector_bits) // widest
    lanes = min(lanes, max(target.vector_registers // 2, 128 // widest))
    width = min(lanes, 1 << (info.extent(first).bit_length() - 1))
    height = min(width, info.extent(column))
    if width < MIN_ROW or height < MIN_COLUMN:
        return None
    return Transposition(column, first, operands, height, width)


def _row(info: BlockInfo, access: Access, column: Var) -> Var | None:
    """The iterator that ``access`` walks contiguously, if tiles of it and ``column`` are tiles of the
    operand."""
    if sum(1 for a in info.loads if a.buffer is access.buffer) > 1:
        return None
    for var in info.spatial:
        if var is not column and access.stride(var) == 1 and info.extent(var) > 1:
            dims = [_own_dim(access.indices, v) for v in (var, column)]
            if None not in dims and dims[0] != dims[1]:
                return var
    return None


def _own_dim(indices: tuple[Expr, ...], var: Var) -> int | None:
    """The only dimension that ``var`` moves in, if it does so in steps of one."""
    dims = [d for d, index in enumerate(indices) if var in free_vars(index)]
    if len(dims) != 1:
        return None
    form = linear(simplify(indices[dims[0]]))
    return dims[0] if form is not None and form.terms.get(var) == 1 else None


def schedule_transposition(sch: Schedule, ref: BlockRef, plan: Transposition, target: Target) -> None:
    """Tile the block and load its strided operands by tiles. Raises ScheduleError where a step is not
    legal."""
    info = block_info(block_named(sch, ref.name))
    assert info is not None
    loops = loops_by_iter(sch, ref)
    if plan.column not in loops or plan.row not in loops:
        raise ScheduleError(f"'{ref.name}' does not move along the axes of its transposition")
    others = [loops[v] for v in info.spatial if v in loops and v not in (plan.column, plan.row)]
    copies = [sch.cache_read(ref, read_index(sch, ref, a.buffer), "register") for a in plan.operands]
    size = LINE * 8 // dt.bits(info.store.buffer.dtype)
    columns, rows = info.extent(plan.column), info.extent(plan.row)
    high = pick(sch, ref, "high", (1, 2, 4, 8), max(min(size, columns) // plan.height, 1))
    wide = pick(sch, ref, "wide", (1, 2, 4, 8), max(min(size, rows) // plan.width, 1))
    panel, high_tile, lane = sch.split(loops[plan.column], [None, high, plan.height])
    stripe, wide_tile, step = sch.split(loops[plan.row], [None, wide, plan.width])
    walk = [panel, stripe] if rows >= LONG_ROWS * columns else [stripe, panel]
    sch.reorder(*others, *walk, wide_tile, high_tile, step, lane)
    outer = [*others, walk[0]]
    if not sch.symbolic and _iterations(sch, outer) < 4 * target.cores:
        outer.append(walk[1])
    fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    # Memory-bound work: count bytes as operations so that large copies go to threads.
    parallelize(sch, fused, max(info.flops(), info.bytes_touched()) * 4, target)
    sch.unroll(step)
    sch.vectorize(lane)
    for copy in copies:
        sch.compute_at(copy, high_tile)
        _load_rows(sch, copy, high_tile, plan)


def _iterations(sch: Schedule, loops: list[LoopRef]) -> int:
    count = 1
    for loop in loops:
        count *= extent_of(sch, loop)
    return count


def _load_rows(sch: Schedule, copy: BlockRef, outer: LoopRef, plan: Transposition) -> None:
    """Load an operand's tile row by row, a vector each."""
    info = block_info(block_named(sch, copy.name))
    assert info is not None
    loops = loops_by_iter(sch, copy, below=outer)
    contiguous = next((v for v in info.spatial if v in loops and info.loads[0].stride(v) == 1), None)
    if contiguous is None or extent_of(sch, loops[contiguous]) != plan.width:
        raise ScheduleError(f"'{copy.name}' does not load whole rows")
    rows = [loops[v] for v in info.spatial if v in loops and v is not contiguous]
    sch.reorder(*rows, loops[contiguous])
    for row in rows:
        sch.unroll(row)
    sch.vectorize(loops[contiguous])
