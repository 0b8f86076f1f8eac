"""Tensor expressions: how operators say what they mean.

    A = te.placeholder((M, K), "float32", "A")
    B = te.placeholder((K, N), "float32", "B")
    C = te.compute((M, N), lambda i, j: te.reduce("sum", (K,), lambda k: A[i, k] * B[k, j]), "C")
    f = te.primfunc("matmul", [A, B], [C], const_inputs=[B])

``primfunc`` turns the tensors into a loop program with one block per ``compute``. ``update`` makes tensors
whose elements are overwritten at computed places, as a scatter does; ``scan`` makes recurrences over steps.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from tilewright.ir import expr as ex
from tilewright.ir.expr import Expr, ExprLike, Reduce, Var, as_expr
from tilewright.ir.regions import block_regions
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import dims_of
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
    """A named array given by an expression over its indices, a placeholder, or a state of a ``scan`` (both
    without ``body``).

    ``sources`` are the tensors that the body, the ``update`` or the ``scan`` read.
    """

    __slots__ = ("axes", "body", "buffer", "scan", "sources", "update")

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
        self.scan: Scan | None = None

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


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A recurrence: state ``n`` begins as ``starts[n]``, and after step ``t`` it is ``following[n][t]``.

    Everything that ``following`` needs and that depends on the states is computed step by step.
    """

    steps: Expr
    states: tuple[Tensor, ...]
    starts: tuple[Tensor, ...]
    following: tuple[Tensor, ...]


class _Reading(threading.local):
    """The tensors read since the innermost ``compute`` began, in order."""

    def __init__(self) -> None:
        self.tensors: dict[Tensor, None] = {}


_reading = _Reading()


def placeholder(shape: Sequence[ExprLike], dtype: str, name: str) -> Tensor:
    """An input tensor."""
    return Tensor(Buffer.make(name, _sizes(shape), dtype))


def compute(shape: Sequence[ExprLike], fn: Callable[..., ExprLike], name: str) -> Tensor:
    """A tensor of ``shape`` whose element at indices ``i...`` is ``fn(*i)``; the dtype is the body's."""
    dims = _sizes(shape)
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
    dims = _sizes([extent for extent, _ in loops])
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


def scan(
    steps: ExprLike, starts: Sequence[Tensor], step: Callable[..., Sequence[Tensor]], names: Sequence[str]
) -> tuple[Tensor, ...]:
    """States that evolve over ``steps`` steps, one for each of ``starts``, with all their values over time.

    State ``n`` has the shape ``[steps + 1, *starts[n].shape]``: element 0 is the start, element ``t + 1`` its
    value after step ``t``. ``step(*states)`` gives the values after each step, ``[steps, *shape]``, computed
    from the states at the index ``t`` of their own first axis; so must be all tensors between that depend on
    the states. Raises ValueError when they are not.
    """
    (count,) = _sizes([steps])
    states = tuple(
        Tensor(Buffer.make(name, (simplify(count + 1), *start.shape), start.dtype))
        for name, start in zip(names, starts, strict=True)
    )
    following = tuple(step(*states))
    made = Scan(count, states, tuple(starts), following)
    for state, value in zip(states, following, strict=True):
        if value.shape != (count, *state.shape[1:]) or value.dtype != state.dtype:
            raise ValueError(f"{value!r} does not follow the state {state!r}")
        state.scan = made
        state.sources = (*starts, *following)
    for tensor in _steps_of(made)[0]:
        if tensor.shape[:1] != (count,) or tensor.update is not None:
            raise ValueError(f"'{tensor.name}' depends on a state, but its first axis is not the step")
    return states


def reduce(op: str, extents: Sequence[ExprLike], fn: Callable[..., ExprLike]) -> Expr:
    """``op`` (sum prod max min) of ``fn(*r)`` over all ``r`` below ``extents``; must be the whole body of a
    compute.
    """
    dims = _sizes(extents)
    axes = tuple(_axis(f"r{n}", dim) for n, dim in enumerate(dims))
    return ex.reduce(op, axes, dims, as_expr(fn(*axes)))


def _sizes(shape: Sequence[ExprLike]) -> tuple[Expr, ...]:
    """Equal sizes are one expression, however they were computed."""
    dims = map(as_expr, shape)
    return tuple(d if isinstance(d, ex.Const) else simplify(d) for d in dims)


def _axis(name: str, extent: Expr) -> Var:
    high = extent.value - 1 if isinstance(extent, ex.Const) else None
    return Var(name, lo=0, hi=None if high is None else int(high))


def primfunc(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    const_inputs: Sequence[Tensor] = (),
    dims: Sequence[Var] | None = None,
) -> PrimFunc:
    """The loop program that computes ``outputs`` from ``inputs``.

    Every compute between them becomes a block named after its tensor (made unique), every intermediate an
    allocation at the root. ``const_inputs`` are the inputs whose data is known at compile time, ``dims``
    run-time dimensions, passed first (default: all that have a typical size). Raises ValueError when a
    placeholder is read that is not an input.
    """
    order = _stages(outputs, set(inputs))
    stages: list[Tensor] = []
    for item in order:
        stages += [item] if isinstance(item, Tensor) else [*item.states, *_steps_of(item)[0]]
    renamed = _unique_buffers([*inputs, *stages])
    body = seq([nest for item in order for nest in _nests(item, renamed)])
    for stage in reversed(stages):
        if stage not in outputs:
            body = Alloc(renamed[stage.buffer], body)
    if dims is None:
        dims = dims_of(e for t in [*inputs, *stages] for e in _exprs(t))
    params: list[Buffer | Var] = [
        *dims,
        *(renamed[t.buffer] for t in inputs),
        *(renamed[t.buffer] for t in outputs),
    ]
    consts = tuple(renamed[t.buffer].name for t in const_inputs)
    return PrimFunc(name, tuple(params), body, (("const_params", consts), ("outputs", len(outputs))))


def _exprs(t: Tensor) -> list[Expr]:
    """All expressions that say what a tensor is."""
    found = [*t.shape, *((t.body,) if t.body is not None else ())]
    if t.update is not None:
        found += [*t.update.extents, *t.update.indices, t.update.value]
    return found


def _stages(outputs: Sequence[Tensor], inputs: set[Tensor]) -> list[Tensor | Scan]:
    """Computed tensors and recurrences that ``outputs`` need, producers first."""
    order: list[Tensor | Scan] = []
    done: set[Tensor | Scan] = set(inputs)
    stack: list[tuple[Tensor | Scan, bool]] = [(t, False) for t in reversed(outputs)]
    while stack:
        item, ready = stack.pop()
        if isinstance(item, Tensor) and item.scan is not None:
            item = item.scan
        if item in done:
            continue
        if isinstance(item, Tensor) and item.body is None:
            raise ValueError(f"'{item.name}' is read, but it is neither an input nor computed")
        if ready:
            done.add(item)
            order.append(item)
        else:
            sources = item.sources if isinstance(item, Tensor) else (*item.starts, *_steps_of(item)[1])
            stack.append((item, True))
            stack.extend((source, False) for source in reversed(sources))
    return order


def _steps_of(scan: Scan) -> tuple[list[Tensor], list[Tensor]]:
    """What is computed in each step, producers first, and what those tensors read from outside."""
    depends: dict[Tensor, bool] = dict.fromkeys(scan.states, True)
    inside: list[Tensor] = []
    outside: dict[Tensor, None] = {}
    stack = [(t, False) for t in reversed(scan.following)]
    while stack:
        tensor, ready = stack.pop()
        if ready:
            depends[tensor] = tensor in scan.following or any(depends[s] for s in tensor.sources)
            if depends[tensor]:
                inside.append(tensor)
        elif tensor not in depends:
            depends[tensor] = False
            stack.append((tensor, True))
            if tensor.scan is None:
                stack.extend((source, False) for source in reversed(tensor.sources))
    for tensor in inside:
        outside.update((s, None) for s in tensor.sources if not depends[s])
    return inside, list(outside)


def _unique_buffers(tensors: Sequence[Tensor]) -> dict[Buffer, Buffer]:
    taken: set[str] = set()
    renamed: dict[Buffer, Buffer] = {}
    for tensor in tensors:
        name, n = tensor.name, 1
        while name in taken:
            name, n = f"{tensor.name}_{n}", n + 1
        taken.add(name)
        if tensor.update is not None or tensor.scan is not None:
            taken.add(_start_name(name))  # of the block that gives it its first values
        renamed[tensor.buffer] = tensor.buffer if name == tensor.name else tensor.buffer.with_(name=name)
    return renamed


def _start_name(name: str) -> str:
    return f"{name}_start"


def _nests(item: Tensor | Scan, renamed: dict[Buffer, Buffer]) -> list[Stmt]:
    """The loops and blocks of a compute and its update, or of a recurrence."""
    if isinstance(item, Tensor):
        return _compute_nests(item, renamed, None)
    time = _axis("t", item.steps)
    states = zip(item.states, item.starts, item.following, strict=True)
    first: list[Stmt] = []
    last: list[Stmt] = []
    for state, start, value in states:
        buffer = renamed[state.buffer]
        axes = [_axis(f"i{n}", dim) for n, dim in enumerate(state.shape)]
        dims = [(a, dim, "spatial") for a, dim in zip(axes, (item.steps, *start.shape), strict=True)]
        begin = ex.load(renamed[start.buffer], axes[1:])
        first.append(_nest(_start_name(buffer.name), buffer, dims[1:], (as_expr(0), *axes[1:]), begin))
        after = ex.load(renamed[value.buffer], axes)
        last.append(_nest(buffer.name, buffer, dims, (axes[0] + 1, *axes[1:]), after, outer=time))
    inside = [n for tensor in _steps_of(item)[0] for n in _compute_nests(tensor, renamed, time)]
    return [*first, For(time, item.steps, seq([*inside, *last]))]


def _compute_nests(stage: Tensor, renamed: dict[Buffer, Buffer], time: Var | None) -> list[Stmt]:
    """The loops and the block of one compute, then those of its update; ``time`` is the loop that they stand
    in and that moves the first axis."""
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
        nests = [_nest(name, buffer, dims, stage.axes, value, outer=time)]
    else:
        dims += [(a, e, "reduce") for a, e in zip(reduction.axes, reduction.extents, strict=True)]
        first = ex.reduce_identity(reduction.op, buffer.dtype)
        own = ex.load(buffer, stage.axes)
        total = ex.binop(ex.REDUCE_OPS[reduction.op], own, reduction.value)
        nests = [_nest(name, buffer, dims, stage.axes, total, first, time)]
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
    outer: Var | None = None,
) -> Stmt:
    """Loops over ``dims`` (axis, extent, kind) round a block that stores ``value``; ``first`` is its init.

    ``outer`` stands for the loop over the first of ``dims`` where that is around the nest.
    """
    loops: list[Var] = []
    iters: list[IterVar] = []
    mapping: dict[Expr, Expr] = {}
    for n, (axis, extent, kind) in enumerate(dims):
        var = _axis(f"v{axis.name}", extent)
        loop = outer if outer is not None and n == 0 else _axis(axis.name, extent)
        loops.append(loop)
        iters.append(IterVar(var, extent, kind, loop))
        mapping[axis] = var
    place = tuple(substitute_expr(i, mapping) for i in indices)
    store = Store(buffer, place, substitute_expr(value, mapping))
    init = None if first is None else Store(buffer, place, first)
    reads, writes = block_regions(store, init)
    nest: Stmt = Block(name, tuple(iters), reads, writes, store, init)
    for loop, (_, extent, _) in reversed(list(zip(loops, dims, strict=True))):
        nest = nest if loop is outer else For(loop, extent, nest)
    return nest
