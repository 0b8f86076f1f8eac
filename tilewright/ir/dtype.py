"""Element types. A dtype is a plain string; this module says what is known of each.

Types of fewer than 8 bits take a byte an element wherever they are addressed (the element in the low bits,
the others 0 when written and ignored when read), as NumPy has them; :func:`packed_count` is the size of the
form in which files and weights hold them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Final

import ml_dtypes
import numpy as np

_BITS: Final[dict[str, int]] = {
    "bool": 8,
    "int2": 2, "uint2": 2, "int4": 4, "uint4": 4,
    "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64,
    "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64,
    "float8_e4m3fn": 8, "float8_e4m3fnuz": 8, "float8_e5m2": 8, "float8_e5m2fnuz": 8, "float8_e8m0fnu": 8,
    "float6_e2m3fn": 6, "float6_e3m2fn": 6, "float4_e2m1fn": 4,
}  # fmt: skip

DTYPES: Final[frozenset[str]] = frozenset(_BITS)
INDEX: Final = "int64"
#: Types that tensors are stored in and nothing is computed in: ``ir.convert`` turns them into others.
STORAGE: Final[frozenset[str]] = frozenset(d for d, n in _BITS.items() if n < 8 or d.startswith("float8"))
_FLOATS: Final[frozenset[str]] = frozenset(d for d in _BITS if d.startswith(("float", "bfloat")))
_INTS: Final[frozenset[str]] = frozenset(d for d in _BITS if d.startswith(("int", "uint")))


@dataclasses.dataclass(frozen=True)
class FloatFormat:
    """A float type of at most 8 bits: a sign, ``exponent`` bits with ``bias``, ``mantissa`` bits.

    Attributes:
        largest: the code of the largest finite value.
        overflow: the code for what is larger when conversions do not saturate: infinity or NaN; None for
            types with neither, which always saturate.
        nan: the code of NaN, with the sign where the type is ``unsigned_zero``; None without NaN.
        unsigned_zero: the code of minus zero is NaN instead.
    """

    exponent: int
    mantissa: int
    bias: int
    largest: int
    overflow: int | None
    nan: int | None
    unsigned_zero: bool = False

    @property
    def magnitude_bits(self) -> int:
        """All bits but the sign."""
        return self.exponent + self.mantissa


#: Sources: IEEE-like variants of "FP8 Formats for Deep Learning" (Micikevicius et al., 2022), the fnuz ones
#: of "8-bit Numerical Formats for Deep Neural Networks" (Noune et al., 2022), OCP Microscaling 1.0.
FORMATS: Final[dict[str, FloatFormat]] = {
    "float8_e4m3fn": FloatFormat(4, 3, 7, 0x7E, 0x7F, 0x7F),
    "float8_e4m3fnuz": FloatFormat(4, 3, 8, 0x7F, 0x80, 0x80, True),
    "float8_e5m2": FloatFormat(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "float8_e5m2fnuz": FloatFormat(5, 2, 16, 0x7F, 0x80, 0x80, True),
    "float6_e2m3fn": FloatFormat(2, 3, 1, 0x1F, None, None),
    "float6_e3m2fn": FloatFormat(3, 2, 3, 0x1F, None, None),
    "float4_e2m1fn": FloatFormat(2, 1, 1, 0x7, None, None),
}


def bits(dtype: str) -> int:
    """Bits that tell the values of a type apart (bool counts as one byte)."""
    return _BITS[dtype]


def nbytes(dtype: str) -> int:
    """Size in bytes of one element in memory."""
    return -(-_BITS[dtype] // 8)


def is_packed(dtype: str) -> bool:
    """Whether files and weights hold several elements in a byte."""
    return _BITS[dtype] < 8


def packed_count(dtype: str, count: int) -> int:
    """Bytes of ``count`` elements without gaps between them."""
    return -(-count * _BITS[dtype] // 8)


def pack(array: np.ndarray) -> np.ndarray:
    """The elements of an array of a type under 8 bits without gaps, as flat uint8: the first element in the
    lowest bits of the first byte, as ONNX has them.
    """
    width = _BITS[from_numpy(array.dtype)]
    codes = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return np.packbits(
        np.unpackbits(codes[:, None], axis=1, count=width, bitorder="little"), bitorder="little"
    )


def unpack(data: np.ndarray, dtype: str, count: int) -> np.ndarray:
    """The first ``count`` elements of what :func:`pack` gives, as a flat array of ``dtype``."""
    width = _BITS[dtype]
    flags = np.unpackbits(data, count=count * width, bitorder="little").reshape(count, width)
    return np.packbits(flags, axis=1, bitorder="little").reshape(-1).view(to_numpy(dtype))


def is_float(dtype: str) -> bool:
    """Floating-point types of any width."""
    return dtype in _FLOATS


def is_int(dtype: str) -> bool:
    """Signed or unsigned integers; bool is not one."""
    return dtype in _INTS


def is_signed(dtype: str) -> bool:
    """Whether negative values exist: floats and signed integers."""
    return is_float(dtype) or dtype.startswith("int")


@functools.cache
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
    without one, NaN; where a type has neither, its largest).
    """
    if dtype == "float64":
        return value
    with np.errstate(all="ignore"):
        return float(np.array(value).astype(to_numpy(dtype)))
