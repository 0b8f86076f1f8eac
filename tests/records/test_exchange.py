"""Records as lines of JSON: what is written, what is taken, what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.records.samples import EPOCH, record
from tilewright.errors import StoreError
from tilewright.records import (
    Imported,
    Record,
    Sample,
    export_records,
    import_records,
    open_store,
    statistics,
    verify,
)

RECORDS = (
    dataclasses.replace(record(1e-3, 2e-3), samples=(Sample(1e-3, 3e-3), Sample(2e-3)), created=5.0),
    record(3e-3, factor=4),
    record(status="timeout", factor=8),
    record(4e-3, size=12, epoch=dataclasses.replace(EPOCH, uid="b" * 32)),
)


def exported(folder: Path, *records: Record, name: str = "out.jsonl", sources: bool = False) -> Path:
    text = io.StringIO()
    with open_store(folder / f"{name}.sqlite") as store:
        store.add(*records)
        assert export_records(store, text, sources=sources) == len(records)
    path = folder / name
    path.write_text(text.getvalue())
    return path


def test_what_is_exported_comes_back(tmp_path: Path) -> None:
    path = exported(tmp_path, *RECORDS, sources=True)
    with open_store(tmp_path / "new.sqlite") as store:
        assert import_records(store, path) == Imported(added=4)
        assert import_records(store, path) == Imported(known=4)
        assert verify(store, replay=True) == []
        found = {r.uid: r for r in store.records()}
        assert {e.origin for e in store.epochs()} == {"imported"}
        for given in RECORDS:
            imported = dataclasses.replace(given, epoch=dataclasses.replace(given.epoch, origin="imported"))
            assert found[given.uid] == imported
        again = io.StringIO()
        export_records(store, again, sources=True)
        assert again.getvalue() == path.read_text()


def test_equal_stores_give_equal_files(tmp_path: Path) -> None:
    one = exported(tmp_path, *RECORDS, name="one")
    two = exported(tmp_path, *reversed(RECORDS), name="two")
    assert one.read_bytes() == two.read_bytes()


def test_names_of_models_are_left_out(tmp_path: Path) -> None:
    assert "a model" not in exported(tmp_path, *RECORDS).read_text()
    assert "a model" in exported(tmp_path, *RECORDS, name="all", sources=True).read_text()


def test_own_epochs_stay_what_they_are(tmp_path: Path) -> None:
    path = exported(tmp_path, *RECORDS)
    with open_store(tmp_path / "new.sqlite") as store:
        store.add(RECORDS[0])
        assert import_records(store, path) == Imported(added=3, known=1)
        assert {e.uid[0]: e.origin for e in store.epochs()} == {"a": "local", "b": "imported"}


def test_samples_are_extended_and_conflicts_are_counted(tmp_path: Path) -> None:
    more = exported(tmp_path, record(1e-3, 2e-3, 3e-3), name="more")
    less = exported(tmp_path, record(1e-3), name="less")
    other = exported(tmp_path, record(9e-3), name="other")
    with open_store(tmp_path / "new.sqlite") as store:
        assert import_records(store, less) == Imported(added=1)
        assert import_records(store, more) == Imported(extended=1)
        assert import_records(store, less) == Imported(known=1)
        assert import_records(store, other) == Imported(conflicting=1)
        (found,) = store.records()
        assert [s.seconds for s in found.samples] == [1e-3, 2e-3, 3e-3]
        assert verify(store) == []


def change(kind: str, **fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    def apply(lines: list[dict[str, Any]]) -> None:
        line = next(x for x in lines if x.get("kind") == kind)
        for name, value in fields.items():
            if value is None:
                del line[name]
            else:
                line[name] = value

    return apply


def drop(kind: str) -> Callable[[list[dict[str, Any]]], None]:
    def apply(lines: list[dict[str, Any]]) -> None:
        lines[:] = [x for x in lines if x.get("kind") != kind]

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[0].update(format="notes"), "the file is not one of records"),
        (lambda lines: lines[0].update(version=99), "the file has version 99, this release reads up to 1"),
        (change("workload", text="def"), "line 2: "),
        (change("workload", text=7), "line 2: expected a text, not 7"),
        (change("workload", family=None), "line 2: 'family' is missing"),
        (change("schedule", trace="{}"), "line 4: "),
        (change("epoch", uid="zz"), "the uid of an epoch is 'zz'"),
        (change("epoch", device="0" * 64), "no line before has the device '000"),
        (drop("schedule"), "no line before has the schedule"),
        (drop("workload"), "no line before has the workload"),
        (change("record", status="fine"), "'fine' is none of ok, compile_error"),
        (change("record", role=[]), "is none of default, anchor"),
        (change("record", threads=0), "0 threads"),
        (change("record", threads=True), "True threads"),
        (change("record", created="now"), "created at 'now'"),
        (change("record", samples=[[0.0]]), "a time of 0.0 seconds"),
        (change("record", samples=[["1"]]), "expected numbers of seconds"),
        (change("record", samples=[[1, 2, 3]]), "expected a time, and perhaps a reference"),
        (change("record", samples=7), "line 10: expected a list of samples, not 7"),
        (lambda lines: lines.append({"kind": "poem"}), "there is no kind of line called 'poem'"),
    ],
)
def test_wrong_lines_are_named_and_nothing_is_added(
    tmp_path: Path, damage: Callable[[list[dict[str, Any]]], None], message: str
) -> None:
    path = exported(tmp_path, *RECORDS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    damage(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with open_store(tmp_path / "new.sqlite") as store:
        with pytest.raises(StoreError) as error:
            import_records(store, path)
        assert message in error.value.message
        assert error.value.location == str(path)
        assert list(store.records()) == []
        assert store.epochs() == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[1, 2]\n", "line 1: it is not a JSON object"),
        (b"[" * 100_000, "line 1: it is not JSON"),
        (b'{"format": "tilewright records", "version": 1}\n{"kind": "wor', "line 2: it is not JSON"),
    ],
)
def test_files_of_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(data)
    with open_store(tmp_path / "new.sqlite") as store, pytest.raises(StoreError, match=message):
        import_records(store, path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with open_store(tmp_path / "new.sqlite") as store, pytest.raises(StoreError, match="cannot be read"):
        import_records(store, tmp_path / "nowhere.jsonl")


def test_statistics_count(tmp_path: Path) -> None:
    with open_store(tmp_path / "new.sqlite") as store:
        empty = statistics(store)
        assert (empty.records, empty.noise_median, empty.by_status) == (0, None, {})
        store.add(*RECORDS, record(1.0, 1.1, 1.2, 1.0, factor=16))
        found = statistics(store)
    assert (found.records, found.samples, found.workloads, found.schedules) == (5, 8, 2, 4)
    assert (found.devices, found.epochs) == (1, 2)
    assert found.by_status == {"ok": 4, "timeout": 1}
    assert found.by_family == {"matmul": 5}
    assert found.by_origin == {"local": 5}
    assert found.noise_median is not None
    assert 0.05 < found.noise_median < 0.1
