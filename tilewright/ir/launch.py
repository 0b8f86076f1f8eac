"""The shape of a GPU program: thread axes, launches, and which memory is whose.

A launch is a part of a function's body, directly below its outermost allocations and sequences, that contains
loops over thread axes. Its ``blockIdx`` loops make the grid of thread blocks, its ``threadIdx`` loops the
threads of one; several loops over one axis are the same threads at work on one thing after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tilewright.ir.stmt import Alloc, Annotate, Buffer, For, Seq, Stmt
from tilewright.ir.visit import walk_stmt

BLOCK_AXES: Final = ("blockIdx.x", "blockIdx.y", "blockIdx.z")
THREAD_AXES: Final = ("threadIdx.x", "threadIdx.y", "threadIdx.z")
AXES: Final = BLOCK_AXES + THREAD_AXES


def thread_axis(loop: For) -> str | None:
    """The axis that a loop is bound to (``threadIdx.x``), or None."""
    return loop.kind.removeprefix("thread:") if loop.kind.startswith("thread:") else None


def is_block_axis(loop: For) -> bool:
    """Whether iterations of ``loop`` are thread blocks."""
    return thread_axis(loop) in BLOCK_AXES


def is_thread_axis(loop: For) -> bool:
    """Whether iterations of ``loop`` are threads of one thread block."""
    return thread_axis(loop) in THREAD_AXES


def has_thread_axes(stmt: Stmt) -> bool:
    """Whether any loop of ``stmt`` is bound to a thread axis."""
    return any(isinstance(s, For) and thread_axis(s) is not None for s in walk_stmt(stmt))


def root_parts(body: Stmt) -> Iterator[Stmt]:
    """The parts of a function's body below its outermost allocations, annotations and sequences, in order."""
    if isinstance(body, Alloc | Annotate):
        yield from root_parts(body.body)
    elif isinstance(body, Seq):
        for stmt in body.stmts:
            yield from root_parts(stmt)
    else:
        yield body


def is_private(loop: For, buffer: Buffer) -> bool:
    """Whether each iteration of ``loop`` has a copy of a temporary that is used only inside: iterations over
    thread axes have what the hardware gives them, lanes of a vector have nothing of their own, all others get
    memory of their own in lowering.
    """
    if is_thread_axis(loop):
        return buffer.scope == "register"
    if is_block_axis(loop):
        return buffer.scope in ("shared", "register")
    return loop.kind != "vectorized"
