"""com.microsoft.MatMulNBits: products with weights of few bits, which stay packed."""

from __future__ import annotations

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.microsoft import DOMAIN
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.graph.storage import pack_blocks
from tilewright.ops.common import product


@onnx_op("MatMulNBits", 1, domain=DOMAIN, limits="no g_idx; weights must be known")
def matmul_nbits(ctx: NodeContext) -> Value:
    """A product with weights of 2, 4 or 8 bits, dequantized in registers; sums are kept in float32 whatever
    accuracy_level allows.
    """
    a, bits = ctx.value(0), int(ctx.attr("bits", 4))
    depth, columns, block = (int(ctx.attr(n)) for n in ("K", "N", "block_size"))
    if bits not in (2, 4, 8) or ctx.has(4):
        ctx.unsupported(f"weights of {bits} bits{' in another order (g_idx)' if ctx.has(4) else ''}")
    if block < 16 or block & (block - 1):
        ctx.fail(f"block_size must be a power of two of at least 16, not {block}")
    blocks = -(-depth // block)
    packed = ctx.require_data(1, "the weights of MatMulNBits")
    scales = ctx.require_data(2, "the scales of MatMulNBits")
    if packed.size != columns * blocks * block * bits // 8 or scales.size != columns * blocks:
        ctx.fail(
            f"{columns} columns of {blocks} blocks of {block} weights do not fit {ctx.value(1).type} and "
            f"scales {ctx.value(2).type}"
        )
    codes = _codes(packed, bits).reshape(columns, blocks, block).transpose(1, 2, 0)
    scale = np.ascontiguousarray(scales.reshape(columns, blocks).T.astype(np.float32))
    zeros: np.ndarray | float = 2.0 ** (bits - 1)
    if ctx.has(3):
        given = ctx.require_data(3, "the zero points of MatMulNBits")
        whole = _codes(given.reshape(columns, -1), bits)[:, :blocks] if given.dtype == np.uint8 else given
        zeros = whole.reshape(columns, blocks).T.astype(np.float32)
    rows = a.shape[:-1]
    flat = a if a.rank == 2 else ctx.reshape(a, [product(rows), a.shape[-1]])
    if blocks * block > depth:
        flat = ctx.op("pad", flat, pads=(0, 0, 0, blocks * block - depth), mode="constant")
    y = ctx.op(
        "matmul_nbits",
        flat,
        ctx.constant(pack_blocks(codes, bits), "uint8"),
        ctx.constant(scale, "float32"),
        ctx.constant(np.ascontiguousarray(scale * zeros), "float32"),
        bits=bits,
    )
    y = y if a.rank == 2 else ctx.reshape(y, [*rows, columns])
    return ctx.op("add", y, ctx.value(5)) if ctx.has(5) else y


def _codes(data: np.ndarray, bits: int) -> np.ndarray:
    """Bytes as the numbers of ``bits`` bits in them, low bits first, along the last dimension."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (data[..., None] >> shifts) & ((1 << bits) - 1)
    return np.asarray(parts.reshape(*data.shape[:-1], -1))
