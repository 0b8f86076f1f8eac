"""3x3 convolution of stride 1 by Winograd's minimal filtering (``graph.winograd`` has the matrices)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.graph.shapes import Dim, as_dim, known
from tilewright.graph.winograd import POINTS, input_matrix, output_matrix, tile_size
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, const, select
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, format_shape
from tilewright.ops.slicing import pad_constant
from tilewright.ops.window import per_dim


class _Sizes(NamedTuple):
    """``m`` outputs and ``n`` inputs along a tile's side; ``tiles`` down and across; pads. What follows from
    the image's height and width is a number where these are."""

    m: int
    n: int
    tiles: tuple[Dim, Dim]
    out: tuple[Dim, Dim]
    before: tuple[int, int]
    after: tuple[Dim, Dim]
    channels: int


def _sizes(ctx: OpContext) -> _Sizes:
    x, u = ctx.input(0), ctx.input(1)
    m = int(ctx.attr("tile"))
    if m not in POINTS:
        ctx.fail(f"tiles of {m}x{m} outputs are not supported, only of {', '.join(map(str, sorted(POINTS)))}")
    n = tile_size(m)
    dims = [const_int(d) for d in u.shape]
    if x.rank != 4 or u.rank != 4 or dims[:2] != [n, n] or x.dtype != u.dtype or None in dims:
        ctx.fail(f"winograd_conv takes images and weights [{n}, {n}, CI, CO] of one float type")
    if const_int(x.shape[3]) not in (None, dims[2]):
        ctx.fail(f"the input channels do not fit weights {format_shape(u.shape)}")
    height, width = x.shape[1], x.shape[2]
    top, left, bottom, right = per_dim(ctx, "pads", 4, 0)
    out = (as_dim(height + (top + bottom - 2)), as_dim(width + (left + right - 2)))
    if any(isinstance(d, int) and d < 1 for d in out):
        ctx.fail(f"a window of 3 does not fit into an image of {height}x{width}")
    down, across = (as_dim((as_expr(d) + (m - 1)) // m) for d in out)
    # The last tiles read past the image: as if there were more padding.
    after = (
        as_dim(as_expr(down) * m + (2 - top) - height),
        as_dim(as_expr(across) * m + (2 - left) - width),
    )
    assert dims[3] is not None
    return _Sizes(m, n, (down, across), out, (top, left), after, dims[3])


def _infer(ctx: OpContext) -> list[TensorType]:
    s = _sizes(ctx)
    x = ctx.input(0)
    if ctx.has_input(2) and const_int(ctx.input(2).shape[0]) != s.channels:
        ctx.fail(f"the bias must hold {s.channels} numbers, not {ctx.input(2)}")
    return [TensorType((x.shape[0], as_expr(s.out[0]), as_expr(s.out[1]), as_expr(s.channels)), x.dtype)]


def _combine(matrix: np.ndarray, values: Sequence[Expr], dtype: str) -> list[Expr]:
    """``matrix @ values`` as expressions, without the zeros."""

    def total(row: np.ndarray) -> Expr:
        result: Expr | None = None
        # Coefficients of one last: sums of products then become multiply-adds.
        for factor, value in sorted(zip(row, values, strict=True), key=lambda t: abs(t[0]) != 1):
            if factor == 0:
                continue
            if result is None:
                result = value if factor == 1 else value * const(float(factor), dtype)
            elif factor == 1:
                result = result + value
            elif factor == -1:
                result = result - value
            else:
                result = result + value * const(float(factor), dtype)
        assert result is not None
        return result

    return [total(row) for row in matrix]


def _evaluate(m: int, d: Sequence[Expr], dtype: str) -> list[Expr]:
    """``B^T d``. The rows of points of opposite sign share their even and their odd part."""
    matrix = input_matrix(m)
    result = _combine(matrix, d, dtype)
    for k in range(len(POINTS[m])):
        up, down = 1 + 2 * k, 2 + 2 * k
        halves = np.stack([(matrix[up] + matrix[down]) / 2, (matrix[up] - matrix[down]) / 2])
        even, odd = _combine(halves, d, dtype)
        result[up], result[down] = even + odd, even - odd
    return result


def _interpolate(m: int, d: Sequence[Expr], dtype: str) -> list[Expr]:
    """``A^T d``. Values at points of opposite sign enter every row as their sum or as their difference."""
    matrix = output_matrix(m)
    sums = [d[1 + 2 * k] + d[2 + 2 * k] for k in range(len(POINTS[m]))]
    differences = [d[1 + 2 * k] - d[2 + 2 * k] for k in range(len(POINTS[m]))]
    rows = []
    for power in range(m):
        pairs = differences if power % 2 else sums
        factors = [matrix[power, 0], *matrix[power, 1:-1:2], matrix[power, -1]]
        rows += _combine(np.array([factors]), [d[0], *pairs, d[-1]], dtype)
    return rows


def _pick(index: Expr, values: Sequence[Expr]) -> Expr:
    """``values[index]``; unrolled loops over the index leave only the value itself."""
    result = values[-1]
    for number in range(len(values) - 2, -1, -1):
        result = select(index.eq(number), values[number], result)
    return result


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    x, u = inputs[0], inputs[1]
    s, dtype = _sizes(ctx), inputs[0].dtype
    m, n, batch = s.m, s.n, x.shape[0]
    down, across = s.tiles
    pads = [(0, 0), (s.before[0], s.after[0]), (s.before[1], s.after[1]), (0, 0)]
    padded = pad_constant(x, pads, const(0.0, dtype))

    def stage(name: str, shape: Sequence[int], channels: Expr | int, body: Callable[..., Expr]) -> te.Tensor:
        return te.compute((*shape, batch, down, across, channels), body, name)

    ci, co = x.shape[3], s.channels
    columns = stage(
        "winograd_columns",
        (n, n),
        ci,
        lambda a, j, b, y, z, c: _pick(
            a, _evaluate(m, [padded[b, y * m + i, z * m + j, c] for i in range(n)], dtype)
        ),
    )
    data = stage(
        "winograd_data",
        (n, n),
        ci,
        lambda a, e, b, y, z, c: _pick(e, _evaluate(m, [columns[a, j, b, y, z, c] for j in range(n)], dtype)),
    )
    product = stage(
        "winograd",
        (n, n),
        co,
        lambda a, e, b, y, z, o: te.reduce("sum", (ci,), lambda k: data[a, e, b, y, z, k] * u[a, e, k, o]),
    )
    rows = stage(
        "winograd_rows",
        (m, n),
        co,
        lambda p, e, b, y, z, o: _pick(
            p, _interpolate(m, [product[a, e, b, y, z, o] for a in range(n)], dtype)
        ),
    )

    def output(b: Expr, h: Expr, w: Expr, o: Expr) -> Expr:
        tile = [rows[h % m, e, b, h // m, w // m, o] for e in range(n)]
        return _pick(w % m, _interpolate(m, tile, dtype))

    result = te.compute((batch, *s.out, co), output, "winograd_output")
    bias = inputs[2] if len(inputs) > 2 else None
    if bias is not None:
        result = te.compute(result.shape, lambda *i: result[i] + bias[i[3]], "bias")
    return [result]


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    x, u = inputs[0], inputs[1]
    s = _sizes(ctx)
    (down, across), out, after = known(s.tiles), known(s.out), known(s.after)
    bt, at = input_matrix(s.m).astype(x.dtype), output_matrix(s.m).astype(x.dtype)
    padded = np.pad(x, [(0, 0), (s.before[0], after[0]), (s.before[1], after[1]), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (s.n, s.n), axis=(1, 2))
    tiles = windows[:, :: s.m, :: s.m]
    data = np.einsum("ai,ej,byzcij->aebyzc", bt, bt, tiles, optimize=True)
    product = np.einsum("aebyzc,aeco->aebyzo", data, u, optimize=True)
    result = np.einsum("pa,qe,aebyzo->bypzqo", at, at, product, optimize=True)
    result = result.reshape(x.shape[0], down * s.m, across * s.m, s.channels)
    result = np.ascontiguousarray(result[:, : out[0], : out[1]])
    if len(inputs) > 2 and inputs[2] is not None:
        result = result + inputs[2]
    return [result]


#: Attributes: ``tile`` (2 or 4), ``pads``. Inputs: x ``[N, H, W, CI]``, transformed weights, bias.
register(OpDef("winograd_conv", FusionKind.contraction, infer=_infer, compute=_compute, reference=_reference))
