"""Tensor expressions: how operators say what they mean.

    A = te.placeholder((M, K), "float32", "A")
    B = te.placeholder((K, N), "float32", "B")
    C = te.compute((M, N), lambda i, j: te.reduce("sum", (K,), lambda k: A[i, k] * B[k, j]), "C")
    f = te.primfunc("matmul", [A, B], [C], const_inputs=[B])

``primfunc`` turns the tensors into a loop program with one block per ``compute``. ``update`` makes tensors
whose elements are overwritten at computed places, as a scatter does.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from tilewright.ir import expr as ex
from tilewright.ir.expr import Expr, ExprLike, Reduce, Var, as_expr
from tilewright.ir.regions import block_regions
from tilewright.ir.stmt import Alloc, Block, Buffer, For, IterVar, PrimFunc, Stmt, Store, seq
from tilewright.ir.visit import const_int, rewrite_expr, substitute_expr, walk_expr


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Writes to elements of a tensor after its body has given it its first values.

    For every point of ``axes`` (extents ``extents``, kinds ``spatial`` or ``reduce``) the element ``indices``
    becomes ``value``.
    """

    axes: tuple[Var, ...]
    extents: tuple[Expr, ...]
    kinds: tuple[str, ...]
    indices: tuple[Expr, ...]
    value: Expr


class Tensor:
    """A named array given by an expression over its indices, or a placeholder (``body`` None).

    ``sources`` are the tensors that the body and the ``update`` read.
    """

    __slots__ = ("axes", "body", "buffer", "sources", "update")

    def __init__(
        self,
        buffer: Buffer,
        axes: tuple[Var, ...] = (),
        body: Expr | None = None,
        sources: tuple[Tensor, ...] = (),
        update: Update | None = None,
    ) -> None:
        self.buffer = buffer
        self.axes = axes
        self.body = body
        self.sources = sources
        self.update = update

    @property
    def shape(self) -> tuple[Expr, ...]:
        return self.buffer.shape

    @property
    def dtype(self) -> str:
        return self.buffer.dtype

    @property
    def name(self) -> str:
        return self.buffer.name

    @property
    def ndim(self) -> int:
        return len(self.buffer.shape)

    def __getitem__(self, indices: ExprLike | tuple[ExprLike, ...]) -> Expr:
        if not isinstance(indices, tuple):
            indices = (indices,)
        _reading.tensors[self] = None
        return ex.load(self.buffer, [as_expr(i) for i in indices])

    def __repr__(self) -> str:
        return f"Tensor({self.buffer!r})"


class _Reading(threading.local):
    """The tensors read since the innermost ``compute`` began, in order."""

    def __init__(self) -> None:
        self.tensors: dict[Tensor, None] = {}


_reading = _Reading()


def placeholder(shape: Sequence[ExprLike], dtype: str, name: str) -> Tensor:
    """An input tensor."""
    return Tensor(Buffer.make(name, shape, dtype))


def compute(shape: Sequence[ExprLike], fn: Callable[..., ExprLike], name: str) -> Tensor:
    """A tensor of ``shape`` whose element at indices ``i...`` is ``fn(*i)``; the dtype is the body's."""
    dims = tuple(as_expr(s) for s in shape)
    axes = tuple(_axis(f"i{n}", dim) for n, dim in enumerate(dims))
    outer, _reading.tensors = _reading.tensors, {}
    try:
        body = as_expr(fn(*axes))
        sources = tuple(_reading.tensors)
    finally:
        _reading.tensors = outer
    if not isinstance(body, Reduce) and any(isinstance(n, Reduce) for n in walk_expr(body)):
        raise ValueError(
            f"the reduction in '{name}' is not the whole body; compute it in a tensor of its own"
        )
    return Tensor(Buffer.make(name, dims, body.dtype), axes, body, sources)


def update(
    start: Tensor,
    loops: Sequence[tuple[ExprLike, str]],
    fn: Callable[..., tuple[Sequence[ExprLike], Expr]],
) -> Tensor:
    """``start`` with elements written anew: a scatter, or a recurrence along an axis.

    For every point ``p`` of ``loops`` (extent and kind of each, outermost first), in row-major order,
    ``fn(state, *p)`` gives the indices of an element and its new value, which may read ``state``, the tensor
    as it is by then. Points that differ in a ``spatial`` loop must write different elements and must not read
    each other's; ``reduce`` loops run in order. ``start`` must be computed, and is consumed.

    Where ``fn`` combines the element with something by one of + * max min, points may be taken in any order.
    """
    if start.body is None or start.update is not None:
        raise ValueError(f"'{start.name}' is an input or already updated; copy it with compute first")
    dims = tuple(as_expr(extent) for extent, _ in loops)
    axes = tuple(_axis(f"u{n}", dim) for n, dim in enumerate(dims))
    state = Tensor(start.buffer)
    outer, _reading.tensors = _reading.tensors, {}
    try:
        indices, value = fn(state, *axes)
        _reading.tensors.pop(state, None)
        sources = tuple(dict.fromkeys((*start.sources, *_reading.tensors)))
    finally:
        _reading.tensors = outer
    written = Update(axes, dims, tuple(k for _, k in loops), tuple(as_expr(i) for i in indices), value)
    return Tensor(start.buffer, start.axes, start.body, sources, written)


def reduce(op: str, extents: Sequence[ExprLike], fn: Callable[..., ExprLike]) -> Expr:
    """``op`` (sum prod max min) of ``fn(*r)`` over all ``r`` below ``extents``; must be the whole body of a
    compute.
    """
    dims = tuple(as_expr(e) for e in extents)
    axes = tuple(_axis(f"r{n}", dim) for n, dim in enumerate(dims))
    return ex.reduce(op, axes, dims, as_expr(fn(*axes)))


def _axis(name: str, extent: Expr) -> Var:
    high = extent.value - 1 if isinstance(extent, ex.Const) else None
    return Var(name, lo=0, hi=None if high is None else int(high))


def primfunc(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    const_inputs: Sequence[Tensor] = (),
    dims: Sequence[Var] = (),
) -> PrimFunc:
    """The loop program that computes ``outputs`` from ``inputs``.

    Every compute between them becomes a block named after its tensor (made unique), every intermediate an
    allocation at the root. ``const_inputs`` are the inputs whose data is known at compile time, ``dims``
    run-time dimensions, passed first. Raises ValueError when a placeholder is read that is not an input.
    """
    stages = _stages(outputs, set(inputs))
    renamed = _unique_buffers([*inputs, *stages])
    body = seq([nest for stage in stages for nest in _nests(stage, renamed)])
    for stage in reversed(stages):
        if stage not in outputs:
            body = Alloc(renamed[stage.buffer], body)
    params: list[Buffer | Var] = [
        *dims,
        *(renamed[t.buffer] for t in inputs),
        *(renamed[t.buffer] for t in outputs),
    ]
    consts = tuple(renamed[t.buffer].name for t in const_inputs)
    return PrimFunc(name, tuple(params), body, (("const_params", consts), ("outputs", len(outputs))))


def _stages(outputs: Sequence[Tensor], inputs: set[Tensor]) -> list[Tensor]:
    """Computed tensors that ``outputs`` need, producers first."""
    order: list[Tensor] = []
    done = set(inputs)
    stack = [(t, False) for t in reversed(outputs)]
    while stack:
        tensor, ready = stack.pop()
        if tensor in done:
            continue
        if tensor.body is None:
            raise ValueError(f"'{tensor.name}' is read, but it is neither an input nor computed")
        if ready:
            done.add(tensor)
            order.append(tensor)
        else:
            stack.append((tensor, True))
            stack.extend((source, False) for source in reversed(tensor.sources))
    return order


def _unique_buffers(tensors: Sequence[Tensor]) -> dict[Buffer, Buffer]:
    taken: set[str] = set()
    renamed: dict[Buffer, Buffer] = {}
    for tensor in tensors:
        name, n = tensor.name, 1
        while name in taken:
            name, n = f"{tensor.name}_{n}", n + 1
        taken.add(name)
        if tensor.update is not None:
            taken.add(_start_name(name))  # of the block that comes before the update's
        renamed[tensor.buffer] = tensor.buffer if name == tensor.name else tensor.buffer.with_(name=name)
    return renamed


def _start_name(name: str) -> str:
    return f"{name}_start"


def _nests(stage: Tensor, renamed: dict[Buffer, Buffer]) -> list[Stmt]:
    """The loops and the block of one compute, then those of its update."""
    assert stage.body is not None
    buffer = renamed[stage.buffer]

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, ex.Load) and renamed.get(node.buffer, node.buffer) is not node.buffer:
            return ex.load(renamed[node.buffer], node.indices)
        return None

    value = rewrite_expr(stage.body, visit)
    if isinstance(value, Reduce) and any(const_int(e) == 0 for e in value.extents):
        value = ex.reduce_identity(value.op, buffer.dtype)  # no instance would run, so none would initialise
    reduction = value if isinstance(value, Reduce) else None
    dims = [(axis, extent, "spatial") for axis, extent in zip(stage.axes, stage.shape, strict=True)]
    update = stage.update
    name = buffer.name if update is None else _start_name(buffer.name)
    if reduction is None:
        nests = [_nest(name, buffer, dims, stage.axes, value)]
    else:
        dims += [(a, e, "reduce") for a, e in zip(reduction.axes, reduction.extents, strict=True)]
        first = ex.reduce_identity(reduction.op, buffer.dtype)
        own = ex.load(buffer, stage.axes)
        total = ex.binop(ex.REDUCE_OPS[reduction.op], own, reduction.value)
        nests = [_nest(name, buffer, dims, stage.axes, total, first)]
    if update is not None:
        dims = list(zip(update.axes, update.extents, update.kinds, strict=True))
        indices = [rewrite_expr(i, visit) for i in update.indices]
        nests.append(_nest(buffer.name, buffer, dims, indices, rewrite_expr(update.value, visit)))
    return nests


def _nest(
    name: str,
    buffer: Buffer,
    dims: Sequence[tuple[Var, Expr, str]],
    indices: Sequence[Expr],
    value: Expr,
    first: Expr | None = None,
) -> Stmt:
    """Loops over ``dims`` (axis, extent, kind) round a block that stores ``value``; ``first`` is its init."""
    loops: list[Var] = []
    iters: list[IterVar] = []
    mapping: dict[Expr, Expr] = {}
    for axis, extent, kind in dims:
        loop, var = _axis(axis.name, extent), _axis(f"v{axis.name}", extent)
        loops.append(loop)
        iters.append(IterVar(var, extent, kind, loop))
        mapping[axis] = var
    place = tuple(substitute_expr(i, mapping) for i in indices)
    store = Store(buffer, place, substitute_expr(value, mapping))
    init = None if first is None else Store(buffer, place, first)
    reads, writes = block_regions(store, init)
    nest: Stmt = Block(name, tuple(iters), reads, writes, store, init)
    for loop, (_, extent, _) in reversed(list(zip(loops, dims, strict=True))):
        nest = For(loop, extent, nest)
    return nest
