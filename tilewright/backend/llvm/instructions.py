"""The tensor intrinsics of ``ir.isa`` as LLVM's intrinsics."""

from __future__ import annotations

from tilewright.backend.llvm.tensors import Implementation, Operand, implements

_BITS = {16: 512, 8: 256, 4: 128}
_WORDS = {
    16: "llvm.x86.avx512.pmaddw.d.512",
    8: "llvm.x86.avx2.pmadd.wd",
    4: "llvm.x86.sse2.pmadd.wd",
}


def register_all() -> None:
    """Say how this backend does the intrinsics of CPUs."""
    for lanes, bits in _BITS.items():
        pairs = f"<{lanes} x float>", f"<{2 * lanes} x bfloat>"
        quads = f"<{lanes} x i32>", f"<{4 * lanes} x i8>"
        by_quad = f"llvm.x86.avx512.vpdpbusd.{bits}"
        implements(f"x86.vfmadd.{lanes}")(_multiply_add(lanes))
        implements(f"x86.vdpbf16ps.{lanes}")(_dot(f"llvm.x86.avx512bf16.dpbf16ps.{bits}", lanes, *pairs))
        implements(f"x86.vpdpbusd.{lanes}")(_dot(by_quad, lanes, *quads))
        implements(f"x86.vpdpbusd.s8.{lanes}")(_flipped_dot(by_quad, lanes, *quads))
        words = f"<{lanes} x i32>", f"<{2 * lanes} x i16>"
        implements(f"x86.vpmaddwd.{lanes}")(_product_of_words(_WORDS[lanes], lanes, *words))
        if lanes < 16:
            implements(f"x86.vpdpbssd.{lanes}")(_dot(f"llvm.x86.avx2.vpdpbssd.{bits}", lanes, *quads))
    for name in ("sdot", "udot", "usdot"):
        arm = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
        implements(f"arm.{name}")(_dot(arm, 4, "<4 x i32>", "<16 x i8>"))
    implements("arm.bfdot")(_dot("llvm.aarch64.neon.bfdot.v4f32.v8bf16", 4, "<4 x float>", "<8 x bfloat>"))
    for name in ("smmla", "ummla", "usmmla"):
        arm = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
        implements(f"arm.{name}")(_matrix(arm, "<4 x i32>", "<16 x i8>"))
    implements("arm.bfmmla")(_matrix("llvm.aarch64.neon.bfmmla", "<4 x float>", "<8 x bfloat>"))


def _multiply_add(lanes: int) -> Implementation:
    """One element times a vector."""
    kind = f"<{lanes} x float>"

    def emit(a: Operand, b: Operand, c: Operand) -> None:
        factors = (kind, a.broadcast(kind, lanes)), (kind, b.vector(kind))
        c.write(c.call(f"llvm.fmuladd.v{lanes}f32", kind, *factors, (kind, c.vector(kind))), kind)

    return emit


def _dot(name: str, lanes: int, wide: str, narrow: str) -> Implementation:
    """An instruction of the accumulator, one broadcast group of 32 bits and a vector of such groups."""

    # Where both types are the same, the group that all lanes share comes last: there, x86 broadcasts from
    # memory, and AArch64 can take one of a register's.
    shared_last = "busd" not in name and "usdot" not in name

    def emit(a: Operand, b: Operand, c: Operand) -> None:
        operands = (narrow, a.broadcast(narrow, lanes)), (narrow, b.vector(narrow))
        if shared_last:
            operands = operands[1], operands[0]
        c.write(c.call(name, wide, (wide, c.vector(wide)), *operands), wide)

    return emit


def _product_of_words(name: str, lanes: int, wide: str, narrow: str) -> Implementation:
    """An instruction that sums products of pairs, and an addition."""

    def emit(a: Operand, b: Operand, c: Operand) -> None:
        sums = c.call(name, wide, (narrow, a.broadcast(narrow, lanes)), (narrow, b.vector(narrow)))
        c.write(c.ops.inst(f"add {wide} {c.vector(wide)}, {sums}"), wide)

    return emit


def _flipped_dot(name: str, lanes: int, wide: str, narrow: str) -> Implementation:
    """Like :func:`_dot`, the sign bits of the broadcast bytes flipped."""

    def emit(a: Operand, b: Operand, c: Operand) -> None:
        words = f"<{lanes} x i32>"
        flipped = a.ops.inst(f"xor {words} {a.broadcast(words, lanes)}, splat (i32 {0x80808080 - (1 << 32)})")
        flipped = a.ops.inst(f"bitcast {words} {flipped} to {narrow}")
        operands = (narrow, flipped), (narrow, b.vector(narrow))
        c.write(c.call(name, wide, (wide, c.vector(wide)), *operands), wide)

    return emit


def _matrix(name: str, wide: str, narrow: str) -> Implementation:
    """An instruction of a 2x2 accumulator and two operands of two rows of 64 bits."""

    def emit(a: Operand, b: Operand, c: Operand) -> None:
        operands = (narrow, a.rows(narrow)), (narrow, b.vector(narrow))
        c.write(c.call(name, wide, (wide, c.vector(wide)), *operands), wide)

    return emit


register_all()
