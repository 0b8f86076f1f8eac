"""Making a failure smaller: fewer primitives, then fewer stages, smaller sizes and simpler expressions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.fuzz.campaign import Found, repeat
from tests.fuzz.checks import Failure
from tests.fuzz.driver import Broken, replay
from tests.fuzz.reduce import reductions, resized


def minimise(found: Found, seconds: float = 60.0) -> Found:
    """The smallest failure of the same kind that was come by in the time; ``found`` itself when it does not
    repeat.
    """
    search = _Search(found, time.monotonic() + seconds)
    best = search.accept(found) or found
    if found.failure.check == "resized":
        best = search.plainly(best)
    while True:
        before = best
        best = search.fewer_instructions(best)
        best = search.simpler_case(best)
        best = search.smaller_arguments(best)
        if best is before:
            return search.tidied(best)


@dataclasses.dataclass
class _Search:
    """Attributes: found: the failure that was met; deadline: when to be content with what there is."""

    found: Found
    deadline: float

    def accept(self, candidate: Found) -> Found | None:
        """The candidate with what is observed of it, when that is the same kind of failure."""
        if time.monotonic() > self.deadline:
            return None
        try:
            repeat(candidate)
        except Failure as failure:
            wanted = candidate.failure
            if (failure.check, failure.kind) == (wanted.check, wanted.kind):
                return dataclasses.replace(candidate, failure=failure)
        except Exception:
            return None  # a program that means nothing
        return None

    def plainly(self, found: Found) -> Found:
        """A failure in another shape, as one of that shape alone."""
        case = resized(found.case, Random(f"{found.check_seed} resized"))
        for check in ("verified", "scheduled", "lowered") if case is not None else ():
            failure = Failure(check, found.failure.kind, "")
            smaller = self.accept(dataclasses.replace(found, case=case, failure=failure))
            if smaller is not None:
                return smaller
        return found

    def fewer_instructions(self, found: Found) -> Found:
        """Without instructions that it does not take; what depends on one goes with it."""
        size = max(1, len(found.instructions) // 2)
        while True:
            end = len(found.instructions)
            while end > 0:
                start = max(0, end - size)
                kept = found.instructions[:start] + found.instructions[end:]
                smaller = self.accept(dataclasses.replace(found, instructions=kept))
                found = smaller or found
                end = start
            if size == 1:
                return found
            size //= 2

    def simpler_case(self, found: Found) -> Found:
        """A smaller program, as long as one of the next smaller ones fails too."""
        changed = True
        while changed and time.monotonic() < self.deadline:
            changed = False
            for case in reductions(found.case):
                smaller = self.accept(dataclasses.replace(found, case=case))
                if smaller is not None:
                    found, changed = smaller, True
                    break
        return found

    def smaller_arguments(self, found: Found) -> Found:
        """Smaller numbers in the arguments of primitives."""
        for n in range(len(found.instructions)):
            for attrs in _smaller(found.instructions[n].attrs):
                fresh = dataclasses.replace(found.instructions[n], attrs=attrs)
                instructions = (*found.instructions[:n], fresh, *found.instructions[n + 1 :])
                smaller = self.accept(dataclasses.replace(found, instructions=instructions))
                if smaller is not None:
                    found = smaller
                    break
        return found

    def tidied(self, found: Found) -> Found:
        """With the instructions that did apply, under names in order."""
        try:
            instructions = replay(found.case.func, found.instructions, found.symbolic).trace.instructions
        except Broken as broken:
            instructions = broken.trace.instructions
        except Exception:
            return found
        tidy = dataclasses.replace(found, instructions=instructions)
        self.deadline = time.monotonic() + 10
        return self.accept(tidy) or found


def _smaller(attrs: Any) -> Iterator[dict[str, Any]]:
    """The arguments with one number smaller."""
    for key, value in attrs.items():
        if type(value) is int and value > 1 and key != "value":
            yield {**attrs, key: value - 1}
        if isinstance(value, list):
            for n, item in enumerate(value):
                if type(item) is int and item > 1:
                    yield {**attrs, key: [*value[:n], 1, *value[n + 1 :]]}
                    yield {**attrs, key: [*value[:n], item - 1, *value[n + 1 :]]}


def size_of(found: Found) -> tuple[int, int]:
    """Characters of the program's text and number of instructions: what minimising makes smaller."""
    return len(repr(found.case.func)), len(found.instructions)
