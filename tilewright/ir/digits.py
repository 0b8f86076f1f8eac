"""Reading a variable off an index: how the element that is accessed says which thread accesses it.

In ``A[by*64 + ty*4 + i]`` with ``i < 4`` and ``ty < 16`` the thread's coordinate is ``(index // 4) % 16``.
Two accesses from which a coordinate is read in the same way touch the same element only if it is equal in
both: no thread touches what another one does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from tilewright.ir.bounds import affine
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.simplify import Simplifier


@dataclasses.dataclass(frozen=True)
class Digit:
    """``(index // divisor) % modulus`` of one dimension; ``dim`` None counts elements row by row, ``modulus``
    None takes no remainder."""

    dim: int | None
    divisor: Expr
    modulus: Expr | None

    def of(self, indices: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
        """The digit of the element at ``indices`` of an array of ``shape``."""
        index = _row_major(indices, shape) if self.dim is None else indices[self.dim]
        quotient = index // self.divisor
        return quotient if self.modulus is None else quotient % self.modulus


def digits(
    var: Var, extent: Expr, indices: Sequence[Expr], shape: Sequence[Expr], env: Simplifier
) -> list[Digit]:
    """All known ways to read ``var``, which takes ``extent`` values, off ``indices``. ``env`` knows the
    ranges of the variables.
    """
    found: list[Digit] = []
    places: list[tuple[int | None, Expr]] = list(enumerate(indices))
    if len(indices) > 1:
        places.append((None, _row_major(indices, shape)))
    for dim, index in places:
        form = affine(env.simplify(index), {var})
        step = None if form is None else form.terms.get(var)
        if step is None or not env.prove(step >= 1):
            continue
        candidates = Digit(dim, step, None), Digit(dim, step, extent)
        found.extend(d for d in candidates if env.simplify(d.of(indices, shape)) is var)
    return found


def one_owner(
    accesses: Iterable[tuple[Expr, Expr, Sequence[Expr], Simplifier]], shape: Sequence[Expr]
) -> bool:
    """Whether accesses that touch the same element of an array of ``shape`` certainly have equal coordinates.

    ``accesses`` are (coordinate, its extent, indices, simplifier that knows the ranges); a coordinate is a
    variable or a constant.
    """
    given = [(env.simplify(c), extent, indices, env) for c, extent, indices, env in accesses]
    coordinates = {c for c, _, _, _ in given}
    if len(coordinates) == 1 and not isinstance(next(iter(coordinates)), Var):
        return True
    for coordinate, extent, indices, env in given:
        if isinstance(coordinate, Var):
            found = digits(coordinate, extent, indices, shape, env)
            return any(all(e.simplify(d.of(i, shape)) is c for c, _, i, e in given) for d in found)
    return False


def _row_major(indices: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    total: Expr = as_expr(0)
    for index, size in zip(indices, shape, strict=True):
        total = total * size + index
    return total
