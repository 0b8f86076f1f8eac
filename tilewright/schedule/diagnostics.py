"""Errors of primitives: the condition that failed, the program's lines with a caret, and what would help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.errors import ScheduleError
from tilewright.ir.printer import Printer
from tilewright.ir.stmt import Block, For, If, Stmt

if TYPE_CHECKING:
    from tilewright.schedule.state import Tree


def failure(tree: Tree, message: str, *at: Stmt, hint: str | None = None) -> ScheduleError:
    """A ScheduleError about the loops and blocks ``at``, underlined in an excerpt of the program."""
    return ScheduleError(message, location=excerpt(tree, *at), hint=hint)


def excerpt(tree: Tree, *at: Stmt) -> str:
    """The lines of the text IR that lead to the statements ``at``, with carets below their names.

    Blocks are shown with the bindings of their iterators; ``...`` stands for lines left out.
    """
    printer = Printer()
    lines = printer.function(tree.func).splitlines()
    shown: set[int] = set()
    carets: dict[int, str] = {}
    for node in at:
        for stmt in tree.path(node):
            if isinstance(stmt, For | If | Block) and stmt in printer.lines:
                shown.add(printer.lines[stmt])
        if node in printer.lines:
            number = printer.lines[node]
            carets[number] = _caret(lines[number])
            if isinstance(node, Block):
                shown.update(_header(lines, number, len(node.iters)))
    parts = [f"'{tree.func.name}'"]
    previous: int | None = None
    for number in sorted(shown):
        if previous is not None and number != previous + 1:
            indent = len(lines[number]) - len(lines[number].lstrip())
            parts.append(" " * indent + "...")
        parts.append(lines[number])
        if number in carets:
            parts.append(carets[number])
        previous = number
    return "\n    ".join(parts)


def _caret(line: str) -> str:
    """Carets below the loop variable (``for i0 in ...``) or the block's name (``with block("C"):``) of a
    line.
    """
    text = line.strip()
    start = len(line) - len(line.lstrip())
    if text.startswith("for "):
        return " " * (start + 4) + "^" * len(text.split()[1])
    if text.startswith("with block("):
        return " " * (start + 11) + "^" * (text.index(")") - 11)
    return " " * start + "^" * len(text)


def _header(lines: list[str], number: int, iters: int) -> list[int]:
    """The lines of a block's iterators and predicate, which follow its first line."""
    end = number + iters + 1
    if end < len(lines) and lines[end].lstrip().startswith("where("):
        end += 1
    return list(range(number, end))
