"""The store: one database, written by many processes at once.

A record and all that it refers to are written in one transaction, so a process that is killed loses at most
what it was writing. SQLite works in WAL mode: readers do not wait for writers, and writers wait for each
other. PostgreSQL is used where the address is its URL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from tilewright.errors import MissingDependencyError, StoreError
from tilewright.records.record import (
    ORIGINS,
    Device,
    Epoch,
    Record,
    Sample,
    StoredModel,
    Workload,
    shortest_json,
    summary,
)
from tilewright.records.schema import (
    DEVICE,
    EPOCH,
    MODEL,
    RECORD,
    SAMPLE,
    SCHEDULE,
    WORKLOAD,
    is_current,
    prepare,
)

#: Seconds that a writer waits for others.
PATIENCE: Final = 60.0
#: Seconds that who only reads waits for a database that is locked altogether: writers lock no readers out.
READ_PATIENCE: Final = 2.0
#: Origins of times that count for this machine.
TRUSTED: Final = ("local", "verified")
#: Rows of records that are read at a time.
_PAGE: Final = 500


def open_store(address: str | Path, *, create: bool = True, reading: bool = False) -> Store:
    """The store at a path (SQLite) or a URL of a database.

    Args:
        create: whether a path at which there is nothing becomes a new store.
        reading: whether only to read: waits for nobody, and leaves tables of this version as they are.

    Raises:
        StoreError: no such database, no permission, a file that is no store or a damaged one, or one of a
            newer version.
        MissingDependencyError: the driver of the database is not installed.
    """
    text = str(address)
    url = _url(text)
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database).expanduser()
        if not create and not path.exists():
            raise StoreError(
                "there is no measurement store here",
                location=str(path),
                hint="choose another (--store), or bring records in with `tilewright records import`",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder of the measurement store cannot be made: {error.strerror}", location=text
            ) from error
        url = url.set(database=str(path))
    try:
        engine = sa.create_engine(url, **_arguments(url, READ_PATIENCE if reading else PATIENCE))
    except NoSuchModuleError as error:
        raise StoreError(
            f"no database is known as '{url.drivername}'",
            location=_shown(url),
            hint="give a path for SQLite, or postgresql+psycopg://user@host/name",
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"the driver of {url.get_backend_name()} is not installed ({error})",
            location=_shown(url),
            hint="pip install 'tilewright[postgresql]'",
        ) from error
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    store = Store(engine, _shown(url))
    try:
        if not reading or not _is_current(store):
            with store.writing() as connection:
                prepare(connection)
    except BaseException as error:
        store.close()
        if isinstance(error, StoreError) and error.location is None:
            raise StoreError(error.message, location=_shown(url), hint=error.hint) from error
        raise
    return store


def _url(text: str) -> URL:
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        return make_url(text)
    except (ArgumentError, ValueError) as error:
        raise StoreError(f"'{text.partition('://')[0]}://…' is not the address of a database") from error


def _is_current(store: Store) -> bool:
    with store.reading() as connection:
        return is_current(connection)


def _arguments(url: URL, patience: float) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": patience}}
    return {"pool_pre_ping": True}


def _shown(url: URL) -> str:
    """The address in messages: a path, or a URL without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # The driver must not begin transactions by itself: _begin_sqlite does, with the lock that is needed.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A reader that becomes a writer half-way would fail when another one has written since.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Store:
    """An open measurement store; made by :func:`open_store`, closed by ``with`` or :meth:`close`.

    Every method raises StoreError when the database cannot be read or written.
    """

    def __init__(self, engine: sa.Engine, location: str) -> None:
        self._engine = engine
        self.location = location

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; nothing is pending."""
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database."""
        with self._explained(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is kept when the block ends well, and undone otherwise."""
        with self._explained(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise _explanation(error, self.location) from error

    # -- writing ---------------------------------------------------------------------------------------------

    def add(self, *records: Record) -> None:
        """Keep records, all or none of them.

        Where there is a record of the same workload, schedule, epoch and threads, its samples are followed by
        the new ones. A candidate that has failed once stays failed: it is not to be trusted.
        """
        with self.writing() as connection:
            for record in records:
                add_record(connection, record)

    def add_epoch(self, epoch: Epoch) -> None:
        """Keep an epoch that has no records yet."""
        with self.writing() as connection:
            put_epoch(connection, epoch)

    def set_origin(self, epoch: str, origin: str) -> None:
        """Say whether the times of an epoch count for this machine. Raises StoreError when there is no such
        epoch.
        """
        if origin not in ORIGINS:
            raise ValueError(f"there is no origin '{origin}'")
        with self.writing() as connection:
            found = connection.execute(sa.update(EPOCH).where(EPOCH.c.uid == epoch).values(origin=origin))
            if not found.rowcount:
                raise StoreError(f"there is no epoch {epoch}", location=self.location)

    def put_model(
        self,
        kind: str,
        device: str,
        data: bytes,
        *,
        threads: int = 0,
        metrics: Mapping[str, Any] | None = None,
        created: float | None = None,
        keep: int | None = None,
    ) -> StoredModel:
        """Keep a cost model; from now on it is the latest of its kind, device and number of threads.

        Args:
            kind: one of :data:`tilewright.records.MODEL_KINDS`.
            device: the fingerprint of the device that it speaks of.
            data: what it is, in its own form.
            threads: how many threads it speaks of; 0 for any number.
            metrics: what is known of how good it is, as JSON can hold it.
            created: seconds since 1970; now when left out.
            keep: so many of its kind, device and threads stay, the latest; all when left out.
        """
        now = time.time() if created is None else created
        model = StoredModel(kind, device, data, threads, metrics or {}, now)
        mine = (MODEL.c.kind == kind, MODEL.c.device == device, MODEL.c.threads == threads)
        with self.writing() as connection:
            row = {**dataclasses.asdict(model), "metrics": shortest_json(model.metrics)}
            connection.execute(MODEL.insert().values(**row))
            if keep is not None:
                newest = sa.select(MODEL.c.id).where(*mine).order_by(MODEL.c.id.desc())
                kept = list(connection.scalars(newest.limit(max(keep, 1))))
                connection.execute(sa.delete(MODEL).where(*mine, MODEL.c.id.not_in(kept)))
        return model

    # -- reading ---------------------------------------------------------------------------------------------

    def latest_model(self, kind: str, device: str, threads: int = 0) -> StoredModel | None:
        """The model of a kind, a device (by its fingerprint) and a number of threads that was put last, None
        where there is none."""
        return next(iter(self.models(kind, device, threads, limit=1)), None)

    def models(
        self,
        kind: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        *,
        limit: int | None = None,
    ) -> list[StoredModel]:
        """The models of which all that is given is true, at most ``limit``, the latest first."""
        given = {MODEL.c.kind: kind, MODEL.c.device: device, MODEL.c.threads: threads}
        query = sa.select(MODEL).where(*(c == value for c, value in given.items() if value is not None))
        with self.reading() as connection:
            rows = list(connection.execute(query.order_by(MODEL.c.id.desc()).limit(limit)))
        return [
            StoredModel(r.kind, r.device, r.data, r.threads, json.loads(r.metrics), r.created) for r in rows
        ]

    def records(
        self,
        workload: str | None = None,
        *,
        device: str | None = None,
        epoch: str | None = None,
        compiler: str | None = None,
        threads: int | None = None,
        status: str | None = None,
        origins: Sequence[str] | None = None,
        fastest: int | None = None,
    ) -> Iterator[Record]:
        """The records of which all that is given is true, fastest first, those without times last.

        Args:
            workload, device, epoch: a workload's key, a device's fingerprint, an epoch's uid.
            fastest: at most so many.
        """
        given = {
            RECORD.c.workload: workload, EPOCH.c.device: device, EPOCH.c.uid: epoch,
            EPOCH.c.compiler: compiler, RECORD.c.threads: threads, RECORD.c.status: status,
        }  # fmt: skip
        query = sa.select(RECORD.c.uid, RECORD.c.log_seconds).join(EPOCH, RECORD.c.epoch == EPOCH.c.uid)
        query = query.where(*(column == value for column, value in given.items() if value is not None))
        if origins is not None:
            query = query.where(EPOCH.c.origin.in_(origins))
        query = query.order_by(RECORD.c.log_seconds.is_(None), RECORD.c.log_seconds, RECORD.c.uid)
        with self.reading() as connection:
            uids = list(connection.scalars(query if fastest is None else query.limit(fastest)))
        for start in range(0, len(uids), _PAGE):
            with self.reading() as connection:
                page = read_records(connection, uids[start : start + _PAGE])
            yield from page

    def best(self, workload: str, device: str, threads: int, compiler: str | None = None) -> Record | None:
        """The fastest trusted record of a workload on a device, or None. Times of other devices, and those
        that were imported and not verified, do not count.
        """
        fitting: dict[str, Any] = {"device": device, "compiler": compiler, "threads": threads, "status": "ok"}
        return next(self.records(workload, **fitting, origins=TRUSTED, fastest=1), None)

    def has(self, uid: str) -> bool:
        """Whether there is a record with this identity."""
        with self.reading() as connection:
            return connection.scalar(sa.select(RECORD.c.uid).where(RECORD.c.uid == uid)) is not None

    def epochs(self) -> list[Epoch]:
        """All epochs, oldest first."""
        with self.reading() as connection:
            rows = connection.execute(
                sa.select(EPOCH, DEVICE.c.name, DEVICE.c.target)
                .join(DEVICE, EPOCH.c.device == DEVICE.c.fingerprint)
                .order_by(EPOCH.c.started, EPOCH.c.uid)
            )
            return [_epoch(row) for row in rows]

    def workloads(self, family: str | None = None) -> list[Workload]:
        """All workloads (of a family), by their keys."""
        query = sa.select(WORKLOAD).order_by(WORKLOAD.c.key)
        if family is not None:
            query = query.where(WORKLOAD.c.family == family)
        with self.reading() as connection:
            return [Workload(row.text, row.family, row.source) for row in connection.execute(query)]


def read_records(connection: sa.Connection, uids: Sequence[str]) -> list[Record]:
    """The records with these identities, in this order."""
    rows = connection.execute(
        sa.select(
            RECORD, EPOCH, DEVICE.c.name, DEVICE.c.target, SCHEDULE.c.trace, SCHEDULE.c.sketch,
            WORKLOAD.c.text, WORKLOAD.c.family, WORKLOAD.c.source, RECORD.c.uid.label("record_uid"),
        )
        .join(EPOCH, RECORD.c.epoch == EPOCH.c.uid)
        .join(DEVICE, EPOCH.c.device == DEVICE.c.fingerprint)
        .join(SCHEDULE, RECORD.c.schedule == SCHEDULE.c.hash)
        .join(WORKLOAD, RECORD.c.workload == WORKLOAD.c.key)
        .where(RECORD.c.uid.in_(uids))
    )  # fmt: skip
    samples: dict[str, list[Sample]] = {uid: [] for uid in uids}
    for row in connection.execute(
        sa.select(SAMPLE.c.record, SAMPLE.c.seconds, SAMPLE.c.reference)
        .where(SAMPLE.c.record.in_(uids))
        .order_by(SAMPLE.c.record, SAMPLE.c.position)
    ):
        samples[row.record].append(Sample(row.seconds, row.reference))
    found = {
        row.record_uid: Record(
            Workload(row.text, row.family, row.source), row.trace, _epoch(row), row.threads, row.status,
            tuple(samples[row.record_uid]), row.role, row.sketch, row.error, row.created,
        )
        for row in rows
    }  # fmt: skip
    return [found[uid] for uid in uids if uid in found]


def _epoch(row: Any) -> Epoch:
    uid = row._mapping[EPOCH.c.uid]
    device = Device(row._mapping[DEVICE.c.name], row._mapping[DEVICE.c.target])
    return Epoch(uid, device, row.compiler, row.system, row.started, row.origin)


def _put(connection: sa.Connection, table: sa.Table, **values: Any) -> None:
    """Insert a row unless one with its key is there."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(insert(table).values(**values).on_conflict_do_nothing())


def put_epoch(connection: sa.Connection, epoch: Epoch) -> None:
    """Insert an epoch and its device unless they are there."""
    device = epoch.device
    _put(connection, DEVICE, fingerprint=device.fingerprint, name=device.name, target=device.target)
    fields = {**dataclasses.asdict(epoch), "device": device.fingerprint}
    _put(connection, EPOCH, **fields)


def add_record(connection: sa.Connection, record: Record) -> None:
    """What :meth:`Store.add` does with one record, inside a transaction that writes."""
    workload = record.workload
    _put(
        connection, WORKLOAD,
        key=workload.key, text=workload.text, family=workload.family, source=workload.source,
    )  # fmt: skip
    _put(connection, SCHEDULE, hash=record.schedule, trace=record.trace, sketch=record.sketch)
    put_epoch(connection, record.epoch)
    uid = record.uid
    values = {
        "uid": uid, "workload": workload.key, "schedule": record.schedule, "epoch": record.epoch.uid,
        "threads": record.threads, "status": record.status, "role": record.role, "error": record.error,
        "created": record.created, **summary(()),
    }  # fmt: skip
    _put(connection, RECORD, **values)
    # Another process may be adding samples to the same record: one after the other.
    row = connection.execute(sa.select(RECORD).where(RECORD.c.uid == uid).with_for_update()).one()
    earlier = read_samples(connection, uid)
    put_samples(connection, uid, record.samples, len(earlier))
    failed = row.status != "ok"
    connection.execute(
        sa.update(RECORD)
        .where(RECORD.c.uid == uid)
        .values(
            status=row.status if failed else record.status,
            error=row.error if failed else record.error,
            **summary((*earlier, *record.samples)),
        )
    )


def read_samples(connection: sa.Connection, uid: str) -> tuple[Sample, ...]:
    """The samples of a record, in order."""
    rows = connection.execute(
        sa.select(SAMPLE.c.seconds, SAMPLE.c.reference)
        .where(SAMPLE.c.record == uid)
        .order_by(SAMPLE.c.position)
    )
    return tuple(Sample(row.seconds, row.reference) for row in rows)


def put_samples(connection: sa.Connection, uid: str, samples: Iterable[Sample], first: int) -> None:
    """Insert samples of a record from position ``first`` on."""
    rows = [
        {"record": uid, "position": n, "seconds": s.seconds, "reference": s.reference}
        for n, s in enumerate(samples, first)
    ]
    if rows:
        connection.execute(sa.insert(SAMPLE), rows)


def _explanation(error: SQLAlchemyError, location: str) -> StoreError:
    """What went wrong with the database, in terms of what a user can do about it."""
    text = str(error.orig if isinstance(error, DBAPIError) and error.orig else error).strip().split("\n")[0]
    lower = text.lower()
    known = (
        ("full", "the disk of the measurement store is full", "free space; nothing that was stored is lost"),
        ("readonly", "the measurement store may not be written", "check its permissions, or choose another"),
        ("read-only", "the measurement store may not be written", "check its permissions, or choose another"),
        ("unable to open", "the measurement store cannot be opened", "check the path and its permissions"),
        ("not a database", "the file is no measurement store", "choose another path"),
        ("malformed", "the measurement store is damaged", "restore it from an export (records import)"),
        ("disk i/o", "the disk of the measurement store failed or is full", "check the disk"),
        ("locked", "another process keeps the measurement store locked", "end it, or choose another store"),
        ("connect", "the database of the measurement store cannot be reached", "check address and server"),
    )
    for word, message, hint in known:
        if word in lower:
            return StoreError(f"{message} ({text})", location=location, hint=hint)
    return StoreError(f"the measurement store failed: {text}", location=location)
