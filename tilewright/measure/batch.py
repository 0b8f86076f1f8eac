"""Measuring candidates of a workload: from traces to times, right ones only."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final

from tilewright.errors import TilewrightError
from tilewright.ir.parser import parse
from tilewright.measure.builder import Build, Builder, Candidate
from tilewright.measure.data import make_data
from tilewright.measure.noise import Noise, NoiseWatch
from tilewright.measure.program import Program, build_program, flush_bytes
from tilewright.measure.runner import Limits, Runner, Task
from tilewright.measure.timing import Difference, Plan, Race
from tilewright.records.record import Sample, Workload
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

#: So many candidates are compiled before they are looked at together, while nothing is compiled.
GROUP: Final = 16
#: Bytes of data of workloads that are kept for when they come back.
KEPT: Final = 1 << 30
#: A candidate has at least as long as so many calls of the reference kernel before it counts as one that
#: never ends.
PATIENCE: Final = 50
#: Programs of a workload that were right and are kept for a race.
RIGHT: Final = 64


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is known of a candidate.

    Attributes:
        status: one of :data:`tilewright.records.STATUSES`.
        error: for failures, what happened.
        samples: every time that was measured, each with the reference kernel's beside it.
        build_seconds: how long compiling took.
        disturbed: whether the machine was not calm while it was timed, also when that was repeated: the times
            are kept, but should be measured again before anything rests on them.
    """

    status: str
    error: str = ""
    samples: tuple[Sample, ...] = ()
    build_seconds: float = 0.0
    disturbed: bool = False


@dataclasses.dataclass(frozen=True)
class Finals:
    """What came of the finalists.

    Attributes:
        measurements: by trace; those that ran have samples.
        race: the race of those that ran, None where there was none to the end.
        runners: the numbers of the traces that took part in it, in the order of ``race``.
    """

    measurements: tuple[Measurement, ...]
    race: Race | None
    runners: tuple[int, ...]

    @property
    def leader(self) -> int | None:
        """The number of the fastest trace; None where no race ended."""
        return None if self.race is None else self.runners[self.race.leader]

    def difference(self, trace: int, other: int) -> Difference:
        """How much slower one trace is than another. Raises ValueError where one of them did not run."""
        if self.race is None:
            raise ValueError("there was no race")
        return self.race.difference(self.runners.index(trace), self.runners.index(other))


@dataclasses.dataclass
class _Prepared:
    """What measuring a workload takes.

    Attributes:
        workload: which.
        task: data and expected outputs.
        reference: the kernel with the default schedule.
        patience: seconds that a candidate has.
        best: the least time that was seen, relative to the reference.
        right: programs that ran and were right, by trace, the last ones.
    """

    workload: Workload
    task: Task
    reference: Program
    patience: float
    best: float = 1.0
    right: dict[str, Program] = dataclasses.field(default_factory=dict)

    def keep(self, trace: str, program: Program) -> None:
        """Remember that a program was right, in place of the one that was longest ago."""
        self.right.pop(trace, None)
        self.right[trace] = program
        if len(self.right) > RIGHT:
            del self.right[next(iter(self.right))]

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(a.nbytes for a in (*self.task.inputs, *self.task.expected))


class Measurer:
    """Builds candidates and runs them; use it in ``with``.

    Args:
        target: this machine.
        threads: threads of a call.
        jobs: processes that compile; as many as there are cores when left out.
        limits: what a candidate may take.

    Raises:
        TargetError: this machine cannot run code for ``target``.
        CompileError: the runtime could not be compiled.
    """

    def __init__(
        self, target: Target, threads: int = 1, jobs: int | None = None, limits: Limits | None = None
    ) -> None:
        self.target, self.threads = target, threads
        self._runner = Runner(target, threads, limits)
        self._builder = Builder(target, jobs or max(target.cores, 1))
        self._current: _Prepared | None = None
        self._limits = limits or Limits()
        self._watch = NoiseWatch()
        self._prepared: dict[str, _Prepared] = {}

    @property
    def noise(self) -> Noise:
        """How quiet the machine has been since the workload was set."""
        return self._watch.noise

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody who reads the times should know; empty on a quiet machine."""
        return self.noise.warnings

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        self._builder.close()
        self._runner.close()

    def set_workload(self, workload: Workload) -> None:
        """What the next traces are schedules of: makes data and the reference kernel, which has the default
        schedule. Both are kept for a while: coming back to a workload costs little.

        Raises:
            ShapeError: a shape is symbolic.
            CompileError: the reference kernel could not be compiled.
            TilewrightError: it does not compute what the function says.
        """
        prepared = self._prepared.pop(workload.key, None)
        if prepared is None:
            prepared = self._prepare(workload)
        else:
            self._runner.set_task(prepared.task)
        self._prepared[workload.key] = prepared
        while len(self._prepared) > 1 and sum(p.nbytes for p in self._prepared.values()) > KEPT:
            del self._prepared[next(iter(self._prepared))]
        self._runner.limits = dataclasses.replace(self._limits, seconds=prepared.patience)
        self._current = prepared
        self._watch = NoiseWatch()

    def _prepare(self, workload: Workload) -> _Prepared:
        func = parse(workload.text)
        data = make_data(func, self.target)
        task = Task(
            data.params,
            data.inputs,
            data.expected,
            rtol=data.rtol,
            off_by_one=data.off_by_one,
            cold=frozenset(func.attr("const_params", ())),
            flush_bytes=flush_bytes(self.target),
        )
        self._runner.set_task(task)
        reference = build_program(default_schedule(func, self.target), self.target)
        self._runner.limits = self._limits
        outcome = self._runner.check(reference)
        if outcome.status != "ok" or outcome.seconds is None:
            raise TilewrightError(f"the default schedule of '{func.name}' fails: {outcome.error}")
        return _Prepared(workload, task, reference, max(self._limits.seconds, PATIENCE * outcome.seconds))

    def measure(self, traces: Sequence[str]) -> Iterator[tuple[int, Measurement]]:
        """Compile, check and time candidates; gives each one's number and what came of it, in any order.

        Samples come in pairs with the reference kernel's time beside them. A candidate that is far from the
        best one has one or two short ones; those that are near it have several of at least 5 ms.

        Raises ValueError when no workload is set.
        """
        if self._current is None:
            raise ValueError("a measurer needs a workload first")
        text = self._current.workload.text
        for start in range(0, len(traces), GROUP):
            waiting: list[tuple[int, Build, Program]] = []
            group = traces[start : start + GROUP]
            for place, build in self._builder.build(Candidate(text, trace) for trace in group):
                if build.program is None:
                    failed = Measurement(build.status, build.error, build_seconds=build.seconds)
                    yield start + place, failed
                else:
                    waiting.append((start + place, build, build.program))
            yield from self._look(waiting, traces)

    def _look(
        self, waiting: Sequence[tuple[int, Build, Program]], traces: Sequence[str]
    ) -> Iterator[tuple[int, Measurement]]:
        current = self._current
        assert current is not None
        if not waiting:
            return
        programs = [program for _, _, program in waiting]
        for place, outcome in self._runner.look(programs, current.reference, best=current.best):
            number, build, program = waiting[place]
            samples = outcome.samples[0]
            if outcome.status == "ok":
                current.keep(traces[number], program)
                self._watch.looked(outcome.disturbed)
                if not outcome.disturbed:
                    ratio = statistics.median(s.seconds / (s.reference or math.inf) for s in samples)
                    current.best = min(current.best, ratio)
            self._watch.saw(s.reference for s in samples if s.reference is not None)
            yield (
                number,
                Measurement(outcome.status, outcome.error, samples, build.seconds, outcome.disturbed),
            )

    def final(self, traces: Sequence[str], plan: Plan | None = None) -> Finals:
        """Let candidates run against each other, the reference kernel beside all of them; those that fail
        are left out. What was measured a while ago is not compiled and checked again.

        Raises ValueError when no workload is set.
        """
        if self._current is None:
            raise ValueError("a measurer needs a workload first")
        text, right = self._current.workload.text, self._current.right
        found = {n: Measurement("ok", "") for n, trace in enumerate(traces) if trace in right}
        programs = {n: right[traces[n]] for n in found}
        unknown = [n for n in range(len(traces)) if n not in found]
        for place, build in self._builder.build(Candidate(text, traces[n]) for n in unknown):
            number = unknown[place]
            found[number] = Measurement(build.status, build.error, build_seconds=build.seconds)
            if build.program is not None:
                outcome = self._runner.check(build.program)
                found[number] = dataclasses.replace(found[number], status=outcome.status, error=outcome.error)
                if outcome.status == "ok":
                    programs[number] = build.program
                    self._current.keep(traces[number], build.program)
        runners = sorted(programs)
        race = None
        if runners:
            outcome = self._runner.race([programs[n] for n in runners], self._current.reference, plan)
            race = outcome.race
            for number, samples in zip(runners, outcome.samples, strict=True):
                found[number] = dataclasses.replace(
                    found[number], status=outcome.status, error=outcome.error, samples=samples
                )
        return Finals(tuple(found[n] for n in range(len(traces))), race, tuple(runners))
