"""What the rules need to know of a block: how each access moves with each iterator."""

from __future__ import annotations

import dataclasses
import math

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Call, Cast, Const, Expr, Load, Select, Var, as_expr
from tilewright.ir.intrinsics import flops_of
from tilewright.ir.linear import linear
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import dims_of, typical_size
from tilewright.ir.stmt import Block, Buffer, Store
from tilewright.ir.visit import const_int, free_vars, loads_of, substitute_expr, walk_expr


@dataclasses.dataclass(frozen=True)
class Access:
    """One load or store. ``strides`` maps each iterator to the elements between neighbours, for typical sizes
    of dimensions known at run time only; None: not affine in it."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    strides: dict[Var, int | None]

    def stride(self, var: Var) -> int | None:
        """0 when the access does not move with ``var``."""
        return self.strides.get(var, 0)

    def run(self, var: Var) -> int:
        """For how many neighbouring values of ``var``, from a multiple of that on, the access stands still.

        ``k`` when it moves only with ``var // k``, as a grouped convolution's input does; 1 where it moves at
        every step, 0 where it never moves.
        """
        runs = 0
        for index in self.indices:
            runs = math.gcd(runs, _run(index, var))
        return runs


@dataclasses.dataclass(frozen=True)
class BlockInfo:
    """A block with one store, taken apart."""

    block: Block
    store: Store
    out: Access
    loads: tuple[Access, ...]

    @property
    def spatial(self) -> list[Var]:
        return [it.var for it in self.block.iters if it.kind == "spatial"]

    @property
    def reduce(self) -> list[Var]:
        return [it.var for it in self.block.iters if it.kind == "reduce"]

    def extent(self, var: Var) -> int:
        """Extent of an iterator, for typical sizes of dimensions known at run time only. Raises ScheduleError
        when it is over open decisions."""
        for it in self.block.iters:
            if it.var is var:
                value = typical_size(it.extent)
                if value is None:
                    raise ScheduleError(f"the extent of '{var.name}' is not constant")
                return value
        raise KeyError(var.name)

    def points(self, variables: list[Var]) -> int:
        total = 1
        for var in variables:
            total *= self.extent(var)
        return total

    def flops(self) -> int:
        """Floating-point work of the whole block."""
        return max(flops_of(self.store.value), 1) * self.points(self.spatial + self.reduce)

    def bytes_touched(self) -> int:
        """Bytes of all distinct buffers the block touches, each once."""
        return sum(buffer_bytes(b) for b in {self.store.buffer, *(a.buffer for a in self.loads)})


def buffer_bytes(buffer: Buffer) -> int:
    """Size of a buffer, for typical sizes of dimensions known at run time only; open decisions count as 1."""
    return math.prod(typical_size(d) or 1 for d in buffer.shape) * dt.nbytes(buffer.dtype)


def block_info(block: Block) -> BlockInfo | None:
    """Analyse ``block``; None when its body is more than one store."""
    if not isinstance(block.body, Store):
        return None
    store = block.body
    iters = [it.var for it in block.iters]
    own = (store.buffer, store.indices)
    loads: list[Access] = []
    seen: set[Expr] = set()
    for node in loads_of(store.value):
        if (node.buffer, node.indices) != own and node not in seen:
            seen.add(node)
            loads.append(_access(node.buffer, node.indices, iters))
    return BlockInfo(block, store, _access(store.buffer, store.indices, iters), tuple(loads))


def _run(e: Expr, var: Var) -> int:
    if e is var:
        return 1
    if isinstance(e, BinOp) and e.op == "floordiv" and e.a is var and isinstance(e.b, Const):
        return int(e.b.value)
    return math.gcd(*(_run(child, var) for child in e.children))


def _access(buffer: Buffer, indices: tuple[Expr, ...], iters: list[Var]) -> Access:
    strides: dict[Var, int | None] = {}
    flat: Expr = as_expr(0)
    for index, step in zip(indices, buffer.row_major_strides(), strict=True):
        flat = flat + index * step
    form = linear(simplify(_at_typical(flat)))
    for var in iters:
        if form is None:
            strides[var] = None if any(var in free_vars(i) for i in indices) else 0
            continue
        stride: int | None = form.terms.get(var, 0)
        if any(term is not var and var in free_vars(term) for term in form.terms):
            stride = None
        strides[var] = stride
    return Access(buffer, indices, strides)


def _at_typical(e: Expr) -> Expr:
    """``e`` with dimensions known at run time only at their typical sizes."""
    sizes: dict[Expr, Expr] = {d: as_expr(d.typical or 1) for d in dims_of([e])}
    return substitute_expr(e, sizes) if sizes else e


def is_injective(block: Block) -> bool:
    """No reduction and one store: every instance computes one element of its own."""
    return (
        block.init is None
        and isinstance(block.body, Store)
        and all(it.kind == "spatial" for it in block.iters)
    )


def is_data_movement(block: Block) -> bool:
    """An injective block that only copies: at most selects, casts and constants around loads."""
    if not is_injective(block):
        return False
    assert isinstance(block.body, Store)
    value = block.body.value
    while isinstance(value, Cast):
        value = value.value
    if isinstance(value, Select):
        return all(not isinstance(n, Call) for n in walk_expr(value)) and _copies(value)
    return isinstance(value, Load)


def _copies(e: Expr) -> bool:
    if isinstance(e, Select):
        return _copies(e.a) and _copies(e.b)
    return isinstance(e, Load) or not e.children


def reads_elementwise(consumer: BlockInfo, buffer: Buffer) -> bool:
    """Whether ``consumer`` reads ``buffer`` only at its own output position (indices are its own iterators
    in store order; only dimensions of size one are read at a constant)."""
    accesses = [a for a in consumer.loads if a.buffer is buffer]
    wanted = [i for i in consumer.store.indices if const_int(i) is None]
    for access in accesses:
        sizes = zip(access.indices, buffer.shape, strict=True)
        found = [i for i, size in sizes if const_int(i) is None or const_int(size) != 1]
        if found != wanted or any(not isinstance(i, Var) for i in found):
            return False
    return bool(accesses)
