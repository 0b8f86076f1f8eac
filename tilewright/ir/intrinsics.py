"""The intrinsics: what ``Call`` may name, with types, NumPy meaning and cost.

A pure intrinsic maps operands elementwise to a result; its NumPy function is its definition, evaluated in
double precision (float64) or single precision and rounded once to the result's dtype. An effect intrinsic is
only good for ``Evaluate``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tilewright.errors import IntrinsicError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Call, Cmp, Expr, ExprLike, Select, as_expr, call
from tilewright.ir.visit import walk_expr


@dataclasses.dataclass(frozen=True, slots=True)
class Intrinsic:
    """One intrinsic.

    Attributes:
        name: as in ``Call.name``.
        arity: number of operands, all of one dtype.
        domain: ``float``, ``int`` or ``number`` (both): which operands it takes; or a number of bits, for all
            types of that size in memory.
        result: dtype of the result, or ``same`` for the operands'.
        numpy: the elementwise definition. Of an effect: what the interpreter runs, with a dictionary that
            lives as long as one run of a program, and the operands; None for what arrays would not show.
        flops: cost in floating-point operations, as a vectorised polynomial implementation needs (for cost
            models).
        effect: whether it is run for its effect instead of a value.
    """

    name: str
    arity: int
    domain: str
    result: str
    numpy: Callable[..., Any] | None
    flops: int
    effect: bool = False

    def result_dtype(self, operand: str) -> str:
        """The result's dtype for operands of dtype ``operand``."""
        return operand if self.result == "same" else self.result

    def accepts(self, operand: str) -> bool:
        """Whether operands may have dtype ``operand``."""
        if self.domain == "float":
            return dt.is_float(operand)
        if self.domain == "int":
            return dt.is_int(operand)
        if self.domain != "number":
            return 8 * dt.nbytes(operand) == int(self.domain)
        return dt.is_float(operand) or dt.is_int(operand)


def _elementwise(fn: Callable[[float], float]) -> Callable[..., Any]:
    """A scalar double function over arrays, NaN where it raises a domain error."""

    def guarded(x: float) -> float:
        try:
            return fn(x)
        except (ValueError, OverflowError):
            return math.nan

    universal = np.frompyfunc(guarded, 1, 1)

    def apply(x: Any) -> Any:
        wide = np.asarray(x, dtype=np.float64)
        return np.asarray(universal(wide), dtype=np.float64).astype(np.asarray(x).dtype)

    return apply


def _sigmoid(x: Any) -> Any:
    wide = np.asarray(x, dtype=np.float64)
    return (1.0 / (1.0 + np.exp(-wide))).astype(np.asarray(x).dtype)


def _rsqrt(x: Any) -> Any:
    return np.asarray(1.0 / np.sqrt(np.asarray(x, dtype=np.float64))).astype(np.asarray(x).dtype)


def _fma(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``; the product of float32 and narrower operands is exact in double."""
    wide = np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)
    return np.asarray(wide).astype(np.asarray(a).dtype)


def _popcount(x: Any) -> Any:
    array = np.asarray(x)
    raw = np.ascontiguousarray(array).view(np.uint8).reshape(*array.shape, array.dtype.itemsize)
    return np.unpackbits(raw, axis=-1).sum(axis=-1).astype(array.dtype)


def _wide(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` computed in float32 for the narrower floats, which NumPy may lack, and as it is for the rest."""

    def apply(*operands: Any) -> Any:
        dtype = np.asarray(operands[0]).dtype
        if dtype in (np.float32, np.float64):
            return fn(*operands)
        return np.asarray(fn(*(np.asarray(x, dtype=np.float32) for x in operands))).astype(dtype)

    return apply


def _tf32(x: Any) -> Any:
    bits = np.atleast_1d(np.asarray(x, np.float32)).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).reshape(np.shape(x))
    return np.where(np.isnan(x), x, rounded)[()].astype(np.asarray(x).dtype)


def _predicate(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: fn(np.asarray(x, dtype=np.float64))


def _bitcast(to: str) -> Intrinsic:
    """The bits of any type of the same size in memory as ``to``."""
    target = dt.to_numpy(to)

    def reinterpret(x: Any) -> Any:
        result = np.asarray(x)[..., None].view(target)[..., 0]
        return result if np.ndim(x) else result[()]

    return Intrinsic(f"{_BITCAST}{to}", 1, str(8 * dt.nbytes(to)), to, reinterpret, 0)


def _float(name: str, fn: Callable[..., Any], flops: int, arity: int = 1) -> Intrinsic:
    return Intrinsic(name, arity, "float", "same", fn, flops)


_BITCAST: Final = "bitcast_"

_ALL: Final = (
    _float("exp", _wide(np.exp), 12),
    _float("exp2", _wide(np.exp2), 11),
    _float("log", _wide(np.log), 14),
    _float("log2", _wide(np.log2), 14),
    _float("sqrt", _wide(np.sqrt), 6),
    _float("rsqrt", _rsqrt, 8),
    _float("tanh", _wide(np.tanh), 16),
    _float("erf", _elementwise(math.erf), 18),
    _float("sigmoid", _sigmoid, 16),
    _float("floor", _wide(np.floor), 1),
    _float("ceil", _wide(np.ceil), 1),
    _float("round", _wide(np.rint), 1),
    _float("trunc", _wide(np.trunc), 1),
    _float("pow", _wide(np.power), 30, arity=2),
    _float("fmod", _wide(np.fmod), 8, arity=2),
    _float("sin", _wide(np.sin), 16),
    _float("cos", _wide(np.cos), 16),
    _float("tan", _wide(np.tan), 22),
    _float("asin", _wide(np.arcsin), 18),
    _float("acos", _wide(np.arccos), 18),
    _float("atan", _wide(np.arctan), 18),
    _float("sinh", _wide(np.sinh), 16),
    _float("cosh", _wide(np.cosh), 16),
    _float("asinh", _wide(np.arcsinh), 22),
    _float("acosh", _wide(np.arccosh), 22),
    _float("atanh", _wide(np.arctanh), 20),
    _float("fma", _fma, 2, arity=3),
    _float("tf32", _tf32, 1),
    Intrinsic("abs", 1, "number", "same", np.abs, 1),
    Intrinsic("neg", 1, "number", "same", np.negative, 1),
    Intrinsic("sign", 1, "number", "same", np.sign, 2),
    Intrinsic("isnan", 1, "float", "bool", _predicate(np.isnan), 1),
    Intrinsic("isinf", 1, "float", "bool", _predicate(np.isinf), 1),
    Intrinsic("popcount", 1, "int", "same", _popcount, 1),
    *(_bitcast(to) for to in sorted(dt.DTYPES - {"bool"})),
    Intrinsic("fence", 0, "number", "bool", None, 0, effect=True),
    Intrinsic("barrier", 0, "number", "bool", None, 0, effect=True),
    Intrinsic("async_commit", 0, "number", "bool", None, 0, effect=True),
    Intrinsic("async_wait", 1, "int", "bool", None, 0, effect=True),
)

#: Every intrinsic by name. ``round`` rounds halves to even; ``fmod`` has the dividend's sign; ``tf32`` keeps
#: ten bits behind the point (halves away from zero); ``bitcast_T`` has the operand's bits and the type T;
#: ``fence`` keeps memory accesses on its two sides from being moved across it. ``barrier`` lets no thread of
#: a thread block go on before all of them have come to it, and makes what they wrote visible to each other.
#: ``async_commit`` closes the group of asynchronous copies (stores under ``Annotate("async_copy", True)``)
#: that a thread has issued since the last one; ``async_wait(n)`` waits until at most ``n`` closed groups of
#: the thread are pending.
INTRINSICS: Final[dict[str, Intrinsic]] = {i.name: i for i in _ALL}


def register_effect(
    name: str, arity: int, run: Callable[..., None] | None = None
) -> Callable[..., Expr]:
    """Make an effect of some hardware known: an instruction without tensors that takes ``arity`` integers,
    such as waiting for another unit. Returns the function that makes calls of it.

    ``run(state, *operands)`` is what the interpreter does; ``state`` is a dictionary that lives as long as
    one run of a program. Raises IntrinsicError when the name is taken.
    """
    known = INTRINSICS.get(name)
    fresh = Intrinsic(name, arity, "int", "bool", run, 0, effect=True)
    if known is not None and known != fresh:
        raise IntrinsicError(f"another intrinsic is called '{name}' already", hint="choose a new name")
    INTRINSICS[name] = fresh
    return functools.partial(effect, name)


def intrinsic(name: str, *operands: ExprLike) -> Expr:
    """A checked call of a pure intrinsic.

    Raises KeyError for an unknown name and TypeError for a wrong number or dtype of operands.
    """
    spec = INTRINSICS[name]
    exprs = [as_expr(x) for x in operands]
    if spec.effect or len(exprs) != spec.arity:
        raise TypeError(f"{name} takes {spec.arity} operands and is {'an effect' if spec.effect else 'pure'}")
    dtypes = {e.dtype for e in exprs}
    if len(dtypes) != 1 or not spec.accepts(exprs[0].dtype):
        raise TypeError(f"{name} takes {spec.domain} operands of one dtype, not {', '.join(sorted(dtypes))}")
    return call(name, exprs, spec.result_dtype(exprs[0].dtype))


def bitcast(to: str, value: ExprLike) -> Expr:
    """The bits of ``value`` as a ``to``, a type of the same size in memory.

    Raises TypeError for types of other sizes, and for bool.
    """
    value = as_expr(value)
    return value if value.dtype == to else intrinsic(f"{_BITCAST}{to}", value)


def bitcast_target(name: str) -> str | None:
    """The type that the intrinsic ``name`` reinterprets bits as; None for others."""
    return name.removeprefix(_BITCAST) if name.startswith(_BITCAST) else None


def effect(name: str, *operands: ExprLike) -> Expr:
    """A call of an effect intrinsic, for ``Evaluate``.

    Raises KeyError for an unknown name and TypeError for what is no effect or another number of operands.
    """
    spec = INTRINSICS[name]
    if not spec.effect:
        raise TypeError(f"{name} is not an effect")
    if len(operands) != spec.arity:
        raise TypeError(f"{name} takes {spec.arity} operands, not {len(operands)}")
    return call(name, operands, "bool")


def flops_of(e: Expr) -> int:
    """Floating-point operations to evaluate ``e`` once, each distinct node once; integer arithmetic and loads
    are free.
    """
    total = 0
    for node in walk_expr(e):
        if isinstance(node, Call):
            total += INTRINSICS[node.name].flops
        elif isinstance(node, BinOp | Select | Cmp):
            total += dt.is_float(node.a.dtype)
    return total
