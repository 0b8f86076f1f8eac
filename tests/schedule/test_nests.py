"""What features say of programs with tensor intrinsics: what these compute, not what is around them."""

from __future__ import annotations

import math

import pytest

from tests.schedule.tensor_programs import by_dots, product, sizes, types
from tilewright.ir import te
from tilewright.ir.expr import maximum
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.visit import const_int, find_blocks
from tilewright.schedule.default import default_schedule
from tilewright.schedule.features import FEATURES, features_of, main_block
from tilewright.schedule.nests import Nest, work_of
from tilewright.schedule.state import Tree
from tilewright.target import Target

TARGET = Target.parse("x86-64-v4-dot")
NAMES = ["x86.vpdpbusd.16", "x86.vpdpbusd.8", "x86.vpdpbusd.s8.16", "x86.vdpbf16ps.16", "x86.vpmaddwd.16"]


def described(func: PrimFunc) -> dict[str, float]:
    values = features_of(func, TARGET)
    return dict(zip(FEATURES, map(float, values), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_an_intrinsic_is_a_vector_of_sums(name: str) -> None:
    lanes, depth = sizes(name)
    m, n, k, rows, vectors = 8, 4 * lanes, 16 * depth, 4, 2
    _, sch = by_dots(name, m, n, k, rows, vectors)
    found = described(sch.func)
    expected = {
        "points": m * n,
        "steps": k,
        "lanes": lanes,
        "unrolled": rows * vectors,
        "executed": m * n * k // depth,  # a group of steps is one instruction
        "waste": 1,
        "accumulators": rows * vectors,
        "micro_broadcasts": rows,
        "micro_loads": vectors,
        "micro_gathers": 1,  # none
    }
    assert {f: 2 ** found[f] for f in expected} == pytest.approx(expected)


def test_operands_are_read_in_groups() -> None:
    lanes, depth = sizes("x86.vpdpbusd.16")
    _, sch = by_dots("x86.vpdpbusd.16", 8, 4 * lanes, 16 * depth)
    nest = Nest.of(Tree(sch.func), next(b for b in find_blocks(sch.func.body) if b.name == "c"))
    vector = nest.level("micro")[-1]
    strides = [const_int(a.stride(vector)) for a in nest.loads]
    assert strides == [0, 1]  # one group for all lanes, and groups side by side
    assert [a.group for a in nest.loads] == [depth, depth]
    assert nest.store.group == 1
    sizes_of_all = [math.prod(a.buffer.static_shape or ()) for a in nest.loads]
    assert [int(a.bytes(nest.loops).value) for a in nest.loads] == sizes_of_all


def test_the_main_block_is_the_product_however_it_is_computed() -> None:
    x, y = te.placeholder((16, 64), "uint8", "x"), te.placeholder((64, 32), "int8", "y")
    z = te.compute(
        (16, 32),
        lambda i, j: te.reduce("sum", (64,), lambda r: x[i, r].astype("int32") * y[r, j].astype("int32")),
        "z",
    )
    out = te.compute((16, 32), lambda i, j: maximum(z[i, j].astype("float32") * 0.25, 0.0), "out")
    func = te.primfunc("quantized", [x, y], [out], const_inputs=[y])
    assert main_block(func) == "z"
    assert main_block(default_schedule(func, TARGET).func) == "z"
    assert main_block(default_schedule(func, Target.parse("x86-64-v3")).func) == "z"


def test_work_counts_floats_and_whole_numbers_apart() -> None:
    _, sch = by_dots("x86.vpdpbusd.16", 8, 64, 64)
    blocks = {b.name: b for b in find_blocks(sch.func.body)}
    assert work_of(blocks["c"]) == (0, 2 * 16 * 4)
    floats = product("float32", "float32", "float32", 4, 4, 4)
    assert work_of(next(iter(find_blocks(floats.body)))) == (2, 0)
    assert types("x86.vdpbf16ps.16")[2] == "float32"
    _, halves = by_dots("x86.vdpbf16ps.16", 8, 64, 64)
    (dot,) = [b for b in find_blocks(halves.func.body) if b.name == "c"]
    assert work_of(dot) == (2 * 16 * 2, 0)
