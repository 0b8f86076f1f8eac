"""Where instructions go: scopes, hoisting and remembered values.

No optimizer runs after the emitter, so it puts every computation where it belongs at once. Code is a tree of
lists of lines. Each loop owns a list that stands just before it (``Scope.before``); a value that does not
depend on the loop is appended there while the loop's body is being emitted. Since expressions are interned,
remembering the value of each one gives common subexpression elimination for free.

A value's *level* is the index of the innermost open scope that it needs: the scope that defines a loop
variable it uses, or that stores to a buffer it was loaded from. It is emitted before the outermost loop
inside that scope, but not above a branch just for the sake of it: arithmetic may cross branches when it
leaves a loop, loads may not (the branch may be what keeps them in bounds).

A value's *deps* is a set, as bits of an int, of things that end its life: stores to a mutable buffer, the end
of a guard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from tilewright.backend.llvm.ops import Namer, Ops
from tilewright.ir.stmt import Buffer

Code = list[Any]
"""Lines of LLVM IR and nested lists of them."""


class Value(NamedTuple):
    """An emitted value: its text, vector length (0: scalar), level and deps."""

    text: str
    lanes: int
    level: int
    deps: int = 0


@dataclasses.dataclass(slots=True, eq=False)
class Scope:
    """A region of code: the function, a loop's body or one arm of a branch.

    ``before`` is the list in front of it, for loops. ``keys`` are the remembered values that die with it.
    """

    is_loop: bool
    before: Code
    keys: list[Any]


class Placement:
    """The state of emission of one function."""

    def __init__(self, namer: Namer) -> None:
        self.namer = namer
        self.code: Code = []
        self.block = "entry"
        self.scopes: list[Scope] = [Scope(False, [], [])]
        self.memo: dict[Any, Value] = {}
        self._dependents: dict[int, list[Any]] = {}
        self._bits: dict[Any, int] = {}
        self._labels = 0
        self.at: list[tuple[Code, int]] = []
        self.at_guarded: list[tuple[Code, int]] = []
        self._refresh()

    # ------------------------------------------------------------------------------------------------- scopes
    def _refresh(self) -> None:
        """Recompute, for each level, where a value of that level is emitted and the level it then has."""
        last = len(self.scopes) - 1
        at: list[tuple[Code, int]] = [(self.code, last)]
        limit = last if not self.scopes[last].is_loop else 0
        for level in range(last - 1, -1, -1):
            inner = self.scopes[level + 1]
            at.append((inner.before, level) if inner.is_loop else at[-1])
            if not inner.is_loop:
                limit = max(limit, level + 1)
        at.reverse()
        self.at = at
        self.at_guarded = [at[max(level, limit)] for level in range(last + 1)]

    def open_scope(self, is_loop: bool, before: Code) -> int:
        """Enter a loop body or branch arm, whose list the caller has put into ``code``; returns its level."""
        self.scopes.append(Scope(is_loop, before, []))
        self._refresh()
        return len(self.scopes) - 1

    def close_scope(self, code: Code) -> None:
        """Leave the innermost scope and go on in ``code``."""
        for key in self.scopes.pop().keys:
            self.memo.pop(key, None)
        self.code = code
        self._refresh()

    def start_block(self, label: str) -> None:
        """Begin a basic block at the current position."""
        self.code.append(f"{label}:")
        self.block = label

    def label(self) -> str:
        """A number that makes the labels of one construct unique."""
        self._labels += 1
        return str(self._labels)

    # ----------------------------------------------------------------------------------------------- memories
    def bit(self, thing: Any) -> int:
        """The bit that stands for ``thing`` in deps."""
        bit = self._bits.get(thing)
        if bit is None:
            bit = self._bits[thing] = 1 << len(self._bits)
        return bit

    def remember(self, key: Any, value: Value) -> Value:
        """Keep ``value`` for ``key`` until its scope closes or one of its deps ends it."""
        self.memo[key] = value
        self.scopes[value.level].keys.append(key)
        deps = value.deps
        while deps:
            low = deps & -deps
            self._dependents.setdefault(low, []).append(key)
            deps ^= low
        return value

    def forget(self, thing: Any) -> None:
        """End the life of every value that depends on ``thing``."""
        keys = self._dependents.pop(self._bits.get(thing, 0), None)
        if keys:
            memo = self.memo
            for key in keys:
                memo.pop(key, None)

    def forget_buffers(self, buffers: Iterable[Buffer]) -> None:
        """End the life of every value loaded from ``buffers``."""
        for buffer in buffers:
            self.forget(buffer)

    # ----------------------------------------------------------------------------------------------- emission
    def ops(self, level: int, lanes: int, guarded: bool = False) -> tuple[Ops, int]:
        """Operations at the place for a value of ``level``, and the level it will have."""
        out, level = (self.at_guarded if guarded else self.at)[level]
        return Ops(out, self.namer, lanes), level

    def here(self, lanes: int = 0) -> Ops:
        """Operations at the current position."""
        return Ops(self.code, self.namer, lanes)


def flatten(code: Code) -> list[str]:
    """The lines of a code tree in order."""
    lines: list[str] = []
    stack: list[Any] = [iter(code)]
    while stack:
        for item in stack[-1]:
            if type(item) is str:
                lines.append(item)
            else:
                stack.append(iter(item))
                break
        else:
            stack.pop()
    return lines
