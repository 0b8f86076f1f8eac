"""Quantization: floats as integers or floats of few bits, ``x ~ (q - zero_point) * scale``, and back.

Both operators are elementwise; scales and zero points broadcast as all operands do (an importer brings those
per axis and per block into that form).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.convert import convert
from tilewright.ir.expr import Expr, const, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ops.cast import cast_numpy
from tilewright.ops.common import (
    Operands,
    as_dtype,
    broadcast_shapes,
    format_shape,
    is_half,
    read_broadcast,
    widen,
)


def _check_params(ctx: OpContext, dtype: str) -> None:
    """Rejects scales and zero points that do not fit data quantized as ``dtype``."""
    x, scale = ctx.input(0), ctx.input(1)
    if not dt.is_float(scale.dtype):
        ctx.fail(f"a scale must be of a float type, not {scale.dtype}")
    params = [scale.shape]
    if ctx.has_input(2):
        zero = ctx.input(2)
        if zero.dtype != dtype:
            ctx.fail(f"the zero point must be {dtype} as the quantized data, not {zero.dtype}")
        params.append(zero.shape)
    for shape in params:
        if len(shape) > x.rank or broadcast_shapes(ctx, x.shape, shape) != x.shape:
            ctx.fail(
                f"a scale or zero point of shape {format_shape(shape)} does not fit "
                f"data {format_shape(x.shape)}"
            )


def _zero_point(ctx: OpContext, inputs: Operands) -> Any:
    """The zero point; None where it is left out or known to be 0 everywhere."""
    known = ctx.consts[2] if len(ctx.consts) > 2 else None
    if len(inputs) < 3 or inputs[2] is None or (known is not None and not known.any()):
        return None
    return inputs[2]


def _has_no_zero_point(dtype: str) -> bool:
    """Floats of 8 bits are symmetric: ONNX gives them zero points for their type only."""
    return dt.is_float(dtype) and dt.bits(dtype) == 8


# --------------------------------------------------------------------------------------------------- quantize
def _quantize_infer(ctx: OpContext) -> list[TensorType]:
    x, to = ctx.input(0), str(ctx.attr("to"))
    if not dt.is_float(x.dtype) and x.dtype != "int32":
        ctx.fail(f"'quantize' takes floats or int32, not {x.dtype}")
    if (to not in dt.STORAGE and (not dt.is_int(to) or dt.bits(to) > 16)) or to == "float8_e8m0fnu":
        ctx.fail(f"'quantize' gives integers of at most 16 bits and floats of at most 8, not {to}")
    _check_params(ctx, to)
    return [TensorType(x.shape, to)]


def _quotient_dtype(ctx: OpContext) -> str:
    """The type in which data is divided by the scale."""
    return str(ctx.attr("precision", None) or ctx.input(1).dtype)


def _is_one(data: np.ndarray | None) -> bool:
    return data is not None and bool((data == 1).all())


def limited(x: Expr, low: int, high: int) -> Expr:
    """``x`` within whole numbers; NaN becomes ``low``, so that nothing outside is left."""
    x = select(x > const(low, x.dtype), x, const(low, x.dtype))
    return select(x < const(high, x.dtype), x, const(high, x.dtype))


def _quantize_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, scale = inputs[0], inputs[1]
    to, exact = str(ctx.attr("to")), _quotient_dtype(ctx)
    zero = _zero_point(ctx, inputs)
    low, high = (0, 0) if dt.is_float(to) else dt.int_range(to)
    known = ctx.consts[2] if zero is not None else None
    number = int(known.reshape(()).item()) if known is not None and known.size == 1 else None

    def quotient(*i: Expr) -> Expr:
        value = x[i].astype(exact)
        if not _is_one(ctx.consts[1]):
            divisor = read_broadcast(scale, x.shape, i).astype(exact)
            # Through float32 the quotient of two 16-bit floats is rounded as if there were no way through.
            value = (widen(value) / widen(divisor)).astype(exact)
        return widen(value)

    def body(*i: Expr) -> Expr:
        value = quotient(*i)
        if dt.is_float(to):
            if zero is not None and not _has_no_zero_point(to):
                value = value + convert(read_broadcast(zero, x.shape, i), value.dtype)
            return convert(value, to, bool(ctx.attr("saturate", True)))
        if zero is None:
            return convert(intrinsic("round", limited(value, low, high)).astype("int32"), to)
        if number is not None:
            rounded = intrinsic("round", limited(value, low - number, high - number)).astype("int32")
            return convert(rounded + number, to)
        offset = convert(read_broadcast(zero, x.shape, i), value.dtype)
        # Whole numbers this small are exact, and those that are not lie beyond the ends.
        return convert(limited(intrinsic("round", value) + offset, low, high).astype("int32"), to)

    return [te.compute(x.shape, body, "quantize")]


def _quantize_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, scale = inputs[0], inputs[1]
    to, exact = str(ctx.attr("to")), dt.to_numpy(_quotient_dtype(ctx))
    with np.errstate(all="ignore"):
        value = np.asarray(x.astype(exact) / scale.astype(exact))
        if dt.is_float(to):
            if len(inputs) > 2 and inputs[2] is not None and not _has_no_zero_point(to):
                value = value.astype(np.float32) + inputs[2].astype(np.float32)
            return [cast_numpy(value, to, bool(ctx.attr("saturate", True)))]
        low, high = dt.int_range(to)
        value = value.astype(np.float64)
        if len(inputs) > 2 and inputs[2] is not None:
            shifted = np.rint(value) + inputs[2].astype(np.float64)
        else:
            shifted = np.rint(value)
        shifted = np.where(np.isnan(shifted), low, shifted)
    return [np.clip(shifted, low, high).astype(dt.to_numpy(to))]


register(
    OpDef(
        "quantize",
        FusionKind.elementwise,
        infer=_quantize_infer,
        compute=_quantize_compute,
        reference=_quantize_numpy,
    )
)


# ------------------------------------------------------------------------------------------------- dequantize
def _dequantize_infer(ctx: OpContext) -> list[TensorType]:
    x, to = ctx.input(0), str(ctx.attr("to"))
    if not dt.is_int(x.dtype) and x.dtype not in dt.STORAGE:
        ctx.fail(f"'dequantize' takes integers and floats of at most 8 bits, not {x.dtype}")
    if not dt.is_float(to) or to in dt.STORAGE:
        ctx.fail(f"'dequantize' gives floats, not {to}")
    _check_params(ctx, x.dtype)
    return [TensorType(x.shape, to)]


def _dequantize_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, scale = inputs[0], inputs[1]
    to = str(ctx.attr("to"))
    wide = "float32" if is_half(to) else to
    zero = _zero_point(ctx, inputs)

    def body(*i: Expr) -> Expr:
        value = convert(x[i], wide if dt.is_float(x.dtype) else "int32")
        if zero is not None and not dt.is_float(x.dtype):
            value = value - convert(read_broadcast(zero, x.shape, i), "int32")
        return (value.astype(wide) * read_broadcast(scale, x.shape, i).astype(wide)).astype(to)

    return [te.compute(x.shape, body, "dequantize")]


def _dequantize_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, scale = inputs[0], inputs[1]
    to = str(ctx.attr("to"))
    wide = np.float32 if is_half(to) else dt.to_numpy(to)
    whole = not dt.is_float(dt.from_numpy(x.dtype))
    value = x.astype(np.int32 if whole else wide)
    if len(inputs) > 2 and inputs[2] is not None and whole:
        value = value - inputs[2].astype(np.int32)
    return [as_dtype(value.astype(wide) * scale.astype(wide), to)]


register(
    OpDef(
        "dequantize",
        FusionKind.elementwise,
        infer=_dequantize_infer,
        compute=_dequantize_compute,
        reference=_dequantize_numpy,
        deferred=True,
    )
)


# ------------------------------------------------------------------------------------------------- flip_sign
_OTHER_SIGN = {"int8": "uint8", "uint8": "int8"}


def _flip_infer(ctx: OpContext) -> list[TensorType]:
    x = ctx.input(0)
    if x.dtype not in _OTHER_SIGN:
        ctx.fail(f"'flip_sign' takes bytes, not {x.dtype}")
    return [TensorType(x.shape, _OTHER_SIGN[x.dtype])]


def _flip_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (x,) = inputs
    to = _OTHER_SIGN[x.dtype]
    shift = 128 if to == "uint8" else -128
    return [te.compute(x.shape, lambda *i: (x[i].astype("int32") + shift).astype(to), "flip_sign")]


def _flip_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    (x,) = inputs
    to = _OTHER_SIGN[x.dtype.name]
    return [(x.astype(np.int16) + (128 if to == "uint8" else -128)).astype(to)]


#: Bytes of one signedness as the other: the order of values stays, a zero point moves by 128.
register(
    OpDef(
        "flip_sign",
        FusionKind.elementwise,
        infer=_flip_infer,
        compute=_flip_compute,
        reference=_flip_numpy,
    )
)
