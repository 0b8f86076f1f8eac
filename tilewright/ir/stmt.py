"""Statements, buffers, blocks and PrimFuncs: loop programs over buffers.

All nodes are immutable; equality is identity (``ir.printer.structural_equal`` compares up to renaming).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from tilewright.ir.expr import TRUE, Const, Expr, ExprLike, Var, as_expr

Attr: TypeAlias = int | float | str | bool | tuple["Attr", ...] | Mapping[str, "Attr"] | None

#: For kinds. ``thread:<axis>`` binds a GPU axis; ``virtual`` is a virtual thread.
LOOP_KINDS: Final = ("serial", "parallel", "vectorized", "unrolled")


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Buffer:
    """A dense array in memory.

    Attributes:
        name: for people; identity is what counts.
        shape: one int64 expression per dimension.
        dtype: element type.
        scope: ``global`` (memory), ``register`` (promoted to registers), ``shared``, or a backend's own.
        strides: elements between neighbours per dimension; None means row-major and compact.
        stride_align: ``(dimension, factor, offset)`` each: once the shape is final, the stride of the
            dimension is rounded up to ``offset`` modulo ``factor`` (elements). Lowering makes explicit
            strides of it.
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: str
    scope: str = "global"
    strides: tuple[Expr, ...] | None = None
    stride_align: tuple[tuple[int, int, int], ...] = ()

    @staticmethod
    def make(name: str, shape: Sequence[ExprLike], dtype: str, scope: str = "global") -> Buffer:
        return Buffer(name, tuple(as_expr(s) for s in shape), dtype, scope)

    def with_(self, **changes: Any) -> Buffer:
        """A new buffer that differs in the given fields."""
        return dataclasses.replace(self, **changes)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape as ints, or None when any dimension is symbolic."""
        dims = [s.value for s in self.shape if isinstance(s, Const)]
        return tuple(int(d) for d in dims) if len(dims) == len(self.shape) else None

    def row_major_strides(self) -> tuple[Expr, ...]:
        """Strides in elements: the declared ones, or those of the compact row-major layout."""
        if self.strides is not None:
            return self.strides
        strides: list[Expr] = []
        step: Expr = as_expr(1)
        for dim in reversed(self.shape):
            strides.append(step)
            step = step * dim
        return tuple(reversed(strides))

    def __repr__(self) -> str:
        return f"Buffer({self.name}: {self.dtype}[{', '.join(map(repr, self.shape))}] {self.scope})"


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """``extent`` values from ``lo`` on, in one dimension."""

    lo: Expr
    extent: Expr


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """A rectangular part of a buffer, one range per dimension."""

    buffer: Buffer
    ranges: tuple[Range, ...]


class Stmt:
    """Base class of statements."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Store(Stmt):
    """``buffer[indices] = value``."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class For(Stmt):
    """A loop of ``var`` over ``0 .. extent-1``.

    ``kind`` is serial, parallel (iterations independent, any order, any thread), vectorized, unrolled,
    ``thread:<axis>`` or ``virtual``. ``annotations`` are hints that never change meaning.
    """

    var: Var
    extent: Expr
    body: Stmt
    kind: str = "serial"
    annotations: tuple[tuple[str, Attr], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class If(Stmt):
    """``then`` where ``cond`` (bool) holds, else ``orelse``.

    Parts of ``cond`` (joined by ``and``) that read memory are only evaluated where the other parts hold.
    """

    cond: Expr
    then: Stmt
    orelse: Stmt | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Seq(Stmt):
    """Statements one after the other."""

    stmts: tuple[Stmt, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Alloc(Stmt):
    """``buffer`` exists, with undefined content, while ``body`` runs."""

    buffer: Buffer
    body: Stmt


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Evaluate(Stmt):
    """An expression run for its effect (intrinsics such as ``fence``)."""

    value: Expr


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TensorCall(Stmt):
    """One tensor intrinsic applied to parts of buffers: ``operands`` are its parameters, in order.

    The dimensions of a region that are longer than one element are those of the parameter that are, in order.
    Walking enters what the call means (``ir.tensor_intrinsics.expand``), so whoever analyses a program by
    walking it sees loops, loads and stores; rewriting treats the call as a leaf with regions.
    """

    intrinsic: TensorIntrinsic
    operands: tuple[Region, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Annotate(Stmt):
    """A hint on ``body`` that never changes meaning."""

    key: str
    value: Attr
    body: Stmt


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class IterVar:
    """An iterator of a block: ``var`` over ``0 .. extent-1``, bound to ``binding`` (an expression over the
    loops outside).

    ``kind`` is ``spatial`` (iterations write disjoint elements, any order) or ``reduce``.
    """

    var: Var
    extent: Expr
    kind: str
    binding: Expr


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Block(Stmt):
    """The unit of scheduling: a body over block iterators that does not see the loops around it except
    through bindings.

    Attributes:
        name: unique in the function.
        iters: block iterators with their bindings.
        reads, writes: regions touched by one instance, over the iterators.
        body: what one instance does.
        init: what the first instance along the reduce iterators does before its body, or None.
        predicate: an instance runs only where it holds (over the loops outside).
        annotations: hints that never change meaning.
    """

    name: str
    iters: tuple[IterVar, ...]
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]
    body: Stmt
    init: Stmt | None = None
    predicate: Expr = TRUE
    annotations: tuple[tuple[str, Attr], ...] = ()

    def with_(self, **changes: Any) -> Block:
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PrimFunc:
    """A loop program.

    ``params`` are Buffers (and int64 Vars for run-time dimensions); the last ``attrs["outputs"]`` of them are
    written, the rest are only read. ``attrs["const_params"]`` names the parameters whose data is known at
    compile time.
    """

    name: str
    params: tuple[Buffer | Var, ...]
    body: Stmt
    attrs: tuple[tuple[str, Attr], ...] = ()

    def attr(self, key: str, default: Any = None) -> Any:
        return dict(self.attrs).get(key, default)

    def with_attr(self, key: str, value: Attr) -> PrimFunc:
        attrs = {**dict(self.attrs), key: value}
        return dataclasses.replace(self, attrs=tuple(sorted(attrs.items())))

    def with_(self, **changes: Any) -> PrimFunc:
        return dataclasses.replace(self, **changes)

    @property
    def outputs(self) -> tuple[Buffer, ...]:
        """The parameters that are written."""
        count = int(self.attr("outputs", 1))
        return tuple(p for p in self.params[len(self.params) - count :] if isinstance(p, Buffer))

    @property
    def inputs(self) -> tuple[Buffer | Var, ...]:
        """The parameters that are only read."""
        return self.params[: len(self.params) - int(self.attr("outputs", 1))]

    def __repr__(self) -> str:
        from tilewright.ir.printer import to_text

        return to_text(self)


@dataclasses.dataclass(frozen=True, slots=True)
class OperandSpec:
    """What an instruction wants of one operand.

    Attributes:
        scopes: memories it may live in; none means any.
        strides: elements between neighbours in each dimension of the parameter, None where any number will
            do; None as a whole means row-major and compact.
        alignment: what the address of its first element, in bytes, must be a multiple of.
    """

    scopes: tuple[str, ...] = ()
    strides: tuple[int | None, ...] | None = None
    alignment: int = 1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TensorIntrinsic:
    """What one instruction of some hardware computes, as data.

    Attributes:
        name: unique; how programs, traces and implementations refer to it.
        semantic: its meaning: one perfect nest of loops of constant extent around one store, every dimension
            of a parameter indexed by a loop of its own. Sums of floats may be taken in any order.
        operands: what it wants of each parameter of ``semantic``.
        requires: names of target features that must all be there (``Target.has``).
    """

    name: str
    semantic: PrimFunc
    operands: tuple[OperandSpec, ...]
    requires: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"TensorIntrinsic({self.name})"


def seq(stmts: Sequence[Stmt]) -> Stmt:
    """One statement for several: flattened, a single one stays itself."""
    flat: list[Stmt] = []
    for stmt in stmts:
        flat.extend(stmt.stmts if isinstance(stmt, Seq) else [stmt])
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def child_stmts(stmt: Stmt) -> Sequence[Stmt]:
    """The statements directly inside ``stmt``; in a tensor call, the loops that it stands for."""
    kind = type(stmt)
    if kind is Store or kind is Evaluate:
        return ()
    if isinstance(stmt, Seq):
        return stmt.stmts
    if isinstance(stmt, For | Alloc | Annotate):
        return (stmt.body,)
    if isinstance(stmt, Block):
        return (stmt.body,) if stmt.init is None else (stmt.init, stmt.body)
    if isinstance(stmt, If):
        return (stmt.then,) if stmt.orelse is None else (stmt.then, stmt.orelse)
    if isinstance(stmt, TensorCall):
        from tilewright.ir.tensor_intrinsics import expand

        return (expand(stmt),)
    return ()


def with_inner(stmt: For | Alloc | Annotate, body: Stmt) -> Stmt:
    """``stmt`` around another body."""
    if body is stmt.body:
        return stmt
    if isinstance(stmt, For):
        return For(stmt.var, stmt.extent, body, stmt.kind, stmt.annotations)
    if isinstance(stmt, Alloc):
        return Alloc(stmt.buffer, body)
    return Annotate(stmt.key, stmt.value, body)
