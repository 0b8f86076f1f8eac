"""Conditions: building them in canonical shape, negating and combining them."""

from __future__ import annotations

from tilewright.ir import dtype as dt
from tilewright.ir.bounds import UNBOUNDED, Interval
from tilewright.ir.expr import FALSE, TRUE, BinOp, Cmp, Const, Expr, all_of, binop, cmp, const, logical_not
from tilewright.ir.linear import Terms, add_terms, from_terms, linear_terms, scale_terms, sort_key


def nonnegative_condition(terms: Terms, base: int) -> Expr:
    """``terms + base >= 0`` written as ``left < right`` with positive coefficients on both sides."""
    left = {a: -k for a, k in terms.items() if k < 0}
    right = {a: k for a, k in terms.items() if k > 0}
    base += 1  # left < right + base
    if not right or (left and base < 0):
        if not right:
            return cmp("lt", from_terms(left, 0), const(base))
        return cmp("lt", from_terms(left, -base), from_terms(right, 0))
    if not left:
        return cmp("lt", const(-base), from_terms(right, 0))
    return cmp("lt", from_terms(left, 0), from_terms(right, base))


def operands_of(op: str, e: Expr) -> list[Expr]:
    """The operands of nested ``op``s."""
    if type(e) is BinOp and e.op == op:
        return operands_of(op, e.a) + operands_of(op, e.b)
    return [e]


def any_of(conds: list[Expr]) -> Expr:
    """Disjunction; FALSE for none."""
    result: Expr = FALSE
    for cond in conds:
        result = binop("or", result, cond)
    return result


def negate(cond: Expr) -> Expr:
    """``not cond``, pushed into conjunctions and disjunctions; integer comparisons keep their canonical
    shape.
    """
    if type(cond) is BinOp:
        if cond.op == "xor" and cond.b is TRUE:
            return cond.a
        if cond.op in ("and", "or"):
            return binop("or" if cond.op == "and" else "and", negate(cond.a), negate(cond.b))
    if type(cond) is Cmp and cond.op == "lt" and cond.a.dtype == dt.INDEX:
        # not (a < b) is b < a + 1; constants are kept on the side where the simplifier puts them.
        (a, c), (b, d) = linear_terms(cond.a), linear_terms(cond.b)
        return nonnegative_condition(add_terms(a, b, -1), c - d)
    return logical_not(cond)


def decide(op: str, a: Interval, b: Interval) -> Const | None:
    """A comparison of integers by their ranges."""
    below = a.hi is not None and b.lo is not None and (a.hi < b.lo or (op == "le" and a.hi == b.lo))
    above = a.lo is not None and b.hi is not None and (a.lo > b.hi or (op == "lt" and a.lo == b.hi))
    if op in ("lt", "le"):
        return TRUE if below else FALSE if above else None
    if below or above:
        return const(op == "ne", "bool")
    return None


def conjunction(parts: list[Expr]) -> Expr:
    """The conjunction of simplified conditions: duplicates, implied ones and contradictions go."""
    limits: dict[frozenset[tuple[Expr, int]], Interval] = {}
    owners: dict[tuple[frozenset[tuple[Expr, int]], bool], Expr] = {}
    result: dict[Expr, None] = {}
    for part in parts:
        if part is FALSE or negate(part) in result:
            return FALSE
        if part is TRUE or part in result:
            continue
        result[part] = None
        if not isinstance(part, Cmp) or part.op != "lt" or part.a.dtype != dt.INDEX:
            continue
        (a, c), (b, d) = linear_terms(part.a), linear_terms(part.b)
        terms, base = add_terms(b, a, -1), d - c - 1
        lower = terms[min(terms, key=sort_key)] > 0  # base >= -terms, or an upper limit of the negated form
        key = frozenset((terms if lower else scale_terms(terms, -1)).items())
        new = Interval(-base, None) if lower else Interval(None, base)
        old = limits.get(key, UNBOUNDED)
        both = limits[key] = old.intersect(new)
        if both.lo is not None and both.hi is not None and both.lo > both.hi:
            return FALSE
        if both == old:
            del result[part]
        elif (key, lower) in owners:
            del result[owners[key, lower]]
        if both != old:
            owners[key, lower] = part
    return all_of(list(result))
