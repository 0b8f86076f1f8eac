import itertools

import pytest

from tilewright.ir.expr import TRUE, Expr, Var, as_expr
from tilewright.ir.itermap import determined_vars
from tilewright.ir.visit import free_vars, substitute_expr

A, B, C = Var("i", lo=0, hi=5), Var("j", lo=0, hi=3), Var("k", lo=0, hi=2)
F = Var("f", lo=0, hi=23)
N = Var("n", lo=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([A, B, C], {A, B, C}),
        ([A * 4 + B], {A, B}),
        ([A * 3 + B], set()),  # 4 values of j do not fit below a stride of 3
        ([A * -4 + B], {A, B}),
        ([A * 12 + B * 3 + C], {A, B, C}),
        ([A * 12 + B * 2 + C], set()),
        ([A + B, B], {B}),
        ([F // 4, F % 4], {F}),
        ([F // 4], set()),
        ([F // 4, F % 3], set()),
        ([F // 8, F // 2 % 4, F % 2], {F}),
        ([(F // 4) * 6 + A, F % 4], {F, A}),
        ([(A * 4 + B) // 8, (A * 4 + B) % 8], {A, B}),
        ([N * 4 + B], {N, B}),  # no upper bound is needed for the leading digit
        ([N + B * 4], set()),
        ([A + 7], {A}),
    ],
)
def test_determined(values: list[Expr], expected: set[Var]) -> None:
    assert determined_vars(values, {A, B, C, F, N}) == expected
    assert expected <= _really_determined(values)


def _really_determined(values: list[Expr]) -> set[Var]:
    """By trying all assignments."""
    variables = sorted({v for e in values for v in free_vars(e)}, key=lambda v: v.name)
    seen: dict[tuple[Expr, ...], list[tuple[int, ...]]] = {}
    for point in itertools.product(*(range(1 + (9 if v.hi is None else v.hi)) for v in variables)):
        at: dict[Expr, Expr] = {v: as_expr(x) for v, x in zip(variables, point, strict=True)}
        seen.setdefault(tuple(substitute_expr(e, at) for e in values), []).append(point)
    return {
        v
        for n, v in enumerate(variables)
        if all(len({p[n] for p in points}) == 1 for points in seen.values())
    }


def test_other_variables_are_fixed() -> None:
    outer = Var("o", lo=0)
    assert determined_vars([outer * 7 + A], {A}) == {A}
    assert determined_vars([(outer * 8 + B) // 2, B % 2], {B}) == {B}


def test_a_condition_that_leaves_one_value() -> None:
    assert determined_vars([B], {A, B}, A * 2 + C < 1) == {A, B}
    assert determined_vars([B], {A, B}, A * 2 + C < 3) == {B}
    assert determined_vars([B], {A, B}, TRUE) == {B}


def test_digits_that_simplification_took_apart_are_joined() -> None:
    """A fused loop over 3 x 3 x 8 places, in parts of 16: part and lane are in the digits together only."""
    o, i = Var("o", lo=0, hi=4), Var("i", lo=0, hi=15)
    place = o * 16 + i
    digits = [place // 24, place // 8 % 3, place % 8]
    assert determined_vars(digits, {o, i}) == {o, i}
    assert determined_vars(digits[:2], {o, i}) == set()
    assert determined_vars([digits[0], digits[2]], {o, i}) == set()
