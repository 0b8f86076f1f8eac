"""Imported times measured again: when they count from then on, and when they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.tune.stored import DEVICE, TARGET, dense_model, epoch, record, tasks, traces
from tilewright.config import overriding
from tilewright.errors import CheckFailed, OptionError, StoreError
from tilewright.measure import Finals, Measurement, Measurer, Plan
from tilewright.measure.adopt import adopt, compare_times
from tilewright.records import Device, Record, Sample, Store, Workload, open_store

FUNCS = tasks(dense_model())
TRACES = [(func, trace) for func in FUNCS for trace in traces(func, 4)]
HERE = epoch(uid="a" * 32)
THERE = epoch(origin="imported", uid="b" * 32)


@dataclasses.dataclass
class Fake:
    """Measures what ``answer`` says of a trace."""

    answer: Callable[[str], Measurement]
    workloads: list[str] = dataclasses.field(default_factory=list)

    def set_workload(self, workload: Workload) -> None:
        self.workloads.append(workload.key)

    def final(self, traces: Sequence[str], plan: Plan | None = None) -> Finals:
        return Finals(tuple(map(self.answer, traces)), None, ())


def imported(times: Sequence[float]) -> list[Record]:
    return [
        dataclasses.replace(record(func, trace, when=THERE), samples=(Sample(seconds),) * 3)
        for (func, trace), seconds in zip(TRACES, times, strict=True)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with overriding(cache_dir=tmp_path / "cache"), open_store(tmp_path / "records.sqlite") as opened:
        yield opened


TIMES = [1e-3 * 1.3**n for n in range(len(TRACES))]


def by_trace(times: Sequence[float]) -> Callable[[str], Measurement]:
    known = {trace: seconds for (_, trace), seconds in zip(TRACES, times, strict=True)}
    return lambda trace: Measurement("ok", samples=(Sample(known[trace]),) * 2)


def origin(store: Store) -> str:
    return next(e.origin for e in store.epochs() if e.uid == THERE.uid)


def test_times_that_agree_count_from_then_on(store: Store) -> None:
    store.add(*imported(TIMES))
    func, trace = TRACES[0]
    key = Workload.of(func).key
    assert store.best(key, DEVICE.fingerprint, 1) is None
    fake = Fake(by_trace([1.2 * t for t in TIMES]))
    agreement = adopt(store, THERE, fake, 1, HERE)
    assert agreement.problem == ""
    assert (agreement.workloads, agreement.anchors, agreement.failures) == (2, 8, 0)
    assert agreement.level == pytest.approx(1.2)
    assert agreement.error == pytest.approx(0, abs=1e-9)
    assert agreement.correlation == pytest.approx(1)
    assert origin(store) == "verified"
    assert len(fake.workloads) == 2
    best = store.best(key, DEVICE.fingerprint, 1)
    assert best is not None
    assert best.trace == trace
    assert {r.role for r in store.records(epoch=HERE.uid)} == {"anchor"}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (by_trace(TIMES[::-1]), "against each other"),
        (by_trace([2 * t for t in TIMES]), "2.00 times as long"),
        (lambda trace: Measurement("wrong_result", "differs"), "8 schedules fail here"),
        (by_trace([t * (1, 1.4)[n % 2] for n, t in enumerate(TIMES)]), "against each other"),
    ],
)
def test_times_that_do_not_agree_never_count(
    store: Store, answer: Callable[[str], Measurement], problem: str
) -> None:
    store.add(*imported(TIMES))
    assert problem in adopt(store, THERE, Fake(answer), 1, HERE).problem
    assert origin(store) == "rejected"


def test_other_fast_schedules_are_a_problem() -> None:
    pairs = [[(1.0, 1.0), (1.05, 1.12), (1.1, 1.06), (1.2, 0.98)]]
    agreement = compare_times(pairs)
    assert agreement.error < 0.1
    assert "rank correlation" in agreement.problem


def test_times_close_together_say_nothing_of_ranks() -> None:
    rng = np.random.default_rng(0)
    pairs = [[(1 + 0.01 * rng.random(), 1 + 0.01 * rng.random()) for _ in range(6)]]
    assert compare_times(pairs).correlation is None
    assert compare_times(pairs).problem == ""


def test_epochs_that_cannot_be_judged(store: Store) -> None:
    foreign = dataclasses.replace(THERE, device=Device("another", DEVICE.target))
    fake = Fake(by_trace(TIMES))
    with pytest.raises(StoreError, match="is of another machine"):
        adopt(store, foreign, fake, 1, HERE)
    store.add(*imported(TIMES)[:2])
    with pytest.raises(StoreError, match=r"2 schedules on 1 threads .* it takes 4"):
        adopt(store, THERE, fake, 1, HERE)
    with pytest.raises(StoreError, match="0 schedules on 3 threads"):
        adopt(store, THERE, fake, 3, HERE)
    assert origin(store) == "imported"


def test_real_measurements_end_with_a_verdict(store: Store) -> None:
    times = TIMES[:4]
    store.add(*imported(TIMES)[:4])
    with Measurer(TARGET, 1, jobs=1) as measurer:
        agreement = adopt(store, THERE, measurer, 1, HERE, plan=Plan(max_rounds=3, halving=False))
    assert agreement.failures == 0
    assert agreement.anchors == len(times)
    assert origin(store) == ("rejected" if agreement.problem else "verified")
    new = list(store.records(epoch=HERE.uid))
    assert all(r.status == "ok" and r.samples[0].reference is not None for r in new)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tilewright.measure
    from tilewright.cli import records as command

    class Given(Fake):
        def __init__(self, target: object, threads: int) -> None:
            super().__init__(by_trace(TIMES))

        def __enter__(self) -> Given:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(tilewright.measure, "Measurer", Given)
    path = tmp_path / "records.sqlite"
    with overriding(store=str(path)):
        with open_store(path) as store:
            store.add(record(*TRACES[0]))
        with pytest.raises(OptionError, match="no imported records of a machine like this one"):
            command.adopt()
        with pytest.raises(OptionError, match="0 imported epochs begin with 'b'"):
            command.adopt(["b"])
        with open_store(path) as store:
            store.add(*imported(TIMES))
        command.adopt(threads=1)
        assert "verified" in capsys.readouterr().out
        monkeypatch.setattr(Given, "__init__", lambda s, *_: Fake.__init__(s, by_trace(TIMES[::-1])))
        with pytest.raises(CheckFailed, match="the times of 1 epochs do not hold here: bbbb"):
            command.adopt(["bb"], threads=1)
        assert "rejected" in capsys.readouterr().out
