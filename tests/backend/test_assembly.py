"""What LLVM makes of emitted kernels: inner loops without overhead, object files for every target."""

from __future__ import annotations

import pytest

from tests.backend.test_emit import buf, f32, func, gemm, loop, var, vec
from tilewright.backend import get_backend
from tilewright.backend.llvm.asm import assembly, count_spills
from tilewright.backend.llvm.emit import emit_kernel
from tilewright.errors import TargetError
from tilewright.ir.expr import as_expr, load, maximum, minimum
from tilewright.ir.expr import call as intrinsic
from tilewright.ir.stmt import Alloc, PrimFunc, Store, seq
from tilewright.target import PRESETS, Target

V4 = Target.parse("x86-64-v4")


def inner_loop(asm: str, mnemonic: str) -> list[str]:
    """The instructions of the loop with the most ``mnemonic``s, from its label to its back edge."""
    best: list[str] = []
    current: list[str] = []
    for line in asm.splitlines():
        code = line.split("#")[0].strip()
        if code.endswith(":"):
            current = []
        elif code and not code.startswith("."):
            current.append(code)
            if code.startswith("j") and sum(mnemonic in x for x in current) > sum(
                mnemonic in x for x in best
            ):
                best = list(current)
    return best


@pytest.mark.parametrize(("target", "rows", "lanes"), [("x86-64-v4", 8, 16), ("x86-64-v3", 4, 8)])
def test_gemm_inner_loop_is_loads_and_multiply_adds(target: str, rows: int, lanes: int) -> None:
    vectors = 3
    module = emit_kernel(gemm(64, 96, 64, rows, vectors, lanes), Target.parse(target), "k")
    asm = assembly(module.text, Target.parse(target))
    assert count_spills(asm) == 0
    body = inner_loop(asm, "vfmadd")
    fma = [x for x in body if x.startswith("vfmadd")]
    moves = [x for x in body if x.startswith(("vbroadcastss", "vmovups"))]
    assert len(fma) == rows * vectors
    assert len(moves) == rows + vectors
    assert len(body) - len(fma) - len(moves) <= 4, body
    assert not any(x.startswith(("imul", "mul", "shl", "lea")) for x in body)


@pytest.mark.parametrize("target", sorted(n for n, t in PRESETS.items() if t.backend == "llvm"))
def test_too_large_a_register_tile_is_seen_in_the_spill_count(target: str) -> None:
    parsed = Target.parse(target)
    fitting, large = (gemm(64, 96, 64, rows, 3, parsed.lanes(32)) for rows in (4, 16))
    assert count_spills(assembly(emit_kernel(fitting, parsed, "k").text, parsed)) == 0
    assert count_spills(assembly(emit_kernel(large, parsed, "k").text, parsed)) > 10


def relu6() -> PrimFunc:
    x, y = buf("x", 64), buf("y", 64)
    i, v = var("i", 4), var("v", 16)
    index = i * 16 + v
    return func(
        [x, y], loop(i, 4, vec(v, 16, Store(y, (index,), minimum(maximum(load(x, [index]), 0.0), 6.0))))
    )


def test_clipping_costs_one_instruction_a_bound() -> None:
    body = inner_loop(assembly(emit_kernel(relu6(), V4, "k").text, V4), "vm")
    assert [x.split()[0] for x in body if x.startswith("v")] == ["vmaxps", "vminps", "vmovups"]


def test_loop_invariant_work_is_done_once() -> None:
    """``exp`` of a value that the loop does not change stands before the loop."""
    x, s, y = buf("x", 8, 64), buf("s", 8), buf("y", 8, 64)
    i, j, v = var("i", 8), var("j", 4), var("v", 16)
    value = load(x, [i, j * 16 + v]) * intrinsic("exp", [load(s, [i])])
    f = func([x, s, y], loop(i, 8, loop(j, 4, vec(v, 16, Store(y, (i, j * 16 + v), value)))))
    body = inner_loop(assembly(emit_kernel(f, V4, "k").text, V4), "vmulps")
    assert [x.split()[0] for x in body if x.startswith("v")] == ["vmulps", "vmovups"]


@pytest.mark.parametrize("target", sorted(n for n, t in PRESETS.items() if t.backend == "llvm"))
def test_objects_for_every_target(target: str) -> None:
    parsed = Target.parse(target)
    backend = get_backend(parsed)
    x, y = buf("x", 100), buf("y", 100)
    v, i = var("v", 16), var("i", 6)
    index = i * 16 + v
    names = ("exp", "tanh", "erf", "log", "sqrt", "floor")
    value = load(x, [index])
    for name in names:
        value = value + intrinsic(name, [load(x, [index])])
    functions = [
        gemm(32, 96, 8, 4, 3, parsed.lanes(32)),
        relu6(),
        func(
            [x, y],
            loop(i, 6, vec(v, 16, Store(y, (index,), maximum(value, load(y, [index])))), kind="parallel"),
        ),
    ]
    texts = [backend.emit(f, parsed, f"tw_k_{n}").text for n, f in enumerate(functions)]
    for code in backend.compile(texts, parsed):
        assert code[:4] == b"\x7fELF"
        machine = int.from_bytes(code[18:20], "little")
        assert machine == {"x86_64": 62, "aarch64": 183}[parsed.arch]


def test_a_target_without_backend_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(TargetError, match="needs backend 'nothing'"):
        get_backend(replace(V4, backend="nothing"))
    with pytest.raises(TargetError, match="does not support"):
        get_backend(replace(V4, triple="sparc-unknown-linux-gnu"))


def test_emission_of_a_large_tile_is_deterministic() -> None:
    rows, cols, taps = 14, 2, 16
    x, w, y = buf("x", 64, 64), buf("w", taps, 32), buf("y", 14, 32)
    acc = buf("acc", rows, 32, scope="register")
    v, k = var("v", 16), var("k", 8)
    body = [
        vec(
            v,
            16,
            Store(
                acc,
                (as_expr(r), c * 16 + v),
                load(acc, [r, c * 16 + v]) + load(x, [r, k * taps // 2 + t]) * load(w, [t, c * 16 + v]),
            ),
        )
        for t in range(taps)
        for r in range(rows)
        for c in range(cols)
    ]
    start = [
        vec(v, 16, Store(acc, (as_expr(r), c * 16 + v), f32(0.0))) for r in range(rows) for c in range(cols)
    ]
    end = [
        vec(v, 16, Store(y, (as_expr(r), c * 16 + v), load(acc, [r, c * 16 + v])))
        for r in range(rows)
        for c in range(cols)
    ]
    f = func([x, w, y], Alloc(acc, seq([*start, loop(k, 8, *body), *end])))
    first = emit_kernel(f, V4, "k").text
    assert first.count("fmuladd") > rows * cols * taps
    assert emit_kernel(f, V4, "k").text == first
