"""Index arithmetic as text, for layouts and for symbolic factors in traces."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from tilewright.ir.expr import BinOp, Const, Expr, Var, as_expr, binop

_OPS: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
}
#: Longer text is not read: it would nest deeper than Python's own parser goes.
MAX_TEXT = 500
_SYMBOLS = {"add": " + ", "sub": " - ", "mul": "*", "floordiv": "//", "mod": "%"}


def parse_exprs(text: str, scope: Mapping[str, Expr]) -> tuple[Expr, ...]:
    """Comma-separated expressions over the variables of ``scope`` by ``+ - * // %``. Raises ValueError on
    anything else.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"index arithmetic of {len(text)} characters")
    try:
        tree = ast.parse(f"({text.strip()},)", mode="eval").body
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"not index arithmetic: {text!r}") from error
    if not isinstance(tree, ast.Tuple):
        raise ValueError(f"not index arithmetic: {text!r}")
    return tuple(_expr_of(e, scope) for e in tree.elts)


def _expr_of(node: ast.expr, scope: Mapping[str, Expr]) -> Expr:
    if isinstance(node, ast.Name) and node.id in scope:
        return scope[node.id]
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return as_expr(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _expr_of(node.operand, scope) * -1
    if isinstance(node, ast.BinOp) and type(node.op) in _OPS:
        return binop(_OPS[type(node.op)], _expr_of(node.left, scope), _expr_of(node.right, scope))
    raise ValueError(f"not index arithmetic over {', '.join(scope) or 'constants'}: {ast.unparse(node)!r}")


def format_arith(e: Expr) -> str:
    """``e`` as text that :func:`parse_exprs` reads. Raises ValueError when it is more than ``+ - * // %``."""
    text = _text(e)
    return text[1:-1] if text.startswith("(") else text


def _text(e: Expr) -> str:
    if isinstance(e, Var):
        return e.name
    if isinstance(e, Const):
        return str(e.value)
    if isinstance(e, BinOp) and e.op in _SYMBOLS:
        return f"({_text(e.a)}{_SYMBOLS[e.op]}{_text(e.b)})"
    raise ValueError(f"not index arithmetic: {e!r}")
