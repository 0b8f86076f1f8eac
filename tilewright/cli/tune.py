"""``tilewright tune``: measure schedules for a model's kernels within a budget."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli import common
from tilewright.errors import OptionError

if TYPE_CHECKING:
    from tilewright.tune.events import Listener
    from tilewright.tune.tasks import Extracted

NAME = "tune"

TASK_HELP = (
    "Tune only the kernels that compute this node: NODE, or MODEL:NODE. The name of a kernel or the "
    "beginning of its key, as --list shows them, will do. May be given several times."
)


def main(
    model: Annotated[Path | None, typer.Argument(help="An ONNX model.", show_default=False)] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="How long the session may take: 90s, 5m, 1h30m. By default what the effort says, and no "
            "limit with --trials.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            min=0,
            help="How many candidates to measure at most, instead of a budget or besides it.",
            show_default=False,
        ),
    ] = None,
    effort: Annotated[
        str,
        typer.Option(
            "--effort",
            help="none: measure nothing, say what the store knows; quick: a minute, 48 candidates of a "
            "kernel; full: ten minutes, other ways to compute heavy nodes as well, trains the learned model.",
        ),
    ] = "quick",
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help=TASK_HELP, show_default=False),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the kernels to tune with their shares, and end.")
    ] = False,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="Who proposes candidates: evolutionary, annealing, random, exhaustive, what a plugin "
            "registers, or FILE.py that registers one.",
        ),
    ] = "evolutionary",
    cost_model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The cost model that guides the search: draft, learned, none, what a plugin registers, or "
            "FILE.py. By default learned where the store has one, else draft.",
            show_default=False,
        ),
    ] = None,
    measurer: Annotated[
        str,
        typer.Option("--measurer", help="Who measures: local, what a plugin registers, or FILE.py."),
    ] = "local",
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            help="FILE.py, run first: registers rules, sketches, strategies, cost models or measurers. May "
            "be given several times.",
            show_default=False,
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            "--events", help="Add each event to this file at once, as a line of JSON.", show_default=False
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the result.")] = False,
    json: common.JsonFlag = False,
    target: common.TargetOption = "native",
    threads: common.ThreadsOption = None,
    shape: common.ShapeOption = None,
    dim: common.DimOption = None,
    input: common.ValueOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all random choices.")] = 0,
) -> None:
    """Make a model faster on this machine: schedules are measured for its kernels, and kept where compile
    finds them: in the store that --store (TILEWRIGHT_STORE) names. Ctrl-C once ends it and keeps what was
    found; the same command goes on."""
    from tilewright import tuning
    from tilewright.tune.view import LiveView, PlainView

    path, nodes = _model_and_tasks(model, task or [])
    dims, values = common.parse_dims(dim), common.read_inputs(input)
    given = {name: array.shape for name, array in values.items()}
    shapes = common.parse_open_shapes(shape) if dims else {**given, **common.parse_shapes(shape)}
    if list_:
        found = tuning.list_tasks(
            path,
            target=target,
            threads=threads,
            shapes=shapes,
            dims=dims,
            values=values,
            ways=effort == "full",
        )
        _show(found.only(nodes) if nodes else found, json)
        return
    live = sys.stderr.isatty() and not quiet
    with contextlib.ExitStack() as stack:
        view: Listener | None = None
        if not quiet:
            view = stack.enter_context(LiveView()) if live else stack.enter_context(PlainView())
        result = tuning.tune(
            path,
            budget,
            trials=trials,
            target=target,
            threads=threads,
            shapes=shapes,
            dims=dims,
            values=values,
            effort=effort,
            strategy=strategy,
            model=None if cost_model is None else str(cost_model),
            measurer=measurer,
            plugins=plugin or [],
            tasks=nodes,
            progress=view,
            events=events,
            seed=seed,
        )
    if json:
        common.write_json(result.to_json())
    else:
        typer.echo(str(result))


def _model_and_tasks(model: Path | None, tasks: list[str]) -> tuple[Path, list[str]]:
    """The model's file and the names of nodes, of which the file may be part of."""
    nodes = []
    for text in tasks:
        before, colon, node = text.partition(":")
        if colon and before.endswith(".onnx"):
            if model is not None and Path(before) != model:
                raise OptionError(f"the task '{text}' is of another model than {model}")
            model, text = Path(before), node
        nodes.append(text)
    if model is None:
        raise OptionError("which model?", hint="tilewright tune MODEL, or --task MODEL:NODE")
    return model, nodes


def _show(found: Extracted, json: bool) -> None:
    total = max(sum(t.occurrences * t.flops for t in found.tasks), 1)
    if json:
        tasks = [
            {
                "name": t.name,
                "key": t.key,
                "family": t.workload.family,
                "occurrences": t.occurrences,
                "flops": t.flops,
                "bytes": t.nbytes,
                "share": t.occurrences * t.flops / total,
                "origins": list(t.origins),
            }
            for t in found.tasks
        ]
        skipped = [{"name": s.name, "origins": list(s.origins), "reason": s.reason} for s in found.skipped]
        common.write_json({"tasks": tasks, "skipped": skipped})
        return
    rows = [
        [
            t.name,
            t.key[:12],
            t.occurrences,
            f"{t.occurrences * t.flops / total:.1%}",
            f"{t.flops / 1e6:.3f}",
            f"{t.nbytes / 1e6:.3f}",
            ", ".join(t.origins[:4]) + (" …" if len(t.origins) > 4 else ""),
        ]
        for t in sorted(found.tasks, key=lambda t: -t.occurrences * t.flops)
    ]
    columns = ["task", "key", "runs", "share of FLOP", "MFLOP", "MB", "computes"]
    common.table(f"{len(rows)} tasks", columns, rows, text=(0, 1, 6))
    for kernel in found.skipped:
        typer.echo(f"not tuned: {kernel.name} ({', '.join(kernel.origins)}): {kernel.reason}")
