"""Loops whose states change their shapes from one iteration to the next, as decoders append to a text.

Such a state is handed on as a vector with room for the largest, and its open sizes as states of their own
(:class:`~tilewright.frontend.onnx.bodies.Grown`). Which sizes are open follows from importing the body until
it keeps the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tilewright.config import options
from tilewright.frontend.onnx.bodies import Body, Formal, Grown
from tilewright.frontend.onnx.context import NodeContext
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Value
from tilewright.graph.shapes import as_dim, count
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import largest_size
from tilewright.ir.visit import const_int
from tilewright.ops.common import dims_attr

#: What a loop of unknown length gives has room for up to this many bytes, but for so many rows at least.
PLANNED_BYTES: Final = 1 << 30
PLANNED_ROWS: Final = 1024


def rows_planned(shape: Sequence[Expr], dtype: str) -> int:
    """How many rows of this shape memory is planned for where nothing else limits their number."""
    nbytes = largest_size(count((*map(as_dim, shape), dt.nbytes(dtype))))
    return min(options().max_computed, max(PLANNED_BYTES // max(nbytes or 1, 1), PLANNED_ROWS))


class Growth:
    """The states of a loop some of which change their shapes.

    Args:
        first: the first states.
        limit: the largest number of iterations, if that is known.

    Attributes:
        kinds: for each state, how it grows; None for one that does not.
    """

    def __init__(self, ctx: NodeContext, first: Sequence[Value], limit: int | None) -> None:
        self.ctx, self.first, self.limit = ctx, list(first), limit
        self.kinds: list[Grown | None] = [None] * len(self.first)

    @property
    def formals(self) -> list[Formal]:
        """What the body takes for the states."""
        return [v.type if k is None else k for v, k in zip(self.first, self.kinds, strict=True)]

    def settle(self, begin: Callable[[Sequence[Formal]], Body], results: Sequence[Value]) -> Body:
        """Import the body by ``begin`` until the states' shapes are known; ``results`` are the states that it
        gives when all have the shapes of the first ones. Its results begin with the condition.

        Raises UnsupportedError for a state whose rank changes.
        """
        known: Sequence[Sequence[Expr]] = [v.shape for v in self.first]
        while True:  # each time a size is opened that was not
            for n, (before, result) in enumerate(zip(known, results, strict=False)):
                self._open(n, before, result)
            body = begin(self.formals)
            whole = iter(body.grown)
            pairs = zip(self.first, self.kinds, strict=True)
            fresh = [v.shape if kind is None else next(whole).shape for v, kind in pairs]
            states = body.results[1 : 1 + len(self.first)]
            if self._fits(states, fresh):
                bounded = self._bounded(fresh, states)
                if bounded == self.kinds:
                    return body
                self.kinds = bounded
                return begin(self.formals)
            known, results = fresh, states

    def _open(self, n: int, before: Sequence[Expr], result: Value) -> None:
        """Note the sizes in which ``result`` differs from the state before it."""
        first, kind = self.first[n], self.kinds[n]
        if result.rank != first.rank:
            self.ctx.unsupported(f"a state changes its shape from {first.type} to {result.type}")
        shape = list(first.shape) if kind is None else list(kind.shape)
        changed = [None if a is not b else s for a, b, s in zip(before, result.shape, shape, strict=True)]
        if None in changed:
            rest = [size for size in changed if size is not None]
            most = (rows_planned(rest, first.dtype),) * changed.count(None)
            self.kinds[n] = Grown(tuple(changed), most, first.dtype)

    def _fits(self, states: Sequence[Value], shapes: Sequence[Sequence[Expr]]) -> bool:
        """Whether the body gives what it takes, but for open sizes."""
        for kind, state, shape in zip(self.kinds, states, shapes, strict=True):
            sizes = [None] * len(shape) if kind is None else kind.shape
            fixed = [axis for axis, size in enumerate(sizes) if kind is None or size is not None]
            if state.rank != len(shape) or any(state.shape[axis] is not shape[axis] for axis in fixed):
                return False
        return True

    def _bounded(self, shapes: Sequence[Sequence[Expr]], states: Sequence[Value]) -> list[Grown | None]:
        """The kinds with bounds for sizes that each iteration makes larger by the same number."""
        bounded: list[Grown | None] = []
        for first, kind, shape, state in zip(self.first, self.kinds, shapes, states, strict=True):
            if kind is None or self.limit is None:
                bounded.append(kind)
                continue
            most: list[int] = []
            for axis, size in enumerate(kind.shape):
                if size is None:
                    by = const_int(simplify(state.shape[axis] - shape[axis]))
                    begun = largest_size(first.shape[axis])
                    known = None if by is None or begun is None else begun + max(by, 0) * self.limit
                    most.append(kind.most[len(most)] if known is None else known)
            bounded.append(Grown(kind.shape, tuple(most), kind.dtype))
        return bounded

    @property
    def flags(self) -> tuple[bool, ...]:
        """Which of the node's states grow: none of the sizes, which stand behind the states."""
        sizes = sum(len(kind.most) for kind in self.kinds if kind is not None)
        return tuple(kind is not None for kind in self.kinds) + (False,) * sizes

    def begin(self) -> list[Value]:
        """The states of the node before the first iteration: vectors for those that grow, then sizes."""
        ctx, states, counts = self.ctx, [], []
        for value, kind in zip(self.first, self.kinds, strict=True):
            if kind is None:
                states.append(value)
                continue
            states.append(ctx.reshape(value, (_elements(value.shape),)))
            counts += self._counts(ctx.builder, kind, value)
        return [*states, *counts]

    def give(self, body: Body) -> None:
        """Let the body give the next states in that form."""
        end, builder, number = body.results[0], body.builder, len(self.first)
        states, counts = [], []
        for n, (value, kind) in enumerate(zip(body.results[1 : 1 + number], self.kinds, strict=True)):
            if kind is None:
                states.append(value)
                continue
            # Behind the sizes: the run stops before it writes more than there is room for.
            values, shape = kind.sizes(builder, self._counts(builder, kind, value), f"next{n}")
            flat = builder.op("reshape", value, shape=dims_attr((_elements(value.shape),)))
            states.append(builder.op("leading", flat, *values, shape=dims_attr((_elements(shape),))))
            counts += values
        body.give([end, *states, *counts, *body.results[1 + number :]])

    def finish(self, results: Sequence[Value]) -> list[Value]:
        """The last states from the node's results; what is stacked follows them."""
        number = len(self.first)
        sizes = iter(results[number:])
        found = []
        for n, (value, kind) in enumerate(zip(results[:number], self.kinds, strict=True)):
            if kind is not None:
                counts = [next(sizes) for _ in kind.most]
                value = kind.whole(self.ctx.builder, value, counts, f"{self.ctx.result_name}_{n}")
            found.append(value)
        return [*found, *sizes]

    @staticmethod
    def _counts(builder: GraphBuilder, kind: Grown, value: Value) -> list[Value]:
        """The open sizes of ``value``, one int64 each."""
        return [
            builder.op("reshape", builder.op("shape", value, start=axis, end=axis + 1), shape=())
            for axis, size in enumerate(kind.shape)
            if size is None
        ]


def _elements(shape: Sequence[Expr]) -> Expr:
    """The number of elements of a shape."""
    return as_expr(count(tuple(map(as_dim, shape))))
