"""Tensor intrinsics in LLVM: one instruction a call, loads where they belong, and the right numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.backend.kernels import Kernel
from tests.backend.test_assembly import inner_loop
from tests.schedule.tensor_programs import assert_equal, by_dots, by_matrices, inputs_of
from tilewright.backend.implementations import implementation, implemented, register_implementation
from tilewright.backend.llvm.asm import assembly, count_spills
from tilewright.backend.llvm.compile import compile_many
from tilewright.backend.llvm.emit import emit_kernel
from tilewright.backend.llvm.tensors import Operand, implements
from tilewright.errors import IntrinsicError, TargetError
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.tensor_intrinsics import register, tensor_intrinsic, tensor_intrinsics
from tilewright.lower import lower
from tilewright.schedule import Schedule
from tilewright.target import Target

HOST = Target.host()
X86 = [i.name for i in tensor_intrinsics() if i.name.startswith("x86.")]
ARM_DOTS = ["arm.sdot", "arm.udot", "arm.usdot", "arm.bfdot"]
ARM_MATRICES = ["arm.smmla", "arm.ummla", "arm.usmmla", "arm.bfmmla"]


def target_for(name: str) -> Target:
    """The preset that has the instruction."""
    if name.startswith("arm."):
        return Target.parse("aarch64-dot")
    if name.startswith("x86.vpdpbssd"):
        return Target.parse("x86-64-v3-dot")
    if name.startswith("x86.vpmaddwd"):  # with VNNI, LLVM makes one instruction of it and the addition
        return Target.parse("x86-64-v4" if name.endswith(".16") else "x86-64-v3")
    return Target.parse("x86-64-v4-dot")


def assembly_of(sch: Schedule, target: Target) -> str:
    return assembly(emit_kernel(lower(sch.func), target, "k").text, target)


def native(func: PrimFunc, arrays: list[np.ndarray]) -> list[np.ndarray]:
    (out,) = func.outputs
    result = np.zeros(out.static_shape or (), next(iter(run(func, arrays))).dtype)
    Kernel(emit_kernel(lower(func), HOST, "k"), HOST)(*arrays, result)
    return [result]


@pytest.mark.parametrize("name", X86)
def test_x86_inner_loops_are_loads_and_the_instruction(name: str) -> None:
    lanes = int(name.rsplit(".", 1)[1])
    mnemonic = name.split(".")[1]
    _, sch = by_dots(name, 8, 2 * lanes, 32)
    asm = assembly_of(sch, target_for(name)).replace("{vex}\t", "")
    assert count_spills(asm) == 0
    body = inner_loop(asm, mnemonic)
    calls = [x for x in body if x.startswith(mnemonic)]
    moves = [x for x in body if re.match(r"v(p?broadcast|movup|movdqu)", x)]
    flips = [x for x in body if x.startswith(("vpxor", "vxor"))]
    sums = [x for x in body if x.startswith("vpaddd")]
    assert len(calls) == 4 * 2
    assert len(sums) == (4 * 2 if "vpmaddwd" in name else 0)
    assert len(flips) == (4 if ".s8." in name else 0)
    assert len(moves) + len(flips) in (6, 10 if ".s8." in name else 6)
    assert len(body) - len(calls) - len(sums) - len(moves) - len(flips) <= 4, body


@pytest.mark.parametrize("name", [*ARM_DOTS, *ARM_MATRICES])
def test_aarch64_inner_loops_have_one_instruction_a_call(name: str) -> None:
    mnemonic = name.split(".")[1]
    _, sch = (by_dots if name in ARM_DOTS else by_matrices)(name, 8, 8, 32)
    asm = assembly_of(sch, target_for(name))
    body = [line.strip() for line in asm.splitlines() if line.strip().startswith(f"{mnemonic}\t")]
    registers = {line.split("\t")[1].split(",")[0] for line in body}
    assert len(body) == len(registers) == (8 if name in ARM_DOTS else 4)
    assert asm.count("ld1r") == (4 if name in ARM_DOTS else 0)
    assert count_spills(asm) == 0
    # The accumulators live in registers all the way: no stack beyond the link register's slot.
    assert not re.search(r"\bstr\tq\d+, \[sp", asm)


def test_vnni_without_avx512_is_for_the_shorter_vectors() -> None:
    target = Target.parse("x86-64-v3-dot")
    _, sch = by_dots("x86.vpdpbusd.8", 8, 16, 32)
    assert "{vex}\tvpdpbusd" in assembly_of(sch, target)
    _, wide = by_dots("x86.vpdpbusd.16", 8, 32, 32)
    with pytest.raises(TargetError, match=r"'x86.vpdpbusd.16' in 'product' needs avx512vnni, avx512f, which"):
        assembly_of(wide, target)


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("shape", [(8, 64, 32), (5, 37, 16), (1, 16, 4), (13, 100, 8)])
def test_native_code_computes_the_meaning(name: str, shape: tuple[int, int, int]) -> None:
    missing = [f for f in tensor_intrinsic(name).requires if not HOST.has(f)]
    if missing:
        pytest.skip(f"this machine has no {', '.join(missing)}")
    func, sch = by_dots(name, *shape)
    assert_equal(func, sch.func, native)


def test_operands_and_accumulator_in_memory() -> None:
    if not HOST.has("avx512vnni"):
        pytest.skip("this machine has no avx512vnni")
    func = parse("""
@primfunc({"outputs": 1})
def f(a: uint8[3, 8], b: int8[2, 16, 4], c: int32[3, 16]):
    for i in serial(3):
        for j in serial(16):
            c[i, j] = int32(i * 16 + j)
    for k in serial(2):
        for i in serial(3):
            tensor_call("x86.vpdpbusd.16", a[i, span(k * 4, 4)], b[k, span(0, 16), span(0, 4)], c[i, span(0, 16)])
""")  # noqa: E501
    arrays = inputs_of(func)
    np.testing.assert_array_equal(native(func, arrays)[0], run(func, arrays)[0])


def test_a_narrow_part_of_a_wider_slot_is_updated() -> None:
    if not HOST.has("avx512vnni"):
        pytest.skip("this machine has no avx512vnni")
    func = parse("""
@primfunc({"outputs": 1})
def f(a: uint8[4], b: int8[4, 4], c: int32[16]):
    acc = alloc(int32[16], scope="register")
    for j in vectorized(16):
        acc[j] = int32(j)
    tensor_call("x86.vpdpbusd.4", a[span(0, 4)], b[span(0, 4), span(0, 4)], acc[span(8, 4)])
    for j in vectorized(16):
        c[j] = acc[j]
""")
    arrays = inputs_of(func)
    np.testing.assert_array_equal(native(func, arrays)[0], run(func, arrays)[0])


def test_targets_know_their_features() -> None:
    v3, v4, arm = (Target.parse(t) for t in ("x86-64-v3", "x86-64-v4-dot", "aarch64-dot"))
    assert v3.has("fma")
    assert not v3.has("avx512f")
    assert v4.has("avx512vl")
    assert v4.has("avx512vnni|avxvnni")
    assert not v4.has("avxvnni")
    assert arm.has("aarch64")
    assert arm.has("i8mm")
    assert not Target.parse("aarch64").has("dotprod")


def test_what_nobody_implements_is_an_error() -> None:
    register("test.nop", COPY)
    with pytest.raises(TargetError, match=r"does not know how to do tensor intrinsic .test.nop."):
        implementation("llvm", "test.nop")
    with pytest.raises(IntrinsicError, match=r"there is no tensor intrinsic 'test.nopp'"):
        register_implementation("llvm", "test.nopp", lambda *_: None)
    assert {i for i in X86 if i not in implemented("llvm")} == set()


COPY = """
@primfunc({"outputs": 1})
def copy(A: float32[4], B: float32[4]):
    for i in serial(4):
        B[i] = A[i] * 2.0
"""


def test_implementations_come_from_anywhere() -> None:
    register("test.twice_4", COPY)

    @implements("test.twice_4")
    def emit(a: Operand, b: Operand) -> None:
        kind = "<4 x float>"
        value = a.vector(kind)
        b.write(b.ops.inst(f"fadd {kind} {value}, {value}"), kind)

    func = parse("""
@primfunc({"outputs": 1})
def f(A: float32[3, 4], B: float32[3, 4]):
    for i in serial(3):
        tensor_call("test.twice_4", A[i, span(0, 4)], B[i, span(0, 4)])
""")
    arrays = inputs_of(func)
    np.testing.assert_array_equal(native(func, arrays)[0], 2 * arrays[0])


# -- AArch64 under emulation ---------------------------------------------------------------------------------

QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
CROSS = (
    ["zig", "cc", "-target", "aarch64-linux-musl"] if shutil.which("zig") else ["aarch64-linux-gnu-gcc"]
)
#: Calls the kernel, writes the output to file 1 and exits.
START = """
.global _start
_start:
    mov x0, xzr
    adrp x1, args
    add x1, x1, :lo12:args
    adrp x2, ws
    add x2, x2, :lo12:ws
    bl k
    mov x0, 1
    adrp x1, out
    add x1, x1, :lo12:out
    ldr x2, =SIZE
    mov x8, 64
    svc 0
    mov x0, xzr
    mov x8, 93
    svc 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not (QEMU and shutil.which(CROSS[0])), reason="needs qemu-aarch64 and zig or gcc for it")
@pytest.mark.parametrize("name", [*ARM_DOTS, *ARM_MATRICES])
def test_aarch64_code_runs_under_emulation(name: str, tmp_path: Path) -> None:
    func, sch = by_dots(name, 7, 10, 24) if name in ARM_DOTS else by_matrices(name, 6, 10, 24)

    def emulated(scheduled: PrimFunc, arrays: list[np.ndarray]) -> list[np.ndarray]:
        module = emit_kernel(lower(scheduled), Target.parse("aarch64-dot"), "k")
        return [run_aarch64(module.text, module.ws_shared + module.ws_thread, scheduled, arrays, tmp_path)]

    assert_equal(func, sch.func, emulated)


def run_aarch64(
    kernel: str, workspace: int, func: PrimFunc, arrays: list[np.ndarray], folder: Path
) -> np.ndarray:
    """A program without a C library: the kernel and its arguments as data."""
    expected = run(func, arrays)[0]
    lines = ['target triple = "aarch64-unknown-linux-gnu"']
    for n, array in enumerate(arrays):
        text = "".join(f"\\{byte:02x}" for byte in array.tobytes())
        lines.append(f'@d{n} = global [{array.nbytes} x i8] c"{text}", align 64')
    slots = ", ".join([*(f"ptr @d{n}" for n in range(len(arrays))), "ptr @out"])
    lines += [
        f"@out = global [{expected.nbytes} x i8] zeroinitializer, align 64",
        f"@args = global [{len(arrays) + 1} x ptr] [{slots}]",
        f"@ws = global [{max(workspace, 1)} x i8] zeroinitializer, align 64",
    ]
    objects = compile_many([kernel, "\n".join(lines)], Target.parse("aarch64-dot"))
    paths = [folder / "start.s"]
    paths[0].write_text(START.replace("SIZE", str(expected.nbytes)))
    for n, code in enumerate(objects):
        paths.append(folder / f"{n}.o")
        paths[-1].write_bytes(code)
    program = folder / "program"
    subprocess.run([*CROSS, "-nostdlib", "-static", "-o", program, *paths], check=True)
    assert QEMU is not None
    result = subprocess.run([QEMU, "-cpu", "max", program], check=True, capture_output=True, timeout=60)
    return np.frombuffer(result.stdout, expected.dtype).reshape(expected.shape)
