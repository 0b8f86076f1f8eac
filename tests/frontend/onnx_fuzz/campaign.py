"""Cases in worker processes with a limit of time and memory, chunk by chunk."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import workers
from tests.frontend.onnx_fuzz.attempt import Outcome, attempt, compare_with_peer
from tests.frontend.onnx_fuzz.cases import Case, make_case
from tests.frontend.onnx_fuzz.hostile import make_folder

#: Cases whose workers are forked at the same time.
CHUNK = 500


@dataclasses.dataclass
class Settings:
    """How to try cases.

    Attributes:
        seconds: the time of one file; one that is run has three times as much.
        memory: bytes of address space that a worker may take beyond what it starts with.
        run_share: the share of files that are compiled, run and compared with onnxruntime.
    """

    seconds: int = 10
    memory: int = 3 << 30
    processes: int = 1
    run_share: float = 0.03


@dataclasses.dataclass(frozen=True)
class Finding:
    """A case that did not end as it should."""

    case: Case
    outcome: Outcome


@dataclasses.dataclass
class Report:
    """Counts of outcomes, and the findings."""

    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    refusals: Counter[str] = dataclasses.field(default_factory=Counter)
    compared: int = 0
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        total = sum(self.outcomes.values())
        counts = ", ".join(f"{n} {kind}" for kind, n in self.outcomes.most_common())
        errors = ", ".join(f"{n} {kind}" for kind, n in self.refusals.most_common())
        return f"{total} files: {counts}; {self.compared} compared with onnxruntime; errors: {errors}"


def _try(case: Case, folder: Path, seconds: int) -> Outcome:
    """One case, in a worker."""
    if case.kind != "external":
        return attempt(case.data, run=case.run, seconds=seconds * (3 if case.run else 1))
    path = folder / f"{case.number}.onnx"
    path.write_bytes(case.data)
    try:
        return attempt(path, run=case.run, seconds=seconds)
    finally:
        path.unlink()


def try_cases(cases: Sequence[Case], settings: Settings) -> Iterator[tuple[Case, Outcome]]:
    """Each case and what became of it; a death of the worker and a hang in native code are findings."""
    root = Path(tempfile.mkdtemp(prefix="onnx-fuzz-"))
    try:
        folder = make_folder(root)
        function = partial(_try, folder=folder, seconds=settings.seconds)
        limit = 3 * settings.seconds + 15
        memory = settings.memory + _address_space()
        for reply in workers.each(
            function, cases, processes=settings.processes, seconds=limit, memory=memory
        ):
            outcome = reply.value or Outcome("finding", reply.error or "", reply.error or "")
            yield cases[reply.index], outcome
    finally:
        shutil.rmtree(root)


def _address_space() -> int:
    """Bytes that this process takes: a forked worker starts with as many."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * 4096


def run_campaign(
    numbers: range, seeds: Mapping[str, bytes], settings: Settings, kinds: Mapping[str, int]
) -> Iterator[Report]:
    """Reports of one chunk of cases after the other."""
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        cases = [make_case(n, seeds, settings.run_share, kinds) for n in chunk]
        report = Report()
        ran: list[tuple[Case, Outcome]] = []
        for case, outcome in try_cases(cases, settings):
            report.outcomes[outcome.kind] += 1
            if outcome.kind == "refused":
                report.refusals[outcome.signature] += 1
            if outcome.kind == "finding":
                report.findings.append(Finding(case, outcome))
            if outcome.kind == "ran" and case.kind != "external":
                ran.append((case, outcome))
        for case, found in _against_peer(ran, settings):
            report.compared += 1
            if found is not None:
                report.findings.append(Finding(case, found))
        yield report


def _compare(pair: tuple[Case, Outcome]) -> Outcome | None:
    return compare_with_peer(pair[0].data, pair[1])


def _against_peer(
    ran: Sequence[tuple[Case, Outcome]], settings: Settings
) -> Iterator[tuple[Case, Outcome | None]]:
    """What onnxruntime says; where it crashes or hangs, nothing."""
    for reply in workers.each(_compare, ran, processes=1, seconds=20, memory=1 << 40) if ran else ():
        if reply.error is None:
            yield ran[reply.index][0], reply.value
