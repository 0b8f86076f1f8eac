"""``tilewright bench``: how fast is the compiled model, side by side with other engines in one run?

Machines change speed from second to second, so the engines take turns in short bursts, each round in another
order. The first call of a burst is not recorded: it pays for caches and threads that the others took over.
Medians are reported, which a stall of the machine does not move, and the ratio to a peer is the median over
rounds of the ratio of the two burst medians, which a slow phase does not move either.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilewright import __version__, api
from tilewright.build import Progress
from tilewright.compare import Difference, compare
from tilewright.errors import OptionError
from tilewright.feeds import complete_inputs, integer_bounds, model_inputs, require_steering
from tilewright.frontend.onnx.reader import Source, read
from tilewright.peers import open_peer, parse_peers, parsed, specialized
from tilewright.target import Target

#: Recorded calls of one engine in one turn last about this long (at least one call is made).
BURST_SECONDS = 0.05
#: Recorded time of every engine when the number of runs is not given.
TOTAL_SECONDS = 2.0
MIN_RUNS, MAX_RUNS = 12, 2000


@dataclasses.dataclass(frozen=True)
class Timing:
    """One engine's times of one model, in seconds.

    Attributes:
        name, version: the engine.
        load: from the model's bytes to an engine ready to run (for tilewright: the compilation, whose kernels
            may come from the cache).
        rounds: the recorded samples, one tuple for each turn.
        ratio: this project's time divided by this engine's, as the module's text defines it; 1 for itself.
        outputs: comparison of each output with the first peer's; empty for that peer.
    """

    name: str
    version: str
    load: float
    rounds: tuple[tuple[float, ...], ...]
    ratio: float
    outputs: tuple[Difference, ...]

    @property
    def samples(self) -> list[float]:
        """All recorded samples."""
        return [sample for turn in self.rounds for sample in turn]

    @property
    def median(self) -> float:
        """Median sample."""
        return statistics.median(self.samples)

    @property
    def minimum(self) -> float:
        """Fastest sample."""
        return min(self.samples)

    @property
    def p90(self) -> float:
        """90th percentile of the samples."""
        return float(np.percentile(self.samples, 90))

    @property
    def agrees(self) -> bool:
        """Every output that was compared agrees."""
        return all(output.ok for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able mapping with every raw sample."""
        return {
            "name": self.name,
            "version": self.version,
            "load_seconds": self.load,
            "median_seconds": self.median,
            "min_seconds": self.minimum,
            "p90_seconds": self.p90,
            "ratio": self.ratio,
            "runs": len(self.samples),
            "rounds_seconds": [list(turn) for turn in self.rounds],
            "outputs": [output.to_dict() for output in self.outputs],
        }


@dataclasses.dataclass(frozen=True)
class BenchReport:
    """What :func:`bench` measured: ``timings[0]`` is this project, then the peers in the order asked for.

    Attributes:
        artifact_load: seconds to load the saved artifact.
        artifact_bytes: size of the artifact on disk.
    """

    timings: tuple[Timing, ...]
    shapes: dict[str, tuple[int, ...]]
    threads: int
    artifact_load: float
    artifact_bytes: int

    @property
    def ok(self) -> bool:
        """All engines computed the same outputs."""
        return all(timing.agrees for timing in self.timings)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        return {
            "ok": self.ok,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "threads": self.threads,
            "machine": machine(),
            "artifact_load_seconds": self.artifact_load,
            "artifact_bytes": self.artifact_bytes,
            "engines": [timing.to_dict() for timing in self.timings],
        }


def machine() -> dict[str, Any]:
    """What the numbers of a run depend on: processor, cores, system, Python."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def bench(
    source: Source,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    against: str | Sequence[str] = ("onnxruntime",),
    threads: int = 1,
    runs: int | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    target: str | Target = "native",
    progress: Progress | None = None,
) -> BenchReport:
    """Time an ONNX model here and in other engines, in turns, with the same data and number of threads.

    Args:
        shapes, inputs, seed: as :func:`tilewright.checking.check`.
        against: names of engines (:data:`tilewright.peers.PEERS`); an empty sequence times tilewright alone.
        threads: threads of every engine.
        runs: recorded calls of every engine; by default as many as fit into about two seconds.
        progress: called with (step, done, total); a total of 0 is unknown.

    Raises:
        ModelFileError, UnsupportedError, ShapeError, InputError: as :func:`tilewright.compile` and the feeds.
        OptionError, MissingDependencyError: an engine is unknown, cannot run ONNX files, or is not installed.
    """
    if threads < 1 or (runs is not None and runs < 1):
        raise OptionError("the numbers of threads and runs are at least 1")
    say = progress or (lambda step, done, total: None)
    raw = read(source)
    feeds = complete_inputs(model_inputs(raw), inputs, shapes, seed, integer_bounds(raw))
    concrete = {name: tuple(array.shape) for name, array in feeds.items()}
    data = specialized(parsed(source), feeds)

    peers = []
    for name in parse_peers(against):
        say(f"loading {name}", 0, 0)
        peers.append(open_peer(name, data, feeds, threads))
    say("compiling", 0, 0)
    start = time.perf_counter()
    model = api.compile(source, target=target, threads=threads, shapes=concrete, progress=progress)
    require_steering(model.steering, inputs or ())
    model.prepare(feeds)
    load = time.perf_counter() - start
    artifact_load, artifact_bytes = _artifact(model)

    calls: list[Callable[[], Mapping[str, np.ndarray]]] = [
        lambda: model.run(feeds),
        *(peer.run for peer in peers),
    ]
    first = [{name: np.array(value) for name, value in call().items()} for call in calls]
    say("timing", 0, 0)
    rounds = time_in_turns(calls, runs)
    ours = [statistics.median(turn) for turn in rounds[0]]
    ratios = [
        statistics.median(a / statistics.median(turn) for a, turn in zip(ours, theirs, strict=True))
        for theirs in rounds
    ]
    timings = []
    names = [("tilewright", __version__, load)] + [
        (peer.name, peer.version, peer.load_seconds) for peer in peers
    ]
    for index, (name, version, seconds) in enumerate(names):
        reference = first[1] if peers else first[0]
        outputs = tuple(
            compare(output, first[index][output], reference[output])
            for output in (reference if index != 1 else ())
            if output in first[index]
        )
        timings.append(
            Timing(name, version, seconds, tuple(map(tuple, rounds[index])), ratios[index], outputs)
        )
    return BenchReport(tuple(timings), concrete, threads, artifact_load, artifact_bytes)


def _artifact(model: api.Model) -> tuple[float, int]:
    """Seconds to load the saved model (best of three), and its size in bytes."""
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as folder:
        path = Path(folder) / "model.tw"
        model.save(path)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            api.load(path)
            seconds.append(time.perf_counter() - start)
        size = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*"))
    return min(seconds), size


def time_in_turns(
    calls: Sequence[Callable[[], object]], runs: int | None = None, total: float = TOTAL_SECONDS
) -> list[list[list[float]]]:
    """Time ``calls`` against each other; see the module's text.

    Args:
        calls: what to time, each without arguments.
        runs: recorded samples of each; by default as many as fit into ``total`` seconds of each.

    Returns:
        For each call, for each round, the samples in seconds. All have the same number of rounds.
    """
    slowest = max(_estimate(call) for call in calls)
    if runs is None:
        runs = min(max(MIN_RUNS, round(total / slowest)), MAX_RUNS)
    size = min(max(1, round(BURST_SECONDS / slowest)), runs)
    turns = -(-runs // size)
    results: list[list[list[float]]] = [[] for _ in calls]
    for turn in range(turns):
        order = [(turn + offset) % len(calls) for offset in range(len(calls))]
        for index in order:
            results[index].append(_burst(calls[index], size))
    return results


def _estimate(call: Callable[[], object]) -> float:
    """Seconds a call takes once warm, roughly."""
    call()
    best = float("inf")
    deadline = time.perf_counter() + 0.2
    for _ in range(20):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > deadline:
            break
    return max(best, 1e-7)


def _burst(call: Callable[[], object], size: int) -> list[float]:
    call()
    samples = []
    for _ in range(size):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return samples
