"""Attention of the standard, and the steps that attention of all domains is made of.

Queries are ``[B, N, S, H]``, keys ``[B, K, T, H]`` and values ``[B, K, T, V]`` throughout, where ``N / K``
neighbouring heads of queries share one of keys and values. Batch, ``S`` and ``T`` may be open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, ExprLike, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import const_int
from tilewright.ops.common import dims_attr

_LAST: Final = 3


# -------------------------------------------------------------------------------------------------- arranging
def fixed_dim(ctx: NodeContext, x: Value, axis: int, what: str) -> int:
    """A dimension that must be a number. Raises UnsupportedError naming ``what`` where it is open."""
    if axis >= x.rank:
        ctx.fail(f"{what} is dimension {axis}, and {x.type} has no such dimension")
    size = const_int(x.shape[axis])
    return ctx.unsupported(f"{what} must be known, not {x.type}") if size is None else size


def require_heads(ctx: NodeContext, *tensors: Value) -> None:
    """Raise GraphError for a tensor that is not ``[B, N, S, H]``."""
    for x in tensors:
        if x.rank != 4:
            ctx.fail(f"an attention takes heads of rank 4, not {x.type}")


def split_heads(ctx: NodeContext, x: Value, count: int) -> Value:
    """``[B, S, N * H]`` as ``[B, N, S, H]``."""
    if x.rank != 3:
        ctx.fail(f"an attention takes operands of rank 3 here, not {x.type}")
    width = fixed_dim(ctx, x, 2, "the width of an attention's operands")
    if count < 1 or width % count:
        ctx.fail(f"{width} features cannot be split into {count} heads")
    apart = ctx.reshape(x, [x.shape[0], x.shape[1], count, width // count])
    return ctx.op("transpose", apart, perm=(0, 2, 1, 3))


def merge_heads(ctx: NodeContext, x: Value) -> Value:
    """``[B, N, S, H]`` as ``[B, S, N * H]``."""
    batch, count, steps, width = x.shape
    return ctx.reshape(ctx.op("transpose", x, perm=(0, 2, 1, 3)), [batch, steps, count * width])


def split_last(ctx: NodeContext, x: Value, sizes: Sequence[int]) -> tuple[Value, ...]:
    """Parts of the last dimension."""
    return ctx.emit("split", [x], axis=x.rank - 1, sizes=tuple(sizes))


def window(ctx: NodeContext, x: Value, axis: int, start: ExprLike, end: ExprLike) -> Value:
    """Positions ``start .. end`` of a dimension; ``x`` itself where those are all."""
    if simplify(as_expr(start)) is as_expr(0) and simplify(as_expr(end)) is simplify(x.shape[axis]):
        return x
    return ctx.op("slice", x, starts=dims_attr((start,)), ends=dims_attr((end,)), axes=(axis,), steps=(1,))


# ------------------------------------------------------------------------------------------------------ masks
def places(ctx: NodeContext, start: ExprLike, end: ExprLike, shape: Sequence[ExprLike]) -> Value:
    """The int64 numbers from ``start`` to ``end`` in ``shape``."""
    limits = {"start": dims_attr((start,)), "limit": dims_attr((end,)), "delta": (1,)}
    return ctx.reshape(ctx.op("range", **limits, dtype="int64"), shape)


def key_places(ctx: NodeContext, keys: ExprLike) -> Value:
    """The position of each key, ``[1, T]``."""
    return places(ctx, 0, keys, [1, keys])


def causal_mask(ctx: NodeContext, steps: Expr, keys: Expr, before: Expr | Value) -> Value:
    """Which keys a query sees: those up to its own position, ``[S, T]``, or ``[B, 1, S, T]`` where
    ``before``, the number of keys in front of the first query, is a tensor ``[B]``.
    """
    return ctx.op("less_equal", key_places(ctx, keys), query_places(ctx, steps, before))


def query_places(ctx: NodeContext, steps: Expr, before: Expr | Value) -> Value:
    """The position of each query among the keys: ``[S, 1]``, or ``[B, 1, S, 1]``."""
    if isinstance(before, Value):
        start = ctx.reshape(before, [before.shape[0], 1, 1, 1])
        return ctx.op("add", start, places(ctx, 0, steps, [1, 1, steps, 1]))
    return places(ctx, before, before + steps, [steps, 1])


def both(ctx: NodeContext, *masks: Value | None) -> Value | None:
    """The conjunction of masks of bool; None where there is none."""
    result: Value | None = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else ctx.op("and", result, mask)
    return result


def as_bias(ctx: NodeContext, keep: Value, dtype: str, low: float = -math.inf) -> Value:
    """A mask of bool as numbers to add: 0 where it is true, else ``low``."""
    return ctx.op("where", keep, ctx.constant(0, dtype), ctx.constant(low, dtype))


# ------------------------------------------------------------------------------------------------- arithmetic
def _grouped(ctx: NodeContext, x: Value, heads: Expr) -> tuple[Value, int]:
    """``[B, N, S, ..]`` as ``[B, K, (N / K) * S, ..]``: queries that share a head of keys are rows of one
    product. Gives the number of them as well.
    """
    count, shared = const_int(x.shape[1]), const_int(heads)
    if count is None or shared is None:
        ctx.unsupported("the numbers of heads must be known")
    if shared < 1 or count % shared:
        ctx.fail(f"{count} heads of queries cannot share {shared} of keys")
    groups = count // shared
    if groups == 1:
        return x, 1
    return ctx.reshape(x, [x.shape[0], shared, groups * x.shape[2], x.shape[3]]), groups


def scores(ctx: NodeContext, q: Value, k: Value, scale: float, softcap: float = 0.0) -> Value:
    """``q @ k^T * scale``, ``[B, N, S, T]``; ``softcap`` bounds it by a tangens."""
    require_heads(ctx, q, k)
    scaled, _ = _grouped(ctx, ctx.op("mul", q, ctx.like(scale, q)), k.shape[1])
    product = ctx.op("matmul", scaled, ctx.op("transpose", k, perm=(0, 1, 3, 2)))
    result = ctx.reshape(product, [*q.shape[:3], k.shape[2]])
    if softcap > 0:
        bound = ctx.like(softcap, result)
        result = ctx.op("mul", ctx.op("tanh", ctx.op("div", result, bound)), bound)
    return result


def weighted(ctx: NodeContext, weights: Value, v: Value) -> Value:
    """``weights @ v``, ``[B, N, S, V]``."""
    require_heads(ctx, weights, v)
    rows, _ = _grouped(ctx, weights, v.shape[1])
    return ctx.reshape(ctx.op("matmul", rows, v), [*weights.shape[:3], v.shape[3]])


def softmax_with_sink(ctx: NodeContext, x: Value, sink: Value) -> Value:
    """Softmax over the last dimension and one more score, ``sink``, whose weight is left out."""
    most = ctx.op("maximum", ctx.op("reduce", x, op="max", axes=(_LAST,), keepdims=True), sink)
    powers = ctx.op("exp", ctx.op("sub", x, most))
    total = ctx.op("reduce", powers, op="sum", axes=(_LAST,), keepdims=True)
    return ctx.op("div", powers, ctx.op("add", total, ctx.op("exp", ctx.op("sub", sink, most))))


def scale_of(ctx: NodeContext, q: Value) -> float:
    """The attribute ``scale``, by default (and for 0) ``1 / sqrt(H)``."""
    return float(ctx.attr("scale", 0.0)) or 1 / math.sqrt(fixed_dim(ctx, q, _LAST, "the size of a head"))


# ----------------------------------------------------------------------------------------------- the standard
@onnx_op("Attention", 23, 24, 25)
def attention(ctx: NodeContext) -> Sequence[Value | None]:
    """Heads as a dimension of their own or side by side; masks are added to the scores, or of bool.

    Rows of queries that see no key give zeros.
    """
    q, k, v = (ctx.value(n) for n in range(3))
    flat = q.rank == 3
    if flat:
        counts = [int(ctx.attr(n, 0)) for n in ("q_num_heads", "kv_num_heads")]
        if min(counts) < 1:
            ctx.fail("heads that lie side by side need q_num_heads and kv_num_heads")
        q, k, v = (split_heads(ctx, x, n) for x, n in zip((q, k, v), (*counts, counts[1]), strict=True))
    require_heads(ctx, q, k, v, *(ctx.value(n) for n in (4, 5) if ctx.has(n)))
    if ctx.has(4) != ctx.has(5) or (ctx.has(4) and ctx.has(6)):
        ctx.fail("past keys and values come together, and without nonpad_kv_seqlen")
    before: Expr | Value = as_expr(0)
    if ctx.has(4):
        before = ctx.value(4).shape[2]
        k, v = (ctx.op("concat", ctx.value(n), x, axis=2) for n, x in ((4, k), (5, v)))
    steps, keys = q.shape[2], k.shape[2]
    seen: Value | None = None
    if ctx.has(6):
        filled = ctx.op("cast", ctx.value(6), to="int64")
        if filled.rank != 1:
            ctx.fail(f"nonpad_kv_seqlen has one number for each element of the batch, not {filled.type}")
        limit = ctx.reshape(filled, [filled.shape[0], 1, 1, 1])
        seen = ctx.op("less", key_places(ctx, keys), limit)
        before = ctx.op("sub", filled, places(ctx, steps, steps + 1, [1]))
    bias, keep = _given_mask(ctx, keys)
    keep = both(ctx, keep, seen, *_around(ctx, steps, keys, before))
    if keep is not None:
        low = as_bias(ctx, keep, q.dtype)
        bias = low if bias is None else ctx.op("add", bias, low)
    given = float(ctx.attr("scale", math.nan))
    scale = scale_of(ctx, q) if math.isnan(given) else given
    raw = scores(ctx, q, k, scale)
    softcap = float(ctx.attr("softcap", 0.0))
    capped = scores(ctx, q, k, scale, softcap) if softcap > 0 else raw
    full = capped if bias is None else ctx.op("add", capped, bias)
    weights = _weights(ctx, full, bias)
    stages = (raw, capped, full, weights)
    mode = int(ctx.attr("qk_matmul_output_mode", 0))
    if not 0 <= mode < len(stages):
        ctx.fail(f"qk_matmul_output_mode {mode} is none of 0 to 3")
    y = weighted(ctx, weights, v)
    return [merge_heads(ctx, y) if flat else y, k, v, stages[mode]]


def _given_mask(ctx: NodeContext, keys: Expr) -> tuple[Value | None, Value | None]:
    """The mask that is an input: numbers to add, or bools. Keys behind its end are not seen."""
    mask = ctx.optional(3)
    if mask is None:
        return None, None
    boolean = mask.dtype == "bool"
    if not mask.rank:
        ctx.fail("the mask of an attention is a scalar")
    if mask.shape[-1] is not keys:
        missing = dims_attr((keys - mask.shape[-1],))
        fill = ctx.constant(False, "bool") if boolean else ctx.like(-math.inf, mask)
        pads = (*(0,) * (2 * mask.rank - 1), *missing)
        if missing != (0,):
            mask = ctx.op("pad", mask, None, fill, mode="constant", pads=pads)
    return (None, mask) if boolean else (mask, None)


def _around(ctx: NodeContext, steps: Expr, keys: Expr, before: Expr | Value) -> list[Value]:
    """Masks of keys by their distance from the query: causal ones and windows."""
    masks = [causal_mask(ctx, steps, keys, before)] if ctx.attr("is_causal", 0) else []
    left, right = (int(ctx.attr(f"{side}_window_size", -1)) for side in ("left", "right"))
    if min(left, right) < -1:
        ctx.fail(f"window sizes are -1 or more, not {left} and {right}")
    if left >= 0 or right >= 0:
        behind = ctx.op("sub", query_places(ctx, steps, before), key_places(ctx, keys))
        if left >= 0:
            masks.append(ctx.op("less_equal", behind, ctx.constant(left, "int64")))
        if right >= 0:
            masks.append(ctx.op("less_equal", ctx.constant(-right, "int64"), behind))
    return masks


def _weights(ctx: NodeContext, full: Value, bias: Value | None) -> Value:
    """Softmax, and zeros where the bias shuts all keys out."""
    dtype = full.dtype
    wide = ctx.attr("softmax_precision", None)
    inner = dtype if wide is None else dtype_name(int(wide), "softmax_precision", ctx.where)
    if not dt.is_float(inner):
        ctx.fail(f"softmax_precision {inner} is no type of floats")
    x = full if inner == dtype else ctx.op("cast", full, to=inner)
    weights = ctx.op("softmax", x, axis=_LAST)
    weights = weights if inner == dtype else ctx.op("cast", weights, to=dtype)
    if bias is None:
        return weights
    most = ctx.op("reduce", bias, op="max", axes=(bias.rank - 1,), keepdims=True)
    shut = ctx.op("equal", most, ctx.like(-math.inf, most))
    return ctx.op("where", shut, ctx.like(0, weights), weights)


@onnx_op("FlexAttention", 1, domain="ai.onnx.preview")
def flex_attention(ctx: NodeContext) -> Value:
    """Attention whose scores and weights pass through bodies, in the type ``softmax_precision``."""
    q, k, v = (ctx.value(n) for n in range(3))
    number = ctx.attr("softmax_precision", None)
    default = "float64" if q.dtype == "float64" else "float32"
    inner = default if number is None else dtype_name(int(number), "softmax_precision", ctx.where)
    if not dt.is_float(inner):
        ctx.fail(f"softmax_precision {inner} is no type of floats")
    require_heads(ctx, q, k, v)
    given = float(ctx.attr("scale", math.nan))
    x = scores(ctx, q, k, scale_of(ctx, q) if math.isnan(given) else given)
    x = _modified(ctx, "score_mod", x if x.dtype == inner else ctx.op("cast", x, to=inner))
    x = _modified(ctx, "prob_mod", ctx.op("softmax", x, axis=_LAST))
    return weighted(ctx, x if x.dtype == q.dtype else ctx.op("cast", x, to=q.dtype), v)


def _modified(ctx: NodeContext, name: str, x: Value) -> Value:
    """``x`` through the body in an attribute, if there is one."""
    body = ctx.attr(name, None)
    if body is None:
        return x
    results = ctx.bodies.inline(body, [x])
    if len(results) != 1 or results[0].type != x.type:
        ctx.fail(f"{name} must make one tensor of type {x.type} from one")
    return results[0]
