"""Random instances of the operators of :mod:`tilewright.ops`, as the loop programs that a graph gives."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from random import Random

from tests.fuzz.case import Case, Draw
from tests.graph.graphs import Maker
from tilewright.graph import Value
from tilewright.graph.decompose import decompose, decompose_elementwise
from tilewright.graph.fold import absorb_parameters
from tilewright.graph.partition import partition
from tilewright.graph.primfunc import lower_group
from tilewright.ir import dtype as dt
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import const_int, find_blocks

#: Iterations of all blocks together beyond which a program is too slow for many of them.
MAX_WORK = 12_000


def operator_case(rng: Random) -> Case | None:
    """A random operator, often with elementwise ones behind it; None when it came out too large."""
    m = Maker(0)
    value = rng.choice(_OPERATORS)(rng, m)
    for _ in range(rng.choice([0, 0, 1, 2])):
        value = _follow(rng, m, value)
    graph = m.done(value)
    graph = decompose(absorb_parameters(decompose_elementwise(graph)))
    groups = [g for g in partition(graph) if any(prod(v.dims()) for v in g.outputs)]
    funcs = [lower_group(graph, g).func for g in groups]
    funcs = [f for f in funcs if find_blocks(f.body) and work(f) <= MAX_WORK]
    if not funcs:
        return None
    func = max(funcs, key=work) if rng.random() < 0.7 else rng.choice(funcs)
    consts = func.attr("const_params", ())
    draws = {b.name: _draw(b, b.name in consts) for b in func.inputs if isinstance(b, Buffer)}
    return Case(func, draws, rng.getrandbits(31), (False,) * len(func.outputs))


def work(func: PrimFunc) -> int:
    """Block instances of a program of constant sizes."""
    return sum(prod(const_int(it.extent) or 1 for it in b.iters) for b in find_blocks(func.body))


def _draw(buffer: Buffer, constant: bool) -> Draw:
    if dt.is_float(buffer.dtype):
        return Draw(0.25, 1.5, integers=False) if constant else Draw(-2, 2, integers=False)
    return Draw(0, 2)


def _size(rng: Random) -> int:
    return rng.choice([1, 2, 3, 4, 5, 7, 8])


def _follow(rng: Random, m: Maker, x: Value) -> Value:
    if not x.dtype.startswith("float"):
        return x
    kind = rng.choice(["unary", "binary", "bias"])
    if kind == "unary":
        return m.op(rng.choice(["relu", "tanh", "sigmoid", "abs", "softsign", "hard_swish"]), x)
    dims = x.dims() if kind == "binary" else tuple(d if rng.random() < 0.5 else 1 for d in x.dims())
    return m.op(rng.choice(["add", "mul", "maximum"]), x, m.x(*dims, name=f"rest{rng.getrandbits(30)}"))


def _conv(rng: Random, m: Maker) -> Value:
    rank = rng.choice([1, 2, 2])
    space = [rng.choice([3, 4, 5, 7]) for _ in range(rank)]
    groups = rng.choice([1, 1, 2, 3])
    ci, co = groups * rng.choice([1, 2, 3]), groups * rng.choice([1, 2, 4])
    kernel = [rng.randint(1, 3) for _ in range(rank)]
    pads = tuple(rng.randint(0, 1) for _ in range(2 * rank))
    last = rng.random() < 0.5
    x = m.x(1, *space, ci) if last else m.x(1, ci, *space)
    w = m.f(*kernel, ci // groups, co) if last else m.f(co, ci // groups, *kernel)
    bias = m.f(co) if rng.random() < 0.5 else None
    strides = tuple(rng.randint(1, 2) for _ in range(rank))
    return m.op("conv", x, w, bias, channels_last=last, pads=pads, strides=strides, groups=groups)


def _deconv(rng: Random, m: Maker) -> Value:
    ci, co, k = rng.choice([1, 2, 3]), rng.choice([1, 2, 3]), rng.randint(1, 3)
    strides = (rng.randint(1, 2), rng.randint(1, 2))
    x = m.x(1, ci, rng.randint(2, 4), rng.randint(2, 4))
    return m.op("conv_transpose", x, m.f(ci, co, k, k), None, strides=strides)


def _winograd(rng: Random, m: Maker) -> Value:
    tile, ci, co = 2, rng.randint(1, 3), rng.randint(1, 4)
    x = m.x(1, rng.randint(3, 5), rng.randint(3, 5), ci)
    pads = tuple(rng.randint(0, 1) for _ in range(4))
    return m.op("winograd_conv", x, m.f(tile + 2, tile + 2, ci, co), tile=tile, pads=pads)


def _pool(rng: Random, m: Maker) -> Value:
    op = rng.choice(["max_pool", "avg_pool"])
    kernel = (rng.randint(1, 3), rng.randint(1, 3))
    strides = (rng.randint(1, 2), rng.randint(1, 2))
    pads = tuple(rng.randint(0, k // 2) for k in kernel * 2)
    x = m.x(1, _size(rng), rng.randint(3, 7), rng.randint(3, 7))
    return m.op(op, x, kernel=kernel, strides=strides, pads=pads)


def _reduce(rng: Random, m: Maker) -> Value:
    x = m.x(*(_size(rng) for _ in range(rng.randint(1, 3))))
    axes = tuple(a for a in range(x.rank) if rng.random() < 0.6) or (0,)
    op = rng.choice(["sum", "mean", "max", "min"])
    return m.op("reduce", x, op=op, axes=axes, keepdims=rng.random() < 0.5)


def _along(rng: Random, m: Maker) -> Value:
    x = m.x(*(_size(rng) for _ in range(rng.randint(1, 3))))
    axis = rng.randrange(x.rank)
    op = rng.choice(["softmax", "softmax", "log_softmax", "cumsum", "argmax"])
    return m.op(op, x, axis=axis, **({"keepdims": False} if op == "argmax" else {}))


def _norm(rng: Random, m: Maker) -> Value:
    op = rng.choice(["layer_norm", "rms_norm", "batch_norm", "group_norm", "lrn"])
    if op in ("layer_norm", "rms_norm"):
        x = m.x(_size(rng), _size(rng), rng.choice([3, 5, 8]))
        extra = [m.f(*x.dims()[-1:]) for _ in range(2 if op == "layer_norm" else 1)]
        return m.op(op, x, *extra, axis=-1)
    x = m.x(1, 4, rng.randint(1, 4), rng.randint(1, 4))
    if op == "batch_norm":
        return m.op(op, x, *(m.f(4) for _ in range(4)))
    if op == "group_norm":
        return m.op(op, x, m.f(4), m.f(4), groups=rng.choice([1, 2, 4]))
    return m.op(op, x, size=rng.choice([1, 3]), alpha=0.1, beta=0.75, bias=1.0)


def _matmul(rng: Random, m: Maker) -> Value:
    k, batch = _size(rng), [_size(rng)] if rng.random() < 0.4 else []
    x = m.x(*batch, _size(rng), k)
    shape = (*batch, k, _size(rng)) if rng.random() < 0.5 else (k, _size(rng))
    return m.op("matmul", x, m.x(*shape, name="y") if rng.random() < 0.5 else m.f(*shape))


def _resize(rng: Random, m: Maker) -> Value:
    x = m.x(1, rng.randint(1, 3), rng.randint(2, 5), rng.randint(2, 5))
    sizes = (1, x.dims()[1], rng.randint(1, 9), rng.randint(1, 9))
    return m.op("resize", x, sizes=sizes, mode=rng.choice(["nearest", "linear", "cubic"]))


def _movement(rng: Random, m: Maker) -> Value:
    x = m.x(_size(rng), _size(rng), _size(rng))
    dims, op = x.dims(), rng.choice(["transpose", "pad", "slice", "concat", "tile", "gather"])
    if op == "transpose":
        return m.op(op, x, perm=tuple(rng.sample(range(3), 3)))
    if op == "pad":
        return m.op(op, x, pads=tuple(rng.randint(0, 2) for _ in range(6)), mode="constant")
    if op == "slice":
        axis = rng.randrange(3)
        start = rng.randrange(dims[axis])
        step = rng.choice([1, 2])
        return m.op(op, x, starts=(start,), ends=(dims[axis],), axes=(axis,), steps=(step,))
    if op == "concat":
        return m.op(op, x, m.x(*dims[:2], _size(rng), name="y"), axis=2)
    if op == "tile":
        return m.op(op, x, repeats=tuple(rng.randint(1, 2) for _ in range(3)))
    x = m.x(rng.randint(2, 5), _size(rng), name="table")
    return m.op("gather", x, m.x(rng.randint(1, 5), name="places", dtype="int64"), axis=0)


_OPERATORS: tuple[Callable[[Random, Maker], Value], ...] = (
    _conv, _conv, _conv, _deconv, _winograd, _pool, _pool, _reduce, _along, _along, _norm, _norm, _matmul,
    _matmul, _resize, _movement, _movement,
)  # fmt: skip
