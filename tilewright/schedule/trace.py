"""Traces: a schedule as the linear program of the primitives that made it.

A trace names its blocks ``b0 b1 ...`` and its loops ``l0 l1 ...``, so it applies to any function whose blocks
have the names it
mentions: the one it was recorded on, or the same operator in another shape.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, Var
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule.arith_text import format_arith, parse_exprs
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.state import BlockRef, LoopRef

if TYPE_CHECKING:
    from tilewright.schedule.schedule import Schedule

VERSION = 1

#: Names of instructions; each is a method of Schedule that takes the inputs, then the attributes by keyword.
INSTRUCTIONS = frozenset(
    [
        "get_block", "get_loops", "split", "fuse", "reorder", "parallel", "vectorize", "unroll", "compute_at",
        "reverse_compute_at", "compute_inline", "reverse_compute_inline", "cache_read", "cache_write",
        "set_scope", "decompose_reduction", "rfactor", "transform_layout", "annotate",
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One applied primitive.

    Attributes:
        name: the method of Schedule.
        inputs: handles it got, by their names in the trace.
        attrs: its other arguments, in JSON terms (layouts and symbolic factors as text).
        outputs: names given to the handles it returned.
    """

    name: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        arguments = [*self.inputs]
        for key, value in self.attrs.items():
            if key == "index_map":
                arguments.append(f"{key}=IndexMap.parse({value!r})")
            else:
                arguments.append(f"{key}={value!r}")
        call = f"sch.{self.name}({', '.join(arguments)})"
        if not self.outputs:
            return call
        comma = "," if len(self.outputs) == 1 and self.name in ("get_loops", "split") else ""
        return f"{', '.join(self.outputs)}{comma} = {call}"


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """A sequence of instructions. Printed, it is Python that runs where ``sch`` is a Schedule and IndexMap is
    imported.
    """

    instructions: tuple[Instruction, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.instructions))

    def __len__(self) -> int:
        return len(self.instructions)

    def then(self, instruction: Instruction) -> Trace:
        """The trace with one more instruction."""
        return Trace((*self.instructions, instruction))

    def to_json(self) -> str:
        """``{"version": 1, "instructions": [[name, inputs, attrs, outputs], ...]}``."""
        rows = [[i.name, list(i.inputs), dict(i.attrs), list(i.outputs)] for i in self.instructions]
        return json.dumps({"version": VERSION, "instructions": rows}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Trace:
        """The trace that :meth:`to_json` wrote. Raises ScheduleError when the text is not one."""
        try:
            data = json.loads(text)
            version, rows = data["version"], data["instructions"]
            instructions = tuple(
                Instruction(name, tuple(ins), dict(attrs), tuple(outs)) for name, ins, attrs, outs in rows
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ScheduleError(f"not a trace: {error}") from None
        if version != VERSION:
            raise ScheduleError(f"trace of version {version}; this release reads version {VERSION}")
        unknown = sorted({i.name for i in instructions} - INSTRUCTIONS)
        if unknown:
            raise ScheduleError(f"trace with unknown instructions: {', '.join(unknown)}")
        return Trace(instructions)

    def apply(self, func: PrimFunc) -> Schedule:
        """Replay on ``func``: a new Schedule after all instructions.

        Raises ScheduleError when a block is missing, a block has another number of loops than in the trace,
        or a primitive is not legal there.
        """
        from tilewright.schedule.schedule import Schedule

        sch = Schedule(func)
        handles: dict[str, BlockRef | LoopRef] = {}
        for step, instruction in enumerate(self.instructions):
            try:
                refs = [handles[name] for name in instruction.inputs]
            except KeyError as error:
                raise ScheduleError(
                    f"trace line {step + 1}: {error} is not defined before '{instruction}'"
                ) from None
            attrs = {key: decode(key, value, func) for key, value in instruction.attrs.items()}
            result = getattr(sch, instruction.name)(*refs, **attrs)
            outputs = as_refs(result)
            if len(outputs) != len(instruction.outputs):
                raise ScheduleError(
                    f"trace line {step + 1}: '{instruction}' gave {len(outputs)} handles on '{func.name}'",
                    hint="the trace was recorded on a function with another loop structure",
                )
            handles.update(zip(instruction.outputs, outputs, strict=True))
        return sch


def as_refs(result: Any) -> tuple[BlockRef | LoopRef, ...]:
    """What a primitive returned, as a tuple of handles."""
    if result is None:
        return ()
    return tuple(result) if isinstance(result, list) else (result,)


def encode(value: Any) -> Any:
    """An argument in JSON terms. Raises ScheduleError when it has none."""
    if isinstance(value, IndexMap):
        return str(value)
    if isinstance(value, Expr):
        try:
            return format_arith(value)
        except ValueError as error:
            raise ScheduleError(f"this factor cannot be recorded: {error}") from None
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    return value


def decode(key: str, value: Any, func: PrimFunc) -> Any:
    """An argument from JSON terms; symbolic factors are over the run-time dimensions of ``func``."""
    if key == "index_map":
        return IndexMap.parse(value)
    if key == "factors":
        scope = {p.name: p for p in func.params if isinstance(p, Var)}
        try:
            return [parse_exprs(f, scope)[0] if isinstance(f, str) else f for f in value]
        except ValueError as error:
            raise ScheduleError(f"split factors {value}: {error}") from None
    if key == "value":
        return _frozen(value)
    return value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
