"""The runner of ONNX's backend suite counts only what really ran and matched."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from benchmarks import onnx_suite, workers


def _misbehave(how: str) -> str:
    if how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        time.sleep(60)
    return how


def test_a_crash_and_a_hang_are_one_error_each() -> None:
    items = ["a", "crash", "b", "hang", "c"]
    replies = {r.index: r for r in workers.each(_misbehave, items, processes=2, seconds=1.0, memory=1 << 40)}
    assert [replies[n].value for n in (0, 2, 4)] == ["a", "b", "c"]
    assert "died with exit code -9" in str(replies[1].error)
    assert "no result after 1 s" in str(replies[3].error)


def _result(name: str, engine: str = "tilewright") -> onnx_suite.Result:
    (case,) = onnx_suite.collect(f"^{name}$")
    return onnx_suite.run_case(engine, case)


def test_outcomes() -> None:
    assert _result("test_add").outcome == "passed"
    assert _result("test_reduce_sum_keepdims_example").outcome == "passed"
    refused = _result("test_string_concat")
    assert refused.outcome == "unsupported"
    assert "string" in refused.message


def test_a_wrong_result_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnx_suite.ENGINES, "tilewright", lambda model, inputs: [inputs[0] - inputs[1]])  # type: ignore[arg-type]
    assert _result("test_add").outcome == "wrong"


def test_an_exception_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnx_suite.ENGINES, "tilewright", lambda model, inputs: 1 // 0)  # type: ignore[arg-type]
    assert _result("test_add").message == "ZeroDivisionError: integer division or modulo by zero"


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (np.zeros((2, 1)), np.zeros(2)),
        (np.zeros(2, np.float32), np.zeros(2)),
        (np.array([1.0]), np.array([1.1])),
        (np.array([np.nan]), np.array([0.0])),
    ],
)
def test_compare_rejects(got: np.ndarray, want: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        onnx_suite.compare([got], [want], 1e-3, 1e-7)


def test_summary_counts_the_goal_apart() -> None:
    results = [
        onnx_suite.Result("node", "a", 13, ("Add",), "passed", 0.1),
        onnx_suite.Result("node", "b", 25, ("Add",), "passed", 0.1),
        onnx_suite.Result("node", "c", 22, ("Scan",), "unsupported", 0.1, "Scan"),
    ]
    counts = onnx_suite.summary(results)
    assert [counts["node"][o] for o in onnx_suite.OUTCOMES] == [2, 1, 0, 0, 0]
    assert counts["node, opset <= 22"]["passed"] == 1


@pytest.mark.slow
def test_the_whole_suite() -> None:
    """Nothing gives a wrong result, and as much passes as docs/operators.md says."""
    cases = onnx_suite.collect()
    results = onnx_suite.run("tilewright", cases, processes=2, seconds=120.0, gibibytes=16.0)
    bad = [f"{r.name}: {r.message}" for r in results if r.outcome in ("wrong", "error")]
    assert not bad, "\n".join(bad)
    counts = onnx_suite.summary(results)
    passed = {name: count["passed"] for name, count in counts.items()}
    assert passed["node"] >= 1490
    assert passed["node, opset <= 22"] >= 990
    assert passed["pytorch-operator"] == 35
    assert passed["pytorch-converted"] == 82
    assert passed["real"] == 9
