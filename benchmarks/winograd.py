"""Winograd convolutions against direct ones and onnxruntime: time and error, layer by layer.

    python -m benchmarks.winograd --cold
    python -m benchmarks.winograd --choose

Every layer is a 3x3 convolution of stride 1 with constant weights. All variants are called in turns; times
are the best of ``--rounds`` calls, since what disturbs a call only makes it slower. Ours take channels-last
data, as inside a model; onnxruntime's time includes its own changes of layout. ``--cold`` reads a buffer
larger than the last-level cache before each call, and then the input: weights come from memory, as inside a
model. The error is the largest one against float64, relative to the largest result; ``chosen`` is what the
compiler's rule picks.

``--choose`` lets ``tilewright.measure`` time the ways, as a search does (weights from memory, a call of each
in every round), and compares its choice with the rule's: ``loss`` is how much longer the rule's takes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

import tilewright as tw
from benchmarks.networks import Conv
from tilewright.benching import machine
from tilewright.cli.common import table
from tilewright.graph import Graph, GraphBuilder
from tilewright.graph.alternatives import DIRECT, choice_points, default_pick
from tilewright.graph.pipeline import variants
from tilewright.measure import compare_variants
from tilewright.ops.alternatives.winograd import choose_tile
from tilewright.peers import open_peer
from tilewright.roofline import measure_roofline
from tilewright.target import Target

LAYERS: Final = (
    Conv(64, 64, 56, 3, 1),
    Conv(128, 128, 28, 3, 1),
    Conv(256, 256, 14, 3, 1),
    Conv(512, 512, 7, 3, 1),
    Conv(64, 64, 256, 3, 1),
    Conv(128, 64, 256, 3, 1),
    Conv(256, 256, 64, 3, 1),
    Conv(32, 32, 160, 3, 1),
)
#: Name of each variant and the tile of its ``winograd_conv``; None: direct.
VARIANTS: Final = {"direct": None, "F(2x2)": 2, "F(4x4)": 4}
#: The alternatives among which ``--choose`` chooses.
CHOICES: Final = (DIRECT, "winograd2", "winograd4")


def direct_graph(layer: Conv, weights: np.ndarray) -> Graph:
    """One convolution of channels-last data."""
    graph = GraphBuilder(layer.name)
    x = graph.input("x", (1, layer.size, layer.size, layer.cin), "float32")
    y = graph.op("conv", x, graph.constant(weights, "w"), channels_last=True, pads=(1, 1, 1, 1))
    return graph.build([y], ["y"])


def compiled(layer: Conv, weights: np.ndarray, tile: int | None, threads: int) -> tw.Model:
    """One convolution of channels-last data, computed as ``tile`` says."""
    name = DIRECT if tile is None else f"winograd{tile}"
    return tw.compile(direct_graph(layer, weights), threads=threads, pick=lambda point: name)


def exact(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The convolution in float64."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1:3]
    total = np.zeros((*x.shape[:3], weights.shape[3]))
    for i, j in np.ndindex(3, 3):
        total += padded[:, i : i + height, j : j + width] @ weights[i, j].astype(np.float64)
    return total


def weights_of(proto: onnx.ModelProto) -> np.ndarray:
    """The weights ``[3, 3, CI, CO]``."""
    return np.ascontiguousarray(numpy_helper.to_array(proto.graph.initializer[0]).transpose(2, 3, 1, 0))


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error, relative to the largest result."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def choose(layer: Conv, threads: int, seconds: float) -> dict[str, Any]:
    """What a timing chooses, what the rule does, and what that costs."""
    weights = weights_of(layer.model())
    (point,) = choice_points(direct_graph(layer, weights), threads)
    ways = {name: graph for name, graph in variants(point).items() if name in CHOICES}
    result = compare_variants(ways, Target.host(), threads, seconds=seconds)
    want = exact(result.inputs[0], weights)
    rule = default_pick(point)
    return {
        "name": layer.name,
        "seconds": {name: result.seconds(name) for name in ways},
        "ratio": {name: 1 / result.ratio(name) for name in ways},
        "error": {name: relative_error(result.outputs[name][0], want) for name in ways},
        "fastest": result.fastest,
        "rule": rule,
        "loss": result.ratio(rule, result.fastest) - 1,
    }


def measure(layer: Conv, threads: int, rounds: int, cold: bool) -> dict[str, Any]:
    """Seconds (the best) and errors of every variant."""
    proto = layer.model()
    weights = weights_of(proto)
    x = np.random.default_rng(0).standard_normal((1, layer.size, layer.size, layer.cin), dtype=np.float32)
    planes = {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))}
    want = exact(x, weights)
    flush = np.ones(Target.host().l3_bytes if cold else 1, np.float32)  # four times the last level's bytes
    models = {name: compiled(layer, weights, tile, threads) for name, tile in VARIANTS.items()}
    peer = open_peer("onnxruntime", proto.SerializeToString(), planes, threads)

    calls: dict[str, Callable[[], object]] = {"onnxruntime": peer.run}
    for name, model in models.items():
        calls[name] = partial(model.run, {"x": x})
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if cold:
                flush.sum()
                (planes["x"] if name == "onnxruntime" else x).sum()
            else:
                call()
            begin = perf_counter()
            call()
            samples[name].append(perf_counter() - begin)
    errors = {}
    for name, model in models.items():
        got = model.run({"x": x})["y"]
        errors[name] = relative_error(got, want)
    errors["onnxruntime"] = relative_error(peer.run()["y"].transpose(0, 2, 3, 1), want)
    tile = choose_tile((1, layer.size, layer.size, layer.cout), (3, 3, layer.cin, layer.cout))
    best = {name: min(times) for name, times in samples.items()}
    return {
        "name": layer.name,
        "flops": layer.flops,
        "seconds": best,
        "ratio": {name: best["direct"] / seconds for name, seconds in best.items()},
        "error": errors,
        "chosen": next(name for name, t in VARIANTS.items() if t == tile),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.winograd", description="Winograd convolutions against direct ones."
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="calls of every variant")
    parser.add_argument("--cold", action="store_true", help="weights come from memory")
    parser.add_argument("--choose", action="store_true", help="the measured choice against the rule's")
    parser.add_argument("--seconds", type=float, default=0.5, help="with --choose: time for every way")
    parser.add_argument("--only", default="", help="only layers whose name contains this text")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args(argv)
    layers = [layer for layer in LAYERS if arguments.only in layer.name]
    if arguments.choose:
        results = [choose(layer, arguments.threads, arguments.seconds) for layer in layers]
        _print_choices(arguments.threads, results)
    else:
        results = [measure(layer, arguments.threads, arguments.rounds, arguments.cold) for layer in layers]
        _print_times(arguments.threads, arguments.cold, results)
    if arguments.json:
        document = {
            "machine": machine(),
            "threads": arguments.threads,
            "cold": arguments.cold or arguments.choose,
            "layers": results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def _print_choices(threads: int, results: Sequence[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        row = [result["name"]]
        for name in CHOICES:
            ratio = "" if name == DIRECT else f" ({result['ratio'][name]:.2f}x)"
            row += [f"{result['seconds'][name] * 1e3:.3f}{ratio}", f"{result['error'][name]:.1e}"]
        rows.append([*row, result["fastest"], result["rule"], f"{result['loss']:.1%}"])
    columns = ["layer"] + [text for name in CHOICES for text in (f"{name} ms", "error")]
    table(f"{threads} threads, weights from memory", [*columns, "fastest", "rule", "loss"], rows)


def _print_times(threads: int, cold: bool, results: Sequence[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        row = [result["name"], f"{result['seconds']['direct'] * 1e3:.3f}", f"{result['error']['direct']:.1e}"]
        for name in ("F(2x2)", "F(4x4)"):
            row += [
                f"{result['seconds'][name] * 1e3:.3f}",
                f"{result['ratio'][name]:.2f}x",
                f"{result['error'][name]:.1e}",
            ]
        row += [f"{result['seconds']['onnxruntime'] * 1e3:.3f}", f"{result['error']['onnxruntime']:.1e}"]
        rows.append([*row, result["chosen"]])
    columns = ["layer", "direct ms", "error"]
    columns += [text for name in ("F(2x2)", "F(4x4)") for text in (f"{name} ms", "vs direct", "error")]
    columns += ["onnxruntime ms", "error", "chosen"]
    peak = measure_roofline(threads).gflops
    state = "cold" if cold else "warm"
    table(f"{threads} threads, {state} weights, peak {peak:.1f} GFLOP/s", columns, rows)


if __name__ == "__main__":
    main()
