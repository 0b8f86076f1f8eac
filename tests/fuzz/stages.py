"""What the random programs are made of: contractions, reductions, elementwise operations, data movement."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tests.fuzz.programs import EXACT, ProgramGenerator, Stage, Value
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import (
    Expr,
    as_expr,
    binop,
    call,
    cast,
    cmp,
    const,
    maximum,
    minimum,
    reduce_identity,
    select,
)

# ---------------------------------------------------------------------------------------------- contractions


def _summed(g: ProgramGenerator, a: Value, b: Value, depth: int) -> tuple[bool, float] | None:
    """Exactness and bound of a sum of products; None when they are out of hand."""
    bound = a.bound * b.bound * depth
    exact = a.exact and b.exact
    if dt.is_float(a.dtype) and bound > EXACT[a.dtype]:
        exact = False
    if a.dtype == "float16" and not exact:
        return None
    return exact, bound


def matmul(g: ProgramGenerator, v: Value) -> Value | None:
    """Matrix products: batched or not, either operand transposed, the batch broadcast, vectors."""
    if v.dtype == "bool" or not v.ndim:
        return None
    depth_axis = v.ndim - 1 if g.chance(0.7) or v.ndim == 1 else v.ndim - 2
    depth = v.shape[depth_axis]
    rows = [v.ndim - 2 if depth_axis == v.ndim - 1 else v.ndim - 1] if v.ndim > 1 else []
    batch = list(range(v.ndim - 2)) if v.ndim > 2 else []
    n = g.size()
    transposed = g.chance(0.4)
    shared = g.chance(0.6)
    lead = [] if shared else [v.shape[a] if g.chance(0.8) else 1 for a in batch]
    w = g.other((*lead, n, depth) if transposed else (*lead, depth, n), v.dtype)
    known = _summed(g, v, w, depth)
    if known is None:
        return None
    shape = [*(v.shape[a] for a in batch), *(v.shape[a] for a in rows), n]

    def body(*i: Expr) -> Expr:
        def term(k: Expr) -> Expr:
            mine: list[Expr] = [as_expr(0)] * v.ndim
            for axis, index in zip(batch + rows, i, strict=False):
                mine[axis] = index
            mine[depth_axis] = k
            head = [i[a] if size > 1 else as_expr(0) for a, size in enumerate(lead)]
            tail = [i[-1], k] if transposed else [k, i[-1]]
            return v.tensor[tuple(mine)] * w.tensor[(*head, *tail)]

        return te.reduce("sum", (depth,), term)

    return g.emit(shape, body, *known, work=depth)


def conv(g: ProgramGenerator, v: Value) -> Value | None:
    """Convolutions of one or two dimensions, channels last or first, grouped, strided, dilated, padded."""
    dims = g.rng.choice([1, 2, 2])
    if v.ndim not in (dims + 1, dims + 2) or v.dtype == "bool":
        return None
    batched = v.ndim == dims + 2
    last = g.chance(0.7)
    first = 1 if batched else 0
    space = list(range(first, first + dims)) if last else list(range(first + 1, first + 1 + dims))
    channel_axis = v.ndim - 1 if last else first
    channels = v.shape[channel_axis]
    kernel = [g.rng.choice([1, 1, 2, 3, 3, 5]) for _ in range(dims)]
    stride = [g.rng.choice([1, 1, 1, 2, 3]) for _ in range(dims)]
    dilation = [g.rng.choice([1, 1, 1, 2]) for _ in range(dims)]
    low = [g.rng.choice([0, 0, 1, 1, 2]) for _ in range(dims)]
    high = [g.rng.choice([x, x, 0, 1]) for x in low]
    out = [
        (v.shape[a] + low[d] + high[d] - (kernel[d] - 1) * dilation[d] - 1) // stride[d] + 1
        for d, a in enumerate(space)
    ]
    if min(out) < 1:
        return None
    groups = g.rng.choice([1, 1, 1, channels, *[x for x in (2, 3, 4) if channels % x == 0]])
    inner = channels // groups
    outer = g.size() if groups == 1 else groups * g.rng.choice([1, 1, 2, 3])
    each = outer // groups
    kernel_last = last or g.chance(0.3)
    weights = g.fresh((*kernel, inner, outer) if kernel_last else (outer, inner, *kernel), v.dtype, 0.7)
    depth = inner * prod(kernel)
    known = _summed(g, v, weights, depth)
    if known is None:
        return None
    zero = const(0, v.dtype)
    staged = g.chance(0.7)
    source = v
    if any(low + high):

        def padded(*i: Expr) -> Expr:
            at = list(i)
            conds: list[Expr] = []
            for d, a in enumerate(space):
                at[a] = i[a] - low[d]
                conds += [i[a] >= low[d], i[a] < v.shape[a] + low[d]]
            inside = conds[0]
            for c in conds[1:]:
                inside = inside & c
            return select(inside, v.tensor[tuple(at)], zero)

        if staged:
            shape = list(v.shape)
            for d, a in enumerate(space):
                shape[a] += low[d] + high[d]
            made = g.emit(shape, padded, v.exact, v.bound, keep=False)
            if made is None:
                return None
            source = made
    shape = [*v.shape[:first], *out, outer] if last else [*v.shape[:first], outer, *out]

    def body(*i: Expr) -> Expr:
        lead, spots = list(i[:first]), list(i[first:-1] if last else i[first + 1 :])
        o = i[-1] if last else i[first]

        def term(*r: Expr) -> Expr:
            c = r[-1] if groups == 1 else (o // each) * inner + r[-1]
            at = [s * stride[d] + r[d] * dilation[d] for d, s in enumerate(spots)]
            index = [*lead, *at, c] if last else [*lead, c, *at]
            x = padded(*index) if not staged and any(low + high) else source.tensor[tuple(index)]
            w = (*r[:-1], r[-1], o) if kernel_last else (o, r[-1], *r[:-1])
            return x * weights.tensor[w]

        return te.reduce("sum", (*kernel, inner), term)

    return g.emit(shape, body, *known, work=depth)


def pool(g: ProgramGenerator, v: Value) -> Value | None:
    """Windows reduced by max, min or sum along one or two axes, padded with the identity."""
    if v.dtype == "bool" or not v.ndim:
        return None
    axes = sorted(g.rng.sample(range(v.ndim), min(v.ndim, g.rng.choice([1, 2]))))
    op = g.rng.choice(["max", "max", "min", "sum"])
    kernel = [g.rng.choice([1, 2, 3, 4]) for _ in axes]
    stride = [g.rng.choice([1, 2, 3]) for _ in axes]
    pad = [g.rng.choice([0, 0, 1]) for _ in axes]
    shape = list(v.shape)
    for a, k, s, p in zip(axes, kernel, stride, pad, strict=True):
        shape[a] = (v.shape[a] + 2 * p - k) // s + 1
    if min(shape) < 1:
        return None
    identity = reduce_identity(op, v.dtype)

    def body(*i: Expr) -> Expr:
        def term(*r: Expr) -> Expr:
            at = list(i)
            inside: Expr | None = None
            for n, a in enumerate(axes):
                at[a] = i[a] * stride[n] + r[n] - pad[n]
                if pad[n]:
                    here = (at[a] >= 0) & (at[a] < v.shape[a])
                    inside = here if inside is None else inside & here
            x = v.tensor[tuple(at)]
            return x if inside is None else select(inside, x, identity)

        return te.reduce(op, tuple(kernel), term)

    bound = v.bound * prod(kernel) if op == "sum" else v.bound
    if op != "sum" and any(p >= k for p, k in zip(pad, kernel, strict=True)):
        return None  # a window of padding alone is infinite
    if v.dtype == "float16" and op == "sum" and not (v.exact and bound < EXACT["float16"]):
        return None
    return g.emit(shape, body, v.exact, bound, work=prod(kernel))


def reduction(g: ProgramGenerator, v: Value) -> Value | None:
    """A reduction over any axes, kept as size one or dropped."""
    if v.dtype == "bool" or not v.ndim:
        return None
    op = g.rng.choice(["sum", "sum", "max", "min", "prod"])
    axes = sorted(g.rng.sample(range(v.ndim), g.rng.randint(1, v.ndim)))
    keep = g.chance(0.4)
    depth = prod(v.shape[a] for a in axes)
    if dt.is_float(v.dtype) and (op == "prod" or (v.dtype == "float16" and op == "sum")):
        return None
    square = op == "sum" and g.chance(0.3)
    bound = v.bound * (v.bound if square else 1) * depth if op in ("sum", "prod") else v.bound
    exact = v.exact and not (dt.is_float(v.dtype) and bound > EXACT[v.dtype])
    shape = [1 if a in axes else n for a, n in enumerate(v.shape) if a not in axes or keep]
    rest = [a for a in range(v.ndim) if a not in axes]

    def body(*i: Expr) -> Expr:
        def term(*r: Expr) -> Expr:
            kept = [i[a] for a in rest] if keep else list(i)
            at = tuple(r[axes.index(a)] if a in axes else kept[rest.index(a)] for a in range(v.ndim))
            return v.tensor[at] * v.tensor[at] if square else v.tensor[at]

        return te.reduce(op, tuple(v.shape[a] for a in axes), term)

    return g.emit(shape, body, exact, bound, work=depth)


def _along(
    g: ProgramGenerator, v: Value
) -> tuple[int, Callable[[tuple[Expr, ...]], tuple[Expr, ...]], list[int]]:
    """An axis, a function that drops it from indices, and the shape without it."""
    axis = v.ndim - 1 if g.chance(0.7) else g.rng.randrange(v.ndim)
    return (
        axis,
        lambda i: tuple(x for a, x in enumerate(i) if a != axis),
        [n for a, n in enumerate(v.shape) if a != axis],
    )


def _reduced(
    g: ProgramGenerator,
    v: Value,
    axis: int,
    shape: list[int],
    op: str,
    term: Callable[[Expr], Expr],
    bound: float,
) -> Value | None:
    def body(*i: Expr) -> Expr:
        return te.reduce(op, (v.shape[axis],), lambda k: term(v.tensor[(*i[:axis], k, *i[axis:])]))

    return g.emit(shape, body, v.exact and op in ("max", "min"), bound, v.shape[axis], keep=False)


def softmax(g: ProgramGenerator, v: Value) -> Value | None:
    if v.dtype not in ("float32", "float64") or not v.ndim:
        return None
    axis, drop, shape = _along(g, v)
    top = _reduced(g, v, axis, shape, "max", lambda x: x, v.bound)
    if top is None:
        return None
    e = g.emit(v.shape, lambda *i: call("exp", [v.tensor[i] - top.tensor[drop(i)]]), False, 1.0, keep=False)
    if e is None:
        return None
    total = _reduced(g, e, axis, shape, "sum", lambda x: x, float(v.shape[axis]))
    if total is None:
        return None
    return g.emit(v.shape, lambda *i: e.tensor[i] / total.tensor[drop(i)], False, 1.0)


def layer_norm(g: ProgramGenerator, v: Value) -> Value | None:
    if v.dtype not in ("float32", "float64") or not v.ndim:
        return None
    axis, drop, shape = _along(g, v)
    n = v.shape[axis]
    total = _reduced(g, v, axis, shape, "sum", lambda x: x, v.bound * n)
    if total is None:
        return None
    centred = g.emit(
        v.shape, lambda *i: v.tensor[i] - total.tensor[drop(i)] * (1.0 / n), False, 2 * v.bound, keep=False
    )
    if centred is None:
        return None
    square = _reduced(g, centred, axis, shape, "sum", lambda x: x * x, 4 * v.bound**2 * n)
    if square is None:
        return None
    scale = g.fresh((n,), v.dtype)
    return g.emit(
        v.shape,
        lambda *i: (
            centred.tensor[i]
            * call("rsqrt", [square.tensor[drop(i)] * (1.0 / n) + 1e-2])
            * scale.tensor[i[axis]]
        ),
        False,
        10.0 * v.bound,
    )


def masked_reduction(g: ProgramGenerator, v: Value) -> Value | None:
    """A sum over a part that depends on the position: cumulative, banded."""
    if v.dtype not in ("float32", "float64", "int32", "int64") or v.ndim < 1:
        return None
    axis, _, _ = _along(g, v)
    n = v.shape[axis]
    reverse = g.chance(0.3)

    def body(*i: Expr) -> Expr:
        def term(k: Expr) -> Expr:
            inside = i[axis] <= k if reverse else k <= i[axis]
            return select(inside, v.tensor[(*i[:axis], k, *i[axis + 1 :])], const(0, v.dtype))

        return te.reduce("sum", (n,), term)

    return g.emit(v.shape, body, v.exact, v.bound * n, work=n)


# ----------------------------------------------------------------------------------------------- elementwise


def unary(g: ProgramGenerator, v: Value) -> Value | None:
    t = v.tensor
    if v.dtype == "bool" or not dt.is_signed(v.dtype):
        return None
    if not dt.is_float(v.dtype):
        name = g.rng.choice(["abs", "neg", "relu", "sign"])
    elif v.exact:
        name = g.rng.choice(["relu", "abs", "neg", "sign", "exp", "tanh", "sigmoid", "floor", "erf", "sqrt"])
    else:
        name = g.rng.choice(["relu", "abs", "neg", "exp", "tanh", "sigmoid", "erf", "sqrt"])
    if name == "relu":
        return g.emit(v.shape, lambda *i: maximum(t[i], const(0, v.dtype)), v.exact, v.bound)
    if name == "exp":
        return g.emit(v.shape, lambda *i: call("exp", [minimum(t[i], 3.0)]), False, 21.0)
    if name == "sqrt":
        return g.emit(v.shape, lambda *i: call("sqrt", [call("abs", [t[i]]) + 1.0]), False, v.bound + 1)
    if name == "neg":
        return g.emit(v.shape, lambda *i: -t[i], v.exact, v.bound)
    exact = v.exact and name in ("abs", "sign", "floor")
    return g.emit(v.shape, lambda *i: call(name, [t[i]]), exact, v.bound if name in ("abs", "floor") else 1.0)


def binary(g: ProgramGenerator, v: Value) -> Value | None:
    """With a tensor that broadcasts: any dimensions of size one, leading ones missing; either way round."""
    shape = [n if g.chance(0.65) else 1 for n in v.shape]
    if g.chance(0.5):
        shape = shape[g.rng.randint(0, v.ndim) :]
    result = list(v.shape)
    for a in range(v.ndim):
        back = a - v.ndim + len(shape)
        if v.shape[a] == 1 and back >= 0 and g.chance(0.4):
            shape[back] = result[a] = g.size()
    o = g.other(shape, v.dtype)

    def pick(value: Value, i: tuple[Expr, ...]) -> Expr:
        tail = i[len(i) - value.ndim :]
        return value.tensor[
            tuple(as_expr(0) if n == 1 else x for x, n in zip(tail, value.shape, strict=True))
        ]

    if v.dtype == "bool":
        op = g.rng.choice(["and", "or", "xor"])
        return g.emit(result, lambda *i: binop(op, pick(v, i), pick(o, i)), True, 1)
    op = g.rng.choice(["add", "add", "sub", "mul", "min", "max"])
    bound = v.bound * o.bound if op == "mul" else v.bound + o.bound
    exact = v.exact and o.exact and not (dt.is_float(v.dtype) and bound > EXACT[v.dtype])
    if dt.is_float(v.dtype) and v.dtype != "float16" and g.chance(0.15):
        return g.emit(result, lambda *i: pick(v, i) / (call("abs", [pick(o, i)]) + 1.0), False, v.bound)
    if g.chance(0.2):  # the other operand first
        return g.emit(result, lambda *i: binop(op, pick(o, i), pick(v, i)), exact, bound)
    return g.emit(result, lambda *i: binop(op, pick(v, i), pick(o, i)), exact, bound)


def bias_relu(g: ProgramGenerator, v: Value) -> Value | None:
    if not dt.is_float(v.dtype) or not v.ndim:
        return None
    axis = v.ndim - 1 if g.chance(0.7) else g.rng.randrange(v.ndim)
    b = g.fresh((v.shape[axis],), v.dtype, 0.8)
    return g.emit(
        v.shape,
        lambda *i: maximum(v.tensor[i] + b.tensor[i[axis]], 0.0),
        v.exact and b.exact and v.bound + b.bound < EXACT[v.dtype],
        v.bound + b.bound,
    )


def convert(g: ProgramGenerator, v: Value) -> Value | None:
    dtype = g.rng.choice(
        ["float32", "float32", "float64", "int32", "int64", "uint8", "int8", "float16", "bool"]
    )
    if dtype == v.dtype or (not dt.is_float(dtype) and not v.exact):
        return None
    exact = v.exact
    if dt.is_float(dtype):
        if v.bound > (1000 if dtype == "float16" else 1e6):
            return None
        exact = exact and v.bound <= EXACT[dtype]
    return g.emit(v.shape, lambda *i: cast(dtype, v.tensor[i]), exact, v.bound)


def mask(g: ProgramGenerator, v: Value) -> Value | None:
    """Where: by a bool input that broadcasts, by a comparison, by position."""
    if not v.ndim:
        return None
    kind = g.rng.choice(["input", "compare", "position"])
    fill = const(g.rng.choice([0, 1, 3]), v.dtype)
    t = v.tensor
    if kind == "compare" and v.exact and v.dtype != "bool":
        op, limit = g.rng.choice(["lt", "le", "eq", "ne"]), const(g.rng.randint(0, 3), v.dtype)
        if g.chance(0.3):
            return g.emit(v.shape, lambda *i: cmp(op, t[i], limit), True, 1)
        return g.emit(v.shape, lambda *i: select(cmp(op, t[i], limit), t[i], fill), True, v.bound + 3)
    if kind == "position" and v.ndim > 1:
        shift = g.rng.randint(-3, 3)
        return g.emit(v.shape, lambda *i: select(i[-1] <= i[-2] + shift, t[i], fill), v.exact, v.bound + 3)
    shape = [n if g.chance(0.6) else 1 for n in v.shape]
    m = g.other(shape, "bool")

    def body(*i: Expr) -> Expr:
        at = tuple(as_expr(0) if n == 1 else x for x, n in zip(i, shape, strict=True))
        return select(m.tensor[at], t[i], fill)

    return g.emit(v.shape, body, v.exact, v.bound + 3)


# --------------------------------------------------------------------------------------------- data movement


def transpose(g: ProgramGenerator, v: Value) -> Value | None:
    order = g.rng.sample(range(v.ndim), v.ndim)
    return g.emit(
        [v.shape[a] for a in order],
        lambda *i: v.tensor[tuple(i[order.index(a)] for a in range(v.ndim))],
        v.exact,
        v.bound,
    )


def strided_slice(g: ProgramGenerator, v: Value) -> Value | None:
    """A slice with any step, backwards too."""
    if not v.ndim:
        return None
    axis = g.rng.randrange(v.ndim)
    n, step = v.shape[axis], g.rng.choice([1, 1, 2, 3, -1, -2])
    length = g.rng.randint(1, (n - 1) // abs(step) + 1)
    room = n - 1 - (length - 1) * abs(step)
    start = g.rng.randint(0, room) + (0 if step > 0 else (length - 1) * -step)
    return g.emit(
        [length if a == axis else m for a, m in enumerate(v.shape)],
        lambda *i: v.tensor[tuple(x * step + start if a == axis else x for a, x in enumerate(i))],
        v.exact,
        v.bound,
    )


def pad(g: ProgramGenerator, v: Value) -> Value | None:
    """Zeros, the nearest element or a mirror image around."""
    if not v.ndim:
        return None
    axis, low, high = g.rng.randrange(v.ndim), g.rng.randint(0, 3), g.rng.randint(0, 3)
    n = v.shape[axis]
    mode = g.rng.choice(["zero", "zero", "edge", "reflect"])
    if mode == "reflect" and n <= max(low, high):
        return None

    def body(*i: Expr) -> Expr:
        x = i[axis] - low
        if mode == "edge":
            x = maximum(minimum(x, n - 1), 0)
        elif mode == "reflect":
            x = select(x < 0, x * -1, select(x >= n, x * -1 + (2 * n - 2), x))
        value = v.tensor[(*i[:axis], x, *i[axis + 1 :])]
        return select((x >= 0) & (x < n), value, const(0, v.dtype)) if mode == "zero" else value

    return g.emit([m + low + high if a == axis else m for a, m in enumerate(v.shape)], body, v.exact, v.bound)


def concat(g: ProgramGenerator, v: Value) -> Value | None:
    if not v.ndim:
        return None
    axis, n = g.rng.randrange(v.ndim), g.size()
    o = g.other([n if a == axis else m for a, m in enumerate(v.shape)], v.dtype)
    first = v.shape[axis]

    def body(*i: Expr) -> Expr:
        return select(i[axis] < first, v.tensor[i], o.tensor[(*i[:axis], i[axis] - first, *i[axis + 1 :])])

    shape = [m + n if a == axis else m for a, m in enumerate(v.shape)]
    return g.emit(shape, body, v.exact and o.exact, max(v.bound, o.bound))


def gather(g: ProgramGenerator, v: Value) -> Value | None:
    """Along one axis by indices from a tensor, which are clamped into range."""
    if not v.ndim:
        return None
    axis, n, length = g.rng.randrange(v.ndim), 0, g.size()
    n = v.shape[axis]
    index = g.fresh((length,), g.rng.choice(["int64", "int32"]), 0.2)

    def body(*i: Expr) -> Expr:
        at = maximum(minimum(cast(dt.INDEX, index.tensor[i[axis]]), n - 1), 0)
        return v.tensor[(*i[:axis], at, *i[axis + 1 :])]

    return g.emit([length if a == axis else m for a, m in enumerate(v.shape)], body, v.exact, v.bound)


def reshape(g: ProgramGenerator, v: Value) -> Value | None:
    total = prod(v.shape)
    shape: list[int] = []
    while len(shape) < 3 and g.chance(0.7):
        n = g.rng.choice([d for d in range(1, total + 1) if total % d == 0])
        shape.append(n)
        total //= n
    shape.append(total)

    def body(*i: Expr) -> Expr:
        flat: Expr = as_expr(0)
        for x, n in zip(i, shape, strict=True):
            flat = flat * n + x
        at: list[Expr] = []
        for n in reversed(v.shape):
            at.append(flat % n)
            flat = flat // n
        return v.tensor[tuple(reversed(at))]

    return g.emit(shape, body, v.exact, v.bound)


def resize(g: ProgramGenerator, v: Value) -> Value | None:
    """Nearest neighbour by any ratio, or a repetition."""
    if not v.ndim:
        return None
    axis, length = g.rng.randrange(v.ndim), g.size()
    n = v.shape[axis]
    kind = g.rng.choice(["ratio", "repeat", "tile"])
    out = length if kind == "ratio" else n * g.rng.choice([2, 3])

    def body(*i: Expr) -> Expr:
        x = i[axis] * n // out if kind != "tile" else i[axis] % n
        return v.tensor[(*i[:axis], x, *i[axis + 1 :])]

    return g.emit([out if a == axis else m for a, m in enumerate(v.shape)], body, v.exact, v.bound)


def expand(g: ProgramGenerator, v: Value) -> Value | None:
    axis, n = g.rng.randint(0, v.ndim), g.size()
    return g.emit(
        [*v.shape[:axis], n, *v.shape[axis:]],
        lambda *i: v.tensor[(*i[:axis], *i[axis + 1 :])],
        v.exact,
        v.bound,
    )


def positions(g: ProgramGenerator, v: Value) -> Value | None:
    """Values that depend on the index itself."""
    if not v.ndim or v.dtype == "bool" or not dt.is_signed(v.dtype) or v.dtype == "int8":
        return None
    axis = g.rng.randrange(v.ndim)
    n = v.shape[axis]
    return g.emit(
        v.shape,
        lambda *i: v.tensor[i] + cast(v.dtype, i[axis]),
        v.exact,
        v.bound + n,
    )


STAGES: tuple[Stage, ...] = (
    matmul, matmul, matmul, conv, conv, conv, conv, pool, pool, reduction, reduction, reduction, softmax,
    layer_norm, masked_reduction, unary, unary, binary, binary, binary, bias_relu, bias_relu, convert,
    convert, mask, mask, transpose, transpose, strided_slice, pad, concat, gather, reshape,
    resize, expand, positions,
)  # fmt: skip
