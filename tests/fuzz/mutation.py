"""Does the fuzzer notice? Bugs seeded one at a time, and how many seeds it takes to find each.

    python -m tests.fuzz.mutation              # all mutants
    python -m tests.fuzz.mutation --name split

The mutants are data, in :mod:`tests.fuzz.mutants`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import multiprocessing
import os
import sys
import textwrap
import time
import types
from collections.abc import Collection, Iterator, Sequence

from tests.fuzz.campaign import run_seed

#: Seeds that a mutant is given.
BUDGET = 160


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A bug: in the source of one function, one piece of text replaced by another.

    Attributes:
        name: of the bug, unique.
        function: ``module:function`` or ``module:Class.method``, inside ``tilewright``.
        old, new: the text; ``old`` occurs exactly once in the function's source.
        seed: a seed that finds it, to begin with; then all from 0 on.
        kinds: programs to look among (:data:`tests.fuzz.campaign.KINDS`), all when left out.
    """

    name: str
    function: str
    old: str
    new: str
    seed: int = 0
    kinds: tuple[str, ...] = ()

    def target(self) -> types.FunctionType:
        """The function as it is."""
        module, _, path = self.function.partition(":")
        found: object = importlib.import_module(f"tilewright.{module}")
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        found = getattr(found, "__func__", found)
        assert isinstance(found, types.FunctionType), self.function
        return found

    def code(self) -> types.CodeType:
        """What the function would be. Raises ValueError when the source has changed since."""
        function = self.target()
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise ValueError(f"mutant '{self.name}': {self.function} does not have once:\n{self.old}")
        text = "from __future__ import annotations\n" + source.replace(self.old, self.new)
        scope = dict(function.__globals__)
        exec(compile(text, f"<{self.name}>", "exec"), scope)
        changed = scope[function.__name__]
        return getattr(changed, "__func__", changed).__code__


@contextlib.contextmanager
def seeded(mutant: Mutant) -> Iterator[None]:
    """The bug is there, for whoever imported the function from wherever."""
    function = mutant.target()
    before = function.__code__
    function.__code__ = mutant.code()
    try:
        yield
    finally:
        function.__code__ = before


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Attributes: seeds: how many it took, or None; check: which check noticed."""

    mutant: Mutant
    seeds: int | None
    check: str
    seconds: float


def hunt(mutant: Mutant, budget: int = BUDGET, known: Collection[int] = ()) -> Outcome:
    """Run seeds until one fails, but for those ``known`` to fail without the mutant."""
    began = time.monotonic()
    with seeded(mutant):
        for n, seed in enumerate(dict.fromkeys([mutant.seed, *range(budget)])):
            report = run_seed(seed, mutant.kinds, native=False)
            if report.found and seed not in known:
                check = f"{report.found[0].failure.check}, {report.found[0].failure.kind}"
                return Outcome(mutant, n + 1, check, time.monotonic() - began)
    return Outcome(mutant, None, "", time.monotonic() - began)


def in_process(mutant: Mutant, budget: int = BUDGET) -> Outcome:
    """:func:`hunt` in a process of its own: what is remembered of a mutated compiler goes with it."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(hunt, (mutant, budget))


def main(argv: Sequence[str] | None = None) -> int:
    from tests.fuzz.mutants import MUTANTS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.mutation", description=__doc__)
    parser.add_argument("--name", help="mutants with this in their name")
    parser.add_argument("--seeds", type=int, default=BUDGET, help="at most as many for each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--from-zero", action="store_true", help="do not begin with the seed known to find it"
    )
    options = parser.parse_args(argv)
    mutants = [m for m in MUTANTS if options.name is None or options.name in m.name]
    if options.from_zero:
        mutants = [dataclasses.replace(m, seed=0) for m in mutants]
    missed = 0
    with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        known = frozenset(s for s in pool.imap_unordered(_failing, range(options.seeds)) if s is not None)
        if known:
            print(f"left out, for they fail without any mutant: seeds {sorted(known)}", flush=True)
        jobs = [(m, options.seeds, known) for m in mutants]
        for outcome in pool.imap(_hunt, jobs, chunksize=1):
            missed += outcome.seeds is None
            count = "MISSED" if outcome.seeds is None else f"{outcome.seeds:4d} seeds"
            name, function = outcome.mutant.name, outcome.mutant.function
            print(
                f"{count:>10}  {outcome.seconds:6.1f} s  {name:44} {function:50} {outcome.check}", flush=True
            )
    print(f"{len(mutants) - missed} of {len(mutants)} mutants caught")
    return 1 if missed else 0


def _hunt(job: tuple[Mutant, int, Collection[int]]) -> Outcome:
    return hunt(*job)


def _failing(seed: int) -> int | None:
    """The seed when it fails as things are."""
    return seed if run_seed(seed, native=False).found else None


if __name__ == "__main__":
    sys.exit(main())
