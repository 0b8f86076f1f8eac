"""Matrix products for tensor intrinsics: the function, its schedule down to the call, the comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, binop, const
from tilewright.ir.interp import run
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.tensor_intrinsics import parameters, tensor_intrinsic
from tilewright.ir.visit import const_int
from tilewright.schedule import IndexMap, Schedule


def product(a: str, b: str, c: str, m: int, n: int, k: int, flip: bool = False) -> PrimFunc:
    """``C = A @ B`` in the type ``c``; with ``flip``, A's sign bits are flipped and it counts as unsigned."""

    def wide(x: Expr) -> Expr:
        return binop("xor", x.astype("uint8"), const(128, "uint8")).astype(c) if flip else x.astype(c)

    x, y = te.placeholder((m, k), a, "a"), te.placeholder((k, n), b, "b")
    z = te.compute(
        (m, n), lambda i, j: te.reduce("sum", (k,), lambda r: wide(x[i, r]) * y[r, j].astype(c)), "c"
    )
    return te.primfunc("product", [x, y], [z], const_inputs=[y])


def sizes(name: str) -> tuple[int, int]:
    """Elements of the last dimensions of C and A: lanes and the depth of one instruction."""
    *_, c = (p.shape for p in parameters(tensor_intrinsic(name)))
    a = parameters(tensor_intrinsic(name))[0].shape
    lanes, depth = const_int(c[-1]), const_int(a[-1])
    assert lanes is not None
    assert depth is not None
    return lanes, depth


def types(name: str) -> tuple[str, str, str]:
    a, b, c = (p.dtype for p in parameters(tensor_intrinsic(name)))
    return a, b, c


def by_dots(name: str, m: int, n: int, k: int, rows: int = 4, vectors: int = 2) -> tuple[PrimFunc, Schedule]:
    """A register tile of broadcast dot products, the weights packed in panels."""
    func = product(*types(name), m, n, k, flip=".s8." in name)
    lanes, depth = sizes(name)
    width = lanes * vectors
    sch = Schedule(func)
    c = sch.get_block("c")
    copy = sch.cache_write(c, "register")
    i, j = sch.get_loops(copy)
    i0, i1 = sch.split(i, [None, rows])
    panel, vector, lane = sch.split(j, [None, vectors, lanes])
    sch.reorder(panel, i0, i1, vector, lane)
    sch.compute_at(c, i0)
    row, columns, r = sch.get_loops(c)[2:]
    vector_2, lane_2 = sch.split(columns, [vectors, lanes])
    r0, r1 = sch.split(r, [None, depth])
    sch.reorder(r0, row, vector_2, lane_2, r1)
    for loop in (i1, vector, row, vector_2):
        sch.unroll(loop)
    sch.vectorize(lane)
    start = sch.decompose_reduction(c, r0)
    sch.vectorize(sch.get_loops(start)[-1])
    layout = f"k, n%{width}" if depth == 1 else f"k//{depth}, n%{width}, k%{depth}"
    sch.transform_layout(c, "read", 1, IndexMap.parse(f"k,n -> n//{width}, {layout}"))
    sch.tensorize(lane_2, name)
    return func, sch


def by_matrices(
    name: str, m: int, n: int, k: int, rows: int = 4, pairs: int = 2
) -> tuple[PrimFunc, Schedule]:
    """A register tile of 2x2 products: the accumulator is stored block by block."""
    func = product(*types(name), m, n, k)
    _, depth = sizes(name)
    sch = Schedule(func)
    c = sch.get_block("c")
    copy = sch.cache_write(c, "register")
    sch.transform_layout(c, "write", 0, IndexMap.parse("i,j -> i//2, j//2, i%2, j%2"))
    i, j = sch.get_loops(copy)
    i0, i1 = sch.split(i, [None, rows])
    panel, lane = sch.split(j, [None, 2 * pairs])
    sch.reorder(panel, i0, i1, lane)
    sch.compute_at(c, i0)
    row, column, r = sch.get_loops(c)[2:]
    row_0, row_1 = sch.split(row, [rows // 2, 2])
    column_0, column_1 = sch.split(column, [pairs, 2])
    r0, r1 = sch.split(r, [None, depth])
    sch.reorder(r0, row_0, column_0, row_1, column_1, r1)
    for loop in (i1, row_0, column_0):
        sch.unroll(loop)
    sch.vectorize(lane)
    start = sch.decompose_reduction(c, r0)
    for loop in sch.get_loops(start)[-4:]:
        sch.unroll(loop)
    layout = f"k,n -> n//{2 * pairs}, k//{depth}, n//2%{pairs}, n%2, k%{depth}"
    sch.transform_layout(c, "read", 1, IndexMap.parse(layout))
    sch.tensorize(row_1, name)
    return func, sch


def inputs_of(func: PrimFunc, seed: int = 0) -> list[np.ndarray]:
    """Data whose products and sums are exact: integers over their whole range, small eighths."""
    rng = np.random.default_rng(seed)
    arrays = []
    for p in func.inputs:
        assert isinstance(p, Buffer)
        low, high = dt.int_range(p.dtype) if dt.is_int(p.dtype) else (-16, 16)
        numbers = rng.integers(low, high + 1, p.static_shape)
        arrays.append((numbers if dt.is_int(p.dtype) else numbers / 8).astype(dt.to_numpy(p.dtype)))
    return arrays


def laid_out(func: PrimFunc, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays in the layouts that a scheduled function wants."""
    layouts = func.attr("param_layouts", {})
    names = [p.name for p in func.inputs]
    return [
        IndexMap.parse(layouts[name]).apply(data) if name in layouts else data
        for name, data in zip(names, arrays, strict=True)
    ]


def assert_equal(
    func: PrimFunc,
    scheduled: PrimFunc,
    execute: Callable[[PrimFunc, list[np.ndarray]], list[np.ndarray]] = run,
) -> None:
    """``scheduled`` computes what ``func`` does, exactly."""
    arrays = inputs_of(func)
    (expected,) = run(func, arrays)
    (got,) = execute(scheduled, laid_out(scheduled, arrays))
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))
