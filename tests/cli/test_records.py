"""``tilewright records``: what the subcommands print, write and refuse."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Result
from tests.records.samples import record
from tilewright.records import open_store

Cli = Callable[..., Result]


@pytest.fixture
def address(tmp_path: Path) -> Path:
    path = tmp_path / "records.sqlite"
    with open_store(path) as store:
        store.add(record(1e-3, 1.1e-3, 1e-3), record(2e-3, factor=4), record(status="crash", factor=8))
    return path


def test_stats(cli: Cli, address: Path) -> None:
    done = cli("records", "stats", "--store", address)
    assert done.code == 0, done.err
    assert ["samples", "4"] in [line.split() for line in done.out.splitlines()]
    assert ["crash", "1"] in [line.split() for line in done.out.splitlines()]
    assert "95 % confidence interval" in done.out
    found = json.loads(cli("records", "stats", "--store", address, "--json").out)
    assert (found["records"], found["by_family"]) == (3, {"matmul": 3})


def test_a_file_that_cannot_be_written(cli: Cli, address: Path, tmp_path: Path) -> None:
    out = tmp_path / "no folder" / "out.jsonl"
    failed = cli("records", "export", "--store", address, "-o", out)
    assert failed.code == 2
    assert "the file cannot be written: No such file or directory" in failed.err
    assert f"at: {out}\n" in failed.err


def test_records_move_between_stores(
    cli: Cli, address: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out.jsonl", tmp_path / "other.sqlite"
    done = cli("records", "export", "--store", address, "-o", out)
    assert (done.code, done.err.strip()) == (0, "3 records")
    assert cli("records", "export", "--store", address).out == out.read_text()
    monkeypatch.setenv("TILEWRIGHT_STORE", str(other))
    done = cli("records", "import", out, out)
    assert done.code == 0, done.err
    assert "out.jsonl: 3 added, 0 with new samples, 0 known" in done.out
    assert "out.jsonl: 0 added, 0 with new samples, 3 known" in done.out
    assert cli("records", "verify", "--replay").out == f"no problems in {other}\n"


def test_merge_needs_no_store(cli: Cli, address: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    assert cli("records", "export", "--store", address, "-o", files[0]).code == 0
    with open_store(address) as store:
        store.add(record(5e-3, size=24))
    assert cli("records", "export", "--store", address, "-o", files[1]).code == 0
    done = cli("records", "merge", *files, "-o", tmp_path / "all.jsonl")
    assert done.code == 0, done.err
    assert (tmp_path / "all.jsonl").read_text() == files[1].read_text()
    assert cli("records", "merge", *reversed(files)).out == files[1].read_text()
    done = cli("records", "merge", *files, "-o", tmp_path)
    assert done.code == 2
    assert "is a folder" in done.err


def test_verify_says_what_is_wrong(cli: Cli, address: Path) -> None:
    with sqlite3.connect(address) as connection:
        connection.execute("UPDATE record SET status = 'fine' WHERE status = 'crash'")
    done = cli("records", "verify", "--store", address)
    assert done.code == 1
    assert "unknown status 'fine'" in done.out
    assert "1 problems in the measurement store" in done.err
    assert json.loads(cli("records", "verify", "--store", address, "--json").out)[0]["kind"] == "record"


@pytest.mark.parametrize("command", ["stats", "export", "verify"])
def test_reading_makes_no_store(cli: Cli, tmp_path: Path, command: str) -> None:
    path = tmp_path / "nowhere.sqlite"
    done = cli("records", command, "--store", path)
    assert done.code == 2
    assert "there is no measurement store here" in done.err
    assert not path.exists()


def test_a_wrong_file_is_named(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("notes\n")
    done = cli("records", "import", file, "--store", tmp_path / "new.sqlite")
    assert done.code == 2
    assert "line 1: it is not JSON" in done.err
    assert str(file) in done.err
