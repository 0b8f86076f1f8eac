"""Arguments of kernels in memory: compact, strided, scalar, and what shows that a kernel wrote elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest

from tilewright.errors import ShapeError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Var, as_expr
from tilewright.ir.parser import parse
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.measure import Measurer, parameters
from tilewright.measure.program import (
    MODEL_BYTES,
    Arrays,
    Blocks,
    Loaded,
    build_program,
    copies,
    flush_bytes,
    runtime_functions,
)
from tilewright.records import Workload
from tilewright.schedule import Schedule
from tilewright.target import Target

#: Doubles every other column of a matrix into the left columns of a wider one.
STRIDED = """
@primfunc({"outputs": 1})
def f(p0: buffer(float32[6, 8], strides=(16, 2)), p1: buffer(float32[6, 8], strides=(24, 1))):
    for i in serial(6):
        for j in serial(8):
            with block("block0"):
                x = spatial(6, i)
                y = spatial(8, j)
                reads(p0[x, y])
                writes(p1[x, y])
                p1[x, y] = p0[x, y] * 2.0
"""


def strided() -> PrimFunc:
    return parse(STRIDED)


def test_a_strided_array_has_its_elements_apart() -> None:
    memory = Arrays()
    given = np.arange(12, dtype=np.float32).reshape(3, 4)
    array = memory.put(given, (10, 2))
    assert array.strides == (40, 8)
    assert array.ctypes.data % 64 == 0
    np.testing.assert_array_equal(array, given)
    array[...] = 5
    assert not memory.damaged()


@pytest.mark.parametrize("where", [1, 7, 9, 28])
def test_writing_between_the_elements_is_seen(where: int) -> None:
    memory = Arrays()
    array = memory.put(np.zeros((3, 4), np.float32), (10, 2))
    np.lib.stride_tricks.as_strided(array, (30,), (4,))[where] = 1
    assert memory.damaged()


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 0)])
def test_arrays_of_one_element_or_none(shape: tuple[int, ...]) -> None:
    memory = Arrays()
    array = memory.put(np.ones(shape, np.int32), (1,) * len(shape))
    assert array.shape == shape
    assert not memory.damaged()


def test_symbolic_strides_are_refused() -> None:
    func = strided()
    source, result = (p for p in func.params if isinstance(p, Buffer))
    wide = result.with_(strides=(Var("n", "int64"), as_expr(1)))
    func = dataclasses.replace(func, params=(source, wide))
    with pytest.raises(ShapeError, match="symbolic"):
        parameters(func)


def test_a_kernel_with_strided_arguments_is_measured() -> None:
    func = strided()
    split, fused = Schedule(func), Schedule(func)
    split.split(split.get_loops(split.get_block("block0"))[1], [None, 4])
    fused.fuse(*fused.get_loops(fused.get_block("block0")))
    traces = [s.trace.to_json() for s in (split, fused)]
    with Measurer(Target.host(), jobs=1) as measurer:
        measurer.set_workload(Workload.of(func))
        found = dict(measurer.measure(traces))
    assert [found[n].status for n in range(2)] == ["ok", "ok"], [found[n].error for n in range(2)]


def test_a_kernel_with_a_scalar_result_is_measured() -> None:
    func = parse("""
@primfunc({"outputs": 1})
def f(p0: float32[16], p1: float32[()]):
    for i in serial(16):
        with block("block0"):
            x = reduce(16, i)
            reads(p0[x])
            writes(p1[()])
            with init():
                p1[()] = 0.0
            p1[()] = p1[()] + p0[x]
""")
    with Measurer(Target.host(), jobs=1) as measurer:
        measurer.set_workload(Workload.of(func))
        (found,) = [m for _, m in measurer.measure([Schedule(func).trace.to_json()])]
    assert found.status == "ok", found.error


@pytest.mark.parametrize("dtype", ["bool", "float32", "bfloat16", "int8"])
@pytest.mark.parametrize("strides", [None, (10, 2)])
def test_outputs_begin_as_bytes_that_no_result_has(dtype: str, strides: tuple[int, int] | None) -> None:
    memory = Arrays()
    array = memory.blank((3, 4), dt.to_numpy(dtype), strides)
    assert set(np.ascontiguousarray(array).view(np.uint8).reshape(-1).tolist()) == {0xFF}
    assert not memory.damaged()


@pytest.mark.parametrize("strides", [None, (10, 2)])
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 3)])
def test_copies_are_apart(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    given = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    strides = strides[: len(shape)] if strides else None
    made, _ = copies(given, strides, 3)
    for n, array in enumerate(made):
        array += n
    for n, array in enumerate(made):
        np.testing.assert_array_equal(array, given + n)
        assert array.ctypes.data % 64 == 0


def test_memory_is_used_again() -> None:
    blocks = Blocks(most=20 << 20)
    first, second = blocks.take(9 << 20), blocks.take(7 << 20)
    assert first is not second
    for block in (first, second):
        blocks.give(block)
    assert blocks.take(6 << 20) is second
    assert blocks.take(1 << 20) is not first, "it is far too large"
    assert blocks.take(9 << 20) is first
    kept = [blocks.take(8 << 20) for _ in range(3)]
    for block in kept:
        blocks.give(block)
    assert {id(blocks.take(8 << 20)) for _ in range(2)} == {id(block) for block in kept[1:]}


def test_programs_that_share_turns_do_not_meet_what_another_has_just_read() -> None:
    """Two programs on the same copies of an input: of eight calls in turns none has the copy of another."""
    func = parse(re.sub(r", strides=\(\d+, \d+\)", "", STRIDED))
    target = Target.host()
    loaded = Loaded(build_program(Schedule(func), target), runtime_functions(target), 1)
    given = np.ones((6, 8), np.float32)
    places, _ = copies(given, None, 8)
    turns = itertools.count(1)
    both = [loaded.bind(parameters(func), [given], Arrays(), lambda *_: places, turns) for _ in range(2)]
    for number in range(8):
        for n, array in enumerate(places):
            array[...] = n
        call = both[number % 2]
        assert call() == 0
        assert float(call.outputs[0][0, 0]) == 2 * ((number + 1) % 8)


def test_copies_of_weights_are_beyond_the_last_cache_or_as_large_as_a_model():
    def target(l3_bytes: int) -> Target:
        return dataclasses.replace(Target.host(), l3_bytes=l3_bytes)

    assert flush_bytes(target(32 << 20)) == 64 << 20
    assert flush_bytes(target(300 << 20)) == MODEL_BYTES
    assert flush_bytes(target(32 << 20), 3) == 96 << 20
    assert flush_bytes(target(0)) == 0
