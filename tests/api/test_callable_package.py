"""``tw.schedule`` is a package and, called, a schedule to work at."""

import subprocess
import sys

import pytest

import tilewright as tw
import tilewright.schedule.loops
from tests.schedule.programs import matmul
from tilewright.errors import TargetError


def test_the_call_gives_a_workbench_for_the_target() -> None:
    sch = tw.schedule(matmul())
    assert type(sch) is tw.Workbench
    assert sch.target == tw.Target.parse("native")
    assert tw.schedule(matmul(), target="x86-64-v3").target.name == "x86-64-v3"
    sch.parallel(sch.get_loops(sch.get_block("C"))[0])
    sch.check()
    with pytest.raises(TargetError):
        tw.schedule(matmul(), "no such machine")


def test_it_stays_a_package() -> None:
    assert tilewright.schedule.loops.split.__name__ == "split"
    assert tw.schedule.Schedule is tilewright.schedule.schedule.Schedule


def test_first_use_of_the_name_imports_the_package() -> None:
    code = "import tilewright as tw; assert 'Schedule' in dir(tw.schedule); assert callable(tw.schedule)"
    subprocess.run([sys.executable, "-c", code], check=True)
