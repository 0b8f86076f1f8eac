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
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tilewright.errors import TilewrightError
from tilewright.measure.jobs import JOBS, KEPT_BYTES, Outcome, Places, Task
from tilewright.measure.look import Look
from tilewright.measure.process import Process
from tilewright.measure.program import Blocks, Program, check_array, runtime_code
from tilewright.measure.timing import Plan
from tilewright.records.record import Sample
from tilewright.runtime.host import check_host
from tilewright.runtime.loader import load_runtime
from tilewright.target import Target

__all__ = ["Limits", "Outcome", "Runner", "Task"]

#: A child that did not have the processor for half of its time has so many times as long: others use it.
BUSY: Final = 8
#: A worker that dies so often before any candidate is done is not started again.
DEATHS: Final = 3


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a candidate may take: seconds without a sign of life (more where others have the processors), and
    bytes of memory besides its data.
    """

    seconds: float = 10.0
    memory: int = 4 << 30


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
        self._process: Process | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and what it runs."""
        if self._process is not None:
            self._process.stop(patience=2.0)
            self._process = None

    def set_task(self, task: Task) -> None:
        """What the next candidates compute. Raises InputError when an array is not as the task says."""
        for param, data in zip(task.params, (*task.inputs, *task.expected), strict=True):
            check_array(param, data)
        self._task = task
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.connection.send(("task", task))

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

    def look(
        self, programs: Sequence[Program], reference: Program, look: Look | None = None, best: float = 1.0
    ) -> Iterator[tuple[int, Outcome]]:
        """Check candidates and look at those that are right, several in one child; gives each one's number
        and what became of it, with all times that were seen, in order.

        One that fails is run again in a child of its own unless it was the first in its child: what others
        have done there is not held against it. So is one during which the worker dies, once.

        Args:
            reference: a right program that runs between them.
            best: the least ratio of a candidate's time to the reference's so far.
        """
        if self._task is None:
            raise ValueError("a runner needs a task first")
        waiting = list(range(len(programs)))
        blamed: set[int] = set()
        samples: dict[int, list[Sample]] = {n: [] for n in waiting}
        deaths = 0
        while waiting:
            sent, ended = waiting.copy(), False
            try:
                connection = self._started()
                chosen = [programs[n] for n in sent]
                connection.send(("look", chosen, reference, look or Look(), best, self.limits))
                while True:
                    kind, *what = connection.recv()
                    if kind == "end":
                        ended = True
                        return
                    if kind == "sample":
                        samples[sent[what[0]]].append(what[1])
                    elif kind == "done":
                        number = sent[what[0]]
                        waiting.remove(number)
                        deaths = 0
                        yield number, dataclasses.replace(what[1], samples=(tuple(samples[number]),))
            except (EOFError, OSError) as error:
                # Candidates run in children of the worker: that it dies is hardly their fault.
                ended = True
                self.close()
                deaths += 1
                first = waiting.pop(0)
                if first not in blamed and deaths < DEATHS:
                    blamed.add(first)
                    waiting.append(first)
                    continue
                lost = [first, *(waiting if deaths >= DEATHS else ())]
                waiting = [n for n in waiting if n not in lost]
                for number in lost:
                    yield number, _worker_died(error, (samples[number],))
            finally:
                if not ended:  # nobody will hear the rest
                    self.close()

    def _job(self, message: tuple[Any, ...], programs: int = 0) -> Outcome:
        if self._task is None:
            raise ValueError("a runner needs a task first")
        samples: list[list[Sample]] = [[] for _ in range(programs)]
        tried_again = False
        while True:
            try:
                connection = self._started()
                connection.send(message)
                while True:
                    kind, *what = connection.recv()
                    if kind == "sample":
                        samples[what[0]].append(what[1])
                    elif kind == "end":
                        return dataclasses.replace(what[0], samples=tuple(map(tuple, samples)))
            except (EOFError, OSError) as error:
                self.close()
                if tried_again:
                    return _worker_died(error, samples)
                tried_again = True

    def _started(self) -> Connection:
        if self._process is not None and not self._process.alive():
            self.close()
        if self._process is None:
            self._process = Process(_serve, self._code, self.threads)
            self._process.connection.send(("task", self._task))
        return self._process.connection


def _worker_died(error: Exception, samples: Sequence[Sequence[Sample]]) -> Outcome:
    why = f"the worker died ({error or 'it closed its pipe'})"
    return Outcome("crash", why, samples=tuple(map(tuple, samples)))


# ------------------------------------------------------------------------------------------------ the worker
def _serve(connection: Connection, runtime: bytes, threads: int) -> None:
    """The worker: take jobs until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    functions = load_runtime(runtime)
    places: Places | None = None
    blocks = Blocks(KEPT_BYTES)
    while True:
        try:
            kind, *what = connection.recv()
            if kind == "task":
                if places is not None:
                    places.release()
                places = Places(what[0], functions, threads, blocks)
                continue
            assert places is not None
            *arguments, limits = what
            outcome = Outcome("ok")
            if kind == "look":
                programs, reference, look, best = arguments
                _look(places, programs, reference, look, best, limits, connection.send)
            else:
                programs = arguments[0] if kind == "race" else [arguments[0]]
                places.prepare(programs)
                job = functools.partial(JOBS[kind], places, *arguments)
                outcome = _in_child(job, limits, connection.send)
            connection.send(("end", outcome))
        except (EOFError, OSError):
            return


def _look(
    places: Places,
    programs: Sequence[Program],
    reference: Program,
    look: Look,
    best: float,
    limits: Limits,
    send: Callable[[Any], None],
) -> None:
    """Look at programs in as few children as it takes."""
    left = list(enumerate(programs))
    alone = False
    while left:
        group = left[:1] if alone else list(left)
        before = len(left)
        places.prepare([reference, *(program for _, program in group)])
        current: int | None = None
        failed: Outcome | None = None

        def hear(message: Any) -> None:
            nonlocal current, failed
            if message[0] == "begin":
                current = message[1]
            elif message[0] == "done" and message[2].status != "ok":
                failed = message[2]
            else:
                if message[0] == "done":
                    left.pop(0)
                    current = None
                send(message)

        outcome = _in_child(
            functools.partial(JOBS["look"], places, group, reference, look, best), limits, hear
        )
        if outcome.status != "ok":
            failed = outcome
        done = before - len(left)
        if failed is None or not left or (current is None and done):
            alone = False  # whatever went wrong, if anything, went wrong after the last candidate
        elif done:
            alone = True  # is it this one, or what the ones before have done here?
        else:
            send(("done", left.pop(0)[0], failed))
            alone = False


def _in_child(job: Callable[..., Outcome], limits: Limits, hear: Callable[[Any], None]) -> Outcome:
    """Do a job in a forked child; ``hear`` is given what it sends before its outcome."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        ours.close()
        _run_child(job, limits, theirs)
    theirs.close()
    try:
        return _watch(child, ours, limits, hear)
    finally:
        ours.close()


def _watch(child: int, ours: Connection, limits: Limits, hear: Callable[[Any], None]) -> Outcome:
    outcome: Outcome | None = None
    try:
        while outcome is None:
            if not _lives(child, ours, limits.seconds):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome("timeout", f"no sign of life for {limits.seconds:g} seconds")
            message = ours.recv()
            if isinstance(message, Outcome):
                outcome = message
            else:
                hear(message)
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


def _lives(child: int, ours: Connection, seconds: float) -> bool:
    """Wait for a sign of life; whether there was one."""
    before = _processor_seconds(child)
    for _ in range(BUSY):
        if ours.poll(seconds):
            return True
        now = _processor_seconds(child)
        if before is None or now is None or now - before >= seconds / 2:
            return False
    return False


def _processor_seconds(pid: int) -> float | None:
    """What a process has used so far; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
