"""Programs that live in several processes, timed in turns: one process runs while the others are stopped.

Waiting is not enough: threads of some runtimes look for work for a tenth of a second after they have had any,
on the cores that the next process needs.

A server is a process that says a line ``{"ready": [{"seconds": s}, ...]}`` with a rough time of a call of
each of its programs, then answers each line ``{"program": p, "calls": n}`` with ``{"seconds": mean}`` of so
many calls after one that does not count. This module is such a server for programs of ours:

    python -m benchmarks.turns '{"kernel": ["ResNet-50", "conv", [...]], "traces": [...], ...}'
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.kernels import Kernel
from tilewright.measure.program import Arrays, Bound, Loaded, build_program, parameters, runtime_functions
from tilewright.schedule import Trace
from tilewright.target import Target

#: Programs of ours are checked against NumPy with this difference, relative to the largest expected value.
TOLERANCE = 1e-4


class ServerError(Exception):
    """A server has ended, or says something else than it should; with the end of what it wrote."""


@dataclasses.dataclass(frozen=True)
class Command:
    """How to start a server: its arguments and what is added to the environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Server:
    """A running server; use it in ``with``. Raises ServerError when it cannot be started."""

    def __init__(self, command: Command) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            command.arguments,
            env={**os.environ, **command.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            process_group=0,  # the system continues, and ends, stopped groups that have lost their parent
        )
        try:
            self.rough = [float(entry["seconds"]) for entry in self._line()["ready"]]
        except BaseException:
            self.close()
            raise
        os.killpg(self._process.pid, signal.SIGSTOP)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            raise ServerError(self._errors.read()[-2000:].strip() or f"it ended with status {status}")
        return dict(json.loads(line))

    def run(self, program: int, calls: int) -> float:
        """Mean seconds of so many calls of a program; the process is stopped before and afterwards."""
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"program": program, "calls": calls}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why is told when the line does not come
        seconds = float(self._line()["seconds"])
        os.killpg(self._process.pid, signal.SIGSTOP)
        return seconds


def take_turns(
    commands: Sequence[Command], starts: int, rounds: int, seconds: float, seed: int = 0
) -> list[list[list[float]]]:
    """Time the programs of several servers in turns, each round in another order.

    Args:
        starts: how often the processes start anew: addresses and pages differ from process to process.
        rounds: in each of them; every program has one turn in a round.
        seconds: that a turn lasts, roughly.

    Returns:
        By server and program, the mean seconds of a call for each of the ``starts * rounds`` rounds.
    """
    order = random.Random(seed)
    found: list[list[list[float]]] = []
    for _ in range(starts):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Server(command)) for command in commands]
            found = found or [[[] for _ in server.rough] for server in servers]
            turns = [
                (s, p, max(1, math.ceil(seconds / max(rough, 1e-7))))
                for s, server in enumerate(servers)
                for p, rough in enumerate(server.rough)
            ]
            for _ in range(rounds):
                for s, p, calls in order.sample(turns, len(turns)):
                    found[s][p].append(servers[s].run(p, calls))
    return found


# ------------------------------------------------------------------------------------------- a server of ours
def _ours(request: dict[str, Any]) -> list[Bound]:
    """The programs of the request's traces, checked."""
    network, kind, sizes = request["kernel"]
    kernel = Kernel(network, kind, tuple(sizes))
    *inputs, expected = kernel.arrays(request["seed"])
    func = kernel.func()
    target = Target.host()
    functions = runtime_functions(target)
    programs = []
    for trace in request["traces"]:
        program = build_program(Trace.from_json(trace).apply(func), target)
        bound = Loaded(program, functions, request["threads"]).bind(parameters(func), inputs, Arrays())
        status = bound()
        error = float(np.abs(bound.outputs[0] - expected).max() / np.abs(expected).max())
        if status or not error <= TOLERANCE:
            raise SystemExit(f"a program ends with {status} and differs from NumPy by {error:.2g}: {trace}")
        programs.append(bound)
    return programs


def _timed(call: Bound, calls: int) -> float:
    call()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def main() -> None:
    """Serve the programs of the request."""
    programs = _ours(json.loads(sys.argv[1]))
    print(json.dumps({"ready": [{"seconds": _timed(call, 3)} for call in programs]}), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps({"seconds": _timed(programs[wanted["program"]], wanted["calls"])}), flush=True)


if __name__ == "__main__":
    main()
