"""The rule for a contraction between small transforms, on one that is no convolution."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tilewright.ir import te
from tilewright.ir.expr import Expr, select
from tilewright.ir.interp import run
from tilewright.ir.stmt import Alloc, For, PrimFunc
from tilewright.ir.visit import walk_stmt
from tilewright.lower import lower
from tilewright.schedule.default import default_schedule
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.rules.unrolled_chain import find_chain
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target

TARGET = Target.parse("x86-64-v4")


def haar(pair: Expr, a: Expr, b: Expr) -> Expr:
    """The sum (0) or the difference (1) of two neighbours."""
    return select(pair.eq(0), a + b, a - b)


def spectral_product(rows: int, columns: int, ci: int, co: int, tail: bool = False) -> PrimFunc:
    """Transform 2x2 tiles in the manner of Haar, mix the channels of each coefficient, transform back."""
    x = te.placeholder((2 * rows, 2 * columns, ci), "float32", "x")
    w = te.placeholder((2, 2, ci, co), "float32", "w")
    half = te.compute(
        (2, 2, rows, columns, ci),
        lambda p, q, i, j, c: haar(p, x[2 * i, 2 * j + q, c], x[2 * i + 1, 2 * j + q, c] * 3.0),
        "half",
    )
    both = te.compute(
        (2, 2, rows, columns, ci),
        lambda p, q, i, j, c: select(
            q.eq(0),
            half[p, 0, i, j, c] + half[p, 1, i, j, c] + half[1, 0, i, j, c] + half[1, 1, i, j, c],
            half[p, 0, i, j, c] - half[p, 1, i, j, c] + half[0, 0, i, j, c] - half[0, 1, i, j, c],
        ),
        "both",
    )
    product = te.compute(
        (2, 2, rows, columns, co),
        lambda p, q, i, j, o: te.reduce("sum", (ci,), lambda k: both[p, q, i, j, k] * w[p, q, k, o]),
        "product",
    )
    back = te.compute(
        (2, 2, rows, columns, co),
        lambda p, q, i, j, o: haar(p, product[0, q, i, j, o], product[1, q, i, j, o]),
        "back",
    )

    def output(h: Expr, v: Expr, o: Expr) -> Expr:
        own = [back[p, q, h // 2, v // 2, o] for p in (0, 1) for q in (0, 1)]
        return select((v % 2).eq(0), own[0] + own[1], own[2] - own[3]) * haar(h % 2, own[0], own[1])

    y = te.compute((2 * rows, 2 * columns, co), output, "y")
    if tail:
        y = te.compute(y.shape, lambda *i: y[i] * (y[i] + 1.0), "tail")
    return te.primfunc("spectral", [x, w], [y], const_inputs=[w])


def lowered_equals_plain(func: PrimFunc, target: Target = TARGET) -> PrimFunc:
    rng = np.random.default_rng(0)
    data = [rng.standard_normal(p.static_shape).astype(np.float32) for p in func.params[: -len(func.outputs)]]
    want = run(func, data)
    schedule = default_schedule(func, target)
    packed = dict(schedule.func.attr("param_layouts", {}))
    fresh = [
        IndexMap.parse(packed[p.name]).apply(a) if p.name in packed else a
        for p, a in zip(func.params, data, strict=False)
    ]
    result = lower(schedule.func)
    for got, expected in zip(run(result, fresh), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-3)
    return result


@pytest.mark.parametrize(("rows", "columns", "ci", "co"), [(6, 5, 16, 32), (3, 7, 20, 33), (9, 3, 16, 16)])
@pytest.mark.parametrize("tail", [False, True])
def test_it_is_computed_in_blocks(rows: int, columns: int, ci: int, co: int, tail: bool):
    func = spectral_product(rows, columns, ci, co, tail)
    result = lowered_equals_plain(func)
    # One nest in all: everything is computed inside the loop over blocks.
    outermost = next(s for s in walk_stmt(result.body) if isinstance(s, For))
    inside = {s for s in walk_stmt(outermost.body) if isinstance(s, For)}
    assert inside | {outermost} == {s for s in walk_stmt(result.body) if isinstance(s, For)}
    text = repr(result).partition("def ")[2]
    assert "% 2" not in text
    assert "//" not in text


def test_a_block_that_crowds_the_cache_goes_by_panels():
    """What waits between contraction and transform is then one panel wide; the constant is laid out so."""
    func = spectral_product(4, 6, 24, 96)
    small = dataclasses.replace(TARGET, l2_bytes=32 << 10)
    by_panels, whole = lowered_equals_plain(func, small), lowered_equals_plain(func)
    widths = [
        next(int(a.buffer.shape[-1].value) for a in walk_stmt(f.body) if is_memory(a, "product"))
        for f in (by_panels, whole)
    ]
    assert widths[0] < widths[1]
    layouts = [dict(default_schedule(func, t).func.attr("param_layouts"))["w"] for t in (small, TARGET)]
    assert [text.partition("->")[2].strip().startswith("i3//") for text in layouts] == [True, False]
    lowered_equals_plain(spectral_product(3, 5, 24, 100), small)


def is_memory(stmt: object, name: str) -> bool:
    return isinstance(stmt, Alloc) and stmt.buffer.name == name and stmt.buffer.scope != "register"


def test_a_single_block_of_tiles():
    lowered_equals_plain(spectral_product(1, 4, 16, 16))


def test_other_functions_are_no_chains():
    a, b = te.placeholder((32, 32), "float32", "a"), te.placeholder((32, 32), "float32", "b")
    c = te.compute((32, 32), lambda i, j: te.reduce("sum", (32,), lambda k: a[i, k] * b[k, j]), "c")
    assert find_chain(Schedule(te.primfunc("matmul", [a, b], [c]))) is None
