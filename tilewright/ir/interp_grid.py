"""Which loop nests the interpreter may execute as one array operation. Internal to ``ir.interp``."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final

import numpy as np

from tilewright.ir.expr import BinOp, Const, Expr, Select, Var, as_expr, conjuncts
from tilewright.ir.interp_ops import BINARY
from tilewright.ir.linear import linear_terms
from tilewright.ir.simplify import Simplifier
from tilewright.ir.stmt import Annotate, Block, Buffer, For, If, Stmt, Store
from tilewright.ir.visit import free_vars, loads_of, substitute, substitute_expr, uses

#: Largest number of iterations that one array operation covers.
MAX_POINTS: Final = 1 << 17
_ACCUMULATING: Final = frozenset(["add", "mul", "min", "max"])


@dataclasses.dataclass(frozen=True)
class Grid:
    """A nest of loops around one store that is executed at once.

    Attributes:
        loops: (variable, extent) from the outermost in; extents do not depend on the variables.
        conds: what must hold for the store to happen at a point.
        store: the store; when ``reduce_op`` is set, its value is the term that is accumulated.
        reduce_op: how the store combines the old element with its value, None to replace it.
        reduced: the axes that the stored element does not depend on.
        init: a store that comes first, where every one of ``init_conds`` is 0 with the ``reduced`` variables
            at 0.
        env: the simplifier under the loops.
    """

    loops: tuple[tuple[Var, Expr], ...]
    conds: tuple[Expr, ...]
    store: Store
    reduce_op: str | None
    reduced: tuple[int, ...]
    init: Store | None
    init_conds: tuple[Expr, ...]
    env: Simplifier


def plan_grid(loop: For, env: Simplifier) -> Grid | None:
    """How to execute ``loop`` and all loops inside at once; None when that is not provably the same."""
    loops: list[tuple[Var, Expr]] = []
    conds: list[Expr] = []
    variables: set[Var] = set()
    sizes: list[int] = []
    stmt: Stmt = loop
    while True:
        if isinstance(stmt, For):
            extent = env.simplify(stmt.extent)
            high = env.interval(extent).hi
            if high is None or uses(extent, variables) or any(True for _ in loads_of(extent)):
                return None
            sizes.append(max(high, 1))
            if functools.reduce(int.__mul__, sizes) > MAX_POINTS:
                return None
            loops.append((stmt.var, extent))
            variables.add(stmt.var)
            env = env.with_loop(stmt.var, extent)
            stmt = stmt.body
        elif isinstance(stmt, If) and stmt.orelse is None:
            conds += conjuncts(stmt.cond)
            stmt = stmt.then
        elif isinstance(stmt, Annotate):
            stmt = stmt.body
        else:
            break
    init: Stmt | None = None
    init_conds: list[Expr] = []
    if isinstance(stmt, Block):
        mapping: dict[Expr, Expr] = {it.var: it.binding for it in stmt.iters}
        conds += conjuncts(stmt.predicate)
        if stmt.init is not None:
            init = substitute(stmt.init, mapping)
            init_conds = [env.simplify(it.binding) for it in stmt.iters if it.kind == "reduce"]
        stmt = substitute(stmt.body, mapping)
    if not isinstance(stmt, Store) or not (init is None or isinstance(init, Store)):
        return None
    conds = [env.simplify(c) for c in conds]
    store = _simplified(stmt, env)
    first = None if init is None else _simplified(init, env)
    return _check(loops, sizes, conds, store, first, init_conds, env)


def _simplified(store: Store, env: Simplifier) -> Store:
    return Store(store.buffer, tuple(env.simplify(i) for i in store.indices), env.simplify(store.value))


def _reads(e: Expr, buffer: Buffer) -> bool:
    return any(node.buffer is buffer for node in loads_of(e))


def _check(
    loops: list[tuple[Var, Expr]],
    sizes: list[int],
    conds: list[Expr],
    store: Store,
    init: Store | None,
    init_conds: list[Expr],
    env: Simplifier,
) -> Grid | None:
    variables = [var for var, _ in loops]
    moved = {v for index in store.indices for v in free_vars(index)} & set(variables)
    reduced = tuple(axis for axis, var in enumerate(variables) if var not in moved)
    if any(_reads(e, store.buffer) for e in (*conds, *store.indices)):
        return None
    if not _injective(store.indices, variables, sizes, moved):
        return None
    reduce_op: str | None = None
    if reduced:
        value = store.value
        if not isinstance(value, BinOp) or value.op not in _ACCUMULATING:
            return None
        old, term = value.a, value.b
        if not _is_old(old, store):
            old, term = term, old
        if not _is_old(old, store) or _reads(term, store.buffer):
            return None
        reduce_op = value.op
        store = Store(store.buffer, store.indices, term)
    elif any(node.buffer is store.buffer and node.indices != store.indices for node in loads_of(store.value)):
        return None
    if init is not None:
        if init.buffer is not store.buffer or init.indices != store.indices or any(loads_of(init.value)):
            return None
        zero: dict[Expr, Expr] = {variables[axis]: as_expr(0) for axis in reduced}
        if any(uses(init.value, {variables[axis]}) for axis in reduced):
            return None
        if not _zero_only_at_start(init_conds, variables, [variables[axis] for axis in reduced]):
            return None
        init_conds = [env.simplify(substitute_expr(c, zero)) for c in init_conds]
    return Grid(tuple(loops), tuple(conds), store, reduce_op, reduced, init, tuple(init_conds), env)


def _is_old(e: Expr, store: Store) -> bool:
    return any(
        node is e and node.buffer is store.buffer and node.indices == store.indices for node in loads_of(e)
    )


def _zero_only_at_start(bindings: list[Expr], variables: list[Var], reduced: list[Var]) -> bool:
    """Whether the reduce bindings are all 0, in the grid, only where the reduced variables are."""
    grid = set(variables)
    stepped: set[Expr] = set()
    for binding in bindings:
        for atom, k in linear_terms(binding)[0].items():
            if atom in reduced and k > 0:
                stepped.add(atom)
            elif uses(atom, grid):
                return False
    return stepped.issuperset(reduced)


def _injective(indices: tuple[Expr, ...], variables: list[Var], sizes: list[int], moved: set[Var]) -> bool:
    """Whether no two points that differ in a ``moved`` variable have equal indices, wherever the outer loops
    stand.
    """
    grid = set(variables)
    axes = {
        var: np.arange(n).reshape(-1, *[1] * (len(variables) - 1 - i))
        for i, (var, n) in enumerate(zip(variables, sizes, strict=True))
    }
    flat: Any = np.zeros((), np.int64)
    for index in indices:
        part: Any = np.zeros((), np.int64)
        for atom, k in linear_terms(index)[0].items():
            if uses(atom, grid):
                value = _evaluate(atom, axes)
                if value is None:
                    return False
                part = part + value * k
        low = int(part.min())
        flat = flat * (int(part.max()) - low + 1) + (part - low)
    points = 1
    for var, n in zip(variables, sizes, strict=True):
        points *= n if var in moved else 1
    return flat.size == points and (points == 1 or np.unique(flat).size == points)


def _evaluate(e: Expr, axes: dict[Var, np.ndarray]) -> Any:
    """The values of an integer expression over the grid alone; None when it depends on anything else."""
    if isinstance(e, Const):
        return np.asarray(e.value)
    if isinstance(e, Var):
        return axes.get(e)
    if not isinstance(e, BinOp | Select):
        return None
    operands = [_evaluate(c, axes) for c in e.children]
    if any(x is None for x in operands):
        return None
    return np.where(*operands) if isinstance(e, Select) else BINARY[e.op](*operands)
