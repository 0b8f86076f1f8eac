"""The matrix products of a warp as PTX: ``mma.sync`` on the fragments of ``ir.isa.cuda``.

A thread holds its part of each operand in 32-bit registers, in the order of the fragment's places; narrow
elements are packed, the first one lowest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tilewright.backend.implementations import register_implementation
from tilewright.ir import dtype as dt
from tilewright.ir.isa.cuda import SHAPES, fragments

BACKEND = "cuda"
_PTX_TYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "tf32", "int8": "s8", "int32": "s32"}


@dataclasses.dataclass(frozen=True)
class Mma:
    """One shape of ``mma.sync``.

    Attributes:
        opcode: the PTX instruction.
        registers: 32-bit registers of A, B and C in one thread.
        wide: PTX type of C's registers, ``f32`` or ``s32``.
        rounding: PTX instruction that each register of A and B goes through first, or None.
    """

    opcode: str
    registers: tuple[int, int, int]
    wide: str
    rounding: str | None = None

    def ptx(self, c: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[str]:
        """The PTX lines of ``C += A @ B`` on registers by their names; A's and B's are changed where they
        are rounded. Raises ValueError for a wrong number of registers."""
        if (len(a), len(b), len(c)) != self.registers:
            raise ValueError(f"{self.opcode} takes {self.registers} registers of A, B and C")
        rounded = [] if self.rounding is None else [f"{self.rounding} {r}, {r};" for r in (*a, *b)]
        operands = ", ".join(f"{{{', '.join(part)}}}" for part in (c, a, b, c))
        return [*rounded, f"{self.opcode} {operands};"]

    def inline_assembly(self, c: str, a: str, b: str) -> str:
        """The same as one CUDA C++ statement on arrays ``c`` (float or int), ``a`` and ``b`` (unsigned)."""
        na, nb, nc = self.registers
        names = [f"%{n}" for n in range(nc + na + nb)]
        lines = self.ptx(names[:nc], names[nc : nc + na], names[nc + na :])
        text = "\\n\\t".join(lines)
        letter = "f" if self.wide == "f32" else "r"
        outputs = ", ".join(f'"+{letter}"({c}[{n}])' for n in range(nc))
        # Registers that rounding changes are outputs, too.
        if self.rounding is not None:
            changed = [f'"+r"({name}[{n}])' for name, count in ((a, na), (b, nb)) for n in range(count)]
            return f'asm volatile("{text}" : {", ".join([outputs, *changed])});'
        inputs = ", ".join(f'"r"({name}[{n}])' for name, count in ((a, na), (b, nb)) for n in range(count))
        return f'asm volatile("{text}" : {outputs} : {inputs});'


def _mma(name: str) -> Mma:
    m, n, k, narrow, wide = SHAPES[name]
    a, b, c = fragments(name)
    held = (a.held * dt.bits(narrow), b.held * dt.bits(narrow), c.held * 32)
    out, inner = "s32" if wide == "int32" else "f32", _PTX_TYPES[narrow]
    return Mma(
        f"mma.sync.aligned.m{m}n{n}k{k}.row.col.{out}.{inner}.{inner}.{out}",
        (held[0] // 32, held[1] // 32, held[2] // 32),
        out,
        "cvt.rna.tf32.f32" if inner == "tf32" else None,
    )


def register_all() -> None:
    """Say how CUDA does the matrix products of a warp."""
    for name in SHAPES:
        register_implementation(BACKEND, name, _mma(name))


register_all()
