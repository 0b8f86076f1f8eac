"""``tilewright ops``: the ONNX operators that are supported, and those that one model needs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli import common
from tilewright.errors import OptionError

NAME = "ops"


def main(
    model: Annotated[
        Path | None, typer.Option("--model", help="Only what this ONNX model needs.", show_default=False)
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the page docs/operators.md.")] = False,
    json: common.JsonFlag = False,
) -> None:
    """List the supported ONNX operators, or those of a model; exits with 1 when one of them is missing."""
    from tilewright.frontend.onnx import catalogue

    if markdown:
        if model is not None or json:
            raise OptionError("--markdown goes with no other option")
        sys.stdout.write(catalogue.markdown())
        return
    if model is not None:
        _model(model, json)
        return
    rows = catalogue.catalogue()
    if json:
        common.write_json([dataclasses.asdict(row) for row in rows])
        return
    cells = [[catalogue.full_name(r), " ".join(map(str, r.since)), r.types, r.note] for r in rows]
    common.table(
        f"{len(rows)} ONNX operators", ["operator", "since opset", "types", "notes"], cells, text=range(4)
    )


def _model(path: Path, json: bool) -> None:
    from tilewright.frontend.onnx import catalogue
    from tilewright.frontend.onnx.reader import read

    needs = catalogue.needs(read(path))
    missing = sum(need.how == "missing" for need in needs)
    if json:
        common.write_json([dataclasses.asdict(need) for need in needs])
    else:
        cells = [
            [
                catalogue.full_name(n),
                n.nodes,
                n.opset,
                n.how if n.since is None else f"definition of opset {n.since}",
                n.limits,
            ]
            for n in needs
        ]
        title = f"{len(needs)} operators, {missing} missing"
        common.table(title, ["operator", "nodes", "opset", "supported", "limits"], cells, text=(0, 3, 4))
    if missing:
        raise typer.Exit(1)
