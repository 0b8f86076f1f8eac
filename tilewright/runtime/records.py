"""Where an operand of a compiled step lives, and what all records of a compiled model share: their JSON
form.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tilewright.errors import ArtifactError


class Space(enum.StrEnum):
    """Where a kernel's operand lives."""

    INPUT = "input"
    OUTPUT = "output"
    WEIGHT = "weight"
    ARENA = "arena"
    SCALAR = "scalar"
    DIM = "dim"


@dataclasses.dataclass(frozen=True)
class Operand:
    """One slot of a kernel's argument array.

    Attributes:
        space: where the operand lives.
        value: position of the graph input or output, or byte offset into weights or arena, or the value of
            an int64 scalar, or position among the variant's dimensions.
        offset: bytes to add to the start of an input or output.
        size: position among the variant's ``sizes`` of a number of bytes to add, too; None: none.
    """

    space: Space
    value: int
    offset: int = 0
    size: int | None = None

    @staticmethod
    def input(index: int, offset: int = 0) -> Operand:
        """The graph's input number ``index``."""
        return Operand(Space.INPUT, index, offset)

    @staticmethod
    def output(index: int, offset: int = 0) -> Operand:
        """The graph's output number ``index``."""
        return Operand(Space.OUTPUT, index, offset)

    @staticmethod
    def weight(offset: int) -> Operand:
        """A constant tensor, ``offset`` bytes into the weights (from :meth:`WeightStore.add`)."""
        return Operand(Space.WEIGHT, offset)

    @staticmethod
    def arena(offset: int) -> Operand:
        """An activation, ``offset`` bytes into the arena."""
        return Operand(Space.ARENA, offset)

    @staticmethod
    def scalar(value: int) -> Operand:
        """An int64 passed by value."""
        return Operand(Space.SCALAR, value)

    @staticmethod
    def dim(index: int) -> Operand:
        """The size of the variant's dimension number ``index``, an int64 passed by value."""
        return Operand(Space.DIM, index)

    def to_json(self) -> list[Any]:
        """``[space, value]``, ``[space, value, offset]`` or ``[space, value, offset, size]``."""
        shown = [self.space.value, self.value]
        if self.size is not None:
            return [*shown, self.offset, self.size]
        return [*shown, self.offset] if self.offset else shown

    @staticmethod
    def from_json(data: Any) -> Operand:
        """Inverse of :meth:`to_json`."""
        with reading("operand"):
            space, value, *rest = data
            offset, size = (whole(rest[0]) if rest else 0), (whole(rest[1]) if rest[1:] else None)
            return Operand(Space(space), whole(value), offset, size)


class reading:  # noqa: N801 - used like a function
    """Turn what wrong JSON makes Python raise into an ArtifactError that names the record."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError, IndexError)):
            detail = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise ArtifactError(f"the manifest has a malformed {self.what}: {detail}") from error


def whole(value: Any) -> int:
    """A whole number from JSON. Raises TypeError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def text(value: Any) -> str:
    """A text from JSON. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def texts(values: Any) -> tuple[str, ...]:
    """Texts from JSON."""
    return tuple(text(v) for v in values)


def record_json(record: Any) -> dict[str, Any]:
    """A record as a JSON-able dictionary, without fields that have their default."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        result[field.name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    to_json: Callable[[], Any] | None = getattr(value, "to_json", None)
    if to_json is not None:
        return to_json()
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
