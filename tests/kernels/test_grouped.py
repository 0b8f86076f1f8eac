"""Grouped reductions: columns in runs share their other operand, and vectors never straddle two runs."""

from __future__ import annotations

import pytest

from tests.fuzz.case import Case
from tests.kernels.harness import TARGETS, check, prepare
from tilewright.ir import te
from tilewright.ir.expr import Expr, Load
from tilewright.ir.stmt import For, PrimFunc
from tilewright.ir.visit import all_exprs, find_blocks, free_vars, walk_expr, walk_stmt
from tilewright.schedule.rules.analysis import block_info
from tilewright.schedule.rules.tiles import TileProblem, choose_tile
from tilewright.target import Target

HOST = Target.host()


def grouped_product(rows: int, groups: int, reads: int, run: int) -> Case:
    """``run`` columns of each group are products of the group's ``reads`` inputs; small integers, so that
    results are exact."""
    x = te.placeholder((rows, groups * reads), "float32", "x")
    w = te.placeholder((reads, groups * run), "float32", "w")

    def body(i: Expr, j: Expr) -> Expr:
        return te.reduce("sum", (reads,), lambda r: x[i, (j // run) * reads + r] * w[r, j])

    func = te.primfunc("grouped", [x, w], [te.compute((rows, groups * run), body, "y")], (w,))
    return Case.integers(func)


def gathers(func: PrimFunc, name: str) -> bool:
    """Whether a vector's lanes read different elements of buffer ``name``."""
    lanes = {s.var for s in walk_stmt(func.body) if isinstance(s, For) and s.kind == "vectorized"}
    loads = [
        node
        for root in all_exprs(func.body)
        for node in walk_expr(root)
        if isinstance(node, Load) and node.buffer.name == name
    ]
    assert loads
    return any(v in lanes for node in loads for index in node.indices for v in free_vars(index))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("run", [4, 8, 12, 16, 20, 24, 40])
def test_runs_are_scalars(run: int, target: str) -> None:
    case = grouped_product(13, 6, 5, run)
    wide = Target.parse(target).vector_bits <= HOST.vector_bits
    check(case, [target], [target] if wide and HOST.arch == "x86_64" else [])
    assert not gathers(prepare(case, Target.parse(target)).lowered, "x")


@pytest.mark.parametrize("run", [2, 3, 6])
def test_runs_shorter_than_any_vector(run: int) -> None:
    check(grouped_product(7, 5, 3, run), ["x86-64-v4"], [])


def test_how_far_an_access_stands_still() -> None:
    (block,) = find_blocks(grouped_product(13, 6, 5, 24).func.body)
    info = block_info(block)
    assert info is not None
    i, j = info.spatial
    x = next(a for a in info.loads if a.buffer.name == "x")
    w = next(a for a in info.loads if a.buffer.name == "w")
    assert (x.run(j), x.run(i), w.run(j), w.run(i)) == (24, 1, 1, 0)


@pytest.mark.parametrize("run", [4, 8, 16, 24, 48, 64])
def test_tiles_fit_the_runs(run: int) -> None:
    tile = choose_tile(TileProblem(56, 6 * run, 32, 9 * run, run=run), Target.parse("x86-64-v4"))
    assert run % tile.lanes == 0
    assert run % tile.width == 0 or tile.width % run == 0
