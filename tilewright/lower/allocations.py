"""Where the memory of a launch is allocated."""

from __future__ import annotations

import dataclasses

from tilewright.ir.launch import is_block_axis, thread_axis
from tilewright.ir.stmt import Alloc, Annotate, Buffer, For, If, PrimFunc, Seq, Stmt, seq
from tilewright.ir.visit import transform_stmt


def place_allocations(func: PrimFunc) -> PrimFunc:
    """Move allocations out of the loops whose iterations share them: shared memory between the loops over
    thread blocks and those over threads, all other memory but registers around the launch.
    """
    return func.with_(body=_walk(func.body))


def _walk(s: Stmt) -> Stmt:
    """``s`` with the allocations of every launch inside in their places."""
    if isinstance(s, For) and thread_axis(s) is not None:
        lifted: list[Buffer] = []

        def lift(inner: Stmt) -> Stmt | None:
            if not isinstance(inner, Alloc) or inner.buffer.scope == "register":
                return None
            # The parts of a pipeline each allocate what they use; one after the other they share it.
            if inner.buffer not in lifted:
                lifted.append(inner.buffer)
            return inner.body

        body = transform_stmt(s, lift)
        body = _in_block(body, [b for b in lifted if b.scope == "shared"])
        return _allocated([b for b in lifted if b.scope != "shared"], body)
    if isinstance(s, Seq):
        return seq([_walk(x) for x in s.stmts])
    if isinstance(s, Alloc | Annotate | For):
        return dataclasses.replace(s, body=_walk(s.body))
    if isinstance(s, If):
        return If(s.cond, _walk(s.then), None if s.orelse is None else _walk(s.orelse))
    return s


def _in_block(launch: Stmt, buffers: list[Buffer]) -> Stmt:
    """``launch`` with ``buffers`` allocated inside its loops over thread blocks."""
    if isinstance(launch, For) and is_block_axis(launch):
        return dataclasses.replace(launch, body=_in_block(launch.body, buffers))
    return _allocated(buffers, launch)


def _allocated(buffers: list[Buffer], body: Stmt) -> Stmt:
    for buffer in buffers:
        body = Alloc(buffer, body)
    return body
