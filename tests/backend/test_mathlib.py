"""Intrinsics and casts as emitted: accuracy over all of float32, special values, every dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.backend.kernels import build
from tilewright.ir import dtype as dt
from tilewright.ir import interp
from tilewright.ir.expr import Expr, Var, as_expr, cast, load
from tilewright.ir.expr import call as intrinsic
from tilewright.ir.intrinsics import INTRINSICS
from tilewright.ir.stmt import Buffer, For, PrimFunc, Store

#: Largest error in units in the last place that is allowed, measured over a sample of all float32 bit
#: patterns.
MAX_ULP = {"exp": 1.0, "exp2": 1.0, "log": 1.0, "log2": 1.5, "tanh": 2.0, "erf": 1.1, "sigmoid": 2.5}
EXACT = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "tanh": np.tanh,
    "erf": lambda x: np.frompyfunc(math.erf, 1, 1)(x).astype(np.float64),
    "sigmoid": lambda x: np.where(x >= 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x))),
}
SPECIAL = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    1e-40,
    -1e-40,
    88.7,
    89.0,
    -104.0,
]


def apply(fn, dtype: str, result: str, n: int, lanes: int, operands: int = 1) -> PrimFunc:  # type: ignore[no-untyped-def]
    """y[i] = fn(x0[i], x1[i], ...), ``lanes`` elements at a time (1: scalar code)."""
    xs = [Buffer.make(f"x{k}", (n,), dtype) for k in range(operands)]
    y = Buffer.make("y", (n,), result)
    i, v = Var("i", lo=0, hi=n // lanes - 1), Var("v", lo=0, hi=lanes - 1)
    index: Expr = i * lanes + v
    body = For(v, as_expr(lanes), Store(y, (index,), fn(*(load(x, [index]) for x in xs))), "vectorized")
    return PrimFunc("apply", (*xs, y), For(i, as_expr(n // lanes), body), (("outputs", 1),))


def run(f: PrimFunc, inputs: list[np.ndarray], target: str) -> np.ndarray:
    (out,) = f.outputs
    result = np.zeros(inputs[0].shape, dt.to_numpy(out.dtype))
    build(f, target)(*inputs, result)
    return result


def all_floats(step: int) -> np.ndarray:
    """Every ``step``-th float32 bit pattern and the special values, a multiple of 16 of them."""
    patterns = np.arange(0, 1 << 32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    values = np.concatenate([patterns, np.array(SPECIAL, np.float32)])
    return np.concatenate([values, np.zeros(-len(values) % 16, np.float32)])


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors of float32 results in units in the last place of the exact ones; inf where special values
    differ.
    """
    rounded = exact.astype(np.float32)
    unit = np.maximum(np.spacing(np.abs(rounded)).astype(np.float64), 2.0**-149)
    ordinary = np.isfinite(got) & np.isfinite(rounded)
    errors = np.where((got == rounded) | (np.isnan(got) & np.isnan(rounded)), 0.0, np.inf)
    errors[ordinary] = np.abs(got[ordinary].astype(np.float64) - exact[ordinary]) / unit[ordinary]
    return errors


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
@pytest.mark.parametrize("name", sorted(MAX_ULP))
def test_accuracy_over_all_of_float32(name: str, target: str) -> None:
    x = all_floats(65_521)
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype(np.float64))
    vector = run(apply(lambda a: intrinsic(name, [a]), "float32", "float32", len(x), 16), [x], target)
    errors = ulps(vector, exact)
    worst = int(np.argmax(errors))
    assert errors[worst] <= MAX_ULP[name], (
        f"{name}({x[worst]!r}) = {vector[worst]!r}, exactly {exact[worst]!r}"
    )
    part = x[-256:]
    scalar = run(apply(lambda a: intrinsic(name, [a]), "float32", "float32", 256, 1), [part], target)
    assert ulps(scalar, exact[-256:]).max() <= MAX_ULP[name]


def operands(dtype: str, count: int, seed: int) -> list[np.ndarray]:
    """Arrays of 64 values with the special ones of the dtype in front."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        if dt.is_float(dtype):
            values = rng.uniform(-3, 3, 64)
            values[: len(SPECIAL)] = rng.permutation(SPECIAL)
        elif dtype == "bool":
            values = rng.integers(0, 2, 64)
        else:
            low, high = dt.int_range(dtype)
            values = rng.integers(max(low, -100), min(high, 100), 64)
            values[:2] = [low, high] if dtype != "uint64" else [0, 2**63 - 1]
        with np.errstate(over="ignore"):
            made.append(values.astype(dt.to_numpy(dtype)))
    return made


FLOATS = ("float16", "bfloat16", "float32", "float64")
INTS = ("int8", "int32", "int64", "uint8", "uint32")


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("name", sorted(n for n, spec in INTRINSICS.items() if not spec.effect))
def test_every_intrinsic_on_every_dtype(name: str, lanes: int) -> None:
    spec = INTRINSICS[name]
    for dtype in FLOATS + INTS:
        if not spec.accepts(dtype):
            continue
        inputs = operands(dtype, spec.arity, seed=3)
        result = spec.result_dtype(dtype)
        f = apply(lambda *a: intrinsic(name, list(a), result), dtype, result, 64, lanes, spec.arity)  # noqa: B023
        with np.errstate(all="ignore"):
            (want,) = interp.run(f, inputs)
        got = run(f, inputs, "native")
        relative = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6, "float64": 1e-14}.get(dtype, 0.0)
        np.testing.assert_allclose(
            got.astype(np.float64),
            want.astype(np.float64),
            rtol=relative,
            atol=0,
            err_msg=f"{name} of {dtype}",
        )


@pytest.mark.parametrize("exponent", [-2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 7, 10])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_with_a_constant_exponent(dtype: str, exponent: float) -> None:
    inputs = operands(dtype, 1, seed=5)
    f = apply(lambda a: intrinsic("pow", [a, as_expr(float(exponent), dtype)]), dtype, dtype, 64, 16)
    with np.errstate(all="ignore"):
        # An array of exponents: for one exponent NumPy may take a square root instead.
        want = np.power(inputs[0], np.full_like(inputs[0], exponent))
    np.testing.assert_allclose(run(f, inputs, "native"), want, rtol=1e-6)


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
@pytest.mark.parametrize("source", [*FLOATS, *INTS, "bool"])
def test_casts_between_all_dtypes(source: str, target: str) -> None:
    for result in (*FLOATS, *INTS, "bool"):
        for lanes in (1, 16):
            inputs = operands(source, 1, seed=7)
            if dt.is_float(source):
                # Large values saturate.
                inputs[0][-6:] = np.array([1e10, -1e10, 300.0, -300.0, 70000.0, 3e9]).astype(inputs[0].dtype)
            f = apply(lambda a: cast(result, a), source, result, 64, lanes)  # noqa: B023
            with np.errstate(all="ignore"):
                (want,) = interp.run(f, inputs)
            np.testing.assert_array_equal(
                run(f, inputs, target).astype(np.float64),
                want.astype(np.float64),
                err_msg=f"{source} to {result}",
            )


@pytest.mark.parametrize("op", ["min", "max"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_extrema_propagate_nan(op: str, dtype: str) -> None:
    from tilewright.ir.expr import binop

    with np.errstate(over="ignore"):
        values = np.array([1.0, np.nan, np.inf, -np.inf, 0.0, -2.0, np.nan, 3.0]).astype(dt.to_numpy(dtype))
    a, b = np.repeat(values, 8), np.tile(values, 8)
    fn = {"min": np.minimum, "max": np.maximum}[op]
    pair = run(apply(lambda x, y: binop(op, x, y), dtype, dtype, 64, 16, 2), [a, b], "native")
    np.testing.assert_array_equal(pair.astype(np.float32), fn(a.astype(np.float32), b.astype(np.float32)))
    for flip in (False, True):

        def against_zero(x: Expr) -> Expr:
            zero = as_expr(0.0, dtype)
            return binop(op, zero, x) if flip else binop(op, x, zero)  # noqa: B023

        one = run(apply(against_zero, dtype, dtype, 64, 16), [a], "native")
        np.testing.assert_array_equal(one.astype(np.float32), fn(a.astype(np.float32), np.float32(0)))
