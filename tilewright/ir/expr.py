"""Expressions: the one immutable, interned language for graph dimensions, loop indices, guards and compute
bodies.

Two structurally equal expressions are the same object (``Var`` excepted: each ``Var`` is its own variable),
so equality is identity and any expression can be a dictionary key. Constructors fold constants and drop
neutral elements; deeper algebra is ``ir.simplify``'s.

Integer division and remainder are the floor kind, as in Python. Index arithmetic is int64.
"""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, Union

from tilewright.ir import dtype as dt

if TYPE_CHECKING:
    from tilewright.ir.stmt import Buffer

ExprLike: TypeAlias = Union["Expr", int, float, bool]

#: Binary operators; ``div`` is true division (floats), ``floordiv``/``mod`` the floor kind (integers).
BINOPS: Final = frozenset(
    ["add", "sub", "mul", "div", "floordiv", "mod", "min", "max", "and", "or", "xor", "shl", "shr"]
)
CMPS: Final = frozenset(["lt", "le", "eq", "ne"])
#: Reductions: name -> (binary operator, identity for a dtype).
REDUCE_OPS: Final = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}

#: Index constants up to this are made once and kept.
SMALL: Final = 4096

_var_order = itertools.count()


class _Entry(weakref.ref["Expr"]):
    """Where the table of interned expressions has one."""

    __slots__ = ("key",)
    key: tuple[Any, ...]


_table: dict[tuple[Any, ...], _Entry] = {}


def _forget(entry: _Entry) -> None:
    """An expression is gone; by now its entry may be that of an equal one."""
    if _table.get(entry.key) is entry:
        del _table[entry.key]


class Contents(NamedTuple):
    """What occurs in an expression.

    Attributes:
        variables: all variables, those that a Reduce binds too.
        free: the variables that no Reduce binds.
        loads: the distinct loads, inner ones first.
    """

    variables: frozenset[Var]
    free: frozenset[Var]
    loads: tuple[Load, ...]


_NOTHING: Final = Contents(frozenset(), frozenset(), ())


class Expr:
    """Base class. ``dtype`` is the element type of the value."""

    __slots__ = ("__weakref__", "_inside", "dtype")
    dtype: str
    _inside: Contents | None

    @property
    def contents(self) -> Contents:
        """What occurs in it: found once, shared with sub-expressions that contain the same."""
        return self._inside or self._look_inside()

    @property
    def variables(self) -> frozenset[Var]:
        """All variables in it, those that a Reduce binds too."""
        return (self._inside or self._look_inside()).variables

    def _look_inside(self) -> Contents:
        """What occurs in its children together. A node itself is in nothing that it refers to: it would
        outlive its users."""
        stack: list[Expr] = [self]
        while stack:
            node = stack[-1]
            children = node.children
            missing = [c for c in children if c._inside is None]
            if missing:
                stack += missing
                continue
            found = _NOTHING
            for child in children:
                more = child.contents
                if more is not found and more is not _NOTHING:
                    found = more if found is _NOTHING else _union(found, more)
            node._inside = found
            stack.pop()
        return found

    @property
    def children(self) -> tuple[Expr, ...]:
        """Sub-expressions in evaluation order (indices of a Load included)."""
        return ()

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        """The same node over other children (through the folding constructors)."""
        return self

    def __add__(self, other: ExprLike) -> Expr:
        return binop("add", self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return binop("add", other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return binop("sub", self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return binop("sub", other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return binop("mul", self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return binop("mul", other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return binop("div", self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return binop("div", other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return binop("floordiv", self, other)

    def __rfloordiv__(self, other: ExprLike) -> Expr:
        return binop("floordiv", other, self)

    def __mod__(self, other: ExprLike) -> Expr:
        return binop("mod", self, other)

    def __rmod__(self, other: ExprLike) -> Expr:
        return binop("mod", other, self)

    def __and__(self, other: ExprLike) -> Expr:
        return binop("and", self, other)

    def __or__(self, other: ExprLike) -> Expr:
        return binop("or", self, other)

    def __neg__(self) -> Expr:
        return binop("mul", self, -1) if dt.is_int(self.dtype) else call("neg", [self])

    def __lt__(self, other: ExprLike) -> Expr:
        return cmp("lt", self, other)

    def __le__(self, other: ExprLike) -> Expr:
        return cmp("le", self, other)

    def __gt__(self, other: ExprLike) -> Expr:
        return cmp("lt", other, self)

    def __ge__(self, other: ExprLike) -> Expr:
        return cmp("le", other, self)

    def eq(self, other: ExprLike) -> Expr:
        """Elementwise equality (``==`` on expressions is object identity)."""
        return cmp("eq", self, other)

    def ne(self, other: ExprLike) -> Expr:
        return cmp("ne", self, other)

    def astype(self, dtype: str) -> Expr:
        return cast(dtype, self)

    def __bool__(self) -> bool:
        raise TypeError(
            "an expression has no truth value while compiling; use select, &, | or ir.simplify.prove"
        )

    def __iter__(self) -> Iterator[Expr]:
        raise TypeError("an expression is not iterable")

    def __repr__(self) -> str:
        return format_expr(self)


class Const(Expr):
    """A number. ``value`` is int, float or bool, in the range of ``dtype``."""

    __slots__ = ("value",)
    value: int | float | bool


class Var(Expr):
    """A variable: loop index, block iterator or symbolic dimension.

    ``lo``/``hi`` are inclusive bounds (None: unknown), ``multiple_of`` a known divisor. Dimensions whose size
    is known at run time only have a ``typical`` size, for which schedules are chosen; other variables have
    None. Each construction makes a new variable; ``order`` counts constructions and gives canonical forms a
    deterministic order of terms.
    """

    __slots__ = ("hi", "lo", "multiple_of", "name", "order", "typical")

    def __init__(
        self,
        name: str,
        dtype: str = dt.INDEX,
        lo: int | None = None,
        hi: int | None = None,
        multiple_of: int = 1,
        typical: int | None = None,
    ) -> None:
        self.dtype = dtype
        self.name = name
        self.lo = lo
        self.hi = hi
        self.multiple_of = multiple_of
        self.typical = typical
        self.order = next(_var_order)
        self._inside = _NOTHING

    @property
    def contents(self) -> Contents:
        alone = frozenset((self,))
        return Contents(alone, alone, ())

    @property
    def variables(self) -> frozenset[Var]:
        return frozenset((self,))


class BinOp(Expr):
    """``op`` in :data:`BINOPS` over two operands of one dtype; ``and``/``or``/``xor`` also take bool."""

    __slots__ = ("a", "b", "op")
    op: str
    a: Expr
    b: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.a, self.b)

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        return binop(self.op, *children)


class Cmp(Expr):
    """``op`` in :data:`CMPS`; the result is bool. Greater-than forms have the operands swapped."""

    __slots__ = ("a", "b", "op")
    op: str
    a: Expr
    b: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.a, self.b)

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        return cmp(self.op, *children)


class Select(Expr):
    """``a if cond else b``. The operand not chosen is not evaluated: its loads may be out of bounds."""

    __slots__ = ("a", "b", "cond")
    cond: Expr
    a: Expr
    b: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.cond, self.a, self.b)

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        return select(*children)


class Cast(Expr):
    """Value conversion. Float to integer truncates towards zero and saturates; NaN becomes 0."""

    __slots__ = ("value",)
    value: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.value,)

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        return cast(self.dtype, children[0])


class Call(Expr):
    """A pure intrinsic by name (``exp``, ``sqrt``, ``fma`` ...), see ``ir.intrinsics``."""

    __slots__ = ("args", "name")
    name: str
    args: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        return call(self.name, children, self.dtype)


class Load(Expr):
    """Element of a buffer at one index per dimension."""

    __slots__ = ("buffer", "indices")
    buffer: Buffer
    indices: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.indices

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        return load(self.buffer, children)

    @property
    def contents(self) -> Contents:
        variables, free, loads = self._inside or self._look_inside()
        return Contents(variables, free, (*loads, self))


class Reduce(Expr):
    """A reduction over ``axes`` (variables with extents); it stands only at the top of a tensor expression's
    body.
    """

    __slots__ = ("axes", "extents", "op", "value")
    op: str
    axes: tuple[Var, ...]
    extents: tuple[Expr, ...]
    value: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (*self.extents, self.value)

    def rebuild(self, children: Sequence[Expr]) -> Expr:
        return _intern(Reduce, (self.op, self.axes, tuple(children[:-1]), children[-1]), children[-1].dtype)

    @property
    def contents(self) -> Contents:
        variables, free, loads = self._inside or self._look_inside()
        return Contents(variables, free.difference(self.axes), loads)



def _union(a: Contents, b: Contents) -> Contents:
    """What occurs in either. A variable that one of them binds is not free."""
    if not b.loads and a.free is a.variables and b.free is b.variables and b.free <= a.free:
        return a
    variables = a.variables | b.variables
    bound = (a.variables - a.free) | (b.variables - b.free)
    loads = tuple(dict.fromkeys((*a.loads, *b.loads))) if a.loads and b.loads else a.loads or b.loads
    return Contents(variables, variables - bound if bound else variables, loads)


_FIELDS: Final[dict[type[Expr], tuple[str, ...]]] = {
    Const: ("value",),
    BinOp: ("op", "a", "b"),
    Cmp: ("op", "a", "b"),
    Select: ("cond", "a", "b"),
    Cast: ("value",),
    Call: ("name", "args"),
    Load: ("buffer", "indices"),
    Reduce: ("op", "axes", "extents", "value"),
}


def _intern(
    kind: type[Expr], fields: tuple[Any, ...], dtype: str, key: tuple[Any, ...] | None = None
) -> Expr:
    table_key = (kind, dtype, key if key is not None else fields)
    entry = _table.get(table_key)
    known = entry() if entry is not None else None
    if known is not None:
        return known
    node: Expr = object.__new__(kind)
    if type(node) is BinOp:  # most of them are
        node.op, node.a, node.b = fields
    else:
        for name, value in zip(_FIELDS[kind], fields, strict=True):
            setattr(node, name, value)
    node.dtype = dtype
    node._inside = None
    entry = _Entry(node, _forget)
    entry.key = table_key
    _table[table_key] = entry
    return node


def const(value: int | float | bool, dtype: str = dt.INDEX) -> Const:
    """A constant of ``dtype``: integers wrap into its range, floats are rounded to it."""
    if type(value) is int and dtype == dt.INDEX and -SMALL <= value <= SMALL:
        return _small(value)
    return _const(value, dtype)


@functools.lru_cache(2 * SMALL)
def _small(value: int) -> Const:
    return _const(value, dt.INDEX)


def _const(value: int | float | bool, dtype: str) -> Const:
    if dtype == "bool":
        value = bool(value)
    elif dt.is_int(dtype):
        value = int(value)
        low, high = dt.int_range(dtype)
        if not low <= value <= high:
            value = (value - low) % (high - low + 1) + low
    else:
        value = dt.round_float(float(value), dtype)
    node = _intern(Const, (value,), dtype, (repr(value),))
    assert isinstance(node, Const)
    return node


TRUE: Final = const(True, "bool")
FALSE: Final = const(False, "bool")


def as_expr(value: ExprLike, dtype: str | None = None) -> Expr:
    """``value`` as an expression; Python numbers take ``dtype`` (default: int64, float32 or bool by their
    type).
    """
    if isinstance(value, Expr):
        return value
    if dtype is None:
        dtype = "bool" if isinstance(value, bool) else dt.INDEX if isinstance(value, int) else "float32"
    return const(value, dtype)


def _operands(a: ExprLike, b: ExprLike) -> tuple[Expr, Expr]:
    if isinstance(a, Expr) and isinstance(b, Expr) and a.dtype == b.dtype:
        return a, b
    if not isinstance(a, Expr):
        b = as_expr(b)
        a = const(a, b.dtype)
    elif not isinstance(b, Expr):
        b = const(b, a.dtype)
    if a.dtype != b.dtype:
        raise TypeError(f"operands of different dtypes: {a.dtype} and {b.dtype} (cast one of them)")
    return a, b


_INT_FOLD: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
}


def binop(op: str, a: ExprLike, b: ExprLike) -> Expr:
    """A binary operation on operands of one dtype (numbers adapt). Raises TypeError on mixed dtypes."""
    a, b = _operands(a, b)
    dtype = a.dtype
    if dt.is_float(dtype):
        if op == "mul" and isinstance(b, Const) and b.value == 1.0:
            return a
        if op == "mul" and isinstance(a, Const) and a.value == 1.0:
            return b
    elif isinstance(a, Const) and isinstance(b, Const):
        if not (op in ("floordiv", "mod") and b.value == 0) and not (
            op in ("shl", "shr") and not 0 <= b.value < 64
        ):
            return const(_INT_FOLD[op](a.value, b.value), dtype)
    elif dtype == "bool":
        folded = _fold_bool(op, a, b)
        if folded is not None:
            return folded
    else:
        folded = _fold_int(op, a, b)
        if folded is not None:
            return folded
    return _intern(BinOp, (op, a, b), dtype)


def _fold_bool(op: str, a: Expr, b: Expr) -> Expr | None:
    if isinstance(a, Const):
        a, b = b, a
    if op == "and":
        return a if b is TRUE or a is b else FALSE if b is FALSE else None
    if op == "or":
        return a if b is FALSE or a is b else TRUE if b is TRUE else None
    return None


def _fold_int(op: str, a: Expr, b: Expr) -> Expr | None:
    if isinstance(a, Const) and op in ("add", "mul", "min", "max"):
        a, b = b, a
    value = b.value if isinstance(b, Const) else None
    if op == "add":
        if value == 0:
            return a
        if value is not None and isinstance(a, BinOp) and a.op == "add" and isinstance(a.b, Const):
            return binop("add", a.a, const(a.b.value + value, a.dtype))
        if value is not None:
            return _intern(BinOp, ("add", a, b), a.dtype)
    elif op == "sub":
        if a is b:
            return const(0, a.dtype)
        if value is not None:
            return binop("add", a, const(-value, a.dtype))
    elif op == "mul":
        if value == 1:
            return a
        if value == 0:
            return const(0, a.dtype)
        if value is not None and isinstance(a, BinOp) and a.op == "mul" and isinstance(a.b, Const):
            return binop("mul", a.a, const(a.b.value * value, a.dtype))
        if value is not None:
            return _intern(BinOp, ("mul", a, b), a.dtype)
    elif op == "floordiv":
        if value == 1:
            return a
    elif op == "mod":
        if value == 1:
            return const(0, a.dtype)
    elif op in ("min", "max") and a is b:
        return a
    return None


def cmp(op: str, a: ExprLike, b: ExprLike) -> Expr:
    """A comparison (``lt le eq ne``); bool result."""
    a, b = _operands(a, b)
    if isinstance(a, Const) and isinstance(b, Const):
        x, y = a.value, b.value
        return const({"lt": x < y, "le": x <= y, "eq": x == y, "ne": x != y}[op], "bool")
    if a is b and not dt.is_float(a.dtype):
        return const(op in ("le", "eq"), "bool")
    return _intern(Cmp, (op, a, b), "bool")


def select(cond: ExprLike, a: ExprLike, b: ExprLike) -> Expr:
    """``a`` where ``cond`` holds, else ``b``."""
    cond = as_expr(cond, "bool")
    a, b = _operands(a, b)
    if isinstance(cond, Const):
        return a if cond.value else b
    if a is b:
        return a
    return _intern(Select, (cond, a, b), a.dtype)


def cast(dtype: str, value: ExprLike) -> Expr:
    """``value`` converted to ``dtype``."""
    if dtype not in dt.DTYPES:
        raise TypeError(f"unknown dtype '{dtype}'")
    value = as_expr(value)
    if value.dtype == dtype:
        return value
    if isinstance(value, Const) and math.isfinite(value.value):
        if dt.is_float(dtype):
            return const(value.value, dtype)
        if dtype == "bool":
            return const(value.value != 0, dtype)
        if not dt.is_float(value.dtype):
            return const(value.value, dtype)
    return _intern(Cast, (value,), dtype)


def call(name: str, args: Sequence[ExprLike], dtype: str | None = None) -> Expr:
    """An intrinsic call; the result has the first argument's dtype unless given."""
    exprs = tuple(as_expr(a) for a in args)
    return _intern(Call, (name, exprs), dtype or exprs[0].dtype)


def load(buffer: Buffer, indices: Sequence[ExprLike]) -> Expr:
    """Read one element. Raises TypeError when the number of indices is not the buffer's rank."""
    exprs = tuple(as_expr(i) for i in indices)
    if len(exprs) != len(buffer.shape):
        raise TypeError(f"{len(exprs)} indices for buffer '{buffer.name}' of rank {len(buffer.shape)}")
    return _intern(Load, (buffer, exprs), buffer.dtype)


def reduce(op: str, axes: Sequence[Var], extents: Sequence[ExprLike], value: Expr) -> Expr:
    """A reduction node; ``te.reduce`` is the friendly form."""
    if op not in REDUCE_OPS:
        raise ValueError(f"unknown reduction '{op}' (known: {', '.join(REDUCE_OPS)})")
    return _intern(Reduce, (op, tuple(axes), tuple(as_expr(e) for e in extents), value), value.dtype)


def minimum(a: ExprLike, b: ExprLike) -> Expr:
    """The smaller operand; NaN if either is."""
    return binop("min", a, b)


def maximum(a: ExprLike, b: ExprLike) -> Expr:
    """The larger operand; NaN if either is."""
    return binop("max", a, b)


def logical_not(a: Expr) -> Expr:
    """Negation of a bool; comparisons of integers are flipped in place."""
    if isinstance(a, Const):
        return const(not a.value, "bool")
    if isinstance(a, Cmp) and not dt.is_float(a.a.dtype):
        swapped = {
            "lt": ("le", a.b, a.a),
            "le": ("lt", a.b, a.a),
            "eq": ("ne", a.a, a.b),
            "ne": ("eq", a.a, a.b),
        }
        return cmp(*swapped[a.op])
    return binop("xor", a, TRUE)


def all_of(conds: Sequence[Expr]) -> Expr:
    """Conjunction; TRUE for none."""
    result: Expr = TRUE
    for cond in conds:
        result = binop("and", result, cond)
    return result


def conjuncts(cond: Expr) -> list[Expr]:
    """The operands of nested ``and``s, flattened; none for TRUE."""
    if isinstance(cond, BinOp) and cond.op == "and":
        return conjuncts(cond.a) + conjuncts(cond.b)
    return [] if cond is TRUE else [cond]


def reduce_identity(op: str, dtype: str) -> Const:
    """The neutral element of a reduction."""
    if op in ("sum", "prod"):
        return const(0 if op == "sum" else 1, dtype)
    if dt.is_float(dtype):
        return const(-math.inf if op == "max" else math.inf, dtype)
    low, high = dt.int_range(dtype)
    return const(low if op == "max" else high, dtype)


def ceildiv(a: ExprLike, b: ExprLike) -> Expr:
    """Integer division rounded up, for a positive divisor."""
    a, b = _operands(a, b)
    return (a + (b - 1)) // b


_SYMBOL: Final = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "and": "&", "or": "|",
    "xor": "^", "shl": "<<", "shr": ">>", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
}  # fmt: skip


def format_expr(e: Expr) -> str:
    """A short human form for messages; ``ir.printer`` writes the exact one."""
    if isinstance(e, Const):
        return str(e.value)
    if isinstance(e, Var):
        return e.name
    if isinstance(e, BinOp | Cmp):
        if e.op in _SYMBOL:
            return f"({format_expr(e.a)} {_SYMBOL[e.op]} {format_expr(e.b)})"
        return f"{e.op}({format_expr(e.a)}, {format_expr(e.b)})"
    if isinstance(e, Select):
        return f"select({format_expr(e.cond)}, {format_expr(e.a)}, {format_expr(e.b)})"
    if isinstance(e, Cast):
        return f"{e.dtype}({format_expr(e.value)})"
    if isinstance(e, Call):
        return f"{e.name}({', '.join(map(format_expr, e.args))})"
    if isinstance(e, Load):
        return f"{e.buffer.name}[{', '.join(map(format_expr, e.indices))}]"
    assert isinstance(e, Reduce)
    axes = ", ".join(f"{v.name}<{format_expr(x)}" for v, x in zip(e.axes, e.extents, strict=True))
    return f"{e.op}({format_expr(e.value)} for {axes})"
