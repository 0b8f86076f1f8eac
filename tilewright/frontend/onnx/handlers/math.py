"""Arithmetic, comparisons, logic, activations and casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.convert import ROUND_MODES

#: ONNX operator -> (our operator, versions of the definition): same operands, no attributes.
_PLAIN: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "Abs": ("abs", (1, 6, 13)),
    "Acos": ("acos", (7, 22)),
    "Acosh": ("acosh", (9, 22)),
    "Add": ("add", (7, 13, 14)),
    "And": ("and", (7,)),
    "Asin": ("asin", (7, 22)),
    "Asinh": ("asinh", (9, 22)),
    "Atan": ("atan", (7, 22)),
    "Atanh": ("atanh", (9, 22)),
    "BitwiseAnd": ("bitwise_and", (18,)),
    "BitwiseNot": ("bitwise_not", (18,)),
    "BitwiseOr": ("bitwise_or", (18,)),
    "BitwiseXor": ("bitwise_xor", (18,)),
    "Ceil": ("ceil", (1, 6, 13)),
    "Cos": ("cos", (7, 22)),
    "Cosh": ("cosh", (9, 22)),
    "Div": ("div", (7, 13, 14)),
    "Equal": ("equal", (7, 11, 13, 19)),
    "Erf": ("erf", (9, 13)),
    "Exp": ("exp", (1, 6, 13)),
    "Floor": ("floor", (1, 6, 13)),
    "HardSwish": ("hard_swish", (14, 22)),
    "IsNaN": ("isnan", (9, 13, 20)),
    "Less": ("less", (7, 9, 13)),
    "LessOrEqual": ("less_equal", (12, 16)),
    "Log": ("log", (1, 6, 13)),
    "Mish": ("mish", (18, 22)),
    "Mul": ("mul", (7, 13, 14)),
    "Neg": ("neg", (1, 6, 13)),
    "Not": ("not", (1,)),
    "Or": ("or", (7,)),
    "PRelu": ("prelu", (7, 9, 16)),
    "Reciprocal": ("reciprocal", (1, 6, 13)),
    "Relu": ("relu", (1, 6, 13, 14)),
    "Round": ("round", (11, 22)),
    "Sigmoid": ("sigmoid", (1, 6, 13)),
    "Sign": ("sign", (9, 13)),
    "Sin": ("sin", (7, 22)),
    "Sinh": ("sinh", (9, 22)),
    "Softplus": ("softplus", (1, 22)),
    "Softsign": ("softsign", (1, 22)),
    "Sqrt": ("sqrt", (1, 6, 13)),
    "Sub": ("sub", (7, 13, 14)),
    "Tan": ("tan", (7, 22)),
    "Tanh": ("tanh", (1, 6, 13)),
    "Where": ("where", (9, 16)),
    "Xor": ("xor", (7,)),
}

#: ONNX operator -> (our operator, versions, attributes with their defaults).
_WITH_ATTRS: Final[dict[str, tuple[str, tuple[int, ...], dict[str, Any]]]] = {
    "Celu": ("celu", (12, 28), {"alpha": 1.0}),
    "Elu": ("elu", (1, 6, 22), {"alpha": 1.0}),
    "Gelu": ("gelu", (20,), {"approximate": "none"}),
    "HardSigmoid": ("hard_sigmoid", (1, 6, 22), {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", (1, 6, 16), {"alpha": 0.01}),
    "Selu": ("selu", (6, 22), {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Swish": ("silu", (24,), {"alpha": 1.0}),
    "ThresholdedRelu": ("thresholded_relu", (10, 22), {"alpha": 1.0}),
}

#: ONNX operator -> (our binary operator, versions): any number of operands.
_VARIADIC: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "Max": ("maximum", (1, 6, 8, 12, 13)),
    "Min": ("minimum", (1, 6, 8, 12, 13)),
    "Sum": ("add", (1, 6, 8, 13)),
}


def _plain(op: str) -> Callable[[NodeContext], Value]:
    return lambda ctx: ctx.op(op, *ctx.inputs)


def _with_attrs(op: str, defaults: dict[str, Any]) -> Callable[[NodeContext], Value]:
    return lambda ctx: ctx.op(op, ctx.x, **{name: ctx.attr(name, value) for name, value in defaults.items()})


def variadic(op: str) -> Callable[[NodeContext], Value]:
    """A handler that combines all operands by the binary operator ``op``."""

    def handler(ctx: NodeContext) -> Value:
        result = ctx.x
        for index in range(1, len(ctx.inputs)):
            result = ctx.op(op, result, ctx.value(index))
        return result

    return handler


for _type, (_op, _versions) in _PLAIN.items():
    onnx_op(_type, *_versions)(_plain(_op))
for _type, (_op, _versions, _defaults) in _WITH_ATTRS.items():
    onnx_op(_type, *_versions)(_with_attrs(_op, _defaults))
for _type, (_op, _versions) in _VARIADIC.items():
    onnx_op(_type, *_versions)(variadic(_op))


@onnx_op("Greater", 7, 9, 13)
def greater(ctx: NodeContext) -> Value:
    """``a > b`` is ``b < a``."""
    return ctx.op("less", ctx.value(1), ctx.value(0))


@onnx_op("GreaterOrEqual", 12, 16)
def greater_or_equal(ctx: NodeContext) -> Value:
    """``a >= b`` is ``b <= a``."""
    return ctx.op("less_equal", ctx.value(1), ctx.value(0))


@onnx_op("Mean", 1, 6, 8, 13)
def mean(ctx: NodeContext) -> Value:
    """The elementwise mean of the operands."""
    total = variadic("add")(ctx)
    return ctx.op("div", total, ctx.like(len(ctx.inputs), total))


@onnx_op("Mod", 10, 13, 28)
def mod(ctx: NodeContext) -> Value:
    """``fmod`` chooses whose sign the remainder takes."""
    return ctx.op("fmod" if ctx.attr("fmod", 0) else "mod", ctx.value(0), ctx.value(1))


@onnx_op("Pow", 7, 12, 13, 15)
def power(ctx: NodeContext) -> Value:
    """The result has the base's dtype. Small whole exponents become products."""
    x, y = ctx.value(0), ctx.value(1)
    exponent = ctx.data(1)
    if exponent is not None and exponent.size == 1 and exponent.ndim <= x.rank:
        number = float(exponent.reshape(()))
        if number in (1.0, 2.0, 3.0):
            result = x
            for _ in range(int(number) - 1):
                result = ctx.op("mul", result, x)
            return result
        if number == -1.0 and dt.is_float(x.dtype):
            return ctx.op("reciprocal", x)
    if dt.is_int(x.dtype) and dt.is_float(y.dtype):
        wide = ctx.op("pow", ctx.op("cast", x, to="float64"), ctx.op("cast", y, to="float64"))
        return ctx.op("cast", wide, to=x.dtype)
    return ctx.op("pow", x, y if y.dtype == x.dtype else ctx.op("cast", y, to=x.dtype))


@onnx_op("BitShift", 11, 28)
def bit_shift(ctx: NodeContext) -> Value:
    """Shift of integers; to the right it keeps the sign."""
    direction = ctx.attr("direction")
    if direction not in ("LEFT", "RIGHT"):
        ctx.fail(f"direction must be LEFT or RIGHT, not '{direction}'")
    return ctx.op("shift_left" if direction == "LEFT" else "shift_right", ctx.value(0), ctx.value(1))


@onnx_op("Clip", 1, 6)
def clip_6(ctx: NodeContext) -> Value:
    """Bounds as attributes; the defaults are float32's range and bound nothing."""
    return _clip(ctx, *(_bound(ctx, ctx.attr(n, None)) for n in ("min", "max")))


@onnx_op("Clip", 11, 12, 13)
def clip_11(ctx: NodeContext) -> Value:
    """Bounds as optional inputs."""
    return _clip(ctx, ctx.optional(1), ctx.optional(2))


def _bound(ctx: NodeContext, number: float | None) -> Value | None:
    limit = float(np.finfo(np.float32).max)
    return None if number is None or abs(number) >= limit else ctx.like(number, ctx.x)


def _clip(ctx: NodeContext, low: Value | None, high: Value | None) -> Value:
    """relu where that is what is meant, so that passes see one form of it."""
    if low is None and high is None:
        return ctx.op("identity", ctx.x)
    floor = None if low is None else ctx.builder.const(low)
    if high is None and floor is not None and floor.size == 1 and floor.reshape(()) == 0:
        return ctx.op("relu", ctx.x)
    return ctx.op("clip", ctx.x, low, high)


@onnx_op("IsInf", 10, 20)
def is_inf(ctx: NodeContext) -> Value:
    """Either sign can be left out."""
    return ctx.op(
        "isinf",
        ctx.x,
        positive=bool(ctx.attr("detect_positive", 1)),
        negative=bool(ctx.attr("detect_negative", 1)),
    )


@onnx_op("Shrink", 9)
def shrink(ctx: NodeContext) -> Value:
    """``x + bias`` below ``-lambd``, ``x - bias`` above ``lambd``, 0 between."""
    x, bias, lambd = ctx.x, float(ctx.attr("bias", 0.0)), float(ctx.attr("lambd", 0.5))
    if dt.is_int(x.dtype):  # bias and threshold may be fractions, or negative where x has no sign
        x = ctx.op("cast", x, to="float64")
    low = ctx.op("less", x, ctx.like(-lambd, x))
    high = ctx.op("less", ctx.like(lambd, x), x)
    shift = ctx.like(bias, x)
    above = ctx.op("where", high, ctx.op("sub", x, shift), ctx.like(0, x))
    result = ctx.op("where", low, ctx.op("add", x, shift), above)
    return result if x is ctx.x else ctx.op("cast", result, to=ctx.x.dtype)


@onnx_op("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28)
def cast(ctx: NodeContext) -> Value:
    """To an element type by number (by name in old models)."""
    return cast_to(ctx, dtype_name(int(ctx.attr("to")), "the result of a Cast", ctx.where))


@onnx_op("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(ctx: NodeContext) -> Value:
    """To the element type of the second input."""
    return cast_to(ctx, ctx.value(1).dtype)


def cast_to(ctx: NodeContext, to: str) -> Value:
    """The first input in dtype ``to``."""
    rules: dict[str, Any] = {}
    if not ctx.attr("saturate", 1):
        rules["saturate"] = False
    mode = ctx.attr("round_mode", "up")
    if mode not in ROUND_MODES:
        ctx.fail(f"no way to round is called '{mode}' (known: {', '.join(ROUND_MODES)})")
    if to == "float8_e8m0fnu":
        rules["round_mode"] = mode
    return ctx.op("cast", ctx.x, to=to, **rules)


@onnx_op("BitCast", 26)
def bit_cast(ctx: NodeContext) -> Value:
    """The same bits as another element type of the same size."""
    return ctx.op("bitcast", ctx.x, to=dtype_name(int(ctx.attr("to")), "the result of a BitCast", ctx.where))
