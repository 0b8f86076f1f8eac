"""What the subcommands share: consoles, tables, progress, the syntax of --shape and --input."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tilewright.errors import InputError, OptionError

if TYPE_CHECKING:
    from tilewright.api import Model
    from tilewright.dims import Dim, DimLike, Shapes

_DIM = re.compile(r"(.+)=(\d+)\.\.(\d+)(?::(\d+))?(?:@(\d+(?:,\d+)*))?")

ModelArgument = Annotated[Path, typer.Argument(help="An ONNX model.", show_default=False)]
AnyModelArgument = Annotated[
    Path, typer.Argument(help="An ONNX model, or an artifact written by compile.", show_default=False)
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", help="NAME=1,3,640,640: the shape of one input.", show_default=False),
]
DimOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        help="NAME=1..512: sizes of an open dimension, all served by one compiled model; :M for multiples of "
        "M, @P,Q for sizes with kernels of their own.",
        show_default=False,
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", help="NAME=FILE.npy: the data of one input.", show_default=False),
]
ValueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="NAME=FILE.npy: the value of an input that decides what is compiled, such as axes.",
        show_default=False,
    ),
]
TargetOption = Annotated[str, typer.Option("--target", help="What to compile for: native or a preset.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to run on; all cores when left out.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the sampled inputs.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Write JSON to standard output instead of tables.")]


def console() -> Console:
    """Standard output: colours and box drawing on a terminal, plain text of any width elsewhere."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=400, color_system=None, legacy_windows=False)


def error_console() -> Console:
    """Standard error, on which errors and progress go."""
    return Console(stderr=True, highlight=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], text: Iterable[int] = (0,)
) -> None:
    """Print a table; the columns with the indices ``text`` are text, the others numbers set to the right.

    When standard output is no terminal the table is drawn with spaces only.
    """
    out = console()
    drawn = Table(
        title=Text(title), title_justify="left", title_style="bold", header_style="bold", pad_edge=False
    )
    if not out.is_terminal:
        drawn.box = None
        drawn.padding = (0, 2, 0, 0)
    words = set(text)
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index in words else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))  # Text: names may look like rich's markup
    out.print(drawn)


def write_json(value: Any, path: Path | None = None) -> None:
    """Write ``value`` as JSON to ``path`` (whole or not at all), or to standard output."""
    text = json.dumps(value, indent=2, allow_nan=False, default=str)
    if path is None:
        sys.stdout.write(text + "\n")
    else:
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; on any failure nothing is left."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        said = error.strerror or str(error)
        raise OptionError(f"the file cannot be written: {said}", location=str(path)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show what is being done, how far, and for how long, on standard error if it is a terminal.

    Yields a function of (step, done, total), total 0 if unknown. Nothing is shown in the first second.
    """
    err = error_console()
    if not err.is_terminal:
        yield lambda step, done, total: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=err, transient=True)
    task = bar.add_task("", total=None)

    def report(step: str, done: int, total: int) -> None:
        bar.update(task, description=step, completed=done, total=total or None)

    timer = threading.Timer(1.0, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield report
    finally:
        timer.cancel()
        bar.stop()


def parse_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """``["x=1,3,640,640"]`` as ``{"x": (1, 3, 640, 640)}``. Raises OptionError for anything else."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, equals, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(",")) if sizes.strip() else ()
        except ValueError:
            shape = (-1,)
        if not equals or not name or any(size < 0 for size in shape):
            raise OptionError(f"bad --shape '{text}'", hint="write it as NAME=1,3,640,640")
        if name in shapes:
            raise OptionError(f"--shape is given twice for '{name}'")
        shapes[name] = shape
    return shapes


def parse_open_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int | str, ...]]:
    """:func:`parse_shapes` in which names stand for open dimensions: ``x=1,3,48,w``."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in texts or ():
        name, _, sizes = text.rpartition("=")
        fixed = parse_shapes([f"{name}=" + ",".join("1" if _is_name(s) else s for s in sizes.split(","))])
        if name in shapes:
            raise OptionError(f"--shape is given twice for '{name}'")
        words = sizes.split(",")
        shapes[name] = tuple(
            words[n].strip() if _is_name(words[n]) else size for n, size in enumerate(fixed[name])
        )
    return shapes


def _is_name(text: str) -> bool:
    return text.strip().isidentifier()


def parse_dims(texts: Sequence[str] | None) -> dict[str, Dim]:
    """``["w=32..960:32@320,640"]`` as ``{"w": Dim(32, 960, 32, points=(320, 640))}``. Raises OptionError for
    anything else."""
    from tilewright.dims import Dim

    dims: dict[str, Dim] = {}
    for text in texts or ():
        found = _DIM.fullmatch(text)
        if found is None:
            raise OptionError(f"bad --dim '{text}'", hint="write it as NAME=1..512, NAME=32..960:32@320,640")
        name, lo, hi, step, points = found.groups()
        if name in dims:
            raise OptionError(f"--dim is given twice for '{name}'")
        special = tuple(int(p) for p in (points or "").split(",") if p)
        dims[name] = Dim(int(lo), int(hi), int(step or 1), points=special)
    return dims


def read_inputs(texts: Sequence[str] | None) -> dict[str, np.ndarray]:
    """The arrays that ``["x=image.npy"]`` names.

    Raises:
        OptionError: not NAME=FILE.
        InputError: a file is missing or is no array.
    """
    arrays: dict[str, np.ndarray] = {}
    for text in texts or ():
        name, equals, file = text.partition("=")
        if not equals or not name or not file:
            raise OptionError(f"bad --input '{text}'", hint="write it as NAME=FILE.npy")
        if name in arrays:
            raise OptionError(f"--input is given twice for '{name}'")
        arrays[name] = _read_array(Path(file))
    return arrays


def _read_array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError("the input file does not exist", location=str(path)) from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the input file is not a NumPy array: {error}", location=str(path)) from None
    if not isinstance(loaded, np.ndarray):
        names = ", ".join(loaded.files)
        raise InputError(
            f"the input file holds several arrays ({names})",
            location=str(path),
            hint="save one array with numpy.save",
        )
    return loaded


def is_artifact(path: Path) -> bool:
    """Whether ``path`` is something that compile wrote, by its name."""
    return path.suffix == ".tw"


def write_all(arrays: Mapping[Path, np.ndarray]) -> None:
    """Save each array under its path: all of them, or on a failure none."""
    with contextlib.ExitStack() as stack:
        moves: list[tuple[Path, Path]] = []
        for path, array in arrays.items():
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".npy", dir=path.parent)
            stack.callback(Path(name).unlink, missing_ok=True)
            with os.fdopen(handle, "wb") as file:
                np.save(file, array, allow_pickle=False)
            moves.append((Path(name), path))
        for temporary, path in moves:
            temporary.replace(path)


def file_name(name: str) -> str:
    """A tensor's name with characters that file systems refuse replaced by ``_``."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "output"


def complete_shapes(model: Path, given: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The shapes of all inputs of an ONNX file. Raises as :func:`tilewright.feeds.resolve_shapes`."""
    from tilewright.feeds import model_inputs, resolve_shapes
    from tilewright.frontend.onnx.reader import read

    return resolve_shapes(model_inputs(read(model)), given)


def open_model(
    path: Path,
    say: Callable[[str, int, int], None],
    *,
    target: str,
    threads: int | None,
    shapes: Shapes | None = None,
    dims: Mapping[str, DimLike] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> Model:
    """Load an artifact, or compile an ONNX model, for ``values`` of inputs that steer and ``dims`` as ranges
    of open dimensions.
    """
    from tilewright import api

    if is_artifact(path):
        if target != "native":
            raise OptionError("an artifact is for the target it was compiled for", hint="leave out --target")
        say("loading", 0, 0)
        return api.load(path, threads=threads)
    say("compiling", 0, 0)
    return api.compile(
        path, target=target, threads=threads, shapes=shapes, dims=dims, values=values, progress=say
    )


def open_with_inputs(
    path: Path,
    say: Callable[[str, int, int], None],
    input: Sequence[str] | None,
    shape: Sequence[str] | None,
    *,
    seed: int,
    target: str,
    threads: int | None,
) -> tuple[Model, dict[str, np.ndarray]]:
    """A model and data for all of its inputs: the given arrays, samples for the others."""
    from tilewright import feeds
    from tilewright.frontend.onnx.reader import read

    arrays, shapes = read_inputs(input), parse_shapes(shape)
    if is_artifact(path):
        model = open_model(path, say, target=target, threads=threads)
        feeds.require_steering(model.steering, arrays)
        specs = [feeds.InputSpec(spec.name, tuple(spec.shape), np.dtype(spec.dtype)) for spec in model.inputs]
        return model, feeds.complete_inputs(specs, arrays, shapes, seed)
    raw = read(path)
    inputs = feeds.complete_inputs(feeds.model_inputs(raw), arrays, shapes, seed, feeds.integer_bounds(raw))
    concrete = {name: array.shape for name, array in inputs.items()}
    model = open_model(path, say, target=target, threads=threads, shapes=concrete)
    feeds.require_steering(model.steering, arrays)
    return model, inputs


def milliseconds(seconds: float) -> str:
    """``0.01234`` as ``12.34``: four significant digits at most, in ms."""
    value = seconds * 1e3
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def megabytes(count: float) -> str:
    """Bytes as MiB."""
    return f"{count / 2**20:.1f}"


def shape_text(shapes: Mapping[str, Sequence[int | str]]) -> str:
    """``x=1,3,640,640 y=2``."""
    return " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in shapes.items())
