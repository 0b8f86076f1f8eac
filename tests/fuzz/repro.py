"""Failures as Python files that repeat them: ``python repro_x.py`` fails as long as the bug is there."""

from __future__ import annotations

import hashlib
import pprint
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.campaign import Found, repeat
from tests.fuzz.case import Case, Draw
from tests.fuzz.checks import Failure
from tests.fuzz.driver import Broken, replay
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.schedule.trace import Instruction, Trace

_TEMPLATE = '''"""{title}

Found by seed {seed} of the fuzzer ({kind}). Run it in the repository: it exits with 1 and says what is wrong
while the bug is there, then with 0.

Observed:
{observed}
"""

import sys
from pathlib import Path

for folder in (Path.cwd(), *Path(__file__).resolve().parents):
    if (folder / "tests" / "fuzz").is_dir():
        sys.path.insert(0, str(folder))
        break

from tests.fuzz.repro import reproduce

PROGRAM = """
{program}"""

# {trace}
INSTRUCTIONS = {rows}

sys.exit(
    reproduce(
        PROGRAM,
        INSTRUCTIONS,
        check={check!r},
        failed={failed!r},
        inputs={inputs},
        seed={data_seed},
        exact={exact},
        sizes={sizes},
        rules={rules!r},
        symbolic={symbolic},
        check_seed={check_seed},
        native={native!r},
        lowers={lowers},
    )
)
'''


def write_repro(found: Found, folder: Path) -> Path:
    """Write the file that repeats ``found`` into ``folder``; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = repro_text(found)
    name = f"repro_{found.failure.check.replace(' ', '_')}_{hashlib.sha256(text.encode()).hexdigest()[:8]}.py"
    path = folder / name
    path.write_text(text)
    return path


def repro_text(found: Found) -> str:
    """The file's text."""
    case = found.case
    rows = [[i.name, list(i.inputs), dict(i.attrs), list(i.outputs)] for i in found.instructions]
    draws = {name: (d.low, d.high, d.integers) for name, d in case.draws.items()}
    observed = str(found.failure).strip().replace("\\", "\\\\").replace('"""', "'''")
    trace = str(Trace(found.instructions)).replace("\n", "\n# ") or f"the rules for {found.rules}"
    return _TEMPLATE.format(
        title=f"{found.failure.check} fails with {found.failure.kind}.",
        seed=found.seed,
        kind=found.kind,
        observed="\n".join(f"    {line}".rstrip() for line in observed.splitlines()[:60]),
        program=to_text(case.func),
        trace=trace,
        rows=pprint.pformat(rows, width=110, sort_dicts=False),
        check=found.failure.check,
        failed=found.failure.kind,
        inputs=draws,
        data_seed=case.seed,
        exact=case.exact,
        sizes=tuple(dict(s) for s in case.sizes),
        rules=found.rules,
        symbolic=found.symbolic,
        check_seed=found.check_seed,
        native=found.native,
        lowers=case.lowers,
    )


def reproduce(
    program: str,
    instructions: Sequence[Sequence[Any]],
    *,
    check: str,
    failed: str,
    inputs: Mapping[str, tuple[float, float, bool]],
    seed: int,
    exact: tuple[bool, ...],
    sizes: tuple[Mapping[str, int], ...],
    rules: str | None = None,
    symbolic: bool = False,
    check_seed: int = 0,
    native: str | None = None,
    lowers: bool = True,
) -> int:
    """Check a program again: 1, with a message, while ``check`` fails; 0 when it holds.

    Args:
        program: text IR of the function before scheduling.
        instructions: rows of the trace: name, inputs, arguments, outputs.
        check: the check's name; ``failed`` the class of what it raised when the failure was found.
        inputs: for each input the range of its elements and whether they are integers.
        seed, exact, sizes, lowers: as in :class:`tests.fuzz.case.Case`.
        rules, symbolic, check_seed, native: as in :class:`tests.fuzz.campaign.Found`.
    """
    draws = {name: Draw(*draw) for name, draw in inputs.items()}
    case = Case(parse(program), draws, seed, tuple(exact), tuple(sizes), lowers)
    steps = tuple(Instruction(name, tuple(i), attrs, tuple(o)) for name, i, attrs, o in instructions)
    found = Found(0, "repro", case, rules, steps, symbolic, check_seed, native, Failure(check, failed, ""))
    try:
        repeat(found)
    except Failure as failure:
        print(_scheduled_text(found), file=sys.stderr)
        print(failure, file=sys.stderr)
        return 1
    print(f"{check}: holds")
    return 0


def _scheduled_text(found: Found) -> str:
    try:
        sch = replay(found.case.func, found.instructions, found.symbolic)
    except Broken:
        return ""
    return f"{sch.trace}\n\n{to_text(sch.func)}"
