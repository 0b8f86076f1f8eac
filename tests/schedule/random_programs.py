"""Random programs, random primitives on them, and an order of execution that legal schedules must survive."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from random import Random

from tilewright.errors import ScheduleError
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, binop, call, maximum, minimum, select
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Buffer, For, PrimFunc, Stmt
from tilewright.ir.visit import find_blocks, free_vars, stores_of, substitute, transform_stmt
from tilewright.schedule import BlockRef, IndexMap, LoopRef, Schedule
from tilewright.schedule.state import Tree, binding_vars


def random_program(rng: Random) -> PrimFunc:
    """One to five stages over tensors with small, odd dimensions."""
    inputs = [
        te.placeholder(_shape(rng, rng.randint(1, 3)), "float32", f"x{n}") for n in range(rng.randint(1, 2))
    ]
    tensors = list(inputs)
    stages: list[te.Tensor] = []
    for n in range(rng.randint(1, 5)):
        source = rng.choice(tensors[-2:])
        stage = rng.choice(_STAGES)(rng, source, tensors, f"t{n}")
        tensors.append(stage)
        stages.append(stage)
    read = {s for t in stages for s in t.sources}
    outputs = [t for t in stages if t not in read]
    used = [t for t in inputs if t in read]
    consts = [t for t in used if rng.random() < 0.5]
    return te.primfunc("program", used, outputs, const_inputs=consts)


def _shape(rng: Random, rank: int) -> tuple[int, ...]:
    return tuple(rng.choice([1, 2, 3, 4, 5, 7, 8, 9]) for _ in range(rank))


def _dims(t: te.Tensor) -> tuple[int, ...]:
    shape = t.buffer.static_shape
    assert shape is not None
    return shape


def _elementwise(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    same = [o for o in tensors if _dims(o) == _dims(t)]
    other = rng.choice(same)
    op = rng.choice(["add", "mul", "max", "sub"])
    return te.compute(t.shape, lambda *i: binop(op, t[i], call("tanh", [other[i]])), name)


def _broadcast(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    """Combine with a tensor whose shape is a part of the dimensions, as a row or a column is."""
    for other in rng.sample(tensors, len(tensors)):
        wanted = _dims(other)
        axes = [a for a in range(t.ndim) if len(wanted) == 1 and _dims(t)[a] == wanted[0]]
        if axes:
            axis = rng.choice(axes)
            return te.compute(t.shape, lambda *i: t[i] - other[i[axis]], name)  # noqa: B023
    return _elementwise(rng, t, tensors, name)


def _transpose(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    order = rng.sample(range(t.ndim), t.ndim)
    shape = [_dims(t)[a] for a in order]
    return te.compute(shape, lambda *i: t[tuple(i[order.index(a)] for a in range(t.ndim))], name)


def _pad(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    low, high = rng.randint(0, 2), rng.randint(0, 2)
    axis = rng.randrange(t.ndim)
    shape = [d + (low + high) * (a == axis) for a, d in enumerate(_dims(t))]

    def body(*i: Expr) -> Expr:
        at = [x - low if a == axis else x for a, x in enumerate(i)]
        inside = (i[axis] >= low) & (i[axis] < _dims(t)[axis] + low)
        return select(inside, t[tuple(at)], 0.0)

    return te.compute(shape, body, name)


def _clamped(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    axis, shift = rng.randrange(t.ndim), rng.randint(-2, 2)

    def body(*i: Expr) -> Expr:
        at = [maximum(minimum(x + shift, _dims(t)[axis] - 1), 0) if a == axis else x for a, x in enumerate(i)]
        return t[i] + t[tuple(at)]

    return te.compute(t.shape, body, name)


def _reshape(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    dims = _dims(t)
    size = 1
    for d in dims:
        size *= d
    if t.ndim == 1:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        width = rng.choice(divisors)
        return te.compute((size // width, width), lambda i, j: t[i * width + j], name)

    def body(i: Expr) -> Expr:
        at: list[Expr] = []
        for d in reversed(dims[1:]):
            at.append(i % d)
            i = i // d
        return t[tuple(reversed([*at, i]))]

    return te.compute((size,), body, name)


def _stencil(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    axis = rng.randrange(t.ndim)
    taps, stride, dilation = rng.randint(1, 3), rng.randint(1, 2), rng.randint(1, 2)
    length = (_dims(t)[axis] - (taps - 1) * dilation - 1) // stride + 1
    if length < 1:
        return _elementwise(rng, t, tensors, name)
    shape = [length if a == axis else d for a, d in enumerate(_dims(t))]
    op = rng.choice(["sum", "max"])

    def body(*i: Expr) -> Expr:
        def tap(r: Expr) -> Expr:
            return t[tuple(x * stride + r * dilation if a == axis else x for a, x in enumerate(i))] * 0.5

        return te.reduce(op, (taps,), tap)

    return te.compute(shape, body, name)


def _reduce(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    axis = rng.randrange(t.ndim)
    op = rng.choice(["sum", "max", "min"])
    shape = [d for a, d in enumerate(_dims(t)) if a != axis] or [1]

    def body(*i: Expr) -> Expr:
        kept = list(i) if t.ndim > 1 else []
        return te.reduce(op, (_dims(t)[axis],), lambda r: t[(*kept[:axis], r, *kept[axis:])])

    return te.compute(shape, body, name)


def _contract(rng: Random, t: te.Tensor, tensors: list[te.Tensor], name: str) -> te.Tensor:
    """A product of ``t`` (its last dimension) with any tensor that has a dimension of that size."""
    depth = _dims(t)[-1]
    fits = [(o, a) for o in tensors if o.ndim == 2 for a in range(2) if _dims(o)[a] == depth]
    if not fits or t.ndim > 2:
        return _reduce(rng, t, tensors, name)
    other, axis = rng.choice(fits)
    columns = _dims(other)[1 - axis]
    shape = (*_dims(t)[:-1], columns)

    def body(*i: Expr) -> Expr:
        def term(r: Expr) -> Expr:
            pair = (r, i[-1]) if axis == 0 else (i[-1], r)
            return t[(*i[:-1], r)] * other[pair]

        return te.reduce("sum", (depth,), term)

    return te.compute(shape, body, name)


_STAGES: list[Callable[[Random, te.Tensor, list[te.Tensor], str], te.Tensor]] = [
    _elementwise, _broadcast, _transpose, _pad, _clamped, _reshape, _stencil, _reduce, _reduce, _contract,
    _contract,
]  # fmt: skip


def random_step(rng: Random, sch: Schedule) -> None:
    """One random primitive with random arguments; raises ScheduleError when it is not legal."""
    tree = Tree(sch.func)
    block = BlockRef(rng.choice(list(tree.blocks)))
    loops = [LoopRef(v) for v in tree.loops]
    mine = sch.get_loops(block)
    if not loops:
        raise ScheduleError("no loops")
    loop = rng.choice(mine) if mine and rng.random() < 0.6 else rng.choice(loops)
    kind = rng.choice(_STEPS)
    if kind == "split":
        size = rng.choice([1, 2, 3, 4])
        sch.split(
            loop, rng.choice([[None, size], [size, None], [2, None, size], [None, size, 2], [size, size]])
        )
    elif kind == "fuse":
        start = rng.randrange(len(mine)) if mine else 0
        sch.fuse(*mine[start : start + rng.randint(2, 3)])
    elif kind == "reorder":
        sch.reorder(*rng.sample(mine, min(len(mine), rng.randint(2, 4))))
    elif kind in ("parallel", "vectorize", "unroll"):
        target = mine[-1] if kind == "vectorize" and mine else loop
        getattr(sch, kind)(target)
    elif kind in ("compute_at", "reverse_compute_at"):
        others = sch.get_consumers(block) if kind == "compute_at" else sch.get_producers(block)
        around = sch.get_loops(rng.choice(others)) if others else []
        getattr(sch, kind)(block, rng.choice(around or loops))
    elif kind in ("compute_inline", "reverse_compute_inline"):
        getattr(sch, kind)(block)
    elif kind == "cache_read":
        sch.cache_read(block, rng.randint(0, 1), rng.choice(["global", "register"]))
    elif kind == "cache_write":
        sch.cache_write(block, rng.choice(["global", "register"]))
    elif kind == "set_scope":
        sch.set_scope(block, "register")
    elif kind == "decompose_reduction":
        sch.decompose_reduction(block, loop)
    elif kind == "rfactor":
        sch.rfactor(loop, rng.randint(-1, 1))
    elif kind == "transform_layout":
        role = rng.choice(["read", "write"])
        regions = getattr(tree.blocks[block.name], f"{role}s")
        rank = len(regions[0].buffer.shape) if regions else 1
        dim = rng.randrange(rank)
        order = rng.sample(range(rank + 1), rank + 1)
        sch.transform_layout(block, role, 0, IndexMap.tile(rank, dim, rng.choice([2, 3, 4]), order))
    else:
        sch.annotate(loop, "grain", rng.randint(1, 9))


_STEPS = [
    "split", "split", "split", "fuse", "fuse", "reorder", "reorder", "parallel", "parallel", "vectorize",
    "unroll", "compute_at", "compute_at", "compute_at", "compute_at", "reverse_compute_at",
    "reverse_compute_at", "reverse_compute_at", "compute_inline", "reverse_compute_inline", "cache_read",
    "cache_write", "set_scope", "decompose_reduction", "decompose_reduction", "rfactor", "rfactor",
    "transform_layout", "annotate",
]  # fmt: skip


def tile_and_fuse(rng: Random, sch: Schedule) -> None:
    """Steps that fit together: tile the loops of an output, run them on threads, compute producers inside,
    refine these.
    """
    tree = Tree(sch.func)
    out = BlockRef(rng.choice([b.name for b in tree.blocks.values() if not tree.consumers(b)]))
    for block in list(tree.blocks):
        if rng.random() < 0.3:
            _attempt(partial(sch.compute_inline, BlockRef(block)))
    outer, inner = [], []
    iters = Tree(sch.func).blocks[out.name].iters
    for loop, it in zip(sch.get_loops(out), iters, strict=True):
        if it.kind == "reduce" or rng.random() < 0.3:
            inner.append(loop)
        else:
            parts = sch.split(loop, [None, rng.choice([1, 2, 3, 4])])
            outer.append(parts[0])
            inner.append(parts[1])
    if not outer:
        return
    sch.reorder(*outer, *inner)
    tile = sch.fuse(*outer) if rng.random() < 0.5 else outer[-1]
    if rng.random() < 0.7:
        sch.parallel(tile if len(outer) == 1 or tile not in outer else outer[0])
    pending = [out]
    done: set[str] = set()
    while pending:
        user = pending.pop(0)
        for producer in sch.get_producers(user):
            if producer.name not in done:
                done.add(producer.name)
                around = rng.choice(sch.get_loops(user)[:3])
                if _attempt(partial(sch.compute_at, producer, around)):
                    pending.append(producer)
    for name in sorted(done & set(Tree(sch.func).blocks)):
        _refine(rng, sch, BlockRef(name))


def _refine(rng: Random, sch: Schedule, block: BlockRef) -> None:
    """Put the reduction outside, decompose it, vectorize the last loop."""
    tree = Tree(sch.func)
    reduced = binding_vars(tree.blocks[block.name], "reduce")
    own = [
        LoopRef(s.var)
        for s in tree.loops_between(tree.own_nest(tree.blocks[block.name]), tree.blocks[block.name])
    ]
    top = tree.own_nest(tree.blocks[block.name])
    if isinstance(top, For):
        own.insert(0, LoopRef(top.var))
    first = [loop for loop in own if loop.var in reduced]
    rest = [loop for loop in own if loop.var not in reduced]
    if rest and rng.random() < 0.5:
        rest[-1:] = sch.split(rest[-1], [None, rng.choice([2, 3])])
    _attempt(lambda: sch.reorder(*first, *rest))
    if rest:
        _attempt(lambda: sch.vectorize(rest[-1]))
    if first and rng.random() < 0.7:
        _attempt(lambda: sch.decompose_reduction(block, rng.choice(first[:1] + rest)))


def _attempt(step: Callable[[], object]) -> bool:
    try:
        step()
    except ScheduleError:
        return False
    return True


def adversarial(func: PrimFunc) -> PrimFunc:
    """The function with its parallel and vectorized loops run backwards, and temporaries private to parallel
    iterations.

    A schedule that is legal computes the same.
    """
    body = _sink_allocs(func.body)

    def reverse(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, For) and stmt.kind == "parallel":
            last = simplify(stmt.extent - 1)
            backwards = substitute(stmt.body, {stmt.var: last - stmt.var})
            return dataclasses.replace(stmt, kind="serial", body=backwards)
        if isinstance(stmt, For) and stmt.kind == "vectorized":
            block = find_blocks(stmt)[0]
            if any(it.kind == "reduce" and stmt.var in free_vars(it.binding) for it in block.iters):
                return None
            return dataclasses.replace(
                stmt,
                kind="serial",
                body=substitute(stmt.body, {stmt.var: as_expr(0) + stmt.extent - 1 - stmt.var}),
            )
        return None

    return func.with_(body=transform_stmt(body, reverse))


def _sink_allocs(body: Stmt) -> Stmt:
    """Move each allocation into the parallel loop that contains all uses of its buffer, if any does."""
    buffers: list[Buffer] = []

    def drop(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, Alloc):
            buffers.append(stmt.buffer)
            return stmt.body
        return None

    body = transform_stmt(body, drop)
    total = {b: len(_users(body, b)) for b in buffers}
    placed: set[Buffer] = set()

    def place(stmt: Stmt) -> Stmt | None:
        if not (isinstance(stmt, For) and stmt.kind == "parallel"):
            return None
        inner = stmt.body
        for b in buffers:
            if b not in placed and len(_users(inner, b)) == total[b]:
                placed.add(b)
                inner = Alloc(b, inner)
        return dataclasses.replace(stmt, body=inner)

    body = transform_stmt(body, place)
    for b in buffers:
        if b not in placed:
            body = Alloc(b, body)
    return body


def _users(stmt: Stmt, buffer: Buffer) -> list[str]:
    found = []
    for block in find_blocks(stmt):
        regions = [*block.reads, *block.writes]
        if any(r.buffer is buffer for r in regions) or any(s.buffer is buffer for s in stores_of(block)):
            found.append(block.name)
    return found
