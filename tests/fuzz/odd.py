"""Programs that no operator and no primitive makes, though they mean something: loops that repeat work,
bindings that overlap, loops shared by blocks whose iterations depend on each other.

Legality checks that programs from tensor expressions never put to the test decide here. Changes are made
without any check, and kept when the program, run in order, still computes the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.order import sink_allocs
from tilewright.errors import VerifyError
from tilewright.ir.expr import TRUE, Expr, Var, as_expr
from tilewright.ir.interp import run
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import LOOP_KINDS, Block, For, PrimFunc, Seq, Stmt, seq
from tilewright.ir.visit import const_int, walk_stmt
from tilewright.lower.flatten import decompose_reductions
from tilewright.schedule.state import Tree, binding_vars, rebind, replace


def odd_case(case: Case, rng: Random) -> Case | None:
    """The case with up to four changes; None when none was possible."""
    expected = case.expected(case.sizes[0])
    func = case.func
    for _ in range(rng.randint(2, 6)):
        changed = rng.choice(_CHANGES)(func, rng)
        if changed is not None and _same(case, changed, expected):
            func = changed
    if func is case.func:
        return None
    # With other data nothing cancels by chance.
    other = case.with_(seed=case.seed + 1)
    again = other.expected(case.sizes[0])
    if not (_same(other, func, again) and _same(other, decompose_reductions(func), again)):
        return None
    # Run as one thread, also what is overwritten later must not come from memory that nobody has written.
    thread = For(Var("one", lo=0, hi=0), as_expr(1), func.body, "thread:blockIdx.x")
    if not _same(case, func.with_(body=thread), expected):
        return None
    alone = func.with_(body=sink_allocs(func.body, LOOP_KINDS))
    return case.with_(func=func, lowers=_same(case, alone, expected))


def _same(case: Case, func: PrimFunc, expected: list[np.ndarray]) -> bool:
    sizes = case.sizes[0]
    try:
        found = run(func, case.inputs(sizes), case.dims(sizes), check_undefined=True)
        case.compare(found, expected)
    except (VerifyError, AssertionError):
        return False
    return True


def _loops(func: PrimFunc) -> list[For]:
    return [s for s in walk_stmt(func.body) if isinstance(s, For)]


def _swapped(func: PrimFunc, old: Stmt, new: Stmt) -> PrimFunc:
    return replace(Tree(func), {old: new})


def _repeat(func: PrimFunc, rng: Random) -> PrimFunc | None:
    """A loop around something that does not depend on it."""
    places = [s for s in walk_stmt(func.body) if isinstance(s, For | Block)]
    place = rng.choice(places)
    extent = rng.choice([2, 3])
    return _swapped(func, place, For(Var("z", lo=0, hi=extent - 1), as_expr(extent), place))


def _rebound(func: PrimFunc, loop: For, index: Expr, nest: list[tuple[Var, int]], guard: Expr) -> PrimFunc:
    """The loop's variable as ``index`` over other loops."""
    body = rebind(loop.body, {loop.var: simplify(index)}, None if guard is TRUE else guard)
    for var, extent in reversed(nest):
        body = For(var, as_expr(extent), body)
    return _swapped(func, loop, body)


def _overlap(func: PrimFunc, rng: Random) -> PrimFunc | None:
    """Tiles that share elements with their neighbours, or leave gaps when that is noticed by nobody."""
    loop = rng.choice(_loops(func))
    size = const_int(loop.extent)
    if size is None or size < 2:
        return None
    step, width = rng.randint(1, 3), rng.randint(1, 4)
    count = -(-size // step)
    outer, inner = Var("o", lo=0, hi=count - 1), Var("p", lo=0, hi=width - 1)
    index = outer * step + inner
    return _rebound(func, loop, index, [(outer, count), (inner, width)], simplify(index < size))


def _cyclic(func: PrimFunc, rng: Random) -> PrimFunc | None:
    """Tiles of elements that lie apart."""
    loop = rng.choice(_loops(func))
    size, count = const_int(loop.extent), rng.choice([2, 3])
    if size is None or size < 2:
        return None
    width = -(-size // count)
    outer, inner = Var("o", lo=0, hi=count - 1), Var("p", lo=0, hi=width - 1)
    index = inner * count + outer
    return _rebound(func, loop, index, [(outer, count), (inner, width)], simplify(index < size))


def _coarse(func: PrimFunc, rng: Random) -> PrimFunc | None:
    """Several iterations in a row for one, or the numbers of a loop over and over."""
    loop = rng.choice(_loops(func))
    size, times = const_int(loop.extent), rng.choice([2, 3])
    if size is None:
        return None
    var = Var("f", lo=0, hi=size * times - 1)
    index = var // times if rng.random() < 0.5 else var % size
    return _rebound(func, loop, index, [(var, size * times)], TRUE)


def _backwards(func: PrimFunc, rng: Random) -> PrimFunc | None:
    loop = rng.choice(_loops(func))
    size = const_int(loop.extent)
    blocks = [s for s in walk_stmt(loop) if isinstance(s, Block)]
    if size is None or size < 2 or any(loop.var in binding_vars(block, "reduce") for block in blocks):
        return None  # what starts at its last term only keeps that
    var = Var(loop.var.name, lo=0, hi=size - 1)
    return _rebound(func, loop, size - 1 - var, [(var, size)], TRUE)


def _shared(func: PrimFunc, rng: Random) -> PrimFunc | None:
    """One loop for two neighbouring ones of equal extents."""
    pairs = [
        (s, n)
        for s in walk_stmt(func.body)
        if isinstance(s, Seq)
        for n in range(len(s.stmts) - 1)
        if _equal_loops(s.stmts[n], s.stmts[n + 1])
    ]
    if not pairs:
        return None
    block, n = rng.choice(pairs)
    first, second = block.stmts[n], block.stmts[n + 1]
    assert isinstance(first, For)
    assert isinstance(second, For)
    body = seq([first.body, rebind(second.body, {second.var: first.var})])
    both = dataclasses.replace(first, body=body)
    return _swapped(func, block, seq([*block.stmts[:n], both, *block.stmts[n + 2 :]]))


def _equal_loops(a: Stmt, b: Stmt) -> bool:
    return isinstance(a, For) and isinstance(b, For) and a.extent is b.extent


def _interchanged(func: PrimFunc, rng: Random) -> PrimFunc | None:
    """Two nested loops the other way round."""
    nests = [s for s in _loops(func) if isinstance(s.body, For)]
    if not nests:
        return None
    outer = rng.choice(nests)
    inner = outer.body
    assert isinstance(inner, For)
    return _swapped(func, outer, dataclasses.replace(inner, body=dataclasses.replace(outer, body=inner.body)))


_CHANGES: tuple[Callable[[PrimFunc, Random], PrimFunc | None], ...] = (
    _repeat, _overlap, _cyclic, _coarse, _backwards, _shared, _shared, _shared, _interchanged,
)  # fmt: skip
