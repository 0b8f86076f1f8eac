"""Hopper's asynchronous tensor cores, as a package outside of the compiler would add them.

``wgmma`` multiplies tiles that it reads from shared memory through *descriptors*; it returns at once, and so
does the bulk copy (TMA) that fills the tiles. Neither may be used before it was waited for: copies through a
barrier in memory that counts bytes and flips a phase, products by groups that are committed and waited for.

Both instructions agree on a layout that nobody else reads: rows of 128 bytes whose 16-byte pieces are
swizzled. To the compiler it is a memory of its own (scope ``shared.swizzle128``) that only these two take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from tilewright.backend.implementations import implementation, register_implementation
from tilewright.errors import VerifyError
from tilewright.ir import te
from tilewright.ir.expr import Call, Expr, as_expr
from tilewright.ir.intrinsics import register_effect
from tilewright.ir.isa.dot import matrix_tile
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Evaluate, For, OperandSpec, PrimFunc, Region, Seq, Stmt, TensorCall, seq
from tilewright.ir.tensor_intrinsics import register
from tilewright.ir.visit import walk_stmt
from tilewright.lower import lower
from tilewright.schedule import IndexMap, Schedule

SWIZZLED, ACCUMULATOR = "shared.swizzle128", "wgmma.accumulator"
BACKEND = "hopper"
M, N, K = 64, 64, 16
#: Reduction steps in a row of 128 bytes: four products read one tile.
ROW = 64
TILE_BYTES = 64 * ROW * 2


# -- instructions as data ------------------------------------------------------------------------------------


def _copy(dtype: str) -> str:
    return f"""
@primfunc({{"outputs": 1}})
def copy(source: {dtype}[64, 64], target: {dtype}[64, 64]):
    for i in serial(64):
        for j in serial(64):
            target[i, j] = source[i, j]
"""


_ZERO = f"""
@primfunc({{"outputs": 1}})
def clear(C: float32[{M}, {N}]):
    for i in serial({M}):
        for j in serial({N}):
            C[i, j] = 0.0
"""


def _tma(source: Region, target: Region) -> list[str]:
    rows, columns = (r.lo for r in source.ranges[-2:])
    line = (
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        f"[{target.buffer.name} + {_bytes(target)}], "
        f"[map_{source.buffer.name}, {{{columns!r}, {rows!r}}}], [barrier];"
    )
    return [line]


def _wgmma(a: Region, b: Region, c: Region) -> list[str]:
    opcode = f"wgmma.mma_async.sync.aligned.m{M}n{N}k{K}.f32.f16.f16"
    return [f"{opcode} {{{', '.join(_registers(c))}}}, {_descriptor(a)}, {_descriptor(b)}, 1, 1, 1, 0, 0;"]


def _clear(c: Region) -> list[str]:
    return [f"mov.f32 {register}, 0f00000000;" for register in _registers(c)]


def _registers(c: Region) -> list[str]:
    """What each of the 128 threads holds of an accumulator."""
    return [f"%{c.buffer.name}{n}" for n in range(M * N // 128)]


def _store(source: Region, target: Region) -> list[str]:
    return [f"// 128 threads store %{source.buffer.name}* to {target.buffer.name} + {_bytes(target)}"]


def _bytes(region: Region) -> str:
    """The offset of a region's first element, in bytes."""
    offset: Expr = as_expr(0)
    for r, stride in zip(region.ranges, region.buffer.row_major_strides(), strict=True):
        offset = offset + r.lo * stride
    return repr(simplify(offset * (2 if region.buffer.dtype == "float16" else 4)))


def descriptor_bits(stride_bytes: int = 1024, swizzle: int = 1) -> int:
    """A matrix descriptor without its address: bytes between groups of eight rows in units of 16, and the
    128-byte swizzle (PTX ISA, "Matrix descriptor format"). Rows of 128 bytes need no leading offset."""
    return (1 << 16) | (stride_bytes >> 4) << 32 | swizzle << 62


def _descriptor(region: Region) -> str:
    return f"{descriptor_bits():#x} | (({region.buffer.name} + {_bytes(region)}) >> 4 & 0x3fff)"


def register_all() -> None:
    """What the entry point of the package in the group ``tilewright.intrinsics`` would name."""
    rows = OperandSpec((SWIZZLED,), (ROW, 1), alignment=32)
    tile = OperandSpec((SWIZZLED,), (ROW, 1), alignment=1024)
    matrix = OperandSpec(("global",), (None, 1))
    register("hopper.tma.64x64.f16", _copy("float16"), [matrix, tile], ["sm_90a"])
    register(
        f"hopper.wgmma.m{M}n{N}k{K}.f16",
        matrix_tile("float16", "float16", "float32", M, N, K),
        [rows, rows, OperandSpec((ACCUMULATOR,))],
        ["sm_90a"],
    )
    register("hopper.clear.64x64", _ZERO, [OperandSpec((ACCUMULATOR,))], ["sm_90a"])
    register("hopper.store.64x64", _copy("float32"), [OperandSpec((ACCUMULATOR,)), matrix], ["sm_90a"])
    for name, how in (
        ("hopper.tma.64x64.f16", _tma),
        (f"hopper.wgmma.m{M}n{N}k{K}.f16", _wgmma),
        ("hopper.clear.64x64", _clear),
        ("hopper.store.64x64", _store),
    ):
        register_implementation(BACKEND, name, how)


# -- synchronisation as effects, which the interpreter checks ------------------------------------------------


def _expect(state: dict[str, Any], size: int) -> None:
    state["expected"] = state.get("expected", 0) + size


def _wait(state: dict[str, Any], phase: int) -> None:
    if not state.pop("expected", 0):
        raise VerifyError("a wait on the barrier that no copy was announced to")
    if state.setdefault("phase", 0) != phase:
        raise VerifyError(f"a wait for phase {phase} while the barrier is in phase {state['phase']}")
    state["phase"] = 1 - phase


def _commit(state: dict[str, Any]) -> None:
    state["groups"] = state.get("groups", 0) + 1


def _wait_group(state: dict[str, Any], pending: int) -> None:
    state["groups"] = min(state.get("groups", 0), pending)


register_all()
expect = register_effect("hopper.expect", 1, _expect)
wait = register_effect("hopper.wait", 1, _wait)
fence = register_effect("hopper.fence", 0)
commit = register_effect("hopper.commit", 0, _commit)
wait_group = register_effect("hopper.wait_group", 1, _wait_group)

_PTX: dict[str, Callable[..., str]] = {
    "hopper.expect": lambda n: f"mbarrier.arrive.expect_tx.shared.b64 _, [barrier], {n!r};",
    "hopper.wait": lambda p: f"mbarrier.try_wait.parity.shared.b64 done, [barrier], {p!r};",
    "hopper.fence": lambda: "wgmma.fence.sync.aligned;",
    "hopper.commit": lambda: "wgmma.commit_group.sync.aligned;",
    "hopper.wait_group": lambda n: f"wgmma.wait_group.sync.aligned {n!r};",
}


# -- a schedule ----------------------------------------------------------------------------------------------


def product(m: int, n: int, k: int) -> PrimFunc:
    """``C = A @ B.T`` of float16, summed in float32."""
    a, b = te.placeholder((m, k), "float16", "a"), te.placeholder((n, k), "float16", "b")
    c = te.compute(
        (m, n),
        lambda i, j: te.reduce(
            "sum", (k,), lambda r: a[i, r].astype("float32") * b[j, r].astype("float32")
        ),
        "c",
    )
    return te.primfunc("product", [a, b], [c])


def schedule(func: PrimFunc) -> Schedule:
    """One 64x64 tile of C at a time; the reduction in steps of 64: a copy of each operand, four products."""
    sch = Schedule(func)
    c = sch.get_block("c")
    a, b = (sch.cache_read(c, n, SWIZZLED) for n in (0, 1))
    out = sch.cache_write(c, ACCUMULATOR)
    for block in (a, b, c):
        sch.transform_layout(block, "write", 0, IndexMap.parse("i,j -> i//64, j//64, i%64, j%64"))
    i, j = sch.get_loops(out)
    (i0, i1), (j0, j1) = sch.split(i, [None, M]), sch.split(j, [None, N])
    sch.reorder(i0, j0, i1, j1)
    sch.compute_at(c, j0)
    i2, j2, k = sch.get_loops(c)[2:]
    k0, k1, k2 = sch.split(k, [None, ROW // K, K])
    sch.reorder(k0, k1, i2, j2, k2)
    for copy in (a, b):
        sch.compute_at(copy, k0)
    start = sch.decompose_reduction(c, k0)
    sch.tensorize(sch.get_loops(start)[-2], "hopper.clear.64x64")
    for copy in (a, b):
        sch.tensorize(sch.get_loops(copy)[-2], "hopper.tma.64x64.f16")
    sch.tensorize(i2, f"hopper.wgmma.m{M}n{N}k{K}.f16")
    sch.tensorize(i1, "hopper.store.64x64")
    return sch


# -- placing the synchronisation -----------------------------------------------------------------------------


def compile_program(sch: Schedule) -> PrimFunc:
    """The lowered program, its copies and products waited for."""
    func = lower(sch.func)
    return func.with_(body=_synchronised(func.body, None))


def _kind(s: Stmt) -> str | None:
    """``tma`` or ``wgmma`` for a statement that starts such work and nothing else."""
    names = {x.intrinsic.name.split(".")[1] for x in walk_stmt(s) if isinstance(x, TensorCall)}
    return names.pop() if len(names) == 1 and names <= {"tma", "wgmma"} else None


def _synchronised(s: Stmt, step: For | None) -> Stmt:
    """``step``: the innermost loop around; each iteration uses the barrier once, in alternating phases."""
    if isinstance(s, For):
        return dataclasses.replace(s, body=_synchronised(s.body, s))
    if isinstance(s, Alloc):
        return dataclasses.replace(s, body=_synchronised(s.body, step))
    if not isinstance(s, Seq):
        return s
    result: list[Stmt] = []
    copies = 0
    for child in s.stmts:
        kind = _kind(child)
        if kind == "tma":
            result += [Evaluate(expect(TILE_BYTES)), child]
            copies += 1
        elif kind == "wgmma" and copies:
            assert step is not None
            result += [Evaluate(wait(step.var % 2)), Evaluate(fence()), child]
            # The tiles are overwritten by the next iteration's copies: products must be over before.
            result += [Evaluate(commit()), Evaluate(wait_group(0))]
        else:
            result.append(_synchronised(child, step))
    return seq(result)


def ptx(func: PrimFunc) -> list[str]:
    """The instructions of a program in order, loops written once."""
    return list(_lines(func.body))


def _lines(s: Stmt) -> Iterator[str]:
    if isinstance(s, TensorCall):
        yield from implementation(BACKEND, s.intrinsic.name)(*s.operands)
    elif isinstance(s, Evaluate):
        assert isinstance(s.value, Call)
        yield _PTX[s.value.name](*s.value.args)
    elif isinstance(s, For | Alloc):
        yield from _lines(s.body)
    else:
        assert isinstance(s, Seq)
        for child in s.stmts:
            yield from _lines(child)
