"""Kernels compiled for a range of sizes beside kernels compiled for each size, measured in turns.

    python -m benchmarks.dynamic [--threads N] [CASE ...]

Every case is a graph of one operator or a few over an open dimension of 1 to 512. A ratio above 1 says how
much longer the kernel for all sizes takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

import tilewright as tw
from tilewright.config import overriding
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Graph, Value
from tilewright.ir.expr import ExprLike, Var

SIZES = (512, 320, 77)
ROUNDS = 40


def weight(b: GraphBuilder, *shape: int) -> Value:
    """A constant of that shape."""
    data = np.random.default_rng(sum(shape)).standard_normal(shape) / shape[0] ** 0.5
    return b.constant(data.astype(np.float32), "w")


def dense(b: GraphBuilder, n: ExprLike) -> Value:
    """A product with weights, bias, ReLU."""
    x = b.input("x", (n, 768), "float32")
    return b.op("relu", b.op("add", b.op("matmul", x, weight(b, 768, 768)), weight(b, 768)))


def scores(b: GraphBuilder, n: ExprLike) -> Value:
    """Queries by keys: rows and columns open."""
    q, k = b.input("q", (12, n, 64), "float32"), b.input("k", (12, 64, n), "float32")
    return b.op("matmul", q, k)


def mixture(b: GraphBuilder, n: ExprLike) -> Value:
    """Probabilities by values: rows and the reduction open."""
    return b.op("matmul", b.input("p", (12, n, n), "float32"), b.input("v", (12, n, 64), "float32"))


def softmax(b: GraphBuilder, n: ExprLike) -> Value:
    """Rows of open length."""
    return b.op("softmax", b.input("x", (12, n, n), "float32"), axis=-1)


def normalised(b: GraphBuilder, n: ExprLike) -> Value:
    """Layer normalisation."""
    x = b.input("x", (n, 768), "float32")
    return b.op("layer_norm", x, weight(b, 768), weight(b, 768), axis=-1, epsilon=1e-5)


def elementwise(b: GraphBuilder, n: ExprLike) -> Value:
    """One pass over memory."""
    x = b.input("x", (n, 768), "float32")
    return b.op("mul", x, b.op("tanh", b.op("add", x, weight(b, 768))))


def _image(b: GraphBuilder, n: ExprLike, channels: int = 64) -> Value:
    return b.input("x", (1, channels, 24, n), "float32")


def conv3(b: GraphBuilder, n: ExprLike) -> Value:
    """A 3x3 convolution, directly."""
    return b.op("relu", b.op("conv", _image(b, n), weight(b, 64, 64, 3, 3), pads=(1, 1, 1, 1)))


def conv3_strided(b: GraphBuilder, n: ExprLike) -> Value:
    """A 3x3 convolution in steps of two."""
    x = _image(b, n, 32)
    return b.op("relu", b.op("conv", x, weight(b, 64, 32, 3, 3), pads=(1, 1, 1, 1), strides=(2, 2)))


def conv1(b: GraphBuilder, n: ExprLike) -> Value:
    """A 1x1 convolution."""
    return b.op("relu", b.op("conv", _image(b, n), weight(b, 128, 64, 1, 1)))


def depthwise(b: GraphBuilder, n: ExprLike) -> Value:
    """One filter a channel."""
    return b.op("relu", b.op("conv", _image(b, n), weight(b, 64, 1, 3, 3), pads=(1, 1, 1, 1), groups=64))


def pooled(b: GraphBuilder, n: ExprLike) -> Value:
    """2x2 maxima."""
    return b.op("max_pool", _image(b, n), kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))


def turned(b: GraphBuilder, n: ExprLike) -> Value:
    """A transpose."""
    return b.op("transpose", b.input("x", (n, 768), "float32"), perm=(1, 0))


CASES: tuple[Callable[[GraphBuilder, ExprLike], Value], ...] = (
    dense, scores, mixture, softmax, normalised, elementwise,
    conv3, conv3_strided, conv1, depthwise, pooled, turned,
)  # fmt: skip


def graph(case: Callable[[GraphBuilder, ExprLike], Value], n: ExprLike) -> Graph:
    """A case as a graph for one size, or an open one."""
    b = GraphBuilder(case.__name__)
    return b.build([case(b, n)], ["y"])


def compare(models: tuple[tw.Model, tw.Model], inputs: list[np.ndarray]) -> tuple[float, float]:
    """Median seconds of each, run in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 3):
        for model, found in zip(models, times, strict=True):
            start = time.perf_counter()
            model(*inputs)
            if number >= 3:
                found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="names of cases (all)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"{'case':<14}" + "".join(f"{f'n={n}: ms, ratio':>22}" for n in SIZES))
    rng = np.random.default_rng(0)
    for case in CASES:
        if options.cases and case.__name__ not in options.cases:
            continue
        # Fixed sizes get Winograd's algorithm otherwise, which is another comparison.
        with overriding(fast_conv=False):
            ranged = tw.compile(graph(case, Var("n", lo=1)), threads=options.threads, dims={"n": (1, 512)})
            line = f"{case.__name__:<14}"
            for n in SIZES:
                fixed = tw.compile(graph(case, n), threads=options.threads)
                shapes = [[n if isinstance(d, str) else d for d in spec.shape] for spec in ranged.inputs]
                inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
                np.testing.assert_allclose(ranged(*inputs)[0], fixed(*inputs)[0], rtol=1e-3, atol=1e-4)
                here, there = compare((ranged, fixed), inputs)
                line += f"{here * 1e3:>13.3f} {here / there:>8.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
