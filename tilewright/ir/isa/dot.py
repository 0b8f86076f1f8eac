"""Meanings that several instruction sets share: products of a register tile, as text IR."""

from __future__ import annotations


def broadcast_dot(a: str, b: str, c: str, lanes: int, depth: int) -> str:
    """``C[j] += sum_k A[k] * B[j, k]``: each lane adds the products of ``depth`` neighbours of its own with
    the same ones of ``A``, in the type ``c``.
    """
    return f"""
@primfunc({{"outputs": 1}})
def dot(A: {a}[{depth}], B: {b}[{lanes}, {depth}], C: {c}[{lanes}]):
    for j in serial({lanes}):
        for k in serial({depth}):
            C[j] = C[j] + {_wide("A[k]", a, c)} * {_wide("B[j, k]", b, c)}
"""


def matrix_tile(a: str, b: str, c: str, m: int, n: int, depth: int) -> str:
    """``C[i, j] += sum_k A[i, k] * B[j, k]``: a small matrix product whose operands both have the reduction
    last.
    """
    return f"""
@primfunc({{"outputs": 1}})
def product(A: {a}[{m}, {depth}], B: {b}[{n}, {depth}], C: {c}[{m}, {n}]):
    for i in serial({m}):
        for j in serial({n}):
            for k in serial({depth}):
                C[i, j] = C[i, j] + {_wide("A[i, k]", a, c)} * {_wide("B[j, k]", b, c)}
"""


def _wide(value: str, dtype: str, wide: str) -> str:
    return value if dtype == wide else f"{wide}({value})"
