"""What cost models learn from: records as features and times, task by task.

A *task* is a workload on a device with a number of threads. Candidates are compared within tasks only;
between tasks it is their sizes that differ. Features are derived from the traces as this release derives
them, so records of older releases serve as long as their traces apply.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.cache import DiskCache, cache_key
from tilewright.cost.draft import cold_bytes
from tilewright.errors import ScheduleError, TilewrightError
from tilewright.ir.parser import parse
from tilewright.records.record import Record, Workload, shortest_json
from tilewright.records.store import Store
from tilewright.schedule.features import FEATURES, ITERS, features_of, main_block
from tilewright.schedule.sketch import Sketch
from tilewright.schedule.space import sketches
from tilewright.schedule.trace import Trace
from tilewright.target import Target

#: The features that candidates of one workload share: what is computed, not how.
WORKLOAD: Final = (
    "flops", "program_flops", "points", "steps", "param_bytes", "intensity", "element_bytes", "blocks",
    "reductions", *(f"spatial_{n}" for n in range(ITERS)), *(f"reduce_{n}" for n in range(ITERS)),
    *(name for name in FEATURES if name.startswith("ops_")),
)  # fmt: skip
_WORKLOAD: Final = [FEATURES.index(name) for name in WORKLOAD]
#: What a record counts by the origin of its epoch: times of other machines are worth less, and what was
#: found wrong nothing.
TRUST: Final = {"local": 1.0, "verified": 1.0, "imported": 0.5}
#: Workloads that are nearer than this (:func:`workload_vector`) are taken for the same in other sizes.
NEAR: Final = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """A workload on a device.

    Attributes:
        workload: what is computed.
        device: the device's fingerprint.
        threads: of a call.
        vector: ``[len(WORKLOAD) + 1]`` float64: :func:`workload_vector`.
        cold: bytes of its constant operands.
    """

    workload: Workload
    device: str
    threads: int
    vector: NDArray[np.float64]
    cold: float


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Measured candidates of several tasks.

    Attributes:
        tasks: what the numbers in ``task`` mean.
        features: ``[n, len(FEATURES)]`` float32.
        log_seconds: ``[n]`` float64, natural logarithm of the least time in seconds.
        task: ``[n]`` int64.
        weight: ``[n]`` float64, how much a record counts; 1 on average.
        default: ``[n]`` bool, whether the record is of the task's default schedule.
        failures: by status, the records without times.
        skipped: records with times whose traces do not apply in this release.
    """

    tasks: tuple[Task, ...]
    features: NDArray[np.float32]
    log_seconds: NDArray[np.float64]
    task: NDArray[np.int64]
    weight: NDArray[np.float64]
    default: NDArray[np.bool_]
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.task)

    @property
    def best(self) -> NDArray[np.float64]:
        """``[tasks]``: the logarithm of the best time of each."""
        found = np.full(len(self.tasks), np.inf)
        np.minimum.at(found, self.task, self.log_seconds)
        return found

    @property
    def counts(self) -> NDArray[np.int64]:
        """``[tasks]``: records of each."""
        return np.bincount(self.task, minlength=len(self.tasks))

    @property
    def vectors(self) -> NDArray[np.float64]:
        """``[tasks, len(WORKLOAD) + 1]``: :func:`workload_vector` of each."""
        return np.stack([t.vector for t in self.tasks]) if self.tasks else np.empty((0, len(WORKLOAD) + 1))

    def only(self, tasks: Sequence[int]) -> Dataset:
        """The records of these tasks, which are numbered anew in this order."""
        place = np.full(len(self.tasks), -1)
        place[list(tasks)] = np.arange(len(tasks))
        kept = self._rows(place[self.task] >= 0)
        return dataclasses.replace(kept, tasks=tuple(self.tasks[t] for t in tasks), task=place[kept.task])

    def without_default(self) -> Dataset:
        """The records of other than default schedules; the tasks stay, some without records perhaps."""
        return self._rows(~self.default)

    def _rows(self, kept: NDArray[np.bool_]) -> Dataset:
        return dataclasses.replace(
            self,
            features=self.features[kept],
            log_seconds=self.log_seconds[kept],
            task=self.task[kept],
            weight=self.weight[kept],
            default=self.default[kept],
        )

    def with_at_least(self, count: int) -> Dataset:
        """The tasks with so many records: fewer say nothing about which candidates are better."""
        return self.only([int(t) for t in np.flatnonzero(self.counts >= count)])


def workload_vector(features: NDArray[np.float32], threads: int) -> NDArray[np.float64]:
    """``[..., len(WORKLOAD) + 1]``: what tells workloads apart, from features of candidates; sizes and
    threads as binary logarithms, so that distances are numbers of doublings."""
    chosen = features[..., _WORKLOAD].astype(np.float64)
    width = np.full((*chosen.shape[:-1], 1), math.log2(threads))
    return np.concatenate([chosen, width], axis=-1)


class FeatureReader:
    """Features of recorded schedules; each schedule of a workload is worked out once.

    Args:
        cache: where features are kept from process to process; they are not when left out.
        compiler: what derives them (:func:`tilewright.build.compiler_epoch`); what another one left in the
            cache is not read.
    """

    def __init__(self, cache: DiskCache | None = None, compiler: str = "") -> None:
        self._cache, self._compiler = cache, compiler
        self._functions: dict[tuple[str, str], _Function] = {}
        self._known: dict[tuple[str, str], _Known] = {}

    def features(self, records: Sequence[Record]) -> list[NDArray[np.float32] | None]:
        """``[len(FEATURES)]`` of each record's schedule; None where the trace does not apply."""
        groups: dict[tuple[str, str], dict[str, Record]] = {}
        for record in records:
            groups.setdefault(_place(record), {}).setdefault(record.schedule, record)
        for place, group in groups.items():
            known = self._of(next(iter(group.values())))
            fresh = {schedule: r for schedule, r in group.items() if schedule not in known.rows}
            if not fresh:
                continue
            found = self._function(next(iter(fresh.values()))).features([r.trace for r in fresh.values()])
            known.rows.update(zip(fresh, found, strict=True))
            if self._cache is not None:
                self._cache.put(self._key(place), known.to_bytes())
        return [self._known[_place(r)].rows[r.schedule] for r in records]

    def task(self, record: Record) -> Task:
        """What the record is a candidate of. Raises ScheduleError for a function that has no features."""
        known, device = self._of(record), record.epoch.device.fingerprint
        vector = workload_vector(known.plain, record.threads)
        return Task(record.workload, device, record.threads, vector, known.cold)

    def _of(self, record: Record) -> _Known:
        place = _place(record)
        if place not in self._known:
            stored = None if self._cache is None else self._cache.get(self._key(place))
            if stored is None:
                function = self._function(record)
                plain = features_of(function.func, function.target)
                self._known[place] = _Known(plain, float(cold_bytes(function.func)), {})
            else:
                self._known[place] = _Known.of_bytes(stored)
        return self._known[place]

    def _function(self, record: Record) -> _Function:
        place = _place(record)
        if place not in self._functions:
            self._functions[place] = _Function(record.workload, Target.from_json(place[1]))
        return self._functions[place]

    def _key(self, place: tuple[str, str]) -> str:
        return cache_key("features", self._compiler, *place)


def _place(record: Record) -> tuple[str, str]:
    return record.workload.key, record.epoch.device.target


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is known of a workload on a target: features of the unscheduled function, the bytes of its
    constant operands, and features of its schedules."""

    plain: NDArray[np.float32]
    cold: float
    rows: dict[str, NDArray[np.float32] | None]

    def to_bytes(self) -> bytes:
        none = np.full(len(FEATURES), np.nan, np.float32)
        rows = [none if row is None else row for row in self.rows.values()]
        buffer = io.BytesIO()
        np.savez(
            buffer, allow_pickle=False, plain=self.plain, cold=np.array(self.cold),
            schedules=np.array(list(self.rows)), rows=np.stack(rows),
        )  # fmt: skip
        return buffer.getvalue()

    @staticmethod
    def of_bytes(data: bytes) -> _Known:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            rows = zip(file["schedules"].tolist(), file["rows"], strict=True)
            known = {schedule: None if np.isnan(row[0]) else row for schedule, row in rows}
            return _Known(file["plain"], float(file["cold"]), known)


class _Function:
    """A workload on a target, with its sketches."""

    def __init__(self, workload: Workload, target: Target) -> None:
        self.func, self.target = parse(workload.text), target
        self._sketches: list[Sketch] | None = None

    def features(self, traces: Sequence[str]) -> list[NDArray[np.float32] | None]:
        found: list[NDArray[np.float32] | None] = [None] * len(traces)
        rows: dict[int, list[tuple[int, NDArray[np.int64]]]] = {}
        if self._sketches is None:
            self._sketches = sketches(self.func, self.target)
        for number, text in enumerate(traces):
            try:
                trace = Trace.from_json(text)
            except ScheduleError:
                continue
            place = self._of_sketch(trace, text)
            if place is None:
                found[number] = self._replayed(trace)
            else:
                rows.setdefault(place[0], []).append((number, place[1]))
        for sketch, members in rows.items():
            values = self._sketches[sketch].features(np.stack([row for _, row in members]))
            for (number, _), row in zip(members, values, strict=True):
                found[number] = row
        return found

    def _of_sketch(self, trace: Trace, text: str) -> tuple[int, NDArray[np.int64]] | None:
        """The sketch that the trace is a candidate of, and its row."""
        decisions = {name: value for name, value in trace.decisions().items() if value is not None}
        for number, sketch in enumerate(self._sketches or ()):
            if decisions.keys() != set(sketch.columns):
                continue
            row = sketch.row(decisions)
            if sketch.valid(row[None])[0] and _same(sketch.schedule.trace.bind(decisions), text):
                return number, row
        return None

    def _replayed(self, trace: Trace) -> NDArray[np.float32] | None:
        try:
            func = trace.apply(self.func).func
            return features_of(func, self.target, main_block(func))
        except TilewrightError:
            return None


def _same(trace: Trace, text: str) -> bool:
    return trace.to_json() == text or shortest_json(json.loads(trace.to_json())) == text


def read_dataset(
    store: Store,
    reader: FeatureReader | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    workloads: Iterable[str] | None = None,
) -> Dataset:
    """The records of a store as data to learn from.

    Args:
        store: where from.
        reader: keeps features from call to call.
        device: a fingerprint: the records of this device alone.
        threads: those of calls on so many threads alone.
        workloads: those of workloads with these keys alone.

    Raises StoreError when the store cannot be read. Records that were rejected are left out; those without
    times, and those whose traces do not apply, are counted.
    """
    wanted = None if workloads is None else set(workloads)
    found = store.records(device=device, threads=threads, origins=tuple(TRUST))
    return dataset_of([r for r in found if wanted is None or r.workload.key in wanted], reader)


def dataset_of(records: Sequence[Record], reader: FeatureReader | None = None) -> Dataset:
    """As :func:`read_dataset`, of records at hand."""
    reader = reader or FeatureReader()
    failures = collections.Counter(r.status for r in records if r.status != "ok")
    timed = sorted((r for r in records if r.status == "ok"), key=lambda r: r.uid)
    seconds = _least_times(timed)
    # One row for a schedule: the epoch that is trusted most stands for all.
    timed = list({_identity(r): r for r in sorted(timed, key=lambda r: TRUST[r.epoch.origin])}.values())
    tasks: dict[tuple[str, str, int], tuple[int, Task]] = {}
    rows: list[NDArray[np.float32]] = []
    kept: list[tuple[int, float, float, bool]] = []
    for record, features in zip(timed, reader.features(timed), strict=True):
        if features is None:
            continue
        key = (record.workload.key, record.epoch.device.fingerprint, record.threads)
        if key not in tasks:
            tasks[key] = len(tasks), reader.task(record)
        rows.append(features)
        kept.append(
            (tasks[key][0], seconds[_identity(record)], TRUST[record.epoch.origin], record.role == "default")
        )
    task = np.array([k[0] for k in kept], np.int64)
    # A task with four times as many records counts twice as much.
    share = np.array([k[2] for k in kept]) / np.sqrt(np.maximum(np.bincount(task), 1))[task]
    return Dataset(
        tuple(t for _, t in tasks.values()),
        np.stack(rows) if rows else np.empty((0, len(FEATURES)), np.float32),
        np.array([k[1] for k in kept], np.float64),
        task,
        share / share.mean() if len(share) else share,
        np.array([k[3] for k in kept], bool),
        dict(failures),
        len(timed) - len(kept),
    )


def _least_times(records: Sequence[Record]) -> dict[tuple[str, str, int, str], float]:
    """Logarithms of the least time of each schedule in any epoch, by workload, device, threads and schedule.

    What else a machine does only makes times longer, and a reference that was disturbed makes a ratio to it
    too small: the least time is nearest to the truth where there are few samples.
    """
    found: dict[tuple[str, str, int, str], float] = {}
    for record in records:
        key = _identity(record)
        found[key] = min(found.get(key, math.inf), math.log(min(s.seconds for s in record.samples)))
    return found


def _identity(record: Record) -> tuple[str, str, int, str]:
    return record.workload.key, record.epoch.device.fingerprint, record.threads, record.schedule


def near_duplicates(
    vectors: NDArray[np.float64], held: Sequence[int], near: float = NEAR
) -> NDArray[np.bool_]:
    """``[tasks]`` bool: those that are the same as one of ``held`` but for small changes of size, which a
    model that is judged on ``held`` must not have seen."""
    distance = np.linalg.norm(vectors[:, None, :] - vectors[None, list(held), :], axis=-1)
    found: NDArray[np.bool_] = (distance < near).any(axis=1)
    found[list(held)] = True
    return found
