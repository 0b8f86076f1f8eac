"""Sizes that are known at run time only: what is taken for granted about them while compiling.

A dimension is a :class:`~tilewright.ir.expr.Var` with bounds and a typical size. Code is right for all sizes
within the bounds; schedules are chosen for the typical one, and memory is planned for the largest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tilewright.ir.bounds import interval
from tilewright.ir.expr import Const, Expr, Var, as_expr
from tilewright.ir.linear import factors, linear, product
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import const_int, free_vars, substitute_expr

#: Schedules are not chosen for larger sizes than this: what is good here is good for more.
MAX_TYPICAL: Final = 1024


def dimension(name: str, lo: int, hi: int, multiple_of: int = 1, typical: int | None = None) -> Var:
    """A dimension of ``lo`` to ``hi`` elements. Typical is the largest size, up to :data:`MAX_TYPICAL`,
    unless given."""
    if typical is None:
        typical = max(min(hi, MAX_TYPICAL), lo, 1)
    return Var(name, lo=lo, hi=hi, multiple_of=multiple_of, typical=typical)


def computed_dimension(name: str, most: Expr | int) -> Var:
    """A dimension of at most ``most`` elements whose size a kernel computes. Nothing is known of it as long
    as ``most`` has no upper bound."""
    limit = largest_size(most)
    return Var(name, lo=0) if limit is None else dimension(name, 0, max(limit, 0))


def typical_size(e: Expr | int) -> int | None:
    """The value of ``e`` where every dimension has its typical size; None when one has none."""
    e = as_expr(e)
    if isinstance(e, Const):
        return int(e.value)
    known: dict[Expr, Expr] = {}
    for var in free_vars(e):
        if var.typical is None:
            return None
        known[var] = as_expr(var.typical)
    return const_int(simplify(substitute_expr(e, known)))


def quotient(a: Expr, b: Expr) -> Expr:
    """``a // b`` in canonical form. Common factors that are not numbers cancel, taken to be positive."""
    form, by = linear(simplify(a)), linear(simplify(b))
    if form is not None and by is not None and len(by.terms) == 1 and by.const == 0 and form.const == 0:
        ((atom, coefficient),) = by.terms.items()
        terms = {term: factors(term) for term in form.terms}
        divisor = coefficient
        for factor in factors(atom):
            if not all(factor in rest for rest in terms.values()):
                break
            for rest in terms.values():
                rest.remove(factor)
        else:
            total: Expr = as_expr(0)
            for term, rest in terms.items():
                total = total + (product(rest) if rest else as_expr(1)) * form.terms[term]
            return simplify(total // divisor)
    return simplify(a // b)


def largest_size(e: Expr | int) -> int | None:
    """An upper bound of ``e`` for all sizes of its dimensions; None where there is none."""
    return interval(as_expr(e)).hi


def dims_of(exprs: Iterable[Expr]) -> tuple[Var, ...]:
    """The dimensions (variables with a typical size) in ``exprs``, in the order in which they were made."""
    found = {v for e in exprs for v in free_vars(e) if v.typical is not None}
    return tuple(sorted(found, key=lambda v: v.order))
