"""Running candidates where they can do no harm.

Code that a search has made up may crash, never end, take all memory, write where it must not, or compute
something else. So it runs in a process of its own: a worker, which has the task's data, forks a child for
each job and ends it when it takes too long. The child compares every output with the expected one and looks
at the guards around every array before any time counts. What happened comes back as a status, never as an
exception; a worker that dies is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final

import numpy as np

from tilewright.errors import TilewrightError
from tilewright.measure.program import (
    Arrays,
    Loaded,
    Parameter,
    Program,
    check_array,
    in_layout,
    runtime_code,
)
from tilewright.measure.timing import Plan, Race, race
from tilewright.records.record import Sample
from tilewright.runtime.host import check_host
from tilewright.runtime.loader import load_runtime
from tilewright.target import Target


@dataclasses.dataclass(frozen=True)
class Task:
    """What all candidates of a workload share.

    Attributes:
        params: the kernel's arguments, outputs last.
        inputs: data for those before the outputs.
        expected: the outputs, computed by something trusted.
        rtol: how far an output may be off, relative to the largest expected one.
        cold: names of inputs that calls find in memory, not in caches: a model's weights.
        flush_bytes: how many bytes of copies of these inputs there are at least.
    """

    params: tuple[Parameter, ...]
    inputs: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]
    rtol: float = 1e-4
    cold: frozenset[str] = frozenset()
    flush_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a candidate may take: seconds without a sign of life, and bytes of memory besides its data."""

    seconds: float = 10.0
    memory: int = 4 << 30


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: one of :data:`tilewright.records.STATUSES`.
        error: for failures, what happened.
        seconds: for a check, the least of a few calls.
        race: for races that ended.
        samples: every time that was seen, by program, also when the race did not end.
    """

    status: str
    error: str = ""
    seconds: float | None = None
    race: Race | None = None
    samples: tuple[tuple[Sample, ...], ...] = ()


class Runner:
    """A worker process that runs candidates; use it in ``with``.

    Args:
        target: this machine.
        threads: threads of a call.
        limits: what a candidate may take.

    Raises:
        TargetError: this machine cannot run code for ``target``.
        CompileError: the runtime could not be compiled.
    """

    def __init__(self, target: Target, threads: int = 1, limits: Limits | None = None) -> None:
        check_host(target)
        self.target, self.threads, self.limits = target, threads, limits or Limits()
        self._code = runtime_code(target)
        self._task: Task | None = None
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and what it runs."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.join(2.0)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None

    def set_task(self, task: Task) -> None:
        """What the next candidates compute. Raises InputError when an array is not as the task says."""
        for param, data in zip(task.params, (*task.inputs, *task.expected), strict=True):
            check_array(param, data)
        self._task = task
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(("task", task))

    def check(self, program: Program) -> Outcome:
        """Run a candidate a few times and see whether it computes what is expected."""
        return self._job(("check", program, self.limits))

    def race(
        self, programs: Sequence[Program], reference: int | Program = 0, plan: Plan | None = None
    ) -> Outcome:
        """Let candidates that :meth:`check` has found right run against each other.

        Args:
            reference: what runs beside all: one of the programs, by its number, or another one.
        """
        return self._job(("race", list(programs), reference, plan or Plan(), self.limits), len(programs))

    def _job(self, message: tuple[Any, ...], programs: int = 0) -> Outcome:
        if self._task is None:
            raise ValueError("a runner needs a task first")
        samples: list[list[Sample]] = [[] for _ in range(programs)]
        try:
            connection = self._started()
            connection.send(message)
            while True:
                kind, *what = connection.recv()
                if kind == "sample":
                    samples[what[0]].append(what[1])
                else:
                    outcome: Outcome = what[0]
                    break
        except (EOFError, OSError) as error:
            self.close()
            outcome = Outcome("crash", f"the worker died ({error or 'it closed its pipe'})")
        return dataclasses.replace(outcome, samples=tuple(map(tuple, samples)))

    def _started(self) -> Connection:
        if self._process is not None and not self._process.is_alive():
            self.close()
        if self._connection is None:
            # Neither this process's threads nor its locks are in a worker that starts from nothing.
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(other, self._code, self.threads), daemon=True, name="tilewright-runner"
            )
            self._process.start()
            other.close()
            self._connection.send(("task", self._task))
        return self._connection


# ------------------------------------------------------------------------------------------------ the worker
def _serve(connection: Connection, runtime: bytes, threads: int) -> None:
    """The worker: take jobs until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    functions = load_runtime(runtime)
    task: Task | None = None
    while True:
        try:
            kind, *what = connection.recv()
        except (EOFError, OSError):
            return
        if kind == "task":
            task = what[0]
            continue
        *arguments, limits = what
        job = functools.partial(_JOBS[kind], task, functools.partial(_loaded, functions, threads), *arguments)
        connection.send(("end", _in_child(job, limits, connection)))


def _loaded(functions: dict[str, int], threads: int, program: Program) -> Loaded:
    return Loaded(program, functions, threads)


def _in_child(job: Callable[..., Outcome], limits: Limits, forward: Connection) -> Outcome:
    """Do a job in a forked child; what it sends goes on to ``forward``."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        ours.close()
        _run_child(job, limits, theirs)
    theirs.close()
    try:
        return _watch(child, ours, limits, forward)
    finally:
        ours.close()


def _watch(child: int, ours: Connection, limits: Limits, forward: Connection) -> Outcome:
    outcome: Outcome | None = None
    try:
        while outcome is None:
            if not ours.poll(limits.seconds):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome("timeout", f"no sign of life for {limits.seconds:g} seconds")
            message = ours.recv()
            if isinstance(message, Outcome):
                outcome = message
            else:
                forward.send(message)
    except EOFError:
        pass
    deadline = time.monotonic() + limits.seconds
    while True:  # it has said its last word, but may still hang at its end
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    if outcome is not None:
        return outcome
    if os.WIFSIGNALED(status):
        return Outcome("crash", f"it was ended by {signal.Signals(os.WTERMSIG(status)).name}")
    return Outcome("crash", f"it ended with status {os.waitstatus_to_exitcode(status)}")


def _run_child(job: Callable[..., Outcome], limits: Limits, pipe: Connection) -> None:
    """In the child: do the job, send what came of it, and end without any of the parent's clean-up."""
    try:
        _confine(limits)
        try:
            outcome = job(send=pipe.send)
        except MemoryError as error:
            outcome = Outcome("out_of_memory", str(error) or "no memory was left")
        except TilewrightError as error:
            outcome = Outcome("refused", error.message)
        except Exception as error:
            outcome = Outcome("crash", f"{type(error).__name__}: {error}")
        pipe.send(outcome)
        pipe.close()
    finally:
        os._exit(0)


def _confine(limits: Limits) -> None:
    """Limits of the system for this process; it ends when its parent does."""
    import resource

    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + limits.memory, now + limits.memory))
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------- in the child
#: Calls of a check, of which the first one pays for pages and threads.
_CALLS: Final = 4


def _check(
    task: Task, load: Callable[[Program], Loaded], program: Program, send: Callable[[object], None]
) -> Outcome:
    memory = Arrays()
    bound = load(program).bind(task.params, task.inputs, memory)
    given = [array.tobytes() for array in bound.inputs]
    times = []
    for number in range(_CALLS):
        begin = time.perf_counter()
        status = bound()
        times.append(time.perf_counter() - begin)
        if status:
            return Outcome("refused", f"it ended with status {status}")
        # The second call finds the results of the first: it must not build on them.
        if number < 2 and (wrong := _wrong(task, bound.outputs)) is not None:
            return wrong
    if memory.damaged() or given != [array.tobytes() for array in bound.inputs]:
        return Outcome("wrong_result", "it writes outside of its arrays")
    return Outcome("ok", seconds=min(times[1:]))


def _wrong(task: Task, outputs: Sequence[np.ndarray]) -> Outcome | None:
    """What is wrong with the outputs, or None."""
    for param, got, want in zip(task.params[len(task.inputs) :], outputs, task.expected, strict=True):
        a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
        finite = np.isfinite(b)
        if not np.array_equal(np.isfinite(a), finite):
            return Outcome("not_finite", f"'{param.name}' is not finite where it should be")
        special = ~finite
        if not np.array_equal(a[special], b[special], equal_nan=True):
            return Outcome("wrong_result", f"'{param.name}' has other infinities or NaNs")
        if not finite.any():
            continue
        difference = float(np.max(np.abs(a[finite] - b[finite])))
        scale = float(np.max(np.abs(b[finite])))
        exact = want.dtype.kind in "iub"
        if difference > (0.0 if exact else task.rtol * scale):
            error = f"'{param.name}' is off by {difference:.3g}, its scale is {scale:.3g}"
            return Outcome("wrong_result", error)
    return None


def _race(
    task: Task,
    load: Callable[[Program], Loaded],
    programs: Sequence[Program],
    reference: int | Program,
    plan: Plan,
    send: Callable[[object], None],
) -> Outcome:
    memory = Arrays()
    kept: dict[tuple[str, str], Sequence[np.ndarray]] = {}
    bytes_cold = sum(d.nbytes for p, d in zip(task.params, task.inputs, strict=False) if p.name in task.cold)
    copies = 1 if not bytes_cold else min(max(-(-task.flush_bytes // bytes_cold), 1), 256)

    def laid(param: Parameter, data: np.ndarray, layout: str) -> Sequence[np.ndarray]:
        key = param.name, layout
        if key not in kept:
            stored = in_layout(data, layout)
            kept[key] = [memory.put(stored) for _ in range(copies if param.name in task.cold else 1)]
        return kept[key]

    bound = [load(p).bind(task.params, task.inputs, memory, laid) for p in programs]
    if isinstance(reference, int):
        beside = bound[reference]
    else:
        beside = load(reference).bind(task.params, task.inputs, memory, laid)
    found = race(bound, beside, plan, seen=lambda n, sample: send(("sample", n, sample)))
    return Outcome("ok", race=found)


_JOBS: Final[Mapping[str, Callable[..., Outcome]]] = {"check": _check, "race": _race}
