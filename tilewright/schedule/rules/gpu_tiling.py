"""GPU: reductions over tiles that pass through shared memory to registers."""

from __future__ import annotations

import dataclasses

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.stmt import Buffer
from tilewright.ir.visit import const_int
from tilewright.schedule.rules.analysis import BlockInfo, block_info, is_injective
from tilewright.schedule.rules.common import block_named, extent_of, loop_of, pick, powers, read_index
from tilewright.schedule.rules.gpu_common import (
    SPARE_REGISTERS,
    bind_axes,
    elements,
    fuse_all,
    gpu_of,
    iter_loops,
    loop_over,
    loops_below,
    moves_with,
    nbytes_written,
    power_up,
    product,
)
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Target

#: Threads along each axis of a tile, elements of each along it, and steps of the reduction between fetches.
THREADS, OWN, STEP = 16, 4, 16
#: Largest number of virtual threads along an axis, and of elements.
MAX_VIRTUAL, MAX_OWN = 4, 8


@dataclasses.dataclass(frozen=True)
class _Axis:
    """How one axis of the output is divided: thread blocks, then these factors."""

    virtual: int | Expr
    threads: int | Expr
    own: int | Expr

    @property
    def tile(self) -> Expr:
        return product((self.virtual, self.threads, self.own))


def reuses(info: BlockInfo) -> bool:
    """Whether several outputs need the same operands, so that sharing them pays."""
    return bool(info.reduce) and any(
        a.stride(v) == 0 or any(a.stride(r) != 0 and a.stride(v) == a.stride(r) for r in info.reduce)
        for a in info.loads
        for v in info.spatial
        if info.extent(v) > 1
    )


def tile_in_shared_memory(sch: Schedule, ref: BlockRef, target: Target) -> None:
    """Divide the output of a reduction into tiles: one for each thread block, of which each thread has
    elements in its registers; operands come step by step through shared memory, fetched by all threads
    together.

    An elementwise consumer becomes the write-back. Raises ScheduleError where a step is not legal, or the
    block has fewer than two axes to tile.
    """
    gpu = gpu_of(target)
    info = block_info(block_named(sch, ref.name))
    if info is None or not info.reduce:
        raise ScheduleError(f"'{ref.name}' is not a reduction with one store")
    out = _write_back(sch, ref, info)
    dims = _axes(sch, out)
    rows, columns = (loop_over(sch, out, None, dim) for dim in dims)
    rest = [loop for loop in sch.get_loops(out) if loop not in (rows, columns)]
    tall, wide = extent_of(sch, rows), extent_of(sch, columns)
    y = _divided(sch, ref, "y", tall)
    x = _divided(sch, ref, "x", wide)
    sch.reorder(*rest, rows, columns)
    batch = [fuse_all(sch, rest)] if rest else []
    by, vy, ty, iy = sch.split(rows, [None, y.virtual, y.threads, y.own])
    bx, vx, tx, ix = sch.split(columns, [None, x.virtual, x.threads, x.own])
    sch.reorder(*batch, by, bx, vy, vx, ty, tx, iy, ix)
    bind_axes(sch, "blockIdx", **({"z": batch[0]} if batch else {}), y=by, x=bx)
    sch.virtual_thread(vy)
    sch.virtual_thread(vx)
    bind_axes(sch, "threadIdx", y=ty, x=tx)
    step = _sums(sch, ref, vx, dims, y, x)
    shared: Expr = as_expr(0)
    for buffer in dict.fromkeys(a.buffer for a in info.loads):
        shared = shared + _fetch(sch, ref, buffer, step, y, x, (vy.var, vx.var))
    threads = product((y.threads, x.threads))
    word = max(dt.bits(info.store.buffer.dtype) // 32, 1)
    registers = product((y.virtual, x.virtual, y.own, x.own))
    registers = (
        registers + product((y.virtual, y.own)) + product((x.virtual, x.own))
    ) * word + SPARE_REGISTERS
    sch.require(threads <= gpu.block_threads)
    sch.require(threads >= min(gpu.warp, power_up(tall) * power_up(wide)))
    sch.require(shared <= gpu.block_shared_bytes)
    sch.require(registers <= gpu.thread_registers)
    sch.require(registers * threads <= gpu.registers)
    sch.require(y.tile <= power_up(tall))
    sch.require(x.tile <= power_up(wide))


def _write_back(sch: Schedule, ref: BlockRef, info: BlockInfo) -> BlockRef:
    """The block that stores the results: the one that reads them element by element, or a copy."""
    consumers = sch.get_consumers(ref)
    if len(consumers) == 1:
        block = block_named(sch, consumers[0].name)
        own = block_info(block)
        if own is not None and is_injective(block):
            reads = [a for a in own.loads if a.buffer is info.store.buffer]
            if len(reads) == 1 and reads[0].indices == own.store.indices:
                sch.set_scope(ref, "register")
                return consumers[0]
    return sch.cache_write(ref, "register")


def _axes(sch: Schedule, out: BlockRef) -> tuple[int, int]:
    """The dimensions of the output that are tiled as rows and columns: columns is what it walks contiguously,
    rows the longest other one."""
    info = block_info(block_named(sch, out.name))
    assert info is not None
    moving = {n: v for n, v in enumerate(info.store.indices) if isinstance(v, Var) and info.extent(v) > 1}
    if len(moving) < 2:
        raise ScheduleError(f"'{out.name}' has fewer than two axes")
    columns = next((n for n, v in moving.items() if info.out.stride(v) == 1), max(moving))
    rows = max((n for n in moving if n != columns), key=lambda n: info.extent(moving[n]))
    return rows, columns


def _divided(sch: Schedule, ref: BlockRef, name: str, extent: int) -> _Axis:
    top = power_up(extent)
    threads = min(THREADS, top)
    own = min(OWN, max(top // threads, 1))
    return _Axis(
        pick(sch, ref, f"virtual_{name}", powers(1, min(MAX_VIRTUAL, top)), 1),
        pick(sch, ref, f"threads_{name}", powers(1, min(2 * THREADS, top)), threads),
        pick(sch, ref, f"own_{name}", powers(1, min(MAX_OWN, top)), own),
    )


def _sums(sch: Schedule, ref: BlockRef, at: LoopRef, dims: tuple[int, int], y: _Axis, x: _Axis) -> LoopRef:
    """Compute the reduction inside ``at``, the dimensions ``dims`` divided among threads as those of the
    output are; returns the loop at which operands are fetched.
    """
    sch.compute_at(ref, at)
    rows, columns = (loop_over(sch, ref, at, dim) for dim in dims)
    reduced = iter_loops(sch, ref, "reduce", at)
    ty, iy = sch.split(rows, [y.threads, y.own])
    tx, ix = sch.split(columns, [x.threads, x.own])
    longest = max(reduced, key=lambda loop: extent_of(sch, loop))
    top = power_up(extent_of(sch, longest))
    step = pick(sch, ref, "step", powers(min(4, top), min(64, top)), min(STEP, top))
    fetch, inner = sch.split(longest, [None, step])
    sch.reorder(*(loop for loop in reduced if loop != longest), fetch, ty, tx, inner, iy, ix)
    bind_axes(sch, "threadIdx", y=ty, x=tx)
    sch.unroll(iy)
    sch.unroll(ix)
    return fetch


def _fetch(
    sch: Schedule,
    ref: BlockRef,
    buffer: Buffer,
    at: LoopRef,
    y: _Axis,
    x: _Axis,
    virtual: tuple[Var, Var],
) -> Expr:
    """Bring what a step needs of an operand to shared memory; returns the bytes that takes."""
    copy = sch.cache_read(ref, read_index(sch, ref, buffer), "shared")
    sch.compute_at(copy, at)
    loops = [x for x in loops_below(sch, copy, at) if const_int(loop_of(sch, x).extent) != 1]
    size = elements(sch, loops) * nbytes_written(sch, copy)
    for var, axis in zip(virtual, (y, x), strict=True):
        if moves_with(sch, copy, var):
            size = size * axis.virtual
    together = sch.copy()
    try:
        _, ty, tx = together.split(fuse_all(together, loops), [None, y.threads, x.threads])
        bind_axes(together, "threadIdx", y=ty, x=tx)
    except ScheduleError:
        # Not provable over all sizes: rows and columns of the operand on rows and columns of threads.
        if len(loops) < 2:
            raise
        outer, ty = sch.split(loops[-2], [None, y.threads])
        inner, tx = sch.split(loops[-1], [None, x.threads])
        sch.reorder(outer, inner, ty, tx)
        bind_axes(sch, "threadIdx", y=ty, x=tx)
    else:
        _, ty, tx = sch.split(fuse_all(sch, loops), [None, y.threads, x.threads])
        bind_axes(sch, "threadIdx", y=ty, x=tx)
    return size
