"""What is known about the value of an integer expression: ranges and limits.

Index arithmetic (int64) is taken not to overflow, as in C; narrower integers wrap, so their ranges fall back
to the dtype's whenever an operation could leave it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Cast, Cmp, Const, Expr, Select, Var, binop, const
from tilewright.ir.linear import (
    Terms,
    add_terms,
    factors,
    linear,
    linear_terms,
    product,
    scale_terms,
    without_factors,
)
from tilewright.ir.visit import uses


class Interval(NamedTuple):
    """Integers from ``lo`` to ``hi``, both inclusive; None is unbounded."""

    lo: int | None
    hi: int | None

    @property
    def is_point(self) -> bool:
        return self.lo is not None and self.lo == self.hi

    def intersect(self, other: Interval) -> Interval:
        """The integers in both (``lo > hi`` when there are none)."""
        lo = self.lo if other.lo is None else other.lo if self.lo is None else max(self.lo, other.lo)
        hi = self.hi if other.hi is None else other.hi if self.hi is None else min(self.hi, other.hi)
        return Interval(lo, hi)

    def union(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        lo = None if self.lo is None or other.lo is None else min(self.lo, other.lo)
        hi = None if self.hi is None or other.hi is None else max(self.hi, other.hi)
        return Interval(lo, hi)

    def plus(self, other: Interval) -> Interval:
        lo = None if self.lo is None or other.lo is None else self.lo + other.lo
        hi = None if self.hi is None or other.hi is None else self.hi + other.hi
        return Interval(lo, hi)

    def scaled(self, k: int) -> Interval:
        """Every member times ``k``."""
        if k == 0:
            return Interval(0, 0)
        lo = None if self.lo is None else self.lo * k
        hi = None if self.hi is None else self.hi * k
        return Interval(lo, hi) if k > 0 else Interval(hi, lo)


UNBOUNDED: Final = Interval(None, None)
BIT: Final = Interval(0, 1)


def interval(e: Expr, bounds: Mapping[Var, Interval] | None = None) -> Interval:
    """The range of an integer or bool expression when every variable is in its ``bounds`` (default: the
    variable's own).

    Float expressions are UNBOUNDED.
    """
    return Ranges(bounds).interval(e)


class Ranges:
    """Ranges of expressions under fixed assumptions, remembered per expression.

    Assumptions are ranges of atoms (variables, or any integer sub-expression) and of linear combinations of
    atoms.
    """

    def __init__(self, atoms: Mapping[Any, Interval] | None = None) -> None:
        self.atoms: dict[Expr, Interval] = dict(atoms or {})
        self.forms: dict[frozenset[tuple[Expr, int]], tuple[Terms, Interval]] = {}
        self._intervals: dict[Expr, Interval] = {}
        # While one assumption on a linear form is applied, others are not: they may lead back to where they
        # came from.
        self._plain = False
        self._plain_intervals: dict[Expr, Interval] = {}

    def interval(self, e: Expr) -> Interval:
        """The range of ``e``."""
        memo = self._plain_intervals if self._plain else self._intervals
        known = memo.get(e)
        if known is None:
            known = self._compute(e)
            if e in self.atoms and type(e) is not Var:
                known = known.intersect(self.atoms[e])
            memo[e] = known
        return known

    def assume_nonnegative(self, terms: Terms, base: int) -> None:
        """Add the assumption ``terms + base >= 0``. Ranges already computed for its atoms are forgotten."""
        g = math.gcd(*terms.values()) if terms else 0
        if g == 0:
            return
        low = -(base // g)
        if len(terms) == 1:
            ((atom, k),) = terms.items()
            limit = Interval(low, None) if k > 0 else Interval(None, -low)
            self.atoms[atom] = self.interval(atom).intersect(limit)
        else:
            primitive = {atom: k // g for atom, k in terms.items()}
            for form, limit in (
                (primitive, Interval(low, None)),
                (scale_terms(primitive, -1), Interval(None, -low)),
            ):
                key = frozenset(form.items())
                _, old = self.forms.get(key, (form, UNBOUNDED))
                self.forms[key] = (form, old.intersect(limit))
        self._intervals.clear()
        self._plain_intervals.clear()

    def form_interval(self, terms: Terms, base: int) -> Interval:
        """The range of a linear form."""
        result = self._sum_interval(terms, base)
        if self.forms and not self._plain:
            self._plain = True
            for form, limit in self.forms.values():
                for atom, k in terms.items():
                    divisor = form.get(atom)
                    if divisor is None or k % divisor or k // divisor < 0:
                        continue
                    times = k // divisor
                    rest = self._sum_interval(add_terms(terms, form, -times), base)
                    result = result.intersect(limit.scaled(times).plus(rest))
                    break
            self._plain = False
        return result

    def _sum_interval(self, terms: Terms, base: int) -> Interval:
        lo: int | None = base
        hi: int | None = base
        products = False
        for atom, k in terms.items():
            a, b = self.interval(atom)
            if k < 0:
                a, b = b, a
            lo = None if lo is None or a is None else lo + a * k
            hi = None if hi is None or b is None else hi + b * k
            products = products or (type(atom) is BinOp and atom.op == "mul")
        if products and len(terms) > 1:
            # Products share operands, as in x*y - y: their ranges taken one by one say little.
            result = Interval(lo, hi)
            for form in ((terms, base), _without_quotients(terms, base, self)):
                result = result.intersect(Interval(self._least(*form), None))
            negated = scale_terms(terms, -1), -base
            for form in (negated, _without_quotients(*negated, self)):
                most = self._least(*form)
                result = result.intersect(Interval(None, None if most is None else -most))
            return result
        result = Interval(lo, hi)
        if len(terms) > 1:
            for atom, k in terms.items():
                if type(atom) is not BinOp:
                    continue
                if atom.op == "floordiv" and type(atom.b) is Const:
                    result = result.intersect(self._by_dividend(terms, base, atom, k))
                elif atom.op == "mod" and type(atom.b) is not Const:
                    result = result.intersect(self._by_divisor(terms, base, atom, k))
        return result

    def _by_dividend(self, terms: Terms, base: int, atom: BinOp, k: int) -> Interval:
        """The range of a form with ``k * (a // c)`` in it, from ``a - c + 1 <= c * (a // c) <= a``, where
        ``a`` has terms in common with the rest: ``16 * ((n + 15) // 16) - n`` is never negative.
        """
        assert isinstance(atom.b, Const)
        c = int(atom.b.value)
        if c < 1 or k % c:
            return UNBOUNDED
        inner, offset = linear_terms(atom.a)
        if not inner.keys() & terms.keys():
            return UNBOUNDED
        times = k // c
        rest = add_terms(add_terms(terms, {atom: k}, -1), inner, times)
        least = base + times * (offset - c + 1 if times > 0 else offset)
        most = base + times * (offset if times > 0 else offset - c + 1)
        return Interval(self._sum_interval(rest, least).lo, self._sum_interval(rest, most).hi)

    def _by_divisor(self, terms: Terms, base: int, atom: BinOp, k: int) -> Interval:
        """The range of a form with ``k * (a % d)`` in it, from ``a % d <= d - 1`` for ``d >= 1``, where ``d``
        has terms in common with the rest: ``d - a % d`` is positive.
        """
        inner, offset = linear_terms(atom.b)
        lo = self.interval(atom.b).lo
        if lo is None or lo < 1 or not inner.keys() & terms.keys():
            return UNBOUNDED
        # d - 1 in place of the remainder: larger, so a limit from below where it is subtracted.
        limit = self._sum_interval(
            add_terms(add_terms(terms, {atom: 1}, -k), inner, k), base + k * (offset - 1)
        )
        return Interval(limit.lo, None) if k < 0 else Interval(None, limit.hi)

    def _least(self, terms: Terms, base: int) -> int | None:
        """A lower bound of a sum of products: every operand is its least value plus something that is not
        negative; multiplied out, only products with a negative coefficient can lower the constant.
        """
        total: dict[tuple[Expr, ...], int] = {(): base}
        for atom, k in terms.items():
            expanded: dict[tuple[Expr, ...], int] = {(): k}
            for operand in factors(atom):
                lo = self.interval(operand).lo
                if lo is None:
                    return None
                step: dict[tuple[Expr, ...], int] = {}
                for key, c in expanded.items():
                    longer = tuple(sorted((*key, operand), key=id))  # any order: expressions are unique
                    step[longer] = step.get(longer, 0) + c
                    if lo:
                        step[key] = step.get(key, 0) + c * lo
                expanded = step
            for key, c in expanded.items():
                total[key] = total.get(key, 0) + c
        least = total.pop(())
        for key, c in total.items():
            if c < 0:
                for operand in key:
                    lo, hi = self.interval(operand)
                    if lo is None or hi is None:
                        return None
                    c *= hi - lo
                least += c
        return least

    def _compute(self, e: Expr) -> Interval:
        kind = type(e)
        if kind is Var:
            assert isinstance(e, Var)
            return self.atoms[e] if e in self.atoms else _clip(Interval(e.lo, e.hi), e.dtype)
        if kind is Const:
            assert isinstance(e, Const)
            if dt.is_float(e.dtype):
                return UNBOUNDED
            return Interval(int(e.value), int(e.value))
        if dt.is_float(e.dtype):
            return UNBOUNDED
        if kind is BinOp:
            assert isinstance(e, BinOp)
            if e.dtype == "bool":
                return BIT
            if e.dtype == dt.INDEX and e.op in ("add", "sub", "mul"):
                terms, base = linear_terms(e)
                if e in terms or not terms:
                    return self._product_interval(e) if terms else Interval(base, base)
                return self.form_interval(terms, base)
            result = _clip(_binop_interval(e.op, self.interval(e.a), self.interval(e.b)), e.dtype)
            if e.op == "floordiv" and e.dtype == dt.INDEX and type(e.b) is not Const:
                result = result.intersect(Interval(None, self._quotient_limit(e.a, e.b)))
            return result
        if kind is Select:
            assert isinstance(e, Select)
            return self.interval(e.a).union(self.interval(e.b))
        if kind is Cast:
            assert isinstance(e, Cast)
            if dt.is_float(e.value.dtype):
                return _dtype_interval(e.dtype)
            if e.dtype == "bool":
                return BIT
            return _clip(self.interval(e.value), e.dtype)
        return _dtype_interval(e.dtype)

    def _quotient_limit(self, a: Expr, b: Expr) -> int | None:
        """An upper bound of ``a // b`` that follows from an assumption ``a < q * b``: the index of a fused
        loop, taken apart by symbolic extents, one after the other (``a`` may be a quotient, too). None where
        there is none.
        """
        divisor: list[Expr] = []
        while True:
            lo = self.interval(b).lo
            if lo is None or lo < 1:
                return None
            divisor += factors(b)
            if not isinstance(a, BinOp) or a.op != "floordiv" or isinstance(a.b, Const):
                break
            b, a = a.b, a.a
        best: int | None = None
        for form, limit in self.forms.values():
            if form.get(a) != -1 or limit.lo is None or limit.lo < 1:
                continue
            # a <= rest - limit.lo < rest
            quotient: Terms = {}
            base = 0
            for atom, k in form.items():
                if atom is a:
                    continue
                divided = without_factors(factors(atom), divisor)
                if divided is None:
                    break
                remaining, times = divided
                if remaining:
                    quotient = add_terms(quotient, {product(remaining): k * times}, 1)
                else:
                    base += k * times
            else:
                hi = self._sum_interval(quotient, base - 1).hi
                if hi is not None:
                    best = hi if best is None else min(best, hi)
        return best

    def _product_interval(self, e: Expr) -> Interval:
        operands = factors(e)
        result = Interval(1, 1)
        for operand in operands:
            result = _mul(result, self.interval(operand))
        # An even power of one operand is no smaller than 0.
        if all(operands.count(operand) % 2 == 0 for operand in operands):
            result = result.intersect(Interval(0, None))
        return result


def _without_quotients(terms: Terms, base: int, ranges: Ranges) -> tuple[Terms, int]:
    """A form nowhere larger, where ``d * (n // d)`` has become ``n - d + 1``, or ``n`` if subtracted."""
    for atom, k in list(terms.items()):
        operands = factors(atom)
        for quotient in operands:
            if type(quotient) is not BinOp or quotient.op != "floordiv":
                continue
            rest = list(operands)
            rest.remove(quotient)
            divisor = factors(quotient.b)
            if not all(rest.count(d) >= divisor.count(d) for d in divisor):
                continue
            for d in divisor:
                rest.remove(d)
            lows = [ranges.interval(e).lo for e in (*rest, quotient.b)]
            if any(lo is None or lo < 0 for lo in lows) or lows[-1] == 0:
                continue
            bound = quotient.a if k < 0 else binop("add", binop("sub", quotient.a, quotient.b), 1)
            for e in rest:
                bound = binop("mul", bound, e)
            more, offset = linear_terms(bound)
            terms = add_terms(add_terms(terms, {atom: 1}, -k), more, k)
            base += k * offset
            break
    return terms, base


def _dtype_interval(dtype: str) -> Interval:
    return UNBOUNDED if dtype == dt.INDEX or dt.is_float(dtype) else Interval(*dt.int_range(dtype))


def _clip(value: Interval, dtype: str) -> Interval:
    """``value`` if every member fits ``dtype``, else the dtype's range (the operation may wrap)."""
    if dtype == dt.INDEX:
        return value
    lo, hi = dt.int_range(dtype)
    fits = value.lo is not None and value.hi is not None and lo <= value.lo and value.hi <= hi
    return value if fits else Interval(lo, hi)


def _ends(x: Interval) -> tuple[float, float]:
    return (-math.inf if x.lo is None else x.lo, math.inf if x.hi is None else x.hi)


def _from_ends(values: list[float]) -> Interval:
    lo, hi = min(values), max(values)
    return Interval(None if lo == -math.inf else int(lo), None if hi == math.inf else int(hi))


def _mul(a: Interval, b: Interval) -> Interval:
    return _from_ends([0 if 0 in (x, y) else x * y for x in _ends(a) for y in _ends(b)])


def _floordiv(a: Interval, b: Interval) -> Interval:
    if b.lo is None or b.lo <= 0:
        if b.hi is None or b.hi >= 0:
            # The quotient is no further from 0 than the dividend, except that rounding down can reach -1.
            magnitude = None if None in a else max(abs(a.lo or 0), abs(a.hi or 0), 1)
            return Interval(None if magnitude is None else -magnitude, magnitude)
        return _floordiv(a.scaled(-1), b.scaled(-1))

    def divide(x: float, y: float) -> float:
        if math.isinf(x):
            return x
        if math.isinf(y):
            return 0 if x >= 0 else -1
        return x // y

    return _from_ends([divide(x, y) for x in _ends(a) for y in _ends(b)])


def _mod(a: Interval, b: Interval) -> Interval:
    if b.lo is not None and b.lo > 0:
        if b.is_point and a.lo is not None and a.hi is not None and a.lo // b.lo == a.hi // b.lo:
            return Interval(a.lo % b.lo, a.hi % b.lo)
        hi = None if b.hi is None else b.hi - 1
        if a.lo is not None and a.lo >= 0 and a.hi is not None:
            hi = a.hi if hi is None else min(hi, a.hi)
        return Interval(0, hi)
    lo = None if b.lo is None else min(b.lo + 1, 0)
    hi = None if b.hi is None else max(b.hi - 1, 0)
    return Interval(lo, hi)


def _bitwise(op: str, a: Interval, b: Interval) -> Interval:
    nonneg = [x for x in (a, b) if x.lo is not None and x.lo >= 0]
    if op == "and" and nonneg:
        his = [x.hi for x in nonneg if x.hi is not None]
        return Interval(0, min(his) if his else None)
    if len(nonneg) == 2:
        if a.hi is None or b.hi is None:
            return Interval(0, None)
        return Interval(0, (1 << max(a.hi.bit_length(), b.hi.bit_length())) - 1)
    return UNBOUNDED


def _binop_interval(op: str, a: Interval, b: Interval) -> Interval:
    if op == "add":
        return a.plus(b)
    if op == "sub":
        return a.plus(b.scaled(-1))
    if op == "mul":
        return _mul(a, b)
    if op == "floordiv":
        return _floordiv(a, b)
    if op == "mod":
        return _mod(a, b)
    if op == "min":
        lo = None if a.lo is None or b.lo is None else min(a.lo, b.lo)
        return Interval(lo, a.hi if b.hi is None else b.hi if a.hi is None else min(a.hi, b.hi))
    if op == "max":
        hi = None if a.hi is None or b.hi is None else max(a.hi, b.hi)
        return Interval(a.lo if b.lo is None else b.lo if a.lo is None else max(a.lo, b.lo), hi)
    if op in ("and", "or", "xor"):
        return _bitwise(op, a, b)
    if op in ("shl", "shr") and b.is_point and b.lo is not None and 0 <= b.lo < 64:
        power = Interval(1 << b.lo, 1 << b.lo)
        return _mul(a, power) if op == "shl" else _floordiv(a, power)
    return UNBOUNDED


def comparison_form(cond: Expr) -> tuple[Terms, int] | None:
    """The linear form that is >= 0 exactly when an int64 ``lt`` or ``le`` holds; None for others."""
    if type(cond) is not Cmp or cond.op not in ("lt", "le") or cond.a.dtype != dt.INDEX:
        return None
    terms, base = linear_terms(cond.b)
    less, offset = linear_terms(cond.a)
    return add_terms(terms, less, -1), base - offset - (cond.op == "lt")


def upper_bounds(extent: Expr) -> list[Expr]:
    """Expressions that ``extent`` does not exceed: the operands of nested ``min``, else itself."""
    if type(extent) is BinOp and extent.op == "min":
        return upper_bounds(extent.a) + upper_bounds(extent.b)
    return [extent]


class AffineForm(NamedTuple):
    """``sum(coefficient * atom) + base``: atoms over some variables, coefficients and base without them."""

    terms: dict[Expr, Expr]
    base: Expr


def affine(e: Expr, variables: Collection[Var]) -> AffineForm | None:
    """A simplified int64 ``e`` as a form in ``variables`` with symbolic coefficients; None for another dtype.

    In ``t*i + 4*j + s`` over ``{i, j}`` the coefficients are ``t`` and 4, the base is ``s``. What is not
    linear in the variables (a division, a product of two of them) is an atom.
    """
    form = linear(e)
    if form is None:
        return None
    inside = set(variables)
    terms: dict[Expr, Expr] = {}
    base: Expr = const(form.const)
    for atom, k in form.terms.items():
        moving = [f for f in factors(atom) if uses(f, inside)]
        if not moving:
            base = base + atom * k
            continue
        still = [f for f in factors(atom) if f not in moving]
        coefficient = product(still) * k if still else const(k)
        key = product(moving)
        terms[key] = terms[key] + coefficient if key in terms else coefficient
    return AffineForm(terms, base)
