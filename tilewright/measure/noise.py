"""How quiet the machine is, told by a kernel that always does the same, and by the system.

The reference kernel of a workload runs beside every candidate. Its times say how noisy the machine is, and
whether it has become faster or slower for good: a clock that was lowered, a neighbour that came. Ratios to
the reference hold across such a shift, times in seconds do not.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: So many times say what the reference's time is; as many recent ones are remembered.
BASELINE: Final = 8
RECENT: Final = 64
#: Page-Hinkley: deviations of the logarithm of the reference's time below the first are forgotten, and their
#: sum may reach the second before it is a shift. One of 10 % is seen after seven times.
TOLERATED: Final = 0.03
SHIFTED: Final = 0.5
#: No single deviation counts for more: one stall is no shift.
MOST: Final = 0.15
#: What is worth a warning: the spread of the reference's times, the share of looks that were disturbed, and
#: the share of processor time that the machine below has taken.
NOISY: Final = 0.1
DISTURBED: Final = 0.25
STOLEN: Final = 0.03


@dataclasses.dataclass(frozen=True)
class Noise:
    """How quiet the machine has been since the workload was set.

    Attributes:
        reference: the reference kernel's time in seconds as it is now; None before there is one.
        spread: standard deviation of the logarithm of its times, from their median deviation.
        shift: the logarithm of its time now relative to the first one.
        shifts: how often it has changed for good.
        disturbed: the share of looks in which the machine was not calm.
        stolen: the share of processor time that went to other virtual machines.
    """

    reference: float | None = None
    spread: float = 0.0
    shift: float = 0.0
    shifts: int = 0
    disturbed: float = 0.0
    stolen: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody who reads the times should know, in words; empty on a quiet machine."""
        found = []
        if self.shifts:
            change = math.expm1(abs(self.shift))
            way = "slower" if self.shift > 0 else "faster"
            found.append(
                f"the machine has changed its speed {self.shifts} time(s); it is {change:.0%} {way} than at "
                "the start"
            )
        if self.spread > NOISY:
            found.append(f"times of the same kernel vary by {self.spread:.0%}")
        if self.disturbed > DISTURBED:
            found.append(f"{self.disturbed:.0%} of the measurements were disturbed")
        if self.stolen > STOLEN:
            found.append(f"{self.stolen:.0%} of the processor time went to other virtual machines")
        return tuple(found)


class NoiseWatch:
    """Follows the times of one reference kernel."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._baseline: float | None = None
        self._begin: list[float] = []
        self._recent: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._up = self._down = 0.0
        self._shifts = self._looks = self._disturbed = 0
        self._ticks = _cpu_ticks()

    def saw(self, times: Iterable[float]) -> bool:
        """Take note of times of the reference in seconds, in order; whether its speed has shifted."""
        shifted = False
        for seconds in times:
            shifted = self._saw(math.log(seconds)) or shifted
        return shifted

    def looked(self, disturbed: bool) -> None:
        """Take note of a look at a candidate."""
        self._looks += 1
        self._disturbed += disturbed

    def _saw(self, value: float) -> bool:
        self._recent.append(value)
        if self._baseline is None:
            self._begin.append(value)
            if len(self._begin) == BASELINE:
                self._baseline = statistics.median(self._begin)
                self._first = self._baseline if self._first is None else self._first
            return False
        deviation = min(max(value - self._baseline, -MOST), MOST)
        self._up = max(self._up + deviation - TOLERATED, 0.0)
        self._down = max(self._down - deviation - TOLERATED, 0.0)
        if max(self._up, self._down) <= SHIFTED:
            return False
        self._up = self._down = 0.0
        self._baseline, self._begin = None, []
        self._recent.clear()
        self._shifts += 1
        return True

    @property
    def noise(self) -> Noise:
        """What is known now."""
        if not self._recent:
            return Noise(stolen=self._stolen())
        middle = statistics.median(self._recent)
        deviation = statistics.median(abs(v - middle) for v in self._recent)
        first = middle if self._first is None else self._first
        return Noise(
            reference=math.exp(middle),
            spread=1.4826 * deviation,
            shift=middle - first,
            shifts=self._shifts,
            disturbed=self._disturbed / self._looks if self._looks else 0.0,
            stolen=self._stolen(),
        )

    def _stolen(self) -> float:
        total, stolen = (now - then for now, then in zip(_cpu_ticks(), self._ticks, strict=True))
        return stolen / total if total > 0 else 0.0


def _cpu_ticks() -> tuple[int, int]:
    """Ticks of all processors since the system began, and those stolen from it; zeros where not known."""
    try:
        with Path("/proc/stat").open() as file:
            values = [int(v) for v in file.readline().split()[1:]]
        return sum(values[:8]), values[7]
    except (OSError, ValueError, IndexError):
        return 0, 0
