"""The primitive pad: fill up the iteration domain of a block so that tiles divide it.

The block then runs over more instances than before. Those beyond the old spatial extents write elements that
nobody reads; those beyond the old reduce extents must not change a sum: all that they combine with it is the
neutral element, which follows from the values that the operands are filled up with.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.ir import dtype as dt
from tilewright.ir.expr import (
    BinOp,
    Call,
    Cast,
    Const,
    Expr,
    Load,
    Select,
    Var,
    all_of,
    as_expr,
    ceildiv,
    const,
    load,
    select,
)
from tilewright.ir.intrinsics import INTRINSICS
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.stmt import Block, Buffer, IterVar, PrimFunc, Range, Stmt, Store, seq
from tilewright.ir.visit import free_vars, loads_of, map_stmt, rewrite_expr, substitute_expr, uses, walk_expr
from tilewright.schedule import region
from tilewright.schedule.dependence import recheck_kinds, require_no_recurrence
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.layout import relaid
from tilewright.schedule.reduction import neutral, reduced_term
from tilewright.schedule.state import (
    BlockRef,
    Tree,
    find_block,
    loop_name,
    loop_var,
    nest_of,
    reduction_op,
    replace,
    with_alloc,
    with_body,
)

_FLOAT_OPS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "min": np.minimum,
}  # fmt: skip

#: Combinations of values for the operands that are tried, at most.
MAX_TRIES = 4096


def pad(
    func: PrimFunc, ref: BlockRef, factors: Sequence[int | Expr | None]
) -> tuple[PrimFunc, list[BlockRef]]:
    """Fill up the extent of each iterator of a block to a multiple of its entry in ``factors``; iterators
    with None stay as they are.

    Every operand that is read at a filled iterator is read from a copy in which zeros or other constants,
    chosen so that the result is the same, follow the data: new blocks ``<operand>_pad`` before the block's
    nest. A parameter whose data is known at compile time and that zeros are good for is stored filled up
    instead (``attrs["param_layouts"]``, as for transform_layout). Where a spatial iterator is filled, the
    block writes a larger buffer, and a new block ``<block>_cut`` right after it copies the part that counts.
    Returns the copying blocks in the order in which the block reads, then the cutting one, if any. Which
    blocks there are depends on which factors are None and not on sizes: a factor that divides its extent
    makes copies that fill nothing up, ready to be inlined.

    The block must be one store at plain spatial iterators, alone in serial loops that its iterators are bound
    to one to one. Raises ScheduleError otherwise, for factors that are not positive, for operands whose
    region is not known, and where no filling is proved to leave a reduction as it is: sums of products are
    (of zeros on both sides: infinity times zero is not zero), maxima and minima of operands are.
    """
    tree = Tree(func)
    block = find_block(tree, ref, "pad")
    chosen = _checked_factors(tree, block, factors)
    nest = _plain_nest(tree, block)
    store = _plain_store(tree, block)
    domain = _domain(block, chosen)
    operands = _operands(tree, block, domain)
    values = _fillings(tree, block, domain, operands)
    fresh: dict[Buffer, Buffer] = {}
    before: list[Stmt] = []
    made: list[BlockRef] = []
    for operand in operands:
        value, shape = values[operand.buffer], operand.shape
        layout = operand.layout
        if layout is not None and value.value == 0:
            func = _store_filled(func, operand.buffer, layout)
            continue
        name = tree.fresh_name(f"{operand.buffer.name}_pad")
        copy = Buffer(name, shape, operand.buffer.dtype)
        fresh[operand.buffer] = copy
        before.append(_filling_nest(name, operand.buffer, copy, value))
        made.append(BlockRef(name))
    # Constants stored filled up have changed the block: find it and its nest again.
    tree = Tree(func)
    block, nest = tree.blocks[block.name], tree.own_nest(tree.blocks[block.name])
    after: list[Stmt] = []
    if any(domain.is_padded(it) for it in block.iters if it.kind == "spatial"):
        wide = tuple(
            domain.extents[index] if isinstance(index, Var) else dim
            for index, dim in zip(store.indices, store.buffer.shape, strict=True)
        )
        padded = Buffer(tree.fresh_name(f"{store.buffer.name}_pad"), wide, store.buffer.dtype)
        fresh[store.buffer] = padded
        name = tree.fresh_name(f"{block.name}_cut")
        after.append(_cutting_nest(name, block, store, padded))
        made.append(BlockRef(name))
    func = replace(tree, {nest: seq([*before, _padded_nest(tree, block, domain, fresh), *after])})
    for buffer in fresh.values():
        func = with_alloc(func, buffer)
    recheck_kinds(Tree(func))
    return func, made


@dataclasses.dataclass(frozen=True)
class _Domain:
    """The iteration domain of the padded block: iterators by their old variables."""

    variables: Mapping[Expr, Var]
    extents: Mapping[Var, Expr]
    factors: Mapping[Var, Expr]

    def is_padded(self, it: IterVar) -> bool:
        return it.var in self.factors


@dataclasses.dataclass(frozen=True)
class _Operand:
    """A buffer that the block reads at padded iterators.

    Attributes:
        loads: where it is read, over the old iterators.
        shape: what the padded block reads of it, from index 0 on.
        layout: for a constant, the layout in which it is stored filled up; None where that does not fit.
    """

    buffer: Buffer
    loads: tuple[Load, ...]
    shape: tuple[Expr, ...]
    layout: IndexMap | None


def _checked_factors(tree: Tree, block: Block, factors: Sequence[int | Expr | None]) -> list[Expr | None]:
    if len(factors) != len(block.iters):
        names = ", ".join(it.var.name for it in block.iters)
        raise failure(
            tree,
            f"pad: {len(factors)} factors are given for the {len(block.iters)} iterators of block "
            f"'{block.name}' ({names})",
            block,
            hint="give a factor for each iterator, None to leave it as it is",
        )
    for factor in factors:
        if factor is not None and not prove(as_expr(factor) >= 1):
            raise failure(
                tree,
                f"pad: factor {factor!r} is not a positive integer",
                block,
                hint="extents become multiples of factors",
            )
    return [None if f is None else as_expr(f) for f in factors]


def _plain_nest(tree: Tree, block: Block) -> Stmt:
    """The block's nest, when the block is alone in serial loops, one for each iterator."""
    nest = tree.own_nest(block)
    shared = tree.loops_above(nest)
    if shared:
        raise failure(
            tree,
            f"pad: block '{block.name}' shares loop '{shared[-1].var.name}' with other blocks",
            shared[-1],
            block,
            hint="pad before compute_at",
        )
    loops = tree.loops_above(block)
    bound = {it.binding: it for it in block.iters}
    for loop in loops:
        it = bound.get(loop.var)
        if it is None or it.extent is not loop.extent or loop.kind != "serial":
            raise failure(
                tree,
                f"pad: loop '{loop.var.name}' is not a serial loop over one iterator of block '{block.name}'",
                loop,
                block,
                hint="pad before the block's loops are split, fused, or given a kind",
            )
    if len(loops) != len(block.iters) or len(bound) != len(block.iters):
        raise failure(
            tree,
            f"pad: the iterators of block '{block.name}' are not bound to a loop each",
            block,
            hint="pad before the block's loops are split or fused",
        )
    return nest


def _plain_store(tree: Tree, block: Block) -> Store:
    """The block's store, when it puts every spatial instance at indices of its own."""
    store = tree.store(block)
    require_no_recurrence(tree, block, "pad")
    if len(tree.writers(store.buffer)) > 1 or (block.init is None and tree.accesses[block.name].accumulates):
        raise failure(
            tree,
            f"pad: block '{block.name}' is split into initialisation and update",
            block,
            hint="pad before decompose_reduction",
        )
    spatial = [it.var for it in block.iters if it.kind == "spatial"]
    used = [index for index in store.indices if not isinstance(index, Const)]
    if len(used) != len(spatial) or set(used) != set(spatial):
        raise failure(
            tree,
            f"pad: block '{block.name}' does not store at its spatial iterators, one in each dimension",
            block,
            hint="padded instances must write elements of their own",
        )
    return store


def _domain(block: Block, factors: Sequence[Expr | None]) -> _Domain:
    variables: dict[Expr, Var] = {}
    extents: dict[Var, Expr] = {}
    chosen: dict[Var, Expr] = {}
    for it, factor in zip(block.iters, factors, strict=True):
        extents[it.var] = it.extent
        if factor is not None:
            extents[it.var] = _filled_up(it.extent, factor)
            chosen[it.var] = factor
        variables[it.var] = loop_var(it.var.name, extents[it.var])
    return _Domain(variables, extents, chosen)


def _filled_up(extent: Expr, factor: Expr) -> Expr:
    return simplify(ceildiv(extent, factor) * factor)


def _operands(tree: Tree, block: Block, domain: _Domain) -> list[_Operand]:
    """The buffers that are read at padded iterators."""
    padded = set(domain.factors)
    loops = {domain.variables[it.var]: domain.extents[it.var] for it in block.iters}
    result = []
    for buffer, loads in tree.accesses[block.name].loads.items():
        moved = [n for n, _ in enumerate(buffer.shape) if any(uses(x.indices[n], padded) for x in loads)]
        if not moved:
            continue
        shape = list(buffer.shape)
        for n in moved:
            hull = _reach(loads, n, domain, loops)
            if hull is None:
                raise failure(
                    tree,
                    f"pad: block '{block.name}' reads '{buffer.name}' at {loads[0].indices[n]!r}, and how "
                    "far that reaches in the padded domain is not known",
                    block,
                    hint="pad iterators that index operands in linear forms, from 0 on",
                )
            shape[n] = hull
        layout = _filled_layout(tree, buffer, loads, moved, domain)
        result.append(_Operand(buffer, tuple(loads), tuple(shape), layout))
    _require_reads_exist(tree, block, padded)
    for e in walk_expr(tree.store(block).value):
        if isinstance(e, BinOp) and e.op in ("floordiv", "mod") and any(True for _ in loads_of(e.b)):
            raise failure(
                tree,
                f"pad: block '{block.name}' divides integers by data, which padding would make 0",
                block,
                hint="compute the quotient in a block of its own",
            )
    return result


def _require_reads_exist(tree: Tree, block: Block, padded: set[Var]) -> None:
    """A read under a condition that padded instances may satisfy must be in bounds by itself."""
    nodes = list(walk_expr(tree.store(block).value))
    if not any(isinstance(e, Select) and uses(e.cond, padded) for e in nodes):
        return
    for e in nodes:
        if isinstance(e, Load):
            for index, size in zip(e.indices, e.buffer.shape, strict=True):
                if not uses(index, padded) and not prove((as_expr(0) <= index) & (index < size)):
                    raise failure(
                        tree,
                        f"pad: block '{block.name}' reads '{e.buffer.name}' at {index!r} under a condition "
                        "that padded instances may satisfy",
                        block,
                        hint="pad before producers are inlined into the block",
                    )


def _reach(loads: Sequence[Load], dim: int, domain: _Domain, loops: Mapping[Var, Expr]) -> Expr | None:
    """How many elements from 0 on the loads touch in one dimension while the padded domain runs."""
    hull: Range | None = None
    for n, node in enumerate(loads):
        index = simplify(substitute_expr(node.indices[dim], domain.variables))
        r = region.relax(index, loops)
        hull = r if n == 0 else region.union(hull, r)
    if hull is None or free_vars(hull.lo) & loops.keys() or not prove(hull.lo >= 0):
        return None
    return simplify(hull.lo + hull.extent)


def _filled_layout(
    tree: Tree, buffer: Buffer, loads: Sequence[Load], moved: Sequence[int], domain: _Domain
) -> IndexMap | None:
    """The layout that fills a constant up to what the padded block reads of it."""
    constant = tree.is_param(buffer) and buffer.name in tree.func.attr("const_params", ())
    if not constant or buffer.name in tree.func.attr("param_layouts", {}):
        return None
    multiples: list[Expr | None] = [None] * len(buffer.shape)
    at_run_time = {p for p in tree.func.params if isinstance(p, Var)}
    for n in moved:
        indices = {node.indices[n] for node in loads}
        (index, *others) = indices
        if others or not isinstance(index, Var) or index not in domain.factors:
            return None
        if uses(domain.factors[index], at_run_time):  # without a value when the constant is bound
            return None
        if domain.extents[index] is not _filled_up(buffer.shape[n], domain.factors[index]):
            return None
        multiples[n] = domain.factors[index]
    variables = tuple(Var(f"i{n}", lo=0) for n in range(len(buffer.shape)))
    return IndexMap(variables, variables, tuple(multiples))


def _fillings(tree: Tree, block: Block, domain: _Domain, operands: Sequence[_Operand]) -> dict[Buffer, Const]:
    """What to fill each operand up with so that instances beyond the reduce extents change nothing."""
    buffers = [operand.buffer for operand in operands]
    reduced = [it for it in block.iters if it.kind == "reduce" and domain.is_padded(it)]
    if not reduced:
        return {b: const(0, b.dtype) for b in buffers}
    store = tree.store(block)
    op = reduction_op(store)
    if op is None:
        raise failure(
            tree,
            f"pad: block '{block.name}' does not accumulate with + * max or min",
            block,
            hint="only reductions by these have a neutral element",
        )
    term = reduced_term(store)
    identity = neutral(op, store.buffer.dtype)
    beyond = [_certain(operands, block, it) for it in reduced]
    tries = itertools.product(*(_candidates(b, op, term) for b in buffers))
    for values in itertools.islice(tries, MAX_TRIES):
        filling = dict(zip(buffers, values, strict=True))
        terms = [_with_loads(term, loads, filling) for loads in beyond]
        if all(isinstance(e, Const) and e.value == identity.value for e in terms):
            return filling
    raise failure(
        tree,
        f"pad: what block '{block.name}' would add for padding is not proved to be {identity!r}, the neutral "
        f"element of its {op}",
        block,
        hint="a factor that is not padding may be infinite or NaN; leave the iterator as it is (None), or "
        "let all factors be read at it",
    )


def _certain(operands: Sequence[_Operand], block: Block, beyond: IterVar) -> frozenset[Load]:
    """The loads that only meet filling while the iterator ``beyond`` is past its old extent."""
    free: dict[Expr, Expr] = {it.var: Var(it.var.name, lo=0) for it in block.iters}
    free[beyond.var] = beyond.extent + Var("past", lo=0)
    return frozenset(
        node
        for operand in operands
        for node in operand.loads
        if any(
            prove(substitute_expr(index, free) >= dim)
            for index, dim in zip(node.indices, operand.buffer.shape, strict=True)
        )
    )


def _candidates(buffer: Buffer, op: str, term: Expr) -> Iterator[Const]:
    """Values that an operand could be filled up with: zero first, then what is neutral or cancels."""
    wanted: list[int | float] = [0]
    if dt.is_float(buffer.dtype):
        wanted += [neutral(op, buffer.dtype).value, 1, -math.inf, math.inf]
    elif buffer.dtype != "bool":
        low, high = dt.int_range(buffer.dtype)
        wanted += [neutral(op, buffer.dtype).value, 1, low, high]
        constants = (e.value for e in walk_expr(term) if isinstance(e, Const) and not dt.is_float(e.dtype))
        wanted += [v for c in constants for v in (c, -c) if low <= v <= high]
    return (const(value, buffer.dtype) for value in dict.fromkeys(wanted))


def _with_loads(e: Expr, loads: Collection[Load], filling: Mapping[Buffer, Const]) -> Expr:
    """``e`` with ``loads`` replaced by the values of their buffers, and what is constant then, computed."""

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, Load):
            return filling[node.buffer] if node in loads else None
        return _computed(node)

    return simplify(rewrite_expr(e, visit))


def _computed(e: Expr) -> Const | None:
    """The value of an operation on floating-point constants."""
    values = [c.value for c in e.children if isinstance(c, Const) and dt.is_float(c.dtype)]
    if not values or len(values) < len(e.children) or not dt.is_float(e.dtype):
        return None
    operands = [np.asarray(value, dt.to_numpy(e.dtype)) for value in values]
    with np.errstate(all="ignore"):
        if isinstance(e, BinOp) and e.op in _FLOAT_OPS:
            return const(float(_FLOAT_OPS[e.op](*operands)), e.dtype)
        if isinstance(e, Call) and (numpy := INTRINSICS[e.name].numpy) is not None:
            return const(float(numpy(*operands)), e.dtype)
    return const(values[0], e.dtype) if isinstance(e, Cast) else None


def _store_filled(func: PrimFunc, buffer: Buffer, layout: IndexMap) -> PrimFunc:
    """Let the constant ``buffer`` be filled up where it is bound."""
    layouts = func.attr("param_layouts", {})
    return relaid(func, buffer, layout).with_attr("param_layouts", {**layouts, buffer.name: str(layout)})


def _filling_nest(name: str, source: Buffer, target: Buffer, value: Const) -> Stmt:
    """A block that copies ``source`` to ``target``, with ``value`` beyond it."""
    iters = []
    for n, dim in enumerate(target.shape):
        iters.append(IterVar(loop_var(f"vi{n}", dim), dim, "spatial", loop_var(f"i{n}", dim)))
    at = tuple(it.var for it in iters)
    inside = all_of([simplify(v < dim) for v, dim in zip(at, source.shape, strict=True)])
    store = Store(target, at, simplify(select(inside, load(source, at), value)))
    return nest_of(with_body(Block(name, tuple(iters), (), (), store), store))


def _cutting_nest(name: str, block: Block, store: Store, padded: Buffer) -> Stmt:
    """A block that copies what counts of ``padded`` to where ``block`` stored before."""
    spatial = {it.var: it for it in block.iters if it.kind == "spatial"}
    fresh: dict[Expr, Expr] = {v: loop_var(v.name, it.extent) for v, it in spatial.items()}
    iters = []
    for index in store.indices:
        if isinstance(index, Var):
            it, var = spatial[index], fresh[index]
            assert isinstance(var, Var)
            iters.append(IterVar(var, it.extent, "spatial", loop_var(loop_name(it), it.extent)))
    at = tuple(substitute_expr(index, fresh) for index in store.indices)
    copy = Store(store.buffer, at, load(padded, at))
    return nest_of(with_body(Block(name, tuple(iters), (), (), copy), copy))


def _padded_nest(tree: Tree, block: Block, domain: _Domain, fresh: Mapping[Buffer, Buffer]) -> Stmt:
    """The block over the padded domain, in its loops; those that stay as long as they were are the same."""
    loops: dict[Var, Var] = {}
    iters = []
    for it in block.iters:
        assert isinstance(it.binding, Var)
        loop = loop_var(it.binding.name, domain.extents[it.var]) if domain.is_padded(it) else it.binding
        loops[it.binding] = loop
        iters.append(IterVar(domain.variables[it.var], domain.extents[it.var], it.kind, loop))

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.buffer in fresh:
            return load(fresh[node.buffer], node.indices)
        return None

    memo: dict[Expr, Expr] = dict(domain.variables)

    def moved(stmt: Stmt) -> Stmt:
        return map_stmt(stmt, lambda e: rewrite_expr(e, visit, memo), lambda b: fresh.get(b, b))

    init = None if block.init is None else moved(block.init)
    body: Stmt = with_body(block.with_(iters=tuple(iters)), moved(block.body), init)
    for outer in reversed(tree.loops_above(block)):
        var = loops[outer.var]
        extent = next(it.extent for it in iters if it.binding is var)
        body = dataclasses.replace(outer, var=var, extent=extent, body=body)
    return body
