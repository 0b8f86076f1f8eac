"""Element types. A dtype is a plain string; this module says what is known of each."""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np

_BITS: Final[dict[str, int]] = {
    "bool": 8,
    "int4": 4, "uint4": 4,
    "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64,
    "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64,
    "float8_e4m3fn": 8, "float8_e5m2": 8,
}  # fmt: skip

DTYPES: Final[frozenset[str]] = frozenset(_BITS)
INDEX: Final = "int64"


def bits(dtype: str) -> int:
    """Storage size of one element in bits (bool is stored as one byte)."""
    return _BITS[dtype]


def nbytes(dtype: str) -> int:
    """Storage size of one element in bytes. Sub-byte types raise ValueError: they are packed, not
    addressable.
    """
    size, rest = divmod(_BITS[dtype], 8)
    if rest:
        raise ValueError(f"{dtype} elements are not byte-addressable")
    return size


def is_float(dtype: str) -> bool:
    """Floating-point types of any width."""
    return dtype.startswith(("float", "bfloat"))


def is_int(dtype: str) -> bool:
    """Signed or unsigned integers; bool is not one."""
    return dtype.startswith(("int", "uint"))


def is_signed(dtype: str) -> bool:
    """Whether negative values exist: floats and signed integers."""
    return is_float(dtype) or dtype.startswith("int")


def to_numpy(dtype: str) -> np.dtype:
    """The NumPy dtype that stores this element type (ml_dtypes for the ones NumPy lacks)."""
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def from_numpy(dtype: np.dtype) -> str:
    """The name of a NumPy dtype. Raises ValueError for types without one (strings, complex, objects)."""
    name = np.dtype(dtype).name
    if name not in _BITS:
        raise ValueError(f"no element type for NumPy dtype {name}")
    return name


def int_range(dtype: str) -> tuple[int, int]:
    """Smallest and largest value of an integer type or bool."""
    if dtype == "bool":
        return 0, 1
    n = _BITS[dtype]
    return (-(1 << (n - 1)), (1 << (n - 1)) - 1) if dtype.startswith("int") else (0, (1 << n) - 1)


def round_float(value: float, dtype: str) -> float:
    """The nearest value of a float type, as a Python float (values beyond its range become infinite or,
    without one, NaN).
    """
    if dtype == "float64":
        return value
    with np.errstate(all="ignore"):
        return float(np.array(value).astype(to_numpy(dtype)))
