"""LLVM IR texts to object files: cached, and side by side in worker processes.

:func:`compile_many` is the one way to do it. Texts go to a pool of workers (see
:mod:`tilewright.backend.llvm.worker`) that is started on first need and kept for a while. Workers are plain
child processes that talk over pipes: nothing is asked of the user's script, a crash of LLVM, which ends the
process that it happens in, takes one worker with it and becomes an error message, Ctrl-C ends them, and if
this process dies in any way they read the end of their input and leave. Only where processes cannot be
started is LLVM's code generator run in this one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from io import BufferedReader, BufferedWriter
from typing import IO, cast

from tilewright.backend.llvm import worker
from tilewright.cache import DiskCache, cache_key
from tilewright.errors import CompileError
from tilewright.target import Target

OPT_LEVEL = 2
"""Optimization level of LLVM's code generator. 1 compiles faster, 3 is no better; see docs/runtime.md."""
IDLE_SECONDS = 30.0
"""Workers without work leave after this time."""

Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""


@functools.cache
def _llvm_version() -> str:
    import llvmlite
    import llvmlite.binding as llvm

    return f"llvmlite {llvmlite.__version__} LLVM {'.'.join(map(str, llvm.llvm_version_info))}"


def object_key(text: str, target: Target) -> str:
    """The cache key of the object that ``text`` compiles to: it names everything the result depends on."""
    machine = (target.triple, target.cpu, target.features)
    return cache_key("object", _llvm_version(), str(OPT_LEVEL), *machine, text)


def compile_many(
    texts: Sequence[str],
    target: Target,
    jobs: int = 1,
    progress: Progress | None = None,
    cache: DiskCache | None = None,
) -> list[bytes]:
    """Compile LLVM IR texts to object files for ``target``, in the order given; equal texts are compiled
    once.

    Args:
        texts: LLVM IR modules.
        target: what to generate code for.
        jobs: how many to compile at the same time (one, for any number below).
        progress: told about each finished text.
        cache: looked up before and filled after compiling.

    Raises:
        CompileError: LLVM rejected a text or crashed on it.
        CacheError: the cache cannot be read or written.
    """
    keys = [object_key(text, target) for text in texts]
    found: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for key, text in zip(keys, texts, strict=True):
        if key in found or key in missing:
            continue
        data = cache.get(key) if cache is not None else None
        if data is None:
            missing[key] = text
        else:
            found[key] = data
    total = len(found) + len(missing)

    def finished(key: str, data: bytes) -> None:
        if cache is not None:
            cache.put(key, data)
        found[key] = data
        if progress is not None:
            progress(len(found), total)

    if progress is not None and found:
        progress(len(found), total)
    if missing:
        with _pool_lock:
            try:
                _pool.compile(missing, target, max(min(jobs, len(missing)), 1), finished)
            except _NoWorkerError:
                for key in missing.keys() - found.keys():
                    finished(key, _compile_here(missing[key], target))
            finally:
                _retire_later()
    return [found[key] for key in keys]


def _compile_here(text: str, target: Target) -> bytes:
    try:
        return worker.emit_object(text, target.triple, target.cpu, target.features, OPT_LEVEL)
    except RuntimeError as error:
        raise _rejected(text, str(error)) from error


def _rejected(text: str, reason: str) -> CompileError:
    defined = re.search(r"^define [^@\n]*@([\w.$-]+)", text, re.MULTILINE)
    name = defined.group(1) if defined else "?"
    return CompileError(f"LLVM did not compile the module of '{name}': {reason.strip()}")


class _NoWorkerError(Exception):
    """This process cannot start others: it does not know its interpreter, or the system forbids it."""


class _Worker:
    """One child process and the text it is working on. Raises _NoWorkerError when it cannot be started."""

    def __init__(self) -> None:
        if not sys.executable:  # embedded in another program
            raise _NoWorkerError
        # A private file, not a pipe, for its messages: nobody needs to read along for it to go on.
        try:
            self.messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`
        except OSError as error:
            raise _NoWorkerError from error
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.messages,
                env=environment,
                process_group=0,  # Ctrl-C at the terminal is for this process, which then stops the workers
            )
        except OSError as error:
            self.messages.close()
            raise _NoWorkerError from error
        self.requests = cast("BufferedWriter", self.process.stdin)
        self.replies = cast("BufferedReader", self.process.stdout)
        self.key: str | None = None

    def send(self, key: str, text: str, target: Target) -> None:
        """Start on ``text``. If the process is gone, :meth:`receive` will tell."""
        self.key = key
        head = {"triple": target.triple, "cpu": target.cpu, "features": target.features, "opt": OPT_LEVEL}
        with contextlib.suppress(OSError):
            worker.write_frame(self.requests, json.dumps(head).encode())
            worker.write_frame(self.requests, text.encode())

    def receive(self) -> bytes | None:
        """The reply, or None if the process died instead."""
        return worker.read_frame(self.replies)

    def last_words(self) -> str:
        """The end of what it wrote to its standard error, and how it ended."""
        status = self.process.wait()
        self.messages.seek(0)
        tail = self.messages.read().decode(errors="replace").strip().splitlines()[-5:]
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"the compile worker ended with {how}" + "".join(f"\n    {line}" for line in tail)

    def stop(self) -> None:
        """End the process at once and release everything it holds."""
        self.process.kill()
        self.process.wait()
        for stream in (self.requests, self.replies, self.messages):
            with contextlib.suppress(OSError):
                stream.close()


class _Pool:
    """Worker processes, kept between calls. Not thread-safe: callers hold ``_pool_lock``."""

    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        self.busy: set[_Worker] = set()

    def compile(
        self, texts: dict[str, str], target: Target, jobs: int, finished: Callable[[str, bytes], None]
    ) -> None:
        """Compile ``texts`` (by key), at most ``jobs`` at a time. On any error, all that is under way is
        abandoned. Raises CompileError, and _NoWorkerError before any text has been tried.
        """
        waiting = sorted(texts, key=lambda key: len(texts[key]))  # the longest first (from the end)
        crashed: set[str] = set()
        busy = self.busy
        with selectors.DefaultSelector() as selector:

            def give(process: _Worker) -> None:
                key = waiting.pop()
                process.send(key, texts[key], target)

            try:
                while waiting and len(busy) < jobs:
                    try:
                        process = self.idle.pop() if self.idle else _Worker()
                    except _NoWorkerError:
                        if busy:
                            break  # fewer do it, too
                        raise
                    busy.add(process)
                    selector.register(process.replies, selectors.EVENT_READ, process)
                    give(process)
                while busy:
                    for ready, _ in selector.select():
                        process = ready.data
                        reply, key = process.receive(), process.key
                        if reply is None:
                            words = process.last_words()
                            selector.unregister(ready.fileobj)
                            busy.discard(process)
                            process.stop()
                            if key in crashed:
                                raise _rejected(texts[key], words)
                            # Once may be bad luck (the system was out of memory); twice is the text's fault.
                            crashed.add(key)
                            waiting.append(key)
                            try:
                                process = _Worker()
                            except _NoWorkerError:  # and it must not be tried in this process
                                raise _rejected(texts[key], words) from None
                            busy.add(process)
                            selector.register(process.replies, selectors.EVENT_READ, process)
                        elif reply[:1] != worker.OBJECT:
                            raise _rejected(texts[key], reply[1:].decode(errors="replace"))
                        else:
                            finished(key, reply[1:])
                        if waiting:
                            give(process)
                        else:
                            selector.unregister(process.replies)
                            busy.discard(process)
                            process.key = None
                            self.idle.append(process)
            finally:
                while busy:
                    busy.pop().stop()

    def stop(self) -> None:
        """End the idle workers."""
        while self.idle:
            self.idle.pop().stop()


_pool = _Pool()
_pool_lock = threading.Lock()
_retirement: threading.Timer | None = None


def _after_fork() -> None:
    """In a forked child: the workers are the parent's. Let go of the pipes (or they would outlive it)
    without a flush.
    """
    global _pool, _pool_lock, _retirement
    for process in (*_pool.idle, *_pool.busy):
        for stream in (process.requests, process.replies):
            with contextlib.suppress(OSError):
                stream.raw.close()
        process.process.returncode = 0  # not this process's child: nothing to wait for
    _pool, _pool_lock, _retirement = _Pool(), threading.Lock(), None


def _retire_later() -> None:
    """Let the workers go unless they get work within :data:`IDLE_SECONDS`. Callers hold ``_pool_lock``."""
    global _retirement
    if _retirement is not None:
        _retirement.cancel()
    _retirement = threading.Timer(IDLE_SECONDS, _retire)
    _retirement.daemon = True
    try:
        _retirement.start()
    except RuntimeError:  # the system starts no more threads
        _retirement = None
        _pool.stop()


@atexit.register
def _retire() -> None:
    # If the lock is taken, the workers are busy, and their retirement will be set anew.
    if _pool_lock.acquire(blocking=False):
        try:
            _pool.stop()
        finally:
            _pool_lock.release()


os.register_at_fork(after_in_child=_after_fork)
