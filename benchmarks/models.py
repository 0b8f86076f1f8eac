"""Whole models: speed at several numbers of threads, compile time, load time and memory, side by side.

    python -m benchmarks.models --threads 1,2 --json models.json

Speed is measured in turns with the peers, as ``tilewright bench`` does. Everything that a warm process
would hide is measured in a process of its own: a cold compilation (empty cache), a cached one, loading the
artifact, and the peak resident memory of load and run, for onnxruntime too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from benchmarks import zoo
from benchmarks.bert import bert_base
from benchmarks.networks import mobilenet_v2, resnet50
from tilewright.benching import BenchReport, bench, machine
from tilewright.cli.common import milliseconds, shape_text, table
from tilewright.config import options
from tilewright.peers import parse_peers

Shapes = dict[str, tuple[int, ...]]

#: Models that are built here, with random weights: how, and the shapes that they are measured at.
BUILT: dict[str, tuple[Callable[[], onnx.ModelProto], Shapes]] = {
    "resnet50": (resnet50, {"x": (1, 3, 224, 224)}),
    "mobilenet_v2": (mobilenet_v2, {"x": (1, 3, 224, 224)}),
    "bert_base": (bert_base, {"ids": (1, 128), "mask": (1, 128)}),
}


def model_file(key: str) -> Path:
    """The path of a zoo model, or of one with random weights (written to the cache on first use)."""
    if key not in BUILT:
        return zoo.fetch(key)
    path = options().cache_dir / "zoo" / f"{key}-seed0.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        onnx.save(BUILT[key][0](), temporary)
        temporary.replace(path)
    return path


def cases(keys: Sequence[str]) -> list[tuple[str, Shapes]]:
    """The models to measure, each at each of its shapes."""
    known = {
        **{key: (shapes,) for key, (_, shapes) in BUILT.items()},
        **{key: model.shapes for key, model in zoo.MODELS.items()},
    }
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise SystemExit(f"unknown models: {', '.join(unknown)}; known: {', '.join(known)}")
    return [(key, shapes) for key in (keys or list(known)) for shapes in known[key]]


def child(
    step: str, model: Path, shapes: Shapes, artifact: Path, cache: Path, threads: int
) -> dict[str, float]:
    """Run one step of :mod:`benchmarks.child` in a new process; what it measured."""
    request = {"model": str(model), "shapes": shapes, "artifact": str(artifact), "threads": threads}
    environment = {**os.environ, "TILEWRIGHT_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "benchmarks.child", step, json.dumps(request)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return dict(json.loads(done.stdout))


def costs(model: Path, shapes: Shapes, threads: int) -> dict[str, float]:
    """Seconds to compile (cold, cached) and to load, and peak memory in bytes."""
    with tempfile.TemporaryDirectory(prefix="tilewright-models-") as scratch:
        artifact, cache = Path(scratch) / "model.tw", Path(scratch) / "cache"
        steps = {
            step: child(step.partition("-")[0], model, shapes, artifact, cache, threads)
            for step in ("compile-cold", "compile-cached", "load", "peer")
        }
    return {
        "cold_compile_seconds": steps["compile-cold"]["seconds"],
        "cached_compile_seconds": steps["compile-cached"]["seconds"],
        "load_seconds": steps["load"]["seconds"],
        "peak_bytes": steps["load"]["peak_bytes"],
        "onnxruntime_load_seconds": steps["peer"]["seconds"],
        "onnxruntime_peak_bytes": steps["peer"]["peak_bytes"],
    }


def speed_rows(name: str, reports: Sequence[BenchReport]) -> list[list[str]]:
    """One row for each number of threads."""
    rows = []
    for report in reports:
        own, *peers = report.timings
        cells = [name, str(report.threads), milliseconds(own.median)]
        for peer in peers:
            cells += [milliseconds(peer.median), f"{peer.ratio:.2f}"]
        rows.append([*cells, "ok" if report.ok else "DIFFERS"])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models", description="Whole models, side by side."
    )
    parser.add_argument("models", nargs="*", help=f"{', '.join([*BUILT, *zoo.MODELS])}; all when left out")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--against", default="onnxruntime,openvino", help="engines, separated by commas")
    parser.add_argument("--runs", type=int, help="recorded runs of every engine")
    parser.add_argument(
        "--no-costs", action="store_true", help="leave out compile time, load time and memory"
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args(argv)
    threads = [int(text) for text in arguments.threads.split(",")]
    peers = parse_peers(arguments.against)
    speed: list[list[str]] = []
    cost: list[list[str]] = []
    document: dict[str, Any] = {"machine": machine(), "models": []}
    for key, shapes in cases(arguments.models):
        path, name = model_file(key), f"{key} {shape_text(shapes)}"
        reports = [
            bench(path, shapes=shapes, against=peers, threads=count, runs=arguments.runs) for count in threads
        ]
        speed += speed_rows(name, reports)
        entry: dict[str, Any] = {"model": key, "speed": [report.to_dict() for report in reports]}
        if not arguments.no_costs:
            entry["costs"] = found = costs(path, shapes, threads[0])
            cost.append(
                [name, f"{found['cold_compile_seconds']:.1f}", f"{found['cached_compile_seconds']:.2f}"]
                + [milliseconds(found["load_seconds"]), milliseconds(found["onnxruntime_load_seconds"])]
                + [f"{found[key] / 2**20:.0f}" for key in ("peak_bytes", "onnxruntime_peak_bytes")]
                + [f"{found['peak_bytes'] / found['onnxruntime_peak_bytes']:.2f}"]
            )
        document["models"].append(entry)
    columns = ["model", "threads", "tilewright ms"]
    for peer in peers:
        columns += [f"{peer} ms", "ratio"]
    table("Speed: medians; ratio = tilewright's time / the engine's", [*columns, "outputs"], speed)
    for index, peer in enumerate(peers):
        ratios = [
            report["engines"][index + 1]["ratio"] for model in document["models"] for report in model["speed"]
        ]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"geometric mean of the ratios to {peer}: {mean:.3f} ({len(ratios)} rows)")
    if cost:
        columns = [
            "model",
            "cold s",
            "cached s",
            "load ms",
            "ort load ms",
            "peak MiB",
            "ort peak MiB",
            "ratio",
        ]
        table("Costs: each in a process of its own", columns, cost)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if not all(report["ok"] for model in document["models"] for report in model["speed"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
