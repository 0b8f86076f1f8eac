"""Decisions: numbers in a schedule that are chosen from a domain, and may stay open.

In a schedule with open decisions a decision is a variable; factors, extents, footprints and layouts are
expressions over it. A bound schedule has a value in its place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.stmt import PrimFunc

#: Values that one decision may choose between, at most.
MAX_DOMAIN = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """A number to choose.

    Attributes:
        name: unique in the schedule; an identifier.
        domain: the values it may take, ascending, all at least 1.
        value: what was chosen, and None while it is open.
        symbol: what stands for it in the program: a variable while it is open, then the constant.
    """

    name: str
    domain: tuple[int, ...]
    value: int | None
    symbol: Expr


def make_decision(name: str, domain: Sequence[int], value: int | None, taken: Mapping[str, Expr]) -> Decision:
    """A checked decision.

    Raises ScheduleError for a name that is taken or not an identifier, a domain that is empty or holds
    anything but positive integers, and a value outside of it.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ScheduleError(f"decide: {name!r} is not a name", hint="use an identifier such as 'rows'")
    if name in taken:
        raise ScheduleError(
            f"decide: '{name}' is already a decision or a dimension of this function",
            hint="every decision has a name of its own",
        )
    if isinstance(domain, str) or not isinstance(domain, Sequence):
        raise ScheduleError(
            f"decide: the domain of '{name}' is not a list of integers",
            hint="give the values to choose from, such as [1, 2, 4]",
        )
    values = list(domain)
    if not values or len(values) > MAX_DOMAIN:
        raise ScheduleError(
            f"decide: the domain of '{name}' has {len(values)} values, not 1 to {MAX_DOMAIN}",
            hint="give the values to choose from, such as [1, 2, 4]",
        )
    if any(type(v) is not int or not 1 <= v < 1 << 31 for v in values):
        raise ScheduleError(
            f"decide: the domain of '{name}' holds something else than positive integers",
            hint="decisions are extents and factors, at least 1",
        )
    allowed = tuple(sorted(set(values)))
    if value is None:
        low, high = allowed[0], allowed[-1]
        return Decision(name, allowed, None, Var(name, lo=low, hi=high, multiple_of=math.gcd(*allowed)))
    if type(value) is not int or value not in allowed:
        raise ScheduleError(
            f"decide: {value!r} is not in the domain of '{name}': {_listed(allowed)}",
            hint="choose one of its values, or leave the decision open in a symbolic schedule",
        )
    return Decision(name, allowed, value, as_expr(value))


def _listed(values: tuple[int, ...]) -> str:
    if len(values) <= 12:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:8]))}, ... {values[-1]}"


def scope_of(func: PrimFunc, decisions: Mapping[str, Decision]) -> dict[str, Expr]:
    """What names in factors and layouts mean: the run-time dimensions of ``func`` and the decisions."""
    scope: dict[str, Expr] = {p.name: p for p in func.params if isinstance(p, Var)}
    scope.update({name: decision.symbol for name, decision in decisions.items()})
    return scope
