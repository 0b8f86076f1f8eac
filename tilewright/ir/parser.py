"""Reads the text that ``ir.printer`` writes.

The text is parsed by Python's ``ast`` and walked; nothing in it is ever evaluated. Whatever is not part of
the language is an error that points at its place.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Final

from tilewright.errors import IntrinsicError, ParseError
from tilewright.ir import dtype as dt
from tilewright.ir import expr as ex
from tilewright.ir.expr import Expr, Var, as_expr, const
from tilewright.ir.intrinsics import INTRINSICS
from tilewright.ir.printer import SYMBOLS, default_bounds
from tilewright.ir.stmt import (
    LOOP_KINDS,
    Alloc,
    Annotate,
    Attr,
    Block,
    Buffer,
    Evaluate,
    For,
    If,
    IterVar,
    PrimFunc,
    Range,
    Region,
    Seq,
    Stmt,
    Store,
    TensorCall,
)
from tilewright.ir.tensor_intrinsics import check_operands, tensor_intrinsic

_BINOPS: Final[dict[type[ast.operator], str]] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "shr",
}  # fmt: skip
_CMPS: Final[dict[type[ast.cmpop], str]] = {ast.Lt: "lt", ast.LtE: "le", ast.Eq: "eq", ast.NotEq: "ne"}
#: Keyword arguments that describe a variable.
_VAR_KEYS: Final = frozenset(["lo", "hi", "multiple_of", "dtype"])


def parse(text: str) -> PrimFunc:
    """The function that ``text`` describes. Raises ParseError with line, column and the offending line
    marked.
    """
    try:
        module = ast.parse(text)
    except SyntaxError as error:
        place = _place(text, error.lineno or 1, (error.offset or 1) - 1)
        raise ParseError(f"not a program: {error.msg}", location=place) from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise ParseError(f"not a program: {error or 'nested too deeply'}") from error
    parser = _Parser(text)
    if len(module.body) != 1 or not isinstance(module.body[0], ast.FunctionDef):
        raise ParseError("the text must be one function with @primfunc", location=_place(text, 1, 0))
    return parser.function(module.body[0])


def _place(text: str, line: int, column: int) -> str:
    """``line L, column C`` with the line and a caret under the column (both counted from 1 in the words)."""
    lines = text.splitlines()
    shown = lines[line - 1] if 0 < line <= len(lines) else ""
    # ast counts columns in UTF-8 bytes.
    column = len(shown.encode()[:column].decode(errors="ignore"))
    return f"line {line}, column {column + 1}\n    {shown}\n    {' ' * column}^"


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._scope: dict[str, Var | Buffer] = {}

    def _error(self, node: ast.AST, message: str, hint: str | None = None) -> ParseError:
        place = _place(self._text, getattr(node, "lineno", 1), getattr(node, "col_offset", 0))
        return ParseError(message, location=place, hint=hint)

    # -- function --------------------------------------------------------------------------------------------

    def function(self, node: ast.FunctionDef) -> PrimFunc:
        """The function with its attributes, parameters and body."""
        decorator = node.decorator_list[0] if len(node.decorator_list) == 1 else node
        if not isinstance(decorator, ast.Call) or self._callee(decorator) != "primfunc":
            raise self._error(decorator, "the function needs the decorator @primfunc({...}) and no other")
        arguments, keywords = self._arguments(decorator, {"name"})
        attrs = self._attr(arguments[0]) if len(arguments) == 1 else None
        if not isinstance(attrs, dict):
            raise self._error(decorator, "@primfunc takes one dictionary of attributes")
        if (
            node.args.posonlyargs
            or node.args.kwonlyargs
            or node.args.vararg
            or node.args.kwarg
            or node.args.defaults
        ):
            raise self._error(node, "parameters are plain names with a type")
        params: dict[str, Buffer | Var] = {}
        later: list[tuple[ast.arg, ast.expr]] = []
        for arg in node.args.args:
            if arg.annotation is None:
                raise self._error(arg, f"parameter '{arg.arg}' has no type")
            if arg.arg in params:
                raise self._error(arg, f"two parameters are called '{arg.arg}'")
            if isinstance(arg.annotation, ast.Call) and self._callee(arg.annotation) == "dim":
                params[arg.arg] = self._dim(arg.arg, arg.annotation)
                self._scope[arg.arg] = params[arg.arg]
            else:
                params[arg.arg] = Var(arg.arg)  # keeps the place; buffers may use dims declared after them
                later.append((arg, arg.annotation))
        for arg, annotation in later:
            params[arg.arg] = self._buffer(arg.arg, annotation, "buffer")
        for arg, _ in later:
            self._scope[arg.arg] = params[arg.arg]
        body = self._suite(node.body)
        name = self._string(keywords["name"]) if "name" in keywords else node.name
        return PrimFunc(name, tuple(params.values()), body, tuple(attrs.items()))

    def _dim(self, name: str, call: ast.Call) -> Var:
        arguments, keywords = self._arguments(call, _VAR_KEYS | {"typical"})
        if arguments:
            raise self._error(call, "dim takes lo=, hi=, multiple_of=, typical= and dtype= only")
        var = self._var(name, keywords, (None, None))
        if "typical" in keywords:
            typical = self._optional_int(keywords["typical"])
            return Var(name, var.dtype, var.lo, var.hi, var.multiple_of, typical)
        return var

    def _var(self, name: str, keywords: dict[str, ast.expr], bounds: tuple[int | None, int | None]) -> Var:
        lo = self._optional_int(keywords["lo"]) if "lo" in keywords else bounds[0]
        hi = self._optional_int(keywords["hi"]) if "hi" in keywords else bounds[1]
        multiple = 1
        if "multiple_of" in keywords:
            given = self._optional_int(keywords["multiple_of"])
            if given is None or given < 1:
                raise self._error(keywords["multiple_of"], "multiple_of must be a positive integer")
            multiple = given
        dtype = self._dtype_name(keywords["dtype"]) if "dtype" in keywords else dt.INDEX
        return Var(name, dtype, lo, hi, multiple)

    def _buffer(self, name: str, node: ast.expr, word: str) -> Buffer:
        keywords: dict[str, ast.expr] = {}
        kind: ast.expr = node
        if isinstance(node, ast.Call):
            if self._callee(node) != word:
                raise self._error(node, f"expected {word}(dtype[shape], ...)")
            arguments, keywords = self._arguments(node, {"scope", "strides", "stride_align", "name"})
            if len(arguments) != 1:
                raise self._error(node, f"{word} takes one type, dtype[shape]")
            kind = arguments[0]
        if not isinstance(kind, ast.Subscript) or not isinstance(kind.value, ast.Name):
            raise self._error(kind, "expected a type such as float32[64, 32]")
        if kind.value.id not in dt.DTYPES:
            raise self._error(
                kind, f"unknown element type '{kind.value.id}'", hint=f"known: {', '.join(sorted(dt.DTYPES))}"
            )
        shape = tuple(self._index(x) for x in self._items(kind.slice))
        strides: tuple[Expr, ...] | None = None
        if "strides" in keywords:
            if not isinstance(keywords["strides"], ast.Tuple) or len(keywords["strides"].elts) != len(shape):
                raise self._error(keywords["strides"], "strides must be a tuple with one entry per dimension")
            strides = tuple(self._index(x) for x in keywords["strides"].elts)
        scope = self._string(keywords["scope"]) if "scope" in keywords else "global"
        shown = self._string(keywords["name"]) if "name" in keywords else name
        align = self._stride_align(keywords["stride_align"], len(shape)) if "stride_align" in keywords else ()
        return Buffer(shown, shape, kind.value.id, scope, strides, align)

    def _stride_align(self, node: ast.expr, rank: int) -> tuple[tuple[int, int, int], ...]:
        """``((dimension, factor, offset), ...)``."""
        value = self._attr(node)
        for entry in value if isinstance(value, tuple) else (value,):
            whole = isinstance(entry, tuple) and all(type(x) is int for x in entry)
            if not whole or len(entry) != 3 or not (0 <= entry[0] < rank and 0 <= entry[2] < entry[1]):
                raise self._error(node, "expected ((dimension, factor, offset), ...) with offset < factor")
        return tuple(value)

    # -- statements ------------------------------------------------------------------------------------------

    def _suite(self, nodes: Sequence[ast.stmt]) -> Stmt:
        """The statements of a suite. Names bound inside end with it."""
        scope = dict(self._scope)
        stmts: list[Stmt] = []
        for position, node in enumerate(nodes):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and self._callee(node.value) == "alloc"
            ):
                name = self._target_name(node.targets)
                buffer = self._buffer(name, node.value, "alloc")
                self._bind(node, name, buffer)
                stmts.append(Alloc(buffer, self._suite(nodes[position + 1 :])))
                break
            if not isinstance(node, ast.Pass):
                stmts.append(self._stmt(node))
        self._scope = scope
        return stmts[0] if len(stmts) == 1 else Seq(tuple(stmts))

    def _bind(self, node: ast.AST, name: str, what: Var | Buffer) -> None:
        if name in self._scope:
            raise self._error(
                node,
                f"'{name}' is already in scope",
                hint="give every variable and buffer in scope its own name",
            )
        self._scope[name] = what

    def _stmt(self, node: ast.stmt) -> Stmt:
        if isinstance(node, ast.For):
            return self._for(node)
        if isinstance(node, ast.If):
            cond = self._bool(node.test)
            then = self._suite(node.body)
            return If(cond, then, self._suite(node.orelse) if node.orelse else None)
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            if len(node.targets) != 1 or not isinstance(target, ast.Subscript):
                raise self._error(node, "expected a store such as C[i, j] = value")
            buffer, indices = self._access(target)
            value = self._expr(node.value)
            if value.dtype != buffer.dtype:
                raise self._error(
                    node.value, f"a {value.dtype} value is stored into {buffer.dtype} buffer '{buffer.name}'"
                )
            return Store(buffer, indices, value)
        if isinstance(node, ast.With):
            return self._with(node)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            word = self._callee(node.value)
            arguments, _ = self._arguments(node.value, ())
            if word == "evaluate" and len(arguments) == 1:
                return Evaluate(self._expr(arguments[0]))
            if word == "tensor_call" and arguments:
                return self._tensor_call(arguments)
        raise self._error(node, "not a statement of the language")

    def _tensor_call(self, arguments: Sequence[ast.expr]) -> Stmt:
        operands = tuple(map(self._region, arguments[1:]))
        try:
            intrinsic = tensor_intrinsic(self._string(arguments[0]))
            check_operands(intrinsic, operands)
        except IntrinsicError as error:
            raise self._error(arguments[0], error.message, hint=error.hint) from error
        return TensorCall(intrinsic, operands)

    def _for(self, node: ast.For) -> Stmt:
        if not isinstance(node.target, ast.Name) or not isinstance(node.iter, ast.Call) or node.orelse:
            raise self._error(node, "expected 'for name in kind(extent):'")
        kind = self._callee(node.iter)
        arguments, keywords = self._arguments(node.iter, {*_VAR_KEYS, "annotations"})
        if kind == "thread" and len(arguments) == 2:
            kind = f"thread:{self._string(arguments[0])}"
            arguments = arguments[1:]
        elif kind not in LOOP_KINDS and kind != "virtual":
            raise self._error(
                node.iter,
                f"unknown loop kind '{kind}'",
                hint=f"known: {', '.join(LOOP_KINDS)}, virtual, thread",
            )
        if len(arguments) != 1:
            raise self._error(node.iter, "a loop has one extent")
        extent = self._index(arguments[0])
        var = self._var(node.target.id, keywords, default_bounds(extent))
        annotations = self._annotations(keywords["annotations"]) if "annotations" in keywords else ()
        self._bind(node.target, node.target.id, var)
        body = self._suite(node.body)
        del self._scope[node.target.id]
        return For(var, extent, body, kind, annotations)

    def _with(self, node: ast.With) -> Stmt:
        item = node.items[0]
        call = item.context_expr
        if len(node.items) != 1 or not isinstance(call, ast.Call):
            raise self._error(
                node, "expected 'with block(...)', 'with alloc(...) as name' or 'with annotate(...)'"
            )
        word = self._callee(call)
        if word == "alloc" and isinstance(item.optional_vars, ast.Name):
            name = item.optional_vars.id
            buffer = self._buffer(name, call, "alloc")
            self._bind(item.optional_vars, name, buffer)
            body = self._suite(node.body)
            del self._scope[name]
            return Alloc(buffer, body)
        if item.optional_vars is not None:
            raise self._error(item.optional_vars, f"'with {word}(...)' takes no 'as'")
        arguments, _ = self._arguments(call, ())
        if word == "annotate" and len(arguments) == 2:
            return Annotate(self._string(arguments[0]), self._attr(arguments[1]), self._suite(node.body))
        if word == "block" and len(arguments) == 1:
            return self._block(self._string(arguments[0]), node)
        raise self._error(call, f"'{word}' does not begin a statement here")

    def _block(self, name: str, node: ast.With) -> Block:
        outer = dict(self._scope)
        iters: list[IterVar] = []
        parts: dict[str, Any] = {}
        position = 0
        while position < len(node.body):
            stmt = node.body[position]
            if isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.Call):
                kind = self._callee(stmt.value)
                if kind not in ("spatial", "reduce") or parts:
                    break
                iters.append(self._iter(kind, stmt, stmt.value, outer))
            elif isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Call):
                word = self._callee(stmt.value)
                if word not in ("where", "annotations", "reads", "writes"):
                    break
                if word in parts:
                    raise self._error(stmt, f"a block has one {word}(...)")
                parts[word] = self._clause(word, stmt.value, outer)
            elif self._begins_init(stmt):
                assert isinstance(stmt, ast.With)
                if "init" in parts:
                    raise self._error(stmt, "a block has one init")
                parts["init"] = self._suite(stmt.body)
            else:
                break
            position += 1
        body = self._suite(node.body[position:])
        self._scope = outer
        return Block(
            name,
            tuple(iters),
            parts.get("reads", ()),
            parts.get("writes", ()),
            body,
            parts.get("init"),
            parts.get("where", ex.TRUE),
            parts.get("annotations", ()),
        )

    def _begins_init(self, stmt: ast.stmt) -> bool:
        if not isinstance(stmt, ast.With) or not isinstance(stmt.items[0].context_expr, ast.Call):
            return False
        return self._callee(stmt.items[0].context_expr) == "init"

    def _iter(self, kind: str, node: ast.Assign, call: ast.Call, outer: dict[str, Var | Buffer]) -> IterVar:
        name = self._target_name(node.targets)
        arguments, keywords = self._arguments(call, _VAR_KEYS)
        if len(arguments) != 2:
            raise self._error(call, f"expected {kind}(extent, binding)")
        extent, binding = (self._in_scope(outer, x) for x in arguments)
        var = self._var(name, keywords, default_bounds(extent))
        self._bind(node, name, var)
        return IterVar(var, extent, kind, binding)

    def _in_scope(self, scope: dict[str, Var | Buffer], node: ast.expr) -> Expr:
        """An index expression over the loops outside the block."""
        inner, self._scope = self._scope, scope
        try:
            return self._index(node)
        finally:
            self._scope = inner

    def _clause(self, word: str, call: ast.Call, outer: dict[str, Var | Buffer]) -> Any:
        arguments, _ = self._arguments(call, ())
        if word in ("reads", "writes"):
            return tuple(self._region(x) for x in arguments)
        if len(arguments) != 1:
            raise self._error(call, f"{word} takes one argument")
        if word == "annotations":
            return self._annotations(arguments[0])
        inner, self._scope = self._scope, outer
        cond = self._bool(arguments[0])
        self._scope = inner
        return cond

    def _region(self, node: ast.expr) -> Region:
        if not isinstance(node, ast.Subscript):
            raise self._error(node, "expected a region such as A[i, span(j, 4)]")
        buffer = self._named_buffer(node.value)
        ranges: list[Range] = []
        for item in self._items(node.slice):
            if isinstance(item, ast.Call) and self._callee(item) == "span":
                arguments, _ = self._arguments(item, ())
                if len(arguments) != 2:
                    raise self._error(item, "expected span(first, extent)")
                ranges.append(Range(self._index(arguments[0]), self._index(arguments[1])))
            else:
                ranges.append(Range(self._index(item), as_expr(1)))
        if len(ranges) != len(buffer.shape):
            raise self._error(
                node, f"{len(ranges)} ranges for buffer '{buffer.name}' of rank {len(buffer.shape)}"
            )
        return Region(buffer, tuple(ranges))

    # -- expressions -----------------------------------------------------------------------------------------

    def _expr(self, node: ast.expr) -> Expr:
        try:
            return self._compute(node)
        except TypeError as error:
            raise self._error(node, str(error)) from error

    def _compute(self, node: ast.expr) -> Expr:
        if isinstance(node, ast.Name):
            what = self._scope.get(node.id)
            if not isinstance(what, Var):
                reason = "is a buffer; it needs indices" if what is not None else "is not in scope"
                raise self._error(node, f"'{node.id}' {reason}")
            return what
        if isinstance(node, ast.Constant | ast.UnaryOp):
            value = self._number(node)
            if isinstance(value, int) and abs(value) > 1 << 63:
                raise self._error(node, f"{value} does not fit 64 bits")
            return as_expr(value)
        if isinstance(node, ast.BinOp):
            op = _BINOPS.get(type(node.op))
            if op is None:
                raise self._error(
                    node, "unknown operator", hint=f"known: {' '.join(s for s, _ in SYMBOLS.values())}"
                )
            return ex.binop(op, self._expr(node.left), self._expr(node.right))
        if isinstance(node, ast.Compare):
            compare = _CMPS.get(type(node.ops[0]))
            if len(node.ops) != 1 or compare is None:
                raise self._error(node, "comparisons are <, <=, == and !=, one at a time")
            return ex.cmp(compare, self._expr(node.left), self._expr(node.comparators[0]))
        if isinstance(node, ast.Subscript):
            buffer, indices = self._access(node)
            return ex.load(buffer, indices)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise self._error(node, "not an expression of the language")

    def _call(self, node: ast.Call) -> Expr:
        name = self._callee(node)
        if name in dt.DTYPES:
            arguments, _ = self._arguments(node, ())
            if len(arguments) != 1:
                raise self._error(node, f"{name}(...) takes one operand")
            return self._conversion(name, arguments[0])
        arguments, keywords = self._arguments(node, {"dtype"} if name == "call" else ())
        if name == "call" and arguments and "dtype" in keywords:
            operands = [self._expr(a) for a in arguments[1:]]
            return ex.call(self._string(arguments[0]), operands, self._dtype_name(keywords["dtype"]))
        operands = [self._expr(a) for a in arguments]
        if name in ("min", "max") and len(operands) == 2:
            return ex.binop(name, *operands)
        if name == "select" and len(operands) == 3:
            if operands[0].dtype != "bool":
                raise self._error(arguments[0], f"a condition must be bool, not {operands[0].dtype}")
            return ex.select(*operands)
        spec = INTRINSICS.get(name)
        if spec is None:
            raise self._error(node.func, f"unknown function '{name}'")
        if len(operands) != spec.arity or not operands:
            raise self._error(node, f"{name} takes {spec.arity} operands, not {len(operands)}")
        return ex.call(name, operands, spec.result_dtype(operands[0].dtype))

    def _conversion(self, dtype: str, node: ast.expr) -> Expr:
        """``dtype(x)``: a constant for a literal that the type has, a cast otherwise."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if not dt.is_float(dtype) or node.value not in ("inf", "-inf", "nan"):
                raise self._error(node, 'only floats have the special values "inf", "-inf" and "nan"')
            return const(float(node.value), dtype)
        literal = node.operand if isinstance(node, ast.UnaryOp) else node
        if isinstance(literal, ast.Constant):
            value = self._number(node)
            if dt.is_float(dtype) and not isinstance(value, bool):
                return const(value, dtype)
            if dt.is_int(dtype) and isinstance(value, int) and not isinstance(value, bool):
                low, high = dt.int_range(dtype)
                if not low <= value <= high:
                    raise self._error(node, f"{value} is outside of {dtype}")
                return const(value, dtype)
        return ex.cast(dtype, self._expr(node))

    def _number(self, node: ast.expr) -> int | float | bool:
        """The value of a literal number, with its sign."""
        if (
            isinstance(node, ast.UnaryOp)
            and isinstance(node.op, ast.USub)
            and isinstance(node.operand, ast.Constant)
        ):
            value = node.operand.value
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            return node.value
        raise self._error(node, "expected a number")

    def _index(self, node: ast.expr) -> Expr:
        e = self._expr(node)
        if not (dt.is_int(e.dtype) or e.dtype == "bool"):
            raise self._error(node, f"expected an integer, this is {e.dtype}")
        return e

    def _bool(self, node: ast.expr) -> Expr:
        e = self._expr(node)
        if e.dtype != "bool":
            raise self._error(node, f"a condition must be bool, not {e.dtype}")
        return e

    def _access(self, node: ast.Subscript) -> tuple[Buffer, tuple[Expr, ...]]:
        buffer = self._named_buffer(node.value)
        indices = tuple(self._index(x) for x in self._items(node.slice))
        if len(indices) != len(buffer.shape):
            raise self._error(
                node, f"{len(indices)} indices for buffer '{buffer.name}' of rank {len(buffer.shape)}"
            )
        return buffer, indices

    def _named_buffer(self, node: ast.expr) -> Buffer:
        what = self._scope.get(node.id) if isinstance(node, ast.Name) else None
        if not isinstance(what, Buffer):
            raise self._error(node, f"'{ast.unparse(node)}' is not a buffer in scope")
        return what

    # -- literals and calls ----------------------------------------------------------------------------------

    @staticmethod
    def _items(node: ast.expr) -> list[ast.expr]:
        return node.elts if isinstance(node, ast.Tuple) else [node]

    def _target_name(self, targets: Sequence[ast.expr]) -> str:
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise self._error(targets[0], "expected one name")
        return targets[0].id

    def _callee(self, node: ast.Call) -> str:
        if not isinstance(node.func, ast.Name):
            raise self._error(node.func, "only the functions of the language can be called")
        return node.func.id

    def _arguments(
        self, node: ast.Call, allowed: set[str] | frozenset[str] | tuple[()]
    ) -> tuple[list[ast.expr], dict[str, ast.expr]]:
        keywords: dict[str, ast.expr] = {}
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg not in allowed:
                raise self._error(
                    keyword.value, f"'{self._callee(node)}' has no argument '{keyword.arg or '**'}'"
                )
            keywords[keyword.arg] = keyword.value
        return node.args, keywords

    def _string(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            raise self._error(node, "expected a string")
        return node.value

    def _dtype_name(self, node: ast.expr) -> str:
        name = self._string(node)
        if name not in dt.DTYPES:
            raise self._error(node, f"unknown element type '{name}'")
        return name

    def _optional_int(self, node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant) and node.value is None:
            return None
        value = self._number(node)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._error(node, "expected an integer or None")
        return value

    def _annotations(self, node: ast.expr) -> tuple[tuple[str, Attr], ...]:
        value = self._attr(node)
        if not isinstance(value, dict):
            raise self._error(node, "annotations are a dictionary")
        return tuple(value.items())

    def _attr(self, node: ast.expr) -> Any:
        """An attribute: a literal of strings, numbers, None, tuples and dictionaries with string keys."""
        if isinstance(node, ast.Tuple):
            return tuple(self._attr(x) for x in node.elts)
        if isinstance(node, ast.Dict):
            if any(key is None for key in node.keys):
                raise self._error(node, "'**' is not part of the language")
            return {
                self._string(k): self._attr(v)
                for k, v in zip(node.keys, node.values, strict=True)
                if k is not None
            }
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str)):
            return node.value
        if isinstance(node, ast.Call) and self._callee(node) == "float" and len(node.args) == 1:
            text = self._string(node.args[0])
            if text in ("inf", "-inf", "nan"):
                return float(text)
        return self._number(node)
