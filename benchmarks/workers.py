"""Work in processes that may crash, hang or ask for too much memory without taking the others down."""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

#: Processes are forked: what the caller has loaded is there at once. It must not have threads.
_CONTEXT: Final = multiprocessing.get_context("fork")


@dataclasses.dataclass(frozen=True)
class Reply:
    """What became of one item: the function's ``value``, or in ``error`` why there is none."""

    index: int
    value: Any = None
    error: str | None = None


class _Worker:
    """One process and the item it is at."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any], memory: int) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process: BaseProcess = _CONTEXT.Process(target=_serve, args=(theirs, function, items, memory))
        self.process.start()
        theirs.close()
        self.index: int | None = None
        self.deadline = 0.0

    def give(self, index: int, seconds: float) -> None:
        self.index, self.deadline = index, time.monotonic() + seconds
        self.pipe.send(index)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any], items: Sequence[Any], memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        pipe.send(function(items[index]))


def each(
    function: Callable[[Any], Any], items: Sequence[Any], *, processes: int, seconds: float, memory: int
) -> Iterator[Reply]:
    """``function`` of every item, in the order in which they finish.

    ``function`` returns something that can be pickled and raises nothing. An item during which its process
    dies, or that takes longer than ``seconds``, is answered with an error; a new process goes on with the
    rest. ``memory`` bounds the address space of each process in bytes.
    """
    todo = iter(range(len(items)))
    workers = [_Worker(function, items, memory) for _ in range(min(processes, len(items)))]
    try:
        for worker in workers:
            worker.give(next(todo), seconds)
        while busy := [w for w in workers if w.index is not None]:
            patience = max(min(w.deadline for w in busy) - time.monotonic(), 0.0)
            ready = wait([w.pipe for w in busy], patience)
            for worker in busy:
                assert worker.index is not None
                if worker.pipe in ready:
                    reply = _receive(worker)
                elif time.monotonic() >= worker.deadline:
                    reply = Reply(worker.index, error=f"no result after {seconds:g} s")
                else:
                    continue
                if reply.error is not None:
                    worker.stop()
                    workers[workers.index(worker)] = worker = _Worker(function, items, memory)
                worker.index = None
                if (following := next(todo, None)) is not None:
                    worker.give(following, seconds)
                yield reply
    finally:
        for worker in workers:
            worker.stop()


def _receive(worker: _Worker) -> Reply:
    assert worker.index is not None
    try:
        return Reply(worker.index, worker.pipe.recv())
    except EOFError:
        worker.process.join()
        code = worker.process.exitcode
        return Reply(worker.index, error=f"the process died with exit code {code}")
