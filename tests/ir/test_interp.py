"""The interpreter on single features, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.errors import InputError, VerifyError
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, Var, as_expr, cast, const, load, maximum, select
from tilewright.ir.interp import run
from tilewright.ir.intrinsics import INTRINSICS, intrinsic
from tilewright.ir.stmt import Alloc, Block, Buffer, For, If, IterVar, PrimFunc, Stmt, Store, seq

N = 8
A = Buffer.make("A", (N,), "float32")
B = Buffer.make("B", (N,), "float32")


def _func(body: Stmt, *params: Buffer | Var) -> PrimFunc:
    return PrimFunc("f", params or (A, B), body, (("const_params", ()), ("outputs", 1)))


def _data() -> np.ndarray:
    return np.arange(N, dtype=np.float32) - 3


def _loop(var: Var, extent: Expr | int, body: Stmt, kind: str = "serial") -> For:
    return For(var, as_expr(extent), body, kind)


@pytest.mark.parametrize("kind", ["serial", "parallel", "vectorized", "unrolled"])
def test_every_kind_of_loop(kind: str) -> None:
    i = Var("i")
    func = _func(_loop(i, N, Store(B, (i,), load(A, [i]) * 2.0), kind))
    np.testing.assert_array_equal(run(func, [_data()])[0], _data() * 2)


def test_a_recurrence_is_executed_in_order() -> None:
    """``B[i] = B[i-1] + A[i]`` reads what the iteration before stored: no array operation may replace it."""
    i = Var("i")
    step = Store(B, (i,), select(i < 1, load(A, [i]), load(B, [i - 1]) + load(A, [i])))
    np.testing.assert_array_equal(run(_func(_loop(i, N, step)), [_data()])[0], np.cumsum(_data()))


def test_the_last_store_wins() -> None:
    i, j = Var("i"), Var("j")
    body = _loop(i, N, _loop(j, 3, Store(B, (i,), load(A, [i]) + cast("float32", j))))
    np.testing.assert_array_equal(run(_func(body), [_data()])[0], _data() + 2)
    # Two iterations of the flattened loop meet in one element.
    flat = _loop(i, 2 * N, Store(B, (i // 2,), cast("float32", i)))
    np.testing.assert_array_equal(run(_func(flat), [_data()])[0], np.arange(N) * 2 + 1)


def test_guards_protect_accesses() -> None:
    i = Var("i")
    guarded = If((as_expr(1) <= i) & (i < N + 1), Store(B, (i - 1,), load(A, [i - 1])))
    np.testing.assert_array_equal(run(_func(_loop(i, N + 2, guarded)), [_data()])[0], _data())
    lazy = Store(B, (i,), select(i < N - 1, load(A, [i + 1]), 7.0))
    np.testing.assert_array_equal(run(_func(_loop(i, N, lazy)), [_data()])[0], [*_data()[1:], 7])


def test_a_branch_reads_what_the_other_loop_stored() -> None:
    i, j = Var("i"), Var("j")
    body = seq(
        [
            _loop(i, N, Store(B, (i,), load(A, [i]))),
            _loop(
                j, N, If(load(B, [j]) < 0.0, Store(B, (j,), as_expr(0.0)), Store(B, (j,), load(B, [j]) + 1.0))
            ),
        ]
    )
    expected = np.where(_data() < 0, 0, _data() + 1)
    np.testing.assert_array_equal(run(_func(body), [_data()])[0], expected)


def test_sums_are_taken_in_order() -> None:
    """float32 sums depend on the order; the interpreter's is that of the loops."""
    size = 1000
    data = np.random.default_rng(0).standard_normal(size).astype(np.float32) * 1e3
    source = te.placeholder((size,), "float32", "X")
    total = te.compute((), lambda: te.reduce("sum", (size,), lambda k: source[k]), "T")
    expected = np.float32(0)
    for value in data:
        expected += value
    assert run(te.primfunc("sum", [source], [total]), [data])[0][()] == expected


def test_block_init_runs_once_for_each_element() -> None:
    """A reduction whose loop stands outside of the spatial one, and split in two."""
    i, k0, k1 = Var("i"), Var("k0"), Var("k1")
    vi, vk = Var("vi", lo=0, hi=N - 1), Var("vk", lo=0, hi=5)
    matrix = Buffer.make("M", (6, N), "float32")
    update = Store(B, (vi,), maximum(load(B, [vi]), load(matrix, [vk, vi])))
    block = Block(
        "max",
        (IterVar(vi, as_expr(N), "spatial", i), IterVar(vk, as_expr(6), "reduce", k0 * 4 + k1)),
        (),
        (),
        update,
        Store(B, (vi,), const(float("-inf"), "float32")),
        predicate=k0 * 4 + k1 < 6,
    )
    data = np.random.default_rng(0).standard_normal((6, N)).astype(np.float32)
    func = _func(_loop(k0, 2, _loop(i, N, _loop(k1, 4, block))), matrix, B)
    np.testing.assert_array_equal(run(func, [data], check_undefined=True)[0], data.max(axis=0))


def test_run_time_dimensions() -> None:
    n = Var("n", lo=1)
    source = te.placeholder((n, 3), "float32", "X")
    twice = te.compute((n, 3), lambda i, j: source[i, j] * 2.0, "Y")
    func = te.primfunc("twice", [source], [twice], dims=[n])
    data = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(run(func, [data])[0], data * 2)
    np.testing.assert_array_equal(run(func, [data], {n: 5})[0], data * 2)
    with pytest.raises(InputError, match="has shape"):
        run(func, [data], {n: 4})


def test_deep_nests() -> None:
    """More loops than CPython nests in one function."""
    body: Stmt = seq([Store(B, (as_expr(0),), load(A, [0])), Store(B, (as_expr(0),), load(B, [0]) + 1.0)])
    for k in range(30):
        body = _loop(Var(f"i{k}"), 1, body)
    assert run(_func(body), [_data()])[0][0] == _data()[0] + 1


def test_inputs_are_not_written() -> None:
    i = Var("i")
    func = _func(seq([_loop(i, N, Store(A, (i,), as_expr(0.0)))]))
    with pytest.raises(ValueError, match="read-only"):
        run(func, [_data()])


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-1, 1])
@pytest.mark.parametrize("extent", [1, N])
def test_out_of_bounds_loads(offset: int, extent: int) -> None:
    i = Var("i")
    start = 0 if offset < 0 else N - extent
    func = _func(_loop(i, extent, Store(B, (i + start,), load(A, [i + start + offset]))))
    with pytest.raises(VerifyError, match="access to 'A' out of bounds"):
        run(func, [_data()])


def test_out_of_bounds_stores() -> None:
    i = Var("i")
    with pytest.raises(
        VerifyError, match="access to 'B' out of bounds: index 8 in dimension 0, whose extent is 8"
    ):
        run(_func(_loop(i, N, Store(B, (i + 1,), as_expr(0.0)))), [_data()])
    with pytest.raises(VerifyError, match="access to 'B' out of bounds"):
        run(_func(_loop(i, N, If(load(A, [i]) < 9.0, Store(B, (i - 1,), as_expr(0.0))))), [_data()])


def test_undefined_memory_shows() -> None:
    i = Var("i")
    scratch = Buffer.make("S", (N,), "float32")
    fill = _loop(i, N - 1, Store(scratch, (i,), load(A, [i])))
    func = _func(Alloc(scratch, seq([fill, _loop(i, N, Store(B, (i,), load(scratch, [i])))])))
    assert np.isnan(run(func, [_data()])[0][-1])
    with pytest.raises(
        VerifyError, match=r"element \[7\] of output 'B' depends on memory that was never written"
    ):
        run(func, [_data()], check_undefined=True)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float16", "bfloat16"])
def test_unwritten_outputs_show_in_every_dtype(dtype: str) -> None:
    out = Buffer.make("O", (4,), dtype)
    one = const(1, dtype)
    func = PrimFunc("f", (out,), seq([Store(out, (as_expr(k),), one) for k in range(3)]), (("outputs", 1),))
    with pytest.raises(VerifyError, match=r"element \[3\]"):
        run(func, [], check_undefined=True)


def test_block_iterators_stay_in_their_domain() -> None:
    i, v = Var("i"), Var("v", lo=0, hi=3)
    block = Block(
        "b", (IterVar(v, as_expr(4), "spatial", i),), (), (), seq([Store(B, (v,), as_expr(0.0))] * 2)
    )
    with pytest.raises(VerifyError, match="iterator 'v' of block 'b' leaves its domain"):
        run(_func(_loop(i, N, block)), [_data()])


def test_integer_division_by_zero() -> None:
    i = Var("i")
    quotient = Store(B, (i,), cast("float32", as_expr(8) // (i - 3)))
    for body in (quotient, seq([quotient, quotient])):
        with pytest.raises(VerifyError, match="divides an integer by zero"):
            run(_func(_loop(i, N, body)), [_data()])
        run(_func(_loop(i, N, If(i.ne(3), body))), [_data()])


def test_wrong_inputs() -> None:
    i = Var("i")
    func = _func(_loop(i, N, Store(B, (i,), load(A, [i]))))
    with pytest.raises(InputError, match="takes 1 arrays, not 2"):
        run(func, [_data(), _data()])
    with pytest.raises(InputError, match="is float32 of rank 1, not float64 of rank 1"):
        run(func, [_data().astype(np.float64)])
    with pytest.raises(InputError, match="has shape"):
        run(func, [_data()[:4]])


# -- conversions and intrinsics ------------------------------------------------------------------------------


def _convert(values: np.ndarray, dtype: str) -> np.ndarray:
    source = Buffer.make("S", values.shape, dt.from_numpy(values.dtype))
    target = Buffer.make("T", values.shape, dtype)
    i = Var("i")
    func = PrimFunc(
        "f",
        (source, target),
        _loop(i, values.size, Store(target, (i,), cast(dtype, load(source, [i])))),
        (("outputs", 1),),
    )
    return run(func, [values])[0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_floats_to_integers_truncate_and_saturate(dtype: str, source: type) -> None:
    values = np.array([1.9, -1.9, 0.5, np.nan, np.inf, -np.inf, 1e30, -1e30, 127.5, -128.5, 300.0], source)
    low, high = dt.int_range(dtype)
    expected = [
        0 if np.isnan(v) else high if v >= high else low if v <= low else int(v) for v in values.tolist()
    ]
    assert _convert(values, dtype).tolist() == expected


def test_integers_wrap() -> None:
    assert _convert(np.array([300, -1, 128], np.int32), "int8").tolist() == [44, -1, -128]
    assert _convert(np.array([300, -1, 128], np.int32), "uint8").tolist() == [44, 255, 128]
    assert _convert(np.array([0, 5, -1], np.int32), "bool").tolist() == [False, True, True]


SAMPLES = np.array([-2.5, -1.5, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "name", sorted(n for n, s in INTRINSICS.items() if s.domain in ("float", "number") and not s.effect)
)
def test_intrinsics_have_a_value_in_every_float_type(name: str, dtype: str) -> None:
    spec = INTRINSICS[name]
    values = SAMPLES.astype(dt.to_numpy(dtype))
    source = Buffer.make("S", values.shape, dtype)
    i = Var("i")
    value = intrinsic(name, *[load(source, [i])] * spec.arity)
    target = Buffer.make("T", values.shape, value.dtype)
    func = PrimFunc(
        "f", (source, target), _loop(i, values.size, Store(target, (i,), value)), (("outputs", 1),)
    )
    result = run(func, [values])[0]
    assert spec.numpy is not None
    with np.errstate(all="ignore"):
        wide = np.asarray(spec.numpy(*[values.astype(np.float64)] * spec.arity)).astype(np.float64)
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(result.astype(np.float64), wide, rtol=tolerance, atol=tolerance)


def test_rounding_intrinsics() -> None:
    values = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.6], np.float32)
    expected = {
        "round": [-2, -2, 0, 0, 2, 2, 3],
        "floor": [-3, -2, -1, 0, 1, 2, 2],
        "ceil": [-2, -1, 0, 1, 2, 3, 3],
        "trunc": [-2, -1, 0, 0, 1, 2, 2],
    }
    for name, wanted in expected.items():
        apply = INTRINSICS[name].numpy
        assert apply is not None
        assert apply(values).tolist() == wanted


def test_intrinsics_check_their_operands() -> None:
    with pytest.raises(TypeError, match="takes 1 operands"):
        intrinsic("exp", as_expr(1.0), as_expr(1.0))
    with pytest.raises(TypeError, match="takes float operands"):
        intrinsic("exp", as_expr(1))
    with pytest.raises(KeyError):
        intrinsic("no_such_function", as_expr(1.0))
    assert intrinsic("isnan", as_expr(1.0)).dtype == "bool"


def test_a_masked_sum_into_an_array_without_dimensions() -> None:
    x, total = Buffer.make("x", (5,), "int32"), Buffer.make("total", (), "int32")
    lane = Var("lane", lo=0, hi=7)
    add = Store(total, (), load(total, []) + load(x, [lane]))
    clear = Store(total, (), const(0, "int32"))
    func = PrimFunc("f", (x, total), seq([clear, For(lane, as_expr(8), If(lane < 5, add), "vectorized")]))
    assert run(func, [np.arange(5, dtype=np.int32)], check_undefined=True)[0] == 10


def test_what_is_the_same_in_all_lanes_is_read_only_where_a_lane_needs_it() -> None:
    flag, x, y = (Buffer.make(n, (3,), d) for n, d in (("flag", "bool"), ("x", "float32"), ("y", "float32")))
    row, lane = Var("row", lo=0, hi=7), Var("lane", lo=0, hi=7)
    value = select(load(flag, [row]), load(x, [lane]), const(1.0, "float32"))
    store = If((row < 3) & (lane < 3), Store(y, (lane,), value))
    func = PrimFunc("f", (flag, x, y), For(row, as_expr(8), For(lane, as_expr(8), store, "vectorized")))
    flags, values = np.array([True, False, True]), np.arange(3, dtype=np.float32)
    assert run(func, [flags, values])[0].tolist() == [0, 1, 2]


def test_empty_reductions_are_neutral() -> None:
    x = te.placeholder((3, 0), "float32", "x")
    total = te.compute((3,), lambda i: te.reduce("sum", (0,), lambda k: x[i, k]), "total")
    top = te.compute((), lambda: te.reduce("max", (3, 0), lambda i, k: x[i, k]), "top")
    sums, maximum_of_none = run(
        te.primfunc("f", [x], [total, top]), [np.zeros((3, 0), np.float32)], check_undefined=True
    )
    assert sums.tolist() == [0, 0, 0]
    assert maximum_of_none == -np.inf
