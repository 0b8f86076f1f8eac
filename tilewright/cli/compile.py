"""``tilewright compile``: a model becomes an artifact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli import common
from tilewright.errors import OptionError

NAME = "compile"


def main(
    model: common.ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The artifact to write: OUT.tw.", show_default=False)
    ],
    target: common.TargetOption = "native",
    threads: common.ThreadsOption = None,
    shape: common.ShapeOption = None,
    dim: common.DimOption = None,
    input: common.ValueOption = None,
    dump: Annotated[
        Path | None, typer.Option("--dump", help="Folder to which every stage of the compilation is written.")
    ] = None,
) -> None:
    """Compile an ONNX model to an artifact, for the given shapes or, without them, for all fixed ones; with
    --dim for all sizes in a range."""
    from tilewright import api
    from tilewright.dims import Shapes

    if not common.is_artifact(output):
        raise OptionError(f"the artifact's name is '{output.name}'", hint="artifacts end in .tw")
    if not output.parent.is_dir():
        raise OptionError(f"the folder {output.parent} does not exist")
    dims, values = common.parse_dims(dim), common.read_inputs(input)
    shapes: Shapes
    if dims:
        shapes = common.parse_open_shapes(shape)
    else:
        given = {name: array.shape for name, array in values.items()}
        shapes = common.complete_shapes(model, {**given, **common.parse_shapes(shape)})
    start = time.perf_counter()
    with common.progress() as say:
        say("compiling", 0, 0)
        compiled = api.compile(
            model,
            target=target,
            threads=threads,
            shapes=shapes,
            dims=dims,
            values=values,
            dump=dump,
            progress=say,
        )
        say("writing", 0, 0)
        compiled.save(output)
    size = common.megabytes(output.stat().st_size)
    inputs = common.shape_text({spec.name: spec.shape for spec in compiled.inputs})
    common.console().print(
        f"{output}: {size} MiB, {inputs}, {time.perf_counter() - start:.1f} s",
        markup=False,
    )
