"""Conversions of narrow types in machine code: exact, in vectors, and without a runtime library."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backend.kernels import build
from tests.backend.test_mathlib import apply, run
from tests.ir.test_convert import codes, same, samples
from tilewright.backend.llvm import asm
from tilewright.backend.llvm.emit import emit_kernel
from tilewright.ir import dtype as dt
from tilewright.ir import interp
from tilewright.ir.convert import convert
from tilewright.ir.expr import cast
from tilewright.target import Target

TARGETS = ("native", "x86-64-v3")


def multiple_of(x: np.ndarray, lanes: int) -> np.ndarray:
    return np.concatenate([x, x[: -len(x) % lanes]])


@pytest.mark.parametrize("name", sorted(dt.STORAGE))
def test_storage_types(name: str) -> None:
    """Against the interpreter, which tests/ir/test_convert.py holds against ml_dtypes."""
    x = multiple_of(samples()[::17], 64)
    codes_ = multiple_of(np.tile(codes(name), 16), 64)
    for lanes in (1, 64):
        f = apply(lambda a: convert(a, name), "float32", name, len(x), lanes)
        same(run(f, [x], "native"), interp.run(f, [x])[0])
        g = apply(lambda a: convert(a, "float32"), name, "float32", len(codes_), lanes)
        np.testing.assert_array_equal(run(g, [codes_], "native"), codes_.astype(np.float32))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_both_ways(name: str, target: str) -> None:
    """All 65536 codes to float32; float32 at and between all codes, and what overflows, back."""
    all_codes = np.arange(1 << 16, dtype=np.uint16).view(dt.to_numpy(name))
    wide = all_codes.astype(np.float32)
    f = apply(lambda a: cast("float32", a), name, "float32", 1 << 16, 16)
    np.testing.assert_array_equal(run(f, [all_codes], target), wide)
    bits = wide.view(np.uint32).astype(np.int64)
    half_step = 1 << (12 if name == "float16" else 15)
    for offset in (0, half_step - 1, half_step, half_step + 1):
        with np.errstate(all="ignore"):
            x = (bits + offset).astype(np.uint32).view(np.float32)
            want = x.astype(dt.to_numpy(name))
        g = apply(lambda a: cast(name, a), "float32", name, 1 << 16, 16)
        got = run(g, [x], target)
        nan = np.isnan(x)
        assert np.isnan(got[nan].astype(np.float32)).all()
        assert np.array_equal(got[~nan].view(np.uint16), want[~nan].view(np.uint16))


def test_half_precision_is_converted_by_vector_instructions() -> None:
    target = Target.parse("x86-64-v3")
    f = apply(lambda a: cast("float16", cast("float32", a) * 0.5), "float16", "float16", 256, 8)
    text = asm.assembly(emit_kernel(f, target, "tw_k_test").text, target)
    assert "vcvtph2ps" in text
    assert "vcvtps2ph" in text


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4-dot", "aarch64"])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_no_runtime_library_is_called(name: str, target: str) -> None:
    """Artifacts load without libgcc: its helpers for conversions begin with two underscores."""
    machine = Target.parse(target)
    for other in ("float64", "uint64"):
        for source, to in ((name, other), (other, name)):
            for lanes in (1, 16):
                f = apply(lambda a: convert(a, to), source, to, 64, lanes)  # noqa: B023
                text = asm.assembly(emit_kernel(f, machine, "tw_k_test").text, machine)
                assert not [line for line in text.splitlines() if "\t__" in line or "@PLT" in line]


def test_a_kernel_of_bytes_runs() -> None:
    x = np.arange(-8, 8).astype(dt.to_numpy("int4"))
    f = apply(lambda a: convert(a, "int8"), "int4", "int8", 16, 16)
    got = np.empty(16, np.int8)
    build(f)(x, got)
    assert got.tolist() == list(range(-8, 8))
