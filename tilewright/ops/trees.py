"""Ensembles of decision trees over flat arrays of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import te
from tilewright.ir.expr import Expr, cmp, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ops.common import Operands, format_shape
from tilewright.ops.index import position

#: What a node asks of its feature: how it compares with the threshold. In the order of their numbers.
MODES: Final = ("le", "lt", "ge", "gt", "eq", "ne")
_MIRRORED: Final = {"ge": "le", "gt": "lt"}
#: How the leaves of all trees become one number.
AGGREGATES: Final = ("sum", "min", "max")
_REDUCE: Final[dict[str, Callable[..., Any]]] = {"sum": np.sum, "min": np.min, "max": np.max}
_COMPARE: Final = (np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal)
_X, _FEATURE, _THRESHOLD, _YES, _NO, _ROOTS, _WEIGHTS, _MODE, _MISSING = range(9)


def _holds(mode: str, value: Expr, limit: Expr) -> Expr:
    if mode in _MIRRORED:
        return cmp(_MIRRORED[mode], limit, value)
    return cmp(mode, value, limit)


def _infer(ctx: OpContext) -> list[TensorType]:
    x, weights = ctx.input(_X), ctx.input(_WEIGHTS)
    if x.rank != 2 or weights.rank != 2 or weights.dtype != x.dtype:
        ctx.fail("tree_ensemble takes samples [N, F] and leaves [M, C] of one type")
    for index in (_FEATURE, _THRESHOLD, _YES, _NO, _ROOTS):
        if ctx.input(index).rank != 1:
            ctx.fail(f"nodes are lists, not {format_shape(ctx.input(index).shape)}")
    if ctx.attr("aggregate") not in AGGREGATES:
        ctx.fail(f"tree_ensemble has no aggregate '{ctx.attr('aggregate')}'")
    return [TensorType((x.shape[0], weights.shape[1]), x.dtype)]


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    """Every sample walks down every tree for as many steps as the deepest has; leaves lead to themselves."""
    x, feature, threshold, yes, no, roots, weights = inputs[:7]
    mode, missing = (inputs[n] if n < len(inputs) else None for n in (_MODE, _MISSING))
    samples, trees, nodes = x.shape[0], roots.shape[0], feature.shape[0]

    def step(state: te.Tensor, n: Expr, t: Expr, d: Expr) -> tuple[tuple[Expr, ...], Expr]:
        at = position(state[n, t], nodes)
        value = x[n, position(feature[at], x.shape[1])]
        limit = threshold[at]
        if mode is None:
            holds = _holds(MODES[int(ctx.attr("mode"))], value, limit)
        else:
            kind = mode[at]
            holds = _holds(MODES[0], value, limit)
            for number, name in enumerate(MODES[1:], 1):
                holds = select(kind.eq(number), _holds(name, value, limit), holds)
        if missing is not None:
            holds = select(intrinsic("isnan", value), holds | cmp("ne", missing[at], 0), holds)
        return (n, t), select(holds, yes[at], no[at])

    start = te.compute((samples, trees), lambda n, t: roots[t], "leaf")
    loops = [(samples, "spatial"), (trees, "spatial"), (int(ctx.attr("depth")), "reduce")]
    leaf = te.update(start, loops, step) if int(ctx.attr("depth")) else start

    def total(n: Expr, c: Expr) -> Expr:
        def weight(t: Expr) -> Expr:
            return weights[position(leaf[n, t], nodes), c]

        return te.reduce(ctx.attr("aggregate"), [trees], weight)

    return [te.compute((samples, weights.shape[1]), total, "tree_ensemble")]


def _numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, feature, threshold, yes, no, roots, weights = inputs[:7]
    mode, missing = (inputs[n] if n < len(inputs) else None for n in (_MODE, _MISSING))
    rows = np.arange(x.shape[0])[:, None]
    at = np.broadcast_to(roots, (x.shape[0], roots.shape[0]))
    for _ in range(int(ctx.attr("depth"))):
        value, limit = x[rows, feature[at]], threshold[at]
        kind = int(ctx.attr("mode")) if mode is None else mode[at]
        holds = np.select([np.equal(kind, n) for n in range(len(MODES))], [f(value, limit) for f in _COMPARE])
        if missing is not None:
            holds = np.where(np.isnan(value), holds | (missing[at] != 0), holds)
        at = np.where(holds, yes[at], no[at])
    return [np.asarray(_REDUCE[ctx.attr("aggregate")](weights[at], axis=1), x.dtype)]


#: Inputs: samples ``[N, F]``; for each node its feature, its threshold and the nodes that follow where the
#: comparison holds and where not (leaves follow themselves); the roots ``[T]``; the leaves' weights
#: ``[M, C]``, a row for each node; the number of each node's comparison in :data:`MODES`, unless the
#: attribute ``mode`` is that of all; whether NaN counts as holding. Further attributes: ``depth`` and
#: ``aggregate``.
register(OpDef("tree_ensemble", FusionKind.opaque, infer=_infer, compute=_compute, reference=_numpy))
