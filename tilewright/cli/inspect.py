"""``tilewright inspect``: what becomes of a model, at any stage of its compilation."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from tilewright.cli import common
from tilewright.errors import OptionError

NAME = "inspect"

_GRAPH = re.compile(r"graph_(?P<order>\d+)_(?P<stage>\w+)\.txt")
_KERNEL = re.compile(
    r"(?P<kernel>.+)_(?P<key>[0-9a-f]{8})\.(?:(?P<order>\d+)_(?P<stage>\w+)|(?P<code>emitted))\.txt"
)


def main(
    model: common.AnyModelArgument,
    shape: common.ShapeOption = None,
    dim: common.DimOption = None,
    input: common.ValueOption = None,
    target: common.TargetOption = "native",
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage", help="Print the text at this stage; 'list' shows the stages.", show_default=False
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option("--kernel", help="Only kernels whose name contains this text.", show_default=False),
    ] = None,
    json: common.JsonFlag = False,
) -> None:
    """Show a model's inputs, outputs and kernels; with --stage its graph or its kernels' programs as text."""
    if stage is not None:
        if common.is_artifact(model):
            raise OptionError(
                "an artifact holds no programs", hint="inspect the ONNX model that it was made from"
            )
        _stages(model, given_to_compile(model, shape, dim, input), target, stage, kernel)
        return
    with common.progress() as say:
        given = given_to_compile(model, shape, dim, input)
        compiled = common.open_model(model, say, target=target, threads=None, **given)
    artifact = compiled.artifact
    calls = [call for variant in artifact.variants for call in variant.kernels if (kernel or "") in call.name]
    if json:
        common.write_json(
            {
                "target": dataclasses.asdict(artifact.target),
                "inputs": [dataclasses.asdict(spec) for spec in compiled.inputs],
                "outputs": [dataclasses.asdict(spec) for spec in compiled.outputs],
                "steering": list(compiled.steering),
                "arena_bytes": [variant.arena_bytes for variant in artifact.variants],
                "weight_bytes": artifact.weights.nbytes,
                "kernels": [call.to_json() for call in calls],
            }
        )
        return
    sides = [("input", spec) for spec in compiled.inputs] + [("output", spec) for spec in compiled.outputs]
    rows = [
        [kind, spec.name, spec.dtype, list(spec.shape) if spec.kind == "tensor" else spec.kind]
        for kind, spec in sides
    ]
    common.table(
        f"{model.name} for {artifact.target.name}", ["", "name", "dtype", "shape"], rows, text=range(4)
    )
    common.table(
        f"{len(calls)} kernels, {len({call.workload for call in calls})} distinct",
        ["kernel", "nodes", "MFLOP", "MB", "task"],
        [
            [
                call.name,
                " ".join(call.origins),
                f"{call.flops / 1e6:.3f}",
                f"{call.bytes / 1e6:.3f}",
                call.workload[:12],
            ]
            for call in calls
        ],
        text=range(2),
    )
    for name in compiled.steering:
        found = [list(v.values[name]) for v in artifact.variants if name in v.values]
        shown = ", ".join(map(str, found)) or "nothing yet: give a value with --input"
        common.console().print(f"input {name} steers; compiled for {shown}", markup=False)
    arena = max((variant.arena_bytes for variant in artifact.variants), default=0)
    common.console().print(
        f"weights {common.megabytes(artifact.weights.nbytes)} MiB, scratch {common.megabytes(arena)} MiB"
    )


def given_to_compile(
    model: Path, shape: list[str] | None, dim: list[str] | None, input: list[str] | None
) -> dict[str, Any]:
    """``shapes``, ``dims`` and ``values`` to compile for. Raises OptionError for others than shapes beside an
    artifact.
    """
    dims, values = common.parse_dims(dim), common.read_inputs(input)
    if common.is_artifact(model):
        if values or dims:
            raise OptionError("an artifact is compiled already", hint="leave out --input and --dim")
        return {"shapes": common.parse_shapes(shape)}
    if dims:
        return {"shapes": common.parse_open_shapes(shape), "dims": dims, "values": values}
    shapes = {name: array.shape for name, array in values.items()} | common.parse_shapes(shape)
    return {"shapes": common.complete_shapes(model, shapes), "values": values}


def _stages(
    model: Path,
    given: dict[str, Any],
    target: str,
    stage: str,
    kernel: str | None,
) -> None:
    """Compile with a dump into a temporary folder and print the files of one stage."""
    from tilewright import api

    with tempfile.TemporaryDirectory(prefix="tilewright-inspect-") as folder:
        with common.progress() as say:
            api.compile(model, target=target, dump=folder, progress=say, **given)
        graphs: dict[str, Path] = {}
        kernels: dict[str, list[tuple[str, Path]]] = {}
        for path in sorted(Path(folder).iterdir()):
            if found := _GRAPH.fullmatch(path.name):
                graphs[found["stage"]] = path
            elif found := _KERNEL.fullmatch(path.name):
                kernels.setdefault(found["stage"] or found["code"], []).append((found["kernel"], path))
        if stage == "list":
            rows = [[name, "graph"] for name in graphs] + [[name, "kernels"] for name in kernels]
            common.table("stages", ["stage", "of"], rows, text=range(2))
        elif stage in graphs:
            typer.echo(graphs[stage].read_text())
        elif stage in kernels:
            chosen = [(name, path) for name, path in kernels[stage] if (kernel or "") in name]
            if not chosen:
                raise OptionError(
                    f"no kernel's name contains '{kernel}'", hint="inspect without --stage lists them"
                )
            for name, path in chosen:
                typer.echo(f"# {name}\n{path.read_text()}")
        else:
            names = ", ".join([*graphs, *kernels])
            raise OptionError(f"there is no stage '{stage}'", hint=f"stages: {names}")
