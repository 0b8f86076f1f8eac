"""Schedules chosen by the measurement store: what is used, what is not, and what the cache makes of it."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tests.tune.stored import (
    DEVICE,
    TARGET,
    dense_model,
    epoch,
    record,
    run_onnxruntime,
    tasks,
    traces,
)
from tilewright.assembly.program import graph_kernels
from tilewright.config import overriding
from tilewright.cost.model import FeatureModel, Prediction
from tilewright.errors import StoreError
from tilewright.graph.alternatives import DIRECT, ChoicePoint, default_pick
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Graph
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise, variants
from tilewright.graph.quantize import multiplied_type
from tilewright.ir.parser import parse
from tilewright.ir.printer import workload_key
from tilewright.ir.stmt import PrimFunc
from tilewright.records import Device, Record, Sample, Workload, open_store
from tilewright.runtime.plan import KernelCall
from tilewright.schedule.default import default_schedule
from tilewright.schedule.features import FEATURES
from tilewright.schedule.trace import Trace
from tilewright.target import PRESETS
from tilewright.tune.lookup import Lookup

MODEL = dense_model()
DENSE, SOFTMAX = tasks(MODEL)
FIRST, SECOND, THIRD = traces(DENSE, 3)
X = np.random.default_rng(1).standard_normal((24, 40)).astype(np.float32)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path) -> Iterator[None]:
    with overriding(cache_dir=tmp_path / "cache", store=str(tmp_path / "none.sqlite")):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


def dense(path: Path | None, threads: int = 1) -> KernelCall:
    """The kernel of the product in the model compiled with a store."""
    with tw.compile(MODEL, threads=threads, store=path) as model:
        return next(k for k in model.artifact.kernels() if k.workload == workload_key(DENSE))


def test_a_recorded_schedule_is_used_and_right(path: Path) -> None:
    with open_store(path) as store:
        kept = record(DENSE, FIRST, 0.5)
        store.add(kept)
    with tw.compile(MODEL, threads=1, store=path) as model:
        by = {k.workload: k for k in model.artifact.kernels()}
        kernel, other = by[workload_key(DENSE)], by[workload_key(SOFTMAX)]
        assert kernel.chosen.by == "record"
        assert kernel.chosen.record == kept.uid
        assert kernel.chosen.seconds == pytest.approx(0.5e-3)
        assert kernel.chosen.gain == pytest.approx(2)
        assert kernel.chosen.created == "2025-06-15T15:06:40+00:00"
        assert kernel.trace == Trace.from_json(FIRST).to_json()
        assert other.chosen.by == "default"
        assert model.artifact.manifest()["variants"][0]["kernels"][0]["chosen"]["record"] == kept.uid
        np.testing.assert_allclose(model(X)[0], run_onnxruntime(MODEL, X), rtol=1e-5, atol=1e-6)
        with tw.compile(MODEL, threads=1, store=False) as plain:
            assert {k.chosen.by for k in plain.artifact.kernels()} == {"default"}
            np.testing.assert_allclose(model(X)[0], plain(X)[0], rtol=1e-5, atol=1e-6)


def test_constants_follow_the_recorded_schedules_layouts(path: Path) -> None:
    x, want = X, run_onnxruntime(MODEL, X)
    for number, trace in enumerate(traces(DENSE, 6, seed=3)):
        with open_store(path.with_name(f"{number}.sqlite")) as store:
            store.add(record(DENSE, trace))
        with tw.compile(MODEL, threads=1, store=path.with_name(f"{number}.sqlite")) as model:
            assert "record" in {k.chosen.by for k in model.artifact.kernels()}
            np.testing.assert_allclose(model(x)[0], want, rtol=1e-5, atol=1e-6)


def test_the_surely_fastest_wins(path: Path) -> None:
    with open_store(path) as store:
        store.add(
            record(DENSE, FIRST, 0.80, samples=1),  # fast once: that may be luck
            record(DENSE, SECOND, 0.82, samples=30),
            record(DENSE, THIRD, 0.90, samples=30),
        )
    assert dense(path).trace == Trace.from_json(SECOND).to_json()


def test_nothing_that_may_be_slower_than_the_default_is_used(path: Path) -> None:
    with open_store(path) as store:
        store.add(record(DENSE, FIRST, 0.99, samples=2), record(DENSE, SECOND, 1.2))
    chosen = dense(path).chosen
    assert chosen.by == "default"
    assert chosen.note == "nothing that was measured is surely faster"


def test_times_without_a_reference_are_compared_with_the_default_record(path: Path) -> None:
    def alone(trace: str, seconds: float, role: str = "search"):  # type: ignore[no-untyped-def]
        return replace(record(DENSE, trace, role=role), samples=(Sample(seconds),) * 8)

    with open_store(path) as store:
        store.add(alone(FIRST, 1e-3, "default"), alone(SECOND, 0.7e-3))
    chosen = dense(path).chosen
    assert (chosen.by, chosen.gain) == ("record", pytest.approx(1 / 0.7))
    lonely = path.with_name("lonely.sqlite")
    with open_store(lonely) as store:
        store.add(alone(SECOND, 1e-9))
    assert dense(lonely).chosen.by == "default"
    slower = path.with_name("slower.sqlite")
    with open_store(slower) as store:
        store.add(alone(FIRST, 1e-3, "default"), alone(SECOND, 1.1e-3))
    assert dense(slower).chosen.by == "default"


def test_a_trace_that_does_not_apply_gives_way(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    foreign = traces(SOFTMAX, 1)[0]
    broken = FIRST.replace('"version":', '"version":99', 1)
    with open_store(path) as store:
        store.add(record(DENSE, foreign, 0.3), record(DENSE, broken, 0.4), record(DENSE, SECOND, 0.6))
    with caplog.at_level(logging.WARNING, "tilewright"):
        kernel = dense(path)
    assert (kernel.chosen.by, kernel.trace) == ("record", Trace.from_json(SECOND).to_json())
    assert sum("does not fit" in m for m in caplog.messages) == 2
    only = path.with_name("only.sqlite")
    with open_store(only) as store:
        store.add(record(DENSE, foreign, 0.3))
    kernel = dense(only)
    assert kernel.chosen.by == "default"
    assert "does not fit" in kernel.chosen.note


@pytest.mark.parametrize(
    ("kept", "note"),
    [
        (record(DENSE, FIRST, threads=2), "measured on 2 threads only"),
        (record(DENSE, FIRST, when=epoch(origin="imported")), "imported and are not verified"),
        (record(DENSE, FIRST, when=epoch(origin="rejected")), "were rejected"),
        (
            record(DENSE, FIRST, when=epoch(Device("another", PRESETS["x86-64-v3"].to_json()))),
            "measured on other machines only",
        ),
        (record(DENSE, FIRST, status="wrong_result"), ""),
    ],
)
def test_what_does_not_count_here_is_left_out(path: Path, kept: Record, note: str) -> None:
    with open_store(path) as store:
        store.add(kept)
    chosen = dense(path).chosen
    assert chosen.by == "default"
    assert note in chosen.note


def test_verified_records_count(path: Path) -> None:
    with open_store(path) as store:
        store.add(record(DENSE, FIRST, when=epoch(origin="verified")))
    assert dense(path).chosen.by == "record"


def test_a_schedule_that_was_wrong_once_is_never_used(path: Path) -> None:
    with open_store(path) as store:
        store.add(record(DENSE, FIRST))
        store.add(record(DENSE, FIRST, status="wrong_result", when=epoch(uid="f" * 32)))
    assert dense(path).chosen.by == "default"


def test_threads_have_their_own_records(path: Path) -> None:
    with open_store(path) as store:
        store.add(record(DENSE, FIRST, threads=1), record(DENSE, SECOND, threads=2))
    assert dense(path, 1).trace == Trace.from_json(FIRST).to_json()
    assert dense(path, 2).trace == Trace.from_json(SECOND).to_json()


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every variant that is compiled."""
    from tilewright import api

    calls: list[int] = []
    build = api.build_variant

    def counted(*args: object) -> object:
        calls.append(1)
        return build(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "build_variant", counted)
    return calls


def test_the_cache_serves_until_the_store_says_otherwise(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = count_builds(monkeypatch)
    with open_store(path) as store:
        store.add(record(DENSE, FIRST, 0.8))
    assert dense(path).trace == Trace.from_json(FIRST).to_json()
    assert dense(path).chosen.by == "record"
    assert len(builds) == 1
    with open_store(path) as store:  # of other work: the file changes, the answers do not
        store.add(record(tasks(dense_model())[1], traces(DENSE, 1)[0], when=epoch(origin="imported")))
        store.add(record(DENSE, THIRD, 0.95))
        store.set_origin("e" * 32, "local")
    with open_store(path) as store:
        store.add(record(DENSE, SECOND, 0.5))
    assert dense(path).trace == Trace.from_json(SECOND).to_json()
    assert len(builds) == 2
    assert dense(path).trace == Trace.from_json(SECOND).to_json()
    assert len(builds) == 2
    assert dense(None).chosen.by == "default"
    assert len(builds) == 3


def test_writes_that_change_no_answer_keep_the_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = count_builds(monkeypatch)
    with open_store(path) as store:
        store.add(record(DENSE, FIRST, 0.8))
    dense(path)
    other = tasks(dense_model())[1]
    with open_store(path) as store:
        store.add(record(DENSE, FIRST, 0.8, threads=7), record(other, FIRST, threads=7, status="crash"))
    dense(path)
    assert len(builds) == 1


def test_an_unchanged_store_is_not_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path) as store:
        store.add(record(DENSE, FIRST, 0.8))
    dense(path)
    dense(path)  # closing the store may have tidied its file
    from tilewright.tune import lookup

    def refuse(*args: object, **kwargs: object) -> object:
        raise AssertionError("opened")

    monkeypatch.setattr(lookup, "open_store", refuse)
    assert dense(path).chosen.by == "record"


def damage(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 64)


def make_newer(path: Path) -> None:
    open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update meta set value = '999' where name = 'version'")


def make_strange(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table record (a integer)")


def make_nonsense(path: Path) -> None:
    with open_store(path) as store:
        store.add(record(DENSE, FIRST))
    with sqlite3.connect(path) as connection:
        connection.execute("update sample set seconds = 'soon'")


@pytest.mark.parametrize("spoil", [damage, make_newer, make_strange, make_nonsense, Path.mkdir])
def test_a_bad_store_is_one_warning(
    path: Path, spoil: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(path)  # type: ignore[operator]
    for _ in range(2):  # nothing is kept that hides the warning
        caplog.clear()
        with caplog.at_level(logging.WARNING, "tilewright"):
            assert dense(path).chosen.by == "default"
        (message,) = caplog.messages
        assert message.startswith("schedules are chosen without measurements: ")


def test_a_locked_store_is_one_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_store(path).close()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("pragma locking_mode = exclusive")
    blocker.execute("begin exclusive")
    try:
        with caplog.at_level(logging.WARNING, "tilewright"):
            assert dense(path).chosen.by == "default"
    finally:
        blocker.close()
    (message,) = caplog.messages
    assert "locked" in message


def test_a_writer_at_work_does_not_stop_readers(path: Path) -> None:
    with open_store(path) as store:
        store.add(record(DENSE, FIRST))
        with store.writing():
            assert dense(path).chosen.by == "record"


def test_a_store_that_is_asked_for_has_to_be_there(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no measurement store here"):
        tw.compile(MODEL, store=path)


def test_the_default_store_is_used_where_it_exists(path: Path) -> None:
    with overriding(store=str(path)):
        assert dense(None).chosen.by == "default"
        with open_store(path) as store:
            store.add(record(DENSE, FIRST))
        assert dense(None).chosen.by == "record"
        with overriding(choose="default"):
            assert dense(None).chosen.by == "default"
        with tw.compile(MODEL, threads=1, store=False) as model:
            assert {k.chosen.by for k in model.artifact.kernels()} == {"default"}


def test_without_a_store_no_database_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    code = (
        "import sys, tilewright as tw; tw.compile('model.onnx', threads=1); "
        "assert 'sqlalchemy' not in sys.modules and 'tilewright.tune' not in sys.modules"
    )
    environment = {"TILEWRIGHT_STORE": "none.sqlite", "TILEWRIGHT_CACHE_DIR": "cache"}
    root = Path(tw.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=False,
        env={**environment, "PYTHONPATH": str(root), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_sizes_that_are_compiled_for_later_use_the_store(path: Path) -> None:
    from tests.api.test_model import mlp, sample

    graph = mlp()
    fixed = mlp(6)
    func = tasks(fixed.SerializeToString())[0]
    with open_store(path) as store:
        store.add(record(func, traces(func, 1)[0]))
    with tw.compile(graph, threads=1, store=path) as model:
        model.run({"x": sample(6)})
        assert "record" in {k.chosen.by for k in model.artifact.kernels()}



class Likes(FeatureModel):
    """Says that candidates of few loads are fast, and how sure it is of that."""

    name = "likes"

    def __init__(self, spread: float) -> None:
        self.spread = spread

    def predict_features(self, features: np.ndarray, threads: int) -> Prediction:
        column = features[:, FEATURES.index("loads_per_op")].astype(np.float64)
        return Prediction(column - 10, np.full(len(column), self.spread))


@pytest.mark.parametrize(("spread", "by"), [(1e-6, "learned"), (100.0, "default")])
def test_a_model_chooses_where_it_is_sure(
    path: Path, spread: float, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import functools

    model = functools.cached_property(lambda lookup: Likes(spread))
    model.__set_name__(Lookup, "_model")
    monkeypatch.setattr(Lookup, "_model", model)
    with open_store(path) as store:
        store.put_model("learned", DEVICE.fingerprint, b"")
    with overriding(choose="model"), tw.compile(MODEL, threads=1, store=path) as compiled:
        chosen = {k.workload: k.chosen for k in compiled.artifact.kernels()}[workload_key(DENSE)]
        np.testing.assert_allclose(compiled(X)[0], run_onnxruntime(MODEL, X), rtol=1e-5, atol=1e-6)
    assert chosen.by == by
    if by == "learned":
        assert chosen.gain is not None
        assert chosen.gain > 1
        with open_store(path) as store:
            store.add(record(DENSE, FIRST))
        with overriding(choose="model"):
            assert dense(path).chosen.by == "record"
    assert dense(path).chosen.by in ("record", "default")


def test_a_new_model_is_asked_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = count_builds(monkeypatch)
    monkeypatch.setattr(Lookup, "_model", None)
    with overriding(choose="model"):
        for data in (b"one", b"one", b"two"):
            with open_store(path) as store:
                store.put_model("learned", DEVICE.fingerprint, data)
            dense(path)
    assert len(builds) == 2


def ways_of(graph: Graph) -> tuple[ChoicePoint, dict[str, list[PrimFunc]]]:
    """The first node that can be computed in several ways, and each way's kernels."""
    points: list[ChoicePoint] = []

    def note(point: ChoicePoint) -> str:
        points.append(point)
        return DIRECT

    optimise(graph, threads=1, pick=note, operands=multiplied_type(TARGET))
    point = points[0]
    found = {n: [k.func for k in graph_kernels(g, partition(g))] for n, g in variants(point).items()}
    return point, found


def test_ways_to_compute_are_chosen_by_all_their_kernels(path: Path) -> None:
    builder = GraphBuilder("rows")
    x = builder.input("x", (2, 16384), "float32")
    graph = builder.build([builder.op("softmax", x, axis=1)])
    point, ways = ways_of(graph)
    usual = default_pick(point)
    (other,) = (name for name in ways if name != usual)

    def kept(name: str, ratio: float) -> list[Record]:
        def trace(func: PrimFunc) -> str:
            return default_schedule(parse(Workload.of(func).text), TARGET).trace.to_json()

        return [record(func, trace(func), ratio) for func in ways[name]]

    def picked(*records: Record) -> str:
        number = len(list(path.parent.glob("ways*.sqlite")))
        address = path.with_name(f"ways{number}.sqlite")
        with open_store(address) as store:
            store.add(*records)
        lookup = Lookup(str(address), TARGET, 1)
        try:
            return lookup.pick(point)
        finally:
            lookup.close()

    count = {name: len(funcs) for name, funcs in ways.items()}
    equal = count[usual] / count[other]
    assert picked(*kept(usual, 0.5)) == usual  # nothing is known of the other way
    assert picked(*kept(other, 0.01)) == usual  # nor here of the usual one
    assert picked(*kept(usual, 0.5), *kept(other, 0.4 * equal)) == other
    assert picked(*kept(usual, 0.5), *kept(other, 0.49 * equal)) == usual  # within the margin
    with open_store(path) as store:
        store.add(*kept(usual, 0.5), *kept(other, 0.2 * equal))
    lookup = Lookup(str(path), TARGET, 1)
    assert lookup.pick(point) == other
    evidence = lookup.evidence()
    lookup.close()
    assert Lookup(str(path), TARGET, 1).confirms(evidence)
    with open_store(path) as store:  # the same schedules, other times: another way may be faster now
        again = [replace(r, samples=(Sample(2e-4, 1e-3),) * 50) for r in kept(usual, 0.5)]
        store.add(*again)
    assert not Lookup(str(path), TARGET, 1).confirms(evidence)
    with open_store(path) as store:
        store.add(*(replace(r, samples=(Sample(1e-5, 1e-3),) * 99) for r in kept(other, 1)))
    plain = tw.compile(graph, threads=1, store=False)
    with tw.compile(graph, threads=1, store=path) as tuned:
        assert len(tuned.artifact.kernels()) == len(ways[other])
        assert {k.chosen.by for k in tuned.artifact.kernels()} == {"record"}
        x = np.random.default_rng(0).standard_normal((2, 16384)).astype(np.float32)
        np.testing.assert_allclose(tuned(x)[0], plain(x)[0], rtol=1e-4, atol=1e-7)


def test_without_a_learned_model_the_rules_choose(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_store(path).close()
    with overriding(choose="model"):
        assert dense(path).chosen.by == "default"
        with open_store(path) as store:
            store.put_model("learned", DEVICE.fingerprint, b"no model at all")
        assert dense(path).chosen.by == "default"
    assert len(caplog.messages) == 1
