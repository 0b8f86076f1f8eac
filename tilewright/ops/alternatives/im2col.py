"""Convolution as a matrix product over patches: each output position's window laid out as one row.

The direct way reads the image in place, tap by tap. The rows are made in blocks, as many as one register tile
has (``schedule.rules.windows``), so that a block stays in the first-level cache while it is used; the whole
matrix, kernel-size times the image, never exists. What the copy can gain is that a tile reads one short,
gapless piece of memory; docs/alternatives.md says what it does.
"""

from __future__ import annotations

from math import prod

from tilewright.graph.alternatives import Alternative, Numerics, register_alternative
from tilewright.graph.opdef import OpContext
from tilewright.ir import te
from tilewright.ir.expr import Expr
from tilewright.ops.alternatives.chunks import is_static
from tilewright.ops.common import Operands
from tilewright.ops.contract import (
    accumulator,
    add_bias,
    conv_infer,
    conv_sizes,
    padded_data,
    result_dtype,
)


def _applies(ctx: OpContext) -> bool:
    if not is_static(ctx):
        return False
    conv = conv_sizes(ctx)
    return conv.groups == 1 and conv.last and prod(w.size for w in conv.windows) > 1


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    weight = inputs[1]
    conv, wide = conv_sizes(ctx), accumulator(ctx)
    padded = padded_data(conv, inputs)
    shape, rank = conv_infer(ctx)[0].shape, len(conv.windows)

    def patch(*i: Expr) -> Expr:
        spatial, taps = i[1 : 1 + rank], i[1 + rank : 1 + 2 * rank]
        where = [p * w.stride + t * w.dilation for p, t, w in zip(spatial, taps, conv.windows, strict=True)]
        return padded[(i[0], *where, i[-1])]

    taps = [w.size for w in conv.windows]
    patches = te.compute((*shape[:-1], *taps, conv.ci), patch, "patches")

    def body(*i: Expr) -> Expr:
        def term(*r: Expr) -> Expr:
            return patches[(*i[:-1], *r)].astype(wide) * weight[(*r, i[-1])].astype(wide)

        return te.reduce("sum", [*taps, conv.ci], term)

    bias = inputs[2] if len(inputs) > 2 else None
    return [add_bias(te.compute(shape, body, "conv"), bias, len(shape) - 1, result_dtype(ctx))]


register_alternative(Alternative("conv", "im2col", _applies, compute=_compute, numerics=Numerics.reordered))
