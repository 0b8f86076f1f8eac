"""Every message of the schedule language is met in a test, and every one gives a hint.

The messages are read off the sources: the constant parts of what ``failure`` and ``ScheduleError`` are called
with. One counts as met when a string in a test contains such a part.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What is raised inside of rules and caught by them is no message for people.
SOURCES = sorted((ROOT / "tilewright" / "schedule").glob("*.py"))
INTERNAL = {"default.py", "gpu_default.py", "columns.py", "features.py", "sketch.py", "space.py"}
TESTS = [*(ROOT / "tests" / "schedule").glob("*.py"), *(ROOT / "tests" / "lower").glob("*.py")]


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("failure", "ScheduleError"):
                yield node


def message_of(call: ast.Call) -> ast.expr | None:
    """The argument with the message, when it is a literal."""
    assert isinstance(call.func, ast.Name)
    position = 1 if call.func.id == "failure" else 0
    argument = call.args[position] if len(call.args) > position else None
    return argument if isinstance(argument, ast.JoinedStr | ast.Constant) else None


def parts_of(message: ast.expr) -> list[str]:
    """The constant parts of a message, longest first."""
    if isinstance(message, ast.Constant):
        return [str(message.value)]
    assert isinstance(message, ast.JoinedStr)
    parts = [str(v.value) for v in message.values if isinstance(v, ast.Constant)]
    return sorted(parts, key=len, reverse=True)


def strings(paths: list[Path]) -> list[str]:
    """All string constants in tests, without the escapes of regular expressions."""
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text())))
    return [
        n.value.replace("\\", "") for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]


def sites() -> list[tuple[str, ast.Call]]:
    return [(f"{p.name}:{c.lineno}", c) for p in SOURCES if p.name not in INTERNAL for c in calls(p)]


@pytest.fixture(scope="module")
def tested() -> str:
    return "\n".join(strings(TESTS))


def test_every_message_is_met_in_a_test(tested: str) -> None:
    missing = []
    for place, call in sites():
        message = message_of(call)
        if message is None:
            continue
        parts = [p for p in parts_of(message) if len(_words(p)) > 2]
        if parts and not any(_occurs(p, tested) for p in parts):
            missing.append(f"{place}: {' ... '.join(parts)}")
    assert not missing, "\n".join(missing)


def _occurs(part: str, tested: str) -> bool:
    """Whether a test speaks of ``part``, or of some words in a row of it: patterns leave out others."""
    words = _words(part)
    return any(" ".join(words[n : n + 3]) in tested for n in range(len(words) - 2))


def _words(part: str) -> list[str]:
    """The words of a message's part, without the quotes of what it names."""
    return [w for w in part.split() if any(c.isalpha() for c in w)]


def test_every_message_has_a_hint() -> None:
    missing = [place for place, call in sites() if not any(k.arg == "hint" for k in call.keywords)]
    assert not missing, "\n".join(missing)
