"""``tilewright run``: a model's outputs for given inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tilewright.cli import common
from tilewright.errors import InputError, OptionError
from tilewright.feeds import typed

NAME = "run"


def main(
    model: common.AnyModelArgument,
    input: common.InputOption = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Folder for one NAME.npy for each output.", show_default=False),
    ] = None,
    target: common.TargetOption = "native",
    threads: common.ThreadsOption = None,
    json: common.JsonFlag = False,
) -> None:
    """Run a model on arrays from files. Every input has to be given."""
    inputs = common.read_inputs(input)
    if output_dir is not None and output_dir.exists() and not output_dir.is_dir():
        raise OptionError(f"{output_dir} is not a folder")
    with common.progress() as say:
        compiled = common.open_model(
            model, say, target=target, threads=threads, shapes={name: a.shape for name, a in inputs.items()}
        )
        say("running", 0, 0)
        types = {spec.name: np.dtype(spec.dtype) for spec in compiled.inputs}
        outputs = compiled.run({n: typed(a, types[n]) if n in types else a for n, a in inputs.items()})
    files = _save(outputs, output_dir) if output_dir is not None else {}
    rows = [_summary(name, array) for name, array in outputs.items()]
    if json:
        for row in rows:
            row["file"] = str(files[str(row["name"])]) if files else None
        common.write_json({"outputs": rows})
        return
    table = [[r["name"], r["dtype"], r["shape"], r["min"], r["max"], r["mean"]] for r in rows]
    common.table("outputs", ["name", "dtype", "shape", "min", "max", "mean"], table, text=range(3))


def _summary(name: str, array: np.ndarray) -> dict[str, object]:
    numbers = array.astype(np.float64) if array.size else np.zeros(1)
    row: dict[str, object] = {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
    for key, value in (("min", numbers.min()), ("max", numbers.max()), ("mean", numbers.mean())):
        row[key] = float(f"{value:.6g}") if np.isfinite(value) else str(value)
    return row


def _save(outputs: dict[str, np.ndarray], folder: Path) -> dict[str, Path]:
    """Write every output, or none: files are renamed only once all of them lie on the disk."""
    names = {name: common.file_name(name) + ".npy" for name in outputs}
    if len(set(names.values())) < len(names):
        raise InputError("two outputs have names that differ only in characters that files cannot have")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / file for name, file in names.items()}
    common.write_all({paths[name]: array for name, array in outputs.items()})
    return paths
