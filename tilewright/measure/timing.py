"""Which of several programs is fastest, on a machine that is not quiet.

Times on a shared machine drift, and neighbours come and go. So programs are compared, not timed: they take
turns, each round in another order, between two turns of a reference program. What counts is the logarithm of
a program's time relative to the reference beside it, and of two programs the difference within rounds, which
a slow phase does not move. A program goes when the confidence interval of its difference to the leader says
that it is slower; the race ends when all that are left are known well enough. Every time is kept.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence

from tilewright.records.record import Sample

Call = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a race is run.

    Attributes:
        turn_seconds: a program's calls in one turn last at least this long.
        min_rounds: before that nobody goes.
        max_rounds: then the race ends.
        precision: half the width of the 95 % confidence interval of a difference, relative to the time, at
            which it is known well enough.
        calm: a round counts when the reference's times before and after it differ by no more than this,
            relative to the time.
        seconds: the race ends after the round in which so much time is over; None for no limit.
        halving: whether the slower half goes after every doubling of the rounds, as long as more than
            ``finalists`` are left.
    """

    turn_seconds: float = 5e-3
    min_rounds: int = 3
    max_rounds: int = 48
    precision: float = 0.01
    calm: float = 0.1
    seconds: float | None = None
    halving: bool = True
    finalists: int = 4

    def __post_init__(self) -> None:
        if not (self.turn_seconds > 0 and self.precision > 0 and self.calm > 0):
            raise ValueError("the times and precisions of a plan are positive")
        if not 2 <= self.min_rounds <= self.max_rounds or self.finalists < 1:
            raise ValueError("a race has at least two rounds and one finalist")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much slower a program is than another: the logarithm of the ratio of their times.

    Attributes:
        log_ratio: the mean over rounds.
        half_width: half the width of its 95 % confidence interval; infinite below two rounds.
        rounds: in how many rounds both ran.
    """

    log_ratio: float
    half_width: float
    rounds: int

    @property
    def slower(self) -> bool:
        """Whether the program is certainly the slower one."""
        return self.log_ratio - self.half_width > 0

    @property
    def faster(self) -> bool:
        """Whether the program is certainly the faster one."""
        return self.log_ratio + self.half_width < 0


@dataclasses.dataclass(frozen=True)
class Race:
    """What came of a race.

    Attributes:
        samples: every time of every program, in seconds a call, with the reference's beside it.
        left_at: the round after which each went; None for those that ran to the end.
        leader: the number of the fastest.
        rounds: how many counted.
        disturbed: how many did not, since the reference changed while they ran; their times are kept, too.
        noise: standard deviation of the logarithm of the reference's times.
        drift: how much slower the reference was in the last third than in the first, as a logarithm.
        counted: the rounds' numbers that counted, by which ``samples`` of the leader are indexed.
    """

    samples: tuple[tuple[Sample, ...], ...]
    left_at: tuple[int | None, ...]
    leader: int
    rounds: int
    disturbed: int
    noise: float
    drift: float
    counted: tuple[int, ...]

    def difference(self, program: int, other: int) -> Difference:
        """How much slower ``program`` is than ``other``, over the rounds that both ran in."""
        return _difference(self.samples[program], self.samples[other], self.counted)


def race(
    programs: Sequence[Call],
    reference: Call,
    plan: Plan | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
    seen: Callable[[int, Sample], None] | None = None,
) -> Race:
    """Run programs against each other.

    Args:
        programs: what to compare; each call runs the program once.
        reference: a program of about the same length; the same for all races of an epoch makes their times
            comparable.
        plan: how; the defaults when left out.
        clock: in seconds.
        seed: of the orders of the rounds.
        seen: is told every sample, with the program's number, as soon as it is measured.

    Raises:
        ValueError: there are no programs.
    """
    if not programs:
        raise ValueError("a race without programs")
    plan = plan or Plan()
    runner = _Runner(list(programs), reference, plan, clock, seen)
    order = random.Random(seed)
    began = clock()
    samples: list[list[Sample]] = [[] for _ in programs]
    left_at: list[int | None] = [None] * len(programs)
    counted: list[int] = []
    disturbed = 0
    next_cut = 2 * plan.min_rounds
    while True:
        racing = [n for n, left in enumerate(left_at) if left is None]
        number = len(counted) + disturbed
        calm = runner.round(order.sample(racing, len(racing)), samples)
        if calm or disturbed >= plan.max_rounds:
            counted.append(number)
        else:
            disturbed += 1
        over = plan.seconds is not None and clock() - began >= plan.seconds
        rounds = len(counted)
        if rounds >= plan.min_rounds:
            leader = _leader(racing, samples, counted)
            known = {n: _difference(samples[n], samples[leader], counted) for n in racing if n != leader}
            gone = {n for n, d in known.items() if d.slower}
            if plan.halving and rounds >= next_cut:
                next_cut *= 2
                stay = max(plan.finalists, math.ceil(len(racing) / 2))
                gone.update(sorted(known, key=lambda n: known[n].log_ratio)[stay - 1 :])
            for n in gone:
                left_at[n] = number + 1
            rest = [d for n, d in known.items() if n not in gone]
            if rounds >= plan.max_rounds or all(d.half_width <= plan.precision for d in rest):
                break
        if over and rounds >= 1:
            break
    racing = [n for n, left in enumerate(left_at) if left is None]
    logs = [math.log(t) for t in runner.reference_times]
    third = max(len(logs) // 3, 1)
    return Race(
        samples=tuple(tuple(s) for s in samples),
        left_at=tuple(left_at),
        leader=_leader(racing, samples, counted),
        rounds=len(counted),
        disturbed=disturbed,
        noise=statistics.stdev(logs),
        drift=statistics.median(logs[-third:]) - statistics.median(logs[:third]),
        counted=tuple(counted),
    )


class _Runner:
    """Turns of the programs of a race."""

    def __init__(
        self,
        programs: list[Call],
        reference: Call,
        plan: Plan,
        clock: Callable[[], float],
        seen: Callable[[int, Sample], None] | None,
    ) -> None:
        self._programs, self._reference, self._clock, self._seen = programs, reference, clock, seen
        self._calls = [self._calls_for(p, plan.turn_seconds) for p in programs]
        self._reference_calls = self._calls_for(reference, plan.turn_seconds)
        self._calm = plan.calm
        self.reference_times: list[float] = []

    def _calls_for(self, program: Call, seconds: float) -> int:
        """Calls that last about as long as a turn; the first one pays for pages and threads."""
        program()
        count, duration = 1, 0.0
        while (duration := self._time(program, count) * count) < seconds / 4 and count < 1 << 20:
            count *= 4
        return max(math.ceil(seconds / max(duration / count, 1e-9)), 1)

    def _time(self, program: Call, count: int) -> float:
        begin = self._clock()
        for _ in range(count):
            program()
        return (self._clock() - begin) / count

    def _turn(self, program: Call, count: int) -> float:
        """Seconds of a call; one comes first that is not counted: others have used the caches since."""
        program()
        return max(self._time(program, count), 1e-12)

    def round(self, order: Sequence[int], samples: list[list[Sample]]) -> bool:
        """One turn for each program in ``order``; whether the machine was calm."""
        before = self._turn(self._reference, self._reference_calls)
        times = [(n, self._turn(self._programs[n], self._calls[n])) for n in order]
        after = self._turn(self._reference, self._reference_calls)
        self.reference_times += [before, after]
        beside = math.sqrt(before * after)
        for n, seconds in times:
            sample = Sample(seconds, beside)
            samples[n].append(sample)
            if self._seen is not None:
                self._seen(n, sample)
        return abs(math.log(before / after)) <= self._calm


def _relative(sample: Sample) -> float:
    return math.log(sample.seconds / (sample.reference or 1.0))


def _leader(racing: Sequence[int], samples: Sequence[Sequence[Sample]], counted: Sequence[int]) -> int:
    """The program with the least median over the rounds that counted."""
    return min(racing, key=lambda n: statistics.median(_relative(samples[n][r]) for r in counted))


def _difference(one: Sequence[Sample], other: Sequence[Sample], counted: Sequence[int]) -> Difference:
    both = min(len(one), len(other))
    # The times themselves: within a round the reference is the same for all.
    values = [math.log(one[r].seconds / other[r].seconds) for r in counted if r < both]
    if len(values) < 2:
        return Difference(values[0] if values else 0.0, math.inf, len(values))
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Difference(statistics.fmean(values), student(len(values) - 1) * error, len(values))


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution, to 0.5 %: its expansion in ``1 / freedom`` about the
    normal quantile (Abramowitz and Stegun, 26.7.5), exact values where that is not close enough.
    """
    exact = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
    if freedom in exact:
        return exact[freedom]
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
