"""Page-aligned anonymous memory, and arrays on aligned addresses."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections import deque
from typing import Any

import numpy as np

from tilewright.errors import OutOfMemoryError
from tilewright.runtime.plan import ALIGNMENT

_addressof = ctypes.addressof
_from_buffer: Any = ctypes.c_char.from_buffer

HUGE_PAGE = 2 << 20
"""Memory of at least this many bytes asks for huge pages: far fewer misses of the address translation
caches.
"""

_LARGE = 256 << 10
_KEPT_BLOCKS = 2


def allocate(nbytes: int, *, reserve: bool = False) -> mmap.mmap:
    """Zeroed memory of at least one byte that starts on a page; freed with its last reference.

    Args:
        nbytes: its size.
        reserve: whether most of it may never be used, so that the system should not account for it yet.

    Raises:
        OutOfMemoryError: the system does not have that much.
    """
    size = max(nbytes, 1)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if reserve:
        flags |= getattr(mmap, "MAP_NORESERVE", 0)
    try:
        memory = mmap.mmap(-1, size, flags=flags)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "more than the address space"
        raise OutOfMemoryError(
            f"{size / 2**30:.1f} GiB cannot be allocated ({reason})",
            hint="give smaller shapes, or fewer threads",
        ) from error
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


class OutputMemory:
    """Where one output of a variant gets its memory: new for each run, on a multiple of :data:`ALIGNMENT`
    bytes.

    Large outputs get blocks that are used again once no array refers to them any more: fresh memory would
    cost a page fault for every 4 KiB, which takes longer than writing them.

    Args:
        shape, dtype: of the output.
        reserve: whether most of it may never be used.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, *, reserve: bool = False) -> None:
        self.shape, self.dtype = shape, dtype
        self._reserve = reserve
        self._nbytes = math.prod(shape) * dtype.itemsize
        self._free: deque[tuple[mmap.mmap, int]] = deque(maxlen=_KEPT_BLOCKS)

    def new(self) -> tuple[np.ndarray, int]:
        """An uninitialized C-contiguous array, and its address."""
        if self._nbytes >= _LARGE:
            try:
                memory, address = self._free.pop()
            except IndexError:
                memory = allocate(self._nbytes, reserve=self._reserve)
                address = address_of(memory)
            block = np.asarray(_Block(memory, address, self._nbytes, self._free))
            return block.view(self.dtype).reshape(self.shape), address
        small = np.empty(self._nbytes + ALIGNMENT, np.uint8)
        address = _addressof(_from_buffer(small))
        start = -address % ALIGNMENT
        return np.ndarray(self.shape, self.dtype, small, start), address + start


class _Block:
    """The owner of a block of output memory, which all arrays on it keep alive; at its end the block is
    free again.
    """

    def __init__(
        self, memory: mmap.mmap, address: int, nbytes: int, free: deque[tuple[mmap.mmap, int]]
    ) -> None:
        self._memory, self._address, self._free = memory, address, free
        self.__array_interface__ = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
        }

    def __del__(self) -> None:
        self._free.append((self._memory, self._address))
