"""Sketches: schedules whose decisions are open, and populations of candidates for them.

A candidate is a row of integers, one column for each decision. What a search asks of candidates is answered
for whole arrays of them at once, from expressions over the decisions; only :meth:`Sketch.bind` replays the
primitives.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule.columns import Compiled, compile_columns
from tilewright.schedule.dependence import proved_before
from tilewright.schedule.features import FEATURES, feature_exprs, main_block
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target

Rows = NDArray[np.int64]

#: Rounds in which :meth:`Sketch.sample` draws before it settles for fewer candidates.
SAMPLE_ROUNDS = 64
#: Combinations that are drawn in a round, at least: of many decisions few combinations are valid.
SAMPLE_DRAWS = 4096


@dataclasses.dataclass(frozen=True)
class Sketch:
    """A structure of a schedule with open decisions.

    Attributes:
        name: what tells it from the other sketches of the function.
        func: the unscheduled function.
        schedule: the symbolic schedule.
        target: what its limits are taken from.
    """

    name: str
    func: PrimFunc
    schedule: Schedule
    target: Target

    def __repr__(self) -> str:
        return f"Sketch({self.name}, {len(self.columns)} decisions, {self.size} combinations)"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The decisions' names, in the order of the columns."""
        return tuple(self.schedule.decisions)

    @cached_property
    def domains(self) -> tuple[Rows, ...]:
        """The values of each decision, ascending."""
        return tuple(np.array(d.domain, np.int64) for d in self.schedule.decisions.values())

    @property
    def size(self) -> int:
        """How many combinations of values there are, valid or not."""
        count = 1
        for domain in self.domains:
            count *= len(domain)
        return count

    @property
    def constraints(self) -> tuple[Expr, ...]:
        """Conditions over the decisions that a candidate must meet."""
        return self.schedule.constraints

    @cached_property
    def main(self) -> str:
        """The block that features describe in detail."""
        return main_block(self.schedule.func)

    @cached_property
    def default(self) -> Rows:
        """``[1, decisions]``: the values that the rules themselves would take."""
        values = self.schedule.trace.decisions()
        return np.array([[values[name] for name in self.columns]], np.int64).reshape(1, len(self.columns))

    # -- populations -----------------------------------------------------------------------------------------

    def valid(self, rows: Rows) -> NDArray[np.bool_]:
        """``[n]``: which candidates are in the domains and meet the constraints."""
        rows = self._checked(rows)
        ok = np.ones(len(rows), bool)
        for column, domain in zip(rows.T, self.domains, strict=True):
            place = np.minimum(np.searchsorted(domain, column), len(domain) - 1)
            ok &= domain[place] == column
        # Divisors are positive inside the domains; outside of them the conditions mean nothing.
        safe = rows if ok.all() else np.where(ok[:, None], rows, self.default)
        return ok & self._conditions(safe)

    def sample(self, count: int, seed: int | np.random.Generator = 0) -> Rows:
        """``[n, decisions]``, ``n <= count``: different valid candidates, uniformly drawn.

        Fewer than ``count`` where there are no more, or none were found in many draws.
        """
        rng = np.random.default_rng(seed)
        if self.size <= max(4 * count, 1024):
            every = self.enumerate()
            return every[rng.permutation(len(every))[:count]]
        found = np.empty((0, len(self.columns)), np.int64)
        for _ in range(SAMPLE_ROUNDS):
            many = max(2 * count + 64, SAMPLE_DRAWS)
            drawn = np.stack([rng.choice(domain, many) for domain in self.domains], axis=1)
            found = _distinct(np.concatenate([found, drawn[self.valid(drawn)]]))
            if len(found) >= count:
                break
        return found[:count]

    def enumerate(self) -> Rows:
        """Every valid candidate, in lexical order. Raises ScheduleError when there are too many to list."""
        if self.size > 1 << 22:
            raise ScheduleError(f"sketch '{self.name}' has {self.size} combinations: too many to list")
        grid = np.meshgrid(*self.domains, indexing="ij")
        rows = np.stack([g.ravel() for g in grid], axis=1) if grid else np.empty((1, 0), np.int64)
        return rows[self.valid(rows)]

    def mutate(self, rows: Rows, seed: int | np.random.Generator = 0, tries: int = 8) -> Rows:
        """``[n, decisions]``: each candidate with one or two decisions changed, to a neighbouring value or to
        any; where no change is valid in ``tries`` attempts the candidate stays as it was."""
        rows = self._checked(rows)
        rng = np.random.default_rng(seed)
        result = rows.copy()
        todo = np.arange(len(rows))
        if not self.columns:
            return result
        values, sizes = self._table
        places = np.stack([np.searchsorted(d, c) for d, c in zip(self.domains, rows.T, strict=True)], axis=1)
        places = np.minimum(places, sizes - 1)
        for _ in range(tries):
            if not len(todo):
                break
            trial = places[todo]
            for share in (1.0, 0.3):
                moved = np.flatnonzero(rng.random(len(todo)) < share)
                which = rng.integers(len(self.columns), size=len(moved))
                near = trial[moved, which] + rng.choice([-2, -1, 1, 2], size=len(moved))
                anywhere = (rng.random(len(moved)) * sizes[which]).astype(np.int64)
                chosen = np.where(rng.random(len(moved)) < 0.6, near, anywhere)
                trial[moved, which] = np.clip(chosen, 0, sizes[which] - 1)
            fresh = values[np.arange(len(self.columns)), trial]
            good = self._conditions(fresh) & (fresh != rows[todo]).any(axis=1)
            result[todo[good]] = fresh[good]
            todo = todo[~good]
        return result

    def crossover(self, a: Rows, b: Rows, seed: int | np.random.Generator = 0, tries: int = 4) -> Rows:
        """``[n, decisions]``: for each pair of candidates a mix of their values; the first of the pair where
        no mix is valid in ``tries`` attempts."""
        a, b = self._checked(a), self._checked(b)
        rng = np.random.default_rng(seed)
        result = a.copy()
        todo = np.arange(len(a))
        for _ in range(tries):
            if not len(todo):
                break
            trial = np.where(rng.random((len(todo), len(self.columns))) < 0.5, a[todo], b[todo])
            good = self.valid(trial)
            result[todo[good]] = trial[good]
            todo = todo[~good]
        return result

    def near(self, row: Sequence[int] | Rows) -> Rows:
        """``[n, decisions]``: the valid candidates around one: a decision is up to two values away, or two
        decisions are one value away each."""
        if not self.columns:
            return np.empty((0, 0), np.int64)
        values, sizes = self._table
        places = [int(np.searchsorted(d, v)) for d, v in zip(self.domains, row, strict=True)]
        moved = self._steps + np.array(places, np.int64)
        moved = moved[((moved >= 0) & (moved < sizes)).all(axis=1)]
        rows: Rows = values[np.arange(len(self.columns)), moved]
        return rows[self.valid(rows)]

    @cached_property
    def _steps(self) -> Rows:
        """``[n, decisions]``: how many values decisions move to what is near."""
        one = np.eye(len(self.columns), dtype=np.int64)
        pairs = [
            a * one[m] + b * one[n]
            for n in range(len(one))
            for m in range(n)
            for a, b in itertools.product((-1, 1), repeat=2)
        ]
        alone = [k * line for line in one for k in (-1, 1, -2, 2)]
        return np.array([*alone, *pairs], np.int64).reshape(-1, len(one))

    # -- what a candidate is ---------------------------------------------------------------------------------

    def features(self, rows: Rows) -> NDArray[np.float32]:
        """``[n, features]``: what the programs of valid candidates are like
        (:mod:`tilewright.schedule.features`)."""
        return self._features(self._checked(rows)).astype(np.float32)

    def bind(self, row: Sequence[int] | Rows) -> Schedule:
        """The schedule of one candidate: the primitives replayed with its values. That iterations are
        independent and reads complete was proved for all values when the sketch was made.

        Raises ScheduleError when a value is outside of its domain.
        """
        values = [int(v) for v in np.asarray(row).reshape(-1)]
        if len(values) != len(self.columns):
            raise ScheduleError(f"sketch '{self.name}' has {len(self.columns)} decisions, not {len(values)}")
        with proved_before():
            return self.schedule.trace.bind(dict(zip(self.columns, values, strict=True))).apply(self.func)

    def row(self, decisions: Mapping[str, int]) -> Rows:
        """``[decisions]``: a candidate from values by name. Raises ScheduleError where one is missing."""
        missing = [name for name in self.columns if name not in decisions]
        if missing:
            raise ScheduleError(f"sketch '{self.name}' also decides {', '.join(missing)}")
        return np.array([decisions[name] for name in self.columns], np.int64)

    def _checked(self, rows: Rows) -> Rows:
        rows = np.asarray(rows, np.int64)
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise ScheduleError(
                f"candidates of sketch '{self.name}' are rows of {len(self.columns)} integers, "
                f"not {rows.shape}"
            )
        return rows

    @cached_property
    def _table(self) -> tuple[Rows, Rows]:
        """``[decisions, longest domain]``: the domains, their last values repeated; ``[decisions]``: how many
        values each has."""
        sizes = np.array([len(d) for d in self.domains], np.int64)
        longest = int(sizes.max())
        return np.stack([np.pad(d, (0, longest - len(d)), "edge") for d in self.domains]), sizes

    @cached_property
    def _symbols(self) -> list[Expr]:
        return [d.symbol for d in self.schedule.decisions.values()]

    def _conditions(self, rows: Rows) -> NDArray[np.bool_]:
        if not self.constraints:
            return np.ones(len(rows), bool)
        return np.asarray(self._compiled_constraints(rows).all(axis=1))

    @cached_property
    def _compiled_constraints(self) -> Compiled:
        return compile_columns(self.constraints, self._symbols)

    @cached_property
    def _features(self) -> Compiled:
        exprs = feature_exprs(self.schedule.func, self.target, self.main)
        return compile_columns([exprs[name] for name in FEATURES], self._symbols)


def _distinct(rows: Rows) -> Rows:
    """Rows without repetitions, in order of their first appearance."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]
