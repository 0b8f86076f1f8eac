"""A thousand random tensor programs: verified, printed and read back, executed, simplified."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tests.ir.strategies import Program, random_program
from tilewright.ir import interp_grid
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text, structural_equal, to_text, workload_key
from tilewright.ir.simplify import simplify_stmt
from tilewright.ir.verify import verify

_BATCH = 100


def _programs(batch: int) -> list[Program]:
    return [
        random_program(Random(seed), 1 + seed % 6) for seed in range(batch * _BATCH, (batch + 1) * _BATCH)
    ]


@pytest.mark.parametrize("batch", range(10))
def test_text_round_trip(batch: int) -> None:
    for program in _programs(batch):
        verify(program.func)
        text = to_text(program.func)
        again = parse(text)
        assert to_text(again) == text
        assert structural_equal(again, program.func)
        verify(again)


@pytest.mark.parametrize("batch", range(10))
def test_interpreter_agrees_with_numpy(batch: int) -> None:
    for program in _programs(batch):
        program.check(run(program.func, program.inputs))


@pytest.mark.parametrize("batch", range(3))
def test_simplified_programs_give_the_same_bits(batch: int) -> None:
    for program in _programs(batch):
        simple = program.func.with_(body=simplify_stmt(program.func.body))
        verify(simple)
        expected = run(program.func, program.inputs, check_undefined=True)
        for a, b in zip(run(simple, program.inputs, check_undefined=True), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_whole_arrays_and_single_elements_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of a sum does not depend on what the interpreter turned into array operations."""
    for program in _programs(0)[:60]:
        fast = run(program.func, program.inputs)
        monkeypatch.setattr(interp_grid, "MAX_POINTS", 0)
        slow = run(program.func, program.inputs)
        monkeypatch.undo()
        for a, b in zip(fast, slow, strict=True):
            np.testing.assert_array_equal(a, b)


def test_canonical_text_and_key_do_not_see_names() -> None:
    for seed in range(60):
        func = random_program(Random(seed), 1 + seed % 6).func
        again = parse(canonical_text(func))
        assert canonical_text(again) == canonical_text(func)
        assert workload_key(again) == workload_key(func)
        assert workload_key(func.with_(name="other")) == workload_key(func)


def test_different_programs_have_different_keys() -> None:
    keys = {workload_key(random_program(Random(seed), 4).func) for seed in range(200)}
    assert len(keys) > 190
