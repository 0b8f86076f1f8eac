"""Processes that serve this one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from multiprocessing.connection import Connection

import pytest

from tilewright.errors import TilewrightError
from tilewright.measure.process import Process


def echo(connection: Connection, *greeting: str) -> None:
    """Says what it was given, then what it is told, and ends with its connection."""
    connection.send(greeting)
    try:
        while True:
            connection.send(connection.recv())
    except EOFError:
        return


def test_a_process_serves_and_ends_with_its_connection() -> None:
    process = Process(echo, "good", "day")
    assert process.connection.recv() == ("good", "day")
    process.connection.send([1, 2])
    assert process.connection.recv() == [1, 2]
    assert process.alive()
    process.stop(patience=10)
    assert not process.alive()
    process.stop()  # again, without harm


def test_a_process_that_does_not_end_is_killed() -> None:
    process = Process(deaf)
    assert process.connection.recv() == "begun"
    process.stop()
    assert not process.alive()


def deaf(connection: Connection) -> None:
    """Ends for nothing."""
    connection.send("begun")
    while True:
        with contextlib.suppress(EOFError):
            connection.recv()


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(TilewrightError, match="no process can be started"):
        Process(echo)


def test_a_script_without_a_guard_tunes_from_standard_input() -> None:
    script = """
import numpy as np
from tilewright.ir import te
from tilewright.measure import Measurer
from tilewright.records import Workload
from tilewright.schedule import Schedule
from tilewright.target import Target

print("begun")
x = te.placeholder((64,), "float32", "x")
func = te.primfunc("f", [x], [te.compute((64,), lambda i: x[i] + 1.0, "y")])
with Measurer(Target.host(), jobs=1) as measurer:
    measurer.set_workload(Workload.of(func))
    print([found.status for _, found in measurer.measure([Schedule(func).trace.to_json()])])
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begun", "['ok']"]
    assert not done.stderr
