"""What a compiled model says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import tilewright as tw
from tests.tune.stored import dense_model, record, tasks, traces
from tilewright.cli.app import run
from tilewright.config import overriding
from tilewright.errors import ArtifactError
from tilewright.explaining import describe
from tilewright.records import open_store
from tilewright.runtime.chosen import Chosen


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path) -> Iterator[None]:
    with overriding(cache_dir=tmp_path / "cache", store=str(tmp_path / "none.sqlite")):
        yield


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (Chosen(), "default schedule"),
        (Chosen(note="measured on 2 threads only"), "default schedule; measured on 2 threads only"),
        (
            Chosen("record", 1.2043e-3, 1.312, "ab", "2026-01-02T03:04:05+00:00"),
            "recorded 1.204 ms, 1.31x the default's speed (2026-01-02)",
        ),
        (Chosen("learned", 2e-5, 1.5), "by the learned model 0.02 ms, 1.50x the default's speed"),
    ],
)
def test_choices_in_words(chosen: Chosen, text: str) -> None:
    assert describe(chosen) == text
    assert Chosen.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


@pytest.mark.parametrize(
    "bad", [{"by": "nobody"}, {"seconds": -1}, {"seconds": "soon"}, {"gain": True}, {"record": 1}, []]
)
def test_manifests_with_other_choices_are_refused(bad: object) -> None:
    with pytest.raises(ArtifactError, match="malformed choice of a schedule"):
        Chosen.from_json(bad)


def test_explain_says_where_each_schedule_is_from(
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
    assert "recorded 0.8 ms, 1.25x the default's speed (2025-06-15); computes dense, relu" in text
    assert "default schedule; computes softmax" in text
    assert text.endswith("kernels: 1 default schedule, 1 recorded")
    with tw.load(artifact) as loaded:
        assert loaded.explain() == text
    assert run(["explain", str(artifact)]) == 0
    assert capsys.readouterr().out.strip() == text
    assert run(["explain", str(artifact), "--json"]) == 0
    by = {k["chosen"]["by"]: k for k in json.loads(capsys.readouterr().out)}
    assert set(by) == {"default", "record"}
    assert by["record"]["chosen"]["record"] == kept.uid


def test_explain_takes_models_and_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path, file = dense_model(), tmp_path / "records.sqlite", tmp_path / "model.onnx"
    file.write_bytes(model)
    func = tasks(model)[0]
    with open_store(path) as store:
        store.add(record(func, traces(func, 1)[0], 0.8))
    common = ["explain", str(file), "--threads", "1", "--cache-dir", str(tmp_path / "cache")]
    assert run([*common, "--store", str(path)]) == 0
    assert "1 recorded" in capsys.readouterr().out
    assert run([*common, "--store", str(path), "--choose", "default"]) == 0
    assert "recorded" not in capsys.readouterr().out
    assert run([*common, "--choose", "luck"]) == 2
    assert "expected one of model, record, default" in capsys.readouterr().err
