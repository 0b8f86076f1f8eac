"""The Schedule: a function under transformation, and the trace of what was done to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from tilewright.errors import ScheduleError
from tilewright.ir.expr import Expr, conjuncts
from tilewright.ir.pipeline import has_marks
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Attr, PrimFunc
from tilewright.ir.visit import const_int, free_vars
from tilewright.schedule import annotate as _annotate
from tilewright.schedule import bind as _bind
from tilewright.schedule import blockize as _blockize
from tilewright.schedule import cache, compute_location, inline, layout, loops, pad, pipeline, reduction
from tilewright.schedule import storage_align as _storage_align
from tilewright.schedule import tensorize as _tensorize
from tilewright.schedule import tile as _tile
from tilewright.schedule.arith_text import parse_exprs
from tilewright.schedule.decisions import Decision, make_decision, scope_of
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.state import BlockRef, LoopRef, Tree, find_block
from tilewright.schedule.trace import Instruction, Trace, encode

__all__ = ["BlockRef", "LoopRef", "Schedule"]


class Schedule:
    """A PrimFunc and the primitives that transform it.

    Every primitive checks that the meaning of the program stays the same and raises ScheduleError otherwise,
    leaving the schedule as it was. Handles stay valid as long as the block or loop exists.

    Args:
        func: the function to schedule.
        symbolic: leave decisions open (:meth:`decide`): the schedule then stands for all that they allow.

    Attributes:
        func: the function as it is now (immutable; primitives replace it).
        trace: the primitives applied so far.
        decisions: by name, in the order in which they were made.
        constraints: conditions on open decisions that a good choice meets (:meth:`require`).
    """

    def __init__(self, func: PrimFunc, symbolic: bool = False) -> None:
        Tree(func)
        self.func = func
        self.symbolic = symbolic
        self.trace = Trace()
        self.decisions: dict[str, Decision] = {}
        self.constraints: tuple[Expr, ...] = ()
        self._names: dict[BlockRef | LoopRef, str] = {}
        self._count = {"b": 0, "l": 0}

    def __repr__(self) -> str:
        return f"Schedule({self.func.name}, {len(self.trace)} instructions)"

    def copy(self) -> Schedule:
        """A schedule in the same state that goes its own way; handles are valid in both."""
        other = Schedule(self.func, self.symbolic)
        other.decisions, other.constraints = dict(self.decisions), self.constraints
        other.trace, other._names, other._count = self.trace, dict(self._names), dict(self._count)
        return other

    def adopt(self, other: Schedule) -> None:
        """Become what ``other``, a copy of this schedule, is now: for steps done all or not at all."""
        self.func, self.trace = other.func, other.trace
        self.decisions, self.constraints = dict(other.decisions), other.constraints
        self._names, self._count = dict(other._names), dict(other._count)

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

    # -- decisions -------------------------------------------------------------------------------------------

    def decide(self, name: str, domain: Sequence[int], value: int | None = None) -> Expr:
        """A number to be chosen from ``domain``: a variable in a symbolic schedule, else ``value``.

        Factors and layouts may be written over it, as expressions or as text (``split(i, [None,
        "rows*2"])``), and the trace keeps them in that form. Raises ScheduleError for a bad name, domain or
        value, and for a schedule that is not symbolic when there is no value.
        """
        if value is None and not self.symbolic:
            raise ScheduleError(
                f"decide: '{name}' has no value", hint="give one, or bind the decisions of the trace"
            )
        open_value = None if self.symbolic else value
        decision = make_decision(name, domain, open_value, scope_of(self.func, self.decisions))
        self.decisions[name] = decision
        self._record("decide", [], {"name": name, "domain": decision.domain, "value": value}, self.func)
        return decision.symbol

    def require(self, condition: Expr) -> None:
        """Ask of open decisions that ``condition`` (bool) holds: candidates for which it does not are left
        out of a search. It says nothing about what is legal, so a schedule without open decisions ignores it.

        Raises ScheduleError for a condition over anything but decisions.
        """
        unknown = free_vars(condition) - {d.symbol for d in self.decisions.values()}
        if unknown:
            names = ", ".join(sorted(v.name for v in unknown))
            raise ScheduleError(
                f"require: {condition!r} is over {names}, not only over decisions",
                hint="conditions of a search are over decisions alone",
            )
        if self.symbolic:
            self.constraints = (*self.constraints, *conjuncts(condition))

    def scope(self) -> dict[str, Expr]:
        """What names in the text of factors and layouts mean: run-time dimensions and decisions."""
        return scope_of(self.func, self.decisions)

    def _factor(self, factor: int | str | Expr | None) -> int | Expr | None:
        scope = self.scope()
        if isinstance(factor, str):
            try:
                factor = simplify(parse_exprs(factor, scope)[0])
            except ValueError as error:
                raise ScheduleError(
                    f"factor '{factor}': {error}",
                    hint="write for example 'rows*2'",
                ) from None
        if isinstance(factor, Expr):
            unknown = free_vars(factor) - set(scope.values())
            if unknown:
                names = ", ".join(sorted(v.name for v in unknown))
                raise ScheduleError(
                    f"factor {factor!r} uses {names}, neither a dimension nor a decision",
                    hint="write factors over run-time dimensions and decisions",
                )
            return const_int(factor) or factor
        return factor

    # -- loops -----------------------------------------------------------------------------------------------

    def split(self, loop: LoopRef, factors: Sequence[int | str | Expr | None]) -> list[LoopRef]:
        """See :func:`tilewright.schedule.loops.split`. Factors may be text over dimensions and decisions."""
        func, parts = loops.split(self.func, loop, [self._factor(f) for f in factors])
        self._record("split", [loop], {"factors": factors}, func, parts)
        return parts

    def tile(
        self,
        nest: Sequence[LoopRef],
        factors: Sequence[_tile.Factor | Sequence[_tile.Factor]],
        structure: str | None = None,
    ) -> list[list[LoopRef]]:
        """See :func:`tilewright.schedule.tile.tile`. The trace has its splits and its reordering."""
        return _tile.tile(self, nest, factors, structure)

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

    def bind(self, loop: LoopRef, axis: str) -> None:
        """See :func:`tilewright.schedule.bind.bind`."""
        self._record("bind", [loop], {"axis": axis}, _bind.bind(self.func, loop, axis))

    def virtual_thread(self, loop: LoopRef) -> None:
        """See :func:`tilewright.schedule.bind.virtual_thread`."""
        self._record("virtual_thread", [loop], {}, _bind.virtual_thread(self.func, loop))

    def pipeline(
        self,
        loop: LoopRef,
        stages: Sequence[int],
        order: Sequence[int] | None = None,
        async_stages: Sequence[int] = (),
    ) -> None:
        """See :func:`tilewright.schedule.pipeline.pipeline`."""
        func = pipeline.pipeline(self.func, loop, stages, order, async_stages)
        attrs = {"stages": stages, "order": order, "async_stages": async_stages}
        self._record("pipeline", [loop], attrs, func)

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

    def pad(self, block: BlockRef, factors: Sequence[int | str | Expr | None]) -> list[BlockRef]:
        """See :func:`tilewright.schedule.pad.pad`. Factors may be text over dimensions and decisions."""
        func, made = pad.pad(self.func, block, [self._factor(f) for f in factors])
        self._record("pad", [block], {"factors": factors}, func, made)
        return made

    def set_scope(self, block: BlockRef, scope: str) -> None:
        """See :func:`tilewright.schedule.cache.set_scope`."""
        self._record("set_scope", [block], {"scope": scope}, cache.set_scope(self.func, block, scope))

    def storage_align(self, block: BlockRef, dim: int, factor: int, offset: int) -> None:
        """See :func:`tilewright.schedule.storage_align.storage_align`."""
        func = _storage_align.storage_align(self.func, block, dim, factor, offset)
        self._record("storage_align", [block], {"dim": dim, "factor": factor, "offset": offset}, func)

    def transform_layout(
        self, block: BlockRef, role: Literal["read", "write"], index: int, index_map: IndexMap | str
    ) -> None:
        """See :func:`tilewright.schedule.layout.transform_layout`. The map may be text over decisions."""
        scope = self.scope()
        parsed = IndexMap.parse(index_map, scope) if isinstance(index_map, str) else index_map
        func = layout.transform_layout(self.func, block, role, index, parsed, scope.values())
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

    # -- instructions ----------------------------------------------------------------------------------------

    def blockize(self, loop: LoopRef) -> BlockRef:
        """See :func:`tilewright.schedule.blockize.blockize`."""
        func, block = _blockize.blockize(self.func, loop)
        self._record("blockize", [loop], {}, func, [block])
        return block

    def tensorize(self, ref: BlockRef | LoopRef, intrinsic: str) -> None:
        """See :func:`tilewright.schedule.tensorize.tensorize`."""
        func = _tensorize.tensorize(self.func, ref, intrinsic)
        self._record("tensorize", [ref], {"intrinsic": intrinsic}, func)

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
        if name != "pipeline" and has_marks(func.body):
            pipeline.require_pipelines(Tree(func))
        _tensorize.require_valid_calls(func, name)
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
