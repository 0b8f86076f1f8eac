"""Matrix products of a warp: the form of their PTX and, where there is a GPU, what it computes."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

from tests.schedule.tensor_programs import inputs_of
from tilewright.backend.cuda.mma import Mma
from tilewright.backend.implementations import implementation
from tilewright.ir.expr import Var, const
from tilewright.ir.interp import run
from tilewright.ir.isa.cuda import SHAPES, WARP, Fragment, fragments
from tilewright.ir.stmt import For, PrimFunc, Store, seq
from tilewright.ir.tensor_intrinsics import parameters, tensor_intrinsic
from tilewright.ir.visit import const_int, substitute_expr


def mma(name: str) -> Mma:
    found = implementation("cuda", name)
    assert isinstance(found, Mma)
    return found


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_ptx_has_the_manuals_form(name: str) -> None:
    m, n, k, _, _ = SHAPES[name]
    form = mma(name)
    lines = form.ptx([f"%c{i}" for i in range(4)], [f"%a{i}" for i in range(4)], [f"%b{i}" for i in range(2)])
    assert re.fullmatch(
        rf"mma\.sync\.aligned\.m{m}n{n}k{k}\.row\.col\.(f32|s32)\.(f16|bf16|tf32|s8)\.\2\.\1 "
        r"\{%c0, %c1, %c2, %c3\}, \{%a0, %a1, %a2, %a3\}, \{%b0, %b1\}, \{%c0, %c1, %c2, %c3\};",
        lines[-1],
    )
    assert lines[:-1] == (
        [f"cvt.rna.tf32.f32 %{r}, %{r};" for r in ("a0", "a1", "a2", "a3", "b0", "b1")]
        if name.endswith("tf32")
        else []
    )
    with pytest.raises(ValueError, match="takes"):
        form.ptx(["%c0"], ["%a0"], ["%b0"])


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_inline_assembly_names_every_register_once(name: str) -> None:
    text = mma(name).inline_assembly("c", "a", "b")
    assert text.startswith('asm volatile("')
    assert text.endswith(");")
    letter = "r" if name.endswith("s8") else "f"
    assert re.findall(r'"\+(.)"\(c\[(\d)\]\)', text) == [(letter, str(i)) for i in range(4)]
    assert {*re.findall(r'"\+?r"\((a|b)\[(\d)\]\)', text)} == {
        *(("a", str(i)) for i in range(4)),
        *(("b", str(i)) for i in range(2)),
    }
    assert {int(n) for n in re.findall(r"%(\d+)", text)} == set(range(10))


def kernel(form: Mma) -> str:
    """PTX of a kernel in which thread ``l`` loads its registers from rows ``l`` of three arrays."""
    na, nb, nc = form.registers
    lines = [
        ".version 7.0", ".target sm_80", ".address_size 64",
        ".visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc) {",
        f".reg .b64 %p<3>, %o<3>; .reg .b32 %a<{na}>, %b<{nb}>, %l; .reg .{form.wide} %c<{nc}>;",
        "mov.u32 %l, %tid.x;",
    ]  # fmt: skip
    for n, (letter, count) in enumerate((("a", na), ("b", nb), ("c", nc))):
        lines += [f"ld.param.u64 %p{n}, [p{letter}];", f"cvta.to.global.u64 %p{n}, %p{n};"]
        lines += [f"mul.wide.u32 %o{n}, %l, {4 * count};", f"add.u64 %p{n}, %p{n}, %o{n};"]
        kind = form.wide if letter == "c" else "b32"
        lines += [f"ld.global.{kind} %{letter}{i}, [%p{n}+{4 * i}];" for i in range(count)]
    names = [[f"%{letter}{i}" for i in range(count)] for letter, count in (("c", nc), ("a", na), ("b", nb))]
    lines += form.ptx(*names)
    lines += [f"st.global.{form.wide} [%p2+{4 * i}], %c{i};" for i in range(nc)]
    return "\n".join([*lines, "ret;", "}", ""])


def held(fragment: Fragment, matrix: np.ndarray) -> np.ndarray:
    """``[lane, place]``: what each thread holds of a matrix."""
    result = np.zeros((WARP, fragment.held), matrix.dtype)
    for row, column in np.ndindex(*matrix.shape):
        result[place(fragment, row, column)] = matrix[row, column]
    return result


def place(fragment: Fragment, row: int, column: int) -> tuple[int, int]:
    at = {fragment.row: const(row), fragment.column: const(column)}
    lane, number = (const_int(substitute_expr(e, at)) for e in (fragment.lane, fragment.place))
    assert lane is not None
    assert number is not None
    return lane, number


def expected(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    intrinsic = tensor_intrinsic(name)
    out = parameters(intrinsic)[-1]
    i, j = Var("i"), Var("j")
    zero = For(i, out.shape[0], For(j, out.shape[1], Store(out, (i, j), const(0, out.dtype))))
    return run(intrinsic.semantic.with_(body=seq([zero, intrinsic.semantic.body])), arrays)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_gpu_computes_the_meaning(name: str) -> None:
    cuda = _driver()
    func = PrimFunc("f", tuple(parameters(tensor_intrinsic(name))), seq([]), (("outputs", 1),))
    arrays = inputs_of(func)
    a, b, c = fragments(name)
    want = expected(name, arrays)
    parts = [held(a, arrays[0]), held(b, arrays[1]), np.zeros((WARP, c.held), want.dtype)]
    _launch(cuda, kernel(mma(name)), parts)
    got = np.array([[parts[2][place(c, i, j)] for j in range(8)] for i in range(16)])
    np.testing.assert_array_equal(got, want)


def _driver() -> ctypes.CDLL:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        pytest.skip("there is no CUDA driver")
    if cuda.cuInit(0):
        pytest.skip("there is no GPU")
    return cuda


def _launch(cuda: ctypes.CDLL, ptx: str, arrays: list[np.ndarray]) -> None:
    """Run the kernel by one warp on copies of ``arrays``, and copy them back."""

    def check(code: int) -> None:
        assert code == 0, f"CUDA driver error {code}"

    device, context, module, function = ctypes.c_int(), *(ctypes.c_void_p() for _ in range(3))
    check(cuda.cuDeviceGet(ctypes.byref(device), 0))
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    check(cuda.cuCtxSetCurrent(context))
    check(cuda.cuModuleLoadData(ctypes.byref(module), ptx.encode()))
    check(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"k"))
    pointers = [ctypes.c_uint64() for _ in arrays]
    for pointer, array in zip(pointers, arrays, strict=True):
        size = ctypes.c_size_t(array.nbytes)
        check(cuda.cuMemAlloc_v2(ctypes.byref(pointer), size))
        check(cuda.cuMemcpyHtoD_v2(pointer, array.ctypes.data_as(ctypes.c_void_p), size))
    arguments = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(p) for p in pointers))
    check(cuda.cuLaunchKernel(function, 1, 1, 1, WARP, 1, 1, 0, None, arguments, None))
    check(cuda.cuCtxSynchronize())
    for pointer, array in zip(pointers, arrays, strict=True):
        size = ctypes.c_size_t(array.nbytes)
        check(cuda.cuMemcpyDtoH_v2(array.ctypes.data_as(ctypes.c_void_p), pointer, size))
        check(cuda.cuMemFree_v2(pointer))
