"""Algebra on expressions: canonical linear forms, division and remainder, comparisons, under assumptions on
variables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from tilewright.ir import dtype as dt
from tilewright.ir.bounds import Interval, Ranges, upper_bounds
from tilewright.ir.conditions import any_of, conjunction, decide, negate, nonnegative_condition, operands_of
from tilewright.ir.expr import (
    FALSE,
    TRUE,
    BinOp,
    Cmp,
    Const,
    Expr,
    Reduce,
    Select,
    Var,
    binop,
    cmp,
    conjuncts,
    const,
    select,
)
from tilewright.ir.linear import (
    Terms,
    add_terms,
    factors,
    from_terms,
    known_divisor,
    linear_terms,
    mul_terms,
    product,
    scale_terms,
    sort_key,
)
from tilewright.ir.visit import uses

Form: TypeAlias = tuple[Terms, int]


class Simplifier:
    """Simplifies expressions under fixed assumptions; results are remembered, so shared sub-expressions cost
    one visit.
    """

    def __init__(self, bounds: Mapping[Any, Interval] | None = None) -> None:
        self.ranges = Ranges(bounds)
        self._known: dict[Expr, Expr] = {}
        self._memo: dict[Expr, Expr] = {}
        self._forms: dict[Expr, Form] = {}

    # -- assumptions -----------------------------------------------------------------------------------------

    def assuming(self, cond: Expr) -> Simplifier:
        """A new simplifier that also takes ``cond`` for true."""
        inner = Simplifier(self.ranges.atoms)
        inner.ranges.forms = dict(self.ranges.forms)
        inner._known = dict(self._known)
        for part in conjuncts(cond):
            inner._assume(part)
        return inner

    def _assume(self, cond: Expr) -> None:
        self._known[cond] = TRUE
        self._known[negate(cond)] = FALSE
        if not isinstance(cond, Cmp) or cond.a.dtype != dt.INDEX:
            return
        forms = self._form(cond.a), self._form(cond.b)
        (a, c), (b, d) = forms
        if cond.op in ("lt", "le"):
            self.ranges.assume_nonnegative(add_terms(b, a, -1), d - c - (cond.op == "lt"))
        elif cond.op == "eq":
            self.ranges.assume_nonnegative(add_terms(b, a, -1), d - c)
            self.ranges.assume_nonnegative(add_terms(a, b, -1), c - d)
        self._memo.clear()
        self._forms.clear()

    def with_loop(self, var: Var, extent: Expr) -> Simplifier:
        """A simplifier for the body of a loop: ``0 <= var < extent``.

        It is ``self``, with its memory, where the loop says nothing of other variables and ``var`` is new: a
        variable is not seen outside its loop, so the assumption may stay. A symbolic extent (the body runs
        only if it is positive) needs another one.
        """
        limit = Interval(var.lo, var.hi).intersect(Interval(0, _minus_one(self.interval(extent).hi)))
        old = self.ranges.atoms.get(var)
        where = self
        if not isinstance(extent, Const) or (old is not None and old != limit):
            gone = {var}
            where = Simplifier({k: v for k, v in self.ranges.atoms.items() if not uses(k, gone)})
            forms = self.ranges.forms.items()
            where.ranges.forms = {k: v for k, v in forms if not any(uses(atom, gone) for atom in v[0])}
            where._known = {k: v for k, v in self._known.items() if not uses(k, gone)}
        where.ranges.atoms[var] = limit
        for bound in upper_bounds(extent):
            if not isinstance(bound, Const):
                terms, base = where._form(bound)
                where.ranges.assume_nonnegative(add_terms(terms, {var: 1}, -1), base - 1)
                where._assume_positive_factors(terms, base)
        return where

    def _assume_positive_factors(self, terms: Terms, base: int) -> None:
        """Of a positive number that is a product, no factor is 0 where none is negative."""
        if base != 0 or len(terms) != 1:
            return
        operands = factors(next(iter(terms)))
        if all(lo is not None and lo >= 0 for lo in (self.interval(e).lo for e in operands)):
            for operand in operands:
                self.ranges.assume_nonnegative({operand: 1}, -1)

    # -- expressions -----------------------------------------------------------------------------------------

    @property
    def remembered(self) -> int:
        """How many expressions there are whose result is remembered."""
        return len(self._memo) + len(self._forms)

    def interval(self, e: Expr) -> Interval:
        """The range of ``e`` under the assumptions."""
        return self.ranges.interval(e)

    def simplify(self, e: Expr) -> Expr:
        """An equal expression in canonical form."""
        result = self._memo.get(e)
        if result is None:
            result = self._simplify(e)
            if self._known and result.dtype == "bool":
                result = self._known.get(result, result)
            self._memo[e] = result
            self._memo[result] = result
        return result

    def prove(self, cond: Expr) -> bool:
        """Whether ``cond`` certainly holds."""
        return self.simplify(cond) is TRUE

    def _simplify(self, e: Expr) -> Expr:
        kind = type(e)
        if kind is Const:
            return e
        if e.dtype == dt.INDEX and kind in (BinOp, Var):
            terms, base = self._form(e)
            return from_terms(terms, base)
        if kind is Var:
            return e
        if kind is Cmp:
            assert isinstance(e, Cmp)
            return self._cmp(e)
        if kind is BinOp:
            assert isinstance(e, BinOp)
            if e.dtype == "bool":
                return self._bool(e)
            a, b = self.simplify(e.a), self.simplify(e.b)
            return _exact_float(e.op, a, b) if dt.is_float(e.dtype) else binop(e.op, a, b)
        if kind is Select:
            assert isinstance(e, Select)
            return self._select(e)
        if kind is Reduce:
            assert isinstance(e, Reduce)
            inner = self
            for var, extent in zip(e.axes, e.extents, strict=True):
                inner = inner.with_loop(var, extent)
            return e.rebuild([*map(self.simplify, e.extents), inner.simplify(e.value)])
        children = e.children
        fresh = [self.simplify(c) for c in children]
        if all(x is y for x, y in zip(fresh, children, strict=True)):
            return e
        return e.rebuild(fresh)

    # -- linear forms ----------------------------------------------------------------------------------------

    def _form(self, e: Expr) -> Form:
        """``e`` (int64) as a linear form over simplified atoms."""
        form = self._forms.get(e)
        if form is None:
            form = self._forms[e] = self._compute_form(e)
        return form

    def _compute_form(self, e: Expr) -> Form:
        if type(e) is Const:
            return {}, int(e.value)
        if type(e) is Var:
            span = self.interval(e)
            if span.is_point and span.lo is not None:
                return {}, span.lo
            return {e: 1}, 0
        if type(e) is not BinOp:
            fresh = self.simplify(e)
            return linear_terms(fresh) if fresh is not e else ({e: 1}, 0)
        a, b = self._form(e.a), self._form(e.b)
        if e.op == "add":
            return self._recombine(add_terms(a[0], b[0], 1)), a[1] + b[1]
        if e.op == "sub":
            return self._recombine(add_terms(a[0], b[0], -1)), a[1] - b[1]
        if e.op == "mul":
            terms, base = mul_terms(a, b)
            return self._recombine(terms), base
        if e.op in ("floordiv", "mod"):
            if not b[0]:
                if b[1] > 0:
                    return self._floordiv(a, b[1]) if e.op == "floordiv" else self._mod(a, b[1])
            else:
                result = self._symbolic_divmod(e.op, a, b)
                if result is not None:
                    return result
        elif e.op in ("min", "max"):
            return self._minmax(e.op, a, b)
        fresh = binop(e.op, from_terms(*a), from_terms(*b))
        span = self.interval(fresh)
        if span.is_point and span.lo is not None:
            return {}, span.lo
        if fresh is not e:
            return linear_terms(fresh)
        return {fresh: 1}, 0

    def _recombine(self, terms: Terms) -> Terms:
        """Merge ``c*(x//c) + x%c`` into ``x``, ``x%c + c*((x//c)%d)`` into ``x%(c*d)`` and ``c*(x//c)`` into
        an exact ``x``.

        Only merges that leave no constant behind are made; the caller keeps its own.
        """
        changed = True
        while changed:
            changed = False
            for atom in list(terms):
                if type(atom) is BinOp and type(atom.b) is Const and atom.dtype == dt.INDEX:
                    merged = self._merge(terms, atom, int(atom.b.value)) if atom.b.value > 0 else None
                    if merged is not None:
                        terms, changed = merged, True
                        break
                reduced = _reduced(atom, terms[atom])
                if reduced is not None:
                    rest = add_terms(terms, {atom: terms[atom]}, -1)
                    terms, changed = add_terms(rest, {reduced[0]: reduced[1]}, 1), True
                    break
        return terms

    def _merge(self, terms: Terms, atom: BinOp, c: int) -> Terms | None:
        k = terms[atom]
        if atom.op == "floordiv":
            if k % c == 0 and known_divisor(atom.a) % c == 0:
                inner, base = self._form(atom.a)
                if base == 0:
                    return add_terms(add_terms(terms, {atom: 1}, -k), inner, k // c)
            # (x % m)//c * c + x % c is x % m where c divides m.
            whole = atom.a
            if k % c == 0 and type(whole) is BinOp and whole.op == "mod" and type(whole.b) is Const:
                low = binop("mod", whole.a, c)
                if whole.b.value % c == 0 and terms.get(low) == k // c:
                    rest = add_terms(terms, {atom: k, low: k // c}, -1)
                    return add_terms(rest, {whole: 1}, k // c)
            return None
        if atom.op != "mod":
            return None
        quotient, offset = self._floordiv(self._form(atom.a), c)
        if offset == 0 and len(quotient) == 1:
            ((q, one),) = quotient.items()
            if one == 1 and terms.get(q) == k * c:
                inner, base = self._form(atom.a)
                if base == 0:
                    return add_terms(add_terms(terms, {atom: k, q: k * c}, -1), inner, k)
        if offset == 0:
            q_expr = from_terms(quotient, 0)
            for other, times in terms.items():
                if times == k * c and type(other) is BinOp and other.op == "mod" and other.a is q_expr:
                    if type(other.b) is Const and other.b.value > 0:
                        rest = add_terms(terms, {atom: k, other: times}, -1)
                        merged, base = self._mod(self._form(atom.a), c * int(other.b.value))
                        if base == 0:
                            return add_terms(rest, merged, k)
        return None

    def _point_quotient(self, form: Form, c: int) -> int | None:
        """The quotient by ``c`` if it is the same for the whole range of ``form``."""
        lo, hi = self.ranges.form_interval(*form)
        if lo is None or hi is None or lo // c != hi // c:
            return None
        return lo // c

    def _split(self, form: Form, c: int) -> tuple[Terms, Form]:
        """``form`` as ``c * quotient + rest`` with as much as possible in the quotient's terms (the
        constant's too).
        """
        quotient: Terms = {}
        rest: Terms = {}
        base = form[1]
        for atom, k in form[0].items():
            if k % c == 0:
                quotient[atom] = k // c
            else:
                d = c // math.gcd(k, c)
                if known_divisor(atom) % d == 0:
                    exact = _exact_quotient(atom, d)
                    span = self.interval(exact)
                    if span.is_point and span.lo is not None:
                        base += span.lo * k * d
                    else:
                        quotient = add_terms(quotient, {exact: k * d // c}, 1)
                else:
                    rest[atom] = k
        return quotient, (rest, base)

    def _floordiv(self, form: Form, c: int) -> Form:
        if c == 1:
            return form
        whole = self._point_quotient(form, c)
        if whole is not None:
            return {}, whole
        quotient, (rest, base) = self._split(form, c)
        q0, base = divmod(base, c)
        if not rest:
            return quotient, q0
        q, r = self._floordiv_rest((rest, base), c)
        return self._recombine(add_terms(quotient, q, 1)), q0 + r

    def _floordiv_rest(self, form: Form, c: int) -> Form:
        """``form // c`` where no coefficient is divisible by ``c`` and ``0 <= constant < c``."""
        whole = self._point_quotient(form, c)
        if whole is not None:
            return {}, whole
        rest, base = form
        common = math.gcd(c, *rest.values())
        if common > 1:
            return self._floordiv(({a: k // common for a, k in rest.items()}, base // common), c // common)
        split = self._split_by_range(form, c)
        if split is not None:
            g, high, _ = split
            return self._floordiv(high, c // g)
        if len(rest) == 1:
            ((atom, k),) = rest.items()
            if k == 1 and type(atom) is BinOp and atom.op == "floordiv" and type(atom.b) is Const:
                inner = int(atom.b.value)
                if inner > 0:
                    terms, offset = self._form(atom.a)
                    return self._floordiv((terms, offset + base * inner), inner * c)
        return {binop("floordiv", from_terms(rest, base), c): 1}, 0

    def _mod(self, form: Form, c: int) -> Form:
        if c == 1:
            return {}, 0
        whole = self._point_quotient(form, c)
        if whole is not None:
            return form[0], form[1] - whole * c
        terms = form[0]
        base = form[1]
        for atom, k in form[0].items():
            # Inside a remainder by c, k * (y % m) is k * y where c divides k * m.
            if type(atom) is BinOp and atom.op == "mod" and type(atom.b) is Const and atom.b.value > 0:
                if k % c and k * int(atom.b.value) % c == 0:
                    inner = self._form(atom.a)
                    terms = add_terms(add_terms(terms, {atom: k}, -1), inner[0], k)
                    base += k * inner[1]
        rest = {}
        for atom, k in terms.items():
            if abs(k) >= c:
                k = k % c if k > 0 else -(-k % c)
            if k and k * known_divisor(atom) % c:
                rest[atom] = k
        base %= c
        if not rest:
            return {}, base
        whole = self._point_quotient((rest, base), c)
        if whole is not None:
            return rest, base - whole * c
        common = math.gcd(c, *rest.values())
        if common > 1:
            terms, inside = self._mod(
                ({a: k // common for a, k in rest.items()}, base // common), c // common
            )
            return scale_terms(terms, common), inside * common + base % common
        split = self._split_by_range((rest, base), c)
        if split is not None:
            g, high, low = split
            terms, inside = self._mod(high, c // g)
            return self._recombine(add_terms(scale_terms(terms, g), low[0], 1)), inside * g + low[1]
        return {binop("mod", from_terms(rest, base), c): 1}, 0

    def _split_by_range(self, form: Form, c: int) -> tuple[int, Form, Form] | None:
        """``form = g * high + low`` with ``0 <= low < g`` for some ``g`` that divides ``c``, the largest
        such.
        """
        rest, base = form
        if len(rest) < 2 and base == 0:
            return None
        for g in sorted({math.gcd(k, c) for k in rest.values()}, reverse=True):
            if g == 1:
                break
            low = {a: k for a, k in rest.items() if k % g}
            period = self._point_quotient((low, base), g)
            if period is not None:
                high = {a: k // g for a, k in rest.items() if k % g == 0}
                return g, (high, period), (low, base - period * g)
        return None

    def _symbolic_divmod(self, op: str, a: Form, b: Form) -> Form | None:
        """Division by an expression: ``(D*x + y) // D`` is ``x + y // D``, and ``y // D`` is 0 where ``0 <= y
        < D``.
        """
        if b[1] or len(b[0]) != 1:
            divisor_factors = [from_terms(*b)]
        else:
            ((atom, k),) = b[0].items()
            if k != 1:
                positive = k > 1 and self._nonnegative({atom: 1}, -1)
                return self._scaled_divmod(op, a, k, atom) if positive else None
            divisor_factors = factors(atom)
        divisor = from_terms(*b)
        if not self._nonnegative(b[0], b[1] - 1):
            return None
        quotient: Terms = {}
        rest: Terms = {}
        for atom, k in a[0].items():
            remaining: list[Expr] | None = factors(atom)
            for factor in divisor_factors:
                if remaining is not None and factor in remaining:
                    remaining.remove(factor)
                else:
                    remaining = None
            if remaining is None:
                rest[atom] = k
            elif remaining:
                quotient = add_terms(quotient, {product(remaining): k}, 1)
            else:
                quotient = add_terms(quotient, {TRUE: k}, 1)
        constant = quotient.pop(TRUE, 0)
        small = self._nonnegative(rest, a[1]) and self._nonnegative(
            add_terms(b[0], rest, -1), b[1] - a[1] - 1
        )
        if small:
            return (quotient, constant) if op == "floordiv" else (rest, a[1])
        if not quotient and not constant:
            return None
        remainder = binop(op, from_terms(rest, a[1]), divisor)
        span = self.interval(remainder)
        if span.is_point and span.lo is not None:
            return (quotient, constant + span.lo) if op == "floordiv" else ({}, span.lo)
        if op == "mod":
            return {remainder: 1}, 0
        return add_terms(quotient, {remainder: 1}, 1), constant

    def _scaled_divmod(self, op: str, a: Form, k: int, d: Expr) -> Form | None:
        """Division by ``k * d`` of ``k * x + y`` where ``0 <= y < k``: of ``x`` by ``d``."""
        high, (low, base) = self._split(a, k)
        shift, base = divmod(base, k)
        low_range = self.ranges.form_interval(low, base)
        if low_range.lo is None or low_range.hi is None or low_range.lo < 0 or low_range.hi >= k:
            return None
        if not high and not shift:
            return ({}, 0) if op == "floordiv" else (low, base)
        inner = self._form(binop(op, from_terms(high, shift), d))
        if op == "floordiv":
            return inner
        return add_terms({atom: times * k for atom, times in inner[0].items()}, low, 1), inner[1] * k + base

    def _nonnegative(self, terms: Terms, base: int) -> bool:
        lo = self.ranges.form_interval(terms, base).lo
        return lo is not None and lo >= 0

    def _minmax(self, op: str, a: Form, b: Form) -> Form:
        lo, hi = self.ranges.form_interval(add_terms(b[0], a[0], -1), b[1] - a[1])
        if lo is not None and lo >= 0:
            return a if op == "min" else b
        if hi is not None and hi <= 0:
            return b if op == "min" else a
        operands: list[Expr] = []
        limit: int | None = None
        for e in (from_terms(*a), from_terms(*b)):
            for operand in operands_of(op, e):
                if isinstance(operand, Const):
                    value = int(operand.value)
                    limit = (
                        value if limit is None else min(limit, value) if op == "min" else max(limit, value)
                    )
                elif operand not in operands:
                    operands.append(operand)
        nested = len(operands) + (limit is not None) > 2
        for operand in list(operands) if nested else ():
            if any(other is not operand and self._covers(op, other, operand) for other in operands):
                operands.remove(operand)
        operands.sort(key=sort_key)
        result = operands[0]
        for operand in operands[1:]:
            result = binop(op, result, operand)
        if limit is not None and not any(self._within(op, operand, limit) for operand in operands):
            result = binop(op, result, limit)
        return ({result: 1}, 0) if type(result) is BinOp and result.op == op else linear_terms(result)

    def _covers(self, op: str, a: Expr, b: Expr) -> bool:
        """Whether ``op`` (min or max) of ``a`` and ``b`` is always ``a``."""
        (x, c), (y, d) = linear_terms(a), linear_terms(b)
        less, more = ((x, c), (y, d)) if op == "min" else ((y, d), (x, c))
        return self._nonnegative(add_terms(more[0], less[0], -1), more[1] - less[1])

    def _within(self, op: str, e: Expr, limit: int) -> bool:
        """Whether ``op`` (min or max) of ``e`` and ``limit`` is always ``e``."""
        lo, hi = self.interval(e)
        return (hi is not None and hi <= limit) if op == "min" else (lo is not None and lo >= limit)

    # -- conditions ------------------------------------------------------------------------------------------

    def _cmp(self, e: Cmp) -> Expr:
        if e.a.dtype != dt.INDEX:
            a, b = self.simplify(e.a), self.simplify(e.b)
            if dt.is_float(a.dtype):
                return cmp(e.op, a, b)
            decided = decide(e.op, self.interval(a), self.interval(b))
            return cmp(e.op, a, b) if decided is None else decided
        (a_terms, a_base), (b_terms, b_base) = self._form(e.a), self._form(e.b)
        terms, base = self._recombine(add_terms(b_terms, a_terms, -1)), b_base - a_base
        if e.op in ("lt", "le"):
            return self._at_least_zero(terms, base - (e.op == "lt"))
        return self._equals_zero(terms, base, e.op == "eq")

    def _at_least_zero(self, terms: Terms, base: int) -> Expr:
        """The condition ``terms + base >= 0`` in canonical form."""
        lo, hi = self.ranges.form_interval(terms, base)
        if lo is not None and lo >= 0:
            return TRUE
        if hi is not None and hi < 0:
            return FALSE
        g = math.gcd(*terms.values())
        if g > 1:
            terms, base = {a: k // g for a, k in terms.items()}, base // g
        for g in sorted({abs(k) for k in terms.values()} - {1}, reverse=True):
            # g*A + B >= 0 is A >= ceil(-B/g), where that is the same for the whole range of B.
            low = {a: k for a, k in terms.items() if k % g}
            quotient = self._point_quotient((low, base), g)
            if quotient is not None:
                return self._at_least_zero({a: k // g for a, k in terms.items() if k % g == 0}, quotient)
        return nonnegative_condition(terms, base)

    def _equals_zero(self, terms: Terms, base: int, positive: bool) -> Expr:
        """The condition ``terms + base == 0`` (or ``!= 0``) in canonical form."""
        decided: bool | None = None
        lo, hi = self.ranges.form_interval(terms, base)
        if lo is not None and hi is not None and lo == hi == 0:
            decided = True
        elif (lo is not None and lo > 0) or (hi is not None and hi < 0) or not _divides(terms, base):
            decided = False
        if decided is not None:
            return const(decided == positive, "bool")
        g = math.gcd(*terms.values())
        first = min(terms, key=sort_key)
        if terms[first] < 0:
            g = -g
        terms, base = {a: k // g for a, k in terms.items()}, base // g
        left = {a: k for a, k in terms.items() if k > 0}
        right = {a: -k for a, k in terms.items() if k < 0}
        op = "eq" if positive else "ne"
        if right and base > 0:
            return cmp(op, from_terms(left, base), from_terms(right, 0))
        return cmp(op, from_terms(left, 0), from_terms(right, -base))

    def _bool(self, e: BinOp) -> Expr:
        if e.op not in ("and", "or"):
            a, b = self.simplify(e.a), self.simplify(e.b)
            if e.op == "xor" and b is TRUE:
                return negate(a)
            return binop(e.op, a, b)
        if e.op == "or":
            # a | b is not (not a & not b); the conjunction's rules serve both.
            parts = [negate(self.simplify(x)) for x in operands_of("or", e)]
            merged = conjunction([y for x in parts for y in conjuncts(x)])
            if merged is FALSE:
                return TRUE
            return any_of([negate(x) for x in conjuncts(merged)]) if merged is not TRUE else FALSE
        return conjunction([y for x in conjuncts(e) for y in conjuncts(self.simplify(x))])

    def _select(self, e: Select) -> Expr:
        cond = self.simplify(e.cond)
        if isinstance(cond, Const):
            return self.simplify(e.a if cond.value else e.b)
        a, b = self.simplify(e.a), self.simplify(e.b)
        if isinstance(a, Select) and a.cond is cond:
            a = a.a
        if isinstance(b, Select) and b.cond is cond:
            b = b.b
        if e.dtype == "bool" and isinstance(a, Const) and isinstance(b, Const) and a is not b:
            return cond if a is TRUE else negate(cond)
        return select(cond, a, b)


def _exact_quotient(atom: Expr, d: int) -> Expr:
    """``atom // d``, which leaves no rest; a quotient of a quotient is one."""
    if type(atom) is BinOp and atom.op == "floordiv" and type(atom.b) is Const and atom.b.value > 0:
        return binop("floordiv", atom.a, int(atom.b.value) * d)
    return binop("floordiv", atom, d)


def _reduced(atom: Expr, k: int) -> tuple[Expr, int] | None:
    """``k * atom`` with less in it where ``atom`` is a product with an exact quotient: ``6 * (x // 4)`` is
    ``3 * (x // 2)`` for an ``x`` that is a multiple of 4."""
    operands = factors(atom)
    for n, e in enumerate(operands):
        if type(e) is BinOp and e.op == "floordiv" and type(e.b) is Const and e.b.value > 0:
            c = int(e.b.value)
            g = math.gcd(k, c)
            if g > 1 and known_divisor(e.a) % c == 0 and type(e.a) is Var:
                fewer = e.a if c == g else binop("floordiv", e.a, c // g)
                return product([*operands[:n], fewer, *operands[n + 1 :]]), k // g
    return None


def _minus_one(value: int | None) -> int | None:
    return None if value is None else value - 1


def _divides(terms: Terms, base: int) -> bool:
    """Whether ``terms + base`` can be 0 as far as divisibility tells."""
    return base % (math.gcd(*(k * known_divisor(atom) for atom, k in terms.items())) or 1) == 0


def _exact_float(op: str, a: Expr, b: Expr) -> Expr:
    """A float operation with the folds that change no bit of any result (-0.0 and NaN included)."""
    if isinstance(b, Const):
        zero = b.value == 0.0
        negative = math.copysign(1.0, b.value) < 0
        if zero and ((op == "add" and negative) or (op == "sub" and not negative)):
            return a
        if op == "div" and b.value == 1.0:
            return a
    if op == "add" and isinstance(a, Const) and a.value == 0.0 and math.copysign(1.0, a.value) < 0:
        return b
    return binop(op, a, b)
