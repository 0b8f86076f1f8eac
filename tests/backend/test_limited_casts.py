"""Floats that were cut off become integers without saturating conversions, and to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backend.kernels import build, call
from tilewright.ir import interp
from tilewright.ir.expr import Expr, Var, as_expr, const, load, maximum, minimum, select
from tilewright.ir.float_limits import float_limits
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.stmt import Buffer, For, PrimFunc, Store

EDGES = [0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 128.5, 254.5, 255.5, 256, 300, -300, 3e9, -3e9, 1e-40]
VALUES = np.array([*EDGES, np.inf, -np.inf, np.nan, -0.0], np.float32)


def limited(x: Expr, low: float, high: float) -> Expr:
    x = select(x > const(low, "float32"), x, const(low, "float32"))
    return select(x < const(high, "float32"), x, const(high, "float32"))


def program(to: str, rounded: bool, lanes: int) -> PrimFunc:
    n = 64
    x, y = Buffer.make("x", (n,), "float32"), Buffer.make("y", (n,), to)
    i, j = Var("i", lo=0, hi=n // lanes - 1), Var("j", lo=0, hi=lanes - 1)
    at = i * lanes + j
    low, high = (-128, 127) if to == "int8" else (0, 255)
    value = limited(load(x, [at]), low, high)
    value = intrinsic("round", value) if rounded else value
    store = Store(y, (at,), value.astype("int32").astype(to))
    body = For(i, as_expr(n // lanes), For(j, as_expr(lanes), store, "vectorized"))
    return PrimFunc("f", (x, y), body, (("outputs", 1),))


@pytest.mark.parametrize("to", ["int8", "uint8"])
@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize(
    ("lanes", "target"), [(1, "native"), (16, "native"), (64, "native"), (8, "x86-64-v3")]
)
def test_limited_casts(to: str, rounded: bool, lanes: int, target: str) -> None:
    x = np.resize(VALUES, 64)
    f = program(to, rounded, lanes)
    (got,) = call(f, [x], target)
    np.testing.assert_array_equal(got, interp.run(f, [x])[0])


def test_no_saturating_conversion_is_left() -> None:
    text = build(program("uint8", True, 16)).module.text
    assert "llvm.lrint" in text
    assert ".sat" not in text


def test_limits() -> None:
    x = load(Buffer.make("x", (1,), "float32"), [as_expr(0)])
    assert float_limits(limited(x, -3, 5)) == (-3, 5)
    assert float_limits(intrinsic("round", limited(x, -2.4, 5.6))) == (-2, 6)
    assert float_limits(const(2.5, "float32")) == (2.5, 2.5)
    for other in (x, select(x > 0.0, x, const(0.0, "float32")), minimum(maximum(x, 0.0), 1.0)):
        assert float_limits(other) is None
    assert float_limits(const(float("nan"), "float32")) is None
    assert float_limits(select(x < 1.0, const(5.0, "float32"), x)) is None
