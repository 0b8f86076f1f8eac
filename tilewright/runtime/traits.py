"""What a kernel's program is like, in numbers: enough for a cost model to say what bounds it, long after the
program itself is gone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from tilewright.runtime.records import reading, text, whole


@dataclasses.dataclass(frozen=True)
class Traits:
    """The numbers of a scheduled program.

    Attributes:
        version: of the list of features: numbers of another version cannot be read.
        features: of :func:`tilewright.schedule.features.features_of`, :func:`rounded`.
        cold: bytes of the operands that are the model's weights.
        bits: of an element of the narrowest operand.
    """

    version: str
    features: tuple[float, ...]
    cold: int
    bits: int

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; the features are one text."""
        features = " ".join(map(_text, self.features))
        return {"version": self.version, "features": features, "cold": self.cold, "bits": self.bits}

    @staticmethod
    def from_json(data: Any) -> Traits:
        """Inverse of :meth:`to_json`. Raises ArtifactError for anything else."""
        with reading("traits of a kernel"):
            features = tuple(float(x) for x in text(data["features"]).split())
            cold, bits = whole(data["cold"]), whole(data["bits"])
            if not all(map(math.isfinite, features)) or cold < 0 or bits < 1:
                raise ValueError("a number is out of range")
            return Traits(text(data["version"]), features, cold, bits)


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """These numbers as they are kept: with four significant digits."""
    return tuple(float(_text(x)) for x in values)


def _text(value: float) -> str:
    return f"{value:.4g}"
