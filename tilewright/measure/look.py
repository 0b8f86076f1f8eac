"""A first look at candidates: how fast each is beside a reference program, in as few calls as will do.

Most candidates of a search are far from the best one, and the calls that show whether they are right show
that, too; only those that may matter get turns of their own, one after the other, until it is certain that
they are slower than the best. The reference runs between candidates, so each has it on both sides, and where
it has changed meanwhile the candidate is looked at again.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from tilewright.measure.timing import Call
from tilewright.records.record import Sample

#: A call of so many seconds is not repeated to be sure that a candidate is hopeless: the pages that the first
#: one pays for are less, and so are most stalls.
LONG: Final = 0.02
#: A call of so many seconds is long beside what it pays for what others have left in the caches: it says
#: something that it takes many times as long as one of the reference in a turn.
TELLING: Final = 5e-4
#: Parts of a turn that are timed one by one, at most.
PARTS: Final = 8
#: Standard deviation of the logarithm of a turn's time: the least that is believed, and what is taken until
#: so many pairs of turns of the reference have shown it. The last ones count.
QUIET: Final = 0.01
UNKNOWN: Final = 0.03
PAIRS: Final = 4
RECENT: Final = 32
#: Half the width of a 95 % confidence interval, in standard deviations.
SURE: Final = 1.96


@dataclasses.dataclass(frozen=True)
class Look:
    """How candidates are looked at.

    Attributes:
        short_seconds: the calls of a first turn last at least this long.
        long_seconds: those of the turns that promising candidates get.
        turns: how many these are at most.
        far: so many times the best one's time, relative to the reference, and the calls of the check are all
            that a candidate gets, if each of them lasted ``short_seconds``.
        hopeless: so many times the reference's time, and of a candidate one call is enough.
        calm: the times of the reference before and after a turn differ by at most this, relative to the time,
            or the turn is repeated.
        tries: how often.
        fresh: seconds for which a time of the reference may stand beside a call of a check.
    """

    short_seconds: float = 2e-3
    long_seconds: float = 5e-3
    turns: int = 2
    far: float = 1.25
    hopeless: float = 8.0
    calm: float = 0.1
    tries: int = 2
    fresh: float = 0.1


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
        self._changes: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._reference()
        self.beside = self._once(reference)
        self._again()
        self._changes.clear()  # one call says less than a turn

    def __call__(self, program: Call, calls: Sequence[float]) -> Seen:
        """Look at a program of which the calls that have checked it took so many seconds, the first of them
        with what is only paid once."""
        look = self._look
        calls = list(calls)
        if len(calls) == 1 and calls[0] < LONG:
            calls.append(self._once(program))
        if min(calls) > max(look.hopeless * self.beside, TELLING):
            return Seen((self._sample(min(calls), self.beside),), False)
        if self._far(calls):
            before = self.beside
            change = 0.0 if self._clock() - self._when <= look.fresh else self._again()
            if change <= look.calm and self._far(calls):
                return Seen((self._sample(calls[-1], math.sqrt(before * self.beside)),), False)
        samples: list[Sample] = []
        logs: list[float] = []
        quiet, seconds, fastest = True, look.short_seconds, min(calls)
        for _ in range(1 + look.turns):
            more, change, part = self._turns(program, seconds, fastest)
            samples += more
            fastest = min(fastest, part)
            logs += [math.log(s.seconds / (s.reference or math.inf)) for s in more]
            calm = change <= look.calm
            quiet, seconds = quiet and calm, look.long_seconds
            width = self._width(len(logs)) + (0.0 if calm else change)
            # A stall makes a turn long; not all of its parts, nor the calls of the check, too.
            least = min(statistics.median(logs) - width, math.log(fastest / self.beside))
            if least > math.log(self.best):
                return Seen(tuple(samples), not quiet)
        seen = Seen(tuple(samples), not quiet)
        if quiet:
            self.best = min(self.best, seen.ratio)
        return seen

    def _far(self, calls: Sequence[float]) -> bool:
        """Whether each of the check's calls is long enough to count, and says that the program is slower. A
        stall makes one of them long, not both."""
        look = self._look
        limit = max(math.log(look.far), self._width(1)) + math.log(self.best)
        least = min(calls)
        return len(calls) > 1 and least >= look.short_seconds and math.log(least / self.beside) > limit

    def _width(self, turns: int) -> float:
        """Half the width of the 95 % confidence interval of the logarithm of a candidate's ratio to the best
        one's, after so many turns. Beside each turn there are two of the reference, and the best one has had
        all its turns."""
        known = len(self._changes) >= PAIRS
        # Of two turns each has its own noise.
        sigma = 1.4826 * statistics.median(self._changes) / math.sqrt(2) if known else UNKNOWN
        ratio = math.sqrt(1.5) * max(sigma, QUIET)
        return SURE * ratio * math.sqrt(1 / turns + 1 / (1 + self._look.turns))

    def _turns(self, program: Call, seconds: float, once: float) -> tuple[list[Sample], float, float]:
        """Turns of the program until one was calm, how much the reference changed during the last, and the
        seconds of a call in the fastest part of one."""
        samples: list[Sample] = []
        change = fastest = math.inf
        for _ in range(self._look.tries):
            before = self.beside
            taken, part = self._turn(program, seconds, once)
            change, fastest = self._again(), min(fastest, part)
            samples.append(self._sample(taken, math.sqrt(before * self.beside)))
            if change <= self._look.calm:
                break
        return samples, change, fastest

    def _again(self) -> float:
        """A turn of the reference; how much its time has changed, as a logarithm."""
        before = self.beside
        self.beside, _ = self._turn(self._reference, self._look.short_seconds, before)
        self._when = self._clock()
        change = abs(math.log(before / self.beside))
        self._changes.append(change)
        return change

    def _sample(self, seconds: float, reference: float) -> Sample:
        sample = Sample(max(seconds, 1e-12), max(reference, 1e-12))
        if self._told is not None:
            self._told(sample)
        return sample

    def _turn(self, program: Call, seconds: float, once: float) -> tuple[float, float]:
        """Seconds of a call in a turn, and in the fastest part of it; the first call does not count: others
        have used the caches since."""
        once = min(once, self._once(program))
        count = min(max(math.ceil(seconds / max(once, 1e-7)), 1), 1 << 16)
        size = -(-count // PARTS)
        fastest, begin = math.inf, self._clock()
        mark = begin
        for start in range(0, count, size):
            calls = min(size, count - start)
            for _ in range(calls):
                program()
            before, mark = mark, self._clock()
            fastest = min(fastest, (mark - before) / calls)
        return max((mark - begin) / count, 1e-12), max(fastest, 1e-12)

    def _once(self, program: Call) -> float:
        begin = self._clock()
        program()
        return max(self._clock() - begin, 1e-12)
