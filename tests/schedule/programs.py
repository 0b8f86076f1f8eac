"""Small programs to schedule, and the comparison with what they computed before."""

from __future__ import annotations

import numpy as np

from tilewright.ir import te
from tilewright.ir.expr import Const, Expr, Var, call, const, maximum, select
from tilewright.ir.interp import run
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.schedule import IndexMap, Schedule


def matmul(m: int = 7, n: int = 10, k: int = 5) -> PrimFunc:
    a = te.placeholder((m, k), "float32", "A")
    b = te.placeholder((k, n), "float32", "B")
    c = te.compute((m, n), lambda i, j: te.reduce("sum", (k,), lambda r: a[i, r] * b[r, j]), "C")
    return te.primfunc("matmul", [a, b], [c], const_inputs=[b])


def matmul_relu(m: int = 7, n: int = 10, k: int = 5) -> PrimFunc:
    a = te.placeholder((m, k), "float32", "A")
    b = te.placeholder((k, n), "float32", "B")
    bias = te.placeholder((n,), "float32", "bias")
    c = te.compute((m, n), lambda i, j: te.reduce("sum", (k,), lambda r: a[i, r] * b[r, j]), "C")
    d = te.compute((m, n), lambda i, j: maximum(c[i, j] + bias[j], 0.0), "D")
    return te.primfunc("matmul_relu", [a, b, bias], [d], const_inputs=[b])


def conv(
    size: tuple[int, int] = (6, 7),
    channels: tuple[int, int] = (3, 10),
    kernel: int = 3,
    stride: int = 1,
    pad: int = 1,
) -> PrimFunc:
    """Convolution with padding, bias and relu over one image, channels last."""
    (h, w), (ci, co) = size, channels
    x = te.placeholder((1, h, w, ci), "float32", "x")
    weight = te.placeholder((kernel, kernel, ci, co), "float32", "weight")
    bias = te.placeholder((co,), "float32", "bias")

    def padded(n: Expr, i: Expr, j: Expr, c: Expr) -> Expr:
        inside = (i >= pad) & (i < h + pad) & (j >= pad) & (j < w + pad)
        return select(inside, x[n, i - pad, j - pad, c], 0.0)

    p = te.compute((1, h + 2 * pad, w + 2 * pad, ci), padded, "pad")
    shape = (1, (h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1, co)
    c = te.compute(
        shape,
        lambda n, i, j, o: te.reduce(
            "sum",
            (kernel, kernel, ci),
            lambda r, s, k: p[n, i * stride + r, j * stride + s, k] * weight[r, s, k, o],
        ),
        "conv",
    )
    e = te.compute(shape, lambda n, i, j, o: maximum(c[n, i, j, o] + bias[o], 0.0), "relu")
    return te.primfunc("conv", [x, weight, bias], [e], const_inputs=[weight])


def softmax(rows: int = 5, columns: int = 9) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    top = te.compute((rows,), lambda i: te.reduce("max", (columns,), lambda r: x[i, r]), "top")
    e = te.compute((rows, columns), lambda i, j: call("exp", [x[i, j] - top[i]]), "e")
    total = te.compute((rows,), lambda i: te.reduce("sum", (columns,), lambda r: e[i, r]), "total")
    y = te.compute((rows, columns), lambda i, j: e[i, j] / total[i], "y")
    return te.primfunc("softmax", [x], [y])


def chain(n: int = 6, m: int = 9) -> PrimFunc:
    """Elementwise and injective stages: scale, transpose, shifted sum."""
    x = te.placeholder((n, m), "float32", "x")
    a = te.compute((n, m), lambda i, j: x[i, j] * 2.0, "a")
    b = te.compute((m, n), lambda i, j: a[j, i] + 1.0, "b")
    c = te.compute((m - 2, n), lambda i, j: b[i, j] + b[i + 1, j] * b[i + 2, j], "c")
    return te.primfunc("chain", [x], [c])


def symbolic(m: int = 4) -> PrimFunc:
    """Row sums of a matrix whose number of rows is known at run time only."""
    n = Var("n", lo=1)
    x = te.placeholder((n, m), "float32", "x")
    a = te.compute((n, m), lambda i, j: x[i, j] + 1.0, "a")
    s = te.compute((n,), lambda i: te.reduce("sum", (m,), lambda r: a[i, r]), "s")
    return te.primfunc("rows", [x], [s], dims=[n])


def integer_sum(n: int = 10) -> PrimFunc:
    x = te.placeholder((n,), "int32", "x")
    s = te.compute((1,), lambda i: te.reduce("sum", (n,), lambda r: x[r] + const(1, "int32")), "s")
    return te.primfunc("integer_sum", [x], [s])


def arrays(func: PrimFunc, dims: dict[str, int] | None = None, seed: int = 0) -> list[np.ndarray]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    result = []
    for param in func.inputs:
        if isinstance(param, Buffer):
            shape = [s.value if isinstance(s, Const) else (dims or {})[s.name] for s in param.shape]
            if param.dtype.startswith("int"):
                result.append(rng.integers(-9, 9, shape).astype(param.dtype))
            else:
                result.append(rng.uniform(-2, 2, shape).astype(param.dtype))
    return result


def assert_same(func: PrimFunc, sch: Schedule | PrimFunc, dims: dict[str, int] | None = None) -> None:
    """The scheduled program computes what ``func`` computes, its constant parameters re-laid as it asks."""
    changed = sch.func if isinstance(sch, Schedule) else sch
    inputs = arrays(func, dims)
    layouts = changed.attr("param_layouts", {})
    buffers = [p for p in func.inputs if isinstance(p, Buffer)]
    relaid = [
        IndexMap.parse(layouts[p.name]).apply(a) if p.name in layouts else a
        for p, a in zip(buffers, inputs, strict=True)
    ]
    sizes = {p: (dims or {})[p.name] for p in func.params if isinstance(p, Var)}
    expected = run(func, inputs, sizes)
    found = run(changed, relaid, sizes)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-5)
