"""Products with weights of 2, 4 or 8 bits in blocks, which are read packed and dequantized in registers.

Along the reduction the weights are cut into blocks of equal length, each with a scale and an offset for every
column: ``w[k, n] = q[k, n] * scale[k // block, n] - offset[k // block, n]``. The bytes lie so that one vector
of them holds the same rows of neighbouring columns: the byte ``[b, j, n]`` has, from its low bits on, the
elements ``k = b * block + p * (block / per) + j`` of column ``n`` for the parts ``p = 0 .. per - 1`` of the
block, where ``per`` elements share a byte. Taking a part out of a vector is a shift and a mask.
"""

from __future__ import annotations

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import te
from tilewright.ir.expr import Expr, binop
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, as_dtype, format_shape
from tilewright.ops.contract import narrowed, widened


def _infer(ctx: OpContext) -> list[TensorType]:
    a, weights, scale, offset = (ctx.input(n) for n in range(4))
    bits = int(ctx.attr("bits"))
    if bits not in (2, 4, 8):
        ctx.fail(f"'matmul_nbits' takes weights of 2, 4 or 8 bits, not {bits}")
    if a.rank != 2 or a.dtype not in ("float16", "bfloat16", "float32") or weights.rank != 3:
        ctx.fail("'matmul_nbits' takes a matrix of floats and weights [blocks, bytes, columns]")
    blocks, held, columns = weights.shape
    depth = const_int(blocks * held * (8 // bits))
    if weights.dtype != "uint8" or const_int(a.shape[1]) != depth:
        ctx.fail(f"'matmul_nbits' takes {depth} columns and bytes, not {a} and {weights}")
    for kind in (scale, offset):
        if kind.dtype != "float32" or kind.shape != (blocks, columns):
            ctx.fail(f"scales and offsets must be float32{format_shape([blocks, columns])}, not {kind}")
    return [TensorType((a.shape[0], columns), a.dtype)]


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    a, weights, scale, offset = inputs
    bits = int(ctx.attr("bits"))
    per = 8 // bits
    blocks, held, _ = weights.shape
    wide = widened(a)

    def body(m: Expr, n: Expr) -> Expr:
        def term(b: Expr, j: Expr, p: Expr) -> Expr:
            word = weights[b, j, n].astype("int32")
            code = word if per == 1 else binop("shr", word, (p * bits).astype("int32")) & (1 << bits) - 1
            weight = code.astype("float32") * scale[b, n] - offset[b, n]
            return wide[m, (b * per + p) * held + j] * weight

        # The parts of a byte last: they are one load.
        return te.reduce("sum", [blocks, held, per], term)

    (kind,) = _infer(ctx)
    return [narrowed(te.compute(kind.shape, body, "matmul_nbits"), a.dtype)]


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    a, weights, scale, offset = inputs
    bits = int(ctx.attr("bits"))
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None, None]
    codes = (weights[:, None] >> shifts & (1 << bits) - 1).astype(np.float32)
    dense = codes * scale[:, None, None] - offset[:, None, None]
    product = a.astype(np.float32) @ dense.reshape(-1, weights.shape[2])
    return [as_dtype(product, a.dtype.name)]


register(
    OpDef("matmul_nbits", FusionKind.contraction, infer=_infer, compute=_compute, reference=_reference)
)
