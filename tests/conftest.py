"""Tests neither read nor change what the user has measured and compiled."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give this run, and the processes that it starts, a measurement store of its own, and a compile cache
    that only test runs use. Let Ctrl-C reach them, too, where a shell runs the tests in the background.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "TILEWRIGHT_CACHE_DIR" not in os.environ:
        kept = getattr(config, "cache", None)  # there is none with `-p no:cacheprovider`
        folder = Path(tempfile.gettempdir(), "tilewright-tests") if kept is None else kept.mkdir("tilewright")
        os.environ["TILEWRIGHT_CACHE_DIR"] = str(folder / "compiled")
    if "TILEWRIGHT_STORE" not in os.environ:
        own = tempfile.TemporaryDirectory(prefix="tilewright-tests-")
        config.add_cleanup(own.cleanup)
        os.environ["TILEWRIGHT_STORE"] = str(Path(own.name) / "records.sqlite")
