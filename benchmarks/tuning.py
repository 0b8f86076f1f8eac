"""What tuning whole models brings: each tuned for some minutes, then timed beside itself untuned and peers.

    python -m benchmarks.tuning --minutes 5 --threads 2 --folder work --json tuning.json

Each model starts from an empty measurement store. The untuned model, the tuned one and the peers take turns
in one process, each round in another order; the process starts anew several times, since addresses and pages
differ from process to process. A ratio is the geometric mean over all rounds of the ratio of the two medians
within a round, with its 95 % confidence interval. The best peer is the one with the least median.

Stores and compiled models are kept in ``--folder``: a model that has been tuned there for as many minutes is
not tuned again, only timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tilewright as tw
from benchmarks.curves import Ratio, paired_ratio
from benchmarks.models import BUILT, Shapes, cases, model_file
from benchmarks.steps import done, keep
from tilewright.benching import machine, time_in_turns
from tilewright.cli.common import table
from tilewright.compare import compare
from tilewright.feeds import complete_inputs, integer_bounds, model_inputs
from tilewright.frontend.onnx.reader import read
from tilewright.peers import open_peer, parse_peers, parsed, specialized

#: Models of one engine each that are timed beside the peers.
UNTUNED, TUNED = "untuned", "tuned"


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process is to time.

    Attributes:
        model: the ONNX file.
        artifacts: compiled models by name.
        peers: other engines.
        seconds: recorded time of each.
    """

    model: Path
    shapes: Shapes
    artifacts: Mapping[str, Path]
    peers: tuple[str, ...]
    threads: int
    seconds: float
    seed: int


def times_of(job: Job) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """By engine the medians of its rounds, and whether its outputs agree with those of the first peer (of the
    untuned model, where there is no peer)."""
    raw = read(job.model)
    feeds = complete_inputs(model_inputs(raw), None, job.shapes, job.seed, integer_bounds(raw))
    data = specialized(parsed(job.model), feeds)
    calls: dict[str, Any] = {}
    for name, path in job.artifacts.items():
        model = tw.load(path)
        calls[name] = functools.partial(model.run, feeds)
    for name in job.peers:
        calls[name] = open_peer(name, data, feeds, job.threads).run
    first = {name: {k: np.array(v) for k, v in call().items()} for name, call in calls.items()}
    reference = first[job.peers[0] if job.peers else UNTUNED]
    agrees = {
        name: all(compare(k, outputs[k], value).ok for k, value in reference.items())
        for name, outputs in first.items()
    }
    rounds = time_in_turns(list(calls.values()), total=job.seconds)
    medians = [[statistics.median(turn) for turn in turns] for turns in rounds]
    return dict(zip(calls, medians, strict=True)), agrees


@dataclasses.dataclass(frozen=True)
class Gain:
    """What tuning a model has brought.

    Attributes:
        medians: seconds of a run by engine.
        over_untuned: the untuned model's time by the tuned one's.
        over_peer: the best peer's time by the tuned model's; None without peers.
        peer: the best peer's name.
    """

    medians: Mapping[str, float]
    over_untuned: Ratio
    over_peer: Ratio | None
    peer: str

    @staticmethod
    def of(times: Mapping[str, Sequence[float]]) -> Gain:
        """From the medians of all rounds, by engine."""
        medians = {name: statistics.median(rounds) for name, rounds in times.items()}
        peers = [name for name in times if name not in (UNTUNED, TUNED)]
        peer = min(peers, key=medians.__getitem__, default="")
        over_peer = paired_ratio(times[peer], times[TUNED]) if peer else None
        return Gain(medians, paired_ratio(times[UNTUNED], times[TUNED]), over_peer, peer)


@dataclasses.dataclass(frozen=True)
class Setup:
    """The choices of a run, as its options name them."""

    folder: Path
    minutes: float
    effort: str
    threads: int
    peers: tuple[str, ...]
    starts: int
    seconds: float


def tuned(setup: Setup, path: Path, shapes: Shapes, folder: Path) -> dict[str, Any]:
    """Tune a model into an empty store, and keep it compiled as it was and as it is; what that took."""
    threads = setup.threads
    request = {"model": path.name, "shapes": shapes, "minutes": setup.minutes, "threads": threads}
    request["effort"] = setup.effort
    found = done(folder / "tuned.json", request)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store.sqlite"
    for old in folder.glob("store.sqlite*"):
        old.unlink()
    before = tw.compile(path, threads=threads, shapes=shapes, store=False)
    before.save(folder / f"{UNTUNED}.tw")
    begin = time.perf_counter()
    result = tw.tune(
        path, f"{setup.minutes:g}m", threads=threads, shapes=shapes, store=store, effort=setup.effort
    )
    spent = time.perf_counter() - begin
    result.compile().save(folder / f"{TUNED}.tw")
    found = {
        "seconds": spent,
        "measurements": result.trials,
        "failures": dict(result.failures),
        "tasks": len(result.tasks),
        "result": result.to_json(),
    }
    keep(folder / "tuned.json", request, found)
    return found


def measure(setup: Setup, key: str, shapes: Shapes) -> dict[str, Any]:
    """Tune a model and time it in several processes; a JSON-able mapping."""
    path = model_file(key)
    folder = setup.folder.resolve() / "-".join([key, *("x".join(map(str, s)) for s in shapes.values())])
    spent = tuned(setup, path, shapes, folder)
    artifacts = {name: folder / f"{name}.tw" for name in (UNTUNED, TUNED)}
    times: dict[str, list[float]] = {}
    agrees: dict[str, bool] = {}
    for start in range(setup.starts):
        job = Job(path, shapes, artifacts, setup.peers, setup.threads, setup.seconds, start)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found, same = pool.apply(times_of, (job,))
        for name, rounds in found.items():
            times.setdefault(name, []).extend(rounds)
            agrees[name] = agrees.get(name, True) and same[name]
    gain = Gain.of(times)
    return {
        "model": key,
        "shapes": shapes,
        "tuning": spent,
        "rounds": times,
        "agrees": agrees,
        "gain": dataclasses.asdict(gain),
    }


def row(result: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    """A model's row of the table: milliseconds, then the ratios with their intervals, then what it took."""
    gain, spent = Gain.of(result["rounds"]), result["tuning"]
    failures = ", ".join(f"{n} {status}" for status, n in spent["failures"].items()) or "0"
    return [
        result["model"],
        *(f"{gain.medians[name] * 1e3:.2f}" for name in (UNTUNED, TUNED, *peers)),
        str(gain.over_untuned),
        "-" if gain.over_peer is None else f"{gain.over_peer} ({gain.peer})",
        f"{spent['seconds']:.0f}",
        str(spent["tasks"]),
        str(spent["measurements"]),
        failures,
        "ok" if all(result["agrees"].values()) else "DIFFERS",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuning", description="What tuning whole models brings."
    )
    parser.add_argument("models", nargs="*", help=f"of `benchmarks.models`; by default {', '.join(BUILT)}")
    parser.add_argument("--minutes", type=float, default=5, help="of tuning for each model")
    parser.add_argument("--effort", default="full", help="as for `tilewright tune`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--against", default="onnxruntime,openvino", help="engines, separated by commas")
    parser.add_argument("--folder", type=Path, required=True, help="where stores and models are kept")
    parser.add_argument("--starts", type=int, default=3, help="how often the timing starts a process anew")
    parser.add_argument("--seconds", type=float, default=4, help="recorded time of every engine in each")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args(argv)
    peers = tuple(parse_peers(arguments.against))
    setup = Setup(
        arguments.folder,
        arguments.minutes,
        arguments.effort,
        arguments.threads,
        peers,
        arguments.starts,
        arguments.seconds,
    )
    results: list[dict[str, Any]] = []
    for key, shapes in cases(arguments.models or list(BUILT)):
        results.append(measure(setup, key, shapes))
        print(", ".join(row(results[-1], peers)), flush=True)
        if arguments.json:
            document = {"machine": machine(), "threads": arguments.threads, "models": results}
            arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    columns = ["model", "untuned ms", "tuned ms", *(f"{peer} ms" for peer in peers)]
    columns += ["untuned / tuned", "best peer / tuned", "s", "tasks", "measured", "failed", "outputs"]
    title = f"Tuned for {arguments.minutes:g} minutes, {arguments.threads} threads"
    table(title, columns, [row(result, peers) for result in results])
    if not all(all(result["agrees"].values()) for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
