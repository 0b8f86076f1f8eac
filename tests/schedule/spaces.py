"""Functions whose search spaces are tested: one of each kind of structure, with odd sizes."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.ir import te
from tilewright.ir.expr import Expr, call, maximum, select
from tilewright.ir.stmt import PrimFunc


def dense() -> PrimFunc:
    """A product with constant weights and an elementwise epilogue."""
    a = te.placeholder((19, 13), "float32", "a")
    w = te.placeholder((13, 50), "float32", "w")
    c = te.compute((19, 50), lambda i, j: te.reduce("sum", (13,), lambda k: a[i, k] * w[k, j]), "c")
    d = te.compute((19, 50), lambda i, j: maximum(c[i, j], 0.0), "d")
    return te.primfunc("dense", [a, w], [d], const_inputs=[w])


def convolution() -> PrimFunc:
    """3x3, stride 2, padded, channels last, with bias."""
    x = te.placeholder((1, 9, 11, 5), "float32", "x")
    w = te.placeholder((3, 3, 5, 20), "float32", "w")
    bias = te.placeholder((20,), "float32", "bias")

    def padded(n: Expr, h: Expr, v: Expr, c: Expr) -> Expr:
        inside = (h >= 1) & (h < 10) & (v >= 1) & (v < 12)
        return select(inside, x[n, h - 1, v - 1, c], 0.0)

    p = te.compute((1, 11, 13, 5), padded, "p")
    y = te.compute(
        (1, 5, 6, 20),
        lambda n, h, v, o: te.reduce(
            "sum", (3, 3, 5), lambda i, j, c: p[n, h * 2 + i, v * 2 + j, c] * w[i, j, c, o]
        ),
        "y",
    )
    z = te.compute((1, 5, 6, 20), lambda n, h, v, o: maximum(y[n, h, v, o] + bias[o], 0.0), "z")
    return te.primfunc("convolution", [x, w, bias], [z], const_inputs=[w, bias])


def depthwise() -> PrimFunc:
    """3x3 over every channel by itself."""
    x = te.placeholder((9, 8, 21), "float32", "x")
    w = te.placeholder((3, 3, 21), "float32", "w")
    y = te.compute(
        (7, 6, 21),
        lambda h, v, c: te.reduce("sum", (3, 3), lambda i, j: x[h + i, v + j, c] * w[i, j, c]),
        "y",
    )
    return te.primfunc("depthwise", [x, w], [y], const_inputs=[w])


def softmax() -> PrimFunc:
    """Along rows."""
    x = te.placeholder((6, 70), "float32", "x")
    m = te.compute((6,), lambda i: te.reduce("max", (70,), lambda k: x[i, k]), "m")
    e = te.compute((6, 70), lambda i, j: call("exp", [x[i, j] - m[i]]), "e")
    s = te.compute((6,), lambda i: te.reduce("sum", (70,), lambda k: e[i, k]), "s")
    y = te.compute((6, 70), lambda i, j: e[i, j] / s[i], "y")
    return te.primfunc("softmax", [x], [y])


def transposition() -> PrimFunc:
    x = te.placeholder((37, 22), "float32", "x")
    return te.primfunc("transposition", [x], [te.compute((22, 37), lambda i, j: x[j, i] * 2.0, "y")])


def reflection() -> PrimFunc:
    """Reflected padding: indices chosen by conditions."""
    x = te.placeholder((40,), "float32", "x")

    def at(i: Expr) -> Expr:
        j = i - 3
        return x[select(j < 0, -1 * j, select(j > 39, 78 - j, j))]

    return te.primfunc("reflection", [x], [te.compute((46,), at, "y")])


def many_columns() -> PrimFunc:
    """A sum over the first axis, and one over the second."""
    x = te.placeholder((30, 34), "float32", "x")
    a = te.compute((34,), lambda j: te.reduce("sum", (30,), lambda k: x[k, j]), "a")
    b = te.compute((30,), lambda i: te.reduce("max", (34,), lambda k: x[i, k]), "b")
    return te.primfunc("many_columns", [x], [a, b])


FUNCTIONS: dict[str, Callable[[], PrimFunc]] = {
    f.__name__: f for f in (dense, convolution, depthwise, softmax, transposition, reflection, many_columns)
}
