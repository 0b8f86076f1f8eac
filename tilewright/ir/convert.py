"""Conversions from and to types that nothing is computed in: floats of 8 bits and fewer, integers of 4 and 2.

They are written as expressions over integers and float32: exact, without tables or branches, so that they
vectorise like any other arithmetic, and the same for every backend and for the interpreter. Between other
types :func:`convert` is ``Cast``.

Rules (ONNX's, operator Cast): floats are rounded once, to nearest even, whatever they come from. Beyond a
type's largest value, ``saturate`` takes the largest, else infinity or NaN, as the type has them; types
without either always saturate, and NaN becomes zero (of the other sign, as in ml_dtypes). Integers of 2 and 4
bits are the low bits of what comes in; floats are brought to int32 first. An e8m0 is a power of two: it has
neither sign nor zero, takes the magnitude of what comes in, and is rounded up, down or to nearest (ties up).
"""

from __future__ import annotations

from typing import Final

from tilewright.ir import dtype as dt
from tilewright.ir.dtype import FORMATS, FloatFormat
from tilewright.ir.expr import Const, Expr, binop, const, select
from tilewright.ir.intrinsics import bitcast, intrinsic

#: Ways to round to an e8m0.
ROUND_MODES: Final = ("up", "down", "nearest")

_MANTISSA: Final = 23  # of a float32, as its bias of 127
_BIAS: Final = 127
_MAGNITUDE: Final = 0x7FFFFFFF
_INFINITY: Final = 0x7F800000
_QUIET: Final = 0x7FC00000
_E8M0_NAN: Final = 0xFF


def convert(value: Expr, to: str, saturate: bool = True, round_mode: str = "up") -> Expr:
    """``value`` as ``to``, any two types.

    Args:
        value: what to convert.
        to: the type of the result.
        saturate: what becomes of floats that a float type of 8 bits does not have.
        round_mode: of e8m0, one of :data:`ROUND_MODES`.
    """
    source = value.dtype
    if source == to and not isinstance(value, Const):
        return value
    if source in dt.STORAGE:
        return convert(_decode(value), to, saturate, round_mode)
    if to not in dt.STORAGE:
        # Truth is judged where the value is, so that NaN and small numbers are true.
        return value.ne(const(0, source)) if to == "bool" and source != "bool" else value.astype(to)
    if dt.is_int(to):
        whole = value.astype("int32") if dt.is_float(source) else value
        return bitcast(to, whole.astype("uint8") & (1 << dt.bits(to)) - 1)
    single = round_to_odd(value) if source == "float64" else value.astype("float32")
    if to == "float8_e8m0fnu":
        return bitcast(to, _encode_power(single, saturate, round_mode))
    return bitcast(to, _encode(single, FORMATS[to], saturate))


def round_to_odd(value: Expr) -> Expr:
    """A float64 as the float32 below or above it whose last bit is odd, unless it is one: rounding that to
    a type of at most 22 significant bits is the same as rounding the float64 once.
    """
    near = value.astype("float32")
    back = near.astype("float64")
    beyond = intrinsic("abs", value) < intrinsic("abs", back)
    word = bitcast("uint32", near) - beyond.astype("uint32")
    return bitcast("float32", binop("or", word, back.ne(value).astype("uint32")))


def _word(value: int) -> Expr:
    return const(value, "uint32")


def _left(value: Expr, count: int) -> Expr:
    return binop("shl", value, const(count, value.dtype))


def _right(value: Expr, count: int) -> Expr:
    return binop("shr", value, const(count, value.dtype))


def _float(word: Expr | int) -> Expr:
    return bitcast("float32", word if isinstance(word, Expr) else _word(word))


# ----------------------------------------------------------------------------------------------------- decode
def _decode(value: Expr) -> Expr:
    """A value of a storage type in the next type that has it and is computed in: int8, uint8 or float32."""
    source, width = value.dtype, dt.bits(value.dtype)
    code = bitcast("uint8", value)
    if dt.is_int(source):
        code = code & (1 << width) - 1
        if source.startswith("uint"):
            return code
        sign = 1 << width - 1
        return bitcast("int8", binop("xor", code, sign)) - sign
    if source == "float8_e8m0fnu":
        word = code.astype("uint32")
        # Two to the power of -127 is no normal number.
        power = select(word.eq(0), _word(1 << _MANTISSA - 1), _left(word, _MANTISSA))
        return _float(select(word.eq(_E8M0_NAN), _word(_QUIET), power))
    return _decode_float(code.astype("uint32"), FORMATS[source])


def _decode_float(code: Expr, form: FloatFormat) -> Expr:
    """The float32 with the value of ``code`` (uint32): exponent and mantissa move to their places."""
    size = code & (1 << form.magnitude_bits) - 1
    sign = _left(_right(code, form.magnitude_bits) & 1, 31)
    aligned = _left(size, _MANTISSA - form.mantissa)
    normal = aligned + (_BIAS - form.bias << _MANTISSA)
    # A number without the leading one: put it in front, and subtract it as a float.
    lowest = _BIAS - form.bias + 1 << _MANTISSA
    small = bitcast("uint32", _float(aligned + lowest) - _float(lowest))
    word = select(size < (1 << form.mantissa), small, normal)
    if form.unsigned_zero:
        word = binop("or", word, sign)
        assert form.nan is not None
        return _float(select((code & 0xFF).eq(form.nan), _word(_QUIET), word))
    if form.nan is not None and form.overflow is not None:
        special = _word(_QUIET) if form.overflow == form.nan else binop("or", aligned, _INFINITY)
        word = select(size < form.overflow, word, special)
    return _float(binop("or", word, sign))


# ----------------------------------------------------------------------------------------------------- encode
def _encode(value: Expr, form: FloatFormat, saturate: bool) -> Expr:
    """The code (uint8) of a float32, rounded to nearest even."""
    word = bitcast("uint32", value)
    size = word & _MAGNITUDE
    drop = _MANTISSA - form.mantissa
    odd = _right(size, drop) & 1
    normal = _right(size + odd + ((1 << drop - 1) - 1), drop) - (_BIAS - form.bias << form.mantissa)
    # Added to a power of two whose last bit is worth the smallest number, a float rounds to multiples of it.
    power = _BIAS - form.bias + 1 + drop << _MANTISSA
    small = bitcast("uint32", _float(size) + _float(power)) - power
    code = select(size < (_BIAS - form.bias + 1 << _MANTISSA), small, normal)
    overflow = form.largest if saturate or form.overflow is None else form.overflow
    code = select(_word(form.largest) < code, _word(overflow), code)
    sign = _left(_right(word, 31), form.magnitude_bits)
    isnan = _word(_INFINITY) < size
    if form.unsigned_zero:
        assert form.nan is not None
        signed = select(code.eq(0), code, binop("or", code, sign))
        return select(isnan, _word(form.nan), signed).astype("uint8")
    if form.nan is None:
        flipped = binop("xor", sign, 1 << form.magnitude_bits)
        return select(isnan, flipped, binop("or", code, sign)).astype("uint8")
    return binop("or", select(isnan, _word(form.nan), code), sign).astype("uint8")


def _encode_power(value: Expr, saturate: bool, round_mode: str) -> Expr:
    """The code (uint8) of a float32 as a power of two: its exponent, but for rounding."""
    if round_mode not in ROUND_MODES:
        raise ValueError(f"no way to round is called '{round_mode}' (known: {', '.join(ROUND_MODES)})")
    size = bitcast("uint32", value) & _MAGNITUDE
    half = 1 << _MANTISSA - 1
    # What is added before the bits behind the exponent are cut off.
    extra = {"up": 2 * half - 1, "down": 0, "nearest": half}[round_mode]
    normal = _right(size + extra, _MANTISSA)
    # Below the normal numbers the code 0 stands for 2**-127, and their mantissa has a bit less.
    tiny = _right(size - half + extra // 2, _MANTISSA - 1)
    code = select(size < (1 << _MANTISSA), select(size < half, _word(0), tiny), normal)
    isnan = _word(_INFINITY) < size
    if saturate:
        code = select(code < _E8M0_NAN, code, _word(_E8M0_NAN - 1))
        return select(isnan, _word(_E8M0_NAN), code).astype("uint8")
    outside = isnan | (size < half) | (_word(_E8M0_NAN - 1) < code)
    return select(outside, _word(_E8M0_NAN), code).astype("uint8")
