"""Whether times that were imported hold on this machine: some of them are measured again.

An imported epoch of a machine like this one may come from a busy host, another mode of its processor, or a
liar. So of a few of its workloads some schedules from fast to slow are measured here, beside the default
schedule. What has to agree is what the times are used for: which schedule is faster, and by how much.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from tilewright.errors import StoreError
from tilewright.measure.batch import Finals
from tilewright.measure.timing import Plan
from tilewright.records import Epoch, Record, Store, Workload

#: Schedules may be slower against each other than they were by so much, in the middle.
MAX_ERROR: Final = 0.10
#: The least rank correlation of old and new times, where old ones are spread by :data:`SPREAD` at least.
MIN_CORRELATION: Final = 0.7
SPREAD: Final = 0.15
#: A machine may be faster or slower than it was by this factor: more is another machine.
MAX_LEVEL: Final = 1.5
#: Anchors without which nothing can be said.
MIN_ANCHORS: Final = 4


class Measures(Protocol):
    """What measures schedules here: :class:`tilewright.measure.batch.Measurer`."""

    def set_workload(self, workload: Workload) -> None:
        """What the next traces are schedules of."""
        ...

    def final(self, traces: Sequence[str], plan: Plan | None = None) -> Finals:
        """Let schedules run against each other, the reference beside them."""
        ...


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well the times of an epoch hold here.

    Attributes:
        workloads, anchors: how many workloads, and schedules of them, were measured again.
        failures: schedules that did not run here, or gave wrong results.
        error: median over anchors of how far their times have moved against those of the same workload's
            others, relative.
        correlation: mean over workloads of the rank correlation of old and new times; None where the old
            ones were too close together to say.
        level: median of new times over old ones.
    """

    workloads: int
    anchors: int
    failures: int
    error: float
    correlation: float | None
    level: float

    @property
    def problem(self) -> str:
        """Why the epoch is not to be trusted; empty where it is."""
        if self.failures:
            return f"{self.failures} schedules fail here"
        if self.error > MAX_ERROR:
            return f"times against each other have moved by {self.error:.0%}"
        if self.correlation is not None and self.correlation < MIN_CORRELATION:
            return f"other schedules are fast here (rank correlation {self.correlation:.2f})"
        if not 1 / MAX_LEVEL <= self.level <= MAX_LEVEL:
            return f"this machine takes {self.level:.2f} times as long"
        return ""


def adopt(
    store: Store,
    epoch: Epoch,
    measurer: Measures,
    threads: int,
    here: Epoch,
    *,
    workloads: int = 6,
    schedules: int = 4,
    plan: Plan | None = None,
    seed: int = 0,
) -> Agreement:
    """Measure anchors of an epoch again, and say in the store whether its times count: its origin becomes
    ``verified`` or ``rejected``. The new times are kept, too.

    Args:
        epoch: of this machine's kind of device.
        measurer: of this machine, for ``threads``.
        threads: the records of so many threads are looked at.
        here: the epoch that the new times belong to.
        workloads, schedules: how many workloads are drawn, and schedules of each, from fast to slow.
        plan: how long schedules of a workload run against each other.
        seed: of what is drawn.

    Raises:
        StoreError: the epoch is of another device, or has too few records to tell; or the database cannot be
            read or written.
        ShapeError, CompileError, TilewrightError: as from :meth:`Measurer.set_workload`.
    """
    if epoch.device != here.device:
        raise StoreError(
            f"epoch {epoch.uid} is of another machine ({epoch.device.name}): its times never count here",
            location=store.location,
            hint="they stay as data to learn from",
        )
    records = list(store.records(epoch=epoch.uid, threads=threads, status="ok"))
    chosen = _anchors(records, workloads, schedules, seed)
    count = sum(map(len, chosen))
    if count < MIN_ANCHORS:
        raise StoreError(
            f"epoch {epoch.uid} has {count} schedules on {threads} threads to compare with others of their "
            f"workloads; it takes {MIN_ANCHORS} to tell",
            location=store.location,
        )
    pairs: list[list[tuple[float, float]]] = []
    failures = 0
    for anchors in chosen:
        measurer.set_workload(anchors[0].workload)
        found = measurer.final([a.trace for a in anchors], plan)
        mine: list[tuple[float, float]] = []
        for anchor, measurement in zip(anchors, found.measurements, strict=True):
            new = dataclasses.replace(
                anchor,
                epoch=here,
                status=measurement.status,
                error=measurement.error,
                samples=measurement.samples,
                role="anchor",
                created=time.time(),
            )
            store.add(new)
            if new.status == "ok":
                mine.append((anchor.seconds, new.seconds))
            else:
                failures += 1
        pairs.append(mine)
    agreement = compare_times(pairs, failures)
    store.set_origin(epoch.uid, "rejected" if agreement.problem else "verified")
    return agreement


def compare_times(pairs: Sequence[Sequence[tuple[float, float]]], failures: int = 0) -> Agreement:
    """The agreement of old and new seconds of schedules, given by workload."""
    errors: list[float] = []
    correlations: list[float] = []
    shifts: list[float] = []
    for mine in pairs:
        if not mine:
            continue
        moved = [math.log(new / old) for old, new in mine]
        middle = statistics.median(moved)
        shifts.append(middle)
        errors += [abs(m - middle) for m in moved]
        old, new = (np.log([pair[side] for pair in mine]) for side in (0, 1))
        if len(mine) > 2 and np.ptp(old) >= SPREAD:
            correlations.append(_rank_correlation(old, new))
    return Agreement(
        workloads=len(pairs),
        anchors=sum(map(len, pairs)),
        failures=failures,
        error=math.expm1(statistics.median(errors)) if errors else 0.0,
        correlation=statistics.fmean(correlations) if correlations else None,
        level=math.exp(statistics.median(shifts)) if shifts else 1.0,
    )


def _anchors(records: Sequence[Record], workloads: int, schedules: int, seed: int) -> list[list[Record]]:
    """Of random workloads some records each, from the fastest to the slowest in even steps of rank."""
    by_workload: dict[str, list[Record]] = {}
    for record in records:
        by_workload.setdefault(record.workload.key, []).append(record)
    # A single schedule says nothing about which is faster.
    keys = sorted(k for k, mine in by_workload.items() if len(mine) > 1)
    drawn = np.random.default_rng(seed).permutation(len(keys))[:workloads]
    chosen: list[list[Record]] = []
    for place in drawn:
        mine = sorted(by_workload[keys[place]], key=lambda r: (r.seconds, r.uid))
        steps = np.linspace(0, len(mine) - 1, min(schedules, len(mine))).round().astype(int)
        chosen.append([mine[n] for n in dict.fromkeys(steps.tolist())])
    return chosen


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
