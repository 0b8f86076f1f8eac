"""Terms that are zero in the padding of a tensor: ``select(inside, x, 0) * w``."""

from __future__ import annotations

from tilewright.ir.expr import BinOp, Cast, Const, Expr, Select, binop, cast, conjuncts
from tilewright.ir.visit import loads_of


def split_zero(e: Expr) -> tuple[list[Expr], Expr]:
    """Conditions on positions without which ``e`` is zero, and ``e`` given that they hold.

    A factor that is infinite or NaN where another one is padding is taken to contribute nothing.
    """
    if isinstance(e, Select) and isinstance(e.b, Const) and e.b.value == 0 and is_padding(e):
        conds, value = split_zero(e.a)
        return conjuncts(e.cond) + conds, value
    if isinstance(e, BinOp) and e.op == "mul":
        left, a = split_zero(e.a)
        right, b = split_zero(e.b)
        if left or right:
            return left + [c for c in right if c not in left], binop("mul", a, b)
    if isinstance(e, Cast):
        conds, value = split_zero(e.value)
        if conds:
            return conds, cast(e.dtype, value)
    return [], e


def is_padding(e: Select) -> bool:
    """Whether the choice is one of position: what depends on data stays a select, which costs less than a
    branch and lets infinite and NaN factors through.
    """
    return not any(True for _ in loads_of(e.cond))
