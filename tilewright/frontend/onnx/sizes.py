"""Operands that steer an operator and that kernels compute: their elements become sizes of the graph.

A shape, or the ends of a slice, need not be known when the model is compiled, as long as there is an upper
bound for each number: that of the dimension it cuts, or ``Options.max_computed``. A run in which a number is
larger stops with an error (docs/dynamic_shapes.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from tilewright.config import options
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Attr, Value
from tilewright.graph.opdef import get_op
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, as_expr, maximum
from tilewright.ir.visit import const_int
from tilewright.ops.common import dims_attr, product
from tilewright.ops.computed import computed_size

#: Where one operand has several numbers without a bound, their product is at most so many times as large as
#: ``Options.max_computed``.
SEVERAL: Final = 256

Operands = Sequence[Value | None]
Attrs = Mapping[str, Attr]


def with_computed_sizes(
    builder: GraphBuilder, op: str, inputs: Operands, attrs: Attrs, name: str
) -> tuple[Operands, dict[str, Attr]]:
    """Operands and attributes of a node of operator ``op`` to be: what steers it and is only known when it
    has been computed becomes an attribute of sizes.

    What follows from integer inputs of rank 0 or 1 alone is left as it is: they are shapes and the like, for
    whose values models are compiled. New dimensions are called after ``name``.
    """
    rule = _RULES.get(op)
    if rule is None:
        return inputs, dict(attrs)
    found, rest = dict(attrs), list(inputs)
    for index, param in get_op(op).params.items():
        value = rest[index] if index < len(rest) else None
        if value is None or value.static_shape is None or value.rank > 1:
            continue
        if _is_known(builder, value) or _follows_from_numbers(builder, value):
            continue
        sizes = rule(_Node(builder, tuple(rest), found, name), value, param)
        if sizes is not None:
            found[param] = dims_attr(sizes)
            rest[index] = None
    return rest, found


def _is_known(builder: GraphBuilder, value: Value) -> bool:
    return builder.const(value) is not None or builder.exprs(value) is not None


def _follows_from_numbers(builder: GraphBuilder, value: Value) -> bool:
    """Whether nothing but integer inputs of rank 0 or 1 decides the elements of ``value``."""
    waiting, seen = [value], {value}
    while waiting:
        value = waiting.pop()
        node = builder.producer(value)
        if node is None:
            if builder.const(value) is None and (value.rank > 1 or not dt.is_int(value.dtype)):
                return False
        elif get_op(node.op).reads_data:
            fresh = [v for v in node.inputs if v is not None and v not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return True


def _elements(builder: GraphBuilder, value: Value) -> list[Expr | int | None]:
    """The elements of a vector or a single number; None for those that are not known."""
    data, exprs, node = builder.const(value), builder.exprs(value), builder.producer(value)
    if data is not None:
        return [int(n) for n in data.reshape(-1)]
    if exprs is not None:
        return list(exprs.reshape(-1))
    if node is not None and node.op == "concat" and value.rank == 1:
        return [e for part in node.inputs if part is not None for e in _elements(builder, part)]
    if node is not None and node.op in ("cast", "reshape") and node.inputs[0] is not None:
        return _elements(builder, node.inputs[0])
    return [None] * (const_int(product(value.shape)) or 0)


class _Node:
    """A node in the making, and arithmetic on int64 vectors beside it."""

    def __init__(self, builder: GraphBuilder, inputs: Operands, attrs: Attrs, name: str) -> None:
        self.builder = builder
        self.inputs = inputs
        self.attrs = attrs
        self.name = name

    @property
    def x(self) -> Value:
        x = self.inputs[0]
        assert x is not None
        return x

    def has(self, param: int, name: str) -> bool:
        """Whether a steering operand is given at all."""
        there = param < len(self.inputs) and self.inputs[param] is not None
        return there or self.attrs.get(name) is not None

    def numbers(self, param: int, name: str) -> tuple[int | Expr, ...] | None:
        """A steering operand as numbers or expressions, where it is known."""
        given = self.attrs.get(name)
        if isinstance(given, tuple):
            return tuple(e for e in given if isinstance(e, int | Expr))
        value = self.inputs[param] if param < len(self.inputs) else None
        if value is None:
            return None
        data, exprs = self.builder.const(value), self.builder.exprs(value)
        if data is not None:
            return tuple(int(n) for n in data.reshape(-1))
        return None if exprs is None else tuple(exprs.reshape(-1))

    def op(self, op: str, *inputs: Value | int) -> Value:
        """An elementwise operator; numbers are int64."""
        return self.builder.op(op, *(self.builder.constant(v) if isinstance(v, int) else v for v in inputs))

    def sizes(self, given: Value, vector: Value, most: Sequence[Expr | int], what: str) -> list[Expr | int]:
        """The elements of ``given``: those that are known, of others those of ``vector`` (no negative ones)
        as sizes, each at most as large as ``most`` says."""
        flat = self.builder.op("reshape", vector, shape=(len(most),))
        found: list[Expr | int] = []
        for n, (limit, known) in enumerate(zip(most, _elements(self.builder, given), strict=True)):
            if known is not None:
                found.append(known)
                continue
            one = self.builder.op("slice", flat, starts=(n,), ends=(n + 1,), axes=(0,))
            number = self.builder.op("reshape", one, shape=())
            suffix = what if len(most) == 1 else f"{what}{n}"
            found.append(computed_size(self.builder, number, limit, f"{self.name}_{suffix}")[1])
        return found

    def unbounded(self, given: Value) -> int:
        """A limit for each element of ``given`` that nothing bounds: ``Options.max_computed``, less where
        there are several."""
        most = options().max_computed
        count = max(_elements(self.builder, given).count(None), 1)
        return min(most, int((most * SEVERAL) ** (1 / count)))

    def as_int64(self, value: Value) -> Value:
        return value if value.dtype == "int64" else self.builder.op("cast", value, to="int64")

    def where(self, left: Value, number: int, then: Value | int, otherwise: Value | int) -> Value:
        """``then`` where ``left`` is ``number``."""
        return self.op("where", self.op("equal", left, number), then, otherwise)

    def aligned_dims(self, rank: int, behind: bool = False, missing: int = 1) -> Value:
        """The sizes of x as an int64 vector of ``rank``: those that x does not have are ``missing``, before
        its own or ``behind`` them."""
        own = self.builder.op("shape", self.x, end=rank if behind else None)
        count = max(rank - self.x.rank, 0)
        if not count:
            return own
        more = self.builder.constant(np.full(count, missing, np.int64))
        return self.builder.op("concat", *((own, more) if behind else (more, own)), axis=0)


def _slice(node: _Node, value: Value, param: str) -> list[Expr | int] | None:
    """Starts and ends as positions from the front, inside of the dimension; steps must be positive."""
    steps, count = node.numbers(4, "steps"), const_int(value.shape[0]) if value.rank else None
    if param not in ("starts", "ends") or count is None:
        return None
    if (node.has(4, "steps") and steps is None) or any(not isinstance(s, int) or s < 1 for s in steps or ()):
        return None
    axes = node.numbers(3, "axes") if node.has(3, "axes") else tuple(range(count))
    if axes is None or len(axes) != count:
        return None
    x, where = node.x, [int(a) % node.x.rank for a in axes if isinstance(a, int)]
    dims = node.builder.op(
        "gather", node.builder.op("shape", x), node.builder.constant(np.array(where)), axis=0
    )
    given = node.as_int64(value)
    counted = node.op("where", node.op("less", given, 0), node.op("add", given, dims), given)
    inside = node.op("minimum", node.op("maximum", counted, 0), dims)
    return node.sizes(value, inside, [x.shape[a] for a in where], param.removesuffix("s"))


def _reshape(node: _Node, value: Value, param: str) -> list[Expr | int] | None:
    """0 copies a dimension where it does, and -1 is what is left."""
    rank = const_int(value.shape[0]) if value.rank == 1 else None
    if rank is None:
        return None
    shape, whole = node.as_int64(value), product(node.x.shape)
    if node.attrs.get("copy_zeros"):
        shape = node.where(shape, 0, node.aligned_dims(rank, behind=True, missing=0), shape)
    others = node.builder.op("reduce", node.where(shape, -1, 1, shape), op="prod", axes=(0,), keepdims=True)
    size = node.builder.op("reduce", node.builder.op("shape", node.x), op="prod", axes=(0,), keepdims=True)
    rest = node.op("div", size, node.op("maximum", others, 1))
    return node.sizes(value, node.where(shape, -1, rest, shape), [maximum(whole, 1)] * rank, "dim")


def _expand(node: _Node, value: Value, param: str) -> list[Expr | int] | None:
    """1 leaves a dimension as it is."""
    rank = const_int(value.shape[0]) if value.rank == 1 else None
    if rank is None or rank < node.x.rank:
        return None
    shape, most = node.as_int64(value), node.unbounded(value)
    own = (as_expr(1),) * (rank - node.x.rank) + node.x.shape
    limits = [as_expr(most) if const_int(d) == 1 else maximum(d, 1) for d in own]
    return node.sizes(value, node.where(shape, 1, node.aligned_dims(rank), shape), limits, "dim")


def _plain(node: _Node, value: Value, param: str) -> list[Expr | int] | None:
    """Numbers that count something."""
    count = const_int(product(value.shape))
    if count is None or param not in ("repeats", "pads", "depth"):
        return None
    return node.sizes(value, node.as_int64(value), [node.unbounded(value)] * count, param.removesuffix("s"))


_RULES: Final[Mapping[str, Callable[[_Node, Value, str], list[Expr | int] | None]]] = {
    "slice": _slice,
    "reshape": _reshape,
    "expand": _expand,
    "tile": _plain,
    "pad": _plain,
    "one_hot": _plain,
}
