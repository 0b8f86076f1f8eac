"""Arithmetic on run-time sizes as LLVM IR: functions of the table of a variant's dimensions.

The table is an array of int64, one for each dimension. Divisions round down, as index arithmetic does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tilewright.errors import CompileError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Cast, Cmp, Const, Expr, Select, Var

_OPS: Final = {"add": "add nsw", "sub": "sub nsw", "mul": "mul nsw", "and": "and", "or": "or", "xor": "xor"}
_MINMAX: Final = {"min": "slt", "max": "sgt"}
_CMPS: Final = {"lt": "slt", "le": "sle", "eq": "eq", "ne": "ne"}


class SizeEmitter:
    """Instructions that compute expressions over ``dims`` (variable: place in the table ``%dims``).

    Attributes:
        lines: the instructions so far.
    """

    def __init__(self, dims: Mapping[Var, int]) -> None:
        self.lines: list[str] = []
        self._dims = dims
        self._memo: dict[Expr, str] = {}
        self._count = 0

    def value(self, e: Expr) -> str:
        """The SSA value or number that holds ``e``. Raises CompileError for what is no size."""
        if isinstance(e, Const):
            return str(int(e.value))
        known = self._memo.get(e)
        if known is None:
            known = self._memo[e] = self._compute(e)
        return known

    def _compute(self, e: Expr) -> str:
        if isinstance(e, Var) and e in self._dims:
            place = self.instruction(f"getelementptr i64, ptr %dims, i64 {self._dims[e]}")
            return self.instruction(f"load i64, ptr {place}")
        if isinstance(e, BinOp):
            return self._binop(e)
        if isinstance(e, Cmp) and e.a.dtype == dt.INDEX:
            a, b = self.value(e.a), self.value(e.b)
            return self.instruction(f"icmp {_CMPS[e.op]} i64 {a}, {b}")
        if isinstance(e, Select):
            cond, kind = self.value(e.cond), _kind(e)
            return self.instruction(f"select i1 {cond}, {kind} {self.value(e.a)}, {kind} {self.value(e.b)}")
        if isinstance(e, Cast) and e.dtype == dt.INDEX and e.value.dtype == "bool":
            return self.instruction(f"zext i1 {self.value(e.value)} to i64")
        raise CompileError(f"{e!r} is not arithmetic on dimensions")

    def _binop(self, e: BinOp) -> str:
        a, b, kind = self.value(e.a), self.value(e.b), _kind(e)
        if e.op in _OPS:
            name = _OPS[e.op] if kind == "i64" else e.op
            return self.instruction(f"{name} {kind} {a}, {b}")
        if e.op in _MINMAX:
            first = self.instruction(f"icmp {_MINMAX[e.op]} i64 {a}, {b}")
            return self.instruction(f"select i1 {first}, i64 {a}, i64 {b}")
        if e.op not in ("floordiv", "mod"):
            raise CompileError(f"{e!r} is not arithmetic on dimensions")
        # Round towards negative infinity: correct the truncated quotient where signs differ; x / 0 is 0.
        zero = self.instruction(f"icmp eq i64 {b}, 0")
        divisor = self.instruction(f"select i1 {zero}, i64 1, i64 {b}")
        rest = self.instruction(f"srem i64 {a}, {divisor}")
        signs = self.instruction(f"xor i64 {rest}, {divisor}")
        differ = self.instruction(f"icmp slt i64 {signs}, 0")
        left = self.instruction(f"icmp ne i64 {rest}, 0")
        fix = self.instruction(f"and i1 {differ}, {left}")
        if e.op == "mod":
            moved = self.instruction(f"add i64 {rest}, {divisor}")
            result = self.instruction(f"select i1 {fix}, i64 {moved}, i64 {rest}")
        else:
            quotient = self.instruction(f"sdiv i64 {a}, {divisor}")
            lower = self.instruction(f"sub i64 {quotient}, 1")
            result = self.instruction(f"select i1 {fix}, i64 {lower}, i64 {quotient}")
        return self.instruction(f"select i1 {zero}, i64 0, i64 {result}")

    def store(self, e: Expr, index: int) -> None:
        """Write ``e`` to element ``index`` of the array ``%out``."""
        value = self.value(e)
        place = self.instruction(f"getelementptr i64, ptr %out, i64 {index}")
        self.lines.append(f"  store i64 {value}, ptr {place}")

    def instruction(self, text: str) -> str:
        """Add an instruction; returns the name of its result."""
        name = f"%v{self._count}"
        self._count += 1
        self.lines.append(f"  {name} = {text}")
        return name


def _kind(e: Expr) -> str:
    if e.dtype == "bool":
        return "i1"
    if e.dtype != dt.INDEX:
        raise CompileError(f"{e!r} is not arithmetic on dimensions")
    return "i64"


def size_function(name: str, e: Expr, dims: Mapping[Var, int]) -> list[str]:
    """``i64 name(ptr dims)``: the value of one expression."""
    emitter = SizeEmitter(dims)
    value = emitter.value(e)
    return [f"define internal i64 @{name}(ptr %dims) {{", *emitter.lines, f"  ret i64 {value}", "}"]


def check_function(name: str, e: Expr, dims: Mapping[Var, int]) -> list[str]:
    """``i1 name(ptr dims)``: whether a condition holds."""
    emitter = SizeEmitter(dims)
    value = emitter.value(e)
    return [f"define internal i1 @{name}(ptr %dims) {{", *emitter.lines, f"  ret i1 {value}", "}"]


def shapes_function(
    name: str, outputs: Sequence[Expr], checks: Sequence[Expr], dims: Mapping[Var, int]
) -> list[str]:
    """``i32 name(ptr dims, ptr out)``: writes ``outputs`` to the int64 array ``out``. The result is 0, or the
    number, from 1 on, of the first of ``checks`` that does not hold."""
    emitter = SizeEmitter(dims)
    for n, e in enumerate(outputs):
        emitter.store(e, n)
    failed = "0"
    for n, check in reversed(list(enumerate(checks, 1))):
        failed = emitter.instruction(f"select i1 {emitter.value(check)}, i32 {failed}, i32 {n}")
    return [f"define i32 @{name}(ptr %dims, ptr %out) {{", *emitter.lines, f"  ret i32 {failed}", "}"]
