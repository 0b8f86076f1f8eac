"""Conversions of types for storage: all codes, and floats at, between and beyond all values."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import pytest

from tilewright.ir import dtype as dt
from tilewright.ir import interp, te
from tilewright.ir.convert import convert, round_to_odd
from tilewright.ir.expr import Expr, Var

FLOATS = sorted(dt.FORMATS)
INTEGERS = ["int2", "uint2", "int4", "uint4"]
ALL = sorted(dt.STORAGE)


def run(x: np.ndarray, to: str, **rules: object) -> np.ndarray:
    a = te.placeholder(x.shape, dt.from_numpy(x.dtype), "a")
    body = te.compute(x.shape, lambda i: convert(a[i], to, **rules), "b")  # type: ignore[arg-type]
    return interp.run(te.primfunc("f", [a], [body]), [x])[0]


def codes(dtype: str) -> np.ndarray:
    return np.arange(1 << dt.bits(dtype), dtype=np.uint8).view(dt.to_numpy(dtype))


@functools.cache
def samples() -> np.ndarray:
    """All float16, random float32, and around every value and midpoint of every format."""
    found = [np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)]
    rng = np.random.default_rng(0)
    found.append(rng.integers(0, 1 << 32, 50_000, dtype=np.uint64).astype(np.uint32).view(np.float32))
    for name in FLOATS:
        known = codes(name).astype(np.float32)
        known = np.unique(known[np.isfinite(known)])
        last, step = known[-1], known[-1] - known[-2]
        edges = np.concatenate([known, (known[1:] + known[:-1]) / 2, [last + step / 2, last + step]])
        edges = edges.astype(np.float32)
        found += [edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))]
    found.append(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38], np.float32))
    return np.concatenate(found)


def same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, or NaN both (its sign and payload say nothing)."""
    assert got.dtype == want.dtype
    nan = np.isnan(got.astype(np.float32)) & np.isnan(want.astype(np.float32))
    wrong = (got.view(np.uint8) != want.view(np.uint8)) & ~nan
    assert not wrong.any(), f"{wrong.sum()} differ: {got[wrong][:5]} instead of {want[wrong][:5]}"


@pytest.mark.parametrize("name", FLOATS)
def test_floats_round_to_nearest_even(name: str) -> None:
    x, target = samples(), dt.to_numpy(name)
    with np.errstate(all="ignore"):
        same(run(x, name, saturate=False), x.astype(target))
        limits = ml_dtypes.finfo(target)
        same(run(x, name), np.clip(x, np.float32(limits.min), np.float32(limits.max)).astype(target))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2fnuz", "float4_e2m1fn"])
def test_float64_is_rounded_once(name: str) -> None:
    known = codes(name).astype(np.float64)
    known = np.unique(known[np.isfinite(known)])
    middle = (known[1:] + known[:-1]) / 2
    above, below = np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)
    np.testing.assert_array_equal(run(above, name).astype(np.float64), known[1:])
    np.testing.assert_array_equal(run(below, name).astype(np.float64), known[:-1])


def test_round_to_odd_keeps_what_a_second_rounding_needs() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([[0.0, -0.0, np.inf, 1e300, -1e300, 1.0, 1e-320], rng.normal(size=500)])
    a = te.placeholder(x.shape, "float64", "a")
    odd = interp.run(
        te.primfunc("f", [a], [te.compute(x.shape, lambda i: round_to_odd(a[i]), "b")]), [x]
    )[0]
    inexact = odd.astype(np.float64) != x
    assert (odd[inexact].view(np.uint32) & 1 == 1).all()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(odd.astype(np.float16), x.astype(np.float16))


@pytest.mark.parametrize("to", ["float32", "float64", "float16", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("name", ALL)
def test_every_code_is_read_exactly(name: str, to: str) -> None:
    x = codes(name)
    wide = x.astype(np.float32)
    with np.errstate(all="ignore"):
        if to == "int32":
            limits = np.iinfo(np.int32)
            whole = np.trunc(np.nan_to_num(wide.astype(np.float64), nan=0.0))
            want = np.clip(whole, limits.min, limits.max)
        else:
            want = wide != 0 if to == "bool" else wide.astype(dt.to_numpy(to))
    got = run(x, to)
    with np.errstate(invalid="ignore"):  # NaN with a payload, to NumPy
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_low_bits(name: str) -> None:
    x = np.arange(-300, 300, dtype=np.int16)
    got = run(x, name)
    width = dt.bits(name)
    low = x & (1 << width) - 1
    np.testing.assert_array_equal(got.view(np.uint8), low.astype(np.uint8))
    np.testing.assert_array_equal(run(x.astype(np.float32) + np.float32(0.0), name), got)
    same(run(np.array([1.9, -1.9, np.nan], np.float32), name), run(np.array([1, -1, 0], np.int32), name))


@pytest.mark.parametrize(
    ("mode", "saturate", "want"),
    [
        ("up", True, [0, 0, 0, 1, 127, 128, 128, 128, 254, 254, 254]),
        ("down", True, [0, 0, 0, 0, 127, 127, 127, 127, 253, 254, 254]),
        ("nearest", True, [0, 0, 0, 1, 127, 127, 128, 128, 254, 254, 254]),
        ("nearest", False, [255, 255, 0, 1, 127, 127, 128, 128, 254, 255, 255]),
    ],
)
def test_powers_of_two_round_as_told(mode: str, saturate: bool, want: list[int]) -> None:
    tiny, large = 2.0**-127, 2.0**127 * 1.5
    x = np.array([0, tiny / 2, tiny, tiny * 1.5, 1, 1.25, 1.5, 1.75, large / 2, large, np.inf], np.float32)
    for value in (x, -x):
        got = run(value, "float8_e8m0fnu", saturate=saturate, round_mode=mode)
        assert got.view(np.uint8).tolist() == want
    assert run(np.array([np.nan], np.float32), "float8_e8m0fnu", saturate=saturate).view(np.uint8) == 255


def test_a_way_to_round_must_be_known() -> None:
    with pytest.raises(ValueError, match="no way to round is called 'sideways'"):
        convert(Var("x", "float32"), "float8_e8m0fnu", round_mode="sideways")


def test_other_types_are_plain_casts() -> None:
    x: Expr = Var("x", "float32")
    assert convert(x, "float32") is x
    assert convert(x, "int32") is x.astype("int32")


@pytest.mark.parametrize("name", [d for d in ALL if dt.is_packed(d)])
def test_packed_elements_come_back(name: str) -> None:
    x = np.tile(codes(name), 7)[: 1 + 5 * 13]
    packed = dt.pack(x)
    assert packed.dtype == np.uint8
    assert len(packed) == dt.packed_count(name, len(x))
    np.testing.assert_array_equal(dt.unpack(packed, name, len(x)).view(np.uint8), x.view(np.uint8))
    assert packed[0] & (1 << dt.bits(name)) - 1 == x.view(np.uint8)[0]  # the first element in the lowest bits
