"""What learning from measurements gives on kernels that were not learned from.

    python -m benchmarks.learning --store records.sqlite --by source
    python -m benchmarks.learning --store records.sqlite --rate

Models are trained without some of the kernels and choose among the measured candidates of those: ``--by``
says what is held out at a time, single kernels (``task``), all kernels of a model (``source``) or all of one
family of operators (``family``); near duplicates of what is held out are not trained on either. The rows are
ways to choose: without looking, the default schedule, the draft, the members of the learned ensemble, and
their blends with the draft. A share is the time of the best known candidate over that of the chosen one.

With ``--rate`` a model is trained on everything, and the candidates of a convolution that it describes and
predicts in a second on one thread are counted instead.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.sketches import convolution
from tilewright.cli.common import table
from tilewright.cost.dataset import Dataset, dataset_of
from tilewright.cost.draft import DraftModel, draft_model
from tilewright.cost.evaluation import (
    GROUPINGS,
    Quality,
    default_quality,
    qualities,
    random_quality,
    summary,
)
from tilewright.cost.learned import Floats, LearnedModel, Training
from tilewright.cost.training import MIN_RECORDS, TRUSTS, HeldOut, choose_trust, hold_out, train
from tilewright.cost.trees import available
from tilewright.records import Device, open_store
from tilewright.schedule.space import sketches
from tilewright.target import Target


def row(name: str, found: Sequence[Quality]) -> list[str]:
    """One row of the table: means, and the worst kernels."""
    mean, worst = summary(found).mean, summary(found).worst
    numbers = (mean.top1, mean.top5, mean.pairs, worst.top1, worst.top5, worst.pairs)
    return [name, *(f"{n:.3f}" if np.isfinite(n) else "" for n in numbers)]


def within_tasks(values: Floats, data: Dataset) -> Floats:
    """``values`` less their means over their deviations, task by task."""
    result = np.zeros(len(values))
    for task in range(len(data.tasks)):
        rows = np.flatnonzero(data.task == task)
        result[rows] = (values[rows] - values[rows].mean()) / max(float(values[rows].std()), 1e-9)
    return result


def standardized(held: HeldOut, trust: float) -> Floats:
    """The blend of standardized scores instead of logarithms of times."""
    share = held.nearby / np.maximum(held.nearby + trust, 1e-12)
    return share * within_tasks(held.slower, held.data) + (1 - share) * within_tasks(held.draft, held.data)


def compared(data: Dataset, draft: DraftModel, by: str, folds: int) -> list[list[str]]:
    """The rows of the table."""
    kinds = {"networks": Training(trees=False, folds=folds)}
    if available():
        kinds["trees"] = Training(trees=True, networks=0, folds=folds)
        kinds["trees and networks"] = Training(trees=True, folds=folds)
    held = {name: hold_out(data, draft, by, how) for name, how in kinds.items()}
    whole = next(iter(held.values()))
    judged = whole.data
    times = [judged.log_seconds[judged.task == t] for t in range(len(judged.tasks))]
    rows = [
        row("random", [random_quality(t) for t in times]),
        row("default schedule", [q for q in default_quality(judged) if q is not None]),
        row("draft", qualities(whole.draft, judged)),
    ]
    rows += [row(name, qualities(one.slower, judged)) for name, one in held.items()]
    name, last = list(held.items())[-1]
    for trust in TRUSTS[2:]:
        rows.append(row(f"{name}, blend c={trust:g}", qualities(last.scores(trust), judged)))
    trust = choose_trust(last)
    rows.append(row(f"{name}, standardized c={trust:g}", qualities(standardized(last, trust), judged)))
    error = np.abs(last.scores(trust) - judged.log_seconds)
    print(
        f"error of the logarithm of times: {error.mean():.2f}, draft {_error(last):.2f}; chosen c={trust:g}"
    )
    return rows


def _error(held: HeldOut) -> float:
    return float(np.abs(held.draft - held.data.log_seconds).mean())


def rates(model: LearnedModel, count: int) -> list[list[str]]:
    """Candidates per second of processor time, part by part."""
    sketch = sketches(convolution(), Target.host())[0]
    rows = np.resize(sketch.sample(4096, seed=0), (count, len(sketch.columns)))
    features = sketch.features(rows)

    def rate(call: Callable[[], object]) -> str:
        call()
        begin = time.process_time()
        call()
        return f"{count / (time.process_time() - begin):,.0f}"

    return [
        ["features", rate(lambda: sketch.features(rows))],
        ["draft", rate(lambda: model.draft.predict_features(features, 1))],
        ["learned", rate(lambda: model.predict_features(features, 1))],
        ["features and learned", rate(lambda: model.predict(sketch, rows, 1))],
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning", description="What learning gives on other kernels."
    )
    parser.add_argument(
        "--store", required=True, action="append", help="a measurement store; may be repeated"
    )
    parser.add_argument("--by", choices=GROUPINGS, default="task", help="what is held out at a time")
    parser.add_argument("--folds", type=int, default=8, help="groups of them, each held out once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", action="store_true", help="count candidates per second instead")
    arguments = parser.parse_args(argv)
    target, records = Target.host(), []
    for path in arguments.store:
        with open_store(path) as store:
            device = Device.of(target).fingerprint
            records += store.records(device=device, threads=arguments.threads)
    data = dataset_of(records)
    print(f"{len(data)} records of {len(data.tasks)} kernels; without times: {data.failures}")
    data = data.with_at_least(MIN_RECORDS)
    draft = draft_model(target, arguments.threads)
    if arguments.rate:
        if os.environ.get("OMP_NUM_THREADS") != "1":
            raise SystemExit("NumPy may use several threads: set OMP_NUM_THREADS=1")
        title, columns = "One thread", ["what", "candidates / s"]
        rows = rates(train(data, draft, Training(folds=2)), 50_000)
    else:
        title = f"Shares over {len(data.tasks)} kernels, held out by {arguments.by}"
        columns = ["chosen by", "top-1", "top-5", "pairs", "worst top-1", "worst top-5", "worst pairs"]
        rows = compared(data, draft, arguments.by, arguments.folds)
    table(title, columns, rows)


if __name__ == "__main__":
    main()
