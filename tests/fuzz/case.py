"""A program to check, the inputs it gets, and how far results may differ."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.interp import run
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import const_int, substitute_expr
from tilewright.schedule import IndexMap

#: Values of run-time dimensions, by name.
Sizes = Mapping[str, int]

#: Programs whose dimensions are all known have these sizes.
STATIC: tuple[Sizes, ...] = ({},)


@dataclasses.dataclass(frozen=True)
class Draw:
    """Where the elements of an input come from: ``low <= x < high``, integers or any numbers."""

    low: float
    high: float
    integers: bool = True

    def array(self, rng: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
        values = (
            rng.integers(int(self.low), int(self.high), shape)
            if self.integers
            else rng.uniform(self.low, self.high, shape)
        )
        return np.asarray(values).astype(dt.to_numpy(dtype))


def plain_draw(dtype: str) -> Draw:
    """Small integers that any type holds."""
    if dtype == "bool":
        return Draw(0, 2)
    return Draw(-3, 4) if dt.is_float(dtype) or dt.is_signed(dtype) else Draw(0, 9)


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and its inputs.

    Attributes:
        func: the program before scheduling.
        draws: where inputs come from, by parameter name; :func:`plain_draw` for those left out.
        seed: of the inputs. Each is drawn by itself, so that others keep their values when one goes.
        exact: for each output, whether any order of summation gives the same bits.
        sizes: run-time dimensions to run with.
        lowers: whether temporaries hold nothing from one iteration to the next of a loop that contains all
            their uses, which lowering takes for granted.
    """

    func: PrimFunc
    draws: Mapping[str, Draw] = dataclasses.field(default_factory=dict)
    seed: int = 0
    exact: tuple[bool, ...] = ()
    sizes: tuple[Sizes, ...] = STATIC
    lowers: bool = True

    @staticmethod
    def integers(func: PrimFunc, low: int = 0, high: int = 4) -> Case:
        """Inputs are small integers and no result is too large to be exact."""
        draws = {b.name: Draw(low, high) for b in func.inputs if isinstance(b, Buffer)}
        return Case(func, draws, exact=(True,) * len(func.outputs))

    def with_(self, **changes: object) -> Case:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def inputs(self, sizes: Sizes, func: PrimFunc | None = None) -> list[np.ndarray]:
        """Arrays for ``func`` (the program itself when left out; else what became of it): constant
        parameters are in the layout that it wants.
        """
        wanted = self.func if func is None else func
        layouts = wanted.attr("param_layouts", {})
        made = []
        # The schedule may change a constant parameter's shape: draw in the shape of the program itself.
        for own in self.func.inputs:
            if not isinstance(own, Buffer):
                continue
            rng = np.random.default_rng([self.seed, zlib.crc32(own.name.encode())])
            draw = self.draws.get(own.name) or plain_draw(own.dtype)
            array = draw.array(rng, shape_at(own.shape, self.func, sizes), own.dtype)
            made.append(IndexMap.parse(layouts[own.name]).apply(array) if own.name in layouts else array)
        return made

    def dims(self, sizes: Sizes, func: PrimFunc | None = None) -> dict[Var, int]:
        """The values of the run-time dimensions of ``func``."""
        wanted = self.func if func is None else func
        return {p: sizes[p.name] for p in wanted.params if isinstance(p, Var)}

    def expected(self, sizes: Sizes = STATIC[0]) -> list[np.ndarray]:
        """What the program computes unscheduled."""
        return run(self.func, self.inputs(sizes), self.dims(sizes))

    def compare(self, results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
        """Raise AssertionError where ``results`` differ from ``expected`` by more than rounding explains."""
        exact = self.exact or (False,) * len(expected)
        for buffer, bits, actual, wanted in zip(self.func.outputs, exact, results, expected, strict=True):
            if np.array_equal(actual, wanted):
                continue
            what = f"output '{buffer.name}'"
            assert actual.shape == wanted.shape, f"{what} is {actual.shape}, not {wanted.shape}"
            if bits or not dt.is_float(buffer.dtype):
                np.testing.assert_array_equal(actual, wanted, err_msg=what)
                continue
            a, b = actual.astype(np.float64), wanted.astype(np.float64)
            finite = np.abs(b[np.isfinite(b)])
            loose = 10 if buffer.dtype in ("float16", "bfloat16") else 1
            scale = max(1.0, float(finite.max()) if finite.size else 1.0)
            np.testing.assert_allclose(a, b, rtol=2e-3 * loose, atol=2e-4 * loose * scale, err_msg=what)


def shape_at(shape: Sequence[Expr], func: PrimFunc, sizes: Sizes) -> tuple[int, ...]:
    """A shape over the run-time dimensions of ``func``, with values for these."""
    mapping: dict[Expr, Expr] = {p: as_expr(sizes[p.name]) for p in func.params if isinstance(p, Var)}
    found = []
    for dim in shape:
        value = const_int(simplify(substitute_expr(dim, mapping)) if mapping else dim)
        assert value is not None
        found.append(value)
    return tuple(found)
