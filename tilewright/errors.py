"""Every mistake a user can make has one exception class here.

Each error carries a message in the terms of the user's model or program, an optional location (a model node,
a file, a piece of IR) and an optional hint that says what to do. The command line prints them without a
traceback and exits with :attr:`TilewrightError.exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Longer lines of messages are cut in the middle.
MAX_LINE = 600


def printable(text: str) -> str:
    """``text`` as a message shows it: names in it come from files.

    Control characters other than line feeds are written as escapes, because a terminal must not obey them,
    and lines of more than :data:`MAX_LINE` characters are cut.
    """
    if not text.isprintable():
        text = "".join(
            c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text
        )
    if len(text) <= MAX_LINE:
        return text
    half = MAX_LINE // 2 - 2
    lines = text.split("\n")
    return "\n".join(x if len(x) <= MAX_LINE else f"{x[:half]} … {x[-half:]}" for x in lines)


def one_line(text: str) -> str:
    """``text`` with line feeds as escapes, for messages that quote texts of a file."""
    return text.replace("\n", "\\n")


class TilewrightError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        message: one sentence that says what is wrong.
        location: where it was found (model node, file, source line), or None.
        hint: what would help, or None.
    """

    exit_code = 2

    def __init__(self, message: str, *, location: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = printable(message)
        self.location = None if location is None else printable(location)
        self.hint = None if hint is None else printable(hint)

    def __str__(self) -> str:
        text = self.message
        if self.location:
            text += f"\n  at: {self.location}"
        if self.hint:
            text += f"\n  hint: {self.hint}"
        return text


class LimitError(TilewrightError):
    """What was asked for exceeds a limit of :class:`tilewright.config.Options`; the hint names the option."""


class OutOfMemoryError(TilewrightError, MemoryError):
    """The system does not have the memory that a run or a compilation needs."""


class ModelFileError(TilewrightError):
    """The model file is missing, empty, truncated, cyclic or not of the claimed format."""


class UnsupportedError(TilewrightError):
    """Something in the model is not supported. All such things of one model are reported at once.

    Attributes:
        items: one line for each unsupported thing.
    """

    def __init__(
        self, message: str, items: Sequence[str] = (), *, location: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, location=location, hint=hint)
        self.items = tuple(printable(item) for item in items)

    def __str__(self) -> str:
        lines = "".join(f"\n  - {item}" for item in self.items)
        head, *rest = super().__str__().split("\n")
        return "\n".join([head + lines, *rest])


class GraphError(TilewrightError):
    """A node's inputs, attributes, shapes or dtypes contradict its operator's definition."""


#: What NumPy and Python say of operands that no check has foreseen: indices out of range, ranks that are too
#: small. Where a model's own numbers are worked on, these are faults of the model.
UNFIT: Final = (
    ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, ZeroDivisionError,
    AssertionError,
)  # fmt: skip


class ShapeError(TilewrightError):
    """A shape given by the user does not fit the model, or a dimension that is needed was left open."""


class InputError(TilewrightError):
    """Wrong input names, shapes or dtypes at run time, or an unreadable input file."""


class TargetError(TilewrightError):
    """The target is unknown, or this machine cannot run code for it."""


class CacheError(TilewrightError):
    """The on-disk cache cannot be read or written (full disk, permissions)."""


class StoreError(TilewrightError):
    """The measurement store cannot be opened, read or written, or a file of records is not one."""


class ArtifactError(TilewrightError):
    """An artifact is truncated, corrupt, of an unknown version, or for another target."""


class OptionError(TilewrightError):
    """An option has a value outside its domain."""


class MissingDependencyError(TilewrightError):
    """An optional package is needed for what was asked; the hint names the extra that installs it."""


class ScheduleError(TilewrightError):
    """A schedule primitive was applied where it is not legal. The message says which condition failed."""


class IntrinsicError(TilewrightError):
    """A tensor intrinsic is unknown, badly described, or given operands that it does not take."""


class ParseError(TilewrightError):
    """Text IR that is not a program."""


class VerifyError(TilewrightError):
    """A program breaks a rule of the IR; raised after a pass, it is a defect of that pass."""


class CompileError(TilewrightError):
    """The code generator or a compile worker failed; a defect of tilewright unless resources ran out."""


class CheckFailed(TilewrightError):
    """A numeric comparison with the reference did not hold."""

    exit_code = 1
