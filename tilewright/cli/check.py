"""``tilewright check``: compare a model with onnxruntime."""

from __future__ import annotations

from typing import Annotated

import typer

from tilewright.cli import common

NAME = "check"


def main(
    model: common.ModelArgument,
    shape: common.ShapeOption = None,
    input: common.InputOption = None,
    seed: common.SeedOption = 0,
    rtol: Annotated[float | None, typer.Option("--rtol", min=0, help="1e-3; 1e-2 for 16-bit floats.")] = None,
    atol: Annotated[
        float | None,
        typer.Option("--atol", min=0, help="0.1 * rtol * max|reference|, at least 2 ulp of 1.0."),
    ] = None,
    target: common.TargetOption = "native",
    threads: common.ThreadsOption = None,
    locate: Annotated[
        bool, typer.Option("--locate/--no-locate", help="Look for the first diverging node.")
    ] = True,
    json: common.JsonFlag = False,
) -> None:
    """Run an ONNX model here and in onnxruntime on the same data and compare; exit 1 if they differ.

    Inputs that are not given are sampled: standard normal, or integers from 0 to 255 (fewer where they index
    a table). An element agrees when |got - expected| <= atol + rtol * |expected|.
    """
    from tilewright.checking import check

    with common.progress() as say:
        report = check(
            model,
            shapes=common.parse_shapes(shape),
            inputs=common.read_inputs(input),
            seed=seed,
            rtol=rtol,
            atol=atol,
            target=target,
            threads=threads,
            locate=locate,
            progress=say,
        )
    if json:
        common.write_json(report.to_dict())
        raise typer.Exit(0 if report.ok else 1)
    rows = [
        [
            d.name,
            "ok" if d.ok else "DIFFERS",
            d.size,
            f"{d.max_abs:.3g}",
            f"{d.max_rel:.3g}",
            d.bad,
            f"{d.rtol:g}",
        ]
        + [f"{d.atol:.3g}"]
        for d in report.outputs
    ]
    columns = ["output", "result", "elements", "max abs", "max rel", "bad", "rtol", "atol"]
    common.table(f"{model.name} against {report.reference}", columns, rows, text=range(2))
    report.require()
    common.console().print(f"ok: {len(rows)} outputs agree", markup=False)
