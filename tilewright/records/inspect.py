"""What is in a store, and whether it is what it claims to be."""

from __future__ import annotations

import dataclasses
import math
import statistics as stats
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from tilewright.errors import TilewrightError
from tilewright.ir.parser import parse
from tilewright.records.record import ROLES, STATUSES, digest, record_uid, summary
from tilewright.records.schema import EPOCH, RECORD, SAMPLE, SCHEDULE, WORKLOAD
from tilewright.records.store import Store, read_samples
from tilewright.schedule import Trace


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a store holds.

    Attributes:
        records, samples, workloads, schedules, devices, epochs: how many.
        by_status, by_role, by_family, by_device, by_origin: records by what they are.
        noise_median, noise_p90: half the width of the 95 % confidence interval of the time, relative to it,
            over records of three samples and more; None without any.
    """

    records: int
    samples: int
    workloads: int
    schedules: int
    devices: int
    epochs: int
    by_status: Mapping[str, int]
    by_role: Mapping[str, int]
    by_family: Mapping[str, int]
    by_device: Mapping[str, int]
    by_origin: Mapping[str, int]
    noise_median: float | None
    noise_p90: float | None


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it should be: the kind of row, its key, and what is wrong."""

    kind: str
    key: str
    message: str


def statistics(store: Store) -> Statistics:
    """Counts, and how noisy the times are. Raises StoreError."""
    with store.reading() as connection:

        def by(column: sa.ColumnElement[str]) -> dict[str, int]:
            query = (
                sa.select(column, sa.func.count())
                .select_from(RECORD)
                .join(EPOCH, RECORD.c.epoch == EPOCH.c.uid)
                .join(WORKLOAD, RECORD.c.workload == WORKLOAD.c.key)
                .group_by(column)
                .order_by(sa.func.count().desc(), column)
            )
            return {str(name): count for name, count in connection.execute(query)}

        def count(table: sa.Table) -> int:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

        devices = by(EPOCH.c.device)
        widths = sorted(
            1.96 * math.sqrt(row.log_variance / row.n)
            for row in connection.execute(
                sa.select(RECORD.c.n, RECORD.c.log_variance).where(RECORD.c.n >= 3)
            )
            if row.log_variance is not None
        )
        return Statistics(
            records=count(RECORD),
            samples=count(SAMPLE),
            workloads=count(WORKLOAD),
            schedules=count(SCHEDULE),
            devices=len(devices),
            epochs=count(EPOCH),
            by_status=by(RECORD.c.status),
            by_role=by(RECORD.c.role),
            by_family=by(WORKLOAD.c.family),
            by_device=devices,
            by_origin=by(EPOCH.c.origin),
            noise_median=stats.median(widths) if widths else None,
            noise_p90=widths[math.ceil(0.9 * len(widths)) - 1] if widths else None,
        )


def verify(store: Store, replay: bool = False) -> list[Problem]:
    """What is wrong in a store: texts that do not have their keys, programs and traces that cannot be read,
    times that are none, summaries that do not fit the samples.

    Args:
        replay: whether every trace is also applied to its workload, which takes time.

    Raises:
        StoreError: the database cannot be read.
    """
    with store.reading() as connection:
        return list(_problems(connection, replay))


def _problems(connection: sa.Connection, replay: bool) -> Iterator[Problem]:
    for row in connection.execute(sa.select(WORKLOAD).order_by(WORKLOAD.c.key)):
        if digest(row.text) != row.key:
            yield Problem("workload", row.key, "its text has another key")
        try:
            parse(row.text)
        except TilewrightError as error:
            yield Problem("workload", row.key, error.message)
    for row in connection.execute(sa.select(SCHEDULE).order_by(SCHEDULE.c.hash)):
        if digest(row.trace) != row.hash:
            yield Problem("schedule", row.hash, "its trace has another hash")
        try:
            Trace.from_json(row.trace)
        except TilewrightError as error:
            yield Problem("schedule", row.hash, error.message)
    for row in connection.execute(sa.select(RECORD).order_by(RECORD.c.uid)):
        yield from _record_problems(connection, row, replay)


def _record_problems(connection: sa.Connection, row: Any, replay: bool) -> Iterator[Problem]:
    uid = row.uid
    if record_uid(row.workload, row.schedule, row.epoch, row.threads) != uid:
        yield Problem("record", uid, "its parts make another identity")
    if row.status not in STATUSES or row.role not in ROLES:
        yield Problem("record", uid, f"unknown status '{row.status}' or role '{row.role}'")
    try:
        samples = read_samples(connection, uid)
    except ValueError as error:
        yield Problem("record", uid, str(error))
        return
    if row.status == "ok" and not samples:
        yield Problem("record", uid, "it has succeeded and has no times")
    for name, value in summary(samples).items():
        kept = row._mapping[name]
        if (kept is None) != (value is None) or (
            value is not None and not math.isclose(kept, value, rel_tol=1e-9, abs_tol=1e-12)
        ):
            yield Problem("record", uid, f"{name} is {kept}, its samples say {value}")
    if replay and row.status == "ok":
        text = connection.scalar(sa.select(WORKLOAD.c.text).where(WORKLOAD.c.key == row.workload))
        trace = connection.scalar(sa.select(SCHEDULE.c.trace).where(SCHEDULE.c.hash == row.schedule))
        try:
            Trace.from_json(trace or "").apply(parse(text or ""))
        except TilewrightError as error:
            yield Problem("record", uid, f"its trace does not apply: {error.message}")
