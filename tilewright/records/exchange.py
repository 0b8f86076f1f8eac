"""Records as lines of JSON, to give away, to keep under version control, and to merge.

The first line says what the file is. Then come workloads, schedules, devices, epochs and records, one a line,
each kind in the order of its keys, so that equal stores give equal files and `diff` shows what differs. A
line refers to others by their keys, which are hashes of their content: nothing can be changed without the
reader noticing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import sqlalchemy as sa

from tilewright.errors import StoreError, TilewrightError
from tilewright.ir.parser import parse
from tilewright.records.record import (
    ROLES,
    STATUSES,
    Device,
    Epoch,
    Record,
    Sample,
    Workload,
    digest,
    shortest_json,
)
from tilewright.records.schema import DEVICE, EPOCH, RECORD, SCHEDULE, WORKLOAD
from tilewright.records.store import Store, add_record, put_epoch, read_samples
from tilewright.schedule import Trace

FORMAT: Final = "tilewright records"
VERSION: Final = 1
#: Characters that a line may have.
MAX_LINE: Final = 64 << 20


@dataclasses.dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        added: records that were not there.
        extended: records that were there with fewer samples.
        known: records that were there with these samples or more.
        conflicting: records that were there with other samples, which were kept.
    """

    added: int = 0
    extended: int = 0
    known: int = 0
    conflicting: int = 0


def export_records(store: Store, out: IO[str], *, sources: bool = False) -> int:
    """Write all that a store holds to ``out``; returns how many records that were.

    Args:
        sources: whether the names of models are written, too.

    Raises:
        StoreError: the database cannot be read.
        OSError: from ``out``.
    """
    count = 0
    with store.reading() as connection:
        out.write(shortest_json({"format": FORMAT, "version": VERSION}) + "\n")
        for line in _lines(connection, sources):
            count += line["kind"] == "record"
            out.write(shortest_json(line) + "\n")
    return count


def _lines(connection: sa.Connection, sources: bool) -> Iterator[dict[str, Any]]:
    for row in connection.execute(sa.select(WORKLOAD).order_by(WORKLOAD.c.key)):
        line = {"kind": "workload", "text": row.text, "family": row.family}
        yield {**line, "source": row.source} if sources and row.source else line
    for row in connection.execute(sa.select(SCHEDULE).order_by(SCHEDULE.c.hash)):
        yield {"kind": "schedule", "trace": row.trace, "sketch": row.sketch}
    for row in connection.execute(sa.select(DEVICE).order_by(DEVICE.c.fingerprint)):
        yield {"kind": "device", "name": row.name, "target": row.target}
    for row in connection.execute(sa.select(EPOCH).order_by(EPOCH.c.uid)):
        yield {
            "kind": "epoch", "uid": row.uid, "device": row.device, "compiler": row.compiler,
            "system": row.system, "started": row.started,
        }  # fmt: skip
    for row in connection.execute(sa.select(RECORD).order_by(RECORD.c.uid)):
        samples = [
            [s.seconds] if s.reference is None else [s.seconds, s.reference]
            for s in read_samples(connection, row.uid)
        ]
        yield {
            "kind": "record", "workload": row.workload, "schedule": row.schedule, "epoch": row.epoch,
            "threads": row.threads, "status": row.status, "role": row.role, "error": row.error,
            "created": row.created, "samples": samples,
        }  # fmt: skip


def import_records(store: Store, path: Path | str) -> Imported:
    """Add the records of a file, all or none. Their epochs count as imported: their times are not this
    machine's until they are verified. Epochs that are there keep what they are.

    Raises:
        StoreError: the file cannot be read, is no file of records, is of a newer version, or a line of it is
            wrong (the message has its number); or the database cannot be written.
    """
    reader = _Reader(Path(path))
    counts = {field.name: 0 for field in dataclasses.fields(Imported)}
    with store.writing() as connection:
        for record in reader.records():
            earlier = read_samples(connection, record.uid)
            there = connection.scalar(sa.select(RECORD.c.status).where(RECORD.c.uid == record.uid))
            if there is None:
                counts["added"] += 1
                add_record(connection, record)
            elif record.samples[: len(earlier)] == earlier and len(record.samples) > len(earlier):
                counts["extended"] += 1
                rest = dataclasses.replace(record, samples=record.samples[len(earlier) :])
                add_record(connection, rest)
            else:
                same = earlier[: len(record.samples)] == record.samples
                counts["known" if same else "conflicting"] += 1
        for epoch in reader.epochs.values():
            put_epoch(connection, epoch)
    return Imported(**counts)


class _Reader:
    """One pass over a file; what lines refer to is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.workloads: dict[str, Workload] = {}
        self.schedules: dict[str, tuple[str, str]] = {}
        self.devices: dict[str, Device] = {}
        self.epochs: dict[str, Epoch] = {}
        self.number = 0

    def records(self) -> Iterator[Record]:
        """The records of the file, checked."""
        kinds: Mapping[str, Callable[[dict[str, Any]], Record | None]] = {
            "workload": self._workload, "schedule": self._schedule, "device": self._device,
            "epoch": self._epoch, "record": self._record,
        }  # fmt: skip
        for number, line in enumerate(self._lines(), 1):
            self.number = number
            value = self._json(line)
            if number == 1:
                self._check_header(value)
                continue
            read = kinds.get(str(value.get("kind")))
            if read is None:
                raise self._error(f"there is no kind of line called {value.get('kind')!r}")
            try:
                record = read(value)
            except KeyError as error:
                raise self._error(f"{error.args[0]!r} is missing") from error
            except (ValueError, TypeError) as error:
                raise self._error(str(error)) from error
            except StoreError:
                raise
            except TilewrightError as error:
                raise self._error(error.message) from error
            if record is not None:
                yield record
        if self.number == 0:
            raise StoreError("the file is empty", location=str(self.path))

    def _lines(self) -> Iterable[str]:
        try:
            with open(self.path, encoding="utf-8") as file:
                while line := file.readline(MAX_LINE + 1):
                    if len(line) > MAX_LINE:
                        raise self._error(f"a line of more than {MAX_LINE} characters")
                    yield line
        except OSError as error:
            raise StoreError(
                f"the file of records cannot be read: {error.strerror}", location=str(self.path)
            ) from error
        except UnicodeDecodeError as error:
            raise StoreError("the file is not text in UTF-8", location=str(self.path)) from error

    def _json(self, line: str) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._error("it is not JSON; the file may be truncated") from error
        if not isinstance(value, dict):
            raise self._error("it is not a JSON object")
        return value

    def _check_header(self, value: dict[str, Any]) -> None:
        if value.get("format") != FORMAT:
            raise StoreError("the file is not one of records", location=str(self.path))
        version = value.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise StoreError(
                f"the file has version {version}, this release reads up to {VERSION}",
                location=str(self.path),
                hint="update tilewright",
            )

    def _workload(self, value: dict[str, Any]) -> None:
        workload = Workload(_text(value["text"]), _text(value["family"]), _text(value.get("source", "")))
        parse(workload.text)
        self.workloads[workload.key] = workload

    def _schedule(self, value: dict[str, Any]) -> None:
        trace = _text(value["trace"])
        Trace.from_json(trace)
        self.schedules[digest(trace)] = trace, _text(value["sketch"])

    def _device(self, value: dict[str, Any]) -> None:
        device = Device(_text(value["name"]), _text(value["target"]))
        self.devices[device.fingerprint] = device

    def _epoch(self, value: dict[str, Any]) -> None:
        texts = [_text(value[name]) for name in ("uid", "compiler", "system", "started")]
        uid, compiler, system, started = texts
        if len(uid) != 32 or set(uid) - set("0123456789abcdef"):
            raise ValueError(f"the uid of an epoch is {uid!r}")
        device = self._known(self.devices, value["device"], "device")
        self.epochs[uid] = Epoch(uid, device, compiler, system, started, "imported")

    def _record(self, value: dict[str, Any]) -> Record:
        trace, sketch = self._known(self.schedules, value["schedule"], "schedule")
        threads, created = value["threads"], value["created"]
        if type(threads) is not int or threads > 1 << 20:
            raise ValueError(f"{threads!r} threads")
        if not isinstance(value["samples"], list):
            raise TypeError(f"expected a list of samples, not {value['samples']!r:.80}")
        if type(created) not in (int, float) or not math.isfinite(created):
            raise ValueError(f"created at {created!r}")
        return Record(
            self._known(self.workloads, value["workload"], "workload"),
            trace,
            self._known(self.epochs, value["epoch"], "epoch"),
            threads,
            _one_of(value["status"], STATUSES),
            tuple(_sample(s) for s in value["samples"]),
            _one_of(value["role"], ROLES),
            sketch,
            _text(value["error"]),
            float(created),
        )

    def _known(self, kept: Mapping[str, Any], key: Any, kind: str) -> Any:
        if not isinstance(key, str) or key not in kept:
            raise ValueError(f"no line before has the {kind} {key!r}")
        return kept[key]

    def _error(self, message: str) -> StoreError:
        return StoreError(f"line {self.number}: {message}", location=str(self.path))


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise TypeError(f"expected a text, not {value!r:.80}")
    return value


def _one_of(value: Any, allowed: Iterable[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r:.80} is none of {', '.join(allowed)}")
    return str(value)


def _sample(value: Any) -> Sample:
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        raise TypeError(f"expected a time, and perhaps a reference, not {value!r:.80}")
    if not all(type(v) in (int, float) for v in value):
        raise TypeError(f"expected numbers of seconds, not {value!r:.80}")
    return Sample(*map(float, value))
