"""Records with made-up times: nothing is compiled or run."""

from __future__ import annotations

import functools
import json
import math

import numpy as np

from tilewright.cost.dataset import Dataset, FeatureReader, dataset_of
from tilewright.cost.draft import DraftModel
from tilewright.ir import te
from tilewright.ir.parser import parse
from tilewright.records import Device, Epoch, Record, Sample, Workload
from tilewright.records.record import shortest_json
from tilewright.schedule.features import FEATURES
from tilewright.schedule.space import sketches
from tilewright.target import Target

TARGET = Target.parse("x86-64-v3")
DEVICE = Device.of(TARGET)
EPOCH = Epoch("0" * 32, DEVICE, "0.0.1", "Linux", "2026-01-01T00:00:00+00:00")
DRAFT = DraftModel(TARGET)
#: Rows, columns, steps; the first two are near duplicates.
SIZES = (
    (64, 64, 64),
    (64, 64, 72),
    (16, 256, 128),
    (8, 512, 512),
    (128, 32, 256),
    (1, 1024, 256),
    (256, 96, 48),
)


def product(m: int, n: int, k: int, source: str = "") -> Workload:
    a, b = te.placeholder((m, k), "float32", "A"), te.placeholder((k, n), "float32", "B")
    c = te.compute((m, n), lambda i, j: te.reduce("sum", (k,), lambda s: a[i, s] * b[s, j]), "C")
    return Workload.of(te.primfunc("product", [a, b], [c], const_inputs=[b]), "matmul", source)


def seconds(features: np.ndarray) -> float:
    """A law that the draft does not know: lanes and unrolled code decide."""
    values = dict(zip(FEATURES, features.astype(float), strict=True))
    slower = 0.8 * abs(values["lanes"] - 3) + 0.2 * abs(values["unrolled"] - 4) + 0.1 * values["waste"]
    return math.exp(math.log(2) * values["flops"] + math.log(1e-10) + slower)


@functools.cache
def records(count: int = 24) -> tuple[Record, ...]:
    """``count`` candidates of each of :data:`SIZES`, the first of each the default sketch's own."""
    found = []
    for number, size in enumerate(SIZES):
        workload = product(*size, source=f"model{number // 2}")
        for place, sketch in enumerate(sketches(parse(workload.text), TARGET)[:2]):
            rows = np.concatenate([sketch.default, sketch.sample(count // 2 - 1, seed=number)])
            for row, features in zip(rows, sketch.features(rows), strict=True):
                values = dict(zip(sketch.columns, map(int, row), strict=True))
                trace = shortest_json(json.loads(sketch.schedule.trace.bind(values).to_json()))
                default = place == 0 and np.array_equal(row, sketch.default[0])
                samples = (Sample(seconds(features)),) * 2
                found.append(
                    Record(
                        workload, trace, EPOCH, 1, "ok", samples, "default" if default else "random",
                        sketch.name,
                    )
                )  # fmt: skip
    return tuple({r.uid: r for r in found}.values())


@functools.cache
def dataset() -> Dataset:
    return dataset_of(records(), FeatureReader())
