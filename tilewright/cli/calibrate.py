"""``tilewright calibrate``: what the draft model knows of this machine, measured where that is nothing."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from tilewright import config
from tilewright.cli import common

NAME = "calibrate"


def main(
    threads: common.ThreadsOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure again, though the store has a calibration.")
    ] = False,
    json: common.JsonFlag = False,
) -> None:
    """Show how fast this machine is, as the draft cost model needs it. Measures for some seconds where the
    store (--store, TILEWRIGHT_STORE) does not know it for this number of threads."""
    from tilewright.cost import Coefficients
    from tilewright.measure.calibrate import calibrated
    from tilewright.records import Device, open_store
    from tilewright.target import Target

    target = Target.host()
    count = threads or target.cores
    with open_store(config.options().store) as store, common.progress() as say:
        found = calibrated(
            target, count, store, lambda done, total, step: say(f"probe: {step}", done, total), again=again
        )
        stored = store.latest_model("draft", Device.of(target).fingerprint, count)
    metrics = dict(stored.metrics) if stored is not None else {}
    if json:
        common.write_json({"threads": count, "coefficients": dataclasses.asdict(found), **metrics})
        return
    expected = Coefficients.of(target, count)
    rows = [
        [
            f.metadata["text"],
            f"{getattr(found, f.name):.3g}",
            f"{getattr(expected, f.name):.3g}",
            f.metadata["unit"],
        ]
        for f in dataclasses.fields(Coefficients)
    ]
    title = f"{target.cpu}, {count} threads"
    common.table(title, ["what", "measured", "without measuring", "unit"], rows, text=(0, 3))
    if "error" in metrics:
        typer.echo(f"the model says the probes' times within a factor of {metrics['error']:.2f} (median)")
