"""The package as a whole: public names, quick import, packaging facts."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tilewright as tw

ROOT = Path(__file__).parents[2]


def test_public_names_are_few_and_all_there():
    assert 8 <= len(tw.__all__) <= 14
    assert {*tw._HOME, *tw._PACKAGES} == set(tw.__all__)
    for name in tw.__all__:
        assert getattr(tw, name) is not None
        assert name in dir(tw)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = tw.nonsense


def test_import_loads_nothing_heavy():
    code = "import sys, json, tilewright; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "tilewright" in loaded
    assert not loaded & {"numpy", "onnx", "llvmlite", "typer", "rich", "onnxruntime"}


def test_running_a_saved_model_needs_no_framework(tmp_path):
    from onnx import TensorProto, helper

    from tests.cli.models import save

    node = helper.make_node("Relu", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], {"x": (TensorProto.FLOAT, [4])}, {"y": (TensorProto.FLOAT, [4])})
    tw.compile(path, cache=False, threads=1).save(tmp_path / "m.tw")
    code = (
        "import sys, numpy, tilewright as tw\n"
        f"y = tw.load({str(tmp_path / 'm.tw')!r}).run({{'x': numpy.array([-1, 2, -3, 4], 'f4')}})['y']\n"
        "assert y.tolist() == [0, 2, 0, 4]\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"onnx", "typer", "rich", "onnxruntime", "google"}


def test_packaging():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert {"bench", "check", "dev"} <= set(project["optional-dependencies"])
    assert all(">=" in requirement for requirement in project["dependencies"])
    assert (ROOT / "tilewright" / "py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert f"[{tw.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_package_is_pure_python():
    kinds = {
        path.suffix
        for path in (ROOT / "tilewright").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert kinds <= {".py", ".typed", ".md"}
