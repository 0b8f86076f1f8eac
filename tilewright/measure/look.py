"""A first look at candidates: how fast each is beside a reference program, in as few calls as will do.

Most candidates of a search are far from the best one, and a turn of two milliseconds shows it; only those
that may matter get longer turns. The reference runs between candidates, so each has it on both sides, and
where it has changed meanwhile the candidate is looked at again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Final

from tilewright.measure.timing import Call
from tilewright.records.record import Sample

#: A call of so many seconds is not repeated to be sure: the pages that the first one pays for are less.
LONG: Final = 0.1


@dataclasses.dataclass(frozen=True)
class Look:
    """How candidates are looked at.

    Attributes:
        short_seconds: the calls of a first turn last at least this long.
        long_seconds: those of the turns that promising candidates get.
        turns: how many these are.
        promising: a candidate is when its time, relative to the reference's, is at most so many times that of
            the best one.
        hopeless: so many times the reference's time, and of a candidate one call is enough.
        calm: the times of the reference before and after a turn differ by at most this, relative to the time,
            or the turn is repeated.
        tries: how often.
    """

    short_seconds: float = 2e-3
    long_seconds: float = 5e-3
    turns: int = 3
    promising: float = 1.1
    hopeless: float = 8.0
    calm: float = 0.1
    tries: int = 2


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a look has shown: all samples, and whether the machine was not calm during any turn."""

    samples: tuple[Sample, ...]
    disturbed: bool

    @property
    def ratio(self) -> float:
        """The median time relative to the reference's."""
        return statistics.median(s.seconds / (s.reference or math.inf) for s in self.samples)


class Looker:
    """Looks at candidates one after the other.

    Args:
        reference: what runs between them.
        look: how.
        best: the least ratio of a candidate to the reference so far.
        clock: in seconds.
        told: is given every sample as soon as it is measured.

    Attributes:
        best: the least ratio of a candidate to the reference so far.
        beside: the last time of the reference.
    """

    def __init__(
        self,
        reference: Call,
        look: Look,
        best: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
        told: Callable[[Sample], None] | None = None,
    ) -> None:
        self.best = best
        self._reference, self._look, self._clock, self._told = reference, look, clock, told
        self._reference()
        self.beside = self._turn(reference, look.short_seconds, self._once(reference))

    def __call__(self, program: Call, once: float) -> Seen:
        """Look at a program of which one call has taken ``once`` seconds."""
        look = self._look
        if look.hopeless * self.beside < once < LONG:
            once = min(once, self._once(program))  # the first one pays for pages
        if once > look.hopeless * self.beside:
            return Seen((self._sample(once, self.beside),), False)
        samples, calm = self._turns(program, look.short_seconds, once)
        seen = Seen(tuple(samples), not calm)
        if seen.ratio <= look.promising * self.best:
            quiet = calm
            for _ in range(look.turns):
                more, calm = self._turns(program, look.long_seconds, once)
                samples += more
                quiet = quiet and calm
            seen = Seen(tuple(samples), not quiet)
            if not seen.disturbed:
                self.best = min(self.best, seen.ratio)
        return seen

    def _turns(self, program: Call, seconds: float, once: float) -> tuple[list[Sample], bool]:
        """Turns of the program until one was calm, and whether the last one was."""
        samples: list[Sample] = []
        calm = False
        for _ in range(self._look.tries):
            before = self.beside
            taken = self._turn(program, seconds, once)
            self.beside = after = self._turn(self._reference, self._look.short_seconds, before)
            samples.append(self._sample(taken, math.sqrt(before * after)))
            calm = abs(math.log(before / after)) <= self._look.calm
            if calm:
                break
        return samples, calm

    def _sample(self, seconds: float, reference: float) -> Sample:
        sample = Sample(max(seconds, 1e-12), max(reference, 1e-12))
        if self._told is not None:
            self._told(sample)
        return sample

    def _turn(self, program: Call, seconds: float, once: float) -> float:
        """Seconds of a call in a turn; the first one does not count: others have used the caches since."""
        program()
        count = min(max(math.ceil(seconds / max(once, 1e-7)), 1), 1 << 16)
        begin = self._clock()
        for _ in range(count):
            program()
        return max((self._clock() - begin) / count, 1e-12)

    def _once(self, program: Call) -> float:
        begin = self._clock()
        program()
        return max(self._clock() - begin, 1e-12)
