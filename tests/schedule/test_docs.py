"""The page on schedules: its example runs, and its table names every primitive."""

import re
from pathlib import Path

import pytest

from tests.schedule.programs import assert_same, matmul
from tilewright.schedule.trace import INSTRUCTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "schedule.md").read_text()


def test_example_runs_and_computes_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, object] = {}
    small = code.replace("512", "20").replace("256", "6").replace("384", "64")
    exec(small, scope)
    assert "sch.decompose_reduction" in capsys.readouterr().out
    assert_same(scope["func"], scope["sch"])  # type: ignore[arg-type]


def test_table_lists_every_primitive() -> None:
    listed = set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE))
    assert listed == INSTRUCTIONS - {"get_block", "get_loops"} | {"tile"}


def test_gpu_example_runs_and_computes_the_same() -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(), re.DOTALL
    )
    scope: dict[str, object] = {}
    exec(code.replace("512", "70").replace("256", "9").replace("384", "65"), scope)
    assert_same(matmul(70, 65, 9), scope["lowered"])  # type: ignore[arg-type]


def test_sketch_example_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sketches.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope: dict[str, object] = {}
    exec(code.replace("512", "40").replace("256", "12").replace("1000)", "100)"), scope)
    assert_same(scope["func"], scope["schedule"])  # type: ignore[arg-type]


def test_the_page_of_names_has_every_instruction_and_tile() -> None:
    page = (Path(__file__).parents[2] / "docs" / "primitives.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(INSTRUCTIONS | {"tile"})
