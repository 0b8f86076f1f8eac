"""Processes that serve this one.

They start from nothing, so that neither this process's threads nor its locks are in them, and they do not
run its main script again: a script that tunes needs no guard around what it does, and may come from standard
input.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tilewright.errors import TilewrightError

#: What a new process does: take over this one's import path, then serve.
_BEGIN = """
import sys
from multiprocessing.connection import Connection
try:
    connection = Connection(int(sys.argv[1]))
    sys.path[:] = connection.recv()
    serve, arguments = connection.recv()
except EOFError:
    sys.exit()
serve(connection, *arguments)
"""


class Process:
    """A process that runs ``serve(connection, *arguments)``; it is to end when its connection does.

    Args:
        serve: a function of an importable module.
        arguments: what can be pickled.

    Attributes:
        connection: to it. Closed, or this process gone, the other side raises EOFError.

    Raises:
        TilewrightError: the system does not let a process start, or it ended at once.
    """

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs:
            # The module's name is for people who look at the system's list of processes.
            command = [sys.executable, "-P", "-c", _BEGIN, str(theirs.fileno()), serve.__module__]
            try:
                # Ctrl-C at the terminal is for this process: the new one is in a group of its own.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
                )
            except OSError as error:
                self.connection.close()
                raise TilewrightError(f"no process can be started: {error}") from error
        try:
            self.connection.send(sys.path)
            self.connection.send((serve, arguments))
        except OSError as error:
            self.stop()
            raise TilewrightError(f"a process of Python's ended as it began: {error}") from error

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def stop(self, patience: float = 0.0) -> None:
        """Close the connection, and kill what does not end within ``patience`` seconds."""
        self.connection.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
