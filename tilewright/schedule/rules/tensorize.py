"""Register-tiled products by the target's dot-product instructions: bfloat16 pairs, bytes by fours.

Where an instruction sums groups of neighbours along the reduction, one group shared by all lanes and one a
lane, a group is to the tile what an element is elsewhere: the same tile, with a shorter reduction and weights
packed in groups. Reductions that are no multiple of a group are padded first.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection

from tilewright.errors import ScheduleError
from tilewright.ir.expr import BinOp, Expr, Load, Select, Var, binop
from tilewright.ir.padding import split_zero
from tilewright.ir.stmt import Buffer, TensorIntrinsic
from tilewright.ir.tensor_intrinsics import parameters, semantic_nest, tensor_intrinsics
from tilewright.ir.visit import const_int, loads_of, walk_expr
from tilewright.schedule.match import Mismatch, pairings
from tilewright.schedule.rules.analysis import Access, BlockInfo, block_info
from tilewright.schedule.rules.common import block_named
from tilewright.schedule.rules.injective import schedule_injective
from tilewright.schedule.rules.inline import auto_inline
from tilewright.schedule.rules.multi_level_tiling import packable, plain_dim, tile_reduction, vector_axis
from tilewright.schedule.schedule import BlockRef, Schedule
from tilewright.target import Target


@dataclasses.dataclass(frozen=True)
class Instruction:
    """How an instruction does a reduction's innermost steps.

    Attributes:
        names: the intrinsic for each number of lanes.
        depth: neighbours that one call sums.
        step: the reduce iterator along which they are.
        shared: the operand of which all lanes use one group.
        vectors: the operand of which each lane uses a group of its own.
    """

    names: dict[int, str]
    depth: int
    step: Var
    shared: Access
    vectors: Access


def find_instruction(info: BlockInfo, target: Target, consts: Collection[str] = ()) -> Instruction | None:
    """The best instruction of ``target`` for a reduction, if there is one and it pays.

    It pays where the operand that goes into vectors is constant (``consts``), or used so often that packing
    it does.
    """
    vector = vector_axis(info)
    if vector is None or not info.reduce:
        return None
    for family in _families(target):
        for a, b in _operands(family[0], info):
            steps = [v for v in info.reduce if a.stride(v) == 1 and plain_dim(b, v) is not None]
            if len(steps) != 1 or a.stride(vector) != 0 or plain_dim(b, vector) is None:
                continue
            if not packable(info, b, consts):
                continue
            if info.extent(steps[0]) % _depth(family[0]) and _is_padded(info):
                continue  # pad fills up operands, not choices
            names = {_lanes(i): i.name for i in family}
            return Instruction(names, _depth(family[0]), steps[0], a, b)
    return None


def _is_padded(info: BlockInfo) -> bool:
    return any(isinstance(e, Select) for e in walk_expr(info.store.value))


def inline_but_operands(sch: Schedule, target: Target) -> None:
    """Inline what pays, but nothing into reductions where one of them would lose its instruction by that: an
    operand must lie in memory, padded and converted before. Where an instruction takes narrow operands, they
    are not widened before."""
    trial = sch.copy()
    auto_inline(trial)
    found = _instructed(trial, target)
    auto_inline(sch, _instructed(sch, target) <= found, conversions=bool(found))


def _instructed(sch: Schedule, target: Target) -> set[str]:
    """The blocks that have an instruction."""
    consts = sch.func.attr("const_params", ())
    infos = {ref.name: block_info(block_named(sch, ref.name)) for ref in sch.get_blocks()}
    return {name for name, i in infos.items() if i is not None and find_instruction(i, target, consts)}


def tile_by_instruction(sch: Schedule, ref: BlockRef, target: Target, row: int = 0) -> None:
    """Schedule the reduction ``ref`` and its elementwise consumer by :func:`find_instruction`; ``row`` as for
    ``tile_reduction``. Raises ScheduleError where there is none, or a step is not legal."""
    info, instruction = _found(sch, ref, target)
    if info.extent(instruction.step) % instruction.depth:
        factors = [instruction.depth if it.var is instruction.step else None for it in info.block.iters]
        for copy in sch.pad(ref, factors):
            schedule_injective(sch, copy, target)
        _, instruction = _found(sch, ref, target)
    tile_reduction(sch, ref, target, row, instruction)


def _found(sch: Schedule, ref: BlockRef, target: Target) -> tuple[BlockInfo, Instruction]:
    info = block_info(block_named(sch, ref.name))
    consts = sch.func.attr("const_params", ())
    instruction = None if info is None else find_instruction(info, target, consts)
    if info is None or instruction is None:
        raise ScheduleError(f"no instruction of target '{target.name}' computes block '{ref.name}'")
    return info, instruction


@functools.lru_cache(maxsize=64)
def _families(target: Target) -> tuple[tuple[TensorIntrinsic, ...], ...]:
    """The target's broadcast dot products of more than one element: those that differ in their lanes only
    together, those that do most at once first."""
    families: dict[str, list[TensorIntrinsic]] = {}
    for intrinsic in tensor_intrinsics():
        if _is_dot(intrinsic) and all(target.has(f) for f in intrinsic.requires):
            stem = intrinsic.name.removesuffix(f".{_lanes(intrinsic)}")
            families.setdefault(stem, []).append(intrinsic)
    found = [tuple(family) for family in families.values()]
    return tuple(sorted(found, key=lambda f: -max(_lanes(i) * _depth(i) for i in f)))


def _is_dot(intrinsic: TensorIntrinsic) -> bool:
    """``C[j] += f(A[k], B[j, k])`` over all ``k``, for more than one."""
    loops, store = semantic_nest(intrinsic)
    shapes = [len(p.shape) for p in parameters(intrinsic)]
    if shapes != [1, 2, 1] or len(loops) != 2 or _depth(intrinsic) < 2:
        return False
    a, b, _ = parameters(intrinsic)
    at = {node.buffer: node.indices for node in loads_of(store.value)}
    (lane,) = store.indices
    return lane not in at[a] and at[b] == (lane, *at[a])


def _lanes(intrinsic: TensorIntrinsic) -> int:
    return const_int(parameters(intrinsic)[-1].shape[0]) or 0


def _depth(intrinsic: TensorIntrinsic) -> int:
    return const_int(parameters(intrinsic)[0].shape[-1]) or 0


def _operands(intrinsic: TensorIntrinsic, info: BlockInfo) -> list[tuple[Access, Access]]:
    """What may stand for the shared and the other operand of ``intrinsic`` in a reduction."""
    _, store = semantic_nest(intrinsic)
    value = info.store.value
    if isinstance(value, BinOp) and value.op == "add":
        own, term = (value.a, value.b) if _is_own(value.a, info) else (value.b, value.a)
        value = binop("add", own, split_zero(term)[1])
    a, b, _ = parameters(intrinsic)
    found = []
    for pairing in pairings(store.value, value):
        if isinstance(pairing, Mismatch):
            continue
        accesses: dict[Buffer, Access] = {}
        for pair in pairing:
            if pair.buffer.dtype != pair.param.dtype:
                break
            for access in info.loads:
                if access.buffer is pair.buffer and access.indices == pair.indices:
                    accesses[pair.param] = access
        if a in accesses and b in accesses:
            found.append((accesses[a], accesses[b]))
    return found


def _is_own(e: Expr, info: BlockInfo) -> bool:
    return isinstance(e, Load) and e.buffer is info.store.buffer and e.indices == info.store.indices


