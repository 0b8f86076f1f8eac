"""Steps of long benchmarks that are kept: a run that was stopped goes on with the first unfinished one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def done(path: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a finished step has written, if it was asked for the same."""
    try:
        document = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return dict(document["result"]) if document.get("request") == json.loads(json.dumps(request)) else None


def keep(path: Path, request: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write down that a step is finished, wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"request": request, "result": result}, indent=2) + "\n")
    temporary.replace(path)
