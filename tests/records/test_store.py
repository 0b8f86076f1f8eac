"""The store: what is kept, what is found, and what happens when processes meet, die or lack a disk."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.records.samples import DEVICE, EPOCH, OTHER, product, record
from tilewright.errors import MissingDependencyError, StoreError
from tilewright.ir.parser import parse
from tilewright.ir.printer import workload_key
from tilewright.ir.visit import find_blocks
from tilewright.records import Device, Epoch, Sample, Store, Workload, open_store, schema, verify
from tilewright.target import Target


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "records.sqlite") as opened:
        yield opened


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    samples = Sample(2e-3, 1.5e-3), Sample(1e-3), Sample(3e-3, 1e-3)
    kept = dataclasses.replace(record(1.0), samples=samples, role="random", created=1234.5)
    store.add(kept)
    assert list(store.records()) == [kept]
    assert kept.seconds == 2e-3
    assert store.has(kept.uid)
    assert not store.has("0" * 64)
    assert store.epochs() == [EPOCH]
    assert store.workloads() == store.workloads("matmul") == [kept.workload]
    assert store.workloads("conv") == []
    assert verify(store, replay=True) == []


def test_a_workloads_key_is_that_of_its_function() -> None:
    assert Workload.of(product()).key == workload_key(product())


def test_measuring_again_adds_samples(store: Store) -> None:
    store.add(record(2e-3))
    store.add(record(4e-3, 1e-3), record(5e-3, factor=4))
    fast, slow = store.records()
    assert [s.seconds for s in fast.samples] == [2e-3, 4e-3, 1e-3]
    assert slow.seconds == 5e-3
    assert verify(store) == []


def test_what_failed_once_stays_failed(store: Store) -> None:
    store.add(record(1e-3))
    store.add(record(status="wrong_result"))
    store.add(record(1e-3))
    (found,) = store.records()
    assert (found.status, found.error, len(found.samples)) == ("wrong_result", "it failed", 2)
    assert store.best(found.workload.key, DEVICE.fingerprint, 1) is None


def test_the_best_is_of_this_device_and_trusted(store: Store) -> None:
    other = dataclasses.replace(EPOCH, uid="b" * 32, device=OTHER)
    foreign = dataclasses.replace(EPOCH, uid="c" * 32, origin="imported")
    key = record(1.0).workload.key
    assert store.best(key, DEVICE.fingerprint, 1) is None
    store.add(
        record(9e-3), record(8e-3, factor=4), record(1e-3, epoch=other), record(2e-3, epoch=foreign),
        record(1e-4, threads=2), record(1e-5, size=12), record(1e-6, factor=8, status="timeout"),
    )  # fmt: skip
    found = store.best(key, DEVICE.fingerprint, 1)
    assert found is not None
    assert found.seconds == 8e-3
    assert store.best(key, DEVICE.fingerprint, 1, compiler="0.9") is None
    store.set_origin(foreign.uid, "verified")
    found = store.best(key, DEVICE.fingerprint, 1)
    assert found is not None
    assert found.seconds == 2e-3
    with pytest.raises(StoreError, match="there is no epoch ffff"):
        store.set_origin("f" * 32, "verified")


def test_all_of_a_call_is_kept_or_nothing(store: Store) -> None:
    broken = record(1e-3, factor=4)
    object.__setattr__(broken, "samples", (Sample(1e-3), object()))
    with pytest.raises(AttributeError):
        store.add(record(1e-3), broken)
    assert list(store.records()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"status": "fine"}, "no status 'fine'"),
        ({"role": "best"}, "no role 'best'"),
        ({"threads": 0}, "0 threads"),
        ({"samples": ()}, "without times"),
    ],
)
def test_records_that_say_nothing_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(record(1e-3), **fields)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_times_are_positive_numbers(seconds: float) -> None:
    with pytest.raises(ValueError, match="a time of"):
        Sample(seconds)
    with pytest.raises(ValueError, match="a time of"):
        Sample(1.0, seconds)


def test_devices_differ_by_what_times_depend_on() -> None:
    own = Device.of(Target.host())
    assert own == Device.of(dataclasses.replace(Target.host(), name="mine"))
    assert own.fingerprint != Device.of(dataclasses.replace(Target.host(), l2_bytes=1 << 10)).fingerprint
    assert len({DEVICE.fingerprint, OTHER.fingerprint}) == 2
    epoch = Epoch.begin(own, "1.0")
    assert (len(epoch.uid), epoch.origin) == (32, "local")
    assert epoch.uid != Epoch.begin(own, "1.0").uid


# ------------------------------------------------------------------------------------- processes and disks
_WRITER = """
import sys
from tests.records.samples import record
from tilewright.records import open_store
with open_store(sys.argv[1]) as store:
    for n in range(int(sys.argv[2])):
        store.add(record(1e-3 * (n + 1), factor=int(sys.argv[3]), size=int(sys.argv[4]) + n % 7))
        print(n, flush=True)
"""


def _writer(path: Path, count: int, factor: int, size: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _WRITER, str(path), str(count), str(factor), str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    writers = [_writer(path, 21, 2, 8), _writer(path, 21, 2, 8), _writer(path, 14, 4, 100)]
    assert [w.wait(120) for w in writers] == [0, 0, 0]
    with open_store(path) as store:
        found = list(store.records())
        assert len(found) == 14
        assert sorted(len(r.samples) for r in found) == [2] * 7 + [6] * 7
        assert verify(store, replay=True) == []


def test_a_killed_process_loses_only_what_it_was_writing(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    writer = _writer(path, 100_000, 2, 8)
    assert writer.stdout is not None
    for _ in range(25):
        seen = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    seen = int(rest[-1]) if rest else seen
    with open_store(path) as store:
        samples = sum(len(r.samples) for r in store.records())
        assert seen + 1 <= samples <= seen + 2
        assert verify(store) == []


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with open_store(path) as store:
        store.add(record(1e-3))
    program = f"""
import resource
from tests.records.samples import record
from tilewright.errors import StoreError
from tilewright.records import open_store
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_store({str(path)!r}) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        for n in range(10_000):
            store.add(record(*[1e-3] * 100, factor=3 + n))
    except StoreError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "the disk of the measurement store" in run.stdout
    assert str(path) in run.stdout
    with open_store(path) as store:
        assert verify(store) == []
        assert any(len(r.samples) == 1 for r in store.records())


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes\n" * 1000)
    with pytest.raises(StoreError, match="the file is no measurement store"):
        open_store(path)
    assert path.read_text().startswith("these are notes")


def test_a_damaged_store(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with open_store(path) as store:
        store.add(*(record(1e-3, factor=n) for n in range(1, 60)))
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"damaged|failed"), open_store(path) as store:
        list(store.records())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="folder of the measurement store cannot be made"):
        open_store(tmp_path / "file" / "records.sqlite")


def test_a_store_of_a_newer_release(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'version'")
    with pytest.raises(StoreError, match=r"tables of version 99, this release knows up to \d+") as caught:
        open_store(path)
    assert caught.value.location == str(path)


def test_a_database_of_others(tmp_path: Path) -> None:
    path = tmp_path / "others.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE record (id INTEGER)")
    with pytest.raises(StoreError, match="not of a measurement store"):
        open_store(path)


def test_older_tables_are_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.sqlite"
    with open_store(path) as store:
        store.add(record(1e-3))

    def rename(connection: object) -> None:
        connection.exec_driver_sql("UPDATE workload SET family = 'gemm'")  # type: ignore[attr-defined]

    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    monkeypatch.setattr(schema, "MIGRATIONS", {**schema.MIGRATIONS, schema.VERSION - 1: rename})
    for _ in range(2):
        with open_store(path) as store:
            assert [r.workload.family for r in store.records()] == ["gemm"]


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("nothing://here", StoreError, "no database is known as 'nothing'"),
        ("post gres://x", StoreError, "is not the address of a database"),
        ("mysql+aiomysql://u:secret@h/d", MissingDependencyError, "driver of mysql is not installed"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        open_store(address)
    assert "secret" not in str(error.value)


def test_verify_finds_what_was_changed_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with open_store(path) as store:
        store.add(record(1e-3, 2e-3), record(3e-3, factor=4))
    for change in (
        "UPDATE workload SET text = text || ' '",
        "UPDATE schedule SET trace = replace(trace, 'split', 'splat')",
        "UPDATE record SET log_seconds = 0.0 WHERE n = 2",
        "UPDATE record SET status = 'fine' WHERE n = 1",
        "UPDATE record SET threads = 3 WHERE n = 1",
        "UPDATE sample SET seconds = -1.0 WHERE position = 1",
    ):
        with sqlite3.connect(path) as connection:
            connection.execute(change)
    with open_store(path) as store:
        messages = {(p.kind, p.message) for p in verify(store)}
    assert ("workload", "its text has another key") in messages
    assert ("schedule", "its trace has another hash") in messages
    assert ("record", "unknown status 'fine' or role 'search'") in messages
    assert ("record", "its parts make another identity") in messages
    assert ("record", "a time of -1.0 seconds") in messages


def test_verify_replays(store: Store) -> None:
    good = record(1e-3)
    (name,) = [b.name for b in find_blocks(parse(good.workload.text).body)]
    elsewhere = dataclasses.replace(good, trace=good.trace.replace(f'"{name}"', '"elsewhere"'), threads=2)
    store.add(good, elsewhere)
    assert verify(store) == []
    (problem,) = verify(store, replay=True)
    assert (problem.kind, problem.key) == ("record", elsewhere.uid)
    assert "its trace does not apply" in problem.message
