"""Random programs under random primitives: what is accepted computes the same, in any legal order of
execution.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.schedule.programs import assert_same
from tests.schedule.random_programs import adversarial, random_program, random_step, tile_and_fuse
from tilewright.errors import ScheduleError
from tilewright.ir.parser import parse
from tilewright.ir.printer import structural_equal, to_text
from tilewright.ir.verify import verify
from tilewright.schedule import Schedule, Trace


def check(rng: random.Random) -> None:
    func = random_program(rng)
    sch = Schedule(func)
    if rng.random() < 0.4:
        tile_and_fuse(rng, sch)
    for _ in range(rng.randint(1, 10)):
        before = sch.func
        try:
            random_step(rng, sch)
        except ScheduleError:
            assert sch.func is before
    verify(sch.func)
    assert_same(func, sch)
    assert_same(func, adversarial(sch.func))
    again = Trace.from_json(sch.trace.to_json()).apply(func)
    assert to_text(again.func) == to_text(sch.func)
    assert structural_equal(parse(to_text(sch.func)), sch.func)


@pytest.mark.parametrize("block", range(10))
def test_many_seeds(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        try:
            check(random.Random(seed))
        except Exception as error:
            raise AssertionError(f"random program {seed}") from error


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_any_program(rng: random.Random) -> None:
    """As above with programs that shrink when they fail."""
    check(rng)
