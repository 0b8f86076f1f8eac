"""How good the search space is: random candidates of every sketch against the default and onnxruntime.

    python -m benchmarks.candidates --count 200 --json candidates.json

For each operator (ResNet-50's convolutions, MobileNet-v2's depthwise ones) ``--count`` valid candidates are
drawn at random from the sketches of all ways to compute it, compiled in worker processes, checked against the
direct computation, and timed: each alone first, then the best few in turns with the default and with
onnxruntime. Nothing is learned and nothing is guided: it shows what a search could find, and how often a
random candidate is good.

Our operators take channels-last data, as inside a model; weights are warm for everyone. onnxruntime runs the
model of one node with bound inputs and outputs; the time of a call of it that computes nothing is taken off.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import MOBILENET_DEPTHWISE, RESNET50_CONVS, Conv, Depthwise
from tilewright.assembly import count_flops, graph_kernels
from tilewright.benching import machine, time_in_turns
from tilewright.build import Options, always, compile_kernels
from tilewright.cache import DiskCache
from tilewright.cli.common import table
from tilewright.errors import TilewrightError
from tilewright.frontend.onnx import read_model
from tilewright.graph.alternatives import DIRECT, ChoicePoint, choice_points, default_pick
from tilewright.graph.graph import Graph
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise, variants
from tilewright.ir.printer import workload_key
from tilewright.ir.stmt import PrimFunc
from tilewright.measure import GraphRunner
from tilewright.roofline import measure_roofline
from tilewright.schedule.default import default_schedule
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.sketch import Sketch
from tilewright.schedule.space import sketches
from tilewright.target import Target

#: Candidates that are timed again, in turns with the default and onnxruntime.
FINALISTS = 8
#: Largest difference of a candidate's result to the direct one's, relative to the largest result.
TOLERANCE = 1e-4
#: Candidates taken from the first sketch of a way for each one from another; of the way picked by the rule.
FIRST_SHARE, PICKED_SHARE = 3, 16


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to compute the operator, one of its sketches, and values for the sketch's decisions."""

    way: str
    sketch: Sketch
    row: tuple[int, ...]

    @property
    def label(self) -> str:
        values = ", ".join(f"{n}={v}" for n, v in zip(self.sketch.columns, self.row, strict=True))
        return f"{self.way}/{self.sketch.name}: {values}"

    def schedule(self, func: PrimFunc, target: Target) -> Schedule:
        """The bound schedule of the sketch's own function, the default one of any other."""
        if workload_key(func) == workload_key(self.sketch.func):
            return self.sketch.bind(self.row)
        return default_schedule(func, target)


def ways_of(operator: Conv | Depthwise, threads: int) -> tuple[dict[str, Graph], str]:
    """The operator's graph for each way to compute it, channels last, and the way that the rule picks."""
    imported = read_model(operator.model()).to_graph({"x": operator.shape})
    graph = optimise(imported, pick=lambda point: DIRECT, threads=threads)
    node = next(n for n in graph.nodes if n.op in ("conv", "depthwise_conv"))
    points = [p for p in choice_points(graph, threads) if p.node is node]
    if not points:
        constants = {v: d for v in node.inputs if v is not None and (d := graph.constant(v)) is not None}
        return {DIRECT: ChoicePoint(node, constants, (), threads).graph()}, DIRECT
    return variants(points[0]), default_pick(points[0])


def main_task(graph: Graph) -> PrimFunc:
    """The loop program with most work of a graph."""
    return max((k.func for k in graph_kernels(graph, partition(graph))), key=count_flops)


def draw(ways: dict[str, Graph], picked: str, target: Target, count: int, seed: int) -> list[Candidate]:
    """``count`` different valid candidates: turn by turn from each sketch, several at a time from the first
    one of each way (the structure of the default), most from that of the way that the rule picks."""
    rng = np.random.default_rng(seed)
    pools: list[tuple[int, list[Candidate]]] = []
    for way, graph in ways.items():
        for place, sketch in enumerate(sketches(main_task(graph), target)):
            rows = sketch.sample(count, rng)
            pool = [Candidate(way, sketch, tuple(map(int, row))) for row in rows]
            share = (PICKED_SHARE if way == picked else FIRST_SHARE) if place == 0 else 1
            pools.append((share, pool))
    drawn: list[Candidate] = []
    while len(drawn) < count and any(pool for _, pool in pools):
        for share, pool in pools:
            drawn += pool[:share]
            del pool[:share]
    return drawn[:count]


#: What forked workers find by number: sketches cannot be sent to them.
_named: list[tuple[Candidate, str]] = []


def _compile(number: int, target: Target, folder: str) -> str | None:
    """Compile a candidate into the cache; returns what went wrong."""
    candidate, name = _named[number]
    options = Options(choose=always(candidate.schedule, name), cache=DiskCache(Path(folder)))
    try:
        compile_kernels([candidate.sketch.func], target, options)
    except TilewrightError as error:
        return f"{type(error).__name__}: {error}"
    return None


def measure(
    operator: Conv | Depthwise, target: Target, count: int, threads: int, jobs: int, seconds: float, seed: int
) -> dict[str, Any]:
    """Time an operator's candidates, its default and onnxruntime."""
    ways, picked = ways_of(operator, threads)
    candidates = draw(ways, picked, target, count, seed)
    with tempfile.TemporaryDirectory(prefix="tilewright-candidates-") as folder:
        named = [(c, f"candidate-{n}") for n, c in enumerate(candidates)]
        _named[:] = named
        begin = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            compile_one = functools.partial(_compile, target=target, folder=folder)
            problems = pool.map(compile_one, range(len(named)), chunksize=4)
        compiled = time.perf_counter() - begin
        failures = [f"{c.label}: {p}" for c, p in zip(candidates, problems, strict=True) if p is not None]
        cache = DiskCache(Path(folder))
        x = np.random.default_rng(seed).standard_normal(operator.shape, dtype=np.float32)

        def runner(graph: Graph, **how: Any) -> GraphRunner:
            made = GraphRunner(graph, target, threads, cache=cache, **how)
            made.inputs[0][...] = np.moveaxis(x, 1, -1).reshape(made.inputs[0].shape)
            made()
            return made

        reference = runner(ways[DIRECT]).outputs[0].copy()
        default = runner(ways[picked])
        scale = float(np.abs(reference).max())
        timed: list[tuple[float, int]] = []
        for n, (candidate, name) in enumerate(named):
            if problems[n] is not None:
                continue
            made = runner(ways[candidate.way], choose=always(candidate.schedule, name))
            error = float(np.abs(made.outputs[0] - reference).max())
            if not error <= TOLERANCE * scale:
                failures.append(f"{candidate.label}: differs by {error / scale:.2g}")
                continue
            timed.append((min(_once(made) for _ in range(3)), n))
        timed.sort()
        finalists = [
            runner(ways[candidates[n].way], choose=always(candidates[n].schedule, named[n][1]))
            for _, n in timed[:FINALISTS]
        ]
        peer, empty = _onnxruntime(operator, x, threads)
        samples = time_in_turns([default, peer, empty, *finalists], total=seconds)
    medians = [float(np.median([s for turn in turns for s in turn])) for turns in samples]
    overhead = min(medians[2], medians[1])
    best = int(np.argmin(medians[3:]))
    alone = sorted(t for t, _ in timed)
    return {
        "name": operator.name,
        "flops": operator.flops,
        "candidates": len(candidates),
        "failures": failures,
        "compile_seconds": compiled,
        "default": medians[0],
        "default_way": picked,
        "onnxruntime": medians[1] - overhead,
        "best": medians[3 + best],
        "best_candidate": candidates[timed[best][1]].label,
        "median_candidate": alone[len(alone) // 2],
        "within_25_percent": sum(t <= 1.25 * alone[0] for t in alone) / len(alone),
    }


def _once(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _onnxruntime(
    operator: Conv | Depthwise, x: np.ndarray, threads: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Calls of the operator's model, and of one that computes next to nothing, with everything bound."""
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("Relu", ["x"], ["y"])
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=[1])
    graph = helper.make_graph([node], "empty", [value("x")], [value("y")])
    empty = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    calls = []
    for proto, data in ((operator.model(), x), (empty, np.zeros(1, np.float32))):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        binding.bind_cpu_input("x", data)
        shape = session.run(None, {"x": data})[0].shape
        output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
        binding.bind_ortvalue_output("y", output)
        calls.append(functools.partial(session.run_with_iobinding, binding))
    return calls[0], calls[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.candidates", description="Random candidates of the search space."
    )
    parser.add_argument("--count", type=int, default=200, help="candidates of each operator")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile")
    parser.add_argument("--only", default="", help="only operators whose name contains this text")
    parser.add_argument("--part", default="0/1", help="K/N: every N-th operator from the K-th on")
    parser.add_argument("--seconds", type=float, default=0.3, help="time of each in the final turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args(argv)
    target = Target.host()
    peak = measure_roofline(arguments.threads).gflops
    results = []
    first, _, step = arguments.part.partition("/")
    for operator in (*RESNET50_CONVS, *MOBILENET_DEPTHWISE)[int(first) :: int(step or 1)]:
        if arguments.only in operator.name:
            result = measure(
                operator,
                target,
                arguments.count,
                arguments.threads,
                arguments.jobs,
                arguments.seconds,
                arguments.seed,
            )
            results.append(result)
            print(
                f"{result['name']}: default {result['default'] * 1e6:.1f} us, "
                f"best {result['best'] * 1e6:.1f}, onnxruntime {result['onnxruntime'] * 1e6:.1f} "
                f"({result['best_candidate']}; "
                f"{result['candidates']} candidates compiled in {result['compile_seconds']:.0f} s)",
                flush=True,
            )
            for failure in result["failures"]:
                print(f"  FAILED {failure}", flush=True)
    rows = [
        [
            r["name"],
            f"{r['default'] * 1e6:.1f}",
            f"{r['best'] * 1e6:.1f}",
            f"{r['onnxruntime'] * 1e6:.1f}",
            f"{r['flops'] / r['best'] / 1e9 / peak:.0%}",
            f"{r['default'] / r['best']:.2f}",
            f"{r['onnxruntime'] / r['best']:.2f}",
            f"{r['onnxruntime'] / r['default']:.2f}",
            f"{r['within_25_percent']:.0%}",
            r["best_candidate"].partition(":")[0],
        ]
        for r in results
    ]
    columns = [
        "operator",
        "default us",
        "best us",
        "onnxruntime us",
        "best of peak",
        "default / best",
        "ort / best",
        "ort / default",
        "within 25 %",
        "best sketch",
    ]
    title = f"{arguments.threads} threads, peak {peak:.1f} GFLOP/s, {arguments.count} candidates"
    table(title, columns, rows)
    if results:
        good = sum(r["onnxruntime"] >= r["best"] for r in results)
        gain = math.prod(r["default"] / r["best"] for r in results) ** (1 / len(results))
        failed = sum(len(r["failures"]) for r in results)
        print(
            f"best >= onnxruntime on {good} of {len(results)}; geometric mean of default / best {gain:.3f}; "
            f"{failed} candidates failed"
        )
    if arguments.json:
        document = {
            "machine": machine(),
            "threads": arguments.threads,
            "peak_gflops": peak,
            "operators": results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if any(r["failures"] for r in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
