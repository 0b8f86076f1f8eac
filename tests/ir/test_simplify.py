"""The simplifier on expressions and statements with known answers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from tilewright.ir import te
from tilewright.ir.bounds import Interval, interval
from tilewright.ir.expr import (
    FALSE,
    TRUE,
    Expr,
    Var,
    as_expr,
    call,
    cast,
    const,
    load,
    logical_not,
    maximum,
    minimum,
    select,
)
from tilewright.ir.interp import run
from tilewright.ir.printer import to_text
from tilewright.ir.simplify import NOOP, Simplifier, prove, simplify, simplify_stmt
from tilewright.ir.stmt import Alloc, Annotate, Buffer, Evaluate, For, If, PrimFunc, Seq, Stmt, Store, seq
from tilewright.ir.visit import const_int, free_vars, substitute_expr, walk_stmt

a = Var("a", lo=0, hi=9)
b = Var("b", lo=0, hi=7)
x = Var("x")
y = Var("y")
n = Var("n", lo=1)
i = Var("i", lo=0)
m4 = Var("m4", multiple_of=4)

CASES: list[tuple[Expr, Expr | int | bool]] = [
    # linear forms
    (x + y - x, y),
    (x * 3 - x - x, x),
    ((x + 1) * 2 - 2 * x, 2),
    ((x + 1) * (x - 1) - x * x, -1),
    (x * y - y * x, 0),
    ((3 - x) + 2 * x, x + 3),
    # division and remainder by constants
    ((a * 8 + b) // 8, a),
    ((a * 8 + b) % 8, b),
    ((a * 8 + b + 8) // 8, a + 1),
    ((a * 8 + b) // 16, a // 2),
    ((a * 8 + b) % 16, b + (a % 2) * 8),
    ((x // 2) // 4, x // 8),
    ((x // 2 + 3) // 4, (x + 6) // 8),
    ((x * 6 + 4) // 2, x * 3 + 2),
    ((x * 6 + 4) % 4, ((x + 0) * 2) % 4),
    ((x % 16) % 4, x % 4),
    ((x % 16) // 4, (x % 16) // 4),
    (((x % 16) + 1) % 4, (x + 1) % 4),
    ((x // 5) * 5 + x % 5, x),
    ((x % 16) // 4 * 4 + x % 4, x % 16),
    (x % 4 + (x // 4) % 4 * 4, x % 16),
    ((m4 // 4) * 4, m4),
    (m4 % 2, 0),
    ((m4 + b) // 4, m4 // 4 + b // 4),
    (b // 8, 0),
    (b % 8, b),
    ((-1 - b) // 8, -1),
    # symbolic divisors
    ((i * n + x) // n, i + x // n),
    ((x * n * y + n) // n, x * y + 1),
    # min and max
    (minimum(a, 20), a),
    (maximum(a, 20), 20),
    (minimum(x + 1, x + 3), x + 1),
    (minimum(minimum(x, 5), 7), minimum(x, 5)),
    (maximum(b, 3), maximum(b, 3)),
    # comparisons
    (a * 8 + b < 40, a < 5),
    (a * 8 + b < 80, True),
    (a * 8 + b >= 80, False),
    (x * 4 <= y * 4 + 3, x < y + 1),
    (x + 1 > x, True),
    ((x * 2).eq(3), False),
    ((m4 * 3).eq(y * 0 + 2), False),
    ((x * 2).eq(y * 2 + 4), x.eq(y + 2)),
    (a.ne(10), True),
    # conditions
    ((b < 5) & (b < 3) & (b < 9), b < 3),
    ((x < 3) & (x >= 3), False),
    ((x < 3) | (x >= 3), True),
    ((x < 3) | (x < 5), x < 5),
    (x.eq(3) & x.ne(3), False),
    (logical_not((x < 3) & (y < 3)), (x > 2) | (y > 2)),
    # select
    (select(a < 10, x, y), x),
    (select(x < 3, select(x < 3, 1, 2), 4), select(x < 3, 1, 4)),
    (select(x < 3, TRUE, FALSE), x < 3),
    # what is inside of other things
    (cast("float32", (a * 8 + b) // 8), cast("float32", a)),
]


@pytest.mark.parametrize(("given", "expected"), CASES, ids=lambda e: repr(e))
def test_known(given: Expr, expected: Expr | int | bool) -> None:
    wanted = expected if isinstance(expected, Expr) else as_expr(expected)
    assert simplify(given) is simplify(wanted)
    if not isinstance(expected, Expr):
        assert simplify(given) is wanted


def test_equal_forms_are_one_object() -> None:
    assert simplify(x * 2 + y + 3) is simplify(3 + y + x + x)
    assert simplify((x + 1) * (y + 2)) is simplify(y * x + 2 * x + y + 2)


def test_terms_stand_in_order_of_creation() -> None:
    first, second = Var("z"), Var("a")
    assert repr(simplify(second + first * 2)) == "((z * 2) + a)"


def test_bounds_override_the_variables_own() -> None:
    assert prove(a < 10)
    assert not prove(a < 10, {a: Interval(0, 20)})
    assert prove(a < 3, {a: Interval(0, 2)})


def test_floats_are_left_alone() -> None:
    buffer = Buffer.make("A", (4,), "float32")
    v = load(buffer, [0])
    assert simplify((v + 1.0) + 2.0) is (v + 1.0) + 2.0
    assert simplify(v - v) is v - v
    assert simplify(v * 0.0) is v * 0.0
    # exact: adding -0.0, subtracting 0.0, dividing by 1 change no value
    assert simplify(v + const(-0.0, "float32")) is v
    assert simplify(v + const(0.0, "float32")) is not v
    assert simplify(v - const(0.0, "float32")) is v
    assert simplify(v / 1.0) is v


def test_narrow_integers_may_wrap() -> None:
    small = Var("s", "int8")
    assert simplify((small + 1) > small) is not TRUE
    assert simplify(small.astype("int64") + 1 > small.astype("int64")) is TRUE
    assert simplify(small < const(127, "int8")) is not TRUE
    assert simplify(small <= const(127, "int8")) is TRUE


def test_assumptions() -> None:
    env = Simplifier().assuming((x < y) & (y <= 8) & x.ne(z := Var("z")))
    assert env.prove(x < 8)
    assert env.prove(x + 1 <= y)
    assert env.prove(x.ne(z))
    assert not env.prove(x < 7)
    assert not Simplifier().prove(x < 8)


# -- statements ----------------------------------------------------------------------------------------------

C = Buffer.make("C", (64,), "float32")


def _store(index: Expr) -> Stmt:
    return Store(C, (index,), as_expr(1.0))


def _loop(var: Var, extent: Expr | int, body: Stmt, kind: str = "serial") -> For:
    return For(var, as_expr(extent), body, kind)


def test_dead_code_goes() -> None:
    v = Var("v")
    assert simplify_stmt(_loop(v, 0, _store(v))) is NOOP
    assert simplify_stmt(_loop(v, 4, If(v < 0, _store(v)))) is NOOP
    nothing = simplify_stmt(Alloc(C, Annotate("k", 1, If(x < 0, Seq(()), Seq(())))))
    assert isinstance(nothing, Seq)
    assert nothing.stmts == ()


def test_unit_loops_go_but_thread_axes_stay() -> None:
    v = Var("v")
    result = simplify_stmt(_loop(v, 1, _store(v + 3)))
    assert isinstance(result, Store)
    assert result.indices == (as_expr(3),)
    assert isinstance(simplify_stmt(_loop(v, 1, _store(v + 3), "thread:x")), For)


def test_a_branch_knows_its_condition() -> None:
    v = Var("v")
    inner = If(v < 5, _store(v), _store(v + 1))
    result = simplify_stmt(_loop(v, 8, If(v < 3, inner, If(v >= 3, _store(v + 2)))))
    assert isinstance(result, For)
    assert isinstance(result.body, If)
    assert result.body.then.indices == (v,)  # type: ignore[attr-defined]
    assert result.body.orelse.indices == (simplify(v + 2),)  # type: ignore[union-attr]


def test_empty_then_becomes_the_negation() -> None:
    result = simplify_stmt(If(x < 3, Seq(()), _store(x)))
    assert isinstance(result, If)
    assert result.orelse is None
    assert result.cond is simplify(x >= 3)


def test_symbolic_extents_bound_their_variable() -> None:
    outer, inner = Var("o"), Var("i")
    size = Var("N", lo=1)
    tail = minimum(as_expr(8), size - outer * 8)
    body = If(outer * 8 + inner < size, _store(outer * 8 + inner))
    result = simplify_stmt(_loop(outer, (size + 7) // 8, _loop(inner, tail, body)))
    assert not any(isinstance(s, If) for s in walk_stmt(result))


def test_a_loop_that_may_not_run_proves_nothing_after_it() -> None:
    v, size, other = Var("v"), Var("N", lo=0), Var("M", lo=0)
    after = If(size + other >= 1, _store(as_expr(0)))
    result = simplify_stmt(seq([_loop(v, size, _store(v)), after]))
    assert any(isinstance(s, If) for s in walk_stmt(result))


def test_one_variable_in_two_loops() -> None:
    v = Var("v")
    guarded = If(v < 4, _store(v))
    result = simplify_stmt(seq([_loop(v, 4, guarded), _loop(v, 8, guarded), _loop(v, 1, guarded)]))
    assert isinstance(result, Seq)
    first, second, third = result.stmts
    assert isinstance(first.body, Store)  # type: ignore[attr-defined]
    assert isinstance(second.body, If)  # type: ignore[attr-defined]
    assert isinstance(third, Store)
    assert not free_vars(third.indices[0])


def test_untouched_statements_keep_their_identity() -> None:
    v, w = Var("v", lo=0, hi=63), Var("w", lo=0, hi=7)
    body = seq([_loop(v, 64, _store(v)), _loop(w, 8, _store(w * 8)), Evaluate(call("fence", [], "bool"))])
    once = simplify_stmt(body)
    assert simplify_stmt(once) is once
    assert once is body


def test_a_blocks_body_keeps_its_meaning() -> None:
    source = te.placeholder((6, 1, 5), "float32", "A")
    result = te.compute((6, 5), lambda p, q: te.reduce("sum", (1,), lambda r: source[p, r, q]), "B")
    func = te.primfunc("f", [source], [result])
    data = np.arange(30, dtype=np.float32).reshape(6, 1, 5)
    simple = func.with_(body=simplify_stmt(func.body))
    np.testing.assert_array_equal(run(simple, [data])[0], data[:, 0])
    assert "serial(1)" not in to_text(simple)


def test_a_large_program_costs_one_visit_a_node() -> None:
    """An unrolled register tile: work grows with the number of different nodes, not with the size of the
    tree.
    """
    loops = [Var(f"l{k}", lo=0, hi=7) for k in range(6)]
    data = Buffer.make("X", (1 << 20,), "float32")
    stmts: list[Stmt] = []
    for k in range(500):
        index: Expr = as_expr(k)
        for var in loops:
            index = index * 8 + var
        stmts.append(If(index // 8 % 8 < 8, Store(data, (index % (1 << 20),), load(data, (index // 8,)))))
    func = PrimFunc("f", (data,), seq(stmts), (("outputs", 1),))
    calls = 0
    original = Simplifier._simplify

    def counting(self: Simplifier, e: Expr) -> Expr:
        nonlocal calls
        calls += 1
        return original(self, e)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Simplifier, "_simplify", counting)
        simplify_stmt(func.body)
    assert calls < 8 * 500


def test_products_of_variables_are_bounded_together() -> None:
    """Ranges of sums of products, and of ``d * (n // d)``, hold and decide what tilings need."""
    t, u = Var("t", lo=1, hi=5), Var("u", lo=2, hi=4)
    n = Var("n", lo=0, hi=9)
    provable = [
        t * u - u >= 0,
        t * u >= t + 1,
        t * ((n // t) + 1) >= n + 1,
        t * u * (n // (t * u)) <= n,
        u * t * (17 // (t * u)) + t * u >= 18,
    ]
    for cond in provable:
        assert prove(cond), cond
    rng = random.Random(0)
    atoms = [t, u, n, t * u, t * n, n // t, t * (n // t), u * (n // u), t * u * (n // (t * u)), t * u * n]
    points = list(itertools.product(range(1, 6), range(2, 5), range(10)))
    for _ in range(300):
        e = as_expr(rng.randint(-4, 4))
        for atom in rng.sample(atoms, rng.randint(2, 4)):
            e = e + atom * rng.choice([-3, -2, -1, 1, 2, 3])
        values = []
        for x, y, z in points:
            at = {t: as_expr(x), u: as_expr(y), n: as_expr(z)}
            values.append(const_int(simplify(substitute_expr(e, at))))
        found = interval(simplify(e))
        assert found.lo is None or found.lo <= min(values)
        assert found.hi is None or found.hi >= max(values)


def test_division_by_a_multiple_of_a_variable() -> None:
    """``(16*v + l) // (16*t)`` with ``l < 16`` is ``v // t``, as tiles of open width need it."""
    t, u = Var("t", lo=1, hi=4), Var("u", lo=1, hi=3)
    v, lane = Var("v", lo=0, hi=20), Var("l", lo=0, hi=15)
    assert simplify((v * 16 + lane) // (t * 16)) is simplify(v // t)
    assert simplify((v * 16 + lane) % (t * 16)) is simplify((v % t) * 16 + lane)
    assert simplify((v * t * 16 + lane) // (t * 16)) is v
    assert simplify((v * 16 + lane) // (t * 32)) is not simplify(v // (t * 2))  # 16*v is no multiple of 32
    rng = random.Random(1)
    for _ in range(200):
        a = as_expr(rng.randint(0, 40))
        for atom in (v, lane, v * t, v * u * t):
            a = a + atom * rng.choice([0, 1, 4, 8, 16])
        d = rng.choice([t, u, t * u]) * rng.choice([2, 4, 16])
        for e in (a // d, a % d):
            at: dict[Expr, Expr] = {x: as_expr(rng.randint(x.lo or 0, x.hi or 0)) for x in (t, u, v, lane)}
            found = const_int(simplify(substitute_expr(simplify(e), at)))
            assert found == const_int(substitute_expr(e, at)), (e, at)
