"""Canonical loop structure: no unit dimensions, and dimensions that are always walked together made one.

A 1x1 convolution over ``[n, h, w, c]`` becomes a matrix product over ``[n*h*w, c]``, an elementwise chain
becomes one loop. Only shapes and indices change; every parameter keeps its bytes and its place.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable

from tilewright.ir.expr import BinOp, Expr, Load, Reduce, Var, as_expr, load
from tilewright.ir.regions import block_regions
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Block, Buffer, For, IterVar, PrimFunc, Seq, Stmt, Store, seq
from tilewright.ir.visit import const_int, loads_of, own_exprs, rewrite_expr, substitute, walk_expr, walk_stmt

Access = tuple[Buffer, tuple[Expr, ...]]


def collapse_dims(func: PrimFunc) -> PrimFunc:
    """The same function over fewer dimensions.

    Takes functions as ``te.primfunc`` builds them (each block alone under the loops of its own iterators, one
    store a block); anything else is returned as it is.
    """
    blocks = _plain_blocks(func.body)
    if blocks is None:
        return func
    blocks = [_without_unit_iters(b) for b in blocks]
    accesses = {b.name: _accesses(b) for b in blocks}
    buffers = _buffers(func)
    keep = {b: _kept_dims(b, [i for a in accesses.values() for f, i in a if f is b]) for b in buffers}
    squeezed = {f: _select_dims(f, keep[f]) for f in buffers}
    blocks = [_reindex(b, squeezed, keep) for b in blocks]
    merged = _mergeable(blocks, list(squeezed.values()))
    final: dict[Buffer, Buffer] = {}
    for f in squeezed.values():
        runs = _runs(f, merged[f])
        final[f] = f.with_(
            shape=tuple(_product(f, run) for run in runs), strides=_select_strides(f, [r[-1] for r in runs])
        )
    blocks = [_merge(b, merged, final) for b in blocks]
    names = {f: final[squeezed[f]] for f in buffers}
    body = seq([_nest(b) for b in blocks])
    outer = [s.buffer for s in walk_stmt(func.body) if isinstance(s, Alloc)]
    for f in reversed(outer):
        body = Alloc(names[f], body)
    return func.with_(params=tuple(names[p] if isinstance(p, Buffer) else p for p in func.params), body=body)


def _buffers(func: PrimFunc) -> list[Buffer]:
    found = [p for p in func.params if isinstance(p, Buffer)]
    found += [s.buffer for s in walk_stmt(func.body) if isinstance(s, Alloc)]
    return found


def _plain_blocks(body: Stmt) -> list[Block] | None:
    """The blocks, when each is the sole content of loops that are exactly its iterators."""
    while isinstance(body, Alloc):
        body = body.body
    blocks: list[Block] = []
    for nest in body.stmts if isinstance(body, Seq) else (body,):
        loops: list[For] = []
        node: Stmt = nest
        while isinstance(node, For) and node.kind == "serial":
            loops.append(node)
            node = node.body
        if not isinstance(node, Block) or not isinstance(node.body, Store):
            return None
        if [loop.var for loop in loops] != [it.binding for it in node.iters]:
            return None
        if node.init is not None and not isinstance(node.init, Store):
            return None
        blocks.append(node)
    return blocks


def _without_unit_iters(block: Block) -> Block:
    unit: dict[Expr, Expr] = {it.var: as_expr(0) for it in block.iters if const_int(it.extent) == 1}
    if not unit:
        return block
    iters = tuple(it for it in block.iters if it.var not in unit)
    init = None if block.init is None else substitute(block.init, unit)
    body = _simplified(substitute(block.body, unit))
    if init is not None and all(it.kind == "spatial" for it in iters):
        term = _only_term(body)
        if term is not None:
            body, init = Store(body.buffer, body.indices, term), None
    return dataclasses.replace(block, iters=iters, body=body, init=init)


def _only_term(update: Store) -> Expr | None:
    """``e`` of ``acc = acc op e``: what a reduction over one element gives; None for other updates."""
    value = update.value
    if isinstance(value, BinOp):
        own = load(update.buffer, update.indices)
        for acc, term in ((value.a, value.b), (value.b, value.a)):
            if acc is own and own not in walk_expr(term):
                return term
    return None


def _simplified(stmt: Stmt) -> Store:
    assert isinstance(stmt, Store)
    return Store(stmt.buffer, tuple(simplify(i) for i in stmt.indices), simplify(stmt.value))


def _accesses(block: Block) -> list[Access]:
    """Every access of the block; an accumulator's read of its own element included."""
    found: list[Access] = []
    for part in (block.init, block.body):
        if isinstance(part, Store):
            found.append((part.buffer, part.indices))
            for e in own_exprs(part):
                found.extend(_loads(e))
    return found


def _loads(e: Expr) -> list[Access]:
    return [(node.buffer, node.indices) for node in loads_of(e)]


def _kept_dims(buffer: Buffer, uses: list[tuple[Expr, ...]]) -> list[int]:
    sizes = [const_int(size) for size in buffer.shape]
    return [d for d, size in enumerate(sizes) if size != 1 or any(const_int(i[d]) != 0 for i in uses)]


def _select_dims(buffer: Buffer, dims: list[int]) -> Buffer:
    if len(dims) == len(buffer.shape):
        return buffer
    return buffer.with_(shape=tuple(buffer.shape[d] for d in dims), strides=_select_strides(buffer, dims))


def _select_strides(buffer: Buffer, dims: list[int]) -> tuple[Expr, ...] | None:
    return None if buffer.strides is None else tuple(buffer.strides[d] for d in dims)


def _reindex(block: Block, fresh: dict[Buffer, Buffer], keep: dict[Buffer, list[int]]) -> Block:
    def pick(buffer: Buffer, indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(indices[d] for d in keep[buffer])

    return _map_accesses(block, lambda b, i: (fresh[b], pick(b, i)))


def _map_accesses(block: Block, fn: Callable[[Buffer, tuple[Expr, ...]], Access]) -> Block:
    memo: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr | None:
        return load(*fn(node.buffer, node.indices)) if isinstance(node, Load) else None

    def store(stmt: Stmt) -> Store:
        assert isinstance(stmt, Store)
        buffer, indices = fn(stmt.buffer, stmt.indices)
        return Store(
            buffer,
            tuple(rewrite_expr(i, visit, memo) for i in indices),
            rewrite_expr(stmt.value, visit, memo),
        )

    body = store(block.body)
    init = None if block.init is None else store(block.init)
    reads, writes = block_regions(body, init)
    return dataclasses.replace(block, body=body, init=init, reads=reads, writes=writes)


def _mergeable(blocks: list[Block], buffers: list[Buffer]) -> dict[Buffer, set[int]]:
    """For each buffer the dimensions ``d`` that merge with ``d + 1``: the largest consistent choice."""
    pairs = {f: {d for d in range(len(f.shape) - 1) if _adjacent(f, d)} for f in buffers}
    iters = {it.var: it for b in blocks for it in b.iters}
    accesses = [(b, access) for b in blocks for access in _accesses(b)]
    loose = {b.name: _vars_outside_accesses(b) for b in blocks}
    changed = True
    while changed:
        changed = False
        partner: dict[Var, set[Expr | None]] = defaultdict(
            set
        )  # what stands right after a var, None: not merged there
        leader: dict[Var, set[Expr | None]] = defaultdict(set)
        for _, (buffer, indices) in accesses:
            for d, index in enumerate(indices):
                after = indices[d + 1] if d in pairs[buffer] else None
                before = indices[d - 1] if d - 1 in pairs[buffer] else None
                for var in _vars(index):
                    if var not in iters:
                        continue  # a dimension of the function
                    plain = index is var and buffer.shape[d] is iters[var].extent
                    partner[var].add(after if plain else None)
                    leader[var].add(before if plain else None)
        for names in loose.values():
            for var in names:
                partner[var].add(None)
                leader[var].add(None)
        for _, (buffer, indices) in accesses:
            for d in sorted(pairs[buffer]):
                a, b = indices[d], indices[d + 1]
                if const_int(a) is not None and const_int(b) is not None:
                    continue
                good = (
                    isinstance(a, Var) and isinstance(b, Var) and partner[a] == {b} and leader[b] == {a}
                    and iters[a].kind == iters[b].kind
                )  # fmt: skip
                if not good:
                    pairs[buffer].discard(d)
                    changed = True
    return pairs


def _adjacent(buffer: Buffer, d: int) -> bool:
    """Whether dimension ``d`` continues where ``d + 1`` ends in memory."""
    strides = buffer.row_major_strides()
    return simplify(strides[d]) is simplify(strides[d + 1] * buffer.shape[d + 1])


def _vars(e: Expr) -> list[Var]:
    return [n for n in walk_expr(e) if isinstance(n, Var)]


def _vars_outside_accesses(block: Block) -> set[Var]:
    """Variables whose value the body uses other than as part of an index."""
    found: set[Var] = set()
    seen: set[Expr] = set()  # an expression may occur in very many places

    def visit(e: Expr) -> None:
        if e in seen:
            return
        seen.add(e)
        if isinstance(e, Var):
            found.add(e)
        elif not isinstance(e, Load):
            for child in e.children:
                visit(child)

    assert isinstance(block.body, Store)
    assert not isinstance(block.body.value, Reduce)
    visit(block.body.value)
    return found


def _runs(buffer: Buffer, merged: set[int]) -> list[list[int]]:
    """Dimensions grouped into runs that become one."""
    runs: list[list[int]] = []
    for d in range(len(buffer.shape)):
        if d > 0 and d - 1 in merged:
            runs[-1].append(d)
        else:
            runs.append([d])
    return runs


def _product(buffer: Buffer, dims: list[int]) -> Expr:
    size: Expr = as_expr(1)
    for d in dims:
        size = size * buffer.shape[d]
    return simplify(size)


def _merge(block: Block, merged: dict[Buffer, set[int]], final: dict[Buffer, Buffer]) -> Block:
    """Merge the block's iterators as its accesses say, and its accesses with them."""
    follows: dict[Var, Var] = {}
    for buffer, indices in _accesses(block):
        for d in merged[buffer]:
            a, b = indices[d], indices[d + 1]
            if isinstance(a, Var) and isinstance(b, Var):
                follows[a] = b
    heads = [it for it in block.iters if it.var not in follows.values()]
    by_var = {it.var: it for it in block.iters}
    iters: list[IterVar] = []
    replaced: dict[Var, Var] = {}
    for it in heads:
        extent, var = it.extent, it.var
        while var in follows:
            var = follows[var]
            extent = simplify(extent * by_var[var].extent)
        if var is it.var:
            iters.append(it)
            continue
        high = const_int(extent)
        fresh = Var(it.var.name, lo=0, hi=None if high is None else high - 1)
        loop = Var(fresh.name.removeprefix("v"), lo=0, hi=fresh.hi)
        replaced[it.var] = fresh
        iters.append(IterVar(fresh, extent, it.kind, loop))

    def access(buffer: Buffer, indices: tuple[Expr, ...]) -> tuple[Buffer, tuple[Expr, ...]]:
        picked: list[Expr] = []
        for run in _runs(buffer, merged[buffer]):
            first = indices[run[0]]
            if len(run) > 1 and isinstance(first, Var):
                picked.append(replaced[first])
            else:
                flat = first
                for d in run[1:]:
                    flat = flat * buffer.shape[d] + indices[d]
                picked.append(flat)
        return final[buffer], tuple(picked)

    return _map_accesses(dataclasses.replace(block, iters=tuple(iters)), access)


def _nest(block: Block) -> Stmt:
    nest: Stmt = block
    for it in reversed(block.iters):
        assert isinstance(it.binding, Var)
        nest = For(it.binding, it.extent, nest)
    return nest
