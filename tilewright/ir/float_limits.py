"""Ranges of floating-point expressions that were cut off, as quantization does before it goes to integers."""

from __future__ import annotations

import math

from tilewright.ir import dtype as dt
from tilewright.ir.expr import Call, Cmp, Const, Expr, Select

#: What is not known to be a number.
_ANY = (-math.inf, math.inf)


def float_limits(e: Expr) -> tuple[float, float] | None:
    """Numbers between which a float certainly lies; None where it may be NaN or infinite.

    Seen are constants, ``select(x > low, x, low)`` and ``select(x < high, x, high)``, which are not NaN for
    any ``x``, and roundings of them.
    """
    limits = _limits(e)
    if limits is None or math.isinf(limits[0]) or math.isinf(limits[1]):
        return None
    return limits


def _limits(e: Expr) -> tuple[float, float] | None:
    """Like :func:`float_limits`, with infinite ends where only one is known."""
    if isinstance(e, Const):
        return None if not dt.is_float(e.dtype) or math.isnan(e.value) else (float(e.value), float(e.value))
    if isinstance(e, Call) and e.name == "round":
        inner = _limits(e.args[0])
        return None if inner is None else (_rounded(inner[0]), _rounded(inner[1]))
    if not isinstance(e, Select) or not isinstance(e.cond, Cmp) or e.cond.op not in ("lt", "le"):
        return None
    below, above, x = e.cond.a, e.cond.b, e.a
    # A comparison with NaN is false, and then the constant is chosen.
    if below is e.b and above is x and isinstance(below, Const):
        low, high = _limits(x) or _ANY
        return max(low, float(below.value)), max(high, float(below.value))
    if above is e.b and below is x and isinstance(above, Const):
        low, high = _limits(x) or _ANY
        return min(low, float(above.value)), min(high, float(above.value))
    return None


def _rounded(number: float) -> float:
    return number if math.isinf(number) else float(round(number))
