"""Statements: loops, branches, allocations, and the phi nodes of promoted buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tilewright.backend.llvm import types as ty
from tilewright.backend.llvm.analysis import Analysis
from tilewright.backend.llvm.mathlib import Features
from tilewright.backend.llvm.ops import Namer
from tilewright.backend.llvm.placement import Code, Value
from tilewright.backend.llvm.registers import plan_slots
from tilewright.backend.llvm.tensors import Tensors
from tilewright.backend.llvm.workspace import Workspace
from tilewright.errors import CompileError
from tilewright.ir import dtype as dt
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import FALSE, Call, Const, Expr, Var, all_of, conjuncts, select
from tilewright.ir.sizes import largest_size
from tilewright.ir.stmt import Alloc, Annotate, Buffer, Evaluate, For, If, Seq, Stmt, Store, TensorCall

Launch = Callable[["Statements", For], None]

MAX_STACK_BYTES = 16 << 10
"""Register buffers that cannot be promoted live on the stack, larger ones than this in the workspace."""


class Statements(Tensors):
    """Emits statements into one function.

    ``launch`` is called for a parallel loop; ``workspace`` and its base pointer serve allocations.
    """

    def __init__(
        self,
        namer: Namer,
        analysis: Analysis,
        features: Features,
        workspace: Workspace,
        base: str,
        launch: Launch,
    ) -> None:
        super().__init__(namer, analysis, features)
        self.entry: Code = []
        self.workspace = workspace
        self.workspace_base = base
        self._launch = launch

    def statement(self, s: Stmt) -> None:
        """Emit ``s`` at the current position."""
        if isinstance(s, Store):
            self.store(s)
        elif isinstance(s, Seq):
            for child in s.stmts:
                self.statement(child)
        elif isinstance(s, For):
            self._for(s)
        elif isinstance(s, If):
            self._if(s)
        elif isinstance(s, Alloc):
            self._alloc(s)
        elif isinstance(s, Evaluate):
            self._evaluate(s)
        elif isinstance(s, TensorCall):
            self.tensor_call(s)
        else:
            assert isinstance(s, Annotate)
            self.statement(s.body)

    # -------------------------------------------------------------------------------------------------- loops
    def _for(self, s: For) -> None:
        if s.kind == "vectorized":
            self.vector_length = self.lanes[s.var]
            self.statement(s.body)
            self.vector_length = 0
            return
        if s.kind == "parallel":
            if self.guards:
                raise CompileError(f"parallel loop '{s.var.name}' inside a vectorized condition")
            self._launch(self, s)
            return
        if isinstance(s.extent, Const):
            if s.extent.value >= 1:
                self._loop(s)
            return
        low = self.ranges.interval(s.extent).lo
        if low is not None and low >= 1:
            self._loop(s)
            return
        extent = self.value(s.extent)
        test = self.here().inst(f"icmp sgt i64 {extent.text}, 0")
        self._branch(test, lambda: self._loop(s), None, self.analysis.stored[s])

    def _loop(self, s: For) -> None:
        """A loop that runs at least once."""
        extent = self.value(s.extent)
        self.loop(
            s.var,
            extent.text,
            self.ranges.interval(s.extent),
            self.analysis.stored[s],
            lambda: self.statement(s.body),
        )

    def loop(
        self,
        var: Var,
        extent: str,
        interval: Interval,
        stored: Iterable[Buffer],
        body: Callable[[], None],
        first: str = "0",
    ) -> None:
        """Run ``body`` for ``var`` from ``first`` to below ``extent``, at least once, testing at the end.

        Promoted buffers in ``stored`` that exist outside become phi nodes.
        """
        number = self.label()
        header, leave = f"loop{number}", f"end{number}"
        outer = self.code
        before: Code = []
        outer.append(before)
        outer.append(f"  br label %{header}")
        entered = self.block
        phis: Code = []
        self.code = inside = [f"{header}:", phis]
        self.block = header
        self.forget_buffers(stored)
        level = self.open_scope(True, before)
        index, following = self.namer.fresh(), self.namer.fresh()
        carried, levels = self._enter(stored, level)
        initial = {(b, i): self.slots[b].values[i] for b in carried for i in range(len(self.slots[b].values))}
        names: dict[tuple[Buffer, int], str] = {}
        for buffer, slot in initial:
            names[buffer, slot] = self.slots[buffer].values[slot] = self.namer.fresh()
        self.bind(var, Value(index, 0, level), interval)
        body()
        finished = self.namer.fresh()
        inside.append(f"  {following} = add nuw nsw i64 {index}, 1")
        inside.append(f"  {finished} = icmp eq i64 {following}, {extent}")
        inside.append(f"  br i1 {finished}, label %{leave}, label %{header}")
        last = self.block
        phis.append(f"  {index} = phi i64 [ {first}, %{entered} ], [ {following}, %{last} ]")
        for (buffer, slot), name in names.items():
            slots = self.slots[buffer]
            kind = ty.value_type(slots.dtype, slots.lanes[slot])
            value = slots.values[slot]
            phis.append(
                f"  {name} = phi {kind} [ {initial[buffer, slot]}, %{entered} ], [ {value}, %{last} ]"
            )
        outer.append(inside)
        self.buffer_level.update(levels)
        self.close_scope(outer)
        self.start_block(leave)

    def _enter(self, stored: Iterable[Buffer], level: int) -> tuple[list[Buffer], dict[Buffer, int]]:
        """Move the buffers that a loop or branch stores to inside it; (promoted ones, levels to restore)."""
        carried = [b for b in stored if b in self.slots]
        levels: dict[Buffer, int] = {}
        for buffer in stored:
            if buffer in self.bases or buffer in self.slots:
                levels[buffer] = self.buffer_level.get(buffer, 0)
                self.buffer_level[buffer] = level
        return carried, levels

    # ----------------------------------------------------------------------------------------------- branches
    def _if(self, s: If) -> None:
        parts = conjuncts(s.cond)
        reading = [c for c in parts if self.loads_memory(c)]
        if reading and len(parts) > 1:
            # What reads memory may only be read where the other parts hold.
            self._if(self._in_order(s, [c for c in parts if c not in reading], reading))
            return
        varying = [c for c in parts if self.forms.depends(c)]
        if not varying:
            cond = self.value(s.cond)
            if cond.lanes:
                raise CompileError("a condition has more lanes than its loop")
            orelse = s.orelse
            self._branch(
                cond.text,
                lambda: self.statement(s.then),
                None if orelse is None else lambda: self.statement(orelse),
                self.analysis.stored[s],
            )
            return
        uniform = [c for c in parts if not self.forms.depends(c)]
        if uniform and s.orelse is None:
            test = self.value(all_of(uniform))
            inner = all_of(varying)
            self._branch(
                test.text,
                lambda: self._masked(self.value(inner), s.then, False),
                None,
                self.analysis.stored[s],
            )
            return
        test = self.value(s.cond)
        self._masked(test, s.then, False)
        if s.orelse is not None:
            self._masked(test, s.orelse, True)

    def _in_order(self, s: If, first: list[Expr], then: list[Expr]) -> If:
        """``s`` with a condition that is evaluated part by part: ``first``, then each of ``then``."""
        ordered = [all_of(first), *then] if first else then
        if s.orelse is not None:
            cond = ordered[-1]
            for part in reversed(ordered[:-1]):
                cond = select(part, cond, FALSE)
            result = If(cond, s.then, s.orelse)
        else:
            result = s
            body = s.then
            for part in reversed(ordered):
                result = If(part, body)
                self.analysis.stored[result] = self.analysis.stored[s]
                body = result
        self.analysis.stored[result] = self.analysis.stored[s]
        return result

    def _masked(self, test: Value, body: Stmt, negate: bool) -> None:
        """``body`` in those lanes where ``test`` holds."""
        if test.text in ("true", "false"):
            if (test.text == "true") != negate:
                self.statement(body)
            return
        self.push_guard(test, negate)
        self.statement(body)
        self.pop_guard()

    def _branch(
        self, test: str, then: Callable[[], None], orelse: Callable[[], None] | None, stored: Iterable[Buffer]
    ) -> None:
        """Run one of two bodies; promoted buffers in ``stored`` are merged by phi nodes."""
        number = self.label()
        yes, no, join = f"then{number}", f"else{number}", f"join{number}"
        outer = self.code
        outer.append(f"  br i1 {test}, label %{yes}, label %{no if orelse else join}")
        came_from = self.block
        before = {b: list(self.slots[b].values) for b in stored if b in self.slots}
        arms: list[tuple[str, dict[Buffer, list[str]]]] = []
        for label, body in ((yes, then), (no, orelse)):
            if body is None:
                arms.append((came_from, before))
                continue
            self.code = []
            outer.append(self.code)
            level = self.open_scope(False, [])
            _, levels = self._enter(stored, level)
            self.start_block(label)
            body()
            self.code.append(f"  br label %{join}")
            arms.append((self.block, {b: list(self.slots[b].values) for b in before}))
            for buffer, values in before.items():
                self.slots[buffer].values = list(values)
            self.buffer_level.update(levels)
            self.close_scope(outer)
        self.start_block(join)
        (first_block, first), (second_block, second) = arms
        for buffer in before:
            slots = self.slots[buffer]
            for i, (a, b) in enumerate(zip(first[buffer], second[buffer], strict=True)):
                if a == b:
                    slots.values[i] = a
                    continue
                kind = ty.value_type(slots.dtype, slots.lanes[i])
                slots.values[i] = self.here().inst(
                    f"phi {kind} [ {a}, %{first_block} ], [ {b}, %{second_block} ]"
                )
        self.forget_buffers(stored)

    # -------------------------------------------------------------------------------------------- allocations
    def _alloc(self, s: Alloc) -> None:
        buffer = s.buffer
        if buffer.scope == "global":
            self._in_workspace(s)
            return
        if buffer.scope != "register":
            raise CompileError(f"buffer '{buffer.name}' has scope '{buffer.scope}', which CPUs do not have")
        slots = None
        if buffer not in self.analysis.shared_registers:
            accesses = self.analysis.accesses.get(buffer, ())
            stores = self.analysis.register_stores.get(buffer, set())
            operands = self.analysis.tensor_operands.get(buffer, ())
            strides = self.strides(buffer)
            slots = plan_slots(buffer, accesses, stores, operands, self.forms, self.lanes, strides)
        if slots is not None:
            self.slots[buffer] = slots
        elif self._bytes(buffer) <= MAX_STACK_BYTES:
            self.bases[buffer] = self._stack(buffer)
        else:
            self._in_workspace(s)
            return
        self.buffer_level[buffer] = len(self.scopes) - 1
        self.statement(s.body)
        self.slots.pop(buffer, None)
        self.bases.pop(buffer, None)
        self.forget(buffer)

    def _in_workspace(self, s: Alloc) -> None:
        """Allocate in the workspace for as long as the body runs."""
        with self.workspace.reserve(self._bytes(s.buffer)) as offset:
            name = self.namer.fresh()
            self.entry.append(f"  {name} = getelementptr i8, ptr {self.workspace_base}, i64 {offset}")
            self.bases[s.buffer] = Value(name, 0, 0)
            self.buffer_level[s.buffer] = len(self.scopes) - 1
            self.statement(s.body)
        del self.bases[s.buffer]
        self.forget(s.buffer)

    def _bytes(self, buffer: Buffer) -> int:
        """What the buffer takes at most."""
        shape = [largest_size(d) for d in buffer.shape]
        strides = [largest_size(s) for s in buffer.row_major_strides()]
        if None in shape or None in strides:
            raise CompileError(f"there is no upper bound for the size of buffer '{buffer.name}'")
        elements = 1 + sum(max(n or 0, 1) * (s or 0) - (s or 0) for n, s in zip(shape, strides, strict=True))
        return elements * dt.nbytes(buffer.dtype) if 0 not in shape else 0

    def _stack(self, buffer: Buffer) -> Value:
        name = self.namer.fresh()
        count = max(self._bytes(buffer) // dt.nbytes(buffer.dtype), 1)
        self.entry.append(f"  {name} = alloca [{count} x {ty.memory_type(buffer.dtype)}], align 64")
        return Value(name, 0, 0)

    # ------------------------------------------------------------------------------------------------ effects
    def _evaluate(self, s: Evaluate) -> None:
        if isinstance(s.value, Call) and s.value.name == "fence":
            self.code.append('  call void asm sideeffect "", "~{memory}"()')
            return
        raise CompileError(f"statement '{s.value!r}' has no effect that the LLVM backend knows")
