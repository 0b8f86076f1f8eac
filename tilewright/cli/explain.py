"""``tilewright explain``: what bounds each kernel, and how its schedule was chosen."""

from __future__ import annotations

import typer

from tilewright.cli import common
from tilewright.cli.inspect import given_to_compile

NAME = "explain"


def main(
    model: common.AnyModelArgument,
    shape: common.ShapeOption = None,
    dim: common.DimOption = None,
    input: common.ValueOption = None,
    target: common.TargetOption = "native",
    threads: common.ThreadsOption = None,
    json: common.JsonFlag = False,
) -> None:
    """Say of every kernel which share of the model's time it takes, what bounds it (compute, l1, l2, l3,
    memory, overhead, imbalance) and how far it is from the least time possible, and how its schedule was
    chosen: by a record of the store (--store, TILEWRIGHT_STORE), the learned model, or the default rules."""
    with common.progress() as say:
        given = given_to_compile(model, shape, dim, input)
        compiled = common.open_model(model, say, target=target, threads=threads, **given)
    if json:
        from tilewright.explaining import report

        common.write_json(report(compiled.artifact, compiled.machine()))
    else:
        typer.echo(compiled.explain())
