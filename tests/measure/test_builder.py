"""Compiling candidates side by side: what comes back, what fails, what is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import pytest

from tests.measure.test_runner import product, task
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text
from tilewright.ir.visit import find_blocks
from tilewright.measure import Builder, Candidate, Runner
from tilewright.measure.builder import _Worker
from tilewright.schedule import Schedule
from tilewright.target import Target

TARGET = Target.host()


def candidate(factor: int) -> Candidate:
    text = canonical_text(product())
    sch = Schedule(parse(text))
    (block,) = find_blocks(sch.func.body)
    sch.split(sch.get_loops(sch.get_block(block.name))[0], [None, factor])
    return Candidate(text, sch.trace.to_json())


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    with Builder(TARGET, jobs=2) as made:
        yield made


def test_candidates_are_built_and_run(builder: Builder) -> None:
    builds = dict(builder.build(candidate(n) for n in (1, 2, 3, 4, 5)))
    assert sorted(builds) == [0, 1, 2, 3, 4]
    with Runner(TARGET) as runner:
        runner.set_task(task())
        for build in builds.values():
            assert build.status == "ok", build.error
            assert build.program is not None
            assert build.seconds > 0
            assert runner.check(build.program).status == "ok"


def test_what_cannot_be_built_says_why(builder: Builder) -> None:
    good = candidate(2)
    wrong = [
        Candidate(good.workload, good.trace.replace("split", "splat")),
        Candidate(good.workload, "{"),
        Candidate("def", good.trace),
        good,
        Candidate(good.workload, good.trace.replace("get_loops", "get_block")),
    ]
    builds = dict(builder.build(wrong))
    assert [builds[n].status for n in range(5)] == ["compile_error"] * 3 + ["ok", "compile_error"]
    assert all(builds[n].error and builds[n].program is None for n in (0, 1, 2, 4))


def test_a_worker_that_dies_is_replaced(builder: Builder) -> None:
    list(builder.build([candidate(2), candidate(3)]))
    for worker in builder._workers:
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process._process.wait()
    assert [b.status for _, b in builder.build([candidate(2), candidate(3), candidate(4)])] == ["ok"] * 3


def test_a_candidate_that_ends_two_processes_is_to_blame(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal, sent = candidate(3), []
    send = _Worker.send

    def deadly(self: _Worker, given: Candidate) -> Connection:
        connection = send(self, given)
        if given == fatal:
            assert self._process is not None
            sent.append(self._process.pid)
            os.kill(self._process.pid, signal.SIGKILL)
        return connection

    monkeypatch.setattr(_Worker, "send", deadly)
    builds = dict(builder.build([candidate(2), fatal, candidate(4)]))
    assert [builds[n].status for n in range(3)] == ["ok", "crash", "ok"]
    assert "died" in builds[1].error
    assert len(sent) == 2


def test_compiling_may_take_too_long() -> None:
    with Builder(TARGET, seconds=0.01) as builder:
        ((_, build),) = builder.build([candidate(2)])
        assert (build.status, build.program) == ("timeout", None)
        builder.seconds = 60.0
        ((_, build),) = builder.build([candidate(2)])
        assert build.status == "ok"


def test_what_is_given_up_is_thrown_away(builder: Builder) -> None:
    for _, build in builder.build(candidate(n) for n in (2, 3, 4, 6)):
        assert build.status == "ok"
        break
    builds = dict(builder.build([candidate(8), candidate(12)]))
    assert len(builds) == 2
    codes = [b.program.code for b in builds.values() if b.program is not None]
    assert len(codes) == 2
    assert not np.array_equal(*[np.frombuffer(c, np.uint8)[:64] for c in codes]) or codes[0] != codes[1]
