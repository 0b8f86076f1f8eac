"""What learning from measurements gives on kernels that were not learned from.

    python -m benchmarks.learning --store records.sqlite --by source
    python -m benchmarks.learning --store records.sqlite --rate

Models are trained without some of the kernels and choose among the measured candidates of those: ``--by``
says what is held out at a time, single kernels (``task``), all kernels of a model (``source``) or all of one
family of operators (``family``); near duplicates of what is held out are not trained on either. The rows are
ways to choose: without looking, the default schedule, the draft, the draft as corrected by each kind of
member of the learned ensemble, and blends of both. A share is the time of the best known candidate over that
of the chosen one.

Records of another machine are judged with ``--device``, by its name or the first digits of its fingerprint.

With ``--rate`` a model is trained on everything, and the candidates of a convolution that it describes and
predicts in a second on one thread are counted instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from benchmarks.sketches import convolution
from tilewright.cli.common import table
from tilewright.cost.coefficients import Coefficients
from tilewright.cost.dataset import TRUST, Dataset, dataset_of
from tilewright.cost.draft import DraftModel, draft_model
from tilewright.cost.evaluation import (
    GROUPINGS,
    Quality,
    default_quality,
    qualities,
    random_quality,
    summary,
)
from tilewright.cost.learned import LearnedModel, Training
from tilewright.cost.training import MIN_RECORDS, HeldOut, choose_trust, hold_out, train
from tilewright.cost.trees import available
from tilewright.records import Device, Record, open_store
from tilewright.records.store import StoredModel
from tilewright.schedule.space import sketches
from tilewright.target import Target
from tilewright.tune.models import kept_features

#: Blends that are shown beside the chosen one.
SHOWN: Final = (25.0, 400.0)


def row(name: str, found: Sequence[Quality]) -> list[str]:
    """One row of the table: means, and the worst kernels."""
    mean, worst = summary(found).mean, summary(found).worst
    numbers = (mean.top1, mean.top5, mean.pairs, worst.top1, worst.top5, worst.pairs)
    return [name, *(f"{n:.3f}" if np.isfinite(n) else "" for n in numbers)]


def held_out(data: Dataset, draft: DraftModel, by: str, folds: int) -> dict[str, HeldOut]:
    """What each kind of member says of kernels that it has not seen, and the ensemble of them last."""
    networks = hold_out(data, draft, by, Training(trees=False, folds=folds))
    if not available():
        return {"networks": networks}
    trees = hold_out(data, draft, by, Training(trees=True, networks=0, folds=folds))
    both = dataclasses.replace(networks, rest=(networks.rest + trees.rest) / 2)
    return {"networks": networks, "trees": trees, "trees and networks": both}


def compared(held: Mapping[str, HeldOut], trusts: Sequence[float], default: bool) -> list[list[str]]:
    """The rows of the table, with the default schedules among the candidates or without."""
    name, last = list(held.items())[-1]
    judged, rows = last.data, np.full(len(last.data), True)
    if not default:
        others = last.data.without_default()
        rows = ~last.data.default & (others.counts >= MIN_RECORDS)[last.data.task]
        judged = others.with_at_least(MIN_RECORDS)
    times = [judged.log_seconds[judged.task == t] for t in range(len(judged.tasks))]
    found = [row("random", [random_quality(t) for t in times])]
    if default:
        found.append(row("default schedule", [q for q in default_quality(judged) if q is not None]))
    found.append(row("draft", qualities(last.draft[rows], judged)))
    found += [row(kind, qualities((one.draft + one.rest)[rows], judged)) for kind, one in held.items()]
    for trust in trusts:
        found.append(row(f"{name}, blend c={trust:g}", qualities(last.scores(trust)[rows], judged)))
    return found


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


def the_device(known: Sequence[Device], wanted: str | None) -> Device:
    """Among the devices of records the one with this name or beginning of a fingerprint; this machine when
    left out. Ends the program where there is not exactly one."""
    if wanted is None:
        return Device.of(Target.host())
    found = {d for d in known if d.name == wanted or d.fingerprint.startswith(wanted)}
    if len(found) != 1:
        names = ", ".join(sorted({f"{d.fingerprint[:8]} ({d.name})" for d in known}))
        raise SystemExit(f"{len(found)} devices are '{wanted}'; the stores have records of {names}")
    return found.pop()


def the_draft(device: Device, threads: int, paths: Sequence[str], other: str | None) -> DraftModel:
    """The draft of a device, with its newest calibration in these stores; where ``other`` is given, with the
    newest in that store, of whatever device: machines that differ in their number of cores alone are
    different devices, and run one thread alike."""
    found: list[StoredModel] = []
    for path in paths if other is None else [other]:
        with open_store(path) as store:
            found += store.models("draft", device.fingerprint if other is None else None, threads, limit=1)
    target = Target.from_json(device.target)
    if not found:
        return draft_model(target, threads)
    newest = max(found, key=lambda model: model.created)
    return DraftModel(target, Coefficients.from_json(newest.data))


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
    parser.add_argument(
        "--device", help="whose records: a name or the first digits of a fingerprint; this machine's"
    )
    parser.add_argument(
        "--draft", help="a store whose newest calibration is the draft's; else the device's in the stores"
    )
    parser.add_argument("--rate", action="store_true", help="count candidates per second instead")
    arguments = parser.parse_args(argv)
    records: list[Record] = []
    for path in arguments.store:
        with open_store(path) as store:
            records += store.records(threads=arguments.threads, origins=tuple(TRUST))
    device = the_device([r.epoch.device for r in records], arguments.device)
    data = dataset_of([r for r in records if r.epoch.device == device], kept_features())
    print(f"{len(data)} records of {len(data.tasks)} kernels; without times: {data.failures}")
    data = data.with_at_least(MIN_RECORDS)
    draft = the_draft(device, arguments.threads, arguments.store, arguments.draft)
    if arguments.rate:
        if os.environ.get("OMP_NUM_THREADS") != "1":
            raise SystemExit("NumPy may use several threads: set OMP_NUM_THREADS=1")
        title, columns = "One thread", ["what", "candidates / s"]
        rows = rates(train(data, draft, Training(folds=2)), 50_000)
    else:
        held = held_out(data, draft, arguments.by, arguments.folds)
        last = list(held.values())[-1]
        trust = choose_trust(last)
        errors = [np.abs(said - last.data.log_seconds).mean() for said in (last.scores(trust), last.draft)]
        print(f"error of logarithms of times: blend c={trust:g} {errors[0]:.2f}, draft {errors[1]:.2f}")
        title = f"Shares over {len(last.data.tasks)} kernels, held out by {arguments.by}"
        columns = ["chosen by", "top-1", "top-5", "pairs", "worst top-1", "worst top-5", "worst pairs"]
        trusts = sorted({*SHOWN, trust})
        table(title, columns, compared(held, trusts, True))
        title, rows = "Without the default schedules", compared(held, trusts, False)
    table(title, columns, rows)


if __name__ == "__main__":
    main()
