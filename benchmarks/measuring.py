"""How many candidates a second are measured, from traces to samples that are stored.

    python -m benchmarks.measuring

For a convolution and matrix products, candidates of all their sketches are compiled, checked, timed beside
the reference kernel and put into a store: random ones, many of which are slow, and such as a search begins
with, the draft model's best. Stages are timed on one candidate at a time. With ``--store FILE`` the finalists
of a finished tuning are measured again instead, twice, in separate passes: by how much do two measurements of
the same kernel differ, relative to the reference kernel beside them?
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tilewright
from benchmarks.sketches import convolution, product
from tilewright.backend import get_backend
from tilewright.cli.common import table
from tilewright.cost.draft import draft_model
from tilewright.ir import te
from tilewright.ir.parser import parse
from tilewright.ir.stmt import PrimFunc
from tilewright.lower import lower, passes_for
from tilewright.measure import Builder, Candidate, Finals, Measurer, Plan
from tilewright.records import Device, Epoch, Record, Workload, open_store
from tilewright.schedule import Trace
from tilewright.schedule.space import sketches
from tilewright.target import Target

STAGES = ("parse trace", "replay", "lower", "emit", "compile")


def small_product() -> PrimFunc:
    """128x768 by 768x768 with constant weights: a millisecond or two on a core."""
    a, w = te.placeholder((128, 768), "float32", "a"), te.placeholder((768, 768), "float32", "w")
    c = te.compute((128, 768), lambda i, j: te.reduce("sum", (768,), lambda k: a[i, k] * w[k, j]), "c")
    return te.primfunc("small_product", [a, w], [c], const_inputs=[w])


WORKLOADS = {"conv 3x3 64-64 56x56": convolution, "128x768x768": small_product, "128x3072x768": product}


def draw(workload: Workload, target: Target, count: int) -> list[str]:
    """Traces of ``count`` random candidates, turn by turn from every sketch; most of the first one, as in a
    search."""
    func = parse(workload.text)
    pools = []
    for place, sketch in enumerate(sketches(func, target)):
        rows = sketch.sample(count, seed=place)
        pools.append((4 if place == 0 else 1, [sketch.bind(row).trace.to_json() for row in rows]))
    drawn: list[str] = []
    while len(drawn) < count and any(pool for _, pool in pools):
        for share, pool in pools:
            drawn += pool[:share]
            del pool[:share]
    return list(dict.fromkeys(drawn[:count]))


def propose(workload: Workload, target: Target, threads: int, count: int) -> list[str]:
    """Traces of the draft model's ``count`` best among many random candidates of every sketch, the best one
    first."""
    model = draft_model(target, threads)
    known = [(s, s.sample(8 * count, seed=n)) for n, s in enumerate(sketches(parse(workload.text), target))]
    costs = np.concatenate([model.predict(sketch, rows, threads).log_seconds for sketch, rows in known])
    candidates = [(sketch, row) for sketch, rows in known for row in rows]
    found: dict[str, None] = {}
    for number in np.argsort(costs, kind="stable"):
        sketch, row = candidates[number]
        found[sketch.bind(row).trace.to_json()] = None
        if len(found) == count:
            break
    return list(found)


#: Where candidates come from.
SOURCES: dict[str, Callable[[Workload, Target, int, int], list[str]]] = {
    "random": lambda workload, target, threads, count: draw(workload, target, count),
    "search": propose,
}


def stages(workload: Workload, traces: Sequence[str], target: Target) -> list[float]:
    """Mean seconds of the stages of compiling, one candidate at a time, in one process."""
    func, backend = parse(workload.text), get_backend(target)
    total = np.zeros(len(STAGES))
    for text in traces:
        marks = [time.perf_counter()]
        trace = Trace.from_json(text)
        marks.append(time.perf_counter())
        scheduled = trace.apply(func).func
        marks.append(time.perf_counter())
        lowered = lower(scheduled, None, passes_for(target))
        marks.append(time.perf_counter())
        module = backend.emit(lowered, target, "kernel")
        marks.append(time.perf_counter())
        backend.compile([module.text], target)
        marks.append(time.perf_counter())
        total += np.diff(marks)
    return list(total / len(traces))


def throughput(
    name: str, source: str, target: Target, count: int, threads: int, jobs: int
) -> dict[str, Any]:
    """Candidates a second: of the builder alone, and of all together."""
    workload = Workload.of(WORKLOADS[name](), name)
    traces = SOURCES[source](workload, target, threads, count)
    with Builder(target, jobs) as builder:
        list(builder.build(Candidate(workload.text, t) for t in traces[:jobs]))  # workers start
        begin = time.perf_counter()
        list(builder.build(Candidate(workload.text, t) for t in traces))
        building = time.perf_counter() - begin
    epoch = Epoch.begin(Device.of(target), tilewright.__version__)
    statuses: collections.Counter[str] = collections.Counter()
    samples = 0
    seconds: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(Path(folder) / "records.sqlite") as store,
        Measurer(target, threads, jobs) as measurer,
    ):
        begin = time.perf_counter()
        measurer.set_workload(workload)
        preparing = time.perf_counter() - begin
        list(measurer.measure(traces[:jobs]))
        begin = time.perf_counter()
        for number, found in measurer.measure(traces):
            record = Record(
                workload,
                traces[number],
                epoch,
                threads,
                found.status,
                found.samples,
                source,
                error=found.error,
            )
            store.add(record)
            statuses[found.status] += 1
            samples += len(found.samples)
            seconds += [min(s.seconds for s in found.samples)] if found.samples else []
        whole = time.perf_counter() - begin
        noise = measurer.noise
    return {
        "name": name,
        "source": source,
        "candidates": len(traces),
        "candidate_ms": 1e3 * statistics.median(seconds) if seconds else None,
        "stages_ms": dict(zip(STAGES, (1e3 * s for s in stages(workload, traces[:32], target)), strict=True)),
        "preparing_seconds": preparing,
        "builder_per_second": len(traces) / building,
        "whole_per_second": len(traces) / whole,
        "reference_ms": None if noise.reference is None else 1e3 * noise.reference,
        "samples": samples,
        "statuses": dict(statuses),
        "warnings": noise.warnings,
    }


def passes(measurer: Measurer, traces: Sequence[str], plan: Plan) -> list[float]:
    """For each trace the logarithm of the ratio between two passes of its time relative to the reference."""

    def ratios(finals: Finals) -> dict[int, float]:
        """Over the rounds in which the machine was calm, by trace."""
        if finals.race is None:
            return {}
        logs = {
            number: [
                math.log(samples[r].seconds / (samples[r].reference or math.nan))
                for r in finals.race.counted
                if r < len(samples)
            ]
            for number, samples in zip(finals.runners, finals.race.samples, strict=True)
        }
        return {number: statistics.median(values) for number, values in logs.items() if values}

    first, second = (ratios(measurer.final(traces, plan)) for _ in range(2))
    return [second[number] - first[number] for number in first.keys() & second.keys()]


def honesty(address: str, target: Target, count: int, seconds: float) -> list[tuple[str, int, list[float]]]:
    """For each workload and number of threads in a store the differences of its best ``count`` candidates."""
    device = Device.of(target).fingerprint
    with open_store(address, create=False, reading=True) as store:
        best: dict[tuple[Workload, int], dict[str, float]] = collections.defaultdict(dict)
        for record in store.records():
            if record.status == "ok" and record.epoch.device.fingerprint == device:
                best[record.workload, record.threads][record.trace] = record.seconds
    found = []
    for (workload, threads), times in best.items():
        with Measurer(target, threads) as measurer:
            measurer.set_workload(workload)
            traces = sorted(times, key=lambda trace: times[trace])[:count]
            found.append(
                (workload.family, threads, passes(measurer, traces, Plan(seconds=seconds, halving=False)))
            )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measuring", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="candidates of each workload")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile")
    parser.add_argument("--only", default="", help="only workloads whose name contains this text")
    parser.add_argument("--store", help="measure the finalists of this store again")
    parser.add_argument("--finalists", type=int, default=4, help="with --store: of each workload")
    parser.add_argument("--seconds", type=float, default=2.0, help="with --store: of each pass of a workload")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args(argv)
    target = Target.host()
    document: Any
    if arguments.store:
        found = honesty(arguments.store, target, arguments.finalists, arguments.seconds)
        every = [abs(math.expm1(d)) for _, _, differences in found for d in differences]
        rows = [
            [family, str(threads), str(len(d)), f"{max(abs(math.expm1(x)) for x in d):.1%}"]
            for family, threads, d in found
            if d
        ]
        table("two passes over the finalists", ["workload", "threads", "kernels", "largest change"], rows)
        if every:
            median, p90 = np.percentile(every, [50, 90])
            print(f"{len(every)} kernels: change between passes, median {median:.1%}, p90 {p90:.1%}")
        document = {"changes": every}
    else:
        names = [name for name in WORKLOADS if arguments.only in name]
        document = [
            throughput(name, source, target, arguments.count, arguments.threads, arguments.jobs)
            for name in names
            for source in SOURCES
        ]
        columns = [
            "workload",
            "candidates",
            "their ms",
            "reference ms",
            *(f"{s} ms" for s in STAGES),
            "built / s",
            "measured / s",
            "samples",
        ]
        rows = [
            [
                r["name"],
                f"{r['candidates']} {r['source']}",
                "-" if r["candidate_ms"] is None else f"{r['candidate_ms']:.2f}",
                f"{r['reference_ms']:.2f}",
                *(f"{r['stages_ms'][s]:.1f}" for s in STAGES),
                f"{r['builder_per_second']:.1f}",
                f"{r['whole_per_second']:.1f}",
                str(r["samples"]),
            ]
            for r in document
        ]
        table(f"{arguments.jobs} jobs, {arguments.threads} thread(s)", columns, rows)
        for r in document:
            for warning in r["warnings"]:
                print(f"{r['name']}, {r['source']}: {warning}")
            if set(r["statuses"]) != {"ok"}:
                print(f"{r['name']}, {r['source']}: {r['statuses']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
