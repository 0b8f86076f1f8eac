"""Contractions whose reduction is split: partial sums over parts of the reduced axis, then their sum.

A product has as many independent tasks as its result has register tiles. With few rows and columns and a long
reduction that leaves threads without work, and with less than a tile a core waits for one chain of
multiply-adds. The parts are independent of each other. The price is writing and reading the partial sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from tilewright.graph.alternatives import Alternative, Numerics, register_alternative
from tilewright.graph.opdef import OpContext
from tilewright.ir import te
from tilewright.ir.expr import Expr
from tilewright.ir.visit import const_int
from tilewright.ops.alternatives.chunks import Chunks, is_static
from tilewright.ops.common import Operands, broadcast_index
from tilewright.ops.contract import (
    accumulator,
    add_bias,
    conv_infer,
    conv_sizes,
    matmul_infer,
    narrowed,
    padded_data,
    result_dtype,
)
from tilewright.ops.window import arrange

#: Into how many parts.
PARTS: Final = (4, 16)
#: Steps that a part of a product's reduction has at least.
MIN_STEPS: Final = 32
#: Channels that a part of a convolution's reduction has at least.
MIN_CHANNELS: Final = 16


def _split(extent: int, count: int) -> Chunks:
    """``extent`` in ``count`` parts of one length; the last one may be shorter."""
    length = -(-extent // count)
    return Chunks(0, extent, -(-extent // length), length)


def _total(parts: te.Tensor, name: str) -> te.Tensor:
    """The sum over the first dimension."""
    count, shape = parts.shape[0], parts.shape[1:]
    return te.compute(shape, lambda *i: te.reduce("sum", [count], lambda c: parts[(c, *i)]), name)


# -------------------------------------------------------------------------------------------------- matmul
def _matmul_applies(count: int, ctx: OpContext) -> bool:
    return is_static(ctx) and (const_int(ctx.input(0).shape[-1]) or 0) >= count * MIN_STEPS


def _matmul(count: int, ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    a, b = inputs
    shape, wide = matmul_infer(ctx)[0].shape, accumulator(ctx)
    extent = const_int(a.shape[-1])
    assert extent is not None
    split = _split(extent, count)

    def body(part: Expr, *i: Expr) -> Expr:
        *batch, m, n = i
        rows = broadcast_index(a.shape[:-2], shape[:-2], batch)
        columns = broadcast_index(b.shape[:-2], shape[:-2], batch)

        def term(r: Expr) -> Expr:
            k = split.position(part, r)
            value = a[(*rows, m, k)].astype(wide) * b[(*columns, k, n)].astype(wide)
            return split.guarded(k, value, "sum")

        return te.reduce("sum", [split.length], term)

    parts = te.compute((split.count, *shape), body, "matmul_part")
    return [narrowed(_total(parts, "matmul"), result_dtype(ctx))]


# ---------------------------------------------------------------------------------------------------- conv
def _conv_applies(count: int, ctx: OpContext) -> bool:
    if not is_static(ctx):
        return False
    conv = conv_sizes(ctx)
    return conv.groups == 1 and conv.ci >= count * MIN_CHANNELS


def _conv(count: int, ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    weight = inputs[1]
    conv, wide = conv_sizes(ctx), accumulator(ctx)
    padded = padded_data(conv, inputs)
    shape, last, rank = conv_infer(ctx)[0].shape, conv.last, len(conv.windows)
    split = _split(conv.ci, count)

    def body(part: Expr, *i: Expr) -> Expr:
        n, co, spatial = (i[0], i[-1], i[1:-1]) if last else (i[0], i[1], i[2:])

        def term(*r: Expr) -> Expr:
            taps: Sequence[Expr] = r[:rank]
            ci = split.position(part, r[rank])
            where = [
                p * w.stride + t * w.dilation for p, t, w in zip(spatial, taps, conv.windows, strict=True)
            ]
            value = padded[arrange(last, n, ci, where)].astype(wide)
            tap = weight[(*taps, ci, co) if last else (co, ci, *taps)].astype(wide)
            return split.guarded(ci, value * tap, "sum")

        return te.reduce("sum", [*(w.size for w in conv.windows), split.length], term)

    parts = te.compute((split.count, *shape), body, "conv_part")
    bias = inputs[2] if len(inputs) > 2 else None
    return [add_bias(_total(parts, "conv"), bias, len(shape) - 1 if last else 1, result_dtype(ctx))]


for _count in PARTS:
    for _op, _applies, _compute in (("matmul", _matmul_applies, _matmul), ("conv", _conv_applies, _conv)):
        register_alternative(
            Alternative(
                _op,
                f"split_k{_count}",
                partial(_applies, _count),
                compute=partial(_compute, _count),
                numerics=Numerics.reordered,
            )
        )
