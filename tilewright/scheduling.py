"""Scheduling by hand: a Workbench is a Schedule that can check and time itself.

    sch = tw.schedule(func)  # ... then primitives
    sch.show()              # the program as it is now
    sch.check()             # equal to the unscheduled function on random data?
    print(sch.bench())      # how fast, and how far from the machine's limits

The functions here run one PrimFunc natively; whole models are ``tilewright.api``'s.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Sequence

import numpy as np

from tilewright.assembly import count_bytes, count_flops
from tilewright.errors import CheckFailed, InputError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp
from tilewright.ir.interp import run as interpret
from tilewright.ir.stmt import PrimFunc, Store
from tilewright.ir.visit import const_int, find_blocks, walk_expr
from tilewright.measure.data import random_inputs
from tilewright.measure.program import (
    Arrays,
    Bound,
    Loaded,
    build_program,
    check_array,
    in_layout,
    parameters,
    runtime_functions,
)
from tilewright.roofline import Roofline, measure_roofline
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target


class NativeFunction:
    """A scheduled PrimFunc with static shapes as native code.

    Args:
        schedule: what to compile.
        target: a target that this machine can run.
        threads: threads of a call.

    Raises:
        ShapeError: a parameter's shape is symbolic.
        CompileError: the code generator failed.
    """

    def __init__(self, schedule: Schedule, target: Target, threads: int = 1) -> None:
        self._params = parameters(schedule.func)
        self._inputs = len(self._params) - len(schedule.func.outputs)
        program = build_program(schedule, target)
        self._layouts = program.layouts
        self._loaded = Loaded(program, runtime_functions(target), threads)

    def bind(self, inputs: Sequence[np.ndarray]) -> Bound:
        """Lay out ``inputs`` as the schedule wants them and allocate outputs: what runs the function when it
        is called. Raises InputError for wrong arrays.
        """
        if len(inputs) != self._inputs:
            raise InputError(f"the function takes {self._inputs} arrays, {len(inputs)} were given")
        for param, data in zip(self._params, inputs, strict=False):
            check_array(param, in_layout(data, self._layouts.get(param.name, "")))
        return self._loaded.bind(self._params, inputs, Arrays())

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run once; returns the outputs. Raises as :meth:`bind`."""
        call = self.bind(inputs)
        call()
        return call.outputs


@dataclasses.dataclass(frozen=True)
class Timing:
    """How fast a function ran.

    Attributes:
        seconds: median of one call.
        best: the fastest call, in seconds.
        runs: calls timed.
        flops, bytes: work of one call (of the unscheduled function; integer operations where it has no
            others) and bytes of its parameters.
        roofline: the limits of this machine at the same number of threads.
    """

    seconds: float
    best: float
    runs: int
    flops: int
    bytes: int
    roofline: Roofline

    @property
    def gflops(self) -> float:
        """Operations of the fastest call per second, in GFLOP/s."""
        return self.flops / self.best / 1e9

    @property
    def share(self) -> float:
        """The part of the attainable speed that the fastest call reached."""
        return self.roofline.share(self.flops, self.bytes, self.best)

    def __str__(self) -> str:
        return (
            f"{self.seconds * 1e3:.3f} ms (best {self.best * 1e3:.3f} of {self.runs}), "
            f"{self.gflops:.1f} GFLOP/s, {self.share:.1%} of the roofline at "
            f"{self.roofline.threads} thread(s)"
        )


class Workbench(Schedule):
    """A :class:`~tilewright.schedule.schedule.Schedule` for people: it remembers where it began.

    Args:
        func: the function to schedule, with static shapes for :meth:`check` and :meth:`bench`.
        target: what :meth:`bench` compiles for; must be this machine.
    """

    def __init__(self, func: PrimFunc, target: str | Target = "native") -> None:
        super().__init__(func)
        self.original = func
        self.target = Target.parse(target)

    def check(self, seed: int = 0, rtol: float = 1e-4, native: bool = False) -> None:
        """Compare the scheduled function with the unscheduled one on random data, both in the interpreter.

        Args:
            native: run the scheduled function as native code instead.

        Raises:
            CheckFailed: they differ by more than ``rtol`` (relative to the largest value for what is near
                zero).
        """
        inputs = random_inputs(self.original, seed)
        expected = interpret(self.original, inputs)
        if native:
            got = NativeFunction(self, self.target)(*inputs)
        else:
            layouts = dict(self.func.attr("param_layouts", {}))
            names = [p.name for p in self.func.inputs]
            laid = [
                IndexMap.parse(layouts[name]).apply(data) if name in layouts else data
                for name, data in zip(names, inputs, strict=True)
            ]
            got = interpret(self.func, laid)
        for number, (a, b) in enumerate(zip(got, expected, strict=True)):
            scale = float(np.max(np.abs(b.astype(np.float64)), initial=0.0))
            if not np.allclose(a, b, rtol=rtol, atol=rtol * scale * 0.1, equal_nan=True):
                worst = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
                raise CheckFailed(
                    f"output {number} of the scheduled '{self.func.name}' differs by up to {worst:.3g} "
                    f"(scale {scale:.3g})"
                )

    def bench(self, threads: int = 1, seconds: float = 0.5) -> Timing:
        """Compile and time the function as it is now, for about ``seconds``. Raises as
        :class:`NativeFunction`."""
        call = NativeFunction(self, self.target, threads).bind(random_inputs(self.original))
        call()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return Timing(
            statistics.median(times),
            min(times),
            len(times),
            count_flops(self.original) or _integer_operations(self.original),
            count_bytes(self.original),
            _limits(threads),
        )


def _integer_operations(func: PrimFunc) -> int:
    """Arithmetic on integers that are no indices, over all instances of all blocks of static extents."""
    total = 0
    for block in find_blocks(func.body):
        assert isinstance(block.body, Store)
        points = math.prod(const_int(it.extent) or 1 for it in block.iters)
        nodes = (n for n in walk_expr(block.body.value) if isinstance(n, BinOp))
        total += points * sum(n.dtype not in (dt.INDEX, "bool") for n in nodes)
    return total


@functools.cache
def _limits(threads: int) -> Roofline:
    return measure_roofline(threads)
