"""What happens in a tuning session, as data: for views, logs and tests.

A session tells its listeners events in order, as they happen. A log has one event a line, as JSON: the
fields of its class, ``event`` (the class's name in lower case) and ``at`` (seconds since the session began).
Within a version of the format fields may be added, not taken away.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, TextIO

from tilewright.errors import OptionError

#: Version of the log's format.
FORMAT: Final = 1


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        at: seconds since the session began.
    """

    at: float

    def to_json(self) -> dict[str, Any]:
        """The line of a log."""
        return {"event": type(self).__name__.lower(), **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class Began(Event):
    """The session began.

    Attributes:
        format: version of the log's format.
        model, store, device, epoch, compiler: names of what is tuned, where records go, what measures, the
            epoch of the new records, and the version of the compiler.
        threads: of a run.
        strategy, cost_model: who proposes, and by what.
        budget: seconds; None: no limit.
        trials: candidates; None: no limit.
        tasks: how many there are.
        skipped: of each kernel that is not tuned its name, and why.
    """

    format: ClassVar[int] = FORMAT
    model: str
    store: str
    device: str
    epoch: str
    compiler: str
    threads: int
    strategy: str
    cost_model: str
    budget: float | None
    trials: int | None
    tasks: int
    skipped: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "format": self.format}


@dataclasses.dataclass(frozen=True)
class Baseline(Event):
    """The time of a task at the beginning is known.

    Attributes:
        task: its workload's key.
        name: its function's name.
        label: that and the first node that it computes.
        occurrences: how often the model runs it.
        seconds: with the schedule that the store gave at the beginning; None where that failed.
        default: with the default schedule.
        known: how many of its candidates the store knew already.
        error: why it cannot be tuned; empty otherwise.
    """

    task: str
    name: str
    label: str
    occurrences: int
    seconds: float | None
    default: float | None
    known: int
    error: str


@dataclasses.dataclass(frozen=True)
class Measured(Event):
    """A candidate was measured.

    Attributes:
        task: its workload's key.
        schedule: sha256 of its trace, its key in the store.
        role: why it was measured.
        status: what became of it.
        seconds: the median time; None for failures.
        ratio: of its time to the default schedule's beside it; None for failures.
        error: for failures, what happened.
        build_seconds: how long compiling took.
        trial: whether it counts among the candidates: what a task begins with, and what is looked at again
            after a failure, does not.
    """

    task: str
    schedule: str
    role: str
    status: str
    seconds: float | None
    ratio: float | None
    error: str
    build_seconds: float
    trial: bool = True


@dataclasses.dataclass(frozen=True)
class Raced(Event):
    """Candidates ran against the best one.

    Attributes:
        task: the workload's key.
        schedules: who ran, the best one so far first.
        promoted: the one that is the best from now on; None: none was surely faster.
        ratio: of the times of the fastest challenger to those of the best one so far; None: none ran to the
            end.
        half_width: half the 95 % confidence interval of the logarithm of that ratio.
        noise, drift: of the machine, see :class:`tilewright.measure.Race`.
        seconds: the time of the best one now.
    """

    task: str
    schedules: tuple[str, ...]
    promoted: str | None
    ratio: float | None
    half_width: float | None
    noise: float
    drift: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Visited(Event):
    """A stretch of work on a task is over.

    Attributes:
        task: the workload's key.
        spent: seconds that it took.
        seconds: the time of the task's best schedule.
        projected: seconds of all kernels of the model, one after the other, with their best schedules.
        at_start: the same with those that the store gave at the beginning.
        trials: candidates measured in this session.
        spent_budget: which part of the budget is used up, 0 to 1; None without one.
        exhausted: whether the task has nothing left to measure.
    """

    task: str
    spent: float
    seconds: float
    projected: float
    at_start: float
    trials: int
    spent_budget: float | None
    exhausted: bool


@dataclasses.dataclass(frozen=True)
class Noted(Event):
    """Something that a person should know.

    Attributes:
        message: a sentence.
    """

    message: str


@dataclasses.dataclass(frozen=True)
class Ended(Event):
    """The session is over.

    Attributes:
        reason: ``budget``, ``trials``, ``done`` (nothing more is to be gained) or ``interrupted``.
        trials: candidates that were measured.
        failures: how many of them failed, by status.
        projected, at_start: as in :class:`Visited`.
    """

    reason: str
    trials: int
    failures: Mapping[str, int]
    projected: float
    at_start: float


@dataclasses.dataclass(frozen=True)
class Whole(Event):
    """The whole model was timed, compiled by default and with the store, or it was not.

    Attributes:
        before, after: seconds of a run by default, and with the store; as the rest, None where it was not.
        ratio, low, high: how many times faster it is with the store, and the 95 % confidence interval.
        rounds: how often both ran.
        noise: of the machine, see :class:`tilewright.measure.Race`.
        why_not: why it was not timed; empty otherwise.
    """

    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    noise: float | None = None
    why_not: str = ""


#: All kinds of events that a log may have.
KINDS: Final = (Began, Baseline, Measured, Raced, Visited, Noted, Ended, Whole)

Listener = Callable[[Event], None]


class EventLog:
    """Writes events to a file, one a line, each of them at once; use it in ``with``, as a listener.

    A file that is there is continued: a session that goes on where another one stopped adds to its log.

    Raises OptionError when the file cannot be opened or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise self._problem(error) from error

    def __call__(self, event: Event) -> None:
        try:
            self._file.write(json.dumps(event.to_json(), separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._problem(error) from error

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise self._problem(error) from error

    def _problem(self, error: OSError) -> OptionError:
        return OptionError(
            f"the log of events cannot be written: {error.strerror or error}",
            location=str(self._path),
            hint="choose another file (--events); what was measured is in the store",
        )
