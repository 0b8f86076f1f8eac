"""What a compiled model says of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper

import tilewright as tw
from tests.tune.stored import dense_model, record, tasks, traces
from tilewright.cli.app import run
from tilewright.config import overriding
from tilewright.cost.coefficients import Coefficients
from tilewright.cost.draft import LIMITS
from tilewright.errors import ArtifactError, StoreError
from tilewright.explaining import WIDTH, explain, explained
from tilewright.records import Device, open_store
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.chosen import Chosen
from tilewright.runtime.traits import Traits
from tilewright.schedule.features import FEATURES
from tilewright.target import Target


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path) -> Iterator[None]:
    with overriding(cache_dir=tmp_path / "cache", store=str(tmp_path / "none.sqlite")):
        yield


@pytest.mark.parametrize(
    "chosen",
    [
        Chosen(),
        Chosen(note="measured on 2 threads only"),
        Chosen("record", 1.2043e-3, 1.312, "ab", "2026-01-02T03:04:05+00:00"),
        Chosen("learned", 2e-5, 1.5),
    ],
)
def test_choices_are_read_back(chosen: Chosen) -> None:
    assert Chosen.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


@pytest.mark.parametrize(
    "bad", [{"by": "nobody"}, {"seconds": -1}, {"seconds": "soon"}, {"gain": True}, {"record": 1}, []]
)
def test_manifests_with_other_choices_are_refused(bad: object) -> None:
    with pytest.raises(ArtifactError, match="malformed choice of a schedule"):
        Chosen.from_json(bad)


def test_traits_are_read_back() -> None:
    traits = Traits("abc", (1.0, 0.0, -2.5, 23.37), 128, 8)
    assert Traits.from_json(json.loads(json.dumps(traits.to_json()))) == traits


@pytest.mark.parametrize(
    "change",
    [
        {"features": "1 two"},
        {"features": "1 nan"},
        {"features": [1]},
        {"cold": -1},
        {"bits": 0},
        {"version": 1},
    ],
)
def test_manifests_with_other_traits_are_refused(change: dict[str, object]) -> None:
    data = Traits("abc", (1.0,), 0, 32).to_json() | change
    with pytest.raises(ArtifactError, match="malformed traits of a kernel"):
        Traits.from_json(data)


def test_explain_says_what_bounds_kernels_and_who_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path, artifact = dense_model(), tmp_path / "records.sqlite", tmp_path / "model.tw"
    func = tasks(model)[0]
    with open_store(path) as store:
        kept = record(func, traces(func, 1)[0], 0.8)
        store.add(kept)
    with tw.compile(model, threads=1, store=path) as compiled:
        text = compiled.explain()
        compiled.save(artifact)
    heading, titles, dense, softmax, *rest = text.splitlines()
    assert heading.startswith("variant fixed sizes: 2 kernels, ")
    assert titles.split() == "kernel share time ms floor ms x floor bound by chosen by computes".split()
    name, share, time, floor, distance, limit, _, by, gain, *nodes = dense.split()
    assert (name, time, by, gain) == ("matmul_relu", "0.8000", "record", "1.25x")
    assert nodes == ["dense,", "relu"]
    assert limit in LIMITS
    assert float(floor) * float(distance) == pytest.approx(0.8, rel=0.2)
    name, other, time, *_, by, node = softmax.split()
    assert (name, by, node) == ("softmax", "default", "softmax")
    assert time.startswith("~")
    assert float(share.rstrip("%")) + float(other.rstrip("%")) == pytest.approx(100, abs=0.2)
    assert "chosen by: 1 default, 1 record" in rest
    assert rest[-1].endswith("supposed (`tilewright calibrate` measures them)")
    assert max(map(len, text.splitlines())) <= WIDTH
    with tw.load(artifact) as loaded:
        assert loaded.explain() == text
    assert run(["explain", str(artifact)]) == 0
    assert capsys.readouterr().out.strip() == text
    assert run(["explain", str(artifact), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert not told["machine"]["calibrated"]
    by_chooser = {k["chosen"]["by"]: k for k in told["variants"][0]["kernels"]}
    assert set(by_chooser) == {"default", "record"}
    assert by_chooser["record"]["chosen"]["record"] == kept.uid
    assert by_chooser["record"]["measured"]
    assert not by_chooser["default"]["measured"]
    for kernel in by_chooser.values():
        assert kernel["seconds"] / kernel["floor"] == pytest.approx(kernel["distance"])
        assert kernel["bound"]["limit"] in LIMITS


def test_floors_are_by_what_was_measured_of_the_machine(tmp_path: Path) -> None:
    path, target = tmp_path / "records.sqlite", Target.host()
    suggested = Coefficients.of(target)
    slower = dataclasses.replace(suggested, multiply_add=suggested.multiply_add * 2)
    with open_store(path) as store:
        store.put_model("draft", Device.of(target).fingerprint, slower.to_json().encode(), threads=1)
    with tw.compile(dense_model(), threads=1, store=False) as model:
        variant = model.artifact.variants[0]
        before, after = (explained(variant, m)[0] for m in (model.machine(), model.machine(path)))
        assert after.floor == pytest.approx(2 * (before.floor or 0))
        assert model.explain(path).endswith("on 1 threads, measured")


def test_a_store_that_cannot_be_read_is_an_error_where_it_was_named_and_a_warning_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "none.sqlite").write_text("no database, but long enough to look at")
    with tw.compile(dense_model(), threads=1, store=False) as model:
        assert "supposed" in model.explain()
        assert "what bounds kernels is said without measurements" in caplog.text
        with pytest.raises(StoreError, match="not a database"):
            model.explain(tmp_path / "none.sqlite")


def open_model() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", [x], [y])
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


def without_traits(artifact: Artifact, traits: Traits | None) -> Artifact:
    """As an older version of the compiler wrote it."""
    kernels = tuple(dataclasses.replace(k, traits=traits) for k in artifact.variants[0].kernels)
    variant = dataclasses.replace(artifact.variants[0], kernels=kernels)
    return dataclasses.replace(artifact, variants=(variant,))


@pytest.mark.parametrize(
    ("traits", "why"),
    [(None, "an older version compiled it"), (Traits("old", (1.0,), 0, 32), "another version compiled it")],
)
def test_kernels_of_older_artifacts_have_no_bound(traits: Traits | None, why: str) -> None:
    with tw.compile(dense_model(), threads=1, store=False) as model:
        text = explain(without_traits(model.artifact, traits), model.machine())
    assert f"[1] bound not known: {why}" in text
    assert "default [1]" in text
    assert "chosen by: 2 default" in text
    assert "~" not in text


def test_kernels_for_ranges_of_sizes_have_no_bound() -> None:
    with tw.compile(open_model(), dims={"n": (1, 8)}, store=False) as model:
        text = model.explain()
    assert "[1] bound not known: a run decides its sizes" in text


def test_plain_loops_are_called_that() -> None:
    with tw.compile(dense_model(), threads=1, store=False) as model:
        call = model.artifact.variants[0].kernels[0]
        assert call.traits is not None
        pairs = zip(FEATURES, call.traits.features, strict=True)
        flat = tuple(0.0 if name in ("lanes", "unrolled") else x for name, x in pairs)
        plain = without_traits(model.artifact, dataclasses.replace(call.traits, features=flat))
        assert "plain loops" not in model.explain()
        assert explain(plain, model.machine()).count("default, plain loops") == 2


def test_explain_takes_models_and_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path, file = dense_model(), tmp_path / "records.sqlite", tmp_path / "model.onnx"
    file.write_bytes(model)
    func = tasks(model)[0]
    with open_store(path) as store:
        store.add(record(func, traces(func, 1)[0], 0.8))
    common = ["explain", str(file), "--threads", "1", "--cache-dir", str(tmp_path / "cache")]
    assert run([*common, "--store", str(path)]) == 0
    assert "1 record" in capsys.readouterr().out
    assert run([*common, "--store", str(path), "--choose", "default"]) == 0
    assert "record" not in capsys.readouterr().out
    assert run([*common, "--choose", "luck"]) == 2
    assert "expected one of model, record, default" in capsys.readouterr().err
