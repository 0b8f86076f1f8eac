"""LLVM's spelling of element types, vector types and literals."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

import numpy as np

from tilewright.errors import CompileError
from tilewright.ir import dtype as dt

# A bfloat16 is its bits: all arithmetic on it is done in float32, and LLVM's bfloat needs library functions
# even to be moved where the processor does not know the type. Types for storage are their bits, too.
_TYPES = {
    "bool": "i1",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "i8", "uint16": "i16", "uint32": "i32", "uint64": "i64",
    "float16": "half", "bfloat16": "i16", "float32": "float", "float64": "double",
    **dict.fromkeys(dt.STORAGE, "i8"),
}  # fmt: skip
_AS_FLOATS = ("float16", "float32", "float64")


@functools.cache
def scalar_type(dtype: str) -> str:
    """The type of one value in a register (``i1`` for bool). Raises CompileError for types without one."""
    try:
        return _TYPES[dtype]
    except KeyError:
        raise CompileError(f"the LLVM backend has no values of type {dtype}") from None


@functools.cache
def value_type(dtype: str, lanes: int) -> str:
    """The type of a value: a scalar for ``lanes == 0``, else a vector."""
    scalar = scalar_type(dtype)
    return f"<{lanes} x {scalar}>" if lanes else scalar


@functools.cache
def memory_type(dtype: str, lanes: int = 0) -> str:
    """The type of a value in memory: bool takes a byte."""
    return value_type("uint8" if dtype == "bool" else dtype, lanes)


@functools.cache
def suffix(dtype: str, lanes: int) -> str:
    """How a type is spelled in the name of an overloaded intrinsic (``v16f32``)."""
    bits = 1 if dtype == "bool" else 8 * dt.nbytes(dtype)
    scalar = f"{'f' if dtype in _AS_FLOATS else 'i'}{bits}"
    return f"v{lanes}{scalar}" if lanes else scalar


@functools.cache
def memory_suffix(dtype: str, lanes: int) -> str:
    """Like :func:`suffix` for the type in memory."""
    return suffix("uint8" if dtype == "bool" else dtype, lanes)


def literal(value: float, dtype: str) -> str:
    """A scalar constant of ``dtype``."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in dt.STORAGE:
        with np.errstate(all="ignore"):
            return str(np.array(value).astype(dt.to_numpy(dtype)).view(np.uint8))
    if not dt.is_float(dtype):
        return str(int(value))
    if dtype == "float64":
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    with np.errstate(over="ignore"):
        rounded = np.asarray(value, dtype=np.float64).astype(dt.to_numpy(dtype))
    if dtype == "float32":
        # LLVM writes a float as the double of the same value.
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(rounded)))[0]:016X}"
    bits = int(rounded.view(np.uint16))
    return f"0xH{bits:04X}" if dtype == "float16" else str(bits)


def splat(text: str, dtype: str, lanes: int) -> str:
    """The literal of a vector whose lanes are all the constant ``text``; the constant itself for ``lanes ==
    0``.
    """
    return f"splat ({scalar_type(dtype)} {text})" if lanes else text


def vector_literal(values: Sequence[int], scalar: str) -> str:
    """A vector constant of integers, each of the type ``scalar``."""
    return "<" + ", ".join(f"{scalar} {v}" for v in values) + ">"


@functools.cache
def iota(lanes: int, scalar: str = "i32") -> str:
    """``<0, 1, .. lanes-1>``."""
    return vector_literal(range(lanes), scalar)


@functools.cache
def shuffle_mask(indices: tuple[int, ...]) -> str:
    """The mask operand of a shufflevector, with its type; -1 is a lane nobody reads."""
    body = ", ".join("i32 poison" if i < 0 else f"i32 {i}" for i in indices)
    return f"<{len(indices)} x i32> <{body}>"
