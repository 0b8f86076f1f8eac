"""Primitives on GPU threads: what they make computes the same, and each refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.schedule.gpu_programs import CASES, across_threads, bind_all, injective, row_sums, tiled_matmul
from tests.schedule.programs import assert_same, chain, matmul, matmul_relu, softmax, symbolic
from tilewright.errors import ScheduleError
from tilewright.ir.parser import parse
from tilewright.ir.printer import structural_equal, to_text
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.verify import verify
from tilewright.schedule import BlockRef, IndexMap, LoopRef, Schedule, Trace


def original(name: str, size: tuple[int, ...]) -> PrimFunc:
    if "matmul" in name:
        return matmul(*size)
    return {"softmax": softmax, "injective": chain}.get(name, row_sums)(*size)


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, (_, sizes) in CASES.items() for size in sizes]
)
def test_schedules_compute_the_same(name: str, size: tuple[int, ...]) -> None:
    sch = CASES[name][0](*size)
    verify(sch.func)
    assert_same(original(name, size), sch)


@pytest.mark.parametrize("name", CASES)
def test_traces_round_trip(name: str) -> None:
    make, (size, *_) = CASES[name]
    sch, func = make(*size), original(name, size)
    text = sch.trace.to_json()
    assert Trace.from_json(text).to_json() == text
    assert structural_equal(Trace.from_json(text).apply(func).func, sch.func)
    again = Schedule(func)
    exec(str(sch.trace), {"sch": again})
    assert to_text(again.func) == to_text(sch.func)


def test_traces_apply_to_other_shapes() -> None:
    trace = tiled_matmul(32, 32, 16, virtual=2, align=True).trace
    assert_same(matmul(23, 35, 9), trace.apply(matmul(23, 35, 9)))
    assert_same(row_sums(2, 51), across_threads(4, 16).trace.apply(row_sums(2, 51)))


@pytest.mark.parametrize("name", CASES)
def test_scheduled_programs_keep_their_text(name: str) -> None:
    make, (size, *_) = CASES[name]
    text = to_text(make(*size).func)
    assert to_text(parse(text)) == text


def test_shorter_loops_over_an_axis_are_guarded() -> None:
    """Launches in which one nest needs fewer threads than another."""
    sch = Schedule(softmax(3, 20))
    row = sch.get_loops(sch.get_block("y"))[0]
    for name in ("total", "e", "top"):
        sch.set_scope(sch.get_block(name), "shared")
        sch.compute_at(sch.get_block(name), row)
    sch.bind(row, "blockIdx.x")
    sch.bind(sch.get_loops(sch.get_block("y"))[-1], "threadIdx.x")
    _, x = sch.split(sch.get_loops(sch.get_block("e"))[-1], [None, 3])
    sch.bind(x, "threadIdx.x")
    assert_same(softmax(3, 20), sch)


def test_binding_again_to_the_same_axis_changes_nothing() -> None:
    sch = injective(6, 9)
    loop = sch.get_loops(sch.get_block("a"))[0]
    before = sch.func
    sch.bind(loop, "blockIdx.x")
    assert sch.func is before


def test_symbolic_factors_and_sizes() -> None:
    """Threads of a block are a decision, the number of blocks follows."""
    sch = Schedule(matmul(20, 12, 6), symbolic=True)
    c = sch.get_block("C")
    d = sch.cache_write(c, "register")
    threads = sch.decide("threads", [2, 4, 8])
    i, j = sch.get_loops(d)
    by, ty = sch.split(i, [None, threads])
    sch.reorder(by, j, ty)
    sch.bind(by, "blockIdx.y")
    sch.bind(ty, "threadIdx.y")
    sch.compute_at(c, by)
    i, j, k = sch.get_loops(c)[1:]
    sch.reorder(k, i, j)
    sch.bind(i, "threadIdx.y")
    for value in (2, 8):
        assert_same(matmul(20, 12, 6), sch.trace.bind({"threads": value}).apply(matmul(20, 12, 6)))


# -- refusals ------------------------------------------------------------------------------------------------


def loop(sch: Schedule, block: str, n: int) -> LoopRef:
    return sch.get_loops(BlockRef(block))[n]


def after(func: PrimFunc, *steps: Callable[[Schedule], object]) -> Schedule:
    sch = Schedule(func)
    for step in steps:
        step(sch)
    return sch


def tiles() -> Schedule:
    """A matrix product whose copy of the result is bound, its reduction computed in the thread block."""
    sch = Schedule(matmul(8, 8, 4))
    d = sch.cache_write(BlockRef("C"), "register")
    by, ty = sch.split(sch.get_loops(d)[0], [None, 4])
    bind_all(sch, by=by, ty=ty)
    sch.compute_at(BlockRef("C"), by)
    return sch


def operand_in_registers() -> Schedule:
    sch = tiles()
    copy = sch.cache_read(BlockRef("C"), 0, "register")
    sch.compute_at(copy, loop(sch, "C_register", 0))
    sch.split(loop(sch, "A_register", 1), [None, 1])
    return sch


def fused_rows(scope: str) -> Schedule:
    """softmax row by row: everything else is computed inside the loop over rows."""
    sch = Schedule(softmax(4, 6))
    row = loop(sch, "y", 0)
    for name in ("total", "e", "top"):
        sch.set_scope(BlockRef(name), scope)
        sch.compute_at(BlockRef(name), row)
    return sch


def stencil(scope: str) -> Schedule:
    """Each row of ``c`` computes the three rows of ``b`` that it reads."""
    sch = Schedule(chain())
    sch.set_scope(BlockRef("b"), scope)
    sch.compute_at(BlockRef("b"), loop(sch, "c", 0))
    return sch


NEIGHBOUR = parse(
    """
@primfunc({"outputs": 1})
def neighbour(x: float32[8], y: float32[8]):
    g = alloc(float32[8])
    for i in serial(8):
        with block("g"):
            v = spatial(8, i)
            reads(x[v])
            writes(g[v])
            g[v] = x[v]
        with block("y"):
            v = spatial(8, i)
            reads(g[max(v - 1, 0)])
            writes(y[v])
            y[v] = g[max(v - 1, 0)]
"""
)


CASES_REFUSED: list[tuple[str, Callable[[], Schedule], Callable[[Schedule], object]]] = [
    (
        "bind: 'threadIdx.w' is not a thread axis",
        lambda: Schedule(matmul()),
        lambda s: s.bind(loop(s, "C", 0), "threadIdx.w"),
    ),
    (
        "bind: loop 'i1' is already vectorized",
        lambda: after(chain(), lambda s: s.vectorize(loop(s, "a", 1))),
        lambda s: s.bind(loop(s, "a", 1), "threadIdx.x"),
    ),
    (
        "bind: loop 'i0' is already threadIdx.x",
        lambda: after(chain(), lambda s: s.bind(loop(s, "a", 0), "threadIdx.x")),
        lambda s: s.bind(loop(s, "a", 0), "threadIdx.y"),
    ),
    (
        "bind: loop 'r0' drives the reduction of block 'C'",
        lambda: Schedule(matmul()),
        lambda s: s.bind(loop(s, "C", 2), "threadIdx.x"),
    ),
    (
        "virtual_thread: the extent n of loop 'i0' is not constant",
        lambda: Schedule(symbolic()),
        lambda s: s.virtual_thread(loop(s, "s", 0)),
    ),
    (
        "virtual_thread: loop 'r0' drives the reduction of block 'C'",
        lambda: Schedule(matmul()),
        lambda s: s.virtual_thread(loop(s, "C", 2)),
    ),
    (
        "bind: loop 'i1' is inside loop 'i0', which is bound to threadIdx.x too",
        lambda: after(matmul(), lambda s: s.bind(loop(s, "C", 0), "threadIdx.x")),
        lambda s: s.bind(loop(s, "C", 1), "threadIdx.x"),
    ),
    (
        "bind: loop 'i1' is inside loop 'i0', which is bound to threadIdx.x too",
        lambda: after(matmul(), lambda s: s.bind(loop(s, "C", 1), "threadIdx.x")),
        lambda s: s.bind(loop(s, "C", 0), "threadIdx.x"),
    ),
    (
        "bind: loop 'i1' over blockIdx.x is inside loop 'i0', which is serial",
        lambda: Schedule(matmul()),
        lambda s: s.bind(loop(s, "C", 1), "blockIdx.x"),
    ),
    (
        "bind: loop 'i1' over blockIdx.x is inside loop 'i0', which is threadIdx.x",
        lambda: after(matmul(), lambda s: s.bind(loop(s, "C", 0), "threadIdx.x")),
        lambda s: s.bind(loop(s, "C", 1), "blockIdx.x"),
    ),
    (
        "bind: loop 'i1' over blockIdx.x is inside loop 'i0', which is virtual",
        lambda: after(matmul(), lambda s: s.virtual_thread(loop(s, "C", 0))),
        lambda s: s.bind(loop(s, "C", 1), "blockIdx.x"),
    ),
    (
        "bind: inside loop 'i0' there is more than loop 'i1' over blockIdx.y",
        lambda: after(fused_rows("shared").func, lambda s: s.bind(loop(s, "y", 0), "blockIdx.x")),
        lambda s: s.bind(loop(s, "y", 1), "blockIdx.y"),
    ),
    (
        "would become illegal: inside loop 'i0' there is more than loop 'i1' over blockIdx.y",
        lambda: after(
            matmul_relu(),
            lambda s: s.set_scope(BlockRef("C"), "shared"),
            lambda s: bind_all(s, bx=loop(s, "D", 0), by=loop(s, "D", 1)),
        ),
        lambda s: s.compute_at(BlockRef("C"), loop(s, "D", 0)),
    ),
    (
        "reorder: loop 'i0' over blockIdx.x is inside loop 'i1', which is serial",
        lambda: after(matmul(), lambda s: s.bind(loop(s, "C", 0), "blockIdx.x")),
        lambda s: s.reorder(loop(s, "C", 1), loop(s, "C", 0)),
    ),
    (
        "bind: the program mixes the parallel loop 'i0' with thread axes",
        lambda: after(chain(), lambda s: s.parallel(loop(s, "a", 0))),
        lambda s: s.bind(loop(s, "b", 0), "blockIdx.x"),
    ),
    (
        "parallel: the program mixes the parallel loop 'i0' with thread axes",
        lambda: after(chain(), lambda s: s.bind(loop(s, "b", 0), "blockIdx.x")),
        lambda s: s.parallel(loop(s, "a", 0)),
    ),
    (
        "split: loop 'i0' is thread:blockIdx.x",
        lambda: after(chain(), lambda s: s.bind(loop(s, "a", 0), "blockIdx.x")),
        lambda s: s.split(loop(s, "a", 0), [None, 2]),
    ),
    # one copy of shared memory for a thread block, of global memory for all of them
    (
        (
            "bind: different iterations of loop 'i0' write the same elements of 'b' in block 'b', and 'b' is "
            "in shared "
            "memory, where they have one copy together"
        ),
        lambda: stencil("shared"),
        lambda s: s.bind(loop(s, "c", 0), "threadIdx.x"),
    ),
    (
        (
            "bind: different iterations of loop 'i0' write the same elements of 'b' in block 'b', and 'b' is "
            "in global "
            "memory, where they have one copy together"
        ),
        lambda: stencil("global"),
        lambda s: s.bind(loop(s, "c", 0), "blockIdx.x"),
    ),
    (
        (
            "bind: different iterations of loop 'i0' write the same elements of 'b' in block 'b', and "
            "'b' is in "
            "accel.buffer memory, where they have one copy together"
        ),
        lambda: stencil("accel.buffer"),
        lambda s: s.bind(loop(s, "c", 0), "blockIdx.x"),
    ),
    (
        (
            "the threadIdx.x loop 'i0' would become illegal: different iterations of loop 'i0' write the "
            "same elements "
            "of 'b'"
        ),
        lambda: after(stencil("register").func, lambda s: s.bind(loop(s, "c", 0), "threadIdx.x")),
        lambda s: s.set_scope(BlockRef("b"), "shared"),
    ),
    (
        "bind: block 'y' may read elements of 'g' that block 'g' writes in another iteration of loop 'i'",
        lambda: Schedule(NEIGHBOUR),
        lambda s: s.bind(loop(s, "y", 0), "blockIdx.x"),
    ),
    (
        "bind: block 'y' may read elements of 'g' that block 'g' writes in another iteration of loop 'i'",
        lambda: Schedule(NEIGHBOUR),
        lambda s: s.bind(loop(s, "y", 0), "threadIdx.x"),
    ),
    # registers stay with their threads
    (
        (
            "bind: registers belong to one thread, and blocks 'C' and 'C_register' may use elements of "
            "'C_register' in "
            "different threads of threadIdx.y"
        ),
        tiles,
        lambda s: s.bind(loop(s, "C", 2), "threadIdx.y"),
    ),
    (
        (
            "bind: registers belong to one thread, and block 'C_register' uses 'C_register' outside of loops "
            "over "
            "threadIdx.x, on which block 'C' divides it among threads"
        ),
        tiles,
        lambda s: s.bind(loop(s, "C", 1), "threadIdx.x"),
    ),
    (
        (
            "bind: registers belong to one thread, and block 'C_init' uses 'C_register' outside of loops "
            "over "
            "threadIdx.y, on which block 'C' divides it among threads"
        ),
        lambda: after(tiles().func, lambda s: s.decompose_reduction(BlockRef("C"), loop(s, "C", 1))),
        lambda s: s.bind(loop(s, "C", 1), "threadIdx.y"),
    ),
    (
        (
            "the loops over thread axes would become illegal: registers belong to one thread, and block 's' "
            "uses 's_rf'"
        ),
        lambda: across_threads(3, 40),
        lambda s: s.set_scope(BlockRef("s_rf"), "register"),
    ),
    (
        # thread 0 alone writes it, by a loop of one iteration; all threads of the launch read it
        (
            "bind: registers belong to one thread, and block 'C' uses 'A_register' outside of loops over "
            "threadIdx.y"
        ),
        operand_in_registers,
        lambda s: s.bind(loop(s, "A_register", 2), "threadIdx.y"),
    ),
    # storage_align
    (
        "storage_align: block 'C' writes the parameter 'C', whose layout is the caller's",
        lambda: Schedule(matmul()),
        lambda s: s.storage_align(BlockRef("C"), 0, 32, 8),
    ),
    (
        "storage_align: 'C_register' is in registers, which have no addresses",
        tiles,
        lambda s: s.storage_align(BlockRef("C"), 0, 32, 8),
    ),
    (
        "storage_align: 'a' has 2 dimensions, there is no dimension 2",
        lambda: Schedule(chain()),
        lambda s: s.storage_align(BlockRef("a"), 2, 32, 8),
    ),
    (
        "storage_align: offset 32 is not in 0 .. factor - 1 .factor 32.",
        lambda: Schedule(chain()),
        lambda s: s.storage_align(BlockRef("a"), 0, 32, 32),
    ),
    (
        "transform_layout: 'a' has explicit or aligned strides",
        lambda: after(chain(), lambda s: s.storage_align(BlockRef("a"), 0, 32, 8)),
        lambda s: s.transform_layout(BlockRef("a"), "write", 0, IndexMap.parse("i,j -> j,i")),
    ),
]


@pytest.mark.parametrize(("message", "make", "step"), CASES_REFUSED, ids=[c[0][:70] for c in CASES_REFUSED])
def test_refusals_say_why_and_change_nothing(
    message: str, make: Callable[[], Schedule], step: Callable[[Schedule], object]
) -> None:
    sch = make()
    func, trace = sch.func, len(sch.trace)
    with pytest.raises(ScheduleError, match=message) as caught:
        step(sch)
    assert "^" in str(caught.value)
    assert sch.func is func
    assert len(sch.trace) == trace or all(i.name.startswith("get_") for i in sch.trace.instructions[trace:])


def test_what_is_illegal_for_threads_is_legal_where_memory_is_private() -> None:
    for scope, axis in (("shared", "blockIdx.x"), ("register", "blockIdx.x"), ("register", "threadIdx.x")):
        sch = stencil(scope)
        sch.bind(loop(sch, "c", 0), axis)
        assert_same(chain(), sch)
