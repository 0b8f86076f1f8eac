"""Rotary position embeddings of the standard and of com.microsoft."""

from __future__ import annotations

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.attention import (
    fixed_dim,
    merge_heads,
    places,
    split_heads,
    split_last,
)
from tilewright.frontend.onnx.handlers.microsoft import DOMAIN
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value


def rotated(ctx: NodeContext, x: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    """The pairs of the first features of ``x``, ``[B, N, S, H]``, turned by angles.

    ``cos`` and ``sin`` are ``[B, S, R / 2]``. The ``R`` features are pairs side by side (``interleaved``), or
    the first half with the second; those behind stay as they are.
    """
    half = fixed_dim(ctx, cos, 2, "the number of angles")
    size = fixed_dim(ctx, x, 3, "the size of a head")
    if 2 * half > size:
        ctx.fail(f"{half} angles do not fit heads of {size} features")
    cos, sin = (ctx.reshape(t, [t.shape[0], 1, *t.shape[1:]]) for t in (cos, sin))
    rest: tuple[Value, ...] = ()
    if 2 * half < size:
        x, *others = split_last(ctx, x, (2 * half, size - 2 * half))
        rest = tuple(others)
    if interleaved:
        pairs = split_last(ctx, ctx.reshape(x, [*x.shape[:3], half, 2]), (1, 1))
        a, b = (ctx.reshape(p, p.shape[:4]) for p in pairs)
    else:
        a, b = split_last(ctx, x, (half, half))
    left = ctx.op("sub", ctx.op("mul", a, cos), ctx.op("mul", b, sin))
    right = ctx.op("add", ctx.op("mul", a, sin), ctx.op("mul", b, cos))
    if not interleaved:
        return ctx.op("concat", left, right, *rest, axis=3)
    parts = [ctx.reshape(p, [*p.shape, 1]) for p in (left, right)]
    y = ctx.reshape(ctx.op("concat", *parts, axis=4), x.shape)
    return ctx.op("concat", y, *rest, axis=3) if rest else y


def interleaved(ctx: NodeContext, name: str) -> bool:
    """The attribute that says whether pairs stand side by side. Other numbers than 0 and 1 mean one thing to
    some implementations and another to others."""
    value = ctx.attr(name, 0)
    if value not in (0, 1):
        ctx.fail(f"{name} is 0 or 1, not {value}")
    return bool(value)


def angles_at(ctx: NodeContext, table: Value, positions: Value) -> Value:
    """The rows of a table ``[P, R / 2]`` at positions ``[B, S]``."""
    return ctx.op("gather", table, positions, axis=0)


@onnx_op("RotaryEmbedding", 23)
def rotary_embedding(ctx: NodeContext) -> Value:
    """Pairs of features turned by angles that grow with the position; the caches hold cosines and sines, for
    all positions or for those of the input.
    """
    x, cos, sin = (ctx.value(n) for n in range(3))
    if ctx.has(3):
        cos, sin = (angles_at(ctx, table, ctx.value(3)) for table in (cos, sin))
    if cos.rank != 3:
        ctx.fail(f"the cosines are [B, S, angles] without positions, not {ctx.value(1).type}")
    flat = x.rank == 3
    if flat:
        x = split_heads(ctx, x, int(ctx.attr("num_heads", 0)))
    turned = int(ctx.attr("rotary_embedding_dim", 0)) or fixed_dim(ctx, x, 3, "the size of a head")
    if turned != 2 * fixed_dim(ctx, cos, 2, "the number of angles"):
        ctx.fail(f"{turned} features are turned, but the cosines are {cos.type}")
    y = rotated(ctx, x, cos, sin, interleaved(ctx, "interleaved"))
    return merge_heads(ctx, y) if flat else y


@onnx_op("RotaryEmbedding", 1, domain=DOMAIN, limits="no packed batches")
def rotary_embedding_microsoft(ctx: NodeContext) -> Value:
    """As the standard's, with the positions before the tables: of each element, or of the first."""
    x, positions, cos, sin = (ctx.value(n) for n in range(4))
    if ctx.attr("is_packed_batching", 0):
        ctx.unsupported("packed batches are not supported")
    half = fixed_dim(ctx, cos, 1, "the number of angles")
    flat = x.rank == 3
    if flat:
        width = fixed_dim(ctx, x, 2, "the width of the input")
        x = split_heads(ctx, x, int(ctx.attr("num_heads", 0)) or width // (2 * half))
    if positions.rank == 1:  # the first position; the others follow
        steps = x.shape[2]
        first = ctx.op("cast", ctx.reshape(positions, [1, 1]), to="int64")
        positions = ctx.op("add", first, places(ctx, 0, steps, [1, steps]))
    cos, sin = (angles_at(ctx, table, positions) for table in (cos, sin))
    scale = float(ctx.attr("scale", 1.0))
    if scale != 1.0:
        cos, sin = (ctx.op("mul", table, ctx.like(scale, table)) for table in (cos, sin))
    y = rotated(ctx, x, cos, sin, interleaved(ctx, "interleaved"))
    return merge_heads(ctx, y) if flat else y
