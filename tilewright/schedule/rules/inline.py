"""Which injective blocks disappear into their consumers."""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Cast, Var
from tilewright.ir.stmt import Block
from tilewright.ir.visit import find_blocks
from tilewright.schedule.rules.analysis import Access, BlockInfo, block_info, is_data_movement, is_injective
from tilewright.schedule.rules.common import block_named
from tilewright.schedule.rules.windows import copies_windows
from tilewright.schedule.schedule import Schedule

#: A combination of several elements is not repeated in a consumer that reads this many of its results.
MANY_READS = 4
#: A transposed operand of which each element is used less often than this is read as it lies.
FEW_USES = 6


def auto_inline(sch: Schedule, into_reductions: bool = True, conversions: bool = True) -> None:
    """Inline injective blocks into their consumers where that does not repeat work or spoil access patterns.

    Into an injective consumer: always when it is the only one, else only pure copies. Into a reduction (if
    ``into_reductions``): padding and copies whose vector axis stays contiguous, but for windows that were
    laid out on purpose; arithmetic only when each element is used once. Without ``conversions``, operands
    that a reduction reads as scalars, and often, are not converted there but before, once and by vectors.
    """
    for name in [b.name for b in find_blocks(sch.func.body)]:
        block = block_named(sch, name)  # as it is now: what was inlined into it counts
        if not is_injective(block):
            continue
        ref = sch.get_block(block.name)
        names = [c.name for c in sch.get_consumers(ref)]
        if not names:
            continue
        consumers = [b for b in find_blocks(sch.func.body) if b.name in names]
        if not into_reductions and not all(map(is_injective, consumers)):
            continue
        if not conversions and any(_converts_scalars(block, consumer) for consumer in consumers):
            continue
        if all(_worth(block, consumer, len(names)) for consumer in consumers):
            try:
                sch.compute_inline(ref)
            except ScheduleError:
                continue


def _worth(block: Block, consumer: Block, uses: int) -> bool:
    movement = is_data_movement(block)
    if is_injective(consumer):
        return movement or (uses == 1 and not _multiplies(block, consumer))
    own, user = block_info(block), block_info(consumer)
    if own is None or user is None or not (movement or _used_once(own, user)) or copies_windows(block):
        return False
    return _keeps_contiguity(own, user)


def _converts_scalars(block: Block, consumer: Block) -> bool:
    """Whether ``block`` widens floats that ``consumer``, a reduction, reads one at a time and often."""
    own, user = block_info(block), None if is_injective(consumer) else block_info(consumer)
    if own is None or user is None:
        return False
    value = own.store.value
    if not isinstance(value, Cast) or not dt.is_float(value.dtype) or not dt.is_float(value.value.dtype):
        return False
    vector = next((v for v in user.spatial if user.out.stride(v) == 1 and user.extent(v) > 1), None)
    if vector is None or dt.bits(value.value.dtype) >= dt.bits(value.dtype):
        return False
    return any(
        access.stride(vector) == 0 and user.extent(vector) >= FEW_USES
        for access in user.loads
        if access.buffer is own.store.buffer
    )


def _multiplies(block: Block, consumer: Block) -> bool:
    """Whether both combine several elements of one buffer: inlined, the one's work repeats in each read of
    the other's."""
    own, user = block_info(block), block_info(consumer)
    if own is None or user is None:
        return False
    combined = len({a.buffer for a in own.loads}) < len(own.loads)
    return combined and sum(1 for a in user.loads if a.buffer is own.store.buffer) >= MANY_READS


def _used_once(own: BlockInfo, user: BlockInfo) -> bool:
    """Whether the reduction reads each element once: its access moves with every iterator."""
    accesses = [a for a in user.loads if a.buffer is own.store.buffer]
    iters = user.spatial + user.reduce
    return len(accesses) == 1 and all(
        accesses[0].stride(v) not in (0, None) for v in iters if user.extent(v) > 1
    )


def _keeps_contiguity(own: BlockInfo, user: BlockInfo) -> bool:
    """Whether the iterator that walks the buffer contiguously still walks the source contiguously (or not at
    all).

    An operand that does not move along the user's vector axis is read as scalars: how it lies in memory
    matters little.
    """
    vector = next((v for v in user.spatial if user.out.stride(v) == 1 and user.extent(v) > 1), None)
    for access in user.loads:
        if access.buffer is not own.store.buffer or (vector is not None and access.stride(vector) == 0):
            continue
        if _is_transposed_back(own, user, access):
            continue
        if any(access.stride(v) == 1 for v in user.spatial + user.reduce):
            inner: Var | None = next((v for v in own.spatial if own.out.stride(v) == 1), None)
            if inner is not None and any(a.stride(inner) not in (0, 1) for a in own.loads):
                return False
    return True


def _is_transposed_back(own: BlockInfo, user: BlockInfo, access: Access) -> bool:
    """Whether the reduction would walk the source itself contiguously with one of its reduce iterators, and
    uses each element so rarely that putting it in another order first costs more."""
    uses = user.points([v for v in user.spatial if access.stride(v) == 0])
    moving = zip(access.indices, own.store.indices, strict=True)
    return uses < FEW_USES and any(
        index in user.reduce and isinstance(var, Var) and all(a.stride(var) == 1 for a in own.loads)
        for index, var in moving
    )
