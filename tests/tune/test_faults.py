"""Tuners, builders and workers that are killed, stores that are shared, disks that are full, candidates that
do harm: nothing that was measured is lost, nothing wrong is stored."""

from __future__ import annotations

import collections
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.measure.test_runner import HARM, native
from tests.tune.stored import DEVICE, TARGET, dense_model
from tilewright.measure import Limits
from tilewright.measure.batch import Measurer
from tilewright.measure.builder import Build, Builder, Candidate
from tilewright.records import Epoch, Record, open_store, verify
from tilewright.records.record import digest
from tilewright.sources import open_model
from tilewright.tune.models import Ignorance
from tilewright.tune.plugins import find_strategy
from tilewright.tune.session import Session, Settings
from tilewright.tune.tasks import Extracted, extract

pytestmark = pytest.mark.slow

#: Kills of each kind.
KILLS = 8


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "dense.onnx"
    path.write_bytes(dense_model())
    return path


def tuner(model: Path, events: Path, *words: object, seed: int = 0, **kw: object) -> subprocess.Popen[str]:
    folder = model.parent
    command = [sys.executable, "-m", "tilewright", "tune", model, "--threads", 1, "--model", "none"]
    command += ["--strategy", "random", "--store", folder / "records.sqlite", "--cache-dir", folder / "cache"]
    command += ["--events", events, "--quiet", "--seed", seed, *words]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw
    )  # type: ignore[call-overload,no-any-return]


def measured(events: Path) -> list[dict[str, object]]:
    """The candidates that the log has. The last line may be cut off where the tuner was killed."""
    found = []
    for line in events.read_text().splitlines() if events.exists() else ():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if event["event"] == "measured":
            found.append(event)
    return found


def wait_for(events: Path, count: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while len(measured(events)) < count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def stored(model: Path) -> list[Record]:
    with open_store(model.parent / "records.sqlite") as store:
        assert verify(store, replay=True) == []
        return list(store.records())


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    try:
        own = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*own, *(g for c in own for g in children(c))]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def keys(records: Iterable[Record]) -> set[tuple[str, str]]:
    return {(r.workload.key, r.schedule) for r in records}


def test_a_tuner_that_is_killed_loses_the_candidate_in_flight_only(model: Path, tmp_path: Path) -> None:
    rng, seen = random.Random(0), set()
    for number in range(KILLS):
        events = tmp_path / f"events{number}.jsonl"
        process = tuner(model, events, "--trials", 500, seed=number)
        wait_for(events, rng.randint(1, 12), process)
        time.sleep(rng.uniform(0, 0.3))
        family = children(process.pid)
        process.kill()
        process.communicate()
        told = {(str(e["task"]), str(e["schedule"])) for e in measured(events)}
        found = keys(stored(model))
        assert told <= found, "what was told is stored"
        assert seen <= found, "what was stored stays"
        assert len(found - seen - told) <= 1
        seen = found
        end = time.monotonic() + 20
        while any(name_of(pid) for pid in family) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(name_of(pid) for pid in family), "its processes end with it"
    assert {r.status for r in stored(model)} == {"ok"}
    process = tuner(model, tmp_path / "last.jsonl", "--trials", 4)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not {(e["task"], e["schedule"]) for e in measured(tmp_path / "last.jsonl")} & seen


@pytest.mark.parametrize("which", ["builder", "runner"])
def test_processes_that_are_killed_are_replaced_and_nobody_is_blamed(
    model: Path, tmp_path: Path, which: str
) -> None:
    """The runner forks for each look at candidates: it may be hit, or its child."""
    rng, killed = random.Random(1), 0
    events = tmp_path / "events.jsonl"
    process = tuner(model, events, "--trials", 60)
    wait_for(events, 1, process)
    while process.poll() is None and killed < KILLS:
        victims = [pid for pid in children(process.pid) if f"tilewright.measure.{which}" in name_of(pid)]
        if victims:
            try:
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
        time.sleep(rng.uniform(0.5, 1.5) if killed else 0.01)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert killed
    found = collections.Counter(r.status for r in stored(model))
    assert set(found) == {"ok"}, found


def test_two_tuners_share_a_store(model: Path, tmp_path: Path) -> None:
    logs = [tmp_path / f"events{n}.jsonl" for n in range(2)]
    both = [tuner(model, log, "--trials", 24, seed=n) for n, log in enumerate(logs)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    told = {(e["task"], e["schedule"]) for log in logs for e in measured(log)}
    records = stored(model)
    assert told <= keys(records)
    assert len({r.epoch.uid for r in records}) == 2


def test_a_full_disk_is_one_clear_error(model: Path, tmp_path: Path) -> None:
    process = tuner(model, tmp_path / "first.jsonl", "--trials", 2)
    process.communicate(timeout=120)
    before = keys(stored(model))
    size = (tmp_path / "records.sqlite").stat().st_size

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + (64 << 10), size + (64 << 10)))

    process = tuner(model, tmp_path / "second.jsonl", "--trials", 3000, preexec_fn=limit)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "error:" in err
    assert "Traceback" not in err
    assert before <= keys(stored(model))


class Saboteur(Builder):
    """Compiles most candidates to code that does harm, each to the same one always, but the first."""

    def build(self, candidates: Iterable[Candidate]) -> Iterator[tuple[int, Build]]:
        asked = list(candidates)
        self.default = self.default or asked[0].trace
        for number, build in super().build(asked):
            kinds = [None, *HARM]
            harm = kinds[int(digest(asked[number].trace)[:8], 16) % len(kinds)]
            if harm is None or asked[number].trace == self.default:
                yield number, build
            else:
                yield number, Build(native(HARM[harm][0]), seconds=build.seconds)

    default = ""


def test_candidates_that_do_harm_are_kept_as_what_they_are(tmp_path: Path) -> None:
    whole = extract([open_model(dense_model()).case({}, {}).graph], TARGET, 1)

    def measurer() -> Measurer:
        made = Measurer(TARGET, 1, jobs=1, limits=Limits(seconds=1.0))
        made._builder = Saboteur(TARGET, 1)
        return made

    with open_store(tmp_path / "records.sqlite") as store:
        session = Session(
            Extracted(whole.tasks[:1]),
            store,
            TARGET,
            1,
            find_strategy("random"),
            Ignorance(),
            measurer,
            Epoch.begin(DEVICE, "test"),
            Settings(trials=40, batch=10, race_seconds=0.2),
        )
        outcome = session.run()
        assert verify(store) == []
        records = list(store.records())
    assert outcome.reason == "trials"
    # The zeros are written for another size: a part of this output stays as it was.
    assert {HARM[h][1] for h in HARM if h != "computes zeros"} == set(outcome.failures), outcome.failures
    assert all(not r.samples for r in records if r.status in ("wrong_result", "not_finite"))
    assert all(r.samples for r in records if r.status == "ok")
    (state,) = outcome.states
    assert state.space is not None
    best = state.space.trace(state.best)
    assert {r.status for r in records if r.trace == best} == {"ok"}
