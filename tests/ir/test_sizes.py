"""Dimensions known at run time: typical and largest sizes, quotients, canonical forms, fused indices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.ir import te
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text, workload_key
from tilewright.ir.simplify import Simplifier, prove, simplify
from tilewright.ir.sizes import MAX_TYPICAL, dimension, dims_of, largest_size, quotient, typical_size
from tilewright.ir.visit import const_int, substitute_expr

N = dimension("n", 1, 512)
M = dimension("m", 32, 960, 32)


def at(e: Expr, **sizes: int) -> int:
    mapping: dict[Expr, Expr] = {v: as_expr(sizes[v.name]) for v in dims_of([e])}
    value = const_int(simplify(substitute_expr(e, mapping)))
    assert value is not None
    return value


def test_what_is_taken_for_granted() -> None:
    assert (N.typical, M.typical) == (512, 960)
    assert dimension("k", 1, 1 << 20).typical == MAX_TYPICAL
    assert dimension("k", 1, 64, typical=8).typical == 8
    assert typical_size(N * 3 + 1) == 1537
    assert largest_size((N + 1) // 2 * 4) == 1024
    assert typical_size(Var("i", lo=0) + N) is None
    assert largest_size(Var("i", lo=0)) is None
    assert dims_of([N + Var("i"), M * N]) == (N, M)


def test_quotients_cancel_factors() -> None:
    assert quotient(N * M * 768, M * 768) is N
    assert simplify(quotient((N + 1) * M * 12, M * 12) - N) is as_expr(1)
    assert quotient(N, M) is simplify(N // M)
    assert quotient(N * 12, as_expr(5)) is simplify(N * 12 // 5)


@pytest.mark.parametrize(
    ("e", "expected"),
    [
        ((M // 2) // 2 * 2, M // 2),
        (N * ((M // 2) // 2) * 2, N * (M // 2)),
        ((M + 31) // 32 * 8, M // 4),
        (((M + 3) // 4 + 1) // 2, M // 8),
        (N * M - N * (M // 2) * 2, as_expr(0)),
        ((M // 8) % 4, as_expr(0)),
    ],
)
def test_exact_quotients_have_one_form(e: Expr, expected: Expr) -> None:
    assert simplify(e) is simplify(expected)


@given(n=st.integers(1, 512), m=st.integers(1, 30).map(lambda k: 32 * k), data=st.data())
def test_forms_of_random_sizes_keep_their_values(n: int, m: int, data: st.DataObject) -> None:
    def draw(depth: int) -> Expr:
        kind = data.draw(st.sampled_from(["n", "m", "const", "add", "mul", "div", "scale"]))
        if depth == 0 or kind in ("n", "m", "const"):
            return {"n": N, "m": M}.get(kind, as_expr(data.draw(st.integers(0, 40))))
        if kind == "div":
            return draw(depth - 1) // data.draw(st.sampled_from([2, 3, 4, 8, 32]))
        if kind == "scale":
            return draw(depth - 1) * data.draw(st.integers(1, 16))
        return draw(depth - 1) + draw(depth - 1) if kind == "add" else draw(depth - 1) * draw(depth - 1)

    e = draw(4)
    assert at(simplify(e), n=n, m=m) == at(e, n=n, m=m)
    high = largest_size(e)
    assert high is None or at(e, n=n, m=m) <= high


def test_the_index_of_a_fused_loop_taken_apart() -> None:
    tiles = (N + 7) // 8
    fused = Var("f", lo=0)
    ranges = Simplifier().with_loop(fused, tiles * 16)
    assert ranges.interval(fused // tiles) == Interval(0, 15)
    assert ranges.prove(fused // tiles < 16)
    assert not ranges.prove(fused // tiles < 15)


@pytest.mark.parametrize(("parts", "by"), [(3, 8), (6, 8), (24, 32), (12, 16), (5, 8)])
def test_the_index_of_three_fused_loops_taken_apart(parts: int, by: int) -> None:
    rows, tiles, fused = M // by, (N + 13) // 14, Var("f", lo=0)
    ranges = Simplifier().with_loop(fused, simplify(rows * tiles * parts))
    index = ranges.simplify(fused // tiles // rows)
    assert ranges.interval(index) == Interval(0, parts - 1), "whatever the extent's canonical form is"
    assert ranges.prove(index * 16 + 15 < parts * 16)
    assert not ranges.prove(index < parts - 1)


@given(
    st.sampled_from([1, 2, 4, 8, 16, 32]), st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 8), st.data()
)
def test_limits_of_quotients_hold(whole: int, by: int, parts: int, data: st.DataObject) -> None:
    fused, rows, tiles = Var("f", lo=0), M // by, N // 3 + 1
    extent = simplify(M // whole * tiles * parts)
    index = fused // tiles // rows
    limit = Simplifier().with_loop(fused, extent).interval(index).hi
    n, m = data.draw(st.integers(1, 512)), 32 * data.draw(st.integers(1, 30))
    last = at(extent, n=n, m=m) - 1
    assert limit is None or last // (n // 3 + 1) // (m // by) <= limit


@pytest.mark.parametrize(
    ("cond", "holds"),
    [
        (N <= (N + 15) // 16 * 16, True),
        ((N + 15) // 16 * 16 < N + 16, True),
        (as_expr(N // 16 * 16) <= N, True),
        (as_expr(N // 16 * 16) > N - 16, True),
        (as_expr(N // 16 * 16) < N - 14, False),
        ((N + 15) // 16 * 16 < N + 15, False),
    ],
)
def test_tiles_cover_what_they_tile(cond: Expr, holds: bool) -> None:
    assert prove(cond) is holds


def test_inside_a_loop_no_factor_of_its_extent_is_zero() -> None:
    i = Var("i")
    half = as_expr(N // 2)
    inside = Simplifier().with_loop(i, half * 4)
    assert inside.interval(half) == Interval(1, 256)
    assert inside.prove(i % half < half)
    assert inside.interval(i // half) == Interval(0, 3)
    assert not Simplifier().prove(half >= 1)
    summed = Simplifier().with_loop(i, half + M)
    assert summed.interval(half) == Interval(0, 256), "a sum says nothing of its terms"


@given(n=st.integers(1, 512), i=st.integers(0, 4000), k=st.integers(-3, 3), more=st.integers(-5, 5))
def test_limits_of_remainders_hold(n: int, i: int, k: int, more: int) -> None:
    index = Var("i", lo=0, hi=4000)
    form = (index % (N + 3)) * k + N * (more - 2) + more
    limits = Simplifier().interval(simplify(form))
    value = i % (n + 3) * k + n * (more - 2) + more
    assert limits.lo is None or limits.lo <= value
    assert limits.hi is None or value <= limits.hi


def test_dimensions_become_parameters_and_have_text() -> None:
    x = te.placeholder((N, M), "float32", "x")
    y = te.compute((N,), lambda i: te.reduce("sum", (M,), lambda k: x[i, k]), "y")
    func = te.primfunc("rows", [x], [y])
    text = to_text(func)
    assert "n: dim(lo=1, hi=512, typical=512),\n" in text
    assert "m: dim(lo=32, hi=960, typical=960, multiple_of=32),\n" in text
    assert to_text(parse(text)) == text
    other = te.placeholder((dimension("n", 1, 512, typical=8), M), "float32", "x")
    z = te.compute((other.shape[0],), lambda i: te.reduce("sum", (M,), lambda k: other[i, k]), "y")
    assert workload_key(te.primfunc("rows", [other], [z])) != workload_key(func)
