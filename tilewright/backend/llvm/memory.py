"""Loads and stores: addresses, vector forms of access, guards against out-of-bounds reads."""

from __future__ import annotations

from tilewright.backend.llvm import shuffles
from tilewright.backend.llvm import types as ty
from tilewright.backend.llvm.analysis import Analysis
from tilewright.backend.llvm.lanes import LaneForm, offset_terms, windows
from tilewright.backend.llvm.mathlib import Features
from tilewright.backend.llvm.ops import Namer, Ops
from tilewright.backend.llvm.placement import Value
from tilewright.backend.llvm.registers import Run, Slots, access_picks, access_run
from tilewright.backend.llvm.values import Values
from tilewright.errors import CompileError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Const, Expr, Load, reduce_identity
from tilewright.ir.linear import Terms
from tilewright.ir.stmt import Buffer, Store
from tilewright.ir.visit import loads_of

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "max", "min": "min"}
#: Types whose vectors are shuffled as integers: processors have no shuffles of bits, LLVM few of halves.
_MOVED_AS = {"bool": "uint8", "float16": "uint16"}
_BITWISE_IDENTITY = {"and": -1, "or": 0, "xor": 0}


class Memory(Values):
    """Emits loads and stores."""

    def __init__(self, namer: Namer, analysis: Analysis, features: Features) -> None:
        super().__init__(namer, analysis, features)
        self.bases: dict[Buffer, Value] = {}
        self.slots: dict[Buffer, Slots] = {}
        self.buffer_level: dict[Buffer, int] = {}
        self._strides: dict[Buffer, tuple[int | Expr, ...]] = {}
        self._sizes: dict[Buffer, int] = {}
        self.vector_length = 0

    def is_promoted(self, buffer: Buffer) -> bool:
        return buffer in self.slots

    # ---------------------------------------------------------------------------------------------- addresses
    def strides(self, buffer: Buffer) -> tuple[int | Expr, ...]:
        """Strides in elements, as numbers where they are."""
        known = self._strides.get(buffer)
        if known is None:
            known = tuple(int(s.value) if isinstance(s, Const) else s for s in buffer.row_major_strides())
            self._strides[buffer] = known
        return known

    def elements(self, buffer: Buffer) -> int:
        """Elements known to exist from the base of ``buffer`` on (0 when its shape is symbolic)."""
        known = self._sizes.get(buffer)
        if known is None:
            shape, strides = buffer.static_shape, self.strides(buffer)
            known = 0
            if shape is not None and 0 not in shape:
                known = 1
                for n, s in zip(shape, strides, strict=True):
                    known += (n - 1) * s if isinstance(s, int) and s >= 0 else 0
            self._sizes[buffer] = known
        return known

    def pointer(self, buffer: Buffer, terms: Terms) -> Value:
        """The address of element ``terms`` of ``buffer``, built up from the outermost loop inwards."""
        base = self.bases.get(buffer)
        if base is None:
            raise CompileError(f"buffer '{buffer.name}' is neither a parameter nor allocated around its use")
        if not terms:
            return base
        key = (buffer, frozenset(terms.items()))
        known = self.memo.get(key)
        if known is not None:
            return known
        kind = ty.memory_type(buffer.dtype)
        parts: list[tuple[int, int, Value, Expr, int]] = []
        for atom, k in terms.items():
            v = self.value(atom if k == 1 else atom * k)
            parts.append((v.level, len(parts), v, atom, k))
        parts.sort(key=lambda p: p[:2])
        pointer = base
        done: Terms = {}
        for i, (level, _, part, atom, k) in enumerate(parts):
            done[atom] = k
            if i + 1 < len(parts) and parts[i + 1][0] == level:
                # One pointer per level: sum the offsets of a level first.
                follower = parts[i + 1]
                ops, at = self.ops(max(level, part.level), 0)
                total = Value(
                    ops.inst(f"add i64 {part.text}, {follower[2].text}"), 0, at, part.deps | follower[2].deps
                )
                parts[i + 1] = (follower[0], follower[1], total, follower[3], follower[4])
                continue
            partial = (buffer, frozenset(done.items()))
            known = self.memo.get(partial)
            if known is None:
                ops, at = self.ops(max(pointer.level, part.level), 0)
                text = ops.inst(f"getelementptr {kind}, ptr {pointer.text}, i64 {part.text}")
                known = self.remember(partial, Value(text, 0, at, pointer.deps | part.deps))
            pointer = known
        return pointer

    def _displaced(self, ops_out: list[object], pointer: str, buffer: Buffer, elements: int) -> str:
        """``pointer`` moved by a constant, which becomes the displacement of the access."""
        if not elements:
            return pointer
        name = self.namer.fresh()
        ops_out.append(
            f"  {name} = getelementptr i8, ptr {pointer}, i64 {elements * dt.nbytes(buffer.dtype)}"
        )
        return name

    # -------------------------------------------------------------------------------------------------- loads
    def load(self, e: Load) -> Value:
        buffer = e.buffer
        slots = self.slots.get(buffer)
        if slots is not None:
            return self._load_slot(e, slots)
        terms, base = offset_terms(self.forms, e.indices, self.strides(buffer))
        deps = self.bit(buffer) if buffer in self.analysis.mutable else 0
        level = self.buffer_level.get(buffer, 0)
        guard: Value | None = None
        if self.guards and not self.in_bounds(e):
            guard = self.guards[-1].value
            deps |= self.guard_deps() | guard.deps
            level = max(level, guard.level)
        if any(map(self.forms.depends, terms)):
            length = self._length(e)
            form = self.forms.form_of_terms(terms, base, length)
            if form is None:
                value = self._gather(e, terms, base, length, level, deps, guard)
            elif form.is_uniform:
                value = self._load_scalar(e, form.terms, form.base + form.offsets[0], level, deps, guard)
            else:
                value = self._load_lanes(e, form, length, level, deps, guard)
        else:
            value = self._load_scalar(e, terms, base, level, deps, guard)
        return self.remember(e, value)

    def in_bounds(self, e: Load) -> bool:
        """Whether every index is known to lie inside the buffer, whatever guards say."""
        for index, extent in zip(e.indices, e.buffer.shape, strict=True):
            if not isinstance(extent, Const):
                return False
            low, high = self.ranges.interval(index)
            if low is None or high is None or low < 0 or high >= extent.value:
                return False
        return True

    def _branch_free(self, e: Load) -> bool:
        """Whether a load may be moved above the branches around it."""
        return len(self.scopes) > 1 and self.in_bounds(e)

    def _from_memory(self, ops_out: list[object], lanes: int, dtype: str, text: str) -> str:
        """Turn the bytes of bools into i1."""
        if dtype != "bool":
            return text
        name = self.namer.fresh()
        zero = ty.splat("0", "uint8", lanes)
        ops_out.append(f"  {name} = icmp ne {ty.memory_type(dtype, lanes)} {text}, {zero}")
        return name

    def _safe_address(self, guard: Value, pointer: str, base: Value, level: int) -> tuple[str, int]:
        """``pointer`` where the (scalar) guard holds, else the base of the buffer, which can always be
        read.
        """
        ops, level = self.ops(level, 0)
        return ops.inst(f"select i1 {guard.text}, ptr {pointer}, ptr {base.text}"), level

    def _any(self, guard: Value) -> Value:
        """A vector guard as a scalar: whether any lane holds."""
        if not guard.lanes:
            return guard
        key = ("any", guard.text)
        known = self.memo.get(key)
        if known is None:
            ops, level = self.ops(guard.level, guard.lanes)
            full = f"llvm.vector.reduce.or.v{guard.lanes}i1"
            self.namer.declare(full, "i1", [f"<{guard.lanes} x i1>"])
            text = ops.inst(f"call i1 @{full}(<{guard.lanes} x i1> {guard.text})")
            known = self.remember(key, Value(text, 0, level, guard.deps))
        return known

    def _load_scalar(
        self, e: Load, terms: Terms, base: int, level: int, deps: int, guard: Value | None
    ) -> Value:
        buffer, kind = e.buffer, ty.memory_type(e.dtype)
        pointer = self.pointer(buffer, terms)
        level = max(level, pointer.level)
        deps |= pointer.deps
        guarded = not self._branch_free(e)
        if guard is not None:
            guard = self._any(guard)
            out, level = (self.at_guarded if guarded else self.at)[max(level, guard.level)]
            address = self._displaced(out, pointer.text, buffer, base)
            address, level = self._safe_address(guard, address, self.bases[buffer], level)
        else:
            out, level = (self.at_guarded if guarded else self.at)[level]
            address = self._displaced(out, pointer.text, buffer, base)
        name = self.namer.fresh()
        out.append(f"  {name} = load {kind}, ptr {address}, align {dt.nbytes(e.dtype)}")
        return Value(self._from_memory(out, 0, e.dtype, name), 0, level, deps)

    def _load_lanes(
        self, e: Load, form: LaneForm, length: int, level: int, deps: int, guard: Value | None
    ) -> Value:
        """A vector load whose lanes lie at constant distances."""
        if not form.is_contiguous:
            near = windows(form.offsets) if guard is None else None
            if near is not None:
                return self._load_windows(e, form, near, level, deps)
            steps = ty.vector_literal([o - form.offsets[0] for o in form.offsets], "i64")
            index = Value(steps, length, 0)
            return self._gather_at(e, form.terms, form.base + form.offsets[0], index, level, deps, guard)
        buffer, kind = e.buffer, ty.memory_type(e.dtype, length)
        base = form.base + form.offsets[0]
        pointer = self.pointer(buffer, form.terms)
        level = max(level, pointer.level)
        deps |= pointer.deps
        align = dt.nbytes(e.dtype)
        masked = guard is not None and (guard.lanes > 0 or self.elements(buffer) < length)
        out, level = (self.at if self._branch_free(e) else self.at_guarded)[level]
        address = self._displaced(out, pointer.text, buffer, base)
        if guard is not None and masked:
            mask = self.widen(guard, "bool", length, ("guard", guard.text))
            out, level = self.at_guarded[max(level, mask.level)]
            full = f"llvm.masked.load.{ty.memory_suffix(e.dtype, length)}.p0"
            self.namer.declare(full, kind, ["ptr", "i32", f"<{length} x i1>", kind])
            call = (
                f"call {kind} @{full}(ptr {address}, i32 {align}, "
                f"<{length} x i1> {mask.text}, {kind} zeroinitializer)"
            )
        else:
            if guard is not None:
                out, level = self.at_guarded[max(level, guard.level)]
                address, level = self._safe_address(guard, address, self.bases[buffer], level)
            call = f"load {kind}, ptr {address}, align {align}"
        name = self.namer.fresh()
        out.append(f"  {name} = {call}")
        return Value(self._from_memory(out, length, e.dtype, name), length, level, deps)

    def _load_windows(
        self,
        e: Load,
        form: LaneForm,
        near: tuple[int, list[int], list[tuple[int, int]]],
        level: int,
        deps: int,
    ) -> Value:
        """Lanes that lie close together: contiguous loads and shuffles instead of a gather."""
        size, starts, lanes = near
        pointer = self.pointer(e.buffer, form.terms)
        out, level = (self.at if self._branch_free(e) else self.at_guarded)[max(level, pointer.level)]
        kind = ty.memory_type(e.dtype, size)
        ops = Ops(out, self.namer, size)
        pieces = []
        for start in starts:
            address = self._displaced(out, pointer.text, e.buffer, form.base + start)
            pieces.append(ops.inst(f"load {kind}, ptr {address}, align {dt.nbytes(e.dtype)}"))
        text = shuffles.collect(pieces, size, ty.memory_type(e.dtype), lanes, ops.inst)
        count = len(lanes)
        return Value(self._from_memory(out, count, e.dtype, text), count, level, deps | pointer.deps)

    def _lane_index(self, terms: Terms, length: int) -> tuple[Terms, Value]:
        """Split an offset into what all lanes share and a vector of the rest."""
        shared: Terms = {}
        total: Value | None = None
        for atom, k in terms.items():
            if not self.forms.depends(atom):
                shared[atom] = k
                continue
            part = self.widen(self.value(atom * k), dt.INDEX, length, atom * k)
            if total is None:
                total = part
            else:
                ops, level = self.ops(max(total.level, part.level), length)
                total = Value(
                    ops.binary("add", dt.INDEX, total.text, part.text), length, level, total.deps | part.deps
                )
        assert total is not None
        return shared, total

    def _gather(
        self, e: Load, terms: Terms, base: int, length: int, level: int, deps: int, guard: Value | None
    ) -> Value:
        shared, index = self._lane_index(terms, length)
        return self._gather_at(e, shared, base, index, level, deps, guard)

    def _gather_at(
        self, e: Load, shared: Terms, base: int, index: Value, level: int, deps: int, guard: Value | None
    ) -> Value:
        buffer, length = e.buffer, index.lanes
        pointer = self.pointer(buffer, shared)
        level = max(level, pointer.level, index.level)
        deps |= pointer.deps | index.deps
        mask = "splat (i1 true)"
        if guard is not None:
            wide = self.widen(guard, "bool", length, ("guard", guard.text))
            level, mask = max(level, wide.level), wide.text
        out, level = (self.at if guard is None and self._branch_free(e) else self.at_guarded)[level]
        address = self._displaced(out, pointer.text, buffer, base)
        addresses = self.namer.fresh()
        out.append(
            f"  {addresses} = getelementptr {ty.memory_type(e.dtype)}, ptr {address}, "
            f"<{length} x i64> {index.text}"
        )
        kind = ty.memory_type(e.dtype, length)
        full = f"llvm.masked.gather.{ty.memory_suffix(e.dtype, length)}.v{length}p0"
        self.namer.declare(full, kind, [f"<{length} x ptr>", "i32", f"<{length} x i1>", kind])
        name = self.namer.fresh()
        out.append(
            f"  {name} = call {kind} @{full}(<{length} x ptr> {addresses}, i32 {dt.nbytes(e.dtype)}, "
            f"<{length} x i1> {mask}, {kind} zeroinitializer)"
        )
        return Value(self._from_memory(out, length, e.dtype, name), length, level, deps)

    # ------------------------------------------------------------------------------------------------- stores
    def store(self, s: Store) -> None:
        """Emit a store statement."""
        buffer = s.buffer
        if isinstance(s.value, Load) and s.value.buffer is buffer and s.value.indices == s.indices:
            return
        strides = self.strides(buffer)
        terms, base = offset_terms(self.forms, s.indices, strides)
        varying = any(map(self.forms.depends, terms))
        if not varying and self.vector_length:
            value = self._reduced(s)
        else:
            value = self.value(s.value)
        if buffer in self.slots:
            self._store_slot(s, value)
        elif not varying:
            if value.lanes:
                value = self._last_lane(value, buffer)
            self._store_scalar(buffer, terms, base, value)
        else:
            length = max(self._length(i) for i in s.indices if self.forms.depends(i))
            value = self.widen(value, buffer.dtype, length, s.value)
            form = self.forms.form_of_terms(terms, base, length)
            if form is not None and form.is_contiguous:
                self._store_contiguous(buffer, form, value)
            else:
                self._scatter(buffer, terms, base, value)
        self.forget(buffer)

    def _reduced(self, s: Store) -> Value:
        """The value of a store of one element by all lanes: a horizontal reduction if it accumulates."""
        value = s.value

        def reads_it(e: Expr) -> bool:
            return any(load.buffer is s.buffer and load.indices == s.indices for load in loads_of(e))

        if isinstance(value, BinOp):
            for old, new in ((value.a, value.b), (value.b, value.a)):
                if isinstance(old, Load) and reads_it(old) and not reads_it(new):
                    return self._horizontal(value.op, old, new)
        if reads_it(value):
            raise CompileError(
                f"the lanes of a vectorized loop update one element of '{s.buffer.name}' in turn"
            )
        return self.value(value)

    def _horizontal(self, op: str, old: Load, new: Expr) -> Value:
        dtype = old.dtype
        terms = self.widen(self.value(new), dtype, self.vector_length, new)
        text, lanes = terms.text, terms.lanes
        ops = self.here(lanes)
        if self.guards:
            guard = self.widen(self.guards[-1].value, "bool", lanes, ("guard", self.guards[-1].value.text))
            if op in _REDUCTIONS:
                identity = reduce_identity(_REDUCTIONS[op], dtype).value
            elif op in _BITWISE_IDENTITY:
                identity = _BITWISE_IDENTITY[op]
            else:
                raise CompileError(f"operator '{op}' does not reduce over the lanes of a vectorized loop")
            text = ops.select(dtype, guard.text, text, ops.const(identity, dtype))
        elif op not in _REDUCTIONS and op not in _BITWISE_IDENTITY:
            raise CompileError(f"operator '{op}' does not reduce over the lanes of a vectorized loop")
        total = ops.reduce(op, dtype, text)
        before = self.value(old)
        level = len(self.scopes) - 1
        return Value(self.here().binary(op, dtype, before.text, total), 0, level)

    def _last_lane(self, value: Value, buffer: Buffer) -> Value:
        """What remains when all lanes write one element in turn."""
        if self.guards:
            raise CompileError(f"the lanes of a guarded vectorized loop write one element of '{buffer.name}'")
        kind = ty.value_type(buffer.dtype, value.lanes)
        text = self.here().inst(f"extractelement {kind} {value.text}, i32 {value.lanes - 1}")
        return Value(text, 0, len(self.scopes) - 1)

    def _to_memory(self, value: Value, dtype: str) -> str:
        return self.here(value.lanes).cast(value.text, "bool", "uint8") if dtype == "bool" else value.text

    def _store_scalar(self, buffer: Buffer, terms: Terms, base: int, value: Value) -> None:
        text = self._to_memory(value, buffer.dtype)
        address = self._displaced(self.code, self.pointer(buffer, terms).text, buffer, base)
        kind, align = ty.memory_type(buffer.dtype), dt.nbytes(buffer.dtype)
        if not self.guards:
            self.code.append(f"  store {kind} {text}, ptr {address}, align {align}")
            return
        vector = self.here().inst(f"insertelement <1 x {kind}> poison, {kind} {text}, i32 0")
        test = self._any(self.guards[-1].value)
        mask = self.here().inst(f"insertelement <1 x i1> poison, i1 {test.text}, i32 0")
        self._masked_store(buffer, 1, vector, address, mask)

    def _store_contiguous(self, buffer: Buffer, form: LaneForm, value: Value) -> None:
        text = self._to_memory(value, buffer.dtype)
        pointer = self.pointer(buffer, form.terms)
        address = self._displaced(self.code, pointer.text, buffer, form.base + form.offsets[0])
        if self.guards:
            guard = self.guards[-1].value
            mask = self.widen(guard, "bool", value.lanes, ("guard", guard.text))
            self._masked_store(buffer, value.lanes, text, address, mask.text)
        else:
            kind = ty.memory_type(buffer.dtype, value.lanes)
            self.code.append(f"  store {kind} {text}, ptr {address}, align {dt.nbytes(buffer.dtype)}")

    def _masked_store(self, buffer: Buffer, lanes: int, text: str, address: str, mask: str) -> None:
        kind = ty.memory_type(buffer.dtype, lanes)
        full = f"llvm.masked.store.{ty.memory_suffix(buffer.dtype, lanes)}.p0"
        self.namer.declare(full, "void", [kind, "ptr", "i32", f"<{lanes} x i1>"])
        self.code.append(
            f"  call void @{full}({kind} {text}, ptr {address}, i32 {dt.nbytes(buffer.dtype)}, "
            f"<{lanes} x i1> {mask})"
        )

    def _scatter(self, buffer: Buffer, terms: Terms, base: int, value: Value) -> None:
        lanes = value.lanes
        text = self._to_memory(value, buffer.dtype)
        shared, index = self._lane_index(terms, lanes)
        address = self._displaced(self.code, self.pointer(buffer, shared).text, buffer, base)
        addresses = self.here().inst(
            f"getelementptr {ty.memory_type(buffer.dtype)}, ptr {address}, <{lanes} x i64> {index.text}"
        )
        mask = "splat (i1 true)"
        if self.guards:
            guard = self.guards[-1].value
            mask = self.widen(guard, "bool", lanes, ("guard", guard.text)).text
        kind = ty.memory_type(buffer.dtype, lanes)
        full = f"llvm.masked.scatter.{ty.memory_suffix(buffer.dtype, lanes)}.v{lanes}p0"
        self.namer.declare(full, "void", [kind, f"<{lanes} x ptr>", "i32", f"<{lanes} x i1>"])
        self.code.append(
            f"  call void @{full}({kind} {text}, <{lanes} x ptr> {addresses}, i32 {dt.nbytes(buffer.dtype)}, "
            f"<{lanes} x i1> {mask})"
        )

    # -------------------------------------------------------------------------------------------------- slots
    def _run_of(self, buffer: Buffer, indices: tuple[Expr, ...]) -> Run:
        run = access_run(self.forms, self.lanes, indices, self.strides(buffer))
        assert run is not None
        return run

    def _load_column(self, e: Load, slots: Slots, run: Run) -> Value:
        """A lane of each of several slots: a column of the block that they are the rows of, which is
        transposed as a whole."""
        place = slots.column(run)
        assert place is not None
        rows, lane = place
        level, deps = self.buffer_level[e.buffer], self.bit(e.buffer)
        width = slots.lanes[rows[0]]
        key = ("column", e.buffer, tuple(rows))
        if (*key, lane) not in self.memo:
            ops, level = self.ops(level, width)
            texts, moved = [slots.values[row] for row in rows], slots.dtype
            if slots.dtype in _MOVED_AS:
                moved = _MOVED_AS[slots.dtype]
                texts = [_as_integer(ops, text, slots.dtype, moved) for text in texts]
            scalar, bits = ty.scalar_type(moved), dt.bits(moved)
            narrow, _ = self.ops(level, run.lanes)
            for c, text in enumerate(shuffles.transpose(texts, width, scalar, bits, ops.inst)):
                text = text if moved == slots.dtype else _as_integer(narrow, text, moved, slots.dtype)
                self.remember((*key, c), Value(text, run.lanes, level, deps))
        return self.remember(e, self.memo[*key, lane])

    def _load_picks(self, e: Load, slots: Slots) -> Value:
        """Lanes that are known elements of several slots, in any order."""
        picks = access_picks(self.forms, e.indices, self.strides(e.buffer))
        places = None if picks is None else slots.places(picks)
        assert places is not None
        order = list(dict.fromkeys(slot for slot, _ in places))
        width = slots.lanes[order[0]]
        ops, level = self.ops(self.buffer_level[e.buffer], width)
        lanes = [(order.index(slot), lane) for slot, lane in places]
        texts = [slots.values[slot] for slot in order]
        text = shuffles.collect(texts, width, ty.scalar_type(slots.dtype), lanes, ops.inst)
        return self.remember(e, Value(text, len(lanes), level, self.bit(e.buffer)))

    def _load_slot(self, e: Load, slots: Slots) -> Value:
        run = access_run(self.forms, self.lanes, e.indices, self.strides(e.buffer))
        if run is None:
            return self._load_picks(e, slots)
        if run.step > 1:
            return self._load_column(e, slots, run)
        return self.remember(e, self.read_run(e.buffer, run))

    def read_run(self, buffer: Buffer, run: Run) -> Value:
        """Consecutive elements of a promoted buffer."""
        slots = self.slots[buffer]
        slot, lane = slots.where[run.start]
        length = run.lanes
        level, deps = self.buffer_level[buffer], self.bit(buffer)
        text, width = slots.values[slot], slots.lanes[slot]
        if length == width:
            return Value(text, length, level, deps)
        ops, level = self.ops(level, width)
        if not length:
            kind = ops.type(slots.dtype)
            return Value(ops.inst(f"extractelement {kind} {text}, i32 {lane}"), 0, level, deps)
        part = ops.shuffle(text, "poison", slots.dtype, tuple(range(lane, lane + length)))
        return Value(part, length, level, deps)

    def _store_slot(self, s: Store, value: Value) -> None:
        run = self._run_of(s.buffer, s.indices)
        if value.lanes and not run.lanes:
            value = self._last_lane(value, s.buffer)
        elif run.lanes:
            value = self.widen(value, s.buffer.dtype, run.lanes, s.value)
        self.write_run(s.buffer, run, value)

    def write_run(self, buffer: Buffer, run: Run, value: Value) -> None:
        """Replace consecutive elements of a promoted buffer."""
        slots = self.slots[buffer]
        slot, lane = slots.where[run.start]
        length = run.lanes
        width, dtype = slots.lanes[slot], slots.dtype
        old = slots.values[slot]
        ops = self.here(width)
        if length == width:
            text = value.text
        elif not length:
            text = ops.inst(
                f"insertelement {ops.type(dtype)} {old}, {ty.scalar_type(dtype)} {value.text}, i32 {lane}"
            )
        else:
            spread = tuple(i - lane if lane <= i < lane + length else -1 for i in range(width))
            part = self.here(length)
            kind = part.type(dtype)
            padded = part.inst(f"shufflevector {kind} {value.text}, {kind} poison, {ty.shuffle_mask(spread)}")
            blend = tuple(i + width if lane <= i < lane + length else i for i in range(width))
            text = ops.shuffle(old, padded, dtype, blend)
        if self.guards:
            text = self._blend(slots, text, old, slot, lane, length)
        slots.values[slot] = text

    def _blend(self, slots: Slots, new: str, old: str, slot: int, lane: int, length: int) -> str:
        """The new value of a slot where the guard holds, the old one elsewhere."""
        guard = self.guards[-1].value
        width = slots.lanes[slot]
        ops = self.here(width)
        if not guard.lanes or not length:
            test = self._any(guard).text
            kind = ops.type(slots.dtype)
            return ops.inst(f"select i1 {test}, {kind} {new}, {kind} {old}")
        mask = self.widen(guard, "bool", length, ("guard", guard.text)).text
        if length != width:
            spread = tuple(i - lane if lane <= i < lane + length else length for i in range(width))
            kind = f"<{length} x i1>"
            mask = ops.inst(f"shufflevector {kind} {mask}, {kind} zeroinitializer, {ty.shuffle_mask(spread)}")
        return ops.select(slots.dtype, mask, new, old)


def _as_integer(ops: Ops, text: str, source: str, target: str) -> str:
    """To the type in :data:`_MOVED_AS` and back."""
    if "bool" in (source, target):
        return ops.cast(text, source, target)
    return ops.bitcast(text, source, target)
