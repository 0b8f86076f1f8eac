"""Random lowered functions: native code and the interpreter agree.

Programs nest loops (serial, vectorized, of run-time extent), branches (scalar, per lane), register and
workspace buffers, and store random expressions of several types. Lanes of a vectorized loop touch an output
only at one place each, so that the order of lanes does not matter.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.backend.kernels import call as run_native
from tilewright.ir import dtype as dt
from tilewright.ir import interp
from tilewright.ir.expr import (
    Expr,
    Var,
    as_expr,
    binop,
    call,
    cast,
    const,
    load,
    maximum,
    minimum,
    select,
)
from tilewright.ir.stmt import Alloc, Buffer, Evaluate, For, If, PrimFunc, Stmt, Store, seq

SIZE = 61
DTYPES = ("float64", "int32", "int64", "uint8", "bool")
PROGRAMS = 60


class Generator:
    """One random program."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.inputs = [Buffer.make(f"x{d}", (SIZE,), d) for d in DTYPES]
        self.outputs = [
            Buffer.make(f"y{i}", (SIZE,), d) for i, d in enumerate(("float64", "float64", "int32", "bool"))
        ]
        self.registers: list[tuple[Buffer, int]] = []
        self.scratch: list[Buffer] = []
        self.vars: list[tuple[Var, int]] = []
        self.lane: tuple[Var, int] | None = None
        self.places: dict[Buffer, Expr] = {}
        self.reduced: dict[Buffer, str] = {}
        self.count = 0

    def pick(self, *choices: object) -> object:
        return self.rng.choice(choices)

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    # -------------------------------------------------------------------------------------------- expressions
    def affine(self) -> Expr:
        e: Expr = as_expr(self.rng.randrange(8))
        for v, _ in self.vars:
            if self.chance(0.5):
                e = e + v * self.rng.choice([1, 1, 2, 3, 16])
        if self.lane is not None and self.chance(0.8):
            e = e + self.lane[0] * self.rng.choice([1, 1, 1, 2, -1, 5])
        kind = self.rng.randrange(6)
        if kind == 0:
            e = e // self.rng.choice([2, 3, 4, 8])
        elif kind == 1:
            e = e % self.rng.choice([3, 4, 16])
        elif kind == 2:
            e = maximum(e - 5, 0)
        return e

    def index(self) -> Expr:
        e = self.affine()
        return e % SIZE if self.chance(0.6) else minimum(maximum(e, 0), SIZE - 1)

    def leaf(self, dtype: str) -> Expr:
        kind = self.rng.randrange(10)
        if kind < 2:
            return const(
                self.rng.choice([0, 1, 2, 3, -1, 0.5, -2.5] if dt.is_float(dtype) else [0, 1, 2, 5]), dtype
            )
        registers = [(b, n) for b, n in self.registers if b.dtype == dtype]
        if registers and kind < 5:
            buffer, length = self.rng.choice(registers)
            if self.lane is None:
                return load(buffer, [self.rng.randrange(length)])
            if self.lane[1] <= length:
                return load(buffer, [self.lane[0]])
            if buffer not in self.reduced:
                return load(buffer, [self.rng.randrange(length)])
        if kind < 6:
            mine = [(b, place) for b, place in self.places.items() if b.dtype == dtype]
            if mine:
                buffer, place = self.rng.choice(mine)
                return load(buffer, [place])
        if kind < 7 and self.scratch and self.lane is None:
            buffer = self.rng.choice(self.scratch)
            return cast(dtype, load(buffer, [self.index()]))
        if kind < 8 and dtype != "bool":
            guard = self.affine()
            other = next(b for b in self.inputs if b.dtype == dtype)
            shifted = guard - 9
            return select((shifted >= 0) & (shifted < SIZE), load(other, [shifted]), const(3, dtype))
        return load(next(b for b in self.inputs if b.dtype == dtype), [self.index()])

    def expr(self, dtype: str, depth: int) -> Expr:
        if depth == 0 or self.chance(0.15):
            return self.leaf(dtype)
        kind = self.rng.randrange(10)
        if dtype == "bool":
            if kind < 4:
                other = self.rng.choice(["float64", "int32", "int64", "uint8"])
                a, b = self.expr(other, depth - 1), self.expr(other, depth - 1)
                return self.rng.choice([a < b, a <= b, a.eq(b), a.ne(b)])
            if kind < 5:
                return self.affine() < self.affine()
            op = self.rng.choice(["and", "or", "xor"])
            return binop(op, self.expr("bool", depth - 1), self.expr("bool", depth - 1))
        if kind == 0:
            return select(
                self.expr("bool", depth - 1), self.expr(dtype, depth - 1), self.expr(dtype, depth - 1)
            )
        if kind == 1:
            # Values are kept small enough for every integer type to hold them.
            source = self.rng.choice([d for d in DTYPES if d != dtype])
            value = self.expr(source, depth - 1)
            if dt.is_float(source):
                value = minimum(maximum(value, -50.0), 50.0)
            return cast(dtype, value)
        if kind == 2 and dtype != "uint8":
            name = self.rng.choice(
                ["abs", "neg", "sign", "floor", "round"] if dt.is_float(dtype) else ["abs", "neg", "sign"]
            )
            return call(name, [self.expr(dtype, depth - 1)])
        a, b = self.expr(dtype, depth - 1), self.expr(dtype, depth - 1)
        if dt.is_float(dtype):
            op = self.rng.choice(["add", "sub", "mul", "min", "max", "add"])
            return minimum(maximum(binop(op, a, b), -100.0), 100.0) if op == "mul" else binop(op, a, b)
        op = self.rng.choice(["add", "sub", "mul", "min", "max", "floordiv", "mod", "and", "xor", "shr"])
        if op in ("floordiv", "mod"):
            b = maximum(b, 1) if self.chance(0.5) else const(self.rng.choice([1, 2, 3, 7, 8]), dtype)
        elif op == "shr":
            b = b & 7
        return binop(op, a, b)

    # --------------------------------------------------------------------------------------------- statements
    def store(self) -> Stmt:
        if self.registers and self.chance(0.4):
            buffer, length = self.rng.choice(self.registers)
            value = self.expr(buffer.dtype, 2)
            if self.lane is None:
                return Store(buffer, (as_expr(self.rng.randrange(length)),), value)
            if self.lane[1] <= length:
                return Store(buffer, (self.lane[0],), value)
            if buffer in self.reduced:
                return self.reduction(buffer, as_expr(self.rng.randrange(length)))
        if self.lane is None:
            buffer = self.rng.choice(self.outputs + self.scratch)
            return Store(buffer, (self.index(),), self.expr(buffer.dtype, 3))
        buffer = self.rng.choice(self.outputs)
        if buffer not in self.places:
            v, length = self.lane
            stride = self.rng.choice([1, 1, 1, 3])
            self.places[buffer] = v * stride + self.rng.randrange(SIZE - stride * length + 1)
        return Store(buffer, (self.places[buffer],), self.expr(buffer.dtype, 3))

    def reduction(self, buffer: Buffer, place: Expr) -> Stmt:
        saved, self.registers = self.registers, [r for r in self.registers if r[0] is not buffer]
        term = self.expr(buffer.dtype, 2)
        self.registers = saved
        return Store(buffer, (place,), binop(self.reduced[buffer], load(buffer, [place]), term))

    def statement(self, depth: int) -> Stmt:
        kind = self.rng.randrange(14)
        if depth == 0 or kind < 1:
            return self.store()
        if kind < 5:
            return seq([self.statement(depth - 1) for _ in range(self.rng.randrange(2, 5))])
        if kind < 6:
            orelse = self.statement(depth - 1) if self.chance(0.5) else None
            return If(self.expr("bool", 2), self.statement(depth - 1), orelse)
        if kind < 8:
            return self.serial(depth)
        if kind < 11 and self.lane is None:
            return self.vectorized(depth)
        if kind < 13 and self.lane is None:
            return self.alloc(depth)
        if kind == 13:
            return Evaluate(call("fence", [], "bool"))
        return self.store()

    def serial(self, depth: int) -> Stmt:
        extent = self.rng.randrange(1, 5)
        var = Var(self.name("i"), lo=0, hi=extent - 1)
        trips: Expr = as_expr(extent)
        if self.vars and self.chance(0.4):
            trips = (
                minimum(self.vars[-1][0] * 2, extent)
                if self.chance(0.5)
                else maximum(extent - self.vars[-1][0], 0)
            )
        self.vars.append((var, extent))
        body = self.statement(depth - 1)
        self.vars.pop()
        return For(var, trips, body)

    def vectorized(self, depth: int) -> Stmt:
        length = self.rng.choice([4, 8, 16, 3])
        var = Var(self.name("v"), lo=0, hi=length - 1)
        self.lane, self.places = (var, length), {}
        # What lanes combine into one element is not read otherwise, and combined in one way.
        self.reduced = {
            b: self.rng.choice(["and", "or", "xor"] if b.dtype == "bool" else ["add", "max", "min"])
            for b, n in self.registers
            if n < length and self.chance(0.7)
        }
        body = self.statement(depth - 1)
        self.lane, self.places = None, {}
        return For(var, as_expr(length), body, "vectorized")

    def alloc(self, depth: int) -> Stmt:
        dtype = self.rng.choice(["float64", "int32", "bool", "float64"])
        if self.chance(0.7):
            length = self.rng.choice([2, 8, 16])
            buffer = Buffer.make(self.name("r"), (length,), dtype, "register")
            fill = Var(self.name("v"), lo=0, hi=length - 1)
            self.registers.append((buffer, length))
            start = For(fill, as_expr(length), Store(buffer, (fill,), const(1, dtype)), "vectorized")
            body = seq([start, self.statement(depth - 1), self.statement(depth - 1)])
            self.registers.pop()
        else:
            buffer = Buffer.make(self.name("s"), (SIZE,), dtype)
            fill = Var(self.name("i"), lo=0, hi=SIZE - 1)
            self.scratch.append(buffer)
            start = For(fill, as_expr(SIZE), Store(buffer, (fill,), const(1, dtype)))
            body = seq([start, self.statement(depth - 1), self.statement(depth - 1)])
            self.scratch.pop()
        return Alloc(buffer, body)

    def program(self) -> PrimFunc:
        clear = []
        for buffer in self.outputs:
            var = Var(self.name("c"), lo=0, hi=SIZE - 1)
            clear.append(For(var, as_expr(SIZE), Store(buffer, (var,), const(0, buffer.dtype))))
        body = seq([*clear, *(self.statement(5) for _ in range(8))])
        return PrimFunc("random", (*self.inputs, *self.outputs), body, (("outputs", len(self.outputs)),))


def inputs(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = []
    for dtype in DTYPES:
        if dtype == "float64":
            values = rng.uniform(-4, 4, SIZE)
            values[rng.integers(0, SIZE, 3)] = [np.nan, np.inf, -0.0]
        else:
            low = -9 if dtype.startswith("int") else 0
            values = rng.integers(low, 2 if dtype == "bool" else 10, SIZE)
        made.append(values.astype(dtype))
    return made


@pytest.mark.parametrize("first", range(0, PROGRAMS, 20))
def test_random_programs(first: int) -> None:
    for seed in range(first, first + 20):
        func = Generator(seed).program()
        arrays = inputs(seed)
        with np.errstate(all="ignore"):
            want = interp.run(func, arrays)
        for buffer, a, b in zip(func.outputs, run_native(func, arrays), want, strict=True):
            np.testing.assert_allclose(
                a.astype(np.float64),
                b.astype(np.float64),
                rtol=1e-9,
                atol=1e-9,
                err_msg=f"seed {seed}, {buffer.name}",
            )
