"""Collapsing dimensions: what merges, what must not, and that nothing changes in value."""

from __future__ import annotations

import numpy as np

from tilewright.ir import te
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.expr import maximum, select
from tilewright.ir.interp import run
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import find_blocks


def shapes(func: PrimFunc) -> list[tuple[int, ...] | None]:
    return [p.static_shape for p in func.params if isinstance(p, Buffer)]


def same_values(func: PrimFunc, collapsed: PrimFunc) -> None:
    rng = np.random.default_rng(0)
    inputs = [
        np.asarray(rng.standard_normal(p.static_shape), p.dtype) for p in func.inputs if isinstance(p, Buffer)
    ]
    flat = [
        x.reshape(p.static_shape)
        for x, p in zip(inputs, collapsed.inputs, strict=True)
        if isinstance(p, Buffer)
    ]
    for expected, got in zip(run(func, inputs), run(collapsed, flat), strict=True):
        np.testing.assert_allclose(got.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


def test_pointwise_convolution_becomes_a_matrix_product() -> None:
    x = te.placeholder((1, 4, 5, 3), "float32", "x")
    w = te.placeholder((1, 1, 3, 8), "float32", "w")
    b = te.placeholder((8,), "float32", "b")
    conv = te.compute(
        (1, 4, 5, 8),
        lambda n, h, v, o: te.reduce("sum", (1, 1, 3), lambda r, s, i: x[n, h + r, v + s, i] * w[r, s, i, o]),
        "conv",
    )
    out = te.compute((1, 4, 5, 8), lambda n, h, v, o: maximum(conv[n, h, v, o] + b[o], 0.0), "out")
    func = te.primfunc("pointwise", [x, w, b], [out], const_inputs=[w, b])
    collapsed = collapse_dims(func)
    assert shapes(collapsed) == [(20, 3), (3, 8), (8,), (20, 8)]
    assert [len(block.iters) for block in find_blocks(collapsed.body)] == [3, 2]
    same_values(func, collapsed)


def test_elementwise_chain_becomes_one_loop() -> None:
    x = te.placeholder((2, 3, 4), "float32", "x")
    y = te.placeholder((2, 3, 4), "float32", "y")
    s = te.compute((2, 3, 4), lambda i, j, k: x[i, j, k] + y[i, j, k], "s")
    out = te.compute((2, 3, 4), lambda i, j, k: s[i, j, k] * 2.0, "out")
    func = te.primfunc("chain", [x, y], [out])
    collapsed = collapse_dims(func)
    assert shapes(collapsed) == [(24,), (24,), (24,)]
    same_values(func, collapsed)


def test_broadcast_keeps_the_dimension_it_walks_alone() -> None:
    x = te.placeholder((2, 3, 4, 5), "float32", "x")
    scale = te.placeholder((2, 1, 1, 5), "float32", "scale")
    out = te.compute((2, 3, 4, 5), lambda n, h, w, c: x[n, h, w, c] * scale[n, 0, 0, c], "out")
    func = te.primfunc("scale", [x, scale], [out])
    collapsed = collapse_dims(func)
    assert shapes(collapsed) == [(2, 12, 5), (2, 5), (2, 12, 5)]
    same_values(func, collapsed)


def test_padding_keeps_spatial_dimensions_apart() -> None:
    x = te.placeholder((1, 4, 4, 3), "float32", "x")
    pad = te.compute(
        (1, 6, 6, 3),
        lambda n, h, w, c: select((h >= 1) & (h < 5) & (w >= 1) & (w < 5), x[n, h - 1, w - 1, c], 0.0),
        "pad",
    )
    func = te.primfunc("pad", [x], [pad])
    collapsed = collapse_dims(func)
    assert shapes(collapsed) == [(4, 4, 3), (6, 6, 3)]
    same_values(func, collapsed)


def test_transpose_merges_nothing_it_permutes() -> None:
    x = te.placeholder((3, 4, 5), "float32", "x")
    out = te.compute((5, 3, 4), lambda c, h, w: x[h, w, c], "out")
    func = te.primfunc("transpose", [x], [out])
    collapsed = collapse_dims(func)
    assert shapes(collapsed) == [(12, 5), (5, 12)]
    same_values(func, collapsed)


def test_reduced_dimensions_merge_with_reduced_ones_only() -> None:
    x = te.placeholder((2, 4, 5, 3), "float32", "x")
    out = te.compute((2, 3), lambda n, c: te.reduce("sum", (4, 5), lambda h, w: x[n, h, w, c]), "mean")
    func = te.primfunc("pool", [x], [out])
    collapsed = collapse_dims(func)
    assert shapes(collapsed) == [(2, 20, 3), (2, 3)]
    same_values(func, collapsed)


def test_index_used_as_a_value_stays() -> None:
    x = te.placeholder((4, 5), "float32", "x")
    out = te.compute((4, 5), lambda i, j: select(i >= j, x[i, j], 0.0), "out")
    func = te.primfunc("tril", [x], [out])
    collapsed = collapse_dims(func)
    assert shapes(collapsed) == [(4, 5), (4, 5)]
    same_values(func, collapsed)


def test_scalar_output() -> None:
    x = te.placeholder((1, 7), "float32", "x")
    out = te.compute((1,), lambda i: te.reduce("max", (7,), lambda k: x[i, k]), "out")
    func = te.primfunc("top", [x], [out])
    same_values(func, collapse_dims(func))
