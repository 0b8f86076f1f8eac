"""Attention of the domain com.microsoft, as onnxruntime's optimizer and exporters write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ml_dtypes

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.attention import (
    as_bias,
    causal_mask,
    fixed_dim,
    key_places,
    merge_heads,
    places,
    query_places,
    scale_of,
    scores,
    softmax_with_sink,
    split_heads,
    split_last,
    weighted,
    window,
)
from tilewright.frontend.onnx.handlers.microsoft import DOMAIN
from tilewright.frontend.onnx.handlers.rotary import angles_at, interleaved, rotated
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, as_expr, maximum
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import const_int
from tilewright.ops.common import dims_attr

_LAST: Final = 3
_LIMITS: Final = "no beams (cache_indirection), no scores as an output"


def _attend(
    ctx: NodeContext, q: Value, k: Value, v: Value, biases: Sequence[Value | None], keep: Value | None
) -> Value:
    """softmax(q @ k^T * scale + biases) @ v. Keys that ``keep`` leaves out get the lowest number, so that
    rows without any key are averages, as in onnxruntime.
    """
    full = scores(ctx, q, k, scale_of(ctx, q))
    for bias in biases:
        full = full if bias is None else ctx.op("add", full, bias)
    if keep is not None:
        full = ctx.op("where", keep, full, ctx.like(_lowest(full.dtype), full))
    return weighted(ctx, ctx.op("softmax", full, axis=_LAST), v)


def _mask_bias(ctx: NodeContext, mask: Value, batch: Expr, steps: Expr, keys: Expr, dtype: str) -> Value:
    """What to add to the scores for keys that do not count, which broadcasts to ``[B, N, S, T]``.

    ``mask`` holds, for each sample, how many keys count ``[B]``, where those that count end and then where
    they begin ``[2B]``, or lengths and cumulated lengths ``[3B + 2]``; or 1 for keys that count: ``[B, T]``,
    ``[B, S, T]`` or, with rows for all keys, ``[B, 1, M, M]``.
    """
    low = float(ctx.attr("mask_filter_value", -10000.0))
    if mask.rank == 1:
        found = _same(mask.shape[0], 2 * batch), _same(mask.shape[0], 3 * batch + 2)
        ends = window(ctx, mask, 0, 0, batch) if any(found) else mask
        columns = key_places(ctx, keys)
        keep = ctx.op("less", columns, _per_sample(ctx, ends, 2))
        if found[0] and not found[1]:
            starts = _per_sample(ctx, window(ctx, mask, 0, batch, 2 * batch), 2)
            keep = ctx.op("and", keep, ctx.op("less_equal", starts, columns))
        keep = ctx.reshape(keep, [keep.shape[0], 1, 1, keep.shape[1]])
    elif mask.rank in (2, 3, 4):
        if mask.rank == 4:
            mask = window(ctx, window(ctx, mask, 2, keys - steps, keys), 3, 0, keys)
        keep = ctx.op("less", ctx.like(0, mask), mask)
        ones = [1] * (4 - mask.rank)
        keep = ctx.reshape(keep, [mask.shape[0], *ones, *mask.shape[1:]])
    else:
        ctx.fail(f"a mask of type {mask.type} has too many dimensions")
    return as_bias(ctx, keep, dtype, low)


def _lowest(dtype: str) -> float:
    """The least finite number."""
    return float(ml_dtypes.finfo(dt.to_numpy(dtype)).min)


def _same(a: Expr, b: Expr) -> bool:
    return simplify(a) is simplify(b)


def _per_sample(ctx: NodeContext, numbers: Value, rank: int) -> Value:
    """One int64 a sample, ``[B, 1, ...]``."""
    wide = ctx.op("cast", numbers, to="int64")
    return ctx.reshape(wide, [wide.shape[0], *[1] * (rank - 1)])


def _known(ctx: NodeContext, index: int, what: str) -> Expr:
    """An input of one integer that the shapes decide, as an expression."""
    exprs = ctx.builder.exprs(ctx.value(index))
    if exprs is not None and exprs.size == 1:
        return as_expr(exprs.reshape(-1)[0])
    return as_expr(int(ctx.require_data(index, what).reshape(-1)[0]))


def _refuse_output(ctx: NodeContext, index: int) -> None:
    if ctx.wants_output(index):
        ctx.unsupported("the scores as an output are not supported")


# ------------------------------------------------------------------------------------------------- projecting
@onnx_op("Attention", 1, domain=DOMAIN, limits="no rotary embedding, no shared cache")
def attention(ctx: NodeContext) -> Sequence[Value | None]:
    """Self-attention from the projection on: one matrix makes queries, keys and values."""
    x, weights, count = ctx.value(0), ctx.value(1), int(ctx.attr("num_heads"))
    if ctx.attr("do_rotary", 0) or ctx.attr("past_present_share_buffer", 0) or ctx.has(6):
        ctx.unsupported("rotary embeddings and shared caches inside Attention are not supported")
    total = fixed_dim(ctx, weights, 1, "the weights of an attention")
    sizes = tuple(int(s) for s in ctx.attr("qkv_hidden_sizes", ())) or (total // 3,) * 3
    if len(sizes) != 3 or sum(sizes) != total:
        ctx.fail(f"{total} columns of weights are not {sizes} for queries, keys and values")
    y = ctx.op("matmul", x, weights)
    if ctx.has(2):
        y = ctx.op("add", y, ctx.value(2))
    q, k, v = (split_heads(ctx, part, count) for part in split_last(ctx, y, sizes))
    if ctx.has(4):
        old = ctx.emit("split", [ctx.value(4)], axis=0, sizes=(1, 1))
        past = [ctx.reshape(p, p.shape[1:]) for p in old]
        k, v = (ctx.op("concat", p, n, axis=2) for p, n in zip(past, (k, v), strict=True))
    present = None
    if ctx.wants_output(1):
        present = ctx.op("concat", *(ctx.reshape(p, [1, *p.shape]) for p in (k, v)), axis=0)
    batch, _, steps, _ = q.shape
    keys = k.shape[2]
    mask = _mask_bias(ctx, ctx.value(3), batch, steps, keys, q.dtype) if ctx.has(3) else None
    keep = causal_mask(ctx, steps, keys, keys - steps) if ctx.attr("unidirectional", 0) else None
    return [merge_heads(ctx, _attend(ctx, q, k, v, (mask, ctx.optional(5)), keep)), present]


# ------------------------------------------------------------------------------------------ after projections
@onnx_op("MultiHeadAttention", 1, domain=DOMAIN, limits=_LIMITS)
def multi_head_attention(ctx: NodeContext) -> Sequence[Value | None]:
    """Attention after the projections: operands ``[B, S, N * H]``, packed into one or two tensors, or keys
    and values as heads already; caches that grow, or of a fixed length.
    """
    _refuse_output(ctx, 3)
    return _multi_head(ctx, bias=3, mask=4, added=5, past=6, length=8, beams=9)


@onnx_op("DecoderMaskedMultiHeadAttention", 1, domain=DOMAIN, limits=_LIMITS)
def decoder_masked_multi_head_attention(ctx: NodeContext) -> Sequence[Value | None]:
    """One step of a decoder: as MultiHeadAttention for one query."""
    _refuse_output(ctx, 3)
    return _multi_head(ctx, bias=10, mask=3, added=4, past=5, length=7, beams=9)


def _multi_head(
    ctx: NodeContext, *, bias: int, mask: int, added: int, past: int, length: int, beams: int
) -> Sequence[Value | None]:
    """Attention whose operands stand at these indices."""
    if ctx.has(beams):
        ctx.unsupported("caches of several beams (cache_indirection) are not supported")
    count = int(ctx.attr("num_heads"))
    q, k, v = _biased(ctx, _unpacked(ctx), bias)
    steps = q.shape[1]
    q, k, v = (split_heads(ctx, x, count) if x.rank == 3 else x for x in (q, k, v))
    batch = q.shape[0]
    keep: Value | None = None
    outputs = (k, v)
    if ctx.has(past) != ctx.has(past + 1):
        ctx.fail("past keys and values come together")
    if ctx.has(past) and ctx.has(length):
        k, v, outputs, keep = _in_buffers(ctx, k, v, past, length)
    elif ctx.has(past):
        k, v = (ctx.op("concat", ctx.value(past + n), x, axis=2) for n, x in enumerate((k, v)))
        outputs = (k, v)
    keys = k.shape[2]
    masking = _mask_bias(ctx, ctx.value(mask), batch, steps, keys, q.dtype) if ctx.has(mask) else None
    if ctx.attr("unidirectional", 0):
        if keep is not None:
            ctx.unsupported("unidirectional with a cache of fixed length is not supported")
        keep = causal_mask(ctx, steps, keys, keys - steps)
    y = _attend(ctx, q, k, v, (masking, ctx.optional(added)), keep)
    return [merge_heads(ctx, y), *outputs]


def _unpacked(ctx: NodeContext) -> list[Value]:
    """Queries, keys and values, of rank 3 or, keys and values only, as heads."""
    first = ctx.value(0)
    if not ctx.has(1) and not ctx.has(2):
        return _packed_parts(ctx, first, 3)
    if not ctx.has(2):
        return [first, *_packed_parts(ctx, ctx.value(1), 2)]
    operands = [ctx.value(n) for n in range(3)]
    if operands[0].rank != 3 or any(o.rank not in (3, 4) for o in operands):
        ctx.fail("queries are of rank 3, keys and values of rank 3 or 4 (or packed)")
    return operands


def _packed_parts(ctx: NodeContext, x: Value, count: int) -> list[Value]:
    """``[B, S, N, count, H]`` as ``count`` tensors ``[B, S, N * H]``."""
    if x.rank != 5:
        ctx.fail(f"packed operands are of rank 5, not {x.type}")
    parts = ctx.emit("split", [x], axis=3, sizes=(1,) * count)
    return [ctx.reshape(p, [x.shape[0], x.shape[1], x.shape[2] * x.shape[4]]) for p in parts]


def _biased(ctx: NodeContext, operands: list[Value], index: int) -> list[Value]:
    """Operands plus their parts of the bias, which does not count for keys and values that are heads."""
    if not ctx.has(index):
        return operands
    widths = []
    for x in operands:
        width = x.shape[2] if x.rank == 3 else x.shape[1] * x.shape[3]
        widths.append(const_int(simplify(width)) or ctx.unsupported(f"the width of {x.type} must be known"))
    parts = split_last(ctx, ctx.value(index), widths)
    return [ctx.op("add", x, b) if x.rank == 3 else x for x, b in zip(operands, parts, strict=True)]


def _in_buffers(
    ctx: NodeContext, k: Value, v: Value, past: int, length: int
) -> tuple[Value, Value, tuple[Value, Value], Value | None]:
    """Keys and values after what caches of a fixed length hold by now; the new caches; and which keys count.

    How much the caches hold is one number for all samples.
    """
    steps, batch = k.shape[2], k.shape[0]
    filled = ctx.op("cast", ctx.reshape(ctx.value(length), [1]), to="int64")
    starts = ctx.op("expand", filled, shape=dims_attr((batch,)))
    present = tuple(
        ctx.op("append_to_cache", c, x, starts, length=dims_attr((c.shape[2],))[0])
        for c, x in ((ctx.value(past), k), (ctx.value(past + 1), v))
    )
    exprs = ctx.builder.exprs(ctx.value(length))
    if exprs is not None:
        end = as_expr(exprs.reshape(-1)[0]) + steps
        k, v = (window(ctx, x, 2, 0, end) for x in present)
        return k, v, (present[0], present[1]), None
    limit = ctx.op("add", filled, places(ctx, steps, steps + 1, [1]))
    keep = ctx.op("less", key_places(ctx, present[0].shape[2]), ctx.reshape(limit, [1, 1]))
    return present[0], present[1], (present[0], present[1]), keep


# ---------------------------------------------------------------------------------------------- grouped heads
@onnx_op("GroupQueryAttention", 1, domain=DOMAIN, limits="no quantized cache, no scores as an output")
def group_query_attention(ctx: NodeContext) -> Sequence[Value | None]:
    """Causal attention of language models: several heads of queries share one of keys, each sample has as
    many keys as ``seqlens_k`` says (less one), positions may be turned inside.

    The caches have room for at least ``total_sequence_length`` keys; what is behind those of a sample is what
    was there before.
    """
    _refuse_output(ctx, 3)
    if ctx.has(12) or ctx.has(13) or ctx.attr("kv_cache_bit_width", 0):
        ctx.unsupported("quantized caches are not supported")
    q, k, v = _grouped_heads(ctx)
    batch, _, steps, _ = q.shape
    total = simplify(_known(ctx, 6, "the total sequence length"))
    lengths = ctx.op("cast", ctx.reshape(ctx.value(5), [batch]), to="int64")
    # Without a past the prompt may be longer than a sample: then it is filled up behind.
    starts = ctx.op("sub", lengths, places(ctx, steps - 1, steps, [1]))
    starts = ctx.op("maximum", starts, ctx.constant(0, "int64"))
    if ctx.attr("do_rotary", 0):
        turned = interleaved(ctx, "rotary_interleaved")
        if ctx.has(9):
            positions = ctx.value(9)
        else:
            first = ctx.reshape(starts, [batch, 1])
            positions = ctx.op("add", first, places(ctx, 0, steps, [1, steps]))
        cos, sin = (angles_at(ctx, ctx.value(n), positions) for n in (7, 8))
        q, k = (rotated(ctx, x, cos, sin, turned) for x in (q, k))
    present = []
    for index, x in ((3, k), (4, v)):
        past = ctx.optional(index)
        room = total if past is None else simplify(maximum(past.shape[2], total))
        present.append(ctx.op("append_to_cache", past, x, starts, length=dims_attr((room,))[0]))
    k, v = (window(ctx, x, 2, 0, total) for x in present)
    keep = causal_mask(ctx, steps, total, starts)
    local = int(ctx.attr("local_window_size", -1))
    if local > 0:
        nearest = ctx.op("sub", query_places(ctx, steps, starts), ctx.constant(local, "int64"))
        keep = ctx.op("and", keep, ctx.op("less", nearest, key_places(ctx, total)))
    full = scores(ctx, q, k, scale_of(ctx, q), float(ctx.attr("softcap", 0.0)))
    if ctx.has(10):
        full = ctx.op("add", full, window(ctx, ctx.value(10), _LAST, 0, total))
    full = ctx.op("where", keep, full, ctx.like(_lowest(full.dtype), full))
    if ctx.has(11):
        sink = ctx.reshape(ctx.value(11), [1, q.shape[1], 1, 1])
        weights = softmax_with_sink(ctx, full, sink)
    elif int(ctx.attr("smooth_softmax", 0)) > 0:
        weights = softmax_with_sink(ctx, full, ctx.like(0, full))
    else:
        weights = ctx.op("softmax", full, axis=_LAST)
    return [merge_heads(ctx, weighted(ctx, weights, v)), *present]


def _grouped_heads(ctx: NodeContext) -> list[Value]:
    """Queries, keys and values as heads; they may stand side by side in one tensor."""
    count, shared = int(ctx.attr("num_heads")), int(ctx.attr("kv_num_heads"))
    x = ctx.value(0)
    if ctx.has(1):
        parts: Sequence[Value] = [x, ctx.value(1), ctx.value(2)]
    else:
        width = fixed_dim(ctx, x, 2, "the width of an attention's operands")
        if width % (count + 2 * shared):
            ctx.fail(f"{width} features are not {count} + 2 * {shared} heads")
        size = width // (count + 2 * shared)
        parts = split_last(ctx, x, (count * size, shared * size, shared * size))
    return [split_heads(ctx, p, n) for p, n in zip(parts, (count, shared, shared), strict=True)]
