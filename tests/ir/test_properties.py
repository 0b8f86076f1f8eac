"""Properties of the simplifier and of ranges on random integer expressions: values never change, proofs are
never wrong.
"""

from __future__ import annotations

from hypothesis import given, settings

from tests.ir.strategies import IntegerProblem, evaluate, integer_problems
from tilewright.ir.bounds import Interval, interval
from tilewright.ir.expr import TRUE, Var, as_expr
from tilewright.ir.linear import from_terms, known_divisor, linear
from tilewright.ir.simplify import Simplifier, prove, simplify

_some = settings(max_examples=500, deadline=None, derandomize=True)
_many = settings(max_examples=1500, deadline=None, derandomize=True)


def _contains(span: Interval, value: int) -> bool:
    return (span.lo is None or span.lo <= value) and (span.hi is None or value <= span.hi)


@given(integer_problems())
@_many
def test_simplify_keeps_every_value(problem: IntegerProblem) -> None:
    e = problem.expr()
    simple = simplify(e)
    assert simplify(simple) is simple
    for point in problem.points(25):
        assert evaluate(simple, point) == evaluate(e, point)


@given(integer_problems())
@_many
def test_conditions_keep_every_value(problem: IntegerProblem) -> None:
    cond = problem.condition()
    simple = simplify(cond)
    assert simplify(simple) is simple
    for point in problem.points(25):
        assert evaluate(simple, point) == evaluate(cond, point)


@given(integer_problems())
@_many
def test_ranges_and_divisors_hold(problem: IntegerProblem) -> None:
    e = problem.expr()
    span, divisor = interval(e), known_divisor(e)
    for point in problem.points(25):
        value = evaluate(e, point)
        assert _contains(span, value)
        assert value == 0 if divisor == 0 else value % divisor == 0


@given(integer_problems())
@_many
def test_linear_forms_are_the_expression(problem: IntegerProblem) -> None:
    e = problem.expr()
    form = linear(e)
    assert form is not None
    assert all(form.terms.values())
    again = from_terms(form.terms, form.const)
    assert linear(again) == form
    for point in problem.points(10):
        assert evaluate(again, point) == evaluate(e, point)


@given(integer_problems())
@_many
def test_assumptions_are_used_soundly(problem: IntegerProblem) -> None:
    known, goal, e = problem.condition(), problem.condition(), problem.expr()
    env = Simplifier()
    env = env.assuming(env.simplify(known))
    proved, simple, span = env.prove(goal), env.simplify(e), env.interval(e)
    for point in problem.points(40):
        if evaluate(known, point):
            assert not proved or evaluate(goal, point)
            assert evaluate(simple, point) == evaluate(e, point)
            assert _contains(span, evaluate(e, point))


@given(integer_problems())
@_many
def test_proofs_under_bounds_hold(problem: IntegerProblem) -> None:
    goal = problem.condition()
    bounds = {var: Interval(min(values), max(values)) for var, values in problem.values.items()}
    if prove(goal, bounds):
        assert all(evaluate(goal, point) for point in problem.points(60))


@given(integer_problems())
@_some
def test_loops_bound_their_variable(problem: IntegerProblem) -> None:
    """A loop variable below a random extent: everything known inside holds for each of its values."""
    extent, loop = problem.expr(), Var("loop")
    inside = problem.expr() - loop * 2 + loop * problem.expr(1)
    goal = inside < problem.expr(1)
    env = Simplifier()
    env = env.with_loop(loop, env.simplify(extent))
    simple, proved = env.simplify(inside), env.prove(goal)
    for point in problem.points(6):
        for value in range(min(evaluate(extent, point), 7)):
            here = {**point, loop: value}
            assert evaluate(simple, here) == evaluate(inside, here)
            assert not proved or evaluate(goal, here)


@given(integer_problems())
@_some
def test_equal_combinations_are_one_object(problem: IntegerProblem) -> None:
    """The canonical form does not depend on how a sum was written."""
    a, b, c = (simplify(problem.expr(2)) for _ in range(3))
    left, right = (a + b) + c, b + (c + a)
    assert simplify(left) is simplify(right)
    assert simplify(left - right) is as_expr(0)
    assert simplify(left.eq(right)) is TRUE
