"""Page-aligned anonymous memory, and arrays on aligned addresses."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any

import numpy as np

from tilewright.runtime.plan import ALIGNMENT

_addressof = ctypes.addressof
_from_buffer: Any = ctypes.c_char.from_buffer

HUGE_PAGE = 2 << 20
"""Memory of at least this many bytes asks for huge pages: far fewer misses of the address translation
caches.
"""


def allocate(nbytes: int) -> mmap.mmap:
    """Zeroed memory of at least ``nbytes`` (and at least one) bytes that starts on a page; freed with its
    last reference.
    """
    size = max(nbytes, 1)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def address_of(buffer: mmap.mmap | memoryview | bytes) -> int:
    """The address of the first byte of ``buffer``, which may be read-only."""
    view = np.frombuffer(buffer, np.uint8)
    return int(view.__array_interface__["data"][0])


def data_address(array: np.ndarray) -> int:
    """The address of the first element. Five times faster than ``array.ctypes.data`` if it is writable."""
    try:
        return _addressof(_from_buffer(array))
    except (
        TypeError,
        ValueError,
        BufferError,
    ):  # read-only, empty, or a dtype without a buffer format (bfloat16)
        return int(array.__array_interface__["data"][0])


def empty_aligned(shape: tuple[int, ...], nbytes: int, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """An uninitialized C-contiguous array on a multiple of :data:`ALIGNMENT` bytes, and its address.

    Args:
        shape: its shape.
        nbytes: bytes of its elements together.
        dtype: its dtype.
    """
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    address = _addressof(_from_buffer(memory))
    start = -address % ALIGNMENT
    return np.ndarray(shape, dtype, memory, start), address + start
