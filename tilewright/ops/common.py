"""What the operator families share: shapes, axes, broadcasting, and arithmetic of half-precision types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tilewright.graph.opdef import OpContext
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.convert import convert
from tilewright.ir.expr import BinOp, Expr, ExprLike, as_expr, maximum, reduce_identity
from tilewright.ir.sizes import typical_size
from tilewright.ir.visit import const_int, walk_expr

Shape: TypeAlias = tuple[Expr, ...]
#: Operands of an operator's rule: tensors (compute) or arrays (reference); None stands for an optional one
#: left out.
Operands: TypeAlias = Sequence[Any]


def shape_of(dims: Sequence[ExprLike]) -> Shape:
    """Dimensions as expressions."""
    return tuple(as_expr(d) for d in dims)


def dims_attr(dims: Sequence[ExprLike]) -> tuple[int | Expr, ...]:
    """A shape as an attribute: plain ints where sizes are known."""
    numbers = [(const_int(as_expr(d)), as_expr(d)) for d in dims]
    return tuple(e if n is None else n for n, e in numbers)


def product(dims: Sequence[ExprLike]) -> Expr:
    """The number of elements of a shape; 1 for none."""
    total: Expr = as_expr(1)
    for dim in dims:
        total = total * dim
    return total


def mean(x: np.ndarray, axis: tuple[int, ...], keepdims: bool = True) -> np.ndarray:
    """The mean of floats; NaN of none, for which ``np.mean`` would warn."""
    count = x.dtype.type(np.prod([x.shape[a] for a in axis], dtype=np.int64))
    with np.errstate(all="ignore"):
        return np.asarray(np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype) / count)


def static_shape(ctx: OpContext, shape: Sequence[Expr], what: str) -> tuple[int, ...]:
    """``shape`` as ints. Fails naming ``what`` when a dimension is still open."""
    dims = [const_int(d) for d in shape]
    if any(d is None for d in dims):
        ctx.fail(f"{what} must have a known shape here, not {format_shape(shape)}")
    return tuple(d for d in dims if d is not None)


def format_shape(shape: Sequence[ExprLike]) -> str:
    """A shape for messages: ``[1, 3, n]``."""
    return "[" + ", ".join(map(repr, shape)) + "]"


def is_one(dim: Expr) -> bool:
    """Whether a dimension is known to be 1."""
    return const_int(dim) == 1


def axis_of(ctx: OpContext, axis: int, rank: int) -> int:
    """``axis`` counted from the front. Fails when it is outside ``-rank .. rank-1``."""
    if not -rank <= axis < rank:
        ctx.fail(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank if rank else 0


def axes_of(ctx: OpContext, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, sorted. Fails on doubles."""
    found = sorted(axis_of(ctx, a, rank) for a in axes)
    if len(set(found)) != len(found):
        ctx.fail(f"axes {tuple(axes)} name a dimension twice")
    return tuple(found)


def broadcast_dim(ctx: OpContext, a: Expr, b: Expr) -> Expr:
    """The common size of two dimensions under NumPy's rule.

    An open dimension against a fixed one other than 1 takes the fixed one. Two different open ones that have
    ranges must be equal (``graph.requirements``); of others nothing is known yet, and they take their
    maximum: a size of 1 on either side is then still right.
    """
    x, y = const_int(a), const_int(b)
    if a is b or y == 1:
        return a
    if x == 1:
        return b
    if x is not None and y is not None:
        ctx.fail(f"dimensions {x} and {y} cannot be broadcast together")
    if x is not None:
        return a
    if y is not None or _is_maximum_with(b, a):
        return b
    if typical_size(a) is not None and typical_size(b) is not None:
        return min(a, b, key=lambda e: sum(1 for _ in walk_expr(e)))
    return a if _is_maximum_with(a, b) else maximum(a, b)


def _is_maximum_with(whole: Expr, part: Expr) -> bool:
    """Whether ``whole`` is ``max(..., part, ...)``, as broadcasting with ``part`` before made it."""
    if not isinstance(whole, BinOp) or whole.op != "max":
        return False
    return part in (whole.a, whole.b) or _is_maximum_with(whole.a, part) or _is_maximum_with(whole.b, part)


def broadcast_shapes(ctx: OpContext, *shapes: Sequence[Expr]) -> Shape:
    """The shape that all ``shapes`` broadcast to. Fails naming the shapes when there is none."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Expr] = [as_expr(1)] * rank
    for shape in shapes:
        for offset, dim in enumerate(reversed(shape), 1):
            known, new = const_int(result[-offset]), const_int(dim)
            if known is not None and new is not None and known != new and 1 not in (known, new):
                listed = " and ".join(format_shape(s) for s in shapes)
                ctx.fail(f"shapes {listed} cannot be broadcast together")
            result[-offset] = broadcast_dim(ctx, result[-offset], dim)
    return tuple(result)


def broadcast_index(
    shape: Sequence[Expr], out_shape: Sequence[Expr], index: Sequence[Expr]
) -> tuple[Expr, ...]:
    """Where element ``index`` of the broadcast result comes from in an operand of ``shape``."""
    offset = len(out_shape) - len(shape)
    return tuple(
        as_expr(0) if is_one(dim) and not is_one(out_shape[offset + n]) else index[offset + n]
        for n, dim in enumerate(shape)
    )


def read_broadcast(tensor: te.Tensor, out_shape: Sequence[Expr], index: Sequence[Expr]) -> Expr:
    """Element ``index`` of ``tensor`` broadcast to ``out_shape``."""
    return tensor[broadcast_index(tensor.shape, out_shape, index)]


def reduced(op: str, extents: Sequence[Expr | int], term: Callable[..., Expr], dtype: str) -> Expr:
    """A reduction as the body of a compute; over nothing it is its neutral element, which no loop would
    store.
    """
    if any(const_int(as_expr(e)) == 0 for e in extents):
        return reduce_identity(op, dtype)
    return te.reduce(op, extents, term)


def is_half(dtype: str) -> bool:
    """16-bit floats: stored so, computed in float32."""
    return dtype in ("float16", "bfloat16")


def is_narrow(dtype: str) -> bool:
    """Floats below float32: those of 16 bits, and those for storage."""
    return is_half(dtype) or (dtype in dt.STORAGE and dt.is_float(dtype))


def widen(value: Expr) -> Expr:
    """A narrow float as float32; anything else as it is."""
    return convert(value, "float32") if is_narrow(value.dtype) else value


def in_float32(fn: Callable[..., Expr], *args: Expr) -> Expr:
    """``fn(*args)`` with narrow floats widened before and the result narrowed after."""
    result = fn(*(widen(a) for a in args))
    narrow = result.dtype == "float32" and is_narrow(args[0].dtype)
    return convert(result, args[0].dtype, saturate=False) if narrow else result


def in_float32_numpy(fn: Callable[..., Any], *args: np.ndarray) -> np.ndarray:
    """The same for arrays; a float result takes the first argument's dtype, warnings of NumPy about Inf and
    NaN are silenced.
    """
    dtype = args[0].dtype
    half = is_narrow(dtype.name)
    with np.errstate(all="ignore"):
        result = np.asarray(fn(*(a.astype(np.float32) if is_narrow(a.dtype.name) else a for a in args)))
    return result.astype(dtype) if half and result.dtype == np.float32 else result


def accumulator_dtype(dtype: str) -> str:
    """The type in which sums of ``dtype`` are kept."""
    return "float32" if is_half(dtype) else dtype


def as_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """``array`` in one of our dtypes."""
    return np.asarray(array).astype(dt.to_numpy(dtype), copy=False)
