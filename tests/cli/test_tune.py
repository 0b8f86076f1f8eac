"""``tilewright tune``: what it prints and writes, its exit codes."""

from __future__ import annotations

import json

import pytest

from tilewright import tuning
from tilewright.records import open_store

PLUGIN = """
from tilewright.tune import Proposal, register_strategy


@register_strategy("{name}")
class Mine:
    def propose(self, space, model, history, count, rng, threads):
        return [Proposal(point, "user") for point in history.fresh(space.sample(4 * count, rng), count)]
"""


@pytest.fixture
def tune(cli, dense, tmp_path, monkeypatch):
    monkeypatch.setenv("TILEWRIGHT_STORE", str(tmp_path / "records.sqlite"))

    def call(*words):
        return cli("tune", dense, "--shape", "x=16,8", "--threads", 1, "--model", "none", *words)

    return call


def test_a_kernel_is_tuned_logged_and_found_by_compile(tune, cli, dense, tmp_path):
    events = tmp_path / "events.jsonl"
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.replace("{name}", tmp_path.name))
    done = tune("--trials", 4, "--strategy", plugin, "--events", events, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["reason"] == "trials"
    assert result["trials"] == 4
    (task,) = result["tasks"]
    assert task["after"] <= task["before"]
    assert result["end_to_end"]["gain"]["low"] < result["end_to_end"]["gain"]["high"]
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert lines[0]["event"] == "began"
    assert [line["event"] for line in lines[-3:]] == ["ended", "noted", "whole"]
    assert lines[-1]["ratio"] == result["end_to_end"]["gain"]["ratio"]
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert "tuning dense.onnx: 1 tasks" in done.err
    with open_store(tmp_path / "records.sqlite") as store:
        assert {r.role for r in store.records()} >= {"default", "user"}
        assert all(r.workload.source == "dense.onnx" for r in store.records())
    assert cli("compile", dense, "--shape", "x=16,8", "--threads", 1, "-o", tmp_path / "dense.tw").code == 0

    again = tune("--effort", "none", "--quiet")
    assert again.code == 0
    assert again.err == ""
    assert "0 candidates measured" in again.out


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("phase", "words", "said", "left_out"),
    [
        ("measure_whole", (), "the whole model was not measured: it was interrupted", "is trained on all"),
        ("train_again", ("--effort", "full"), "the learned model was not trained: it was interrupted", "\0"),
    ],
)
def test_ctrl_c_at_the_end_of_a_session_keeps_its_result(tune, monkeypatch, phase, words, said, left_out):
    monkeypatch.setattr(tuning, phase, interrupt)
    done = tune("--trials", 1, *words)
    assert done.code == 0, done.err
    assert "1 candidates measured" in done.out
    assert said in done.out + done.err
    assert left_out not in done.err


def test_the_list_of_tasks(tune):
    shown = tune("--list")
    assert shown.code == 0
    assert "1 tasks" in shown.out
    assert "100.0%" in shown.out
    assert "product" in shown.out
    (task,) = json.loads(tune("--list", "--json").out)["tasks"]
    assert task["occurrences"] == 1
    assert task["family"] == "matmul"


def test_open_sizes_are_not_tuned(cli, dense):
    shown = cli("tune", dense, "--dim", "N=1..64", "--list")
    assert "not tuned:" in shown.out
    assert "sizes have ranges" in shown.out


def test_one_kernel_by_the_name_of_a_node(cli, dense):
    shown = cli("tune", "--task", f"{dense}:product", "--shape", "x=16,8", "--list", "--json")
    assert shown.code == 0, shown.err
    assert len(json.loads(shown.out)["tasks"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "soon"], "budget 'soon' is no time"),
        (["--effort", "heroic"], "there is no effort 'heroic'"),
        (["--strategy", "luck"], "there is no strategy 'luck'"),
        (["--measurer", "cloud", "--trials", 1], "there is no measurer 'cloud'"),
        (["--task", "nowhere"], "no kernel to tune computes 'nowhere'"),
        (["--plugin", "nowhere.py"], "there is no such plugin"),
        (["--events", "/no/such/folder/e.jsonl"], "the log of events cannot be written"),
        (["--task", "other.onnx:product"], "is of another model"),
        (["--target", "x86-64-v2"], ""),
    ],
)
def test_mistakes(tune, words, message):
    failed = tune("--quiet", *words)
    assert failed.code == 2
    assert message in failed.err


def test_no_model(cli):
    failed = cli("tune")
    assert failed.code == 2
    assert "which model?" in failed.err


def test_a_cost_model_that_there_is_not(cli, dense, tmp_path):
    store = tmp_path / "r.sqlite"
    failed = cli("tune", dense, "--shape", "x=16,8", "--model", "oracle", "--store", store, "--quiet")
    assert failed.code == 2
    assert "there is no cost model 'oracle'" in failed.err


def test_a_store_that_cannot_be_opened(cli, dense, tmp_path):
    (tmp_path / "no.sqlite").write_text("this is no database" * 100)
    failed = cli("tune", dense, "--shape", "x=16,8", "--store", tmp_path / "no.sqlite", "--quiet")
    assert failed.code == 2
    assert "no measurement store" in failed.err
