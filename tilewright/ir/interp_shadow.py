"""Memory of a GPU program under execution, with a shadow that knows who touched what since when. Internal to
``ir.interp_threads``.

Each element has a state (undefined, on its way, defined), the thread that wrote it last and the threads
that read it since, with the *epoch* of that access: epochs of a thread block are what lies between its
barriers. Two accesses of one element by different threads, one of them a write, are a race when they fall
into one epoch of one thread block, or into one launch but different thread blocks.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, TypeAlias

import numpy as np

from tilewright.ir.interp_ops import poisoned

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

#: States of an element. Larger ones are defined by a computation from undefined elements, see ``Machine``.
DEFINED: Final = 0
UNWRITTEN: Final = 1
IN_FLIGHT: Final = 2

_MANY: Final = (1 << 32) - 1  # several threads
_NOBODY: Final = -1
_SEVERAL_BLOCKS: Final = -2


@dataclasses.dataclass(frozen=True)
class Lanes:
    """The threads that access memory at once.

    Attributes:
        thread: a number of each that is unique in the launch.
        block: the thread block of each.
        epoch: the epoch of each.
    """

    thread: Ints
    block: Ints
    epoch: Ints


@dataclasses.dataclass(frozen=True)
class Race:
    """Two threads touched an element: the position of the later one among the accessing lanes, the other
    thread (None: several), and how both touched it (``read`` or ``write``).
    """

    lane: int
    other: int | None
    before: str
    now: str
    between_blocks: bool


class Memory:
    """``copies`` copies of a buffer of ``shape``, one after the other.

    Attributes:
        data, state: all elements, flat.
        shadowed: whether accesses are checked for races.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str,
        copies: int = 1,
        *,
        data: np.ndarray[Any, Any] | None = None,
        shadowed: bool = True,
    ) -> None:
        self.shape = shape
        self.size = int(np.prod(shape, dtype=np.int64))
        self.dtype = dtype
        total = self.size * copies
        self.data = poisoned((total,), dtype) if data is None else data.reshape(-1)
        self.state = np.full(total, UNWRITTEN if data is None else DEFINED, np.int32)
        self.shadowed = shadowed
        self.new_launch()

    def new_launch(self) -> None:
        """Forget who touched what: everything before is done."""
        count = self.data.size if self.shadowed else 0
        self._writer = np.full(count, _NOBODY, np.int64)  # epoch << 32 | thread
        self._reader = np.full(count, _NOBODY, np.int64)
        self._writing_block = np.full(count, _NOBODY, np.int32)
        self._reading_block = np.full(count, _NOBODY, np.int32)

    def forget(self, copies: slice) -> None:
        """The content of some copies becomes undefined."""
        where = slice(copies.start * self.size, copies.stop * self.size)
        self.data[where] = poisoned((1,), self.dtype)
        self.state[where] = UNWRITTEN

    def read(self, at: Ints, lanes: Lanes) -> Race | None:
        """Note that ``lanes`` read the elements ``at``, one each."""
        if not self.shadowed:
            return None
        race = self._conflict(at, lanes, self._writer, self._writing_block, "write", "read")
        own = lanes.epoch << 32 | lanes.thread
        old = self._reader[at]
        again = (old >> 32 == lanes.epoch) & (old != _NOBODY) & (old != own)
        fresh = np.where(again, lanes.epoch << 32 | _MANY, own)
        self._reader[at] = fresh
        # Several of the lanes may read one element: the last one has just won.
        shared = self._reader[at] != fresh
        self._reader[at[shared]] = lanes.epoch[shared] << 32 | _MANY
        seen = self._reading_block[at]
        self._reading_block[at] = np.where(
            (seen == _NOBODY) | (seen == lanes.block), lanes.block, _SEVERAL_BLOCKS
        )
        mixed = self._reading_block[at] != lanes.block
        self._reading_block[at[mixed]] = _SEVERAL_BLOCKS
        return race

    def write(self, at: Ints, lanes: Lanes) -> Race | None:
        """Note that ``lanes`` write the elements ``at``, one each."""
        if not self.shadowed:
            return None
        race = self._conflict(at, lanes, self._reader, self._reading_block, "read", "write")
        race = race or self._conflict(at, lanes, self._writer, self._writing_block, "write", "write")
        own = lanes.epoch << 32 | lanes.thread
        self._writer[at] = own
        self._writing_block[at] = lanes.block
        twice = self._writer[at] != own
        if race is None and twice.any():
            lane = int(np.argmax(twice))
            other = int(self._writer[at[lane]] & _MANY)
            between = bool(self._writing_block[at[lane]] != lanes.block[lane])
            race = Race(lane, other, "write", "write", between)
        return race

    def _conflict(
        self, at: Ints, lanes: Lanes, key: Ints, blocks: np.ndarray[Any, Any], before: str, now: str
    ) -> Race | None:
        known = key[at]
        other = known & _MANY
        same_block = (known != _NOBODY) & (known >> 32 == lanes.epoch) & (other != lanes.thread)
        owner = blocks[at]
        foreign = (owner != _NOBODY) & (owner != lanes.block)
        bad = same_block | foreign
        if not bad.any():
            return None
        lane = int(np.argmax(bad))
        thread = int(other[lane])
        return Race(lane, None if thread == _MANY else thread, before, now, bool(foreign[lane]))
