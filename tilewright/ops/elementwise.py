"""Elementwise operators: arithmetic, comparisons, logic and activations, with NumPy broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, Symbolic, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.bounds import interval
from tilewright.ir.expr import Const, Expr, binop, cmp, const, logical_not, maximum, minimum, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.simplify import simplify
from tilewright.ops.activation import ACTIVATIONS, erf_numpy
from tilewright.ops.common import (
    Operands,
    as_dtype,
    broadcast_shapes,
    format_shape,
    in_float32,
    in_float32_numpy,
    is_one,
    read_broadcast,
)

Attrs = Mapping[str, Any]


def _same(dtype: str) -> str:
    return dtype


def _bool(dtype: str) -> str:
    return "bool"


def _is_number(dtype: str) -> bool:
    return dtype != "bool"


def _is_bool(dtype: str) -> bool:
    return dtype == "bool"


def symbolic_map(fn: Callable[..., Any]) -> Symbolic:
    """``OpDef.symbolic`` of an elementwise operator: ``fn`` on expressions, broadcast over object arrays. The
    results are not known where ``fn`` gives None for an element."""
    ufunc = np.frompyfunc(fn, fn.__code__.co_argcount, 1)

    def symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray] | None:
        found = np.asarray(ufunc(*inputs), dtype=object)
        return None if any(e is None for e in found.flat) else [found]

    return symbolic


# ------------------------------------------------------------------------------------------------------ unary
def unary(
    name: str,
    body: Callable[[Expr, Attrs], Expr],
    numpy: Callable[[np.ndarray, Attrs], np.ndarray],
    *,
    accepts: Callable[[str], bool] = dt.is_float,
    result: Callable[[str], str] = _same,
    symbolic: Callable[..., Any] | None = None,
) -> OpDef:
    """Register ``y = body(x)`` element by element. ``accepts`` says for which dtypes it is defined."""

    def infer(ctx: OpContext) -> list[TensorType]:
        x = ctx.input(0)
        if not accepts(x.dtype):
            ctx.fail(f"'{name}' is not defined for {x.dtype}")
        return [TensorType(x.shape, result(x.dtype))]

    def compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
        (x,) = inputs
        return [te.compute(x.shape, lambda *i: in_float32(lambda v: body(v, ctx.attrs), x[i]), name)]

    def reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
        value = in_float32_numpy(lambda v: numpy(v, ctx.attrs), inputs[0])
        return [as_dtype(value, result(dt.from_numpy(inputs[0].dtype)))]

    return register(
        OpDef(
            name,
            FusionKind.elementwise,
            infer=infer,
            compute=compute,
            reference=reference,
            symbolic=None if symbolic is None else symbolic_map(symbolic),
        )
    )


def _intrinsic(name: str) -> Callable[[Expr, Attrs], Expr]:
    return lambda x, attrs: intrinsic(name, x)


def _ignoring_attrs(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray, Attrs], np.ndarray]:
    return lambda x, attrs: np.asarray(function(x))


def _abs(x: Expr, attrs: Attrs) -> Expr:
    if dt.is_float(x.dtype):
        return intrinsic("abs", x)
    return select(x < 0, -x, x) if dt.is_signed(x.dtype) else x


def _sign(x: Expr, attrs: Attrs) -> Expr:
    # The last branch is x itself, so that NaN stays NaN and -0 stays -0.
    positive = select(x > 0, const(1, x.dtype), x)
    return select(x < 0, const(-1, x.dtype), positive) if dt.is_signed(x.dtype) else positive


unary("neg", lambda x, a: -x, lambda x, a: -x, accepts=_is_number, symbolic=lambda x: -x)
unary("abs", _abs, lambda x, a: np.abs(x), accepts=_is_number)
unary("sign", _sign, lambda x, a: np.sign(x), accepts=_is_number)
unary("identity", lambda x, a: x, lambda x, a: x, accepts=lambda dtype: True, symbolic=lambda x: x)
unary("exp", _intrinsic("exp"), lambda x, a: np.exp(x))
unary("log", _intrinsic("log"), lambda x, a: np.log(x))
unary("sqrt", _intrinsic("sqrt"), lambda x, a: np.sqrt(x))
unary("reciprocal", lambda x, a: const(1, x.dtype) / x, lambda x, a: 1 / x)
unary("floor", _intrinsic("floor"), lambda x, a: np.floor(x))
unary("ceil", _intrinsic("ceil"), lambda x, a: np.ceil(x))
unary("round", _intrinsic("round"), lambda x, a: np.rint(x))
unary("sin", _intrinsic("sin"), lambda x, a: np.sin(x))
unary("cos", _intrinsic("cos"), lambda x, a: np.cos(x))
for _name, _function in (
    ("tan", np.tan), ("asin", np.arcsin), ("acos", np.arccos), ("atan", np.arctan), ("sinh", np.sinh),
    ("cosh", np.cosh), ("asinh", np.arcsinh), ("acosh", np.arccosh), ("atanh", np.arctanh),
):  # fmt: skip
    unary(_name, _intrinsic(_name), _ignoring_attrs(_function))
unary("tanh", _intrinsic("tanh"), lambda x, a: np.tanh(x))
unary("erf", _intrinsic("erf"), lambda x, a: erf_numpy(x))
unary("isnan", _intrinsic("isnan"), lambda x, a: np.isnan(x), result=_bool)
unary(
    "not",
    lambda x, a: logical_not(x),
    lambda x, a: np.logical_not(x),
    accepts=_is_bool,
    symbolic=lambda x: simplify(logical_not(x)),
)
unary(
    "bitwise_not",
    lambda x, a: binop("xor", x, const(-1, x.dtype)),
    lambda x, a: np.invert(x),
    accepts=dt.is_int,
)

for _name, (_body, _twin) in ACTIVATIONS.items():
    unary(_name, _body, _twin, accepts=_is_number if _name == "relu" else dt.is_float)


def _isinf(x: Expr, attrs: Attrs) -> Expr:
    found: Expr = const(False, "bool")
    if attrs.get("positive", True):
        found = found | x.eq(const(float("inf"), x.dtype))
    if attrs.get("negative", True):
        found = found | x.eq(const(float("-inf"), x.dtype))
    return found


def _isinf_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    positive = np.isposinf(x) if attrs.get("positive", True) else np.zeros(x.shape, bool)
    negative = np.isneginf(x) if attrs.get("negative", True) else np.zeros(x.shape, bool)
    return positive | negative


unary("isinf", _isinf, _isinf_numpy, result=_bool)


# ----------------------------------------------------------------------------------------------------- binary
def binary(
    name: str,
    body: Callable[[Expr, Expr], Expr],
    numpy: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    accepts: Callable[[str], bool] = _is_number,
    result: Callable[[str], str] = _same,
    symbolic: Callable[..., Any] | None = None,
) -> OpDef:
    """Register ``z = body(x, y)`` over two tensors of one dtype that broadcast together."""

    def infer(ctx: OpContext) -> list[TensorType]:
        x, y = ctx.input(0), ctx.input(1)
        if x.dtype != y.dtype:
            ctx.fail(f"'{name}' takes two tensors of one dtype, not {x.dtype} and {y.dtype}")
        if not accepts(x.dtype):
            ctx.fail(f"'{name}' is not defined for {x.dtype}")
        return [TensorType(broadcast_shapes(ctx, x.shape, y.shape), result(x.dtype))]

    def compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
        x, y = inputs
        shape = broadcast_shapes(ctx, x.shape, y.shape)
        return [
            te.compute(
                shape,
                lambda *i: in_float32(body, read_broadcast(x, shape, i), read_broadcast(y, shape, i)),
                name,
            )
        ]

    def reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
        value = in_float32_numpy(numpy, *inputs)
        return [as_dtype(value, result(dt.from_numpy(inputs[0].dtype)))]

    return register(
        OpDef(
            name,
            FusionKind.elementwise,
            infer=infer,
            compute=compute,
            reference=reference,
            symbolic=None if symbolic is None else symbolic_map(symbolic),
        )
    )


def _op(op: str) -> Callable[[Expr, Expr], Expr]:
    return lambda x, y: binop(op, x, y)


def _div(x: Expr, y: Expr) -> Expr:
    """True division of floats; of integers the quotient rounded towards zero, as in C and ONNX."""
    if dt.is_float(x.dtype):
        return binop("div", x, y)
    quotient = x // y
    if not dt.is_signed(x.dtype):
        return quotient
    inexact_negative = ((x < 0).ne(y < 0)) & (quotient * y).ne(x)
    return select(inexact_negative, quotient + 1, quotient)


def _div_symbolic(x: Expr, y: Expr) -> Expr:
    """Sizes are not negative, so the floor division is nearly always the right one and far easier to
    simplify.
    """
    low_x, low_y = interval(x, {}).lo, interval(y, {}).lo
    return x // y if low_x is not None and low_x >= 0 and low_y is not None and low_y > 0 else _div(x, y)


def _compared(op: str) -> Callable[[Expr, Expr], Expr]:
    """A comparison of sizes, decided where their bounds do."""
    return lambda x, y: simplify(cmp(op, x, y))


def _connected(op: str) -> Callable[[Expr, Expr], Expr]:
    return lambda x, y: simplify(binop(op, x, y))


def _div_numpy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if not np.issubdtype(x.dtype, np.integer):
        return np.true_divide(x, y).astype(x.dtype)
    quotient = np.floor_divide(x, y)
    if np.issubdtype(x.dtype, np.unsignedinteger):
        return quotient
    return quotient + ((((x < 0) != (y < 0)) & (quotient * y != x)).astype(quotient.dtype))


def _mod(x: Expr, y: Expr) -> Expr:
    """The remainder with the divisor's sign, as Python's."""
    if dt.is_int(x.dtype):
        return x % y
    rest = intrinsic("fmod", x, y)
    return select(rest.ne(0.0) & (rest < 0.0).ne(y < 0.0), rest + y, rest)


def _fmod(x: Expr, y: Expr) -> Expr:
    """The remainder with the dividend's sign, as C's fmod."""
    if dt.is_int(x.dtype):
        return x - _div(x, y) * y
    return intrinsic("fmod", x, y)


def _shift(op: str) -> Callable[[Expr, Expr], Expr]:
    """A shift; by a negative amount or by all bits and more, every bit is shifted out."""

    def body(x: Expr, amount: Expr) -> Expr:
        bits = dt.bits(x.dtype)
        inside = (amount >= 0) & (amount < bits)
        shifted = binop(op, x, minimum(maximum(amount, 0), bits - 1))
        emptied: Expr = const(0, x.dtype)
        if op == "shr" and dt.is_signed(x.dtype):
            emptied = select(x < 0, const(-1, x.dtype), emptied)
        return select(inside, shifted, emptied)

    return body


def _shift_numpy(op: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def twin(x: np.ndarray, amount: np.ndarray) -> np.ndarray:
        bits = x.dtype.itemsize * 8
        inside = (amount >= 0) & (amount < bits)
        kept = np.where(inside, amount, 0).astype(x.dtype)
        if op == "shl":
            return np.where(inside, np.left_shift(x, kept), np.zeros((), x.dtype))
        return np.where(inside, np.right_shift(x, kept), np.where(x < 0, -1, 0).astype(x.dtype))

    return twin


def _pow(x: Expr, y: Expr) -> Expr:
    if dt.is_float(x.dtype):
        return intrinsic("pow", x, y)
    power = intrinsic("round", intrinsic("pow", x.astype("float64"), y.astype("float64")))
    return power.astype(x.dtype)


def _pow_numpy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if dt.is_float(x.dtype.name):
        return np.asarray(np.power(x, y))
    # Integers to negative powers are an error to NumPy.
    return np.rint(np.power(x.astype(np.float64), y.astype(np.float64))).astype(x.dtype)


binary("add", _op("add"), np.add, symbolic=lambda x, y: x + y)
binary("sub", _op("sub"), np.subtract, symbolic=lambda x, y: x - y)
binary("mul", _op("mul"), np.multiply, symbolic=lambda x, y: x * y)
binary("div", _div, _div_numpy, symbolic=_div_symbolic)
binary("mod", _mod, np.mod, symbolic=lambda x, y: x % y)
binary("fmod", _fmod, np.fmod)
binary("minimum", _op("min"), np.minimum, symbolic=minimum)
binary("maximum", _op("max"), np.maximum, symbolic=maximum)
binary("and", _op("and"), np.logical_and, accepts=_is_bool, symbolic=_connected("and"))
binary("or", _op("or"), np.logical_or, accepts=_is_bool, symbolic=_connected("or"))
binary("xor", _op("xor"), np.logical_xor, accepts=_is_bool, symbolic=_connected("xor"))
binary("bitwise_and", _op("and"), np.bitwise_and, accepts=dt.is_int)
binary("bitwise_or", _op("or"), np.bitwise_or, accepts=dt.is_int)
binary("bitwise_xor", _op("xor"), np.bitwise_xor, accepts=dt.is_int)
binary("shift_left", _shift("shl"), _shift_numpy("shl"), accepts=dt.is_int)
binary("shift_right", _shift("shr"), _shift_numpy("shr"), accepts=dt.is_int)
binary(
    "equal",
    lambda x, y: cmp("eq", x, y),
    np.equal,
    accepts=lambda dtype: True,
    result=_bool,
    symbolic=_compared("eq"),
)
binary("less", lambda x, y: cmp("lt", x, y), np.less, result=_bool, symbolic=_compared("lt"))
binary("less_equal", lambda x, y: cmp("le", x, y), np.less_equal, result=_bool, symbolic=_compared("le"))
binary("prelu", lambda x, slope: select(x < 0, x * slope, x), lambda x, slope: np.where(x < 0, x * slope, x))
binary("pow", _pow, _pow_numpy)


# ------------------------------------------------------------------------------------------------------ where
def _where_infer(ctx: OpContext) -> list[TensorType]:
    cond, x, y = ctx.input(0), ctx.input(1), ctx.input(2)
    if cond.dtype != "bool":
        ctx.fail(f"the condition of 'where' must be bool, not {cond.dtype}")
    if x.dtype != y.dtype:
        ctx.fail(f"'where' chooses between tensors of one dtype, not {x.dtype} and {y.dtype}")
    return [TensorType(broadcast_shapes(ctx, cond.shape, x.shape, y.shape), x.dtype)]


def _where_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    shape = broadcast_shapes(ctx, *(t.shape for t in inputs))
    return [te.compute(shape, lambda *i: select(*(read_broadcast(t, shape, i) for t in inputs)), "where")]


def _where_reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    cond, x, y = inputs
    return [np.asarray(np.where(cond, x, y))]


def _chosen(cond: Expr, x: Expr, y: Expr) -> Expr | None:
    """What a decided condition chooses. Which of two sizes another one would is for a run to compute."""
    if isinstance(cond, Const):
        return x if cond.value else y
    x, y = simplify(x), simplify(y)
    return x if x is y else None


register(
    OpDef(
        "where",
        FusionKind.elementwise,
        infer=_where_infer,
        compute=_where_compute,
        reference=_where_reference,
        symbolic=symbolic_map(_chosen),
    )
)


# ------------------------------------------------------------------------------------------------------- clip
def _clip_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    for index, what in ((1, "lower"), (2, "upper")):
        if not ctx.has_input(index):
            continue
        bound = ctx.input(index)
        if bound.dtype != x.dtype:
            ctx.fail(f"the {what} bound of 'clip' is {bound.dtype}, the tensor {x.dtype}")
        if any(not is_one(d) for d in bound.shape):
            ctx.fail(f"the {what} bound of 'clip' must be one number, not {format_shape(bound.shape)}")
    return [x]


def _clip_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x = inputs[0]
    lower, upper = (_clip_bound(ctx, inputs, n) for n in (1, 2))

    def body(value: Expr) -> Expr:
        if lower is not None:
            value = maximum(value, lower().astype(value.dtype))
        return value if upper is None else minimum(value, upper().astype(value.dtype))

    return [te.compute(x.shape, lambda *i: in_float32(body, x[i]), "clip")]


def _clip_bound(ctx: OpContext, inputs: Operands, index: int) -> Callable[[], Expr] | None:
    """The bound as an expression to be made inside the body: a literal when its value is known."""
    if not ctx.has_input(index):
        return None
    data = ctx.consts[index]
    if data is not None:
        literal = const(data.reshape(()).item(), ctx.input(0).dtype)
        return lambda: literal
    tensor = inputs[index]
    assert tensor is not None
    return lambda: tensor[(0,) * tensor.ndim]


def _clip_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x = inputs[0]
    if len(inputs) > 1 and inputs[1] is not None:
        x = np.maximum(x, inputs[1].reshape(()))
    if len(inputs) > 2 and inputs[2] is not None:
        x = np.minimum(x, inputs[2].reshape(()))
    return [x]


register(
    OpDef("clip", FusionKind.elementwise, infer=_clip_infer, compute=_clip_compute, reference=_clip_numpy)
)
