"""``tilewright check``: compare a model with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli import common

if TYPE_CHECKING:
    from tilewright.checking import CheckReport

NAME = "check"


def main(
    model: common.ModelArgument,
    shape: common.ShapeOption = None,
    dim: common.DimOption = None,
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
    a table). An element agrees when |got - expected| <= atol + rtol * |expected|. With --dim, one compiled
    model is checked at several sizes: the smallest, the largest and some between.
    """
    from tilewright.checking import check, check_sizes

    if dim:
        with common.progress() as say:
            reports = check_sizes(
                model,
                dims=common.parse_dims(dim),
                shapes=common.parse_open_shapes(shape),
                inputs=common.read_inputs(input),
                seed=seed,
                rtol=rtol,
                atol=atol,
                target=target,
                threads=threads,
                progress=say,
            )
        _show_sizes(model, reports, json)
        return
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


def _show_sizes(model: Path, reports: Sequence[CheckReport], json: bool) -> None:
    """One row for each output at each size."""
    if json:
        common.write_json([report.to_dict() for report in reports])
        raise typer.Exit(0 if all(report.ok for report in reports) else 1)
    rows = [
        [common.shape_text(r.shapes), d.name, "ok" if d.ok else "DIFFERS", d.size, f"{d.max_abs:.3g}", d.bad]
        for r in reports
        for d in r.outputs
    ]
    columns = ["inputs", "output", "result", "elements", "max abs", "bad"]
    common.table(f"{model.name} against {reports[0].reference}", columns, rows, text=range(3))
    for report in reports:
        report.require()
    common.console().print(f"ok: {len(rows)} outputs agree", markup=False)
