"""Which loop variables the values of some expressions determine: the injectivity test of most legality
checks.

An expression that is a mixed-radix sum of digits (``io*16 + ii`` with ``ii`` in 0..15) determines every
digit; ``f // n`` and ``f % n`` together determine ``f``. Repeating the two steps answers whether two
different iterations can have equal iterator values. Radices may be symbolic (``io*t + ii`` with ``ii`` below
``t``).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Set

from tilewright.ir.bounds import affine, comparison_form, interval
from tilewright.ir.expr import TRUE, BinOp, Const, Expr, Var, as_expr, conjuncts
from tilewright.ir.simplify import Simplifier, simplify
from tilewright.ir.visit import uses

_NOTHING: Mapping[Var, Expr] = {}


def determined_vars(
    values: Iterable[Expr],
    variables: Set[Var],
    where: Expr = TRUE,
    extents: Mapping[Var, Expr] = _NOTHING,
) -> set[Var]:
    """Members of ``variables`` whose value follows from the ``values``, all other variables being fixed.

    Only values of the variables count for which ``where`` holds. ``extents`` says how many values ``0 ..`` a
    variable takes where its own bounds do not (a loop of symbolic extent). Conservative: a variable that is
    left out may be determined after all.
    """
    return set(_determined(tuple(values), frozenset(variables), where, tuple(extents.items())))


@functools.lru_cache(4096)  # primitives ask again about the loops that they left as they were
def _determined(
    values: tuple[Expr, ...], variables: frozenset[Var], where: Expr, pairs: tuple[tuple[Var, Expr], ...]
) -> frozenset[Var]:
    extents = dict(pairs)
    known: set[Expr] = set()
    pending = [simplify(v) for v in values]
    while pending:
        while pending:
            e = pending.pop()
            if e in known or not uses(e, variables):
                continue
            known.add(e)
            pending.extend(_digits(e, variables, extents))
        pending.extend(_joined(known, variables))
    return frozenset(v for v in variables if v in known) | (pinned_vars(where) & variables)


def pinned_vars(where: Expr) -> set[Var]:
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


def _digits(e: Expr, variables: Set[Var], extents: Mapping[Var, Expr]) -> list[Expr]:
    """Sub-expressions that the value of ``e`` determines."""
    form = affine(e, variables)
    if form is None:
        return []
    env = Simplifier()
    terms: list[tuple[Expr, Expr]] = []  # size of the step, atom
    for atom, coefficient in form.terms.items():
        size = step_size(coefficient, env)
        if size is None:
            return []
        terms.append((size, atom))
    ordered = ascending(terms, env)
    if ordered is None:
        return []
    span: Expr = as_expr(0)  # how far the digits below can move the sum
    for n, (size, atom) in enumerate(ordered):
        if not env.prove(span < size):
            return []
        reach = spread(atom, extents)
        if reach is None:
            if n + 1 < len(ordered):
                return []
            break
        span = env.simplify(span + size * reach)
    return [atom for _, atom in ordered if atom is not e]


def step_size(coefficient: Expr, env: Simplifier) -> Expr | None:
    """The absolute value of a coefficient that is certainly not 0; None when its sign is not known."""
    low, high = env.interval(env.simplify(coefficient))
    if low is not None and low > 0:
        return env.simplify(coefficient)
    if high is not None and high < 0:
        return env.simplify(coefficient * -1)
    return None


def ascending(terms: list[tuple[Expr, Expr]], env: Simplifier) -> list[tuple[Expr, Expr]] | None:
    """``(size, anything)`` pairs with certainly ascending sizes; None when some two cannot be compared."""
    if all(isinstance(size, Const) for size, _ in terms):
        return sorted(terms, key=lambda t: t[0].value if isinstance(t[0], Const) else 0)
    left, ordered = list(terms), []
    while left:
        least = next((t for t in left if all(o is t or env.prove(t[0] <= o[0]) for o in left)), None)
        if least is None:
            return None
        left.remove(least)
        ordered.append(least)
    return ordered


def spread(atom: Expr, extents: Mapping[Var, Expr]) -> Expr | None:
    """How far apart two values of ``atom`` can be; None when that is not known."""
    low, high = interval(atom)
    if low is None:
        return None
    if high is not None and not _open_remainder(atom):
        return as_expr(high - low)
    top = _top(atom, extents)
    return None if top is None else simplify(top - low)


def _open_remainder(atom: Expr) -> bool:
    """Whether ``atom`` is a remainder that only its divisor limits, and that is no constant."""
    if not isinstance(atom, BinOp) or atom.op != "mod" or isinstance(atom.b, Const):
        return False
    whole, divisor = interval(atom.a).hi, interval(atom.b)
    return (divisor.lo or 0) > 0 and (whole is None or divisor.hi is None or whole >= divisor.hi)


def _top(atom: Expr, extents: Mapping[Var, Expr]) -> Expr | None:
    """The largest value of ``atom`` as an expression, or None."""
    if isinstance(atom, Var):
        return atom_extent - 1 if (atom_extent := extents.get(atom)) is not None else None
    if isinstance(atom, BinOp) and atom.op in ("floordiv", "mod") and (interval(atom.b).lo or 0) > 0:
        if atom.op == "mod":
            return atom.b - 1
        top = _top(atom.a, extents)
        return None if top is None else top // atom.b
    high = interval(atom).hi
    return None if high is None else as_expr(high)


def _joined(known: set[Expr], variables: Set[Var]) -> list[Expr]:
    """Expressions ``x`` whose ``x % n`` is known and whose ``x // n`` is known or fixed, or the other way
    round (simplified, the dividends of quotient and remainder may look different).
    """
    found = []
    for e in known:
        if isinstance(e, BinOp) and e.op in ("mod", "floordiv") and e.a not in known:
            if not uses(e.b, variables):
                if e.op == "mod":
                    joined = _follows(simplify(e.a // e.b), known, variables)
                else:
                    joined = _remainder_follows(e.a, e.b, known, variables)
                if joined:
                    found.append(e.a)
    return found


def _follows(e: Expr, known: set[Expr], variables: Set[Var]) -> bool:
    return e in known or not uses(e, variables) or interval(e).is_point


def _remainder_follows(x: Expr, n: Expr, known: set[Expr], variables: Set[Var]) -> bool:
    """Whether ``x % n`` is known, as it is or digit by digit: ``x // d % m`` and ``x % d``, for
    ``n == d * m``.
    """
    if _follows(simplify(x % n), known, variables):
        return True
    if not isinstance(n, Const):
        return False
    for e in known:
        if isinstance(e, BinOp) and e.op == "mod" and isinstance(e.b, Const) and 1 < e.b.value < n.value:
            lower, rest = divmod(int(n.value), int(e.b.value))
            if rest == 0 and simplify(x // lower % e.b) is e:
                return _remainder_follows(x, as_expr(lower), known, variables)
    return False
