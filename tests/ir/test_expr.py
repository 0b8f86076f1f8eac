"""Interning, folding and typing of expressions; walking and rewriting them."""

from __future__ import annotations

import gc
import math

import pytest

from tilewright.ir import te
from tilewright.ir.bounds import Interval, affine, interval, upper_bounds
from tilewright.ir.expr import (
    FALSE,
    TRUE,
    Expr,
    Var,
    all_of,
    as_expr,
    binop,
    call,
    cast,
    ceildiv,
    conjuncts,
    const,
    load,
    logical_not,
    maximum,
    minimum,
    reduce_identity,
    select,
)
from tilewright.ir.linear import linear
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Buffer, For, Seq, Store, seq
from tilewright.ir.visit import (
    const_extent,
    const_int,
    free_vars,
    loads_of,
    replace_buffers,
    rewrite_expr,
    substitute,
    substitute_expr,
    uses,
    walk_expr,
)

x, y = Var("x"), Var("y")
A = Buffer.make("A", (8,), "float32")


def test_equal_expressions_are_one_object() -> None:
    assert x + y is x + y
    assert load(A, [x]) is load(A, [x])
    assert Var("x") is not Var("x")
    assert const(1) is not const(1, "int32")
    assert const(0.0, "float32") is not const(-0.0, "float32")
    assert const(math.nan, "float32") is const(math.nan, "float32")


def test_nodes_die_with_their_last_user() -> None:
    from tilewright.ir import expr

    gc.collect()
    before = len(expr._table)
    node = (x * 12345 + y) // 67890
    assert len(expr._table) > before
    del node
    gc.collect()
    assert len(expr._table) == before


@pytest.mark.parametrize(
    ("e", "value"),
    [
        (as_expr(-7) // 2, -4),
        (as_expr(-7) % 2, 1),
        (const(100, "int8") + const(100, "int8"), -56),
        (const(3, "uint8") - const(5, "uint8"), 254),
        (binop("shl", 1, as_expr(4)), 16),
        (minimum(as_expr(3), 5), 3),
        (as_expr(3) < 5, True),
        (cast("int8", as_expr(300)), 44),
        (ceildiv(as_expr(7), 2), 4),
    ],
)
def test_constants_fold(e: Expr, value: int) -> None:
    assert const_int(e) == value


def test_neutral_elements_fold() -> None:
    assert x + 0 is x
    assert x * 1 is x
    assert x * 0 is as_expr(0)
    assert x // 1 is x
    assert x % 1 is as_expr(0)
    assert (x + 3) + 4 is x + 7
    assert (x * 3) * 4 is x * 12
    assert x - x is as_expr(0)
    assert ((x < 3) & TRUE) is (x < 3)
    assert ((x < 3) | TRUE) is TRUE
    assert select(x < 3, y, y) is y
    assert logical_not(x < 3) is (as_expr(3) <= x)
    assert maximum(x, x) is x


def test_division_by_zero_is_not_folded() -> None:
    assert const_int(as_expr(1) // 0) is None
    assert const_int(as_expr(1) % 0) is None


def test_floats_round_to_their_type() -> None:
    assert const(0.1, "float32").value == pytest.approx(0.1, rel=1e-7)
    assert const(1e30, "float16").value == math.inf
    assert const(1.00390625, "bfloat16").value == 1.0
    assert const(0.1, "float64").value == 0.1


def test_types_do_not_mix() -> None:
    with pytest.raises(TypeError, match="different dtypes"):
        x + load(A, [0])
    with pytest.raises(TypeError, match="rank 1"):
        load(A, [0, 1])
    with pytest.raises(TypeError, match="unknown dtype"):
        cast("float31", x)
    with pytest.raises(TypeError, match="truth value"):
        bool(x < 3)
    with pytest.raises(TypeError, match="not iterable"):
        list(x)


@pytest.mark.parametrize(
    ("op", "dtype", "value"),
    [
        ("sum", "int8", 0),
        ("prod", "float32", 1.0),
        ("max", "float32", -math.inf),
        ("min", "int8", 127),
        ("max", "uint8", 0),
    ],
)
def test_reduction_identities(op: str, dtype: str, value: float) -> None:
    assert reduce_identity(op, dtype).value == value


def test_conjunctions() -> None:
    parts = [x < 3, y < 4, x < y]
    assert conjuncts(all_of(parts)) == parts
    assert all_of([]) is TRUE
    assert conjuncts(FALSE) == [FALSE]


def test_walking() -> None:
    e = load(A, [x + y]) * load(A, [x + y]) + 1.0
    nodes = list(walk_expr(e))
    assert len(nodes) == len(set(nodes))
    assert nodes[-1] is e
    assert free_vars(e) == {x, y}
    assert [n.buffer for n in loads_of(e)] == [A]
    assert uses(e, {y})
    assert not uses(e, {Var("z")})


def test_rewriting() -> None:
    e = (x + y) * 2 + (x + y) // 3
    assert substitute_expr(e, {x + y: x}) is x * 2 + x // 3
    assert substitute_expr(e, {x: as_expr(1), y: as_expr(2)}) is as_expr(7)
    assert rewrite_expr(e, lambda node: None) is e
    other = Buffer.make("B", (8,), "float32")
    store = Store(A, (x,), load(A, [y]))
    swapped = replace_buffers(store, {A: other})
    assert isinstance(swapped, Store)
    assert swapped.buffer is other
    assert swapped.value is load(other, [y])
    loop = For(y, as_expr(3), store)
    assert substitute(loop, {}) is loop
    assert substitute(loop, {Var("unused"): x}) is loop


def test_sequences_flatten() -> None:
    store = Store(A, (x,), load(A, [y]))
    flat = seq([store, seq([store, store]), Seq(())])
    assert isinstance(flat, Seq)
    assert flat.stmts == (store, store, store)
    assert seq([store]) is store


def test_const_extent_names_what_is_not_constant() -> None:
    assert const_extent(as_expr(4), "the extent") == 4
    with pytest.raises(ValueError, match="the extent is not a constant: x"):
        const_extent(x, "the extent")


# -- bounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("e", "expected"),
    [
        (x * 2 + 1, Interval(None, None)),
        (Var("a", lo=0, hi=7) * 3 - 2, Interval(-2, 19)),
        (Var("a", lo=-3, hi=7) // 2, Interval(-2, 3)),
        (x % 8, Interval(0, 7)),
        (Var("a", lo=8, hi=11) % 8, Interval(0, 3)),
        (minimum(x, 5), Interval(None, 5)),
        (maximum(x, 5), Interval(5, None)),
        (Var("a", lo=-3, hi=2) * Var("b", lo=-5, hi=4), Interval(-12, 15)),
        (x * x, Interval(0, None)),
        (select(x < 3, as_expr(1), as_expr(5)), Interval(1, 5)),
        (cast("int64", x < 3), Interval(0, 1)),
        (cast("int64", Var("u", "uint8")), Interval(0, 255)),
        (Var("u", "uint8") + const(1, "uint8"), Interval(0, 255)),
        (binop("and", x, as_expr(15)), Interval(0, 15)),
        (binop("shr", Var("a", lo=0, hi=255), as_expr(4)), Interval(0, 15)),
        (call("abs", [x]), Interval(None, None)),
    ],
)
def test_intervals(e: Expr, expected: Interval) -> None:
    assert interval(e) == expected


def test_given_bounds() -> None:
    assert interval(x + y, {x: Interval(0, 3), y: Interval(1, 1)}) == Interval(1, 4)


def test_linear_forms() -> None:
    form = linear(3 * (x - y) + x // 2 - 5)
    assert form is not None
    assert form.terms == {x: 3, y: -3, x // 2: 1}
    assert form.const == -5
    assert linear(x < 3) is None
    assert linear(cast("int32", x)) is None


def test_affine_forms_have_symbolic_coefficients() -> None:
    form = affine(simplify(x * 4 + y * x + y // 2 + 1), {x})
    assert form is not None
    assert simplify(form.terms[x]) is simplify(y + 4)
    assert simplify(form.base) is simplify(y // 2 + 1)
    mixed = affine(simplify(x * y + x // 2), {x, y})
    assert mixed is not None
    assert set(mixed.terms) == {simplify(x * y), simplify(x // 2)}
    assert affine(x < 3, {x}) is None


def test_upper_bounds_of_an_extent() -> None:
    assert upper_bounds(minimum(minimum(as_expr(8), x), y)) == [as_expr(8), x, y]
    assert upper_bounds(x) == [x]


# -- te ------------------------------------------------------------------------------------------------------


def test_te_rejects_what_it_cannot_say() -> None:
    a = te.placeholder((4, 4), "float32", "A")
    with pytest.raises(ValueError, match="not the whole body"):
        te.compute((4,), lambda i: te.reduce("sum", (4,), lambda k: a[i, k]) + 1.0, "B")
    with pytest.raises(ValueError, match="unknown reduction 'mean'"):
        te.reduce("mean", (4,), lambda k: a[k, k])
    b = te.compute((4,), lambda i: a[i, i], "B")
    with pytest.raises(ValueError, match="neither an input nor computed"):
        te.primfunc("f", [], [b])


def test_te_makes_names_unique() -> None:
    a = te.placeholder((4,), "float32", "t")
    b = te.compute((4,), lambda i: a[i] + 1.0, "t")
    c = te.compute((4,), lambda i: b[i] * a[i], "t")
    func = te.primfunc("f", [a], [c])
    assert [p.name for p in func.params] == ["t", "t_2"]
