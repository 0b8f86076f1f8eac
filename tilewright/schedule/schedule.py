"""The Schedule: a function under transformation, and the trace of what was done to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from tilewright.ir.expr import Expr
from tilewright.ir.stmt import Attr, PrimFunc
from tilewright.schedule import annotate as _annotate
from tilewright.schedule import cache, compute_location, inline, layout, loops, reduction
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.state import BlockRef, LoopRef, Tree, find_block
from tilewright.schedule.trace import Instruction, Trace, encode

__all__ = ["BlockRef", "LoopRef", "Schedule"]


class Schedule:
    """A PrimFunc and the primitives that transform it.

    Every primitive checks that the meaning of the program stays the same and raises ScheduleError otherwise,
    leaving the schedule as it was. Handles stay valid as long as the block or loop exists.

    Attributes:
        func: the function as it is now (immutable; primitives replace it).
        trace: the primitives applied so far.
    """

    def __init__(self, func: PrimFunc) -> None:
        Tree(func)
        self.func = func
        self.trace = Trace()
        self._names: dict[BlockRef | LoopRef, str] = {}
        self._count = {"b": 0, "l": 0}

    def __repr__(self) -> str:
        return f"Schedule({self.func.name}, {len(self.trace)} instructions)"

    def copy(self) -> Schedule:
        """A schedule in the same state that goes its own way; handles are valid in both."""
        other = Schedule(self.func)
        other.trace, other._names, other._count = self.trace, dict(self._names), dict(self._count)
        return other

    def show(self) -> None:
        """Print the function as text IR."""
        sys.stdout.write(f"{self.func!r}\n")

    # -- handles ---------------------------------------------------------------------------------------------

    def get_block(self, name: str) -> BlockRef:
        """The block of that name. Raises ScheduleError when there is none."""
        ref = BlockRef(name)
        find_block(Tree(self.func), ref, "get_block")
        return ref

    def get_blocks(self) -> list[BlockRef]:
        """All blocks in program order."""
        return [BlockRef(name) for name in Tree(self.func).blocks]

    def get_loops(self, block: BlockRef) -> list[LoopRef]:
        """The loops around a block, outermost first."""
        tree = Tree(self.func)
        return [LoopRef(loop.var) for loop in tree.loops_above(find_block(tree, block, "get_loops"))]

    def get_producers(self, block: BlockRef) -> list[BlockRef]:
        """Blocks that write what ``block`` reads, in program order."""
        tree = Tree(self.func)
        return [BlockRef(b.name) for b in tree.producers(find_block(tree, block, "get_producers"))]

    def get_consumers(self, block: BlockRef) -> list[BlockRef]:
        """Blocks that read what ``block`` writes, in program order."""
        tree = Tree(self.func)
        return [BlockRef(b.name) for b in tree.consumers(find_block(tree, block, "get_consumers"))]

    # -- loops -----------------------------------------------------------------------------------------------

    def split(self, loop: LoopRef, factors: Sequence[int | Expr | None]) -> list[LoopRef]:
        """See :func:`tilewright.schedule.loops.split`."""
        func, parts = loops.split(self.func, loop, factors)
        self._record("split", [loop], {"factors": factors}, func, parts)
        return parts

    def fuse(self, *nest: LoopRef) -> LoopRef:
        """See :func:`tilewright.schedule.loops.fuse`."""
        func, fused = loops.fuse(self.func, nest)
        self._record("fuse", nest, {}, func, [fused])
        return fused

    def reorder(self, *order: LoopRef) -> None:
        """See :func:`tilewright.schedule.loops.reorder`."""
        self._record("reorder", order, {}, loops.reorder(self.func, order))

    def parallel(self, loop: LoopRef) -> None:
        """See :func:`tilewright.schedule.loops.parallel`."""
        self._record("parallel", [loop], {}, loops.parallel(self.func, loop))

    def vectorize(self, loop: LoopRef) -> None:
        """See :func:`tilewright.schedule.loops.vectorize`."""
        self._record("vectorize", [loop], {}, loops.vectorize(self.func, loop))

    def unroll(self, loop: LoopRef) -> None:
        """See :func:`tilewright.schedule.loops.unroll`."""
        self._record("unroll", [loop], {}, loops.unroll(self.func, loop))

    # -- where a block is computed ---------------------------------------------------------------------------

    def compute_at(self, block: BlockRef, loop: LoopRef) -> None:
        """See :func:`tilewright.schedule.compute_location.compute_at`."""
        self._record("compute_at", [block, loop], {}, compute_location.compute_at(self.func, block, loop))

    def reverse_compute_at(self, block: BlockRef, loop: LoopRef) -> None:
        """See :func:`tilewright.schedule.compute_location.reverse_compute_at`."""
        self._record(
            "reverse_compute_at",
            [block, loop],
            {},
            compute_location.reverse_compute_at(self.func, block, loop),
        )

    def compute_inline(self, block: BlockRef) -> None:
        """See :func:`tilewright.schedule.inline.compute_inline`."""
        self._record("compute_inline", [block], {}, inline.compute_inline(self.func, block))

    def reverse_compute_inline(self, block: BlockRef) -> None:
        """See :func:`tilewright.schedule.inline.reverse_compute_inline`."""
        self._record("reverse_compute_inline", [block], {}, inline.reverse_compute_inline(self.func, block))

    # -- where data lives ------------------------------------------------------------------------------------

    def cache_read(self, block: BlockRef, buffer_index: int, scope: str) -> BlockRef:
        """See :func:`tilewright.schedule.cache.cache_read`."""
        func, copy = cache.cache_read(self.func, block, buffer_index, scope)
        self._record("cache_read", [block], {"buffer_index": buffer_index, "scope": scope}, func, [copy])
        return copy

    def cache_write(self, block: BlockRef, scope: str) -> BlockRef:
        """See :func:`tilewright.schedule.cache.cache_write`."""
        func, copy = cache.cache_write(self.func, block, scope)
        self._record("cache_write", [block], {"scope": scope}, func, [copy])
        return copy

    def set_scope(self, block: BlockRef, scope: str) -> None:
        """See :func:`tilewright.schedule.cache.set_scope`."""
        self._record("set_scope", [block], {"scope": scope}, cache.set_scope(self.func, block, scope))

    def transform_layout(
        self, block: BlockRef, role: Literal["read", "write"], index: int, index_map: IndexMap
    ) -> None:
        """See :func:`tilewright.schedule.layout.transform_layout`."""
        func = layout.transform_layout(self.func, block, role, index, index_map)
        self._record(
            "transform_layout", [block], {"role": role, "index": index, "index_map": index_map}, func
        )

    # -- reductions ------------------------------------------------------------------------------------------

    def decompose_reduction(self, block: BlockRef, loop: LoopRef) -> BlockRef:
        """See :func:`tilewright.schedule.reduction.decompose_reduction`."""
        func, init = reduction.decompose_reduction(self.func, block, loop)
        self._record("decompose_reduction", [block, loop], {}, func, [init])
        return init

    def rfactor(self, loop: LoopRef, axis: int) -> BlockRef:
        """See :func:`tilewright.schedule.reduction.rfactor`."""
        func, partial = reduction.rfactor(self.func, loop, axis)
        self._record("rfactor", [loop], {"axis": axis}, func, [partial])
        return partial

    # -- hints -----------------------------------------------------------------------------------------------

    def annotate(self, ref: BlockRef | LoopRef, key: str, value: Attr) -> None:
        """See :func:`tilewright.schedule.annotate.annotate`."""
        self._record(
            "annotate", [ref], {"key": key, "value": value}, _annotate.annotate(self.func, ref, key, value)
        )

    # -- trace -----------------------------------------------------------------------------------------------

    def _record(
        self,
        name: str,
        inputs: Sequence[BlockRef | LoopRef],
        attrs: dict[str, Any],
        func: PrimFunc,
        outputs: Sequence[BlockRef | LoopRef] = (),
    ) -> None:
        """Note a primitive that turned ``self.func`` into ``func``, and make ``func`` current."""
        encoded = {key: encode(value) for key, value in attrs.items()}
        names = tuple(self._name_of(ref) for ref in inputs)
        results = tuple(self._new_name(ref) for ref in outputs)
        self.trace = self.trace.then(Instruction(name, names, encoded, results))
        self.func = func

    def _name_of(self, ref: BlockRef | LoopRef) -> str:
        """The handle's name in the trace; a handle seen for the first time is looked up there first."""
        if ref in self._names:
            return self._names[ref]
        if isinstance(ref, BlockRef):
            self.trace = self.trace.then(
                Instruction("get_block", (), {"name": ref.name}, (self._new_name(ref),))
            )
            return self._names[ref]
        tree = Tree(self.func)
        block = tree.blocks_below(tree.loops[ref.var])[0]
        owner = self._name_of(BlockRef(block.name))
        found = [LoopRef(loop.var) for loop in tree.loops_above(block)]
        names = tuple(self._new_name(loop) for loop in found)
        self.trace = self.trace.then(Instruction("get_loops", (owner,), {}, names))
        return self._names[ref]

    def _new_name(self, ref: BlockRef | LoopRef) -> str:
        letter = "b" if isinstance(ref, BlockRef) else "l"
        name = f"{letter}{self._count[letter]}"
        self._count[letter] += 1
        self._names[ref] = name
        return name
