"""Random graphs through the whole pipeline: every pass keeps the meaning, and so do the kernels in their
memory plan.
"""

from __future__ import annotations

import random
from math import prod

import numpy as np
import pytest

from tests.graph.arena import execute
from tests.graph.graphs import Maker, feeds
from tilewright.graph import Graph, Value
from tilewright.graph.interpret import interpret
from tilewright.graph.memory import plan_memory
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise

UNARY = ("relu", "tanh", "neg", "sigmoid", "abs")
BINARY = ("add", "sub", "mul", "maximum")
MAX_ELEMENTS = 4096
CHOICES = (
    "unary unary unary binary binary constant constant transpose transpose reshape reshape conv conv pool "
    "concat concat slice pad reduce matmul softmax expand deconv"
).split()


class Choice(random.Random):
    """A seeded source of decisions."""

    def flag(self) -> bool:
        return self.random() < 0.5


def random_graph(seed: int) -> Graph:
    rnd = Choice(seed)
    m = Maker(seed)
    size = [1, 2, 3, 4, 8]
    pool = [m.x(rnd.choice([1, 1, 2]), *(rnd.choice(size) for _ in range(3)))]
    if rnd.flag():
        pool.append(m.x(*pool[0].dims(), name="second"))
    while len(pool) < 14:
        fresh = _grow(rnd, m, pool)
        if fresh is not None and prod(fresh.dims()) <= MAX_ELEMENTS:
            pool.append(fresh)
    return m.done(pool[-1], *rnd.sample(pool, rnd.randint(0, 2)))


def _grow(rnd: Choice, m: Maker, pool: list[Value]) -> Value | None:
    # The last values are the likeliest operands, so that chains grow.
    x = pool[max(-rnd.randint(1, 4), -len(pool))]
    dims, rank = x.dims(), x.rank
    choice = rnd.choice(CHOICES)
    if choice == "unary":
        return m.op(rnd.choice(UNARY), x)
    if choice == "binary":
        partners = [v for v in pool if v.dims() == dims] + [v for v in pool if _broadcasts(v.dims(), dims)]
        return m.op(rnd.choice(BINARY), x, rnd.choice(partners))
    if choice == "constant":
        shape = [d if rnd.flag() else 1 for d in dims][rnd.randint(0, rank) :]
        return m.op(rnd.choice(BINARY), x, m.f(*shape))
    if choice == "transpose":
        return m.op("transpose", x, perm=tuple(rnd.sample(range(rank), rank)))
    if choice == "reshape":
        return m.op("reshape", x, shape=_regrouped(rnd, dims))
    if choice in ("conv", "pool", "deconv"):
        return _windowed(rnd, m, x, choice)
    if choice == "concat":
        axis = rnd.randint(0, rank - 1)
        same = [
            v
            for v in pool
            if v.rank == rank
            and all(a == b or d == axis for d, (a, b) in enumerate(zip(v.dims(), dims, strict=True)))
        ]
        return m.op("concat", x, rnd.choice(same), axis=axis)
    if choice == "slice":
        axis = rnd.randint(0, rank - 1)
        start = rnd.randint(0, dims[axis] - 1)
        return m.op(
            "slice", x, starts=(start,), ends=(dims[axis],), axes=(axis,), steps=(rnd.choice([1, 2]),)
        )
    if choice == "pad":
        return m.op("pad", x, pads=tuple(rnd.randint(0, 1) for _ in range(2 * rank)), mode="constant")
    if choice == "reduce":
        axes = tuple(d for d in range(rank) if rnd.flag())
        keep = rnd.flag() or len(axes) == rank
        return (
            m.op("reduce", x, op=rnd.choice(["sum", "mean", "max"]), axes=axes, keepdims=keep)
            if axes
            else None
        )
    if choice == "matmul" and rank >= 2:
        return m.op("matmul", x, m.f(dims[-1], rnd.choice([1, 3, 16])))
    if choice == "softmax":
        return m.op("softmax", x, axis=rnd.randint(0, rank - 1))
    if choice == "expand":
        shape = tuple(rnd.choice([2, 3]) if d == 1 else d for d in dims)
        return m.op("expand", x, shape=shape)
    return None


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return (
        len(small) <= len(large) and np.broadcast_shapes(small, large) == large
        if _compatible(small, large)
        else False
    )


def _compatible(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(x == y or 1 in (x, y) for x, y in zip(reversed(a), reversed(b), strict=False))


def _regrouped(rnd: Choice, dims: tuple[int, ...]) -> tuple[int, ...]:
    factors = [p for d in dims for p in ([2, 4] if d == 8 else [2, 2] if d == 4 else [d])]
    result = [1]
    for f in factors:
        if rnd.flag():
            result.append(f)
        else:
            result[-1] *= f
    return tuple(result)


def _windowed(rnd: Choice, m: Maker, x: Value, choice: str) -> Value | None:
    dims = x.dims()
    if x.rank not in (3, 4) or min(dims[2:]) < 2:
        return None
    spatial = x.rank - 2
    kernel = tuple(rnd.randint(1, 2) for _ in range(spatial))
    strides = tuple(rnd.randint(1, 2) for _ in range(spatial))
    pads = tuple(rnd.randint(0, 1) if k > 1 else 0 for k in kernel * 2)
    if choice == "pool":
        op = rnd.choice(["max_pool", "avg_pool"])
        return m.op(op, x, kernel=kernel, strides=strides, pads=pads)
    groups = dims[1] if rnd.randint(0, 3) == 0 else 1
    co = groups * rnd.choice([1, 2, 5])
    if choice == "deconv":
        return m.op(
            "conv_transpose", x, m.f(dims[1], co // groups, *kernel), m.f(co), strides=strides, groups=groups
        )
    bias = m.f(co) if rnd.flag() else None
    return m.op(
        "conv", x, m.f(co, dims[1] // groups, *kernel), bias, strides=strides, pads=pads, groups=groups
    )


def close(have: np.ndarray, want: np.ndarray, what: str) -> None:
    scale = float(np.abs(want).max(initial=0)) or 1.0
    np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-3 * scale, err_msg=what)


@pytest.mark.parametrize("batch", range(8))
def test_the_pipeline_keeps_the_meaning(batch: int):
    for seed in range(batch * 20, batch * 20 + 20):
        check(random_graph(seed))


def check(graph: Graph) -> None:
    data = feeds(graph)
    expected = interpret(graph, data)

    def compare(name: str, now: Graph) -> None:
        for output, have in interpret(now, data).items():
            assert have.dtype == expected[output].dtype
            assert have.shape == expected[output].shape
            close(have, expected[output], f"{output} after {name}")

    optimised = optimise(graph, compare, check=True)
    groups = partition(optimised)
    plan = plan_memory(optimised, groups)
    for name, have in zip(optimised.output_names, execute(optimised, groups, plan, data), strict=True):
        close(have, expected[name], f"{name} from kernels")
