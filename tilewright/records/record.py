"""What a measurement says, as plain immutable data with checks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tilewright.ir.printer import canonical_text
from tilewright.ir.stmt import PrimFunc
from tilewright.target import Target

#: What became of a candidate. Failures are data: they say where the space is not worth looking.
STATUSES: Final = (
    "ok", "compile_error", "crash", "timeout", "out_of_memory", "wrong_result", "not_finite", "refused",
)  # fmt: skip
#: Why a candidate was measured. ``random`` ones are unbiased: what was searched for says little about the
#: rest of the space.
ROLES: Final = ("default", "anchor", "neighbour", "constructed", "random", "search", "finalist", "user")
#: Where the records of an epoch come from, and whether their times count for this machine.
ORIGINS: Final = ("local", "imported", "verified", "rejected")
#: What a stored cost model is: coefficients of the draft model, or a model that learned from records.
MODEL_KINDS: Final = ("draft", "learned")


def digest(text: str) -> str:
    """sha256 of a text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Workload:
    """A function to schedule.

    Attributes:
        text: its canonical text (:func:`tilewright.ir.printer.canonical_text`); traces apply to the function
            that this text is parsed to.
        family: the kind of work, such as ``conv`` or ``matmul``; for reports and for splitting data.
        source: the model it was first met in; left out when records are given away.
    """

    text: str
    family: str = ""
    source: str = ""

    @staticmethod
    def of(func: PrimFunc, family: str = "", source: str = "") -> Workload:
        """The workload that ``func`` is."""
        return Workload(canonical_text(func), family, source)

    @property
    def key(self) -> str:
        """Its identity, the same on every machine: :func:`tilewright.ir.printer.workload_key`."""
        return digest(self.text)


@dataclasses.dataclass(frozen=True)
class Device:
    """A machine that code runs on.

    Attributes:
        name: the processor's name as its maker writes it.
        target: :meth:`tilewright.target.Target.to_json`, named ``native`` whatever the user called it.
    """

    name: str
    target: str

    @staticmethod
    def of(target: Target) -> Device:
        """The device of ``target``; for this machine with the processor's name."""
        own = dataclasses.replace(target, name="native")
        name = _processor() if own == Target.host() else target.cpu
        return Device(name, own.to_json())

    @property
    def fingerprint(self) -> str:
        """Its identity: equal for machines whose times may be compared."""
        return digest(json.dumps([self.name, self.target]))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return Target.host().cpu


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A stretch of time in which times on one device may be compared: one compiler, one state of the machine.

    Attributes:
        uid: 32 hexadecimal digits, made at random.
        device: where.
        compiler: the compiler's version, with the code generator's.
        system: operating system and its release.
        started: when, as ISO 8601 in UTC, in seconds.
        origin: one of :data:`ORIGINS`.
    """

    uid: str
    device: Device
    compiler: str
    system: str
    started: str
    origin: str = "local"

    @staticmethod
    def begin(device: Device, compiler: str) -> Epoch:
        """A new epoch, from now on, on this machine."""
        import platform

        started = datetime.now(UTC).isoformat(timespec="seconds")
        system = f"{platform.system()} {platform.release()}"
        return Epoch(uuid.uuid4().hex, device, compiler, system, started)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measured time in seconds, and that of the reference kernel measured beside it, if there was one."""

    seconds: float
    reference: float | None = None

    def __post_init__(self) -> None:
        for value in (self.seconds, self.reference):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"a time of {value!r} seconds")


@dataclasses.dataclass(frozen=True)
class Record:
    """One schedule of one workload, measured.

    Attributes:
        workload: what was computed.
        trace: the schedule, :meth:`tilewright.schedule.Trace.to_json` in its shortest form.
        sketch: the name of the sketch that the trace is a candidate of; empty for others.
        epoch: when and where.
        threads: threads that a call ran on.
        status: one of :data:`STATUSES`.
        samples: every time that was measured, in order.
        role: one of :data:`ROLES`.
        error: for failures, what was said.
        created: when, in seconds since 1970.
    """

    workload: Workload
    trace: str
    epoch: Epoch
    threads: int
    status: str
    samples: tuple[Sample, ...] = ()
    role: str = "search"
    sketch: str = ""
    error: str = ""
    created: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"there is no status '{self.status}'")
        if self.role not in ROLES:
            raise ValueError(f"there is no role '{self.role}'")
        if self.threads < 1:
            raise ValueError(f"{self.threads} threads")
        if self.status == "ok" and not self.samples:
            raise ValueError("a successful measurement without times")

    @property
    def schedule(self) -> str:
        """The identity of the schedule."""
        return digest(self.trace)

    @property
    def uid(self) -> str:
        """The identity of the record: measuring again adds samples to it."""
        return record_uid(self.workload.key, self.schedule, self.epoch.uid, self.threads)

    @property
    def seconds(self) -> float:
        """The median time. Raises ValueError when there is none."""
        if not self.samples:
            raise ValueError(f"no times: {self.status}")
        return statistics.median(s.seconds for s in self.samples)


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A cost model as the store keeps it.

    Attributes:
        kind: one of :data:`MODEL_KINDS`.
        device: the fingerprint of the device that it speaks of.
        data: what it is, in the form of its kind.
        threads: how many threads it speaks of; 0 for any number.
        metrics: what was known of how good it is when it was stored.
        created: when, in seconds since 1970.
    """

    kind: str
    device: str
    data: bytes
    threads: int = 0
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    created: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in MODEL_KINDS:
            raise ValueError(f"there is no kind of model '{self.kind}'")
        if self.threads < 0:
            raise ValueError(f"{self.threads} threads")


def record_uid(workload: str, schedule: str, epoch: str, threads: int) -> str:
    """The identity of the record with these parts."""
    return digest(json.dumps([workload, schedule, epoch, threads]))


def shortest_json(value: Any) -> str:
    """JSON of which there is one text for each value: sorted keys, no spaces. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def summary(samples: tuple[Sample, ...]) -> Mapping[str, float | int | None]:
    """What the store keeps of samples to sort and filter by: their number, the logarithm of the median, and
    the variance of the logarithms (None below two samples).
    """
    if not samples:
        return {"n": 0, "log_seconds": None, "log_variance": None}
    logs = [math.log(s.seconds) for s in samples]
    return {
        "n": len(logs),
        "log_seconds": math.log(statistics.median(s.seconds for s in samples)),
        "log_variance": statistics.variance(logs) if len(logs) > 1 else None,
    }
