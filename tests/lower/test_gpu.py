"""Lowering of GPU programs: every pass keeps the meaning, launches have their form, barriers are few and
enough.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.gpu_programs import (
    CASES,
    across_threads,
    bind_all,
    injective,
    row_softmax,
    row_sums,
    tiled_matmul,
)
from tests.schedule.programs import arrays, chain, matmul, matmul_relu, softmax
from tilewright.errors import ScheduleError, TargetError
from tilewright.ir.expr import Call, Var, as_expr, load
from tilewright.ir.interp import run
from tilewright.ir.launch import thread_axis
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.stmt import (
    Alloc,
    Block,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Seq,
    Stmt,
    Store,
    child_stmts,
    seq,
)
from tilewright.ir.verify import verify
from tilewright.ir.visit import const_int, walk_stmt
from tilewright.lower import PASSES, THREAD_PASSES, lower, passes_for
from tilewright.lower.allocations import place_allocations
from tilewright.lower.limits import check_limits, launches
from tilewright.schedule import BlockRef, Schedule
from tilewright.scheduling import Workbench
from tilewright.target import PRESETS, Gpu, Target

SM_80 = Target.parse("sm_80")


def original(name: str, size: tuple[int, ...]) -> PrimFunc:
    if "matmul" in name:
        return matmul(*size)
    return {"softmax": softmax, "injective": chain}.get(name, row_sums)(*size)


def lowered(sch: Schedule | PrimFunc) -> PrimFunc:
    return lower(sch if isinstance(sch, PrimFunc) else sch.func, passes=THREAD_PASSES)


def is_barrier(s: Stmt) -> bool:
    return isinstance(s, Evaluate) and isinstance(s.value, Call) and s.value.name == "barrier"


def barriers(func: PrimFunc) -> int:
    return sum(map(is_barrier, walk_stmt(func.body)))


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, (_, sizes) in CASES.items() for size in sizes]
)
def test_every_pass_keeps_the_meaning(name: str, size: tuple[int, ...]) -> None:
    func, sch = original(name, size), CASES[name][0](*size)
    inputs = arrays(func)
    expected = run(func, inputs)
    seen: list[str] = []

    def after(pass_name: str, result: PrimFunc) -> None:
        seen.append(pass_name)
        verify(result)
        for got, wanted in zip(run(result, inputs, seed=len(seen)), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-5, err_msg=f"after {pass_name}")

    result = lower(sch.func, after, passes_for(SM_80))
    assert seen == [n for n, _ in THREAD_PASSES] + ["check_limits"]
    assert to_text(parse(to_text(result))) == to_text(result)
    require_form(result)


def require_form(func: PrimFunc) -> None:
    """Launches: block loops, shared allocations, thread loops, each axis at most once, then no such loop."""
    for stmt in walk_stmt(func.body):
        assert not isinstance(stmt, Block)
        assert not isinstance(stmt, For) or stmt.kind in ("serial", "vectorized") or thread_axis(stmt)
    stack: list[Stmt] = [func.body]
    while stack:
        stmt = stack.pop()
        if isinstance(stmt, Seq | Alloc):
            assert not isinstance(stmt, Alloc) or stmt.buffer.scope == "global"
            stack.extend(child_stmts(stmt))
            continue
        axes = []
        while isinstance(stmt, Alloc) or (isinstance(stmt, For) and thread_axis(stmt)):
            if isinstance(stmt, Alloc):
                threads = any(a.startswith("threadIdx") for a in axes)
                assert stmt.buffer.scope == ("register" if threads else "shared")
            else:
                axes.append(thread_axis(stmt))
            stmt = stmt.body
        assert "blockIdx.x" in axes
        assert "threadIdx.x" in axes
        order = [f"{kind}.{axis}" for kind in ("blockIdx", "threadIdx") for axis in "zyx"]
        assert axes == [a for a in order if a in axes]
        for inner in walk_stmt(stmt):
            assert not isinstance(inner, For) or thread_axis(inner) is None
            assert not isinstance(inner, Alloc) or inner.buffer.scope == "register"


def test_sizes_of_tiles_and_launches() -> None:
    func = lowered(tiled_matmul(64, 32, 16))
    sizes = {s.buffer.name: s.buffer.static_shape for s in walk_stmt(func.body) if isinstance(s, Alloc)}
    assert sizes == {"A_shared": (16, 8), "B_shared": (8, 16), "C_register": (2, 2)}
    (size,) = launches(func)
    assert [const_int(e) for e in (*size.grid, *size.block)] == [2, 4, 1, 8, 8, 1]
    assert (size.threads, size.shared_bytes, size.register_bytes) == (64, 2 * 16 * 8 * 4, 16)


def test_virtual_threads_have_copies_of_what_differs_between_them() -> None:
    func = lowered(tiled_matmul(64, 64, 16, virtual=2, align=True))
    found = {s.buffer.name: s.buffer for s in walk_stmt(func.body) if isinstance(s, Alloc)}
    assert {n: b.static_shape for n, b in found.items()} == {
        "A_shared": (2, 8, 8),  # depends on the virtual thread's row, not on its column
        "B_shared": (2, 8, 8),
        "C_register": (2, 2, 2, 2),
    }
    # Rows of 8 floats lie 36 apart: 4 modulo 32.
    assert [const_int(s) for s in found["A_shared"].strides or ()] == [8 * 36, 36, 1]
    assert barriers(func) == 2


def test_barriers_are_few() -> None:
    assert barriers(lowered(tiled_matmul(32, 32, 16))) == 2
    assert barriers(lowered(across_threads(3, 40))) == 1
    # The maximum's partial results, the maximum, the sum's partial results; each thread reads its own
    # exponentials.
    assert barriers(lowered(row_softmax(3, 20))) == 3
    assert barriers(lowered(injective(6, 9))) == 0


def test_no_barrier_where_one_thread_reads_what_it_wrote() -> None:
    func = matmul(8, 8, 4)
    sch = Schedule(func)
    c = BlockRef("C")
    d = sch.cache_write(c, "shared")
    row = sch.get_loops(d)[0]
    sch.compute_at(c, row)
    sch.bind(row, "blockIdx.x")
    for block in (c, d):
        _, t = sch.split(sch.get_loops(block)[-2 if block == c else -1], [None, 4])
        sch.bind(t, "threadIdx.x")
    result = lowered(sch)
    assert barriers(result) == 0
    np.testing.assert_allclose(run(result, arrays(func))[0], run(func, arrays(func))[0], rtol=1e-5)


def test_loops_over_an_axis_inside_one_over_another() -> None:
    """Two rows for each thread block, a row for all threads of one ``y``: they meet inside the loop over
    ``y``.
    """
    func = softmax(6, 12)
    sch = Schedule(func)
    rows, j = sch.get_loops(BlockRef("y"))
    block, y = sch.split(rows, [None, 2])
    sch.bind(block, "blockIdx.x")
    sch.bind(y, "threadIdx.y")
    sch.bind(sch.split(j, [None, 4])[1], "threadIdx.x")
    for name in ("total", "e", "top"):
        sch.set_scope(BlockRef(name), "shared")
        sch.compute_at(BlockRef(name), y)
    sch.bind(sch.split(sch.get_loops(BlockRef("e"))[-1], [None, 4])[1], "threadIdx.x")
    inputs = arrays(func)
    expected = run(func, inputs)[0]

    def after(name: str, result: PrimFunc) -> None:
        np.testing.assert_allclose(run(result, inputs)[0], expected, rtol=1e-5, err_msg=name)

    after("scheduled", sch.func)
    result = lower(sch.func, after, THREAD_PASSES)
    assert {s.buffer.name: s.buffer.static_shape for s in walk_stmt(result.body) if isinstance(s, Alloc)} == {
        "top": (2,),
        "e": (2, 12),
        "total": (2,),
    }


def test_shorter_nests_are_guarded_and_unbound_parts_run_in_one_thread() -> None:
    func = chain(6, 9)
    sch = Schedule(func)
    t = sch.fuse(*sch.get_loops(BlockRef("c")))
    sch.bind(t, "threadIdx.x")
    result = lowered(sch)
    assert [launch.threads for launch in launches(result)] == [1, 1, 42]
    np.testing.assert_allclose(run(result, arrays(func))[0], run(func, arrays(func))[0], rtol=1e-6)
    sch = Schedule(softmax(2, 12))
    row, j = sch.get_loops(BlockRef("y"))
    bind_all(sch, bx=row, tx=j)
    for name in ("total", "e"):
        sch.set_scope(BlockRef(name), "shared")
        sch.compute_at(BlockRef(name), row)
    sch.bind(sch.split(sch.get_loops(BlockRef("e"))[-1], [None, 5])[1], "threadIdx.x")
    result = lowered(sch)
    assert launches(result)[-1].threads == 12
    conditions = [repr(s.cond) for s in walk_stmt(result.body) if isinstance(s, If)]
    assert any("threadIdx_x < 5" in c for c in conditions)
    inputs = arrays(softmax(2, 12))
    np.testing.assert_allclose(run(result, inputs)[0], run(softmax(2, 12), inputs)[0], rtol=1e-5)


def test_registers_used_in_several_launches_live_in_memory() -> None:
    sch = injective(6, 9)
    sch.set_scope(BlockRef("a"), "register")
    sch.set_scope(BlockRef("b"), "shared")
    result = lowered(sch)
    assert {s.buffer.scope for s in walk_stmt(result.body) if isinstance(s, Alloc)} == {"global"}
    inputs = arrays(chain(6, 9))
    np.testing.assert_allclose(run(result, inputs)[0], run(chain(6, 9), inputs)[0], rtol=1e-6)


def test_virtual_threads_on_a_cpu() -> None:
    func = matmul(8, 12, 5)
    sch = Schedule(func)
    d = sch.cache_write(BlockRef("C"), "register")
    v, i = sch.split(sch.get_loops(d)[0], [2, None])
    sch.reorder(i, v)
    sch.virtual_thread(v)
    sch.compute_at(BlockRef("C"), v)
    inputs = arrays(func)
    result = lower(sch.func)
    assert {s.kind for s in walk_stmt(result.body) if isinstance(s, For)} == {"serial"}
    assert [s.buffer.static_shape for s in walk_stmt(result.body) if isinstance(s, Alloc)] == [(2, 1, 12)]
    np.testing.assert_allclose(run(result, inputs)[0], run(func, inputs)[0], rtol=1e-5)


def test_threads_cannot_meet_where_only_some_come_by() -> None:
    func = parse(
        """
@primfunc({"outputs": 1})
def f(x: float32[8], y: float32[8]):
    for t in thread("threadIdx.x", 8):
        s = alloc(float32[8], scope="shared")
        if t < 4:
            s[t] = x[t]
            y[t] = s[3 - t]
"""
    )
    place = dict(THREAD_PASSES)["place_barriers"]
    with pytest.raises(ScheduleError, match="inside of a condition that differs between them, over 's'"):
        place(func)


def test_asynchronous_copies_are_visible_after_wait_and_barrier() -> None:
    """Double buffering: the copy of the next tile runs while this one is worked on."""
    func = parse(
        """
@primfunc({"outputs": 1})
def f(x: float32[4, 8], y: float32[8]):
    s = alloc(float32[2, 8], scope="shared")
    for t in thread("threadIdx.x", 8):
        y[t] = 0.0
        with annotate("async_copy", True):
            s[0, t] = x[0, t]
        evaluate(call("async_commit", dtype="bool"))
        for k in serial(4):
            if k < 3:
                with annotate("async_copy", True):
                    s[(k + 1) % 2, t] = x[k + 1, t]
            evaluate(call("async_commit", dtype="bool"))
            evaluate(call("async_wait", 1, dtype="bool"))
            y[t] = y[t] + s[k % 2, 7 - t]
"""
    )
    inputs = [np.arange(32, dtype=np.float32).reshape(4, 8)]
    result = dict(THREAD_PASSES)["place_barriers"](func)
    assert barriers(result) == 2
    np.testing.assert_allclose(run(result, inputs)[0], inputs[0].sum(0)[::-1])


def test_three_stages_need_one_barrier() -> None:
    """With a slot more than copies in flight, what is copied and what is read never share a slot."""
    func = parse(
        """
@primfunc({"outputs": 1})
def f(x: float32[6, 8], y: float32[8]):
    s = alloc(float32[3, 8], scope="shared")
    for t in thread("threadIdx.x", 8):
        y[t] = 0.0
        for p in serial(2):
            with annotate("async_copy", True):
                s[p, t] = x[p, t]
            evaluate(call("async_commit", dtype="bool"))
        for k in serial(6):
            evaluate(call("async_wait", 1, dtype="bool"))
            if k < 4:
                with annotate("async_copy", True):
                    s[(k + 2) % 3, t] = x[k + 2, t]
            evaluate(call("async_commit", dtype="bool"))
            y[t] = y[t] + s[k % 3, 7 - t]
"""
    )
    inputs = [np.arange(48, dtype=np.float32).reshape(6, 8)]
    result = dict(THREAD_PASSES)["place_barriers"](func)
    assert barriers(result) == 1
    np.testing.assert_allclose(run(result, inputs)[0], inputs[0].sum(0)[::-1])


# -- targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("needs 64 threads in a block; the target has 32", {"block_threads": 32}),
        ("needs 1024 bytes of shared memory; the target has 1000", {"block_shared_bytes": 1000}),
        ("needs 4 32-bit registers in a thread; the target has 3", {"thread_registers": 3}),
        ("needs 256 32-bit registers in a block; the target has 255", {"registers": 255}),
    ],
)
def test_launches_that_do_not_fit_are_refused(message: str, changes: dict[str, int]) -> None:
    assert SM_80.gpu is not None
    func = lowered(tiled_matmul(32, 32, 16))
    assert check_limits(func, SM_80.gpu) is func  # fits
    fields = {f: getattr(SM_80.gpu, f) for f in Gpu.__dataclass_fields__}
    with pytest.raises(ScheduleError, match=f"launch 0 of 'matmul' {message}"):
        check_limits(func, Gpu(**{**fields, **changes}))


def test_gpu_targets_are_numbers() -> None:
    for name in ("sm_80", "sm_86", "sm_89", "sm_90"):
        target = PRESETS[name]
        gpu = target.gpu
        assert gpu is not None
        assert Target.from_json(target.to_json()) == target
        assert gpu.block_shared_bytes < gpu.shared_bytes
        assert gpu.block_threads <= gpu.threads
        assert gpu.threads % gpu.warp == 0
        assert passes_for(target)[:-1] == THREAD_PASSES
    assert passes_for(PRESETS["x86-64-v3"]) == PASSES
    assert PRESETS["x86-64-v3"].gpu is None


def test_compiling_for_a_gpu_says_that_there_is_no_backend() -> None:
    from tilewright.backend import get_backend

    with pytest.raises(TargetError, match="'sm_90' needs backend 'cuda', which is not installed"):
        get_backend(Target.parse("sm_90"))


def test_programs_for_threads_are_refused_where_there_are_none() -> None:
    with pytest.raises(
        ScheduleError, match=r"loop 'i0_0' of 'matmul' is bound to blockIdx.y, and the target has"
    ):
        lower(tiled_matmul(8, 8, 4).func)


def test_aligned_rows_on_a_cpu() -> None:
    """Rows of a temporary are padded once it has its final shape; native code honours that."""
    sch = Schedule(chain(6, 9))
    sch.storage_align(BlockRef("a"), 0, 16, 3)
    found = [
        s.buffer for s in walk_stmt(lower(sch.func).body) if isinstance(s, Alloc) and s.buffer.name == "a"
    ]
    assert [const_int(s) for b in found for s in b.strides or ()] == [19, 1]
    assert all(not b.stride_align for b in found)
    sch = Workbench(matmul_relu(9, 20, 5), "native")
    sch.storage_align(BlockRef("C"), 0, 32, 8)
    sch.compute_at(BlockRef("C"), sch.split(sch.get_loops(BlockRef("D"))[0], [None, 4])[0])
    sch.check(native=True)
    # One copy of the tile's code for the interior and one for the edge.
    found = [s.buffer for s in walk_stmt(lower(sch.func).body) if isinstance(s, Alloc)]
    assert {const_int(b.row_major_strides()[0]) for b in found} == {40}


def test_the_parts_of_a_pipeline_share_what_they_allocate() -> None:
    t = Buffer("t", (as_expr(4),), "float32")
    x, y = (Buffer(name, (as_expr(4),), "float32") for name in "xy")
    b = Var("b", lo=0, hi=3)
    part = Alloc(t, seq([Store(t, (b,), load(x, (b,))), Store(y, (b,), load(t, (b,)))]))
    launch = For(b, as_expr(4), seq([part, part]), "thread:blockIdx.x")
    placed = place_allocations(PrimFunc("parts", (x, y), launch, {"outputs": 1}))
    verify(placed)
    assert [s.buffer for s in walk_stmt(placed.body) if isinstance(s, Alloc)] == [t]
