"""Choosing schedules by what the measurement store has of them (docs/choosing.md).

:class:`Lookup` answers for one device and number of threads: with the schedules that were measured to be
surely faster than the default, else with the best candidate by a cost model, else not at all. A store that
cannot be read never stops a compilation: one warning, and the default schedules.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from tilewright.assembly.program import graph_kernels
from tilewright.build import DEFAULT, Choice
from tilewright.cost.model import FeatureModel
from tilewright.errors import MissingDependencyError, StoreError
from tilewright.graph.alternatives import ChoicePoint, default_pick
from tilewright.graph.graph import Graph
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import variants
from tilewright.ir.expr import Var
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text, workload_key
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.verify import verify
from tilewright.measure.ways import MARGIN, likeness
from tilewright.records import Device, Leader, Store, elsewhere, leaders, open_store
from tilewright.records.record import digest
from tilewright.runtime.chosen import Chosen
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.trace import Trace
from tilewright.target import Target
from tilewright.tune.guided import best_by_model

#: What begins the keys of workloads whose times were asked for among the evidence, and the key of the model.
_TIME: Final = "time "
_MODEL: Final = "model"
#: Schedules of a task that are tried before the default one.
TRIED: Final = 3

_log = logging.getLogger("tilewright")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Known:
    """What the store says of a task.

    Attributes:
        leaders: schedules that are surely faster than the default, best first.
        note: what a person should know where there are none; may be empty.
        seconds: the recorded time of a call with the first of them, else with the default schedule; None: not
            known.
    """

    leaders: tuple[Leader, ...] = ()
    note: str = ""
    seconds: float | None = None

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
        models: whether the learned model of the store chooses where there are no records.
    """

    def __init__(self, address: str, target: Target, threads: int, models: bool = False) -> None:
        self.address, self.target, self.threads, self.models = address, target, threads, models
        self._device = Device.of(target).fingerprint
        self._store: Store | None = None
        self._known: dict[str, Known] = {}
        self._ways: dict[object, str] = {}
        self._timed: set[str] = set()
        self.failed = False

    def __call__(self, func: PrimFunc, target: Target, workload: str) -> Sequence[Choice]:
        """The recorded schedules of a task, or the model's, then the default one."""
        known = self.known(workload)
        default = Choice(DEFAULT.identity, DEFAULT.schedule, Chosen(seconds=known.seconds, note=known.note))
        chosen = [_recorded(leader) for leader in known.leaders]
        if known.seconds is None and not any(isinstance(p, Var) for p in func.params):
            chosen = self._by_model(func)
        return (*chosen, default)

    def pick(self, point: ChoicePoint) -> str:
        """How to compute a node: in the way whose kernels take the least time in all with the schedules that
        they would get, if it is faster than the rule's by :data:`tilewright.measure.ways.MARGIN` and all of
        these times are recorded; else as the rule says."""
        key = likeness(point)
        if key not in self._ways:
            self._ways[key] = self._fastest_way(point)
        return self._ways[key]

    def _fastest_way(self, point: ChoicePoint) -> str:
        usual = default_pick(point)
        if self.failed:
            return usual
        # The node computed directly is looked up first: most stores know no other ways.
        if self._seconds(point.graph()) is None:
            return usual
        times = {name: self._seconds(graph) for name, graph in variants(point).items()}
        known = {name: seconds for name, seconds in times.items() if seconds is not None}
        best = min(known, key=lambda name: known[name], default=usual)
        if usual in known and known[best] >= known[usual] * (1 - MARGIN):
            return usual
        return best if usual in known else usual

    def _seconds(self, graph: Graph) -> float | None:
        """The time of all kernels of an optimised graph; None where one is not known."""
        keys = [workload_key(kernel.func) for kernel in graph_kernels(graph, partition(graph))]
        self._timed.update(keys)
        found = [self.known(key).seconds for key in keys]
        return None if None in found else sum(s for s in found if s is not None)

    def known(self, workload: str) -> Known:
        """What the store says of the task with this key; nothing where it cannot be read."""
        if workload not in self._known:
            self._known[workload] = self._ask(workload)
        return self._known[workload]

    def evidence(self) -> dict[str, str]:
        """What everything that was asked so far was answered, by workload key."""
        answers = {workload: known.state for workload, known in self._known.items()}
        answers |= {f"{_TIME}{workload}": self._time(workload) for workload in self._timed}
        return {**answers, _MODEL: self._model_state} if self.models else answers

    def confirms(self, evidence: Mapping[str, str]) -> bool:
        """Whether the store answers today as it did then; not where it cannot be read."""
        for key, state in evidence.items():
            if key == _MODEL:
                now = self._model_state
            elif key.startswith(_TIME):
                now = self._time(key.removeprefix(_TIME))
            else:
                now = self.known(key).state
            if now != state:
                return False
        return not self.failed

    def close(self) -> None:
        """Let go of the store; it is opened again when it is asked again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _time(self, workload: str) -> str:
        """The recorded time of a task, in which small changes do not show."""
        seconds = self.known(workload).seconds
        return "" if seconds is None else f"{seconds:.2e}"

    def _read(self, question: Callable[[Store], _T]) -> _T | None:
        """The answer of the store; None, after one warning for all, where it cannot be read."""
        if self.failed:
            return None
        try:
            if self._store is None:
                self._store = open_store(self.address, create=False, reading=True)
            return question(self._store)
        except (StoreError, MissingDependencyError) as error:
            self.failed = True
            _log.warning("schedules are chosen without measurements: %s", error)
            return None

    def _ask(self, workload: str) -> Known:
        where = (workload, self._device, self.threads)
        found = self._read(lambda store: leaders(store, *where, TRIED))
        if not found:
            return Known(note=self._read(lambda store: elsewhere(store, *where)) or "")
        faster = tuple(leader for leader in found if leader.ratio is not None and leader.limit < 1)
        if faster:
            return Known(faster, "", faster[0].seconds)
        slower = found[0]
        seconds = None if slower.ratio is None else slower.seconds / slower.ratio
        return Known((), "nothing that was measured is surely faster", seconds)

    # -- by a model ------------------------------------------------------------------------------------------

    def _by_model(self, func: PrimFunc) -> list[Choice]:
        """The choice of the learned model, if it has one."""
        if not self.models or (model := self._model) is None:
            return []
        found = best_by_model(canonical_text(func), self.target, self.threads, model)
        if found is None:
            return []
        chosen = Chosen("learned", found.seconds, found.gain)
        return [Choice(digest(found.trace), functools.partial(_replayed, found.trace), chosen)]

    @functools.cached_property
    def _model(self) -> FeatureModel | None:
        """The learned model in use; None where there is none."""
        from tilewright.cost.draft import draft_model
        from tilewright.cost.training import load_model

        return self._read(lambda s: load_model(s, self._device, draft_model(self.target, self.threads, s)))

    @functools.cached_property
    def _model_state(self) -> str:
        """Equal where the learned model is the same."""
        stored = self._read(lambda store: store.latest_model("learned", self._device))
        return "" if stored is None else hashlib.sha256(stored.data).hexdigest()


def _recorded(leader: Leader) -> Choice:
    """The choice of a measured schedule."""
    gain = None if leader.ratio is None else 1 / leader.ratio
    chosen = Chosen("record", leader.seconds, gain, leader.record, leader.created)

    return Choice(leader.schedule, functools.partial(_replayed, leader.trace), chosen)


def _replayed(trace: str, func: PrimFunc, target: Target) -> Schedule:
    """A stored trace on a task. It belongs to the function that the task's canonical text is parsed to, so
    that the schedule's function has that one's names, in the same places.

    Raises ScheduleError when the trace is none, or does not apply (any more), and VerifyError when what it
    makes breaks a rule of the IR.
    """
    schedule = Trace.from_json(trace).apply(parse(canonical_text(func)))
    verify(schedule.func)
    return schedule
