"""The primitive storage_align: pad the rows of a temporary."""

from __future__ import annotations

from tilewright.ir.stmt import PrimFunc
from tilewright.ir.visit import replace_buffers
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import BlockRef, Tree, find_block


def storage_align(func: PrimFunc, ref: BlockRef, dim: int, factor: int, offset: int) -> PrimFunc:
    """Make the stride of dimension ``dim`` of the buffer that a block writes ``offset`` modulo ``factor``
    (elements), by padding, once lowering has shrunk the buffer.

    Rows that lie 32 words apart fall into one bank of shared memory; rows that lie 4 KiB apart into one set
    of a cache. An earlier alignment of the same dimension is replaced. Raises ScheduleError for parameters,
    register buffers, dimensions that the buffer has not, and unless ``0 <= offset < factor``.
    """
    tree = Tree(func)
    block = find_block(tree, ref, "storage_align")
    buffer = tree.store(block).buffer
    if tree.is_param(buffer):
        raise failure(
            tree,
            f"storage_align: block '{block.name}' writes the parameter '{buffer.name}', whose layout is the "
            "caller's",
            block,
            hint="cache_write first: the block then writes a buffer of its own",
        )
    if buffer.scope == "register":
        raise failure(
            tree,
            f"storage_align: '{buffer.name}' is in registers, which have no addresses",
            block,
            hint="set_scope first",
        )
    rank = len(buffer.shape)
    if not -rank <= dim < rank:
        raise failure(
            tree,
            f"storage_align: '{buffer.name}' has {rank} dimensions, there is no dimension {dim}",
            block,
            hint="count dimensions from 0, or from -1 backwards",
        )
    dim %= rank
    if not 0 <= offset < factor:
        raise failure(
            tree,
            f"storage_align: offset {offset} is not in 0 .. factor - 1 (factor {factor})",
            block,
            hint="storage_align(block, dim, 32, 8) makes the stride 8 modulo 32",
        )
    kept = {entry[0]: entry for entry in buffer.stride_align} | {dim: (dim, factor, offset)}
    aligned = buffer.with_(stride_align=tuple(kept[d] for d in sorted(kept)))
    return func.with_(body=replace_buffers(func.body, {buffer: aligned}))
