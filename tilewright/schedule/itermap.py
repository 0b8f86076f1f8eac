"""Which loop variables the values of some expressions determine: the injectivity test of most legality
checks.

An expression that is a mixed-radix sum of digits (``io*16 + ii`` with ``ii`` in 0..15) determines every
digit; ``f // n`` and ``f % n`` together determine ``f``. Repeating the two steps answers whether two
different iterations can have equal iterator values.
"""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.ir.bounds import comparison_form, interval, linear
from tilewright.ir.expr import TRUE, BinOp, Expr, Var, conjuncts
from tilewright.ir.simplify import simplify
from tilewright.ir.visit import uses


def determined_vars(values: Iterable[Expr], variables: set[Var], where: Expr = TRUE) -> set[Var]:
    """Members of ``variables`` whose value follows from the ``values``, all other variables being fixed.

    Only values of the variables count for which ``where`` holds. Conservative: a variable that is left out
    may be determined after all.
    """
    known: set[Expr] = set()
    pending = [simplify(v) for v in values]
    while pending:
        while pending:
            e = pending.pop()
            if e in known or not uses(e, variables):
                continue
            known.add(e)
            pending.extend(_digits(e, variables))
        pending.extend(_joined(known, variables))
    return {v for v in variables if v in known} | (_pinned(where) & variables)


def _pinned(where: Expr) -> set[Var]:
    """Variables that can only be 0 where the condition holds, as in ``2*i + j < 1``."""
    pinned: set[Var] = set()
    for cond in conjuncts(where):
        form = comparison_form(cond)  # base + sum(k * atom) >= 0
        if form is None:
            continue
        terms, base = form
        if all(k < 0 and interval(atom).lo == 0 for atom, k in terms.items()):
            pinned |= {atom for atom, k in terms.items() if isinstance(atom, Var) and base < -k}
    return pinned


def _digits(e: Expr, variables: set[Var]) -> list[Expr]:
    """Sub-expressions that the value of ``e`` determines."""
    form = linear(e)
    if form is None:
        return []
    terms = [(abs(k), atom) for atom, k in form.terms.items() if uses(atom, variables)]
    terms.sort(key=lambda t: t[0])
    span = 0  # how far the digits below can move the sum
    for n, (k, atom) in enumerate(terms):
        if k <= span:
            return []
        low, high = interval(atom)
        if low is None or high is None:
            if n + 1 < len(terms):
                return []
            break
        span += k * (high - low)
    return [atom for _, atom in terms if atom is not e]


def _joined(known: set[Expr], variables: set[Var]) -> list[Expr]:
    """Expressions ``x`` whose ``x % n`` is known and whose ``x // n`` is known or fixed."""
    found = []
    for e in known:
        if isinstance(e, BinOp) and e.op == "mod" and e.a not in known:
            quotient = simplify(e.a // e.b)
            if quotient in known or not uses(quotient, variables) or interval(quotient).is_point:
                found.append(e.a)
    return found
