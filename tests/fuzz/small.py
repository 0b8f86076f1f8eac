"""Small random programs whose dimensions may be known at run time only.

Everything here is written over expressions, so one stage serves constant and symbolic dimensions. The
programs of :mod:`tests.fuzz.stages` are closer to what models are made of; these are smaller and odder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from random import Random

from tests.fuzz.case import STATIC, Case, Draw, Sizes
from tests.fuzz.programs import EXACT, Value, make_case, reached
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var, as_expr, binop, call, cast, const, maximum, minimum, select
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.visit import const_int, free_vars

_SIZES = (1, 2, 3, 4, 5, 7, 8, 9)
_DTYPES = ("float32",) * 8 + ("float64", "int32", "int64", "int8", "uint8")
#: Sizes of a run-time dimension: alone, prime, around powers of two, a multiple of many.
_RUN_TIME = (1, 2, 3, 4, 5, 7, 8, 12, 13)
#: A dimension counts as this large where it is not known.
_ASSUMED = 16
_MAX_WORK = 6_000
#: Rounding errors of larger numbers could show where they cancel.
_MAX_INEXACT = 300.0

Dims = tuple[Expr, ...]


class SmallProgram:
    """One to five stages; with ``symbolic``, over one or two run-time dimensions."""

    def __init__(self, rng: Random, symbolic: bool) -> None:
        self.rng = rng
        self.vars = [Var(n, lo=rng.choice([1, 1, 1, 3])) for n in ("n", "m")[: rng.randint(1, 2)]]
        self.vars = self.vars if symbolic else []
        self.inputs: dict[te.Tensor, Draw] = {}
        self.values: list[Value] = []
        self.dtype = rng.choice(_DTYPES)
        for _ in range(rng.randint(1, 2)):
            self.fresh(tuple(self.dim() for _ in range(rng.randint(1, 3))), self.dtype)
        made = 0
        for _ in range(rng.randint(1, 5) * 3):
            source = rng.choice(self.values[-2:])
            if rng.choice(_STAGES)(self, source):
                made += 1
            if made == 5:
                break

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def dim(self) -> Expr:
        if self.vars and self.chance(0.6):
            var = self.rng.choice(self.vars)
            return simplify(self.rng.choice([var, var, var, var * 4, var + 2]))
        return as_expr(self.rng.choice(_SIZES))

    def fresh(self, dims: Dims, dtype: str) -> Value:
        """A new input."""
        tensor = te.placeholder(dims, dtype, f"x{len(self.inputs)}")
        self.inputs[tensor] = Draw(-3, 4) if dt.is_float(dtype) or dt.is_signed(dtype) else Draw(0, 7)
        value = Value(tensor, True, 7.0)
        self.values.append(value)
        return value

    def other(self, dims: Dims, dtype: str) -> Value:
        """A tensor of that shape and type, by choice a new one."""
        found = [v for v in self.values if v.dims == dims and v.dtype == dtype]
        return self.rng.choice(found) if found and self.chance(0.8) else self.fresh(dims, dtype)

    def emit(
        self, dims: Sequence[Expr], body: Callable[..., Expr], exact: bool, bound: float, work: int = 1
    ) -> bool:
        """Add a stage, unless it is large or its numbers get out of hand."""
        shape = [simplify(d) for d in dims]
        if not all(prove(d >= 1) for d in shape) or prod(map(_size, shape)) * work > _MAX_WORK:
            return False
        tensor = te.compute(shape, body, f"t{len(self.values)}")
        if dt.is_float(tensor.dtype) and bound > (EXACT[tensor.dtype] if exact else _MAX_INEXACT):
            return False
        self.values.append(Value(tensor, exact, bound))
        return True

    def case(self) -> Case | None:
        """The program; None when nothing is computed."""
        made = [v for v in self.values if v.tensor.body is not None]
        if not made:
            return None
        read = reached([v.tensor for v in made])
        outputs = [v for v in made if v.tensor not in read or self.chance(0.06)]
        consts = [t for t in self.inputs if self.chance(0.5)]
        needed = reached([v.tensor for v in outputs])
        tensors = [*needed, *(v.tensor for v in outputs)]
        used = {v for t in tensors for dim in t.shape for v in free_vars(dim)}
        present = [v for v in self.vars if v in used]
        return make_case(self.rng, outputs, self.inputs, consts, present, self._sizes(present))

    def _sizes(self, present: Sequence[Var]) -> tuple[Sizes, ...]:
        """Three assignments of the run-time dimensions."""
        if not present:
            return STATIC
        return tuple(
            {v.name: self.rng.choice([n for n in _RUN_TIME if n >= (v.lo or 1)]) for v in present}
            for _ in range(3)
        )


def _size(dim: Expr) -> int:
    return const_int(dim) or _ASSUMED


def elementwise(g: SmallProgram, v: Value) -> bool:
    o = g.other(v.dims, v.dtype)
    op = g.rng.choice(["add", "mul", "max", "min", "sub"])
    bound = v.bound * o.bound if op == "mul" else v.bound + o.bound
    return g.emit(v.dims, lambda *i: binop(op, v.tensor[i], o.tensor[i]), v.exact and o.exact, bound)


def function(g: SmallProgram, v: Value) -> bool:
    t = v.tensor
    if not dt.is_signed(v.dtype) or not g.chance(0.5):
        return g.emit(v.dims, lambda *i: maximum(t[i], const(1, v.dtype)), v.exact, v.bound)
    if dt.is_float(v.dtype) and g.chance(0.5):
        return g.emit(v.dims, lambda *i: call("tanh", [t[i]]) + t[i], False, v.bound + 1)
    return g.emit(v.dims, lambda *i: call("abs", [t[i]]) - t[i], v.exact, 2 * v.bound)


def broadcast(g: SmallProgram, v: Value) -> bool:
    """Combine with a tensor over a part of the dimensions, as a row or a column is."""
    axes = sorted(g.rng.sample(range(v.ndim), g.rng.randint(1, v.ndim)))
    o = g.other(tuple(v.dims[a] for a in axes), v.dtype)
    return g.emit(
        v.dims,
        lambda *i: v.tensor[i] - o.tensor[tuple(i[a] for a in axes)],
        v.exact and o.exact,
        v.bound + o.bound,
    )


def transpose(g: SmallProgram, v: Value) -> bool:
    order = g.rng.sample(range(v.ndim), v.ndim)
    dims = [v.dims[a] for a in order]
    return g.emit(
        dims, lambda *i: v.tensor[tuple(i[order.index(a)] for a in range(v.ndim))], v.exact, v.bound
    )


def pad(g: SmallProgram, v: Value) -> bool:
    low, high, axis = g.rng.randint(0, 2), g.rng.randint(0, 2), g.rng.randrange(v.ndim)
    size = v.dims[axis]
    fill = const(g.rng.choice([0, 0, 1]), v.dtype)

    def body(*i: Expr) -> Expr:
        at = tuple(x - low if a == axis else x for a, x in enumerate(i))
        return select((i[axis] >= low) & (i[axis] < size + low), v.tensor[at], fill)

    return g.emit([d + (low + high) * (a == axis) for a, d in enumerate(v.dims)], body, v.exact, v.bound)


def shifted(g: SmallProgram, v: Value) -> bool:
    """What stands beside in one dimension, nothing at the border: as many elements as before."""
    axis, by = g.rng.randrange(v.ndim), g.rng.choice([-2, -1, 1, 2])
    size = v.dims[axis]

    def body(*i: Expr) -> Expr:
        at = i[axis] - by
        inside = (at >= 0) & (at < size)
        moved = v.tensor[(*i[:axis], at, *i[axis + 1 :])]
        return v.tensor[i] - select(inside, moved, const(0, v.dtype))

    return g.emit(v.dims, body, v.exact, 2 * v.bound)


def clamped(g: SmallProgram, v: Value) -> bool:
    axis, shift = g.rng.randrange(v.ndim), g.rng.randint(-2, 2)
    size = v.dims[axis]

    def body(*i: Expr) -> Expr:
        at = tuple(maximum(minimum(x + shift, size - 1), 0) if a == axis else x for a, x in enumerate(i))
        return v.tensor[i] + v.tensor[at]

    return g.emit(v.dims, body, v.exact, 2 * v.bound)


def reverse(g: SmallProgram, v: Value) -> bool:
    axis = g.rng.randrange(v.ndim)
    size = v.dims[axis]
    return g.emit(
        v.dims,
        lambda *i: v.tensor[tuple(size - 1 - x if a == axis else x for a, x in enumerate(i))],
        v.exact,
        v.bound,
    )


def reshape(g: SmallProgram, v: Value) -> bool:
    """Two dimensions of one, or one of all."""
    if v.ndim == 1:
        size = const_int(v.dims[0])
        if size is None:
            return False
        width = g.rng.choice([d for d in range(1, size + 1) if size % d == 0])
        return g.emit(
            [as_expr(size // width), as_expr(width)], lambda i, j: v.tensor[i * width + j], v.exact, v.bound
        )

    def body(i: Expr) -> Expr:
        at: list[Expr] = []
        for d in reversed(v.dims[1:]):
            at.append(i % d)
            i = i // d
        return v.tensor[tuple(reversed([*at, i]))]

    total: Expr = as_expr(1)
    for d in v.dims:
        total = total * d
    return g.emit([total], body, v.exact, v.bound)


def masked(g: SmallProgram, v: Value) -> bool:
    """A part by position, of two tensors or of one and a constant."""
    axis, limit = g.rng.randrange(v.ndim), g.rng.randint(1, 5)
    o = g.other(v.dims, v.dtype) if g.chance(0.5) else None
    other = -1 if v.ndim == 1 else (axis + 1) % v.ndim

    def body(*i: Expr) -> Expr:
        cond = i[axis] < limit if v.ndim == 1 or limit < 3 else i[axis] <= i[other] + (limit - 4)
        return select(cond, v.tensor[i], const(0, v.dtype) if o is None else o.tensor[i])

    exact, bound = v.exact and (o is None or o.exact), max(v.bound, 0 if o is None else o.bound)
    return g.emit(v.dims, body, exact, bound)


def convert(g: SmallProgram, v: Value) -> bool:
    dtype = g.rng.choice(["float32", "float64", "int32", "int64", "int8"])
    if dtype == v.dtype or not (v.exact and v.bound < 100):
        return False
    return g.emit(v.dims, lambda *i: cast(dtype, v.tensor[i]), True, v.bound)


def stencil(g: SmallProgram, v: Value) -> bool:
    axis = g.rng.randrange(v.ndim)
    taps, stride, dilation = g.rng.randint(1, 3), g.rng.randint(1, 2), g.rng.randint(1, 2)
    length = (v.dims[axis] - ((taps - 1) * dilation + 1)) // stride + 1
    op = g.rng.choice(["sum", "max", "min"])

    def body(*i: Expr) -> Expr:
        def tap(r: Expr) -> Expr:
            return v.tensor[tuple(x * stride + r * dilation if a == axis else x for a, x in enumerate(i))]

        return te.reduce(op, (taps,), tap)

    dims = [length if a == axis else d for a, d in enumerate(v.dims)]
    return g.emit(dims, body, v.exact, v.bound * taps, taps)


def reduction(g: SmallProgram, v: Value) -> bool:
    """Over one or two axes."""
    axes = sorted(g.rng.sample(range(v.ndim), min(v.ndim, g.rng.choice([1, 1, 2]))))
    whole = not dt.is_float(v.dtype)
    op = g.rng.choice(["sum", "sum", "max", "min", *(["prod"] if whole else [])])
    depth = prod(_size(v.dims[a]) for a in axes)
    rest = [a for a in range(v.ndim) if a not in axes]
    dims = [v.dims[a] for a in rest] or [as_expr(1)]

    def body(*i: Expr) -> Expr:
        def term(*r: Expr) -> Expr:
            return v.tensor[tuple(r[axes.index(a)] if a in axes else i[rest.index(a)] for a in range(v.ndim))]

        return te.reduce(op, tuple(v.dims[a] for a in axes), term)

    return g.emit(dims, body, v.exact, v.bound * (depth if op == "sum" else 1), depth)


def contraction(g: SmallProgram, v: Value) -> bool:
    """A product over the last dimension, with a matrix either way round."""
    if v.ndim > 2:
        return reduction(g, v)
    depth, columns, turned = v.dims[-1], g.dim(), g.chance(0.4)
    found = [(o, a) for o in g.values if o.ndim == 2 and o.dtype == v.dtype for a in (0, 1)]
    found = [(o, a) for o, a in found if o.dims[a] is depth]
    if found and g.chance(0.7):
        o, axis = g.rng.choice(found)
    else:
        o, axis = g.fresh((columns, depth) if turned else (depth, columns), v.dtype), int(turned)

    def body(*i: Expr) -> Expr:
        def term(r: Expr) -> Expr:
            return v.tensor[(*i[:-1], r)] * o.tensor[(r, i[-1]) if axis == 0 else (i[-1], r)]

        return te.reduce("sum", (depth,), term)

    steps = _size(depth)
    dims = [*v.dims[:-1], o.dims[1 - axis]]
    return g.emit(dims, body, v.exact and o.exact, v.bound * o.bound * steps, steps)


def scan(g: SmallProgram, v: Value) -> bool:
    """Sums over what comes before, with a term that depends on both iterators."""
    axis = g.rng.randrange(v.ndim)
    zero = const(0, v.dtype)

    def body(*i: Expr) -> Expr:
        def term(r: Expr) -> Expr:
            return select(r <= i[axis], v.tensor[(*i[:axis], r, *i[axis + 1 :])], zero)

        return te.reduce("sum", (v.dims[axis],), term)

    steps = _size(v.dims[axis])
    return g.emit(v.dims, body, v.exact, v.bound * steps, steps)


_STAGES: tuple[Callable[[SmallProgram, Value], bool], ...] = (
    elementwise, elementwise, shifted, shifted, function, broadcast, broadcast, transpose, pad, pad, clamped,
    reverse, reshape, masked, convert, stencil, stencil, reduction, reduction, reduction, contraction,
    contraction, contraction, scan,
)  # fmt: skip
