"""The tables of the store, and how older ones become newer ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    inspect,
    select,
    update,
)

from tilewright.errors import StoreError

#: The version of the tables that this release writes.
VERSION: Final = 2

#: The number of the lock that keeps two processes from making the same tables.
_PREPARING: Final = 0x74696C65

METADATA: Final = MetaData()
#: SQLite numbers rows itself only where the key is its INTEGER.
_ID = BigInteger().with_variant(Integer, "sqlite")

META = Table(
    "meta",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
WORKLOAD = Table(
    "workload",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("text", Text, nullable=False),
    Column("family", String(80), nullable=False, index=True),
    Column("source", Text, nullable=False),
)
DEVICE = Table(
    "device",
    METADATA,
    Column("fingerprint", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("target", Text, nullable=False),
)
EPOCH = Table(
    "epoch",
    METADATA,
    Column("uid", String(32), primary_key=True),
    Column("device", ForeignKey(DEVICE.c.fingerprint), nullable=False, index=True),
    Column("compiler", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("started", String(40), nullable=False),
    Column("origin", String(16), nullable=False),
)
SCHEDULE = Table(
    "schedule",
    METADATA,
    Column("hash", String(64), primary_key=True),
    Column("trace", Text, nullable=False),
    Column("sketch", Text, nullable=False),
)
RECORD = Table(
    "record",
    METADATA,
    Column("uid", String(64), primary_key=True),
    Column("workload", ForeignKey(WORKLOAD.c.key), nullable=False),
    Column("schedule", ForeignKey(SCHEDULE.c.hash), nullable=False),
    Column("epoch", ForeignKey(EPOCH.c.uid), nullable=False, index=True),
    Column("threads", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("role", String(16), nullable=False),
    Column("error", Text, nullable=False),
    Column("created", Float(53), nullable=False),
    Column("n", Integer, nullable=False),
    Column("log_seconds", Float(53)),
    Column("log_variance", Float(53)),
    Index("record_by_workload", "workload", "threads", "status", "log_seconds"),
)
SAMPLE = Table(
    "sample",
    METADATA,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("record", ForeignKey(RECORD.c.uid), nullable=False),
    Column("position", Integer, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("reference", Float(53)),
    Index("sample_by_record", "record", "position", unique=True),
)
MODEL = Table(
    "model",
    METADATA,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("device", String(64), nullable=False),
    Column("threads", Integer, nullable=False),
    Column("created", Float(53), nullable=False),
    Column("metrics", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("model_by_device", "kind", "device", "threads", "id"),
)


def _add_models(connection: Connection) -> None:
    MODEL.create(connection)


#: What makes tables of version N + 1 from those of version N, by N.
MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {1: _add_models}


def is_current(connection: Connection) -> bool:
    """Whether there are tables of this release's version."""
    if META.name not in inspect(connection).get_table_names():
        return False
    return connection.scalar(select(META.c.value).where(META.c.name == "version")) == str(VERSION)


def prepare(connection: Connection) -> None:
    """Make the tables, or bring older ones up to date, inside the transaction of ``connection``.

    Raises StoreError for tables that a newer release has written and for a database of something else.
    """
    if connection.dialect.name == "postgresql":  # SQLite's writers wait for each other anyway
        connection.execute(select(func.pg_advisory_xact_lock(_PREPARING)))
    present = set(inspect(connection).get_table_names())
    if META.name not in present:
        if present & {t.name for t in METADATA.sorted_tables}:
            raise StoreError("the database has tables of the same names that are not of a measurement store")
        METADATA.create_all(connection)
        connection.execute(META.insert().values(name="version", value=str(VERSION)))
        return
    text = connection.scalar(select(META.c.value).where(META.c.name == "version"))
    if text is None or not text.isdecimal():
        raise StoreError("the database is no measurement store: it does not say of which version it is")
    version = int(text)
    if version > VERSION:
        raise StoreError(
            f"the measurement store has tables of version {version}, this release knows up to {VERSION}",
            hint="update tilewright, or choose another store",
        )
    for step in range(version, VERSION):
        MIGRATIONS[step](connection)
    if version < VERSION:
        connection.execute(update(META).where(META.c.name == "version").values(value=str(VERSION)))
