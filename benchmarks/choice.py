"""How good a model's choice is among measured candidates, without running anything more.

    python -m benchmarks.choice --store records.sqlite --collect 60
    python -m benchmarks.choice --store records.sqlite

With ``--collect`` the default schedule and so many random candidates of each kernel of :data:`KERNELS` are
measured first and kept in the store; what it has already is not measured again. Then every kernel of the
store is a task, and the table says which share of the speed of its best known candidate is reached: by a
random candidate (the mean), by the best of five random ones (the expectation), by the default schedule, and
by the draft model's first choice and the best of its first five, once among all candidates and once among the
random ones. Where the store has a learned model, a second table has its choices beside the draft's, for the
kernels that it was kept from seeing.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

import tilewright
from benchmarks.collect import collect
from benchmarks.kernels import Kernel
from tilewright.cli.common import table
from tilewright.cost.dataset import workload_vector
from tilewright.cost.draft import DraftModel, bound, cold_bytes, draft_model
from tilewright.cost.learned import LearnedModel
from tilewright.cost.model import Prediction
from tilewright.cost.training import is_guarded, load_model
from tilewright.errors import TilewrightError
from tilewright.ir import te
from tilewright.ir.expr import call, cast, maximum
from tilewright.ir.parser import parse
from tilewright.ir.stmt import PrimFunc
from tilewright.measure.batch import Measurer
from tilewright.records import Device, Epoch, Record, Store, Workload, open_store
from tilewright.schedule.features import features_of
from tilewright.schedule.trace import Trace
from tilewright.target import Target


def _layer_norm(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    scale = te.placeholder((columns,), "float32", "scale")
    total = te.compute((rows,), lambda i: te.reduce("sum", (columns,), lambda j: x[i, j]), "total")
    off = te.compute((rows, columns), lambda i, j: x[i, j] - total[i] * (1 / columns), "off")
    power = te.compute(
        (rows,), lambda i: te.reduce("sum", (columns,), lambda j: off[i, j] * off[i, j]), "power"
    )
    y = te.compute(
        (rows, columns),
        lambda i, j: off[i, j] / call("sqrt", [power[i] * (1 / columns) + 1e-5]) * scale[j],
        "y",
    )
    return te.primfunc("layer_norm", [x, scale], [y], const_inputs=[scale])


def _column_sums(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    s = te.compute((columns,), lambda j: te.reduce("sum", (rows,), lambda i: call("exp", [x[i, j]])), "s")
    return te.primfunc("column_sums", [x], [s])


def _transpose(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    y = te.compute((columns, rows), lambda i, j: maximum(x[j, i], 0.0), "y")
    return te.primfunc("transpose", [x], [y])


def _batched(batch: int, m: int, n: int, k: int) -> PrimFunc:
    a = te.placeholder((batch, m, k), "float32", "a")
    b = te.placeholder((batch, n, k), "float32", "b")
    c = te.compute(
        (batch, m, n), lambda h, i, j: te.reduce("sum", (k,), lambda at: a[h, i, at] * b[h, j, at]), "c"
    )
    return te.primfunc("batched", [a, b], [c])


def _elementwise(count: int) -> PrimFunc:
    x, y = (te.placeholder((count,), "float32", name) for name in "xy")
    z = te.compute((count,), lambda i: x[i] / (call("exp", [0.0 - x[i]]) + 1.0) * y[i], "z")
    return te.primfunc("swish", [x, y], [z])


def _bytes_product(m: int, n: int, k: int) -> PrimFunc:
    x = te.placeholder((m, k), "uint8", "x")
    w = te.placeholder((k, n), "int8", "w")
    c = te.compute(
        (m, n),
        lambda i, j: te.reduce("sum", (k,), lambda at: cast("int32", x[i, at]) * cast("int32", w[at, j])),
        "c",
    )
    return te.primfunc("bytes_product", [x, w], [c], const_inputs=[w])


#: Names and functions of the kernels that ``--collect`` measures: products of several aspects, convolutions,
#: rows, columns, elements.
KERNELS: Final[tuple[tuple[str, PrimFunc], ...]] = (
    *(
        (k.kind, k.func())
        for k in (
            Kernel("", "dense", (128, 768, 256)),
            Kernel("", "dense", (1, 1024, 1024)),
            Kernel("", "dense", (1000, 48, 200)),
            Kernel("", "dense", (17, 1000, 333)),
            Kernel("", "conv", (32, 64, 28, 3, 1)),
            Kernel("", "conv", (128, 128, 14, 1, 1)),
            Kernel("", "conv", (3, 32, 112, 3, 2)),
            Kernel("", "depthwise", (96, 56, 1)),
            Kernel("", "softmax", (512, 384)),
        )
    ),
    ("batched_matmul", _batched(12, 64, 64, 64)),
    ("layer_norm", _layer_norm(256, 768)),
    ("reduce", _column_sums(512, 640)),
    ("transpose", _transpose(700, 500)),
    ("elementwise", _elementwise(300_000)),
    ("int8_matmul", _bytes_product(64, 256, 512)),
)


@dataclasses.dataclass(frozen=True)
class Task:
    """The measured candidates of a kernel on one device and number of threads.

    Attributes:
        name: the kernel's family and source.
        func: the function.
        threads: threads of a call.
        features: ``[n, features]`` of each.
        seconds: ``[n]``: the least time of each that was seen in any epoch.
        default: ``[n]``: whether it is the default schedule.
        rows: the records, in the same order.
    """

    name: str
    func: PrimFunc
    threads: int
    features: NDArray[np.float32]
    seconds: NDArray[np.float64]
    default: NDArray[np.bool_]
    rows: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class Share:
    """The share of the best known speed that a choice reaches, from 0 to 1."""

    first: float
    of_five: float


def tasks(store: Store, target: Target, least: int = 8) -> list[Task]:
    """The kernels of a store that have at least so many candidates with times."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in store.records(device=Device.of(target).fingerprint, status="ok"):
        groups.setdefault((record.workload.key, record.threads), []).append(record)
    found = []
    for (_, threads), records in sorted(groups.items()):
        if len(records) < least:
            continue
        workload = records[0].workload
        func = parse(workload.text)
        # What others do on a machine only makes times longer, so the least one is nearest to the truth.
        least_of: dict[str, float] = {}
        for record in records:
            seconds = min(s.seconds for s in record.samples)
            least_of[record.schedule] = min(seconds, least_of.get(record.schedule, math.inf))
        rows, features = [], []
        for record in {r.schedule: r for r in records}.values():
            try:
                features.append(features_of(Trace.from_json(record.trace).apply(func).func, target))
            except TilewrightError:
                continue  # of a release with other primitives
            rows.append(record)
        if len(rows) < least:
            continue
        shapes = ["x".join(str(d) for d in p.static_shape or ()) for p in func.params]
        times = np.array([least_of[r.schedule] for r in rows])
        default = np.array([r.role == "default" for r in rows])
        name = f"{workload.family} {' '.join(shapes)}"
        found.append(Task(name, func, threads, np.stack(features), times, default, tuple(rows)))
    return sorted(found, key=lambda task: task.name)


def share(task: Task, predicted: NDArray[np.float64], of_random: bool = False) -> Share:
    """What the candidates with the least prediction reach, of all or of the random ones."""
    order = np.argsort(predicted, kind="stable")
    if of_random:
        order = order[~task.default[order]]
    best = task.seconds.min()
    return Share(float(best / task.seconds[order[0]]), float(best / task.seconds[order[:5]].min()))


def random_share(task: Task, picks: int) -> float:
    """What the best of so many different candidates at random reaches: the expectation, exactly."""
    ordered = np.sort(task.seconds[~task.default])
    n = len(ordered)
    if n == 0:
        return math.nan
    picks = min(picks, n)
    # The k-th fastest is the best of a draw when the others are among the n - 1 - k slower ones.
    chances = np.array([math.comb(n - 1 - k, picks - 1) for k in range(n)], float) / math.comb(n, picks)
    return float(task.seconds.min() * (chances / ordered).sum())


def default_share(task: Task) -> float:
    """What the default schedule reaches; not a number where it was not measured."""
    return float(task.seconds.min() / task.seconds[task.default].min()) if task.default.any() else math.nan


def report(found: Sequence[Task], models: Iterable[tuple[str, list[Share]]]) -> None:
    """Print a row for each task, and what is reached on average and at worst."""
    models = list(models)
    columns = [
        ("random", [random_share(t, 1) for t in found]),
        ("random 5", [random_share(t, 5) for t in found]),
        ("default", [default_share(t) for t in found]),
    ]
    for name, shares in models:
        columns += [(name, [s.first for s in shares]), (f"{name} 5", [s.of_five for s in shares])]
    head = ["kernel", "threads", "candidates", *(name for name, _ in columns)]
    rows = [
        [t.name, str(t.threads), str(len(t.seconds)), *(f"{values[n]:.2f}" for _, values in columns)]
        for n, t in enumerate(found)
    ]
    for word, of in (("mean", np.nanmean), ("worst", np.nanmin)):
        rows.append([word, "", "", *(f"{of(values):.3f}" for _, values in columns)])
    table("Share of the best known speed", head, rows)


def predictions(model: DraftModel | LearnedModel, found: Sequence[Task]) -> list[NDArray[np.float64]]:
    """Logarithms of seconds for the candidates of each task."""

    def of(task: Task) -> Prediction:
        cold = cold_bytes(task.func)
        if isinstance(model, DraftModel):
            return model.predict_features(task.features, task.threads, cold)
        vector = workload_vector(features_of(task.func, model.draft.target), task.threads)
        return model.predict_workloads(task.features, task.threads, vector[None], cold)

    return [of(task).log_seconds for task in found]


def choices(
    models: Sequence[DraftModel | LearnedModel], found: Sequence[Task]
) -> list[tuple[str, list[Share]]]:
    """What each model's choices reach, of all candidates and of the random ones, for :func:`report`."""
    columns = []
    for model in models:
        predicted = predictions(model, found)
        for name, of_random in ((model.name, False), (f"{model.name} of random", True)):
            shares = [share(t, p, of_random) for t, p in zip(found, predicted, strict=True)]
            columns.append((name, shares))
    return columns


def main(argv: Sequence[str] | None = None) -> None:
    """Measure if asked to, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.choice", description="How good a model's choice is."
    )
    parser.add_argument("--store", required=True, help="the measurement store")
    parser.add_argument("--collect", type=int, default=0, help="random candidates of each kernel to measure")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile")
    parser.add_argument("--bounds", action="store_true", help="say what bounds the best known candidates")
    arguments = parser.parse_args(argv)
    target = Target.host()
    with open_store(arguments.store) as store:
        if arguments.collect:
            epoch = Epoch.begin(Device.of(target), tilewright.__version__)
            with Measurer(target, arguments.threads, arguments.jobs) as measurer:
                for name, func in KERNELS:
                    begin = time.perf_counter()
                    done, failed, had = collect(
                        store, measurer, epoch, Workload.of(func, name), arguments.collect
                    )
                    seconds = time.perf_counter() - begin
                    print(
                        f"{name}: {done} measured, {failed} failed, {had} known, {seconds:.1f} s", flush=True
                    )
        found = tasks(store, target)
        model = draft_model(target, arguments.threads, store)
        learned = load_model(store, Device.of(target).fingerprint, model)
    report(found, choices([model], found))
    unseen = [t for t in found if is_guarded(t.rows[0].workload.key)]
    if learned is not None and unseen:
        print("the kernels that no stored model was trained on:")
        report(unseen, choices([model, learned], unseen))
    if arguments.bounds:
        for task in found:
            best = task.features[int(np.argmin(task.seconds))]
            print(f"{task.name}: {bound(best, model, task.threads, cold_bytes(task.func))}")


if __name__ == "__main__":
    main()
