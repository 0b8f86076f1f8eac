"""Data to run a function on: random inputs that exercise it, and outputs that can be trusted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import ml_dtypes
import numpy as np

from tilewright.errors import ShapeError, TilewrightError
from tilewright.ir import dtype as dt
from tilewright.ir.interp import run as interpret
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import const_int, find_blocks, stores_of
from tilewright.measure.program import (
    Arrays,
    Loaded,
    Parameter,
    build_program,
    parameters,
    runtime_functions,
)
from tilewright.schedule.rules.plain_loops import schedule_plainly
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target

#: Up to so many instances of blocks the interpreter computes expected outputs; native code beyond. Where it
#: cannot compute with whole arrays it takes a microsecond for each.
INTERPRETED: Final = 1 << 22

#: The share of an integer output that may be off by one, if it is rounded from floats.
ROUNDED: Final = 1e-3


@dataclasses.dataclass(frozen=True)
class Data:
    """What a function is run on.

    Attributes:
        params: all arguments, outputs last.
        inputs: arrays for those before the outputs.
        expected: the outputs.
        oracle: what computed them: ``interpreter``, or ``native`` for compiled code of the function's loops.
        rtol: how far floats of another schedule may be off, relative to the largest expected one.
        off_by_one: the share of an integer output that may be off by one.
    """

    params: tuple[Parameter, ...]
    inputs: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]
    oracle: str
    rtol: float
    off_by_one: float


def random_inputs(func: PrimFunc, seed: int = 0, positive: bool = False) -> list[np.ndarray]:
    """An array for each input of ``func``: normally distributed floats, 8-bit integers of the whole range,
    zeros and ones of other types (which are indices, lengths and conditions).

    Args:
        positive: floats from 0.5 to 1.5 instead, for functions that have no value elsewhere.

    Raises:
        ShapeError: a shape is symbolic.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for param in func.inputs:
        if not isinstance(param, Buffer) or param.static_shape is None:
            raise ShapeError(f"'{func.name}' has symbolic dimensions", hint="give it sizes to run it")
        shape, dtype = param.static_shape, dt.to_numpy(param.dtype)
        if dt.is_float(param.dtype):
            values = rng.uniform(0.5, 1.5, shape) if positive else rng.standard_normal(shape)
            arrays.append(np.asarray(values).astype(dtype))
        elif dt.is_int(param.dtype) and dt.bits(param.dtype) == 8:
            low, high = dt.int_range(param.dtype)
            arrays.append(rng.integers(low, high + 1, shape).astype(dtype))
        else:
            arrays.append(np.asarray(rng.integers(0, 2, shape)).astype(dtype))
    return arrays


def make_data(func: PrimFunc, target: Target, seed: int = 0) -> Data:
    """Random inputs of a function, and the outputs that the function gives as it is written: nothing is
    tiled, moved or laid out anew. Where most of an output is not finite, inputs are positive instead.

    Raises:
        ShapeError: a shape is symbolic.
        VerifyError: the function is not well-formed.
        CompileError: it is too large for the interpreter and could not be compiled.
    """
    rtol, off_by_one = tolerance(func)
    oracle = "interpreter" if _instances(func) <= INTERPRETED else "native"
    data = None
    for positive in (False, True):
        inputs = random_inputs(func, seed, positive)
        expected = interpret(func, inputs) if oracle == "interpreter" else _run_plainly(func, target, inputs)
        if data is None or _finite(expected) > _finite(data.expected):
            data = Data(parameters(func), tuple(inputs), tuple(expected), oracle, rtol, off_by_one)
        if _finite(expected) >= 0.5:
            break
    assert data is not None
    return data


def tolerance(func: PrimFunc) -> tuple[float, float]:
    """How far outputs of another schedule may be off: floats, relative to the largest one, by eight units in
    the last place of the coarsest type that values are rounded to on their way, though not below 1e-4; and
    the share of integers that may be off by one, where they are rounded floats.
    """
    stored = {store.buffer.dtype for store in stores_of(func.body)}
    params = {param.dtype for param in func.params if isinstance(param, Buffer)}
    floats = {dtype for dtype in stored | params if dt.is_float(dtype)}
    coarsest = max((float(ml_dtypes.finfo(dt.to_numpy(dtype)).eps) for dtype in floats), default=0.0)
    return max(8 * coarsest, 1e-4), ROUNDED if floats else 0.0


def _run_plainly(func: PrimFunc, target: Target, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of the function's own loops, compiled. Each element is summed in the order in which it is
    written, but elements beside each other in vectors: one by one takes forty times as long."""
    program = build_program(schedule_plainly(Schedule(func), target), target)
    call = Loaded(program, runtime_functions(target), threads=1).bind(parameters(func), inputs, Arrays())
    if status := call():
        raise TilewrightError(f"'{func.name}' ended with status {status} on random inputs")
    return [array.copy() for array in call.outputs]


def _finite(outputs: Sequence[np.ndarray]) -> float:
    """The least share of an output that is finite."""
    return min((float(np.isfinite(a.astype(np.float64)).mean()) for a in outputs if a.size), default=1.0)


def _instances(func: PrimFunc) -> int:
    return sum(math.prod(const_int(it.extent) or 1 for it in b.iters) for b in find_blocks(func.body))
