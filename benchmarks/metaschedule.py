"""Tuning single kernels here and by TVM's MetaSchedule: how good, after how many measurements, how soon.

    python -m venv peer
    peer/bin/pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 xgboost-cpu cloudpickle scipy
    python -m benchmarks.metaschedule --python peer/bin/python --folder work --out all.json --plot curves.png

Each kernel of :mod:`benchmarks.kernels` is tuned by both on this machine, from nothing, one after the other,
with the same number of threads. A search's own times cannot be compared with another's, taken at another
time by another clock. So the programs that were the best so far, of both, are checked against NumPy and timed
again in turns, each in a process of its own kind, in processes started several times; every latency that is
printed is from there. The numbers of measurements and the wall times are the searches' own.

What is in MetaSchedule's favour: of several ways to write a kernel (``VARIANTS``) it has the one that is best
after ``--pilot`` measurements, which are not counted; weights may be rearranged for free, and stay in the
caches between calls, as in its own measurements (ours assume that they come from memory); its calls are timed
by its own loop in C++, ours by one in Python. Convolutions are direct ones for both.

Every finished step is kept in ``--folder``: the same command goes on where it was stopped, and with other
options does again only what these concern. A kernel on which a side fails is reported with what it said.
(The pinned apache-tvm-ffi matters: with 0.1.15 MetaSchedule ends in a segmentation fault.)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.curves import Curve, Measured, Ratio, first_reaching, geometric_mean, paired_ratio
from benchmarks.kernels import KERNELS, Kernel
from benchmarks.own_search import Guide, make_guide, search
from benchmarks.steps import done, keep
from benchmarks.turns import Command, ServerError, take_turns
from tilewright.benching import machine
from tilewright.cli.common import table
from tilewright.errors import TilewrightError
from tilewright.target import Target

#: Ways to write a kernel in TVM that are tried; ``matmul`` is for 1x1 convolutions of stride 1.
VARIANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "conv": ("nhwc", "nchw"),
    "depthwise": ("nhwc", "nchw"),
    "dense": ("matmul",),
    "softmax": ("exact", "fast"),
}
#: After how many measurements the latencies are shown.
OUR_STEPS: Final = (0, 8, 16, 32)
THEIR_STEPS: Final = (32, 100, 300, 1000)
#: Of their programs that were the best for a while, those are timed again that gained at least so much.
GAIN: Final = 0.02
#: What the child says when a search has had its minutes.
OUT_OF_TIME: Final = "out of time"
CHILD: Final = Path(__file__).with_name("metaschedule_child.py")


class StepError(Exception):
    """A step of one side failed; with what it said."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """The choices of a run, as its options name them."""

    python: str
    folder: Path
    threads: int
    mcpu: str
    trials: int
    ours: int
    pilot: int
    minutes: float
    starts: int
    rounds: int
    turn: float
    seed: int

    @property
    def target(self) -> dict[str, Any]:
        """TVM's target."""
        return {"kind": "llvm", "mcpu": self.mcpu, "num-cores": self.threads}


def variants(kernel: Kernel) -> tuple[str, ...]:
    """Ways to write the kernel in TVM."""
    pointwise = kernel.kind == "conv" and kernel.sizes[3:] == (1, 1)
    return (*VARIANTS[kernel.kind], *(("matmul",) if pointwise else ()))


# ----------------------------------------------------------------------------------------------- MetaSchedule
def child(setup: Setup, step: str, request: Mapping[str, Any]) -> None:
    """Run a step of the child to its end. Raises StepError with the end of what it said."""
    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{step}.log"
    with log.open("w") as file:
        status = subprocess.run(
            [setup.python, str(CHILD), step, json.dumps(request)],
            env={**os.environ, "TVM_NUM_THREADS": str(setup.threads)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            check=False,
        ).returncode
    if status:
        said = log.read_text().strip()[-600:]
        raise StepError(f"{step} ended with status {status}: {said}")


def their_search(setup: Setup, kernel: Kernel, variant: str, trials: int, folder: Path) -> dict[str, Any]:
    """MetaSchedule's search of one variant: wall time and why it stopped early, if it did."""
    request = {
        "kind": kernel.kind,
        "sizes": list(kernel.sizes),
        "variant": variant,
        "trials": trials,
        "batch": min(64, trials),
        "threads": setup.threads,
        "target": setup.target,
        "seed": setup.seed,
        "min_repeat_ms": 100,
        "build_timeout": 60,
        "folder": str(folder),
    }
    found = done(folder / "search.json", request)
    if found is None or (found["stopped"] == OUT_OF_TIME and found["minutes"] < setup.minutes):
        child(setup, "tune", {**request, "minutes": setup.minutes})
        found = {**json.loads((folder / "tuned.json").read_text()), "minutes": setup.minutes}
        keep(folder / "search.json", request, found)
    return found


def their_best_variant(setup: Setup, kernel: Kernel, folder: Path) -> tuple[str, dict[str, float]]:
    """The variant that is best after the pilot's measurements, and the best times of all that ran."""
    names = variants(kernel)
    if len(names) == 1 or not setup.pilot:
        return names[0], {}
    found: dict[str, float] = {}
    problems: list[str] = []
    for name in names:
        place = folder / f"pilot-{name}"
        try:
            their_search(setup, kernel, name, setup.pilot, place)
        except StepError as error:
            problems.append(f"{name}: {error}")
            continue
        best = Curve.read(place / "curve.jsonl").best()
        if best is not None and best.seconds is not None:
            found[name] = best.seconds
    if not found:
        raise StepError("no variant could be measured; " + "; ".join(problems))
    return min(found, key=found.__getitem__), found


# ------------------------------------------------------------------------------------------------------- ours
def our_search(setup: Setup, guide: Guide, kernel: Kernel, folder: Path) -> dict[str, Any]:
    """Our search: what it took; the curve and the traces are in the folder. Raises StepError."""
    request = {
        "kernel": dataclasses.asdict(kernel),
        "trials": setup.ours,
        "threads": setup.threads,
        "seed": setup.seed,
    }
    found = done(folder / "search.json", request)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "curve.jsonl").open("w") as file:

            def tell(entry: Mapping[str, Any]) -> None:
                file.write(json.dumps(entry) + "\n")
                file.flush()

            try:
                found = search(kernel, guide, setup.threads, setup.ours, setup.seed, folder, tell)
            except (TilewrightError, RuntimeError) as error:
                raise StepError(f"our search: {error}") from error
        keep(folder / "search.json", request, found)
    return found


# ----------------------------------------------------------------------------------------------- side by side
def timed_again(setup: Setup, kernel: Kernel, variant: str, folder: Path) -> dict[str, Any]:
    """Seconds of the best programs of both, by trial, for every round of turns."""
    theirs, ours = (Curve.read(folder / side / "curve.jsonl") for side in ("tvm", "ours"))
    their_trials = [p.trial for p in theirs.steps(GAIN, THEIR_STEPS)]
    our_trials = [p.trial for p in ours.improvements()]
    if not their_trials or not our_trials:
        raise StepError("no program of this kernel could be measured")
    request = {
        "tvm": their_trials,
        "ours": our_trials,
        "variant": variant,
        "searches": [(folder / side / "search.json").read_text() for side in ("tvm", "ours")],
        "turns": [setup.starts, setup.rounds, setup.turn],
    }
    found = done(folder / "turns.json", request)
    if found is not None:
        return found
    data = folder / "data.npz"
    np.savez(data, **{f"a{n}": array for n, array in enumerate(kernel.arrays(setup.seed))})
    common = {
        "kind": kernel.kind,
        "sizes": list(kernel.sizes),
        "variant": variant,
        "target": setup.target,
        "data": str(data),
        "folder": str(folder / "tvm"),
    }
    child(setup, "export", {**common, "trials_wanted": their_trials})
    programs = json.loads((folder / "tvm" / "exported.json").read_text())["programs"]
    traces = {e["trial"]: e["trace"] for e in map(json.loads, _lines(folder / "ours" / "curve.jsonl"))}
    mine = {
        "kernel": [kernel.network, kernel.kind, list(kernel.sizes)],
        "traces": [traces[trial] for trial in our_trials],
        "threads": setup.threads,
        "seed": setup.seed,
    }
    try:
        samples = take_turns(
            [
                Command(
                    (setup.python, str(CHILD), "serve", json.dumps({**common, "programs": programs})),
                    {"TVM_NUM_THREADS": str(setup.threads)},
                ),
                Command((sys.executable, "-m", "benchmarks.turns", json.dumps(mine))),
            ],
            setup.starts,
            setup.rounds,
            setup.turn,
            setup.seed,
        )
    except ServerError as error:
        raise StepError(f"timing in turns: {error}") from error
    found = {
        side: {str(trial): times for trial, times in zip(trials, own, strict=True)}
        for side, trials, own in zip(("tvm", "ours"), (their_trials, our_trials), samples, strict=True)
    }
    keep(folder / "turns.json", request, found)
    data.unlink()
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Both searches of a kernel.

    Attributes:
        theirs, ours: the curves.
        their_seconds, our_seconds: the programs' median seconds, timed again, by trial.
        their_rounds, our_rounds: their times by round.
        their_wall, our_wall: seconds of the whole searches.
    """

    theirs: Curve
    ours: Curve
    their_rounds: Mapping[int, Sequence[float]]
    our_rounds: Mapping[int, Sequence[float]]
    their_wall: float
    our_wall: float

    @property
    def their_seconds(self) -> dict[int, float]:
        """Median seconds by trial."""
        return {trial: statistics.median(times) for trial, times in self.their_rounds.items()}

    @property
    def our_seconds(self) -> dict[int, float]:
        """Median seconds by trial."""
        return {trial: statistics.median(times) for trial, times in self.our_rounds.items()}

    def their_latency(self, trials: int) -> float | None:
        """Of the program picked after so many measurements; None where the search ended before."""
        return self._latency(self.theirs, self.their_seconds, trials)

    def our_latency(self, trials: int) -> float | None:
        """As :meth:`their_latency`."""
        return self._latency(self.ours, self.our_seconds, trials)

    @staticmethod
    def _latency(curve: Curve, seconds: Mapping[int, float], trials: int) -> float | None:
        if curve.wall_at(trials) is None and trials:
            return None
        best = curve.best(trials)
        return None if best is None else seconds[best.trial]

    @property
    def ratio(self) -> Ratio:
        """Our final program's time by theirs."""
        theirs, ours = self.theirs.best(), self.ours.best()
        assert theirs is not None
        assert ours is not None
        return paired_ratio(self.our_rounds[ours.trial], self.their_rounds[theirs.trial])

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able mapping, all times in seconds."""
        theirs = self.theirs.best()
        assert theirs is not None
        reached = first_reaching(self.ours, self.our_seconds, self.their_seconds[theirs.trial])
        return {
            "theirs": [dataclasses.astuple(p) for p in self.theirs.points],
            "ours": [dataclasses.astuple(p) for p in self.ours.points],
            "their_rounds": {str(k): v for k, v in self.their_rounds.items()},
            "our_rounds": {str(k): v for k, v in self.our_rounds.items()},
            "their_failures": self.theirs.failures,
            "their_wall": self.their_wall,
            "our_wall": self.our_wall,
            "ratio": dataclasses.asdict(self.ratio),
            "reached": None if reached is None else dataclasses.asdict(reached),
        }

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> Outcome:
        """The inverse of :meth:`to_dict`."""
        theirs, ours = (Curve(tuple(Measured(*p) for p in document[side])) for side in ("theirs", "ours"))
        rounds = ({int(k): v for k, v in document[f"{side}_rounds"].items()} for side in ("their", "our"))
        return Outcome(theirs, ours, *rounds, document["their_wall"], document["our_wall"])


def compare(setup: Setup, guide: Guide, kernel: Kernel) -> dict[str, Any]:
    """Everything for one kernel; what is finished already is not done again. Raises StepError."""
    folder = setup.folder.resolve() / kernel.name
    variant, pilots = their_best_variant(setup, kernel, folder)
    theirs = their_search(setup, kernel, variant, setup.trials, folder / "tvm")
    ours = our_search(setup, guide, kernel, folder / "ours")
    samples = timed_again(setup, kernel, variant, folder)
    outcome = Outcome(
        Curve.read(folder / "tvm" / "curve.jsonl"),
        Curve.read(folder / "ours" / "curve.jsonl"),
        {int(trial): times for trial, times in samples["tvm"].items()},
        {int(trial): times for trial, times in samples["ours"].items()},
        theirs["wall"],
        ours["wall"],
    )
    about = {"variant": variant, "pilots": pilots, "stopped": theirs["stopped"], "tvm": theirs["tvm"]}
    about["our_search"] = ours
    return {"kernel": dataclasses.asdict(kernel), "name": kernel.name, **about, **outcome.to_dict()}


# ---------------------------------------------------------------------------------------------------- results
def summary_columns() -> list[str]:
    """The headings of :func:`summary_row`."""
    return [
        "kernel",
        *(f"ours {n}" for n in OUR_STEPS),
        *(f"TVM {n}" for n in THEIR_STEPS),
        "TVM's trials",
        "ours / TVM",
        "reached after",
        "our s",
        "TVM s",
        "s to reach / TVM s",
    ]


def summary_row(name: str, outcome: Outcome) -> list[str]:
    """One kernel's row: latencies in microseconds; ``-`` where a search ended before."""

    def micro(seconds: float | None) -> str:
        return "-" if seconds is None else f"{seconds * 1e6:.1f}"

    theirs = outcome.theirs.best()
    assert theirs is not None
    reached = first_reaching(outcome.ours, outcome.our_seconds, outcome.their_seconds[theirs.trial])
    return [
        name,
        *(micro(outcome.our_latency(n)) for n in OUR_STEPS),
        *(micro(outcome.their_latency(n)) for n in THEIR_STEPS),
        str(outcome.theirs.points[-1].trial),
        str(outcome.ratio),
        "not" if reached is None else str(reached.trial),
        f"{outcome.our_wall:.0f}",
        f"{outcome.their_wall:.0f}",
        "-" if reached is None else f"{reached.wall / outcome.their_wall:.4f}",
    ]


def report(results: Sequence[Mapping[str, Any]]) -> None:
    """Print the table, what it comes to, and what could not be done."""
    good = [(r["name"], Outcome.from_dict(r)) for r in results if "error" not in r]
    if good:
        title = "Latency in microseconds after so many measurements, timed again in turns"
        table(title, summary_columns(), [summary_row(name, outcome) for name, outcome in good])
        ratios = [outcome.ratio.value for _, outcome in good]
        wall = sum(o.our_wall for _, o in good) / sum(o.their_wall for _, o in good)
        print(
            f"geometric mean of ours / TVM: {geometric_mean(ratios):.3f} ({len(good)} kernels, "
            f"{sum(r <= 1 for r in ratios)} at most 1); all our time / all of TVM's: {wall:.4f}"
        )
    for result in results:
        if "error" in result:
            print(f"{result['name']}: {result['error']}")


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw latencies over measurements and over wall time, a column of two axes for each kernel.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("a plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    good = [(r["name"], Outcome.from_dict(r)) for r in results if "error" not in r]
    if not good:
        return
    across = 4
    down = -(-len(good) // across)
    figure, axes = pyplot.subplots(2 * down, across, figsize=(4 * across, 5.2 * down), squeeze=False)
    for number, (name, outcome) in enumerate(good):
        for half, what in enumerate(("measurements", "seconds")):
            axis = axes[2 * (number // across) + half][number % across]
            for label, curve, seconds, colour in (
                ("MetaSchedule", outcome.theirs, outcome.their_seconds, "tab:orange"),
                ("tilewright", outcome.ours, outcome.our_seconds, "tab:blue"),
            ):
                steps = [p for p in curve.improvements() if p.trial in seconds]
                x = [max(p.trial, 1) if half == 0 else p.wall for p in steps]
                last = curve.points[-1]
                x.append(last.trial if half == 0 else last.wall)
                y = [seconds[p.trial] * 1e6 for p in steps]
                axis.step(x, [*y, y[-1]], where="post", label=label, color=colour)
                axis.axhline(y[-1], linestyle=":", linewidth=0.8, color=colour)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel(what)
            axis.set_ylabel("µs")
            if half == 0:
                axis.set_title(name, fontsize=9)
            if number == 0 and half == 0:
                axis.legend(fontsize=8)
    for number in range(len(good), across * down):
        for half in range(2):
            axes[2 * (number // across) + half][number % across].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main(argv: Sequence[str] | None = None) -> None:
    """Tune all kernels on both sides, then print, plot and write what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metaschedule", description="Tuning kernels here and by MetaSchedule."
    )
    parser.add_argument("--python", required=True, help="the Python that has TVM")
    parser.add_argument("--folder", type=Path, required=True, help="where finished steps are kept")
    parser.add_argument("--tasks", default="", help="parts of kernels' names, separated by commas; all")
    parser.add_argument("--threads", type=int, default=2, help="threads of every kernel and of the searches")
    parser.add_argument("--mcpu", default="", help="TVM's name of this processor; LLVM's when left out")
    parser.add_argument("--trials", type=int, default=1000, help="measurements of MetaSchedule")
    parser.add_argument("--ours", type=int, default=32, help="measurements of ours")
    parser.add_argument("--pilot", type=int, default=64, help="measurements to pick TVM's variant by")
    parser.add_argument("--minutes", type=float, default=120, help="MetaSchedule's time for a kernel")
    parser.add_argument("--starts", type=int, default=3, help="how often the timing starts processes anew")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of turns in each")
    parser.add_argument("--turn", type=float, default=0.02, help="seconds that a turn lasts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for all numbers, as JSON")
    parser.add_argument("--plot", type=Path, help="file for the curves, as PNG (needs matplotlib)")
    arguments = parser.parse_args(argv)
    wanted = [part for part in arguments.tasks.split(",") if part]
    kernels = [k for k in KERNELS if not wanted or any(part in k.name for part in wanted)]
    if not kernels:
        raise SystemExit(f"no such kernels; there are {', '.join(k.name for k in KERNELS)}")
    setup = Setup(
        arguments.python,
        arguments.folder,
        arguments.threads,
        arguments.mcpu or Target.host().cpu,
        arguments.trials,
        arguments.ours,
        arguments.pilot,
        arguments.minutes,
        arguments.starts,
        arguments.rounds,
        arguments.turn,
        arguments.seed,
    )
    guide = make_guide(setup.threads, setup.folder)
    print(f"cost model '{guide.name}': {guide.seconds:.1f} s, once", flush=True)
    results: list[dict[str, Any]] = []
    for kernel in kernels:
        print(f"{kernel.name} ...", flush=True)
        try:
            results.append(compare(setup, guide, kernel))
        except StepError as error:
            results.append({"kernel": dataclasses.asdict(kernel), "name": kernel.name, "error": str(error)})
        if arguments.out:
            document = {"machine": machine(), "threads": setup.threads, "kernels": results}
            temporary = arguments.out.with_suffix(".new")
            temporary.write_text(json.dumps(document, indent=2) + "\n")
            temporary.replace(arguments.out)
    report(results)
    if arguments.plot:
        plot(results, arguments.plot)
    if any("error" in result for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
