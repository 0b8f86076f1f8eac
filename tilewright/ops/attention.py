"""Caches of keys and values: what attention with a past works on."""

from __future__ import annotations

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import te
from tilewright.ir.expr import Expr, all_of, as_expr, const, maximum, minimum, select
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, format_shape
from tilewright.ops.index import check_indices


# -------------------------------------------------------------------------------------------- append_to_cache
def _append_infer(ctx: OpContext) -> list[TensorType]:
    new, starts = ctx.input(1), check_indices(ctx, 2)
    if new.rank != 4 or starts.rank != 1:
        ctx.fail("append_to_cache takes [B, N, S, H] and a position for each sample")
    if ctx.has_input(0) and (ctx.input(0).rank != 4 or ctx.input(0).dtype != new.dtype):
        ctx.fail(f"a cache of {ctx.input(0)} does not take {format_shape(new.shape)} of {new.dtype}")
    for n in (1, 3):
        sizes = [const_int(ctx.input(i).shape[n]) for i in (0, 1) if ctx.has_input(i)]
        if None not in sizes and len(set(sizes)) > 1:
            ctx.fail(f"cache and new elements differ in dimension {n}")
    return [TensorType((*new.shape[:2], as_expr(ctx.attr("length")), new.shape[3]), new.dtype)]


def _append_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    cache, new, starts = inputs
    shape = _append_infer(ctx)[0].shape
    steps = new.shape[2]

    def body(b: Expr, n: Expr, t: Expr, h: Expr) -> Expr:
        at = t - starts[b].astype("int64")
        old: Expr = const(0, new.dtype)
        if cache is not None and const_int(cache.shape[2]) != 0:
            old = select(t < cache.shape[2], cache[b, n, t, h], old)
        if const_int(steps) == 0:
            return old
        inside = all_of([as_expr(0) <= at, at < steps])
        return select(inside, new[b, n, minimum(maximum(at, 0), steps - 1), h], old)

    return [te.compute(shape, body, "append_to_cache")]


def _append_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    cache, new, starts = inputs
    length, steps = int(ctx.attr("length")), new.shape[2]
    result = np.zeros((*new.shape[:2], length, new.shape[3]), new.dtype)
    if cache is not None:
        kept = min(length, cache.shape[2])
        result[:, :, :kept] = cache[:, :, :kept]
    for b, start in enumerate(starts.tolist()):
        first, last = max(start, 0), min(start + steps, length)
        if first < last:
            result[b, :, first:last] = new[b, :, first - start : last - start]
    return [result]


#: Inputs: cache ``[B, N, P, H]`` or none, new elements ``[B, N, S, H]``, the position ``[B]`` of the first of
#: them in each sample. The result has ``length`` positions: the new elements at theirs, those of the cache
#: elsewhere, zeros behind its end.
register(
    OpDef(
        "append_to_cache",
        FusionKind.injective,
        infer=_append_infer,
        compute=_append_compute,
        reference=_append_numpy,
    )
)
