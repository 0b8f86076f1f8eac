"""Hand-written lowered functions, run natively and compared with the interpreter (and NumPy)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backend.kernels import build, call
from tilewright.errors import CompileError
from tilewright.ir import interp
from tilewright.ir.expr import Expr, Var, as_expr, const, load, maximum, minimum, select
from tilewright.ir.expr import call as intrinsic
from tilewright.ir.stmt import Alloc, Buffer, Evaluate, For, If, PrimFunc, Stmt, Store, seq

TARGETS = ("native", "x86-64-v3")


def buf(name: str, *shape: int, dtype: str = "float32", scope: str = "global") -> Buffer:
    return Buffer.make(name, shape, dtype, scope)


def var(name: str, extent: int) -> Var:
    return Var(name, lo=0, hi=extent - 1)


def loop(v: Var, extent: int | Expr, *body: Stmt, kind: str = "serial") -> For:
    return For(v, as_expr(extent), seq(body), kind)


def vec(v: Var, extent: int, *body: Stmt) -> For:
    return loop(v, extent, *body, kind="vectorized")


def func(params: list[Buffer | Var], body: Stmt, outputs: int = 1) -> PrimFunc:
    return PrimFunc("f", tuple(params), body, (("outputs", outputs),))


def f32(value: float) -> Expr:
    return const(value, "float32")


def data(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0 if np.dtype(dtype).kind == "u" else -50, 50, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def check(
    f: PrimFunc, inputs: list[np.ndarray], target: str = "native", rtol: float = 1e-5, atol: float = 1e-6
) -> list[np.ndarray]:
    """Native and interpreted results agree; returns the native ones."""
    got = call(f, inputs, target)
    for a, b in zip(got, interp.run(f, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
    return got


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [16, 8, 5])
def test_saxpy_with_a_masked_tail(target: str, lanes: int) -> None:
    n = 101
    x, y, z = buf("x", n), buf("y", n), buf("z", n)
    i, v = var("i", -(-n // lanes)), var("v", lanes)
    index = i * lanes + v
    body = If(index < n, Store(z, (index,), load(x, [index]) * 2.5 + load(y, [index])))
    f = func([x, y, z], loop(i, -(-n // lanes), vec(v, lanes, body), kind="parallel"))
    check(f, [data((n,)), data((n,), seed=1)], target)


def gemm(m: int, n: int, k: int, rows: int, vectors: int, lanes: int = 16, fence: bool = False) -> PrimFunc:
    """C[m,n] = A[m,k] B, with B in panels of ``vectors*lanes`` columns, accumulators in registers."""
    width = vectors * lanes
    a, b, c = buf("A", m, k), buf("B", n // width, k, width), buf("C", m, n)
    acc = buf("acc", rows, width, scope="register")
    p, i, r, v = var("p", n // width), var("i", m // rows), var("r", k), var("v", lanes)
    places = [(row, j * lanes + v) for row in range(rows) for j in range(vectors)]
    init = [vec(v, lanes, Store(acc, (as_expr(row), j), f32(0.0))) for row, j in places]
    update = [
        vec(
            v,
            lanes,
            Store(
                acc,
                (as_expr(row), j),
                load(acc, [row, j]) + load(a, [i * rows + row, r]) * load(b, [p, r, j]),
            ),
        )
        for row, j in places
    ]
    if fence:
        update.append(Evaluate(intrinsic("fence", [], "bool")))
    out = [vec(v, lanes, Store(c, (i * rows + row, p * width + j), load(acc, [row, j]))) for row, j in places]
    tile = Alloc(acc, seq([*init, loop(r, k, *update), *out]))
    return func([a, b, c], loop(i, m // rows, loop(p, n // width, tile), kind="parallel"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fence", [False, True])
def test_gemm_with_register_accumulators(target: str, fence: bool) -> None:
    f = gemm(16, 96, 7, 4, 3, fence=fence)
    a, b = data((16, 7)), data((2, 7, 48), seed=1)
    (c,) = check(f, [a, b], target, rtol=1e-4)
    np.testing.assert_allclose(c, a @ b.transpose(1, 0, 2).reshape(7, 96), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_depthwise_convolution_skips_its_padding(target: str) -> None:
    h, w, c = 5, 6, 20
    x, k, y = buf("x", h, w, c), buf("k", 3, 3, c), buf("y", h, w, c)
    i, j, n, p, q, v = (var(s, e) for s, e in zip("ijnpqv", (h, w, 2, 3, 3, 16), strict=True))
    channel = n * 16 + v
    row, col = i + p - 1, j + q - 1
    inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
    padded = select(inside, load(x, [row, col, channel]), f32(0.0))
    acc = buf("acc", 16, scope="register")
    update = Store(acc, (v,), load(acc, [v]) + padded * load(k, [p, q, channel]))
    body = seq(
        [
            Store(acc, (v,), f32(0.0)),
            loop(p, 3, loop(q, 3, update)),
            Store(y, (i, j, channel), maximum(load(acc, [v]), 0.0)),
        ]
    )
    f = func([x, k, y], loop(i, h, loop(j, w, loop(n, 2, Alloc(acc, vec(v, 16, If(channel < c, body)))))))
    check(f, [data((h, w, c)), data((3, 3, c), seed=1)], target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n", [64, 53])
def test_row_softmax_with_horizontal_reductions(target: str, n: int) -> None:
    rows, lanes = 3, 16
    steps = -(-n // lanes)
    x, y = buf("x", rows, n), buf("y", rows, n)
    top, total, e = buf("top", 1, scope="register"), buf("total", 1, scope="register"), buf("e", n)
    i, j, v = var("i", rows), var("j", steps), var("v", lanes)
    column = j * lanes + v
    zero = as_expr(0)

    def over(body: Stmt) -> Stmt:
        return loop(j, steps, vec(v, lanes, If(column < n, body)))

    shifted = intrinsic("exp", [load(x, [i, column]) - load(top, [zero])])
    row = seq(
        [
            Store(top, (zero,), f32(-np.inf)),
            over(Store(top, (zero,), maximum(load(top, [zero]), load(x, [i, column])))),
            Store(total, (zero,), f32(0.0)),
            over(
                seq(
                    [
                        Store(e, (column,), shifted),
                        Store(total, (zero,), load(total, [zero]) + load(e, [column])),
                    ]
                )
            ),
            over(Store(y, (i, column), load(e, [column]) / load(total, [zero]))),
        ]
    )
    f = func([x, y], loop(i, rows, Alloc(e, Alloc(top, Alloc(total, row))), kind="parallel"))
    values = data((rows, n)) * 5
    (got,) = check(f, [values], target)
    exact = np.exp(values.astype(np.float64) - values.max(1, keepdims=True))
    np.testing.assert_allclose(got, exact / exact.sum(1, keepdims=True), rtol=2e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "index",
    [
        lambda i, v: i * 16 + v * 2,
        lambda i, v: 200 - i * 16 - v,
        lambda i, v: (i * 16 + v) // 4,
        lambda i, v: (i * 16 + v) % 8,
        lambda i, v: (i * 7 + v) // 5 * 3 + (i * 7 + v) % 5,
        lambda i, v: v * v,
        lambda i, v: minimum(i * 16 + v, 40),
    ],
    ids=["strided", "reversed", "div", "mod", "div-mod", "square", "clamped"],
)
def test_vector_loads_of_every_form(target: str, index) -> None:  # type: ignore[no-untyped-def]
    x, y = buf("x", 256), buf("y", 64)
    i, v = var("i", 4), var("v", 16)
    f = func([x, y], loop(i, 4, vec(v, 16, Store(y, (i * 16 + v,), load(x, [index(i, v)]) + 1.0))))
    check(f, [data((256,))], target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "float64", "int64", "float16"])
def test_indirect_gather_and_transposing_scatter(target: str, dtype: str) -> None:
    table, ids, y = buf("t", 9, 8, dtype=dtype), buf("ids", 16, dtype="int64"), buf("y", 8, 16, dtype=dtype)
    i, v = var("i", 8), var("v", 16)
    picked = load(table, [load(ids, [v]), i])
    f = func([table, ids, y], loop(i, 8, vec(v, 16, Store(y, (i, v), picked))))
    rows = np.random.default_rng(0).integers(0, 9, 16)
    check(f, [data((9, 8), dtype), rows], target)
    u = var("u", 8)
    back = func(
        [table, y],
        loop(
            i, 8, vec(u, 8, Store(y, (u, i), load(table, [i, u])), Store(y, (u, i + 8), load(table, [i, u])))
        ),
    )
    check(back, [data((9, 8), dtype)], target)


def test_select_does_not_read_what_it_does_not_choose() -> None:
    """A pad that would read far outside of its input: the arm not chosen must not fault."""
    far = 1 << 30
    x, y = buf("x", 4, 4), buf("y", 32, 16)
    i, j, v = var("i", 32), var("j", 16), var("v", 16)

    def padded(column: Expr) -> Expr:
        row = (i - 8) * far
        inside = (i.eq(8)) & (column >= 0) & (column < 4)
        return select(inside, load(x, [row, column]), f32(-1.0))

    scalar = func([x, y], loop(i, 32, loop(j, 16, Store(y, (i, j), padded(j - 2)))))
    check(scalar, [data((4, 4))])
    vector = func([x, y], loop(i, 32, vec(v, 16, Store(y, (i, v), padded(v - 2)))))
    check(vector, [data((4, 4))])


def test_branches_merge_register_buffers() -> None:
    x, y = buf("x", 10), buf("y", 10)
    acc = buf("acc", 2, scope="register")
    i, j = var("i", 10), var("j", 4)
    one, zero = as_expr(1), as_expr(0)
    body = seq(
        [
            Store(acc, (zero,), load(x, [i])),
            Store(acc, (one,), f32(1.0)),
            loop(
                j,
                4,
                If(
                    (i + j) % 3 < 1,
                    Store(acc, (zero,), load(acc, [zero]) * 2.0),
                    seq(
                        [
                            Store(acc, (one,), load(acc, [one]) + load(acc, [zero])),
                            Store(acc, (zero,), load(acc, [zero]) + 1.0),
                        ]
                    ),
                ),
            ),
            loop(j, i, Store(acc, (one,), load(acc, [one]) + 1.0)),
            Store(y, (i,), load(acc, [zero]) + load(acc, [one])),
        ]
    )
    check(func([x, y], loop(i, 10, Alloc(acc, body))), [data((10,))])


def test_register_buffer_with_a_run_time_index_lives_on_the_stack() -> None:
    x, y = buf("x", 12), buf("y", 12)
    tmp = buf("tmp", 12, scope="register")
    i, j = var("i", 12), var("j", 12)
    body = seq(
        [loop(i, 12, Store(tmp, (i,), load(x, [i]) * 2.0)), loop(j, 12, Store(y, (j,), load(tmp, [11 - j])))]
    )
    check(func([x, y], Alloc(tmp, body)), [data((12,))])


def test_large_register_buffers_do_not_go_on_the_stack() -> None:
    n = 5000
    x, y = buf("x", n), buf("y", n)
    tmp = buf("tmp", n, scope="register")
    i, j = var("i", n), var("j", n)
    body = seq(
        [
            loop(i, n, Store(tmp, (i,), load(x, [i]) * 2.0)),
            loop(j, n, Store(y, (j,), load(tmp, [n - 1 - j]))),
        ]
    )
    f = func([x, y], Alloc(tmp, body))
    check(f, [data((n,))])
    assert build(f).module.ws_shared >= n * 4


def test_lanes_of_vector_slots() -> None:
    """Scalar and narrower accesses take lanes out of the widest access's slot."""
    x, y = buf("x", 16), buf("y", 16)
    tmp = buf("tmp", 16, scope="register")
    v, w = var("v", 16), var("w", 8)
    body = seq(
        [
            vec(v, 16, Store(tmp, (v,), load(x, [v]))),
            Store(tmp, (as_expr(3),), load(tmp, [5]) * 10.0),
            vec(w, 8, Store(tmp, (w + 8,), load(tmp, [w]))),
            vec(v, 16, Store(y, (v,), load(tmp, [v]))),
        ]
    )
    check(func([x, y], Alloc(tmp, body)), [data((16,))])


def test_masked_store_to_a_register_slot_blends() -> None:
    x, y = buf("x", 16), buf("y", 16)
    tmp = buf("tmp", 16, scope="register")
    v = var("v", 16)
    body = vec(
        v,
        16,
        Store(tmp, (v,), f32(7.0)),
        If(
            (v < 11) & (load(x, [v]) > 0.0),
            Store(tmp, (v,), load(x, [v])),
            Store(tmp, (v,), load(tmp, [v]) + 1.0),
        ),
        Store(y, (v,), load(tmp, [v])),
    )
    check(func([x, y], Alloc(tmp, body)), [data((16,))])


def test_stores_end_the_life_of_loaded_values() -> None:
    x, y = buf("x", 8), buf("y", 8)
    i, j = var("i", 8), var("j", 3)
    body = seq(
        [
            Store(y, (i,), load(x, [i])),
            loop(j, 3, Store(y, (i,), load(y, [i]) * 2.0), Store(y, (i,), load(y, [i]) + load(y, [i]))),
            If(load(y, [i]) > 1.0, Store(y, (i,), load(y, [i]) - 1.0)),
            Store(y, (i,), load(y, [i]) * load(y, [i])),
        ]
    )
    check(func([x, y], loop(i, 8, body)), [data((8,))])


def test_workspace_is_shared_by_threads_or_their_own() -> None:
    n = 6
    x, y, mid, own = buf("x", n, 16), buf("y", n, 16), buf("mid", n, 16), buf("own", 16)
    i, j, v = var("i", n), var("j", n), var("v", 16)
    first = loop(i, n, vec(v, 16, Store(mid, (i, v), load(x, [i, v]) + 1.0)), kind="parallel")
    second = loop(
        j,
        n,
        Alloc(
            own,
            seq(
                [
                    vec(v, 16, Store(own, (v,), load(mid, [5 - j, v]))),
                    vec(v, 16, Store(y, (j, v), load(own, [15 - v]))),
                ]
            ),
        ),
        kind="parallel",
    )
    f = func([x, y], Alloc(mid, seq([first, second])))
    check(f, [data((n, 16))])
    module = build(f).module
    assert (module.ws_shared, module.ws_thread, module.parallel) == (n * 64, 64, True)


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_run_time_dimensions(kind: str) -> None:
    n = Var("n", lo=0)
    x = Buffer.make("x", (n, 3), "float32")
    y = Buffer.make("y", (3, n), "float32")
    i, j = Var("i", lo=0), var("j", 3)
    body = loop(j, 3, Store(y, (j, i), load(x, [i, j]) * 2.0))
    f = func([n, x, y], loop(i, n, body, kind=kind))
    kernel = build(f)
    for size in (0, 1, 7):
        a, b = data((size, 3)), np.zeros((3, size), np.float32)
        kernel(size, a, b)
        np.testing.assert_array_equal(b, a.T * 2)


def test_loop_variables_outside_a_parallel_loop_reach_it() -> None:
    x, y = buf("x", 4, 5), buf("y", 4, 5)
    i, j = var("i", 4), var("j", 5)
    f = func([x, y], loop(i, 4, loop(j, 5, Store(y, (i, j), load(x, [3 - i, j])), kind="parallel")))
    check(f, [data((4, 5))])


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y, v: loop(v, 16, Store(y, (v,), load(x, [v])), kind="unrolled"),
        lambda x, y, v: Alloc(buf("s", 4, scope="shared"), Store(y, (as_expr(0),), f32(0.0))),
        lambda x, y, v: Store(y, (v,), f32(0.0)),
        lambda x, y, v: Store(y, (as_expr(0),), load(buf("other", 3), [0])),
        lambda x, y, v: vec(v, 16, Store(y, (as_expr(0),), load(y, [0]) * load(y, [0]))),
        lambda x, y, v: Store(y, (as_expr(0),), intrinsic("no_such_function", [f32(1.0)])),
    ],
    ids=["unrolled", "shared", "unbound-variable", "unbound-buffer", "lanes-in-turn", "unknown-intrinsic"],
)
def test_what_is_not_lowered_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    x, y = buf("x", 16), buf("y", 16)
    with pytest.raises(CompileError):
        build(func([x, y], make(x, y, var("v", 16))))
