"""One seed of the fuzzer: a random program, random schedules of it, all checks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.checks import (
    CHECKS,
    Failure,
    Oracle,
    Subject,
    collapsed,
    concrete_schedules,
    guarded,
    run_checks,
)
from tests.fuzz.driver import Broken, Driver, replay
from tests.fuzz.odd import odd_case
from tests.fuzz.operators import operator_case
from tests.fuzz.programs import KERNEL, SMALL, ProgramGenerator
from tests.fuzz.recipes import on_threads, product_case, random_schedule, with_instructions
from tests.fuzz.small import SmallProgram
from tests.fuzz.stages import STAGES
from tilewright.errors import ScheduleError
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule import Schedule
from tilewright.schedule.default import default_schedule
from tilewright.schedule.space import sketches
from tilewright.schedule.trace import Instruction
from tilewright.target import PRESETS as ALL_PRESETS
from tilewright.target import Target

HOST = Target.host()
PRESETS = ("x86-64-v3", "x86-64-v4")
#: Machines with threads instead of vectors, whose sketches are run in the interpreter.
GPUS = [n for n in ALL_PRESETS if Target.parse(n).gpu is not None][:1]
#: Presets whose code runs here.
RUNNABLE = [n for n in PRESETS if HOST.arch == "x86_64" and Target.parse(n).vector_bits <= HOST.vector_bits]


@dataclasses.dataclass(frozen=True)
class Found:
    """A failure and all that repeats it.

    Attributes:
        seed: of the campaign.
        kind: of the program.
        case: the program as it was scheduled.
        rules: the target for which choosing a schedule failed, or None.
        instructions: of the schedule that failed, or up to the primitive that broke.
        symbolic: whether the schedule left its decisions open.
        check_seed: of the checks.
        native: the target whose machine code ran, or None.
        failure: what was observed.
    """

    seed: int
    kind: str
    case: Case
    rules: str | None
    instructions: tuple[Instruction, ...]
    symbolic: bool
    check_seed: int
    native: str | None
    failure: Failure


@dataclasses.dataclass
class Report:
    """What one seed, or many, did."""

    programs: Counter[str] = dataclasses.field(default_factory=Counter)
    schedules: Counter[str] = dataclasses.field(default_factory=Counter)
    quick: int = 0
    native: int = 0
    accepted: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: Counter[str] = dataclasses.field(default_factory=Counter)
    found: list[Found] = dataclasses.field(default_factory=list)

    def add(self, other: Report) -> None:
        self.programs += other.programs
        self.schedules += other.schedules
        self.quick += other.quick
        self.native += other.native
        self.accepted += other.accepted
        self.refused += other.refused
        self.found += other.found


def _small(rng: Random) -> Case | None:
    return SmallProgram(rng, symbolic=False).case()


def _symbolic(rng: Random) -> Case | None:
    return SmallProgram(rng, symbolic=True).case()


def _model(rng: Random) -> Case | None:
    return ProgramGenerator(rng, rng.randint(1, 4), STAGES, SMALL).case()


def _kernel(rng: Random) -> Case | None:
    return ProgramGenerator(rng, rng.randint(1, 5), STAGES, KERNEL).case()


def _odd(rng: Random) -> Case | None:
    case = SmallProgram(rng, symbolic=False).case()
    return None if case is None else odd_case(case, rng)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Programs of one kind: how often, how they are made, and what schedules them.

    Attributes:
        schedules: random schedules of each that get all checks; 0 for that of the rules.
        quick: random schedules that only get :data:`QUICK` checks: illegal ones that are accepted are rare.
        native: the share that is run natively.
    """

    name: str
    weight: int
    make: Callable[[Random], Case | None]
    schedules: int
    quick: int
    native: float
    schedule: Callable[[Driver], None] = random_schedule


KINDS: tuple[Kind, ...] = (
    Kind("small", 24, _small, 2, 6, 0.03),
    Kind("odd", 26, _odd, 2, 8, 0.03),
    Kind("symbolic", 12, _symbolic, 2, 2, 0.0),
    Kind("model", 15, _model, 2, 2, 0.03),
    Kind("operator", 14, operator_case, 2, 2, 0.03),
    Kind("threads", 8, _small, 2, 0, 0.0, on_threads),
    Kind("instructions", 3, product_case, 2, 0, 0.0, with_instructions),
    Kind("rules", 3, _kernel, 0, 0, 0.35),
    Kind("rules, operator", 6, operator_case, 0, 0, 0.2),
    Kind("sketches", 3, _model, 0, 0, 0.1),
    Kind("sketches, operator", 4, operator_case, 0, 0, 0.1),
)

QUICK = ("scheduled", "order")


def run_seed(seed: int, kinds: Sequence[str] = (), native: bool = True) -> Report:
    """A program of the seed (of one of ``kinds``, if given), its schedules, all checks on each."""
    rng = Random(seed)
    chosen = [k for k in KINDS if not kinds or k.name in kinds]
    kind = rng.choices(chosen, [k.weight for k in chosen])[0]
    report = Report()
    case = kind.make(rng)
    if case is None:
        return report
    report.programs[kind.name] += 1
    oracle = Oracle(case)
    for n in range(kind.schedules + kind.quick):
        target = "native" if rng.random() < kind.native and native else None
        quick = n >= kind.schedules
        _random(seed, kind, oracle, Random(rng.getrandbits(62)), None if quick else target, quick, report)
    if not kind.schedules:
        chosen_by = "sketches" if kind.name.startswith("sketches") else "rules"
        target = rng.choice([*PRESETS, "native", *(GPUS if chosen_by == "sketches" else ())])
        runs = rng.random() < kind.native and native and target in [*RUNNABLE, "native"]
        _chosen(seed, kind, case, chosen_by, target, runs, report)
    return report


def _random(
    seed: int, kind: Kind, oracle: Oracle, rng: Random, native: str | None, quick: bool, report: Report
) -> None:
    """A random schedule of a program."""
    driver = Driver(oracle.case.func, rng, symbolic=not quick and rng.random() < 0.15)
    check_seed = rng.getrandbits(31)
    target = None if native is None else Target.parse(native)
    trace, symbolic = driver.sch.trace, driver.sch.symbolic
    try:
        kind.schedule(driver)
        trace = driver.sch.trace
        for sch in concrete_schedules(oracle, driver.sch, check_seed):
            trace, symbolic = sch.trace, sch.symbolic
            run_checks(Subject(oracle, sch, check_seed, target), QUICK if quick else tuple(CHECKS))
            report.quick += quick
            report.schedules[kind.name] += not quick
            report.native += native is not None
    except (Broken, Failure) as error:
        failure = error if isinstance(error, Failure) else Failure("primitive", error.name, str(error))
        if isinstance(error, Broken):
            trace = error.trace
        report.found.append(
            Found(
                seed, kind.name, oracle.case, None, trace.instructions, symbolic, check_seed, native, failure
            )
        )
    report.accepted += driver.accepted
    report.refused += driver.refused


def _chosen(seed: int, kind: Kind, case: Case, by: str, name: str, native: bool, report: Report) -> None:
    """The schedules that the rules, or candidates of the sketches, make of a program for a target."""
    target, instructions, rules = Target.parse(name), (), name
    try:
        case = collapsed(case)
        made: list[Schedule] = []
        guarded(by, lambda: made.extend(CHOOSE[by](case.func, target, seed)))
        rules, oracle = None, Oracle(case)
        for sch in made:
            instructions = sch.trace.instructions
            run_checks(Subject(oracle, sch, seed, target if native else None))
            report.schedules[kind.name] += 1
            report.native += native
    except Failure as failure:
        found = Found(
            seed, kind.name, case, rules, instructions, False, seed, name if native else None, failure
        )
        report.found.append(found)


def _by_rules(func: PrimFunc, target: Target, seed: int) -> list[Schedule]:
    return [default_schedule(func, target)]


def _by_sketches(func: PrimFunc, target: Target, seed: int) -> list[Schedule]:
    """Some candidates of some sketches, their descendants among them."""
    rng = Random(f"{seed} sketches")
    made = []
    every = sketches(func, target)
    for sketch in rng.sample(every, min(2, len(every))):
        rows = sketch.sample(4, seed)
        if len(rows) > 1:
            rows = np.concatenate([rows[:1], sketch.crossover(sketch.mutate(rows, seed), rows[::-1], seed)])
        assert sketch.valid(rows).all(), "candidates are not valid"
        made += [sketch.bind(row) for row in rows[:2]]
    return made


#: What chooses schedules by itself, and must not fail.
CHOOSE: dict[str, Callable[[PrimFunc, Target, int], list[Schedule]]] = {
    "rules": _by_rules,
    "sketches": _by_sketches,
}


def repeat(found: Found) -> None:
    """Check again what was found. Raises Failure while it is wrong; a case without a meaning of its own (its
    unscheduled program is not one) raises something else.
    """
    oracle = Oracle(found.case)
    for n in range(len(found.case.sizes)):
        oracle.expected(n)
    check = found.failure.check
    if check == "collapse":
        collapsed(found.case)
        return
    if found.rules is not None:
        guarded(check, CHOOSE[check], found.case.func, Target.parse(found.rules), found.check_seed)
        return
    try:
        sch = replay(found.case.func, found.instructions, found.symbolic)
    except Broken as broken:
        raise Failure("primitive", broken.name, str(broken)) from broken
    except ScheduleError as error:
        raise ValueError(f"the program cannot be scheduled: {error}") from error
    native = None if found.native is None else Target.parse(found.native)
    for concrete in concrete_schedules(oracle, sch, found.check_seed):
        only = [check] if check in CHECKS else ["verified", "scheduled"]
        run_checks(Subject(oracle, concrete, found.check_seed, native), only)
