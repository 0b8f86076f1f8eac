"""Hypothesis strategies of random tensor programs."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from tests.kernels.programs import Case, ProgramGenerator
from tests.kernels.stages import STAGES


def generator(seed: int, stages: int, sizes: Mapping[int, int] | None = None) -> ProgramGenerator:
    """A generator over all operations."""
    return ProgramGenerator(seed, stages, STAGES, sizes)


def random_case(seed: int, stages: int) -> Case:
    """A program with at least one computed tensor."""
    number = 0
    while True:
        made = generator(seed + (number << 32), stages)
        if any(v.tensor.body is not None for v in made.values):
            return made.case()
        number += 1


def cases(max_stages: int = 4) -> st.SearchStrategy[Case]:
    """Random programs; failures shrink towards fewer stages."""
    return st.builds(
        lambda stages, seed: random_case(seed, stages), st.integers(1, max_stages), st.integers(0, 2**32 - 1)
    )
