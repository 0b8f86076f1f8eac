"""The fastest schedules of a workload that the store vouches for, and how sure it is of them.

The least of many noisy times is mostly luck, so schedules are not ranked by their median times: what counts
is how much faster than the default schedule's reference beside them they are for sure.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from tilewright.errors import StoreError
from tilewright.records.schema import EPOCH, RECORD, SAMPLE, SCHEDULE
from tilewright.records.store import TRUSTED, Store

#: Records, the fastest, whose samples are looked at.
CONSIDERED: Final = 12
#: Failures that say that a schedule is never to be used, as opposed to one that was slow on a bad day.
WRONG: Final = ("crash", "wrong_result", "not_finite")
#: A time has a standard deviation of at least so much, relative to it, whatever few samples seem to say.
LEAST_DEVIATION: Final = 0.03
#: Standard errors from the middle of a 95 % confidence interval to its end.
_WIDTH: Final = 1.96


@dataclasses.dataclass(frozen=True)
class Leader:
    """A measured schedule of a workload.

    Attributes:
        record: the identity of the record.
        schedule: the identity of the schedule.
        trace: the schedule, for the function that the workload's text is parsed to.
        seconds: the median time.
        ratio: of it to the default schedule's, measured beside it or else on its own; None: not known.
        limit: upper end of the 95 % confidence interval of ``ratio``; of ``seconds`` where there is no ratio.
        samples: how many times were measured.
        compiler: version that made its code.
        created: when, as ISO 8601 in UTC, in seconds.
    """

    record: str
    schedule: str
    trace: str
    seconds: float
    ratio: float | None
    limit: float
    samples: int
    compiler: str
    created: str


def leaders(store: Store, workload: str, device: str, threads: int, count: int = 3) -> list[Leader]:
    """Up to ``count`` schedules of a workload with trusted times on a device, surely fastest first; those
    whose advantage over the default schedule is known come before others.

    Each schedule is there once. Left out are those that ever gave wrong results on the device.

    Raises:
        StoreError: the database cannot be read.
    """
    query = (
        sa.select(
            RECORD.c.uid, RECORD.c.schedule, RECORD.c.log_seconds, RECORD.c.n, RECORD.c.created,
            EPOCH.c.compiler, SCHEDULE.c.trace,
        )
        .join(EPOCH, RECORD.c.epoch == EPOCH.c.uid)
        .join(SCHEDULE, RECORD.c.schedule == SCHEDULE.c.hash)
        .where(
            RECORD.c.workload == workload,
            RECORD.c.threads == threads,
            RECORD.c.status == "ok",
            RECORD.c.n > 0,
            EPOCH.c.device == device,
            EPOCH.c.origin.in_(TRUSTED),
        )
        .order_by(RECORD.c.log_seconds, RECORD.c.uid)
        .limit(CONSIDERED)
    )  # fmt: skip
    with store.reading() as connection:
        rows = list(connection.execute(query))
        if not rows:
            return []
        wrong = _wrong(connection, workload, device, threads, [row.schedule for row in rows])
        rows = [row for row in rows if row.schedule not in wrong]
        samples = _samples(connection, [row.uid for row in rows])
        default = _default_seconds(connection, workload, device, threads)
    found: dict[str, Leader] = {}
    for leader in sorted((_leader(row, samples[row.uid], default) for row in rows), key=_rank):
        found.setdefault(leader.schedule, leader)
    return list(found.values())[:count]


def elsewhere(store: Store, workload: str, device: str, threads: int) -> str:
    """Why the successful records of a workload do not count on a device, in words; empty without any.

    Raises:
        StoreError: the database cannot be read.
    """
    query = (
        sa.select(RECORD.c.threads, EPOCH.c.device, EPOCH.c.origin)
        .join(EPOCH, RECORD.c.epoch == EPOCH.c.uid)
        .where(RECORD.c.workload == workload, RECORD.c.status == "ok")
        .distinct()
    )
    with store.reading() as connection:
        found = [(row.threads, row.device, row.origin) for row in connection.execute(query)]
    here = [(count, origin) for count, machine, origin in found if machine == device]
    trusted = sorted({count for count, origin in here if origin in TRUSTED})
    if trusted:
        numbers = ", ".join(map(str, trusted))
        return f"measured on {numbers} thread{'s' if trusted != [1] else ''} only"
    if any(origin == "imported" for _, origin in here):
        return "its records were imported and are not verified (tilewright records adopt)"
    if here:
        return "its records were rejected"
    return "measured on other machines only" if found else ""


def _samples(
    connection: sa.Connection, uids: Sequence[str]
) -> Mapping[str, list[tuple[float, float | None]]]:
    """Seconds, and the reference's beside them, of records."""
    found: dict[str, list[tuple[float, float | None]]] = {uid: [] for uid in uids}
    query = sa.select(SAMPLE.c.record, SAMPLE.c.seconds, SAMPLE.c.reference).where(SAMPLE.c.record.in_(uids))
    for row in connection.execute(query):
        found[row.record].append((row.seconds, row.reference))
    return found


def _wrong(
    connection: sa.Connection, workload: str, device: str, threads: int, schedules: Sequence[str]
) -> set[str]:
    """Which of these schedules ever gave wrong results on the device."""
    query = (
        sa.select(RECORD.c.schedule)
        .join(EPOCH, RECORD.c.epoch == EPOCH.c.uid)
        .where(
            RECORD.c.workload == workload,
            RECORD.c.threads == threads,
            RECORD.c.status.in_(WRONG),
            RECORD.c.schedule.in_(schedules),
            EPOCH.c.device == device,
        )
    )
    return set(connection.scalars(query))


def _default_seconds(connection: sa.Connection, workload: str, device: str, threads: int) -> float | None:
    """Logarithm of the time of the default schedule, where it was measured for itself."""
    query = (
        sa.select(sa.func.min(RECORD.c.log_seconds))
        .join(EPOCH, RECORD.c.epoch == EPOCH.c.uid)
        .where(
            RECORD.c.workload == workload,
            RECORD.c.threads == threads,
            RECORD.c.status == "ok",
            RECORD.c.role == "default",
            EPOCH.c.device == device,
            EPOCH.c.origin.in_(TRUSTED),
        )
    )
    return connection.scalar(query)


def _leader(row: Any, samples: Sequence[tuple[float, float | None]], default: float | None) -> Leader:
    try:
        return _ranked(row, samples, default)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise StoreError(
            f"the times of record {row.uid} are none: {error}", hint="`tilewright records verify` finds all"
        ) from error


def _ranked(row: Any, samples: Sequence[tuple[float, float | None]], default: float | None) -> Leader:
    paired = [math.log(own / other) for own, other in samples if other is not None]
    logs = [math.log(own) for own, _ in samples]
    middle: float | None
    if paired:
        middle, spread, count = statistics.median(paired), _deviation(paired), len(paired)
    else:
        middle = None if default is None else row.log_seconds - default
        spread, count = _deviation(logs), max(len(logs), 1)
    limit = (row.log_seconds if middle is None else middle) + _WIDTH * spread / math.sqrt(count)
    return Leader(
        row.uid,
        row.schedule,
        row.trace,
        math.exp(row.log_seconds),
        None if middle is None else math.exp(middle),
        math.exp(limit),
        row.n,
        row.compiler,
        datetime.fromtimestamp(row.created, UTC).isoformat(timespec="seconds"),
    )


def _deviation(logs: Sequence[float]) -> float:
    """Standard deviation of logarithms, of which single ones may be far off."""
    if len(logs) < 3:
        return LEAST_DEVIATION * 2
    middle = statistics.median(logs)
    return max(1.4826 * statistics.median(abs(v - middle) for v in logs), LEAST_DEVIATION)


def _rank(leader: Leader) -> tuple[bool, float, str]:
    return leader.ratio is None, leader.limit, leader.record
