"""``tw.tune``: measure schedules for a model's kernels, and say what that has gained (docs/tuning.md)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import tilewright.ops  # noqa: F401 - registers the operators
from tilewright import __version__, api
from tilewright.build import compiler_epoch
from tilewright.compare import compare
from tilewright.config import options
from tilewright.dims import Dims, Shapes
from tilewright.errors import OptionError, ShapeError, TilewrightError
from tilewright.feeds import InputSpec, complete_inputs, integer_bounds, model_inputs
from tilewright.frontend.onnx.reader import read
from tilewright.graph.graph import Graph
from tilewright.measure.timing import Plan, race
from tilewright.records import Device, Epoch, Store, open_store
from tilewright.runtime.host import check_host
from tilewright.sources import OpenModel, Source, open_model
from tilewright.target import Target
from tilewright.tune.budget import duration, parse_budget
from tilewright.tune.events import Event, EventLog, Listener, Noted, Whole
from tilewright.tune.models import bounds_of, calibrate_once, default_model, train_again
from tilewright.tune.plugins import find_strategy, load_plugin, make_measurer, make_model
from tilewright.tune.session import Outcome, Session, Settings
from tilewright.tune.state import State
from tilewright.tune.tasks import Extracted, Skipped, extract

#: How thorough a session is: its budget where none is given, candidates of a task that are enough, the least
#: gain for each second that is worth it (a share of the model's time), and whether other ways to compute
#: nodes are measured, too.
EFFORTS: Final[Mapping[str, tuple[str | None, int | None, float, bool]]] = {
    "none": (None, None, 0.0, False),
    "quick": ("1m", 48, 1e-4, False),
    "full": ("10m", None, 0.0, True),
}
#: Part of the budget, and seconds at most, that are kept for timing the whole model at the end.
CLOSING: Final = 0.1
CLOSING_SECONDS: Final = 20.0
#: Intervals whose ends are this far apart say nothing: two or three runs on a busy machine.
VAGUE: Final = 100.0
#: Seconds for it where the budget is in trials.
CLOSING_ALONE: Final = 5.0
#: Characters of a task's label in the table, and kernels that are named for a reason not to tune them.
LABEL_WIDTH: Final = 44
LISTED: Final = 3


@dataclasses.dataclass(frozen=True)
class Gain:
    """How many times faster something is than at the beginning, from runs side by side.

    Attributes:
        ratio: the middle.
        low, high: the 95 % confidence interval.
    """

    ratio: float
    low: float
    high: float

    @staticmethod
    def of(log_ratio: float, half_width: float) -> Gain:
        """From the logarithm of the new time over the old one."""
        low, high = (math.exp(min(-log_ratio + sign * half_width, 700.0)) for sign in (-1, 1))
        return Gain(math.exp(-log_ratio), low, high)

    @property
    def sure(self) -> bool:
        """Whether the interval lies above 1."""
        return self.low > 1

    def __str__(self) -> str:
        if not self.high <= VAGUE * self.low:  # also where they are no numbers
            return f"{self.ratio:.3f}x [too few runs to tell]"
        return f"{self.ratio:.3f}x [{self.low:.3f}, {self.high:.3f}]"


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What became of a task.

    Attributes:
        name, label, key: of the kernel's function, that with the first node that it computes, and of its
            workload.
        origins: the model's nodes that it computes.
        occurrences: how often the model runs it.
        before, after: seconds of a call with the schedule of the beginning and with the best one; None where
            it could not be measured.
        gain: from races; None where the schedule of the beginning is the best.
        trials: candidates that were measured in this session.
        failures: how many of them failed, by status.
        bound: what bounds the kernel, in words; empty: not known.
        at_bound: share of the speed that this bound allows; None: not known.
        error: why it was not tuned; empty otherwise.
    """

    name: str
    label: str
    key: str
    origins: tuple[str, ...]
    occurrences: int
    before: float | None
    after: float | None
    gain: Gain | None
    trials: int
    failures: Mapping[str, int]
    bound: str = ""
    at_bound: float | None = None
    error: str = ""

    @staticmethod
    def of(state: State) -> TaskResult:
        """From the state at the end of a session."""
        task, gain = state.task, state.gain
        after = state.seconds if state.ready else None
        improved = state.ready and state.best != state.start and gain is not None
        return TaskResult(
            name=task.name,
            label=task.label,
            key=task.key,
            origins=task.origins,
            occurrences=task.occurrences,
            before=state.at_start if state.ready else None,
            after=after,
            gain=Gain.of(gain.log_ratio, gain.half_width) if improved and gain is not None else None,
            trials=state.trials,
            failures=dict(state.failures),
            bound=state.bound,
            at_bound=state.floor / after if after and state.floor else None,
            error=state.error or ("" if state.ready else "the session ended before its turn"),
        )


@dataclasses.dataclass(frozen=True)
class EndToEnd:
    """The whole model, compiled by default and with the store, run in turns.

    Attributes:
        before, after: median seconds of a run.
        gain: from pairs of runs.
        rounds: how many turns each had.
        noise: of the machine, see :class:`tilewright.measure.Race`.
        sizes: of the dimensions that have ranges.
    """

    before: float
    after: float
    gain: Gain
    rounds: int
    noise: float
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TuningResult:
    """What a session has come to; ``str()`` is a table.

    Attributes:
        tasks: each kernel.
        skipped: kernels that keep the default schedule, and why.
        projected: seconds of all tuned kernels, one after the other: at the beginning, and now.
        end_to_end: the whole model, measured; None where it was not, and ``why_not`` says why.
        why_not: see there.
        reason: why the session ended: ``budget``, ``trials``, ``done`` or ``interrupted``.
        trials: candidates that were measured.
        failures: how many of them failed, by status.
        seconds: how long it took in all.
        store: where the records are.
        compile: compiles the model with the schedules that were found.
    """

    tasks: tuple[TaskResult, ...]
    skipped: tuple[Skipped, ...]
    projected: tuple[float, float]
    end_to_end: EndToEnd | None
    why_not: str
    reason: str
    trials: int
    failures: Mapping[str, int]
    seconds: float
    store: str
    compile: Callable[[], api.Model] = dataclasses.field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping of everything but ``compile``."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "compile"}
        for name in ("tasks", "skipped"):
            parts[name] = [dataclasses.asdict(t) for t in parts[name]]
        whole = self.end_to_end
        return {**parts, "end_to_end": None if whole is None else dataclasses.asdict(whole)}

    def __str__(self) -> str:
        shown = [t for t in self.tasks if t.before is not None and t.after is not None]
        shown.sort(key=lambda t: -t.occurrences * (t.before or 0.0))
        rows: list[tuple[str, ...]] = [
            ("task", "runs", "before ms", "after ms", "speed-up [95 %]", "measured", "failed", "bound")
        ]
        rows += [_row(t) for t in shown]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        lines += _left_out(self.tasks, self.skipped)
        before, after = self.projected
        if after:
            lines.append(
                f"kernels one after the other: {before * 1e3:.3f} ms before, {after * 1e3:.3f} ms after "
                f"({before / after:.3f}x)"
            )
        whole = self.end_to_end
        if whole is None:
            lines.append(f"the whole model was not measured: {self.why_not}")
        else:
            sizes = ", ".join(f"{name}={size}" for name, size in whole.sizes.items())
            what = "whole model" + (f" at {sizes}" if sizes else "")
            lines.append(
                f"{what}, measured: {whole.before * 1e3:.3f} ms by default, {whole.after * 1e3:.3f} ms "
                f"with the store: {whole.gain}, {whole.rounds} rounds"
            )
        failed = "".join(f", {count} {status}" for status, count in sorted(self.failures.items()))
        lines.append(f"{self.trials} candidates measured{failed}; {duration(self.seconds)}; {self.store}")
        return "\n".join(lines)


def _row(task: TaskResult) -> tuple[str, ...]:
    bound = task.bound + (f" {task.at_bound:.0%}" if task.at_bound else "")
    gain = "-" if task.gain is None else str(task.gain)
    times = (f"{(task.before or 0.0) * 1e3:.4f}", f"{(task.after or 0.0) * 1e3:.4f}")
    return (
        _short(task.label),
        str(task.occurrences),
        *times,
        gain,
        str(task.trials),
        str(sum(task.failures.values())),
        bound,
    )


def _short(label: str) -> str:
    return label if len(label) <= LABEL_WIDTH else f"{label[: LABEL_WIDTH - 1]}…"


def _left_out(tasks: Sequence[TaskResult], skipped: Sequence[Skipped]) -> Iterator[str]:
    """A line for each reason why kernels were not tuned, with the first of them."""
    reasons: dict[str, list[str]] = {}
    found = [(t.error, t.label) for t in tasks if t.error] + [(s.reason, s.name) for s in skipped]
    for reason, label in found:
        reasons.setdefault(reason, []).append(label)
    for reason, labels in reasons.items():
        more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
        yield f"not tuned: {', '.join(labels[:LISTED])}{more}: {reason}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    last = len(row) - 1
    return [
        w.ljust(n) if i in (0, last) else w.rjust(n) for i, (w, n) in enumerate(zip(row, widths, strict=True))
    ]


def compiler_name() -> str:
    """The version of the compiler by which records are told apart."""
    return f"{__version__}+{compiler_epoch()[:16]}"


def list_tasks(
    source: Source,
    *,
    target: str | Target = "native",
    threads: int | None = None,
    shapes: Shapes | None = None,
    dims: Dims | None = None,
    values: api.Values | None = None,
    ways: bool = False,
) -> Extracted:
    """The kernels of a model that :func:`tune` would work on, and those that it would not.

    Takes the arguments of :func:`tilewright.compile`, and raises as it does.
    """
    machine = Target.parse(target)
    count = _threads(machine, threads)
    opened = _opened(source, _sizes(source, shapes, dims, values), dims, values)
    return _extracted(opened, machine, count, ways)


def _opened(source: Source, shapes: Shapes | None, dims: Dims | None, values: api.Values | None) -> OpenModel:
    return open_model(source, shapes, dims, _mappings(values))


def _extracted(opened: OpenModel, machine: Target, threads: int, ways: bool) -> Extracted:
    """The kernels of all variants that compile makes at once: for ranges of sizes, their points, and the
    values that are given."""
    graphs: list[Graph] = []
    for values in opened.values or ({},):
        known = opened.sizes_of(values)
        if rest := [name for name in opened.undeclared if name not in known]:
            raise ShapeError(
                f"the model has open dimensions: {', '.join(rest)}",
                hint="give their sizes (shapes, --shape), or ranges with points (dims, --dim)",
            )
        binding = {name: known[name] for name in opened.undeclared}
        for point in opened.declared.points():
            case = opened.case({**binding, **point}, values)
            if all(case.binding[name] == size for name, size in point.items()):
                graphs.append(case.graph)
        opened.require_steering(values)
    disabled = () if options().fast_conv else ("fast_conv",)
    return extract(graphs, machine, threads, source=opened.name, disabled=disabled, ways=ways)


def _mappings(values: api.Values | None) -> list[Mapping[str, Any]]:
    return [] if not values else [values] if isinstance(values, Mapping) else list(values)


def _sizes(
    source: Source, shapes: Shapes | None, dims: Dims | None, values: api.Values | None
) -> Shapes | None:
    """The shapes of all inputs of an ONNX model, a first dimension that is open being 1; as they are given
    where there are ranges, or several values that have sizes of their own."""
    arrays = _mappings(values)
    if isinstance(source, Graph) or dims or len(arrays) > 1:
        return shapes
    from tilewright.feeds import resolve_shapes

    shapes = {**{name: np.shape(value) for one in arrays for name, value in one.items()}, **(shapes or {})}
    given = {n: [d for d in s if isinstance(d, int)] for n, s in shapes.items()}
    if any(len(given[n]) != len(s) for n, s in shapes.items()):
        return shapes
    return dict(resolve_shapes(model_inputs(read(source)), given))


def _threads(target: Target, threads: int | None) -> int:
    count = target.cores if threads is None else threads
    if count < 1:
        raise OptionError(f"threads={threads} is not possible", hint="a run needs at least one thread")
    return count


def tune(
    source: Source,
    budget: str | float | None = None,
    *,
    trials: int | None = None,
    target: str | Target = "native",
    threads: int | None = None,
    shapes: Shapes | None = None,
    dims: Dims | None = None,
    values: api.Values | None = None,
    store: str | os.PathLike[str] | None = None,
    effort: str = "quick",
    strategy: str = "evolutionary",
    model: str | None = None,
    measurer: str = "local",
    plugins: Sequence[str | os.PathLike[str]] = (),
    tasks: Sequence[str] = (),
    progress: Listener | None = None,
    events: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> TuningResult:
    """Find faster schedules for a model's kernels on this machine, and keep them where compile finds them.

    Ctrl-C once ends the session and keeps what was found; the same call goes on where it stopped.

    Args:
        source: as for :func:`tilewright.compile`, with ``shapes``, ``dims``, ``values`` and ``threads``.
        budget: seconds, or ``"90s"``, ``"5m"``, ``"1h"``; by default what the effort says, unless ``trials``
            is given. Timing the whole model at the end is part of it.
        trials: candidates to measure, at most.
        target: this machine.
        store: where records go: a path, or the URL of a database; by default that of the options.
        effort: ``none`` (measure nothing, say what the store knows), ``quick`` (at most 48 candidates of a
            kernel, a minute), ``full`` (ten minutes; also other ways to compute heavy nodes).
        strategy: who proposes candidates: a name, or a file of Python that registers one.
        model: the cost model that guides it: a name (``draft``, ``learned``), or a file that registers one;
            by default the best that there is.
        measurer: who measures: a name, or a file that registers one.
        plugins: files that are run first and register what they define.
        tasks: names of nodes, kernels or beginnings of keys: only those are tuned.
        progress: is told all events (:mod:`tilewright.tune.events`).
        events: a file to which they are added, one a line.
        seed: of all choices.

    Raises:
        ModelFileError, UnsupportedError, GraphError, ShapeError, InputError: as for compile.
        TargetError: the target is not this machine.
        OptionError: a name, budget, plugin or task that there is not.
        StoreError: the store cannot be opened, read or written; what it has is intact.
    """
    began = time.monotonic()
    if effort not in EFFORTS:
        raise OptionError(f"there is no effort '{effort}'", hint=f"choose one of {', '.join(EFFORTS)}")
    if trials is not None and trials < 0:
        raise OptionError(f"trials={trials} is not possible", hint="0 measures the default schedules only")
    standard, enough, least, ways = EFFORTS[effort]
    asked = budget if budget is not None else standard if trials is None else None
    seconds = None if asked is None else parse_budget(asked)
    machine = Target.parse(target)
    check_host(machine)
    count = _threads(machine, threads)
    for plugin in plugins:
        load_plugin(plugin)
    shapes = _sizes(source, shapes, dims, values)
    proposer = find_strategy(strategy)
    opened = _opened(source, shapes, dims, values)
    extracted = _extracted(opened, machine, count, ways and not tasks)
    if tasks:
        extracted = extracted.only(tasks)
    address = os.fspath(options().store if store is None else store)
    compiling = {"target": machine, "threads": count, "shapes": shapes, "dims": dims, "values": values}

    def compiled() -> api.Model:
        return api.compile(source, **compiling, store=address)  # type: ignore[arg-type]

    with contextlib.ExitStack() as stack:
        database: Store = stack.enter_context(open_store(address))
        listeners: list[Listener] = [] if progress is None else [progress]
        if events is not None:
            listeners.append(stack.enter_context(EventLog(events)))

        session: Session | None = None

        def now() -> float:
            return 0.0 if session is None else session.elapsed

        def tell(event: Event) -> None:
            for listener in listeners:
                listener(event)

        def note(message: str) -> None:
            tell(Noted(now(), message))

        if effort != "none" and model in (None, "draft", "learned"):
            calibrate_once(database, machine, count, note)
        name = model or default_model(database, machine, count)
        chosen = make_model(name, machine, count, database)
        epoch = Epoch.begin(Device.of(machine), compiler_name())
        closing = 0.0 if seconds is None else min(CLOSING * seconds, CLOSING_SECONDS)
        left = None if seconds is None else max(seconds - closing - (time.monotonic() - began), 0.001)
        settings = Settings(
            budget=left, trials=trials, enough=enough, least=least, measure=effort != "none", seed=seed
        )
        session = Session(
            extracted,
            database,
            machine,
            count,
            proposer,
            chosen,
            lambda: make_measurer(measurer, machine, count),
            epoch,
            settings,
            listeners,
            bounds_of(database, machine, count),
        )
        outcome = session.run((Path(source).name if isinstance(source, str | os.PathLike) else "", strategy))
        whole, why_not = None, _why_not(outcome, bool(tasks))
        interrupted = outcome.reason == "interrupted"
        try:
            if not why_not:
                limit = closing or CLOSING_ALONE
                note(f"the whole model is timed, by default and with the store: {duration(limit)}")
                try:
                    whole = measure_whole(source, opened, compiled, compiling, limit)
                except TilewrightError as error:
                    why_not = error.message
            tell(_whole_event(now(), whole, why_not))
            if effort == "full" and outcome.trials and not interrupted:
                note("the learned model is trained on all records: minutes, which Ctrl-C cuts short")
                note(train_again(database, machine, count))
        except KeyboardInterrupt:  # what was found is in the store, and is to be told
            if whole is None and not why_not:
                why_not = "it was interrupted"
                tell(_whole_event(now(), whole, why_not))
            else:
                note("the learned model was not trained: it was interrupted")
        after, before = session.projected()
        return TuningResult(
            tuple(map(TaskResult.of, outcome.states)),
            extracted.skipped,
            (before, after),
            whole,
            why_not,
            outcome.reason,
            outcome.trials,
            outcome.failures,
            time.monotonic() - began,
            database.location,
            compiled,
        )


def _whole_event(at: float, whole: EndToEnd | None, why_not: str) -> Whole:
    if whole is None:
        return Whole(at, why_not=why_not)
    gain = whole.gain
    return Whole(at, whole.before, whole.after, gain.ratio, gain.low, gain.high, whole.rounds, whole.noise)


def _why_not(outcome: Outcome, some: bool) -> str:
    """Why the whole model is not timed; empty where it is."""
    if outcome.reason == "interrupted":
        return "the session was interrupted"
    if some:
        return "only some of its kernels were tuned"
    found = any(s.ready and s.space is not None and s.best != s.space.default for s in outcome.states)
    return "" if outcome.trials or found else "nothing was measured"


def measure_whole(
    source: Source,
    opened: OpenModel,
    compiled: Callable[[], api.Model],
    compiling: Mapping[str, Any],
    seconds: float,
) -> EndToEnd:
    """Run the model compiled by default and by ``compiled`` in turns for about so many seconds: with the
    first of the values that ``opened`` has, where dimensions have ranges at their last points, or at typical
    sizes where they have none.

    Raises CompileError where their outputs differ by more than rounding, else as compile and run do.
    """
    from tilewright.errors import CompileError

    with api.compile(source, **compiling, store=False) as before, compiled() as after:
        values = opened.values[0] if opened.values else {}
        ranges = opened.declared.dims
        sizes = {name: dim.variable(name).typical or dim.hi for name, dim in ranges.items()}
        sizes |= opened.declared.points()[-1] | opened.sizes_of(values)
        given = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        inputs = _inputs(source, opened, sizes, given)
        one, other = before.run(inputs), after.run(inputs)
        for name, expected in one.items():
            if isinstance(expected, np.ndarray):
                difference = compare(name, other[name], expected)
                if not difference.ok:
                    raise CompileError(
                        f"the tuned model gives other results: {difference.describe()}",
                        hint="`tilewright records verify --replay` checks the store; please report it",
                    )
        arrays = [inputs[spec.name] for spec in before.inputs]
        plan = Plan(turn_seconds=0.02, max_rounds=200, precision=0.002, halving=False, seconds=seconds)
        found = race([lambda: before(*arrays), lambda: after(*arrays)], lambda: before(*arrays), plan)
        difference_ = found.difference(1, 0)
        medians = [statistics.median(s.seconds for s in samples) for samples in found.samples]
        gain = Gain.of(difference_.log_ratio, difference_.half_width)
        at = {name: sizes[name] for name in ranges}
        return EndToEnd(medians[0], medians[1], gain, difference_.rounds, found.noise, at)


def _inputs(
    source: Source, opened: OpenModel, sizes: Mapping[str, int], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The ``values``, and sample data for the model's other inputs, with these sizes of open dimensions."""
    inputs = opened.signature.inputs
    shapes = {s.name: [sizes[d] if isinstance(d, str) else int(d) for d in s.shape] for s in inputs}
    if isinstance(source, Graph):
        specs = [InputSpec(s.name, tuple(s.shape), np.dtype(s.dtype)) for s in inputs]
        return complete_inputs(specs, values, shapes)
    raw = read(source)
    return complete_inputs(model_inputs(raw), values, shapes, 0, integer_bounds(raw))
