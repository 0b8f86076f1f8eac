"""Single operations on named LLVM values: the semantics of the IR's operators, casts and comparisons as
instructions.

Nothing here branches: every operation is straight-line code, so it can be placed at any point where its
operands exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tilewright.backend.llvm import types as ty
from tilewright.errors import CompileError
from tilewright.ir import dtype as dt

_FLOAT_OP = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT_OP = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_FLOAT_CMP = {"lt": "olt", "le": "ole", "eq": "oeq", "ne": "une"}
_NARROW_FLOATS = ("float16", "bfloat16")


class Namer:
    """Fresh SSA names and the set of external functions that a module must declare."""

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.declarations: dict[str, str] = {}
        self._count = itertools.count()

    def fresh(self) -> str:
        """A new SSA name."""
        return f"%v{next(self._count)}"

    def declare(self, name: str, result: str, args: Sequence[str]) -> None:
        """Make sure that function ``name`` is declared."""
        if name not in self.declarations:
            self.declarations[name] = f"declare {result} @{name}({', '.join(args)})"


class Ops:
    """Appends instructions on values of one shape (``lanes``; 0 is scalar) to ``out``."""

    __slots__ = ("lanes", "namer", "out")

    def __init__(self, out: list[object], namer: Namer, lanes: int) -> None:
        self.out = out
        self.namer = namer
        self.lanes = lanes

    def inst(self, text: str) -> str:
        """Emit ``text`` as the definition of a new name."""
        name = self.namer.fresh()
        self.out.append(f"  {name} = {text}")
        return name

    def type(self, dtype: str) -> str:
        return ty.value_type(dtype, self.lanes)

    def const(self, value: float, dtype: str) -> str:
        """``value`` in every lane."""
        return ty.splat(ty.literal(value, dtype), dtype, self.lanes)

    def intrinsic(self, name: str, dtype: str, args: Sequence[str]) -> str:
        """An LLVM intrinsic overloaded on one type, which is also the type of all arguments."""
        full = f"llvm.{name}.{ty.suffix(dtype, self.lanes)}"
        kind = self.type(dtype)
        self.namer.declare(full, kind, [kind] * len(args))
        return self.inst(f"call {kind} @{full}({', '.join(f'{kind} {a}' for a in args)})")

    # --------------------------------------------------------------------------------------------- arithmetic
    def binary(self, op: str, dtype: str, a: str, b: str) -> str:
        """An operator of ``expr.BINOPS`` (integer division excepted, see :meth:`floordiv`) on two values of
        ``dtype``.
        """
        if dt.is_float(dtype):
            if dtype in _NARROW_FLOATS:
                wide = self.binary(
                    op, "float32", self.cast(a, dtype, "float32"), self.cast(b, dtype, "float32")
                )
                return self.cast(wide, "float32", dtype)
            if op in _FLOAT_OP:
                return self.inst(f"{_FLOAT_OP[op]} {self.type(dtype)} {a}, {b}")
            if op in ("min", "max"):
                return self.float_extremum(op, dtype, a, b)
            if op == "mod":
                return self._float_mod(dtype, a, b)[0]
            if op == "floordiv":
                return self._float_floordiv(dtype, a, b)
        elif op in _INT_OP:
            if dtype == "bool" and op not in ("and", "or", "xor"):
                raise CompileError(f"operator '{op}' on bool")
            return self.inst(f"{_INT_OP[op]} {self.type(dtype)} {a}, {b}")
        elif op in ("min", "max"):
            if dtype == "bool":
                return self.inst(f"{'and' if op == 'min' else 'or'} {self.type(dtype)} {a}, {b}")
            return self.intrinsic(f"{'s' if dt.is_signed(dtype) else 'u'}{op}", dtype, [a, b])
        elif op in ("shl", "shr"):
            return self._shift(op, dtype, a, b)
        raise CompileError(f"operator '{op}' on {dtype}")

    def float_extremum(self, op: str, dtype: str, a: str, b: str, nan_free: str | None = None) -> str:
        """Minimum or maximum; NaN if either is NaN. ``nan_free`` names an operand known not to be NaN, if
        any.

        On x86 ``maxps x, y`` gives ``y`` when the operands are unordered, which is what select of an ordered
        comparison says; with the NaN-free operand first one instruction is enough. Other architectures have
        the IEEE operation.
        """
        if self.namer.arch != "x86_64":
            return self.intrinsic("maximum" if op == "max" else "minimum", dtype, [a, b])
        kind, mask = self.type(dtype), self.type("bool")
        order = "ogt" if op == "max" else "olt"
        if nan_free == b:
            a, b = b, a
        test = self.inst(f"fcmp {order} {kind} {a}, {b}")
        result = self.inst(f"select {mask} {test}, {kind} {a}, {kind} {b}")
        if nan_free is not None:
            return result
        ordered = self.inst(f"fcmp ord {kind} {a}, {self.const(0.0, dtype)}")
        return self.inst(f"select {mask} {ordered}, {kind} {result}, {kind} {a}")

    def fma(self, dtype: str, a: str, b: str, c: str) -> str:
        """``a * b + c``, fused where the target can."""
        return self.intrinsic("fmuladd", dtype, [a, b, c])

    def _float_mod(self, dtype: str, a: str, b: str) -> tuple[str, str]:
        """(remainder with the sign of ``b``, truncated remainder)."""
        kind = self.type(dtype)
        zero = self.const(0.0, dtype)
        rem = self.inst(f"frem {kind} {a}, {b}")
        nonzero = self.compare("ne", dtype, rem, zero)
        differ = self.binary(
            "xor", "bool", self.compare("lt", dtype, rem, zero), self.compare("lt", dtype, b, zero)
        )
        moved = self.inst(f"fadd {kind} {rem}, {b}")
        adjusted = self.select("bool", nonzero, differ, self.const(0, "bool"))
        signed_zero = self.intrinsic("copysign", dtype, [zero, b])
        kept = self.select(dtype, nonzero, rem, signed_zero)
        number = self.inst(f"fcmp ord {kind} {rem}, {zero}")
        kept = self.select(dtype, number, kept, rem)
        return self.select(dtype, adjusted, moved, kept), rem

    def _float_floordiv(self, dtype: str, a: str, b: str) -> str:
        """NumPy's ``floor_divide``: exact when the quotient is an integer, infinite or NaN on a zero
        divisor.
        """
        kind = self.type(dtype)
        zero = self.const(0.0, dtype)
        mod, _ = self._float_mod(dtype, a, b)
        quotient = self.inst(f"fdiv {kind} {self.inst(f'fsub {kind} {a}, {mod}')}, {b}")
        rounded = self.intrinsic("roundeven", dtype, [quotient])
        direct = self.inst(f"fdiv {kind} {a}, {b}")
        return self.select(dtype, self.compare("eq", dtype, b, zero), direct, rounded)

    def _shift(self, op: str, dtype: str, a: str, b: str) -> str:
        """Shifts by the width or more give 0, or the sign for a signed shift to the right."""
        bits = dt.bits(dtype)
        last = self.const(bits - 1, dtype)
        kind = self.type(dtype)
        inside = self.inst(f"icmp ult {kind} {b}, {self.const(bits, dtype)}")
        if op == "shr" and dt.is_signed(dtype):
            return self.inst(f"ashr {kind} {a}, {self.select(dtype, inside, b, last)}")
        shifted = self.inst(
            f"{'shl' if op == 'shl' else 'lshr'} {kind} {a}, {self.select(dtype, inside, b, last)}"
        )
        return self.select(dtype, inside, shifted, self.const(0, dtype))

    def floordiv(
        self, op: str, dtype: str, a: str, b: str, divisor: int | None, nonneg: bool, safe: bool
    ) -> str:
        """Integer ``floordiv`` or ``mod``.

        Args:
            op: ``floordiv`` or ``mod``.
            dtype: an integer type.
            a: the dividend.
            b: the divisor.
            divisor: the divisor's value if constant.
            nonneg: both operands are known not to be negative.
            safe: the divisor is known to be neither 0 nor -1. Otherwise division by zero gives 0, as in
            NumPy.
        """
        kind = self.type(dtype)
        unsigned = nonneg or not dt.is_signed(dtype)
        if divisor is not None and divisor > 0 and divisor & (divisor - 1) == 0:
            if op == "mod":
                return self.inst(f"and {kind} {a}, {self.const(divisor - 1, dtype)}")
            return self.inst(
                f"{'lshr' if unsigned else 'ashr'} {kind} {a}, {self.const(divisor.bit_length() - 1, dtype)}"
            )
        if not safe:
            zero = self.compare("eq", dtype, b, self.const(0, dtype))
            bad = zero
            if dt.is_signed(dtype):
                # The lowest value divided by -1 traps; x // -1 is 0 - x, which wraps.
                bad = self.binary("or", "bool", zero, self.compare("eq", dtype, b, self.const(-1, dtype)))
            one = self.select(dtype, bad, self.const(1, dtype), b)
            result = self.floordiv(op, dtype, a, one, None, nonneg, True)
            if op == "mod":
                return self.select(dtype, bad, self.const(0, dtype), result)
            negated = self.inst(f"sub {kind} {self.const(0, dtype)}, {a}")
            if dt.is_signed(dtype):
                result = self.select(dtype, bad, negated, result)
            return self.select(dtype, zero, self.const(0, dtype), result)
        if unsigned:
            return self.inst(f"{'udiv' if op == 'floordiv' else 'urem'} {kind} {a}, {b}")
        remainder = self.inst(f"srem {kind} {a}, {b}")
        nonzero = self.inst(f"icmp ne {kind} {remainder}, {self.const(0, dtype)}")
        flipped = self.inst(f"xor {kind} {remainder}, {b}")
        negative = self.inst(f"icmp slt {kind} {flipped}, {self.const(0, dtype)}")
        adjust = self.binary("and", "bool", nonzero, negative)
        if op == "mod":
            moved = self.inst(f"add {kind} {remainder}, {b}")
            return self.select(dtype, adjust, moved, remainder)
        quotient = self.inst(f"sdiv {kind} {a}, {b}")
        return self.inst(f"sub {kind} {quotient}, {self.cast(adjust, 'bool', dtype)}")

    # ------------------------------------------------------------------------------------- comparison, choice
    def compare(self, op: str, dtype: str, a: str, b: str) -> str:
        """``lt le eq ne`` on values of ``dtype``; an i1 or a vector of them."""
        if dt.is_float(dtype):
            if dtype in _NARROW_FLOATS:
                a, b, dtype = self.cast(a, dtype, "float32"), self.cast(b, dtype, "float32"), "float32"
            return self.inst(f"fcmp {_FLOAT_CMP[op]} {self.type(dtype)} {a}, {b}")
        prefix = "" if op in ("eq", "ne") else "s" if dt.is_signed(dtype) else "u"
        return self.inst(f"icmp {prefix}{op} {self.type(dtype)} {a}, {b}")

    def select(self, dtype: str, cond: str, a: str, b: str) -> str:
        """Lane by lane ``a`` where ``cond``, else ``b``."""
        kind = self.type(dtype)
        return self.inst(f"select {self.type('bool')} {cond}, {kind} {a}, {kind} {b}")

    # -------------------------------------------------------------------------------------------- conversions
    def bitcast(self, a: str, source: str, target: str) -> str:
        """The same bits as another type of the same width."""
        return self.inst(f"bitcast {self.type(source)} {a} to {self.type(target)}")

    def cast(self, a: str, source: str, target: str) -> str:
        """Value conversion with the semantics of ``expr.Cast``."""
        if source == target:
            return a
        if dt.is_float(source):
            return self._cast_float(a, source, target)
        if target == "bool":
            return self.inst(f"icmp ne {self.type(source)} {a}, {self.const(0, source)}")
        signed = source != "bool" and dt.is_signed(source)
        if dt.is_float(target):
            if target in _NARROW_FLOATS:
                wide = "float64" if source != "bool" and dt.bits(source) > 16 else "float32"
                return self.cast(self.cast(a, source, wide), wide, target)
            return self.inst(f"{'si' if signed else 'ui'}tofp {self.type(source)} {a} to {self.type(target)}")
        source_bits = 1 if source == "bool" else dt.bits(source)
        if source_bits == dt.bits(target):
            return a
        op = "trunc" if source_bits > dt.bits(target) else "sext" if signed else "zext"
        return self.inst(f"{op} {self.type(source)} {a} to {self.type(target)}")

    def _cast_float(self, a: str, source: str, target: str) -> str:
        if source == "float16" and target != "float32":
            return self.cast(self.cast(a, source, "float32"), "float32", target)
        if source == "bfloat16":
            bits = self.cast(self.bitcast(a, source, "uint16"), "uint16", "uint32")
            high = self.inst(f"shl {self.type('uint32')} {bits}, {self.const(16, 'uint32')}")
            return self.cast(self.bitcast(high, "uint32", "float32"), "float32", target)
        if target == "bool":
            return self.inst(f"fcmp une {self.type(source)} {a}, {self.const(0.0, source)}")
        if dt.is_float(target):
            if target in _NARROW_FLOATS and source == "float64":
                return self.cast(self._round_to_odd(a), "float32", target)
            if target == "bfloat16":
                return self._to_bfloat(a)
            wider = dt.bits(target) > dt.bits(source)
            return self.inst(
                f"{'fpext' if wider else 'fptrunc'} {self.type(source)} {a} to {self.type(target)}"
            )
        name = f"llvm.fpto{'si' if dt.is_signed(target) else 'ui'}.sat"
        full = f"{name}.{ty.suffix(target, self.lanes)}.{ty.suffix(source, self.lanes)}"
        self.namer.declare(full, self.type(target), [self.type(source)])
        return self.inst(f"call {self.type(target)} @{full}({self.type(source)} {a})")

    def cast_inside(self, a: str, target: str, rounded: bool) -> str:
        """A float32 that is known to lie inside the integer type ``target``, truncated or ``rounded`` to the
        nearest (then the target has instructions for that).
        """
        if not rounded:
            op = "fptosi" if dt.is_signed(target) else "fptoui"
            return self.inst(f"{op} {self.type('float32')} {a} to {self.type(target)}")
        name = f"llvm.lrint.{ty.suffix(target, self.lanes)}.{ty.suffix('float32', self.lanes)}"
        self.namer.declare(name, self.type(target), [self.type("float32")])
        return self.inst(f"call {self.type(target)} @{name}({self.type('float32')} {a})")

    def _to_bfloat(self, a: str) -> str:
        """Round to nearest even in integer arithmetic: x86's own instruction flushes denormals, and few CPUs
        have it.
        """
        kind = self.type("uint32")
        bits = self.bitcast(a, "float32", "uint32")
        top = self.inst(f"lshr {kind} {bits}, {self.const(16, 'uint32')}")
        odd = self.inst(f"and {kind} {top}, {self.const(1, 'uint32')}")
        bias = self.inst(f"add {kind} {odd}, {self.const(0x7FFF, 'uint32')}")
        rounded = self.inst(
            f"lshr {kind} {self.inst(f'add {kind} {bits}, {bias}')}, {self.const(16, 'uint32')}"
        )
        quiet = self.inst(f"or {kind} {top}, {self.const(0x40, 'uint32')}")
        nan = self.inst(f"fcmp uno {self.type('float32')} {a}, {self.const(0.0, 'float32')}")
        chosen = self.select("uint32", nan, quiet, rounded)
        return self.bitcast(self.cast(chosen, "uint32", "uint16"), "uint16", "bfloat16")

    def _round_to_odd(self, a: str) -> str:
        """A float64 as float32 such that rounding that to 16 bits is the same as rounding once."""
        single, double = self.type("float32"), self.type("float64")
        near = self.inst(f"fptrunc {double} {a} to {single}")
        back = self.inst(f"fpext {single} {near} to {double}")
        sizes = [self.intrinsic("fabs", "float64", [x]) for x in (back, a)]
        beyond = self.inst(f"fcmp ogt {double} {sizes[0]}, {sizes[1]}")
        inexact = self.inst(f"fcmp one {double} {back}, {a}")
        bits = self.bitcast(near, "float32", "uint32")
        less = self.inst(f"sub {self.type('uint32')} {bits}, {self.cast(beyond, 'bool', 'uint32')}")
        odd = self.inst(f"or {self.type('uint32')} {less}, {self.cast(inexact, 'bool', 'uint32')}")
        return self.bitcast(odd, "uint32", "float32")

    # ------------------------------------------------------------------------------------------------ vectors
    def broadcast(self, a: str, dtype: str) -> str:
        """A scalar in every lane."""
        if a[0] != "%":
            return ty.splat(a, dtype, self.lanes)
        kind = self.type(dtype)
        one = self.inst(f"insertelement {kind} poison, {ty.scalar_type(dtype)} {a}, i32 0")
        return self.inst(f"shufflevector {kind} {one}, {kind} poison, <{self.lanes} x i32> zeroinitializer")

    def shuffle(self, a: str, b: str, dtype: str, indices: tuple[int, ...]) -> str:
        """Lanes of the concatenation of ``a`` and ``b`` (both of this shape) in the order given."""
        kind = self.type(dtype)
        return self.inst(f"shufflevector {kind} {a}, {kind} {b}, {ty.shuffle_mask(indices)}")

    def reduce(self, op: str, dtype: str, a: str) -> str:
        """All lanes combined by a binary operator, as a tree; a scalar."""
        width = self.lanes
        while width > 1:
            half = width // 2
            ops = Ops(self.out, self.namer, half)
            whole = Ops(self.out, self.namer, width)
            low = whole.shuffle(a, "poison", dtype, tuple(range(half)))
            high = whole.shuffle(a, "poison", dtype, tuple(range(half, 2 * half)))
            rest = (
                self.inst(f"extractelement {whole.type(dtype)} {a}, i32 {width - 1}") if width % 2 else None
            )
            if half == 1:
                scalar = Ops(self.out, self.namer, 0)
                low = self.inst(f"extractelement <1 x {ty.scalar_type(dtype)}> {low}, i32 0")
                high = self.inst(f"extractelement <1 x {ty.scalar_type(dtype)}> {high}, i32 0")
                a = scalar.binary(op, dtype, low, high)
                return a if rest is None else scalar.binary(op, dtype, a, rest)
            a = ops.binary(op, dtype, low, high)
            if rest is not None:
                lane = self.inst(f"extractelement {ops.type(dtype)} {a}, i32 0")
                joined = Ops(self.out, self.namer, 0).binary(op, dtype, lane, rest)
                a = self.inst(f"insertelement {ops.type(dtype)} {a}, {ty.scalar_type(dtype)} {joined}, i32 0")
            width = half
        return self.inst(f"extractelement {self.type(dtype)} {a}, i32 0")
