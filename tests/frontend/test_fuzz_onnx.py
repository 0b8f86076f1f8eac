"""The fuzzer of ONNX files finds nothing in a small budget, and finds what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import helper

from tests.frontend.models import model, value
from tests.frontend.onnx_fuzz.attempt import attempt
from tests.frontend.onnx_fuzz.campaign import Finding, Settings, run_campaign, try_cases
from tests.frontend.onnx_fuzz.cases import KINDS, Case, make_case
from tests.frontend.onnx_fuzz.minimise import minimise, write_repro
from tests.frontend.onnx_fuzz.seeds import own_seeds
from tilewright.frontend.onnx import importer

RELU = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [3])], ["y"]).SerializeToString()


def test_every_seed_runs() -> None:
    for name, data in own_seeds().items():
        outcome = attempt(data, run=False, seconds=60)
        steered = "give the value: values=" in outcome.detail
        assert outcome.kind == "ok" or steered or "tilewright does not support" in outcome.detail, name


def test_a_small_campaign_finds_nothing() -> None:
    for report in run_campaign(range(200), own_seeds(), Settings(run_share=0.01), KINDS):
        assert not report.findings, report.findings[0].outcome.detail
        assert report.outcomes["ok"] > 20
        assert report.refusals.keys() >= {"ModelFileError", "GraphError", "UnsupportedError", "LimitError"}


def test_a_number_is_always_the_same_file() -> None:
    seeds = own_seeds()
    for number in range(30):
        assert make_case(number, seeds, 0.5) == make_case(number, seeds, 0.5)


def _case(data: bytes) -> Case:
    return Case(0, "structure", "", data, False)


@pytest.mark.parametrize(
    ("fault", "signature"),
    [
        ("1 // 0", "ZeroDivisionError in "),
        ("loop()", "TooLong in "),
        ("os._exit(3)", "the process died with exit code 3"),
    ],
)
def test_what_must_not_happen_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str, signature: str
) -> None:
    """A fault in the importer is noticed, whatever it does."""

    def broken(*_: object) -> None:
        import os  # noqa: F401

        def loop() -> None:
            while True:
                pass

        eval(fault, {}, {**locals()})

    monkeypatch.setattr(importer, "check_node", broken)
    settings = Settings(seconds=1)
    ((case, outcome),) = try_cases([_case(RELU)], settings)
    assert outcome.kind == "finding"
    assert outcome.signature.startswith(signature)
    smaller = minimise(Finding(case, outcome), settings, seconds=4)
    assert len(smaller.case.data) <= len(RELU)
    assert smaller.outcome.signature == outcome.signature


def test_a_file_repeats_a_case(tmp_path: Path) -> None:
    case = _case(b"\x08\x08" + RELU[:20])
    ((_, outcome),) = try_cases([case], Settings())
    path = write_repro(Finding(case, outcome), tmp_path)
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, check=True, env={"PYTHONPATH": "."}
    )
    assert done.stdout.startswith("refused\nModelFileError\n")
