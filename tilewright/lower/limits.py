"""What the launches of a lowered function need, against what a GPU has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import prod

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.launch import BLOCK_AXES, THREAD_AXES, thread_axis
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Buffer, For, PrimFunc, Stmt, child_stmts
from tilewright.ir.visit import const_int, walk_stmt
from tilewright.target import Gpu

#: Alignment of each shared buffer, in bytes: the widest access and the widest asynchronous copy.
SHARED_ALIGNMENT = 16


@dataclasses.dataclass(frozen=True)
class LaunchSize:
    """One launch.

    Attributes:
        grid, block: thread blocks and threads of one, ``x`` first; grids may be symbolic.
        shared_bytes: shared memory of a thread block, all buffers at once.
        register_bytes: register buffers of a thread, all at once; temporaries come on top.
    """

    grid: tuple[Expr, Expr, Expr]
    block: tuple[Expr, Expr, Expr]
    shared_bytes: int
    register_bytes: int

    @property
    def threads(self) -> int | None:
        """Threads of a block, or None when that is symbolic."""
        sizes = [const_int(e) for e in self.block]
        known = [s for s in sizes if s is not None]
        return prod(known) if len(known) == len(sizes) else None


def launches(func: PrimFunc) -> list[LaunchSize]:
    """The launches of a lowered function in order.

    Raises ScheduleError for a shared or register buffer whose size is not constant.
    """
    return [_size(loop) for loop in _outermost(func.body)]


def _outermost(s: Stmt) -> Iterator[For]:
    if isinstance(s, For) and thread_axis(s) is not None:
        yield s
        return
    for child in child_stmts(s):
        yield from _outermost(child)


def _size(launch: For) -> LaunchSize:
    extents: dict[str, Expr] = {}
    used = {"shared": 0, "register": 0}
    for s in walk_stmt(launch):
        if isinstance(s, For) and (axis := thread_axis(s)) is not None:
            extents[axis] = simplify(s.extent)
        elif isinstance(s, Alloc) and s.buffer.scope in used:
            used[s.buffer.scope] += _bytes(s.buffer)
    x, y, z = (extents.get(a, as_expr(1)) for a in BLOCK_AXES)
    u, v, w = (extents.get(a, as_expr(1)) for a in THREAD_AXES)
    return LaunchSize((x, y, z), (u, v, w), used["shared"], used["register"])


def _bytes(buffer: Buffer) -> int:
    shape, steps = buffer.static_shape, [const_int(s) for s in buffer.row_major_strides()]
    if shape is None or None in steps:
        raise ScheduleError(f"the size of {buffer.scope} buffer '{buffer.name}' is not constant: {buffer!r}")
    elements = 1 + sum((n - 1) * (step or 0) for n, step in zip(shape, steps, strict=True))
    size = elements * dt.nbytes(buffer.dtype)
    return -(-size // SHARED_ALIGNMENT) * SHARED_ALIGNMENT if buffer.scope == "shared" else size


def check_limits(func: PrimFunc, gpu: Gpu) -> PrimFunc:
    """``func`` itself, when every launch fits a GPU. Raises ScheduleError that says what does not."""
    for number, launch in enumerate(launches(func)):
        where = f"launch {number} of '{func.name}'"
        if launch.threads is None:
            raise ScheduleError(f"{where} has thread blocks of symbolic size: {launch.block}")
        needs = (
            ("threads in a block", launch.threads, gpu.block_threads, "choose smaller thread loops"),
            (
                "bytes of shared memory",
                launch.shared_bytes,
                gpu.block_shared_bytes,
                "choose smaller tiles, or compute them further inside",
            ),
            (
                "32-bit registers in a thread",
                -(-launch.register_bytes // 4),
                gpu.thread_registers,
                "choose smaller register tiles",
            ),
            (
                "32-bit registers in a block",
                -(-launch.register_bytes // 4) * launch.threads,
                gpu.registers,
                "choose smaller register tiles or fewer threads",
            ),
        )
        for what, need, limit, hint in needs:
            if need > limit:
                raise ScheduleError(f"{where} needs {need} {what}; the target has {limit}", hint=hint)
    return func
