"""x86-64: multiply-adds of one broadcast element, pair or quad with a vector.

``x86.vfmadd.N``
    ``vfmadd231ps``: a float32 times N lanes.
``x86.vdpbf16ps.N``
    AVX512_BF16: a pair of bfloat16 times N pairs, summed in float32. The instruction takes denormals for zero
    and adds the products one after the other, each rounded.
``x86.vpdpbusd.N``
    AVX512_VNNI: four unsigned bytes times N times four signed ones, summed exactly in int32.
``x86.vpdpbusd.s8.N``
    The same instruction on four signed bytes with their sign bit flipped: the products of ``a + 128``, from
    which 128 times the sum of the other operand is to be subtracted (``offset_operand``).
``x86.vpdpbssd.N``
    AVX_VNNI_INT8: both operands signed.
``x86.vpmaddwd.N``
    A pair of 16-bit integers times N pairs, summed exactly in int32, which plain additions accumulate: what
    there is before VNNI.

N is 16, 8 or 4: vectors of 512, 256 or 128 bits.
"""

from __future__ import annotations

from tilewright.ir.isa.dot import broadcast_dot
from tilewright.ir.stmt import OperandSpec
from tilewright.ir.tensor_intrinsics import register

_LANES = (16, 8, 4)
_OPERANDS = (OperandSpec(("global", "register")),) * 3


def register_all() -> None:
    """Register the intrinsics of this module."""
    for lanes in _LANES:
        # AVX_VNNI is AVX512_VNNI without AVX-512, for the shorter vectors.
        evex = "avx512f" if lanes == 16 else "avx512vl"
        bytes_ = ("avx512vnni", evex) if lanes == 16 else ("avx512vnni|avxvnni", f"{evex}|avxvnni")
        register(
            f"x86.vfmadd.{lanes}",
            _multiply_add(lanes),
            (OperandSpec(strides=(None,)), *_OPERANDS[1:]),
            ("x86_64", "avx512f" if lanes == 16 else "fma"),
        )
        pairs = broadcast_dot("bfloat16", "bfloat16", "float32", lanes, 2)
        quads = broadcast_dot("uint8", "int8", "int32", lanes, 4)
        register(f"x86.vdpbf16ps.{lanes}", pairs, _OPERANDS, ("x86_64", "avx512bf16", evex))
        register(f"x86.vpdpbusd.{lanes}", quads, _OPERANDS, ("x86_64", *bytes_))
        register(f"x86.vpdpbusd.s8.{lanes}", _flipped(lanes), _OPERANDS, ("x86_64", *bytes_))
        words = broadcast_dot("int16", "int16", "int32", lanes, 2)
        register(f"x86.vpmaddwd.{lanes}", words, _OPERANDS, ("x86_64", "avx512bw" if lanes == 16 else "avx2"))
        if lanes < 16:
            text = broadcast_dot("int8", "int8", "int32", lanes, 4)
            register(f"x86.vpdpbssd.{lanes}", text, _OPERANDS, ("x86_64", "avxvnniint8"))


def _multiply_add(lanes: int) -> str:
    return f"""
@primfunc({{"outputs": 1}})
def multiply_add(A: float32[1], B: float32[{lanes}], C: float32[{lanes}]):
    for j in serial({lanes}):
        C[j] = C[j] + A[0] * B[j]
"""


def _flipped(lanes: int) -> str:
    return f"""
@primfunc({{"outputs": 1}})
def dot(A: int8[4], B: int8[{lanes}, 4], C: int32[{lanes}]):
    for j in serial({lanes}):
        for k in serial(4):
            C[j] = C[j] + int32(uint8(A[k]) ^ uint8(128)) * int32(B[j, k])
"""
