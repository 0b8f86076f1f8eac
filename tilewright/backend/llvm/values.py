"""Expressions to SSA values: arithmetic, comparisons, choices and intrinsics. Loads are in :mod:`.memory`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from tilewright.backend.llvm import mathlib
from tilewright.backend.llvm import types as ty
from tilewright.backend.llvm.analysis import Analysis
from tilewright.backend.llvm.lanes import LaneForms
from tilewright.backend.llvm.ops import Namer
from tilewright.backend.llvm.placement import Placement, Value
from tilewright.errors import CompileError
from tilewright.ir import dtype as dt
from tilewright.ir.bounds import Interval, Ranges
from tilewright.ir.expr import BinOp, Call, Cast, Cmp, Const, Expr, Load, Select, Var, const
from tilewright.ir.float_limits import float_limits
from tilewright.ir.linear import Terms
from tilewright.ir.stmt import Buffer

#: Up to here every whole number is a float32.
_EXACT = 1 << 24
_CONTRACTED = ("float32", "float64")
_INT32 = Interval(-(1 << 31), (1 << 31) - 1)


class Guard:
    """A condition under which code is being emitted without a branch; its loads must not fault where it is
    false.
    """

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value


#: The method that emits expressions of a kind.
_EMITTERS: Final[Mapping[type[Expr], str]] = {
    Const: "_const",
    Var: "_var",
    BinOp: "_binop",
    Cmp: "_cmp",
    Select: "_select",
    Cast: "_cast",
    Call: "_call",
    Load: "load",
}


class Values(Placement):
    """Emits expressions, each at its place and once."""

    def __init__(self, namer: Namer, analysis: Analysis, features: mathlib.Features) -> None:
        super().__init__(namer)
        self.analysis = analysis
        self.features = features
        self.forms = LaneForms(analysis.lanes)
        self.lanes = analysis.lanes
        self.ranges = Ranges()
        self.guards: list[Guard] = []
        self._loads_memory: dict[Expr, bool] = {}

    def value(self, e: Expr) -> Value:
        """The SSA value of ``e``, emitted now if it is not there yet."""
        known = self.memo.get(e)
        if known is not None:
            return known
        emitter = _EMITTERS.get(type(e))
        if emitter is None:
            raise CompileError(f"a {type(e).__name__} expression reached the LLVM backend")
        result: Value = getattr(self, emitter)(e)
        return result

    def load(self, e: Load) -> Value:
        """The value of a load."""
        raise NotImplementedError

    def is_promoted(self, buffer: Buffer) -> bool:
        """Whether ``buffer`` lives in SSA values."""
        raise NotImplementedError

    def bind(self, var: Var, value: Value, extent: Interval) -> None:
        """Give a loop variable its value for as long as its scope is open. ``extent`` is the range of the
        loop's extent.
        """
        self.remember(var, value)
        limits = Interval(0, None if extent.hi is None else max(extent.hi - 1, 0))
        limits = limits.intersect(Interval(var.lo, var.hi))
        if self.ranges.atoms.get(var) != limits:
            self.ranges = Ranges({**self.ranges.atoms, var: limits})

    # ------------------------------------------------------------------------------------------------ helpers
    def widen(self, value: Value, dtype: str, lanes: int, key: object) -> Value:
        """``value`` as a vector of ``lanes``; ``key`` is what the broadcast is remembered by."""
        if value.lanes == lanes:
            return value
        if value.lanes:
            raise CompileError(f"values of {value.lanes} and {lanes} lanes meet in one expression")
        if value.text[0] != "%":
            return Value(ty.splat(value.text, dtype, lanes), lanes, value.level, value.deps)
        memo_key = (key, lanes)
        known = self.memo.get(memo_key)
        if known is None:
            ops, level = self.ops(value.level, lanes)
            known = self.remember(memo_key, Value(ops.broadcast(value.text, dtype), lanes, level, value.deps))
        return known

    def _together(self, *exprs: Expr) -> tuple[list[str], int, int, int]:
        """(texts, lanes, level, deps) of several operands brought to one vector length."""
        values = [self.value(e) for e in exprs]
        lanes = max([v.lanes for v in values])
        if lanes:
            values = [self.widen(v, e.dtype, lanes, e) for v, e in zip(values, exprs, strict=True)]
        level = deps = 0
        for v in values:
            level = max(level, v.level)
            deps |= v.deps
        return [v.text for v in values], lanes, level, deps

    def loads_memory(self, e: Expr) -> bool:
        """Whether evaluating ``e`` reads memory."""
        known = self._loads_memory.get(e)
        if known is None:
            known = (type(e) is Load and not self.is_promoted(e.buffer)) or any(
                map(self.loads_memory, e.children)
            )
            self._loads_memory[e] = known
        return known

    def sum_of(self, terms: Terms, base: int) -> Value:
        """The value of a linear form whose atoms are scalars."""
        key = (frozenset(terms.items()), base)
        known = self.memo.get(key)
        if known is not None:
            return known
        parts = sorted((self.value(atom * k) for atom, k in terms.items()), key=lambda v: v.level)
        if not parts:
            return Value(str(base), 0, 0)
        total = parts[0]
        for part in parts[1:]:
            ops, level = self.ops(part.level, 0)
            total = Value(ops.inst(f"add i64 {total.text}, {part.text}"), 0, level, total.deps | part.deps)
        if base:
            ops, level = self.ops(total.level, 0)
            total = Value(ops.inst(f"add i64 {total.text}, {base}"), 0, level, total.deps)
        return self.remember(key, total)

    # ------------------------------------------------------------------------------------------------- leaves
    def _const(self, e: Const) -> Value:
        return self.remember(e, Value(ty.literal(e.value, e.dtype), 0, 0))

    def _var(self, e: Var) -> Value:
        lanes = self.lanes.get(e)
        if lanes is None:
            raise CompileError(f"variable '{e.name}' is used outside its loop")
        return self.remember(e, Value(ty.iota(lanes, ty.scalar_type(e.dtype)), lanes, 0))

    # --------------------------------------------------------------------------------------------- arithmetic
    def _binop(self, e: BinOp) -> Value:
        op, dtype = e.op, e.dtype
        if dtype in _CONTRACTED and op in ("add", "sub"):
            fused = self._fused(op, e.a, e.b)
            if fused is not None:
                return self.remember(e, fused)
        if op in ("floordiv", "mod") and not dt.is_float(dtype):
            return self._int_division(e)
        if e.dtype == dt.INDEX and self.forms.depends(e):
            uniform = self._uniform(e)
            if uniform is not None:
                return self.remember(e, uniform)
        (a, b), lanes, level, deps = self._together(e.a, e.b)
        ops, level = self.ops(level, lanes)
        if op in ("min", "max") and dt.is_float(dtype) and dtype in _CONTRACTED:
            nan_free = b if _is_number(e.b) else a if _is_number(e.a) else None
            text = ops.float_extremum(op, dtype, a, b, nan_free)
        else:
            text = ops.binary(op, dtype, a, b)
        return self.remember(e, Value(text, lanes, level, deps))

    def _uniform(self, e: Expr) -> Value | None:
        """An index with a vector variable in it as a scalar, where all lanes agree (``(16*i + v) // 16``)."""
        length = self._length(e)
        form = self.forms.form(e, length)
        if form is None or not form.is_uniform:
            return None
        return self.sum_of(form.terms, form.base + form.offsets[0])

    def _length(self, e: Expr) -> int:
        """The vector length of an expression that depends on a vector variable."""
        if type(e) is Var:
            return self.lanes.get(e, 0)
        return max((self._length(c) for c in e.children if self.forms.depends(c)), default=0)

    def _fused(self, op: str, a: Expr, b: Expr) -> Value | None:
        """``x + p*q``, ``p*q + x``, ``x - p*q`` and ``p*q - x`` as one fused multiply-add; None if no
        operand is a product.
        """
        negate_product = negate_other = False
        if type(b) is BinOp and b.op == "mul":
            product, other, negate_product = b, a, op == "sub"
        elif type(a) is BinOp and a.op == "mul":
            product, other, negate_other = a, b, op == "sub"
        else:
            return None
        dtype = product.dtype
        (x, y, z), lanes, level, deps = self._together(product.a, product.b, other)
        ops, level = self.ops(level, lanes)
        kind = ops.type(dtype)
        if negate_product:
            x = ops.inst(f"fneg {kind} {x}")
        if negate_other:
            z = ops.inst(f"fneg {kind} {z}")
        return Value(ops.fma(dtype, x, y, z), lanes, level, deps)

    def _int_division(self, e: BinOp) -> Value:
        if e.dtype == dt.INDEX and self.forms.depends(e):
            uniform = self._uniform(e)
            if uniform is not None:
                return self.remember(e, uniform)
        (a, b), lanes, level, deps = self._together(e.a, e.b)
        divisor = int(e.b.value) if isinstance(e.b, Const) else None
        dividend, by = self.ranges.interval(e.a), self.ranges.interval(e.b)
        positive = by.lo is not None and by.lo > 0
        nonneg = positive and dividend.lo is not None and dividend.lo >= 0
        safe = positive or (divisor is not None and divisor not in (0, -1))
        ops, level = self.ops(level, lanes)
        text = ops.floordiv(e.op, e.dtype, a, b, divisor, nonneg, safe)
        return self.remember(e, Value(text, lanes, level, deps))

    # ------------------------------------------------------------------------------------- comparison, choice
    def _cmp(self, e: Cmp) -> Value:
        if e.a.dtype == dt.INDEX and self.forms.depends(e):
            mask = self._lane_compare(e)
            if mask is not None:
                return self.remember(e, mask)
        (a, b), lanes, level, deps = self._together(e.a, e.b)
        ops, level = self.ops(level, lanes)
        return self.remember(e, Value(ops.compare(e.op, e.a.dtype, a, b), lanes, level, deps))

    def _lane_compare(self, e: Cmp) -> Value | None:
        """A comparison of indices that differ between lanes by constants, done on 32-bit lanes or folded to
        a constant.
        """
        length = self._length(e)
        left, right = self.forms.form(e.a, length), self.forms.form(e.b, length)
        if left is None or right is None:
            return None
        # The comparison is: steps[lane] op shared, where shared is the same in all lanes.
        terms = dict(right.terms)
        for atom, k in left.terms.items():
            total = terms.get(atom, 0) - k
            if total:
                terms[atom] = total
            else:
                terms.pop(atom, None)
        base = right.base - left.base
        steps = [a - b for a, b in zip(left.offsets, right.offsets, strict=True)]
        if not terms:
            test = {"lt": int.__lt__, "le": int.__le__, "eq": int.__eq__, "ne": int.__ne__}[e.op]
            flags = [bool(test(s, base)) for s in steps]
            if all(flags) or not any(flags):
                return Value("true" if flags[0] else "false", 0, 0)
            return Value(ty.vector_literal([int(f) for f in flags], "i1"), length, 0)
        low, high = min(steps) - 1, max(steps) + 1
        if low <= _INT32.lo or high >= _INT32.hi:  # type: ignore[operator]
            return None
        shared = self.sum_of(terms, base)
        ops, level = self.ops(shared.level, 0)
        clipped = ops.intrinsic("smax", "int64", [shared.text, str(low)])
        clipped = ops.intrinsic("smin", "int64", [clipped, str(high)])
        narrow = ops.inst(f"trunc i64 {clipped} to i32")
        wide, level = self.ops(level, length)
        limit = wide.broadcast(narrow, "int32")
        mask = wide.compare(e.op, "int32", ty.vector_literal(steps, "i32"), limit)
        return Value(mask, length, level, shared.deps)

    def _select(self, e: Select) -> Value:
        lazy_a, lazy_b = self.loads_memory(e.a), self.loads_memory(e.b)
        if not (lazy_a or lazy_b):
            (cond, a, b), lanes, level, deps = self._together(e.cond, e.a, e.b)
        else:
            test = self.value(e.cond)
            values = [test, self._guarded(e.a, test, False, lazy_a), self._guarded(e.b, test, True, lazy_b)]
            lanes = max(v.lanes for v in values)
            if lanes:
                exprs = (e.cond, e.a, e.b)
                # A broadcast of a guarded value lives no longer than the guard, which is over: it has its own
                # key.
                values = [
                    self.widen(v, x.dtype, lanes, (e, i))
                    for i, (v, x) in enumerate(zip(values, exprs, strict=True))
                ]
            cond, a, b = (v.text for v in values)
            level = max(v.level for v in values)
            deps = 0
            for v in values:
                deps |= v.deps
        if cond in ("true", "splat (i1 true)"):
            return self.remember(e, Value(a, lanes, level, deps))
        if cond in ("false", "splat (i1 false)"):
            return self.remember(e, Value(b, lanes, level, deps))
        ops, level = self.ops(level, lanes)
        return self.remember(e, Value(ops.select(e.dtype, cond, a, b), lanes, level, deps))

    def _guarded(self, e: Expr, test: Value, negate: bool, lazy: bool) -> Value:
        """The value of one arm of a select, whose loads only count where the arm is chosen."""
        if not lazy:
            return self.value(e)
        self.push_guard(test, negate)
        value = self.value(e)
        ended = self.pop_guard()
        return value._replace(deps=value.deps & ~ended)

    def push_guard(self, test: Value, negate: bool = False) -> None:
        """Emit from here on what counts only where ``test`` holds (does not hold, if ``negate``), and all
        guards before.
        """
        if negate:
            ops, level = self.ops(test.level, test.lanes)
            test = test._replace(text=ops.binary("xor", "bool", test.text, ops.const(1, "bool")), level=level)
        if self.guards:
            outer = self.guards[-1].value
            lanes = max(outer.lanes, test.lanes)
            deps = outer.deps | test.deps
            a = self.widen(outer, "bool", lanes, ("guard", outer.text))
            b = self.widen(test, "bool", lanes, ("guard", test.text))
            ops, level = self.ops(max(a.level, b.level), lanes)
            test = Value(ops.binary("and", "bool", a.text, b.text), lanes, level, deps)
        self.guards.append(Guard(test))

    def pop_guard(self) -> int:
        """End the innermost guard; values that were loaded under it are forgotten. Returns its bit in
        deps.
        """
        self.guards.pop()
        thing = ("guard", len(self.guards))
        self.forget(thing)
        return self.bit(thing)

    def guard_deps(self) -> int:
        """The bits of all guards in force."""
        deps = 0
        for depth in range(len(self.guards)):
            deps |= self.bit(("guard", depth))
        return deps

    # -------------------------------------------------------------------------------------- casts, intrinsics
    def _cast(self, e: Cast) -> Value:
        if dt.is_int(e.dtype) and e.value.dtype == "float32":
            limits = float_limits(e.value)
            low, high = dt.int_range(e.dtype)
            if limits is not None and low <= limits[0] and limits[1] <= min(high, _EXACT):
                return self._cast_inside(e)
        value = self.value(e.value)
        ops, level = self.ops(value.level, value.lanes)
        text = value.text
        if text[0] != "%" and not value.lanes:
            folded = _fold_cast(e)
            if folded is not None:
                return self.remember(e, Value(ty.literal(folded.value, e.dtype), 0, 0))
        return self.remember(e, Value(ops.cast(text, e.value.dtype, e.dtype), value.lanes, level, value.deps))

    def _cast_inside(self, e: Cast) -> Value:
        """A cast of floats that lie inside an integer type: nothing saturates. On x86 one instruction rounds
        and converts."""
        x, rounds = e.value, isinstance(e.value, Call) and e.value.name == "round"
        at_once = rounds and self.features.x86 and dt.bits(e.dtype) == 32 and dt.is_signed(e.dtype)
        if at_once:
            x = e.value.children[0]
        value = self.value(x)
        ops, level = self.ops(value.level, value.lanes)
        text = ops.cast_inside(value.text, e.dtype, rounded=at_once)
        return self.remember(e, Value(text, value.lanes, level, value.deps))

    def _call(self, e: Call) -> Value:
        texts, lanes, level, deps = self._together(*e.args)
        ops, level = self.ops(level, lanes)
        if e.name == "pow" and isinstance(e.args[1], Const):
            text = mathlib.power_by_constant(ops, self.features, e.dtype, texts, float(e.args[1].value))
        else:
            text = mathlib.call(ops, self.features, e.name, e.args[0].dtype, texts)
        return self.remember(e, Value(text, lanes, level, deps))


def _is_number(e: Expr) -> bool:
    """A constant that is not NaN."""
    return isinstance(e, Const) and not math.isnan(e.value)


def _fold_cast(e: Cast) -> Const | None:
    """The constant that a cast of a non-finite constant gives (finite ones fold in the constructor)."""
    if not isinstance(e.value, Const):
        return None
    value = e.value.value
    if dt.is_float(e.dtype):
        return const(value, e.dtype)
    if e.dtype == "bool":
        return const(value != 0, "bool")
    low, high = dt.int_range(e.dtype)
    return const(
        0 if math.isnan(value) else max(low, min(high, value)) if math.isinf(value) else int(value), e.dtype
    )
