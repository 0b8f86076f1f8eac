"""A measurer whose times are made up: each trace has its own, from its text, with noise; time passes on a
clock that tests look at."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tilewright.measure.batch import Finals, Measurement
from tilewright.measure.timing import Plan, Race
from tilewright.records import Sample, Workload
from tilewright.target import Target
from tilewright.tune.space import SearchSpace


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def speed(trace: str) -> float:
    """The time of a trace in milliseconds: between 0.5 and 2."""
    return 2.0 ** (int(hashlib.sha256(trace.encode()).hexdigest()[:8], 16) / 2**31 - 1)


@functools.cache
def search_space(workload: Workload, target: Target) -> SearchSpace:
    """One for all tests: making it takes longer than they do."""
    return SearchSpace(workload, target)


@functools.cache
def default_trace(workload: Workload) -> str:
    space = search_space(workload, Target.parse("native"))
    return space.trace(space.default)


class FakeMeasurer:
    """Measures without running anything.

    Args:
        clock: moves on by ``cost`` seconds for each candidate.
        ratio: a trace's time relative to ``reference``; by default that of :meth:`plain`.
        noise: standard deviation of the logarithms of times.
        status: what becomes of a trace.
        before: called with each trace before it is measured.
    """

    def __init__(
        self,
        clock: Clock,
        ratio: Callable[[str], float] | None = None,
        noise: float = 0.0,
        status: Callable[[str], str] = lambda trace: "ok",
        before: Callable[[str], None] = lambda trace: None,
        cost: float = 0.5,
        reference: float = 1e-3,
    ) -> None:
        self.clock, self.ratio, self.noise, self.status, self.before = (
            clock,
            ratio or self.plain,
            noise,
            status,
            before,
        )
        self.cost, self.reference = cost, reference
        self.rng = np.random.default_rng(0)
        self.measured: list[str] = []
        self.raced: list[list[str]] = []
        self.closed = 0
        self.default = ""
        self.warnings: tuple[str, ...] = ()

    def set_workload(self, workload: Workload) -> None:
        self.clock.now += 1.0
        self.default = default_trace(workload)

    def plain(self, trace: str) -> float:
        """Some candidates are faster than the default schedule, some are not."""
        return 1.2 if trace == self.default else speed(trace)

    def _sample(self, trace: str) -> Sample:
        own, beside = np.exp(self.rng.standard_normal(2) * self.noise) * self.reference
        return Sample(float(own * self.ratio(trace)), float(beside * self.ratio(self.default)))

    def measure(self, traces: Sequence[str]) -> Iterator[tuple[int, Measurement]]:
        for number, trace in enumerate(traces):
            self.before(trace)
            self.clock.now += self.cost
            self.measured.append(trace)
            status = self.status(trace)
            samples = tuple(self._sample(trace) for _ in range(2)) if status == "ok" else ()
            yield number, Measurement(status, "" if status == "ok" else "made up", samples, 0.1)

    def final(self, traces: Sequence[str], plan: Plan | None = None) -> Finals:
        self.clock.now += 1.0
        self.raced.append(list(traces))
        rounds = 30
        found = [Measurement(self.status(t), "", ()) for t in traces]
        runners = tuple(n for n, m in enumerate(found) if m.status == "ok")
        samples = [tuple(self._sample(traces[n]) for _ in range(rounds)) for n in runners]
        for n, taken in zip(runners, samples, strict=True):
            found[n] = Measurement("ok", "", taken)
        if not runners:
            return Finals(tuple(found), None, ())
        medians = [float(np.median([s.seconds for s in taken])) for taken in samples]
        race = Race(
            samples=tuple(samples),
            left_at=(None,) * len(runners),
            leader=int(np.argmin(medians)),
            rounds=rounds,
            disturbed=0,
            noise=self.noise,
            drift=0.0,
            counted=tuple(range(rounds)),
        )
        return Finals(tuple(found), race, runners)

    def close(self) -> None:
        self.closed += 1
