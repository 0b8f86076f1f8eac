"""Winograd convolutions against direct ones and onnxruntime: time and error, layer by layer.

    python -m benchmarks.winograd --cold

Every layer is a 3x3 convolution of stride 1 with constant weights. All variants are called in turns; times
are the best of ``--rounds`` calls, since what disturbs a call only makes it slower. Ours take channels-last
data, as inside a model; onnxruntime's time includes its own changes of layout. ``--cold`` reads a buffer
larger than the last-level cache before each call, and then the input: weights come from memory, as inside a
model. The error is the largest one against float64, relative to the largest result; ``chosen`` is what the
compiler's rule picks.
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
from onnx import numpy_helper

import tilewright as tw
from benchmarks.networks import Conv
from tilewright.benching import machine
from tilewright.cli.common import table
from tilewright.config import overriding
from tilewright.graph import GraphBuilder
from tilewright.graph.winograd import transform_weights
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


def compiled(layer: Conv, weights: np.ndarray, tile: int | None, threads: int) -> tw.Model:
    """One convolution of channels-last data, computed as ``tile`` says."""
    graph = GraphBuilder(layer.name)
    x = graph.input("x", (1, layer.size, layer.size, layer.cin), "float32")
    attrs: dict[str, Any] = {"pads": (1, 1, 1, 1)}
    if tile is None:
        y = graph.op("conv", x, graph.constant(weights, "w"), channels_last=True, **attrs)
    else:
        y = graph.op(
            "winograd_conv", x, graph.constant(transform_weights(weights, tile), "w"), tile=tile, **attrs
        )
    with overriding(fast_conv=False):
        return tw.compile(graph.build([y], ["y"]), threads=threads)


def exact(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The convolution in float64."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1:3]
    total = np.zeros((*x.shape[:3], weights.shape[3]))
    for i, j in np.ndindex(3, 3):
        total += padded[:, i : i + height, j : j + width] @ weights[i, j].astype(np.float64)
    return total


def measure(layer: Conv, threads: int, rounds: int, cold: bool) -> dict[str, Any]:
    """Seconds (the best) and errors of every variant."""
    proto = layer.model()
    weights = np.ascontiguousarray(numpy_helper.to_array(proto.graph.initializer[0]).transpose(2, 3, 1, 0))
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
        errors[name] = float(np.abs(got - want).max() / np.abs(want).max())
    got = peer.run()["y"].transpose(0, 2, 3, 1)
    errors["onnxruntime"] = float(np.abs(got - want).max() / np.abs(want).max())
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
    parser.add_argument("--only", default="", help="only layers whose name contains this text")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args(argv)
    layers = [layer for layer in LAYERS if arguments.only in layer.name]
    results = [measure(layer, arguments.threads, arguments.rounds, arguments.cold) for layer in layers]
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
    peak = measure_roofline(arguments.threads).gflops
    state = "cold" if arguments.cold else "warm"
    table(f"{arguments.threads} threads, {state} weights, peak {peak:.1f} GFLOP/s", columns, rows)
    if arguments.json:
        document = {
            "machine": machine(),
            "threads": arguments.threads,
            "cold": arguments.cold,
            "layers": results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
