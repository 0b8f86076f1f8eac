"""Control flow: operators that run graphs (docs/control_flow.md).

The graphs stand in attributes and are closed: what they read from around them comes in through operands, so
every pass sees it. The entry function of a compiled model runs them (backend/llvm/control.py).

``if``: inputs are the condition (bool[]) and the operands of both branches, ``then`` and ``otherwise``; both
take all operands. Results are what the branch gives. Where ``packed`` holds a true value the results of the
branches are vectors of different lengths, and the node's is a vector of the larger length, whose first
elements are set.

``loop``: inputs are the number of iterations (int64[], or the attribute ``trip``; absent: no limit), whether
to begin at all (bool[], absent: yes), the first states, arrays that are walked along their first dimension
(as many as ``scanned`` has elements), and operands that stay the same. ``body`` takes the iteration's number
(int64[]), the states, one row of each walked array, and the operands that stay the same; it gives whether
to go on (bool[], where ``conditional``), the next states, and rows (as many as ``stacked`` has elements).
Results are the last states and the rows of all iterations, stacked along a new first dimension. A true value
in ``scanned`` or ``stacked`` stands for walking from the last row to the first. ``index`` is a dimension that
stands for the iteration's number in the attributes of the body's nodes.

Where the number of iterations is not known when the model is compiled (``counted``), it is the last result
(int64[]), and what is stacked has room for ``most`` rows, of which the first are set. A run that needs more
stops with an error. Where ``grown`` holds a true value the body takes a vector for that state that has room
for more elements than the first state has, or than the body gives: its first elements are set.

``stop``: ends the run with the error ``message`` of the node ``where``. It stands in branches that contradict
themselves for the sizes that the model is compiled for: only a run that takes one is wrong. Its results are
there for their ``types``, pairs of a shape and a dtype.

``leading``: the first elements of a vector, in a shape. What makes tensors of such results: the other inputs
are there because they compute dimensions in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.errors import ShapeError
from tilewright.graph.graph import Graph, TensorType, Value
from tilewright.graph.interpret import interpret, with_sizes
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Const, Expr, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import largest_size
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands

_COUNT = TensorType((), "int64")
_FLAG = TensorType((), "bool")


def _region(ctx: OpContext, name: str) -> Graph:
    region = ctx.attr(name)
    assert isinstance(region, Graph)
    return region


def same_type(a: TensorType, b: TensorType) -> bool:
    """Whether two types are equal as far as it is known."""
    return (
        a.dtype == b.dtype
        and a.rank == b.rank
        and all(
            x is y or not (isinstance(x, Const) and isinstance(y, Const))
            for x, y in zip(a.shape, b.shape, strict=True)
        )
    )


def _check(ctx: OpContext, what: str, values: Sequence[Value], types: Sequence[TensorType | None]) -> None:
    """Reject the node unless ``values`` of a region have ``types``."""
    if len(values) != len(types):
        ctx.fail(f"{what} are {len(values)}, not {len(types)}")
    for value, kind in zip(values, types, strict=True):
        if kind is None or not same_type(value.type, kind):
            ctx.fail(f"among {what}, '{value.name}' is {value.type}, not {kind}")


def _call(region: Graph, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    names = (v.name for v in region.inputs)
    return list(interpret(region, dict(zip(names, operands, strict=True))).values())


# --------------------------------------------------------------------------------------------------------- if
def _if_infer(ctx: OpContext) -> list[TensorType]:
    if ctx.input(0) != _FLAG:
        ctx.fail("the condition must be one bool")
    then, otherwise = _region(ctx, "then"), _region(ctx, "otherwise")
    for branch in (then, otherwise):
        _check(ctx, "the operands of a branch", branch.inputs, ctx.inputs[1:])
    if len(then.outputs) != len(otherwise.outputs):
        ctx.fail("the branches give different numbers of results")
    types = []
    for a, b, packed in zip(then.outputs, otherwise.outputs, ctx.attr("packed"), strict=True):
        if packed and a.dtype == b.dtype and a.rank == b.rank == 1:
            rooms = [largest_size(v.shape[0]) for v in (a, b)]
            known = [r for r in rooms if r is not None]
            room = as_expr(max(known)) if len(known) == len(rooms) else ctx.unknown_dim("room")
            types.append(TensorType((room,), a.dtype))
        elif same_type(a.type, b.type):
            types.append(a.type)
        else:
            ctx.fail(f"one branch gives {a.type} where the other gives {b.type}")
    return types


def _if_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    cond, *operands = (np.asarray(x) for x in inputs)
    results = _call(_region(ctx, "then" if cond else "otherwise"), operands)
    rooms = (t.shape for t in _if_infer(ctx))
    return [
        _filled(r, const_int(room[0])) if packed else r
        for r, room, packed in zip(results, rooms, ctx.attr("packed"), strict=True)
    ]


def _filled(rows: np.ndarray, room: int | None) -> np.ndarray:
    """``rows``, and zeros behind them up to ``room`` rows."""
    assert room is not None
    return np.concatenate([rows, np.zeros((room - len(rows), *rows.shape[1:]), rows.dtype)])


register(
    OpDef("if", FusionKind.opaque, infer=_if_infer, reference=_if_numpy, control=True),
)


# ------------------------------------------------------------------------------------------------------- loop
def _loop_parts(ctx: OpContext) -> tuple[int, int, int]:
    """Where the states, the walked arrays and the operands that stay the same begin among the inputs."""
    states = 2
    scanned = states + int(ctx.attr("states"))
    return states, scanned, scanned + len(ctx.attr("scanned"))


def _grown(ctx: OpContext) -> tuple[bool, ...]:
    flags = ctx.attr("grown", ())
    return tuple(map(bool, flags)) or (False,) * int(ctx.attr("states"))


def _loop_infer(ctx: OpContext) -> list[TensorType]:
    body, conditional = _region(ctx, "body"), bool(ctx.attr("conditional"))
    first, walked, same = _loop_parts(ctx)
    for index, kind in ((0, _COUNT), (1, _FLAG)):
        if ctx.has_input(index) and ctx.input(index) != kind:
            ctx.fail("the number of iterations must be one int64, and the condition one bool")
    states = [ctx.input(n) for n in range(first, walked)]
    for n, (kind, inside, grown) in enumerate(zip(states, body.inputs[1:], _grown(ctx), strict=False)):
        if grown and kind.rank == inside.rank == 1:
            states[n] = TensorType(inside.shape, kind.dtype)
    rows = []
    for n in range(walked, same):
        kind = ctx.input(n)
        if not kind.rank:
            ctx.fail("a scalar cannot be walked")
        rows.append(TensorType(kind.shape[1:], kind.dtype))
    _check(ctx, "the operands of the body", body.inputs, [_COUNT, *states, *rows, *ctx.inputs[same:]])
    results = body.outputs[int(conditional) :]
    if conditional:
        _check(ctx, "the conditions of the body", body.outputs[:1], [_FLAG])
    _check(ctx, "the states of the body", results[: len(states)], states)
    given = results[len(states) :]
    if len(given) != len(ctx.attr("stacked")):
        ctx.fail(f"the body gives {len(given)} rows, not {len(ctx.attr('stacked'))}")
    trip = ctx.attr("trip", None)
    if ctx.attr("counted", False):
        length = as_expr(ctx.attr("most"))
    elif trip is not None and not conditional and not ctx.has_input(1):
        length = simplify(as_expr(trip))
        length = as_expr(max(int(length.value), 0)) if isinstance(length, Const) else length
    elif given:
        ctx.fail("the number of iterations is not known")
    stacked = [TensorType((length, *v.shape), v.dtype) for v in given]
    return [*states, *stacked, *([_COUNT] if ctx.attr("counted", False) else [])]


def _at(body: Graph, index: Expr | None, number: int) -> Graph:
    """The body in which the iteration's number, where attributes use it, is ``number``."""
    if index is None:
        return body
    return body.with_(nodes=tuple(with_sizes(n, {index: as_expr(number)}) for n in body.nodes))


def _loop_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    body, conditional = _region(ctx, "body"), bool(ctx.attr("conditional"))
    first, walked, same = _loop_parts(ctx)
    trip, most = inputs[0] if ctx.has_input(0) else ctx.attr("trip", None), ctx.attr("most", None)
    states = [np.asarray(x) for x in inputs[first:walked]]
    rooms = [const_int(v.shape[0]) if g else None for v, g in zip(body.inputs[1:], _grown(ctx), strict=False)]
    states = [s if room is None else _filled(s, room) for s, room in zip(states, rooms, strict=True)]
    arrays = [np.asarray(x) for x in inputs[walked:same]]
    others = [np.asarray(x) for x in inputs[same:]]
    given = body.outputs[int(conditional) + len(states) :]
    rows: list[list[np.ndarray]] = [[] for _ in given]
    going, done = inputs[1] is None or bool(inputs[1]), 0
    while going and (trip is None or done < int(trip)):
        if most is not None and done >= int(most):
            raise ShapeError(f"a loop needs more than the {most} iterations planned for", location=ctx.where)
        walks = zip(arrays, ctx.attr("scanned"), strict=True)
        now = [a[len(a) - 1 - done if backwards else done] for a, backwards in walks]
        number = np.asarray(done, np.int64)
        results = _call(_at(body, ctx.attr("index", None), done), [number, *states, *now, *others])
        if conditional:
            going = bool(results.pop(0))
        states = [s if r is None else _filled(s, r) for s, r in zip(results, rooms, strict=False)]
        for column, row in zip(rows, results[len(states) :], strict=True):
            column.append(row)
        done += 1
    stacked = []
    for value, column, backwards in zip(given, rows, ctx.attr("stacked"), strict=True):
        shape = tuple(const_int(d) for d in value.shape)
        empty = np.zeros((0, *(d or 0 for d in shape)), dt.to_numpy(value.dtype))
        whole = np.stack(column[::-1] if backwards else column) if column else empty
        stacked.append(_filled(whole, int(most)) if ctx.attr("counted", False) else whole)
    return [*states, *stacked, *([np.asarray(done, np.int64)] if ctx.attr("counted", False) else [])]


register(
    OpDef(
        "loop",
        FusionKind.opaque,
        infer=_loop_infer,
        reference=_loop_numpy,
        control=True,
    )
)


# ------------------------------------------------------------------------------------------------------- stop
def _stop_infer(ctx: OpContext) -> list[TensorType]:
    return [TensorType.make(shape, dtype) for shape, dtype in ctx.attr("types")]


def _stop_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    raise ShapeError(str(ctx.attr("message")), location=str(ctx.attr("where")))


register(
    OpDef(
        "stop", FusionKind.opaque, infer=_stop_infer, reference=_stop_numpy, deferred=True, control=True
    )
)


# ---------------------------------------------------------------------------------------------------- leading
def _leading_shape(ctx: OpContext) -> tuple[Expr, ...]:
    return tuple(as_expr(d) for d in ctx.attr("shape"))


def _leading_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    shape = _leading_shape(ctx)

    def body(*index: Expr) -> Expr:
        position: Expr = as_expr(0)
        for i, size in zip(index, shape, strict=True):
            position = position * size + i
        return inputs[0][position]

    return [te.compute(shape, body, "leading")]


def _leading_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    shape = [const_int(d) for d in _leading_shape(ctx)]
    known = [d for d in shape if d is not None]
    assert len(known) == len(shape)
    return [np.asarray(inputs[0])[: int(np.prod(known))].reshape(known)]


register(
    OpDef(
        "leading",
        FusionKind.injective,
        infer=lambda ctx: [TensorType(_leading_shape(ctx), ctx.input(0).dtype)],
        compute=_leading_compute,
        reference=_leading_numpy,
    )
)
