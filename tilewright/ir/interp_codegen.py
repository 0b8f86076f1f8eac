"""Translation of a PrimFunc into Python source over NumPy arrays. Internal to ``ir.interp``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from tilewright.errors import VerifyError
from tilewright.ir import dtype as dt
from tilewright.ir import interp_ops
from tilewright.ir.expr import (
    FALSE,
    BinOp,
    Call,
    Cast,
    Cmp,
    Const,
    Expr,
    Load,
    Select,
    Var,
    as_expr,
    conjuncts,
    select,
)
from tilewright.ir.interp_grid import Grid, plan_grid
from tilewright.ir.intrinsics import INTRINSICS
from tilewright.ir.simplify import Simplifier, lasting
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
    Block,
    Buffer,
    Evaluate,
    For,
    If,
    PrimFunc,
    Seq,
    Stmt,
    Store,
    TensorCall,
)
from tilewright.ir.tensor_intrinsics import expand
from tilewright.ir.visit import const_int, substitute, substitute_expr, uses, walk_expr

_SYMBOLS: Final = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "and": "&", "or": "|",
    "xor": "^", "shl": "<<", "shr": ">>", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
}  # fmt: skip
#: CPython nests at most 20 loops in one function; deeper ones continue in an inner function.
_MAX_NESTED_LOOPS: Final = 15


class Translator:
    """Builds the source of ``program(poison, *arrays)`` for given values of the run-time dimensions.

    Expressions become assignments to temporaries. A temporary is either a number or, inside a grid, an array
    with one axis per grid variable (of length 1 where it does not vary).
    """

    def __init__(self, func: PrimFunc, dims: Mapping[Var, int]) -> None:
        self.namespace: dict[str, Any] = {
            "np": np,
            "cast": interp_ops.cast,
            "checked": interp_ops.checked,
            "divide": interp_ops.divide,
            "gather": interp_ops.gather,
            "scatter": interp_ops.scatter,
            "accumulate": interp_ops.accumulate,
            "poisoned": interp_ops.poisoned,
            "VerifyError": VerifyError,
        }
        self._func = func
        self._dims: dict[Expr, Expr] = {var: as_expr(value) for var, value in dims.items()}
        self._lines: list[str] = []
        self._depth = 1
        self._loops = 0
        self._count = 0
        self._vars: dict[Var, str] = {}
        self._arrays: dict[Buffer, str] = {}
        self._grid: set[Var] = set()
        self._memo: dict[tuple[Expr, str | None], str] = {}
        self._varies: dict[Expr, bool] = {}
        self._constants: dict[Const, str] = {}
        self._env = Simplifier()

    def translate(self) -> str:
        """The source text; :attr:`namespace` holds what it names."""
        for param in self._func.params:
            if isinstance(param, Buffer):
                self._arrays[param] = self._fresh("p")
        params = ", ".join(self._arrays.values())
        self._stmt(substitute(self._func.body, self._dims))
        head = f"def program(poison, {params}):", "    state = {}"
        return "\n".join([*head, *self._lines, "    return None", ""])

    # -- lines -----------------------------------------------------------------------------------------------

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _emit(self, line: str) -> None:
        self._lines.append("    " * self._depth + line)

    def _assign(self, value: str, prefix: str = "t") -> str:
        name = self._fresh(prefix)
        self._emit(f"{name} = {value}")
        return name

    @contextmanager
    def _guarded(self, conds: list[str]) -> Iterator[None]:
        """Lines inside run only where all ``conds`` hold."""
        if not conds:
            yield
            return
        with self._indented(f"if {' and '.join(conds)}:"):
            yield

    @contextmanager
    def _indented(self, head: str) -> Iterator[None]:
        """Lines inside are indented under ``head``; temporaries made there are forgotten after."""
        self._emit(head)
        self._depth += 1
        memo, self._memo = self._memo, dict(self._memo)
        start = len(self._lines)
        yield
        if len(self._lines) == start:
            self._emit("pass")
        self._memo = memo
        self._depth -= 1

    # -- statements ------------------------------------------------------------------------------------------

    def _stmt(self, s: Stmt) -> None:
        self._memo = {}  # what was read from memory does not outlive a statement
        if isinstance(s, Seq):
            for child in s.stmts:
                self._stmt(child)
        elif isinstance(s, For):
            grid = plan_grid(s, self._env)
            if grid is None:
                self._for(s)
            else:
                self._grid_stmt(grid)
        elif isinstance(s, If):
            self._if(s)
        elif isinstance(s, Store):
            indices = tuple(map(self._env.simplify, s.indices))
            self._store(s.buffer, indices, self._env.simplify(s.value), None)
        elif isinstance(s, Alloc):
            shape = "".join(
                f"{self._expr(self._env.simplify(substitute_expr(d, self._dims)))}, " for d in s.buffer.shape
            )
            self._arrays[s.buffer] = self._assign(f"poisoned(({shape}), {s.buffer.dtype!r}, poison)", "b")
            self._stmt(s.body)
        elif isinstance(s, Annotate):
            self._stmt(s.body)
        elif isinstance(s, Block):
            self._instance(s)
        elif isinstance(s, TensorCall):
            self._stmt(expand(s))
        else:
            assert isinstance(s, Evaluate)
            self._effect(s.value)

    def _effect(self, e: Expr) -> None:
        """What an effect does, if there is anything that a sequential run would show."""
        spec = INTRINSICS.get(e.name) if isinstance(e, Call) else None
        if spec is not None and spec.effect and spec.numpy is not None:
            name = self._fresh("e")
            self.namespace[name] = spec.numpy
            self._emit(f"{name}({', '.join(['state', *(self._expr(c) for c in e.children)])})")

    def _for(self, s: For) -> None:
        extent = self._env.simplify(s.extent)
        bound = self._expr(extent)
        name = self._vars[s.var] = self._fresh("i")
        outer, loops = self._env, self._loops
        self._env = outer.with_loop(s.var, extent)
        self._loops += 1
        if self._loops > _MAX_NESTED_LOOPS:
            self._loops = 1
            inner = self._fresh("inner")
            with self._indented(f"def {inner}():"), self._indented(f"for {name} in range({bound}):"):
                self._stmt(s.body)
            self._emit(f"{inner}()")
        else:
            with self._indented(f"for {name} in range({bound}):"):
                self._stmt(s.body)
        self._loops, self._env = loops, outer

    def _if(self, s: If) -> None:
        cond = self._env.simplify(s.cond)
        outer = self._env
        with self._indented(f"if {self._expr(_in_order(cond))}:"):
            self._env = outer.assuming(lasting(cond))
            self._stmt(s.then)
        self._env = outer
        if s.orelse is not None:
            with self._indented("else:"):
                self._stmt(s.orelse)

    def _instance(self, block: Block) -> None:
        """One instance of a block, inside loops that are executed one iteration at a time."""
        outer = self._env
        with self._guarded([self._expr(outer.simplify(c)) for c in conjuncts(block.predicate)]):
            inner = outer
            first: list[str] = []
            for it in block.iters:
                binding, extent = outer.simplify(it.binding), outer.simplify(it.extent)
                name = self._vars[it.var] = self._assign(self._expr(binding), "v")
                if not outer.prove((as_expr(0) <= binding) & (binding < extent)):
                    self._emit(f"if not 0 <= {name} < {self._expr(extent)}:")
                    message = f"iterator '{it.var.name}' of block '{block.name}' leaves its domain"
                    self._emit(f"    raise VerifyError({message!r})")
                if it.kind == "reduce":
                    first.append(f"{name} == 0")
                inner = inner.with_loop(it.var, extent)
            self._env = inner
            if block.init is not None:
                with self._guarded(first):
                    self._stmt(block.init)
            self._stmt(block.body)
        self._env = outer

    # -- grids -----------------------------------------------------------------------------------------------

    def _grid_stmt(self, grid: Grid) -> None:
        outer = self._env
        variables = {var for var, _ in grid.loops}
        guards = [c for c in grid.conds if not uses(c, variables)]
        conds = [c for c in grid.conds if uses(c, variables)]
        with self._guarded([self._expr(c) for c in guards]):
            extents = [self._expr(extent) for _, extent in grid.loops]
            # In an empty grid even indices without its variables may be out of bounds.
            constant = [const_int(extent) or 0 for _, extent in grid.loops]
            with self._guarded([f"{name} > 0" for name, n in zip(extents, constant, strict=True) if n <= 0]):
                self._grid_body(grid, extents, conds)
        self._env = outer

    def _grid_body(self, grid: Grid, extents: list[str], conds: list[Expr]) -> None:
        """One pass over a grid that is not empty."""
        for axis, ((var, _), extent) in enumerate(zip(grid.loops, extents, strict=True)):
            shape = ", ".join("-1" if a == axis else "1" for a in range(len(extents)))
            self._vars[var] = self._assign(f"np.arange({extent}).reshape({shape})", "g")
        self._grid, self._varies, self._env = {var for var, _ in grid.loops}, {}, grid.env
        zero: dict[Expr, Expr] = {grid.loops[axis][0]: as_expr(0) for axis in grid.reduced}
        if grid.init is not None:
            with self._guarded([f"({self._expr(c)} == 0)" for c in grid.init_conds if const_int(c) != 0]):
                mask = self._mask([grid.env.simplify(substitute_expr(c, zero)) for c in conds])
                self._store(grid.init.buffer, grid.init.indices, grid.init.value, mask)
            self._memo = {}
        mask = self._mask(conds)
        store = grid.store
        if grid.reduce_op is None:
            self._store(store.buffer, store.indices, store.value, mask)
        else:
            self._accumulate(grid, extents, mask)
        self._grid, self._varies = set(), {}

    def _mask(self, conds: list[Expr]) -> str | None:
        mask: str | None = None
        for cond in conds:
            # A later condition may rely on the earlier ones, as in nested ifs.
            value = self._expr(cond, mask)
            mask = value if mask is None else self._assign(f"{mask} & {value}", "m")
        return mask

    def _accumulate(self, grid: Grid, extents: list[str], mask: str | None) -> None:
        store = grid.store
        value = self._expr(store.value, mask)
        indices = self._tuple([self._expr(i) for i in store.indices])
        array = self._arrays[store.buffer]
        if mask is None and not self._in_bounds(store.buffer, store.indices):
            indices = self._assign(f"checked({indices}, {array}.shape, {store.buffer.name!r})")
        shape = self._tuple(extents)
        rest = f"{mask}, {shape}, {grid.reduced!r}, {store.buffer.name!r}"
        self._emit(f"accumulate({grid.reduce_op!r}, {array}, {indices}, {value}, {rest})")

    # -- memory ----------------------------------------------------------------------------------------------

    @staticmethod
    def _tuple(items: list[str]) -> str:
        return f"({''.join(f'{item}, ' for item in items)})"

    def _in_bounds(self, buffer: Buffer, indices: tuple[Expr, ...]) -> bool:
        for index, extent in zip(indices, buffer.shape, strict=True):
            lo, hi = self._env.interval(index)
            size = const_int(substitute_expr(extent, self._dims))
            if lo is None or hi is None or size is None or lo < 0 or hi >= size:
                return False
        return True

    def _store(self, buffer: Buffer, indices: tuple[Expr, ...], value: Expr, mask: str | None) -> None:
        source = self._expr(value, mask)
        places = self._tuple([self._expr(i, mask) for i in indices])
        array = self._arrays[buffer]
        if mask is not None:
            self._emit(f"scatter({array}, {places}, {mask}, {source}, {buffer.name!r})")
        elif self._in_bounds(buffer, indices):
            self._emit(f"{array}[{places}] = {source}")
        else:
            self._emit(f"{array}[checked({places}, {array}.shape, {buffer.name!r})] = {source}")

    def _load(self, e: Load, mask: str | None) -> str:
        places = self._tuple([self._expr(i, mask) for i in e.indices])
        array = self._arrays[e.buffer]
        if self._in_bounds(e.buffer, e.indices):
            return f"{array}[{places}]"
        if mask is not None:
            return f"gather({array}, {places}, {mask}, {e.buffer.name!r})"
        return f"{array}[checked({places}, {array}.shape, {e.buffer.name!r})]"

    # -- expressions -----------------------------------------------------------------------------------------

    def _is_array(self, e: Expr) -> bool:
        known = self._varies.get(e)
        if known is None:
            known = self._varies[e] = bool(self._grid) and uses(e, self._grid)
        return known

    def _expr(self, e: Expr, mask: str | None = None) -> str:
        """A name or literal for the value of ``e``; its loads happen only where ``mask`` holds."""
        if isinstance(e, Const):
            return self._const(e)
        if isinstance(e, Var):
            return self._vars[e]
        # What is read or divided only where some lane needs it is not known elsewhere.
        partial = mask is not None and (self._is_array(e) or any(map(_may_fail, walk_expr(e))))
        key = (e, mask if partial else None)
        name = self._memo.get(key)
        if name is None:
            name = self._select(e, mask) if isinstance(e, Select) else self._assign(self._value(e, mask))
            self._memo[key] = name
        return name

    def _const(self, e: Const) -> str:
        if e.dtype in (dt.INDEX, "bool"):
            return f"({e.value!r})" if e.dtype == dt.INDEX and e.value < 0 else repr(e.value)
        name = self._constants.get(e)
        if name is None:
            name = self._constants[e] = self._fresh("k")
            with np.errstate(all="ignore"):
                self.namespace[name] = np.array(e.value).astype(dt.to_numpy(e.dtype))[()]
        return name

    def _value(self, e: Expr, mask: str | None) -> str:
        if isinstance(e, Load):
            return self._load(e, mask)
        operands = [self._expr(c, mask) for c in e.children]
        if isinstance(e, BinOp | Cmp):
            if e.op in ("floordiv", "mod") and not isinstance(e.b, Const):
                return f"divide({e.op!r}, {operands[0]}, {operands[1]}, {mask})"
            if e.op in _SYMBOLS:
                return f"{operands[0]} {_SYMBOLS[e.op]} {operands[1]}"
            plain = e.dtype == dt.INDEX and not self._is_array(e)
            return f"{e.op if plain else f'np.{e.op}imum'}({operands[0]}, {operands[1]})"
        if isinstance(e, Cast):
            return f"cast({operands[0]}, {e.dtype!r})"
        if not isinstance(e, Call):
            raise VerifyError(f"a {type(e).__name__} cannot be executed: {e!r}")
        spec = INTRINSICS.get(e.name)
        if spec is None or spec.effect:
            raise VerifyError(f"'{e.name}' is not an intrinsic with a value")
        name = f"f_{e.name}"
        self.namespace[name] = spec.numpy
        return f"{name}({', '.join(operands)})"

    def _select(self, e: Select, mask: str | None) -> str:
        cond = self._expr(e.cond, mask)
        if self._is_array(e.cond):
            taken = cond if mask is None else self._assign(f"{mask} & {cond}", "m")
            other = self._assign(f"~{cond}" if mask is None else f"{mask} & ~{cond}", "m")
            a, b = self._expr(e.a, taken), self._expr(e.b, other)
            return self._assign(f"np.where({cond}, {a}, {b})")
        name = self._fresh("t")
        with self._indented(f"if {cond}:"):
            self._emit(f"{name} = {self._expr(e.a, mask)}")
        with self._indented("else:"):
            self._emit(f"{name} = {self._expr(e.b, mask)}")
        return name


def _may_fail(e: Expr) -> bool:
    return isinstance(e, Load) or (isinstance(e, BinOp) and e.op in ("floordiv", "mod"))


def _in_order(cond: Expr) -> Expr:
    """``cond`` evaluated part by part: those that may fail only where the others hold."""
    parts = sorted(conjuncts(cond), key=lambda c: any(map(_may_fail, walk_expr(c))))
    if len(parts) < 2 or not any(map(_may_fail, walk_expr(parts[-1]))):
        return cond
    result = parts[-1]
    for part in reversed(parts[:-1]):
        result = select(part, result, FALSE)
    return result
