"""One step of the optimizers of ai.onnx.preview.training, each for any number of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value

DOMAIN: Final = "ai.onnx.preview.training"
#: (tensor, gradient, states) -> new tensor and states.
_Step = Callable[..., Sequence[Value]]


def _each(ctx: NodeContext, states: int, step: _Step) -> list[Value]:
    """``step`` of every tensor. Inputs and outputs stand kind by kind: all tensors, all gradients, ..."""
    kinds = states + 2
    count = (len(ctx.inputs) - 2) // kinds
    if count < 1 or len(ctx.inputs) != 2 + kinds * count:
        ctx.fail(f"{len(ctx.inputs)} inputs are not a rate, a count and groups of {kinds} tensors")
    operands = [[ctx.value(2 + kind * count + n) for kind in range(kinds)] for n in range(count)]
    results = [step(*group) for group in operands]
    return [result[kind] for kind in range(states + 1) for result in results]


def _scaled(ctx: NodeContext, x: Value, factor: float) -> Value:
    return ctx.op("mul", x, ctx.like(factor, x))


def _decayed(ctx: NodeContext, x: Value, g: Value, name: str = "norm_coefficient") -> Value:
    """The gradient with that of ``coefficient / 2 * |x| ** 2``."""
    factor = float(ctx.attr(name, 0.0))
    return ctx.op("add", g, _scaled(ctx, x, factor)) if factor else g


def _as(ctx: NodeContext, x: Value, dtype: str) -> Value:
    return x if x.dtype == dtype else ctx.op("cast", x, to=dtype)


@onnx_op("Adagrad", 1, domain=DOMAIN)
def adagrad(ctx: NodeContext) -> list[Value]:
    """Rates that fall with the sum of squared gradients, and with the count of steps."""
    decay, epsilon = float(ctx.attr("decay_factor", 0.0)), float(ctx.attr("epsilon", 0.0))

    def step(x: Value, g: Value, h: Value) -> Sequence[Value]:
        rate, count = _as(ctx, ctx.value(0), x.dtype), _as(ctx, ctx.value(1), x.dtype)
        rate = ctx.op("div", rate, ctx.op("add", _scaled(ctx, count, decay), ctx.like(1.0, x)))
        g = _decayed(ctx, x, g)
        h = ctx.op("add", h, ctx.op("mul", g, g))
        down = ctx.op("add", ctx.op("sqrt", h), ctx.like(epsilon, x))
        return ctx.op("sub", x, ctx.op("div", ctx.op("mul", rate, g), down)), h

    return _each(ctx, 1, step)


@onnx_op("Adam", 1, domain=DOMAIN)
def adam(ctx: NodeContext) -> list[Value]:
    """With the bias of both averages corrected after the first step."""
    alpha, beta = float(ctx.attr("alpha", 0.9)), float(ctx.attr("beta", 0.999))
    epsilon = float(ctx.attr("epsilon", 0.0))

    def step(x: Value, g: Value, v: Value, h: Value) -> Sequence[Value]:
        rate, count = _as(ctx, ctx.value(0), x.dtype), _as(ctx, ctx.value(1), x.dtype)
        g = _decayed(ctx, x, g)
        v = ctx.op("add", _scaled(ctx, v, alpha), _scaled(ctx, g, 1 - alpha))
        h = ctx.op("add", _scaled(ctx, h, beta), _scaled(ctx, ctx.op("mul", g, g), 1 - beta))
        left = [ctx.op("sub", ctx.like(1, x), ctx.op("pow", ctx.like(b, x), count)) for b in (alpha, beta)]
        corrected = ctx.op("div", ctx.op("mul", rate, ctx.op("sqrt", left[1])), left[0])
        first = ctx.op("equal", count, ctx.like(0, x))
        rate = ctx.op("where", first, rate, corrected)
        down = ctx.op("add", ctx.op("sqrt", h), ctx.like(epsilon, x))
        fresh = ctx.op("sub", x, ctx.op("div", ctx.op("mul", rate, v), down))
        return _scaled(ctx, fresh, 1 - float(ctx.attr("norm_coefficient_post", 0.0))), v, h

    return _each(ctx, 2, step)


@onnx_op("Momentum", 1, domain=DOMAIN)
def momentum(ctx: NodeContext) -> list[Value]:
    """Standard or Nesterov's."""
    alpha, beta = float(ctx.attr("alpha")), float(ctx.attr("beta"))

    def step(x: Value, g: Value, v: Value) -> Sequence[Value]:
        rate, count = _as(ctx, ctx.value(0), x.dtype), ctx.value(1)
        g = _decayed(ctx, x, g)
        later = ctx.op("less", ctx.like(0, count), count)
        weight = ctx.op("where", later, ctx.like(beta, x), ctx.like(1.0, x))
        v = ctx.op("add", _scaled(ctx, v, alpha), ctx.op("mul", weight, g))
        along = ctx.op("add", g, _scaled(ctx, v, alpha)) if ctx.attr("mode") == "nesterov" else v
        return ctx.op("sub", x, ctx.op("mul", rate, along)), v

    return _each(ctx, 1, step)
