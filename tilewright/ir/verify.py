"""The rules that every PrimFunc keeps, checked. A program that breaks one is a defect of the pass that made
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from tilewright.errors import IntrinsicError, VerifyError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Call, Cmp, Const, Expr, Load, Reduce, Select, Var
from tilewright.ir.intrinsics import INTRINSICS
from tilewright.ir.printer import Printer
from tilewright.ir.stmt import (
    LOOP_KINDS,
    Alloc,
    Annotate,
    Block,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Region,
    Seq,
    Stmt,
    Store,
    TensorCall,
)
from tilewright.ir.tensor_intrinsics import check_operands, expand
from tilewright.ir.visit import find_blocks

_BITWISE: Final = frozenset(["and", "or", "xor"])


def verify(func: PrimFunc) -> None:
    """Check the rules of the IR.

    Raises VerifyError, which shows the place in the program's text, unless: every variable is used inside its
    loop or block and a block's body sees only its own iterators; buffers are parameters or allocated around
    their uses; ranks and dtypes agree; indices and extents are int64; block names are unique; inputs are not
    stored to; loops are of a known kind, vectorized ones of constant extent, parallel ones not nested;
    intrinsics exist, and tensor intrinsics get operands that they take; and, once there are no blocks,
    register buffers have constant shapes and do not cross the border of a parallel loop.
    """
    _Verifier(func).run()


class _Verifier:
    def __init__(self, func: PrimFunc) -> None:
        self._func = func
        self._at: Stmt | None = None
        self._vars: set[Var] = set()
        self._buffers: set[Buffer] = set()
        self._outputs: set[Buffer] = set(func.outputs)
        self._inputs: set[Buffer] = {p for p in func.inputs if isinstance(p, Buffer)}
        self._loops: list[str] = []
        self._foreign: set[Buffer] = set()
        self._lowered = not find_blocks(func.body)
        self._uses: dict[Expr, tuple[frozenset[Var], frozenset[Buffer]]] = {}

    def _fail(self, message: str) -> NoReturn:
        raise VerifyError(message, location=excerpt(self._func, self._at))

    # -- function --------------------------------------------------------------------------------------------

    def run(self) -> None:
        func = self._func
        count = func.attr("outputs", 1)
        if not isinstance(count, int) or not 0 < count <= len(func.params):
            self._fail(f"'{func.name}' says it has {count!r} outputs; it has {len(func.params)} parameters")
        if len(func.outputs) != count:
            self._fail("an output is not a buffer")
        for name, times in Counter(p.name for p in func.params).items():
            if times > 1:
                self._fail(f"{times} parameters are called '{name}'")
        for name in func.attr("const_params", ()):
            if name not in {b.name for b in self._inputs}:
                self._fail(f"constant parameter '{name}' is not an input")
        for param in func.params:
            if isinstance(param, Var):
                if param.dtype != dt.INDEX:
                    self._fail(f"dimension '{param.name}' is {param.dtype}, not {dt.INDEX}")
                self._vars.add(param)
        for param in func.params:
            if isinstance(param, Buffer):
                if param.scope == "register":
                    self._fail(f"parameter '{param.name}' cannot live in registers")
                self._buffer(param)
                self._buffers.add(param)
        self._stmt(func.body)
        for name, times in Counter(b.name for b in find_blocks(func.body)).items():
            if times > 1:
                self._fail(f"{times} blocks are called '{name}'")

    def _buffer(self, buffer: Buffer) -> None:
        if buffer.dtype not in dt.DTYPES:
            self._fail(f"buffer '{buffer.name}' has unknown element type '{buffer.dtype}'")
        for dim in buffer.shape:
            self._index(dim, f"a dimension of '{buffer.name}'")
        if buffer.strides is not None:
            if len(buffer.strides) != len(buffer.shape):
                counts = f"{len(buffer.strides)} strides for {len(buffer.shape)} dimensions"
                self._fail(f"buffer '{buffer.name}' has {counts}")
            for stride in buffer.strides:
                self._index(stride, f"a stride of '{buffer.name}'")
        if buffer.scope == "register" and self._lowered and buffer.static_shape is None:
            self._fail(f"register buffer '{buffer.name}' has a shape that is not constant")

    # -- statements ------------------------------------------------------------------------------------------

    def _stmt(self, s: Stmt) -> None:
        self._at = s
        if isinstance(s, Seq):
            for child in s.stmts:
                self._stmt(child)
        elif isinstance(s, Store):
            self._store(s)
        elif isinstance(s, For):
            self._for(s)
        elif isinstance(s, If):
            self._bool(s.cond, "the condition")
            self._stmt(s.then)
            if s.orelse is not None:
                self._stmt(s.orelse)
        elif isinstance(s, Alloc):
            if s.buffer in self._buffers:
                self._fail(f"buffer '{s.buffer.name}' is already in scope")
            self._buffer(s.buffer)
            self._buffers.add(s.buffer)
            self._stmt(s.body)
            self._buffers.discard(s.buffer)
        elif isinstance(s, Annotate):
            self._stmt(s.body)
        elif isinstance(s, Evaluate):
            self._evaluate(s)
        elif isinstance(s, TensorCall):
            self._tensor_call(s)
        elif isinstance(s, Block):
            self._block(s)
        else:
            self._fail(f"{type(s).__name__} is not a statement")

    def _store(self, s: Store) -> None:
        if s.buffer in self._inputs and s.buffer not in self._outputs:
            self._fail(f"store to input '{s.buffer.name}'")
        self._access(s.buffer, s.indices)
        self._expr(s.value)
        if s.value.dtype != s.buffer.dtype:
            self._fail(f"a {s.value.dtype} value is stored into {s.buffer.dtype} buffer '{s.buffer.name}'")

    def _for(self, s: For) -> None:
        if s.kind not in LOOP_KINDS and s.kind != "virtual" and not s.kind.startswith("thread:"):
            self._fail(f"unknown loop kind '{s.kind}'")
        self._index(s.extent, "the extent")
        if s.kind == "vectorized" and not isinstance(s.extent, Const):
            self._fail(f"vectorized loop '{s.var.name}' has no constant extent")
        if s.kind == "parallel" and ("parallel" in self._loops or "vectorized" in self._loops):
            self._fail(f"parallel loop '{s.var.name}' is inside another parallel or vectorized loop")
        self._loops.append(s.kind)
        foreign = self._foreign
        if s.kind == "parallel" and self._lowered:
            self._foreign = {b for b in self._buffers if b.scope == "register"}
        with self._bound([s.var]):
            self._stmt(s.body)
        self._foreign = foreign
        self._loops.pop()

    @contextmanager
    def _bound(self, variables: Iterable[Var]) -> Iterator[None]:
        variables = list(variables)
        for var in variables:
            if var in self._vars:
                self._fail(f"variable '{var.name}' is already bound here")
            if var.dtype != dt.INDEX:
                self._fail(f"variable '{var.name}' is {var.dtype}, not {dt.INDEX}")
            self._vars.add(var)
        yield
        self._vars.difference_update(variables)

    def _block(self, s: Block) -> None:
        for it in s.iters:
            if it.kind not in ("spatial", "reduce"):
                self._fail(f"iterator '{it.var.name}' is of unknown kind '{it.kind}'")
            self._index(it.extent, f"the extent of '{it.var.name}'")
            self._index(it.binding, f"the binding of '{it.var.name}'")
        self._bool(s.predicate, "the predicate")
        outer = self._vars
        self._vars = {p for p in self._func.params if isinstance(p, Var)}
        with self._bound(it.var for it in s.iters):
            for region in (*s.reads, *s.writes):
                self._region(region)
            if s.init is not None:
                self._stmt(s.init)
            self._stmt(s.body)
        self._vars = outer

    def _region(self, region: Region) -> None:
        lows = tuple(r.lo for r in region.ranges)
        self._access(region.buffer, lows)
        for r in region.ranges:
            self._index(r.extent, f"an extent of the region of '{region.buffer.name}'")

    def _tensor_call(self, s: TensorCall) -> None:
        for region in s.operands:
            self._region(region)
        try:
            check_operands(s.intrinsic, s.operands)
        except IntrinsicError as error:
            self._fail(error.message)
        self._stmt(expand(s))
        self._at = s

    def _evaluate(self, s: Evaluate) -> None:
        e = s.value
        spec = INTRINSICS.get(e.name) if isinstance(e, Call) else None
        if spec is None or not spec.effect:
            self._fail("only effects are evaluated for themselves")
        if len(e.children) != spec.arity:
            self._fail(f"{spec.name} takes {spec.arity} operands, not {len(e.children)}")
        for operand in e.children:
            self._index(operand, f"an operand of {spec.name}")

    # -- expressions -----------------------------------------------------------------------------------------

    def _access(self, buffer: Buffer, indices: tuple[Expr, ...]) -> None:
        if len(indices) != len(buffer.shape):
            self._fail(f"{len(indices)} indices for buffer '{buffer.name}' of rank {len(buffer.shape)}")
        self._in_scope(buffer)
        for index in indices:
            self._index(index, f"an index of '{buffer.name}'")

    def _in_scope(self, buffer: Buffer) -> None:
        if buffer not in self._buffers:
            self._fail(f"buffer '{buffer.name}' is neither a parameter nor allocated around this")
        if buffer in self._foreign:
            self._fail(f"register buffer '{buffer.name}' is used in a parallel loop inside its allocation")

    def _index(self, e: Expr, what: str) -> None:
        self._expr(e)
        if e.dtype != dt.INDEX:
            self._fail(f"{what} is {e.dtype}, not {dt.INDEX}")

    def _bool(self, e: Expr, what: str) -> None:
        self._expr(e)
        if e.dtype != "bool":
            self._fail(f"{what} is {e.dtype}, not bool")

    def _expr(self, e: Expr) -> None:
        """Types inside ``e``, and that its variables and buffers are in scope."""
        variables, buffers = self._used(e)
        unbound = sorted(var.name for var in variables - self._vars)
        if unbound:
            self._fail(f"variable '{unbound[0]}' is not bound here")
        for buffer in buffers:
            self._in_scope(buffer)

    def _used(self, e: Expr) -> tuple[frozenset[Var], frozenset[Buffer]]:
        known = self._uses.get(e)
        if known is None:
            if isinstance(e, Var):
                known = frozenset([e]), frozenset()
            else:
                parts = [self._used(c) for c in e.children]
                variables = frozenset().union(*(v for v, _ in parts)) if parts else frozenset[Var]()
                buffers = frozenset().union(*(b for _, b in parts)) if parts else frozenset[Buffer]()
                if isinstance(e, Load):
                    buffers |= {e.buffer}
                self._types(e)
                known = variables, buffers
            self._uses[e] = known
        return known

    def _types(self, e: Expr) -> None:
        """The operand types of one node."""
        if isinstance(e, Load):
            if len(e.indices) != len(e.buffer.shape):
                self._fail(
                    f"{len(e.indices)} indices for buffer '{e.buffer.name}' of rank {len(e.buffer.shape)}"
                )
            if any(i.dtype != dt.INDEX for i in e.indices):
                self._fail(f"an index of '{e.buffer.name}' is not {dt.INDEX}: {e!r}")
        elif isinstance(e, BinOp):
            if e.a.dtype != e.b.dtype or (e.dtype == "bool" and e.op not in _BITWISE):
                self._fail(f"'{e.op}' does not take {e.a.dtype} and {e.b.dtype}: {e!r}")
            if dt.is_float(e.dtype) and e.op in (*_BITWISE, "shl", "shr", "floordiv", "mod"):
                self._fail(f"'{e.op}' takes integers, not {e.dtype}: {e!r}")
            if not dt.is_float(e.dtype) and e.op == "div":
                self._fail(f"'div' takes floats, not {e.dtype}: {e!r}")
        elif isinstance(e, Cmp):
            if e.a.dtype != e.b.dtype:
                self._fail(f"'{e.op}' compares {e.a.dtype} with {e.b.dtype}: {e!r}")
        elif isinstance(e, Select):
            if e.cond.dtype != "bool":
                self._fail(f"the condition of a select is {e.cond.dtype}, not bool: {e!r}")
        elif isinstance(e, Call):
            self._intrinsic(e)
        elif isinstance(e, Reduce):
            self._fail(f"a reduction is only part of tensor expressions: {e!r}")

    def _intrinsic(self, e: Call) -> None:
        spec = INTRINSICS.get(e.name)
        if spec is None or spec.effect:
            self._fail(f"'{e.name}' is not an intrinsic with a value")
        if len(e.args) != spec.arity:
            self._fail(f"{e.name} takes {spec.arity} operands, not {len(e.args)}: {e!r}")
        dtypes = sorted({a.dtype for a in e.args})
        if len(dtypes) != 1 or not spec.accepts(dtypes[0]):
            self._fail(f"{e.name} takes {spec.domain} operands of one dtype, not {', '.join(dtypes)}: {e!r}")
        if e.dtype != spec.result_dtype(dtypes[0]):
            self._fail(f"{e.name} of {dtypes[0]} gives {spec.result_dtype(dtypes[0])}, not {e.dtype}: {e!r}")


def excerpt(func: PrimFunc, at: Stmt | None) -> str:
    """The text around ``at`` with carets under it."""
    printer = Printer()
    lines = printer.function(func).splitlines()
    number = 1 if at is None else printer.lines.get(at, 1)
    line = lines[min(number, len(lines) - 1)]
    indent = len(line) - len(line.lstrip())
    before = lines[max(number - 2, 0) : number]
    carets = " " * indent + "^" * len(line.strip())
    return "\n    ".join([f"{func.name}, line {number + 1}", *before, line, carets])
