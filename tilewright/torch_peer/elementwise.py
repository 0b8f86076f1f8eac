"""Elementwise operators in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F

from tilewright.graph.opdef import OpContext
from tilewright.ir import dtype as dt
from tilewright.ops.activation import SELU_ALPHA, SELU_GAMMA
from tilewright.torch_peer.registry import MAKERS, Call, Maker, dims, makes, torch_dtype

_SAME_IN_TORCH: Final[dict[str, Call]] = {
    "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "exp": torch.exp, "log": torch.log,
    "sqrt": torch.sqrt, "reciprocal": torch.reciprocal, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "asin": torch.asin,
    "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "asinh": torch.asinh,
    "acosh": torch.acosh, "atanh": torch.atanh, "tanh": torch.tanh, "erf": torch.erf, "isnan": torch.isnan,
    "not": torch.logical_not, "bitwise_not": torch.bitwise_not, "identity": lambda x: x,
    "relu": torch.relu, "sigmoid": torch.sigmoid, "hard_swish": F.hardswish, "softplus": F.softplus,
    "softsign": F.softsign, "mish": F.mish,
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "mod": torch.remainder, "fmod": torch.fmod,
    "minimum": torch.minimum, "maximum": torch.maximum, "pow": torch.pow,
    "and": torch.logical_and, "or": torch.logical_or, "xor": torch.logical_xor,
    "bitwise_and": torch.bitwise_and, "bitwise_or": torch.bitwise_or, "bitwise_xor": torch.bitwise_xor,
    "shift_left": torch.bitwise_left_shift, "shift_right": torch.bitwise_right_shift,
    "equal": torch.eq, "less": torch.lt, "less_equal": torch.le, "where": torch.where,
}  # fmt: skip


def _constantly(call: Call) -> Maker:
    return lambda ctx: call


MAKERS.update({name: _constantly(call) for name, call in _SAME_IN_TORCH.items()})


# ------------------------------------------------------------------------------- activations with parameters
def _activation(body: Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]) -> Maker:
    return lambda ctx: lambda x: body(x, ctx.attrs)


def _selu(x: torch.Tensor, attrs: Mapping[str, Any]) -> torch.Tensor:
    if (attrs["alpha"], attrs["gamma"]) == (SELU_ALPHA, SELU_GAMMA):
        return F.selu(x)
    return F.elu(x, attrs["alpha"]) * attrs["gamma"]


def _hard_sigmoid(x: torch.Tensor, attrs: Mapping[str, Any]) -> torch.Tensor:
    if abs(attrs["alpha"] - 1 / 6) < 1e-6 and attrs["beta"] == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * attrs["alpha"] + attrs["beta"], 0.0, 1.0)


def _silu(x: torch.Tensor, attrs: Mapping[str, Any]) -> torch.Tensor:
    return F.silu(x) if attrs["alpha"] == 1 else x * torch.sigmoid(x * attrs["alpha"])


for _name, _body in {
    "leaky_relu": lambda x, a: F.leaky_relu(x, a["alpha"]),
    "thresholded_relu": lambda x, a: F.threshold(x, a["alpha"], 0.0),
    "elu": lambda x, a: F.elu(x, a["alpha"]),
    "celu": lambda x, a: F.celu(x, a["alpha"]),
    "gelu": lambda x, a: F.gelu(x, approximate=a["approximate"]),
    "selu": _selu,
    "hard_sigmoid": _hard_sigmoid,
    "silu": _silu,
}.items():
    MAKERS[_name] = _activation(_body)


@makes("isinf")
def _isinf(ctx: OpContext) -> Call:
    positive, negative = bool(ctx.attr("positive", True)), bool(ctx.attr("negative", True))
    if positive and negative:
        return torch.isinf
    if positive or negative:
        return torch.isposinf if positive else torch.isneginf
    return lambda x: torch.zeros_like(x, dtype=torch.bool)


@makes("prelu")
def _prelu(ctx: OpContext) -> Call:
    """One slope, or one for each channel, is torch's own; other shapes that broadcast are not."""
    shape, slope = dims(ctx), dims(ctx, 1)
    aligned = (1,) * (len(shape) - len(slope)) + slope
    if len(shape) >= 2 and all(d == 1 for n, d in enumerate(aligned) if n != 1):
        return lambda x, weight: F.prelu(x, weight.reshape(-1))
    return lambda x, weight: torch.where(x < 0, x * weight, x)


# -------------------------------------------------------------------------------------- division, cast, clip
@makes("div")
def _div(ctx: OpContext) -> Call:
    if dt.is_float(ctx.input(0).dtype):
        return torch.div
    return lambda x, y: torch.div(x, y, rounding_mode="trunc")


@makes("cast")
def _cast(ctx: OpContext) -> Call:
    to = torch_dtype(str(ctx.attr("to")))
    return lambda x: x.to(to)


@makes("clip")
def _clip(ctx: OpContext) -> Call:
    known = [ctx.consts[n] if ctx.has_input(n) else None for n in (1, 2)]
    bounds = [None if data is None else data.reshape(()).item() for data in known]
    if any(ctx.has_input(n) and data is None for n, data in zip((1, 2), known, strict=True)):
        return _clip_to_tensors
    return lambda x, *given: x if bounds == [None, None] else torch.clamp(x, *bounds)


def _clip_to_tensors(
    x: torch.Tensor, lower: torch.Tensor | None = None, upper: torch.Tensor | None = None
) -> torch.Tensor:
    if lower is not None:
        x = torch.maximum(x, lower.reshape(()))
    return x if upper is None else torch.minimum(x, upper.reshape(()))
