"""Kernels over dimensions that a run decides: what becomes of them, and that it computes the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir import interp, te
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.expr import Expr, Select, Var, as_expr, select
from tilewright.ir.sizes import dimension, dims_of
from tilewright.ir.stmt import Buffer, For, If, PrimFunc, Store
from tilewright.ir.verify import verify
from tilewright.ir.visit import const_int, find_blocks, substitute_expr, walk_expr, walk_stmt
from tilewright.lower import lower
from tilewright.lower.flatten import decompose_reductions
from tilewright.schedule.default import default_schedule
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target

TARGET = Target.parse("x86-64-v3")


def product() -> PrimFunc:
    n = dimension("n", 1, 64)
    x, w = te.placeholder((n, 24), "float32", "x"), te.placeholder((24, 40), "float32", "w")
    total = te.compute((n, 40), lambda i, j: te.reduce("sum", (24,), lambda k: x[i, k] * w[k, j]), "total")
    y = te.compute((n, 40), lambda i, j: total[i, j] + 1.0, "y")
    return te.primfunc("product", [x, w], [y], [w])


def ragged(columns: int = 83) -> PrimFunc:
    """A batch of products whose columns fill no whole number of tiles."""
    n = dimension("n", 1, 64)
    x, w = te.placeholder((3, n, 24), "float32", "x"), te.placeholder((3, 24, columns), "float32", "w")
    return te.primfunc(
        "ragged",
        [x, w],
        [
            te.compute(
                (3, n, columns),
                lambda b, i, j: te.reduce("sum", (24,), lambda k: x[b, i, k] * w[b, k, j]),
                "y",
            )
        ],
    )


def ragged_weights() -> PrimFunc:
    """The same with constant weights, which have room for whole tiles, and something behind it."""
    n = dimension("n", 1, 64)
    x, w = te.placeholder((n, 24), "float32", "x"), te.placeholder((24, 203), "float32", "w")
    total = te.compute((n, 203), lambda i, j: te.reduce("sum", (24,), lambda k: x[i, k] * w[k, j]), "total")
    y = te.compute((n, 203), lambda i, j: total[i, j] + 1.0, "y")
    return te.primfunc("ragged_weights", [x, w], [y], [w])


def joined() -> PrimFunc:
    """A cache and what is new, one behind the other, turned round."""
    n = dimension("n", 0, 70)
    x, new = te.placeholder((n, 24), "float32", "x"), te.placeholder((2, 24), "float32", "new")
    both = te.compute((n + 2, 24), lambda i, j: select(i < n, x[i, j], new[i - n, j]), "both")
    return te.primfunc("joined", [x, new], [te.compute((24, n + 2), lambda i, j: both[j, i], "y")])


def pooled() -> PrimFunc:
    """Maxima of pairs: there may be none."""
    n = dimension("n", 1, 40)
    x = te.placeholder((12, n, 16), "float32", "x")
    shape = (12, n // 2, 16)
    y = te.compute(shape, lambda h, i, c: te.reduce("max", (2,), lambda k: x[h, i * 2 + k, c]), "y")
    return te.primfunc("pooled", [x], [y])


def both_open() -> PrimFunc:
    n, m = dimension("n", 1, 40), dimension("m", 1, 50)
    x, w = te.placeholder((n, m), "float32", "x"), te.placeholder((m, n), "float32", "w")
    y = te.compute((n, n), lambda i, j: te.reduce("sum", (m,), lambda k: x[i, k] * w[k, j]), "y")
    return te.primfunc("both", [x, w], [y])


def padded() -> PrimFunc:
    n = dimension("n", 1, 40)
    x, w = te.placeholder((n, 8), "float32", "x"), te.placeholder((3, 8, 16), "float32", "w")
    pad = te.compute((n + 2, 8), lambda i, c: select((i >= 1) & (i < n + 1), x[i - 1, c], 0.0), "pad")
    y = te.compute(
        (n, 16), lambda i, o: te.reduce("sum", (3, 8), lambda t, c: pad[i + t, c] * w[t, c, o]), "y"
    )
    return te.primfunc("padded", [x, w], [y], [w])


def rows() -> PrimFunc:
    n, m = dimension("n", 1, 9), dimension("m", 1, 80)
    x = te.placeholder((n, m), "float32", "x")
    top = te.compute((n,), lambda i: te.reduce("max", (m,), lambda k: x[i, k]), "top")
    shifted = te.compute((n, m), lambda i, j: x[i, j] - top[i], "shifted")
    total = te.compute((n,), lambda i: te.reduce("sum", (m,), lambda k: shifted[i, k]), "total")
    y = te.compute((n, m), lambda i, j: shifted[i, j] * total[i], "y")
    return te.primfunc("rows", [x], [y])


def turned() -> PrimFunc:
    n = dimension("n", 1, 70)
    x = te.placeholder((n, 24), "float32", "x")
    return te.primfunc("turned", [x], [te.compute((24, n), lambda i, j: x[j, i], "y")])


def few_rows() -> PrimFunc:
    """Rows that one tile can hold as a whole."""
    n = dimension("n", 1, 5)
    x, w = te.placeholder((n, 12), "float32", "x"), te.placeholder((12, 64), "float32", "w")
    total = te.compute((n, 64), lambda i, j: te.reduce("sum", (12,), lambda k: x[i, k] * w[k, j]), "total")
    y = te.compute((n, 64), lambda i, j: total[i, j] + 1.0, "y")
    return te.primfunc("few_rows", [x, w], [y])


CASES: list[Callable[[], PrimFunc]] = [
    product,
    ragged,
    ragged_weights,
    both_open,
    padded,
    rows,
    turned,
    joined,
    pooled,
    few_rows,
]


@pytest.mark.parametrize("make", CASES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_every_stage_computes_the_same(make: Callable[[], PrimFunc], data: st.DataObject) -> None:
    func = make()
    dims = {
        p: data.draw(st.integers(p.lo or 0, p.hi or 0), p.name) for p in func.params if isinstance(p, Var)
    }
    stages = [func, collapse_dims(func)]
    lower(default_schedule(stages[-1], TARGET).func, lambda name, f: stages.append(f))
    rng = np.random.default_rng(0)
    known: dict[Expr, Expr] = {var: as_expr(size) for var, size in dims.items()}
    buffers = [p for p in func.params if isinstance(p, Buffer)]
    shapes = [[const_int(substitute_expr(d, known)) or 0 for d in p.shape] for p in buffers]
    inputs = [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes[: -len(func.outputs)]]
    expected = interp.run(func, inputs, dims)
    for stage in (stages[1], stages[-1]):
        if stage.attr("param_layouts"):
            continue
        verify(stage)
        for got, want in zip(interp.run(stage, inputs, dims), expected, strict=True):
            np.testing.assert_array_equal(np.asarray(got).reshape(want.shape), want)


def rows_of_copies(lo: int) -> list[int]:
    """How many rows each copy of the code for a tile of a product computes."""
    n = dimension("n", lo, 64)
    x, w = te.placeholder((n, 24), "float32", "x"), te.placeholder((24, 40), "float32", "w")
    y = te.compute((n, 40), lambda i, j: te.reduce("sum", (24,), lambda k: x[i, k] * w[k, j]), "y")
    stages: dict[str, PrimFunc] = {}
    lower(default_schedule(te.primfunc("f", [x, w], [y], [w]), TARGET).func, stages.__setitem__)
    loops = [s for s in walk_stmt(stages["split_edges"].body) if isinstance(s, For)]
    inner = [s.body for s in loops if s.var.name.startswith("r0")]
    return [const_int(s.extent) or 0 for s in inner if isinstance(s, For)]


def test_few_rows_have_code_of_their_own() -> None:
    whole, few, half, edge = rows_of_copies(lo=1)
    assert whole == edge >= 8
    assert (few, half) == (-(-whole // 4), -(-whole // 2))
    assert rows_of_copies(lo=few + 1) == [whole, half, edge], "there are never so few"
    assert rows_of_copies(lo=half + 1) == [whole, edge], "nor no more than half"


def inner_ifs(func: PrimFunc) -> int:
    """Conditions inside reduction loops that stand in the part for whole tiles."""
    interior = next(s for s in walk_stmt(func.body) if isinstance(s, If) and s.orelse is not None)
    return sum(isinstance(s, If) for s in walk_stmt(interior.then))


def test_whole_tiles_carry_no_guards_and_edges_none_in_their_inner_loops() -> None:
    stages: dict[str, PrimFunc] = {}
    lower(default_schedule(product(), TARGET).func, stages.__setitem__)
    func = stages["split_edges"]
    assert inner_ifs(func) == 0
    reductions = [s for s in walk_stmt(func.body) if isinstance(s, For) and s.var.name.startswith("r0")]
    assert len(reductions) == 4, "copies for whole tiles, the last ones, half of the rows, and a quarter"
    assert not any(isinstance(s, If) for loop in reductions for s in walk_stmt(loop))


@pytest.mark.parametrize("make", [ragged, ragged_weights])
def test_edges_that_are_known_leave_whole_tiles_without_masks(make: Callable[[], PrimFunc]) -> None:
    func = lower(default_schedule(make(), TARGET).func)
    versions = next(s for s in walk_stmt(func.body) if isinstance(s, If) and s.orelse is not None)
    reductions = [s for s in walk_stmt(versions.then) if isinstance(s, For) and s.var.name.startswith("r0")]
    assert len(reductions) >= 3
    assert not any(isinstance(s, If) for loop in reductions for s in walk_stmt(loop))
    assert versions.orelse is not None
    rare = [s for s in walk_stmt(versions.orelse) if isinstance(s, For) and s.var.name.startswith("r0")]
    assert len(rare) == (1 if make is ragged_weights else 3), "one last tile of many has one copy only"
    masks = [s.cond for s in walk_stmt(versions.then) if isinstance(s, If) and s.orelse is None]
    assert all(dims_of([cond]) for cond in masks), "what is left says which rows there are"


def test_tiles_inside_of_one_operand_choose_no_elements() -> None:
    func = lower(default_schedule(joined(), TARGET).func)
    copies = [
        any(isinstance(e, Select) for e in walk_expr(s.value))
        for s in walk_stmt(func.body)
        if isinstance(s, Store) and s.buffer.name == "y"
    ]
    assert copies
    assert not copies[0], "the first copy is the interior of the first operand"


def test_rows_that_share_nothing_are_no_tile_where_an_open_axis_lies_between_them() -> None:
    func = lower(default_schedule(pooled(), TARGET).func)
    assert not any(isinstance(s, If) for s in walk_stmt(func.body)), "where a loop runs it has no empty tiles"
    assert not any(isinstance(s, For) and const_int(s.extent) == 12 for s in walk_stmt(func.body))


def test_schedules_are_those_of_the_typical_size() -> None:
    def kinds(func: PrimFunc) -> list[str]:
        return [s.kind for s in walk_stmt(default_schedule(func, TARGET).func.body) if isinstance(s, For)]

    x, w = te.placeholder((64, 24), "float32", "x"), te.placeholder((24, 40), "float32", "w")
    total = te.compute((64, 40), lambda i, j: te.reduce("sum", (24,), lambda k: x[i, k] * w[k, j]), "total")
    y = te.compute((64, 40), lambda i, j: total[i, j] + 1.0, "y")
    assert kinds(product()) == kinds(te.primfunc("product", [x, w], [y], [w]))


def test_a_reduction_split_by_a_dimension_keeps_the_guards_of_its_init() -> None:
    n = dimension("n", 1, 64)
    x = te.placeholder((n,), "float32", "x")
    y = te.compute((n + 2,), lambda i: te.reduce("sum", ((n + 1) // 2,), lambda k: x[k]), "y")
    sch = Schedule(te.primfunc("sums", [x], [y]))
    i, k = sch.get_loops(sch.get_block("y"))
    sch.split(i, [None, 3])
    sch.split(k, [None, n])
    taken_out = sch.copy()
    taken_out.decompose_reduction(taken_out.get_block("y"), taken_out.get_loops(taken_out.get_block("y"))[0])
    for func in (decompose_reductions(sch.func), taken_out.func):
        for size in (1, 4, 12):
            data = np.arange(size, dtype=np.float32)
            (found,) = interp.run(func, [data])
            np.testing.assert_array_equal(found, np.full(size + 2, data[: (size + 1) // 2].sum()))


def test_a_tile_may_hold_all_of_an_open_axis() -> None:
    scheduled = default_schedule(few_rows(), TARGET).func
    assert any(b.name == "total" for b in find_blocks(scheduled.body))
    loops = [s for s in walk_stmt(scheduled.body) if isinstance(s, For) and s.kind == "unrolled"]
    assert any(const_int(loop.extent) == 5 for loop in loops)


def test_means_over_open_images_run_in_vectors() -> None:
    """Neither an open batch, whose rows share nothing, nor columns that fill no tile keep lanes from it."""
    n, w = dimension("n", 1, 6), dimension("w", 8, 96)
    x = te.placeholder((n, w * 3, 104), "float32", "x")
    y = te.compute((n, 104), lambda i, c: te.reduce("sum", (w * 3,), lambda k: x[i, k, c]), "y")
    func = te.primfunc("means", [x], [y])
    scheduled = default_schedule(func, TARGET).func
    sums = [s for s in walk_stmt(scheduled.body) if isinstance(s, For) and s.kind == "vectorized"]
    assert len(sums) >= 3
    data = np.random.default_rng(0).integers(-4, 5, (5, 33, 104)).astype(np.float32)
    (found,) = interp.run(lower(scheduled), [data], {n: 5, w: 11})
    np.testing.assert_array_equal(found, data.sum(1))
