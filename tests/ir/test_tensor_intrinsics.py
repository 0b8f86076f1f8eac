"""Tensor intrinsics as data: text, rules, meaning, registration, fragments."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tilewright.errors import IntrinsicError, ParseError, VerifyError
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Var, as_expr, const
from tilewright.ir.interp import run
from tilewright.ir.intrinsics import intrinsic, register_effect
from tilewright.ir.isa.cuda import SHAPES, WARP, Fragment, fragments
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text, structural_equal, to_text, workload_key
from tilewright.ir.regions import block_regions
from tilewright.ir.simplify import simplify_stmt
from tilewright.ir.stmt import (
    Buffer,
    For,
    OperandSpec,
    PrimFunc,
    Range,
    Region,
    Stmt,
    Store,
    TensorCall,
    TensorIntrinsic,
    seq,
)
from tilewright.ir.tensor_intrinsics import (
    expand,
    parameters,
    register,
    tensor_intrinsic,
    tensor_intrinsics,
)
from tilewright.ir.verify import verify
from tilewright.ir.visit import const_int, substitute, substitute_expr, walk_stmt
from tilewright.lower import lower

PROGRAM = """
@primfunc({"outputs": 1})
def f(A: bfloat16[4, 8], B: bfloat16[2, 4, 16, 2], C: float32[4, 32]):
    acc = alloc(float32[4, 32], scope="register")
    for i in serial(4):
        for j in serial(2):
            with block("start"):
                vi = spatial(4, i)
                vj = spatial(2, j)
                writes(acc[vi, span(vj * 16, 16)])
                for l in serial(16):
                    acc[vi, vj * 16 + l] = 0.0
            for k in serial(4):
                with block("update"):
                    vi = spatial(4, i)
                    vj = spatial(2, j)
                    vk = reduce(4, k)
                    reads(A[vi, span(vk * 2, 2)], B[vj, vk, span(0, 16), span(0, 2)])
                    writes(acc[vi, span(vj * 16, 16)])
                    tensor_call("x86.vdpbf16ps.16", A[vi, span(vk * 2, 2)], B[vj, vk, span(0, 16), span(0, 2)], acc[vi, span(vj * 16, 16)])
            for l in vectorized(16):
                with block("out"):
                    vi = spatial(4, i)
                    vj = spatial(32, j * 16 + l)
                    reads(acc[vi, vj])
                    writes(C[vi, vj])
                    C[vi, vj] = acc[vi, vj]
"""  # noqa: E501


def program() -> PrimFunc:
    return parse(PROGRAM)


def operands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 8)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((2, 4, 16, 2)).astype(ml_dtypes.bfloat16)
    flat = b.astype(np.float32).transpose(1, 3, 0, 2).reshape(8, 32)
    return a, b, a.astype(np.float32) @ flat


def test_text_round_trips_and_is_part_of_the_identity() -> None:
    func = program()
    verify(func)
    assert to_text(parse(to_text(func))) == to_text(func)
    assert to_text(parse(canonical_text(func))) == canonical_text(func)
    other = parse(PROGRAM.replace("tensor_call", "pass #"))
    assert not structural_equal(func, other)
    assert workload_key(func) != workload_key(other)


def test_every_stage_of_lowering_computes_the_meaning() -> None:
    a, b, expected = operands()
    seen = []

    def compare(name: str, func: PrimFunc) -> None:
        verify(func)
        (got,) = run(func, [a, b], check_undefined=True)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        seen.append(name)

    compare("scheduled", program())
    lowered = lower(program(), compare)
    assert "unroll_loops" in seen
    # The accumulator shrank to the one vector that an iteration of j touches.
    assert "alloc(float32[1, 16]" in to_text(lowered)
    assert "acc[0, span(0, 16)]" in to_text(lowered)


def test_walking_enters_the_meaning() -> None:
    call = next(s for s in walk_stmt(program().body) if isinstance(s, TensorCall))
    assert any(isinstance(s, Store) and s.buffer.name == "acc" for s in walk_stmt(expand(call)))
    reads, writes = block_regions(call)
    assert [r.buffer.name for r in reads] == ["A", "B"]
    assert {r.buffer: tuple(x.extent.value for x in r.ranges) for r in (*reads, *writes)} == {  # type: ignore[attr-defined]
        region.buffer: tuple(x.extent.value for x in region.ranges)  # type: ignore[attr-defined]
        for region in call.operands
    }


def test_rewriting_reaches_operands() -> None:
    call = next(s for s in walk_stmt(program().body) if isinstance(s, TensorCall))
    (vi,) = (e for e in [call.operands[0].ranges[0].lo])
    moved = substitute(call, {vi: as_expr(1) + 2})
    assert isinstance(moved, TensorCall)
    assert moved.operands[0].ranges[0].lo is as_expr(3)
    assert substitute(call, {as_expr(77): as_expr(1)}) is call
    assert simplify_stmt(moved) is moved


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("A[vi, span(vk * 2, 2)], B[vj, vk, span(0, 16), span(0, 2)], acc", "acc", "takes 3 operands, not 1"),
        ("A[vi, span(vk * 2, 2)], B[vj", "A[vi, span(vk, 4)], B[vj", "is [2], the given part of 'A' is [1"),
        ("A[vi, span(vk * 2, 2)], B", "A[span(vk, 2), vi], B", "1 elements apart; in 'A' they are 8 apart"),
        ('"x86.vdpbf16ps.16", A[vi', '"x86.vdpbf16ps.16", acc[vi', "is bfloat16, 'acc' is float32"),
        ("x86.vdpbf16ps.16", "x86.vdpbf16ps.61", "there is no tensor intrinsic 'x86.vdpbf16ps.61'"),
    ],
)
def test_parser_points_at_wrong_calls(old: str, new: str, message: str) -> None:
    where = PROGRAM.index("tensor_call")
    with pytest.raises(ParseError) as error:
        parse(PROGRAM[:where] + PROGRAM[where:].replace(old, new, 1))
    assert message in error.value.message


def test_unknown_names_are_explained_by_close_ones() -> None:
    with pytest.raises(IntrinsicError, match=r"known: .*x86.vpdpbusd.8"):
        tensor_intrinsic("x86.vpdpbusb.8")


def test_verify_rejects_operands_in_the_wrong_place() -> None:
    mma = tensor_intrinsic("cuda.mma.m16n8k16.f16")
    buffers = [Buffer.make(p.name, p.shape, p.dtype) for p in parameters(mma)]
    regions = tuple(Region(b, tuple(Range(as_expr(0), n) for n in b.shape)) for b in buffers)
    func = PrimFunc("f", tuple(buffers), TensorCall(mma, regions), (("outputs", 1),))
    with pytest.raises(VerifyError, match=r"lives in scope warp, 'A' in global"):
        verify(func)


def test_verify_rejects_writes_to_inputs() -> None:
    copy = register("test.copy", COPY)
    a, b = (Buffer.make(n, (4,), "float32") for n in "AB")
    whole = (Range(as_expr(0), as_expr(4)),)
    func = PrimFunc("f", (a, b), TensorCall(copy, (Region(b, whole), Region(a, whole))), (("outputs", 1),))
    with pytest.raises(VerifyError, match="store to input 'A'"):
        verify(func)


def test_alignment_is_proved() -> None:
    wide = register("test.copy_aligned", COPY, [OperandSpec(alignment=16), OperandSpec()])
    text = """
@primfunc({{"outputs": 1}})
def f(A: float32[32], B: float32[8, 4]):
    for i in serial(8):
        tensor_call("test.copy_aligned", A[span({}, 4)], B[i, span(0, 4)])
"""
    assert wide.operands[0].alignment == 16
    verify(parse(text.format("i * 4")))
    with pytest.raises(ParseError, match=r"must begin at a multiple of 16 bytes; element \(i \* 2\) of 'A'"):
        parse(text.format("i * 2"))


COPY = """
@primfunc({"outputs": 1})
def copy(A: float32[4], B: float32[4]):
    for i in serial(4):
        B[i] = A[i]
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (COPY.replace("A[i]", "A[3 - i]"), "indexes 'A' by"),
        (COPY.replace("serial(4)", "serial(3)"), "not a loop over the dimension"),
        (COPY.replace("B[i] = A[i]", "A[i] = B[i]"), "must have its one output as the last parameter"),
        (COPY.replace("A[i]", "1.0"), "does not use 'A'"),
        (COPY.replace("A: float32[4]", "n: dim(lo=1), A: float32[4]"), "has 3 parameters"),
        (COPY.replace("A[i]", "A[i] + B[0]"), "reads other elements of its output"),
        (COPY.replace("B[i] = A[i]", "B[i] = A[i]\n        B[i] = A[i]"), "is not one nest of loops"),
        (
            COPY.replace("float32[4]", "float32[4, 4]").replace("B[i] = A[i]", "B[i, i] = A[i, i]"),
            "by one loop",
        ),
    ],
)
def test_meanings_of_another_form_are_refused(text: str, reason: str) -> None:
    operands = [OperandSpec(), OperandSpec()]
    with pytest.raises(IntrinsicError) as error:
        register("test.bad", text, operands)
    assert reason in error.value.message


def test_names_are_unique_and_registering_again_is_harmless() -> None:
    first = register("test.twice", COPY)
    assert register("test.twice", COPY.replace("i in", "j in").replace("[i]", "[j]")) is first
    with pytest.raises(IntrinsicError, match=r"another tensor intrinsic is called 'test.twice' already"):
        register("test.twice", COPY.replace("= A[i]", "= A[i] * 2.0"))


def from_zero(intrinsic: TensorIntrinsic) -> PrimFunc:
    """The meaning of an intrinsic, after its output was set to zero."""
    out = parameters(intrinsic)[-1]
    indices = tuple(Var(f"z{n}") for n in range(len(out.shape)))
    zero: Stmt = Store(out, indices, const(0, out.dtype))
    for var, extent in zip(indices, out.shape, strict=True):
        zero = For(var, extent, zero)
    return intrinsic.semantic.with_(body=seq([zero, intrinsic.semantic.body]))


def test_known_intrinsics_compute_what_their_names_say() -> None:
    rng = np.random.default_rng(1)
    for known in tensor_intrinsics():
        if not known.name.startswith(("x86.", "aarch64.", "cuda.")) or ".s8." in known.name:
            continue  # other tests register their own
        arrays = []
        for p in parameters(known)[:2]:
            shape = p.static_shape
            numbers = rng.integers(0 if p.dtype[0] == "u" else -128, 127, shape)
            arrays.append((numbers if dt.is_int(p.dtype) else numbers / 8).astype(dt.to_numpy(p.dtype)))
        (got,) = run(from_zero(known), arrays)
        x, y = (v.astype(np.float64) for v in arrays)
        expected = np.einsum("ik,jk->ij", x, y) if x.ndim == 2 else (y @ x if y.ndim == 2 else y * x)
        np.testing.assert_array_equal(got.astype(np.float64), expected, err_msg=known.name)


def test_the_offset_dot_product_differs_by_the_other_operands_sum() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-128, 128, s).astype(np.int8) for s in ((4,), (16, 4)))
    (got,) = run(from_zero(tensor_intrinsic("x86.vpdpbusd.s8.16")), [a, b])
    wide = b.astype(np.int32)
    np.testing.assert_array_equal(got, wide @ a.astype(np.int32) + 128 * wide.sum(axis=1))


def place(fragment: Fragment, row: int, column: int) -> tuple[int, int]:
    at = {fragment.row: as_expr(row), fragment.column: as_expr(column)}
    lane, number = (const_int(substitute_expr(e, at)) for e in (fragment.lane, fragment.place))
    assert lane is not None
    assert number is not None
    return lane, number


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_fragments_are_those_of_the_ptx_manual(name: str) -> None:
    """Held against the manual's formulas, which go from (thread, element) to (row, column)."""
    m, n, k, _, _ = SHAPES[name]
    a, b, c = fragments(name)
    assert (a.held * WARP, b.held * WARP, c.held * WARP) == (m * k, n * k, m * n)
    width = k // 8  # elements a register
    for lane in range(WARP):
        group, thread = lane >> 2, lane % 4
        for i in range(a.held):
            upper = (i // width) % 2 == 1
            column = thread * width + i % width + (4 * width if i >= 2 * width else 0)
            assert place(a, group + 8 * upper, column) == (lane, i)
        for i in range(b.held):
            row = thread * width + i % width + (4 * width if i >= width else 0)
            assert place(b, group, row) == (lane, i)
        for i in range(c.held):
            assert place(c, group + (8 if i >= 2 else 0), thread * 2 + (i & 1)) == (lane, i)


def test_tf32_rounds_to_ten_bits() -> None:
    x = te.placeholder((5,), "float32", "x")
    y = te.compute((5,), lambda i: intrinsic("tf32", x[i]), "y")
    ulp = 2.0**-10
    values = np.array([1.0 + ulp / 2, 1.0 + ulp / 4, -1.0 - ulp / 2, np.inf, np.nan], np.float32)
    (got,) = run(te.primfunc("f", [x], [y]), [values])
    np.testing.assert_array_equal(got, np.array([1.0 + ulp, 1.0, -1.0 - ulp, np.inf, np.nan], np.float32))


def test_effects_run_with_a_state_of_their_own_for_each_run() -> None:
    def count(state: dict[str, int], limit: int) -> None:
        state["calls"] = state.get("calls", 0) + 1
        if state["calls"] > limit:
            raise VerifyError("too many")

    make = register_effect("test.count", 1, count)
    assert register_effect("test.count", 1, count)(3) is make(3)
    with pytest.raises(IntrinsicError, match=r"another intrinsic is called 'test.count' already"):
        register_effect("test.count", 2, count)
    text = """
@primfunc({"outputs": 1})
def f(A: float32[4], B: float32[4]):
    for i in serial(4):
        evaluate(call("test.count", LIMIT, dtype="bool"))
        B[i] = A[i]
"""
    data = [np.arange(4, dtype=np.float32)]
    func = parse(text.replace("LIMIT", "4"))
    verify(func)
    assert to_text(parse(to_text(func))) == to_text(func)
    for _ in range(2):
        np.testing.assert_array_equal(run(func, data)[0], data[0])
    with pytest.raises(VerifyError, match="too many"):
        run(parse(text.replace("LIMIT", "i")), data)


def test_the_pages_example_registers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ir.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "register(" in c)
    scope: dict[str, object] = {}
    exec(code, scope)
    assert tensor_intrinsic("acme.scale_add") is scope["scale_add"]
