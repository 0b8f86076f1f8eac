"""Measure random candidates of kernels of real models: data for learned cost models.

    python -m benchmarks.collect --models resnet50,mobilenet_v2,bert_base --count 48 --store records.sqlite

From each model ``--tasks`` different kernels are taken, spread over its kernels in the order of their work,
and of each the default schedule and ``--count`` random candidates are measured beside the reference kernel.
Candidates are drawn by a seed that belongs to the kernel, and what the store has is not measured again: a
run that was stopped goes on, and one with a larger count adds to what is there. All kernels are gone over
``--rounds`` times, so that a store is of use before the run has ended.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

import tilewright
from benchmarks.models import cases, model_file
from tilewright.assembly import Program, count_flops
from tilewright.cli.common import table
from tilewright.errors import TilewrightError
from tilewright.frontend.onnx import read_model
from tilewright.graph.pipeline import optimise
from tilewright.ir.expr import Var
from tilewright.measure.batch import Measurer
from tilewright.measure.runner import Limits
from tilewright.records import Device, Epoch, Record, Workload, open_store
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.tune.space import SearchSpace

#: Kernels with less work than this take longer to call than to run.
MIN_FLOPS = 1e4


def workloads(model: str, count: int, threads: int) -> list[Workload]:
    """Up to ``count`` different kernels of a model, those with most and least work among them."""
    name, shapes = cases([model])[0]
    graph = optimise(read_model(model_file(name)).to_graph(shapes), threads=threads)
    found: dict[str, tuple[int, Workload]] = {}
    for kernel in Program.of(graph).all_kernels():
        work = count_flops(kernel.func)
        if work >= MIN_FLOPS and not any(isinstance(p, Var) for p in kernel.func.params):
            anchor = kernel.group.anchor or kernel.group.nodes[0]
            workload = Workload.of(kernel.func, anchor.op, name)
            found.setdefault(workload.key, (work, workload))
    ordered = [w for _, w in sorted(found.values(), key=lambda pair: (-pair[0], pair[1].key))]
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).astype(int))
    return [ordered[place] for place in places]


def of_all(models: Sequence[str], count: int, threads: int) -> Iterator[Workload]:
    """Kernels of all models, each once, the models taking turns."""
    seen = set()
    for row in zip_longest(*(workloads(model, count, threads) for model in models)):
        for workload in row:
            if workload is not None and workload.key not in seen:
                seen.add(workload.key)
                yield workload


def missing(store: Store, space: SearchSpace, count: int, threads: int) -> list[tuple[str, str, str]]:
    """Trace, role and sketch of the default and of ``count`` random candidates, without those that the store
    has."""
    key = space.workload.key
    device = Device.of(space.target).fingerprint
    known = {r.trace for r in store.records(key, device=device, threads=threads)}
    rng = np.random.default_rng(int(key[:8], 16))
    # The first ones are the same whatever the count is.
    points = [space.default, *list(space.sample(max(count, 256), rng))[:count]]
    found = []
    for number, point in enumerate(points):
        trace = space.trace(point)
        if trace not in known:
            found.append((trace, "random" if number else "default", space.sketches[point.sketch].name))
    return found


def collect(
    store: Store, measurer: Measurer, epoch: Epoch, workload: Workload, count: int
) -> tuple[int, int, int]:
    """Measure what is missing of a kernel; how many were measured, failed, and were there already."""
    wanted = missing(store, SearchSpace(workload, measurer.target), count, measurer.threads)
    if not wanted:
        return 0, 0, count + 1
    measurer.set_workload(workload)
    failed = 0
    for number, found in measurer.measure([trace for trace, _, _ in wanted]):
        trace, role, sketch = wanted[number]
        failed += found.status != "ok"
        store.add(
            Record(
                workload, trace, epoch, measurer.threads, found.status, found.samples, role, sketch,
                found.error, time.time(),
            )
        )  # fmt: skip
    return len(wanted), failed, count + 1 - len(wanted)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, say how far it is, and print what each kernel gave."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collect", description="Random candidates of real kernels, measured."
    )
    parser.add_argument("--models", default="resnet50,mobilenet_v2,bert_base", help="separated by commas")
    parser.add_argument("--tasks", type=int, default=14, help="kernels of each model")
    parser.add_argument("--count", type=int, default=48, help="random candidates of each kernel")
    parser.add_argument("--rounds", type=int, default=3, help="over all kernels, each with more candidates")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that a candidate may take")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile")
    parser.add_argument("--store", help="the measurement store")
    arguments = parser.parse_args(argv)
    target = Target.host()
    kernels = list(of_all(arguments.models.split(","), arguments.tasks, arguments.threads))
    epoch = Epoch.begin(Device.of(target), tilewright.__version__)
    rows: dict[str, list[str]] = {}
    with (
        open_store(arguments.store) as store,
        Measurer(target, arguments.threads, arguments.jobs, Limits(arguments.limit)) as measurer,
    ):
        for turn in range(1, arguments.rounds + 1):
            count = arguments.count * turn // arguments.rounds
            for number, workload in enumerate(kernels, 1):
                begin = time.perf_counter()
                try:
                    done, failed, had = collect(store, measurer, epoch, workload, count)
                except TilewrightError as error:
                    rows[workload.key] = [workload.source, workload.family, "", "", error.message]
                    continue
                seconds = time.perf_counter() - begin
                rows[workload.key] = [workload.source, workload.family, str(done + had), str(failed), ""]
                print(
                    f"{turn}/{arguments.rounds} {number}/{len(kernels)} {workload.source} {workload.family}: "
                    f"{done} measured, {failed} failed, {had} known, {seconds:.1f} s",
                    flush=True,
                )
    table(
        f"{len(kernels)} kernels, {arguments.threads} threads",
        ["model", "kernel", "candidates", "failed", "error"],
        list(rows.values()),
    )


if __name__ == "__main__":
    main()
