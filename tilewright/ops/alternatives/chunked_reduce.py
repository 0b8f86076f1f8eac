"""Reductions of long axes in two steps: partial results for chunks, which can run on different threads, then
those together.

The operator's own definition reduces each result in one go. That leaves threads idle where there are few
results (a sum of everything is one), and adds long chains of numbers in one order.
"""

from __future__ import annotations

from tilewright.graph.alternatives import Alternative, Numerics, register_alternative
from tilewright.graph.opdef import OpContext
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr
from tilewright.ops.alternatives.chunks import Chunks, is_static, long_axis, partial
from tilewright.ops.common import Operands
from tilewright.ops.reduce import TE_OPS, finish_reduce, reduced_axes, reduction_dtype


def _chunks(ctx: OpContext) -> Chunks | None:
    return long_axis(ctx.input(0).shape, reduced_axes(ctx)) if is_static(ctx) else None


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, op, axes, chunks = inputs[0], ctx.attr("op"), reduced_axes(ctx), _chunks(ctx)
    assert chunks is not None
    wide, kind = reduction_dtype(op, x.dtype), TE_OPS[op]
    parts = partial(x, axes, chunks, kind, f"chunk_{op}", lambda e, _: e.astype(wide))
    keepdims = bool(ctx.attr("keepdims", True))

    def at(index: tuple[Expr, ...], chunk: Expr) -> tuple[Expr, ...]:
        spatial = iter(index)
        found: list[Expr] = []
        for n in range(x.ndim):
            inner = next(spatial) if keepdims or n not in axes else as_expr(0)
            found.append(chunk if n == chunks.axis else inner)
        return tuple(found)

    shape = tuple(as_expr(1) if n in axes else d for n, d in enumerate(x.shape) if keepdims or n not in axes)
    total = te.compute(shape, lambda *i: te.reduce(kind, [chunks.count], lambda c: parts[at(i, c)]), op)
    return [finish_reduce(ctx, total, x)]


register_alternative(
    Alternative(
        "reduce",
        "chunked",
        lambda ctx: ctx.attr("op") in TE_OPS and _chunks(ctx) is not None,
        compute=_compute,
        numerics=Numerics.reordered,
    )
)
