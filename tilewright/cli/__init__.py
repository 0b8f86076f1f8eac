"""The command line: ``tilewright``. Each subcommand lies in a module of its own and calls the API."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 a check failed, 2 usage or bad input, 130 Ctrl-C."""
    try:
        from tilewright.cli.app import run

        code = run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # while modules are loaded; `run` handles those that come later
        code = 130
    sys.exit(code)
