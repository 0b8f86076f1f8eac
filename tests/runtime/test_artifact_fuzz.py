"""Hostile artifacts end in one clear error, whatever was done to them; files are replaced at any time."""

from __future__ import annotations

import json
import mmap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime import artifact_fuzz
from tests.runtime.programs import expected, model
from tilewright.errors import ArtifactError
from tilewright.runtime.artifact import MANIFEST, Artifact, _add
from tilewright.runtime.model import Executable


def test_a_small_campaign_finds_nothing(tmp_path: Path) -> None:
    outcomes, findings = artifact_fuzz.run(range(150), tmp_path)
    assert not findings, findings[0]
    assert outcomes["ArtifactError"] > 50
    assert outcomes["ran"] > 10


def test_what_must_not_happen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(artifact_fuzz, "Executable", broken)
    _, findings = artifact_fuzz.run(range(20), tmp_path)
    assert "oops" in findings[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("threads", 1 << 40, "compiled for 1099511627776 threads, more than 65536"),
        ("features", ["+avx2"], r"features cannot be \['\+avx2'\]"),
        ("triple", True, "triple cannot be True"),
        ("vector_bits", -1, "vector_bits cannot be -1"),
        ("gpu", {"warp": 1}, "missing"),
    ],
)
def test_forged_numbers(tmp_path: Path, field: str, value: Any, message: str) -> None:
    good, bad = tmp_path / "good.tw", tmp_path / "bad.tw"
    model().save(good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == MANIFEST:
                manifest = json.loads(data)
                (manifest if field in manifest else manifest["target"])[field] = value
                data = json.dumps(manifest).encode()
            _add(target, name, data, 64)
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.load(bad)
    assert caught.value.location == str(bad)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is read from the file that was opened, whatever has its name by then."""
    path, other = tmp_path / "x.tw", tmp_path / "other.tw"
    model(layers=1).save(path)
    model(layers=7).save(other)
    real = mmap.mmap

    def replaced(*args: Any, **options: Any) -> mmap.mmap:
        mapped = real(*args, **options)
        if path.exists() and other.exists():
            other.replace(path)
        return mapped

    monkeypatch.setattr("tilewright.runtime.artifact.mmap.mmap", replaced)
    artifact = Artifact.load(path, verify_weights=True)
    monkeypatch.undo()
    x = np.linspace(0, 1, 1000, dtype=np.float32)
    with Executable(artifact) as executable:
        assert np.array_equal(executable(x, x)[0], expected(x, x, layers=1))
