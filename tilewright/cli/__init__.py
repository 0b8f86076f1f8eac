"""The command line: ``tilewright``. Each subcommand lies in a module of its own and calls the API."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process: 0 ok, 1 a check failed, 2 usage or bad input, 130 Ctrl-C."""
    from tilewright.cli.app import run

    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))
