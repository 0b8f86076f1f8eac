"""What a core can do, as numbers with physical bounds that a calibration stays within."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import StoreError
from tilewright.target import Target


def _of(bounds: tuple[float, float], unit: str, text: str) -> Any:
    return dataclasses.field(metadata={"bounds": bounds, "unit": unit, "text": text})


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """The speed of a machine as the draft model needs it; every field has its bounds, unit and meaning in its
    metadata.

    Raises ValueError for a number outside of its bounds.
    """

    cycle: float = _of((1.6e-10, 2e-9), "s", "a cycle of a core")
    multiply_add: float = _of((0.4, 8.0), "cycles", "a multiply-add of a full vector")
    latency: float = _of((2.0, 10.0), "cycles", "until a sum can be added to again")
    issue: float = _of((0.1, 1.0), "cycles", "any instruction, in the front end")
    load: float = _of((0.4, 8.0), "cycles", "a load of a full vector from L1")
    store: float = _of((0.4, 8.0), "cycles", "a store of a full vector")
    gather: float = _of((0.3, 8.0), "cycles", "each lane of a vector whose elements lie apart")
    divide: float = _of((1.0, 64.0), "cycles", "a division of a full vector")
    call: float = _of((4.0, 400.0), "cycles", "a function such as exp of a full vector")
    loop: float = _of((0.25, 10.0), "cycles", "an iteration of a loop, beside its body")
    spill: float = _of((0.5, 10.0), "cycles", "a vector that finds no register, each step")
    step: float = _of((0.5, 20.0), "cycles", "an iteration of a block beside the main one")
    l2: float = _of((2e9, 2e12), "bytes/s", "from L2 to L1 of a core")
    l3: float = _of((1e9, 1e12), "bytes/s", "from L3 to L2 of a core")
    memory: float = _of((3e8, 2e12), "bytes/s", "from memory, all threads together")
    invoke: float = _of((1e-8, 1e-5), "s", "a call of a kernel")
    launch: float = _of((1e-7, 1e-3), "s", "waking the other threads")
    item: float = _of((1e-10, 1e-6), "s", "an iteration of a parallel loop, beside its body")

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"'{name}' is {getattr(self, name)}, not between {low} and {high}")

    @staticmethod
    def of(target: Target, threads: int = 1) -> Coefficients:
        """What the numbers of a target suggest, for cores of 3 GHz."""
        cycle = 1 / 3e9
        return Coefficients(
            cycle=cycle,
            multiply_add=_within("multiply_add", target.vector_bits / max(target.fma_bits, 1)),
            latency=4.0,
            issue=0.2,
            load=_within("load", target.vector_bits / max(target.load_bits, 1)),
            store=_within("store", 2 * target.vector_bits / max(target.load_bits, 1)),
            gather=1.0,
            divide=10.0,
            call=30.0,
            loop=1.0,
            spill=2.0,
            step=2.0,
            l2=32 / cycle,
            l3=12 / cycle,
            memory=12e9 * max(threads, 1) ** 0.5,
            invoke=1e-7,
            launch=3e-6,
            item=5e-9,
        )

    def to_json(self) -> str:
        """A one-line JSON object; :meth:`from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> Coefficients:
        """Rebuild from :meth:`to_json`. Raises StoreError for anything else."""
        try:
            fields = json.loads(text)
            return Coefficients(**{name: float(value) for name, value in fields.items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"these are no coefficients of the draft model: {error}") from error

    def logs(self, names: Sequence[str]) -> NDArray[np.float64]:
        """``[len(names)]``: the natural logarithms of some of them."""
        return np.array([math.log(getattr(self, name)) for name in names])

    def with_logs(self, logs: Mapping[str, float]) -> Coefficients:
        """Some of them replaced by their logarithms, kept within their bounds."""
        return dataclasses.replace(
            self, **{name: _within(name, math.exp(value)) for name, value in logs.items()}
        )


#: The least and the largest value of each.
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    f.name: f.metadata["bounds"] for f in dataclasses.fields(Coefficients)
}


def _within(name: str, value: float) -> float:
    low, high = BOUNDS[name]
    return min(max(value, low), high)
