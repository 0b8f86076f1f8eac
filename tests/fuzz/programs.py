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

from tests.fuzz.case import STATIC, Case, Draw, Sizes
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large programs are: sizes of dimensions to choose from, any others up to ``largest``; most elements
    of a tensor, most iterations of a stage.
    """

    sizes: tuple[int, ...]
    largest: int
    elements: int
    work: int


#: Around the lengths of vectors and register tiles.
KERNEL = Scale(
    (1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 15, 16, 16, 17, 17, 31, 32, 33, 33, 48, 49), 70, 30_000, 400_000
)
#: For many programs a second.
SMALL = Scale((1, 2, 2, 3, 3, 4, 5, 7, 8, 9), 12, 600, 4_000)

_DTYPES = ("float32",) * 10 + ("float64", "float64", "int32", "int32", "int64", "uint8", "int8", "float16")
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
    def dims(self) -> tuple[Expr, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    @property
    def ndim(self) -> int:
        return self.tensor.ndim


Stage = Callable[["ProgramGenerator", Value], Value | None]


class ProgramGenerator:
    """One random program.

    Args:
        rng: of all choices.
        stages: how many operations to chain.
        choices: the operations, repeated by how often they shall come; each takes the generator and a tensor
            and gives the stage it added, or None.
        scale: how large it is.
    """

    def __init__(self, rng: Random, stages: int, choices: Sequence[Stage], scale: Scale = KERNEL) -> None:
        self.rng = rng
        self.scale = scale
        self.values: list[Value] = []
        self.inputs: dict[te.Tensor, Draw] = {}
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
        scale = self.scale
        return self.rng.choice(scale.sizes) if self.chance(0.9) else self.rng.randint(1, scale.largest)

    def name(self, stem: str = "t") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def fresh(self, shape: Sequence[int], dtype: str, const_p: float = 0.4) -> Value:
        """A new input."""
        tensor = te.placeholder(tuple(shape), dtype, self.name("x"))
        exact = not dt.is_float(dtype) or self.integers
        if dtype == "bool":
            draw = Draw(0, 2)
        elif dt.is_int(dtype):
            draw = Draw(-4 if dt.is_signed(dtype) else 0, 9)
        else:
            draw = Draw(-3, 4) if self.integers else Draw(-2, 2, integers=False)
        self.inputs[tensor] = draw
        if self.chance(const_p):
            self.consts.append(tensor)
        return Value(tensor, exact, 9.0)

    def root(self) -> Value:
        """An input to start from."""
        while True:
            shape = tuple(self.size() for _ in range(self.rng.choice([1, 2, 2, 3, 3, 4])))
            if prod(shape) <= self.scale.elements:
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
        if prod(shape) > self.scale.elements or prod(shape) * work > self.scale.work:
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

    def case(self) -> Case | None:
        """The program; None when nothing is computed. What nothing reads is an output, sometimes an
        intermediate tensor is too.
        """
        made = [v for v in self.values if v.tensor.body is not None]
        if not made:
            return None
        read = reached([v.tensor for v in self.values])
        outputs = [v for v in made if v.tensor not in read or self.chance(0.08)]
        return make_case(self.rng, outputs, self.inputs, self.consts)


def reached(tensors: Sequence[te.Tensor]) -> set[te.Tensor]:
    """Every tensor that ``tensors`` read, directly or not."""
    found: set[te.Tensor] = set()
    pending = list(tensors)
    while pending:
        for source in pending.pop().sources:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def make_case(
    rng: Random,
    outputs: Sequence[Value],
    inputs: Mapping[te.Tensor, Draw],
    consts: Sequence[te.Tensor],
    dims: Sequence[Var] = (),
    sizes: tuple[Sizes, ...] = STATIC,
) -> Case:
    """The program that computes ``outputs``; of ``inputs``, those that it reads."""
    read = reached([v.tensor for v in outputs])
    used = [t for t in inputs if t in read]
    func = te.primfunc("program", used, [v.tensor for v in outputs], [t for t in used if t in consts], dims)
    draws = {t.name: inputs[t] for t in used}
    return Case(func, draws, rng.getrandbits(31), tuple(v.exact for v in outputs), sizes)
