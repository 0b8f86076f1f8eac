"""GPU schedules by hand, each of a program of any size: what tests of legality, lowering and interpreter
share.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.schedule.programs import chain, matmul, softmax
from tilewright.ir import te
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule import BlockRef, LoopRef, Schedule


def row_sums(m: int, n: int) -> PrimFunc:
    x = te.placeholder((m, n), "float32", "x")
    s = te.compute((m,), lambda i: te.reduce("sum", (n,), lambda r: x[i, r]), "s")
    return te.primfunc("row_sums", [x], [s])


def bind_all(sch: Schedule, **axes: LoopRef) -> None:
    """``bind_all(sch, bx=loop, ty=loop)``, outermost first."""
    names = {"b": "blockIdx", "t": "threadIdx"}
    for name, loop in axes.items():
        sch.bind(loop, f"{names[name[0]]}.{name[1]}")


def fetch(
    sch: Schedule, block: BlockRef, source: int, at: LoopRef, ty: int, tx: int, align: bool
) -> BlockRef:
    """Cooperative fetching: all threads together copy what ``block`` needs in an iteration of ``at``."""
    copy = sch.cache_read(block, source, "shared")
    sch.compute_at(copy, at)
    if align:
        sch.storage_align(copy, 0, 32, 4)
    rows, columns = sch.get_loops(copy)[-2:]
    _, y, x = sch.split(sch.fuse(rows, columns), [None, ty, tx])
    bind_all(sch, ty=y, tx=x)
    return copy


def tiled_matmul(
    m: int, n: int, k: int, tile: int = 16, step: int = 8, own: int = 2, virtual: int = 1, align: bool = False
) -> Schedule:
    """Square tiles through shared memory, ``own`` x ``own`` elements for each thread and virtual thread."""
    sch = Schedule(matmul(m, n, k))
    c = sch.get_block("C")
    d = sch.cache_write(c, "register")
    threads = tile // virtual // own
    i, j = sch.get_loops(d)
    by, vy, ty, ii = sch.split(i, [None, virtual, threads, own])
    bx, vx, tx, jj = sch.split(j, [None, virtual, threads, own])
    sch.reorder(by, bx, vy, vx, ty, tx, ii, jj)
    bind_all(sch, by=by, bx=bx, ty=ty, tx=tx)
    if virtual > 1:
        sch.virtual_thread(vy)
        sch.virtual_thread(vx)
    sch.compute_at(c, vx)
    i, j, r = sch.get_loops(c)[4:]
    ty, ii = sch.split(i, [threads, own])
    tx, jj = sch.split(j, [threads, own])
    r0, r1 = sch.split(r, [None, step])
    sch.reorder(r0, ty, tx, r1, ii, jj)
    bind_all(sch, ty=ty, tx=tx)
    for source in (0, 1):
        fetch(sch, c, source, r0, threads, threads, align)
    sch.unroll(ii)
    sch.unroll(jj)
    return sch


def across_threads(m: int, n: int, threads: int = 8) -> Schedule:
    """A row for each thread block: partial sums by thread in shared memory, added up by one thread."""
    sch = Schedule(row_sums(m, n))
    s = sch.get_block("s")
    _, r = sch.get_loops(s)
    _, lane = sch.split(r, [None, threads])
    part = sch.rfactor(lane, 1)
    sch.set_scope(part, "shared")
    row = sch.get_loops(s)[0]
    sch.compute_at(part, row)
    sch.bind(row, "blockIdx.x")
    lane = next(x for x in sch.get_loops(part) if x.var.hi == threads - 1)
    sch.bind(lane, "threadIdx.x")
    return sch


def tree_across_threads(m: int, n: int, threads: int = 8, narrow: int = 2) -> Schedule:
    """As :func:`across_threads`, the partial sums added up by fewer threads first."""
    sch = Schedule(row_sums(m, n))
    s = sch.get_block("s")
    _, r = sch.get_loops(s)
    _, lane = sch.split(r, [None, threads])
    wide = sch.rfactor(lane, 1)
    _, lane = sch.get_loops(s)
    _, lane = sch.split(lane, [None, narrow])
    few = sch.rfactor(lane, 1)
    row = sch.get_loops(s)[0]
    for block, count in ((few, narrow), (wide, threads)):
        sch.set_scope(block, "shared")
        sch.compute_at(block, row)
        loops = [x for x in sch.get_loops(block) if x.var.hi == count - 1]
        sch.bind(row, "blockIdx.x")
        sch.bind(loops[0], "threadIdx.x")
    return sch


def row_softmax(m: int, n: int, threads: int = 8) -> Schedule:
    """A row for each thread block: the exponentials in shared memory, the maximum of thread 0, the sum in a
    register of each."""
    sch = Schedule(softmax(m, n))
    y, total, e, top = (sch.get_block(name) for name in ("y", "total", "e", "top"))
    sch.set_scope(e, "shared")
    parts = {}
    for block, scope in ((total, "register"), (top, "shared")):
        _, r = sch.get_loops(block)
        _, lane = sch.split(r, [None, threads])
        parts[block] = sch.rfactor(lane, 1)
        sch.set_scope(parts[block], "shared")
        sch.set_scope(block, scope)
    row, j = sch.get_loops(y)
    sch.bind(row, "blockIdx.x")
    _, x = sch.split(j, [None, threads])
    sch.bind(x, "threadIdx.x")
    for block in (total, parts[total], e, top, parts[top]):
        sch.compute_at(block, row)
    for block in (parts[total], parts[top]):
        lane = next(x for x in sch.get_loops(block) if x.var.hi == threads - 1)
        sch.bind(lane, "threadIdx.x")
    _, x = sch.split(sch.get_loops(e)[-1], [None, threads])
    sch.bind(x, "threadIdx.x")
    return sch


def injective(n: int, m: int, threads: int = 16) -> Schedule:
    """Each stage a launch over its elements."""
    sch = Schedule(chain(n, m))
    for block in sch.get_blocks():
        b, t = sch.split(sch.fuse(*sch.get_loops(block)), [None, threads])
        bind_all(sch, bx=b, tx=t)
    return sch


#: Name -> (schedule, the sizes that tests run it with).
CASES: dict[str, tuple[Callable[..., Schedule], tuple[tuple[int, ...], ...]]] = {
    "matmul": (tiled_matmul, ((32, 32, 16), (21, 18, 13), (1, 5, 3))),
    "matmul with virtual threads": (
        lambda m, n, k: tiled_matmul(m, n, k, virtual=2, align=True),
        ((32, 32, 16), (19, 37, 11)),
    ),
    "reduction across threads": (across_threads, ((3, 40), (2, 5))),
    "tree across threads": (tree_across_threads, ((3, 40), (5, 11))),
    "softmax": (row_softmax, ((3, 20), (2, 8), (1, 3))),
    "injective": (injective, ((6, 9), (7, 11))),
}
