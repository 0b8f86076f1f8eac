"""The arithmetic, the resumption and the kernels of the tuning benchmarks; nothing here needs TVM."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright
from benchmarks import metaschedule, own_search, turns
from benchmarks.curves import Curve, Measured, Ratio, first_reaching, geometric_mean, paired_ratio
from benchmarks.kernels import KERNELS, Kernel
from benchmarks.metaschedule import Outcome, plot, report, summary_columns, summary_row, variants
from benchmarks.metaschedule_child import laid_out
from benchmarks.networks import Gemm
from benchmarks.own_search import Guide
from benchmarks.steps import done, keep
from benchmarks.tuning import Gain, Job, row, times_of
from benchmarks.turns import Command, Server, ServerError, take_turns
from tests.tune.faked import Clock, FakeMeasurer
from tilewright.measure.program import parameters
from tilewright.schedule.default import default_schedule
from tilewright.target import Target
from tilewright.tune.models import Ignorance

CURVE = Curve(
    (
        Measured(0, 1.0, 4.0),
        Measured(1, 2.0, None),
        Measured(2, 2.5, 3.96),
        Measured(3, 3.0, 5.0),
        Measured(4, 4.0, 2.0),
    )
)


# ----------------------------------------------------------------------------------------------------- curves
def test_a_curve_says_what_was_best_by_when():
    assert [p.trial for p in CURVE.improvements()] == [0, 2, 4]
    assert CURVE.best(3) == Measured(2, 2.5, 3.96)
    assert CURVE.best() == Measured(4, 4.0, 2.0)
    assert CURVE.failures == 1
    assert CURVE.wall_at(3) == 3.0
    assert CURVE.wall_at(5) is None


def test_small_gains_are_not_timed_again_unless_they_are_asked_for():
    assert [p.trial for p in CURVE.steps(0.02, ())] == [0, 4]
    assert [p.trial for p in CURVE.steps(0.02, (3,))] == [0, 2, 4]


def test_a_curve_without_times_has_no_best():
    assert Curve((Measured(1, 1.0, None),)).best() is None


@pytest.mark.parametrize("second", [Measured(0, 2.0, 1.0), Measured(1, 0.5, 1.0)])
def test_curves_go_on(second):
    with pytest.raises(ValueError, match="comes after"):
        Curve((Measured(0, 1.0, 1.0), second))


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path):
    lines = [{"trial": 1, "wall": 2.0, "seconds": 1.0}, {"trial": 2, "wall": 1.5, "seconds": None}]
    path = tmp_path / "curve.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"trial": 3, "wa')
    assert Curve.read(path).points == (Measured(1, 2.0, 1.0), Measured(2, 2.0, None))


def test_what_is_reached_is_told_by_the_times_taken_again():
    assert first_reaching(CURVE, {0: 4.0, 2: 1.0, 4: 2.0}, 3.0) == CURVE.points[2]
    assert first_reaching(CURVE, {0: 4.0, 4: 2.0}, 3.0) == CURVE.points[4]
    assert first_reaching(CURVE, {0: 4.0, 4: 2.0}, 1.0) is None


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=20), st.floats(0.1, 10.0))
def test_a_ratio_of_proportional_times_is_exact(times, factor):
    ratio = paired_ratio([t * factor for t in times], times)
    assert ratio.value == pytest.approx(factor)
    assert ratio.low == pytest.approx(factor)
    assert ratio.high == pytest.approx(factor)


def test_a_ratio_has_students_interval():
    logs = np.array([0.1, 0.3, 0.2])
    ratio = paired_ratio(list(np.exp(logs)), [1.0] * 3)
    half = 4.303 * 0.1 / math.sqrt(3)
    assert math.log(ratio.value) == pytest.approx(0.2)
    assert math.log(ratio.high) - 0.2 == pytest.approx(half, rel=1e-3)
    assert str(Ratio(0.5, 0.4, 0.6)) == "0.50 [0.40, 0.60]"
    assert paired_ratio([2.0], [1.0]) == Ratio(2.0, 0.0, math.inf)
    with pytest.raises(ValueError, match="no rounds"):
        paired_ratio([], [])


def test_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no values"):
        geometric_mean([])


# ---------------------------------------------------------------------------------------------------- kernels
SMALL = (
    Kernel("-", "conv", (3, 8, 9, 3, 2)),
    Kernel("-", "conv", (4, 8, 6, 1, 1)),
    Kernel("-", "depthwise", (8, 7, 1)),
    Kernel("-", "dense", (5, 9, 7)),
    Kernel("-", "softmax", (3, 10)),
)


@pytest.mark.parametrize("kernel", SMALL, ids=lambda k: k.name)
def test_kernels_compute_what_numpy_says(kernel):
    func, arrays = kernel.func(), kernel.arrays()
    assert [p.shape for p in parameters(func)] == [a.shape for a in arrays]
    trace = default_schedule(func, Target.host()).trace.to_json()
    name = [kernel.network, kernel.kind, kernel.sizes]
    request = {"kernel": name, "traces": [trace], "threads": 1, "seed": 0}
    [bound] = turns._ours(request)  # it ends the process where the result is wrong
    np.testing.assert_allclose(bound.outputs[0], arrays[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", SMALL, ids=lambda k: k.name)
def test_the_other_sides_layouts_hold_the_same_numbers(kernel):
    arrays = kernel.arrays()
    for variant in variants(kernel):
        for laid, array in zip(laid_out(arrays, kernel.kind, variant), arrays, strict=True):
            assert laid.size == array.size
            assert laid.sum() == pytest.approx(array.sum(), abs=1e-3)
    if kernel.kind == "conv":
        data, weight, _, result = laid_out(arrays, "conv", "nchw")
        assert data[0, 1, 2, 3] == arrays[0][2, 3, 1]
        assert weight[5, 2, 0, 0] == arrays[1][0, 0, 2, 5]
        assert result[0, 5, 1, 2] == arrays[3][1, 2, 5]


def test_there_are_twelve_kernels():
    assert len({k.name for k in KERNELS}) == len(KERNELS) == 12
    assert [sum(k.kind == kind for k in KERNELS) for kind in ("conv", "dense", "depthwise", "softmax")] == [
        6,
        3,
        2,
        1,
    ]
    assert KERNELS[0].flops == 2 * 3 * 64 * 49 * 112 * 112


# ---------------------------------------------------------------------------------------------------- servers
def server(factor: float) -> Command:
    """A server of two programs that take ``factor`` and twice that."""
    code = f"""
import json, sys
print(json.dumps({{"ready": [{{"seconds": {factor}}}, {{"seconds": {2 * factor}}}]}}), flush=True)
for line in sys.stdin:
    wanted = json.loads(line)
    print(json.dumps({{"seconds": {factor} * (1 + wanted["program"]) + 0 * wanted["calls"]}}), flush=True)
"""
    return Command((sys.executable, "-c", code))


def test_programs_of_several_processes_take_turns():
    found = take_turns([server(1.0), server(3.0)], starts=2, rounds=3, seconds=0.01)
    assert found == [[[1.0] * 6, [2.0] * 6], [[3.0] * 6, [6.0] * 6]]


def test_a_server_is_stopped_while_others_run():
    with Server(server(1.0)) as one:
        for _ in range(2):
            _, status = os.waitpid(one._process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            assert one.run(0, 1) == 1.0


def test_a_server_that_ends_says_why():
    with pytest.raises(ServerError, match="no such thing"):
        Server(Command((sys.executable, "-c", "import sys; sys.exit('no such thing')")))
    with pytest.raises(ServerError, match="status 0"):
        Server(Command((sys.executable, "-c", "")))


def test_a_server_that_ends_later_says_why():
    ready = 'print(\'{"ready": [{"seconds": 1}]}\', flush=True)'
    code = f"import sys; {ready}; sys.stdin.readline(); sys.exit('gone')"
    with Server(Command((sys.executable, "-c", code))) as one, pytest.raises(ServerError, match="gone"):
        one.run(0, 1)


# ---------------------------------------------------------------------------------------------------- results
def outcome() -> Outcome:
    theirs = Curve(tuple(Measured(n, 10.0 * n, 5.0 - n / 100) for n in range(1, 101)))
    rounds = {p.trial: [p.seconds or 0.0, p.seconds or 0.0] for p in theirs.improvements()}
    return Outcome(theirs, CURVE, rounds, {0: [4.5] * 2, 2: [3.9] * 2, 4: [2.0] * 2}, 1000.0, 5.0)


def test_a_row_says_when_the_others_result_was_reached():
    row = dict(zip(summary_columns(), summary_row("k", outcome()), strict=True))
    assert row["ours 0"] == "4500000.0"
    assert (row["ours 8"], row["TVM 300"]) == ("-", "-")
    assert row["TVM 100"] == "4000000.0"
    assert row["ours / TVM"] == "0.50 [0.50, 0.50]"
    assert row["reached after"] == "2"
    assert row["s to reach / TVM s"] == "0.0025"


def test_an_outcome_survives_its_document(capsys, tmp_path):
    document = json.loads(json.dumps(outcome().to_dict()))
    assert Outcome.from_dict(document) == outcome()
    assert document["reached"] == {"trial": 2, "wall": 2.5, "seconds": 3.96}
    report([{"name": "k", **document}, {"name": "other", "error": "it cannot"}])
    printed = capsys.readouterr().out
    assert "geometric mean of ours / TVM: 0.500 (1 kernels, 1 at most 1)" in printed
    assert "other: it cannot" in printed


def test_our_search_tells_what_would_be_compiled_after_each_batch(tmp_path: Path, monkeypatch):
    measurer = FakeMeasurer(Clock())
    monkeypatch.setattr(own_search, "Measurer", lambda target, threads: measurer)
    kernel = Kernel("-", "dense", (16, 64, 32))
    path = tmp_path / "curve.jsonl"
    told: list[dict] = []
    found = own_search.search(kernel, Guide("none", Ignorance(), 0.0), 1, 20, 0, tmp_path, told.append)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in told))
    curve = Curve.read(path)
    assert [p.trial for p in curve.points] == [0, 8, 16, 20]
    assert (found["measured"], found["failures"]) == (20, {})
    traces = {entry["trial"]: entry["trace"] for entry in told}
    assert traces[0] == measurer.default
    # The fake has much faster programs than the default schedule, and no noise: races find them.
    assert traces[20] != traces[0]
    new = [n for n, before in ((8, 0), (16, 8), (20, 16)) if traces[n] != traces[before]]
    assert [p.trial for p in curve.improvements()] == [0, *new]
    # A second search does not profit from the first one's records.
    again: list[dict] = []
    own_search.search(kernel, Guide("none", Ignorance(), 0.0), 1, 20, 0, tmp_path, again.append)
    assert [entry["trace"] for entry in again] == [entry["trace"] for entry in told]


def test_a_kernel_that_cannot_be_tuned_is_an_error(tmp_path: Path, monkeypatch):
    broken = FakeMeasurer(Clock(), status=lambda trace: "crash")
    monkeypatch.setattr(own_search, "Measurer", lambda target, threads: broken)
    with pytest.raises(RuntimeError, match="default schedule fails"):
        own_search.search(
            Kernel("-", "dense", (16, 64, 32)), Guide("none", Ignorance(), 0.0), 1, 4, 0, tmp_path, print
        )


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="pip install matplotlib"):
        plot([], tmp_path / "x.png")


def test_finished_steps_are_found_again(tmp_path: Path):
    path = tmp_path / "deep" / "step.json"
    assert done(path, {"a": (1, 2)}) is None
    keep(path, {"a": (1, 2)}, {"wall": 3.0})
    assert done(path, {"a": (1, 2)}) == {"wall": 3.0}
    assert done(path, {"a": (1, 3)}) is None
    path.write_text(path.read_text()[:20])
    assert done(path, {"a": (1, 2)}) is None


def test_a_side_that_fails_is_reported_and_the_run_goes_on(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(metaschedule, "make_guide", lambda threads, folder: Guide("none", Ignorance(), 0.0))
    peer = tmp_path / "peer"
    peer.write_text("#!/bin/sh\necho no tvm here >&2\nexit 3\n")
    peer.chmod(0o755)
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit):
        metaschedule.main(
            ["--python", str(peer), "--folder", str(tmp_path / "w"), "--tasks", "dense", "--out", str(out)]
        )
    found = json.loads(out.read_text())["kernels"]
    assert len(found) == 3
    assert all("status 3: no tvm here" in kernel["error"] for kernel in found)
    assert "no tvm here" in capsys.readouterr().out


def test_what_tuning_brings_is_told_by_rounds():
    times = {"untuned": [4.0, 8.0], "tuned": [2.0, 4.0], "a": [6.0, 12.0], "b": [3.0, 6.0]}
    gain = Gain.of(times)
    assert gain.over_untuned == Ratio(pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0))
    assert (gain.peer, gain.over_peer and gain.over_peer.value) == ("b", pytest.approx(1.5))
    assert Gain.of({"untuned": [1.0], "tuned": [1.0]}).over_peer is None
    spent = {"seconds": 300.4, "tasks": 7, "measurements": 90, "failures": {"timeout": 2}}
    result = {"model": "m", "rounds": times, "tuning": spent, "agrees": {"a": True, "tuned": False}}
    assert row(result, ["a", "b"]) == [
        "m", "6000.00", "3000.00", "9000.00", "4500.00", "2.00 [2.00, 2.00]", "1.50 [1.50, 1.50] (b)",
        "300", "7", "90", "2 timeout", "DIFFERS",
    ]  # fmt: skip


def test_compiled_models_and_peers_take_turns_in_one_process(tmp_path: Path):
    path = tmp_path / "gemm.onnx"
    onnx.save(Gemm(4, 8, 8).model(), path)
    shapes = {"x": (4, 8)}
    tilewright.compile(path, threads=1).save(tmp_path / "m.tw")
    artifacts = {"untuned": tmp_path / "m.tw", "tuned": tmp_path / "m.tw"}
    times, agrees = times_of(Job(path, shapes, artifacts, ("onnxruntime",), 1, 0.01, 0))
    assert list(times) == ["untuned", "tuned", "onnxruntime"]
    assert len({len(rounds) for rounds in times.values()}) == 1
    assert all(agrees.values())


def test_unknown_kernels_are_named(tmp_path: Path):
    with pytest.raises(SystemExit, match="there are conv-3x64x224x7x2"):
        metaschedule.main(["--python", "p", "--folder", str(tmp_path), "--tasks", "nothing"])


def test_the_child_needs_nothing_of_this_project():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import metaschedule_child; print(*sys.modules)"
    folder = str(Path(metaschedule.__file__).parent)
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", code, folder], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"tilewright", "benchmarks", "tvm"} & set(loaded)
