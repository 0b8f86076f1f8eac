"""``tilewright records``: what the measurement store holds, and its exchange with others."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilewright import __version__, config
from tilewright.cli import common
from tilewright.errors import CheckFailed, OptionError

if TYPE_CHECKING:
    from tilewright.records import Device, Epoch, Store

NAME = "records"
HELP = "Look at, check, and exchange what was measured: the store that --store (TILEWRIGHT_STORE) names."

FilesArgument = Annotated[list[Path], typer.Argument(help="Files of records.", show_default=False)]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="The file to write; standard output when left out.")
]
SourcesFlag = Annotated[bool, typer.Option("--sources", help="Also write the names of the models.")]


def stats(json: common.JsonFlag = False) -> None:
    """Count what is in the store, and say how noisy its times are."""
    from tilewright.records import open_store, statistics

    with open_store(config.options().store, create=False) as store:
        found = statistics(store)
    if json:
        common.write_json(dataclasses.asdict(found))
        return
    counts = ["records", "samples", "workloads", "schedules", "devices", "epochs"]
    common.table(store.location, ["what", "count"], [[name, getattr(found, name)] for name in counts])
    for name in ("status", "role", "family", "device", "origin"):
        rows = [[key or "(none)", count] for key, count in getattr(found, f"by_{name}").items()]
        if rows:
            common.table(f"\nrecords by {name}", [name, "records"], rows)
    if found.noise_median is not None and found.noise_p90 is not None:
        typer.echo(
            f"\nhalf width of the 95 % confidence interval of a time: median {found.noise_median:.1%}, "
            f"90th percentile {found.noise_p90:.1%}"
        )


def export(out: OutOption = None, sources: SourcesFlag = False) -> None:
    """Write all records as lines of JSON."""
    from tilewright.records import export_records, open_store

    with open_store(config.options().store, create=False) as store:
        if out is None:
            export_records(store, sys.stdout, sources=sources)
            return

        def write(temporary: Path) -> None:
            with open(temporary, "w", encoding="utf-8") as file:
                typer.echo(f"{export_records(store, file, sources=sources)} records", err=True)

        common.write_atomically(out, write)


def import_(files: FilesArgument) -> None:
    """Add the records of files: of each file all, or none when a line of it is wrong.

    Their times do not count for this machine until they have been verified here.
    """
    from tilewright.records import import_records, open_store

    with open_store(config.options().store) as store:
        for path in files:
            found = import_records(store, path)
            typer.echo(
                f"{path}: {found.added} added, {found.extended} with new samples, {found.known} known, "
                f"{found.conflicting} in conflict with what is there"
            )


def merge(files: FilesArgument, out: OutOption = None, sources: SourcesFlag = False) -> None:
    """Write the records of several files as one, without a store."""
    from tilewright.records import export_records, import_records, open_store

    if out is not None and out.is_dir():
        raise OptionError(f"{out} is a folder", hint="--out takes the name of a file")
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "merged.sqlite") as store:
        conflicts = sum(import_records(store, path).conflicting for path in files)
        if conflicts:
            message = f"{conflicts} records have other samples in a later file: those were left out"
            typer.echo(message, err=True)
        if out is None:
            export_records(store, sys.stdout, sources=sources)
        else:

            def write(temporary: Path) -> None:
                with open(temporary, "w", encoding="utf-8") as file:
                    export_records(store, file, sources=sources)

            common.write_atomically(out, write)


def verify(
    replay: Annotated[
        bool, typer.Option("--replay", help="Also apply every trace to its workload, which takes time.")
    ] = False,
    json: common.JsonFlag = False,
) -> None:
    """Check that everything in the store is what it claims to be; exits with 1 when something is not."""
    from tilewright.records import open_store
    from tilewright.records import verify as verify_store

    with open_store(config.options().store, create=False) as store:
        problems = verify_store(store, replay)
    if json:
        common.write_json([dataclasses.asdict(p) for p in problems])
    elif problems:
        rows = [[p.kind, p.key, p.message] for p in problems]
        title = f"{len(problems)} problems in {store.location}"
        common.table(title, ["what", "key", "problem"], rows, text=range(3))
    else:
        typer.echo(f"no problems in {store.location}")
    if problems:
        raise CheckFailed(f"{len(problems)} problems in the measurement store", location=store.location)


def adopt(
    epoch: Annotated[
        list[str] | None,
        typer.Argument(help="Beginnings of epochs' identities; all imported ones when left out."),
    ] = None,
    threads: common.ThreadsOption = None,
    workloads: Annotated[int, typer.Option("--workloads", min=1, help="Workloads that are drawn.")] = 6,
    schedules: Annotated[int, typer.Option("--schedules", min=2, help="Schedules of each.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Seed of what is drawn.")] = 0,
    json: common.JsonFlag = False,
) -> None:
    """Measure some of what was imported again, and count its times from then on if they agree; exits with 1
    when some do not."""
    from tilewright.build import compiler_epoch
    from tilewright.measure import Measurer
    from tilewright.measure.adopt import adopt as adopt_epoch
    from tilewright.records import Device, Epoch, open_store
    from tilewright.target import Target

    target = Target.host()
    count = threads or target.cores
    here = Epoch.begin(Device.of(target), f"{__version__}+{compiler_epoch()[:16]}")
    rows: list[dict[str, Any]] = []
    with open_store(config.options().store, create=False) as store, Measurer(target, count) as measurer:
        for found in _imported(store, epoch or [], here.device):
            agreement = adopt_epoch(
                store, found, measurer, count, here, workloads=workloads, schedules=schedules, seed=seed
            )
            verdict = "rejected" if agreement.problem else "verified"
            rows.append({"epoch": found.uid, "verdict": verdict, "problem": agreement.problem})
            rows[-1] |= dataclasses.asdict(agreement)
    if json:
        common.write_json(rows)
    else:
        columns = ["epoch", "verdict", "anchors", "error", "correlation", "level", "problem"]
        cells = [[_shown(row[name]) for name in columns] for row in rows]
        common.table("epochs measured again", columns, cells, text=(0, 1, 6))
    if rejected := [row["epoch"] for row in rows if row["problem"]]:
        raise CheckFailed(f"the times of {len(rejected)} epochs do not hold here: {', '.join(rejected)}")


def _imported(store: Store, beginnings: Sequence[str], device: Device) -> list[Epoch]:
    """The epochs to look at. Raises OptionError where there is none, or a beginning stands for none or for
    several."""
    epochs = store.epochs()
    if not beginnings:
        found = [e for e in epochs if e.origin == "imported" and e.device == device]
        if not found:
            raise OptionError(
                "the store has no imported records of a machine like this one",
                hint="`tilewright records stats` shows what it has",
            )
        return found
    chosen = []
    for text in beginnings:
        fitting = [e for e in epochs if e.uid.startswith(text) and e.origin != "local"]
        if len(fitting) != 1:
            raise OptionError(f"{len(fitting)} imported epochs begin with '{text}'")
        chosen += fitting
    return chosen


def _shown(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else value


COMMANDS: dict[str, Callable[..., None]] = {
    "stats": stats, "export": export, "import": import_, "merge": merge, "verify": verify, "adopt": adopt,
}  # fmt: skip
