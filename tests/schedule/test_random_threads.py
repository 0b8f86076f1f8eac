"""Random programs under random GPU schedules: whatever the primitives accept computes the same, without
races, as it is and after every pass of lowering.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from random import Random

import numpy as np
import pytest

from tests.fuzz.driver import Driver
from tests.schedule.gpu_programs import row_sums
from tests.schedule.programs import arrays, chain, conv, integer_sum, matmul, matmul_relu, softmax
from tilewright.ir.interp import run
from tilewright.ir.launch import AXES, has_thread_axes, thread_axis
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.verify import verify
from tilewright.ir.visit import const_int
from tilewright.lower import THREAD_PASSES, lower
from tilewright.schedule import BlockRef, LoopRef
from tilewright.schedule.state import Tree

#: Threads in a launch, and statements that a thread runs, with which a test bothers.
MAX_THREADS = 1 << 12
MAX_STATEMENTS = 1 << 9


def random_program(rng: Random) -> PrimFunc:
    n, m, k = (rng.randint(1, 7) for _ in range(3))
    makers = [
        lambda: matmul(n, m, k),
        lambda: matmul_relu(n, m, k),
        lambda: chain(n, m + 2),
        lambda: softmax(n, m),
        lambda: row_sums(n, m),
        lambda: integer_sum(n + m),
        lambda: conv((rng.randint(1, 3), 2), (2, 3), 2),
    ]
    return rng.choice(makers)()


class GpuDriver:
    """Random steps, most of them such that a GPU schedule comes about."""

    def __init__(self, func: PrimFunc, rng: Random) -> None:
        self.d, self.rng = Driver(func, rng), rng

    def block(self) -> BlockRef:
        return self.rng.choice(self.d.sch.get_blocks())

    def loops(self, block: BlockRef) -> list[LoopRef]:
        return self.d.sch.get_loops(block)

    def divide(self, block: BlockRef) -> None:
        """Spread the loops of a block over random axes, outer ones over thread blocks."""
        for loop in self.loops(block):
            size = self.rng.choice([1, 2, 3, 4, 8])
            if self.rng.random() < 0.5:
                self.d.attempt(
                    "split", loop, factors=self.rng.choice([[None, size], [None, 2, size], [size, None]])
                )
        loops = self.loops(block)
        if self.rng.random() < 0.5:
            shuffled = self.rng.sample(loops, len(loops))
            self.d.attempt("reorder", *shuffled)
        if self.rng.random() < 0.4 and len(loops) > 1:
            start = self.rng.randrange(len(loops) - 1)
            self.d.attempt("fuse", *self.loops(block)[start : start + 2])
        self.bind_some(block)

    def bind_some(self, block: BlockRef) -> None:
        for n, loop in enumerate(self.loops(block)):
            if self.rng.random() < 0.6:
                axis = self.rng.choice(AXES[:2] if n < 2 and self.rng.random() < 0.5 else AXES[3:5])
                self.d.attempt("bind", loop, axis=axis)
            elif self.rng.random() < 0.15:
                self.d.attempt("virtual_thread", loop)

    def tile(self) -> None:
        """The output from a temporary that is computed inside of it, both divided in similar ways."""
        d, rng = self.d, self.rng
        out = d.sch.get_blocks()[-1]
        scope = rng.choice(["register", "register", "shared"])
        if not d.attempt("cache_write", out, scope=scope):
            return
        copy = BlockRef(f"{out.name}_{scope}")
        factors = [[None, *rng.choices([1, 2, 3], k=2)] for _ in self.loops(copy)]
        parts = [d.do("split", x, factors=f) for x, f in zip(self.loops(copy), factors, strict=True)]
        levels = [*zip(*parts, strict=True)]
        d.do("reorder", *(x for level in levels for x in level))
        kinds = [AXES[:3], rng.choice([AXES[3:], None]), rng.choice([AXES[3:], ()])]
        self.bind_levels(levels, kinds)
        at = rng.choice(levels[rng.choice([0, 0, 1])])
        if not d.attempt("compute_at", out, at):
            return
        inside = self.loops(out)
        own = [x for x in inside if x not in self.loops(copy)]
        for loop, f in zip(own, factors, strict=False):
            d.attempt("split", loop, factors=f[1:] if rng.random() < 0.7 else [None, rng.choice([1, 2, 3])])
        own = [x for x in self.loops(out) if x not in self.loops(copy)]
        if rng.random() < 0.6:
            d.attempt("reorder", *rng.sample(own, len(own)))
        for source in range(rng.choice([0, 1, 2])):
            if d.attempt("cache_read", out, buffer_index=source, scope="shared"):
                fetch = d.sch.get_blocks()[0]
                fetch = next((b for b in d.sch.get_producers(out) if b.name.endswith("shared")), fetch)
                if d.attempt("compute_at", fetch, rng.choice(self.loops(out))):
                    self.divide(fetch)
        axes = rng.sample(AXES[3:], 3) if rng.random() < 0.4 else AXES[3:]
        own = [x for x in self.loops(out) if x not in self.loops(copy)]
        for axis in axes[: rng.randint(0, 3)]:
            d.attempt("bind", rng.choice(own), axis=axis)

    def bind_levels(self, levels: list[tuple[LoopRef, ...]], kinds: list[tuple[str, ...] | None]) -> None:
        """Bind the loops of each level to the axes of its kind, None makes virtual threads."""
        for level, axes in zip(levels, kinds, strict=True):
            for loop, axis in zip(level, axes if axes is not None else AXES, strict=False):
                if self.rng.random() < 0.8:
                    if axes is None:
                        self.d.attempt("virtual_thread", loop)
                    else:
                        self.d.attempt("bind", loop, axis=axis)

    def step(self) -> None:
        block, d, rng = self.block(), self.d, self.rng
        kind = rng.choice(
            ["divide", "at", "at", "scope", "scope", "read", "write", "bind", "rfactor", "other"]
        )
        loops = self.loops(block)
        if kind == "divide":
            self.divide(block)
        elif kind == "bind":
            self.bind_some(block)
        elif kind == "scope":
            d.attempt("set_scope", block, scope=rng.choice(["shared", "register", "global"]))
        elif kind == "read":
            reads = len({r.buffer for r in d.tree.blocks[block.name].reads})
            source = rng.randrange(max(reads, 1))
            d.attempt(
                "cache_read", block, buffer_index=source, scope=rng.choice(["shared", "shared", "register"])
            )
        elif kind == "write":
            d.attempt("cache_write", block, scope=rng.choice(["shared", "register"]))
        elif kind == "at":
            consumers = d.sch.get_consumers(block)
            around = self.loops(rng.choice(consumers)) if consumers else []
            if around and d.attempt("compute_at", block, rng.choice(around)) and rng.random() < 0.7:
                self.divide(block)
        elif kind == "rfactor" and loops:
            d.attempt("rfactor", rng.choice(loops), axis=0)
        elif loops:
            name = rng.choice(["unroll", "decompose_reduction", "storage_align", "compute_inline"])
            if name == "unroll":
                d.attempt("unroll", rng.choice(loops))
            elif name == "decompose_reduction":
                d.attempt("decompose_reduction", block, rng.choice(loops))
            elif name == "storage_align":
                d.attempt("storage_align", block, dim=0, factor=8, offset=rng.randrange(8))
            else:
                d.attempt("compute_inline", block)


def too_large(tree: Tree) -> bool:
    statements = 0
    for block in tree.blocks.values():
        loops = tree.loops_above(block)
        sizes = [const_int(s.extent) or 1 for s in loops if thread_axis(s)]
        statements += prod(const_int(s.extent) or 1 for s in loops if not thread_axis(s))
        if prod(sizes) > MAX_THREADS:
            return True
    return statements > MAX_STATEMENTS


def check(seed: int) -> Counter[str]:
    rng = Random(seed)
    func = random_program(rng)
    driver = GpuDriver(func, rng)
    if rng.random() < 0.5:
        driver.tile()
    elif rng.random() < 0.7:
        driver.divide(BlockRef(driver.d.sch.get_blocks()[-1].name))
    for _ in range(rng.randint(2, 10)):
        driver.step()
    sch = driver.d.sch
    if not has_thread_axes(sch.func.body) or too_large(driver.d.tree):
        return driver.d.accepted
    inputs = arrays(func)
    expected = run(func, inputs)

    def same(what: str, program: PrimFunc) -> None:
        try:
            verify(program)
            for got, wanted in zip(
                run(program, inputs, seed=seed, check_undefined=True), expected, strict=True
            ):
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
        except Exception as error:
            raise AssertionError(f"{what}\n{sch.trace}\n{sch.func}\n{program}") from error

    same("scheduled", sch.func)
    lower(sch.func, same, THREAD_PASSES)
    return driver.d.accepted


@pytest.mark.parametrize("start", range(0, 40, 10))
def test_random_schedules_on_threads(start: int) -> None:
    for seed in range(start, start + 10):
        try:
            check(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
