"""Traces: a schedule as the linear program of the primitives that made it.

A trace names its blocks ``b0 b1 ...`` and its loops ``l0 l1 ...``, so it applies to any function whose blocks
have the names it mentions: the one it was recorded on, or the same operator in another shape. Its stored form
is ``trace_format``'s.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Const, Expr
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule.arith_text import format_arith
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.state import BlockRef, LoopRef
from tilewright.schedule.trace_format import VERSION, check_instructions, is_plain, read_rows

if TYPE_CHECKING:
    from tilewright.schedule.schedule import Schedule

#: Names of instructions; each is a method of Schedule that takes the inputs, then the attributes by keyword.
INSTRUCTIONS = frozenset(
    [
        "get_block", "get_loops", "decide", "split", "fuse", "reorder", "parallel", "vectorize", "unroll",
        "pipeline", "compute_at", "reverse_compute_at", "compute_inline", "reverse_compute_inline",
        "cache_read", "cache_write", "pad", "set_scope", "decompose_reduction", "rfactor", "transform_layout",
        "annotate", "blockize", "tensorize", "bind", "virtual_thread", "storage_align",
    ]
)  # fmt: skip


#: Instructions that return a list of handles, however many.
_LISTS = frozenset(["get_loops", "split", "pad"])


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
        arguments = [*self.inputs, *(f"{key}={decode(key, value)!r}" for key, value in self.attrs.items())]
        call = f"sch.{self.name}({', '.join(arguments)})"
        if not self.outputs:
            return call
        comma = "," if len(self.outputs) == 1 and self.name in _LISTS else ""
        return f"{', '.join(self.outputs)}{comma} = {call}"


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """A sequence of instructions. Printed, it is Python that runs where ``sch`` is a Schedule.

    Traces and their instructions are values: whoever changes one (other factors, another block) makes a new
    one with ``dataclasses.replace``; replaying checks everything again.
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
        """The stored form, which :meth:`from_json` reads, as this release writes it."""
        rows = [[i.name, list(i.inputs), dict(i.attrs), list(i.outputs)] for i in self.instructions]
        return json.dumps({"version": VERSION, "instructions": rows}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Trace:
        """The trace that :meth:`to_json` wrote, of this or an older version.

        Raises ScheduleError when the text is not one: malformed, newer, with unknown instructions, handles
        that nothing returned, or arguments of wrong types.
        """
        rows = read_rows(text)
        instructions = tuple(Instruction(name, tuple(i), attrs, tuple(o)) for name, i, attrs, o in rows)
        check_instructions(instructions, INSTRUCTIONS)
        return Trace(instructions)

    def decisions(self) -> dict[str, int | None]:
        """The decisions' values by name; None for one that is open."""
        return {i.attrs["name"]: i.attrs["value"] for i in self.instructions if i.name == "decide"}

    def bind(self, values: Mapping[str, int]) -> Trace:
        """The trace with other values for the decisions named.

        Raises ScheduleError for a name that it lacks, or that no factor and no layout is written over (a
        schedule that is not symbolic records numbers where it computed with a decision).
        """
        unknown = sorted(values.keys() - self.decisions().keys())
        if unknown:
            raise ScheduleError(
                f"the trace has no decisions named {', '.join(unknown)}",
                hint="trace.decisions() gives their names",
            )
        texts = [json.dumps(dict(i.attrs)) for i in self.instructions if i.name != "decide"]
        unused = sorted(n for n in values if not any(re.search(rf"\b{n}\b", text) for text in texts))
        if unused:
            raise ScheduleError(
                f"nothing in the trace is written over {', '.join(unused)}",
                hint="record the trace from a symbolic schedule: others compute with the numbers",
            )
        return Trace(
            tuple(
                dataclasses.replace(i, attrs={**i.attrs, "value": values[i.attrs["name"]]})
                if i.name == "decide" and i.attrs["name"] in values
                else i
                for i in self.instructions
            )
        )

    def apply(self, func: PrimFunc, symbolic: bool = False) -> Schedule:
        """Replay on ``func``: a new Schedule after all instructions, decisions at their values, or open in a
        symbolic one.

        Raises ScheduleError when the trace is not well-formed, a block is missing, a block has another number
        of loops than in the trace, a decision has no value, or a primitive is not legal there.
        """
        from tilewright.schedule.schedule import Schedule

        check_instructions(self.instructions, INSTRUCTIONS)
        sch = Schedule(func, symbolic)
        handles: dict[str, BlockRef | LoopRef] = {}
        for step, instruction in enumerate(self.instructions):
            refs = [handles[name] for name in instruction.inputs]
            attrs = {key: decode(key, value) for key, value in instruction.attrs.items()}
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
    if result is None or isinstance(result, Expr):
        return ()
    return tuple(result) if isinstance(result, list) else (result,)


def encode(value: Any) -> Any:
    """An argument in JSON terms. Raises ScheduleError when it has none."""
    if isinstance(value, IndexMap):
        return str(value)
    if isinstance(value, Const):
        return value.value
    if isinstance(value, Expr):
        try:
            return format_arith(value)
        except ValueError as error:
            raise ScheduleError(
                f"this factor cannot be recorded: {error}",
                hint="write factors with + - * // % over dimensions and decisions",
            ) from None
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if not is_plain(value):
        raise ScheduleError(f"{value!r} cannot be recorded", hint="only numbers, text and lists can")
    return value


def decode(key: str, value: Any) -> Any:
    """An argument from JSON terms; layouts and symbolic factors stay text."""
    return _frozen(value) if key == "value" else value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
