"""The search space of a workload: the points of all its sketches, the default schedule among them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.backend.llvm.work import grain_of
from tilewright.cost.model import CostModel, Prediction
from tilewright.errors import ScheduleError, TilewrightError
from tilewright.ir.expr import Var
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text
from tilewright.ir.stmt import For, Stmt
from tilewright.ir.visit import transform_stmt
from tilewright.lower import PASSES, lower
from tilewright.records.record import Workload, digest, shortest_json
from tilewright.schedule.default import default_schedule
from tilewright.schedule.features import FEATURES, features_of
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.sketch import Rows, Sketch
from tilewright.schedule.space import sketches
from tilewright.schedule.trace import Trace
from tilewright.target import Target
from tilewright.tune.population import Point, Population

__all__ = ["UNTUNED", "Point", "Population", "SearchSpace"]

#: The sketch without decisions that stands for the default schedule where no other sketch gives its program.
UNTUNED: Final = "untuned"
#: Features that equal programs share: lowering drops loops that run once and iterations that guards rule out,
#: but changes neither vectors nor memory.
TELLING: Final = ("lanes", "items", "temporary_bytes", "register_bytes", "packed_bytes", "shared_bytes")
_TELLING: Final = [FEATURES.index(name) for name in TELLING]
#: Hints that say how threads share the iterations of a loop.
SHARING: Final = ("grain", "chunks")
#: Combinations of a sketch, at most, among which the program of a schedule is looked for; how many of them
#: are bound for that, and how close their features are.
MAX_LOOKED_AT: Final = 1 << 14
MAX_BOUND: Final = 16
ALIKE: Final = 1e-3
#: Points that are listed one by one, at most.
MAX_LISTED: Final = 1 << 20


class SearchSpace:
    """All candidates of a workload on a target.

    Sequences of points that methods return are populations; those that they take may be any.

    Attributes:
        workload: what is computed.
        target: the machine.
        func: the function that traces of the workload apply to: its text, parsed.
        sketches: its sketches; points name them by their positions.
        default: the point whose program is that of the default schedule.
        size: combinations of values in all sketches, valid or not.

    Raises:
        ScheduleError: the function has dimensions that a run decides.
    """

    def __init__(self, workload: Workload, target: Target) -> None:
        self.workload, self.target = workload, target
        self.func = parse(workload.text)
        open_dims = [p.name for p in self.func.params if isinstance(p, Var)]
        if open_dims:
            raise ScheduleError(
                f"'{self.func.name}' has {len(open_dims)} dimensions that a run decides: it cannot be tuned",
                hint="tune the model with fixed sizes, or keep the default schedule",
            )
        found = sketches(self.func, target)
        untuned = default_schedule(self.func, target)
        wanted = _program(untuned)
        default = next((p for p in _starts(found) if _program(found[p.sketch].bind(p.row)) == wanted), None)
        default = default or _point_of_program(found, untuned, wanted)
        if default is None:
            default = Point(len(found), ())
            found.append(Sketch(UNTUNED, self.func, untuned, target))
        self.sketches: tuple[Sketch, ...] = tuple(found)
        self.widths = tuple(len(s.columns) for s in self.sketches)
        self.default = default
        self.size = sum(s.size for s in self.sketches)
        self._programs: dict[tuple[Point, bool], str] = {}

    def __repr__(self) -> str:
        return f"SearchSpace({self.func.name}, {len(self.sketches)} sketches, {self.size} combinations)"

    def population(self, points: Sequence[Point]) -> Population:
        """These points as arrays. Raises ScheduleError for one that names no sketch, or has a row of another
        length than its sketch's."""
        if isinstance(points, Population):
            return points
        for point in points:
            if not 0 <= point.sketch < len(self.sketches):
                raise ScheduleError(f"{self} has no sketch {point.sketch}")
            if len(point.row) != self.widths[point.sketch]:
                sketch = self.sketches[point.sketch]
                raise ScheduleError(
                    f"candidates of sketch '{sketch.name}' are rows of {len(sketch.columns)} integers, "
                    f"not {len(point.row)}"
                )
        return Population.of(points, self.widths)

    # -- populations -----------------------------------------------------------------------------------------

    def valid(self, points: Sequence[Point]) -> NDArray[np.bool_]:
        """``[n]``: which points are in their sketch's domains and meet its constraints."""
        population = self.population(points)
        ok = np.zeros(len(population), bool)
        for sketch, positions in population.by_sketch():
            ok[positions] = self.sketches[sketch].valid(population.rows_at(sketch, positions))
        return ok

    def sample(self, count: int, rng: np.random.Generator) -> Population:
        """Different valid points, ``count`` of them or as many as are found, drawn without any preference:
        a sketch gets a share by the number of binary digits of its size, its points are drawn uniformly."""
        shares = np.array([s.size.bit_length() for s in self.sketches], float)
        wanted = rng.multinomial(count, shares / shares.sum())
        parts: list[Population] = []
        short = 0
        # Where a small sketch has no more points, the next larger ones give some in their place.
        for n in np.argsort(shares, kind="stable").tolist():
            asked = int(wanted[n]) + short
            rows = self.sketches[n].sample(asked, rng) if asked else np.empty((0, self.widths[n]), np.int64)
            short = asked - len(rows)
            parts.append(Population.of_sketch(n, rows, self.widths))
        drawn = Population.concat(parts)
        return drawn.take(rng.permutation(len(drawn)))

    def mutate(self, points: Sequence[Point], rng: np.random.Generator) -> Population:
        """Each point with one or two decisions changed; as it was where no change was found valid."""
        population = self.population(points)
        rows = population.rows.copy()
        for sketch, positions in population.by_sketch():
            width = self.widths[sketch]
            mine = population.rows_at(sketch, positions)
            rows[positions, :width] = self.sketches[sketch].mutate(mine, rng)
        return Population(population.sketch, rows, self.widths)

    def near(self, point: Point) -> Population:
        """The valid points around one (:meth:`Sketch.near <tilewright.schedule.sketch.Sketch.near>`)."""
        rows = self.sketches[point.sketch].near(np.array(point.row, np.int64))
        return Population.of_sketch(point.sketch, rows, self.widths)

    def crossover(self, a: Sequence[Point], b: Sequence[Point], rng: np.random.Generator) -> Population:
        """For each pair of points a mix of their values in the sketch of the first; where no mix was found
        valid, the first. From a point of another sketch come the decisions of the same names."""
        first, second = self.population(a), self.population(b)
        rows = first.rows.copy()
        for sketch, positions in first.by_sketch():
            width = self.widths[sketch]
            mine = first.rows_at(sketch, positions)
            other = self._as_of(sketch, mine, second.take(positions))
            rows[positions, :width] = self.sketches[sketch].crossover(mine, other, rng)
        return Population(first.sketch, rows, self.widths)

    def _as_of(self, sketch: int, mine: Rows, others: Population) -> Rows:
        """Rows of ``sketch``: ``mine`` with what the candidates ``others`` decide of the same name, as near
        as its domains have it."""
        result = mine.copy()
        for theirs, positions in others.by_sketch():
            names = self.sketches[theirs].columns
            for column, name in enumerate(self.sketches[sketch].columns):
                if name in names:
                    values = others.rows[positions, names.index(name)]
                    domain = self.sketches[sketch].domains[column]
                    place = np.minimum(np.searchsorted(domain, values), len(domain) - 1)
                    result[positions, column] = domain[place]
        return result

    def enumerate(self) -> Population:
        """Every valid point. Raises ScheduleError where there are too many to list."""
        if self.size > MAX_LISTED:
            raise ScheduleError(
                f"'{self.func.name}' has {self.size} combinations: too many to list",
                hint="choose a strategy that draws candidates, such as 'evolutionary'",
            )
        parts = [Population.of_sketch(n, s.enumerate(), self.widths) for n, s in enumerate(self.sketches)]
        return Population.concat(parts)

    def predict(self, model: CostModel, points: Sequence[Point], threads: int) -> Prediction:
        """What ``model`` says of valid points on ``threads`` threads."""
        population = self.population(points)
        log_seconds, spread = np.zeros(len(population)), np.zeros(len(population))
        for sketch, positions in population.by_sketch():
            rows = population.rows_at(sketch, positions)
            found = model.predict(self.sketches[sketch], rows, threads)
            log_seconds[positions], spread[positions] = found.log_seconds, found.spread
        return Prediction(log_seconds, spread)

    def signatures(self, points: Sequence[Point]) -> list[bytes]:
        """For each valid point a few bytes from its features: points with different ones have different
        programs, so that :meth:`program` needs to be asked of others only."""
        population = self.population(points)
        found = np.zeros((len(population), len(TELLING)), np.int32)
        for sketch, positions in population.by_sketch():
            features = self.sketches[sketch].features(population.rows_at(sketch, positions))
            found[positions] = np.round(features[:, _TELLING].astype(np.float64) * 1e4)
        return [row.tobytes() for row in found]

    # -- single points ---------------------------------------------------------------------------------------

    def bind(self, point: Point) -> Schedule:
        """The schedule of a point. Raises ScheduleError when a value is outside of its domain."""
        return self.sketches[point.sketch].bind(point.row)

    def trace(self, point: Point) -> str:
        """The trace of a point, as records keep it: JSON in its shortest form. No primitive is replayed.

        Raises ScheduleError for a point that is not of this space.
        """
        if not self.valid([point])[0]:
            sketch = self.sketches[point.sketch]
            values = ", ".join(f"{n}={v}" for n, v in zip(sketch.columns, point.row, strict=True))
            raise ScheduleError(f"no valid candidate of sketch '{sketch.name}': {values}")
        sketch = self.sketches[point.sketch]
        bound = sketch.schedule.trace.bind(dict(zip(sketch.columns, point.row, strict=True)))
        return shortest_json(json.loads(bound.to_json()))

    def point_of(self, trace: str) -> Point | None:
        """The point with this trace, None where no sketch of this space has it. Raises ScheduleError for a
        text that is no trace."""
        read = Trace.from_json(trace)
        place = self._by_structure.get(structure(read))
        if place is None:
            return None
        values = read.decisions()
        row = tuple(values[name] or 0 for name in self.sketches[place].columns)
        point = Point(place, row)
        return point if self.valid([point])[0] else None

    @cached_property
    def _by_structure(self) -> dict[str, int]:
        """The numbers of the sketches by what their traces have in common."""
        return {structure(s.schedule.trace): n for n, s in enumerate(self.sketches)}

    def program(self, point: Point, threads: int) -> str:
        """The identity of the program that a point stands for on so many threads: points with equal ones are
        the same code, lowered, and need to be measured once only. How many iterations a thread claims at once
        does not tell programs apart where there is one thread."""
        alone = threads == 1
        known = self._programs.get((point, alone))
        if known is None:
            known = self._programs[point, alone] = _program(self.bind(point), alone)
        return known


def _starts(found: Sequence[Sketch]) -> Iterator[Point]:
    """Where the search of each sketch begins."""
    return (Point(n, tuple(map(int, s.default[0]))) for n, s in enumerate(found))


def _point_of_program(found: Sequence[Sketch], schedule: Schedule, wanted: str) -> Point | None:
    """The point of a small sketch whose program is that of ``schedule``, with the identity ``wanted``: what a
    rule takes where it has the choice between structures is not where the search of either begins."""
    for n, sketch in enumerate(found):
        if not sketch.columns or sketch.size > MAX_LOOKED_AT:
            continue
        try:
            own = features_of(schedule.func, sketch.target, sketch.main)
        except ScheduleError:  # it has no such block
            continue
        rows = sketch.enumerate()
        alike = np.abs(sketch.features(rows)[:, _TELLING] - own[_TELLING]).max(axis=1) < ALIKE
        for row in rows[alike][:MAX_BOUND]:
            if _program(sketch.bind(row)) == wanted:
                return Point(n, tuple(map(int, row)))
    return None


#: Lowering up to where equal programs look alike; what follows makes copies of loops, and takes longest.
_TELLING_PASSES: Final = PASSES[: [name for name, _ in PASSES].index("clip_loops") + 1]


def structure(trace: Trace) -> str:
    """A text that is equal for traces that differ in the values of decisions alone."""
    rows = [
        [i.name, list(i.inputs), {k: v for k, v in i.attrs.items() if i.name != "decide" or k != "value"}]
        for i in trace.instructions
    ]
    return shortest_json(rows)


def _program(schedule: Schedule, alone: bool = False) -> str:
    """The identity of the program as it is once guards are loop bounds, which the passes after that do not
    make more alike; of the schedule itself where it cannot be lowered. How many iterations a thread claims at
    once is part of it, unless it is ``alone``."""
    try:
        func = lower(schedule.func, passes=_TELLING_PASSES)
    except TilewrightError:
        func = schedule.func

    def with_grain(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, For) and stmt.kind == "parallel" and stmt.annotations:
            kept = {key: value for key, value in stmt.annotations if key not in SHARING}
            if not alone and len(kept) < len(stmt.annotations):
                kept["grain"] = grain_of(stmt)
            return dataclasses.replace(stmt, annotations=tuple(sorted(kept.items())))
        return None

    func = func.with_(body=transform_stmt(func.body, with_grain))
    return digest(canonical_text(func))
