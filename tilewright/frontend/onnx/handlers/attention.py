"""Attention and rotary embeddings of the domain com.microsoft.

The standard's own Attention and RotaryEmbedding are expanded through their function bodies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.microsoft import DOMAIN
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.expr import as_expr


def _heads(ctx: NodeContext, x: Value, count: int) -> Value:
    """``[B, S, N * H]`` as ``[B, N, S, H]``."""
    batch, steps, width = ctx.static_dims(x, "the operands of an attention")
    if width % count:
        ctx.fail(f"{width} features cannot be split into {count} heads")
    return ctx.op("transpose", ctx.reshape(x, [batch, steps, count, width // count]), perm=(0, 2, 1, 3))


def _merged(ctx: NodeContext, x: Value) -> Value:
    """``[B, N, S, H]`` as ``[B, S, N * H]``."""
    batch, count, steps, width = x.shape
    return ctx.reshape(ctx.op("transpose", x, perm=(0, 2, 1, 3)), [batch, steps, count * width])


def _attend(ctx: NodeContext, q: Value, k: Value, v: Value, masks: Sequence[Value], causal: bool) -> Value:
    """softmax(q @ k^T * scale + masks) @ v over ``[B, N, S, H]``; ``masks`` are added.

    With ``causal`` the last query sees all keys, each one before it one key less.
    """
    given = float(ctx.attr("scale", 0.0))
    scale = given or 1 / math.sqrt(ctx.static_dims(q, "the queries")[3])
    scores = ctx.op("matmul", ctx.op("mul", q, ctx.like(scale, q)), ctx.op("transpose", k, perm=(0, 1, 3, 2)))
    for mask in masks:
        scores = ctx.op("add", scores, mask)
    if causal:
        rows, columns = ctx.static_dims(scores, "the scores")[2:]
        seen = np.tril(np.ones((rows, columns), bool), columns - rows)
        scores = ctx.op("where", ctx.constant(seen, "bool"), scores, ctx.like(float("-inf"), scores))
    return ctx.op("matmul", ctx.op("softmax", scores, axis=3), v)


def _key_mask(ctx: NodeContext, mask: Value, keys: int, like: Value) -> Value:
    """What to add to the scores for keys that do not count.

    ``mask`` holds 1 for keys that count, ``[B, T]`` or ``[B, S, T]`` (or ``[B, 1, M, M]``), or ``[B]``, how
    many do.
    """
    out = ctx.like(float(ctx.attr("mask_filter_value", -10000.0)), like)
    if mask.rank == 1:
        places = ctx.constant(np.arange(keys), mask.dtype)
        counts = ctx.op("less", places, ctx.reshape(mask, [mask.shape[0], as_expr(1)]))
    elif mask.rank in (2, 3):
        counts = ctx.op("less", ctx.like(0, mask), mask)
    else:
        return ctx.unsupported(f"a mask of type {mask.type} is not supported")
    dims = counts.shape
    shape = (
        [dims[0], as_expr(1), as_expr(1), dims[1]] if counts.rank == 2 else [dims[0], as_expr(1), *dims[1:]]
    )
    return ctx.reshape(ctx.op("where", counts, ctx.like(0, like), out), shape)


@onnx_op("Attention", 1, domain=DOMAIN, limits="no rotary embedding, no shared cache")
def attention(ctx: NodeContext) -> Sequence[Value | None]:
    """Self-attention from the projection on: one matrix makes queries, keys and values."""
    x, weights, count = ctx.value(0), ctx.value(1), int(ctx.attr("num_heads"))
    if ctx.attr("do_rotary", 0) or ctx.attr("past_present_share_buffer", 0):
        ctx.unsupported("rotary embeddings and shared caches inside Attention are not supported")
    total = ctx.static_dims(weights, "the weights")[1]
    sizes = tuple(int(s) for s in ctx.attr("qkv_hidden_sizes", ())) or (total // 3,) * 3
    y = ctx.op("matmul", x, weights)
    if ctx.has(2):
        y = ctx.op("add", y, ctx.value(2))
    q, k, v = (_heads(ctx, part, count) for part in ctx.emit("split", [y], axis=2, sizes=sizes))
    present = None
    if ctx.has(4):
        old = ctx.emit("split", [ctx.value(4)], axis=0, sizes=(1, 1))
        past = [ctx.reshape(p, p.shape[1:]) for p in old]
        k, v = (ctx.op("concat", p, n, axis=2) for p, n in zip(past, (k, v), strict=True))
    if ctx.wants_output(1):
        present = ctx.op("concat", *(ctx.reshape(p, [as_expr(1), *p.shape]) for p in (k, v)), axis=0)
    masks = []
    if ctx.has(3):
        masks.append(_key_mask(ctx, ctx.value(3), ctx.static_dims(k, "the keys")[2], q))
    if ctx.has(5):
        masks.append(ctx.value(5))
    result = _attend(ctx, q, k, v, masks, bool(ctx.attr("unidirectional", 0)))
    return [_merged(ctx, result), present]


@onnx_op("MultiHeadAttention", 1, domain=DOMAIN, limits="no packed operands, no cache of fixed length")
def multi_head_attention(ctx: NodeContext) -> Sequence[Value | None]:
    """Attention after the projections: operands ``[B, S, N * H]``, or keys and values as heads already."""
    query, count = ctx.value(0), int(ctx.attr("num_heads"))
    if query.rank != 3 or not ctx.has(1) or not ctx.has(2):
        ctx.unsupported("packed queries, keys and values are not supported")
    if ctx.has(8) or ctx.has(9):
        ctx.unsupported("caches of a fixed length are not supported")
    operands = [ctx.value(n) for n in range(3)]
    if ctx.has(3):
        widths = tuple(ctx.static_dims(o, "the operands")[-1] * (o.rank == 3) for o in operands)
        biases = ctx.emit("split", [ctx.value(3)], axis=0, sizes=widths)
        operands = [ctx.op("add", o, b) if o.rank == 3 else o for o, b in zip(operands, biases, strict=True)]
    q, k, v = (_heads(ctx, o, count) if o.rank == 3 else o for o in operands)
    if ctx.has(6):
        k = ctx.op("concat", ctx.value(6), k, axis=2)
        v = ctx.op("concat", ctx.value(7), v, axis=2)
    masks = []
    if ctx.has(4):
        masks.append(_key_mask(ctx, ctx.value(4), ctx.static_dims(k, "the keys")[2], q))
    if ctx.has(5):
        masks.append(ctx.value(5))
    result = _attend(ctx, q, k, v, masks, bool(ctx.attr("unidirectional", 0)))
    return [_merged(ctx, result), k, v]


@onnx_op("RotaryEmbedding", 1, domain=DOMAIN)
def rotary_embedding(ctx: NodeContext) -> Value:
    """Pairs of features turned by angles that grow with the position; the caches hold cosines and sines."""
    x, places, cos, sin = (ctx.value(n) for n in range(4))
    half = ctx.static_dims(cos, "the cosines")[1]
    flat = x.rank == 3
    if flat:
        width = ctx.static_dims(x, "the input")[2]
        count = int(ctx.attr("num_heads", 0)) or width // (
            int(ctx.attr("rotary_embedding_dim", 0)) or 2 * half
        )
        x = _heads(ctx, x, count)
    size, turned = ctx.static_dims(x, "the input")[3], 2 * half
    steps = x.shape[2]
    if places.rank == 1:  # the first position; the others follow
        length = ctx.static_dims(x, "the input")[2]
        places = ctx.op(
            "add", ctx.reshape(places, [1, 1]), ctx.constant(np.arange(length)[None], places.dtype)
        )
    tables = [ctx.op("gather", table, places, axis=0) for table in (cos, sin)]
    cos, sin = (ctx.reshape(t, [t.shape[0], as_expr(1), steps, as_expr(half)]) for t in tables)
    rest: tuple[Value, ...] = ()
    if turned < size:
        x, *others = ctx.emit("split", [x], axis=3, sizes=(turned, size - turned))
        rest = tuple(others)
    if ctx.attr("interleaved", 0):
        pairs = ctx.reshape(x, [*x.shape[:3], half, 2])
        a, b = (ctx.reshape(p, p.shape[:4]) for p in ctx.emit("split", [pairs], axis=4, sizes=(1, 1)))
    else:
        a, b = ctx.emit("split", [x], axis=3, sizes=(half, half))
    left = ctx.op("sub", ctx.op("mul", a, cos), ctx.op("mul", b, sin))
    right = ctx.op("add", ctx.op("mul", a, sin), ctx.op("mul", b, cos))
    if ctx.attr("interleaved", 0):
        parts = [ctx.reshape(p, [*p.shape, as_expr(1)]) for p in (left, right)]
        y = ctx.reshape(ctx.op("concat", *parts, axis=4), x.shape)
    else:
        y = ctx.op("concat", left, right, axis=3)
    y = ctx.op("concat", y, *rest, axis=3) if rest else y
    return _merged(ctx, y) if flat else y
