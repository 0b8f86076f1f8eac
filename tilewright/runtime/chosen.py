"""How a kernel's schedule was chosen: what the artifact keeps of it, for people to read."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

from tilewright.runtime.records import reading, record_json, text

#: Who can have chosen: the rules, a measurement, a cost model (learned or analytic), the caller.
CHOOSERS: Final = ("default", "record", "learned", "draft", "given")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """How a kernel's schedule was chosen (docs/choosing.md).

    Attributes:
        by: one of :data:`CHOOSERS`.
        seconds: time of one call, as recorded or predicted; None: nobody knows.
        gain: how many times as long the default schedule takes, as recorded or predicted; None: nobody knows.
        record: identity of the record that it is from; empty for others.
        created: when that was measured, as ISO 8601 in UTC; empty for others.
        note: what else a person should know, such as why a record was not used; may be empty.
    """

    by: str = "default"
    seconds: float | None = None
    gain: float | None = None
    record: str = ""
    created: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary without the fields that have their default value."""
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> Chosen:
        """Inverse of :meth:`to_json`."""
        with reading("choice of a schedule"):
            if data.get("by", "default") not in CHOOSERS:
                raise ValueError(f"nobody is called {data['by']!r}")
            return Chosen(
                by=data.get("by", "default"),
                seconds=_positive(data.get("seconds")),
                gain=_positive(data.get("gain")),
                record=text(data.get("record", "")),
                created=text(data.get("created", "")),
                note=text(data.get("note", "")),
            )


#: By the rules, about which nothing more is known.
BY_RULES: Final = Chosen()


def _positive(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"expected a number above 0, got {value!r}")
    return float(value)
