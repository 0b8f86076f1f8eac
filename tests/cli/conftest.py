"""Small models and a way to run the command line in this process."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.cli.models import save
from tilewright import config
from tilewright.cli.app import run


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own for every test, and the process's options as before afterwards."""
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TILEWRIGHT_JOBS", "1")
    before = config.options()
    yield
    config.use(before)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*words: object) -> Result:
        capsys.readouterr()
        code = run([os.fspath(word) if isinstance(word, Path) else str(word) for word in words])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """``y = relu(x @ w + b)`` for ``x[N, 8]``."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="product"),
        helper.make_node("Add", ["xw", "b"], ["sum"], name="bias"),
        helper.make_node("Relu", ["sum"], ["y"], name="positive"),
    ]
    weights = {"w": random.standard_normal((8, 4), np.float32), "b": random.standard_normal(4, np.float32)}
    inputs, outputs = {"x": (TensorProto.FLOAT, ["N", 8])}, {"y": (TensorProto.FLOAT, ["N", 4])}
    return save(tmp_path / "dense.onnx", nodes, inputs, outputs, weights)


@pytest.fixture
def x_file(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(1).standard_normal((3, 8), np.float32))
    return path
