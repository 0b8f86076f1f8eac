"""Expressions over a few variables as NumPy functions of whole columns of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Call, Cast, Cmp, Const, Expr, Select, Var
from tilewright.ir.visit import free_vars, walk_expr

#: Maps ``[n, variables]`` integers to ``[n, expressions]`` float64.
Compiled: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.float64]]

#: Rows evaluated together: their columns stay in the second-level cache.
CHUNK: Final = 2048

_BINARY: Final = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}",
    "floordiv": "{0} // {1}", "mod": "{0} % {1}", "min": "np.minimum({0}, {1})",
    "max": "np.maximum({0}, {1})", "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}",
}  # fmt: skip
_COMPARE: Final = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_CALLS: Final = {"log2": "np.log2({0})", "exp2": "np.exp2({0})", "sqrt": "np.sqrt({0})"}


def compile_columns(exprs: Sequence[Expr], variables: Sequence[Expr]) -> Compiled:
    """A function from values of ``variables`` to values of ``exprs``; what they share is computed once.

    Raises ScheduleError for an expression over anything else, or with an operation that has no column form.
    """
    names: dict[Expr, str] = {}
    lines: list[str] = []
    for n, var in enumerate(variables):
        if isinstance(var, Var):
            names[var] = f"x{n}"
            lines.append(f"x{n} = rows[:, {n}]")
    known = set(names)
    for expr in exprs:
        unknown = sorted(v.name for v in free_vars(expr) - known)
        if unknown:
            raise ScheduleError(
                f"{', '.join(unknown)} has no value here",
                hint="only programs with constant sizes can be evaluated",
            )
        for node in walk_expr(expr):
            if node not in names:
                names[node] = f"t{len(names)}"
                lines.append(f"{names[node]} = {_text(node, names)}")
    for n, expr in enumerate(exprs):
        lines.append(f"out[:, {n}] = {names[expr]}")
    source = "\n    ".join(["def columns(rows, out):", *lines, "return out"])
    namespace: dict[str, Any] = {"np": np}
    exec(compile(source, "<columns>", "exec"), namespace)
    run = namespace["columns"]

    def evaluate(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        out = np.empty((len(rows), len(exprs)))
        columns = np.asfortranarray(rows)
        for start in range(0, len(rows), CHUNK):
            run(columns[start : start + CHUNK], out[start : start + CHUNK])
        return out

    return evaluate


def _text(node: Expr, names: dict[Expr, str]) -> str:
    """The NumPy expression of one node over the names of its operands."""
    if isinstance(node, Const):
        return repr(node.value)
    operands = [names[child] for child in node.children]
    if isinstance(node, BinOp) and node.op in _BINARY:
        return _BINARY[node.op].format(*operands)
    if isinstance(node, Cmp):
        return f"{operands[0]} {_COMPARE[node.op]} {operands[1]}"
    if isinstance(node, Select):
        return f"np.where({', '.join(operands)})"
    if isinstance(node, Cast) and dt.is_float(node.dtype):
        return f"{operands[0]} * 1.0"
    if isinstance(node, Call) and node.name in _CALLS:
        return _CALLS[node.name].format(*operands)
    raise ScheduleError(f"{node!r} has no column form")
