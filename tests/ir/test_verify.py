"""Every rule of the IR, broken once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tilewright.errors import VerifyError
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var, as_expr, binop, call, const, load, reduce, select
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
    Region,
    Stmt,
    Store,
    seq,
)
from tilewright.ir.verify import verify

A = Buffer.make("A", (8,), "float32")
B = Buffer.make("B", (8,), "float32")
S = Buffer.make("S", (8,), "float32")
R = Buffer.make("R", (8,), "float32", "register")
i, j = Var("i"), Var("j")


def _func(body: Stmt, *params: Buffer | Var, **attrs: object) -> PrimFunc:
    merged = {"const_params": (), "outputs": 1, **attrs}
    return PrimFunc("f", params or (A, B), body, tuple(sorted(merged.items())))  # type: ignore[arg-type]


def _loop(body: Stmt, var: Var = i, extent: Expr | int = 8, kind: str = "serial") -> Stmt:
    return For(var, as_expr(extent), body, kind)


def _store(value: Expr | float, index: Expr | int = 0) -> Stmt:
    return Store(B, (as_expr(index),), as_expr(value))


def _block(name: str, binding: Expr, body: Callable[[Var], Stmt], **fields: object) -> Block:
    v = Var("v", lo=0, hi=7)
    return Block(name, (IterVar(v, as_expr(8), "spatial", binding),), (), (), body(v), **fields)  # type: ignore[arg-type]


GOOD = [
    _func(_loop(_store(load(A, [i]), i))),
    _func(_loop(_block("b", i, lambda v: _store(load(A, [v]), v)))),
    _func(Alloc(S, seq([_loop(Store(S, (i,), load(A, [i]))), _loop(_store(load(S, [i]), i))]))),
    _func(_loop(Alloc(R, Store(R, (i,), as_expr(1.0))), kind="parallel")),
    _func(Annotate("k", 1, If(as_expr(1) < 2, Evaluate(call("fence", [], "bool"))))),
    _func(_loop(_store(call("isnan", [load(A, [i])], "bool").astype("float32"), i), kind="thread:x")),
]


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_good_programs(number: int) -> None:
    verify(GOOD[number])


def test_te_functions_are_good() -> None:
    n = Var("n", lo=1)
    x = te.placeholder((n, 4), "float32", "X")
    y = te.compute((n,), lambda r: te.reduce("max", (4,), lambda c: x[r, c]), "Y")
    z = te.compute((n,), lambda r: call("exp", [y[r]]), "Z")
    verify(te.primfunc("f", [x], [z], dims=[n]))


def _select_on(cond: Expr) -> Expr:
    """A select whose condition is not bool, which its constructor does not see."""
    return select(cond, load(A, [0]), load(A, [1]))


BAD: list[tuple[str, PrimFunc]] = [
    ("it has 2 parameters", _func(_store(1.0), outputs=3)),
    ("says it has 0 outputs", _func(_store(1.0), outputs=0)),
    ("an output is not a buffer", _func(_store(1.0), A, B, Var("n"))),
    ("2 parameters are called 'A'", _func(_store(1.0), A, A.with_(), B)),
    ("constant parameter 'W' is not an input", _func(_store(1.0), const_params=("W",))),
    ("constant parameter 'B' is not an input", _func(_store(1.0), const_params=("B",))),
    ("dimension 'n' is int32", _func(_store(1.0), Var("n", "int32"), A, B)),
    ("parameter 'R' cannot live in registers", _func(_store(1.0), R, B)),
    ("variable 'm' is not bound here", _func(_store(1.0), Buffer.make("X", (Var("m"),), "float32"), B)),
    ("a dimension of 'X' is int32", _func(_store(1.0), Buffer.make("X", (const(3, "int32"),), "float32"), B)),
    ("has 1 strides for 2 dimensions",
     _func(_store(1.0), Buffer("X", (as_expr(2),) * 2, "float32", strides=(as_expr(2),)), B)),
    ("unknown element type 'float31'", _func(_store(1.0), Buffer.make("X", (3,), "float31"), B)),
    ("variable 'i' is not bound here", _func(_store(1.0, i))),
    ("variable 'j' is not bound here", _func(_loop(_store(1.0, j)))),
    ("variable 'i' is already bound", _func(_loop(_loop(_store(1.0, i))))),
    ("variable 'k' is int32", _func(_loop(_store(1.0), Var("k", "int32")))),
    ("buffer 'S' is neither a parameter nor allocated", _func(_store(load(S, [0])))),
    ("buffer 'S' is neither a parameter nor allocated",
     _func(seq([Alloc(S, _store(1.0)), _store(load(S, [0]))]))),
    ("buffer 'S' is already in scope", _func(Alloc(S, Alloc(S, _store(1.0))))),
    ("store to input 'A'", _func(Store(A, (as_expr(0),), as_expr(1.0)))),
    ("2 indices for buffer 'B' of rank 1", _func(Store(B, (as_expr(0), as_expr(0)), as_expr(1.0)))),
    ("a int64 value is stored into float32", _func(Store(B, (as_expr(0),), as_expr(1)))),
    ("an index of 'B' is int32", _func(Store(B, (const(0, "int32"),), as_expr(1.0)))),
    ("an index of 'A' is not int64", _func(_store(load(A, [const(0, "int32")])))),
    ("the extent is int32", _func(_loop(_store(1.0), extent=const(8, "int32")))),
    ("unknown loop kind 'sideways'", _func(_loop(_store(1.0), kind="sideways"))),
    ("vectorized loop 'j' has no constant extent", _func(_loop(_loop(_store(1.0), j, i, "vectorized")))),
    ("inside another parallel", _func(_loop(_loop(_store(1.0), j, kind="parallel"), kind="parallel"))),
    ("inside another parallel", _func(_loop(_loop(_store(1.0), j, kind="parallel"), kind="vectorized"))),
    ("register buffer 'R' is used in a parallel loop",
     _func(Alloc(R, _loop(Store(R, (i,), as_expr(1.0)), kind="parallel")))),
    ("'R' has a shape that is not constant", _func(_loop(Alloc(R.with_(shape=(i + 1,)), _store(1.0))))),
    ("the condition is int64, not bool", _func(If(as_expr(1), _store(1.0)))),
    ("2 blocks are called 'b'",
     _func(_loop(seq([_block("b", i, lambda v: _store(1.0, v)) for _ in range(2)])))),
    ("variable 'i' is not bound here", _func(_loop(_block("b", i, lambda v: _store(1.0, i))))),
    ("variable 'v' is not bound here", _func(_loop(_block("b", Var("v"), lambda v: _store(1.0, v))))),
    ("the predicate is int64", _func(_loop(_block("b", i, lambda v: _store(1.0, v), predicate=i)))),
    ("of unknown kind 'loop'",
     _func(Block("b", (IterVar(i, as_expr(8), "loop", as_expr(0)),), (), (), _store(1.0)))),
    ("0 indices for buffer 'A' of rank 1", _func(Block("b", (), (Region(A, ()),), (), _store(1.0)))),
    ("only effects are evaluated", _func(Evaluate(as_expr(1)))),
    ("'fence' is not an intrinsic with a value", _func(_store(call("fence", [], "float32")))),
    ("'sine' is not an intrinsic", _func(_store(call("sine", [as_expr(1.0)])))),
    ("exp takes 1 operands, not 2", _func(_store(call("exp", [as_expr(1.0), as_expr(1.0)])))),
    ("exp takes float operands", _func(_store(call("exp", [as_expr(1)], "float32")))),
    ("isnan of float32 gives bool, not float32", _func(_store(call("isnan", [as_expr(1.0)])))),
    ("'floordiv' takes integers, not float32", _func(_store(binop("floordiv", load(A, [0]), load(A, [1]))))),
    ("'div' takes floats, not int64", _func(_loop(_store(binop("div", i, i + 1).astype("float32"))))),
    ("'add' does not take bool and bool", _func(_loop(_store(binop("add", i < 3, i < 4).astype("float32"))))),
    ("a reduction is only part of tensor expressions", _func(_store(reduce("sum", [i], [8], load(A, [i]))))),
    ("condition of a select is int64", _func(_loop(_store(_select_on(i))))),
]  # fmt: skip


@pytest.mark.parametrize(("message", "func"), BAD, ids=[m for m, _ in BAD])
def test_bad_programs(message: str, func: PrimFunc) -> None:
    with pytest.raises(VerifyError, match=message):
        verify(func)


def test_the_message_shows_the_place() -> None:
    body = _loop(seq([_store(load(A, [i]), i), _loop(_store(load(S, [j]), j), j)]))
    with pytest.raises(VerifyError) as caught:
        verify(_func(body))
    assert str(caught.value) == (
        "buffer 'S' is neither a parameter nor allocated around this\n"
        "  at: f, line 6\n"
        "            B[i] = A[i]\n"
        "            for j in serial(8, lo=None, hi=None):\n"
        "                B[j] = S[j]\n"
        "                ^^^^^^^^^^^"
    )
