"""Every subcommand on a small model: what it prints, what it writes, its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.cli.models import save


def reference(model: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_compile_then_run(cli, dense, x_file, tmp_path):
    artifact, folder = tmp_path / "dense.tw", tmp_path / "out"
    done = cli("compile", dense, "-o", artifact, "--shape", "x=3,8", "--threads", 2)
    assert done.code == 0, done.err
    assert "dense.tw" in done.out
    done = cli("run", artifact, "--input", f"x={x_file}", "--output-dir", folder)
    assert done.code == 0, done.err
    np.testing.assert_allclose(
        np.load(folder / "y.npy"), reference(dense, np.load(x_file)), rtol=1e-5, atol=1e-6
    )


def test_run_compiles_a_model_and_reports_json(cli, dense, x_file):
    done = cli("run", dense, "--input", f"x={x_file}", "--json")
    assert done.code == 0, done.err
    (output,) = json.loads(done.out)["outputs"]
    expected = reference(dense, np.load(x_file))
    assert (output["name"], output["dtype"], output["shape"]) == ("y", "float32", [3, 4])
    assert output["max"] == pytest.approx(float(expected.max()), rel=1e-4)


def test_compile_dumps_every_stage(cli, dense, tmp_path):
    dump = tmp_path / "dump"
    done = cli("compile", dense, "-o", tmp_path / "d.tw", "--dump", dump)
    assert done.code == 0, done.err
    names = [path.name for path in dump.iterdir()]
    assert any(name.startswith("graph_") for name in names)
    assert any("scheduled" in name for name in names)
    assert any("emitted" in name for name in names)


def test_check_agrees(cli, dense):
    done = cli("check", dense, "--shape", "x=5,8", "--seed", 3)
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out
    assert "ok: 1 outputs agree" in done.out


def test_check_with_given_input_and_json(cli, dense, x_file):
    done = cli("check", dense, "--input", f"x={x_file}", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["ok"]
    assert report["shapes"] == {"x": [3, 8]}
    assert report["outputs"][0]["size"] == 12


def test_bench_writes_all_samples(cli, dense, tmp_path):
    file = tmp_path / "bench.json"
    done = cli("bench", dense, "--shape", "x=4,8", "--runs", 4, "--json", file)
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out
    assert "median ms" in done.out
    report = json.loads(file.read_text())
    assert report["ok"]
    ours, theirs = report["engines"]
    assert (ours["name"], theirs["name"]) == ("tilewright", "onnxruntime")
    for engine in (ours, theirs):
        assert sum(map(len, engine["rounds_seconds"])) == engine["runs"] >= 4
        assert 0 < engine["min_seconds"] <= engine["median_seconds"]
    assert ours["ratio"] == 1


def test_bench_to_standard_output_is_json_only(cli, dense):
    done = cli("bench", dense, "--runs", 1, "--json", "-", "--against", "")
    assert done.code == 0, done.err
    assert [engine["name"] for engine in json.loads(done.out)["engines"]] == ["tilewright"]


def test_profile_names_the_models_nodes(cli, dense):
    done = cli("profile", dense, "--shape", "x=16,8", "--runs", 2)
    assert done.code == 0, done.err
    assert "product" in done.out
    assert "GFLOP/s" in done.out
    report = json.loads(cli("profile", dense, "--runs", 2, "--json").out)
    nodes = {node for kernel in report["kernels"] for node in kernel["origins"]}
    assert {"product", "bias", "positive"} <= nodes
    assert report["machine_limits"]["gflops"] > 0


def test_inspect_shows_signature_kernels_and_programs(cli, dense, tmp_path):
    done = cli("inspect", dense)
    assert done.code == 0, done.err
    assert "product" in done.out
    listed = cli("inspect", dense, "--stage", "list").out
    for stage in ("task", "scheduled", "emitted"):
        assert stage in listed
    assert (
        "Block" in cli("inspect", dense, "--stage", "task").out
        or "block" in cli("inspect", dense, "--stage", "task").out
    )
    assert "define" in cli("inspect", dense, "--stage", "emitted").out
    wrong = cli("inspect", dense, "--stage", "nonsense")
    assert wrong.code == 2
    assert "stages:" in wrong.err


def test_inspect_of_an_artifact(cli, dense, tmp_path):
    artifact = tmp_path / "d.tw"
    assert cli("compile", dense, "-o", artifact).code == 0
    report = json.loads(cli("inspect", artifact, "--json").out)
    assert report["inputs"][0]["name"] == "x"
    assert report["kernels"]


def test_ops_lists_operators_with_versions(cli):
    rows = {(r["domain"], r["name"]): r for r in json.loads(cli("ops", "--json").out)}
    assert rows["", "Relu"]["since"] == [1, 6, 13, 14]
    assert rows["", "HannWindow"]["how"] == "function"
    assert rows["com.microsoft", "Gelu"]["note"] == "with the error function"
    assert "MatMul" in cli("ops").out


def test_ops_of_a_model_say_what_is_missing(cli, dense, tmp_path):
    whole = cli("ops", "--model", dense)
    assert whole.code == 0
    assert "0 missing" in whole.out
    nodes = [helper.make_node("StringNormalizer", ["x"], ["n"]), helper.make_node("Relu", ["x"], ["y"])]
    kinds = {"n": (TensorProto.INT64, None), "y": (TensorProto.FLOAT, None)}
    model = save(tmp_path / "m.onnx", nodes, {"x": (TensorProto.FLOAT, [2])}, kinds)
    needs = json.loads((done := cli("ops", "--model", model, "--json")).out)
    assert done.code == 1
    assert [(n["name"], n["since"], n["nodes"]) for n in needs] == [
        ("StringNormalizer", None, 1),
        ("Relu", 14, 1),
    ]
    assert "missing" in cli("ops", "--model", model).out


def test_the_page_of_operators_is_what_ops_writes(cli):
    page = Path(__file__).parents[2] / "docs" / "operators.md"
    written = cli("ops", "--markdown").out
    assert page.read_text() == written, "tilewright ops --markdown > docs/operators.md"
    assert cli("ops", "--markdown", "--json").code == 2


def test_doctor_knows_the_machine_and_the_cache(cli, tmp_path):
    done = cli("doctor", "--json")
    assert done.code == 0, done.out
    facts = json.loads(done.out)["facts"]
    assert facts["llvmlite"] != "missing"
    assert str(tmp_path / "cache") in facts["cache"]
    assert "native" in facts["targets"]


def test_doctor_reports_a_cache_that_cannot_be_used(cli, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli("doctor", "--cache-dir", tmp_path / "file")
    assert done.code == 2
    assert "cannot be written" in done.out


def test_tables_are_plain_when_not_on_a_terminal(cli, dense):
    out = cli("check", dense).out
    assert out.isascii()
    assert "\x1b" not in out


def test_names_are_printed_as_they_are(cli, tmp_path):
    node = helper.make_node("Relu", ["[x]"], ["[bold]y[/bold]"], name="[red]")
    inputs, outputs = {"[x]": (TensorProto.FLOAT, [2])}, {"[bold]y[/bold]": (TensorProto.FLOAT, [2])}
    path = save(tmp_path / "markup.onnx", [node], inputs, outputs)
    out = cli("inspect", path).out
    for name in ("[x]", "[bold]y[/bold]", "[red]"):
        assert name in out


def test_version_and_help(cli):
    from tilewright import __version__

    assert __version__ in cli("--version").out
    done = cli("--help")
    assert done.code == 0
    for name in ("compile", "run", "check", "bench", "profile", "inspect", "doctor", "ops"):
        assert name in done.out


def open_batch(path: Path) -> Path:
    """x[n, 8] by weights."""
    weights = {"w": np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    floats = TensorProto.FLOAT
    return save(path, nodes, {"x": (floats, ["n", 8])}, {"y": (floats, ["n", 4])}, weights)


def test_one_artifact_for_a_range_of_sizes(cli, tmp_path):
    model, artifact = open_batch(tmp_path / "open.onnx"), tmp_path / "open.tw"
    done = cli("compile", model, "-o", artifact, "--dim", "n=1..9@4")
    assert done.code == 0, done.err
    assert "x=n,8" in done.out
    for rows in (1, 4, 9):
        data = np.ones((rows, 8), np.float32)
        np.save(tmp_path / "x.npy", data)
        assert cli("run", artifact, "--input", f"x={tmp_path / 'x.npy'}", "--json").code == 0
    np.save(tmp_path / "x.npy", np.ones((10, 8), np.float32))
    done = cli("run", artifact, "--input", f"x={tmp_path / 'x.npy'}")
    assert done.code == 2
    assert "'n' of input 'x' is 10, expected 1 to 9" in done.err


def test_check_of_several_sizes(cli, tmp_path):
    model = open_batch(tmp_path / "open.onnx")
    done = cli("check", model, "--shape", "x=rows,8", "--dim", "rows=2..20:2")
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines() if " ok " in line] == [
        "x=2,8", "x=20,8", "x=8,8", "x=14,8",
    ]  # fmt: skip


@pytest.mark.parametrize("dim", ["n", "n=4", "n=1..", "n=1..x"])
def test_dims_that_are_none(cli, tmp_path, dim):
    model = open_batch(tmp_path / "open.onnx")
    done = cli("check", model, "--dim", dim)
    assert done.code == 2
    assert f"bad --dim '{dim}'" in done.err


def test_inspect_shows_programs_of_open_sizes(cli, dense):
    done = cli("inspect", dense, "--shape", "x=n,8", "--dim", "n=1..6", "--stage", "scheduled")
    assert done.code == 0, done.err
    assert "n: dim(lo=1, hi=6" in done.out
    done = cli("inspect", dense, "--shape", "x=n,8", "--dim", "n=1..6")
    assert done.code == 0, done.err
    assert "['n', 8]" in done.out
