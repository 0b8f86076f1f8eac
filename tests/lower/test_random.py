"""Random programs under random schedules: lowering keeps their meaning, for kinds of loops in any mixture."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.schedule.random_programs import random_program, random_step, tile_and_fuse
from tilewright.errors import ScheduleError
from tilewright.ir.interp import run
from tilewright.ir.stmt import Buffer
from tilewright.ir.verify import verify
from tilewright.lower import lower
from tilewright.schedule import IndexMap, Schedule


def check(seed: int) -> None:
    rng = random.Random(seed)
    func = random_program(rng)
    sch = Schedule(func)
    tile_and_fuse(rng, sch)
    for _ in range(rng.randint(1, 8)):
        try:
            random_step(rng, sch)
        except ScheduleError:
            continue
    values = np.random.default_rng(seed)
    buffers = [p for p in func.inputs if isinstance(p, Buffer)]
    inputs = [np.asarray(values.standard_normal(b.static_shape), np.float32) for b in buffers]
    layouts = dict(sch.func.attr("param_layouts", {}))
    laid = [
        IndexMap.parse(layouts[b.name]).apply(x) if b.name in layouts else x
        for b, x in zip(buffers, inputs, strict=True)
    ]
    lowered = lower(sch.func)
    verify(lowered)
    for got, expected in zip(run(lowered, laid), run(func, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=str(sch.trace))


@pytest.mark.parametrize("block", range(8))
def test_random_schedules_lower_to_the_same(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        try:
            check(seed)
        except Exception as error:
            raise AssertionError(f"random program {seed}") from error
