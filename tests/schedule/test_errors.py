"""One test for each message: the condition that failed, the program's lines with a caret, the hint."""

from collections.abc import Callable

import pytest

from tests.schedule.illegal_programs import (
    BACKWARDS,
    HALF_WRITTEN,
    RECURRENCE,
    REPEATED_SUM,
    SHIFTED_START,
    TIED,
    carried,
    diagonal,
    overlapping,
    pair,
    read_ahead,
    repeated,
    shared_temporary,
    shifted_pair,
    summed_windows,
    transposed_sum,
    two_readers,
    two_stores,
    unused,
)
from tests.schedule.programs import chain, conv, matmul, matmul_relu, softmax, symbolic
from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import Var, as_expr, maximum
from tilewright.ir.parser import parse
from tilewright.ir.stmt import For, PrimFunc, Seq
from tilewright.ir.visit import walk_stmt
from tilewright.schedule import BlockRef, IndexMap, LoopRef, Schedule


def loop(sch: Schedule, block: str, n: int) -> LoopRef:
    return sch.get_loops(sch.get_block(block))[n]


def decomposed() -> Schedule:
    sch = Schedule(matmul_relu())
    sch.decompose_reduction(BlockRef("C"), loop(sch, "C", 2))
    return sch


def after(func: PrimFunc, *steps: Callable[[Schedule], object]) -> Schedule:
    sch = Schedule(func)
    for step in steps:
        step(sch)
    return sch


C, D = BlockRef("C"), BlockRef("D")

CASES: list[tuple[str, Callable[[], Schedule], Callable[[Schedule], object]]] = [
    # handles
    (
        "get_block: there is no block 'Z' in 'matmul' .blocks: C.",
        lambda: Schedule(matmul()),
        lambda s: s.get_block("Z"),
    ),
    (
        "parallel: loop 'i0' is no longer in 'matmul'",
        lambda: Schedule(matmul()),
        lambda s: (old := loop(s, "C", 0), s.split(old, [None, 2]), s.parallel(old)),
    ),
    # split
    ("split: no factors are given", lambda: Schedule(matmul()), lambda s: s.split(loop(s, "C", 0), [])),
    (
        "split: 2 factors are None",
        lambda: Schedule(matmul()),
        lambda s: s.split(loop(s, "C", 0), [None, None]),
    ),
    (
        "split: factor 0 is not a positive",
        lambda: Schedule(matmul()),
        lambda s: s.split(loop(s, "C", 0), [None, 0]),
    ),
    (
        "split: the factors' product 6 is less than the extent 7",
        lambda: Schedule(matmul()),
        lambda s: s.split(loop(s, "C", 0), [2, 3]),
    ),
    (
        "split: loop 'i0' is unrolled",
        lambda: after(matmul(), lambda s: s.unroll(loop(s, "C", 0))),
        lambda s: s.split(loop(s, "C", 0), [None, 2]),
    ),
    (
        "split: the factors multiply to more than 140737488355328 iterations",
        lambda: Schedule(matmul()),
        lambda s: s.split(loop(s, "C", 0), [1 << 24, None, 1 << 24]),
    ),
    # fuse
    ("fuse: no loops are given", lambda: Schedule(matmul()), lambda s: s.fuse()),
    (
        "fuse: loop 'r0' is not directly inside loop 'i0'",
        lambda: Schedule(matmul()),
        lambda s: s.fuse(loop(s, "C", 0), loop(s, "C", 2)),
    ),
    (
        "fuse: the loops drive both spatial and reduce iterators",
        lambda: Schedule(matmul()),
        lambda s: s.fuse(loop(s, "C", 1), loop(s, "C", 2)),
    ),
    # reorder
    (
        "reorder: a loop is given twice",
        lambda: Schedule(matmul()),
        lambda s: s.reorder(loop(s, "C", 1), loop(s, "C", 1)),
    ),
    (
        "reorder: loops 'i0' and 'i0' are not in one perfect nest",
        lambda: Schedule(matmul_relu()),
        lambda s: s.reorder(loop(s, "D", 0), loop(s, "C", 0)),
    ),
    (
        "reorder: the vectorized loop 'i1' would no longer be innermost",
        lambda: after(matmul_relu(), lambda s: s.vectorize(loop(s, "D", 1))),
        lambda s: s.reorder(loop(s, "D", 1), loop(s, "D", 0)),
    ),
    (
        "reorder: block 'y' reads elements of 'y' that other instances of it write",
        lambda: Schedule(RECURRENCE),
        lambda s: s.reorder(*reversed(s.split(loop(s, "y", 0), [2, 4]))),
    ),
    (
        "reorder: block 'b' accumulates, and loop 'i0' may repeat an iteration",
        lambda: Schedule(overlapping()),
        lambda s: s.reorder(loop(s, "b", 2), loop(s, "b", 0)),
    ),
    (
        "reorder: block 'y' may read elements of 't' that block 't' writes in another iteration of loop 'i'",
        lambda: Schedule(carried(inner=2)),
        lambda s: s.reorder(loop(s, "y", 1), loop(s, "y", 0)),
    ),
    # parallel, vectorize, unroll
    (
        "unroll: loop 'i0_1' has more than 65536 iterations",
        lambda: after(matmul(), lambda s: s.split(loop(s, "C", 0), [None, 1 << 17])),
        lambda s: s.unroll(loop(s, "C", 1)),
    ),
    (
        "vectorize: loop 'r0_1' has more than 65536 iterations",
        lambda: after(matmul(), lambda s: s.split(loop(s, "C", 2), [None, 1 << 17])),
        lambda s: s.vectorize(loop(s, "C", 3)),
    ),
    (
        "parallel: loop 'r0' drives the reduction of block 'C'",
        lambda: Schedule(matmul()),
        lambda s: s.parallel(loop(s, "C", 2)),
    ),
    (
        "parallel: parallel loops cannot be nested",
        lambda: after(matmul(), lambda s: s.parallel(loop(s, "C", 0))),
        lambda s: s.parallel(loop(s, "C", 1)),
    ),
    (
        "parallel: block 'y' reads elements of 'y' that other instances",
        lambda: Schedule(RECURRENCE),
        lambda s: s.parallel(loop(s, "y", 0)),
    ),
    (
        "parallel: different iterations of loop 'i0' write the same elements .* and 'b' is a parameter",
        lambda: Schedule(overlapping()),
        lambda s: s.parallel(loop(s, "b", 0)),
    ),
    (
        "parallel: different iterations of loop 'i' write .* 't' is also used by block 'y' outside the loop",
        lambda: Schedule(shared_temporary()),
        lambda s: s.parallel(loop(s, "t", 0)),
    ),
    (
        "parallel: block 'y' may read elements of 't' that block 't' writes in another iteration of loop 'i'",
        lambda: Schedule(carried()),
        lambda s: s.parallel(loop(s, "y", 0)),
    ),
    (
        "parallel: block 'y' may read elements of 't' that block 't' writes in another iteration of loop 'i'",
        lambda: Schedule(read_ahead()),
        lambda s: s.parallel(loop(s, "y", 0)),
    ),
    (
        "vectorize: the extent n of loop 'i0' is not constant",
        lambda: Schedule(symbolic()),
        lambda s: s.vectorize(loop(s, "s", 0)),
    ),
    (
        "vectorize: loop 'i0' is not innermost around a single block",
        lambda: Schedule(matmul()),
        lambda s: s.vectorize(loop(s, "C", 0)),
    ),
    (
        "unroll: the extent n of loop 'i0' is not constant",
        lambda: Schedule(symbolic()),
        lambda s: s.unroll(loop(s, "s", 0)),
    ),
    (
        "loop 'i0' is already parallel",
        lambda: after(matmul(), lambda s: s.parallel(loop(s, "C", 0))),
        lambda s: s.unroll(loop(s, "C", 0)),
    ),
    # compute_at
    (
        "compute_at: block 'D' writes the output 'D'",
        lambda: Schedule(matmul_relu()),
        lambda s: s.compute_at(D, loop(s, "C", 0)),
    ),
    (
        "compute_at: consumer 'c' of block 'a' is not below loop 'i0'",
        lambda: Schedule(two_readers()),
        lambda s: s.compute_at(BlockRef("a"), loop(s, "b", 0)),
    ),
    (
        "compute_at: loop 'i0' is the block's own",
        lambda: Schedule(matmul_relu()),
        lambda s: s.compute_at(C, loop(s, "C", 0)),
    ),
    (
        "compute_at: loop 'i1' is vectorized",
        lambda: after(matmul_relu(), lambda s: s.vectorize(loop(s, "D", 1))),
        lambda s: s.compute_at(C, loop(s, "D", 1)),
    ),
    (
        "compute_at: block 'C' is split into initialisation and update",
        decomposed,
        lambda s: s.compute_at(C, loop(s, "D", 0)),
    ),
    (
        "reverse_compute_at: block 'c' would read elements of 'b' before block 'b' has written them",
        lambda: Schedule(two_readers()),
        lambda s: s.reverse_compute_at(BlockRef("c"), loop(s, "a", 0)),
    ),
    # reverse_compute_at
    (
        "reverse_compute_at: no producer of block 'c' is below loop 'i0'",
        lambda: Schedule(chain()),
        lambda s: s.reverse_compute_at(BlockRef("c"), loop(s, "a", 0)),
    ),
    (
        "reverse_compute_at: loop 'r0' still reduces block 'C'",
        lambda: Schedule(matmul_relu()),
        lambda s: s.reverse_compute_at(D, loop(s, "C", 2)),
    ),
    (
        "reverse_compute_at: block 'C' does not write a gapless box of 'C' in one iteration of loop 'i0_1'",
        lambda: after(
            matmul_relu(8, 10, 5),
            lambda s: s.reorder(*reversed(s.split(loop(s, "C", 0), [2, 4]))),
        ),
        lambda s: s.reverse_compute_at(D, loop(s, "C", 0)),
    ),
    (
        "reverse_compute_at: block 'b' reads 'a' at .* which is not an iterator of its own",
        lambda: Schedule(pair()),
        lambda s: s.reverse_compute_at(BlockRef("b"), loop(s, "a", 1)),
    ),
    (
        "reverse_compute_at: block 'c' reads what .* needs several iterations at once",
        lambda: Schedule(transposed_sum()),
        lambda s: s.reverse_compute_at(BlockRef("c"), loop(s, "b", 0)),
    ),
    (
        "reverse_compute_at: block 'y' accumulates, and iterations of loop 'i' would repeat its work",
        lambda: Schedule(summed_windows()),
        lambda s: s.reverse_compute_at(BlockRef("y"), loop(s, "t", 0)),
    ),
    (
        "reverse_compute_at: block 'y' accumulates over 'vk', which would not begin at 0 but at .7 - i",
        lambda: Schedule(BACKWARDS),
        lambda s: s.reverse_compute_at(BlockRef("y"), loop(s, "t", 0)),
    ),
    # inline
    (
        "compute_inline: block 't' writes 't' at v in dimension 1, which is not an iterator of its own",
        lambda: Schedule(diagonal()),
        lambda s: s.compute_inline(BlockRef("t")),
    ),
    (
        "compute_inline: block 'C' is a reduction; its value is not one expression",
        lambda: Schedule(matmul_relu()),
        lambda s: s.compute_inline(C),
    ),
    (
        "compute_inline: block 'D' writes the output 'D'",
        lambda: Schedule(matmul_relu()),
        lambda s: s.compute_inline(D),
    ),
    (
        "compute_inline: nothing reads the result of block 't'",
        lambda: Schedule(unused()),
        lambda s: s.compute_inline(BlockRef("t")),
    ),
    (
        "compute_inline: block 'b' writes 'b' at .* in dimension 0, which is not an iterator of its own",
        lambda: after(
            chain(), lambda s: s.transform_layout(BlockRef("b"), "write", 0, IndexMap.tile(2, 0, 2))
        ),
        lambda s: s.compute_inline(BlockRef("b")),
    ),
    (
        "reverse_compute_inline: block 'a' must have exactly one producer, it has none",
        lambda: Schedule(chain()),
        lambda s: s.reverse_compute_inline(BlockRef("a")),
    ),
    (
        "reverse_compute_inline: block 'C' is a reduction; its value is not one expression",
        lambda: Schedule(matmul_relu()),
        lambda s: s.reverse_compute_inline(D),
    ),
    (
        "reverse_compute_inline: 'a', written by block 'a', is read by block 'c' too",
        lambda: Schedule(two_readers()),
        lambda s: s.reverse_compute_inline(BlockRef("b")),
    ),
    (
        "reverse_compute_inline: block 'b' reads 'a' at several positions",
        lambda: Schedule(pair()),
        lambda s: s.reverse_compute_inline(BlockRef("b")),
    ),
    (
        "compute_inline: several blocks write 'C'",
        decomposed,
        lambda s: s.compute_inline(BlockRef("C_init")),
    ),
    (
        "compute_inline: iterator 'u' of block 't' does not index 't'",
        lambda: Schedule(repeated()),
        lambda s: s.compute_inline(BlockRef("t")),
    ),
    (
        "reverse_compute_at: block 'c' reads at 'w' what its producers write at different places",
        lambda: Schedule(shifted_pair()),
        lambda s: s.reverse_compute_at(BlockRef("c"), loop(s, "a", 0)),
    ),
    (
        "block 'two' is not one nest of loops around one store",
        lambda: Schedule(two_stores()),
        lambda s: s.parallel(loop(s, "z", 0)),
    ),
    # caches and scopes
    (
        "cache_write: block 'C' is split into initialisation and update",
        decomposed,
        lambda s: s.cache_write(C, "global"),
    ),
    (
        "cache_write: block 'C' shares loop 'i0' with other blocks",
        lambda: after(matmul_relu(), lambda s: s.compute_at(C, loop(s, "D", 0))),
        lambda s: s.cache_write(C, "global"),
    ),
    (
        "cache_read: block 'C' has no input 2 .inputs: 0: 'A', 1: 'B'",
        lambda: Schedule(matmul()),
        lambda s: s.cache_read(C, 2, "global"),
    ),
    (
        "cache_read: 'C' is produced by block 'C' in the same loops as block 'D'",
        lambda: after(matmul_relu(), lambda s: s.compute_at(C, loop(s, "D", 0))),
        lambda s: s.cache_read(D, 0, "global"),
    ),
    (
        "set_scope: block 'C' writes the parameter 'C'",
        lambda: Schedule(matmul()),
        lambda s: s.set_scope(C, "register"),
    ),
    # reductions
    (
        "decompose_reduction: block 'D' has no initialisation",
        lambda: Schedule(matmul_relu()),
        lambda s: s.decompose_reduction(D, loop(s, "D", 0)),
    ),
    (
        "decompose_reduction: loop 'i0' is not around block 'C'",
        lambda: Schedule(matmul_relu()),
        lambda s: s.decompose_reduction(C, loop(s, "D", 0)),
    ),
    (
        "decompose_reduction: loop 'r0_0' outside of loop 'r0_1' already reduces block 'C'",
        lambda: after(matmul(), lambda s: s.split(loop(s, "C", 2), [None, 2])),
        lambda s: s.decompose_reduction(C, loop(s, "C", 3)),
    ),
    (
        "decompose_reduction: loop 'i0' may repeat iterations of block 'b'",
        lambda: Schedule(overlapping()),
        lambda s: s.decompose_reduction(BlockRef("b"), loop(s, "b", 0)),
    ),
    (
        "rfactor: loop 'k' may repeat iterations of block 'b', each of which starts its sum anew",
        lambda: Schedule(REPEATED_SUM),
        lambda s: s.rfactor(loop(s, "b", 1), 0),
    ),
    (
        "reverse_compute_at: block 'b' reads 't' under a condition, and block 'a' does not write all of it",
        lambda: Schedule(HALF_WRITTEN),
        lambda s: s.reverse_compute_at(BlockRef("b"), loop(s, "a", 0)),
    ),
    (
        "vectorize: loop 'k' drives the reduction of block 'b'",  # and starts it twice
        lambda: Schedule(REPEATED_SUM),
        lambda s: s.vectorize(loop(s, "b", 1)),
    ),
    (
        "decompose_reduction: the condition .* ties spatial and reduce loops",
        lambda: Schedule(TIED),
        lambda s: s.decompose_reduction(BlockRef("y"), loop(s, "y", 1)),
    ),
    (
        "rfactor: loop 'i0' contains 2 blocks",
        lambda: after(matmul_relu(), lambda s: s.compute_at(C, loop(s, "D", 0))),
        lambda s: s.rfactor(loop(s, "D", 0), 0),
    ),
    (
        "rfactor: block 'D' has no initialisation",
        lambda: Schedule(matmul_relu()),
        lambda s: s.rfactor(loop(s, "D", 0), 0),
    ),
    (
        "rfactor: loop 'i0' does not drive only reduce iterators of block 'C'",
        lambda: Schedule(matmul()),
        lambda s: s.rfactor(loop(s, "C", 0), 0),
    ),
    (
        "rfactor: axis 5 is outside of the 3 dimensions",
        lambda: Schedule(matmul()),
        lambda s: s.rfactor(loop(s, "C", 2), 5),
    ),
    (
        "rfactor: block 'y' does not start from the neutral element",
        lambda: Schedule(SHIFTED_START),
        lambda s: s.rfactor(loop(s, "y", 0), 0),
    ),
    (
        "rfactor: the condition .* ties spatial and reduce loops",
        lambda: Schedule(TIED),
        lambda s: s.rfactor(loop(s, "y", 1), 0),
    ),
    # layouts
    (
        "transform_layout: block 'C' has no read 4 .reads: 0: 'A', 1: 'B'",
        lambda: Schedule(matmul()),
        lambda s: s.transform_layout(C, "read", 4, IndexMap.tile(2, 0, 2)),
    ),
    (
        "transform_layout: 'A' is a parameter whose layout is the caller's",
        lambda: Schedule(matmul()),
        lambda s: s.transform_layout(C, "read", 0, IndexMap.tile(2, 0, 2)),
    ),
    (
        "transform_layout: the map 'i0,i1,i2 -> .*' takes 3 indices, 'B' has 2",
        lambda: Schedule(matmul()),
        lambda s: s.transform_layout(C, "read", 1, IndexMap.tile(3, 0, 2)),
    ),
    (
        "transform_layout: the map 'k,n -> k' may put two elements in one place",
        lambda: Schedule(matmul()),
        lambda s: s.transform_layout(C, "read", 1, IndexMap.parse("k,n -> k")),
    ),
    (
        "transform_layout: 'B' already has the layout 'i0,i1 -> ",
        lambda: after(matmul(), lambda s: s.transform_layout(C, "read", 1, IndexMap.tile(2, 0, 2))),
        lambda s: s.transform_layout(C, "read", 1, IndexMap.tile(3, 0, 2)),
    ),
    (
        "layout 'k,n -> 3 - k, n': .* is not built from the indices",
        lambda: Schedule(matmul(k=4)),
        lambda s: s.transform_layout(C, "read", 1, IndexMap.parse("k,n -> 3 - k, n")),
    ),
]


@pytest.mark.parametrize(("message", "start", "step"), CASES, ids=[c[0][:60] for c in CASES])
def test_message(message: str, start: Callable[[], Schedule], step: Callable[[Schedule], object]) -> None:
    sch = start()
    before = sch.func
    with pytest.raises(ScheduleError, match=message) as error:
        step(sch)
    if (
        "no longer" not in message and "other instances" not in message
    ):  # these steps begin with a legal split
        assert sch.func is before
    location = error.value.location
    if location is not None and "no loops are given" not in message:
        assert "^" in location
        assert sch.func.name in location
    assert location or error.value.hint


def test_excerpt_shows_the_lines_and_a_caret() -> None:
    sch = Schedule(matmul_relu())
    with pytest.raises(ScheduleError) as error:
        sch.parallel(loop(sch, "C", 2))
    *lines, hint = str(error.value).splitlines()
    assert lines == [
        "parallel: loop 'r0' drives the reduction of block 'C'",
        "  at: 'matmul_relu'",
        "        for i0 in serial(7):",
        "            for i1 in serial(10):",
        "                for r0 in parallel(5):",
        "                    ^^",
    ]
    assert hint.startswith(
        "  hint: only loops over spatial iterators have independent iterations; use rfactor"
    )


def test_excerpt_of_a_block_shows_its_bindings() -> None:
    sch = Schedule(matmul_relu())
    sch.split(loop(sch, "C", 0), [None, 2])
    with pytest.raises(ScheduleError) as error:
        sch.compute_inline(C)
    assert error.value.location == "\n".join(
        [
            "'matmul_relu'",
            "        for i0_0 in serial(4):",
            "            for i0_1 in serial(2):",
            "                for i1 in serial(10):",
            "                    for r0 in serial(5):",
            '                        with block("C"):',
            "                                   ^^^",
            "                            vi0 = spatial(7, i0_0 * 2 + i0_1)",
            "                            vi1 = spatial(10, i1)",
            "                            vr0 = reduce(5, r0)",
            "                            where(i0_0 * 2 + i0_1 < 7)",
        ]
    )


def test_a_parallel_loop_stays_legal() -> None:
    """A primitive that would break a loop made parallel earlier is refused, not the loop."""
    x = te.placeholder((6, 4), "float32", "x")
    a = te.compute((6, 4), lambda i, j: x[i, j] + 1.0, "a")
    b = te.compute((5, 4), lambda i, j: maximum(a[i, j], a[i + 1, j]), "b")
    c = te.compute((5, 4), lambda i, j: b[i, j] * 2.0, "c")
    sch = Schedule(te.primfunc("halo", [x], [c]))
    row = sch.get_loops(sch.get_block("b"))[0]
    sch.parallel(row)
    sch.compute_at(sch.get_block("a"), row)  # every iteration has a halo of its own
    with pytest.raises(
        ScheduleError, match="the parallel loop 'i0' would become illegal: different iterations"
    ):
        sch.compute_inline(sch.get_block("b"))  # then c would read the halos, outside of the loop


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            """
@primfunc({"outputs": 1})
def f(y: float32[4]):
    for i in serial(4):
        y[i] = 1.0
""",
            "'f' computes outside of blocks",
        ),
        (
            """
@primfunc({"outputs": 1})
def f(y: float32[4]):
    for i in serial(4):
        for j in serial(i + 1):
            with block("y"):
                v = spatial(4, i)
                writes(y[v])
                y[v] = 1.0
""",
            "the extent .* of loop 'j' depends on another loop",
        ),
        (
            """
@primfunc({"outputs": 1})
def f(y: float32[4]):
    for i in serial(4):
        with block("outer"):
            v = spatial(4, i)
            writes(y[v])
            with block("y"):
                w = spatial(4, v)
                writes(y[w])
                y[w] = 1.0
""",
            "block 'outer' contains blocks; only blocks without blocks inside can be scheduled",
        ),
        (
            """
@primfunc({"outputs": 1})
def f(y: float32[4]):
    for i in serial(2):
        with block("y"):
            v = spatial(4, i)
            writes(y[v])
            y[v] = 1.0
    for i in serial(2):
        with block("y"):
            v = spatial(4, i + 2)
            writes(y[v])
            y[v] = 1.0
""",
            "two blocks of 'f' are named 'y'",
        ),
    ],
)
def test_programs_that_cannot_be_scheduled(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Schedule(parse(text))


def test_a_block_of_several_stores_cannot_be_moved() -> None:
    func = parse(
        """
@primfunc({"outputs": 2})
def both(x: float32[4], y: float32[4], z: float32[4]):
    for i in serial(4):
        with block("both"):
            v = spatial(4, i)
            reads(x[v])
            writes(y[v], z[v])
            y[v] = x[v]
            z[v] = x[v] + 1.0
"""
    )
    sch = Schedule(func)
    sch.split(loop(sch, "both", 0), [None, 3])
    sch.parallel(loop(sch, "both", 0))
    with pytest.raises(ScheduleError, match="is not a single store"):
        sch.cache_write(BlockRef("both"), "global")


def test_unused_softmax_and_conv_programs_are_schedulable() -> None:
    for func in (softmax(), conv()):
        assert Schedule(func).get_blocks()


def test_two_loops_of_one_variable() -> None:
    var = Var("i", lo=0, hi=3)
    nest = Schedule(chain()).func.body
    loops = [s for s in walk_stmt(nest) if isinstance(s, For)]
    inner = For(var, as_expr(4), loops[-1].body)
    func = chain().with_(body=Seq((For(var, as_expr(4), loops[1].body), inner)))
    with pytest.raises(ScheduleError, match="two loops of 'chain' share the variable 'i'"):
        Schedule(func)


def test_factors_that_no_text_stands_for() -> None:
    func = symbolic()
    (n,) = [p for p in func.params if isinstance(p, Var)]
    sch = Schedule(func)
    target = loop(sch, "a", 0)
    before = sch.func
    with pytest.raises(ScheduleError, match="this factor cannot be recorded: not index arithmetic") as error:
        sch.split(target, [None, maximum(n, 2)])
    assert sch.func is before
    assert error.value.hint


def test_names_of_decisions_are_new() -> None:
    sch = Schedule(symbolic())
    with pytest.raises(ScheduleError, match="'n' is already a decision or a dimension of this function"):
        sch.decide("n", [1, 2], 1)
