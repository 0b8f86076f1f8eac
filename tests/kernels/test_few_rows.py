"""Products of a few rows with an operand whose reduced dimension is contiguous: it is read as it lies."""

from __future__ import annotations

import pytest

from tests.fuzz.case import Case
from tests.kernels.harness import TARGETS, check, prepare, slow_parts
from tilewright.ir import te
from tilewright.ir.expr import Expr
from tilewright.target import Target

HOST = Target.host()


def product_with_keys(heads: int, rows: int, keys: int, depth: int) -> Case:
    """Queries times transposed keys; small integers, so that results are exact."""
    q = te.placeholder((heads, rows, depth), "float32", "q")
    k = te.placeholder((heads, keys, depth), "float32", "k")
    turned = te.compute((heads, depth, keys), lambda h, r, j: k[h, j, r], "turned")

    def body(h: Expr, i: Expr, j: Expr) -> Expr:
        return te.reduce("sum", (depth,), lambda r: q[h, i, r] * turned[h, r, j])

    func = te.primfunc("scores", [q, k], [te.compute((heads, rows, keys), body, "y")])
    return Case.integers(func)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("rows", "depth"), [(1, 64), (1, 70), (2, 40), (5, 32), (1, 5), (9, 64)])
def test_computes_the_same(rows: int, depth: int, target: str) -> None:
    wide = Target.parse(target).vector_bits <= HOST.vector_bits
    case = product_with_keys(3, rows, 33, depth)
    check(case, [target], [target] if wide and HOST.arch == "x86_64" else [])
    assert not list(slow_parts(prepare(case, Target.parse(target)), scalar=2000))


@pytest.mark.parametrize(("rows", "copied"), [(1, False), (5, False), (9, True)])
def test_only_what_is_used_often_is_copied(rows: int, copied: bool) -> None:
    prepared = prepare(product_with_keys(3, rows, 33, 64), Target.parse("x86-64-v4"))
    assert ("turned" in {b.name for b in prepared.scheduled_blocks()}) is copied
