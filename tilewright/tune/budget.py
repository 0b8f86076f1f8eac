"""How much a tuning session may spend, as people write it."""

from __future__ import annotations

import math
import re
from typing import Final

from tilewright.errors import OptionError

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|)")


def parse_budget(budget: str | float) -> float:
    """Seconds: of ``300``, ``"300"``, ``"90s"``, ``"5m"``, ``"1h30m"``.

    Raises OptionError for anything else, and unless the time is positive and finite.
    """
    if isinstance(budget, str):
        text = budget.strip().replace(" ", "").lower()
        parts = _PART.findall(text)
        whole = "".join(number + unit for number, unit in parts)
        alone = len(parts) == 1 or all(unit for _, unit in parts)
        seconds = sum(float(n) * _UNITS[u] for n, u in parts) if whole == text and alone else math.nan
    else:
        seconds = float(budget)
    if not (math.isfinite(seconds) and seconds > 0):
        raise OptionError(
            f"budget '{budget}' is no time",
            hint="write seconds, or 90s, 5m, 1h30m; trials (--trials) limits the number of candidates",
        )
    return seconds


def duration(seconds: float) -> str:
    """``75.2`` as ``1m15s``."""
    if seconds < 60:
        return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
