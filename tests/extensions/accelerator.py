"""A decoupled access-execute accelerator, as a package outside of the compiler would add it.

Three units work at the same time: *load* copies 16x16 tiles of bytes into on-chip memory, *compute*
multiplies tiles into 32-bit accumulators, *store* copies accumulators out. Each unit takes its instructions
in order. Units know nothing of each other: where one needs what another made, or overwrites what another
reads, it pops a token that the other pushes. A virtual thread has buffers of its own, so the tile of one is
loaded while that of the other is multiplied.

This file is all there is: instructions and memories as data, tokens as effects, one pass that places tokens,
an assembler, and a simulator that counts cycles.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

from tilewright.backend.implementations import implementation, register_implementation
from tilewright.errors import VerifyError
from tilewright.ir import te
from tilewright.ir.expr import Const
from tilewright.ir.intrinsics import register_effect
from tilewright.ir.stmt import (
    Alloc,
    Buffer,
    Evaluate,
    For,
    OperandSpec,
    PrimFunc,
    Region,
    Seq,
    Stmt,
    TensorCall,
    seq,
)
from tilewright.ir.tensor_intrinsics import register
from tilewright.ir.visit import transform_stmt
from tilewright.lower import lower
from tilewright.lower.unroll import unroll_loops
from tilewright.schedule import IndexMap, Schedule

TILE = 16
UNITS = ("load", "compute", "store")
INPUT, WEIGHT, ACCUMULATOR = "accel.input", "accel.weight", "accel.accumulator"
BACKEND = "accel"


# -- instructions as data ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Implementation:
    """How the machine does an intrinsic: by which unit, in how many cycles, and how it is spelled."""

    unit: str
    cycles: int
    mnemonic: str


def _copy(dtype: str) -> str:
    return f"""
@primfunc({{"outputs": 1}})
def copy(source: {dtype}[{TILE}, {TILE}], target: {dtype}[{TILE}, {TILE}]):
    for i in serial({TILE}):
        for j in serial({TILE}):
            target[i, j] = source[i, j]
"""


_CLEAR = f"""
@primfunc({{"outputs": 1}})
def clear(C: int32[{TILE}, {TILE}]):
    for i in serial({TILE}):
        for j in serial({TILE}):
            C[i, j] = int32(0)
"""
_GEMM = f"""
@primfunc({{"outputs": 1}})
def gemm(A: int8[{TILE}, {TILE}], W: int8[{TILE}, {TILE}], C: int32[{TILE}, {TILE}]):
    for i in serial({TILE}):
        for j in serial({TILE}):
            for k in serial({TILE}):
                C[i, j] = C[i, j] + int32(A[i, k]) * int32(W[j, k])
"""


def register_all() -> None:
    """What the entry point of the package in the group ``tilewright.intrinsics`` would name."""
    dram = OperandSpec(("global",), (None, 1))
    tile = {scope: OperandSpec((scope,)) for scope in (INPUT, WEIGHT, ACCUMULATOR)}
    for name, semantic, operands, how in (
        ("accel.load_input", _copy("int8"), (dram, tile[INPUT]), ("load", 40, "ld.inp")),
        ("accel.load_weight", _copy("int8"), (dram, tile[WEIGHT]), ("load", 40, "ld.wgt")),
        ("accel.clear", _CLEAR, (tile[ACCUMULATOR],), ("compute", 16, "clr")),
        ("accel.gemm", _GEMM, tuple(tile.values()), ("compute", 80, "gemm")),
        ("accel.store", _copy("int32"), (tile[ACCUMULATOR], dram), ("store", 60, "st.acc")),
    ):
        register(name, semantic, operands)
        register_implementation(BACKEND, name, Implementation(*how))


def _push(state: Counter[tuple[int, int]], source: int, target: int) -> None:
    state[source, target] = state.get((source, target), 0) + 1


def _pop(state: Counter[tuple[int, int]], source: int, target: int) -> None:
    if not state.get((source, target)):
        raise VerifyError(f"the {UNITS[target]} unit waits for a token that {UNITS[source]} never pushes")
    state[source, target] -= 1


register_all()
push = register_effect("accel.push", 2, _push)
pop = register_effect("accel.pop", 2, _pop)


# -- a schedule ----------------------------------------------------------------------------------------------


def product(m: int, n: int, k: int) -> PrimFunc:
    """``C = A @ B.T`` of bytes."""
    a, b = te.placeholder((m, k), "int8", "a"), te.placeholder((n, k), "int8", "b")
    c = te.compute(
        (m, n),
        lambda i, j: te.reduce("sum", (k,), lambda r: a[i, r].astype("int32") * b[j, r].astype("int32")),
        "c",
    )
    return te.primfunc("product", [a, b], [c])


def schedule(func: PrimFunc, threads: int) -> Schedule:
    """Column by column, whose weights stay on the chip, tiles of C one after the other, ``threads`` of them
    by virtual threads side by side."""
    sch = Schedule(func)
    c = sch.get_block("c")
    a, b = (sch.cache_read(c, n, scope) for n, scope in ((0, INPUT), (1, WEIGHT)))
    out = sch.cache_write(c, ACCUMULATOR)
    i, j = sch.get_loops(out)
    for block in (a, b, c):  # on-chip memory is addressed by tiles
        sch.transform_layout(block, "write", 0, IndexMap.parse("i,j -> i//16, j//16, i%16, j%16"))
    rows, thread, i1 = sch.split(i, [None, threads, TILE])
    columns, j1 = sch.split(j, [None, TILE])
    sch.reorder(columns, rows, thread, i1, j1)
    sch.compute_at(c, thread)
    i2, j2, k = sch.get_loops(c)[3:]
    steps, k2 = sch.split(k, [None, TILE])
    sch.reorder(steps, i2, j2, k2)
    sch.compute_at(a, steps)
    sch.compute_at(b, columns)
    j3, k3 = sch.get_loops(b)[1:]
    tiles, k4 = sch.split(k3, [None, TILE])
    sch.reorder(tiles, j3, k4)
    clear = sch.decompose_reduction(c, steps)
    sch.virtual_thread(thread)
    for block, name in (
        (a, "load_input"), (b, "load_weight"), (clear, "clear"), (c, "gemm"), (out, "store"),
    ):  # fmt: skip
        depth = 3 if block == c else 2
        sch.tensorize(sch.get_loops(block)[-depth], f"accel.{name}")
    return sch


# -- tokens --------------------------------------------------------------------------------------------------


def unit_of(call: TensorCall) -> int:
    return UNITS.index(implementation(BACKEND, call.intrinsic.name).unit)


def compile_program(sch: Schedule) -> PrimFunc:
    """The instructions of a schedule in order, with the tokens that keep the units apart."""
    flat = transform_stmt(
        lower(sch.func).body,
        lambda s: dataclasses.replace(s, kind="unrolled") if isinstance(s, For) else None,
    )
    func = unroll_loops(sch.func.with_(body=flat))
    before, after = _tokens(list(_instructions(func.body)))
    return func.with_(body=_placed(func.body, iter(zip(before, after, strict=True))))


def _instructions(s: Stmt) -> Iterator[TensorCall]:
    if isinstance(s, TensorCall):
        yield s
    elif isinstance(s, Seq):
        for child in s.stmts:
            yield from _instructions(child)
    else:
        assert isinstance(s, Alloc)
        yield from _instructions(s.body)


def _tokens(calls: list[TensorCall]) -> tuple[list[list[Stmt]], list[list[Stmt]]]:
    """The pops before and the pushes after each instruction.

    Queues between two units are first in, first out: an instruction waits only for what no earlier one of
    its unit has waited for.
    """
    before: list[list[Stmt]] = [[] for _ in calls]
    after: list[list[Stmt]] = [[] for _ in calls]
    seen: dict[tuple[int, int], int] = {}
    for n, call in enumerate(calls):
        for m in reversed(range(n)):
            pair = unit_of(calls[m]), unit_of(call)
            if pair[0] != pair[1] and m > seen.get(pair, -1) and _conflict(calls[m], call):
                seen[pair] = m
                after[m].append(Evaluate(push(*pair)))
                before[n].append(Evaluate(pop(*pair)))
    return before, after


def _conflict(a: TensorCall, b: TensorCall) -> bool:
    """Whether one of two instructions writes what the other touches."""
    return any(
        _overlap(x, y)
        for x in a.operands
        for y in b.operands
        if x is a.operands[-1] or y is b.operands[-1]
    )


def _overlap(a: Region, b: Region) -> bool:
    if a.buffer is not b.buffer:
        return False
    return all(
        _int(x.lo) < _int(y.lo) + _int(y.extent) and _int(y.lo) < _int(x.lo) + _int(x.extent)
        for x, y in zip(a.ranges, b.ranges, strict=True)
    )


def _int(e: object) -> int:
    assert isinstance(e, Const)
    return int(e.value)


def _placed(s: Stmt, tokens: Iterator[tuple[list[Stmt], list[Stmt]]]) -> Stmt:
    if isinstance(s, TensorCall):
        before, after = next(tokens)
        return seq([*before, s, *after])
    if isinstance(s, Seq):
        return seq([_placed(child, tokens) for child in s.stmts])
    assert isinstance(s, Alloc)
    return dataclasses.replace(s, body=_placed(s.body, tokens))


# -- assembler and simulator ---------------------------------------------------------------------------------


def _stream(s: Stmt) -> Iterator[Stmt]:
    if isinstance(s, Seq):
        for child in s.stmts:
            yield from _stream(child)
    elif isinstance(s, Alloc):
        yield from _stream(s.body)
    else:
        yield s


def assemble(func: PrimFunc) -> list[str]:
    """One line an instruction: the mnemonic, and each operand as memory, first byte and row pitch."""
    lines = []
    for s in _stream(func.body):
        if isinstance(s, TensorCall):
            how = implementation(BACKEND, s.intrinsic.name)
            lines.append(f"{how.mnemonic} {', '.join(map(_address, s.operands))}")
        else:
            assert isinstance(s, Evaluate)
            source, target = map(_int, s.value.children)
            word = "push" if s.value is push(source, target) else "pop"
            lines.append(f"{word} {UNITS[source]}->{UNITS[target]}")
    return lines


def _address(region: Region) -> str:
    buffer, offset = region.buffer, 0
    strides = [_int(x) for x in buffer.row_major_strides()]
    for r, stride in zip(region.ranges, strides, strict=True):
        offset += _int(r.lo) * stride
    return f"{_memory(buffer)}[{offset}:{strides[-2]}]"


def _memory(buffer: Buffer) -> str:
    return buffer.name if buffer.scope == "global" else buffer.scope.removeprefix("accel.")


def simulate(func: PrimFunc) -> int:
    """Cycles until the last unit is done. Raises VerifyError when units wait for each other forever."""
    queues: list[list[Stmt]] = [[] for _ in UNITS]
    for s in _stream(func.body):
        if isinstance(s, TensorCall):
            queues[unit_of(s)].append(s)
        else:
            assert isinstance(s, Evaluate)
            source, target = map(_int, s.value.children)
            queues[source if s.value is push(source, target) else target].append(s)
    clock = [0] * len(UNITS)
    tokens: dict[tuple[int, int], list[int]] = {}
    while any(queues):
        moved = False
        for unit, queue in enumerate(queues):
            while queue:
                s = queue[0]
                if isinstance(s, TensorCall):
                    clock[unit] += implementation(BACKEND, s.intrinsic.name).cycles
                else:
                    assert isinstance(s, Evaluate)
                    source, target = map(_int, s.value.children)
                    if s.value is push(source, target):
                        tokens.setdefault((source, target), []).append(clock[unit])
                    elif tokens.get((source, target)):
                        clock[unit] = max(clock[unit], tokens[source, target].pop(0))
                    else:
                        break
                queue.pop(0)
                moved = True
        if not moved:
            raise VerifyError("the units wait for each other")
    return max(clock)
