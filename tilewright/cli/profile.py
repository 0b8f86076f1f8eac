"""``tilewright profile``: where the time of a run goes."""

from __future__ import annotations

from typing import Annotated

import typer

from tilewright.cli import common

NAME = "profile"


def main(
    model: common.AnyModelArgument,
    shape: common.ShapeOption = None,
    input: common.InputOption = None,
    seed: common.SeedOption = 0,
    target: common.TargetOption = "native",
    threads: common.ThreadsOption = 1,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Measured runs.")] = 20,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows to show; 0 for all.")] = 30,
    json: common.JsonFlag = False,
) -> None:
    """Time every kernel of a model, slowest first, with the model's nodes that it computes.

    "of limit" compares a kernel with what this machine can do at most: the larger of its arithmetic at the
    measured multiply-add peak and its operands at the measured read bandwidth, over its time.
    """
    from tilewright.roofline import measure_roofline

    with common.progress() as say:
        compiled, inputs = common.open_with_inputs(
            model, say, input, shape, seed=seed, target=target, threads=threads
        )
        say("profiling", 0, 0)
        profile = compiled.profile(inputs, runs=runs)
        say("measuring this machine", 0, 0)
        roofline = measure_roofline(profile.threads)
    if json:
        limits = {"gflops": roofline.gflops, "gbytes": roofline.cached_gbytes, "threads": roofline.threads}
        common.write_json({**profile.to_json(), "machine_limits": limits})
        return
    kernels = profile.hottest()
    shown = kernels[:limit] if limit else kernels
    work = [(kernel.calls * kernel.flops, kernel.calls * kernel.bytes) for kernel in shown]
    rows = [
        [
            kernel.name,
            common.milliseconds(kernel.median_ns / 1e9),
            f"{kernel.share:.1%}",
            f"{kernel.gflops:.1f}",
            f"{kernel.gbytes:.1f}",
            f"{roofline.share(flops, nbytes, kernel.median_ns / 1e9):.0%}",
            _nodes(kernel.origins, kernel.op_types),
        ]
        for kernel, (flops, nbytes) in zip(shown, work, strict=True)
    ]
    title = f"{model.name}: {common.milliseconds(profile.total_ns / 1e9)} ms a run, {profile.threads} threads"
    columns = ["kernel", "ms", "share", "GFLOP/s", "GB/s", "of limit", "nodes"]
    common.table(title, columns, rows, text=(0, len(columns) - 1))
    rest = len(kernels) - len(shown)
    if rest:
        share = sum(kernel.share for kernel in kernels[limit:])
        common.console().print(f"{rest} more kernels: {share:.1%} of the time", markup=False)
    common.console().print(
        f"limits of this machine: {roofline.gflops:.0f} GFLOP/s, {roofline.cached_gbytes:.0f} GB/s",
        markup=False,
    )


def _nodes(origins: tuple[str, ...], op_types: tuple[str, ...]) -> str:
    """The first node and the operator types: fused kernels have dozens of nodes."""
    kinds = "+".join(dict.fromkeys(op_types))
    first = origins[0] if origins else ""
    more = f" +{len(origins) - 1}" if len(origins) > 1 else ""
    return f"{kinds}: {first}{more}" if kinds else f"{first}{more}"
