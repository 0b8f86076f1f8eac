"""Random numbers. A compiled model is a function: equal inputs give equal results, random ones included.

Element ``n`` of a node's result is made from ``(n, 0)`` and the node's key by Threefry-2x32 with 20 rounds
(Salmon, Moraes, Dror and Shaw 2011, doi:10.1145/2063384.2063405), so it depends neither on the shape around
it nor on threads. The upper 24 bits of both words' exclusive or (53 bits of both for float64) give a uniform
number in [0, 1); normal numbers are those of Box and Muller from both words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, binop, const
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, accumulator_dtype, as_dtype

#: Rotations of eight rounds, and the constant that completes the key.
_ROTATIONS: Final = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY: Final = 0x1BD11BDA
_BLOCKS: Final = 5
DISTRIBUTIONS: Final = ("uniform", "normal")
Xor = Callable[[Any, Any], Any]
Turn = Callable[[Any, int], Any]


def four_rounds(block: int, a: Any, b: Any, key: tuple[Any, Any], xor: Xor, turn: Turn) -> tuple[Any, Any]:
    """Threefry's rounds ``4 * block`` to ``4 * block + 3`` and the key after them; words are uint32.

    ``xor(a, b)`` and ``turn(a, n)``, a rotation by ``n`` bits to the left, are those of the words' kind.
    """
    keys = (*key, xor(xor(*key), _PARITY))
    if block == 0:
        a, b = a + keys[0], b + keys[1]
    for bits in _ROTATIONS[block % 2]:
        a = a + b
        b = xor(turn(b, bits), a)
    return a + keys[(block + 1) % 3], b + keys[(block + 2) % 3] + (block + 1)


def threefry_numpy(key: tuple[int, int], counter: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 with 20 rounds: two random words for each counter of two."""

    def xor(a: Any, b: Any) -> Any:
        return np.bitwise_xor(a, np.uint32(b))

    def turn(a: Any, bits: int) -> Any:
        return (a << np.uint32(bits)) | (a >> np.uint32(32 - bits))

    a, b = (np.asarray(c, np.uint32) for c in counter)
    with np.errstate(over="ignore"):
        for block in range(_BLOCKS):
            a, b = four_rounds(block, a, b, (np.uint32(key[0]), np.uint32(key[1])), xor, turn)
    return a, b


def _xor(a: Expr, b: Expr | int) -> Expr:
    return binop("xor", a, const(b, "uint32") if isinstance(b, int) else b)


def _turn(a: Expr, bits: int) -> Expr:
    left, right = (binop(op, a, const(n, "uint32")) for op, n in (("shl", bits), ("shr", 32 - bits)))
    return binop("or", left, right)


def _dtype(ctx: OpContext) -> str:
    dtype = str(ctx.attr("dtype", "float32"))
    if not dt.is_float(dtype) or dt.bits(dtype) < 16:
        ctx.fail(f"random numbers are floats, not {dtype}")
    return dtype


def _infer(ctx: OpContext) -> list[TensorType]:
    kind = ctx.attr("distribution", DISTRIBUTIONS[0])
    if kind not in DISTRIBUTIONS:
        ctx.fail(f"there is no distribution '{kind}' (there are {', '.join(DISTRIBUTIONS)})")
    return [TensorType.make(ctx.attr("shape"), _dtype(ctx))]


def _key(ctx: OpContext) -> tuple[int, int]:
    first, second = ctx.attr("key")
    return int(first) & 0xFFFFFFFF, int(second) & 0xFFFFFFFF


def _words(ctx: OpContext, kind: TensorType) -> tuple[te.Tensor, te.Tensor]:
    """Two words for each element, by its row-major position; a stage for every four rounds."""
    key = tuple(const(k, "uint32") for k in _key(ctx))

    def position(*i: Expr) -> Expr:
        flat: Expr = as_expr(0)
        for index, dim in zip(i, kind.shape, strict=True):
            flat = flat * dim + index
        return flat.astype("uint32")

    a = te.compute(kind.shape, position, "random_a")
    b = te.compute(kind.shape, lambda *i: const(0, "uint32"), "random_b")
    for block in range(_BLOCKS):
        a, b = _stage(block, a, b, (key[0], key[1]), 0), _stage(block, a, b, (key[0], key[1]), 1)
    return a, b


def _stage(block: int, a: te.Tensor, b: te.Tensor, key: tuple[Expr, Expr], word: int) -> te.Tensor:
    """One of the words after four more rounds."""

    def body(*i: Expr) -> Any:
        return four_rounds(block, a[i], b[i], key, _xor, _turn)[word]

    return te.compute(a.shape, body, f"random_{'ab'[word]}")


def _compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    (kind,) = _infer(ctx)
    wide = accumulator_dtype(kind.dtype)
    low, high = (float(ctx.attr(n, d)) for n, d in (("a", 0.0), ("b", 1.0)))
    a, b = _words(ctx, kind)

    def body(*i: Expr) -> Expr:
        if ctx.attr("distribution", "uniform") == "uniform":
            value = _unit((a[i], b[i]), _xor, wide) * (high - low) + low
        else:
            u, v = (_upper(w[i], 8).astype(wide) * 2.0**-24 for w in (a, b))
            radius = intrinsic("sqrt", intrinsic("log", 1.0 - u) * -2.0)
            value = radius * intrinsic("cos", v * (2 * math.pi)) * high + low
        return value.astype(kind.dtype)

    return [te.compute(kind.shape, body, "random")]


def _unit(words: tuple[Any, Any], xor: Xor, dtype: str) -> Any:
    """A number in [0, 1)."""
    if dtype == "float64":
        first, second = _upper(words[0], 5).astype(dtype), _upper(words[1], 6).astype(dtype)
        return (first * 2.0**26 + second) * 2.0**-53
    return _upper(xor(*words), 8).astype(dtype) * np.dtype(dtype).type(2.0**-24).item()


def _upper(word: Any, gone: int) -> Any:
    """A word without its lowest bits."""
    return binop("shr", word, const(gone, "uint32")) if isinstance(word, Expr) else word >> np.uint32(gone)


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    (kind,) = _infer(ctx)
    shape = tuple(const_int(d) or 0 for d in kind.shape)
    wide = accumulator_dtype(kind.dtype)
    counter = np.arange(math.prod(shape)).reshape(shape)
    low, high = (np.dtype(wide).type(ctx.attr(n, d)) for n, d in (("a", 0.0), ("b", 1.0)))
    words = threefry_numpy(_key(ctx), (counter.astype(np.uint32), np.zeros(shape)))
    if ctx.attr("distribution", "uniform") == "uniform":
        value = _unit(words, np.bitwise_xor, wide) * (high - low) + low
    else:
        u, v = (_upper(w, 8).astype(wide) * np.dtype(wide).type(2.0**-24) for w in words)
        radius = np.sqrt(np.log(1 - u) * -2)
        value = radius * np.cos(v * np.dtype(wide).type(2 * math.pi)) * high + low
    return [as_dtype(value, kind.dtype)]


register(OpDef("random", FusionKind.injective, infer=_infer, compute=_compute, reference=_reference))
