"""What the interpreter's generated code calls: checked memory accesses, conversions, reductions. Internal to
``ir.interp``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from tilewright.errors import VerifyError
from tilewright.ir import dtype as dt

#: The NumPy function of each binary operator. Integers wrap; min and max give NaN if either operand is NaN.
BINARY: Final[dict[str, Callable[..., Any]]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
}


def poisoned(shape: Sequence[int], dtype: str, variant: int = 0) -> np.ndarray:
    """An array of undefined elements, all of one telling value: NaN (variant 0) or 12288 (variant 1) for
    floats.
    """
    if dt.is_float(dtype):
        return np.full(shape, (np.nan, 12288.0)[variant], dt.to_numpy(dtype))
    _, high = dt.int_range(dtype)
    # Patterns like 0x5555 are far from both ends and from what programs compute with.
    pattern = high // 3 if variant == 0 else (high // 3) ^ high
    return np.full(shape, bool(variant) if dtype == "bool" else pattern, dt.to_numpy(dtype))


def cast(value: Any, dtype: str) -> Any:
    """``value`` converted: floats to integers truncate and saturate, NaN becomes 0; integers wrap."""
    array = np.asarray(value)
    source = array.dtype
    target = dt.to_numpy(dtype)
    if not dt.is_int(dtype) or source.kind in "iub":
        return array.astype(target)[()]
    wide = np.trunc(array.astype(np.float64))
    low, high = dt.int_range(dtype)
    inside = np.clip(np.where(np.isnan(wide), 0.0, wide), low, high)
    # The largest 64-bit integers are no doubles: what reaches them is set by hand.
    result = np.where((inside > low) & (inside < high), inside, 0.0).astype(target)
    result = np.where(inside <= low, np.array(low, target), result)
    return np.where(inside >= high, np.array(high, target), result).astype(target)[()]


def divide(op: str, a: Any, b: Any, mask: Any) -> Any:
    """Integer ``floordiv`` or ``mod``. Raises ZeroDivisionError for a zero divisor where ``mask`` (None:
    anywhere) holds.
    """
    zero = np.equal(b, 0)
    if np.any(zero if mask is None else zero & mask):
        raise ZeroDivisionError
    if zero is np.True_:
        return b  # in no lane that counts
    return BINARY[op](a, np.where(zero, 1, b).astype(b.dtype) if isinstance(b, np.ndarray) else b)


def _fail(name: str, axis: int, index: int, extent: int) -> VerifyError:
    return VerifyError(
        f"access to '{name}' out of bounds: index {index} in dimension {axis}, whose extent is {extent}"
    )


def checked(indices: tuple[Any, ...], shape: tuple[int, ...], name: str) -> tuple[Any, ...]:
    """``indices`` (integers or arrays of them), all within ``shape``. Raises VerifyError otherwise."""
    for axis, (index, extent) in enumerate(zip(indices, shape, strict=True)):
        if isinstance(index, np.ndarray):
            if index.size:
                low, high = int(index.min()), int(index.max())
                if low < 0 or high >= extent:
                    raise _fail(name, axis, low if low < 0 else high, extent)
        elif not 0 <= index < extent:
            raise _fail(name, axis, int(index), extent)
    return indices


def masked(indices: tuple[Any, ...], mask: Any, shape: tuple[int, ...], name: str) -> tuple[Any, ...]:
    """``indices`` where ``mask`` holds, checked; 0 elsewhere."""
    if 0 in shape:
        if np.any(mask):
            raise _fail(name, shape.index(0), 0, 0)
        raise VerifyError(f"masked access to '{name}', which has no elements")
    return checked(tuple(np.where(mask, index, 0) for index in indices), shape, name)


def gather(array: np.ndarray, indices: tuple[Any, ...], mask: Any, name: str) -> Any:
    """The elements at ``indices`` where ``mask`` holds, anything elsewhere. One element if no index is an
    array: a value that is the same for all lanes stays a scalar.
    """
    if not any(isinstance(index, np.ndarray) for index in indices) or array.size == 0:
        return array[checked(indices, array.shape, name)] if np.any(mask) else array.dtype.type(0)
    return array[masked(indices, mask, array.shape, name)]


def scatter(array: np.ndarray, indices: tuple[Any, ...], mask: Any, value: Any, name: str) -> None:
    """Store ``value`` at ``indices`` where ``mask`` holds."""
    if not indices:
        if np.any(mask):
            array[()] = value
        return
    *where, keep, values = np.broadcast_arrays(*indices, mask, value)
    picked = checked(tuple(index[keep] for index in where), array.shape, name)
    array[picked] = values[keep]


def accumulate(
    op: str,
    array: np.ndarray,
    indices: tuple[Any, ...],
    value: Any,
    mask: Any,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    name: str,
) -> None:
    """``array[indices] = op(array[indices], value)`` over a grid of ``shape``, one element after the other
    along ``axes``.

    ``indices`` do not depend on ``axes``. Where ``mask`` (None: everywhere) does not hold nothing happens.
    """
    terms = np.broadcast_to(value, shape)
    if mask is not None:
        terms = np.where(np.broadcast_to(mask, shape), terms, _neutral(op, array.dtype))
    kept = [a for a in range(len(shape)) if a not in axes]
    terms = terms.transpose(*kept, *axes).reshape(*(shape[a] for a in kept), -1)
    places = tuple(
        np.broadcast_to(i, tuple(1 if a in axes else shape[a] for a in range(len(shape)))).reshape(
            [shape[a] for a in kept]
        )
        for i in indices
    )
    if mask is not None:
        # Elements that no instance of the grid reaches may lie outside of the array.
        reached = np.broadcast_to(mask, shape).transpose(*kept, *axes).reshape(terms.shape).any(axis=-1)
        if not kept:
            if not reached:
                return
        else:
            terms, places = terms[reached], tuple(p[reached] for p in places)
        places = checked(places, array.shape, name)
    start = np.broadcast_to(array[places], terms.shape[:-1])
    both = np.concatenate([start[..., None], terms.astype(array.dtype, copy=False)], axis=-1)
    array[places] = BINARY[op].accumulate(both, axis=-1, dtype=array.dtype)[..., -1]  # type: ignore[attr-defined]


def _neutral(op: str, dtype: np.dtype[Any]) -> Any:
    name = dt.from_numpy(dtype)
    if op == "add":
        return np.array(-0.0 if dt.is_float(name) else 0, dtype)
    if op == "mul":
        return np.array(1, dtype)
    if dt.is_float(name):
        return np.array(np.inf if op == "min" else -np.inf, dtype)
    low, high = dt.int_range(name)
    return np.array(high if op == "min" else low, dtype)
