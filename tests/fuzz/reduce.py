"""Smaller programs made from a program: fewer outputs and stages, smaller sizes, simpler expressions.

Works on functions as ``te.primfunc`` builds them; blocks keep their names and loops, so that traces still
apply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from tests.fuzz.case import STATIC, Case, plain_draw
from tests.fuzz.symbols import substituted
from tilewright.ir.bounds import interval
from tilewright.ir.expr import BinOp, Const, Expr, Load, Select, Var, as_expr, const, load
from tilewright.ir.regions import block_regions
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Block, Buffer, For, IterVar, PrimFunc, Seq, Stmt, Store, seq
from tilewright.ir.visit import all_exprs, const_int, free_vars, loads_of, map_stmt, rewrite_expr


@dataclasses.dataclass(frozen=True)
class Stages:
    """A function as its blocks, each alone in loops over its own iterators, in program order."""

    func: PrimFunc
    blocks: tuple[Block, ...]

    @staticmethod
    def of(func: PrimFunc) -> Stages | None:
        """None when the function has another form."""
        body = func.body
        while isinstance(body, Alloc):
            body = body.body
        blocks = []
        for nest in body.stmts if isinstance(body, Seq) else (body,):
            loops: list[Var] = []
            while isinstance(nest, For):
                loops.append(nest.var)
                nest = nest.body
            if not (isinstance(nest, Block) and isinstance(nest.body, Store)):
                return None
            if [it.binding for it in nest.iters] != loops:
                return None
            blocks.append(nest)
        return Stages(func, tuple(blocks))

    def build(self, blocks: Sequence[Block], outputs: Sequence[Buffer]) -> PrimFunc | None:
        """The function of those ``blocks`` that ``outputs`` need; None when nothing is left. What they read
        and none of them writes becomes an input.
        """
        needed, kept = set(outputs), []
        for block in reversed(blocks):
            if _store(block).buffer in needed:
                kept.append(block)
                needed |= set(_read(block))
        kept.reverse()
        if not kept:
            return None
        written = [_store(b).buffer for b in kept]
        inputs = [p for p in self.func.inputs if isinstance(p, Buffer) and p in needed]
        inputs += needed - set(written) - set(inputs)
        body = seq([_nest(b) for b in kept])
        for buffer in written:
            if buffer not in outputs:
                body = Alloc(buffer, body)
        used = {v for b in (*inputs, *written) for dim in b.shape for v in free_vars(dim)}
        used |= {v for e in all_exprs(body) for v in free_vars(e)}
        dims = [p for p in self.func.params if isinstance(p, Var) and p in used]
        ordered = sorted(inputs, key=lambda b: b.name)
        func = self.func.with_(params=(*dims, *ordered, *outputs), body=body)
        names = {b.name for b in ordered}
        consts = tuple(n for n in func.attr("const_params", ()) if n in names)
        return func.with_attr("outputs", len(outputs)).with_attr("const_params", consts)


def _store(block: Block) -> Store:
    assert isinstance(block.body, Store)
    return block.body


def _read(block: Block) -> list[Buffer]:
    """Buffers that a block reads, its own not."""
    store = _store(block)
    exprs = [store.value, *store.indices]
    return list(dict.fromkeys(n.buffer for e in exprs for n in loads_of(e) if n.buffer is not store.buffer))


def _nest(block: Block) -> Stmt:
    nest: Stmt = block
    for it in reversed(block.iters):
        assert isinstance(it.binding, Var)
        nest = For(it.binding, it.extent, nest)
    return nest


def _changed(case: Case, func: PrimFunc | None) -> Iterator[Case]:
    """The case with another function, if it has one: draws for new inputs, marks for the outputs left."""
    if func is None:
        return
    exact = dict(zip([b.name for b in case.func.outputs], case.exact, strict=False))
    draws = {
        b.name: case.draws.get(b.name) or plain_draw(b.dtype) for b in func.inputs if isinstance(b, Buffer)
    }
    yield case.with_(func=func, draws=draws, exact=tuple(exact.get(b.name, False) for b in func.outputs))


# ------------------------------------------------------------------------------------- fewer stages and sizes


def reductions(case: Case) -> Iterator[Case]:
    """Cases that are simpler in one respect, those that take most away first."""
    for n in range(len(case.sizes)):
        if len(case.sizes) > 1:
            yield case.with_(sizes=(case.sizes[n],))
    stages = Stages.of(case.func)
    if stages is None:
        return
    outputs = case.func.outputs
    for output in outputs:
        if len(outputs) > 1:
            yield from _changed(case, stages.build(stages.blocks, [output]))
    for block in reversed(stages.blocks):
        if _store(block).buffer not in outputs:
            rest = [b for b in stages.blocks if b is not block]
            yield from _changed(case, stages.build(rest, outputs))
    for block in stages.blocks[:-1]:  # what it computes instead of what is made of it
        yield from _changed(case, stages.build(stages.blocks, [_store(block).buffer]))
    yield from _bound(case)
    for block in stages.blocks:
        for it in block.iters:
            size = const_int(it.extent) or 1
            for smaller in sorted({1, 2, 3, size // 2, size - 1} - {0}):
                if smaller < size:
                    yield from _changed(case, _shrunk(stages, {it.var: smaller}))
    if any(draw != plain_draw("int8") for draw in case.draws.values()):
        buffers = [p for p in case.func.inputs if isinstance(p, Buffer)]
        yield case.with_(draws={b.name: plain_draw(b.dtype) for b in buffers})
    yield from _simpler(case, stages)


def _bound(case: Case) -> Iterator[Case]:
    """Constants for the run-time dimensions."""
    dims = [p for p in case.func.params if isinstance(p, Var)]
    if dims and len(case.sizes) == 1:
        func = substituted(case.func, {v: case.sizes[0][v.name] for v in dims})
        func = func.with_(params=tuple(p for p in func.params if isinstance(p, Buffer)))
        yield case.with_(func=func, sizes=STATIC)


def _simpler(case: Case, stages: Stages) -> Iterator[Case]:
    """A part of an expression in place of the whole."""
    for n, block in enumerate(stages.blocks):
        store = _store(block)
        for old, new in _replacements(block):
            value = rewrite_expr(store.value, lambda e, old=old, new=new: new if e is old else None)  # type: ignore[misc]
            if value is store.value:
                continue
            body = Store(store.buffer, store.indices, value)
            reads, writes = block_regions(body, block.init)
            fresh = block.with_(body=body, reads=reads, writes=writes)
            blocks = [*stages.blocks[:n], fresh, *stages.blocks[n + 1 :]]
            for smaller in _changed(case, stages.build(blocks, case.func.outputs)):
                yield smaller.with_(exact=(False,) * len(smaller.func.outputs))


def _replacements(block: Block) -> Iterator[tuple[Expr, Expr]]:
    """Sub-expressions of a block's value and what to try instead; a reduction goes on accumulating."""
    store = _store(block)
    pending = [store.value]
    if block.init is not None and isinstance(store.value, BinOp):
        own = load(store.buffer, store.indices)
        pending = [e for e in (store.value.a, store.value.b) if e is not own]
    seen: set[Expr] = set()
    while pending:
        e = pending.pop(0)
        if e in seen or isinstance(e, Const | Var):
            continue
        seen.add(e)
        parts = [e.a, e.b] if isinstance(e, Select) else list(e.children)
        if not isinstance(e, Load):
            yield from ((e, part) for part in parts if part.dtype == e.dtype)
            pending += [p for p in e.children if p.dtype != "bool"]
        yield e, const(1, e.dtype)


def resized(case: Case, rng: Random) -> Case | None:
    """The case with some dimensions smaller; None when none can be."""
    stages = Stages.of(case.func)
    if stages is None:
        return None
    found = [(it.var, const_int(it.extent) or 1) for b in stages.blocks for it in b.iters]
    found = [(var, size) for var, size in found if size > 1]
    if not found:
        return None
    chosen = rng.sample(found, min(len(found), rng.randint(1, 4)))
    func = _shrunk(stages, {var: rng.randint(1, size - 1) for var, size in chosen})
    return next(_changed(case, func), None)


def _shrunk(stages: Stages, wanted: Mapping[Var, int]) -> PrimFunc | None:
    """The function with block iterators over fewer values, as far as readers allow: then what is computed
    from the rest, tensors only as large as they are read. None when that is the same function.
    """
    func = stages.func
    needed: dict[Buffer, list[int | None]] = {}  # per dimension how far it is read, None: all of it
    sizes: dict[Buffer, list[Expr]] = {}
    remade: list[tuple[Block, dict[Expr, Expr], dict[Var, int]]] = []
    for block in reversed(stages.blocks):
        store = _store(block)
        dims = list(store.buffer.shape)
        places = {index: d for d, index in enumerate(store.indices)}
        is_output = store.buffer in func.outputs
        limits = needed.get(store.buffer)
        extents: dict[Var, int] = {}
        for it in block.iters:
            size = const_int(it.extent)
            place = places.get(it.var)
            if size is None or (it.kind == "spatial" and (place is None or dims[place] is not it.extent)):
                continue
            limit = limits[place] if limits is not None and place is not None else 1
            if it.kind == "reduce" or is_output:
                size = min(size, max(wanted.get(it.var, size), limit or size))
            else:
                size = min(size, limit or size)
            extents[it.var] = size
            if place is not None:
                dims[place] = as_expr(size)
        sizes[store.buffer] = dims
        fresh: dict[Expr, Expr] = {v: Var(v.name, lo=0, hi=n - 1) for v, n in extents.items()}
        remade.append((block, fresh, extents))
        for node in loads_of(store.value):
            if node.buffer is not store.buffer:
                _need(needed, node, fresh)
    if all(ext.get(it.var) in (None, const_int(it.extent)) for b, _, ext in remade for it in b.iters):
        return None
    buffers = {}
    for buffer in (*(p for p in func.params if isinstance(p, Buffer)), *sizes):
        dims = sizes.get(buffer) or [
            dim if n is None else as_expr(n)
            for dim, n in zip(buffer.shape, needed.get(buffer, [None] * len(buffer.shape)), strict=True)
        ]
        buffers[buffer] = buffer.with_(shape=tuple(dims), strides=None)
    blocks = [_remade(block, fresh, extents, buffers) for block, fresh, extents in reversed(remade)]
    params = tuple(buffers[p] if isinstance(p, Buffer) else p for p in func.params)
    changed = Stages(func.with_(params=params), tuple(blocks))
    return changed.build(blocks, [buffers[b] for b in func.outputs])


def _need(needed: dict[Buffer, list[int | None]], node: Load, fresh: Mapping[Expr, Expr]) -> None:
    """Note how far a load reads its buffer."""
    limits = needed.setdefault(node.buffer, [1] * len(node.buffer.shape))
    for d, (index, dim) in enumerate(zip(node.indices, node.buffer.shape, strict=True)):
        size, memo = const_int(dim), dict(fresh)
        high = interval(simplify(rewrite_expr(index, lambda _: None, memo))).hi
        before = limits[d]
        if size is None or high is None or high >= size or before is None:
            limits[d] = None
        else:
            limits[d] = max(before, high + 1)


def _remade(
    block: Block, fresh: Mapping[Expr, Expr], extents: Mapping[Var, int], buffers: Mapping[Buffer, Buffer]
) -> Block:
    memo: dict[Expr, Expr] = dict(fresh)

    def visit(node: Expr) -> Expr | None:
        return load(buffers[node.buffer], node.indices) if isinstance(node, Load) else None

    def rewrite(e: Expr) -> Expr:
        return rewrite_expr(e, visit, memo)

    iters = []
    for it in block.iters:
        if it.var not in fresh:
            iters.append(it)
            continue
        var, binding = fresh[it.var], it.binding
        assert isinstance(var, Var)
        assert isinstance(binding, Var)
        loop = Var(binding.name, lo=0, hi=extents[it.var] - 1)
        iters.append(IterVar(var, as_expr(extents[it.var]), it.kind, loop))
    body = map_stmt(block.body, rewrite, lambda b: buffers[b])
    init = None if block.init is None else map_stmt(block.init, rewrite, lambda b: buffers[b])
    reads, writes = block_regions(body, init)
    return Block(block.name, tuple(iters), reads, writes, body, init)
