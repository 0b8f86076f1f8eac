"""Execution of GPU programs: all threads of some thread blocks in lockstep, one NumPy lane a thread.
Internal to ``ir.interp``.

Lockstep is one of the orders in which threads may run. What makes it an oracle is that every access is
checked against what other threads do between the same two barriers: a program without races computes the
same in any order. Thread blocks run in a random order, several at once.

Before lowering, a launch is a tree with loops over thread axes at several places. Threads then meet wherever
lowering can place a barrier: between the statements of a sequence, and after each iteration of a loop around
such places. Where all statements are under the same loops over thread axes, as after lowering, they only meet
at a ``barrier``.

Elements that are defined by a computation from undefined ones carry that along: reading unwritten memory is
an error where it decides a condition or an address, or reaches an output, and harmless elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import numpy as np

from tilewright.errors import VerifyError
from tilewright.ir.expr import Call, Expr, Load, Var, conjuncts
from tilewright.ir.interp_lanes import Lockstep
from tilewright.ir.interp_shadow import DEFINED, IN_FLIGHT, UNWRITTEN, Lanes, Memory, Race
from tilewright.ir.launch import BLOCK_AXES, THREAD_AXES, is_thread_axis, thread_axis
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Block,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Seq,
    Stmt,
    Store,
    TensorCall,
)
from tilewright.ir.tensor_intrinsics import expand
from tilewright.ir.verify import excerpt
from tilewright.ir.visit import const_int, loads_of, stores_of, walk_stmt

#: Threads that run at once, and elements of shared and register memory that they may have, at most (one
#: thread block runs in any case).
MAX_LANES: Final = 8192
MAX_ELEMENTS: Final = 1 << 25


class Launch:
    """One part of a function that runs on a grid of thread blocks.

    Attributes:
        grid, block: extents of the three block axes and of the three thread axes, ``x`` first.
        meeting: sequences and loops of ``part`` after whose parts all threads of a block meet.
    """

    def __init__(self, part: Stmt) -> None:
        self.part = part
        extents = dict.fromkeys(BLOCK_AXES + THREAD_AXES, 1)
        for loop in walk_stmt(part):
            if isinstance(loop, For) and (axis := thread_axis(loop)) is not None:
                size = const_int(simplify(loop.extent))
                if size is None or axis not in extents:
                    raise VerifyError(
                        f"loop '{loop.var.name}' over {axis} cannot be launched: {loop.extent!r}"
                    )
                extents[axis] = max(extents[axis], size)
        self.grid = tuple(extents[a] for a in BLOCK_AXES)
        self.block = tuple(extents[a] for a in THREAD_AXES)
        self.meeting: set[Stmt] = set()
        if not _is_one_nest(part):
            _find_meeting(part, self.meeting)


def _is_one_nest(part: Stmt) -> bool:
    """Whether all loops over thread axes are at the top, one inside the other."""
    while isinstance(part, Alloc | Annotate) or (isinstance(part, For) and thread_axis(part) is not None):
        part = part.body
    return not any(isinstance(s, For) and thread_axis(s) is not None for s in walk_stmt(part))


def _find_meeting(stmt: Stmt, found: set[Stmt]) -> bool:
    """Collect where threads meet in ``stmt``; whether they do at all, or there is a loop over a thread
    axis.
    """
    if isinstance(stmt, Seq):
        found.add(stmt)
        for child in stmt.stmts:
            _find_meeting(child, found)
        return True
    if isinstance(stmt, If):
        arms = [stmt.then] if stmt.orelse is None else [stmt.then, stmt.orelse]
        inside = [_find_meeting(arm, found) for arm in arms]
        return any(inside)
    if isinstance(stmt, For | Alloc | Annotate):
        below = _find_meeting(stmt.body, found)
        if below and isinstance(stmt, For) and thread_axis(stmt) is None:
            found.add(stmt)
        return below or (isinstance(stmt, For) and is_thread_axis(stmt))
    return False


class Machine(Lockstep):
    """Runs launches of ``func`` over ``memories``, the buffers in global memory."""

    def __init__(self, func: PrimFunc, memories: Mapping[Buffer, Memory], outputs: Sequence[Buffer]) -> None:
        super().__init__()
        self._func = func
        self._global = memories
        self._outputs = set(outputs)
        self._origins: dict[tuple[Stmt | None, Buffer], int] = {}
        self._origin_texts: list[str] = []
        self._epochs = itertools.count(1)

    # -- launches --------------------------------------------------------------------------------------------

    def run(self, launch: Launch, rng: np.random.Generator) -> None:
        """Run all thread blocks of ``launch``, in an order that ``rng`` gives."""
        written = {s.buffer for s in stores_of(launch.part)}
        for buffer, memory in self._global.items():
            memory.shadowed = buffer in written
            memory.new_launch()
        self._launch = launch
        threads = int(np.prod(launch.block))
        blocks = rng.permutation(int(np.prod(launch.grid)))
        if not blocks.size or not threads:
            return
        own = {s.buffer for s in stores_of(launch.part) if s.buffer not in self._global}
        needed = sum(
            int(np.prod([const_int(simplify(d)) or 0 for d in b.shape]))
            * (threads if b.scope == "register" else 1)
            for b in own
        )
        batch = max(1, min(MAX_LANES // threads, MAX_ELEMENTS // max(needed, 1)))
        for start in range(0, blocks.size, batch):
            self._batch(launch, blocks[start : start + batch], threads)

    def _batch(self, launch: Launch, blocks: np.ndarray[Any, Any], threads: int) -> None:
        self._threads, self._blocks = threads, len(blocks)
        self.count = threads * len(blocks)
        block = np.repeat(blocks.astype(np.int64), threads)
        thread = np.tile(np.arange(threads, dtype=np.int64), len(blocks))
        slot = np.repeat(np.arange(len(blocks), dtype=np.int64), threads)
        self._slot = slot
        self._lane = np.arange(self.count, dtype=np.int64)
        self._coordinates: dict[str, np.ndarray[Any, Any]] = {}
        for axes, extents, number in ((BLOCK_AXES, launch.grid, block), (THREAD_AXES, launch.block, thread)):
            rest = number
            for axis, extent in zip(axes, extents, strict=True):
                self._coordinates[axis] = rest % extent
                rest = rest // extent
        self._lanes = Lanes(
            block * threads + thread, block, np.full(self.count, next(self._epochs), np.int64)
        )
        self._local: dict[Buffer, Memory] = {}
        self._axes: dict[str, Var] = {}
        self._asynchronous = False
        self._committed = np.zeros(self.count, np.int64)
        self._pending: list[tuple[Memory, np.ndarray[Any, Any], np.ndarray[Any, Any], Any, Any]] = []
        self._at: Stmt | None = None
        self._in_block = False
        self.env = {}
        self._stmt(launch.part, np.ones(self.count, bool))

    def _meet(self, who: np.ndarray[Any, Any] | None = None) -> None:
        """All threads (or those of the blocks in ``who``, by lane) have come to a barrier."""
        epoch = np.full(self.count, next(self._epochs), np.int64)
        if who is not None:
            epoch = np.where(who, epoch, self._lanes.epoch)
        self._lanes = Lanes(self._lanes.thread, self._lanes.block, epoch)

    # -- statements ------------------------------------------------------------------------------------------

    def _stmt(self, s: Stmt, mask: np.ndarray[Any, Any]) -> None:
        if isinstance(s, Seq):
            for child in s.stmts:
                self._stmt(child, mask)
                if s in self._launch.meeting and not self._in_block:
                    self._meet()
        elif isinstance(s, For):
            self._for(s, mask)
        elif isinstance(s, Store):
            self._store(s, mask)
        elif isinstance(s, If):
            self._if(s, mask)
        elif isinstance(s, Block):
            self._block(s, mask)
        elif isinstance(s, Alloc):
            if s.buffer in self._local:
                # Entered again: whatever it held is gone.
                self._local[s.buffer].forget(slice(0, self._copies(s.buffer)))
            self._stmt(s.body, mask)
        elif isinstance(s, Annotate):
            outer = self._asynchronous
            self._asynchronous = outer or (s.key == "async_copy" and bool(s.value))
            self._stmt(s.body, mask)
            self._asynchronous = outer
        elif isinstance(s, TensorCall):
            self._stmt(expand(s), mask)
        else:
            assert isinstance(s, Evaluate)
            self._evaluate(s, mask)

    def _for(self, s: For, mask: np.ndarray[Any, Any]) -> None:
        extent = self._decided(s, s.extent, mask)
        axis = thread_axis(s)
        if axis is not None:
            self.env[s.var] = coordinate = self._coordinates[axis]
            self._axes[axis] = s.var
            inside = mask & (coordinate < extent)
            if inside.any():
                self._stmt(s.body, inside)
            del self._axes[axis]
            return
        steps = int(extent[mask].max()) if isinstance(extent, np.ndarray) else int(extent)
        for i in range(steps):
            self.env[s.var] = i
            inside = mask & (i < extent) if isinstance(extent, np.ndarray) else mask
            self._stmt(s.body, inside)
            if s in self._launch.meeting and not self._in_block:
                self._meet()

    def _if(self, s: If, mask: np.ndarray[Any, Any]) -> None:
        taken = self._where(s, s.cond, mask)
        if taken.any():
            self._stmt(s.then, taken)
        if s.orelse is not None:
            other = mask & ~taken
            if other.any():
                self._stmt(s.orelse, other)

    def _where(self, at: Stmt, cond: Expr, mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The lanes of ``mask`` where ``cond`` holds; parts that read memory are evaluated where the others
        do.
        """
        for part in sorted(conjuncts(cond), key=lambda c: any(True for _ in loads_of(c))):
            if not mask.any():
                break
            mask = mask & self._decided(at, part, mask)
        return mask

    def _decided(self, at: Stmt, e: Expr, mask: np.ndarray[Any, Any]) -> Any:
        """The value of what steers control; it may not depend on undefined memory."""
        self._at = at
        with self.statement(mask):
            value = self.value(e)
            self._require_defined(mask, f"{e!r} decides what runs")
        return value

    def _block(self, s: Block, mask: np.ndarray[Any, Any]) -> None:
        self._at = s
        mask = self._where(s, s.predicate, mask)
        if not mask.any():
            return
        first = mask
        values = {}
        for it in s.iters:
            value = values[it.var] = self._decided(s, it.binding, mask)
            extent = self._decided(s, it.extent, mask)
            if np.any(mask & ((value < 0) | (value >= extent))):
                self._fail(f"iterator '{it.var.name}' of block '{s.name}' leaves its domain")
            if it.kind == "reduce":
                first = first & (value == 0)
        self.env.update(values)
        outer, self._in_block = self._in_block, True
        if s.init is not None and first.any():
            self._stmt(s.init, first)
        self._stmt(s.body, mask)
        self._in_block = outer

    # -- memory ----------------------------------------------------------------------------------------------

    def _copies(self, buffer: Buffer) -> int:
        return {"shared": self._blocks, "register": self.count}.get(buffer.scope, 1)

    def _memory(self, buffer: Buffer) -> Memory:
        memory = self._global.get(buffer) or self._local.get(buffer)
        if memory is None:
            shape = tuple(int(self._constant(d)) for d in buffer.shape)
            memory = self._local[buffer] = Memory(
                shape,
                buffer.dtype,
                self._copies(buffer),
                shadowed=buffer.scope != "register",
            )
        return memory

    def _constant(self, e: Expr) -> int:
        size = const_int(simplify(e))
        if size is None:
            self._fail(f"a buffer has the dimension {e!r}, which has no value")
        return size

    def _place(
        self, buffer: Buffer, memory: Memory, indices: Sequence[Any], mask: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """The flat positions of the elements that the lanes in ``mask`` access (0 for others)."""
        flat: Any = 0
        for dim, (index, size) in enumerate(zip(indices, memory.shape, strict=True)):
            outside = mask & ((index < 0) | (index >= size))
            if outside.any():
                lane = int(np.argmax(outside))
                self._fail(
                    f"access to '{buffer.name}' out of bounds: index {self._pick(index, lane)} in "
                    f"dimension {dim}, "
                    f"whose extent is {size}, by {self._who(lane)}"
                )
            flat = flat * size + index
        if buffer not in self._global and buffer.scope in ("shared", "register"):
            flat = flat + (self._slot if buffer.scope == "shared" else self._lane) * memory.size
        return np.where(mask, flat, 0)

    def load(self, e: Load, mask: np.ndarray[Any, Any]) -> Any:
        """The elements that the lanes in ``mask`` read; anything in others."""
        memory = self._memory(e.buffer)
        if not memory.data.size:
            self._fail(f"{self._who(int(np.argmax(mask)))} reads '{e.buffer.name}', which has no elements")
        before = self.origin
        indices = [self.value(i) for i in e.indices]
        if self.origin is not before:
            self._require_defined(mask, f"it is an index of '{e.buffer.name}'")
        at = self._place(e.buffer, memory, indices, mask)
        state = memory.state[at]
        if state.any() or memory.shadowed:
            lanes = np.flatnonzero(mask)
            race = memory.read(at[lanes], self._some(lanes))
            if race is not None:
                self._race(e.buffer, race, lanes, at)
            self._note_state(e.buffer, memory, state, at, mask)
        return memory.data[at]

    def _note_state(
        self,
        buffer: Buffer,
        memory: Memory,
        state: np.ndarray[Any, Any],
        at: np.ndarray[Any, Any],
        mask: np.ndarray[Any, Any],
    ) -> None:
        flying = mask & (state == IN_FLIGHT)
        if flying.any():
            lane = int(np.argmax(flying))
            self._fail(
                f"{self._who(lane)} reads {self._element(buffer, memory, at[lane])}, which an "
                "asynchronous copy "
                "writes that was not waited for"
            )
        undefined = mask & (state != DEFINED)
        if not undefined.any():
            return
        fresh = undefined & (state == UNWRITTEN)
        origin = np.where(undefined, state, 0)
        if fresh.any():
            lane = int(np.argmax(fresh))
            key = (self._at, buffer)
            if key not in self._origins:
                self._origins[key] = IN_FLIGHT + 1 + len(self._origin_texts)
                element = self._element(buffer, memory, at[lane])
                text = f"{self._who(lane)} reads {element}, which was never written"
                if (
                    buffer.scope == "register"
                    and buffer not in self._global
                    and self._others(memory, at[lane])
                ):
                    text += " by it, only by other threads"
                self._origin_texts.append(f"{text}\n{excerpt(self._func, self._at)}")
            origin = np.where(fresh, self._origins[key], origin)
        self.origin = origin if self.origin is None else np.maximum(self.origin, origin)

    def _others(self, memory: Memory, at: int) -> bool:
        """Whether another thread has written the register element."""
        return bool((memory.state[at % memory.size :: memory.size] == DEFINED).any())

    def _store(self, s: Store, mask: np.ndarray[Any, Any]) -> None:
        self._at = s
        memory = self._memory(s.buffer)
        if s.buffer in self._global or s.buffer.scope != "register":
            # Where the statement does not say which threads run it, one does.
            for axis, coordinate in self._coordinates.items():
                if axis not in self._axes:
                    mask = mask & (coordinate == 0)
        with self.statement(mask):
            indices = [self.value(i) for i in s.indices]
            self._require_defined(mask, f"it is an index of '{s.buffer.name}'")
            at = self._place(s.buffer, memory, indices, mask)
            value = np.broadcast_to(np.asarray(self.value(s.value)), (self.count,))
            if s.buffer in self._outputs:
                self._require_defined(mask, f"it is stored to the output '{s.buffer.name}'")
            state = np.zeros(self.count, np.int32) if self.origin is None else self.origin
        lanes = np.flatnonzero(mask)
        where = at[lanes]
        race = memory.write(where, self._some(lanes))
        if race is not None:
            self._race(s.buffer, race, lanes, at)
        flying = memory.state[where] == IN_FLIGHT
        if flying.any():
            lane = int(lanes[np.argmax(flying)])
            self._fail(
                f"{self._who(lane)} writes {self._element(s.buffer, memory, at[lane])}, which an "
                "asynchronous copy "
                "writes that was not waited for"
            )
        memory.data[where] = value[lanes]
        memory.state[where] = state[lanes]
        if self._asynchronous and s.buffer.scope == "shared" and s.buffer not in self._global:
            memory.state[where] = IN_FLIGHT
            self._pending.append((memory, where, lanes, self._committed[lanes], state[lanes]))

    def _some(self, lanes: np.ndarray[Any, Any]) -> Lanes:
        return Lanes(self._lanes.thread[lanes], self._lanes.block[lanes], self._lanes.epoch[lanes])

    # -- effects ---------------------------------------------------------------------------------------------

    def _evaluate(self, s: Evaluate, mask: np.ndarray[Any, Any]) -> None:
        self._at = s
        assert isinstance(s.value, Call)
        if s.value.name == "barrier":
            by_block = mask.reshape(self._blocks, self._threads)
            arrived, every = by_block.any(axis=1), by_block.all(axis=1)
            if (arrived & ~every).any():
                start = int(np.argmax(arrived & ~every)) * self._threads
                here = start + int(np.argmax(mask[start : start + self._threads]))
                missing = start + int(np.argmin(mask[start : start + self._threads]))
                self._fail(
                    f"divergent barrier: {self._who(here)} waits for {self._who(missing)}, which does not "
                    "come here"
                )
            self._meet(mask)
        elif s.value.name == "async_commit":
            self._committed = self._committed + mask
        elif s.value.name == "async_wait":
            allowed = self._decided(s, s.value.args[0], mask)
            self._complete(mask, np.broadcast_to(self._committed - allowed, (self.count,)))

    def _complete(self, mask: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> None:
        """The asynchronous copies of the threads in ``mask`` arrive whose group is smaller than ``before``.
        """
        left = []
        for memory, where, lanes, group, state in self._pending:
            done = mask[lanes] & (group < before[lanes])
            if done.any():
                memory.state[where[done]] = state[done]
                # It counts as written now: other threads see it after the next barrier.
                memory.write(where[done], self._some(lanes[done]))
            if not done.all():
                rest = ~done
                left.append((memory, where[rest], lanes[rest], group[rest], state[rest]))
        self._pending = left

    # -- errors ----------------------------------------------------------------------------------------------

    def _fail(self, message: str) -> NoReturn:
        raise VerifyError(message, location=excerpt(self._func, self._at))

    def _require_defined(self, mask: np.ndarray[Any, Any], why: str) -> None:
        if self.origin is None:
            return
        bad = mask & (self.origin > IN_FLIGHT)
        if bad.any():
            lane = int(np.argmax(bad))
            raise VerifyError(
                f"{self._origin_texts[int(self.origin[lane]) - IN_FLIGHT - 1]}\nand {why}",
                location=excerpt(self._func, self._at),
            )

    def _race(
        self, buffer: Buffer, race: Race, lanes: np.ndarray[Any, Any], at: np.ndarray[Any, Any]
    ) -> NoReturn:
        lane = int(lanes[race.lane])
        element = self._element(buffer, self._memory(buffer), int(at[lane]))
        verbs = {"read": "reads", "write": "writes"}
        if race.other is None:
            first = "several threads read"
        else:
            first = f"{self._name(race.other)} {verbs[race.before]}"
        why = "and nothing orders thread blocks" if race.between_blocks else "with no barrier between them"
        self._fail(f"data race: {first} {element} and {self._who(lane)} {verbs[race.now]} it, {why}")

    def _element(self, buffer: Buffer, memory: Memory, at: Any) -> str:
        index = (
            [int(i) for i in np.unravel_index(int(at) % max(memory.size, 1), memory.shape)]
            if memory.shape
            else []
        )
        return f"element {index} of {buffer.scope} '{buffer.name}'"

    def _who(self, lane: int) -> str:
        return self._name(int(self._lanes.thread[lane]))

    def _name(self, thread: int) -> str:
        """A thread by its number in the launch, coordinates ``x`` first."""
        block, thread = divmod(thread, self._threads)
        places = []
        for number, extents in ((thread, self._launch.block), (block, self._launch.grid)):
            place = []
            for extent in extents:
                place.append(number % extent)
                number //= extent
            places.append(f"({', '.join(map(str, place))})")
        return f"thread {places[0]} of block {places[1]}"

    @staticmethod
    def _pick(value: Any, lane: int) -> int:
        return int(value[lane]) if isinstance(value, np.ndarray) else int(value)
