"""Control flow (docs/control_flow.md).

A condition that is known when the model is compiled decides then: exporters ask for sizes that are numbers
once inputs have shapes. Others are decided by the compiled model, which runs the bodies as graphs of their
own. A loop of a known number of iterations is written out where that is little code, or where its states
change their shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from tilewright.config import options
from tilewright.errors import GraphError, ShapeError
from tilewright.frontend.onnx.bodies import Body, Formal, begin, close
from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.growth import Growth, rows_planned
from tilewright.frontend.onnx.lists import Structure
from tilewright.frontend.onnx.raw import RawBody, RawNode
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Attr, TensorType, Value
from tilewright.graph.rewrite import dims_in
from tilewright.graph.shapes import as_dim
from tilewright.ir.expr import FALSE, Expr, as_expr, maximum, minimum
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import largest_size
from tilewright.ir.visit import const_int, substitute_expr
from tilewright.ops.common import dims_attr
from tilewright.ops.computed import computed_size
from tilewright.ops.control import same_type

#: Loops are written out up to this many nodes in all.
MAX_UNROLLED: Final = 32

_IF_LIMITS: Final = "branches that give tensors of equal rank, or a condition that steers"
_LOOP_LIMITS: Final = "states that keep their rank, or a known number of iterations"
_SCAN_LIMITS: Final = "opset 8: batches of known size, sequences of one length"


# --------------------------------------------------------------------------------------------------------- If
@onnx_op("If", 1, 11, 13, 16, 19, 21, 23, 24, 25, limits=_IF_LIMITS, lists=True)
def if_(ctx: NodeContext) -> Sequence[Value]:
    """One of two branches."""
    branches = [ctx.attr(name) for name in ("then_branch", "else_branch")]
    known = ctx.data(0)
    if known is not None:
        return ctx.bodies.inline(branches[0 if ctx.scalar(0, "the condition of an If") else 1])
    condition = _one(ctx, ctx.x, "the condition of an If")
    then, otherwise = _branches(ctx, branches)
    if any(isinstance(v, Structure) for body in (then, otherwise) for v in body.results):
        ctx.require_data(0, "the condition of an If that gives sequences or optional values")
    if len(then.results) != len(otherwise.results):
        ctx.fail(f"the branches give {len(then.results)} and {len(otherwise.results)} tensors")
    if not then.results:
        ctx.fail("the branches give no tensors")
    joins = [_Join.of(ctx, a, b) for a, b in zip(then.results, otherwise.results, strict=True)]
    for body in (then, otherwise):
        data = [j.data(body, v) for j, v in zip(joins, body.results, strict=True)]
        body.give([*data, *_sizes(body, joins)])
    graphs, operands = close((then, otherwise))
    results = ctx.emit(
        "if",
        [condition, *operands],
        then=graphs[0],
        otherwise=graphs[1],
        packed=tuple(bool(j.open) for j in joins) + (False,) * sum(len(j.open) for j in joins),
    )
    sizes = iter(results[len(joins) :])
    pairs = zip(joins, results, strict=False)
    return [join.whole(ctx, value, [next(sizes) for _ in join.open]) for join, value in pairs]


def _branches(ctx: NodeContext, branches: Sequence[RawBody]) -> tuple[Body, Body]:
    """Both branches. One that contradicts itself (for the shapes that it would get) is an error only in runs
    that take it; raises what is wrong when that is true of both.
    """
    found: list[Body] = []
    wrong: list[GraphError | ShapeError] = []
    for branch in branches:
        try:
            found.append(ctx.bodies.separate(branch))
        except (GraphError, ShapeError) as error:
            wrong.append(error)
            if len(wrong) == 2:
                raise wrong[0] from None
            failed = branch
    if not wrong:
        return found[0], found[1]
    good, stopping = found[0], _stopping(ctx, found[0], wrong[0])
    return (stopping, good) if failed is branches[0] else (good, stopping)


def _stopping(ctx: NodeContext, like: Body, error: GraphError | ShapeError) -> Body:
    """A branch that ends the run with ``error``, in the place of one that gives tensors as ``like`` does."""
    body, _ = begin(ctx.builder, "stop", (), (), {})
    types = []
    for value in like.results:
        shape = (as_expr(0) if like.builder.makes(d) else d for d in value.shape)
        types.append((dims_attr(tuple(shape)), value.dtype))
    where = error.location or ctx.where
    attrs: dict[str, Attr] = {"types": tuple(types), "message": error.message, "where": where}
    body.give(body.builder.emit("stop", (), attrs))
    return body


@dataclasses.dataclass(frozen=True)
class _Join:
    """How the tensors that two branches give become one.

    Attributes:
        shape: sizes that are the same in both; None for the others, and
        open: those dimensions.
        most: an upper bound for each of ``open``.
    """

    shape: tuple[Expr | None, ...]
    open: tuple[int, ...]
    most: tuple[Expr, ...]

    @staticmethod
    def of(ctx: NodeContext, then: Value, otherwise: Value) -> _Join:
        if then.dtype != otherwise.dtype:
            ctx.fail(f"one branch gives {then.type} where the other gives {otherwise.type}")
        if then.rank != otherwise.rank:
            ctx.require_known(ctx.x, "the condition of branches whose results differ in rank")
            ctx.unsupported(f"one branch gives {then.type} where the other gives {otherwise.type}")
        pairs = list(zip(then.shape, otherwise.shape, strict=True))
        shape = tuple(a if a is b else None for a, b in pairs)
        differ = tuple(d for d, size in enumerate(shape) if size is None)
        return _Join(shape, differ, tuple(_most(*pairs[d]) for d in differ))

    def data(self, body: Body, value: Value) -> Value:
        """What a branch gives: a vector where the shape is open."""
        if not self.open:
            return value
        count = as_expr(1)
        for size in value.shape:
            count = count * size
        return body.builder.op("reshape", value, shape=dims_attr((simplify(count),)))

    def whole(self, ctx: NodeContext, value: Value, counts: Sequence[Value]) -> Value:
        """The result of the node, of which ``counts`` are the open sizes."""
        if not self.open:
            return value
        shape, sizes = list(self.shape), []
        for axis, count, most in zip(self.open, counts, self.most, strict=True):
            size, dim = computed_size(ctx.builder, count, most, f"{ctx.result_name}_dim{axis}")
            shape[axis] = dim
            sizes.append(size)
        whole = dims_attr([d for d in shape if d is not None])
        return ctx.op("leading", value, *sizes, shape=whole)


def _most(a: Expr, b: Expr) -> Expr:
    """The larger of two sizes, or a bound of it."""
    bounds = [largest_size(e) for e in (a, b)]
    known = [n for n in bounds if n is not None]
    return as_expr(max(known)) if len(known) == len(bounds) else simplify(maximum(a, b))


def _sizes(body: Body, joins: Sequence[_Join]) -> list[Value]:
    """The open sizes of what a branch gives, one int64 each."""
    return [
        body.builder.op("reshape", body.builder.op("shape", value, start=axis, end=axis + 1), shape=())
        for join, value in zip(joins, body.results, strict=True)
        for axis in join.open
    ]


def _one(ctx: NodeContext, value: Value, what: str) -> Value:
    """A value of one element as a scalar."""
    sizes = {const_int(d) for d in value.shape}
    if not sizes <= {1}:
        ctx.fail(f"{what} must be one element, not {value.type}")
    return ctx.reshape(value, ())


# ---------------------------------------------------------------------------------------------- Loop and Scan
@onnx_op("Loop", 1, 11, 13, 16, 19, 21, 23, 24, 25, limits=_LOOP_LIMITS, lists=True)
def loop(ctx: NodeContext) -> Sequence[Value]:
    """A loop with a number of iterations, a condition, or both."""
    body: RawBody = ctx.attr("body")
    if any(isinstance(v, Structure) for v in ctx.inputs):
        return _loop_over_lists(ctx, body)
    states = [ctx.value(n) for n in range(2, len(ctx.inputs))]
    if len(body.inputs) != 2 + len(states) or len(body.outputs) < 1 + len(states):
        given = f"{len(body.inputs)} and gives {len(body.outputs)} tensors"
        ctx.fail(f"the body takes {given} for {len(states)} states")
    trip: Value | Expr | None = None
    if ctx.has(0):
        trip = _one(ctx, ctx.x, "the number of iterations")
        known = _scalar_expr(ctx, trip)
        trip = trip if known is None else simplify(maximum(known, 0))
    going: Value | None = None
    if ctx.has(1):
        going = _one(ctx, ctx.value(1), "the condition of a Loop")
        started = ctx.data(1)
        if started is not None:
            going = None
            trip = trip if bool(started.reshape(())) else as_expr(0)
    count = const_int(trip) if isinstance(trip, Expr) else None
    if count is not None and going is None and _is_little(body, count):
        written = _unrolled(ctx, body, count, states)
        if written is not None:
            return written
    made = _Loop(ctx, trip, going, states)
    inner = made.begin(body, with_condition=True)
    if not made.keeps_shapes(inner, 1):
        if count is not None and going is None and count * _nodes(body) <= options().max_nodes:
            written = _unrolled(ctx, body, count, states)
            if written is not None:
                return written
        return made.growing(body, inner.results[1:])
    return made.finish(inner)


@onnx_op("Scan", 8, 9, 11, 16, 19, 21, 23, 24, 25, limits=_SCAN_LIMITS)
def scan(ctx: NodeContext) -> Sequence[Value]:
    """A loop over rows of arrays."""
    walked = int(ctx.attr("num_scan_inputs"))
    if ctx.since >= 9:
        states = len(ctx.inputs) - walked
        return _scan(ctx, ctx.inputs[:states], ctx.inputs[states:])
    return _batched_scan(ctx, len(ctx.inputs) - walked)


def _scan(ctx: NodeContext, states: Sequence[Value | None], arrays: Sequence[Value | None]) -> list[Value]:
    body: RawBody = ctx.attr("body")
    first = [v for v in states if v is not None]
    given = [v for v in arrays if v is not None]
    rows = len(body.outputs) - len(first)
    if len(first) + len(given) != len(body.inputs) or rows < 0 or not given:
        ctx.fail(f"the body takes {len(body.inputs)} and gives {len(body.outputs)} tensors")
    if not all(v.rank for v in given):
        ctx.fail("it walks over arrays, and one of them is a scalar")
    old = ctx.since < 9
    axes = _per(ctx, "scan_input_axes", len(given))
    backwards = _per(ctx, "directions" if old else "scan_input_directions", len(given))
    moved = [_moved(ctx, v, ctx.check_axis(axis, v.rank), 0) for v, axis in zip(given, axes, strict=True)]
    lengths = {as_dim(v.shape[0]) for v in moved}
    numbers = [n for n in lengths if isinstance(n, int)]
    if len(numbers) > 1:
        ctx.fail(f"the arrays have {numbers} rows to walk over")
    trip = as_expr(numbers[0]) if numbers else moved[0].shape[0]
    made = _Loop(ctx, trip, None, first, moved, [bool(b) for b in backwards])
    inner = made.begin(body, with_condition=False)
    if not made.keeps_shapes(inner, 0):
        made.refuse_growth(inner.results)
    results = made.finish(inner, [bool(b) for b in _per(ctx, "scan_output_directions", rows)])
    axes = _per(ctx, "scan_output_axes", rows)
    stacked = results[len(first) :]
    return [
        *results[: len(first)],
        *(_moved(ctx, v, 0, ctx.check_axis(axis, v.rank)) for v, axis in zip(stacked, axes, strict=True)),
    ]


def _batched_scan(ctx: NodeContext, states: int) -> Sequence[Value]:
    """Opset 8: everything has a batch dimension in front, and each element of the batch is a scan."""
    operands = [ctx.value(n) for n in range(1, len(ctx.inputs))]
    states -= 1
    batch = const_int(operands[0].shape[0]) if operands and operands[0].rank else None
    if batch is None:
        ctx.unsupported("the size of the batch must be known")
    if ctx.has(0):
        lengths = ctx.require_data(0, "the lengths of the sequences")
        if any(const_int(v.shape[1]) != n for v in operands[states:] for n in lengths.reshape(-1).tolist()):
            ctx.unsupported("sequences of different lengths")
    parts = []
    for n in range(batch):
        row = [
            ctx.reshape(ctx.op("slice", v, starts=(n,), ends=(n + 1,), axes=(0,), steps=(1,)), v.shape[1:])
            for v in operands
        ]
        parts.append(_scan(ctx, row[:states], row[states:]))
    return [
        ctx.op("concat", *(ctx.reshape(v, (as_expr(1), *v.shape)) for v in column), axis=0)
        for column in zip(*parts, strict=True)
    ]


def _per(ctx: NodeContext, name: str, count: int) -> list[int]:
    """An attribute that has a number for each of ``count`` tensors, 0 by default."""
    given = [int(n) for n in ctx.attr(name, (0,) * count)]
    if len(given) != count:
        ctx.fail(f"attribute '{name}' has {len(given)} numbers for {count} tensors")
    return given


def _moved(ctx: NodeContext, value: Value, source: int, target: int) -> Value:
    """``value`` with one dimension in another place."""
    if source == target:
        return value
    perm = [d for d in range(value.rank) if d != source]
    perm.insert(target, source)
    return ctx.op("transpose", value, perm=tuple(perm))


def _scalar_expr(ctx: NodeContext, value: Value) -> Expr | None:
    """The element of an int64 scalar where shape arithmetic knows it."""
    data = ctx.builder.const(value)
    if data is not None:
        return as_expr(int(data.reshape(())))
    exprs = ctx.builder.exprs(value)
    return None if exprs is None else as_expr(exprs.reshape(-1)[0])


# ------------------------------------------------------------------------------------------ loops written out
def _nodes(body: RawBody) -> int:
    """How many nodes a body has, those of the bodies in it included."""
    return sum(1 + sum(_nodes(b) for b in _bodies(node)) for node in body.nodes)


def _bodies(node: RawNode) -> list[RawBody]:
    return [v for v in node.attrs.values() if isinstance(v, RawBody)]


def _is_little(body: RawBody, count: int) -> bool:
    return count * _nodes(body) <= MAX_UNROLLED


def _unrolled(ctx: NodeContext, body: RawBody, count: int, states: Sequence[Value]) -> list[Value] | None:
    """The iterations of a Loop one after the other; None when there are none, or when a condition that is
    computed by the model may end it.
    """
    rows: list[list[Value]] = [[] for _ in body.outputs[1 + len(states) :]]
    if not count and rows:
        return None  # nothing tells the shape of a row
    for n in range(count):
        given = [ctx.constant(n, "int64"), ctx.constant(True, "bool"), *states]
        going, *results = ctx.bodies.inline(body, given)
        states, made = results[: len(states)], results[len(states) :]
        for column, row in zip(rows, made, strict=True):
            column.append(row)
        goes_on = ctx.builder.const(going)
        if goes_on is None and n + 1 < count:
            return None
        if goes_on is not None and not goes_on.reshape(-1).all():
            break
    if any(v.shape != column[0].shape for column in rows for v in column):
        ctx.fail("the rows that the iterations give differ in shape")
    stacked = [
        ctx.op("concat", *(ctx.reshape(v, (as_expr(1), *v.shape)) for v in column), axis=0) for column in rows
    ]
    return [*states, *stacked]


def _loop_over_lists(ctx: NodeContext, body: RawBody) -> Sequence[Value]:
    """A Loop some of whose states are sequences or optional values, written out."""
    states = [v for v in ctx.inputs[2:] if v is not None]
    if len(states) != len(ctx.inputs) - 2 or len(body.inputs) != len(ctx.inputs):
        ctx.fail(f"the body takes {len(body.inputs)} tensors for {len(states)} states")
    count = options().max_nodes  # more than can be written out
    if ctx.has(0):
        count = min(count, int(ctx.scalar(0, "the number of iterations of a Loop over sequences")))
    if ctx.has(1) and not ctx.scalar(1, "the condition of a Loop over sequences"):
        count = 0
    written = _unrolled(ctx, body, max(count, 0), states)
    if written is None:
        ctx.unsupported("a loop over sequences needs a condition and a number of iterations that are known")
    return written


# ------------------------------------------------------------------------------------------------- loop nodes
class _Loop:
    """A node ``loop`` in the making.

    Args:
        trip: the number of iterations: a value, an expression of sizes, or None without a limit.
        going: whether it begins at all; None: it does.
        states: the first states.
        arrays: what is walked along its first dimension; ``backwards`` says in which direction.
    """

    def __init__(
        self,
        ctx: NodeContext,
        trip: Value | Expr | None,
        going: Value | None,
        states: Sequence[Value],
        arrays: Sequence[Value] = (),
        backwards: Sequence[bool] = (),
    ) -> None:
        self.ctx = ctx
        self.trip, self.going = trip, going
        self.states, self.arrays, self.backwards = list(states), list(arrays), list(backwards)
        self.grown: tuple[bool, ...] = ()

    @property
    def limit(self) -> int | None:
        """The largest number of iterations that is known when the model is compiled."""
        return largest_size(self.trip) if isinstance(self.trip, Expr) else None

    def begin(self, body: RawBody, with_condition: bool, states: Sequence[Formal] | None = None) -> Body:
        """Import the body. ``with_condition``: it takes the iteration's number and a condition first.
        ``states`` are what it takes for states, if not what the first ones are.
        """
        number = TensorType((), "int64")
        rows = [TensorType(v.shape[1:], v.dtype) for v in self.arrays]
        formals: list[Formal] = [*((v.type for v in self.states) if states is None else states), *rows]
        self.index: Expr | None = None
        if not with_condition:
            body = dataclasses.replace(body, inputs=("", *body.inputs))
            formals = [number, *formals]
        else:
            # Slices at the iteration's number have shapes that follow from it.
            limit = options().max_computed if self.limit is None else self.limit
            self.index = self.ctx.builder.new_dim("iteration", max(limit - 1, 0))
            exprs = np.empty((), dtype=object)
            exprs[()] = self.index
            formals = [(number, exprs), np.asarray(True), *formals]
        return self.ctx.bodies.separate(body, formals)

    def keeps_shapes(self, body: Body, first: int) -> bool:
        """Whether the states that the body gives, from result ``first`` on, have the shapes of the first
        ones. Where that depends on sizes, runs test it.
        """
        results = list(body.results)
        for n, (state, result) in enumerate(zip(self.states, results[first:], strict=False), first):
            if state.dtype != result.dtype:
                self.ctx.fail(f"a state begins as {state.type} and goes on as {result.type}")
            if not same_type(state.type, result.type):
                return False
            pairs = [(a, b) for a, b in zip(state.shape, result.shape, strict=True) if a is not b]
            if any(simplify(a.eq(b)) is FALSE for a, b in pairs):
                return False
            if pairs:
                results[n] = body.builder.op("reshape", result, shape=dims_attr(state.shape))
        body.give(results)
        return True

    def growing(self, body: RawBody, results: Sequence[Value]) -> list[Value]:
        """The node's results. States change their shapes, as ``results`` differ from the first ones."""
        growth = Growth(self.ctx, self.states, self.limit)
        inner = growth.settle(lambda states: self.begin(body, True, states), results)
        growth.give(inner)
        self.states, self.grown = growth.begin(), growth.flags
        return growth.finish(self.finish(inner))

    def refuse_growth(self, results: Sequence[Value]) -> None:
        """Raise UnsupportedError for the first state that changes its shape."""
        for state, result in zip(self.states, results, strict=False):
            if state.shape != result.shape:
                self.ctx.unsupported(f"a state changes its shape from {state.type} to {result.type}")

    def finish(self, body: Body, stacked_backwards: Sequence[bool] | None = None) -> list[Value]:
        """The node's results: the last states, then what is stacked."""
        ctx, builder = self.ctx, body.builder
        results = list(body.results)
        trip, conditional = self.trip, False
        if stacked_backwards is None:
            end, *results = results
            goes_on = builder.const(end)
            conditional = goes_on is None
            if goes_on is not None and not goes_on.reshape(-1).all():
                trip = _at_most_one(ctx, trip)
            if conditional:
                results.insert(0, _scalar(builder, ctx, end))
        first_row = int(conditional) + len(self.states)
        results[first_row:] = [self._row(builder, v) for v in results[first_row:]]
        rows = results[first_row:]
        body.give(results)
        (graph,), captured = close((body,))
        counted = bool(rows) and (conditional or self.going is not None or not isinstance(trip, Expr))
        limit = largest_size(trip) if isinstance(trip, Expr) else None
        if limit is None:
            limits = [rows_planned(v.shape, v.dtype) for v in rows]
            most = min([options().max_computed, *limits])
        else:
            most = limit
        index = self.index if any(self.index in dims_in(node) for node in graph.nodes) else None
        outputs = ctx.emit(
            "loop",
            [None if isinstance(trip, Expr) else trip, self.going, *self.states, *self.arrays, *captured],
            body=graph,
            states=len(self.states),
            scanned=tuple(self.backwards),
            grown=self.grown if any(self.grown) else None,
            stacked=tuple(stacked_backwards or (False,) * len(rows)),
            conditional=conditional,
            trip=dims_attr((trip,))[0] if isinstance(trip, Expr) else None,
            index=index,
            counted=counted,
            most=most if counted or (index is not None and limit is None) else None,
        )
        if not counted:
            return list(outputs)
        *outputs_, done = outputs
        size, dim = computed_size(ctx.builder, done, as_expr(most), f"{ctx.result_name}_count")
        (length,) = dims_attr((dim,))
        first = len(self.states)
        return [*outputs_[:first], *(ctx.op("front", v, size, dim=length) for v in outputs_[first:])]


    def _row(self, builder: GraphBuilder, row: Value) -> Value:
        """What is stacked, in the shape that it has in the first iteration where that depends on iterations:
        runs test that the others give the same.
        """
        if self.index is None:
            at_first = row.shape
        else:
            at_first = tuple(simplify(substitute_expr(d, {self.index: as_expr(0)})) for d in row.shape)
        if any(builder.makes(d) for d in at_first):
            self.ctx.unsupported(f"the size of a row is computed in the loop: {row.type}")
        return row if at_first == row.shape else builder.op("reshape", row, shape=dims_attr(at_first))


def _scalar(builder: GraphBuilder, ctx: NodeContext, value: Value) -> Value:
    if not {const_int(d) for d in value.shape} <= {1}:
        ctx.fail(f"the condition of a Loop must be one element, not {value.type}")
    return value if not value.rank else builder.op("reshape", value, shape=())


def _at_most_one(ctx: NodeContext, trip: Value | Expr | None) -> Value | Expr:
    """The number of iterations of a loop whose body ends it."""
    if trip is None:
        return as_expr(1)
    if isinstance(trip, Value):
        return ctx.op("minimum", trip, ctx.constant(1, "int64"))
    return simplify(minimum(trip, 1))
