"""Choosing schedules by what the measurement store has of them (docs/choosing.md).

:class:`Lookup` answers for one device and number of threads: with the schedules that were measured to be
surely faster than the default, else with the best candidate by a cost model, else not at all. A store that
cannot be read never stops a compilation: one warning, and the default schedules.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from tilewright.build import DEFAULT, Choice
from tilewright.errors import MissingDependencyError, StoreError
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.verify import verify
from tilewright.records import Device, Leader, Store, elsewhere, leaders, open_store
from tilewright.records.record import digest
from tilewright.runtime.chosen import Chosen
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.trace import Trace
from tilewright.target import Target

#: Schedules of a task that are tried before the default one.
TRIED: Final = 3

_log = logging.getLogger("tilewright")


@dataclasses.dataclass(frozen=True)
class Known:
    """What the store says of a task.

    Attributes:
        leaders: schedules that are surely faster than the default, best first.
        note: what a person should know where there are none; may be empty.
    """

    leaders: tuple[Leader, ...] = ()
    note: str = ""

    @property
    def state(self) -> str:
        """Equal where the store would have the same schedules taken for the same reasons."""
        return digest(json.dumps([[leader.schedule for leader in self.leaders], self.note]))


class Lookup:
    """Chooses schedules by a measurement store: a :data:`tilewright.build.Choose`.

    Args:
        address: of the store; it is opened when it is first asked, and let go of by :meth:`close`.
        target: what code is made for.
        threads: of the runs to come: times on another number of threads do not count.
    """

    def __init__(self, address: str, target: Target, threads: int) -> None:
        self.address, self.threads = address, threads
        self._device = Device.of(target).fingerprint
        self._store: Store | None = None
        self._known: dict[str, Known] = {}
        self.failed = False

    def __call__(self, func: PrimFunc, target: Target, workload: str) -> Sequence[Choice]:
        """The recorded schedules of a task, then the default one."""
        known = self.known(workload)
        default = Choice(DEFAULT.identity, DEFAULT.schedule, Chosen(note=known.note))
        return (*map(_recorded, known.leaders), default)

    def known(self, workload: str) -> Known:
        """What the store says of the task with this key; nothing where it cannot be read."""
        if workload not in self._known:
            self._known[workload] = self._ask(workload)
        return self._known[workload]

    def evidence(self) -> dict[str, str]:
        """What everything that was asked so far was answered, by workload key."""
        return {workload: known.state for workload, known in self._known.items()}

    def confirms(self, evidence: Mapping[str, str]) -> bool:
        """Whether the store answers today as it did then; not where it cannot be read."""
        return all(self.known(w).state == state for w, state in evidence.items()) and not self.failed

    def close(self) -> None:
        """Let go of the store; it is opened again when it is asked again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _ask(self, workload: str) -> Known:
        if self.failed:
            return Known()
        try:
            if self._store is None:
                self._store = open_store(self.address, create=False, reading=True)
            found = leaders(self._store, workload, self._device, self.threads, TRIED)
            if not found:
                return Known(note=elsewhere(self._store, workload, self._device, self.threads))
        except (StoreError, MissingDependencyError) as error:
            self.failed = True
            _log.warning("schedules are chosen without measurements: %s", error)
            return Known()
        faster = tuple(leader for leader in found if leader.ratio is None or leader.limit < 1)
        return Known(faster, "" if faster else "nothing that was measured is surely faster")


def _recorded(leader: Leader) -> Choice:
    """The choice of a measured schedule."""
    gain = None if leader.ratio is None else 1 / leader.ratio
    chosen = Chosen("record", leader.seconds, gain, leader.record, leader.created)

    def schedule(func: PrimFunc, target: Target) -> Schedule:
        return replay(leader.trace, func)

    return Choice(leader.schedule, schedule, chosen)


def replay(trace: str, func: PrimFunc) -> Schedule:
    """A stored trace on a task. It belongs to the function that the task's canonical text is parsed to, so
    that the schedule's function has that one's names, in the same places.

    Raises ScheduleError when the trace is none, or does not apply (any more), and VerifyError when what it
    makes breaks a rule of the IR.
    """
    schedule = Trace.from_json(trace).apply(parse(canonical_text(func)))
    verify(schedule.func)
    return schedule
