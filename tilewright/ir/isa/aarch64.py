"""AArch64 (Advanced SIMD): dot products by lane and 2x2 matrix products.

``arm.sdot``, ``arm.udot``, ``arm.usdot``
    Four bytes times four times four bytes, summed exactly in 32 bits: both signed, both unsigned, or
    unsigned times signed (FEAT_DotProd; FEAT_I8MM).
``arm.smmla``, ``arm.ummla``, ``arm.usmmla``
    Two rows of eight bytes times two rows of eight (FEAT_I8MM).
``arm.bfdot``, ``arm.bfmmla``
    The same of two and four bfloat16, summed in float32 (FEAT_BF16). The sums are rounded to odd and take
    denormals for zero, unless FEAT_EBF16 is switched on.
"""

from __future__ import annotations

from tilewright.ir.isa.dot import broadcast_dot, matrix_tile
from tilewright.ir.stmt import OperandSpec
from tilewright.ir.tensor_intrinsics import register

_OPERANDS = (OperandSpec(("global", "register")),) * 3


def register_all() -> None:
    """Register the intrinsics of this module."""
    for name, a, b, c, feature in (
        ("sdot", "int8", "int8", "int32", "dotprod"),
        ("udot", "uint8", "uint8", "uint32", "dotprod"),
        ("usdot", "uint8", "int8", "int32", "i8mm"),
    ):
        register(f"arm.{name}", broadcast_dot(a, b, c, 4, 4), _OPERANDS, ("aarch64", feature))
    for name, a, b, c in (
        ("smmla", "int8", "int8", "int32"),
        ("ummla", "uint8", "uint8", "uint32"),
        ("usmmla", "uint8", "int8", "int32"),
    ):
        rows = OperandSpec(("global", "register"), (None, 1))
        specs = (rows, *_OPERANDS[1:])
        register(f"arm.{name}", matrix_tile(a, b, c, 2, 2, 8), specs, ("aarch64", "i8mm"))
    register(
        "arm.bfdot", broadcast_dot("bfloat16", "bfloat16", "float32", 4, 2), _OPERANDS, ("aarch64", "bf16")
    )
    register(
        "arm.bfmmla",
        matrix_tile("bfloat16", "bfloat16", "float32", 2, 2, 4),
        (OperandSpec(("global", "register"), (None, 1)), *_OPERANDS[1:]),
        ("aarch64", "bf16"),
    )
