"""What was fast for other shapes of the same function, carried over to this one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

import numpy as np

from tilewright.records.record import Device
from tilewright.records.store import Store
from tilewright.schedule.sketch import Rows, Sketch
from tilewright.schedule.trace import Trace
from tilewright.tune.population import Point
from tilewright.tune.space import SearchSpace

#: Workloads that are asked, the nearest ones, and the fastest records of each.
WORKLOADS: Final = 6
FASTEST: Final = 3
#: Points that are tried at each distance around a row that is not valid here.
REPAIRS: Final = 256

_NUMBER: Final = re.compile(r"(?<![\w.])\d+(?![\w.])")


def structure_of(text: str) -> tuple[str, tuple[int, ...]]:
    """A workload's text without its integers, and the integers: workloads of which the first is equal are
    the same function of other shapes."""
    return _NUMBER.sub("#", text), tuple(map(int, _NUMBER.findall(text)))


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """How far shapes are apart: the root of the mean of squared doublings of the integers that differ in
    either of two texts of one structure, 0 for equal ones."""
    x, y = np.log2(np.maximum(a, 1)), np.log2(np.maximum(b, 1))
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else 0.0


def nearest(space: SearchSpace, store: Store, threads: int) -> tuple[Point, ...]:
    """The fastest points of the nearest other shapes, as points of ``space``, the most promising first.

    Records of this device and number of threads are taken before others of the same workload.
    """
    mine, extents = structure_of(space.workload.text)
    others = []
    for workload in store.workloads():
        theirs, sizes = structure_of(workload.text)
        if theirs == mine and workload.key != space.workload.key:
            others.append((distance(extents, sizes), workload.key))
    device = Device.of(space.target).fingerprint
    ranked: list[list[Point]] = []
    for _, key in sorted(others)[:WORKLOADS]:
        records = list(store.records(key, device=device, threads=threads, status="ok", fastest=FASTEST))
        records = records or list(store.records(key, status="ok", fastest=FASTEST))
        points = [transfer(space, record.sketch, record.trace) for record in records]
        ranked.append([p for p in points if p is not None])
    order = [points[n] for n in range(FASTEST) for points in ranked if n < len(points)]
    return tuple(dict.fromkeys(order))


def transfer(space: SearchSpace, sketch: str, trace: str) -> Point | None:
    """The point of ``space`` that is most like a candidate of the same function in another shape.

    It is one of the sketch of that name, or else of one with the same decisions and the fewest others; each
    decision has the value that is nearest by ratio in its domain here, or the largest where it was the
    largest there, and others that of the sketch's default. None where no sketch has the decisions. Raises
    ScheduleError for a text that is no trace.
    """
    read = Trace.from_json(trace)
    values = {name: value for name, value in read.decisions().items() if value is not None}
    tops = {i.attrs["name"]: max(i.attrs["domain"]) for i in read.instructions if i.name == "decide"}
    fitting = [n for n, s in enumerate(space.sketches) if values.keys() <= set(s.columns)]
    if not fitting or not values:
        return None
    place = min(fitting, key=lambda n: (space.widths[n], space.sketches[n].name != sketch))
    there = space.sketches[place]
    usual = dict(zip(there.columns, map(int, there.default[0]), strict=True))
    row = rescaled(there.columns, there.domains, {**usual, **values}, tops)
    return Point(place, tuple(repaired(there, row).tolist()))


def rescaled(
    columns: tuple[str, ...], domains: tuple[Rows, ...], values: Mapping[str, int], tops: Mapping[str, int]
) -> Rows:
    """``[decisions]``: values of a candidate in domains of another shape.

    ``tops`` are the largest values of the domains that ``values`` are from: what covered all of an axis does
    so here.
    """
    row = []
    for name, domain in zip(columns, domains, strict=True):
        whole = values[name] == tops.get(name) and len(domain) > 1
        nearest_by_ratio = int(np.argmin(np.abs(np.log2(domain) - math.log2(values[name]))))
        row.append(int(domain[-1] if whole else domain[nearest_by_ratio]))
    return np.array(row, np.int64)


def repaired(sketch: Sketch, row: Rows) -> Rows:
    """``[decisions]``: a valid candidate near ``row``, a row of values in the domains; itself if it is valid.

    Tried are small steps in the domains, and mixes with the sketch's own default; the nearest by ratio is
    taken. Equal rows give equal results.
    """
    if sketch.valid(row[None])[0]:
        return row
    rng = np.random.default_rng(0)
    tried = [sketch.default]
    places = [int(np.searchsorted(d, v)) for d, v in zip(sketch.domains, row, strict=True)]
    for reach in (1, 2, 4):
        steps = rng.integers(-reach, reach, (REPAIRS, len(row)), endpoint=True)
        moved = zip(sketch.domains, places, steps.T, strict=True)
        tried.append(np.stack([d[np.clip(p + s, 0, len(d) - 1)] for d, p, s in moved], axis=1))
    tried.append(np.where(rng.random((REPAIRS, len(row))) < 0.5, row, sketch.default))
    rows = np.concatenate(tried)
    rows = rows[sketch.valid(rows)]
    away = np.abs(np.log2(rows) - np.log2(row)).sum(axis=1)
    return np.asarray(rows[np.argmin(away)])
