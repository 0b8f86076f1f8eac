"""``tilewright bench``: time a model side by side with other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli import common

NAME = "bench"


def main(
    model: common.ModelArgument,
    shape: common.ShapeOption = None,
    against: Annotated[
        str,
        typer.Option(
            "--against", help="Engines, separated by commas: onnxruntime, openvino, torch, torch_compile."
        ),
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of every engine.")] = 1,
    runs: Annotated[
        int | None,
        typer.Option("--runs", min=1, help="Recorded runs of every engine; about 2 s of each when left out."),
    ] = None,
    input: common.InputOption = None,
    seed: common.SeedOption = 0,
    target: common.TargetOption = "native",
    json: Annotated[
        Path | None,
        typer.Option("--json", help="File for the report with all samples; - for standard output."),
    ] = None,
) -> None:
    """Time an ONNX model here and in other engines: in turns, in one run, on the same data.

    The ratio is the median over rounds of our time divided by the engine's (below 1: we are faster). Exit 1
    if the outputs differ.
    """
    from tilewright.benching import bench

    with common.progress() as say:
        report = bench(
            model,
            shapes=common.parse_shapes(shape),
            against=against,
            threads=threads,
            runs=runs,
            inputs=common.read_inputs(input),
            seed=seed,
            target=target,
            progress=say,
        )
    if json is not None:
        common.write_json(report.to_dict(), None if str(json) == "-" else json)
    if str(json) != "-":
        _print(model.name, report)
    raise typer.Exit(0 if report.ok else 1)


def _print(name: str, report: object) -> None:
    from tilewright.benching import BenchReport

    assert isinstance(report, BenchReport)
    rows = []
    for timing in report.timings:
        worst = max(timing.outputs, key=lambda output: output.max_rel, default=None)
        agreement = "reference" if worst is None else f"{worst.max_rel:.1e}" if timing.agrees else "DIFFERS"
        rows.append(
            [f"{timing.name} {timing.version}"]
            + [common.milliseconds(value) for value in (timing.median, timing.minimum, timing.p90)]
            + [f"{timing.ratio:.3f}", f"{timing.load * 1e3:.0f}", len(timing.samples), agreement]
        )
    title = f"{name} {common.shape_text(report.shapes)}, {report.threads} thread{'s' * (report.threads > 1)}"
    columns = ["engine", "median ms", "min ms", "p90 ms", "ratio", "load ms", "runs", "max rel error"]
    common.table(title, columns, rows)
    if any(timing.p90 > 1.5 * timing.median for timing in report.timings):
        common.console().print(
            "the machine was busy: some calls took much longer than their median", markup=False
        )
    common.console().print(
        f"ratio: tilewright's time / the engine's. Artifact: {common.megabytes(report.artifact_bytes)} MiB, "
        f"loads in {report.artifact_load * 1e3:.0f} ms.",
        markup=False,
    )
