"""Every mistake: one clear message on standard error, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.cli.models import save
from tilewright import config
from tilewright.cache import DiskCache

FLOAT = TensorProto.FLOAT


def assert_refused(result, *words, code=2):
    assert result.code == code, result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_missing_file(cli, tmp_path):
    assert_refused(cli("check", tmp_path / "none.onnx"), "no such model file", "none.onnx")


@pytest.mark.parametrize(
    ("variable", "value"), [("TILEWRIGHT_STORE", ""), ("TILEWRIGHT_JOBS", "many"), ("TILEWRIGHT_DEBUG", "eh")]
)
def test_bad_environment_variables(cli, monkeypatch, variable, value):
    monkeypatch.setattr(config, "_current", None)
    monkeypatch.setenv(variable, value)
    assert_refused(cli("ops"), f"environment variable {variable} has the bad value '{value}'")


def test_zero_bytes(cli, tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert_refused(cli("check", tmp_path / "empty.onnx"), "empty", "0 bytes")


def test_truncated_file(cli, dense, tmp_path):
    short = tmp_path / "short.onnx"
    data = dense.read_bytes()
    for size in (len(data) // 3, len(data) // 2, len(data) - 7):
        short.write_bytes(data[:size])
        assert_refused(
            cli("compile", short, "-o", tmp_path / "short.tw"), "truncated or corrupt", "short.onnx"
        )
    assert not (tmp_path / "short.tw").exists()


def test_models_that_ask_for_too_much_or_the_wrong_thing(cli, tmp_path):
    """Errors of the importer come out as one line each, with the place and what would help."""
    path = tmp_path / "m.onnx"

    def refused(node, *words, shape=(3,)):
        save(path, [node], {"x": (FLOAT, list(shape))}, {"y": (FLOAT, None)})
        result = cli("compile", path, "-o", tmp_path / "m.tw")
        assert_refused(result, "m.onnx", *words)
        assert not (tmp_path / "m.tw").exists()

    relu = helper.make_node("Relu", ["x"], ["y"], name="first")
    large = (1 << 20, 1 << 20, 4)
    refused(relu, "1048576, 1048576, 4", "more than 274877906944 bytes", "--max-tensor-bytes", shape=large)
    refused(helper.make_node("Relu", ["x"], ["y"], alpha=1.0), "no attribute 'alpha'", "Relu node 'Relu_0'")
    refused(helper.make_node("Relu", ["ghost"], ["y"]), "'ghost', which nothing produces")
    refused(helper.make_node("Add", ["x", "y"], ["y"], name="own"), "cyclic", "'own'")
    refused(helper.make_node("Re\x1b[31mlu", ["x"], ["y"]), r"Re\x1b[31mlu")


def test_limits_are_flags(cli, dense, tmp_path):
    out = tmp_path / "out.tw"
    result = cli("compile", dense, "-o", out, "--shape", "x=4,8", "--max-tensor-bytes", "64")
    assert_refused(result, "more than 64 bytes")
    assert_refused(cli("compile", dense, "-o", out, "--max-nodes", "1"), "more than 1 nodes")
    assert_refused(cli("compile", dense, "-o", out, "--max-nodes", "many"), "one of the units")
    enough = ("--max-tensor-bytes", "1K", "--max-nodes=9")
    assert cli("compile", dense, "-o", out, "--shape", "x=4,8", *enough).code == 0


@pytest.mark.parametrize("data", [b"%PDF-1.7 not a model\n" * 50, b"\x7fELF" + bytes(range(256)), b"{}"])
def test_not_an_onnx_file(cli, tmp_path, data):
    (tmp_path / "text.onnx").write_bytes(data)
    assert_refused(cli("check", tmp_path / "text.onnx"), "not an ONNX model")


def test_folder_instead_of_a_file(cli, tmp_path):
    assert_refused(cli("check", tmp_path), "folder")


def test_cyclic_graph(cli, tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Neg", ["b"], ["c"], name="third"),
    ]
    path = save(tmp_path / "cyclic.onnx", nodes, {"x": (FLOAT, [2])}, {"b": (FLOAT, [2])})
    assert_refused(cli("check", path), "cyclic", "first", "second", "third")


def test_unknown_operators_are_all_named_at_once(cli, tmp_path):
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="f1"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="f2"),
        helper.make_node("Relu", ["b"], ["c"], name="fine"),
        helper.make_node("Wibble", ["c"], ["y"], name="w1", domain="com.example"),
    ]
    path = save(tmp_path / "odd.onnx", nodes, {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])})
    done = cli("compile", path, "-o", tmp_path / "odd.tw")
    assert_refused(done, "Frobnicate", "Wibble", "f1", "f2", "w1", "2")
    assert "fine" not in done.err
    assert not (tmp_path / "odd.tw").exists()


def test_wrong_input_names_shapes_and_dtypes(cli, dense, tmp_path):
    arrays = {
        "wide": np.zeros((3, 9), np.float32),
        "double": np.zeros((3, 8)),
        "flat": np.zeros(8, np.float32),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    good = tmp_path / "good.npy"
    np.save(good, np.zeros((3, 8), np.float32))
    artifact = tmp_path / "dense.tw"
    assert cli("compile", dense, "-o", artifact, "--shape", "x=3,8").code == 0
    for model in (dense, artifact):
        assert_refused(cli("run", model, "--input", f"z={good}"), "z", "x")
        assert_refused(cli("run", model, "--input", f"x={tmp_path / 'wide.npy'}"), "x", "9")
        assert_refused(cli("run", model, "--input", f"x={tmp_path / 'flat.npy'}"), "x")
        assert_refused(cli("run", model, "--input", f"x={tmp_path / 'double.npy'}"), "float64", "float32")
        assert_refused(cli("run", model), "x")
    np.save(tmp_path / "more.npy", np.zeros((4, 8), np.float32))
    assert_refused(cli("run", artifact, "--input", f"x={tmp_path / 'more.npy'}"), "[4, 8]", "[3, 8]")


def test_unreadable_input_files(cli, dense, tmp_path):
    assert_refused(cli("run", dense, "--input", f"x={tmp_path / 'none.npy'}"), "does not exist")
    (tmp_path / "text.npy").write_text("hello")
    assert_refused(cli("run", dense, "--input", f"x={tmp_path / 'text.npy'}"), "not a NumPy array")
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    assert_refused(cli("run", dense, "--input", f"x={tmp_path / 'two.npz'}"), "several arrays")


def test_bad_values_of_flags(cli, dense, tmp_path):
    for shape in ("x", "x=1,b", "=3", "x=1,-8"):
        assert_refused(cli("check", dense, "--shape", shape), "--shape", "NAME=")
    assert_refused(cli("check", dense, "--shape", "z=1,8"), "no input is called 'z'", "x: float32[N, 8]")
    assert_refused(cli("check", dense, "--shape", "x=1,9"), "does not fit", "x: float32[N, 8]")
    assert_refused(cli("compile", dense, "-o", tmp_path / "dense.onnx.out"), ".tw")
    assert_refused(cli("compile", dense, "-o", tmp_path / "none" / "dense.tw"), "does not exist")
    assert_refused(cli("--jobs", "many", "doctor"), "jobs", "many")
    assert_refused(cli("bench", dense, "--against", "abacus"), "abacus", "onnxruntime")


def test_a_missing_engine_names_the_extra(cli, dense, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = cli("bench", dense, "--against", "torch")
    assert_refused(done, "torch is not installed", "pip install 'tilewright[torch]'")


def test_usage_errors_exit_2(cli, dense):
    for words in (
        ["nonsense"],
        ["check"],
        ["check", str(dense), "--nonsense"],
        ["check", str(dense), "--seed", "x"],
    ):
        done = cli(*words)
        assert done.code == 2
        assert "Usage:" in done.err


def test_open_dimensions_are_all_listed(cli, tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = {"a": (FLOAT, ["N", 3, "H", None]), "b": (FLOAT, ["N", 3, "H", "W"])}
    path = save(tmp_path / "open.onnx", nodes, inputs, {"y": (FLOAT, None)})
    done = cli("check", path)
    assert_refused(done, "a: float32[N, 3, H, ?]", "b: float32[N, 3, H, W]", "--shape a=1,3,N,N")


def test_unknown_target(cli, dense, tmp_path):
    done = cli("compile", dense, "-o", tmp_path / "d.tw", "--target", "pdp-11")
    assert_refused(done, "unknown target 'pdp-11'", "x86-64-v3")
    assert not (tmp_path / "d.tw").exists()


def test_damaged_artifact(cli, dense, tmp_path):
    artifact = tmp_path / "dense.tw"
    assert cli("compile", dense, "-o", artifact).code == 0
    artifact.write_bytes(artifact.read_bytes()[:-100])
    assert_refused(cli("profile", artifact), "dense.tw")
    assert_refused(cli("profile", tmp_path / "none.tw"), "none.tw")


def test_full_disk_in_the_cache(cli, dense, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tilewright.cache.os.replace", full)
    before = files(tmp_path)
    done = cli("compile", dense, "-o", tmp_path / "d.tw")
    assert_refused(done, "full", "--cache-dir", "--no-cache")
    assert files(tmp_path) - before <= {"cache"}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert cli("compile", dense, "-o", tmp_path / "d.tw", "--no-cache").code in (0, 2)


def test_no_cache_writes_no_cache(cli, dense, tmp_path):
    assert cli("check", dense, "--no-cache").code == 0
    assert not (tmp_path / "cache").exists()


def test_full_disk_for_the_outputs_leaves_nothing(cli, dense, x_file, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "y.npy")

    monkeypatch.setattr("tilewright.cli.common.np.save", full)
    done = cli("run", dense, "--input", f"x={x_file}", "--output-dir", tmp_path / "out")
    assert_refused(done, "No space left", "full")
    assert files(tmp_path / "out") == set()


def test_unexpected_exception_is_called_a_defect(cli, dense, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("boom")

    monkeypatch.setattr("tilewright.api.compile", broken)
    done = cli("check", dense)
    assert done.code == 70
    assert "defect of tilewright" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in cli("check", dense, "--debug").err


def test_debug_shows_the_traceback(cli, tmp_path):
    done = cli("check", tmp_path / "none.onnx", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err


def test_interrupt_in_process(cli, dense, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(DiskCache, "put", interrupted)
    done = cli("compile", dense, "-o", tmp_path / "d.tw")
    assert done.code == 130
    assert done.err.strip() == "interrupted"
    assert not (tmp_path / "d.tw").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_a_compilation_cleanly(tmp_path):
    """A real SIGINT to the whole foreground process group, workers included, while kernels are compiled."""
    nodes, weights, value = [], {}, "x"
    for index in range(24):
        shape = (index + 9, index + 8, 3, 3)
        weights[f"w{index}"] = np.full(shape, 0.1, np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"y{index}"], pads=[1, 1, 1, 1]))
        value = f"y{index}"
    path = save(
        tmp_path / "deep.onnx", nodes, {"x": (FLOAT, [1, 8, 40, 40])}, {value: (FLOAT, None)}, weights
    )
    out, cache = tmp_path / "out", tmp_path / "cache"
    out.mkdir()
    environment = {**os.environ, "TILEWRIGHT_CACHE_DIR": str(cache), "TILEWRIGHT_JOBS": "2"}
    command = [sys.executable, "-m", "tilewright", "compile", str(path), "-o", str(out / "deep.tw")]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not cache.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip() == "interrupted"
    assert files(out) == set()
    assert not list(cache.rglob("*.tmp"))
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
