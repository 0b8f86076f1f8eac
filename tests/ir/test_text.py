"""The text form: exact round trips, names, and errors that point at their place."""

from __future__ import annotations

import math

import pytest

from tilewright.errors import ParseError
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var, as_expr, binop, call, cast, cmp, const, load, logical_not, select
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text, structural_equal, to_text, workload_key
from tilewright.ir.stmt import (
    Alloc,
    Annotate,
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
    seq,
)
from tilewright.ir.visit import stores_of

ATTRS = (("const_params", ()), ("outputs", 1))


def _round_trip(func: PrimFunc) -> PrimFunc:
    text = to_text(func)
    again = parse(text)
    assert to_text(again) == text
    assert structural_equal(again, func)
    return again


def _func(body: Stmt, *params: Buffer | Var) -> PrimFunc:
    return PrimFunc("f", params, body, ATTRS)


def _value(value: Expr, *params: Buffer | Var) -> Expr:
    """``value`` after a round trip through a store."""
    out = Buffer.make("Out", (), value.dtype)
    (store,) = stores_of(_round_trip(_func(Store(out, (), value), *params, out)).body)
    return store.value


def matmul() -> PrimFunc:
    a = te.placeholder((64, 32), "float32", "A")
    b = te.placeholder((32, 48), "float32", "B")
    c = te.compute((64, 48), lambda i, j: te.reduce("sum", (32,), lambda k: a[i, k] * b[k, j]), "C")
    return te.primfunc("matmul", [a, b], [c], const_inputs=[b])


MATMUL = """\
@primfunc({"const_params": ("B",), "outputs": 1})
def matmul(A: float32[64, 32], B: float32[32, 48], C: float32[64, 48]):
    for i0 in serial(64):
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
"""


def test_the_text_of_a_matrix_product() -> None:
    assert to_text(matmul()) == MATMUL
    assert to_text(parse(MATMUL)) == MATMUL


def test_the_workload_key_is_stable() -> None:
    """Records are filed under it: a change of this value makes every stored measurement unreachable."""
    assert workload_key(matmul()) == "0859c8c44f962ff3a928230a4062bf65af14a72a192ada766033e107316c2a99"


@pytest.mark.parametrize("dtype", sorted(dt.DTYPES))
def test_constants(dtype: str) -> None:
    values: list[float | int | bool]
    if dtype == "bool":
        values = [True, False]
    elif dt.is_int(dtype):
        values = [0, 1, 3, *dt.int_range(dtype)]
    else:
        values = [
            0.0,
            -0.0,
            1.0,
            -1.5,
            0.1,
            1e-5,
            1 / 3,
            3.0e38,
            1e-45,
            5e-324,
            math.inf,
            -math.inf,
            math.nan,
        ]
    for value in values:
        e = const(value, dtype)
        assert _value(e) is e


def test_float32_constants_print_shortest() -> None:
    assert const(0.1, "float32") is const(0.10000000149011612, "float32")
    assert " = 0.1\n" in to_text(_func(Store(Buffer.make("B", (), "float32"), (), const(0.1, "float32"))))


def test_operators_keep_their_tree() -> None:
    x, y, z = Var("x"), Var("y"), Var("z")
    ops = ["add", "sub", "mul", "floordiv", "mod", "min", "max", "and", "or", "xor", "shl", "shr"]
    for outer in ops:
        for inner in ops:
            for e in (binop(outer, binop(inner, x, y), z), binop(outer, x, binop(inner, y, z))):
                again = _value(e, x, y, z)
                assert repr(again) == repr(e)
    for e in (
        x - 3,
        x + -3,
        x * -3,
        as_expr(-3) // x,
        as_expr(-3) - x,
        (x - 3) * 2,
        x - (y - z),
        -x,
        x // -2,
    ):
        assert repr(_value(e, x, y, z)) == repr(e)


def test_conditions_keep_their_tree() -> None:
    x, y = Var("x"), Var("y")
    for op in ("lt", "le", "eq", "ne"):
        c = cmp(op, x + 1, y)
        for e in (
            c,
            logical_not(c) & c,
            binop("xor", c, cmp(op, y, x)),
            cmp("eq", c, c & (x < 3)),
            (c | c) & (x < y),
        ):
            assert repr(_value(e, x, y)) == repr(e)


def test_casts_and_calls() -> None:
    x = Var("x")
    f = cast("float32", x)
    for e in (
        f,
        cast("float64", const(math.inf, "float32")),
        cast("int8", const(3.0, "float32")),
        cast("bool", x),
        cast("int64", cast("bool", x)),
        call("exp", [f]),
        call("isnan", [f], "bool"),
        call("fma", [f, f, f]),
        call("of_another_backend", [f, x], "int32"),
        call("exp", [f], "float64"),
        select(x < 3, f, -f),
    ):
        assert repr(_value(e, x)) == repr(e)


def test_every_statement() -> None:
    n = Var("n", lo=1, hi=100, multiple_of=4)
    a = Buffer("A", (n, as_expr(4)), "float32", strides=(as_expr(8), as_expr(2)))
    b = Buffer.make("B", (n, 4), "float32")
    scratch = Buffer.make("S", (4,), "float16", "register")
    kinds = ["serial", "parallel", "vectorized", "unrolled", "thread:block.x", "virtual"]
    loops = [Var(f"i{k}", lo=0) for k in range(len(kinds))]
    i, odd = loops[0], Var("j", lo=-1, hi=None, multiple_of=2)
    store = Store(b, (i, as_expr(0)), load(a, [i, 1]))
    body: Stmt = seq(
        [
            Alloc(scratch, Store(scratch, (as_expr(0),), const(1.0, "float16"))),
            If(i < 3, store),
            If(i < 3, store, If(i < 5, store, Seq(()))),
            If(i < 3, Seq(()), store),
            Annotate("prefetch", {"distance": 4, "what": ("A", None, True, -1.5, math.inf)}, store),
            Evaluate(call("fence", [], "bool")),
            For(odd, n // 2, store, "serial", (("pragma", "unroll"),)),
            Alloc(scratch.with_(name="T"), store),
        ]
    )
    for var, kind in reversed(list(zip(loops, kinds, strict=True))):
        body = For(var, as_expr(8), body, kind)
    _round_trip(PrimFunc("f", (a, n, b), body, ATTRS))


def test_blocks_with_everything() -> None:
    b = Buffer.make("B", (8, 8), "float32")
    i, vi, vk = Var("i"), Var("vi", lo=0, hi=7), Var("vk")
    block = Block(
        "odd \"name\" 'x'",
        (IterVar(vi, as_expr(8), "spatial", i), IterVar(vk, as_expr(3), "reduce", i // 4)),
        (Region(b, (Range(vi, as_expr(1)), Range(as_expr(0), vk + 1))),),
        (Region(b, (Range(vi, as_expr(1)), Range(vk, as_expr(4)))),),
        seq([Store(b, (vi, vk), as_expr(1.0)), Store(b, (vi, vk + 1), as_expr(2.0))]),
        Seq((Store(b, (vi, vk), as_expr(0.0)), Store(b, (vi, vk), as_expr(0.5)))),
        i < 7,
        (("tile", (1, 2)), ("origin", {"node": "conv"})),
    )
    again = _round_trip(_func(For(i, as_expr(8), block), b))
    found = again.body.body  # type: ignore[attr-defined]
    assert found.name == block.name
    assert dict(found.annotations) == dict(block.annotations)


def test_names() -> None:
    """Names that hide others, that are words of the language, or are no identifiers."""
    outer, inner, word = Var("i"), Var("i"), Var("for")
    a, b = Buffer.make("conv/weight:0", (8,), "float32"), Buffer.make("i", (8,), "float32")
    store = Store(b, (outer,), load(a, [inner + word]))
    body = For(outer, as_expr(8), For(inner, as_expr(4), For(word, as_expr(4), store)))
    func = PrimFunc("1 weird", (a, b), body, (("const_params", ("conv/weight:0",)), ("outputs", 1)))
    again = _round_trip(func)
    assert [p.name for p in again.params] == ["conv/weight:0", "i"]
    assert again.name == "1 weird"
    for name in ("exp", "min", "select", "float32", "block", "None"):
        _round_trip(_func(For(v := Var(name), as_expr(8), Store(b, (v,), as_expr(0.0))), b))


def test_sibling_scopes_share_names() -> None:
    b = Buffer.make("B", (8,), "float32")
    i, j = Var("i"), Var("i")
    twice = seq(
        [For(i, as_expr(8), Store(b, (i,), as_expr(0.0))), For(j, as_expr(8), Store(b, (j,), as_expr(1.0)))]
    )
    same = seq(
        [For(i, as_expr(8), Store(b, (i,), as_expr(0.0))), For(i, as_expr(8), Store(b, (i,), as_expr(1.0)))]
    )
    assert to_text(_func(twice, b)) == to_text(_func(same, b))
    assert structural_equal(_round_trip(_func(same, b)), _func(twice, b))


def test_structural_equality() -> None:
    func = matmul()
    text = to_text(func)
    renamed = text.replace("i0", "row").replace("matmul", "g").replace("A:", "X:").replace("A[", "X[")
    assert structural_equal(parse(renamed), func)
    for old, new in (
        ("serial(64)", "parallel(64)"),
        ("float32[64, 32]", "float32[64, 33]"),
        ("= 0.0", "= -0.0"),
        ("C[vi0, vi1] + ", "C[vi0, vi1] - "),
        ('("B",)', '("A",)'),
        ("spatial(48, i1)", "spatial(48, i1, hi=None)"),
    ):
        assert old in text
        assert not structural_equal(parse(text.replace(old, new)), func)


def test_canonical_text_is_a_program() -> None:
    text = canonical_text(matmul())
    assert "matmul" not in text
    assert canonical_text(parse(text)) == text


# -- errors --------------------------------------------------------------------------------------------------

HEAD = '@primfunc({"outputs": 1})\ndef f(A: float32[8], B: float32[8]):\n'

ERRORS = [
    ("", "must be one function", 1, 1),
    ("x = 1", "must be one function", 1, 1),
    ("def f(): pass", "needs the decorator", 1, 1),
    ("@primfunc({})\ndef f(A): pass", "has no type", 2, 7),
    ("@primfunc({})\ndef f(A: float31[8]): pass", "unknown element type 'float31'", 2, 10),
    ("@primfunc({})\ndef f(A: dim(lo='x')): pass", "expected a number", 2, 17),
    (HEAD + "    A[0] = C[1]", "'C' is not a buffer in scope", 3, 12),
    (HEAD + "    A[0] = A", "needs indices", 3, 12),
    (HEAD + "    A[i] = 1.0", "'i' is not in scope", 3, 7),
    (HEAD + "    A[0, 1] = 1.0", "2 indices for buffer 'A' of rank 1", 3, 5),
    (HEAD + "    A[0] = 1", "a int64 value is stored into float32", 3, 12),
    (HEAD + "    A[0] = B[0] + 1", "different dtypes", 3, 12),
    (HEAD + "    A[0] = sine(B[0])", "unknown function 'sine'", 3, 12),
    (HEAD + "    A[0] = exp(B[0], B[1])", "exp takes 1 operands", 3, 12),
    (HEAD + "    A[0] = B[0] ** 2.0", "unknown operator", 3, 12),
    (HEAD + "    A[0] = select(1, B[0], B[1])", "a condition must be bool", 3, 19),
    (HEAD + "    A[0] = int8(300)", "300 is outside of int8", 3, 17),
    (HEAD + "    A[99999999999999999999] = 1.0", "does not fit 64 bits", 3, 7),
    (HEAD + "    A[1.0] = B[0]", "expected an integer", 3, 7),
    (HEAD + "    if 1 < 2 < 3:\n        pass", "one at a time", 3, 8),
    (HEAD + "    for i in range(8):\n        pass", "unknown loop kind 'range'", 3, 14),
    (
        HEAD + "    for i in serial(8):\n        for i in serial(8):\n            pass",
        "already in scope",
        4,
        13,
    ),
    (HEAD + "    while True:\n        pass", "not a statement", 3, 5),
    (HEAD + "    import os", "not a statement", 3, 5),
    (HEAD + "    __import__('os').system('true')", "only the functions of the language", 3, 5),
    (HEAD + "    A[0] = (lambda: 1.0)()", "only the functions of the language", 3, 13),
    (HEAD + "    A[0] = B[0].real", "not an expression", 3, 12),
    (
        HEAD + "    with block('b'):\n        v = spatial(8)\n        A[v] = 1.0",
        "expected spatial(extent, binding)",
        4,
        13,
    ),
    (HEAD + "    with block('b'):\n        where(True)\n        where(True)", "one where", 5, 9),
    (HEAD + "    with blok('b'):\n        pass", "'blok' does not begin a statement", 3, 10),
    (HEAD + "    for i in serial(8:\n", "not a program", 3, 22),
]


@pytest.mark.parametrize(("text", "message", "line", "column"), ERRORS, ids=lambda x: str(x)[-30:])
def test_errors_point_at_their_place(text: str, message: str, line: int, column: int) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text)
    shown = str(caught.value)
    assert message in shown
    assert f"line {line}, column {column}" in shown
    if text:
        marked, caret = shown.split("\n")[2:4]
        assert marked.strip() == text.splitlines()[line - 1].strip()
        assert caret == " " * (4 + column - 1) + "^"


def test_too_deep_is_an_error_of_the_text() -> None:
    with pytest.raises(ParseError, match="not a program"):
        parse(HEAD + "    A[0] = " + "(" * 300 + "1.0" + ")" * 300)
