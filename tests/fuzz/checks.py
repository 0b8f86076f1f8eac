"""What must hold of a scheduled program.

Each check is a function with a name that takes a :class:`Subject`; it raises AssertionError (or what the
compiler raises) where something is wrong. :func:`run_checks` turns that into a :class:`Failure`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Sequence
from random import Random

import numpy as np

from tests.fuzz.case import Case, Sizes
from tests.fuzz.native import check_native
from tests.fuzz.order import adversarial, reordered
from tests.fuzz.reduce import resized
from tests.fuzz.symbols import bind_all, open_decisions, sample, substituted
from tilewright.errors import ScheduleError
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.interp import run
from tilewright.ir.launch import has_thread_axes
from tilewright.ir.parser import parse
from tilewright.ir.printer import structural_equal, to_text
from tilewright.ir.stmt import Alloc, For, PrimFunc, Stmt, Store
from tilewright.ir.verify import verify
from tilewright.ir.visit import child_stmts, const_int, walk_stmt
from tilewright.lower import PASSES, THREAD_PASSES, lower
from tilewright.schedule import Schedule, Trace
from tilewright.target import Target

#: Statements of a lowered program beyond which code size is out of proportion for programs of these sizes.
MAX_STATEMENTS = 40_000
#: Thread blocks times threads of a launch that is run.
MAX_THREADS = 1 << 12
#: Steps of a thread that are run.
MAX_STEPS = 2_000


class Failure(AssertionError):
    """A check that did not hold.

    Attributes:
        check: its name.
        kind: the class of what was raised.
    """

    def __init__(self, check: str, kind: str, problem: str) -> None:
        super().__init__(f"{check}: {kind}: {problem}")
        self.check = check
        self.kind = kind


class Oracle:
    """A case and what it computes unscheduled, found once for all its schedules."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._expected: dict[int, list[np.ndarray]] = {}

    def expected(self, n: int = 0) -> list[np.ndarray]:
        """Results for the ``n``-th sizes."""
        if n not in self._expected:
            self._expected[n] = self.case.expected(self.case.sizes[n])
        return self._expected[n]

    def hold(self, func: PrimFunc, n: int | None = None, undefined: bool = False) -> None:
        """``func`` computes the same, for the ``n``-th sizes or all; with ``undefined``, whatever memory held
        before.
        """
        for k, sizes in enumerate(self.case.sizes):
            if n is None or n == k:
                inputs = self.case.inputs(sizes, func)
                dims = self.case.dims(sizes, func)
                found = run(func, inputs, dims, check_undefined=undefined, seed=self.case.seed)
                self.case.compare(found, self.expected(k))


@dataclasses.dataclass
class Subject:
    """A scheduled program under check.

    Attributes:
        oracle: of the program.
        sch: the schedule; its decisions are all bound.
        seed: of what the checks choose.
        native: the target to run machine code of, or None.
    """

    oracle: Oracle
    sch: Schedule
    seed: int
    native: Target | None = None

    @property
    def case(self) -> Case:
        return self.oracle.case

    @property
    def func(self) -> PrimFunc:
        return self.sch.func

    @functools.cached_property
    def passes(self) -> list[tuple[str, PrimFunc]]:
        """The lowering passes that changed something, with their results."""
        found: list[tuple[str, PrimFunc]] = []
        last = [self.func.body]

        def keep(name: str, result: PrimFunc) -> None:
            if result.body is not last[0]:
                found.append((name, result))
                last[0] = result.body

        lowered = lower(self.func, keep, THREAD_PASSES if has_thread_axes(self.func.body) else PASSES)
        return found or [("lower", lowered)]

    @property
    def lowered(self) -> PrimFunc:
        return self.passes[-1][1]

    def rng(self, what: str) -> Random:
        return Random(f"{self.seed} {what}")

    def share(self, what: str, p: float) -> bool:
        """Whether this is one of the programs that something expensive is done with."""
        return self.rng(f"share {what}").random() < p


def _verified(s: Subject) -> None:
    verify(s.func)


def _scheduled(s: Subject) -> None:
    if too_many_threads(s.func):
        return
    s.oracle.hold(s.func, undefined=True)


def _order(s: Subject) -> None:
    kinds = {loop.kind for loop in walk_stmt(s.func.body) if isinstance(loop, For)}
    if not kinds & {"parallel", "vectorized"} or has_thread_axes(s.func.body):
        return  # in order; for threads the interpreter has looked for races
    s.oracle.hold(adversarial(s.func, s.rng("order")), n=0)


def _lowered(s: Subject) -> None:
    """At the end for all sizes, whatever memory held before, in another order; after every pass for half of
    the programs, and for those that are wrong.
    """
    if not s.case.lowers or too_many_threads(s.func):
        return
    try:
        assert statements(s.lowered.body) <= MAX_STATEMENTS, "the lowered program is too large"
    except ScheduleError:
        if s.case.dims(s.case.sizes[0]) and has_thread_axes(s.func.body):
            return  # threads have registers in numbers that are constant
        raise
    try:
        if s.share("passes", 0.5):
            _after_passes(s)
        s.oracle.hold(s.lowered, undefined=True)
    except Failure:
        raise
    except Exception:
        _after_passes(s)  # says which pass it was
        raise
    moved = reordered(s.lowered.body, s.rng("lowered"))
    if moved is not s.lowered.body:
        s.oracle.hold(s.lowered.with_(body=moved), n=0)


def _after_passes(s: Subject) -> None:
    last = to_text(s.func)
    for name, result in s.passes:
        # Between these passes register buffers are still allocated at the root.
        if name not in ("flatten_blocks", "bind_threads", "simplify_body"):
            _named(name, lambda result=result: verify(result))
        text = to_text(result)
        if text != last:
            _named(name, lambda result=result: s.oracle.hold(result, n=0))
        last = text


def _named(name: str, step: Callable[[], None]) -> None:
    """Say after which pass it went wrong."""
    try:
        step()
    except Exception as error:
        raise Failure("lowered", type(error).__name__, f"after {name}: {error}") from error


def _round_trip(s: Subject) -> None:
    """The trace as JSON and as Python gives the schedule again; the program is what its text says."""
    text = to_text(s.func)
    assert structural_equal(parse(text), s.func), "the text says another program"
    stored = s.sch.trace.to_json()
    again = Trace.from_json(stored).apply(s.case.func)
    assert to_text(again.func) == text, "the trace from JSON gives another program"
    assert json.loads(again.trace.to_json()) == json.loads(stored), "the replayed trace is another one"
    if not s.share("python", 0.3):
        return
    fresh = Schedule(s.case.func)
    exec(compile(str(s.sch.trace), "<trace>", "exec"), {"sch": fresh})
    assert to_text(fresh.func) == text, "the trace as Python gives another program"


def _resized(s: Subject) -> None:
    """Replayed on the same program in another shape, the trace refuses or is right."""
    other = resized(s.case, s.rng("resized")) if s.share("resized", 0.4) else None
    if other is None:
        return
    try:
        sch = s.sch.trace.apply(other.func)
    except ScheduleError:
        return
    oracle = Oracle(other)
    oracle.hold(sch.func)
    if not has_thread_axes(sch.func.body):
        oracle.hold(lower(sch.func))


def _natively(s: Subject) -> None:
    if s.native is None or not s.case.lowers or has_thread_axes(s.func.body):
        return
    if any(isinstance(stmt, Alloc) and stmt.buffer.scope == "shared" for stmt in walk_stmt(s.func.body)):
        return  # that is memory of GPUs
    inputs = s.case.inputs(s.case.sizes[0], s.func)
    check_native(s.lowered, inputs, s.native, lambda found: s.case.compare(found, s.oracle.expected()))


#: In the order in which they run.
CHECKS: dict[str, Callable[[Subject], None]] = {
    "verified": _verified,
    "scheduled": _scheduled,
    "order": _order,
    "lowered": _lowered,
    "round trip": _round_trip,
    "resized": _resized,
    "native": _natively,
}


def run_checks(subject: Subject, only: Collection[str] = tuple(CHECKS)) -> None:
    """Raise Failure for the first of the checks ``only`` that does not hold."""
    for name in CHECKS:
        if name in only:
            guarded(name, CHECKS[name], subject)


def guarded(name: str, check: Callable[..., object], *arguments: object) -> None:
    """Run a check; whatever it raises becomes a Failure under its name."""
    try:
        check(*arguments)
    except Failure:
        raise
    except Exception as error:
        raise Failure(name, type(error).__name__, str(error)) from error


def check_schedule(case: Case | Oracle, sch: Schedule, seed: int = 0, native: Target | None = None) -> int:
    """All checks on a schedule of ``case``; of one with open decisions, on what some values make of it.

    Returns how many scheduled programs that were. Raises Failure.
    """
    oracle = case if isinstance(case, Oracle) else Oracle(case)
    count = 0
    for concrete in concrete_schedules(oracle, sch, seed):
        run_checks(Subject(oracle, concrete, seed, native))
        count += 1
    return count


def concrete_schedules(oracle: Oracle, sch: Schedule, seed: int) -> Sequence[Schedule]:
    """``sch`` itself, or for open decisions, what replaying its trace with some values gives.

    The open program with the values put in must compute the same. Raises Failure.
    """
    decisions = open_decisions(sch)
    if not decisions:
        return [sch]
    found = []
    for values in sample(decisions, Random(f"{seed} decisions"), 2):
        put_in = functools.partial(substituted, sch.func, {decisions[n].symbol: v for n, v in values.items()})
        guarded("decided", lambda put_in=put_in: oracle.hold(put_in(), n=0))
        try:
            found.append(bind_all(sch.trace, values).apply(oracle.case.func))
        except ScheduleError:
            continue  # what holds for open numbers need not be shown again for these
    return found


def too_many_threads(func: PrimFunc) -> bool:
    """Whether launches have more threads, or these more steps, than it is worth to interpret."""
    return has_thread_axes(func.body) and (_threads(func.body) > MAX_THREADS or _steps(func.body) > MAX_STEPS)


def _threads(stmt: Stmt) -> int:
    """Threads of the largest launch in ``stmt``; extents that are not constant count as 8."""
    inside = max(map(_threads, child_stmts(stmt)), default=1)
    bound = isinstance(stmt, For) and stmt.kind.startswith("thread:")
    return inside * (const_int(stmt.extent) or 8) if bound else inside


def _steps(stmt: Stmt) -> int:
    """Stores that one thread executes one after the other."""
    inside = sum(map(_steps, child_stmts(stmt))) or isinstance(stmt, Store)
    serial = isinstance(stmt, For) and not stmt.kind.startswith("thread:")
    return inside * (const_int(stmt.extent) or 8) if serial else inside


def statements(stmt: Stmt) -> int:
    """Statements in ``stmt``."""
    return 1 + sum(statements(child) for child in child_stmts(stmt))


def collapsed(case: Case) -> Case:
    """The case with fewer dimensions, as rules take it. Raises Failure where that computes something else."""
    small = case.with_(func=collapse_dims(case.func))

    def same(sizes: Sizes) -> None:
        found = small.expected(sizes)
        wanted = case.expected(sizes)
        case.compare([a.reshape(b.shape) for a, b in zip(found, wanted, strict=True)], wanted)

    if small.func is not case.func:
        for sizes in case.sizes:
            guarded("collapse", same, sizes)
    return small
