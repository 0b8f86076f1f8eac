"""A fixed budget of the fuzzer, and tests of its parts."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.fuzz.campaign import KINDS, Report, run_seed
from tests.fuzz.driver import Driver
from tests.fuzz.operators import operator_case
from tests.fuzz.primitives import GENERATORS, HANDLES
from tests.fuzz.recipes import on_threads, product_case, random_schedule, with_instructions
from tests.fuzz.reduce import reductions, resized
from tests.fuzz.small import SmallProgram
from tilewright.errors import VerifyError
from tilewright.ir.verify import verify
from tilewright.schedule.trace import INSTRUCTIONS

#: Seeds of one test; the default suite runs ten of these, ``-m slow`` a hundred more.
SEEDS = 13


def run_seeds(first: int, count: int) -> Report:
    report = Report()
    for seed in range(first, first + count):
        report.add(run_seed(seed))
        for found in report.found:
            raise AssertionError(
                f"seed {found.seed} ({found.kind}); minimise it with\n"
                f"  python -m tests.fuzz --seeds {seed}:{seed + 1}"
            ) from found.failure
    return report


@pytest.mark.parametrize("chunk", range(10))
def test_fixed_budget(chunk: int) -> None:
    report = run_seeds(chunk * SEEDS, SEEDS)
    assert report.schedules.total() > SEEDS


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(10, 110))
def test_larger_budget(chunk: int) -> None:
    run_seeds(chunk * SEEDS, SEEDS)


def test_every_instruction_has_a_generator() -> None:
    missing = INSTRUCTIONS - HANDLES - GENERATORS.keys()
    assert not missing, f"tests/fuzz/primitives.py has no generator for {sorted(missing)}"


def test_every_primitive_is_accepted_often() -> None:
    accepted: Counter[str] = Counter()
    for seed in range(500):
        rng = random.Random(seed)
        if seed % 50 == 0:
            driver = Driver(product_case(rng).func, rng)
            with_instructions(driver)
            accepted += driver.accepted
        case = SmallProgram(rng, symbolic=seed % 4 == 0).case()
        if case is not None:
            driver = Driver(case.func, rng, symbolic=seed % 4 == 1)
            (on_threads if seed % 4 == 2 else random_schedule)(driver)
            accepted += driver.accepted
    rare = [name for name in GENERATORS if accepted[name] < 5]
    assert not rare, f"hardly ever accepted: {rare} of {dict(accepted)}"


@pytest.mark.parametrize("kind", [k.name for k in KINDS])
def test_every_kind_makes_programs(kind: str) -> None:
    assert sum(run_seed(seed, [kind], native=False).programs.total() for seed in range(3)) > 0


def test_a_seed_repeats() -> None:
    for seed in (3, 8):
        a, b = run_seed(seed, native=False), run_seed(seed, native=False)
        assert (a.programs, a.accepted, a.refused) == (b.programs, b.accepted, b.refused)


def test_smaller_programs_are_programs() -> None:
    made = 0
    for seed in range(40):
        rng = random.Random(seed)
        case = operator_case(rng) if seed % 4 == 0 else SmallProgram(rng, seed % 4 == 1).case()
        if case is None:
            continue
        other = resized(case, rng)
        if other is not None:
            verify(other.func)
            other.expected(other.sizes[0])
            made += 1
        for smaller in list(reductions(case))[:20]:
            verify(smaller.func)
            try:
                smaller.expected(smaller.sizes[0])
            except VerifyError:
                continue  # an expression was simplified to one that reads outside
    assert made > 15
