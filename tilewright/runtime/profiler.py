"""Where the time of a run goes, kernel by kernel."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from tilewright.runtime.plan import KernelCall


@dataclasses.dataclass(frozen=True)
class KernelProfile:
    """One kernel of a profile.

    Attributes:
        name: the kernel's name.
        origins, op_types: the model's nodes that it computes, and their operator types.
        median_ns: median time in one run, in ns: of all its calls together, 0 where a branch leaves it out.
        share: its part of the run, 0 to 1.
        flops, bytes: floating-point operations and operand bytes of one call.
        calls: how many calls there are in a run (the median).
    """

    name: str
    origins: tuple[str, ...]
    op_types: tuple[str, ...]
    median_ns: float
    share: float
    flops: int
    bytes: int
    calls: float = 1.0

    @property
    def gflops(self) -> float:
        """Floating-point operations per ns, which is GFLOP/s."""
        return self.calls * self.flops / self.median_ns if self.median_ns else 0.0

    @property
    def gbytes(self) -> float:
        """Operand bytes per ns, which is GB/s."""
        return self.calls * self.bytes / self.median_ns if self.median_ns else 0.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """A profile of one variant.

    Attributes:
        kernels: in execution order.
        total_ns: median time of a whole run, in ns.
        runs: number of runs measured.
        threads: threads of the pool.
    """

    kernels: tuple[KernelProfile, ...]
    total_ns: float
    runs: int
    threads: int

    def hottest(self) -> list[KernelProfile]:
        """The kernels by falling time."""
        return sorted(self.kernels, key=lambda k: -k.median_ns)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        kernels = [
            {**dataclasses.asdict(k), "gflops": round(k.gflops, 3), "gbytes": round(k.gbytes, 3)}
            for k in self.kernels
        ]
        return {"total_ns": self.total_ns, "runs": self.runs, "threads": self.threads, "kernels": kernels}


def summarize(kernels: Sequence[KernelCall], times: Sequence[Sequence[int]], threads: int) -> Profile:
    """A profile from the times of kernels.

    Args:
        kernels: the steps of the variant.
        times: for each run, ``2 * len(kernels) + 1`` numbers: the first is of no interest, the next are the
            ns that each kernel took, the others how often it was called.
        threads: threads of the pool, for the record.
    """
    count = len(kernels)
    total = statistics.median(sum(run[1 : count + 1]) for run in times)
    medians = [statistics.median(run[i] for run in times) for i in range(1, count + 1)]
    calls = [statistics.median(run[i] for run in times) for i in range(count + 1, 2 * count + 1)]
    whole = sum(medians) or 1.0
    rows = tuple(
        KernelProfile(k.name, k.origins, k.op_types, float(m), m / whole, k.flops, k.bytes, float(c))
        for k, m, c in zip(kernels, medians, calls, strict=True)
    )
    return Profile(rows, float(total), len(times), threads)
