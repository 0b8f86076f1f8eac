"""The loop program under a schedule: handles, an index of its tree, and replacing parts of it.

Primitives never mutate. Each builds a :class:`Tree` of the function it gets, decides, and rebuilds the
touched path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from tilewright.errors import ScheduleError
from tilewright.ir.expr import BinOp, Const, Expr, Load, Var, conjuncts, load
from tilewright.ir.pipeline import STAGE_KEY
from tilewright.ir.regions import block_regions
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Block,
    Buffer,
    For,
    If,
    IterVar,
    PrimFunc,
    Seq,
    Stmt,
    Store,
    TensorCall,
    child_stmts,
    seq,
    with_inner,
)
from tilewright.ir.visit import find_blocks, free_vars, loads_of, own_exprs, substitute_expr, walk_stmt
from tilewright.schedule.diagnostics import failure


@dataclasses.dataclass(frozen=True, slots=True)
class BlockRef:
    """A block of the function under schedule, by its name (unique in the function, stable under all
    primitives).
    """

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class LoopRef:
    """A loop of the function under schedule, by its variable (kept as long as the loop is)."""

    var: Var

    def __repr__(self) -> str:
        return f"LoopRef({self.var.name})"


#: What there may be around blocks, beside loops.
_OUTSIDE_BLOCKS: Final = frozenset([Seq, Alloc, Annotate, If])


class Tree:
    """An index of one function: parents, blocks and loops in program order, who accesses which buffer.

    A block's body must be meaningful on the whole domain of its iterators; predicates only cut loops that
    overrun it. Raises ScheduleError when the program cannot be scheduled: computation outside of blocks,
    blocks inside blocks, loop extents over other loops, two blocks of one name.
    """

    def __init__(self, func: PrimFunc) -> None:
        self.func = func
        self.parent: dict[Stmt, Stmt | None] = {}
        self.order: dict[Stmt, int] = {}
        self.blocks: dict[str, Block] = {}
        self.loops: dict[Var, For] = {}
        stack: list[tuple[Stmt, Stmt | None]] = [(func.body, None)]
        while stack:
            node, parent = stack.pop()
            self.parent[node] = parent
            self.order[node] = len(self.order)
            if isinstance(node, Block):
                self._add_block(node)
                continue
            if isinstance(node, For):
                self._add_loop(node)
            elif type(node) not in _OUTSIDE_BLOCKS:
                raise ScheduleError(
                    f"'{func.name}' computes outside of blocks; only programs made of blocks can be "
                    "scheduled",
                    hint="schedule before lowering",
                )
            stack += [(child, node) for child in reversed(child_stmts(node))]

    def _add_block(self, block: Block) -> None:
        if block.name in self.blocks:
            raise ScheduleError(
                f"two blocks of '{self.func.name}' are named '{block.name}'",
                hint="names of blocks are handles: each one needs its own",
            )
        if not isinstance(block.body, Store) and find_blocks(block.body):
            raise ScheduleError(
                f"block '{block.name}' contains blocks; only blocks without blocks inside can be scheduled",
                hint="schedule before blocks are nested",
            )
        self.blocks[block.name] = block

    def _add_loop(self, loop: For) -> None:
        if not isinstance(loop.extent, Const) and free_vars(loop.extent) & self.loops.keys():
            raise ScheduleError(
                f"the extent {loop.extent!r} of loop '{loop.var.name}' depends on another loop; only "
                "rectangular loop nests can be scheduled",
                hint="schedule before lowering",
            )
        if loop.var in self.loops:
            raise ScheduleError(
                f"two loops of '{self.func.name}' share the variable '{loop.var.name}'",
                hint="every loop needs a variable of its own",
            )
        self.loops[loop.var] = loop

    def path(self, node: Stmt) -> list[Stmt]:
        """Statements from the root down to ``node``, both included."""
        result = [node]
        above = self.parent[node]
        while above is not None:
            result.append(above)
            above = self.parent[above]
        result.reverse()
        return result

    def loops_above(self, node: Stmt) -> list[For]:
        """Loops around ``node``, outermost first."""
        return [s for s in self.path(node)[:-1] if isinstance(s, For)]

    def is_below(self, node: Stmt, ancestor: Stmt) -> bool:
        """Whether ``ancestor`` contains ``node`` (a statement contains itself)."""
        current: Stmt | None = node
        while current is not None:
            if current is ancestor:
                return True
            current = self.parent[current]
        return False

    def loops_between(self, ancestor: Stmt, node: Stmt) -> list[For]:
        """Loops strictly below ``ancestor`` around ``node``, outermost first."""
        path = self.path(node)
        return [s for s in path[path.index(ancestor) + 1 : -1] if isinstance(s, For)]

    def common_loops(self, a: Stmt, b: Stmt) -> list[For]:
        """Loops around both statements, outermost first."""
        shared = []
        for x, y in zip(self.path(a), self.path(b), strict=False):
            if x is not y:
                break
            if isinstance(x, For):
                shared.append(x)
        return shared

    def blocks_below(self, node: Stmt) -> list[Block]:
        """Blocks inside ``node`` in program order."""
        return [b for b in self.blocks.values() if self.is_below(b, node)]

    def own_nest(self, block: Block) -> Stmt:
        """The outermost statement whose only block is ``block``, reached through loops alone, inside its part
        of a pipelined loop.
        """
        node: Stmt = block
        above = self.parent[node]
        while isinstance(above, For) or (isinstance(above, Annotate) and above.key != STAGE_KEY):
            node = above
            above = self.parent[node]
        return node

    def allocation(self, buffer: Buffer) -> Alloc | None:
        """The statement that allocates ``buffer``, or None for a parameter."""
        return next((s for s in self.order if isinstance(s, Alloc) and s.buffer is buffer), None)

    @cached_property
    def accesses(self) -> dict[str, Accesses]:
        """What each block reads and writes, by block name."""
        return {name: Accesses.of(block) for name, block in self.blocks.items()}

    def store(self, block: Block) -> Store:
        """The single store of a block's body. Raises ScheduleError when it has none or several."""
        if isinstance(block.body, Store):
            return block.body
        raise failure(
            self,
            f"block '{block.name}' is not a single store, so its iteration space cannot be rewritten",
            block,
            hint="apply blockize and tensorize after all primitives that rewrite iteration spaces",
        )

    def inner_store(self, block: Block) -> Store:
        """The one store in a block's body, be it inside loops or a tensor call. Raises ScheduleError when it
        has none or several, or a condition decides whether an element gets a new value.
        """
        stmt, conditional = block.body, False
        while isinstance(stmt, For | Annotate | TensorCall | If):
            conditional |= isinstance(stmt, If)
            (stmt, *others) = child_stmts(stmt)
            if others:
                break
        if not isinstance(stmt, Store) or (conditional and reduction_op(stmt) is None):
            raise failure(
                self,
                f"block '{block.name}' is not one nest of loops around one store",
                block,
                hint="blocks with several stores keep their place and their loops",
            )
        return stmt

    def writers(self, buffer: Buffer) -> list[Block]:
        """Blocks that store to ``buffer``, in program order."""
        return [b for b in self.blocks.values() if buffer in self.accesses[b.name].written]

    def readers(self, buffer: Buffer) -> list[Block]:
        """Blocks that load from ``buffer`` other than to accumulate into it, in program order."""
        return [b for b in self.blocks.values() if buffer in self.accesses[b.name].loads]

    def producers(self, block: Block) -> list[Block]:
        """Blocks that write what ``block`` reads, in program order."""
        read = self.accesses[block.name].loads
        return [
            b for b in self.blocks.values() if b is not block and self.accesses[b.name].written & read.keys()
        ]

    def consumers(self, block: Block) -> list[Block]:
        """Blocks that read what ``block`` writes, in program order."""
        written = self.accesses[block.name].written
        return [
            b for b in self.blocks.values() if b is not block and written & self.accesses[b.name].loads.keys()
        ]

    def is_param(self, buffer: Buffer) -> bool:
        return any(p is buffer for p in self.func.params)

    def fresh_name(self, stem: str) -> str:
        """``stem``, or ``stem_1`` ... when a block or buffer already has that name."""
        taken = set(self.blocks) | {p.name for p in self.func.params}
        taken |= {s.buffer.name for s in self.order if isinstance(s, Alloc)}
        name, n = stem, 1
        while name in taken:
            name, n = f"{stem}_{n}", n + 1
        return name


@dataclasses.dataclass(frozen=True, slots=True)
class Accesses:
    """The memory accesses of one block over its iterators.

    Attributes:
        written: buffers stored to.
        loads: loads by buffer, without those that accumulate into the element being stored.
        accumulates: whether the body reads the very element that it stores.
    """

    written: frozenset[Buffer]
    loads: dict[Buffer, list[Load]]
    accumulates: bool

    @staticmethod
    def of(block: Block) -> Accesses:
        written: set[Buffer] = set()
        loads: dict[Buffer, list[Load]] = {}
        accumulates = False
        for part in (block.init, block.body):
            if part is None:
                continue
            for stmt in walk_stmt(part):
                own = None
                if isinstance(stmt, Store):
                    written.add(stmt.buffer)
                    own = load(stmt.buffer, stmt.indices)
                for e in own_exprs(stmt):
                    for node in loads_of(e):
                        if node is own:
                            accumulates = True
                        else:
                            loads.setdefault(node.buffer, []).append(node)
        return Accesses(frozenset(written), loads, accumulates)


def find_loop(tree: Tree, ref: LoopRef, primitive: str) -> For:
    """The loop of a handle. Raises ScheduleError when it is gone."""
    loop = tree.loops.get(ref.var)
    if loop is None:
        present = ", ".join(dict.fromkeys(v.name for v in tree.loops))
        raise ScheduleError(
            f"{primitive}: loop '{ref.var.name}' is no longer in '{tree.func.name}' (loops: "
            f"{present or 'none'})",
            hint="a primitive consumed it; use the loops that the primitive returned, or get_loops again",
        )
    return loop


def find_block(tree: Tree, ref: BlockRef, primitive: str) -> Block:
    """The block of a handle. Raises ScheduleError when there is none of that name."""
    block = tree.blocks.get(ref.name)
    if block is None:
        raise ScheduleError(
            f"{primitive}: there is no block '{ref.name}' in '{tree.func.name}' (blocks: "
            f"{', '.join(tree.blocks)})",
            hint="it was inlined, or the name is misspelt",
        )
    return block


def replace(tree: Tree, mapping: Mapping[Stmt, Stmt | None]) -> PrimFunc:
    """The function with statements swapped for others; None deletes, and loops left empty go too.

    No key may lie inside another.
    """
    touched: set[Stmt] = set()
    for node in mapping:
        touched.update(tree.path(node)[:-1])

    body = _rebuilt(tree.func.body, mapping, touched)
    return tree.func.with_(body=Seq(()) if body is None else body)


def _rebuilt(node: Stmt, mapping: Mapping[Stmt, Stmt | None], touched: set[Stmt]) -> Stmt | None:
    if node in mapping:
        return mapping[node]
    if node not in touched:
        return node
    if isinstance(node, For | Alloc | Annotate):
        body = _rebuilt(node.body, mapping, touched)
        return None if body is None else with_inner(node, body)
    if isinstance(node, Seq):
        stmts = [s for s in (_rebuilt(s, mapping, touched) for s in node.stmts) if s is not None]
        return seq(stmts) if stmts else None
    assert isinstance(node, If)
    then = _rebuilt(node.then, mapping, touched)
    orelse = None if node.orelse is None else _rebuilt(node.orelse, mapping, touched)
    if then is None and orelse is None:
        return None
    return If(node.cond, then if then is not None else Seq(()), orelse)


def without_alloc(func: PrimFunc, buffer: Buffer) -> PrimFunc:
    """The function without the allocation of ``buffer``."""
    tree = Tree(func)
    alloc = tree.allocation(buffer)
    return func if alloc is None else replace(tree, {alloc: alloc.body})


def with_alloc(func: PrimFunc, buffer: Buffer) -> PrimFunc:
    """The function with ``buffer`` allocated at the root."""
    return func.with_(body=Alloc(buffer, func.body))


def rebind(stmt: Stmt, mapping: Mapping[Expr, Expr], guard: Expr | None = None) -> Stmt:
    """Replace loop variables in the bindings and predicates of all blocks in ``stmt``, and add ``guard`` to
    the predicates.
    """
    if isinstance(stmt, Block):
        iters = tuple(
            dataclasses.replace(it, binding=simplify(substitute_expr(it.binding, mapping)))
            for it in stmt.iters
        )
        predicate = simplify(substitute_expr(stmt.predicate, mapping))
        if guard is not None and guard not in conjuncts(predicate):
            predicate = predicate & guard
        return stmt.with_(iters=iters, predicate=predicate)
    if isinstance(stmt, For | Alloc | Annotate):
        return with_inner(stmt, rebind(stmt.body, mapping, guard))
    if isinstance(stmt, Seq):
        return seq([rebind(s, mapping, guard) for s in stmt.stmts])
    assert isinstance(stmt, If)
    orelse = None if stmt.orelse is None else rebind(stmt.orelse, mapping, guard)
    return If(simplify(substitute_expr(stmt.cond, mapping)), rebind(stmt.then, mapping, guard), orelse)


def with_body(block: Block, body: Stmt, init: Stmt | None = None) -> Block:
    """``block`` with another body and init, its regions derived anew."""
    reads, writes = block_regions(body, init)
    return block.with_(body=body, init=init, reads=reads, writes=writes)


def loop_var(name: str, extent: Expr) -> Var:
    """A fresh variable for a loop of ``extent`` iterations."""
    from tilewright.ir.visit import const_int

    size = const_int(extent)
    return Var(name, lo=0, hi=None if size is None else max(size - 1, 0))


def nest_of(block: Block) -> Stmt:
    """Serial loops around a block whose iterators are bound to one variable each, in their order."""
    nest: Stmt = block
    for it in reversed(block.iters):
        assert isinstance(it.binding, Var)
        nest = For(it.binding, it.extent, nest)
    return nest


def loop_name(it: IterVar) -> str:
    """The name of a loop that drives a block iterator: ``vi0`` -> ``i0``."""
    name = it.var.name
    return name[1:] if len(name) > 1 and name.startswith("v") else name


def binding_vars(block: Block, kind: str) -> set[Var]:
    """Loop variables that the block's ``spatial`` or ``reduce`` iterators are bound to."""
    return {v for it in block.iters if it.kind == kind for v in free_vars(it.binding)}


def reduction_op(store: Store) -> str | None:
    """The associative operator (``add mul max min``) by which a store accumulates, or None."""
    value = store.value
    if not isinstance(value, BinOp) or value.op not in ("add", "mul", "max", "min"):
        return None
    for own, term in ((value.a, value.b), (value.b, value.a)):
        if isinstance(own, Load) and own.buffer is store.buffer and own.indices == store.indices:
            again = any(n.buffer is store.buffer for n in loads_of(term))
            return None if again else value.op
    return None
