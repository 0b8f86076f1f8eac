"""Conversions between element types: ``cast``, ``bitcast``, and ``unpack`` of elements that share bytes."""

from __future__ import annotations

import math

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.convert import ROUND_MODES, convert
from tilewright.ir.expr import Expr, as_expr, binop, select
from tilewright.ir.intrinsics import bitcast
from tilewright.ir.simplify import simplify
from tilewright.ops.common import Operands, dims_attr, product, shape_of


# ------------------------------------------------------------------------------------------------------- cast
def _rules(ctx: OpContext) -> tuple[str, bool, str]:
    """(type, saturate, round mode) of a cast."""
    to, mode = str(ctx.attr("to")), str(ctx.attr("round_mode", "up"))
    if to not in dt.DTYPES:
        ctx.fail(f"there is no element type '{to}'")
    if mode not in ROUND_MODES:
        ctx.fail(f"no way to round is called '{mode}'", hint=f"known: {', '.join(ROUND_MODES)}")
    return to, bool(ctx.attr("saturate", True)), mode


def _cast_infer(ctx: OpContext) -> list[TensorType]:
    return [TensorType(ctx.input(0).shape, _rules(ctx)[0])]


def _cast_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,) = inputs
    to, saturate, mode = _rules(ctx)
    return [te.compute(x.shape, lambda *i: convert(x[i], to, saturate, mode), "cast")]


def cast_numpy(x: np.ndarray, to: str, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """``x`` as ``to`` by the rules of :mod:`tilewright.ir.convert`: floats to integers truncate and saturate,
    NaN becomes 0.
    """
    source, target = dt.from_numpy(x.dtype), dt.to_numpy(to)
    if source == to:
        return x
    if source in dt.STORAGE:
        x = x.astype(np.float32 if dt.is_float(source) else np.int8)
    with np.errstate(all="ignore"):
        if to == "bool":
            return np.asarray((x if x.dtype.itemsize != 2 else x.astype(np.float32)) != 0)
        if dt.is_int(to) and dt.is_packed(to):
            low = cast_numpy(x, "int32").astype(np.uint8) if _is_float(x) else x.astype(np.uint8)
            return (low & np.uint8((1 << dt.bits(to)) - 1)).view(target)
        if dt.is_int(to) and _is_float(x):
            return _to_integer(x, to)
        if to == "float8_e8m0fnu":
            return _to_power(x.astype(np.float64), saturate, round_mode).view(target)
        if to in dt.FORMATS:
            return _to_small_float(x, to, saturate)
        return x.astype(target)


def _is_float(x: np.ndarray) -> bool:
    return dt.is_float(dt.from_numpy(x.dtype))


def _to_integer(x: np.ndarray, to: str) -> np.ndarray:
    low, high = dt.int_range(to)
    target = dt.to_numpy(to)
    wide = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
    # 2**63 - 1 is no double: compare, then set the ends as integers.
    inside = np.where((wide > low) & (wide < high), wide, 0).astype(target)
    return np.where(wide >= high, target.type(high), np.where(wide <= low, target.type(low), inside))


def _to_small_float(x: np.ndarray, to: str, saturate: bool) -> np.ndarray:
    """ml_dtypes rounds float64 twice; of two floats in a row the odd one keeps what the second needs."""
    target, form = dt.to_numpy(to), dt.FORMATS[to]
    single = x.astype(np.float32)
    if x.dtype == np.float64:
        word = np.atleast_1d(single).view(np.uint32).reshape(x.shape)
        word = (word - (np.abs(single.astype(np.float64)) > np.abs(x))) | (single != x)
        single = np.asarray(word, np.uint32)[..., None].view(np.float32)[..., 0]
    if saturate:
        largest = np.array(form.largest, np.uint8).view(target).astype(np.float32)
        single = np.clip(single, -largest, largest)
    return np.asarray(single.astype(target))


def _to_power(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """Codes of powers of two: their exponents plus 127."""
    fraction, exponent = np.frexp(np.abs(x))
    # x = (2 * fraction) * 2**(exponent - 1), with 2 * fraction from 1 on and below 2.
    beyond = {"up": fraction > 0.5, "down": np.zeros(x.shape, bool), "nearest": fraction >= 0.75}[round_mode]
    code = exponent - 1 + 127 + beyond
    small, large = np.abs(x) < 2.0**-127, (code > 254) | np.isinf(x)
    code = np.where(small, 0 if saturate else 255, np.where(large, 254 if saturate else 255, code))
    return np.asarray(np.where(np.isnan(x), 255, code).astype(np.uint8))


def _cast_symbolic(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    """Sizes are int64 expressions whatever integers they are; conditions have a type of their own."""
    kind, to = ctx.input(0).dtype, _rules(ctx)[0]
    if (kind == "bool") == (to == "bool"):
        return [np.asarray(inputs[0], dtype=object)]
    turn = (lambda x: simplify(x.ne(0))) if to == "bool" else (lambda x: select(x, 1, 0))
    return [np.asarray(np.frompyfunc(turn, 1, 1)(inputs[0]), dtype=object)]


def _cast_reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    return [cast_numpy(inputs[0], *_rules(ctx))]


register(
    OpDef(
        "cast",
        FusionKind.elementwise,
        infer=_cast_infer,
        compute=_cast_compute,
        reference=_cast_reference,
        symbolic=_cast_symbolic,
    )
)


# ---------------------------------------------------------------------------------------------------- bitcast
def _bitcast_infer(ctx: OpContext) -> list[TensorType]:
    x, to = ctx.input(0), str(ctx.attr("to"))
    if dt.bits(x.dtype) != dt.bits(to):
        ctx.fail(f"{x.dtype} has {dt.bits(x.dtype)} bits, {to} has {dt.bits(to)}")
    return [TensorType(x.shape, to)]


def _bitcast_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,) = inputs
    to = str(ctx.attr("to"))

    def body(*i: Expr) -> Expr:
        return bitcast("uint8", x[i]).ne(0) if to == "bool" else bitcast(to, x[i])

    return [te.compute(x.shape, body, "bitcast")]


def _bitcast_reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, to = inputs[0], str(ctx.attr("to"))
    bits = np.asarray(x)[..., None]
    return [bits[..., 0].view(np.uint8) != 0 if to == "bool" else bits.view(dt.to_numpy(to))[..., 0]]


register(
    OpDef(
        "bitcast",
        FusionKind.elementwise,
        infer=_bitcast_infer,
        compute=_bitcast_compute,
        reference=_bitcast_reference,
    )
)


# ----------------------------------------------------------------------------------------------------- unpack
def _unpack_infer(ctx: OpContext) -> list[TensorType]:
    x, to, shape = ctx.input(0), str(ctx.attr("to")), ctx.attr("shape")
    if x.dtype != "uint8" or x.rank != 1 or not dt.is_packed(to):
        ctx.fail(f"'unpack' takes flat bytes of elements under 8 bits, not {x.dtype} for {to}")
    kind = TensorType(shape_of(shape), to)
    if dims_attr(x.shape) != (dt.packed_count(to, math.prod(shape)),):
        ctx.fail(f"{dt.packed_count(to, math.prod(shape))} bytes hold {kind}")
    return [kind]


def _unpack_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,), to = inputs, str(ctx.attr("to"))
    shape = shape_of(ctx.attr("shape"))
    width = dt.bits(to)

    def body(*index: Expr) -> Expr:
        flat: Expr = as_expr(0)
        for n, i in enumerate(index):
            flat = flat + i * product(shape[n + 1 :])
        if 8 % width == 0:
            byte, start = x[flat // (8 // width)], flat % (8 // width) * width
            return bitcast(to, binop("shr", byte, start.astype("uint8")) & (1 << width) - 1)
        # Elements may lie across two bytes; the last byte of all has no successor, and needs none.
        first, start = flat * width // 8, (flat * width % 8).astype("uint16")
        second = x[binop("min", first + 1, x.shape[0] - 1)].astype("uint16")
        pair = x[first].astype("uint16") | binop("shl", second, 8)
        return bitcast(to, binop("shr", pair, start).astype("uint8") & (1 << width) - 1)

    return [te.compute(shape, body, "unpack")]


def _unpack_reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    shape = tuple(ctx.attr("shape"))
    return [dt.unpack(inputs[0], str(ctx.attr("to")), math.prod(shape)).reshape(shape)]


register(
    OpDef(
        "unpack",
        FusionKind.injective,
        infer=_unpack_infer,
        compute=_unpack_compute,
        reference=_unpack_reference,
    )
)
