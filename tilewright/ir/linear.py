"""Integer expressions as linear forms over atoms, and atoms as products of factors."""

from __future__ import annotations

import math
import weakref
from typing import Any, Final, NamedTuple, TypeAlias

from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Call, Cast, Cmp, Const, Expr, Load, Select, Var, binop, const

Terms: TypeAlias = dict[Expr, int]

#: Products of sums are expanded up to this many terms; longer ones stay products.
_MAX_EXPANDED_TERMS: Final = 16


class LinearForm(NamedTuple):
    """``sum(coefficient * atom) + const``. Atoms are variables, divisions, remainders, products of variables,
    ...
    """

    terms: Terms
    const: int


def linear(e: Expr) -> LinearForm | None:
    """``e`` as a linear form over its own sub-expressions; None unless it is an int64 expression.

    Nothing inside an atom is simplified. Coefficients are never 0; products of sums are multiplied out while
    short.
    """
    if e.dtype != dt.INDEX:
        return None
    return LinearForm(*linear_terms(e))


def linear_terms(e: Expr) -> tuple[Terms, int]:
    """As :func:`linear`, for an expression known to be int64."""
    if type(e) is BinOp:
        if e.op == "add":
            terms, base = linear_terms(e.a)
            more, offset = linear_terms(e.b)
            return add_terms(terms, more, 1), base + offset
        if e.op == "sub":
            terms, base = linear_terms(e.a)
            more, offset = linear_terms(e.b)
            return add_terms(terms, more, -1), base - offset
        if e.op == "mul":
            return mul_terms(linear_terms(e.a), linear_terms(e.b))
        return {e: 1}, 0
    if type(e) is Const:
        return {}, int(e.value)
    return {e: 1}, 0


def add_terms(a: Terms, b: Terms, factor: int) -> Terms:
    """``a + factor * b``."""
    if not b or factor == 0:
        return a
    result = dict(a)
    for atom, k in b.items():
        total = result.get(atom, 0) + factor * k
        if total:
            result[atom] = total
        else:
            del result[atom]
    return result


def scale_terms(terms: Terms, factor: int) -> Terms:
    """``factor * terms``."""
    if factor == 1:
        return terms
    return {atom: k * factor for atom, k in terms.items()} if factor else {}


def mul_terms(a: tuple[Terms, int], b: tuple[Terms, int]) -> tuple[Terms, int]:
    """The product of two linear forms as a sum of products of atoms."""
    if not b[0]:
        return scale_terms(a[0], b[1]), a[1] * b[1]
    if not a[0]:
        return scale_terms(b[0], a[1]), a[1] * b[1]
    if (len(a[0]) + 1) * (len(b[0]) + 1) > _MAX_EXPANDED_TERMS:
        return {product([*factors(from_terms(*a)), *factors(from_terms(*b))]): 1}, 0
    result = add_terms(scale_terms(a[0], b[1]), b[0], a[1])
    for x, kx in a[0].items():
        for y, ky in b[0].items():
            result = add_terms(result, {product([*factors(x), *factors(y)]): kx * ky}, 1)
    return result, a[1] * b[1]


def factors(e: Expr) -> list[Expr]:
    """The operands of nested products of non-constants."""
    if type(e) is BinOp and e.op == "mul" and type(e.b) is not Const:
        return factors(e.a) + factors(e.b)
    return [e]


def product(operands: list[Expr]) -> Expr:
    """The product of ``operands`` in canonical order."""
    first, *rest = sorted(operands, key=sort_key)
    for operand in rest:
        first = binop("mul", first, operand)
    return first


_sort_keys: weakref.WeakKeyDictionary[Expr, tuple[Any, ...]] = weakref.WeakKeyDictionary()
_RANKS: Final[dict[type[Expr], int]] = {BinOp: 2, Cmp: 3, Select: 4, Cast: 5, Call: 6, Load: 7}


def sort_key(e: Expr) -> tuple[Any, ...]:
    """A deterministic total order (up to buffers of one name) of expressions: variables by age, then the rest
    by structure.
    """
    if type(e) is Var:
        return (0, e.order)
    if type(e) is Const:
        return (1, e.dtype, e.value)
    key = _sort_keys.get(e)
    if key is None:
        label = getattr(e, "op", None) or getattr(e, "name", None) or e.dtype
        if type(e) is Load:
            label = e.buffer.name
        key = (_RANKS.get(type(e), 8), label, len(e.children), *(sort_key(c) for c in e.children))
        _sort_keys[e] = key
    return key


def from_terms(terms: Terms, base: int) -> Expr:
    """The canonical expression of a linear form: equal forms give the same object.

    Positive terms come first, in canonical order, then the subtracted ones, then the constant.
    """
    if not terms:
        return const(base)
    atoms = list(terms) if len(terms) == 1 else sorted(terms, key=sort_key)
    result: Expr | None = None
    for atom in atoms:
        k = terms[atom]
        if k > 0:
            term = atom if k == 1 else binop("mul", atom, k)
            result = term if result is None else binop("add", result, term)
    for atom in atoms:
        k = terms[atom]
        if k < 0:
            term = atom if k == -1 else binop("mul", atom, -k)
            if result is not None:
                result = binop("sub", result, term)
            elif base:
                result, base = binop("sub", const(base), term), 0
            else:
                result = binop("mul", atom, k)
    assert result is not None
    return binop("add", result, base) if base else result


def known_divisor(e: Expr) -> int:
    """A positive integer that divides every value of ``e`` (0 when ``e`` is the constant 0)."""
    if type(e) is Const:
        return abs(int(e.value))
    if type(e) is Var:
        return e.multiple_of
    if type(e) is BinOp:
        if e.op in ("add", "sub", "min", "max"):
            return math.gcd(known_divisor(e.a), known_divisor(e.b))
        if e.op == "mul":
            return known_divisor(e.a) * known_divisor(e.b)
        if e.op == "mod":
            return math.gcd(known_divisor(e.a), known_divisor(e.b))
        if e.op == "floordiv" and type(e.b) is Const and e.b.value > 0:
            d = known_divisor(e.a)
            return d // int(e.b.value) if d % int(e.b.value) == 0 else 1
    if type(e) is Select:
        return math.gcd(known_divisor(e.a), known_divisor(e.b))
    return 1


def without_factors(operands: list[Expr], divisor: list[Expr]) -> tuple[list[Expr], int] | None:
    """A product divided by the factors of another: the factors that remain and a coefficient. None where it
    is not divided so. Exact quotients of one dimension divide each other: ``h // 4`` is ``4 * (h // 16)``
    for an ``h`` that is a multiple of 16.
    """
    remaining, times = list(operands), 1
    for d in divisor:
        if d in remaining:
            remaining.remove(d)
            continue
        dimension, c = _exact_quotient_of(d)
        for operand in remaining:
            whole, smaller = _exact_quotient_of(operand)
            if whole is dimension and c % smaller == 0:
                remaining.remove(operand)
                times *= c // smaller
                break
        else:
            return None
    return remaining, times


def _exact_quotient_of(e: Expr) -> tuple[Expr, int]:
    """``(x, c)`` where ``e`` is ``x // c`` without a rest; ``(e, 1)`` where it is no quotient."""
    if type(e) is BinOp and e.op == "floordiv" and isinstance(e.b, Const):
        c = int(e.b.value)
        if c > 0 and known_divisor(e.a) % c == 0:
            return e.a, c
    return e, 1
