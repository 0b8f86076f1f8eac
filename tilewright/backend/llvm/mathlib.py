"""Intrinsics as straight-line code.

float32 functions are own polynomials that work on scalars and on vectors of any length and inline into the
code around them; their largest errors (tests/backend/test_mathlib.py holds them to it) are in
docs/backend_llvm.md. float64 goes to the C library lane by lane, and so do functions too rare to be worth a
polynomial. float16 and bfloat16 are computed in float32.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from tilewright.backend.llvm import types as ty
from tilewright.backend.llvm.ops import Ops
from tilewright.errors import CompileError
from tilewright.ir import dtype as dt
from tilewright.ir.intrinsics import bitcast_target
from tilewright.target import Target


@dataclasses.dataclass(frozen=True)
class Features:
    """What an instruction set offers beyond plain LLVM IR.

    Attributes:
        avx512: 512-bit vectors on x86, with ``vscalefps``.
        x86: conversions that round floats to integers, of any vectors.
    """

    avx512: bool
    x86: bool = False

    @staticmethod
    def of(target: Target) -> Features:
        """The features of ``target``."""
        return Features(target.has("x86_64") and target.has("avx512f"), target.has("x86_64"))


#: Functions that LLVM has an intrinsic for with exactly the IR's meaning, for every float type.
_NATIVE = {
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "round": "roundeven",
    "trunc": "trunc",
    "abs": "fabs",
}

#: Functions of the C library (without the ``f`` of the float32 ones) with their number of arguments.
_LIBM = {
    "exp": 1, "exp2": 1, "expm1": 1, "log": 1, "log2": 1, "log10": 1, "log1p": 1, "pow": 2, "fmod": 2,
    "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1, "atan2": 2,
    "sinh": 1, "cosh": 1, "tanh": 1, "asinh": 1, "acosh": 1, "atanh": 1, "erf": 1, "erfc": 1,
}  # fmt: skip


def call(ops: Ops, features: Features, name: str, dtype: str, args: Sequence[str]) -> str:
    """Emit intrinsic ``name`` on ``args``, whose first has ``dtype``. Raises CompileError for names it does
    not know.
    """
    to = bitcast_target(name)
    if to is not None:
        return _bitcast(ops, dtype, to, args[0])
    if not dt.is_float(dtype):
        return _integer(ops, name, dtype, args)
    if name in ("isnan", "isinf", "isfinite"):
        return _classify(ops, name, dtype, args[0])
    if dtype in ("float16", "bfloat16"):
        if name == "neg":
            sign = ops.const(0x8000, "uint16")
            bits = ops.inst(f"xor {ops.type('uint16')} {ops.bitcast(args[0], dtype, 'uint16')}, {sign}")
            return ops.bitcast(bits, "uint16", dtype)
        wide = [ops.cast(a, dtype, "float32") for a in args]
        return ops.cast(call(ops, features, name, "float32", wide), "float32", dtype)
    if name in _NATIVE:
        return ops.intrinsic(_NATIVE[name], dtype, args)
    if name == "neg":
        return ops.inst(f"fneg {ops.type(dtype)} {args[0]}")
    if name == "fma":
        return ops.fma(dtype, *args)
    if name == "rsqrt":
        return ops.inst(
            f"fdiv {ops.type(dtype)} {ops.const(1.0, dtype)}, {ops.intrinsic('sqrt', dtype, args)}"
        )
    if name == "sign":
        return _sign(ops, dtype, args[0])
    if name == "tf32":
        return _tf32(ops, dtype, args[0])
    if dtype == "float32" and name in _FLOAT32:
        return _FLOAT32[name](_Float32(ops, features), args[0])
    if name == "sigmoid":
        return _sigmoid(ops, dtype, args[0], lambda x: _libm(ops, "exp", dtype, [x]))
    if name in _LIBM and len(args) == _LIBM[name]:
        return _libm(ops, name, dtype, args)
    raise CompileError(f"the LLVM backend has no intrinsic '{name}' of {len(args)} arguments on {dtype}")


def _bitcast(ops: Ops, dtype: str, to: str, x: str) -> str:
    if dtype == "bool":
        return ops.cast(x, "bool", "uint8")
    return x if ops.type(dtype) == ops.type(to) else ops.bitcast(x, dtype, to)


def _tf32(ops: Ops, dtype: str, x: str) -> str:
    """Ten bits behind the point: half of the last of them is added to the bits of a float32, the rest cut
    off. Infinities pass; NaN is kept as it is, since the sum might reach its sign.
    """
    narrow = ops.cast(x, dtype, "float32")
    bits = ops.binary("add", "uint32", ops.bitcast(narrow, "float32", "uint32"), ops.const(0x1000, "uint32"))
    bits = ops.binary("and", "uint32", bits, ops.const(0xFFFFE000, "uint32"))
    rounded = ops.bitcast(bits, "uint32", "float32")
    isnan = _classify(ops, "isnan", "float32", narrow)
    return ops.cast(ops.select("float32", isnan, narrow, rounded), "float32", dtype)


def _integer(ops: Ops, name: str, dtype: str, args: Sequence[str]) -> str:
    kind = ops.type(dtype)
    if name in ("floor", "ceil", "round", "trunc"):
        return args[0]
    if name in ("isnan", "isinf"):
        return ops.const(0, "bool")
    if name == "isfinite":
        return ops.const(1, "bool")
    if name == "neg" and dtype != "bool":
        return ops.inst(f"sub {kind} {ops.const(0, dtype)}, {args[0]}")
    if name == "abs" and dtype != "bool":
        if not dt.is_signed(dtype):
            return args[0]
        full = f"llvm.abs.{ty.suffix(dtype, ops.lanes)}"
        ops.namer.declare(full, kind, [kind, "i1"])
        return ops.inst(f"call {kind} @{full}({kind} {args[0]}, i1 false)")
    if name == "popcount":
        return ops.intrinsic("ctpop", dtype, args)
    if name == "sign" and dtype != "bool":
        zero, one = ops.const(0, dtype), ops.const(1, dtype)
        positive = ops.select(dtype, ops.compare("lt", dtype, zero, args[0]), one, zero)
        if not dt.is_signed(dtype):
            return positive
        return ops.select(dtype, ops.compare("lt", dtype, args[0], zero), ops.const(-1, dtype), positive)
    if name == "fma":
        return ops.binary("add", dtype, ops.binary("mul", dtype, args[0], args[1]), args[2])
    if name == "fmod":
        # The remainder of the truncating division: that of the magnitudes with the sign of the dividend.
        if not dt.is_signed(dtype):
            return ops.floordiv("mod", dtype, args[0], args[1], None, True, False)
        floor = ops.floordiv("mod", dtype, args[0], args[1], None, False, False)
        flipped = ops.inst(f"xor {kind} {args[0]}, {args[1]}")
        opposite = ops.compare("lt", dtype, flipped, ops.const(0, dtype))
        nonzero = ops.compare("ne", dtype, floor, ops.const(0, dtype))
        moved = ops.binary("sub", dtype, floor, args[1])
        return ops.select(dtype, ops.binary("and", "bool", opposite, nonzero), moved, floor)
    raise CompileError(f"the LLVM backend has no intrinsic '{name}' on {dtype}")


def _classify(ops: Ops, name: str, dtype: str, x: str) -> str:
    if dtype != "float64":
        x, dtype = ops.cast(x, dtype, "float32"), "float32"
    kind = ops.type(dtype)
    if name == "isnan":
        return ops.inst(f"fcmp uno {kind} {x}, {ops.const(0.0, dtype)}")
    magnitude = ops.intrinsic("fabs", dtype, [x])
    order = "oeq" if name == "isinf" else "olt"
    return ops.inst(f"fcmp {order} {kind} {magnitude}, {ops.const(math.inf, dtype)}")


def _sign(ops: Ops, dtype: str, x: str) -> str:
    """-1, 0 or 1; NaN stays NaN."""
    zero = ops.const(0.0, dtype)
    signed_one = ops.intrinsic("copysign", dtype, [ops.const(1.0, dtype), x])
    differs = ops.inst(f"fcmp one {ops.type(dtype)} {x}, {zero}")
    return ops.select(dtype, differs, signed_one, x)


def _libm(ops: Ops, name: str, dtype: str, args: Sequence[str]) -> str:
    """A C library function, lane by lane."""
    scalar = ty.scalar_type(dtype)
    full = name + ("f" if dtype == "float32" else "")
    ops.namer.declare(full, scalar, [scalar] * len(args))
    if not ops.lanes:
        return ops.inst(f"call {scalar} @{full}({', '.join(f'{scalar} {a}' for a in args)})")
    kind = ops.type(dtype)
    result = "poison"
    for lane in range(ops.lanes):
        parts = [ops.inst(f"extractelement {kind} {a}, i32 {lane}") for a in args]
        one = ops.inst(f"call {scalar} @{full}({', '.join(f'{scalar} {p}' for p in parts)})")
        result = ops.inst(f"insertelement {kind} {result}, {scalar} {one}, i32 {lane}")
    return result


def power_by_constant(ops: Ops, features: Features, dtype: str, args: Sequence[str], exponent: float) -> str:
    """``pow(x, c)``: small integer exponents multiply, halves take square roots, the rest is the general
    function.
    """
    if dtype in ("float16", "bfloat16"):
        wide = [ops.cast(a, dtype, "float32") for a in args]
        return ops.cast(power_by_constant(ops, features, "float32", wide, exponent), "float32", dtype)
    x = args[0]
    if dt.is_float(dtype) and exponent == 0.5:
        # pow(-inf, 0.5) is inf and pow(-0, 0.5) is 0, unlike the square root.
        kind = ops.type(dtype)
        magnitude = ops.inst(f"fadd {kind} {x}, {ops.const(0.0, dtype)}")
        root = ops.intrinsic("sqrt", dtype, [magnitude])
        lowest = ops.compare("eq", dtype, x, ops.const(-math.inf, dtype))
        return ops.select(dtype, lowest, ops.const(math.inf, dtype), root)
    if exponent == int(exponent) and (0 <= exponent <= 4 or (dt.is_float(dtype) and -2 <= exponent < 0)):
        result = _repeated_product(ops, dtype, x, abs(int(exponent)))
        if exponent < 0:
            result = ops.inst(f"fdiv {ops.type(dtype)} {ops.const(1.0, dtype)}, {result}")
        return result
    if dt.is_float(dtype):
        return call(ops, features, "pow", dtype, args)
    if exponent == int(exponent) and exponent >= 0:
        return _repeated_product(ops, dtype, x, int(exponent))
    raise CompileError(f"pow of {dtype} to the power {exponent}")


def _repeated_product(ops: Ops, dtype: str, x: str, exponent: int) -> str:
    result: str | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else ops.binary("mul", dtype, result, x)
        exponent >>= 1
        if exponent:
            x = ops.binary("mul", dtype, x, x)
    return ops.const(1, dtype) if result is None else result


def _sigmoid(ops: Ops, dtype: str, x: str, exp: Callable[[str], str]) -> str:
    """``1 / (1 + e^-|x|)`` and its mirror image, so that small results keep their relative accuracy."""
    kind = ops.type(dtype)
    one = ops.const(1.0, dtype)
    power = exp(ops.inst(f"fneg {kind} {ops.intrinsic('fabs', dtype, [x])}"))
    negative = ops.compare("lt", dtype, x, ops.const(0.0, dtype))
    top = ops.select(dtype, negative, power, one)
    return ops.inst(f"fdiv {kind} {top}, {ops.inst(f'fadd {kind} {power}, {one}')}")


class _Float32:
    """A short notation for float32 arithmetic on :class:`Ops`."""

    __slots__ = ("features", "kind", "ops")

    def __init__(self, ops: Ops, features: Features) -> None:
        self.ops = ops
        self.features = features
        self.kind = ops.type("float32")

    def c(self, value: float) -> str:
        return self.ops.const(value, "float32")

    def add(self, a: str, b: str) -> str:
        return self.ops.inst(f"fadd {self.kind} {a}, {b}")

    def sub(self, a: str, b: str) -> str:
        return self.ops.inst(f"fsub {self.kind} {a}, {b}")

    def mul(self, a: str, b: str) -> str:
        return self.ops.inst(f"fmul {self.kind} {a}, {b}")

    def div(self, a: str, b: str) -> str:
        return self.ops.inst(f"fdiv {self.kind} {a}, {b}")

    def fma(self, a: str, b: str, c: str) -> str:
        return self.ops.fma("float32", a, b, c)

    def abs(self, a: str) -> str:
        return self.ops.intrinsic("fabs", "float32", [a])

    def copysign(self, a: str, b: str) -> str:
        return self.ops.intrinsic("copysign", "float32", [a, b])

    def clamp(self, x: str, low: float | None, high: float | None) -> str:
        """``x`` limited to [low, high]; NaN stays."""
        if high is not None:
            x = self.ops.float_extremum("min", "float32", x, self.c(high), self.c(high))
        if low is not None:
            x = self.ops.float_extremum("max", "float32", x, self.c(low), self.c(low))
        return x

    def select(self, cond: str, a: str, b: str) -> str:
        return self.ops.select("float32", cond, a, b)

    def test(self, order: str, a: str, b: str) -> str:
        return self.ops.inst(f"fcmp {order} {self.kind} {a}, {b}")

    def poly(self, x: str, coefficients: Sequence[float]) -> str:
        """Horner's scheme, highest power first."""
        result = self.c(coefficients[0])
        for value in coefficients[1:]:
            result = self.fma(result, x, self.c(value))
        return result

    def bits(self, a: str) -> str:
        return self.ops.bitcast(a, "float32", "int32")

    def of_bits(self, a: str) -> str:
        return self.ops.bitcast(a, "int32", "float32")

    def integer(self, op: str, a: str, b: int | str) -> str:
        text = b if isinstance(b, str) else self.ops.const(b, "int32")
        return self.ops.inst(f"{op} {self.ops.type('int32')} {a}, {text}")


_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
_MAGIC = 12582912.0
"""1.5 * 2**23: adding it rounds a small float to an integer, which is then in the low bits."""


def _scale(f: _Float32, p: str, rounded: str, n: str) -> str:
    """``p * 2**n`` with gradual underflow and overflow; ``rounded`` is ``n + _MAGIC``."""
    ops = f.ops
    if f.features.avx512 and ops.lanes in (4, 8, 16):
        # vscalefps does it all in one instruction.
        bits = ops.lanes * 32
        name = f"llvm.x86.avx512.mask.scalef.ps.{bits}"
        tail = ", i32 4" if bits == 512 else ""
        mask = "i16 -1" if ops.lanes == 16 else "i8 -1"
        kinds = [f.kind, f.kind, f.kind, mask.split()[0]] + (["i32"] if tail else [])
        ops.namer.declare(name, f.kind, kinds)
        return ops.inst(
            f"call {f.kind} @{name}({f.kind} {p}, {f.kind} {n}, {f.kind} zeroinitializer, {mask}{tail})"
        )
    # 2**n itself may be out of range where the product is not: scale by two halves.
    whole = f.integer("sub", f.bits(rounded), 0x4B400000)
    half = f.integer("ashr", whole, 1)
    rest = f.integer("sub", whole, half)
    for part in (half, rest):
        p = f.mul(p, f.of_bits(f.integer("shl", f.integer("add", part, 127), 23)))
    return p


_EXP = (1.37805939e-3, 8.37312452e-3, 4.16695364e-2, 1.66664720e-1, 4.99999851e-1, 1.0, 1.0)


def _exp(f: _Float32, x: str) -> str:
    """Reduce by multiples of ln 2 to [-ln2/2, ln2/2], degree 6 there. 0 and inf at the ends, denormals in
    between.
    """
    x = f.clamp(x, -104.0, 89.0)
    rounded = f.fma(x, f.c(_LOG2E), f.c(_MAGIC))
    n = f.sub(rounded, f.c(_MAGIC))
    r = f.fma(n, f.c(-_LN2_HIGH), x)
    r = f.fma(n, f.c(-_LN2_LOW), r)
    return _scale(f, f.poly(r, _EXP), rounded, n)


def _exp2(f: _Float32, x: str) -> str:
    return _exp_base2(f, f.clamp(x, -151.0, 129.0))


def _exp_base2(f: _Float32, x: str) -> str:
    rounded = f.add(x, f.c(_MAGIC))
    n = f.sub(rounded, f.c(_MAGIC))
    r = f.mul(f.sub(x, n), f.c(math.log(2.0)))
    return _scale(f, f.poly(r, _EXP), rounded, n)


def _log(f: _Float32, a: str) -> str:
    """Write a = 2**e * m with m in [2/3, 4/3); log(1 + (m - 1)) by a polynomial."""
    ops = f.ops
    small = f.test("olt", a, f.c(1.1754944e-38))
    scaled = f.select(small, f.mul(a, f.c(8388608.0)), a)
    shift = f.select(small, f.c(-23.0), f.c(0.0))
    bits = f.bits(scaled)
    e = f.integer("and", f.integer("sub", bits, 0x3F2AAAAB), -0x800000)
    m = f.sub(f.of_bits(f.integer("sub", bits, e)), f.c(1.0))
    exponent = ops.inst(f"sitofp {ops.type('int32')} {e} to {f.kind}")
    n = f.fma(exponent, f.c(2.0**-23), shift)
    s = f.mul(m, m)
    r = f.poly(s, (-0.130310059, -0.121483512, -0.166846126, -0.249996200))
    t = f.poly(s, (0.140869141, 0.139814854, 0.200120345))
    r = f.fma(t, m, r)
    r = f.fma(r, m, f.c(0.333331972))
    r = f.fma(r, m, f.c(-0.5))
    r = f.fma(r, s, m)
    r = f.fma(n, f.c(math.log(2.0)), r)
    # inf and NaN pass through, 0 gives -inf, negative numbers NaN.
    finite = f.test("olt", a, f.c(math.inf))
    r = f.select(finite, r, a)
    negative = f.test("olt", a, f.c(0.0))
    r = f.select(negative, f.c(math.nan), r)
    return f.select(f.test("oeq", a, f.c(0.0)), f.c(-math.inf), r)


def _tanh(f: _Float32, x: str) -> str:
    """An odd polynomial near 0, ``1 - 2 / (e^2|x| + 1)`` elsewhere."""
    magnitude = f.abs(x)
    s = f.mul(x, x)
    small = f.poly(s, (1.57394409e-2, -5.23025580e-2, 1.33152470e-1, -3.33327681e-1))
    small = f.fma(f.mul(small, s), x, x)
    power = _exp(f, f.add(magnitude, magnitude))
    large = f.sub(f.c(1.0), f.div(f.c(2.0), f.add(power, f.c(1.0))))
    return f.select(f.test("olt", magnitude, f.c(0.55)), small, f.copysign(large, x))


def _erf(f: _Float32, x: str) -> str:
    """An odd polynomial near 0, ``1 - e^p(|x|)`` elsewhere."""
    t = f.abs(x)
    s = f.mul(x, x)
    small = f.poly(
        s, (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
    )
    small = f.fma(small, x, x)
    r = f.fma(f.c(-1.72853470e-5), t, f.c(3.83197126e-4))
    u = f.fma(f.c(-3.88396438e-3), t, f.c(2.42546219e-2))
    r = f.fma(r, s, u)
    for value in (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1):
        r = f.fma(r, t, f.c(value))
    r = f.fma(r, t, f.ops.inst(f"fneg {f.kind} {t}"))
    large = f.copysign(f.sub(f.c(1.0), _exp(f, r)), x)
    return f.select(f.test("ogt", t, f.c(0.921875)), large, small)


_FLOAT32: dict[str, Callable[[_Float32, str], str]] = {
    "exp": _exp,
    "exp2": _exp2,
    "log": _log,
    "tanh": _tanh,
    "erf": _erf,
    "sigmoid": lambda f, x: _sigmoid(f.ops, "float32", x, lambda y: _exp(f, y)),
}
