"""Errors of primitives: the condition that failed, the offending lines of the program with a caret, and what
would help.
"""

from __future__ import annotations

from tilewright.errors import ScheduleError
from tilewright.ir.expr import TRUE
from tilewright.ir.stmt import Alloc, Annotate, Block, For, If, Seq, Stmt
from tilewright.schedule.state import Tree


def failure(tree: Tree, message: str, *at: Stmt, hint: str | None = None) -> ScheduleError:
    """A ScheduleError about the loops and blocks ``at``, underlined in an excerpt of the program."""
    parts = [excerpt(tree, node) for node in dict.fromkeys(at)]
    location = f"'{tree.func.name}'" + "".join("\n" + part for part in parts)
    return ScheduleError(message, location=location, hint=hint)


def excerpt(tree: Tree, node: Stmt) -> str:
    """The lines from the outermost loop down to ``node`` (and to the first block in it), with a caret below
    ``node``.
    """
    lines: list[str] = []
    depth = 0
    for stmt in tree.path(node):
        if not isinstance(stmt, For | Block | If):
            continue
        text, name = headline(stmt)
        indent = "    " + "  " * depth
        lines.append(indent + text)
        if stmt is node:
            lines.append(indent + " " * text.index(name) + "^" * len(name))
        depth += 1
    inner: Stmt = node
    while not isinstance(inner, Block):
        if isinstance(inner, Seq):
            inner = inner.stmts[0]
        elif isinstance(inner, For | Alloc | Annotate):
            inner = inner.body
        elif isinstance(inner, If):
            inner = inner.then
        if isinstance(inner, For | Block):
            lines.append("    " + "  " * depth + headline(inner)[0])
            depth += 1
    return "\n".join(lines)


def headline(stmt: Stmt) -> tuple[str, str]:
    """One line that shows a loop, block or condition, and the part of it that names the statement."""
    if isinstance(stmt, For):
        kind = "" if stmt.kind == "serial" else f"  # {stmt.kind}"
        return f"for {stmt.var.name} in range({stmt.extent!r}):{kind}", stmt.var.name
    if isinstance(stmt, If):
        return f"if {stmt.cond!r}:", repr(stmt.cond)
    assert isinstance(stmt, Block)
    bindings = ", ".join(f"{it.var.name}={_bare(repr(it.binding))}" for it in stmt.iters)
    guard = "" if stmt.predicate is TRUE else f" where {_bare(repr(stmt.predicate))}"
    return f"block {stmt.name}({bindings}){guard}", stmt.name


def _bare(text: str) -> str:
    """``text`` without one pair of outer parentheses."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for n, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return text[1:-1] if n == len(text) - 1 else text
    return text
