"""Single operators against the measured multiply-add peak of this machine, and against other engines.

    python -m benchmarks.operators --threads 1 --json operators.json

Every operator is an ONNX model of one node with constant weights. It is compiled, compared with onnxruntime,
and timed in turns with the peers in this one run. ``kernel`` is the operator's own kernel, from the profiler:
the best of several batches' medians, since the peak is the best of many runs too. ``call`` is a whole call of
the model, which for convolutions includes the change from the model's NCHW to the layout computed in and back
(the peers change layouts too). Padding counts as work, which kernels may skip: more than 100 % is possible.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tilewright as tw
from benchmarks.networks import GEMMS, RESNET50_CONVS, Conv, Gemm
from tilewright.benching import machine, time_in_turns
from tilewright.cli.common import table
from tilewright.compare import compare
from tilewright.peers import open_peer, parse_peers, specialized
from tilewright.roofline import measure_roofline

#: Batches of profiled runs, of which the fastest counts.
BATCHES = 8


def measure(operator: Gemm | Conv, threads: int, peers: Sequence[str], seconds: float) -> dict[str, Any]:
    """Time one operator; GFLOP/s by engine, medians of calls (and of the kernel, for ours)."""
    proto = operator.model()
    x = np.random.default_rng(0).standard_normal(operator.shape, dtype=np.float32)
    inputs = {"x": x}
    model = tw.compile(proto, threads=threads, shapes={"x": operator.shape})
    opened = [open_peer(name, specialized(proto, inputs), inputs, threads) for name in peers]
    reference = (
        opened[0] if opened else open_peer("onnxruntime", specialized(proto, inputs), inputs, 1)
    ).run()
    difference = compare("y", model.run(inputs)["y"], reference["y"])
    rounds = time_in_turns([lambda: model.run(inputs), *(peer.run for peer in opened)], total=seconds)
    medians = [float(np.median([sample for turn in turns for sample in turn])) for turns in rounds]
    runs = max(5, min(100, round(seconds / BATCHES / medians[0])))
    profiles = [model.profile(inputs, runs=runs) for _ in range(BATCHES)]
    kernel = min(max(profile.kernels, key=lambda call: call.flops).median_ns for profile in profiles)
    rate = {
        name: operator.flops / median / 1e9 for name, median in zip(["call", *peers], medians, strict=True)
    }
    return {
        "name": operator.name,
        "count": getattr(operator, "count", 1),
        "flops": operator.flops,
        "ok": difference.ok,
        "max_rel_error": difference.max_rel,
        "gflops": {"kernel": operator.flops / kernel, **rate},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators", description="Operators against the peak."
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--against", default="onnxruntime,openvino", help="engines, separated by commas")
    parser.add_argument("--only", default="", help="only operators whose name contains this text")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each operator and engine")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args(argv)
    peers = parse_peers(arguments.against)
    peak = measure_roofline(arguments.threads).gflops
    results = [
        measure(operator, arguments.threads, peers, arguments.seconds)
        for operator in (*GEMMS, *RESNET50_CONVS)
        if arguments.only in operator.name
    ]
    rows = []
    for result in results:
        rates = result["gflops"]
        best = max((rates[name] for name in peers), default=float("nan"))
        rows.append(
            [result["name"], result["count"], f"{rates['kernel']:.1f}", f"{rates['kernel'] / peak:.0%}"]
            + [f"{rates['call']:.1f}"]
            + [f"{rates[name]:.1f}" for name in peers]
            + [f"{best / rates['call']:.2f}", "ok" if result["ok"] else "WRONG"]
        )
    columns = [
        "operator",
        "count",
        "kernel GFLOP/s",
        "of peak",
        "call GFLOP/s",
        *peers,
        "time / best peer",
        "result",
    ]
    title = f"{arguments.threads} threads, multiply-add peak {peak:.1f} GFLOP/s"
    table(title, columns, rows)
    if arguments.json:
        document = {
            "machine": machine(),
            "threads": arguments.threads,
            "peak_gflops": peak,
            "operators": results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if not all(result["ok"] for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
