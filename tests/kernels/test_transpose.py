"""Blocks that write along one axis and read along another: tiles that are transposed in registers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fuzz.campaign import RUNNABLE as TARGETS
from tests.fuzz.case import Case, Draw
from tests.kernels.harness import check, prepare
from tilewright.backend import get_backend
from tilewright.backend.llvm.asm import assembly, count_spills
from tilewright.backend.llvm.emit import emit_kernel
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, maximum, select
from tilewright.ir.visit import find_blocks
from tilewright.schedule.default import default_schedule
from tilewright.schedule.rules.analysis import block_info
from tilewright.schedule.rules.transpose import find_transposition
from tilewright.target import PRESETS, Target

Body = Callable[..., Expr]


def case(inputs: list[te.Tensor], shape: tuple[int, ...], body: Body) -> Case:
    out = te.compute(shape, body, "out")
    func = te.primfunc("f", inputs, [out])
    draws = {}
    for tensor in inputs:
        if tensor.dtype == "bool":
            draws[tensor.name] = Draw(0, 2)
        elif dt.is_float(tensor.dtype):
            draws[tensor.name] = Draw(-3, 3, integers=False)
        else:
            draws[tensor.name] = Draw(0 if tensor.dtype.startswith("u") else -100, 100)
    return Case(func, draws, exact=(True,))


def permuted(shape: tuple[int, ...], order: tuple[int, ...], dtype: str = "float32") -> Case:
    x = te.placeholder(shape, dtype, "x")
    place = [order.index(d) for d in range(len(shape))]
    return case([x], tuple(shape[d] for d in order), lambda *i: x[tuple(i[p] for p in place)])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "float16", "bfloat16", "bool"])
def test_every_type_is_transposed(dtype: str) -> None:
    check(permuted((37, 53), (1, 0), dtype), [*TARGETS, "native"], [*TARGETS, "native"])


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((64, 48), (1, 0)),
        ((3, 70), (1, 0)),
        ((70, 3), (1, 0)),
        ((70, 2), (1, 0)),
        ((9, 4), (1, 0)),
        ((5, 49), (1, 0)),
        ((49, 20), (1, 0)),
        ((17, 129), (1, 0)),
        ((2, 21, 3, 19), (0, 2, 3, 1)),
        ((2, 21, 3, 19), (3, 1, 2, 0)),
        ((2, 3, 5, 20), (0, 2, 3, 1)),
        ((3, 5, 7, 11), (3, 2, 1, 0)),
    ],
)
def test_shapes_that_tiles_do_not_divide(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    check(permuted(shape, order), TARGETS, TARGETS)


def elementwise() -> Case:
    """relu(x.T + y + max(z.T, bias))."""
    x, z = te.placeholder((41, 30), "float32", "x"), te.placeholder((41, 30), "float32", "z")
    y, bias = te.placeholder((30, 41), "float32", "y"), te.placeholder((41,), "float32", "bias")
    return case(
        [x, y, z, bias], (30, 41), lambda i, j: maximum(x[j, i] + y[i, j] + maximum(z[j, i], bias[j]), 0.0)
    )


def padded() -> Case:
    """A transposition into the middle of zeros."""
    x = te.placeholder((2, 20, 33), "float32", "x")
    return case(
        [x],
        (2, 35, 20),
        lambda n, i, c: select((i >= 1) & (i < 34), x[n, c, i - 1], 0.0),
    )


def divided() -> Case:
    """Lanes behind the edge are computed with: they must not divide by garbage."""
    x, y = te.placeholder((21, 19), "int32", "x"), te.placeholder((21, 19), "int32", "y")
    return case([x, y], (19, 21), lambda i, j: x[j, i] // maximum(y[j, i], 1))


def widened() -> Case:
    """An operand of another type than the result."""
    x = te.placeholder((40, 23), "uint8", "x")
    return case([x], (23, 40), lambda i, j: x[j, i].astype("float32") * 0.5)


def three() -> Case:
    """More operands than share the registers."""
    a, b, c = (te.placeholder((25, 18), "float32", name) for name in "abc")
    return case([a, b, c], (18, 25), lambda i, j: maximum(maximum(a[j, i], b[j, i]), c[j, i]))


@pytest.mark.parametrize("make", [elementwise, padded, divided, widened, three])
def test_work_on_the_way(make: Callable[[], Case]) -> None:
    check(make(), TARGETS, TARGETS)


@pytest.mark.parametrize("dtype", ["float32", "int8", "float64", "bool"])
@pytest.mark.parametrize("step", [-1, 2, 3])
def test_lanes_close_together_are_loaded_together(step: int, dtype: str) -> None:
    """Steps and reversal, up to both ends of the buffer."""
    n = 45
    x = te.placeholder((2, (n - 1) * abs(step) + 1), dtype, "x")
    first = n - 1 if step < 0 else 0
    moved = case([x], (2, n), lambda i, j: x[i, j * step + first])
    check(moved, TARGETS, TARGETS)


def test_a_repeated_element_is_loaded_once() -> None:
    x = te.placeholder((3, 40), "float32", "x")
    check(case([x], (3, 80), lambda i, j: x[i, j // 2]), TARGETS, TARGETS)


def test_tiles_are_copied_to_registers() -> None:
    func = default_schedule(permuted((64, 48), (1, 0)).func, Target.parse("x86-64-v4")).func
    assert [b.name for b in find_blocks(func.body)] == ["x_register", "out"]


def test_small_rows_are_left_to_other_rules() -> None:
    for shape in [(64, 3), (1, 64), (64, 1)]:
        block = find_blocks(permuted(shape, (1, 0)).func.body)[0]
        info = block_info(block)
        assert info is not None
        assert find_transposition(info, Target.parse("x86-64-v3")) is None


@pytest.mark.parametrize(
    ("target", "dtype"), [("x86-64-v3", "float32"), ("x86-64-v4", "float32"), ("x86-64-v4", "int8")]
)
def test_a_tile_is_loads_shuffles_and_stores(target: str, dtype: str) -> None:
    parsed = Target.parse(target)
    lowered = prepare(permuted((128, 64), (1, 0), dtype), parsed).lowered
    asm = assembly(emit_kernel(lowered, parsed, "k").text, parsed)
    assert count_spills(asm) == 0
    assert "gather" not in asm
    assert "vpinsr" not in asm
    assert asm.count("vunpck") + asm.count("vpunpck") >= 16


@pytest.mark.parametrize("target", sorted(t.name for t in PRESETS.values() if t.backend == "llvm"))
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "bool"])
def test_objects_for_every_target(target: str, dtype: str) -> None:
    parsed = Target.parse(target)
    backend = get_backend(parsed)
    prepared = prepare(permuted((37, 53), (1, 0), dtype), parsed)
    (code,) = backend.compile([backend.emit(prepared.lowered, parsed, "tw_k").text], parsed)
    assert code[:4] == b"\x7fELF"
