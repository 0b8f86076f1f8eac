"""What is known of the points of one workload: what was measured here, and what is worth a try."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.records.record import STATUSES, Device, Record
from tilewright.records.store import TRUSTED, Store
from tilewright.tune.population import Point, Population
from tilewright.tune.space import SearchSpace

#: Points of other machines, compilers and numbers of threads that are remembered, the fastest of each.
PRIORS: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What came of measuring a point.

    Attributes:
        point: the point.
        status: one of :data:`tilewright.records.STATUSES`.
        seconds: the median time of a call; None for failures.
    """

    point: Point
    status: str
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"there is no status '{self.status}'")
        if (self.status == "ok") != (self.seconds is not None):
            raise ValueError(f"status '{self.status}' with a time of {self.seconds!r}")


class History:
    """Observations of one workload's points on one device with one number of threads.

    Attributes:
        space: the search space.
        threads: threads of a call.
        transferred: points that were good elsewhere, most promising first: on other devices, or for other
            shapes of the same function.
    """

    def __init__(self, space: SearchSpace, threads: int, transferred: Sequence[Point] = ()) -> None:
        self.space, self.threads = space, threads
        self.transferred = tuple(transferred)
        self._found: list[Observation] = []
        self._alike: dict[bytes, list[int]] = {}
        self._keys: set[int] = set()

    @staticmethod
    def of(space: SearchSpace, store: Store, threads: int, compiler: str | None = None) -> History:
        """What a store says of a workload.

        Records of this device, ``compiler`` (None: any) and ``threads`` are observations; the fastest of all
        others, and of the nearest other shapes (:func:`tilewright.tune.neighbours.nearest`), are transferred.
        So are the points most like the fastest of those whose traces are no points of the space (any more):
        sketches of another release had other decisions.
        """
        from tilewright.tune.neighbours import nearest, transfer

        own: list[Record] = []
        others: list[Record] = []
        device = Device.of(space.target).fingerprint
        for record in store.records(space.workload.key):
            here = record.epoch.device.fingerprint == device and record.epoch.origin in TRUSTED
            same = record.threads == threads and compiler in (None, record.epoch.compiler)
            (own if here and same else others).append(record)
        history = History(space, threads)
        beside = [s.reference for r in own for s in r.samples if s.reference is not None]
        reference = statistics.median(beside) if beside else None
        foreign = [record for record in own if not history.add_record(record, reference)]
        promising: list[Point | None] = [transfer(space, r.sketch, r.trace) for r in _fastest(foreign)]
        promising += [space.point_of(r.trace) or transfer(space, r.sketch, r.trace) for r in _fastest(others)]
        known = [point for point in promising if point is not None]
        history.transferred = tuple(dict.fromkeys([*known, *nearest(space, store, threads)]))
        return history

    # -- writing ---------------------------------------------------------------------------------------------

    def add(self, point: Point, status: str, seconds: float | None = None) -> None:
        """Keep what came of measuring a point.

        Of several observations of one program the fastest stays; one that has failed once stays failed.
        Raises ScheduleError for a point that is not of the space, ValueError for a status that there is not,
        or that does not go with the time.
        """
        found = Observation(point, status, seconds)
        signature = self._signature(point)
        place = self._place(point, signature)
        if place is None:
            self._alike.setdefault(signature, []).append(len(self._found))
            self._found.append(found)
        else:
            known = self._found[place]
            if known.status == "ok" and (status != "ok" or _time(found) < _time(known)):
                self._found[place] = found
        self._keys.add(self._key(point))

    def add_record(self, record: Record, reference: float | None = None) -> bool:
        """Keep what a record of this workload says; False where its trace is no point of the space.

        Args:
            reference: typical seconds of the reference kernel: times are taken relative to that beside them,
                so that those of a slow hour count like those of others.
        """
        point = self.space.point_of(record.trace)
        if point is None:
            return False
        seconds = None
        if record.status == "ok":
            ratios = [s.seconds / s.reference for s in record.samples if s.reference is not None]
            known = reference is not None and bool(ratios)
            seconds = statistics.median(ratios) * (reference or 0.0) if known else record.seconds
        self.add(point, record.status, seconds)
        return True

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def observations(self) -> tuple[Observation, ...]:
        """One for each program, in the order in which they were first seen."""
        return tuple(self._found)

    def __len__(self) -> int:
        """How many different programs were measured, failures included."""
        return len(self._found)

    @property
    def ranked(self) -> list[Observation]:
        """The successful ones, fastest first."""
        return sorted((o for o in self._found if o.status == "ok"), key=_time)

    @property
    def best(self) -> Observation | None:
        """The fastest observation, None before anything was successful."""
        return min((o for o in self._found if o.status == "ok"), key=_time, default=None)

    def seen(self, point: Point) -> bool:
        """Whether the program that the point stands for was measured."""
        return self._key(point) in self._keys or self._place(point, self._signature(point)) is not None

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The keys (:meth:`Population.keys`) of the points that were measured themselves."""
        return np.fromiter(self._keys, np.uint64, len(self._keys))

    def fresh(self, points: Iterable[Point], count: int, chosen: Iterable[Point] = ()) -> list[Point]:
        """The first ``count`` of ``points`` whose programs were not measured, are no program of ``chosen``,
        and differ from each other."""
        taken: dict[bytes, list[Point]] = {}
        for point in chosen:
            taken.setdefault(self._signature(point), []).append(point)
        found: list[Point] = []
        for point in points:
            if len(found) >= count:
                break
            if self._key(point) in self._keys:
                continue
            signature = self._signature(point)
            alike = taken.setdefault(signature, [])
            if self._place(point, signature) is None and not any(self._equal(point, p) for p in alike):
                alike.append(point)
                found.append(point)
        return found

    def _place(self, point: Point, signature: bytes) -> int | None:
        """The number of the observation of the point's program."""
        alike = self._alike.get(signature, ())
        return next((n for n in alike if self._equal(point, self._found[n].point)), None)

    def _equal(self, a: Point, b: Point) -> bool:
        return a == b or self.space.program(a, self.threads) == self.space.program(b, self.threads)

    def _signature(self, point: Point) -> bytes:
        return self.space.signatures([point])[0]

    def _key(self, point: Point) -> int:
        return int(Population.of([point], self.space.widths).keys()[0])


def _time(observation: Observation) -> float:
    return float("inf") if observation.seconds is None else observation.seconds


def _fastest(records: Sequence[Record]) -> list[Record]:
    """The fastest successful records of each device, compiler and number of threads, the first ones of each
    in front."""
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        if record.status == "ok":
            epoch = record.epoch
            key = (epoch.device.fingerprint, epoch.compiler, record.threads)
            groups.setdefault(key, []).append(record)
    ranked = [sorted(group, key=lambda r: r.seconds)[:PRIORS] for group in groups.values()]
    return [group[n] for n in range(PRIORS) for group in ranked if n < len(group)]
