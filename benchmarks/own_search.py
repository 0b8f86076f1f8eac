"""Our search of one kernel, measurement by measurement, for :mod:`benchmarks.metaschedule`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernels import Kernel
from tilewright.ir.parser import parse
from tilewright.measure.batch import Measurer
from tilewright.records.record import Workload
from tilewright.schedule.default import default_schedule
from tilewright.schedule.space import sketches
from tilewright.target import Target


def search(kernel: Kernel, threads: int, trials: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Random candidates of all sketches."""
    target = Target.host()
    workload = Workload.of(kernel.func(), kernel.kind)
    func = parse(workload.text)
    rng = np.random.default_rng(seed)
    pools = [(s, list(s.sample(trials, rng))) for s in sketches(func, target)]
    traces = [default_schedule(func, target).trace.to_json()]
    while len(traces) <= trials and any(pool for _, pool in pools):
        for sketch, pool in pools:
            if pool:
                traces.append(sketch.bind(pool.pop()).trace.to_json())
    with Measurer(target, threads) as measurer:
        measurer.set_workload(workload)
        for trial, (number, found) in enumerate(measurer.measure(traces[: trials + 1])):
            times = [s.seconds / s.reference for s in found.samples if s.reference]
            seconds = statistics.median(times) if times else None
            yield {"trial": trial, "seconds": seconds, "trace": traces[number], "error": found.error}
