"""Programs as text: a strict subset of Python that ``ir.parser`` reads back exactly.

    @primfunc({"const_params": ("B",), "outputs": 1})
    def matmul(A: float32[64, 32], B: float32[32, 48], C: float32[64, 48]):
        for i0 in parallel(64):
            for i1 in serial(48):
                for r0 in serial(32):
                    with block("C"):
                        vi0 = spatial(64, i0)
                        vi1 = spatial(48, i1)
                        vr0 = reduce(32, r0)
                        reads(A[vi0, vr0], B[vr0, vi1])
                        writes(C[vi0, vi1])
                        with init():
                            C[vi0, vi1] = 0.0
                        C[vi0, vi1] = C[vi0, vi1] + A[vi0, vr0] * B[vr0, vi1]

A bare integer is int64, a bare decimal number float32; other constants name their dtype, as casts do.
docs/ir.md has the grammar.
"""

from __future__ import annotations

import hashlib
import keyword
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from tilewright.ir import dtype as dt
from tilewright.ir.expr import (
    TRUE,
    BinOp,
    Call,
    Cast,
    Cmp,
    Const,
    Expr,
    Load,
    Select,
    Var,
    format_expr,
)
from tilewright.ir.intrinsics import INTRINSICS
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Block,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Range,
    Region,
    Seq,
    Stmt,
    Store,
    TensorCall,
)
from tilewright.ir.visit import const_int

#: Names with a meaning of their own in the text; no variable or buffer is printed under one.
RESERVED: Final = frozenset(
    [
        "primfunc", "buffer", "dim", "alloc", "block", "init", "spatial", "reduce", "reads", "writes", "span",
        "where", "annotate", "annotations", "evaluate", "serial", "parallel", "vectorized", "unrolled",
        "virtual", "thread", "select", "call", "min", "max", "int", "float", "tensor_call",
        *dt.DTYPES,
        *INTRINSICS,
    ]
)  # fmt: skip

#: Operator symbols and how tightly they bind in Python.
SYMBOLS: Final = {
    "lt": ("<", 1), "le": ("<=", 1), "eq": ("==", 1), "ne": ("!=", 1), "or": ("|", 2), "xor": ("^", 3),
    "and": ("&", 4), "shl": ("<<", 5), "shr": (">>", 5), "add": ("+", 6), "sub": ("-", 6), "mul": ("*", 7),
    "div": ("/", 7), "floordiv": ("//", 7), "mod": ("%", 7),
}  # fmt: skip
_SIGN: Final = 8
_ATOM: Final = 9


def to_text(func: PrimFunc) -> str:
    """The text of ``func``. ``parse(to_text(f))`` is structurally equal to ``f``, with the same text.

    Names are kept where they are free; a variable that would hide another gets a numbered one.
    """
    return Printer().function(func)


def canonical_text(func: PrimFunc) -> str:
    """A text that is equal for functions that are equal up to the names of function, parameters, buffers,
    blocks and variables.
    """
    return Printer(canonical=True).function(func)


def workload_key(func: PrimFunc) -> str:
    """The identity of a workload: sha256 of its canonical text, as 64 hexadecimal digits. The same on every
    machine.
    """
    return hashlib.sha256(canonical_text(func).encode()).hexdigest()


def structural_equal(a: PrimFunc, b: PrimFunc) -> bool:
    """Whether two functions are the same program up to names."""
    return canonical_text(a) == canonical_text(b)


def default_bounds(extent: Expr) -> tuple[int, int | None]:
    """The bounds of a loop or block variable that its text leaves out."""
    size = const_int(extent)
    return 0, None if size is None else size - 1


class Printer:
    """Writes one function. ``lines`` maps statements to the line they begin on (counted from 0), for
    messages.
    """

    def __init__(self, canonical: bool = False) -> None:
        self.lines: dict[Stmt, int] = {}
        self._canonical = canonical
        self._out: list[str] = []
        self._depth = 0
        self._names: dict[Var | Buffer, str] = {}
        self._taken: set[str] = set()
        self._memo: dict[Expr, tuple[str, int]] = {}
        self._counts: dict[str, int] = {}

    def function(self, func: PrimFunc) -> str:
        """The text of ``func``."""
        for param in func.params:
            if isinstance(param, Var):
                self._bind(param, "n")
        for param in func.params:
            if isinstance(param, Buffer):
                self._bind(param, "p")
        attrs = dict(func.attrs)
        if self._canonical:
            renamed = {p.name: self._names[p] for p in func.params if isinstance(p, Buffer)}
            attrs = {
                key: _rename(value, renamed) if key in _NAMING_ATTRS else value
                for key, value in attrs.items()
            }
        name = "f" if self._canonical else _identifier(func.name)
        extra = "" if self._canonical or name == func.name else f", name={_string(func.name)}"
        self._emit(f"@primfunc({_attr(attrs, self._canonical)}{extra})")
        params = [f"{self._names[p]}: {self._param(p)}" for p in func.params]
        head = f"def {name}({', '.join(params)}):"
        if len(head) > 110:
            self._emit(f"def {name}(")
            for line in params:
                self._emit(f"    {line},")
            self._emit("):")
        else:
            self._emit(head)
        self._suite(func.body)
        return "\n".join(self._out) + "\n"

    # -- names -----------------------------------------------------------------------------------------------

    def _bind(self, what: Var | Buffer, kind: str) -> str:
        """Bring ``what`` into scope under a free name."""
        if self._canonical:
            self._counts[kind] = self._counts.get(kind, -1) + 1
            name = f"{kind}{self._counts[kind]}"
        else:
            base = name = _identifier(what.name)
            number = 1
            while name in self._taken:
                name = f"{base}_{number}"
                number += 1
        if self._names.get(what, name) != name:
            self._memo.clear()
        self._names[what] = name
        self._taken.add(name)
        return name

    def _unbind(self, what: Var | Buffer) -> None:
        self._taken.discard(self._names[what])

    def _name(self, what: Var | Buffer) -> str:
        return self._names.get(what) or _identifier(what.name)

    # -- statements ------------------------------------------------------------------------------------------

    def _emit(self, line: str) -> None:
        self._out.append("    " * self._depth + line)

    def _suite(self, s: Stmt) -> None:
        """``s`` as an indented suite."""
        self._depth += 1
        before = len(self._out)
        self._stmt(s, last=True)
        if len(self._out) == before:
            self._emit("pass")
        self._depth -= 1

    def _stmt(self, s: Stmt, last: bool) -> None:
        """``s`` in the current suite; ``last`` when nothing follows in it."""
        self.lines.setdefault(s, len(self._out))
        if isinstance(s, Seq):
            for child in s.stmts[:-1]:
                self._stmt(child, last=False)
            if s.stmts:
                self._stmt(s.stmts[-1], last)
        elif isinstance(s, Store):
            self._emit(f"{self._element(s.buffer, s.indices)} = {self.expr(s.value)}")
        elif isinstance(s, For):
            self._for(s)
        elif isinstance(s, If):
            self._if(s, "if")
        elif isinstance(s, Alloc):
            name = self._bind(s.buffer, "b")
            what = self._buffer(s.buffer, "alloc", name)
            if last:
                self._emit(f"{name} = {what}")
                self._stmt(s.body, last)
            else:
                self._emit(f"with {what} as {name}:")
                self._suite(s.body)
            self._unbind(s.buffer)
        elif isinstance(s, Block):
            self._block(s)
        elif isinstance(s, Annotate):
            self._emit(f"with annotate({_string(s.key)}, {_attr(s.value, self._canonical)}):")
            self._suite(s.body)
        elif isinstance(s, TensorCall):
            arguments = [_string(s.intrinsic.name), *map(self._region, s.operands)]
            self._emit(f"tensor_call({', '.join(arguments)})")
        else:
            assert isinstance(s, Evaluate)
            self._emit(f"evaluate({self.expr(s.value)})")

    def _for(self, s: For) -> None:
        axis = s.kind.removeprefix("thread:")
        call = f"{s.kind}(" if axis == s.kind else f"thread({_string(axis)}, "
        details = self._var_details(s.var, s.extent)
        if s.annotations:
            details.append(f"annotations={_attr(dict(s.annotations), self._canonical)}")
        arguments = ", ".join([self.expr(s.extent), *details])
        name = self._bind(s.var, "i")
        self._emit(f"for {name} in {call}{arguments}):")
        self._suite(s.body)
        self._unbind(s.var)

    def _if(self, s: If, word: str) -> None:
        self._emit(f"{word} {self.expr(s.cond)}:")
        self._suite(s.then)
        if isinstance(s.orelse, If):
            self.lines.setdefault(s.orelse, len(self._out))
            self._if(s.orelse, "elif")
        elif s.orelse is not None:
            self._emit("else:")
            self._suite(s.orelse)

    def _block(self, s: Block) -> None:
        name = s.name
        if self._canonical:
            self._counts["block"] = self._counts.get("block", -1) + 1
            name = f"block{self._counts['block']}"
        self._emit(f"with block({_string(name)}):")
        self._depth += 1
        bindings = [(self.expr(it.extent), self.expr(it.binding)) for it in s.iters]
        where = None if s.predicate is TRUE else self.expr(s.predicate)
        for it, (extent, binding) in zip(s.iters, bindings, strict=True):
            details = self._var_details(it.var, it.extent)
            self._emit(f"{self._bind(it.var, 'v')} = {it.kind}({', '.join([extent, binding, *details])})")
        if where is not None:
            self._emit(f"where({where})")
        if s.annotations:
            self._emit(f"annotations({_attr(dict(s.annotations), self._canonical)})")
        for word, regions in (("reads", s.reads), ("writes", s.writes)):
            if regions:
                self._emit(f"{word}({', '.join(self._region(r) for r in regions)})")
        if s.init is not None:
            self._emit("with init():")
            self._suite(s.init)
        before = len(self._out)
        self._stmt(s.body, last=True)
        if len(self._out) == before:
            self._emit("pass")
        self._depth -= 1
        for it in s.iters:
            self._unbind(it.var)

    def _var_details(self, var: Var, extent: Expr) -> list[str]:
        lo, hi = default_bounds(extent)
        details = [] if var.lo == lo else [f"lo={var.lo}"]
        details += [] if var.hi == hi else [f"hi={var.hi}"]
        details += [] if var.multiple_of == 1 else [f"multiple_of={var.multiple_of}"]
        return details if var.dtype == dt.INDEX else [*details, f"dtype={_string(var.dtype)}"]

    def _param(self, param: Buffer | Var) -> str:
        if isinstance(param, Buffer):
            return self._buffer(param, "", self._names[param])
        details = [
            f"{key}={value}"
            for key, value in (("lo", param.lo), ("hi", param.hi), ("typical", param.typical))
            if value is not None
        ]
        details += [] if param.multiple_of == 1 else [f"multiple_of={param.multiple_of}"]
        details += [] if param.dtype == dt.INDEX else [f"dtype={_string(param.dtype)}"]
        return f"dim({', '.join(details)})"

    def _buffer(self, buffer: Buffer, word: str, shown: str) -> str:
        details = [] if buffer.scope == "global" else [f"scope={_string(buffer.scope)}"]
        if buffer.strides is not None:
            strides = ", ".join(map(self.expr, buffer.strides))
            details.append(f"strides=({strides}{',' if len(buffer.strides) == 1 else ''})")
        if buffer.stride_align:
            details.append(f"stride_align={_attr(buffer.stride_align, self._canonical)}")
        if not self._canonical and shown != buffer.name:
            details.append(f"name={_string(buffer.name)}")
        kind = f"{buffer.dtype}[{', '.join(map(self.expr, buffer.shape)) or '()'}]"
        if not word and not details:
            return kind
        return f"{word or 'buffer'}({', '.join([kind, *details])})"

    def _region(self, region: Region) -> str:
        def part(r: Range) -> str:
            return (
                self.expr(r.lo)
                if const_int(r.extent) == 1
                else f"span({self.expr(r.lo)}, {self.expr(r.extent)})"
            )

        return f"{self._name(region.buffer)}[{', '.join(map(part, region.ranges)) or '()'}]"

    # -- expressions -----------------------------------------------------------------------------------------

    def expr(self, e: Expr) -> str:
        """The text of an expression over what is in scope."""
        return self._expr(e)[0]

    def _element(self, buffer: Buffer, indices: Iterable[Expr]) -> str:
        return f"{self._name(buffer)}[{', '.join(map(self.expr, indices)) or '()'}]"

    def _expr(self, e: Expr) -> tuple[str, int]:
        """The text and how tightly its outermost operator binds."""
        if type(e) is Var:
            return self._name(e), _ATOM
        known = self._memo.get(e)
        if known is None:
            known = self._memo[e] = self._compute(e)
        return known

    def _compute(self, e: Expr) -> tuple[str, int]:
        if isinstance(e, Const):
            return _constant(e)
        if isinstance(e, BinOp | Cmp):
            if e.op not in SYMBOLS:
                return f"{e.op}({self.expr(e.a)}, {self.expr(e.b)})", _ATOM
            symbol, binds = SYMBOLS[e.op]
            left, right = self._expr(e.a), self._expr(e.b)
            # Comparisons do not associate, everything else does to the left.
            a = left[0] if left[1] > binds or (left[1] == binds > 1) else f"({left[0]})"
            if e.op == "add" and e.dtype == dt.INDEX and isinstance(e.b, Const) and e.b.value < 0:
                return f"{a} - {-e.b.value}", binds
            b = right[0] if right[1] > binds else f"({right[0]})"
            return f"{a} {symbol} {b}", binds
        if isinstance(e, Load):
            return self._element(e.buffer, e.indices), _ATOM
        if isinstance(e, Select):
            return f"select({self.expr(e.cond)}, {self.expr(e.a)}, {self.expr(e.b)})", _ATOM
        if isinstance(e, Cast):
            return f"{e.dtype}({self.expr(e.value)})", _ATOM
        if isinstance(e, Call):
            operands = [self.expr(x) for x in e.args]
            spec = INTRINSICS.get(e.name)
            known = spec is not None and e.args and spec.result_dtype(e.args[0].dtype) == e.dtype
            if known and e.name.isidentifier():
                return f"{e.name}({', '.join(operands)})", _ATOM
            return f"call({', '.join([_string(e.name), *operands])}, dtype={_string(e.dtype)})", _ATOM
        return format_expr(e), _ATOM


def _constant(e: Const) -> tuple[str, int]:
    value = e.value
    if e.dtype == "bool":
        return repr(bool(value)), _ATOM
    if dt.is_int(e.dtype):
        text = repr(int(value))
    elif not math.isfinite(value):
        return f'{e.dtype}("{value!r}")', _ATOM
    elif e.dtype == "float32":
        text = repr(float(str(np.float32(value))))
    else:
        text = repr(float(value))
    if e.dtype in (dt.INDEX, "float32"):
        return text, _SIGN if text.startswith("-") else _ATOM
    return f"{e.dtype}({text})", _ATOM


#: Attributes whose strings name parameters.
_NAMING_ATTRS: Final = frozenset(["const_params", "param_layouts"])


def _rename(value: Any, names: Mapping[str, str]) -> Any:
    """``value`` with the parameter names in it (strings of a tuple, keys of a mapping) replaced."""
    if isinstance(value, Mapping):
        return {names.get(key, key): item for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(names.get(item, item) if isinstance(item, str) else item for item in value)
    return value


def _string(text: str) -> str:
    """A string literal in double quotes."""
    quoted = repr(text)
    if quoted.startswith("'") and '"' not in quoted:
        return f'"{quoted[1:-1]}"'
    return quoted


def _attr(value: Any, ordered: bool) -> str:
    """An attribute value as a literal; mappings by key when ``ordered``."""
    if isinstance(value, Mapping):
        items = sorted(value.items()) if ordered else value.items()
        return "{" + ", ".join(f"{_string(k)}: {_attr(v, ordered)}" for k, v in items) + "}"
    if isinstance(value, tuple):
        inner = ", ".join(_attr(v, ordered) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value!r}")'
    if isinstance(value, str):
        return _string(value)
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    raise TypeError(f"an attribute cannot hold a {type(value).__name__}: {value!r}")


def _identifier(name: str) -> str:
    """``name`` as a Python identifier that is free for variables."""
    text = re.sub(r"[^0-9A-Za-z_]", "_", name) or "_"
    if text[0].isdigit():
        text = f"_{text}"
    return f"{text}_" if text in RESERVED or keyword.iskeyword(text) else text
