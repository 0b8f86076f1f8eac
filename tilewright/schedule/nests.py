"""Blocks in their loop nests, as features describe them: what is touched while some of the loops run.

A tensor intrinsic counts as what it means, spelled out: its output's elements are lanes of a vector (and
unrolled rows), while the steps that it sums up are part of one instance, as they are part of one instruction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tilewright.ir import dtype as dt
from tilewright.ir.bounds import affine
from tilewright.ir.expr import (
    BinOp,
    Cmp,
    Const,
    Expr,
    Load,
    Select,
    Var,
    as_expr,
    maximum,
    minimum,
)
from tilewright.ir.intrinsics import flops_of
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.stmt import Annotate, Block, Buffer, For, If, Stmt, Store, TensorCall
from tilewright.ir.tensor_intrinsics import expand
from tilewright.ir.visit import (
    const_int,
    loads_of,
    rewrite_expr,
    stores_of,
    substitute_expr,
    uses,
    walk_expr,
)
from tilewright.schedule.region import relax
from tilewright.schedule.state import Tree, binding_vars


def product_of(extents: Sequence[Expr]) -> Expr:
    """The product; 1 of none."""
    total: Expr = as_expr(1)
    for extent in extents:
        total = total * extent
    return total


def sum_of(terms: Sequence[Expr]) -> Expr:
    """The sum; 0 of none."""
    total: Expr = as_expr(0)
    for term in terms:
        total = total + term
    return total


@dataclasses.dataclass(frozen=True)
class Access:
    """A load or store of a block, with its index over the loops outside.

    Attributes:
        buffer, indices: what the block says.
        over_loops: the index over the loops, at the first of the steps inside an intrinsic.
        inside: the steps inside an intrinsic that move it.
        over_inside: the index over these as well.
    """

    buffer: Buffer
    indices: tuple[Expr, ...]
    over_loops: tuple[Expr, ...]
    inside: tuple[For, ...]
    over_inside: tuple[Expr, ...]
    _touched: dict[tuple[Expr, ...], list[Expr]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def group(self) -> int:
        """Elements that one instance touches together."""
        return math.prod(const_int(loop.extent) or 1 for loop in self.inside)

    def touched(self, loops: Sequence[For]) -> list[Expr]:
        """Elements per dimension from the first to the last that is touched while ``loops`` run."""
        key = tuple(loop.var for loop in loops)
        if key not in self._touched:  # levels of a nest share their loops: most are asked for several times
            self._touched[key] = self._touched_while((*loops, *self.inside))
        return self._touched[key]

    def _touched_while(self, loops: Sequence[For]) -> list[Expr]:
        extents = {loop.var: loop.extent for loop in loops}
        found: list[Expr] = []
        for index, dim in zip(self.over_inside, self.buffer.shape, strict=True):
            r = relax(index, extents) if _is_arithmetic(index) else None
            # What is chosen by conditions or read from memory may be anywhere: as many places as iterations.
            moving = [loop.extent for loop in loops if uses(index, {loop.var})]
            found.append(minimum(product_of(moving) if r is None else r.extent, dim))
        return found

    def distinct(self, loops: Sequence[For]) -> Expr:
        """Groups of elements that are touched while ``loops`` run, without what lies between those of a
        stride."""
        counts: list[Expr] = []
        for index, span in zip(self.over_loops, self.touched(loops), strict=True):
            counts.append(minimum(span, product_of([s.extent for s in loops if uses(index, {s.var})])))
        moving = [s.extent for s in loops if any(uses(index, {s.var}) for index in self.over_loops)]
        return minimum(product_of(counts), product_of(moving))

    def bytes(self, loops: Sequence[For]) -> Expr:
        """Bytes of what is touched while ``loops`` run, with what lies between."""
        return product_of(self.touched(loops)) * dt.nbytes(self.buffer.dtype)

    def stride(self, loop: For) -> Expr:
        """Elements between what neighbouring iterations of ``loop`` touch, groups of them where they come in
        whole groups; -1 where it is not one number."""
        total: Expr = as_expr(0)
        for index, step in zip(self.over_loops, self.buffer.row_major_strides(), strict=True):
            form = affine(index, {loop.var})
            if form is None or any(atom is not loop.var for atom in form.terms):
                return as_expr(-1)
            total = total + form.terms.get(loop.var, as_expr(0)) * step
        found = simplify(total)
        known = const_int(found)
        return as_expr(known // self.group) if known is not None and known % self.group == 0 else found


def _is_arithmetic(index: Expr) -> bool:
    """Whether ``index`` is made of ``+ - * // %`` alone."""
    return all(
        isinstance(node, Var | Const)
        or (isinstance(node, BinOp) and node.op in ("add", "sub", "mul", "floordiv", "mod"))
        for node in walk_expr(index)
    )


def _unwrapped(index: Expr, tile: Sequence[For]) -> Expr:
    """``index`` without quotients and remainders that do not wrap around within a tile (a packed operand's):
    there ``(lo + r) % d`` is ``r`` and ``(lo + r) // d`` is ``lo // d``.
    """
    extents = {loop.var: loop.extent for loop in tile}

    def rewritten(node: Expr) -> Expr | None:
        if not isinstance(node, BinOp) or node.op not in ("floordiv", "mod") or uses(node.b, set(extents)):
            return None
        whole = simplify(node.a)
        r = relax(whole, extents) if uses(whole, set(extents)) else None
        if r is None or not prove((r.lo % node.b).eq(0)) or not prove(r.extent <= node.b):
            return None
        return whole - r.lo if node.op == "mod" else r.lo // node.b

    return simplify(rewrite_expr(index, rewritten))


@dataclasses.dataclass(frozen=True)
class Nest:
    """A block, the loops around it (outermost first), and where its levels begin among them.

    Attributes:
        lanes: those of the loops that are an intrinsic's: elements of its output.
        inside: the steps that one instance of an intrinsic sums up.
        values: what the block stores.
    """

    block: Block
    loops: tuple[For, ...]
    lanes: tuple[For, ...]
    inside: tuple[For, ...]
    starts: dict[str, int]
    store: Access
    loads: tuple[Access, ...]
    values: tuple[Expr, ...]

    @staticmethod
    def of(tree: Tree, block: Block) -> Nest:
        """The nest of a block of a function."""
        lanes, inside = _spelled_out(block)
        loops = (*tree.loops_above(block), *lanes)
        micro = len(loops)
        while micro and loops[micro - 1].kind in ("vectorized", "unrolled"):
            micro -= 1
        outside = [n for n, loop in enumerate(loops) if loop.kind == "parallel" or "blockIdx" in loop.kind]
        task = outside[-1] + 1 if outside else 0
        starts = {"micro": max(micro, task), "inner": max(micro - 1, task, 0), "task": task, "all": 0}
        bindings: dict[Expr, Expr] = {it.var: it.binding for it in block.iters}
        first: Mapping[Expr, Expr] = {loop.var: as_expr(0) for loop in inside}
        tile = loops[starts["micro"] :]

        def access(buffer: Buffer, indices: tuple[Expr, ...]) -> Access:
            bound = [substitute_expr(index, bindings) for index in indices]
            moving = tuple(s for s in inside if any(uses(index, {s.var}) for index in bound))
            over = tuple(_unwrapped(simplify(substitute_expr(index, first)), tile) for index in bound)
            every = over
            if moving:
                every = tuple(_unwrapped(simplify(index), (*tile, *moving)) for index in bound)
            return Access(buffer, indices, over, moving, every)

        stores = list(stores_of(block.body))
        found: dict[Expr, Access] = {}
        for stmt in stores:
            for node in loads_of(stmt.value):
                if not _is_own(node, stmt):
                    found.setdefault(node, access(node.buffer, node.indices))
        store = access(stores[0].buffer, stores[0].indices)
        values = tuple(s.value for s in stores)
        return Nest(block, loops, lanes, inside, starts, store, tuple(found.values()), values)

    def level(self, name: str) -> tuple[For, ...]:
        """The loops inside a level."""
        return self.loops[self.starts[name] :]

    def count(self, loops: Sequence[For] | None = None) -> Expr:
        """How often the loops (default: all) run their body."""
        return product_of([loop.extent for loop in (self.loops if loops is None else loops)])

    @property
    def flops(self) -> int:
        """Floating-point operations of one instance. Guards do not count: they come and go with sizes."""
        steps = math.prod(const_int(loop.extent) or 1 for loop in self.inside)
        return steps * sum(_flops_of(value) for value in self.values)

    @property
    def elements(self) -> Expr:
        """Elements that the program needs to write."""
        return self._iterations("spatial") * product_of([loop.extent for loop in self.lanes])

    @property
    def points(self) -> Expr:
        """Instances that the program needs: those of a reduction for each element."""
        return self.elements * self._iterations("reduce")

    @property
    def steps(self) -> Expr:
        """Terms that a reduction has for each element."""
        return self._iterations("reduce") * product_of([loop.extent for loop in self.inside])

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The store and the loads."""
        return (self.store, *self.loads)

    def is_reduce(self, loop: For) -> bool:
        """Whether the loop drives the block's reduction."""
        return loop.var in binding_vars(self.block, "reduce")

    def footprint(self, loops: Sequence[For]) -> Expr:
        """Bytes of memory (registers left out) that the block touches while ``loops`` run."""
        distinct: dict[Buffer, Expr] = {}
        for access in self.accesses:
            if access.buffer.scope == "register":
                continue
            mine = access.bytes(loops)
            # Several accesses of one buffer mostly touch the same elements.
            old = distinct.get(access.buffer)
            distinct[access.buffer] = mine if old is None else maximum(old, mine)
        return sum_of(list(distinct.values()))

    def _iterations(self, kind: str) -> Expr:
        return product_of([it.extent for it in self.block.iters if it.kind == kind])


def work_of(block: Block) -> tuple[int, int]:
    """Floating-point operations of one instance of a block, and operations on whole numbers; those on indices
    do not count."""
    lanes, inside = _spelled_out(block)
    times = math.prod(const_int(loop.extent) or 1 for loop in (*lanes, *inside))
    values = [store.value for store in stores_of(block.body)]
    whole = sum(_is_whole(node) for value in values for node in walk_expr(value))
    return times * sum(map(_flops_of, values)), times * whole


def _is_whole(node: Expr) -> bool:
    return isinstance(node, BinOp) and dt.is_int(node.dtype) and node.dtype != dt.INDEX


def _spelled_out(block: Block) -> tuple[tuple[For, ...], tuple[For, ...]]:
    """The loops of the tensor intrinsic that is a block's body: those over elements of its output, of which
    the last dimension's are lanes of a vector, and those over the steps that it sums up."""
    stmt: Stmt = block.body
    while isinstance(stmt, If | Annotate):
        stmt = stmt.then if isinstance(stmt, If) else stmt.body
    if not isinstance(stmt, TensorCall):
        return (), ()
    meaning = expand(stmt)
    loops: list[For] = []
    while isinstance(meaning, For):
        loops.append(meaning)
        meaning = meaning.body
    assert isinstance(meaning, Store)
    lanes: list[For] = []
    inside: list[For] = []
    for loop in loops:
        along = [n for n, index in enumerate(meaning.indices) if uses(index, {loop.var})]
        if along:
            kind = "vectorized" if along[-1] == len(meaning.indices) - 1 else "unrolled"
            lanes.append(For(loop.var, loop.extent, loop.body, kind))
        else:
            inside.append(loop)
    return tuple(lanes), tuple(inside)


def _is_own(node: Load, store: Store) -> bool:
    return node.buffer is store.buffer and node.indices == store.indices


def _flops_of(value: Expr) -> int:
    """As ``flops_of``, without comparisons and selections."""
    choices = [node for node in walk_expr(value) if isinstance(node, Cmp | Select)]
    return flops_of(value) - sum(dt.is_float(node.a.dtype) for node in choices)
