"""What the rules for GPU targets share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.launch import thread_axis
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import free_vars, stores_of
from tilewright.schedule.rules.common import block_named, loop_of
from tilewright.schedule.schedule import BlockRef, LoopRef, Schedule
from tilewright.target import Gpu, Target

#: Registers of a thread that hold addresses, indices and operands on their way.
SPARE_REGISTERS = 32


def gpu_of(target: Target) -> Gpu:
    """The numbers of a GPU target. Raises ScheduleError for other targets."""
    if target.gpu is None:
        raise ScheduleError(f"target '{target.name}' has no thread axes")
    return target.gpu


def bind_axes(sch: Schedule, kind: str, **loops: LoopRef) -> None:
    """``bind_axes(sch, "threadIdx", y=loop, x=loop)``, outermost first."""
    for axis, loop in loops.items():
        sch.bind(loop, f"{kind}.{axis}")


def is_bound(sch: Schedule, ref: BlockRef) -> bool:
    """Whether a loop around the block is bound to a thread axis."""
    return any(thread_axis(loop_of(sch, loop)) is not None for loop in sch.get_loops(ref))


def loops_below(sch: Schedule, ref: BlockRef, at: LoopRef | None) -> list[LoopRef]:
    """The loops around a block inside of ``at`` (None: all), outermost first."""
    loops = sch.get_loops(ref)
    return loops if at is None else loops[[loop.var for loop in loops].index(at.var) + 1 :]


def iter_loops(sch: Schedule, ref: BlockRef, kind: str, at: LoopRef | None = None) -> list[LoopRef]:
    """The loops inside of ``at`` over the ``spatial`` or ``reduce`` iterators of a block, in their order.

    Raises ScheduleError unless there is one loop for each iterator, as in a plain nest or after compute_at.
    """
    block = block_named(sch, ref.name)
    loops = loops_below(sch, ref, at)
    if len(loops) != len(block.iters):
        raise ScheduleError(f"block '{ref.name}' has {len(loops)} loops for {len(block.iters)} iterators")
    return [loop for it, loop in zip(block.iters, loops, strict=True) if it.kind == kind]


def loop_over(sch: Schedule, ref: BlockRef, at: LoopRef | None, dim: int) -> LoopRef:
    """The loop inside of ``at`` over dimension ``dim`` of what a block writes. Raises ScheduleError as
    :func:`iter_loops`, or when the block does not store at an iterator there."""
    block = block_named(sch, ref.name)
    index = next(iter(stores_of(block.body))).indices[dim]
    spatial = [it.var for it in block.iters if it.kind == "spatial"]
    loops = iter_loops(sch, ref, "spatial", at)
    if index not in spatial:
        raise ScheduleError(f"block '{ref.name}' does not store at an iterator in dimension {dim}")
    return loops[next(n for n, v in enumerate(spatial) if v is index)]


def product(factors: Iterable[int | Expr]) -> Expr:
    """The product of some factors."""
    total: Expr = as_expr(1)
    for factor in factors:
        total = total * factor
    return simplify(total)


def fuse_all(sch: Schedule, loops: Sequence[LoopRef]) -> LoopRef:
    """One loop for several that are perfectly nested. Raises ScheduleError when there is none."""
    if not loops:
        raise ScheduleError("there is no loop to fuse")
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def elements(sch: Schedule, loops: Iterable[LoopRef]) -> Expr:
    """How many iterations some nested loops have."""
    return product(loop_of(sch, loop).extent for loop in loops)


def moves_with(sch: Schedule, ref: BlockRef, var: Var) -> bool:
    """Whether a loop variable occurs in a binding of the block."""
    return any(var in free_vars(it.binding) for it in block_named(sch, ref.name).iters)


def nbytes_written(sch: Schedule, ref: BlockRef) -> int:
    """Bytes of one element that the block writes."""
    return dt.nbytes(block_named(sch, ref.name).writes[0].buffer.dtype)


def power_up(n: int) -> int:
    """The least power of two that is not below ``n``."""
    return 1 << max(n - 1, 0).bit_length()
