"""Random numbers (:mod:`tilewright.ops.random` says which), dropout in training, draws from distributions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Value


def _key(ctx: NodeContext) -> tuple[int, int]:
    """The node's key: its seed as float32, or without one a digest of its name."""
    seed = ctx.attr("seed", None)
    if seed is not None:
        return int(np.array(seed, np.float32).view(np.uint32)), 0
    digest = hashlib.sha256(ctx.node.name.encode()).digest()
    return int.from_bytes(digest[:4], "little"), 1


def _random(
    ctx: NodeContext, shape: Sequence[int], dtype: str, distribution: str, a: float, b: float
) -> Value:
    """Uniform from ``a`` to ``b``, or normal with mean ``a`` and deviation ``b``."""
    return ctx.op(
        "random", shape=tuple(shape), dtype=dtype, key=_key(ctx), distribution=distribution, a=a, b=b
    )


def _named_dtype(ctx: NodeContext, default: str) -> str:
    to = ctx.attr("dtype", None)
    return default if to is None else dtype_name(int(to), f"the result of {ctx.node.op_type}", ctx.where)


def _uniform(ctx: NodeContext, shape: Sequence[int], dtype: str) -> Value:
    return _random(ctx, shape, dtype, "uniform", float(ctx.attr("low", 0.0)), float(ctx.attr("high", 1.0)))


def _normal(ctx: NodeContext, shape: Sequence[int], dtype: str) -> Value:
    return _random(ctx, shape, dtype, "normal", float(ctx.attr("mean", 0.0)), float(ctx.attr("scale", 1.0)))


@onnx_op("RandomUniform", 1, 22, limits="the same numbers in every run")
def random_uniform(ctx: NodeContext) -> Value:
    """In a given shape."""
    return _uniform(ctx, ctx.attr("shape"), _named_dtype(ctx, "float32"))


@onnx_op("RandomNormal", 1, 22, limits="the same numbers in every run")
def random_normal(ctx: NodeContext) -> Value:
    """In a given shape."""
    return _normal(ctx, ctx.attr("shape"), _named_dtype(ctx, "float32"))


@onnx_op("RandomUniformLike", 1, 22, limits="the same numbers in every run")
def random_uniform_like(ctx: NodeContext) -> Value:
    """In the shape of the input."""
    return _uniform(ctx, ctx.static_dims(ctx.x, "the input"), _named_dtype(ctx, ctx.x.dtype))


@onnx_op("RandomNormalLike", 1, 22, limits="the same numbers in every run")
def random_normal_like(ctx: NodeContext) -> Value:
    """In the shape of the input."""
    return _normal(ctx, ctx.static_dims(ctx.x, "the input"), _named_dtype(ctx, ctx.x.dtype))


@onnx_op("Bernoulli", 15, 22, limits="the same numbers in every run")
def bernoulli(ctx: NodeContext) -> Value:
    """1 with the probability that the input gives."""
    x = ctx.x
    wide = x if x.dtype in ("float32", "float64") else ctx.op("cast", x, to="float32")
    drawn = _random(ctx, ctx.static_dims(x, "the input"), wide.dtype, "uniform", 0.0, 1.0)
    return ctx.op("cast", ctx.op("less", drawn, wide), to=_named_dtype(ctx, x.dtype))


@onnx_op("Multinomial", 7, 22, limits="the same numbers in every run")
def multinomial(ctx: NodeContext) -> Value:
    """Draws of classes by their unnormalised logarithmic probabilities: the largest after Gumbel noise."""
    x, count = ctx.x, int(ctx.attr("sample_size", 1))
    batch, classes = ctx.static_dims(x, "the input of a Multinomial")
    tiny = float(np.finfo(np.float32).tiny)
    wide = ctx.op("cast", x, to="float32") if x.dtype != "float32" else x
    drawn = _random(ctx, (batch, count, classes), "float32", "uniform", tiny, 1.0)
    noise = ctx.op("neg", ctx.op("log", ctx.op("neg", ctx.op("log", drawn))))
    scores = ctx.op("add", ctx.reshape(wide, [batch, 1, classes]), noise)
    best = ctx.op("argmax", scores, axis=2, keepdims=False)
    to = _named_dtype(ctx, "int32")
    return best if to == "int64" else ctx.op("cast", best, to=to)


@onnx_op("Dropout", 7, 10, 12, 13, 22)
def dropout(ctx: NodeContext) -> list[Value | None]:
    """The identity or, in training mode (since opset 12), zeros with the probability ``ratio``."""
    x = ctx.x
    if ctx.since < 12 or not ctx.has(2) or not bool(ctx.scalar(2, "training_mode")):
        return inference_dropout(ctx)
    ratio = float(ctx.scalar(1, "the ratio of a Dropout")) if ctx.has(1) else 0.5
    if ratio == 0.0:
        return inference_dropout(ctx)
    drawn = _random(ctx, ctx.static_dims(x, "the input of a Dropout"), "float32", "uniform", 0.0, 1.0)
    dropped = ctx.op("less", drawn, ctx.constant(ratio, "float32"))
    scaled = ctx.op("mul", x, ctx.like(1.0 / (1.0 - ratio) if ratio < 1.0 else 0.0, x))
    return [ctx.op("where", dropped, ctx.like(0, x), scaled), ctx.op("not", dropped)]


def inference_dropout(ctx: NodeContext) -> list[Value | None]:
    """The identity and, where the model reads it, a mask of ones."""
    mask = None
    if ctx.wants_output(1):
        one = ctx.constant(1, "bool" if ctx.since >= 10 else ctx.x.dtype)
        mask = ctx.op("expand", one, ctx.op("shape", ctx.x, start=0))
    return [ctx.op("identity", ctx.x), mask]
