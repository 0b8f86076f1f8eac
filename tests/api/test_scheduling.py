"""Scheduling by hand: check finds what is wrong, bench runs, native functions check their arguments, the
tutorial is true."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tilewright as tw
from benchmarks.tutorial import run_page
from tilewright.errors import CheckFailed, InputError, ShapeError
from tilewright.ir import te
from tilewright.ir.expr import Var, const, load
from tilewright.ir.stmt import PrimFunc, Store
from tilewright.ir.visit import transform_stmt
from tilewright.scheduling import NativeFunction, Workbench
from tilewright.target import Target


def scale(n: int = 40) -> PrimFunc:
    x = te.placeholder((n,), "float32", "x")
    y = te.compute((n,), lambda i: x[i] * 2.0, "y")
    return te.primfunc("scale", [x], [y])


def test_tutorial_keeps_its_meaning_at_every_step() -> None:
    seen: list[str] = []

    def step(name: str, sch: Workbench) -> None:
        sch.check()
        sch.check(native=True)
        seen.append(name)

    run_page(step, size=96)
    assert seen[0] == "as written"
    assert seen[4] == "default schedule"
    by_instruction = [name for name in seen[5:] if " by " in name]
    assert [name.split()[0] for name in by_instruction] == [
        narrow
        for narrow, feature in (("bfloat16", "avx512bf16"), ("uint8", "avx512vnni"))
        if Target.host().has(feature)
    ]
    assert len(seen) == 5 + 2 * len(by_instruction)


def test_check_finds_a_wrong_program() -> None:
    sch = tw.schedule(scale())
    sch.check()

    def wrong(stmt: object) -> Store | None:
        if not isinstance(stmt, Store):
            return None
        return dataclasses.replace(stmt, value=stmt.value + const(1.0, "float32"))

    sch.func = sch.func.with_(body=transform_stmt(sch.func.body, wrong))
    with pytest.raises(CheckFailed, match="output 0 of the scheduled 'scale' differs"):
        sch.check()


def test_bench_counts_work_and_compares_with_the_machine() -> None:
    sch = tw.schedule(scale(4096))
    (i,) = sch.get_loops(sch.get_block("y"))
    _, lane = sch.split(i, [None, 8])
    sch.vectorize(lane)
    timing = sch.bench(seconds=0.02)
    assert timing.flops == 4096
    assert timing.bytes == 2 * 4 * 4096
    assert 0 < timing.best <= timing.seconds
    assert timing.share > 0
    assert "GFLOP/s" in str(timing)


def test_native_functions_check_their_arguments() -> None:
    sch = tw.schedule(scale())
    run = NativeFunction(sch, sch.target)
    x = np.arange(40, dtype=np.float32)
    np.testing.assert_array_equal(run(x)[0], 2 * x)
    with pytest.raises(InputError, match="takes 1 arrays, 2 were given"):
        run(x, x)
    with pytest.raises(InputError, match="'x' is"):
        run(x.astype(np.float64))


def test_symbolic_functions_need_sizes() -> None:
    n = Var("n", lo=1)
    x = te.placeholder((n,), "float32", "x")
    y = te.compute((n,), lambda i: load(x.buffer, [i]) + 1.0, "y")
    sch = tw.schedule(te.primfunc("f", [x], [y], dims=[n]))
    with pytest.raises(ShapeError, match="symbolic"):
        sch.check()
    with pytest.raises(ShapeError, match="symbolic"):
        sch.bench()


def test_bench_counts_integer_operations_where_there_are_no_others() -> None:
    a, b = te.placeholder((8, 16), "uint8", "a"), te.placeholder((16, 24), "int8", "b")
    c = te.compute(
        (8, 24),
        lambda i, j: te.reduce("sum", (16,), lambda k: a[i, k].astype("int32") * b[k, j].astype("int32")),
        "c",
    )
    timing = tw.Workbench(te.primfunc("product", [a, b], [c])).bench(seconds=0.01)
    assert timing.flops == 2 * 8 * 24 * 16
