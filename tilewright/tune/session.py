"""A tuning session: tasks are worked on in turns until the budget is spent, and every time goes to the store.

The schedule that a task begins with is measured first and runs in every race. Another one takes its place
only when a race says that it is surely faster, so a task never ends worse than it began.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Final

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.errors import StoreError, TilewrightError
from tilewright.measure.batch import Finals, Measurement
from tilewright.measure.timing import Plan
from tilewright.records.leaders import leaders
from tilewright.records.record import Epoch, Record, digest
from tilewright.records.store import TRUSTED, Store
from tilewright.target import Target
from tilewright.tune.events import Baseline, Began, Ended, Event, Listener, Measured, Noted, Raced, Visited
from tilewright.tune.history import History
from tilewright.tune.plugins import Measures
from tilewright.tune.population import Point
from tilewright.tune.scheduler import Visit, next_task
from tilewright.tune.space import SearchSpace
from tilewright.tune.state import State, ratio_of
from tilewright.tune.strategy import Proposal, Strategy
from tilewright.tune.tasks import Extracted, Task

#: The least seconds that a task can take, and what bounds the program of a point, in words.
Bounds = Callable[[Task, SearchSpace, Point], tuple[float, str]]

#: Challengers in a race.
CHALLENGERS: Final = 3
#: Candidates of which the cost model tells the least time that it hopes for.
HOPEFULS: Final = 256
#: The part of the budget after which the search begins, though some tasks have not been looked at.
BEGINNING: Final = 0.4
#: Operations that take about as long as a byte from memory.
RIDGE: Final = 8
#: How fast the interest in a way to compute a node falls with its distance to the fastest way.
INTEREST: Final = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a session works.

    Attributes:
        budget: seconds; None: no limit.
        trials: candidates to measure; None: no limit.
        batch: candidates of one visit.
        enough: candidates of a task, those in the store included, after which it is left alone; None: never.
        least: tasks that promise less than this share of the model's time for each second are left alone.
        race_seconds: how long a race may take.
        measure: whether anything is measured; else the session says what the store knows.
        seed: of all choices.
    """

    budget: float | None = None
    trials: int | None = None
    batch: int = 16
    enough: int | None = None
    least: float = 0.0
    race_seconds: float = 3.0
    measure: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a session has come to.

    Attributes:
        states: of every task.
        reason: as in :class:`tilewright.tune.events.Ended`.
        seconds: how long it took.
    """

    states: tuple[State, ...]
    reason: str
    seconds: float

    @property
    def trials(self) -> int:
        """Candidates that were measured."""
        return sum(s.trials for s in self.states)

    @property
    def failures(self) -> Mapping[str, int]:
        """How many of them failed, by status."""
        return dict(sum((s.failures for s in self.states), collections.Counter()))


class Session:
    """Tunes the tasks of a model; :meth:`run` does it, once.

    Args:
        extracted: what to tune.
        store: where records go, and come from.
        target, threads: what code is made for, and on how many threads it runs.
        strategy, model: who proposes candidates, and by what.
        make_measurer: called once where anything may be measured.
        epoch: of new records. Records of its device and compiler are not measured again.
        settings: budget and the rest.
        listeners: are told what happens.
        bounds: says the least seconds that a task can take on this machine, and what bounds a program.
        clock: in seconds.
    """

    def __init__(
        self,
        extracted: Extracted,
        store: Store,
        target: Target,
        threads: int,
        strategy: Strategy,
        model: CostModel,
        make_measurer: Callable[[], Measures],
        epoch: Epoch,
        settings: Settings | None = None,
        listeners: Sequence[Listener] = (),
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.extracted, self.store, self.target, self.threads = extracted, store, target, threads
        self.strategy, self.model, self.epoch = strategy, model, epoch
        self.settings = settings or Settings()
        self.states = [State(task) for task in extracted.tasks]
        self._make_measurer = make_measurer
        self._measurer: Measures | None = None
        self._current: State | None = None
        self._listeners, self._bounds, self._clock = tuple(listeners), bounds, clock
        self._rng = np.random.default_rng(self.settings.seed)
        self._began = clock()
        self._interrupted = False

    def run(self, names: tuple[str, str] = ("", "")) -> Outcome:
        """Work until the budget is spent, nothing more is to be gained, or Ctrl-C was pressed.

        Ctrl-C once: stops after the candidate in flight; twice: raises KeyboardInterrupt at once. What was
        measured is in the store either way.

        Args:
            names: of the model and the strategy, for the first event.

        Raises:
            StoreError: the store cannot be read or written any more; what it has is intact.
            TilewrightError: nothing can be measured on this machine.
        """
        self._began = self._clock()
        settings, skipped = self.settings, self.extracted.skipped
        self._tell(
            Began(
                0.0,
                names[0],
                self.store.location,
                self.epoch.device.name,
                self.epoch.uid,
                self.epoch.compiler,
                self.threads,
                names[1],
                self.model.name,
                settings.budget,
                settings.trials,
                len(self.states),
                tuple((s.name, s.reason) for s in skipped),
            )
        )
        try:
            if settings.measure:
                self._measurer = self._make_measurer()
            with self._interruptible():
                waiting = sorted(self.states, key=_likely_share, reverse=True)
                self._begin(waiting, BEGINNING if settings.measure else 1.0)
                reason = self._search() if settings.measure else "done"
                while reason == "done" and waiting:
                    self._begin(waiting, 1.0)
                    reason = self._search()
        finally:
            if self._measurer is not None:
                self._measurer.close()
        outcome = Outcome(tuple(self.states), reason, self._now())
        now, before = self.projected()
        self._tell(Ended(self._now(), reason, outcome.trials, outcome.failures, now, before))
        return outcome

    @property
    def elapsed(self) -> float:
        """Seconds since :meth:`run` began, as in events."""
        return self._now()

    def projected(self) -> tuple[float, float]:
        """Seconds of all kernels that are tuned, one after the other: with the best schedules, and with those
        of the beginning."""
        known = [s for s in self.states if s.ready]
        now = sum(s.task.occurrences * s.seconds for s in known)
        return now, sum(s.task.occurrences * s.at_start for s in known)

    # -- the parts of a session ------------------------------------------------------------------------------

    def _begin(self, waiting: list[State], share: float) -> None:
        """Find out with what tasks begin, from the front of ``waiting``, until so much of the budget is spent
        and something can be worked on."""
        while waiting and not self._interrupted and self._spent() < (share if self._any_ready() else 1.0):
            self._baseline(waiting.pop(0))

    def _any_ready(self) -> bool:
        return any(s.ready for s in self.states)

    def _baseline(self, state: State) -> None:
        """Find out with what a task begins; measure it where the store does not know."""
        workload, known = state.task.workload, 0
        try:
            state.space = space = SearchSpace(workload, self.target)
            state.history = History.of(space, self.store, self.threads, self.epoch.compiler)
            known = len(state.history)
            self._recall(state)
            start = self._recorded(space) or space.default
            for point, role in ((space.default, "default"), (start, "anchor")):
                if point in state.ratios or state.error:
                    continue
                if not self.settings.measure:
                    state.error = "it was not measured yet"
                    continue
                self._measure(state, [Proposal(point, role)], trial=False)
                if point not in state.ratios:
                    start = space.default  # what was fast does not run any more
            if not state.error:
                state.start = state.best = start
                self._judge(state)
                self._hope(state)
        except StoreError:
            raise
        except TilewrightError as error:
            state.error = error.message
        ready = state.ready
        self._tell(
            Baseline(
                self._now(),
                state.task.key,
                state.task.name,
                state.task.label,
                state.task.occurrences,
                state.seconds if ready else None,
                state.default if ready else None,
                known,
                state.error,
            )
        )

    def _search(self) -> str:
        """Visit tasks; why it ended."""
        while True:
            if (reason := self._over()) is not None:
                break
            number = self._next()
            if number is None:
                reason = "done"
                break
            self._visit(self.states[number])
        if reason == "interrupted":
            kept = sum(s.best != s.start for s in self.states)
            message = f"stopped: {kept} better schedules are kept, and all that was measured"
            self._tell(Noted(self._now(), message))
        return reason

    def _next(self) -> int | None:
        known = [n for n, s in enumerate(self.states) if s.ready]
        enough = self.settings.enough
        for n in known:
            history = self.states[n].history
            if enough is not None and history is not None and len(history) >= enough:
                self.states[n].exhausted = True
        rows = [self.states[n].progress(w) for n, w in zip(known, self._weights(known), strict=True)]
        least = self.settings.least * self.projected()[0]
        place = next_task(rows, least)
        return None if place is None else known[place]

    def _weights(self, numbers: Sequence[int]) -> list[float]:
        """How often the model runs each kernel; less for those of ways that are far from the fastest, and
        nothing where no other way can become as fast as that one is: then nothing is left to decide."""
        states = [self.states[n] for n in numbers]
        seconds = {s.task.key: s.seconds for s in states}
        reachable = {s.task.key: s.reachable for s in states}
        weights: dict[str, float] = collections.defaultdict(float)
        for ways in self.extracted.ways:
            known, least = ways.seconds(seconds), ways.seconds(reachable)
            contenders = [way for way in known if least[way] <= min(known.values())]
            for way in contenders if len(contenders) > 1 else ():
                interest = ways.occurrences * (min(known.values()) / known[way]) ** INTEREST
                for key in set(ways.kernels[way]):
                    weights[key] = max(weights[key], ways.kernels[way].count(key) * interest)
        return [max(s.task.occurrences, weights[s.task.key]) for s in states]

    def _visit(self, state: State) -> None:
        """Measure a batch of candidates of a task, and let those that look better run against the best."""
        assert state.space is not None
        assert state.history is not None
        began = self._clock()
        count = self.settings.batch
        if self.settings.enough is not None:
            count = min(count, max(self.settings.enough - len(state.history), 1))
        if self.settings.trials is not None:
            count = min(count, self.settings.trials - self._trials())
        proposals = self.strategy.propose(
            state.space, self.model, state.history, count, self._rng, self.threads
        )
        state.exhausted = not proposals
        try:
            if proposals:
                self._measure(state, proposals[:count])
            self._race(state)
        except StoreError:
            raise
        except TilewrightError as error:
            state.exhausted = True
            self._tell(Noted(self._now(), f"{state.task.label} is left alone from here on: {error.message}"))
        if self._measurer is not None and not state.visits:  # once a task is enough
            for warning in self._measurer.warnings:
                self._tell(Noted(self._now(), f"{state.task.label}: {warning}"))
        spent = self._clock() - began
        state.visits.append(Visit(spent, state.seconds))
        now, before = self.projected()
        limited = self.settings.budget is not None or self.settings.trials is not None
        used = min(self._spent(), 1.0) if limited else None
        self._tell(
            Visited(
                self._now(),
                state.task.key,
                spent,
                state.seconds,
                now,
                before,
                self._trials(),
                used,
                state.exhausted,
            )
        )

    def _race(self, state: State) -> None:
        """Let candidates that look faster than the best one run against it, and that of the beginning, which
        takes its place again if it turns out to be faster."""
        challengers = state.challengers(CHALLENGERS)
        if not challengers:
            return
        space, best, start = state.space, state.best, state.start
        assert space is not None
        assert best is not None
        assert start is not None
        points = list(dict.fromkeys((best, *challengers, start)))
        traces = [space.trace(p) for p in points]
        finals = self._ready(state).final(traces, Plan(seconds=self.settings.race_seconds))
        state.raced.update(challengers)
        self._keep_finals(state, points, traces, finals)
        if start not in state.ratios:
            state.start = space.default
        if best not in state.ratios:
            state.best = space.default
            self._tell(Noted(self._now(), f"the best schedule of {state.task.label} failed and is left out"))
        promoted: int | None = None
        ratio, half_width = None, None
        if finals.race is not None and 0 in finals.runners:
            place = points.index(start)
            found = {n: finals.difference(n, 0) for n in range(1, len(points)) if n in finals.runners}
            if place in found:  # beside each other they tell more than what they were told to be before
                state.ratios[best] = state.ratios[start] / math.exp(found[place].log_ratio)
            for n in found.keys() - {place}:
                state.ratios[points[n]] = state.ratios[best] * math.exp(found[n].log_ratio)
            if found:
                fastest = min(found, key=lambda n: found[n].log_ratio)
                ratio, half_width = math.exp(found[fastest].log_ratio), _finite(found[fastest].half_width)
            faster = [n for n in found if found[n].faster]
            if faster:
                promoted = min(faster, key=lambda n: found[n].log_ratio + found[n].half_width)
                state.best = points[promoted]
            now = promoted or 0
            if now == place:
                state.gain = None
            elif {now, place} <= set(finals.runners):
                state.gain = finals.difference(now, place)
            self._judge(state)
        race = finals.race
        self._tell(
            Raced(
                self._now(),
                state.task.key,
                tuple(map(digest, traces)),
                None if promoted is None else digest(traces[promoted]),
                ratio,
                half_width,
                0.0 if race is None else race.noise,
                0.0 if race is None else race.drift,
                state.seconds,
            )
        )

    # -- measuring and keeping -------------------------------------------------------------------------------

    def _measure(self, state: State, proposals: Sequence[Proposal], trial: bool = True) -> None:
        """Measure candidates and keep what comes of each. One that crashes has a second chance before that is
        written down: a process may have been killed that had nothing to do with it."""
        assert state.space is not None
        crashed: list[Proposal] = []
        for second in (False, True):
            batch = crashed if second else proposals
            if not batch:
                return
            traces = [state.space.trace(p.point) for p in batch]
            for number, found in self._ready(state).measure(traces):
                if found.status == "crash" and not second:
                    crashed.append(batch[number])
                    continue
                state.trials += trial
                self._keep(state, batch[number], traces[number], found, trial)
                if trial and self._over() is not None:
                    return

    def _keep(
        self, state: State, proposal: Proposal, trace: str, found: Measurement, trial: bool
    ) -> None:
        """Put what came of a candidate into the store, then into memory."""
        assert state.history is not None
        assert state.space is not None
        point = proposal.point
        self._store(state, point, trace, proposal.role, found)
        ratio = seconds = None
        if found.status == "ok":
            seconds = float(np.median([s.seconds for s in found.samples]))
            if point == state.space.default:
                state.default, ratio = seconds, 1.0
            else:
                ratio = ratio_of(found.samples, state.default)
            state.ratios[point] = ratio
        else:
            state.failures[found.status] += 1
            if point == state.space.default:
                state.error = f"its default schedule fails ({found.status}): {found.error}"
        # A machine that has become slower since the task began does not make its candidates worse.
        state.history.add(point, found.status, None if ratio is None else ratio * state.default)
        key, role = state.task.key, proposal.role
        error, build = found.error, found.build_seconds
        self._tell(
            Measured(self._now(), key, digest(trace), role, found.status, seconds, ratio, error, build, trial)
        )

    def _keep_finals(
        self, state: State, points: Sequence[Point], traces: Sequence[str], finals: Finals
    ) -> None:
        """Keep the times of a race. Who failed in it, where it was right before, is looked at once more."""
        assert state.space is not None
        for number, (point, trace) in enumerate(zip(points, traces, strict=True)):
            found = finals.measurements[number]
            if found.status == "ok":
                self._store(state, point, trace, "finalist", found)
            elif point != state.space.default:  # that one runs beside all others, and was right all the time
                del state.ratios[point]
                self._measure(state, [Proposal(point, "finalist")], trial=False)

    def _store(self, state: State, point: Point, trace: str, role: str, found: Measurement) -> None:
        assert state.space is not None
        sketch = state.space.sketches[point.sketch].name
        self.store.add(
            Record(
                state.task.workload,
                trace,
                self.epoch,
                self.threads,
                found.status,
                found.samples,
                role,
                sketch,
                found.error,
                time.time(),
            )
        )

    def _ready(self, state: State) -> Measures:
        """The measurer, with the task's workload set."""
        assert self._measurer is not None
        if self._current is not state:
            self._current = None
            try:
                self._measurer.set_workload(state.task.workload)
            except TilewrightError:  # a process may have been killed: the second time counts
                self._measurer.set_workload(state.task.workload)
            self._current = state
        return self._measurer

    # -- what is known already -------------------------------------------------------------------------------

    def _recall(self, state: State) -> None:
        """The times that the store has of this device, compiler and number of threads."""
        assert state.space is not None
        device, compiler = self.epoch.device.fingerprint, self.epoch.compiler
        found: dict[Point, list[Record]] = collections.defaultdict(list)
        for record in self.store.records(
            state.task.key, device=device, compiler=compiler, threads=self.threads, origins=TRUSTED
        ):
            point = state.space.point_of(record.trace)
            if point is not None:
                found[point].append(record)
        failed = {p: next((r for r in records if r.status != "ok"), None) for p, records in found.items()}
        # Sessions differ by the machine's mood: the times of all of them count.
        samples = {
            p: [s for r in records for s in r.samples] for p, records in found.items() if failed[p] is None
        }
        default = state.space.default
        if default not in samples:
            if (broken := failed.get(default)) is not None:
                state.error = f"its default schedule fails ({broken.status}): {broken.error}"
            return
        state.default = float(np.median([s.seconds for s in samples[default]]))
        state.ratios = {
            p: 1.0 if p == default else ratio_of(times, state.default) for p, times in samples.items()
        }
        state.raced = {p for p, records in found.items() if any(r.role == "finalist" for r in records)}

    def _recorded(self, space: SearchSpace) -> Point | None:
        """The schedule that compiling with the store would take."""
        device = self.epoch.device.fingerprint
        for leader in leaders(self.store, space.workload.key, device, self.threads):
            if leader.ratio is not None and leader.limit < 1:
                point = space.point_of(leader.trace)
                if point is not None:
                    return point
        return None

    def _judge(self, state: State) -> None:
        """What bounds the best schedule."""
        if self._bounds is not None and state.space is not None and state.best is not None:
            state.floor, state.bound = self._bounds(state.task, state.space, state.best)

    def _hope(self, state: State) -> None:
        """The least ratio to the default schedule that the cost model sees among candidates."""
        assert state.space is not None
        rng = np.random.default_rng(self.settings.seed)
        points = [state.space.default, *state.space.sample(HOPEFULS, rng)]
        said = state.space.predict(self.model, points, self.threads).log_seconds
        state.predicted = float(np.exp(said.min() - said[0]))

    # -- budget, signals, listeners --------------------------------------------------------------------------

    def _trials(self) -> int:
        return sum(s.trials for s in self.states)

    def _now(self) -> float:
        return self._clock() - self._began

    def _spent(self) -> float:
        """The part of the budget that is used up."""
        settings = self.settings
        time_part = 0.0 if settings.budget is None else self._now() / settings.budget
        return max(time_part, 0.0 if settings.trials is None else self._trials() / max(settings.trials, 1))

    def _over(self) -> str | None:
        """Why the session is to end now, if it is."""
        if self._interrupted:
            return "interrupted"
        if self.settings.trials is not None and self._trials() >= self.settings.trials:
            return "trials"
        return "budget" if self._spent() >= 1 else None

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C once asks the session to end, twice ends it; only the main thread hears of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _likely_share(state: State) -> float:
    """What a task's kernels seem to take of a run, before anything was measured; any unit."""
    task = state.task
    return max(task.occurrences, 0.5) * (task.flops + RIDGE * task.nbytes)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
