"""``tilewright explain``: how each kernel's schedule was chosen."""

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
    """Say of every kernel what it computes, how its schedule was chosen (by rules, a record, a model), and
    which times are known."""
    with common.progress() as say:
        given = given_to_compile(model, shape, dim, input)
        compiled = common.open_model(model, say, target=target, threads=threads, **given)
    if not json:
        typer.echo(compiled.explain())
        return
    common.write_json(
        [
            {
                "kernel": kernel.name,
                "nodes": list(kernel.origins),
                "flops": kernel.flops,
                "bytes": kernel.bytes,
                "workload": kernel.workload,
                "chosen": {"by": kernel.chosen.by, **kernel.chosen.to_json()},
            }
            for kernel in compiled.artifact.kernels()
            if kernel.symbol
        ]
    )
