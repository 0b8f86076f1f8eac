"""What the children of a runner do: check programs, look at them, let them race.

A job gets the task's arrays from :class:`Places`, which the worker has filled before it forked, so that
children copy nothing but what they write to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import mmap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from tilewright.errors import TilewrightError
from tilewright.measure.look import Look, Looker
from tilewright.measure.program import Arrays, Blocks, Bound, Loaded, Parameter, Program, copies, laid_out
from tilewright.measure.timing import Plan, Race, race
from tilewright.measure.verdict import Judge
from tilewright.records.record import Sample

#: Calls of a check, of which the first one pays for pages and threads.
CALLS: Final = 4
#: Bytes of inputs in other layouts that a worker keeps for the next candidates.
KEPT_BYTES: Final = 1 << 30
#: Most copies of an input that comes from memory.
MOST_COPIES: Final = 256

Send = Callable[[object], None]


@dataclasses.dataclass(frozen=True)
class Task:
    """What all candidates of a workload share.

    Attributes:
        params: the kernel's arguments, outputs last.
        inputs: data for those before the outputs.
        expected: the outputs, computed by something trusted.
        rtol: how far an output may be off, relative to the largest expected one.
        off_by_one: the share of an integer output that may be off by one.
        cold: names of inputs that calls find in memory, not in caches: a model's weights.
        flush_bytes: how many bytes of copies of these inputs there are at least.
    """

    params: tuple[Parameter, ...]
    inputs: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]
    rtol: float = 1e-4
    off_by_one: float = 0.0
    cold: frozenset[str] = frozenset()
    flush_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: one of :data:`tilewright.records.STATUSES`.
        error: for failures, what happened.
        seconds: for a check or a look, the least of a few calls.
        race: for races that ended.
        samples: every time that was seen, by program, also when the race did not end.
        disturbed: whether the machine was not calm while it was looked at.
    """

    status: str
    error: str = ""
    seconds: float | None = None
    race: Race | None = None
    samples: tuple[tuple[Sample, ...], ...] = ()
    disturbed: bool = False


class Places:
    """Arrays of a task in memory, in the layouts that programs want, between guards.

    Args:
        task: what is computed.
        functions: the thread pool's functions, by name.
        threads: threads of a call.
        blocks: memory for copies of inputs, that of other tasks included.
    """

    def __init__(self, task: Task, functions: Mapping[str, int], threads: int, blocks: Blocks) -> None:
        self.task = task
        self._blocks = blocks
        self.judge = Judge(task.params[len(task.inputs) :], task.expected, task.rtol, task.off_by_one)
        self._functions, self._threads = functions, threads
        cold = sum(d.nbytes for p, d in self._given() if p.name in task.cold)
        self._copies = 1 if not cold else min(max(-(-task.flush_bytes // cold), 1), MOST_COPIES)
        self._kept: dict[tuple[str, str], _Placed] = {}
        self._turns = itertools.count(1)

    def _given(self) -> Iterable[tuple[Parameter, np.ndarray]]:
        return zip(self.task.params, self.task.inputs, strict=False)

    def prepare(self, programs: Iterable[Program]) -> None:
        """Have inputs laid out as the programs want them, as far as there is room; what has been longest
        without use goes. A layout that cannot be had is for the child to say.
        """
        wanted = [(p, d, program.layouts.get(p.name, "")) for program in programs for p, d in self._given()]
        for param, data, layout in wanted:
            key = param.name, layout
            if key in self._kept:
                self._kept[key] = self._kept.pop(key)
            elif self._makes_room(param, data, {(p.name, how) for p, _, how in wanted}):
                with contextlib.suppress(TilewrightError, ValueError, MemoryError):
                    self._kept[key] = self._place(param, data, layout)

    def _makes_room(self, param: Parameter, data: np.ndarray, wanted: set[tuple[str, str]]) -> bool:
        needed = data.nbytes * (self._count(param) + 1)
        for key in [key for key in self._kept if key not in wanted]:
            if needed + self._bytes() <= KEPT_BYTES:
                break
            self._drop(key)
        return not self._kept or needed + self._bytes() <= KEPT_BYTES

    def _bytes(self) -> int:
        return sum(placed.nbytes for placed in self._kept.values())

    def _count(self, param: Parameter) -> int:
        return self._copies if param.name in self.task.cold else 1

    def _place(self, param: Parameter, data: np.ndarray, layout: str) -> _Placed:
        stored, strides = laid_out(param, data, layout)
        guards = Arrays()
        arrays = [guards.put(stored, strides)]
        if (others := self._count(param) - 1) > 0:
            # From the first one: elements of what a layout gives may lie far apart.
            more, block = copies(arrays[0], strides, others, self._blocks.take)
            return _Placed(arrays[0].copy(), [*arrays, *more], guards, block)
        return _Placed(arrays[0].copy(), arrays, guards)

    def _drop(self, key: tuple[str, str]) -> None:
        if (block := self._kept.pop(key).block) is not None:
            self._blocks.give(block)

    def release(self) -> None:
        """Give back all memory; another task comes."""
        for key in list(self._kept):
            self._drop(key)

    def bind(self, program: Program) -> Placed:
        """The program with its arguments in place. Raises what loading it raises."""
        memory = Arrays()
        used: list[_Placed] = []

        def laid(param: Parameter, data: np.ndarray, layout: str) -> Sequence[np.ndarray]:
            key = param.name, layout
            if key not in self._kept:
                self._kept[key] = self._place(param, data, layout)
            used.append(self._kept[key])
            return self._kept[key].arrays

        loaded = Loaded(program, self._functions, self._threads)
        bound = loaded.bind(self.task.params, self.task.inputs, memory, laid, self._turns)
        return Placed(bound, memory, used)


@dataclasses.dataclass(frozen=True)
class _Placed:
    """An input in a layout: what it is, its copies, guards around the first one, memory of the others."""

    given: np.ndarray
    arrays: Sequence[np.ndarray]
    guards: Arrays
    block: mmap.mmap | None = None

    @property
    def nbytes(self) -> int:
        return self.given.nbytes * (len(self.arrays) + 1)

    def intact(self) -> bool:
        """Whether the first copy is as it was, and what is beside it too."""
        return _same(self.arrays[0], self.given) and not self.guards.damaged()


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one shape and type have the same bytes; most are compared eight at a time."""
    left, right = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (one, other))
    whole = left.size // 8 * 8
    same = np.array_equal(left[:whole].view(np.uint64), right[:whole].view(np.uint64))
    return same and np.array_equal(left[whole:], right[whole:])


@dataclasses.dataclass(frozen=True)
class Placed:
    """A program with its arguments in place, and what shows whether it writes elsewhere."""

    call: Bound
    memory: Arrays
    inputs: Sequence[_Placed]

    def harmless(self) -> bool:
        """Whether inputs are as they were, and nothing was written beside any array."""
        return not self.memory.damaged() and all(placed.intact() for placed in self.inputs)


def checked(
    places: Places, program: Placed, calls: int, send: Send, patience: float = float("inf")
) -> tuple[Outcome, tuple[float, ...]]:
    """Run a program up to ``calls`` times; right if it computes what is expected twice, as the second call
    finds the results of the first, on which it must not build. A call of over ``patience`` seconds is the
    last one. What became of it, and the seconds of each call.

    The first call has the copies of arguments that have guards, later ones have others: weights come from
    memory, so that their times may count.
    """
    times: list[float] = []
    for number in range(calls):
        run = program.call if number else program.call.first
        begin = time.perf_counter()
        status = run()
        times.append(max(time.perf_counter() - begin, 1e-12))
        send(("alive",))
        if status:
            return Outcome("refused", f"it ended with status {status}"), ()
        if number < 2 and (wrong := places.judge(program.call.outputs)) is not None:
            return Outcome(*wrong), ()
        if times[-1] > patience:
            break
    if not program.harmless():
        return Outcome("wrong_result", "it writes outside of its arrays"), ()
    return Outcome("ok", seconds=min(times[1:] or times)), tuple(times)


def check(places: Places, program: Program, send: Send) -> Outcome:
    """See whether a program is right, and about how fast."""
    return checked(places, places.bind(program), CALLS, send)[0]


def race_programs(
    places: Places, programs: Sequence[Program], reference: int | Program, plan: Plan, send: Send
) -> Outcome:
    """Let right programs run against each other."""
    bound = [places.bind(p).call for p in programs]
    beside = bound[reference] if isinstance(reference, int) else places.bind(reference).call
    found = race(bound, beside, plan, seen=lambda n, sample: send(("sample", n, sample)))
    return Outcome("ok", race=found)


def look_at(
    places: Places,
    programs: Sequence[tuple[int, Program]],
    reference: Program,
    look: Look,
    best: float,
    send: Send,
) -> Outcome:
    """Check programs one after the other and look at the right ones; ends at the first that fails, since what
    that did may have spoilt this process for others.
    """
    beside = places.bind(reference).call
    told: list[Sample] = []
    current = programs[0][0]

    def tell(sample: Sample) -> None:
        told.append(sample)
        send(("sample", current, sample))

    looker = Looker(beside, look, best, told=tell)
    for current, program in programs:
        send(("begin", current))
        told.clear()
        outcome = _looked(places, program, looker, look, send)
        send(("done", current, dataclasses.replace(outcome, samples=(tuple(told),) if told else ())))
        if outcome.status != "ok":
            break
    return Outcome("ok")


def _looked(places: Places, program: Program, looker: Looker, look: Look, send: Send) -> Outcome:
    try:
        placed = places.bind(program)
        outcome, calls = checked(places, placed, 2, send, patience=look.hopeless * looker.beside)
    except MemoryError as error:
        return Outcome("out_of_memory", str(error) or "no memory was left")
    except TilewrightError as error:
        return Outcome("refused", error.message)
    if outcome.status != "ok":
        return outcome
    seen = looker(placed.call, calls)
    return dataclasses.replace(outcome, disturbed=seen.disturbed)


JOBS: Final[Mapping[str, Callable[..., Outcome]]] = {"check": check, "race": race_programs, "look": look_at}
