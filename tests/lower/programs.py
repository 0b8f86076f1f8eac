"""Programs that the tests of lowering and of the default schedules share."""

from __future__ import annotations

import numpy as np

from tilewright.ir import te
from tilewright.ir.expr import call, maximum, select
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.schedule.index_map import IndexMap


def matmul(m: int, n: int, k: int) -> PrimFunc:
    """Matrix product with bias and relu, constant weights."""
    a = te.placeholder((m, k), "float32", "a")
    b = te.placeholder((k, n), "float32", "b")
    bias = te.placeholder((n,), "float32", "bias")
    c = te.compute((m, n), lambda i, j: te.reduce("sum", (k,), lambda r: a[i, r] * b[r, j]), "c")
    d = te.compute((m, n), lambda i, j: maximum(c[i, j] + bias[j], 0.0), "d")
    return te.primfunc("matmul", [a, b, bias], [d], const_inputs=[b, bias])


def conv(
    h: int, w: int, ci: int, co: int, kernel: int, stride: int, pad: int, depthwise: bool = False
) -> PrimFunc:
    """NHWC convolution with padding, bias and relu, constant weights."""
    oh, ow = (h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1
    x = te.placeholder((1, h, w, ci), "float32", "x")
    bias = te.placeholder((co,), "float32", "bias")
    padded = x
    if pad:
        padded = te.compute(
            (1, h + 2 * pad, w + 2 * pad, ci),
            lambda n, i, j, c: select(
                (i >= pad) & (i < h + pad) & (j >= pad) & (j < w + pad), x[n, i - pad, j - pad, c], 0.0
            ),
            "padded",
        )
    if depthwise:
        weights = te.placeholder((kernel, kernel, co), "float32", "weights")
        out = te.compute(
            (1, oh, ow, co),
            lambda n, i, j, c: te.reduce(
                "sum",
                (kernel, kernel),
                lambda r, s: padded[n, i * stride + r, j * stride + s, c] * weights[r, s, c],
            ),
            "conv",
        )
    else:
        weights = te.placeholder((kernel, kernel, ci, co), "float32", "weights")
        out = te.compute(
            (1, oh, ow, co),
            lambda n, i, j, c: te.reduce(
                "sum",
                (kernel, kernel, ci),
                lambda r, s, d: padded[n, i * stride + r, j * stride + s, d] * weights[r, s, d, c],
            ),
            "conv",
        )
    relu = te.compute((1, oh, ow, co), lambda n, i, j, c: maximum(out[n, i, j, c] + bias[c], 0.0), "relu")
    return te.primfunc("conv", [x, weights, bias], [relu], const_inputs=[weights, bias])


def max_pool(h: int, w: int, c: int, kernel: int, stride: int, pad: int) -> PrimFunc:
    """NHWC max pooling; padding is minus infinity."""
    oh, ow = (h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1
    x = te.placeholder((1, h, w, c), "float32", "x")
    padded = te.compute(
        (1, h + 2 * pad, w + 2 * pad, c),
        lambda n, i, j, d: select(
            (i >= pad) & (i < h + pad) & (j >= pad) & (j < w + pad), x[n, i - pad, j - pad, d], -np.inf
        ),
        "padded",
    )
    out = te.compute(
        (1, oh, ow, c),
        lambda n, i, j, d: te.reduce(
            "max", (kernel, kernel), lambda r, s: padded[n, i * stride + r, j * stride + s, d]
        ),
        "pool",
    )
    return te.primfunc("max_pool", [x], [out])


def softmax(m: int, n: int) -> PrimFunc:
    x = te.placeholder((m, n), "float32", "x")
    top = te.compute((m,), lambda i: te.reduce("max", (n,), lambda k: x[i, k]), "top")
    e = te.compute((m, n), lambda i, j: call("exp", [x[i, j] - top[i]]), "e")
    total = te.compute((m,), lambda i: te.reduce("sum", (n,), lambda k: e[i, k]), "total")
    out = te.compute((m, n), lambda i, j: e[i, j] / total[i], "out")
    return te.primfunc("softmax", [x], [out])


def masked_row_sums(m: int, n: int) -> PrimFunc:
    """Sums under a condition on the indices that is meaning, not padding."""
    x = te.placeholder((m, n), "float32", "x")
    out = te.compute((m,), lambda i: te.reduce("sum", (n,), lambda k: select(k <= i, x[i, k], 0.0)), "sums")
    return te.primfunc("masked", [x], [out])


def column_means(m: int, n: int) -> PrimFunc:
    x = te.placeholder((m, n), "float32", "x")
    total = te.compute((n,), lambda j: te.reduce("sum", (m,), lambda k: x[k, j]), "total")
    out = te.compute((n,), lambda j: total[j] * (1.0 / m), "mean")
    return te.primfunc("means", [x], [out])


def transpose_add(h: int, w: int, c: int) -> PrimFunc:
    x = te.placeholder((h, w, c), "float32", "x")
    y = te.placeholder((c, h, w), "float32", "y")
    out = te.compute((c, h, w), lambda k, i, j: x[i, j, k] + y[k, i, j], "out")
    return te.primfunc("transpose_add", [x, y], [out])


def random_inputs(func: PrimFunc, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.standard_normal(p.static_shape), p.dtype) for p in func.inputs if isinstance(p, Buffer)
    ]


def relaid(func: PrimFunc, scheduled: PrimFunc, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """``inputs`` of ``func`` in the layouts that its scheduled form wants."""
    layouts = dict(scheduled.attr("param_layouts", {}))
    return [
        IndexMap.parse(layouts[p.name]).apply(x) if p.name in layouts else x
        for p, x in zip(func.inputs, inputs, strict=True)
    ]
