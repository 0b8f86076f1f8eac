"""Tensor calls: operands as vectors, and the instructions that work on them.

An implementation is a function that gets one :class:`Operand` a parameter and emits straight-line code. What
it reads is loaded where loads belong (hoisted, shared, remembered); an accumulator in registers is the SSA
value of its slot, so a call costs what its instruction costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tilewright.backend.implementations import implementation, register_implementation
from tilewright.backend.llvm import types as ty
from tilewright.backend.llvm.lanes import offset_terms
from tilewright.backend.llvm.memory import Memory
from tilewright.backend.llvm.ops import Ops
from tilewright.backend.llvm.placement import Value
from tilewright.backend.llvm.registers import operand_run
from tilewright.errors import CompileError, TargetError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const, as_expr
from tilewright.ir.stmt import PrimFunc, Range, Region, TensorCall
from tilewright.ir.visit import const_int, walk_stmt
from tilewright.target import Target

Implementation = Callable[..., None]
BACKEND = "llvm"


def implements(*intrinsics: str) -> Callable[[Implementation], Implementation]:
    """Decorator: this function emits ``intrinsics``. It gets an :class:`Operand` for each parameter."""

    def note(function: Implementation) -> Implementation:
        for name in intrinsics:
            register_implementation(BACKEND, name, function)
        return function

    return note


def require_intrinsics(func: PrimFunc, target: Target) -> None:
    """Raise TargetError when ``target`` lacks something that a tensor intrinsic in ``func`` needs."""
    for call in walk_stmt(func.body):
        if isinstance(call, TensorCall):
            missing = [f for f in call.intrinsic.requires if not target.has(f)]
            if missing:
                raise TargetError(
                    f"'{call.intrinsic.name}' in '{func.name}' needs {', '.join(missing)}, which target "
                    f"'{target.name}' does not have",
                    hint="schedule for the target that the code is meant for",
                )


class Operand:
    """A part of a buffer that an instruction reads or writes.

    Attributes:
        count: its elements.
        dtype: their type.
    """

    def __init__(self, owner: Tensors, region: Region) -> None:
        self._owner = owner
        self._region = region
        self.dtype = region.buffer.dtype
        self.count = 1
        for r in region.ranges:
            assert isinstance(r.extent, Const)
            self.count *= int(r.extent.value)

    def vector(self, kind: str) -> str:
        """All elements, one after the other, as an LLVM value of type ``kind`` (of as many bits)."""
        return self._owner.region_value(self._region, kind).text

    def broadcast(self, kind: str, copies: int) -> str:
        """All elements (8 to 64 bits) repeated ``copies`` times, as a value of type ``kind``."""
        return self._owner.repeated(self._region, self.count * dt.bits(self.dtype), copies, kind).text

    def rows(self, kind: str) -> str:
        """The elements, row after row, of rows that need not lie next to each other; each row is 64 bits."""
        return self._owner.gathered_rows(self._region, kind).text

    def write(self, text: str, kind: str) -> None:
        """Replace all elements by the value ``text`` of type ``kind``."""
        self._owner.write_region(self._region, text, kind)

    @property
    def ops(self) -> Ops:
        """Emits instructions at the place of the call."""
        return self._owner.here()

    def call(self, name: str, result: str, *arguments: tuple[str, str]) -> str:
        """Call the LLVM intrinsic ``name`` on ``(type, value)`` pairs; its result has type ``result``."""
        self._owner.namer.declare(name, result, [kind for kind, _ in arguments])
        return self.ops.inst(f"call {result} @{name}({', '.join(f'{k} {v}' for k, v in arguments)})")


class Tensors(Memory):
    """Emits tensor calls."""

    def tensor_call(self, s: TensorCall) -> None:
        """Emit a call at the current position. Raises TargetError when nobody said how."""
        if self.guards or self.vector_length:
            raise CompileError(f"tensor intrinsic '{s.intrinsic.name}' inside a vectorized loop")
        emit = implementation(BACKEND, s.intrinsic.name)
        emit(*(Operand(self, region) for region in s.operands))

    # -- reading ---------------------------------------------------------------------------------------------

    def region_value(self, region: Region, kind: str) -> Value:
        """The elements of a compact part of a buffer as a value of type ``kind``."""
        key = ("region", region, kind)
        known = self.memo.get(key)
        if known is not None:
            return known
        if region.buffer in self.slots:
            run = operand_run(self.forms, region, self.strides(region.buffer))
            assert run is not None
            value = self.read_run(region.buffer, run)
            held = ty.value_type(region.buffer.dtype, run.lanes)
            if held == kind:
                return value
            ops, level = self.ops(value.level, 0)
            text = ops.inst(f"bitcast {held} {value.text} to {kind}")
            return self.remember(key, Value(text, 0, level, value.deps))
        return self.remember(key, self._loaded(region, kind))

    def _loaded(self, region: Region, kind: str) -> Value:
        """A load of consecutive elements from memory."""
        buffer = region.buffer
        terms, base = offset_terms(self.forms, tuple(r.lo for r in region.ranges), self.strides(buffer))
        deps = self.bit(buffer) if buffer in self.analysis.mutable else 0
        pointer = self.pointer(buffer, terms)
        level = max(self.buffer_level.get(buffer, 0), pointer.level)
        free = len(self.scopes) > 1 and self._region_in_bounds(region)
        out, level = (self.at if free else self.at_guarded)[level]
        address = self._displaced(out, pointer.text, buffer, base)
        name = self.namer.fresh()
        out.append(f"  {name} = load {kind}, ptr {address}, align {dt.nbytes(buffer.dtype)}")
        return Value(name, 0, level, deps | pointer.deps)

    def _region_in_bounds(self, region: Region) -> bool:
        """Whether all elements are known to exist, whatever branches say."""
        for r, size in zip(region.ranges, region.buffer.shape, strict=True):
            low, high = self.ranges.interval(r.lo)
            extent, limit = const_int(r.extent), const_int(size)
            if low is None or high is None or extent is None or limit is None:
                return False
            if low < 0 or high + extent > limit:
                return False
        return True

    def repeated(self, region: Region, bits: int, copies: int, kind: str) -> Value:
        """A part of ``bits`` bits repeated, as ``kind``: one load that LLVM folds into a broadcast."""
        key = ("repeated", region, copies, kind)
        known = self.memo.get(key)
        if known is None:
            scalar = "float" if region.buffer.dtype == "float32" else f"i{bits}"
            one = self.region_value(region, scalar)
            ops, level = self.ops(one.level, 0)
            wide = f"<{copies} x {scalar}>"
            first = ops.inst(f"insertelement {wide} poison, {scalar} {one.text}, i64 0")
            text = ops.inst(f"shufflevector {wide} {first}, {wide} poison, <{copies} x i32> zeroinitializer")
            if wide != kind:
                text = ops.inst(f"bitcast {wide} {text} to {kind}")
            known = self.remember(key, Value(text, 0, level, one.deps))
        return known

    def gathered_rows(self, region: Region, kind: str) -> Value:
        """Rows of 64 bits from different places, one after the other, as ``kind``."""
        key = ("rows", region, kind)
        known = self.memo.get(key)
        if known is None:
            parts = [self.region_value(row, "i64") for row in _rows(region)]
            level = max(p.level for p in parts)
            deps = 0
            for part in parts:
                deps |= part.deps
            ops, level = self.ops(level, 0)
            wide, text = f"<{len(parts)} x i64>", "poison"
            for n, part in enumerate(parts):
                text = ops.inst(f"insertelement {wide} {text}, i64 {part.text}, i64 {n}")
            text = ops.inst(f"bitcast {wide} {text} to {kind}")
            known = self.remember(key, Value(text, 0, level, deps))
        return known

    # -- writing ---------------------------------------------------------------------------------------------

    def write_region(self, region: Region, text: str, kind: str) -> None:
        """Replace the elements of a compact part of a buffer by a value of type ``kind``."""
        buffer = region.buffer
        if buffer in self.slots:
            run = operand_run(self.forms, region, self.strides(buffer))
            assert run is not None
            held = ty.value_type(buffer.dtype, run.lanes)
            if held != kind:
                text = self.here().inst(f"bitcast {kind} {text} to {held}")
            self.write_run(buffer, run, Value(text, run.lanes, len(self.scopes) - 1))
        else:
            terms, base = offset_terms(self.forms, tuple(r.lo for r in region.ranges), self.strides(buffer))
            address = self._displaced(self.code, self.pointer(buffer, terms).text, buffer, base)
            self.code.append(f"  store {kind} {text}, ptr {address}, align {dt.nbytes(buffer.dtype)}")
        self.forget(buffer)


def _rows(region: Region) -> Iterable[Region]:
    """A region cut along its first dimension that is longer than one element."""
    dim = next(d for d, r in enumerate(region.ranges) if const_int(r.extent) != 1)
    ranges = list(region.ranges)
    for n in range(const_int(ranges[dim].extent) or 0):
        part = list(ranges)
        part[dim] = Range(ranges[dim].lo + n, as_expr(1))
        yield Region(region.buffer, tuple(part))
