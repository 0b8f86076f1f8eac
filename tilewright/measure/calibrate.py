"""Finding the draft model's coefficients for this machine, by kernels that each show one of its limits.

The kernels are tensor expressions, scheduled by the rules or by a sketch and compiled as any other, and the
model that is fitted is the one that predicts: the coefficients are those with which it says the times that
were measured, as far as what is plausible for the target allows. A kernel that a neighbour has disturbed
counts less.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.coefficients import BOUNDS, Coefficients
from tilewright.cost.draft import DraftModel
from tilewright.errors import TilewrightError
from tilewright.ir import te
from tilewright.ir.expr import Expr, call
from tilewright.ir.stmt import PrimFunc
from tilewright.measure.data import random_inputs
from tilewright.measure.program import Arrays, Loaded, build_program, parameters, runtime_functions
from tilewright.records.record import Device
from tilewright.records.store import Store
from tilewright.runtime.host import check_host
from tilewright.schedule.default import default_schedule
from tilewright.schedule.features import features_of
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.space import sketches
from tilewright.target import Target

#: A kernel's calls in one turn last at least so many seconds.
TURN: Final = 1.5e-3
#: Turns of each kernel, all kernels one after the other: a slow phase hits each of them once.
TURNS: Final = 6
#: How far a coefficient may reasonably be from what the target's numbers suggest, as a logarithm.
PRIOR: Final = 0.7
#: The same for the length of a cycle, which everything else is counted in.
CYCLE_PRIOR: Final = 0.1
#: How well the model describes a kernel whose limit it knows, as a logarithm; beyond twice that a
#: kernel's influence no longer grows.
ERROR: Final = 0.15


@dataclasses.dataclass(frozen=True)
class Probe:
    """A kernel that shows a limit.

    Attributes:
        name: the limit, and its size.
        func: what it computes.
        sketch: the sketch that it takes its structure from; the first one where there is none of this name.
        decisions: values that differ from those that the rules would take, by the last part of their names.
    """

    name: str
    func: PrimFunc
    sketch: str = ""
    decisions: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def schedule(self, target: Target) -> Schedule:
        """The scheduled kernel; with the rules' values where there is no such candidate."""
        if not self.sketch and not self.decisions:
            return default_schedule(self.func, target)
        known = sketches(self.func, target)
        found = next((s for s in known if s.name == self.sketch), known[0])
        row = found.default.copy()
        for column, name in enumerate(found.columns):
            row[0, column] = self.decisions.get(name.rpartition("_")[2], row[0, column])
        return found.bind(row[0] if found.valid(row)[0] else found.default[0])


@dataclasses.dataclass(frozen=True)
class Timed:
    """A probe that was run: what the model sees of it, and the least of its times in seconds."""

    name: str
    features: NDArray[np.float32]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        coefficients: the fitted ones.
        threads: threads of the calls that were measured.
        probes: the kernels with their times.
        predicted: the fitted model's times of them, in seconds.
        seconds: how long it took.
    """

    coefficients: Coefficients
    threads: int
    probes: tuple[Timed, ...]
    predicted: tuple[float, ...]
    seconds: float

    @property
    def error(self) -> float:
        """The median factor between predicted and measured times of the probes, at least 1."""
        logs = [abs(np.log(p / t.seconds)) for p, t in zip(self.predicted, self.probes, strict=True)]
        return float(np.exp(np.median(logs)))


def calibrate(
    target: Target, threads: int = 1, progress: Callable[[int, int, str], None] | None = None
) -> Calibration:
    """Measure this machine, in a few seconds of a quiet one.

    Args:
        target: this machine.
        threads: threads of a call.
        progress: is told how many probes of how many are ready, and the name of the next one.

    Raises:
        TargetError: this machine cannot run code for ``target``.
        CompileError: a probe could not be compiled.
    """
    check_host(target)
    begin = time.perf_counter()
    wanted = probes(target)
    calls, features = [], []
    memory = Arrays()
    for number, probe in enumerate(wanted):
        if progress is not None:
            progress(number, len(wanted), probe.name)
        schedule = probe.schedule(target)
        loaded = Loaded(build_program(schedule, target), runtime_functions(target), threads)
        calls.append(loaded.bind(parameters(probe.func), random_inputs(probe.func), memory))
        features.append(features_of(schedule.func, target))
    for probe, run in zip(wanted, calls, strict=True):
        if status := run():
            raise TilewrightError(f"the probe '{probe.name}' ended with status {status}")
    if progress is not None:
        progress(len(wanted), len(wanted), "times")
    counts = [_calls_for(run) for run in calls]
    least = np.full(len(calls), np.inf)
    for _ in range(TURNS):
        for n, (run, count) in enumerate(zip(calls, counts, strict=True)):
            run()  # the others have used the caches since
            least[n] = min(least[n], _seconds(run, count))
    timed = tuple(Timed(p.name, f, float(s)) for p, f, s in zip(wanted, features, least, strict=True))
    found = fit(timed, target, threads)
    predicted = _predict(timed, target, found, threads)
    elapsed = time.perf_counter() - begin
    return Calibration(found, threads, timed, tuple(map(float, np.exp(predicted))), elapsed)


def calibrated(
    target: Target,
    threads: int,
    store: Store,
    progress: Callable[[int, int, str], None] | None = None,
    *,
    again: bool = False,
) -> Coefficients:
    """The coefficients of this device on so many threads: those of the store; where it has none, or ``again``
    is set, they are measured and stored. Raises what :func:`calibrate` and the store raise.
    """
    device = Device.of(target).fingerprint
    stored = None if again else store.latest_model("draft", device, threads)
    if stored is not None:
        return Coefficients.from_json(stored.data)
    found = calibrate(target, threads, progress)
    store_calibration(store, target, found)
    return found.coefficients


def store_calibration(store: Store, target: Target, found: Calibration) -> None:
    """Keep a calibration as the latest one of the device and the number of threads."""
    device = Device.of(target).fingerprint
    metrics = {"error": found.error, "seconds": found.seconds}
    data = found.coefficients.to_json().encode()
    store.put_model("draft", device, data, threads=found.threads, metrics=metrics, keep=5)


def fit(timed: Sequence[Timed], target: Target, threads: int) -> Coefficients:
    """The coefficients with which the draft model says these times best, near to the target's numbers.

    Gauss-Newton steps on the logarithms, damped (Levenberg and Marquardt), with Huber's weights; the prior
    keeps what no probe shows where it was.
    """
    start = Coefficients.of(target, threads)
    names = list(BOUNDS)
    origin = start.logs(names)
    prior = np.array([CYCLE_PRIOR if name == "cycle" else PRIOR for name in names])
    measured = np.log([t.seconds for t in timed])

    def coefficients(x: NDArray[np.float64]) -> Coefficients:
        return start.with_logs(dict(zip(names, x.tolist(), strict=True)))

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (_predict(timed, target, coefficients(x), threads) - measured) / ERROR

    def cost(x: NDArray[np.float64]) -> float:
        size = np.abs(residuals(x))
        huber = np.where(size <= 2.0, size**2, 4.0 * size - 4.0)
        return float(huber.sum() + (((x - origin) / prior) ** 2).sum())

    x, damping = origin.copy(), 1.0
    lowest = cost(x)
    for _ in range(60):
        now = residuals(x)
        step = 1e-3
        slopes = np.stack([(residuals(x + step * e) - now) / step for e in np.eye(len(x))], axis=1)
        weights = np.minimum(1.0, 2.0 / np.maximum(np.abs(now), 1e-12))
        normal = slopes.T @ (weights[:, None] * slopes) + np.diag(prior**-2)
        gradient = slopes.T @ (weights * now) + (x - origin) / prior**2
        trial = x - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
        trial = coefficients(trial).logs(names)
        value = cost(trial)
        if value < lowest:
            gain, x, lowest = lowest - value, trial, value
            damping = max(damping / 3, 1e-4)
            if gain < 1e-3:
                break
        else:
            damping *= 4
            if damping > 1e6:
                break
    return coefficients(x)


def _predict(
    timed: Sequence[Timed], target: Target, coefficients: Coefficients, threads: int
) -> NDArray[np.float64]:
    features = np.stack([t.features for t in timed])
    return DraftModel(target, coefficients).predict_features(features, threads, cold=0.0).log_seconds


def _seconds(run: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        run()
    return max((time.perf_counter() - begin) / count, 1e-9)


def _calls_for(run: Callable[[], object]) -> int:
    count = 1
    while (seconds := _seconds(run, count)) * count < TURN / 4 and count < 1 << 16:
        count *= 4
    return max(int(TURN / seconds), 1)


# -- the probes ----------------------------------------------------------------------------------------------


#: Decisions of a register tile: one row of one vector; six rows of the shortest vectors.
_SMALL: Final = {"rows": 1, "vectors": 1, "panels": 1, "tiles": 1}
_SHORT: Final = {"rows": 6, "vectors": 3, "lanes": 4, "panels": 1, "tiles": 1}


def probes(target: Target) -> list[Probe]:
    """The kernels that are measured, for the sizes of the target's caches and vectors."""
    lanes = target.lanes(32)
    l1, l2, l3 = (size // 4 for size in (target.l1d_bytes, target.l2_bytes, target.l3_bytes))
    big = min(2 * l3, 1 << 25)
    return [
        Probe("product in L1", _product(24, 3 * lanes, 128)),
        Probe("product in L2", _product(96, 12 * lanes, 384)),
        Probe("product in L3", _product(384, 48 * lanes, 256)),
        Probe("product, small tiles", _product(48, 3 * lanes, 128), "", _SMALL),
        Probe("product, short vectors", _product(24, 3 * lanes, 128), "", _SHORT),
        Probe("product, rows apart", _product(48, 48, 96), "rows"),
        Probe("product, plain loops", _product(48, 3 * lanes, 128), "loops"),
        Probe("sum of rows", _sum_rows(32, l1 // 128)),
        Probe("sum, one element after the other", _sum_rows(32, l1 // 128), "loops", {"lanes": 1}),
        Probe("copy in L1", _scaled(l1 // 4)),
        Probe("copy in L2", _scaled(l2 // 4)),
        Probe("copy in L3", _scaled(l3 // 6)),
        Probe("sum of memory", _sum_rows(1024, big // 1024)),
        Probe("copy, short vectors", _scaled(l1 // 4), "", {"lanes": 4}),
        Probe("exponential", _of_each("exp", l1 // 8)),
        Probe("division", _of_each("div", l1 // 8)),
        Probe("transpose in L1", _transpose(48, 64)),
        Probe("transpose in L1, plain loops", _transpose(48, 64), "rows"),
        Probe("transpose in L2, plain loops", _transpose(240, 256), "rows"),
        Probe("softmax of rows", _softmax(64, 256)),
        Probe("next to nothing", _scaled(lanes)),
        Probe("little for many", _scaled(l1)),
    ]


def _product(m: int, n: int, k: int) -> PrimFunc:
    a, b = te.placeholder((m, k), "float32", "a"), te.placeholder((k, n), "float32", "b")
    c = te.compute((m, n), lambda i, j: te.reduce("sum", (k,), lambda at: a[i, at] * b[at, j]), "c")
    return te.primfunc("product", [a, b], [c], const_inputs=[b])


def _sum_rows(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    y = te.compute((rows,), lambda i: te.reduce("sum", (columns,), lambda j: x[i, j]), "y")
    return te.primfunc("sum_rows", [x], [y])


def _scaled(count: int) -> PrimFunc:
    x = te.placeholder((count,), "float32", "x")
    return te.primfunc("scaled", [x], [te.compute((count,), lambda i: x[i] * 0.5, "y")])


def _of_each(operation: str, count: int) -> PrimFunc:
    x = te.placeholder((count,), "float32", "x")

    def value(i: Expr) -> Expr:
        return call("exp", [x[i]]) if operation == "exp" else 1.5 / x[i]

    return te.primfunc(operation, [x], [te.compute((count,), value, "y")])


def _transpose(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    y = te.compute((columns, rows), lambda i, j: x[j, i] * 0.5, "y")
    return te.primfunc("transpose", [x], [y])


def _softmax(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    most = te.compute((rows,), lambda i: te.reduce("max", (columns,), lambda j: x[i, j]), "most")
    power = te.compute((rows, columns), lambda i, j: call("exp", [x[i, j] - most[i]]), "power")
    total = te.compute((rows,), lambda i: te.reduce("sum", (columns,), lambda j: power[i, j]), "total")
    y = te.compute((rows, columns), lambda i, j: power[i, j] / total[i], "y")
    return te.primfunc("softmax", [x], [y])
