"""Random tensor programs of the kinds that models are made of, with sizes around the vector lengths.

Values are tracked while a program grows: which tensors hold integers only (floating-point results are then
exact in any order of summation and are compared exactly) and how large they may be. Operations that jump
(comparisons, rounding) are applied to exact values only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from math import prod
from random import Random

import numpy as np

from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import (
    Expr,
)
from tilewright.ir.interp import run
from tilewright.ir.stmt import PrimFunc

_SIZES = (1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 15, 16, 16, 17, 17, 31, 32, 33, 33, 48, 49)
_DTYPES = ("float32",) * 10 + ("float64", "float64", "int32", "int32", "int64", "uint8", "int8", "float16")
_MAX_ELEMENTS = 30_000
_MAX_WORK = 400_000
#: Integers up to here are exact in the type.
EXACT = {"float16": 1 << 10, "float32": 1 << 23, "float64": 1 << 50}


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor; ``exact``: it holds integers; ``bound``: no element is larger in magnitude."""

    tensor: te.Tensor
    exact: bool
    bound: float

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.tensor.buffer.static_shape
        assert shape is not None
        return shape

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    @property
    def ndim(self) -> int:
        return self.tensor.ndim


@dataclasses.dataclass(frozen=True)
class Case:
    """A program, inputs for it, and which outputs are exact."""

    func: PrimFunc
    inputs: tuple[np.ndarray, ...]
    exact: tuple[bool, ...]
    sizes: tuple[int, ...]

    def expected(self) -> list[np.ndarray]:
        """What the unscheduled program computes."""
        return run(self.func, self.inputs)

    def check(self, results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
        """Raise AssertionError where ``results`` differ from ``expected`` by more than rounding explains."""
        for buffer, exact, actual, wanted in zip(
            self.func.outputs, self.exact, results, expected, strict=True
        ):
            if exact or not dt.is_float(buffer.dtype):
                np.testing.assert_array_equal(actual, wanted, err_msg=f"output '{buffer.name}'")
                continue
            a, b = actual.astype(np.float64), wanted.astype(np.float64)
            finite = np.abs(b[np.isfinite(b)])
            loose = 10 if buffer.dtype == "float16" else 1
            scale = max(1.0, float(finite.max()) if finite.size else 1.0)
            np.testing.assert_allclose(
                a, b, rtol=2e-3 * loose, atol=2e-4 * loose * scale, err_msg=f"output '{buffer.name}'"
            )


Stage = Callable[["ProgramGenerator", Value], Value | None]


class ProgramGenerator:
    """One random program.

    Args:
        seed: of all choices.
        stages: how many operations to chain.
        choices: the operations, repeated by how often they shall come; each takes the generator and a tensor
            and gives the stage it added, or None.
        sizes: other values for some of the drawn sizes, by the number of the draw (for minimising).
    """

    def __init__(
        self, seed: int, stages: int, choices: Sequence[Stage], sizes: Mapping[int, int] | None = None
    ) -> None:
        self.rng = Random(seed)
        self.data = np.random.default_rng(seed)
        self.overrides = dict(sizes or {})
        self.drawn: list[int] = []
        self.values: list[Value] = []
        self.inputs: dict[te.Tensor, np.ndarray] = {}
        self.consts: list[te.Tensor] = []
        self.count = 0
        self.integers = self.rng.random() < 0.6
        self.root()
        for _ in range(stages):
            for _ in range(20):
                stage = self.rng.choice(choices)
                source = self.values[-1] if self.rng.random() < 0.8 else self.rng.choice(self.values)
                if stage(self, source):
                    break

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def size(self) -> int:
        """A dimension."""
        value = self.rng.choice(_SIZES) if self.chance(0.9) else self.rng.randint(1, 70)
        value = self.overrides.get(len(self.drawn), value)
        self.drawn.append(value)
        return value

    def name(self, stem: str = "t") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def fresh(self, shape: Sequence[int], dtype: str, const_p: float = 0.4) -> Value:
        """A new input."""
        tensor = te.placeholder(tuple(shape), dtype, self.name("x"))
        exact = True
        if dtype == "bool":
            array = self.data.integers(0, 2, tuple(shape))
        elif dt.is_int(dtype):
            array = self.data.integers(-4 if dt.is_signed(dtype) else 0, 9, tuple(shape))
        elif self.integers:
            array = self.data.integers(-3, 4, tuple(shape))
        else:
            exact = False
            array = self.data.uniform(-2, 2, tuple(shape))
        self.inputs[tensor] = np.asarray(array).astype(dt.to_numpy(dtype))
        if self.chance(const_p):
            self.consts.append(tensor)
        return Value(tensor, exact, 9.0)

    def root(self) -> Value:
        """An input to start from."""
        while True:
            shape = tuple(self.size() for _ in range(self.rng.choice([1, 2, 2, 3, 3, 4])))
            if prod(shape) <= _MAX_ELEMENTS:
                break
        value = self.fresh(shape, self.rng.choice(_DTYPES), 0.1)
        self.values.append(value)
        return value

    def emit(
        self,
        shape: Sequence[int],
        body: Callable[..., Expr],
        exact: bool,
        bound: float,
        work: int = 1,
        keep: bool = True,
    ) -> Value | None:
        """Add a stage; None when it is too large to interpret or its numbers are out of hand."""
        if prod(shape) > _MAX_ELEMENTS or prod(shape) * work > _MAX_WORK:
            return None
        tensor = te.compute(tuple(shape), body, self.name())
        if dt.is_float(tensor.dtype):
            limit = EXACT[tensor.dtype]
            if bound > (1e3 if tensor.dtype == "float16" else 1e7) and not (exact and bound <= limit):
                return None
        elif tensor.dtype != "bool":
            bound = min(bound, float(max(abs(v) for v in dt.int_range(tensor.dtype))))
        value = Value(tensor, exact, bound)
        if keep:
            self.values.append(value)
        return value

    def other(self, shape: Sequence[int], dtype: str) -> Value:
        """An existing tensor of that type, or an input."""
        found = [v for v in self.values if v.shape == tuple(shape) and v.dtype == dtype]
        return self.rng.choice(found) if found and self.chance(0.4) else self.fresh(shape, dtype)

    def case(self) -> Case:
        """The program: what nothing reads is an output, sometimes an intermediate tensor is too."""
        read = {s for v in self.values for s in v.tensor.sources}
        pending = list(read)
        while pending:
            for source in pending.pop().sources:
                if source not in read:
                    read.add(source)
                    pending.append(source)
        made = [v for v in self.values if v.tensor.body is not None]
        outputs = [v for v in made if v.tensor not in read or self.chance(0.08)]
        return self.subcase(outputs, {})

    def subcase(self, outputs: Sequence[Value], cut: Mapping[te.Tensor, np.ndarray]) -> Case:
        """The part of the program that computes ``outputs``, with some tensors given instead of computed."""
        given = {**self.inputs, **cut}
        needed: dict[te.Tensor, None] = {}
        pending = [v.tensor for v in outputs]
        seen = set(pending)
        while pending:
            for source in pending.pop().sources:
                if source in given:
                    needed[source] = None
                elif source not in seen:
                    seen.add(source)
                    pending.append(source)
        used = [t for t in given if t in needed]
        func = te.primfunc(
            "program", used, [v.tensor for v in outputs], [t for t in used if t in self.consts]
        )
        return Case(func, tuple(given[t] for t in used), tuple(v.exact for v in outputs), tuple(self.drawn))
