"""Cost models in the store, and stores of a release that had none."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.records.samples import DEVICE, OTHER, record
from tilewright.records import open_store

HERE, THERE = DEVICE.fingerprint, OTHER.fingerprint


def test_the_latest_model_of_its_kind_device_and_threads(tmp_path: Path) -> None:
    with open_store(tmp_path / "records.sqlite") as store:
        assert store.latest_model("draft", HERE) is None
        store.put_model("draft", HERE, b"old", created=5.0)
        store.put_model("draft", HERE, b"\x00new\xff", metrics={"top1": 0.9}, created=1.0)
        store.put_model("draft", HERE, b"two", threads=2)
        store.put_model("draft", THERE, b"there")
        store.put_model("learned", HERE, b"learned")
        found = store.latest_model("draft", HERE)
        assert found is not None
        assert (found.data, found.metrics, found.created) == (b"\x00new\xff", {"top1": 0.9}, 1.0)
        two = store.latest_model("draft", HERE, threads=2)
        assert two is not None
        assert two.data == b"two"
        assert two.created > 1e9
        assert [m.data for m in store.models(device=HERE)] == [b"learned", b"two", b"\x00new\xff", b"old"]


def test_only_the_last_models_are_kept_where_asked(tmp_path: Path) -> None:
    with open_store(tmp_path / "records.sqlite") as store:
        store.put_model("learned", THERE, b"other")
        for n in range(5):
            store.put_model("learned", HERE, bytes([n]), keep=2)
        assert [m.data for m in store.models("learned", HERE)] == [b"\x04", b"\x03"]
        assert len(store.models("learned", THERE)) == 1


@pytest.mark.parametrize(
    ("kind", "threads", "message"), [("guess", 0, "no kind of model"), ("draft", -1, "-1 threads")]
)
def test_what_is_no_model(tmp_path: Path, kind: str, threads: int, message: str) -> None:
    with open_store(tmp_path / "records.sqlite") as store, pytest.raises(ValueError, match=message):
        store.put_model(kind, HERE, b"", threads=threads)


def test_a_store_of_version_1_keeps_its_records_and_learns_of_models(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with open_store(path) as store:
        store.add(record(1e-3))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE model")
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'version'")
    for _ in range(2):
        with open_store(path) as store:
            assert [r.seconds for r in store.records()] == [1e-3]
            store.put_model("draft", HERE, b"data")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone() == ("2",)
        indexes = {row[1] for row in connection.execute("PRAGMA index_list(model)")}
    assert "model_by_device" in indexes
