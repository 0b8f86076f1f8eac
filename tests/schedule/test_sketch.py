"""Sketches: populations stay valid, candidates bind to right programs, features match the bound programs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.schedule.spaces import FUNCTIONS
from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.interp import run
from tilewright.ir.stmt import Block, Buffer, For, PrimFunc
from tilewright.ir.visit import const_int, substitute_expr
from tilewright.lower import lower
from tilewright.schedule import IndexMap, Schedule, Trace
from tilewright.schedule.features import FEATURES, features_of
from tilewright.schedule.sketch import Sketch
from tilewright.schedule.space import sketches
from tilewright.schedule.state import Tree
from tilewright.target import Target

TARGET = Target.parse("x86-64-v4")
CASES = {name: sketches(make(), TARGET) for name, make in FUNCTIONS.items()}
SKETCHES = [pytest.param(s, id=f"{name}-{s.name}") for name, found in CASES.items() for s in found]


@pytest.mark.parametrize("sketch", SKETCHES)
def test_features_are_those_of_the_bound_program(sketch: Sketch) -> None:
    _compare_features(sketch, 8)


@pytest.mark.slow
@pytest.mark.parametrize("sketch", SKETCHES)
def test_features_of_many_candidates(sketch: Sketch) -> None:
    _compare_features(sketch, 250)


def _compare_features(sketch: Sketch, count: int) -> None:
    rows = sketch.sample(count, seed=1)
    features = sketch.features(rows)
    assert features.shape == (len(rows), len(FEATURES))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    for row, expected in zip(rows, features, strict=True):
        bound = features_of(sketch.bind(row).func, TARGET, sketch.main)
        different = np.flatnonzero(~np.isclose(bound, expected, rtol=1e-5, atol=1e-5))
        assert not len(different), [FEATURES[n] for n in different]


@pytest.mark.parametrize("sketch", SKETCHES)
def test_candidates_compute_the_same(sketch: Sketch) -> None:
    inputs = _inputs(sketch.func)
    expected = run(sketch.func, inputs)
    for row in sketch.sample(3, seed=2):
        bound = sketch.bind(row).func
        for program in (bound, lower(bound)):
            for a, b in zip(run(program, _laid(program, inputs)), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def _inputs(func: PrimFunc) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    buffers = [p for p in func.inputs if isinstance(p, Buffer)]
    return [
        rng.standard_normal(b.static_shape or ()).astype(dt.to_numpy(b.dtype), copy=False) for b in buffers
    ]


def _laid(func: PrimFunc, inputs: list[np.ndarray]) -> list[np.ndarray]:
    layouts = dict(func.attr("param_layouts", {}))
    names = [p.name for p in func.inputs]
    return [
        IndexMap.parse(layouts[name]).apply(data) if name in layouts else data
        for name, data in zip(names, inputs, strict=True)
    ]


@pytest.mark.parametrize("sketch", SKETCHES)
def test_populations_stay_valid(sketch: Sketch) -> None:
    assert sketch.valid(sketch.default).all()
    rows = sketch.sample(100, seed=3)
    assert sketch.valid(rows).all()
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert len(rows) == 100 or sketch.size < 50_000
    mutated = sketch.mutate(rows, seed=4)
    assert sketch.valid(mutated).all()
    if len(rows) > 10:
        assert (mutated != rows).any(axis=1).mean() > 0.5
    mixed = sketch.crossover(rows, rows[::-1], seed=5)
    assert sketch.valid(mixed).all()
    either = (mixed == rows) | (mixed == rows[::-1])
    assert either.all()
    again = sketch.sample(100, seed=3)
    assert np.array_equal(rows, again)


def test_a_fallback_always_exists() -> None:
    for found in CASES.values():
        assert found
        assert len({str(s.schedule.trace) for s in found}) == len(found)


def test_values_outside_of_domains_are_not_valid() -> None:
    sketch = CASES["dense"][0]
    row = sketch.default.copy()
    row[0, 0] = 7
    assert not sketch.valid(row)[0]
    assert not sketch.valid(np.zeros_like(row))[0]
    with pytest.raises(ScheduleError, match="not in the domain"):
        sketch.bind(row[0])
    with pytest.raises(ScheduleError, match="rows of"):
        sketch.valid(row[0])
    with pytest.raises(ScheduleError, match="decisions, not"):
        sketch.bind([1])
    with pytest.raises(ScheduleError, match="also decides"):
        sketch.row({})


def test_a_bound_trace_carries_its_decisions() -> None:
    sketch = CASES["dense"][0]
    row = sketch.sample(1, seed=9)[0]
    trace = Trace.from_json(sketch.bind(row).trace.to_json())
    assert np.array_equal(sketch.row({k: v for k, v in trace.decisions().items() if v is not None}), row)
    other = sketch.sample(2, seed=10)[1]
    rebound = trace.bind(dict(zip(sketch.columns, map(int, other), strict=True))).apply(sketch.func)
    assert repr(rebound.func) == repr(sketch.bind(other).func)


def test_footprints_and_counts_by_enumeration() -> None:
    """The closed forms against what the bound loops really touch, element by element."""
    sketch = CASES["dense"][0]
    for row in sketch.sample(6, seed=11):
        func = sketch.bind(row).func
        features = dict(zip(FEATURES, features_of(func, TARGET, sketch.main), strict=True))
        tree = Tree(func)
        block = tree.blocks[sketch.main]
        loops = tree.loops_above(block)
        extents = [const_int(loop.extent) or 0 for loop in loops]
        assert features["executed"] == pytest.approx(np.log2(np.prod(extents)), abs=1e-5)
        micro = len(loops)
        while loops[micro - 1].kind in ("vectorized", "unrolled"):
            micro -= 1
        loads = [node for nodes in tree.accesses[block.name].loads.values() for node in nodes]
        for n, node in enumerate(loads):
            for level, start in (("micro", micro), ("inner", micro - 1)):
                most = _most_touched(loops, start, block, node.indices, node.buffer)
                size = dt.nbytes(node.buffer.dtype)
                assert 2 ** features[f"load{n}_{level}"] == pytest.approx(most * size, rel=1e-4)


def _most_touched(
    loops: list[For], start: int, block: Block, indices: tuple[Expr, ...], buffer: Buffer
) -> int:
    """Distinct elements that the loops from ``start`` on touch in the first iteration of those outside."""
    bindings: dict[Expr, Expr] = {it.var: it.binding for it in block.iters}
    over = [substitute_expr(index, bindings) for index in indices]
    outer = {loop.var: as_expr(0) for loop in loops[:start]}
    seen = set()
    for point in itertools.product(*(range(const_int(loop.extent) or 0) for loop in loops[start:])):
        at = {**outer, **{loop.var: as_expr(x) for loop, x in zip(loops[start:], point, strict=True)}}
        place = tuple(const_int(substitute_expr(index, at)) for index in over)
        if all(x is not None and x < (const_int(d) or 0) for x, d in zip(place, buffer.shape, strict=True)):
            seen.add(place)
    return len(seen)


def test_decisions_are_checked() -> None:
    sch = Schedule(FUNCTIONS["dense"](), symbolic=True)
    sch.decide("rows", [1, 2, 4])
    for name, domain, message in [
        ("rows", [1], "already"),
        ("two words", [1], "not a name"),
        ("x", [], "0 values"),
        ("x", [0, 1], "positive"),
        ("x", [True], "positive"),
        ("x", "123", "not a list"),
    ]:
        with pytest.raises(ScheduleError, match=message):
            sch.decide(name, domain)  # type: ignore[arg-type]
    plain = Schedule(FUNCTIONS["dense"]())
    with pytest.raises(ScheduleError, match="has no value"):
        plain.decide("rows", [1, 2])
    with pytest.raises(ScheduleError, match="not in the domain of 'rows': 1, 2"):
        plain.decide("rows", [1, 2], 3)
    assert const_int(plain.decide("rows", [1, 2], 2)) == 2


def test_a_factor_over_unknown_names_is_refused() -> None:
    sch = Schedule(FUNCTIONS["dense"](), symbolic=True)
    loop = sch.get_loops(sch.get_blocks()[0])[0]
    with pytest.raises(ScheduleError, match="factor 'rows'"):
        sch.split(loop, [None, "rows"])
    foreign = Schedule(FUNCTIONS["dense"](), symbolic=True).decide("rows", [1, 2])
    with pytest.raises(ScheduleError, match="neither a dimension nor a decision"):
        sch.split(loop, [None, foreign])
    with pytest.raises(ScheduleError, match="not only over decisions"):
        sch.require(foreign < 3)


def test_rebinding_a_schedule_that_recorded_numbers_is_refused() -> None:
    sch = Schedule(FUNCTIONS["dense"]())
    rows = sch.decide("rows", [1, 2, 4], 4)
    loop = sch.get_loops(sch.get_blocks()[0])[0]
    sch.split(loop, [None, rows])
    with pytest.raises(ScheduleError, match="nothing in the trace is written over rows"):
        sch.trace.bind({"rows": 2})
    with pytest.raises(ScheduleError, match="no decisions named columns"):
        sch.trace.bind({"columns": 2})


def test_functions_of_any_size_have_a_sketch_but_no_features() -> None:
    n = Var("n", lo=1)
    a = te.placeholder((n, 8), "float32", "a")
    func = te.primfunc("f", [a], [te.compute((n, 8), lambda i, j: a[i, j] + 1.0, "b")])
    func = func.with_(params=(n, *func.params)) if n not in func.params else func
    for sketch in sketches(func, TARGET):
        bound = sketch.bind(sketch.default[0]).func
        for size in (1, 5):
            data = np.arange(size * 8, dtype=np.float32).reshape(size, 8)
            np.testing.assert_array_equal(run(bound, [data])[0], data + 1)
    with pytest.raises(ScheduleError, match="n has no value here"):
        features_of(func, TARGET)
