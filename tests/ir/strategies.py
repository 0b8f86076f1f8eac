"""Random things to test with: integer expressions with their value, and tensor programs with a NumPy
reference.

Used by the property tests of ``ir``; ``random_program`` serves every test that needs many different programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import (
    BinOp,
    Cmp,
    Const,
    Expr,
    Select,
    Var,
    as_expr,
    binop,
    cast,
    cmp,
    logical_not,
    minimum,
    select,
)
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.stmt import PrimFunc

# -- integer expressions -------------------------------------------------------------------------------------

_CONSTANTS = (-7, -3, -1, 0, 1, 2, 3, 4, 8, 9, 16)
_FACTORS = (-8, -2, -1, 2, 3, 4, 6, 8, 16)
_DIVISORS = (2, 3, 4, 6, 8, 16, 32, -3)


class IntegerProblem:
    """Two variables and a positive one, random expressions over them, and the values that they take.

    The compiler knows some of the variables' bounds and divisors and not others.
    """

    def __init__(self, seed: int, depth: int) -> None:
        self._rng = Random(seed)
        self._depth = depth
        self.values: dict[Var, tuple[int, ...]] = {}
        for name in ("x", "y", "z"):
            self._variable(name, positive=name == "z")
        *self._variables, self._positive = self.values

    def __repr__(self) -> str:
        known = ", ".join(f"{v.name} in [{v.lo}, {v.hi}] by {v.multiple_of}" for v in self.values)
        return f"IntegerProblem({known})"

    def _variable(self, name: str, positive: bool) -> None:
        rng = self._rng
        lo = rng.choice([0, 0, 0, -5, 2])
        hi = lo + rng.choice([0, 1, 3, 7, 8, 15, 31])
        if positive:
            lo, hi = max(lo, 1), max(hi, 1)
        multiple = rng.choice([1, 1, 1, 2, 4])
        values = tuple(v for v in range(lo, hi + 1) if v % multiple == 0)
        if not values:
            multiple, values = 1, tuple(range(lo, hi + 1))
        known_lo, known_hi = positive or rng.random() < 0.7, rng.random() < 0.7
        var = Var(name, lo=lo if known_lo else None, hi=hi if known_hi else None, multiple_of=multiple)
        self.values[var] = values

    def point(self) -> dict[Var, int]:
        """A value for every variable."""
        return {var: self._rng.choice(values) for var, values in self.values.items()}

    def points(self, count: int) -> list[dict[Var, int]]:
        """Several of them."""
        return [self.point() for _ in range(count)]

    def expr(self, depth: int | None = None) -> Expr:
        """An index expression."""
        rng, depth = self._rng, self._depth if depth is None else depth
        if depth == 0 or rng.random() < 0.2:
            return (
                rng.choice([*self._variables, self._positive])
                if rng.random() < 0.75
                else as_expr(rng.choice(_CONSTANTS))
            )
        a = self.expr(depth - 1)
        op = rng.choice(_INT_STAGES)
        if op == "scale":
            return a * rng.choice(_FACTORS)
        if op in ("floordiv", "mod"):
            return binop(op, a, self._positive if rng.random() < 0.2 else as_expr(rng.choice(_DIVISORS)))
        b = self.expr(depth - 1)
        return select(self.condition(depth - 1), a, b) if op == "select" else binop(op, a, b)

    def condition(self, depth: int | None = None) -> Expr:
        """A condition on index expressions."""
        rng, depth = self._rng, self._depth if depth is None else depth
        if depth == 0 or rng.random() < 0.6:
            inner = max(depth - 1, 0)
            return cmp(rng.choice(["lt", "le", "eq", "ne"]), self.expr(inner), self.expr(inner))
        if rng.random() < 0.2:
            return logical_not(self.condition(depth - 1))
        return binop(rng.choice(["and", "or"]), self.condition(depth - 1), self.condition(depth - 1))


_INT_STAGES = (
    "add",
    "add",
    "sub",
    "scale",
    "scale",
    "floordiv",
    "floordiv",
    "mod",
    "mod",
    "mul",
    "min",
    "max",
    "select",
)


def integer_problems() -> st.SearchStrategy[IntegerProblem]:
    """Random problems; failures shrink towards shallow expressions."""
    return st.builds(IntegerProblem, seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 4))


def evaluate(e: Expr, values: Mapping[Var, int]) -> int:
    """The value of an integer or bool expression without loads: the definition the simplifier is held to."""
    if isinstance(e, Const):
        return int(e.value)
    if isinstance(e, Var):
        return values[e]
    if isinstance(e, Select):
        return evaluate(e.a if evaluate(e.cond, values) else e.b, values)
    assert isinstance(e, BinOp | Cmp)
    a, b = evaluate(e.a, values), evaluate(e.b, values)
    return int(_INT_OPS[e.op](a, b))


_INT_OPS: dict[str, Callable[[int, int], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}

# -- tensor programs -----------------------------------------------------------------------------------------

_SIZES = (1, 2, 3, 4, 5, 7, 8, 9)
_DTYPES = ("float32", "float32", "float32", "float64", "int32", "int64", "int8", "uint8", "float16", "bool")
_MAX_ELEMENTS = 2000


@dataclasses.dataclass(frozen=True)
class Program:
    """A random program with inputs and the outputs that NumPy computes for them."""

    func: PrimFunc
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]

    def check(self, results: Sequence[np.ndarray]) -> None:
        """Raise AssertionError unless ``results`` are the expected outputs, floats within rounding."""
        assert len(results) == len(self.outputs)
        for actual, expected in zip(results, self.outputs, strict=True):
            assert actual.dtype == expected.dtype
            if expected.dtype.kind == "f":
                tolerance = 2e-2 if expected.dtype.itemsize == 2 else 2e-4
                np.testing.assert_allclose(
                    actual.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance
                )
            else:
                np.testing.assert_array_equal(actual, expected)


@dataclasses.dataclass(frozen=True)
class _Value:
    """A tensor of the program and what it holds."""

    tensor: te.Tensor
    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


class _Builder:
    def __init__(self, rng: Random, stages: int) -> None:
        self.rng = rng
        self.data = np.random.default_rng(rng.randrange(1 << 32))
        self.values: list[_Value] = [self._input(n) for n in range(rng.randint(1, 3))]
        self.inputs = list(self.values)
        for n in range(stages):
            self.name = f"t{n}"
            for _ in range(20):
                made = rng.choice(_STAGES)(self, rng.choice(self.values[-3:]))
                if made is not None:
                    self.values.append(made)
                    break

    def _input(self, number: int) -> _Value:
        shape = tuple(self.rng.choice(_SIZES) for _ in range(self.rng.choice([0, 1, 2, 2, 3, 3, 4])))
        if np.prod(shape) > _MAX_ELEMENTS:
            shape = shape[:2]
        dtype = self.rng.choice(_DTYPES)
        if dt.is_float(dtype):
            array = self.data.standard_normal(shape)
        elif dtype == "bool":
            array = self.data.integers(0, 2, shape)
        else:
            array = self.data.integers(-4 if dt.is_signed(dtype) else 0, 9, shape)
        tensor = te.placeholder(shape, dtype, f"x{number}")
        return _Value(tensor, np.asarray(array).astype(dt.to_numpy(dtype)))

    def make(self, shape: Sequence[int], body: Callable[..., Any], array: np.ndarray) -> _Value | None:
        """The stage, unless it is too large or holds numbers that rounding makes incomparable."""
        if np.prod(shape) > _MAX_ELEMENTS:
            return None
        if array.dtype.kind == "f" and not np.all(np.abs(array.astype(np.float64)) < 1e4):
            return None
        tensor = te.compute(shape, body, self.name)
        assert dt.to_numpy(tensor.dtype) == array.dtype
        return _Value(tensor, array)

    def finish(self) -> Program:
        """The program with every value that nothing reads as an output."""
        made = [v for v in self.values if v not in self.inputs]
        read = {s for v in made for s in v.tensor.sources}
        outputs = [v for v in made if v.tensor not in read]
        used = [v for v in self.inputs if v.tensor in read]
        consts = [v.tensor for v in used if self.rng.random() < 0.3]
        func = te.primfunc(
            "program", [v.tensor for v in used], [v.tensor for v in outputs], const_inputs=consts
        )
        return Program(func, tuple(v.array for v in used), tuple(v.array for v in outputs))


def _unary(b: _Builder, v: _Value) -> _Value | None:
    t, x = v.tensor, v.array
    if not dt.is_float(t.dtype):
        return None
    name = b.rng.choice(["exp", "tanh", "abs", "neg", "sigmoid", "erf", "floor", "round", "sqrt"])
    from tilewright.ir.intrinsics import INTRINSICS

    source = np.abs(x) if name == "sqrt" else x
    apply = INTRINSICS[name].numpy
    assert apply is not None
    with np.errstate(all="ignore"):
        result = np.asarray(apply(source))
    operand = (lambda *i: intrinsic("abs", t[i])) if name == "sqrt" else (lambda *i: t[i])
    return b.make(x.shape, lambda *i: intrinsic(name, operand(*i)), result)


def _binary(b: _Builder, v: _Value) -> _Value | None:
    """An operation with another value of the same dtype, broadcast as NumPy does."""
    others = [o for o in b.values if o.tensor.dtype == v.tensor.dtype]
    o = b.rng.choice(others)
    try:
        shape = np.broadcast_shapes(v.shape, o.shape)
    except ValueError:
        return None
    op = b.rng.choice(
        ["and", "or", "xor"] if v.tensor.dtype == "bool" else ["add", "sub", "mul", "min", "max"]
    )

    def pick(value: _Value, i: tuple[Expr, ...]) -> Expr:
        tail = i[len(i) - value.tensor.ndim :]
        return value.tensor[
            tuple(as_expr(0) if n == 1 else x for x, n in zip(tail, value.shape, strict=True))
        ]

    with np.errstate(all="ignore"):
        result = np.asarray(_NUMPY_OPS[op](v.array, o.array))
    return b.make(shape, lambda *i: binop(op, pick(v, i), pick(o, i)), result)


_NUMPY_OPS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def _convert(b: _Builder, v: _Value) -> _Value | None:
    dtype = b.rng.choice(_DTYPES)
    target, x = dt.to_numpy(dtype), v.array
    if v.array.dtype.kind == "f" and dt.is_int(dtype):
        low, high = dt.int_range(dtype)
        result = np.clip(np.trunc(x.astype(np.float64)), low, high).astype(target)
    else:
        with np.errstate(all="ignore"):
            result = x.astype(target)
    return b.make(v.shape, lambda *i: cast(dtype, v.tensor[i]), result)


def _compare(b: _Builder, v: _Value) -> _Value | None:
    if v.tensor.dtype == "bool":
        return None
    op = b.rng.choice(["lt", "le", "eq", "ne"])
    limit = b.rng.randint(0, 4)
    compare = {"lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal}[op]
    zero = as_expr(limit) if v.tensor.dtype == dt.INDEX else cast(v.tensor.dtype, as_expr(limit))
    result = np.where(compare(v.array, v.array.dtype.type(limit)), v.array, v.array.dtype.type(1)).astype(
        v.array.dtype
    )
    one = cast(v.tensor.dtype, as_expr(1))
    return b.make(v.shape, lambda *i: select(cmp(op, v.tensor[i], zero), v.tensor[i], one), result)


def _transpose(b: _Builder, v: _Value) -> _Value | None:
    order = b.rng.sample(range(v.array.ndim), v.array.ndim)
    shape = [v.shape[a] for a in order]
    return b.make(
        shape,
        lambda *i: v.tensor[tuple(i[order.index(a)] for a in range(len(order)))],
        v.array.transpose(order),
    )


def _pad(b: _Builder, v: _Value) -> _Value | None:
    if not v.array.ndim:
        return None
    axis, low, high = b.rng.randrange(v.array.ndim), b.rng.randint(0, 2), b.rng.randint(0, 2)
    size = v.shape[axis]
    widths = [(low, high) if a == axis else (0, 0) for a in range(v.array.ndim)]

    def body(*i: Expr) -> Expr:
        at = tuple(x - low if a == axis else x for a, x in enumerate(i))
        inside = (as_expr(low) <= i[axis]) & (i[axis] < size + low)
        return select(inside, v.tensor[at], cast(v.tensor.dtype, as_expr(0)))

    result = np.pad(v.array, widths)
    return b.make(result.shape, body, result)


def _slice(b: _Builder, v: _Value) -> _Value | None:
    if not v.array.ndim:
        return None
    axis = b.rng.randrange(v.array.ndim)
    start, step = b.rng.randrange(v.shape[axis]), b.rng.randint(1, 3)
    result = v.array[
        tuple(slice(start, None, step) if a == axis else slice(None) for a in range(v.array.ndim))
    ]
    return b.make(
        result.shape,
        lambda *i: v.tensor[tuple(x * step + start if a == axis else x for a, x in enumerate(i))],
        result,
    )


def _flip(b: _Builder, v: _Value) -> _Value | None:
    if not v.array.ndim:
        return None
    axis = b.rng.randrange(v.array.ndim)
    last = v.shape[axis] - 1
    return b.make(
        v.shape,
        lambda *i: v.tensor[tuple(last - x if a == axis else x for a, x in enumerate(i))],
        np.flip(v.array, axis),
    )


def _reshape(b: _Builder, v: _Value) -> _Value | None:
    """To one dimension, or the first dimension split in two or merged with the second."""
    size = int(np.prod(v.shape))
    shape = b.rng.choice([(size,), (size, 1), *[(d, size // d) for d in range(2, size) if size % d == 0]])

    def body(*i: Expr) -> Expr:
        flat = i[0] if len(shape) == 1 else i[0] * shape[1] + i[1]
        indices: list[Expr] = []
        for n in reversed(v.shape):
            indices.append(flat % n)
            flat = flat // n
        return v.tensor[tuple(reversed(indices))]

    return b.make(shape, body, v.array.reshape(shape))


def _gather(b: _Builder, v: _Value) -> _Value | None:
    """Rows of ``v`` at places that another tensor gives."""
    indices = [o for o in b.values if dt.is_int(o.tensor.dtype) and o.array.ndim == 1]
    if not indices or not v.array.ndim:
        return None
    o = b.rng.choice(indices)
    rows = v.shape[0]
    at = np.clip(o.array.astype(np.int64) % rows, 0, rows - 1)

    def body(*i: Expr) -> Expr:
        return v.tensor[(minimum(cast(dt.INDEX, o.tensor[i[0]]) % rows, rows - 1), *i[1:])]

    return b.make((o.shape[0], *v.shape[1:]), body, v.array[at])


def _reduce(b: _Builder, v: _Value) -> _Value | None:
    if v.tensor.dtype == "bool" or not v.array.ndim:
        return None
    op = b.rng.choice(["sum", "max", "min", "prod"])
    axes = tuple(sorted(b.rng.sample(range(v.array.ndim), b.rng.randint(1, v.array.ndim))))
    kept = [a for a in range(v.array.ndim) if a not in axes]

    def body(*i: Expr) -> Expr:
        def term(*r: Expr) -> Expr:
            return v.tensor[
                tuple(i[kept.index(a)] if a in kept else r[axes.index(a)] for a in range(v.array.ndim))
            ]

        return te.reduce(op, [v.shape[a] for a in axes], term)

    function = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[op]
    result = v.array
    with np.errstate(all="ignore"):
        for axis in reversed(axes):
            result = function.reduce(result, axis=axis, dtype=v.array.dtype)
    return b.make([v.shape[a] for a in kept], body, np.asarray(result))


def _matmul(b: _Builder, v: _Value) -> _Value | None:
    """Contraction of the last axis with the first axis of another value."""
    others = [
        o
        for o in b.values
        if o.tensor.dtype == v.tensor.dtype and v.array.ndim and o.array.ndim and o.shape[0] == v.shape[-1]
    ]
    if not others or v.tensor.dtype == "bool":
        return None
    o = b.rng.choice(others)
    rank = v.array.ndim - 1

    def body(*i: Expr) -> Expr:
        return te.reduce("sum", (o.shape[0],), lambda k: v.tensor[(*i[:rank], k)] * o.tensor[(k, *i[rank:])])

    with np.errstate(all="ignore"):
        result = np.tensordot(v.array, o.array, axes=(-1, 0)).astype(v.array.dtype)
    return b.make((*v.shape[:-1], *o.shape[1:]), body, result)


def _window(b: _Builder, v: _Value) -> _Value | None:
    """A sliding sum along one axis: a convolution with ones."""
    axes = [a for a in range(v.array.ndim) if v.shape[a] >= 2]
    if not axes or v.tensor.dtype == "bool":
        return None
    axis = b.rng.choice(axes)
    width = b.rng.randint(2, min(3, v.shape[axis]))
    shape = [n - width + 1 if a == axis else n for a, n in enumerate(v.shape)]

    def body(*i: Expr) -> Expr:
        return te.reduce(
            "sum", (width,), lambda k: v.tensor[tuple(x + k if a == axis else x for a, x in enumerate(i))]
        )

    parts = [np.take(v.array, range(k, k + shape[axis]), axis=axis) for k in range(width)]
    with np.errstate(all="ignore"):
        return b.make(shape, body, np.add.reduce(parts, dtype=v.array.dtype))


_STAGES: tuple[Callable[[_Builder, _Value], _Value | None], ...] = (
    _unary,
    _binary,
    _binary,
    _convert,
    _compare,
    _transpose,
    _pad,
    _slice,
    _flip,
    _reshape,
    _gather,
    _reduce,
    _reduce,
    _matmul,
    _window,
)


def random_program(rng: Random, stages: int = 4) -> Program:
    """A program of up to ``stages`` computed tensors with small, odd shapes and mixed dtypes."""
    while True:
        builder = _Builder(rng, stages)
        if len(builder.values) > len(builder.inputs):
            return builder.finish()


def programs(max_stages: int = 5) -> st.SearchStrategy[Program]:
    """Random programs; failures shrink towards fewer stages."""
    return st.builds(
        lambda stages, seed: random_program(Random(seed), stages),
        st.integers(1, max_stages),
        st.integers(0, 2**32 - 1),
    )
