"""Applying random primitives: what was accepted and refused is counted, what broke can be repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, Var
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule import BlockRef, LoopRef, Schedule
from tilewright.schedule.state import Tree
from tilewright.schedule.trace import Instruction, Trace, as_refs, decode


class Broken(Exception):
    """A primitive failed in another way than by refusing.

    Attributes:
        name: of the primitive.
        trace: up to it and with it.
    """

    def __init__(self, name: str, trace: Trace, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name
        self.trace = trace


class Driver:
    """A schedule, the source of random choices, and counts of primitives."""

    def __init__(self, func: PrimFunc, rng: Random, symbolic: bool = False) -> None:
        self.sch = Schedule(func, symbolic)
        self.rng = rng
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._tree: Tree | None = None

    def do(self, name: str, /, *refs: BlockRef | LoopRef, **attrs: Any) -> Any:
        """The primitive's result. Raises ScheduleError where it refuses, Broken where it breaks."""
        before = self.sch.func, self.sch.trace, len(self.sch.decisions)
        try:
            result = getattr(self.sch, name)(*refs, **attrs)
        except ScheduleError:
            self.refused[name] += 1
            if (self.sch.func, self.sch.trace, len(self.sch.decisions)) != before:
                raise Broken(name, self.sch.trace, "refused, but changed the schedule") from None
            raise
        except Exception as error:
            raise Broken(name, self._attempted(name, refs, attrs), repr(error)) from error
        self.accepted[name] += 1
        return result

    def replay(self, trace: Trace) -> None:
        """The schedule that ``trace`` makes of the function, in place of the one so far. Raises ScheduleError
        or Broken.
        """
        try:
            self.sch = trace.apply(self.sch.func)
        except ScheduleError:
            raise
        except Exception as error:
            raise Broken("replay", trace, repr(error)) from error
        self.accepted.update(i.name for i in trace.instructions)

    def attempt(self, name: str, /, *refs: BlockRef | LoopRef, **attrs: Any) -> bool:
        """Whether the primitive was accepted."""
        try:
            self.do(name, *refs, **attrs)
        except ScheduleError:
            return False
        return True

    def _attempted(self, name: str, refs: Sequence[BlockRef | LoopRef], attrs: dict[str, Any]) -> Trace:
        copy = self.sch.copy()
        copy._record(name, refs, attrs, copy.func)
        return copy.trace

    # -- what to choose from ---------------------------------------------------------------------------------

    @property
    def tree(self) -> Tree:
        if self._tree is None or self._tree.func is not self.sch.func:
            self._tree = Tree(self.sch.func)
        return self._tree

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def block(self) -> BlockRef:
        return BlockRef(self.rng.choice(list(self.tree.blocks)))

    def around(self, block: BlockRef) -> list[LoopRef]:
        """The loops around a block, outermost first."""
        return [LoopRef(s.var) for s in self.tree.loops_above(self.tree.blocks[block.name])]

    def loop(self, block: BlockRef | None = None) -> LoopRef:
        """Any loop, mostly of ``block``. Raises ScheduleError when there is none."""
        every = [LoopRef(v) for v in self.tree.loops]
        mine = [] if block is None else self.around(block)
        if not every:
            raise ScheduleError("no loops")
        return self.rng.choice(mine if mine and self.chance(0.8) else every)

    def number(self, choices: Sequence[int] = (1, 2, 3, 4)) -> int | Expr:
        """A factor: a constant, or something over a run-time dimension or an open decision."""
        names: list[Expr] = [p for p in self.sch.func.params if isinstance(p, Var)]
        names += [d.symbol for d in self.sch.decisions.values()]
        if names and self.chance(0.7 if self.sch.symbolic else 0.25):
            symbol = self.rng.choice(names)
            return symbol * 2 if self.chance(0.2) else symbol
        return self.rng.choice(choices)


def replay(func: PrimFunc, instructions: Sequence[Instruction], symbolic: bool = False) -> Schedule:
    """A schedule after all instructions that still apply; others are left out. Raises Broken."""
    driver = Driver(func, Random(0), symbolic)
    handles: dict[str, BlockRef | LoopRef] = {}
    for instruction in instructions:
        if not all(name in handles for name in instruction.inputs):
            continue
        refs = [handles[name] for name in instruction.inputs]
        attrs = {key: decode(key, value) for key, value in instruction.attrs.items()}
        try:
            result = driver.do(instruction.name, *refs, **attrs)
        except ScheduleError:
            continue
        handles.update(zip(instruction.outputs, as_refs(result), strict=False))
    return driver.sch
