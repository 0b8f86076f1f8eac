"""NVIDIA GPUs: matrix products of a warp (``mma.sync``), and which thread holds what of their operands.

``cuda.mma.m16n8k16.f16``, ``.bf16``
    16-bit floats, summed in float32 (sm_80).
``cuda.mma.m16n8k8.tf32``
    float32 rounded to tf32 first, summed in float32 (sm_80).
``cuda.mma.m16n8k32.s8``
    Signed bytes, summed exactly in int32 (sm_80).

The operands live in the registers of a warp's 32 threads (scope ``warp``), each in the layout that
:func:`fragments` gives. ``A`` is row-major (``row``), ``B`` has the reduction last (``col``).
"""

from __future__ import annotations

import dataclasses

from tilewright.ir.expr import Expr, Var
from tilewright.ir.isa.dot import matrix_tile
from tilewright.ir.stmt import OperandSpec
from tilewright.ir.tensor_intrinsics import register

WARP = 32
#: name -> (m, n, k, type of A and B, type of C)
SHAPES = {
    "cuda.mma.m16n8k16.f16": (16, 8, 16, "float16", "float32"),
    "cuda.mma.m16n8k16.bf16": (16, 8, 16, "bfloat16", "float32"),
    "cuda.mma.m16n8k8.tf32": (16, 8, 8, "float32", "float32"),
    "cuda.mma.m16n8k32.s8": (16, 8, 32, "int8", "int32"),
}


@dataclasses.dataclass(frozen=True)
class Fragment:
    """Where the elements of a matrix are in a warp: element ``[row, column]`` is number ``place`` of those
    that thread ``lane`` holds. Narrow elements are packed into 32-bit registers, the first one lowest.

    Attributes:
        row, column: variables over the matrix's dimensions.
        lane, place: expressions over them.
        held: elements that one thread holds.
    """

    row: Var
    column: Var
    lane: Expr
    place: Expr
    held: int


def register_all() -> None:
    """Register the intrinsics of this module."""
    warp = OperandSpec(("warp",), (None, None))
    for name, (m, n, k, narrow, wide) in SHAPES.items():
        text = matrix_tile(narrow, narrow, wide, m, n, k)
        if name.endswith("tf32"):
            text = text.replace("A[i, k] * B[j, k]", "tf32(A[i, k]) * tf32(B[j, k])")
        register(name, text, (warp, warp, warp), ("nvptx64", "sm_80"))


def fragments(name: str) -> tuple[Fragment, Fragment, Fragment]:
    """The layouts of A ``[m, k]``, B ``[n, k]`` and C ``[m, n]`` (PTX ISA, "Matrix Fragments for mma").

    Thread ``lane`` belongs to group ``lane // 4``; a group shares rows of A and C and a column of B. ``run``
    neighbours along the reduction share a 32-bit register.
    """
    m, n, k, _, _ = SHAPES[name]
    run = k // 8
    half = 4 * run  # reduction steps that the four threads of a group hold in one register each
    i, j, r = Var("i", lo=0, hi=m - 1), Var("j", lo=0, hi=n - 1), Var("k", lo=0, hi=k - 1)
    group = r % half // run
    a = Fragment(i, r, i % 8 * 4 + group, r // half * (2 * run) + i // 8 * run + r % run, 4 * run)
    b = Fragment(j, r, j * 4 + group, r // half * run + r % run, 2 * run)
    c = Fragment(i, j, i % 8 * 4 + j // 2, i // 8 * 2 + j % 2, 4)
    return a, b, c
