"""Quantization and products of bytes against their references, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType
from tilewright.ir import dtype as dt
from tilewright.ir.expr import as_expr

rng = np.random.default_rng(0)


def of(dtype: str, *shape: int) -> np.ndarray:
    low, high = dt.int_range(dtype)
    return np.asarray(rng.integers(low, high + 1, shape)).astype(dtype)


def scale(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.asarray(rng.uniform(0.01, 0.2, shape)).astype(dtype)


@pytest.mark.parametrize("to", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 1)])
@pytest.mark.parametrize("known", [True, False])
def test_quantize(to: str, shape: tuple[int, ...], known: bool) -> None:
    x = floats(2, 3, 4, low=-60, high=60)
    check("quantize", [x, scale(*shape), of(to, *shape)], to=to, consts=(1, 2) if known else (), rtol=0)
    check("quantize", [x, scale(*shape), None], to=to, rtol=0)


def test_halves_go_to_even_and_ends_saturate() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
    (got,) = check("quantize", [x, np.float32(1).reshape(()), np.int8(1).reshape(())], to="int8", rtol=0)
    assert got.tolist() == [1, 3, 3, 1, -1, 127, -128, 127, -128, -128]


def test_16_bit_floats_are_divided_in_their_own_type() -> None:
    x = floats(100, low=-3, high=3, dtype="float16")
    check("quantize", [x, scale(dtype="float16"), of("int8")], to="int8", rtol=0)
    check("quantize", [x, scale(dtype="float16"), of("int8")], to="int8", precision="float32", rtol=0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_dequantize(dtype: str) -> None:
    x = of(dtype, 2, 3, 4) if dtype != "int32" else rng.integers(-(2**20), 2**20, (2, 3, 4)).astype(dtype)
    zero = of(dtype, 3, 1) if dtype != "int32" else np.zeros((3, 1), np.int32)
    check("dequantize", [x, scale(3, 1), zero], to="float32", rtol=0)
    check("dequantize", [x, scale(), None], to="float16", rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_products_of_bytes(data: st.DataObject) -> None:
    signs = st.sampled_from(["int8", "uint8"])
    a, b = data.draw(signs), data.draw(signs)
    m, k, n = (data.draw(st.integers(1, 6)) for _ in range(3))
    batch = data.draw(st.sampled_from([(), (2,)]))
    p = data.draw(st.sampled_from([None, of(a), of(a, m, 1), of(a, *batch, m, 1)]))
    q = data.draw(st.sampled_from([None, of(b), of(b, n), of(b, 1, n)]))
    known = tuple(data.draw(st.sets(st.integers(0, 3))))
    kind = data.draw(st.sampled_from(["uint8", "int8", "int16"]))
    check("matmul_integer", [of(a, *batch, m, k), of(b, k, n), p, q], consts=known, rtol=0, operands=kind)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolutions_of_bytes(data: st.DataObject) -> None:
    signs = st.sampled_from(["int8", "uint8"])
    a, b = data.draw(signs), data.draw(signs)
    groups, ci, co = (data.draw(st.integers(1, 3)) for _ in range(3))
    p = data.draw(st.sampled_from([None, of(a)]))
    q = data.draw(st.sampled_from([None, of(b), of(b, groups * co)]))
    bias = data.draw(st.sampled_from([None, rng.integers(-999, 999, groups * co).astype(np.int32)]))
    known = data.draw(st.sets(st.integers(1, 4)))
    check(
        "conv_integer",
        [of(a, 2, groups * ci, 5, 6), of(b, groups * co, ci, 3, 2), p, q, bias],
        consts=tuple(known),
        rtol=0,
        operands=data.draw(st.sampled_from(["uint8", "int8", "int16"])),
        groups=groups,
        pads=(1, 0, 2, 1),
        strides=(data.draw(st.integers(1, 2)), 1),
        dilations=(1, data.draw(st.integers(1, 2))),
    )


def test_weights_whose_zero_point_leaves_signed_bytes_are_folded_or_corrected() -> None:
    a, wide = of("uint8", 3, 8), np.array([[0], [255]] * 4, np.uint8)
    for zero in (0, 100, 128, 200, 255):
        check("matmul_integer", [a, wide, None, np.array(zero, np.uint8)], consts=(1, 3), rtol=0)


def tensor(dtype: str, *shape: int) -> TensorType:
    return TensorType(tuple(as_expr(d) for d in shape), dtype)


@pytest.mark.parametrize(
    ("op", "types", "attrs", "message"),
    [
        ("quantize", [("int64", 4), ("float32",)], {"to": "int8"}, "floats or int32"),
        ("quantize", [("float32", 4), ("float32",)], {"to": "int64"}, "at most 16 bits"),
        ("quantize", [("float32", 4), ("int32",)], {"to": "int8"}, "scale must be of a float type"),
        ("quantize", [("float32", 4), ("float32", 3)], {"to": "int8"}, "cannot be broadcast"),
        ("quantize", [("float32", 4), ("float32", 2, 4)], {"to": "int8"}, "does not fit data"),
        ("quantize", [("float32", 4), ("float32",), ("uint8",)], {"to": "int8"}, "must be int8"),
        ("dequantize", [("float32", 4), ("float32",)], {"to": "float32"}, "takes integers"),
        ("dequantize", [("int8", 4), ("float32",)], {"to": "int8"}, "gives floats"),
        ("flip_sign", [("int32", 4)], {}, "takes bytes"),
        ("matmul_integer", [("int8", 4, 4), ("int8", 4, 4), ("uint8",)], {}, "must be int8"),
        ("matmul_integer", [("int8", 4, 4), ("int8", 4, 4), ("int8", 4)], {}, "neither one number"),
        ("matmul_integer", [("int8", 4, 4), ("int32", 4, 4)], {}, "one number type"),
        ("conv_integer", [("int8", 1, 1, 4), ("int8", 1, 1, 1), ("int8", 4)], {}, "must be one number"),
        ("conv_integer", [("int8", 1, 1, 4), ("int8", 2, 1, 1), None, ("int8", 3)], {}, "one a channel"),
    ],
)  # fmt: skip
def test_what_is_refused(op: str, types: list, attrs: dict[str, str], message: str) -> None:
    given_types = [None if t is None else tensor(*t) for t in types]
    with pytest.raises(GraphError, match=message):
        type_of(op, given_types, **attrs)


@pytest.mark.parametrize("to", sorted(dt.STORAGE - {"float8_e8m0fnu"}))
@pytest.mark.parametrize("source", ["float32", "float16"])
def test_storage_types(to: str, source: str) -> None:
    """To types of 8 bits and fewer and back, with one scale and with one a row."""
    x = floats(6, 40, low=-20, high=20, dtype=source)
    codes = np.random.default_rng(0).integers(0, 1 << dt.bits(to), (6, 40))
    data = codes.astype(np.uint8).view(dt.to_numpy(to))
    for shape in ((), (6, 1)):
        scale = floats(*shape, low=0.5, high=3, dtype=source)
        zero = np.ones(shape, np.float32).astype(dt.to_numpy(to))
        for point in (None, zero):
            if point is not None and dt.is_float(to) and dt.bits(to) == 8:
                point = np.zeros(shape, dt.to_numpy(to))
            check("quantize", [x, scale, point], to=to, rtol=0, atol=0)
            check("dequantize", [data, scale, point], to=source, rtol=1e-6)
    check("quantize", [100 * x, scale, None], to=to, saturate=False)


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3fn"])
def test_arithmetic_of_storage_floats_is_done_in_float32(dtype: str) -> None:
    x = np.arange(256, dtype=np.uint8).view(dt.to_numpy(dtype))
    check("isnan", [x])
    check("isinf", [x])
    check("identity", [x])
