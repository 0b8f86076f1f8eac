"""The store in a PostgreSQL database: the same tests as with SQLite, on a server that is started for them.

Run with ``-m slow``; needs a server (Debian's package ``postgresql``) and the extra ``postgresql``.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.records.samples import DEVICE, record
from tests.records.test_store import (
    _writer,
    test_a_record_comes_back_as_it_was,
    test_all_of_a_call_is_kept_or_nothing,
    test_measuring_again_adds_samples,
    test_the_best_is_of_this_device_and_trusted,
    test_verify_replays,
    test_what_failed_once_stays_failed,
)
from tilewright.errors import StoreError
from tilewright.records import (
    Store,
    export_records,
    import_records,
    open_store,
    schema,
    statistics,
    verify,
)

pytestmark = pytest.mark.slow

__all__ = [
    "test_a_record_comes_back_as_it_was",
    "test_all_of_a_call_is_kept_or_nothing",
    "test_measuring_again_adds_samples",
    "test_the_best_is_of_this_device_and_trusted",
    "test_verify_replays",
    "test_what_failed_once_stays_failed",
]


def _program(name: str) -> str:
    """Where a program of the server is; the newest one of several."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: p.parts[-3].zfill(3))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        pytest.skip("PostgreSQL's server is not installed")
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server, without a database."""
    pytest.importorskip("psycopg")
    initdb, control = _program("initdb"), _program("pg_ctl")
    # A server does not run as root; its socket's path must be short, and its folder readable for its user.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="tilewright-postgresql-"))
    if user is not None:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder, timeout=120)

    data = str(folder / "data")
    try:
        run(
            initdb,
            "--pgdata",
            data,
            "--username",
            "tester",
            "--auth",
            "trust",
            "--no-sync",
            "--encoding",
            "UTF8",
        )
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        run(control, "--pgdata", data, "--log", str(folder / "log"), "--options", options, "--wait", "start")
        try:
            yield f"postgresql+psycopg://tester@/{{}}?host={folder}"
        finally:
            run(control, "--pgdata", data, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_numbers = itertools.count()


@pytest.fixture
def url(server: str) -> str:
    """The address of an empty database."""
    name = f"test{next(_numbers)}"
    engine = sa.create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.format(name)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url) as opened:
        yield opened


def test_several_processes_open_and_write_at_once(url: str) -> None:
    writers = [_writer(url, 21, 2, 8), _writer(url, 21, 2, 8), _writer(url, 14, 4, 100)]
    assert [w.wait(120) for w in writers] == [0, 0, 0]
    with open_store(url) as store:
        found = list(store.records())
        assert len(found) == 14
        assert sorted(len(r.samples) for r in found) == [2] * 7 + [6] * 7
        assert verify(store, replay=True) == []


def test_a_killed_process_loses_only_what_it_was_writing(url: str) -> None:
    writer = _writer(url, 100_000, 2, 8)
    assert writer.stdout is not None
    for _ in range(25):
        seen = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    seen = int(rest[-1]) if rest else seen
    with open_store(url) as store:
        samples = sum(len(r.samples) for r in store.records())
        assert seen + 1 <= samples <= seen + 2
        assert verify(store) == []
        store.add(record(1e-3))


def test_older_tables_are_brought_up_to_date(url: str) -> None:
    with open_store(url) as store:
        store.add(record(1e-3))
        with store.writing() as connection:
            schema.MODEL.drop(connection)
            connection.execute(
                sa.update(schema.META).where(schema.META.c.name == "version").values(value="1")
            )
    opener = f"from tilewright.records import open_store; open_store({url!r}).close()"
    openers = [subprocess.Popen([sys.executable, "-c", opener]) for _ in range(3)]
    assert [o.wait(120) for o in openers] == [0, 0, 0]
    with open_store(url) as store:
        assert len(list(store.records())) == 1
        assert store.put_model("draft", DEVICE.fingerprint, b"\0\1").data == b"\0\1"
        found = store.latest_model("draft", DEVICE.fingerprint)
        assert found is not None
        assert found.data == b"\0\1"


def test_a_newer_release(url: str) -> None:
    with open_store(url) as store, store.writing() as connection:
        connection.execute(sa.update(schema.META).where(schema.META.c.name == "version").values(value="99"))
    with pytest.raises(StoreError, match="tables of version 99"):
        open_store(url)


def test_records_move_from_one_kind_of_database_to_the_other(url: str, tmp_path: Path) -> None:
    kept = [record(1e-3, 2e-3), record(3e-3, factor=4), record(status="crash", factor=8)]
    with open_store(url) as one, open_store(tmp_path / "records.sqlite") as other:
        one.add(*kept)
        there, back = tmp_path / "there.jsonl", tmp_path / "back.jsonl"
        with there.open("w") as out:
            export_records(one, out)
        import_records(other, there)
        with back.open("w") as out:
            export_records(other, out)
        assert back.read_text() == there.read_text()
        assert statistics(other) == dataclasses.replace(statistics(one), by_origin={"imported": 3})
        assert statistics(one).by_status == {"ok": 2, "crash": 1}
        assert verify(other) == []
    with open_store(url) as one:
        import_records(one, back)
        assert len(list(one.records())) == 3


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="cannot be reached"):
        open_store(f"postgresql+psycopg://tester@/nothing?host={tmp_path}")


def test_several_processes_make_the_tables_at_once(url: str) -> None:
    opener = f"from tilewright.records import open_store; input(); open_store({url!r}).close()"
    openers = [subprocess.Popen([sys.executable, "-c", opener], stdin=subprocess.PIPE) for _ in range(4)]
    time.sleep(3)  # all have loaded what they need
    for process in openers:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [o.wait(120) for o in openers] == [0] * 4
    with open_store(url) as store:
        assert store.epochs() == []
