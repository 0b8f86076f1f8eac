"""Traces as text: versions of the format, migrations between them, and what a well-formed trace is.

A stored trace is JSON, ``{"version": 2, "instructions": [[name, inputs, attrs, outputs], ...]}``. It may come
from an older release, or from anybody: what is read is brought to the current version step by step, and
checked completely before any of it runs.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from tilewright.errors import ScheduleError
from tilewright.ir.stmt import Attr
from tilewright.schedule.state import BlockRef, LoopRef

if TYPE_CHECKING:
    from tilewright.schedule.trace import Instruction

#: What this release writes.
VERSION = 2

#: How deep lists and mappings in an argument may be nested.
MAX_DEPTH = 16

Rows = list[Any]

_HANDLE = re.compile(r"[bl]\d{1,9}")


def _from_1_to_2(rows: Rows) -> Rows:
    """Version 2 added instructions (decisions, padding, pipelines, threads, tensor intrinsics) and changed
    none."""
    return rows


#: ``MIGRATIONS[n]`` turns the rows of version ``n + 1`` into rows of version ``n + 2``, without looking at
#: anything else.
MIGRATIONS: tuple[Callable[[Rows], Rows], ...] = (_from_1_to_2,)


def read_rows(text: str) -> Rows:
    """The instructions in a stored trace of any version, in the form of the current one, unchecked.

    Raises ScheduleError for text that is not JSON or no trace, and for a newer version.
    """
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise _malformed(str(error)) from None
    if not isinstance(data, dict) or data.keys() != {"version", "instructions"}:
        raise _malformed("it is no mapping with 'version' and 'instructions'")
    version, rows = data["version"], data["instructions"]
    if type(version) is not int or version < 1:
        raise _malformed(f"{_short(version)} is no version")
    if version > VERSION:
        raise ScheduleError(
            f"the trace is of version {version}; this release reads versions 1 to {VERSION}",
            hint="it was written by a newer release of tilewright; upgrade to use it",
        )
    if not isinstance(rows, list):
        raise _malformed("'instructions' is no list")
    for step, row in enumerate(rows):
        _check_row(step, row)
    for migrate in MIGRATIONS[version - 1 :]:
        rows = migrate(rows)
    return rows


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _check_row(step: int, row: Any) -> None:
    """That a row has the four parts of an instruction."""
    if not isinstance(row, list) or len(row) != 4:
        raise _malformed(f"line {step + 1} is not [name, inputs, attrs, outputs]")
    name, inputs, attrs, outputs = row
    if not isinstance(name, str) or not isinstance(attrs, dict):
        raise _malformed(f"line {step + 1} is not [name, inputs, attrs, outputs]")
    for handles in (inputs, outputs):
        if not isinstance(handles, list) or not all(isinstance(h, str) for h in handles):
            raise _malformed(f"line {step + 1} has inputs or outputs that are no list of names")


def _malformed(why: str) -> ScheduleError:
    return ScheduleError(
        f"not a trace: {why}",
        hint="a trace is what Trace.to_json writes",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_instructions(instructions: Sequence[Instruction], known: frozenset[str]) -> None:
    """That every instruction is one of ``known``, uses only handles that an earlier one returned, and has
    arguments of the types that its primitive takes.

    Raises ScheduleError that names the line otherwise. What a primitive makes of its arguments is not looked
    at: it depends on the function.
    """
    unknown = sorted({i.name for i in instructions} - known)
    if unknown:
        raise ScheduleError(
            f"trace with unknown instructions: {', '.join(map(_short, unknown))}",
            hint="it was written by a newer release or with extensions that are not installed",
        )
    defined: set[str] = set()
    for step, instruction in enumerate(instructions):
        line = f"trace line {step + 1}"
        for name in instruction.inputs:
            if name not in defined:
                raise ScheduleError(
                    f"{line}: {_short(name)} is not defined before '{instruction.name}'",
                    hint="every handle is the output of an earlier line",
                )
        for name in instruction.outputs:
            if _HANDLE.fullmatch(name) is None:
                raise ScheduleError(
                    f"{line}: {_short(name)} is no name of a handle",
                    hint="blocks are called b0, b1 ..., loops l0, l1 ...",
                )
        problem = _misfit(instruction)
        if problem is not None:
            raise ScheduleError(
                f"{line}: {instruction.name} {problem}",
                hint="arguments are those of the method of Schedule of that name",
            )
        defined.update(instruction.outputs)


def _misfit(instruction: Instruction) -> str | None:
    """What is wrong with the arguments of an instruction, given the signature of its primitive; None if
    nothing is."""
    signature, hints = _signature(instruction.name)
    attrs = {key: value for key, value in instruction.attrs.items() if isinstance(key, str)}
    try:
        bound = signature.bind(None, *instruction.inputs, **attrs)
    except TypeError as error:
        return f"is called with wrong arguments: {error}"
    for name, value in bound.arguments.items():
        if name == "self":
            continue
        several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for one in value if several else (value,):
            if not _fits(one, hints[name], name not in attrs):
                return f"does not take {_short(one)} for '{name}'"
    return None


@cache
def _signature(name: str) -> tuple[inspect.Signature, dict[str, Any]]:
    from tilewright.schedule.schedule import Schedule

    method = getattr(Schedule, name)
    return inspect.signature(method), typing.get_type_hints(method)


def _fits(value: Any, hint: Any, is_handle: bool) -> bool:
    """Whether a stored argument is of the type ``hint`` of a parameter: handles by their names, layouts and
    symbolic numbers as text."""
    if hint == Attr:
        return not is_handle and is_plain(value)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option, is_handle) for option in args)
    if hint in (BlockRef, LoopRef):
        letter = "b" if hint is BlockRef else "l"
        return is_handle and isinstance(value, str) and value.startswith(letter)
    if is_handle:
        return False
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in args)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(v, args[0], False) for v in value)
    if hint is int:
        return type(value) is int and abs(value) < 1 << 63
    if hint is float:
        return type(value) in (int, float)
    return hint in (str, bool, type(None)) and type(value) is hint


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether ``value`` is an attribute that JSON and Python text give back as it is: numbers of 64 bits,
    strings, and sequences and mappings of these, not nested too deeply."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, list | tuple):
        return all(is_plain(v, depth + 1) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_plain(v, depth + 1) for k, v in value.items())
    if type(value) is int:
        return abs(value) < 1 << 63
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, str)
