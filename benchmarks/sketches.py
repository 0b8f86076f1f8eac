"""How fast candidates are sampled, checked and described: one thread, no program is built.

    python -m benchmarks.sketches

For every sketch of a padded 3x3 convolution with bias and ReLU, and of a matrix product, ``--count``
candidates are validated and their features evaluated; the last column counts, of ``--bind`` random ones,
those whose features equal the features of their bound programs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from tilewright.cli.common import table
from tilewright.ir import te
from tilewright.ir.expr import Expr, maximum, select
from tilewright.ir.stmt import PrimFunc
from tilewright.schedule.features import FEATURES, features_of
from tilewright.schedule.sketch import Sketch
from tilewright.schedule.space import sketches
from tilewright.target import Target


def convolution() -> PrimFunc:
    """64 to 64 channels at 56x56, 3x3, padded, with bias and ReLU, channels last."""
    x = te.placeholder((1, 56, 56, 64), "float32", "x")
    w = te.placeholder((3, 3, 64, 64), "float32", "w")
    bias = te.placeholder((64,), "float32", "bias")

    def padded(n: Expr, h: Expr, v: Expr, c: Expr) -> Expr:
        inside = (h >= 1) & (h < 57) & (v >= 1) & (v < 57)
        return select(inside, x[n, h - 1, v - 1, c], 0.0)

    p = te.compute((1, 58, 58, 64), padded, "pad")
    y = te.compute(
        (1, 56, 56, 64),
        lambda n, h, v, o: te.reduce(
            "sum", (3, 3, 64), lambda i, j, c: p[n, h + i, v + j, c] * w[i, j, c, o]
        ),
        "conv",
    )
    z = te.compute((1, 56, 56, 64), lambda n, h, v, o: maximum(y[n, h, v, o] + bias[o], 0.0), "relu")
    return te.primfunc("convolution", [x, w, bias], [z], const_inputs=[w, bias])


def product() -> PrimFunc:
    """128x768 by 768x3072 with constant weights, and ReLU."""
    a = te.placeholder((128, 768), "float32", "a")
    w = te.placeholder((768, 3072), "float32", "w")
    c = te.compute((128, 3072), lambda i, j: te.reduce("sum", (768,), lambda k: a[i, k] * w[k, j]), "c")
    d = te.compute((128, 3072), lambda i, j: maximum(c[i, j], 0.0), "d")
    return te.primfunc("product", [a, w], [d], const_inputs=[w])


def measure(sketch: Sketch, count: int, bind: int) -> list[str]:
    """One row of the table."""
    rows = sketch.sample(min(count, 4096), seed=0)
    many = np.resize(rows, (count, rows.shape[1]))
    sketch.valid(many[:1])
    sketch.features(many[:1])
    begin = time.perf_counter()
    sketch.valid(many)
    checked = time.perf_counter()
    sketch.features(many)
    described = time.perf_counter()
    tried = sketch.sample(bind, seed=1)
    features = sketch.features(tried)
    equal = sum(
        np.allclose(features_of(sketch.bind(row).func, sketch.target, sketch.main), own, rtol=1e-5, atol=1e-5)
        for row, own in zip(tried, features, strict=True)
    )
    return [
        sketch.func.name,
        sketch.name,
        str(len(sketch.columns)),
        f"{sketch.size:,}",
        f"{count / (checked - begin):,.0f}",
        f"{count / (described - checked):,.0f}",
        f"{count / (described - begin):,.0f}",
        f"{equal} of {len(tried)}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sketches", description="Candidates per second on one thread."
    )
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--bind", type=int, default=200, help="candidates that are also bound")
    parser.add_argument("--target", default="native")
    arguments = parser.parse_args(argv)
    target = Target.parse(arguments.target)
    rows = [
        measure(sketch, arguments.count, arguments.bind)
        for func in (convolution(), product())
        for sketch in sketches(func, target)
    ]
    columns = [
        "function",
        "sketch",
        "decisions",
        "combinations",
        "valid / s",
        "features / s",
        "both / s",
        "equal to bound",
    ]
    table(f"{arguments.count:,} candidates, {len(FEATURES)} features, one thread", columns, rows)


if __name__ == "__main__":
    main()
