"""Compiling candidates in processes side by side.

A candidate is two texts: a workload and a trace. A worker parses the workload once, replays the trace, lowers
the program and generates code. One that fails says why; one that takes too long or dies is replaced, and the
others do not notice.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import signal
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType

from tilewright.errors import TilewrightError
from tilewright.ir.parser import parse
from tilewright.measure.process import Process
from tilewright.measure.program import Program, build_program
from tilewright.schedule import Trace
from tilewright.schedule.replay import Replay
from tilewright.target import Target


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A schedule of a workload: the workload's canonical text, and a trace as JSON that applies to the
    function which that text is parsed to.
    """

    workload: str
    trace: str


@dataclasses.dataclass(frozen=True)
class Build:
    """What became of a candidate: a program, or a status of :data:`tilewright.records.STATUSES` and why."""

    program: Program | None
    status: str = "ok"
    error: str = ""
    seconds: float = 0.0


class Builder:
    """Worker processes that compile candidates; use it in ``with``.

    Args:
        target: what to compile for.
        jobs: how many workers.
        seconds: how long a candidate may take.
    """

    def __init__(self, target: Target, jobs: int = 1, seconds: float = 60.0) -> None:
        self.target, self.seconds = target, seconds
        self._workers = [_Worker(target) for _ in range(max(jobs, 1))]

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()

    def build(self, candidates: Iterable[Candidate]) -> Iterator[tuple[int, Build]]:
        """Compile candidates; gives each one's number and what became of it, as soon as it is known.

        Candidates are taken as workers become free. One whose process dies gets another one, once: something
        else may have ended it. When the iteration is given up, what is being compiled is thrown away.
        """
        rest = enumerate(candidates)
        again: list[tuple[int, Candidate]] = []
        tried: set[int] = set()
        busy: dict[Connection, tuple[_Worker, int, Candidate, float]] = {}
        idle = list(self._workers)
        more = True
        try:
            while True:
                while idle and (again or more):
                    taken = again.pop() if again else next(rest, None)
                    if taken is None:
                        more = False
                        break
                    worker = idle.pop()
                    connection = worker.send(taken[1])
                    busy[connection] = worker, *taken, time.monotonic()
                if not busy:
                    return
                deadline = min(begun for *_, begun in busy.values()) + self.seconds
                for ready in wait(list(busy), max(deadline - time.monotonic(), 0.0)):
                    assert isinstance(ready, Connection)
                    worker, number, candidate, _ = busy.pop(ready)
                    idle.append(worker)
                    build = worker.receive()
                    if build.status == "crash" and number not in tried:
                        tried.add(number)
                        again.append((number, candidate))
                        continue
                    yield number, build
                for connection, (worker, number, _, begun) in list(busy.items()):
                    if time.monotonic() - begun >= self.seconds:
                        del busy[connection]
                        worker.stop()
                        idle.append(worker)
                        yield number, Build(None, "timeout", f"compiling took over {self.seconds:g} seconds")
        finally:
            for worker, *_ in busy.values():
                worker.stop()


class _Worker:
    """One process; it starts with its first candidate."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._process: Process | None = None

    def send(self, candidate: Candidate) -> Connection:
        """Give it something to do; its connection is ready when that is done."""
        for _ in range(2):
            if self._process is None:
                self._process = Process(_serve, self._target)
            try:
                self._process.connection.send(candidate)
                break
            except OSError:  # it has died since its last candidate
                self.stop()
        if self._process is None:
            raise TilewrightError("a process that compiles ended twice before it had anything to do")
        return self._process.connection

    def receive(self) -> Build:
        """What became of the candidate."""
        assert self._process is not None
        try:
            build: Build = self._process.connection.recv()
        except (EOFError, OSError):
            self.stop()
            return Build(None, "crash", "the process that compiled it died")
        return build

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.stop()
            self._process = None


def _serve(connection: Connection, target: Target) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    gc.freeze()  # what is there now stays; of what candidates leave, little needs the collector
    gc.set_threshold(50_000, 20, 20)
    while True:
        try:
            candidate = connection.recv()
            connection.send(_build(candidate, target))
        except (EOFError, OSError):
            return


def _build(candidate: Candidate, target: Target) -> Build:
    begun = time.perf_counter()
    try:
        schedule = _replay(candidate.workload).apply(Trace.from_json(candidate.trace))
        program = build_program(schedule, target)
    except TilewrightError as error:
        return Build(None, "compile_error", error.message, time.perf_counter() - begun)
    except MemoryError as error:
        return Build(None, "out_of_memory", str(error), time.perf_counter() - begun)
    except Exception as error:  # a defect of the compiler: the search goes on, and the record tells
        return Build(None, "compile_error", f"{type(error).__name__}: {error}", time.perf_counter() - begun)
    return Build(program, seconds=time.perf_counter() - begun)


@functools.lru_cache(64)
def _replay(workload: str) -> Replay:
    return Replay(parse(workload))
