"""Candidates that do harm: each becomes a status, and the runner goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import pytest

from tilewright.backend import get_backend
from tilewright.errors import InputError
from tilewright.ir import te
from tilewright.ir.stmt import PrimFunc
from tilewright.measure import Limits, Plan, Program, Runner, Task, build_program, parameters
from tilewright.schedule import IndexMap, Schedule
from tilewright.target import Target

TARGET = Target.host()
M, N, K = 24, 32, 16


def product() -> PrimFunc:
    a, b = te.placeholder((M, K), "float32", "a"), te.placeholder((K, N), "float32", "b")
    c = te.compute((M, N), lambda i, j: te.reduce("sum", (K,), lambda r: a[i, r] * b[r, j]), "c")
    return te.primfunc("product", [a, b], [c], [b])


def task() -> Task:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
    return Task(parameters(product()), (a, b), (a @ b,), cold=frozenset(["b"]), flush_bytes=1 << 16)


def candidate(factor: int = 4, packed: bool = False) -> Program:
    sch = Schedule(product())
    block = sch.get_block("c")
    sch.split(sch.get_loops(block)[0], [None, factor])
    if packed:
        sch.transform_layout(block, "read", 1, IndexMap.parse("k,n -> n//16, k, n%16"))
    return build_program(sch, TARGET)


def native(body: str) -> Program:
    """A kernel written by hand, as LLVM IR, with the arguments ``%pool``, ``%args`` and ``%work``."""
    text = f"""
declare void @abort()
define i32 @bad(ptr %pool, ptr %args, ptr %work) {{
entry:
  %c.slot = getelementptr ptr, ptr %args, i64 2
  %c = load ptr, ptr %c.slot
{body}
}}
"""
    (code,) = get_backend(TARGET).compile([text], TARGET)
    return Program(code, "bad", 0, 0, {})


#: What a candidate may do, and what is said of it.
HARM = {
    "never ends": ("  br label %again\nagain:\n  br label %again", "timeout", "no sign of life"),
    "writes to nowhere": ("  store i8 1, ptr null\n  ret i32 0", "crash", "SIGSEGV"),
    "gives up": ("  call void @abort()\n  ret i32 0", "crash", "SIGABRT"),
    "says no": ("  ret i32 7", "refused", "status 7"),
    "does nothing": ("  ret i32 0", "not_finite", "'c' is not finite"),
    "computes zeros": (
        f"  call void @llvm.memset.p0.i64(ptr %c, i8 0, i64 {4 * M * N}, i1 false)\n  ret i32 0",
        "wrong_result",
        "'c' is off by",
    ),
}


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner(TARGET, 1, Limits(seconds=3.0)) as made:
        made.set_task(task())
        yield made


@pytest.mark.parametrize("packed", [False, True])
def test_a_good_candidate(runner: Runner, packed: bool) -> None:
    outcome = runner.check(candidate(4, packed))
    assert outcome.status == "ok", outcome.error
    assert outcome.seconds is not None
    assert 0 < outcome.seconds < 1


@pytest.mark.parametrize("name", HARM)
def test_harm_is_a_status_and_the_next_one_runs(runner: Runner, name: str) -> None:
    body, status, error = HARM[name]
    if name == "never ends":
        runner.limits = dataclasses.replace(runner.limits, seconds=0.5)
    outcome = runner.check(native(body))
    runner.limits = Limits(seconds=3.0)
    assert (outcome.status, outcome.seconds) == (status, None)
    assert error in outcome.error
    assert runner.check(candidate()).status == "ok"


def _copying(extra: str) -> Program:
    """The right result, from where the test has put it (the second argument), and then something else."""
    size = 4 * M * N
    return native(
        "  %b.slot = getelementptr ptr, ptr %args, i64 1\n  %b = load ptr, ptr %b.slot\n"
        f"  call void @llvm.memcpy.p0.p0.i64(ptr %c, ptr %b, i64 {size}, i1 false)\n{extra}\n  ret i32 0"
    )


@pytest.mark.parametrize(
    "extra",
    [
        f"  %past = getelementptr i8, ptr %c, i64 {4 * M * N}\n  store i8 0, ptr %past",
        "  %before = getelementptr i8, ptr %c, i64 -1\n  store i8 0, ptr %before",
        "  store i8 99, ptr %b",
        "  %w = getelementptr i8, ptr %work, i64 64\n  store i8 0, ptr %w",
    ],
)
def test_writes_beside_the_arrays_are_seen(runner: Runner, extra: str) -> None:
    own = task()
    params = (own.params[0], dataclasses.replace(own.params[1], shape=(M, N)), own.params[2])
    runner.set_task(Task(params, (own.inputs[0], own.expected[0]), own.expected))
    try:
        assert runner.check(_copying("")).status == "ok"
        outcome = runner.check(_copying(extra))
    finally:
        runner.set_task(own)
    assert (outcome.status, outcome.error) == ("wrong_result", "it writes outside of its arrays")


def test_a_candidate_that_takes_all_memory(runner: Runner) -> None:
    outcome = runner.check(dataclasses.replace(candidate(), ws_shared=1 << 44))
    assert outcome.status == "out_of_memory"
    assert runner.check(candidate()).status == "ok"


def test_code_that_is_none(runner: Runner) -> None:
    outcome = runner.check(Program(b"not an object", "f", 0, 0, {}))
    assert outcome.status in ("refused", "crash")
    assert runner.check(candidate()).status == "ok"


def test_a_race(runner: Runner) -> None:
    programs = [candidate(1), candidate(4, packed=True), candidate(8)]
    outcome = runner.race(programs, plan=Plan(turn_seconds=2e-4, min_rounds=3, max_rounds=5))
    assert outcome.status == "ok", outcome.error
    assert outcome.race is not None
    assert outcome.samples == outcome.race.samples
    assert all(len(s) >= 3 for s in outcome.samples)


def test_a_race_that_one_spoils_keeps_what_was_seen(runner: Runner) -> None:
    """The second program aborts when it has run a while: at its 40th call."""
    spoiler = native(
        "  %n = load i64, ptr %work\n  %m = add i64 %n, 1\n  store i64 %m, ptr %work\n"
        "  %late = icmp ugt i64 %m, 40\n  br i1 %late, label %end, label %go\n"
        "end:\n  call void @abort()\n  br label %go\ngo:\n  ret i32 0"
    )
    spoiler = dataclasses.replace(spoiler, ws_shared=64)
    plan = Plan(turn_seconds=1e-7, min_rounds=40, max_rounds=60)
    outcome = runner.race([candidate(), spoiler], plan=plan)
    assert outcome.status == "crash"
    assert "SIGABRT" in outcome.error
    assert outcome.race is None
    assert all(outcome.samples)


def test_a_worker_that_dies_is_replaced(runner: Runner) -> None:
    assert runner.check(candidate()).status == "ok"
    assert runner._process is not None
    before = runner._process.pid
    os.kill(before, signal.SIGKILL)
    time.sleep(0.2)
    assert [runner.check(candidate()).status for _ in range(2)] == ["ok"] * 2
    assert runner._process.pid != before


def test_candidates_are_not_to_blame_when_the_worker_dies(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, killed = runner._started, []

    def dying() -> Connection:
        connection = started()
        if len(killed) < 2:
            assert runner._process is not None
            killed.append(runner._process.pid)
            os.kill(killed[-1], signal.SIGKILL)
        return connection

    monkeypatch.setattr(runner, "_started", dying)
    programs = [candidate(n) for n in (2, 4, 8)]
    found = {number: outcome.status for number, outcome in runner.look(programs, programs[0])}
    assert found == dict.fromkeys(range(3), "ok")
    assert len(set(killed)) == 2


def test_a_worker_that_always_dies_is_given_up(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def dead() -> Connection:
        starts.append(1)
        raise EOFError

    monkeypatch.setattr(runner, "_started", dead)
    programs = [candidate(n) for n in (2, 4, 8, 2, 4)]
    found = dict(runner.look(programs, programs[0]))
    assert [found[n].status for n in range(5)] == ["crash"] * 5
    assert "the worker died" in found[0].error
    assert len(starts) == 3
    assert runner.check(programs[0]).status == "crash"


def test_tasks_are_checked(runner: Runner) -> None:
    own = task()
    with pytest.raises(InputError, match="'a' is float32"):
        runner.set_task(dataclasses.replace(own, inputs=(own.inputs[1], own.inputs[1])))
    with pytest.raises(ValueError, match="needs a task"):
        Runner(TARGET).check(candidate())


def test_nothing_is_left_behind() -> None:
    with Runner(TARGET) as own:
        own.set_task(task())
        assert own.check(candidate()).status == "ok"
        assert own._process is not None
        pid = own._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
