"""Seeded bugs: the fuzzer finds them, makes them small, and writes files that repeat them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.campaign import run_seed
from tests.fuzz.minimise import minimise, size_of
from tests.fuzz.mutants import MUTANTS
from tests.fuzz.mutation import BUDGET, Mutant, in_process, seeded
from tests.fuzz.repro import write_repro

NAMED = {m.name: m for m in MUTANTS}

#: Found within a few seeds: one of each family.
QUICK = (
    "split without a guard",
    "fuse takes the wrong digit",
    "regions one short",
    "compute_at for one load",
    "layouts without padding",
    "shrunk buffers for the last access",
    "guards leave their loops",
)


def test_mutants_fit_the_sources() -> None:
    """A change of the compiler may make a mutant's text stale: give it the new one."""
    assert len(NAMED) == len(MUTANTS)
    for mutant in MUTANTS:
        mutant.code()


@pytest.mark.parametrize("name", QUICK)
def test_a_seeded_bug_is_found(name: str) -> None:
    outcome = in_process(NAMED[name], 40)
    assert outcome.seeds is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NAMED.keys() - set(QUICK)))
def test_every_seeded_bug_is_found(name: str) -> None:
    assert in_process(NAMED[name], BUDGET).seeds is not None


def test_a_bug_goes_with_its_context() -> None:
    mutant = NAMED["split without a guard"]
    before = mutant.target().__code__
    with seeded(mutant):
        assert mutant.target().__code__ is not before
    assert mutant.target().__code__ is before


def _repeat(path: Path, mutant: Mutant | None) -> subprocess.CompletedProcess[str]:
    """Run the file, with the bug or without."""
    lines = [f"import runpy, sys; sys.path.insert(0, {str(Path.cwd())!r})"]
    if mutant is not None:
        lines.append("from tests.fuzz.mutation import seeded; from tests.fuzz.mutants import MUTANTS")
        lines.append(f"bug = seeded(next(m for m in MUTANTS if m.name == {mutant.name!r})); bug.__enter__()")
    lines.append(f"runpy.run_path({str(path)!r})")
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["split without a guard", "shrunk buffers for the last access"])
def test_a_failure_becomes_a_small_file_that_repeats_it(name: str, tmp_path: Path) -> None:
    mutant = NAMED[name]
    with seeded(mutant):
        found = next(f for seed in range(100) for f in run_seed(seed, ["small"], native=False).found)
        small = minimise(found, seconds=30)
        assert size_of(small) < size_of(found)
        path = write_repro(small, tmp_path)
    with_bug, without = _repeat(path, mutant), _repeat(path, None)
    assert with_bug.returncode == 1, with_bug.stderr
    assert small.failure.check in with_bug.stderr
    assert without.returncode == 0, without.stderr
    assert "holds" in without.stdout
