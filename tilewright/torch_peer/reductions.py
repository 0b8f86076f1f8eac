"""Reductions, softmax and normalisations in torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from tilewright.graph.opdef import OpContext
from tilewright.ir import dtype as dt
from tilewright.torch_peer.registry import MAKERS, Call, Maker, axis_of, dims, makes, numbers, steering


@makes("reduce")
def _reduce(ctx: OpContext) -> Call:
    op, keep, rank = ctx.attr("op"), bool(ctx.attr("keepdims", True)), ctx.input(0).rank
    given = steering(ctx, "axes")
    axes = tuple(range(rank)) if given is None else tuple(sorted(a % rank for a in numbers(given)))
    if not axes:
        return lambda x: x
    if op == "prod":
        return lambda x: _product(x, axes, keep)
    if op in ("max", "min"):
        extreme = torch.amax if op == "max" else torch.amin
        return lambda x: extreme(x, axes, keep)
    if op == "mean" and not dt.is_float(ctx.input(0).dtype):
        count = math.prod(dims(ctx)[a] for a in axes)
        return lambda x: torch.div(torch.sum(x, axes, keep, dtype=x.dtype), count, rounding_mode="floor")
    total = torch.mean if op == "mean" else torch.sum
    return lambda x: total(x, axes, keep, dtype=x.dtype)


def _product(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in reversed(axes):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


@makes("softmax")
def _softmax(ctx: OpContext) -> Call:
    axis = axis_of(ctx)
    return lambda x: torch.softmax(x, axis)


@makes("log_softmax")
def _log_softmax(ctx: OpContext) -> Call:
    axis = axis_of(ctx)
    return lambda x: torch.log_softmax(x, axis)


def _arg(function: Call) -> Maker:
    def maker(ctx: OpContext) -> Call:
        axis, keep = axis_of(ctx), bool(ctx.attr("keepdims", True))
        if not ctx.attr("select_last", False):
            return lambda x: function(x, axis, keep)
        last = dims(ctx)[axis] - 1
        return lambda x: last - function(x.flip(axis), axis, keep)

    return maker


MAKERS.update(argmax=_arg(torch.argmax), argmin=_arg(torch.argmin))


@makes("cumsum")
def _cumsum(ctx: OpContext) -> Call:
    axis = axis_of(ctx)
    exclusive, reverse = bool(ctx.attr("exclusive", False)), bool(ctx.attr("reverse", False))

    def call(x: torch.Tensor) -> torch.Tensor:
        x = x.flip(axis) if reverse else x
        total = torch.cumsum(x, axis, dtype=x.dtype)
        if exclusive and x.shape[axis]:
            zero = torch.zeros_like(x.narrow(axis, 0, 1))
            total = torch.cat([zero, total.narrow(axis, 0, x.shape[axis] - 1)], axis)
        return total.flip(axis) if reverse else total

    return call


# -------------------------------------------------------------------------------------------- normalisations
@makes("batch_norm")
def _batch_norm(ctx: OpContext) -> Call:
    epsilon = float(ctx.attr("epsilon", 1e-5))
    return lambda x, scale, bias, mean, var: F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


@makes("layer_norm", "rms_norm")
def _trailing_norm(ctx: OpContext) -> Call:
    """Over the dimensions from ``axis`` on. The fused forms take scale and bias of just that shape."""
    shape = dims(ctx)[axis_of(ctx, -1) :]
    epsilon, centre = float(ctx.attr("epsilon", 1e-5)), ctx.has_input(1) or ctx.has_input(2)
    fits = not centre or all(dims(ctx, n) == shape for n in (1, 2) if ctx.has_input(n))
    if ctx.node is not None and ctx.node.op == "rms_norm":
        if fits and not ctx.has_input(2):
            return lambda x, scale=None: F.rms_norm(x, shape, scale, epsilon)
        return lambda x, scale=None, bias=None: _affine(F.rms_norm(x, shape, None, epsilon), scale, bias)
    if fits:
        return lambda x, scale=None, bias=None: F.layer_norm(x, shape, scale, bias, epsilon)
    return lambda x, scale=None, bias=None: _affine(F.layer_norm(x, shape, None, None, epsilon), scale, bias)


def _affine(x: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    x = x if scale is None else x * scale
    return x if bias is None else x + bias


@makes("group_norm")
def _group_norm(ctx: OpContext) -> Call:
    epsilon = float(ctx.attr("epsilon", 1e-5))
    groups = int(ctx.attr("groups", 0)) or dims(ctx)[1]  # 0: one for each channel
    return lambda x, scale=None, bias=None: torch.group_norm(x, groups, scale, bias, epsilon)


@makes("lrn")
def _lrn(ctx: OpContext) -> Call:
    size = int(ctx.attr("size"))
    rest = tuple(float(ctx.attr(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    if size % 2:
        return lambda x: F.local_response_norm(x, size, *rest)
    # Of an even number of neighbours torch puts the odd one before the channel, ONNX after it.
    return lambda x: F.local_response_norm(x.flip(1), size, *rest).flip(1)
