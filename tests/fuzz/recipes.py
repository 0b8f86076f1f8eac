"""Schedules of several primitives that fit together, and random ones."""

from __future__ import annotations

import contextlib
from random import Random

from tests.fuzz.case import Case
from tests.fuzz.driver import Driver
from tests.fuzz.primitives import random_step
from tests.schedule.tensor_programs import by_dots, by_matrices, product, sizes, types
from tilewright.errors import ScheduleError
from tilewright.ir.launch import AXES
from tilewright.ir.stmt import Buffer, For
from tilewright.ir.tensor_intrinsics import tensor_intrinsics
from tilewright.schedule import BlockRef, LoopRef
from tilewright.schedule.state import binding_vars


def random_schedule(d: Driver) -> None:
    """A recipe or none, then random steps, some of which refuse."""
    if d.chance(0.45):
        with contextlib.suppress(ScheduleError):
            tile_and_fuse(d)
    random_steps(d, d.rng.randint(1, 10))


def random_steps(d: Driver, count: int) -> None:
    """Random primitives; those that refuse count too."""
    for _ in range(count):
        with contextlib.suppress(ScheduleError):
            random_step(d)


def tile_and_fuse(d: Driver) -> None:
    """Tile the loops of an output, run them on threads, compute producers inside, refine these."""
    out = BlockRef(d.rng.choice([b.name for b in d.tree.blocks.values() if not d.tree.consumers(b)]))
    for name in list(d.tree.blocks):
        if d.chance(0.3):
            d.attempt("compute_inline", BlockRef(name))
    outer, inner = [], []
    iters = d.tree.blocks[out.name].iters
    loops = d.around(out)
    if len(loops) != len(iters):
        return
    for loop, it in zip(loops, iters, strict=True):
        if it.kind == "reduce" or d.chance(0.3):
            inner.append(loop)
        else:
            parts = d.do("split", loop, factors=[None, d.number()])
            outer.append(parts[0])
            inner.append(parts[1])
    if not outer:
        return
    d.do("reorder", *outer, *inner)
    fused = d.chance(0.5)
    tile = d.do("fuse", *outer) if fused else outer[-1]
    if d.chance(0.7):
        d.attempt("parallel", tile if fused else outer[0])
    done = _computed_inside(d, out)
    for name in sorted(done & d.tree.blocks.keys()):
        _refine(d, BlockRef(name))


def _computed_inside(d: Driver, out: BlockRef) -> set[str]:
    """Move the producers of ``out``, and theirs, below outer loops of what reads them; their names."""
    pending, done = [out], set()
    while pending:
        user = pending.pop(0)
        for producer in d.sch.get_producers(user):
            loops = d.around(user)[:3]
            if producer.name not in done and loops:
                done.add(producer.name)
                if d.attempt("compute_at", producer, d.rng.choice(loops)):
                    pending.append(producer)
    return done


def _refine(d: Driver, block: BlockRef) -> None:
    """Put the reduction outside, decompose it, vectorize the last loop."""
    node = d.tree.blocks[block.name]
    reduced, top = binding_vars(node, "reduce"), d.tree.own_nest(node)
    own = [LoopRef(s.var) for s in d.tree.loops_between(top, node)]
    if isinstance(top, For):
        own.insert(0, LoopRef(top.var))
    first = [loop for loop in own if loop.var in reduced]
    rest = [loop for loop in own if loop.var not in reduced]
    if rest and d.chance(0.5):
        rest[-1:] = d.do("split", rest[-1], factors=[None, d.rng.choice([2, 3])])
    d.attempt("reorder", *first, *rest)
    if rest:
        d.attempt("vectorize", rest[-1])
    if first and d.chance(0.7):
        d.attempt("decompose_reduction", block, d.rng.choice(first[:1] + rest))


# ---------------------------------------------------------------------------------------------------- threads


def on_threads(d: Driver) -> None:
    """The loops of blocks spread over thread blocks and threads, copies in shared memory and registers."""
    _spread(d, BlockRef(list(d.tree.blocks)[-1]))
    for _ in range(d.rng.randint(1, 8)):
        with contextlib.suppress(ScheduleError):
            _thread_step(d)


def _spread(d: Driver, block: BlockRef) -> None:
    """Divide the loops around a block among random axes, outer ones among thread blocks."""
    for loop in d.around(block):
        if d.chance(0.5):
            n = d.rng.choice([1, 2, 3, 4, 8])
            d.attempt("split", loop, factors=d.rng.choice([[None, n], [None, 2, n], [n, None]]))
    loops = d.around(block)
    if d.chance(0.5):
        d.attempt("reorder", *d.rng.sample(loops, len(loops)))
    if d.chance(0.4) and len(loops) > 1:
        start = d.rng.randrange(len(loops) - 1)
        d.attempt("fuse", *d.around(block)[start : start + 2])
    _bind_some(d, block)


def _bind_some(d: Driver, block: BlockRef) -> None:
    for n, loop in enumerate(d.around(block)):
        if d.chance(0.6):
            d.attempt("bind", loop, axis=d.rng.choice(AXES[:2] if n < 2 and d.chance(0.5) else AXES[3:5]))
        elif d.chance(0.15):
            d.attempt("virtual_thread", loop)


def _thread_step(d: Driver) -> None:
    block = d.block()
    kind = d.rng.choice(["spread", "at", "at", "scope", "scope", "read", "write", "bind", "other", "other"])
    if kind == "spread":
        _spread(d, block)
    elif kind == "bind":
        _bind_some(d, block)
    elif kind == "scope":
        d.do("set_scope", block, scope=d.rng.choice(["shared", "register", "global"]))
    elif kind == "read":
        reads = len({r.buffer for r in d.tree.blocks[block.name].reads})
        scope = d.rng.choice(["shared", "shared", "register"])
        d.do("cache_read", block, buffer_index=d.rng.randrange(max(reads, 1)), scope=scope)
    elif kind == "write":
        d.do("cache_write", block, scope=d.rng.choice(["shared", "register"]))
    elif kind == "at":
        consumers = d.sch.get_consumers(block)
        d.do("compute_at", block, d.loop(d.rng.choice(consumers) if consumers else None))
        if d.chance(0.7):
            _spread(d, block)
    else:
        random_step(d)


# ---------------------------------------------------------------------------------------- tensor instructions


def with_instructions(d: Driver) -> None:
    """A product by an instruction for its types, then random steps."""
    name = next(n for n in PRODUCTS if _function_name(n) == d.sch.func.name)
    (m, k), (_, n) = (p.static_shape or (1, 1) for p in d.sch.func.params[:2] if isinstance(p, Buffer))
    rows, vectors = d.rng.choice([2, 4]), d.rng.choice([1, 2])
    with contextlib.suppress(ScheduleError):
        make = by_matrices if "mmla" in name else by_dots
        d.replay(make(name, m, n, k, rows, vectors)[1].trace)
    random_steps(d, d.rng.randint(0, 4))


#: Intrinsics that are products of rows and columns.
PRODUCTS = tuple(i.name for i in tensor_intrinsics() if i.name.startswith(("x86.", "aarch64.")))


def product_case(rng: Random) -> Case:
    """A product of the types of some intrinsic, with sizes that it does not always divide."""
    name = rng.choice(PRODUCTS)
    _, depth = sizes(name)
    m, n, k = rng.randint(1, 9), rng.choice([4, 7, 16, 20, 33]), depth * rng.randint(1, 3)
    func = product(*types(name), m, n, k, flip=".s8." in name)
    return Case(func.with_(name=_function_name(name)), exact=(True,))


def _function_name(intrinsic: str) -> str:
    return f"product_{intrinsic.replace('.', '_')}"
